"""What has a model learned from? Rows of features of each candidate, with the times measured.

A candidate may have several rows (one a store), or one. Files are npz without pickle.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ...errors import RecordError, UserError
from .metrics import shares

UNREADABLE = (
    OSError, ValueError, EOFError, BadZipFile, KeyError, TypeError, zlib.error, struct.error,
    NotImplementedError, RuntimeError, MemoryError, OverflowError,
)  # fmt: skip
"""What NumPy and zipfile raise on files that are damaged or something else."""

Rows: TypeAlias = npt.NDArray[np.float32]
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


class TrainingData:
    """Measurements by workload.

    Example:
        >>> data = TrainingData()
        >>> data.add("w", [np.zeros((2, 3)), np.ones((1, 3))], [1e-3, 2e-3])
        >>> data.count, data.width, data.knows("w")
        (2, 3, True)
    """

    def __init__(self) -> None:
        self._packs: dict[str, list[Rows]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._weights: dict[str, list[float]] = {}
        self.width: int | None = None

    @property
    def count(self) -> int:
        """How many candidates?"""
        return sum(len(s) for s in self._seconds.values())

    @property
    def workloads(self) -> tuple[str, ...]:
        """Those with measurements, in the order of the first one."""
        return tuple(self._seconds)

    def knows(self, workload: str) -> bool:
        """Is there a measurement of it?"""
        return workload in self._seconds

    def counts(self) -> dict[str, int]:
        """Candidates of each workload."""
        return {k: len(s) for k, s in self._seconds.items()}

    def add(
        self,
        workload: str,
        packs: Sequence[npt.NDArray[Any]],
        seconds: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> None:
        """Take up the rows of candidates, (rows, width) each, and their times (infinite for
        failures).

        Args:
            weights: what each sample is worth; default: 1. See `weights`.

        Raises:
            UserError: not one time and weight for each candidate; rows of another width; a time
                that is NaN or negative; a weight that is none; features that are not finite.
        """
        worth = [1.0] * len(packs) if weights is None else [float(w) for w in weights]
        if len(worth) != len(packs) or any(not 0 <= w < np.inf for w in worth):
            raise UserError(
                f"{len(packs)} candidates with the weights {worth!r:.60}",
                hint="one number from 0 for each",
                code="training",
            )
        if len(packs) != len(seconds):
            raise UserError(f"{len(packs)} candidates with {len(seconds)} times", code="training")
        times = [float(s) for s in seconds]
        if any(not s >= 0 for s in times):
            raise UserError(f"a time is not negative, found {min(times)}", code="training")
        rows = [np.asarray(p, np.float32) for p in packs]
        for p in rows:
            width = self.width if self.width is not None else p.shape[-1]
            if p.ndim != 2 or p.shape[1] != width:
                raise UserError(
                    f"features of shape {p.shape} where {width} columns were expected",
                    hint="a model learns from one kind of features only",
                    code="training",
                )
            if not np.isfinite(p).all():
                raise UserError("a feature is not finite", code="training")
            self.width = width
        if not rows:
            return
        self._packs.setdefault(workload, []).extend(rows)
        self._seconds.setdefault(workload, []).extend(times)
        self._weights.setdefault(workload, []).extend(worth)

    def seconds(self, workload: str) -> list[float]:
        """The times of one workload, in the order in which they came."""
        return list(self._seconds[workload])

    def weights(self, workload: str) -> list[float]:
        """What the samples of one workload are worth. Where none that ran has a weight (a GPU that
        is slowed all the time), all weigh the same: they were taken alike."""
        mine, times = self._weights[workload], self._seconds[workload]
        if any(w > 0 and s < np.inf for w, s in zip(mine, times)):
            return list(mine)
        return [1.0] * len(mine)

    def shares(self, workload: str) -> npt.NDArray[np.float64]:
        """The share of the best speed of each candidate of a workload."""
        return shares(self._seconds[workload], self.weights(workload))

    def packs(self, workload: str) -> list[Rows]:
        """The rows of each candidate of a workload."""
        return list(self._packs[workload])

    def whole(self) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Everything: rows, how many of them each candidate has, and the share of the best speed of
        its workload that each has."""
        packs = [p for k in self._seconds for p in self._packs[k]]
        sizes = np.array([len(p) for p in packs], np.int64)
        rows = np.concatenate(packs) if packs else np.empty((0, self.width or 0), np.float32)
        speed = [self.shares(k) for k in self._seconds]
        return rows, sizes, np.concatenate(speed) if speed else np.empty(0)

    def whole_weights(self) -> npt.NDArray[np.float64]:
        """The weight of each candidate, in the order of `whole`."""
        return np.array([w for k in self._seconds for w in self.weights(k)], np.float64)

    # ------------------------------------------------------------------ files
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What is saved."""
        rows, sizes, _ = self.whole()
        keys = list(self._seconds)
        return {
            "keys": np.array(keys, dtype=np.str_),
            "counts": np.array([len(self._seconds[k]) for k in keys], np.int64),
            "seconds": np.array([s for k in keys for s in self._seconds[k]], np.float64),
            "weights": np.array([w for k in keys for w in self._weights[k]], np.float64),
            "sizes": sizes,
            "rows": rows,
        }

    @staticmethod
    def of(data: Arrays, path: str) -> TrainingData:
        """What `arrays` gave.

        Raises:
            RecordError: naming the file: they do not fit together.
        """
        weights = data.get("weights", np.ones(len(data["seconds"])))  # older files have none
        if not _fits(data) or not _fit_weights(weights, data["seconds"]):
            raise RecordError(f"{path}: not a saved cost model: its arrays do not fit together")
        out = TrainingData()
        packs = np.split(data["rows"], np.cumsum(data["sizes"])[:-1]) if len(data["sizes"]) else []
        at = 0
        for key, n in zip(data["keys"].tolist(), data["counts"].tolist(), strict=True):
            out._packs[key] = [np.ascontiguousarray(p) for p in packs[at : at + n]]
            out._seconds[key] = data["seconds"][at : at + n].tolist()
            out._weights[key] = weights[at : at + n].tolist()
            at += n
        out.width = data["rows"].shape[1] if at else None
        return out


def _fits(data: Arrays) -> bool:
    rows, seconds, counts, sizes, keys = (
        data[k] for k in ("rows", "seconds", "counts", "sizes", "keys")
    )
    return (
        rows.ndim == 2
        and rows.dtype == np.float32
        and seconds.dtype == np.float64
        and seconds.ndim == 1
        and sizes.dtype == counts.dtype == np.int64
        and sizes.shape == seconds.shape
        and keys.dtype.kind == "U"
        and keys.shape == counts.shape
        and len(set(keys.tolist())) == len(keys)
        and bool((sizes >= 0).all())
        and int(sizes.sum()) == len(rows)
        and bool((counts >= 1).all())
        and int(counts.sum()) == len(seconds)
        and bool(np.isfinite(rows).all())
        and bool((seconds >= 0).all())
    )


def _fit_weights(weights: npt.NDArray[Any], seconds: npt.NDArray[Any]) -> bool:
    return (
        weights.dtype == np.float64
        and weights.shape == seconds.shape
        and bool(np.isfinite(weights).all())
        and bool((weights >= 0).all())
    )


def write(path: str, arrays: Arrays) -> None:
    """Write a file whole or not at all."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            np.savez_compressed(f, **arrays)  # type: ignore[arg-type]  # the stub: for allow_pickle
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str, wanted: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file.

    Raises:
        RecordError: no such file, it cannot be read, or it lacks one of those that are wanted.
    """
    try:
        with open(path, "rb") as f, np.load(f, allow_pickle=False) as found:
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            data = {k: found[k] for k in found.files}
    except UNREADABLE as e:
        raise RecordError(f"{path}: not a saved cost model: {e}") from None
    missing = sorted(set(wanted) - set(data))
    if missing:
        raise RecordError(f"{path}: not a saved cost model: it lacks {missing}")
    return data
