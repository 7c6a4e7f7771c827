"""Which candidates will be fast, judging by what was measured so far? Boosted trees.

The target of a candidate is its share of the best of its workload, best / seconds, so rows of
different workloads can teach one model. Where there are few measurements the analytic score has the
say: the prediction is a blend whose weight moves to the trees as rows come in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ...errors import RecordError, UserError
from ...ir.equal import structural_hash
from ..feature_extractor import FeatureExtractor, SketchFeature
from ..sketch_feature import FEATURE_COUNT
from .cost_model import CostModel, Rows, Scores, seconds_of

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..runner import RunnerResult
    from ..tune_context import TuneContext

_FORMAT = 1
_CYCLES = 7  # the column of the analytic model's cycles (log2)
_TRUST = 24  # with so many rows, trees and analytic model have equal say


@dataclass(frozen=True)
class XGBConfig:
    """Parameters of the trees (XGBoost's names)."""

    max_depth: int = 6
    gamma: float = 0.0
    min_child_weight: float = 1.0
    eta: float = 0.2
    seed: int = 43
    nthread: int | None = None
    tree_method: str = "hist"
    max_bin: int = 32
    colsample_bytree: float = 0.3
    num_trees: int = 100


class XGBModel(CostModel):
    """Boosted trees on sketch features, trained anew on all data at each update.

    Args:
        extractor: "sketch-feature".
        config: parameters of the trees.
        num_tuning_cores: threads for training; default one, which is fastest at these sizes.
        num_warmup_samples: rows that must be known before trees are trained.

    Example:
        >>> model = XGBModel()
        >>> model.is_trained
        False
    """

    def __init__(
        self,
        *,
        extractor: str | FeatureExtractor = "sketch-feature",
        config: XGBConfig | None = None,
        num_tuning_cores: int | None = None,
        num_warmup_samples: int = 8,
    ) -> None:
        found = FeatureExtractor.create(extractor) if isinstance(extractor, str) else extractor
        if not isinstance(found, SketchFeature):
            raise UserError(
                f"XGBModel learns from sketch features, found {type(found).__name__}",
                hint='extractor="sketch-feature"',
                code="feature-extractor",
            )
        self.extractor = found
        self.config = config or XGBConfig()
        self.num_tuning_cores = num_tuning_cores
        self.num_warmup_samples = num_warmup_samples
        self._rows: dict[str, list[Rows]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._booster: Any = None
        self._line = (0.0, 0.0)  # share ~ a + b * cycles
        self._stale = False

    @property
    def is_trained(self) -> bool:
        """Are there enough rows for trees?"""
        return self.row_count >= self.num_warmup_samples or self._booster is not None

    @property
    def row_count(self) -> int:
        """How many measurements it has learned from."""
        return sum(len(s) for s in self._seconds.values())

    def knows(self, workload: str) -> bool:
        """Has it learned from this workload?"""
        return workload in self._seconds

    # ------------------------------------------------------------------ learning
    def update(
        self,
        context: TuneContext,
        candidates: Sequence[MeasureCandidate],
        results: Sequence[RunnerResult],
    ) -> None:
        """Learn from measurements; a failure counts as infinitely slow."""
        if not candidates:
            return
        rows = self.extractor.matrix(context, candidates)
        key = structural_hash(context.mod)
        self.update_features(key, rows, [seconds_of(r) for r in results])

    def update_features(self, workload: str, features: Rows, seconds: Sequence[float]) -> None:
        """Learn from rows of one workload and their seconds (infinite for failures)."""
        if len(features) != len(seconds):
            raise UserError(f"{len(features)} rows with {len(seconds)} times")
        if len(features) == 0:
            return
        self._rows.setdefault(workload, []).append(np.asarray(features, np.float32))
        self._seconds.setdefault(workload, []).extend(float(s) for s in seconds)
        self._stale = True

    def _data(self) -> tuple[Rows, Scores]:
        rows: list[Rows] = []
        shares: list[Scores] = []
        for key, parts in self._rows.items():
            seconds = np.array(self._seconds[key])
            good = np.isfinite(seconds)
            share = np.zeros(len(seconds))
            if good.any():
                share[good] = seconds[good].min() / seconds[good]
            rows += parts
            shares.append(share)
        if not rows:
            return np.empty((0, FEATURE_COUNT), np.float32), np.empty(0)
        return np.concatenate(rows), np.concatenate(shares)

    def _train(self) -> None:
        """Fit line and trees to all data, if there are new rows."""
        if not self._stale or self.row_count < self.num_warmup_samples:
            return
        self._stale = False
        import xgboost

        x, y = self._data()
        self._line = _fit_line(x[:, _CYCLES], y)
        c = self.config
        params = {
            "objective": "reg:squarederror",
            "max_depth": c.max_depth,
            "gamma": c.gamma,
            "min_child_weight": c.min_child_weight,
            "eta": c.eta,
            "seed": c.seed,
            "tree_method": c.tree_method,
            "max_bin": c.max_bin,
            "colsample_bytree": c.colsample_bytree,
            "nthread": c.nthread or self.num_tuning_cores or 1,
            "verbosity": 0,
        }
        data = xgboost.DMatrix(x, y, nthread=params["nthread"])
        self._booster = xgboost.train(params, data, c.num_trees)

    # ------------------------------------------------------------------ asking
    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> Scores:
        """A score for each candidate, about the share of the best speed; higher is better."""
        return self.predict_features(self.extractor.matrix(context, candidates))

    def predict_features(self, features: Rows) -> Scores:
        """A score for each row; the analytic one while nothing is learned."""
        self._train()
        cycles = features[:, _CYCLES].astype(np.float64)
        if self._booster is None or len(features) == 0:
            return -cycles
        trees = np.asarray(self._booster.inplace_predict(np.ascontiguousarray(features)))
        trust = self.row_count / (self.row_count + _TRUST)
        line = np.clip(self._line[0] + self._line[1] * cycles, 0.0, 1.0)
        blend: Scores = trust * trees.astype(np.float64) + (1.0 - trust) * line
        return blend

    # ------------------------------------------------------------------ files
    def save(self, path: str) -> None:
        """Write rows, times and trees to one file: npz without pickle, the trees in XGBoost's own
        format."""
        self._train()
        trees = b"" if self._booster is None else bytes(self._booster.save_raw("ubj"))
        keys = list(self._seconds)
        counts = [len(self._seconds[k]) for k in keys]
        x, _ = self._data()
        seconds = np.array([s for k in keys for s in self._seconds[k]], np.float64)
        temporary = Path(f"{path}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as f:
                np.savez_compressed(
                    f,
                    version=np.array([_FORMAT, FEATURE_COUNT], np.int64),
                    keys=np.array(keys, dtype=np.str_),
                    counts=np.array(counts, np.int64),
                    rows=x,
                    seconds=seconds,
                    line=np.array(self._line),
                    trees=np.frombuffer(trees, np.uint8),
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: str) -> None:
        """Take up what `save` wrote, instead of what is known.

        Raises:
            RecordError: no such file, or it is not a saved model of this version.
        """
        try:
            with open(path, "rb") as f, np.load(f, allow_pickle=False) as found:
                data = {k: found[k] for k in found.files}
        except (OSError, ValueError, EOFError, BadZipFile, KeyError) as e:
            raise RecordError(f"{path}: not a saved cost model: {e}") from None
        self._take(_checked(data, path), path)

    def _take(self, data: dict[str, npt.NDArray[Any]], path: str) -> None:
        booster = None
        trees = data["trees"].tobytes()
        if trees:
            import xgboost

            booster = xgboost.Booster()
            try:
                booster.load_model(bytearray(trees))
                if booster.num_features() != FEATURE_COUNT:
                    raise RecordError(f"{path}: the trees are about other features")
            except xgboost.core.XGBoostError as e:
                reason = str(e).splitlines()[0] if str(e) else "unreadable"
                raise RecordError(f"{path}: its trees cannot be read: {reason}") from None
        self._rows, self._seconds = {}, {}
        at = 0
        for key, n in zip(data["keys"].tolist(), data["counts"].tolist()):
            self._rows[key] = [np.ascontiguousarray(data["rows"][at : at + n], np.float32)]
            self._seconds[key] = [float(s) for s in data["seconds"][at : at + n]]
            at += n
        a, b = data["line"].tolist()
        self._line = (a, b)
        self._booster = booster
        self._stale = booster is None


def _checked(data: dict[str, npt.NDArray[Any]], path: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file, if they are what `save` writes."""
    wanted = {"version", "keys", "counts", "rows", "seconds", "line", "trees"}
    if not wanted <= set(data):
        raise RecordError(f"{path}: not a saved cost model: it lacks {sorted(wanted - set(data))}")
    if data["version"].tolist() != [_FORMAT, FEATURE_COUNT]:
        raise RecordError(
            f"{path}: a cost model of another version of gputune",
            hint="delete it: the search learns anew",
        )
    rows, seconds, counts = data["rows"], data["seconds"], data["counts"]
    fits = (
        rows.ndim == 2
        and rows.dtype == np.float32
        and rows.shape[1] == FEATURE_COUNT
        and seconds.shape == (len(rows),)
        and seconds.dtype == np.float64
        and counts.shape == data["keys"].shape
        and counts.dtype == np.int64
        and data["keys"].dtype.kind == "U"
        and bool((counts >= 0).all())
        and int(counts.sum()) == len(rows)
        and data["line"].shape == (2,)
        and data["line"].dtype == np.float64
        and data["trees"].dtype == np.uint8
        and bool(np.isfinite(rows).all())
        and not bool(np.isnan(seconds).any())
    )
    if not fits:
        raise RecordError(f"{path}: not a saved cost model: its arrays do not fit together")
    return data


def _fit_line(cycles: npt.NDArray[Any], share: Scores) -> tuple[float, float]:
    """share ~ a + b * cycles by least squares, b not above 0."""
    x = cycles.astype(np.float64)
    spread = float(x.var())
    if spread < 1e-9:
        return float(share.mean()), 0.0
    b = min(0.0, float(((x - x.mean()) * (share - share.mean())).mean()) / spread)
    return float(share.mean()) - b * float(x.mean()), b
