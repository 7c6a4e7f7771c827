"""Do two arrays hold the same results? Exactly for integers, within a tolerance for floats."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gputune.ir import dtypes

# Relative to the reference element and to the root mean square of the reference: sums that are
# rearranged differ by many roundings, most visibly where terms cancel.
TOLERANCE = {
    "float64": 1e-9,
    "float32": 1e-4,
    "float16": 2e-2,
    "bfloat16": 6e-2,
    "float8_e4m3": 0.25,
    "float8_e5m2": 0.5,
}
SLIGHT = 100.0
"""Times the tolerance: an error within it can be due to the inputs, where a long sum cancels. What
is wrong is so for others, too."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How an array differs from its reference.

    Attributes:
        ok: no element is outside the tolerance.
        max_error: the greatest absolute difference (inf where only one is finite).
        mismatches: elements outside the tolerance.
        where: index of the worst of them, or None.
        found, expected: the two values there, as text.
        excess: the greatest error as a multiple of what is allowed (0 where all is within it).
    """

    ok: bool
    max_error: float
    mismatches: int = 0
    where: tuple[int, ...] | None = None
    found: str = ""
    expected: str = ""
    excess: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON-able values (an infinite error is None)."""
        out = asdict(self)
        del out["excess"]
        out["where"] = None if self.where is None else list(self.where)
        out["max_error"] = self.max_error if math.isfinite(self.max_error) else None
        return out

    def __str__(self) -> str:
        if self.ok:
            return f"equal, greatest error {self.max_error:.3g}"
        where = ", ".join(map(str, self.where or ()))
        return (
            f"{self.mismatches} elements differ, worst at [{where}]: "
            f"found {self.found}, expected {self.expected}"
        )


def tolerance(names: Iterable[str]) -> float:
    """The relative tolerance for a kernel with arguments of these dtypes: that of the coarsest
    float among them, 0 if there is none."""
    return max((TOLERANCE.get(n, 0.0) for n in names), default=0.0)


def compare(
    found: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    rtol: float | None = None,
    atol: float | None = None,
) -> Difference:
    """Compare an array with its reference (same shape and dtype).

    Args:
        rtol: tolerance relative to the expected element; default by dtype (`TOLERANCE`).
        atol: absolute tolerance; default rtol times the root mean square of the finite
            expected values.

    NaN equals NaN and an infinity itself. Integers and bool must be equal.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        what = f"{found.dtype}{list(found.shape)}"
        return Difference(
            False, math.inf, max(found.size, expected.size), (), what,
            f"{expected.dtype}{list(expected.shape)}", math.inf,
        )  # fmt: skip
    name = dtypes.from_numpy(expected.dtype)
    if rtol is None:
        rtol = TOLERANCE.get(name, 0.0)
    flat_found, flat_expected = found.reshape(-1), expected.reshape(-1)
    if atol is None:
        atol = rtol * _rms(flat_expected) if dtypes.is_float(name) else 0.0
    total, worst, worst_at, excess = 0, 0.0, -1, 0.0
    for start in range(0, flat_expected.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        error, bad = _errors(flat_found[chunk], flat_expected[chunk], name, rtol, atol)
        count = int(np.count_nonzero(bad))
        if count:
            allowed = atol + rtol * np.abs(flat_expected[chunk][bad].astype(np.float64))
            with np.errstate(divide="ignore", invalid="ignore"):
                times = error[bad] / allowed
            excess = max(excess, float(np.where(np.isnan(times), np.inf, times).max()))
        # The worst is sought among the bad elements, if there are any
        at = int(np.argmax(np.where(bad, error, -1.0) if count else error))
        if (count and (not total or error[at] > worst)) or (not total and error[at] > worst):
            worst, worst_at = float(error[at]), start + at
        total += count
    if not total:
        return Difference(True, worst)
    index = tuple(int(i) for i in np.unravel_index(worst_at, expected.shape))
    return Difference(
        False, worst, total, index, str(flat_found[worst_at]), str(flat_expected[worst_at]), excess
    )


def _rms(flat: np.ndarray[Any, Any]) -> float:
    total, count = 0.0, 0
    for start in range(0, flat.size, _CHUNK):
        x = flat[start : start + _CHUNK].astype(np.float64)
        x = x[np.isfinite(x)]
        total += float(x @ x)
        count += x.size
    return math.sqrt(total / count) if count else 0.0


def _errors(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], name: str, rtol: float, atol: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Absolute errors (float64) and which elements are outside the tolerance."""
    if not dtypes.is_float(name):
        bad = found != expected
        error = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        return np.where(bad, np.maximum(error, 1.0), 0.0), bad
    f, e = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(f - e)
        same = (f == e) | (np.isnan(f) & np.isnan(e))
        near = np.isfinite(f) & np.isfinite(e) & (error <= atol + rtol * np.abs(e))
    bad = ~(same | near)
    error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
    return error, bad
