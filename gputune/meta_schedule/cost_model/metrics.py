"""How well did a model rank what was then measured? One place for every model, bench and report.

Predictions are scores, higher is better; times are seconds, infinite for what failed. Both are of
candidates of one workload.

    >>> scores, seconds = [0.9, 0.2, 0.5], [1e-3, 4e-3, 2e-3]
    >>> rank_correlation(scores, seconds), recall(scores, seconds, 1), peak(scores, seconds, 2)
    (1.0, 1.0, 1.0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import UserError

Numbers: TypeAlias = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a model ranked the candidates of one workload.

    Attributes:
        count: candidates.
        rank_correlation: from -1 to 1; see `rank_correlation`.
        k: of the next two.
        recall: from 0 to 1; see `recall`.
        peak: from 0 to 1; see `peak`.

    A figure that cannot be had (too few candidates, all failed) is NaN.
    """

    count: int
    rank_correlation: float
    k: int
    recall: float
    peak: float

    def __str__(self) -> str:
        figures = (
            ("rank correlation", self.rank_correlation),
            (f"top-{self.k} recall", self.recall),
            (f"peak@{self.k}", self.peak),
        )
        said = ", ".join(f"{n} {x:.2f}" for n, x in figures if not math.isnan(x))
        return f"{self.count} candidates: {said or 'too few to judge'}"


def quality(predicted: Numbers, seconds: Numbers, k: int = 8) -> Quality:
    """All figures at once.

    Raises:
        UserError: as many scores as times are needed, and a `k` from 1.
    """
    return Quality(
        len(predicted),
        rank_correlation(predicted, seconds),
        k,
        recall(predicted, seconds, k),
        peak(predicted, seconds, k),
    )


def rank_correlation(predicted: Numbers, seconds: Numbers) -> float:
    """Spearman's correlation of the scores with the speeds: 1 if the order is right throughout, 0
    if scores say nothing, -1 if it is reversed. Equal values share their rank.

    NaN for fewer than two candidates, or if all scores or all times are equal.
    """
    p, s = _both(predicted, seconds)
    if len(p) < 2:
        return math.nan
    a, b = _ranks(p), _ranks(-s)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else math.nan


def recall(predicted: Numbers, seconds: Numbers, k: int) -> float:
    """The share of the k fastest that is among the k with the highest scores. Where equal scores
    straddle the border, it is what choosing among them by lot gives on average; of candidates that
    are as fast as the k-th fastest, any will do.

    With fewer than k that ran, k is their number; NaN if nothing did.
    """
    p, s = _both(predicted, seconds, k)
    k = min(k, int(np.isfinite(s).sum()))
    if k == 0:
        return math.nan
    fast = s <= np.sort(s)[k - 1]
    return float(_chosen(p, k)[fast].sum()) / k


def peak(predicted: Numbers, seconds: Numbers, k: int) -> float:
    """How good is the best of the first 1, 2, ... k candidates in the order of scores, as a share
    of the best speed, on average? What a search that measures in this order would see.

    NaN if nothing ran.
    """
    p, s = _both(predicted, seconds, k)
    speed = shares(s)
    if not speed.any():
        return math.nan
    order = np.argsort(-p, kind="stable")[:k]
    return float(np.maximum.accumulate(speed[order]).mean())


def shares(seconds: Numbers, weights: Numbers | None = None) -> npt.NDArray[np.float64]:
    """Each candidate's share of the best speed: best / seconds, 0 for failures.

    Args:
        weights: the best is one of those with a weight above 0; what seems faster has a share of 1.
    """
    s = np.asarray(seconds, np.float64)
    good = np.isfinite(s)
    out = np.zeros(len(s))
    counts = good if weights is None else good & (np.asarray(weights) > 0)
    if counts.any():
        least = s[counts].min()
        out[good] = 1.0 if least <= 0 else np.minimum(least / np.maximum(s[good], least), 1.0)
    return out


def _both(
    predicted: Numbers, seconds: Numbers, k: int = 1
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    p, s = np.asarray(predicted, np.float64), np.asarray(seconds, np.float64)
    if p.shape != s.shape or p.ndim != 1:
        raise UserError(
            f"scores of shape {p.shape} with times of shape {s.shape}",
            hint="give one score and one time for each candidate",
            code="metrics",
        )
    if k < 1:
        raise UserError(f"the top {k} of candidates: k is a count from 1", code="metrics")
    if np.isnan(p).any() or np.isnan(s).any():
        raise UserError("a score or a time is NaN", hint="failures are infinite", code="metrics")
    return p, s


def _ranks(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0; equal values have the mean of theirs."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means = ends - (counts + 1) / 2
    out: npt.NDArray[np.float64] = means[where.reshape(-1)]
    return out


def _chosen(x: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """The chance of each to be among the k greatest, ties broken by lot."""
    border = np.sort(x)[-k]
    above, tied = x > border, x == border
    out: npt.NDArray[np.float64] = above + tied * ((k - above.sum()) / tied.sum())
    return out
