"""What if one just draws? ReplayTrace draws decisions of a trace, ReplayFunc runs the generator
anew."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError, UserError
from ...schedule import Schedule
from ...schedule.trace import Trace
from ..measure_candidate import MeasureCandidate
from ..postproc import postprocess
from ..watched import Maker, call_again, drawn
from .search_strategy import (
    Search,
    SearchCounts,
    SearchStrategy,
    begun,
    callers,
    context_of,
    postprocs_of,
    refuse_second,
)

if TYPE_CHECKING:
    from ..cost_model import CostModel
    from ..database import Database
    from ..runner import RunnerResult
    from ..tune_context import TuneContext


class _Replay(SearchStrategy):
    """Draws until the batch is full, or `max_fail_count` draws in a row gave nothing new. What the
    database holds of the workload is not measured again."""

    def __init__(self, max_fail_count: int = 100) -> None:
        if max_fail_count < 1:
            raise UserError(f"max_fail_count is a count from 1, found {max_fail_count}")
        self.max_fail_count = max_fail_count
        self._context: TuneContext | None = None
        self._search: Search | None = None
        self._spaces: list[Schedule] = []
        self._rng = random.Random(0)

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned and for which machine."""
        self._context = context

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin; the cost model is not used."""
        refuse_second(self._search, self)
        context = context_of(self._context, self)
        self._search = Search(context, max_trials, num_trials_per_iter, design_spaces)
        if database is not None:
            self._search.remember(database)
        self._spaces = list(design_spaces)
        self._rng = random.Random(context.fork_seed())

    def post_tuning(self) -> None:
        """End."""
        begun(self._search, self)
        self._search = None

    def generate_measure_candidates(
        self, limit: int | None = None
    ) -> list[MeasureCandidate] | None:
        """The next candidates, none of which was measured before; None when the trials are used up
        or there is nothing left to draw."""
        search: Search = begun(self._search, self)
        wanted = search.count(limit)
        if wanted <= 0:
            return None
        out: list[MeasureCandidate] = []
        fails = 0
        while len(out) < wanted and fails < self.max_fail_count:
            sch = self._draw(search)
            search.sampled += 1
            new = None if sch is None else search.candidate(sch)
            if new is None:
                fails += 1
            else:
                out.append(new)
                fails = 0
        if not out:
            for reason, n in search.refusals.most_common(3):
                search.context.logger.info("no candidate: %d draws refused: %s", n, reason)
        return out or None

    def notify_runner_results(
        self, measure_candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Count the trials."""
        begun(self._search, self).settle(measure_candidates, results)

    def counts(self) -> SearchCounts | None:
        """What was drawn since `pre_tuning`."""
        return None if self._search is None else self._search.counts()

    def clone(self) -> SearchStrategy:
        """A strategy of its own with the same settings, not begun."""
        other = copy.copy(self)
        other._context, other._search, other._spaces = None, None, []
        return other

    def _draw(self, search: Search) -> Schedule | None:
        raise NotImplementedError

    def _one_of(self, search: Search, spaces: Sequence[Schedule]) -> Schedule | None:
        """One of the schedules of a call, finished."""
        if not spaces:
            return None
        sch = self._rng.choice(spaces).copy()
        sch.error_render_level = "none"
        return self._finish(search, sch)

    def _finish(self, search: Search, sch: Schedule) -> Schedule | None:
        error = postprocess(sch, postprocs_of(search.context))
        if error is None:
            return sch
        search.refusals[error.message] += 1
        return None

    def _seed(self) -> int:
        return self._rng.randint(1, 2**31 - 1)


class ReplayTrace(_Replay):
    """Draws a design space and new decisions for its trace; where its code looks at what it
    sampled, calls that with new decisions.

    Args:
        max_fail_count: draws in a row that may be refused or known before it gives up.
    """

    def __init__(self, max_fail_count: int = 100) -> None:
        super().__init__(max_fail_count)
        self._makers: list[Maker | None] = []

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin; database and cost model are not used."""
        super().pre_tuning(max_trials, num_trials_per_iter, design_spaces, database, cost_model)
        self._makers = callers(context_of(self._context, self), self._spaces)

    def _draw(self, search: Search) -> Schedule | None:
        at = self._rng.choice(range(len(self._spaces)))
        maker, seed = self._makers[at], self._seed()
        if maker is not None:
            mod = search.context.mod
            return self._one_of(
                search, drawn(lambda: call_again(maker, mod, seed), search.refusals)
            )
        sch = Schedule(search.context.mod, seed=seed, error_render_level="none")
        try:
            Trace(self._spaces[at].trace.insts).apply_to_schedule(sch, remove_postproc=True)
        except ScheduleError as e:
            search.refusals[e.message] += 1
            return None
        return self._finish(search, sch)


class ReplayFunc(_Replay):
    """Runs the space generator anew for every candidate, and draws one of its schedules.

    Args:
        max_fail_count: draws in a row that may be refused or known before it gives up.
    """

    def _draw(self, search: Search) -> Schedule | None:
        space = search.context.space_generator
        if space is None:
            raise UserError(
                "ReplayFunc needs a space generator", hint="TuneContext(space_generator=...)"
            )
        mod = search.context.mod
        return self._one_of(
            search, drawn(lambda: space.generate_design_space(mod), search.refusals)
        )
