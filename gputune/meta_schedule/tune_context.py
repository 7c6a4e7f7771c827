"""What belongs to the tuning of one program? The program, the machine, the space, the strategy."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..ir.in_bounds import check_in_bounds
from ..ir.nodes import IRModule, PrimFunc
from ..lower.ignored import warn_of_ignored
from ..schedule import Schedule
from ..target import Target
from ..target import host as machine
from ..target.target import TargetLike
from .counts_and_seeds import cpu_count
from .derived import check_part
from .logging import task_logger
from .measure_candidate import MeasureCandidate
from .module_equality import as_module
from .runner import RunnerResult

if TYPE_CHECKING:
    from .cost_model import CostModel
    from .database import Database
    from .search_strategy import SearchStrategy
    from .space_generator import SpaceGenerator
    from .verify import Checker


class TuneContext:
    """The parts of one tuning task.

    Args:
        mod: the program, a PrimFunc or an IRModule.
        target: the machine; default: the current target, if there is one.
        space_generator: what makes the design space: a `SpaceGenerator`, its kind
            ("post-order-apply"), or a function that schedules.
        search_strategy: a `SearchStrategy` or its kind ("evolutionary", "replay-trace", ...).
        task_name: for logs and tables.
        rand_state: seed of everything random in this task; -1 draws one.
        num_threads: a number, "physical" (cores that this process may use) or "logical" (also
            None: processors that it may use, hyper-threads counted).
        logger: of the task's details; default: "gputune.meta_schedule.task", which nobody reads.
        reference: a function that says what is right, in place of the unscheduled program; see
            `reference.Reference`.

    Raises:
        UserError: an argument that makes no sense, or a program that surely accesses what lies
            outside a buffer.
    """

    def __init__(
        self,
        mod: IRModule | PrimFunc | None = None,
        *,
        target: TargetLike | None = None,
        space_generator: Any = None,
        search_strategy: Any = None,
        task_name: str = "main",
        rand_state: int = -1,
        num_threads: int | str | None = "physical",
        logger: logging.Logger | None = None,
        reference: Callable[..., Any] | None = None,
    ) -> None:
        self._mod = None if mod is None else as_module(mod)
        if self._mod is not None:
            check_in_bounds(self._mod)
        chosen = Target.current() if target is None else Target(target)
        self._target = chosen
        if not isinstance(task_name, str):
            raise UserError(f"task_name is a text, found {task_name!r:.60}", code="task-name")
        self.task_name = task_name
        self.rand_state = check_seed(rand_state)
        self._rng = random.Random(self.rand_state)
        self.num_threads = thread_count(num_threads)
        self.logger = logger or task_logger
        self.verifier: Checker | None = None
        """What checks new bests; None: gputune's own, where it has one for the target."""
        self.reference = reference
        self.space_generator: SpaceGenerator | None = _as_space(space_generator)
        self.search_strategy: SearchStrategy | None = _as_strategy(search_strategy)
        if self._mod is not None:
            self.initialize()

    @property
    def mod(self) -> IRModule:
        """The program; UserError if there is none."""
        if self._mod is None:
            raise UserError(f"the tuning context {self.task_name!r} has no program", hint="mod=...")
        return self._mod

    @property
    def target(self) -> Target:
        """The machine; UserError if there is none."""
        if self._target is None:
            raise UserError(
                f"the tuning context {self.task_name!r} has no target", hint='target="llvm"'
            )
        return self._target

    def initialize(self) -> None:
        """Tell the space generator and the strategy what they are to work on."""
        if self.space_generator is not None:
            self.space_generator.initialize_with_tune_context(self)
        if self.search_strategy is not None:
            self.search_strategy.initialize_with_tune_context(self)

    def fork_seed(self) -> int:
        """A seed drawn from this task's generator."""
        return self._rng.randint(1, 2**31 - 1)

    def generate_design_space(self) -> list[Schedule]:
        """The sketches of the program; UserError without a space generator."""
        if self.space_generator is None:
            raise self._missing("space generator", "space_generator")
        found = self.space_generator.generate_design_space(self.mod)
        if not isinstance(found, Iterable):
            raise UserError(
                f"{type(self.space_generator).__name__}: generate_design_space gave {found!r:.60}",
                hint="it returns a list of schedules",
                code="design-space",
            )
        out = list(found)
        for sch in out:  # (lowering will be done by workers, whose warnings nobody sees)
            for func in sch.mod.functions.values():
                if isinstance(func, PrimFunc):
                    warn_of_ignored(func)
        return out

    def _strategy(self) -> SearchStrategy:
        if self.search_strategy is None:
            raise self._missing("search strategy", "search_strategy")
        return self.search_strategy

    def _missing(self, what: str, name: str) -> UserError:
        return UserError(f"the tuning context {self.task_name!r} has no {what}", hint=f"{name}=...")

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int = 64,
        design_spaces: list[Schedule] | None = None,
        database: Database | None = None,
        cost_model: CostModel | None = None,
    ) -> None:
        """Make the strategy ready.

        Args:
            max_trials: the most candidates to measure.
            num_trials_per_iter: the most in one round.
            design_spaces: default: those of the space generator.
            database: what was measured before; None: nothing.
            cost_model: what ranks candidates; None: the strategy's analytic score.
        """
        strategy = self._strategy()
        if design_spaces is None:
            design_spaces = self.generate_design_space()
        strategy.pre_tuning(max_trials, num_trials_per_iter, design_spaces, database, cost_model)

    def post_tuning(self) -> None:
        """Tell the strategy that tuning is over."""
        self._strategy().post_tuning()

    def generate_measure_candidates(
        self, limit: int | None = None
    ) -> list[MeasureCandidate] | None:
        """What to measure next; an empty list if nothing new was found, None when finished.

        Args:
            limit: the most that will be measured; strategies that do not take it may give more.
        """
        strategy = self._strategy()
        if "limit" in inspect.signature(strategy.generate_measure_candidates).parameters:
            found = strategy.generate_measure_candidates(limit=limit)
        else:
            found = strategy.generate_measure_candidates()
        listed = isinstance(found, list | tuple)
        if found is None or (listed and all(isinstance(c, MeasureCandidate) for c in found)):
            return found if found is None else list(found)
        raise UserError(
            f"{type(strategy).__name__}: generate_measure_candidates gave {found!r:.60}",
            hint="it returns a list of MeasureCandidate, or None when finished",
            code="candidates",
        )

    def notify_runner_results(
        self, measure_candidates: list[MeasureCandidate], results: list[RunnerResult]
    ) -> None:
        """Tell the strategy what was measured."""
        self._strategy().notify_runner_results(measure_candidates, results)

    def clone(self) -> TuneContext:
        """A context of its own for the same program, with a generator forked from this one's."""
        space, strategy = self.space_generator, self.search_strategy
        other = TuneContext(
            self._mod,
            target=self._target,
            space_generator=None if space is None else space.clone(),
            search_strategy=None if strategy is None else strategy.clone(),
            task_name=self.task_name,
            rand_state=self.fork_seed(),
            num_threads=self.num_threads,
            logger=self.logger,
            reference=self.reference,
        )
        other.verifier = self.verifier
        return other


