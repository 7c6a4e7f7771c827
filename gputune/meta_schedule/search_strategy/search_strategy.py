"""What is a search strategy? From design spaces and results to the next candidates."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ...errors import RecordError, ScheduleError, UserError
from ...ir.equal import structural_hash
from ..arg_info import ArgInfo
from ..logging import console
from ..measure_candidate import MeasureCandidate
from ..record import Workload
from ..watched import Maker, makers_to_call

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..cost_model import CostModel
    from ..database import Database
    from ..postproc import Postproc
    from ..runner import RunnerResult
    from ..tune_context import TuneContext


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """What a strategy has looked at since `pre_tuning`.

    Attributes:
        sampled: rows, or schedules, that were looked at.
        duplicates: those whose program had been measured, or was about to be.
        refused: those that are not legal, counted by reason.
    """

    sampled: int = 0
    duplicates: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


class SearchStrategy(ABC):
    """Base class of strategies; write your own by inheriting from it.

    The order of calls is `initialize_with_tune_context`, `pre_tuning`, then
    `generate_measure_candidates` and `notify_runner_results` in turn, then `post_tuning`.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A strategy; TypeError for this class itself."""
        if cls is SearchStrategy:
            raise TypeError("Cannot instantiate abstract class SearchStrategy")
        return super().__new__(cls)

    @abstractmethod
    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned and for which machine."""

    @abstractmethod
    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Begin.

        Args:
            max_trials: the most candidates to measure.
            num_trials_per_iter: the most to generate at a time.
            design_spaces: schedules whose traces are the sketches; at least one.
            database: what was measured before.
            cost_model: what ranks candidates; None: the analytic score.

        Raises:
            UserError: no design space, a count below 1, or begun already.
        """

    @abstractmethod
    def post_tuning(self) -> None:
        """End; `pre_tuning` may follow again. UserError if it was not begun."""

    @abstractmethod
    def generate_measure_candidates(
        self, limit: int | None = None
    ) -> list[MeasureCandidate] | None:
        """The next candidates.

        Args:
            limit: the most to give, if below `num_trials_per_iter`.

        Returns:
            Candidates; an empty list if there are none this time; None when finished.
        """

    @abstractmethod
    def notify_runner_results(
        self, measure_candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Learn what became of candidates. Those that were generated and are not told of here were
        not measured, and may be generated again."""

    def best_candidates(self, count: int) -> list[MeasureCandidate] | None:
        """The candidates that look best, the best first; none of them counts as measured.

        Args:
            count: the most to give.

        Returns:
            Candidates with a `score`; None if this strategy has no opinion.
        """
        return None

    def counts(self) -> SearchCounts | None:
        """What was looked at since `pre_tuning`; None if this strategy does not count."""
        return None

    def clone(self) -> SearchStrategy:
        """A strategy of its own with the same settings, not begun."""
        return copy.deepcopy(self)

    @staticmethod
    def create(kind: str = "evolutionary", *args: Any, **kwargs: Any) -> SearchStrategy:
        """A strategy by name: "evolutionary", "exhaustive", "replay-trace" or "replay-func".

        Raises:
            UserError: another name.
        """
        from .evolutionary import EvolutionarySearch
        from .exhaustive import Exhaustive
        from .replay import ReplayFunc, ReplayTrace

        match kind:
            case "evolutionary":
                return EvolutionarySearch(*args, **kwargs)
            case "exhaustive":
                return Exhaustive(*args, **kwargs)
            case "replay-trace":
                return ReplayTrace(*args, **kwargs)
            case "replay-func":
                return ReplayFunc(*args, **kwargs)
            case _:
                raise UserError(
                    f"{kind!r} is no search strategy",
                    hint='there are "evolutionary", "exhaustive", "replay-trace" and "replay-func"',
                    code="search-strategy",
                )


