"""Which of many scored candidates make a good batch? The best ones, but not sixty of a kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..decisions import IntArray

Scores = npt.NDArray[np.float64]


def differences(rows: IntArray, row: IntArray, sites: Sequence[slice]) -> IntArray:
    """In how many decisions does each of the rows differ from `row`?"""
    out = np.zeros(len(rows), np.int64)
    for s in sites:
        out += (rows[:, s] != row[s]).any(axis=1)
    return out


class Spread:
    """Keeps what has been chosen apart.

    Args:
        sites: of each space, the columns of each decision.
        apart: in how many decisions two of a batch should differ (fewer where there are few).
    """

    def __init__(self, sites: Sequence[Sequence[slice]], apart: int = 2) -> None:
        self._sites = sites
        self._apart = [min(apart, len(s)) for s in sites]
        self._chosen: list[list[IntArray]] = [[] for _ in sites]

    def add(self, space: int, row: IntArray) -> None:
        """Remember a choice."""
        self._chosen[space].append(row)

    def near(self, space: int, row: IntArray) -> bool:
        """Is the row too much like one that was chosen?"""
        chosen = self._chosen[space]
        if not chosen or self._apart[space] == 0:
            return False
        d = differences(np.array(chosen), row, self._sites[space])
        return bool((d < self._apart[space]).any())


def ranking(scores: Scores) -> IntArray:
    """Positions by score, the best first; equal scores keep their order."""
    return np.argsort(-scores, kind="stable").astype(np.int64)


def parents(scores: Scores, count: int, rng: np.random.Generator) -> IntArray:
    """Positions of parents: a candidate's chance falls with its rank."""
    if len(scores) == 0:
        return np.empty(0, np.int64)
    order = ranking(scores)
    weight = 1.0 / (np.arange(len(order)) + 8.0)
    chosen = rng.choice(len(order), count, p=weight / weight.sum())
    return order[chosen]
