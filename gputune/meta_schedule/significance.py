"""Is one list of times really less than another, or is it the clock's noise? Welch's t-test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

_STEPS, _CLOSE = 300, 1e-12
_HELD_UP = 1.5


def steady(seconds: Sequence[float]) -> list[float]:
    """Times less those half as long again as the median: something else held these up.

    Example:
        >>> steady([1.0, 1.1, 9.0])
        [1.0, 1.1]
    """
    if not seconds:
        return []
    limit = _HELD_UP * statistics.median(seconds)
    return [s for s in seconds if s <= limit]


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The p-value that two samples have equal means, their variances being what they are.

    Returns:
        From 0 (surely different) to 1; 1 where a sample has fewer than two values.

    Example:
        >>> welch([1.0, 1.1, 0.9, 1.0], [2.0, 2.1, 1.9, 2.0]) < 0.001
        True
        >>> welch([1.0, 1.1, 0.9], [1.0, 1.1, 0.9])
        1.0
    """
    if min(len(a), len(b)) < 2:
        return 1.0
    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    apart = statistics.fmean(a) - statistics.fmean(b)
    if va + vb <= 0:
        return 1.0 if apart == 0 else 0.0
    t2 = apart * apart / (va + vb)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t2))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for x from 0 to 1."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _fraction(a, b, x) / a)
    return max(0.0, 1.0 - front * _fraction(b, a, 1 - x) / b)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    out = d
    for m in range(1, _STEPS):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + top * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + top / c
            c = c if abs(c) > tiny else tiny
            out *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return out