class Search:
    """What every strategy of gputune keeps between `pre_tuning` and `post_tuning`.

    Attributes:
        measured: digests of programs that were measured, or are being measured.
        refusals: why candidates were not even measured, counted.
        sampled, duplicates: as of `SearchCounts`.
    """

    def __init__(
        self,
        context: TuneContext,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Schedule],
    ) -> None:
        for name, n in (("max_trials", max_trials), ("num_trials_per_iter", num_trials_per_iter)):
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise UserError(f"{name} is a count from 1, found {n!r}", code="trials")
        if not design_spaces:
            raise UserError(
                f"there is no design space for {context.task_name!r}",
                hint="the space generator gave no schedule",
                code="design-space",
            )
        ArgInfo.from_entry_func(context.mod)  # refuses what cannot be measured
        self.context = context
        self.max_trials = max_trials
        self.batch = num_trials_per_iter
        self.trials = 0
        self.measured: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self.sampled = self.duplicates = 0
        self._pending: dict[str, MeasureCandidate] = {}

    def count(self, limit: int | None) -> int:
        """How many candidates to generate now; what was never told of may be generated again."""
        for digest in self._pending:
            self.measured.discard(digest)
        self._pending.clear()
        wanted = self.batch if limit is None else min(self.batch, max(limit, 1))
        return min(wanted, self.max_trials - self.trials)

    def candidate(self, sch: Schedule) -> MeasureCandidate | None:
        """A candidate for a finished schedule; None if its program was measured before."""
        new = MeasureCandidate.of(sch)
        if new.digest in self.measured:
            self.duplicates += 1
            return None
        self.measured.add(new.digest)
        self._pending[new.digest] = new
        return new

    def remember(self, database: Database) -> None:
        """What a database holds of the workload on this class of machine is not measured again."""
        context = self.context
        if not database.has_workload(context.mod):
            return
        key, device = structural_hash(context.mod), context.target.device_key
        for record in database.get_records(Workload(context.mod)):
            if record.workload.shash != key or record.extras.get("device", device) != device:
                continue
            if record.unranked:
                continue
            try:
                self.measured.add(record.program or record.as_measure_candidate().digest)
            except (RecordError, ScheduleError):
                continue  # of another version: no candidate of this one is the same

    def counts(self) -> SearchCounts:
        """What was looked at so far."""
        return SearchCounts(self.sampled, self.duplicates, dict(self.refusals))

    def settle(
        self, candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Count the trials; a failure of the infrastructure is none, and may be tried again."""
        for c, r in zip(candidates, results, strict=True):
            self._pending.pop(c.digest, None)
            if r.problem is not None and r.problem.infrastructure:
                self.measured.discard(c.digest)
                continue
            self.measured.add(c.digest)
            self.trials += 1


def postprocs_of(context: TuneContext) -> list[Postproc]:
    """The postprocs of the context's space generator."""
    space = context.space_generator
    found = [] if space is None else space.postprocs
    if isinstance(found, str):
        raise UserError(
            f"the postprocs {found!r} are not settled yet",
            hint="make the TuneContext with a program and a target",
            code="not-initialised",
        )
    return list(found)


def begun(state: Any, who: object) -> Any:
    """The state of a strategy that was begun; UserError if it was not."""
    if state is None:
        raise UserError(
            f"{type(who).__name__}: tuning has not begun",
            hint="call pre_tuning first",
            code="not-begun",
        )
    return state


def context_of(context: TuneContext | None, who: object) -> TuneContext:
    """The context of a strategy that was given one; UserError if it was not."""
    if context is None:
        raise UserError(
            f"{type(who).__name__} does not know what to tune",
            hint="call initialize_with_tune_context first, or give it to a TuneContext",
            code="not-initialised",
        )
    return context


def refuse_second(state: object, who: object) -> None:
    """UserError if tuning was begun and not ended."""
    if state is not None:
        raise UserError(
            f"{type(who).__name__}: pre_tuning was called already",
            hint="call post_tuning first",
            code="begun-twice",
        )


def callers(context: TuneContext, spaces: Sequence[Schedule]) -> list[Maker | None]:
    """For each design space, who must be called for its candidates (None: its trace is replayed);
    says so if anyone must be."""
    found = makers_to_call(spaces, context.mod)
    if any(found):
        console().info(
            "The space of %s looks at what it sampled: it is called for every candidate, which "
            "is slower than handing sampled values on",
            context.task_name,
        )
    return found
