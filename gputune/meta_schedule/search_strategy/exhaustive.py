"""What if everything is tried? Exhaustive, for spaces that are small enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ScheduleError, UserError
from ...ir.equal import structural_hash
from ..decisions import IntArray
from .replay import _Replay
from .search_strategy import Search, context_of
from .spaces import Space, make_space

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..cost_model import CostModel
    from ..database import Database

MOST_ROWS = 100_000
"""Candidates of a design space, refused ones included, that are still tried one and all."""


class Exhaustive(_Replay):
    """Every legal candidate once, in an order drawn at random."""

    def __init__(self) -> None:
        super().__init__(max_fail_count=1)
        self._rows: Iterator[tuple[Space, IntArray]] = iter(())

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin: list all candidates.

        Raises:
            UserError: there are too many, or choices that cannot be listed.
        """
        super().pre_tuning(max_trials, num_trials_per_iter, design_spaces, database, cost_model)
        context = context_of(self._context, self)
        every: list[tuple[Space, IntArray]] = []
        for sch in design_spaces:
            space = make_space(context, sch, 1)
            rows = space.enumerate(MOST_ROWS)
            if rows is None:
                self._search = None
                raise UserError(
                    f"the space of {context.task_name} cannot be tried one and all: it has more "
                    f"than {MOST_ROWS} candidates, or choices that depend on each other",
                    hint='use strategy="evolutionary"',
                    code="exhaustive",
                )
            every += [(space, row) for row in rows]
        order = np.random.default_rng(self._seed()).permutation(len(every))
        self._rows = iter([every[k] for k in order])

    def _draw(self, search: Search) -> Schedule | None:
        for space, row in self._rows:
            try:
                sch = space.materialise(row)
            except ScheduleError as e:
                search.refusals[e.message] += 1
                continue
            if structural_hash(sch.mod) not in search.measured:
                return sch
        return None