def check_seed(seed: int | None) -> int:
    """A seed from 1 to 2**31 - 1; -1 and None draw one. UserError for anything else."""
    if seed is None or seed == -1:
        return random.SystemRandom().randint(1, 2**31 - 1)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 1 <= seed < 2**31:
        raise UserError(f"a seed is from 1 to 2**31 - 1, or -1 for any, found {seed!r}")
    return seed


def thread_count(spec: int | str | None) -> int:
    """How many threads "physical", "logical" (also None) or a number mean."""
    if spec == "physical":
        return machine.usable_cores()
    if spec is None or spec == "logical":
        return cpu_count(logical=True)
    if isinstance(spec, bool) or not isinstance(spec, int) or spec < 1:
        raise UserError(
            f"num_threads is a count from 1, 'physical' or 'logical', found {spec!r}",
            code="num-threads",
        )
    return spec


def _as_space(space: Any) -> Any:
    if space is None:
        return None
    from .space_generator import ScheduleFn, SpaceGenerator

    if isinstance(space, str):
        return SpaceGenerator.create(space)
    of_space = isinstance(space, SpaceGenerator | type) or hasattr(space, "generate_design_space")
    if callable(space) and not of_space:
        return ScheduleFn(space)
    return check_part(space, SpaceGenerator, "a design space", ", its kind, or a function")


def _as_strategy(strategy: Any) -> Any:
    if strategy is None:
        return None
    from .search_strategy import SearchStrategy

    if isinstance(strategy, str):
        return SearchStrategy.create(strategy)
    return check_part(strategy, SearchStrategy, "a search strategy", " or its kind")
