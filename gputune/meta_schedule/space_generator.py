"""Which schedules make up the space that is searched? PostOrderApply, ScheduleFn, unions."""

from __future__ import annotations

import copy
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import ScheduleError, UserError
from ..ir.nodes import Block, IRModule, PrimFunc
from ..ir.scheduled import is_scheduled
from ..ir.walk import stmt_children
from ..schedule import BlockRV, Schedule
from .analysis import SCHEDULE_RULE, annotation, is_gone
from .derived import check_part, left_open
from .kinds import kind_of_target, random_of
from .mutator import Mutator
from .postproc import Postproc
from .schedule_rule import ApplyCustomRule, ScheduleRule
from .watched import WatchedSchedule, Wish, is_ours, note_foreign

if TYPE_CHECKING:
    from .tune_context import TuneContext

FromTarget: TypeAlias = Literal["from-target"]
Rules: TypeAlias = "Sequence[ScheduleRule] | str | None"
Postprocs: TypeAlias = "Sequence[Postproc] | str | None"
Mutators: TypeAlias = "Mapping[Mutator, float] | str | None"
ScheduleFnType: TypeAlias = "Callable[[Schedule], Schedule | list[Schedule] | None]"


class SpaceGenerator(ABC):
    """Base class of space generators; write your own by inheriting from it.

    Args:
        sch_rules, postprocs: lists; the name of a kind of target whose defaults are taken, such as
            "llvm"; or "from-target": those of the context's target. None is an empty list.
        mutator_probs: the same, with a mapping from mutator to how often it is chosen.

    Attributes:
        sch_rules, postprocs, mutator_probs: as given, and lists and a dict once the generator was
            initialised with a context.
    """

    # what a subclass has that does not call __init__ of this class
    sch_rules: list[ScheduleRule] | str = "from-target"
    postprocs: list[Postproc] | str = "from-target"
    mutator_probs: dict[Mutator, float] | str = "from-target"
    rng: random.Random = random.Random()
    wishes: Sequence[Wish] = ()  # see watched.call_again

    def __init__(
        self,
        sch_rules: Rules = "from-target",
        postprocs: Postprocs = "from-target",
        mutator_probs: Mutators = "from-target",
    ) -> None:
        self.sch_rules = _listed(sch_rules, ScheduleRule, "sch_rules")
        self.postprocs = _listed(postprocs, Postproc, "postprocs")
        self.mutator_probs = _weighted(mutator_probs)
        self.rng = random.Random()

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Settle rules, postprocs and mutators, and make them and itself known to the context.

        Raises:
            UserError: "from-target" without a target, or a kind that has no defaults.
        """
        self.rng = random_of(context, self)
        if isinstance(self.sch_rules, str):
            self.sch_rules = ScheduleRule.create(_kind(self.sch_rules, context, "schedule rules"))
        if isinstance(self.postprocs, str):
            self.postprocs = Postproc.create(_kind(self.postprocs, context, "postprocs"))
        if isinstance(self.mutator_probs, str):
            self.mutator_probs = Mutator.create(_kind(self.mutator_probs, context, "mutators"))
        for rule in self.sch_rules:
            rule.initialize_with_tune_context(context)
        for postproc in self.postprocs:
            postproc.initialize_with_tune_context(context)
        for mutator in self.mutator_probs:
            mutator.initialize_with_tune_context(context)
        self._initialize_with_tune_context(context)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:  # noqa: B027
        """For subclasses; does nothing here."""

    @abstractmethod
    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """The schedules to search; their traces are the sketches."""

    def clone(self) -> SpaceGenerator:
        """A generator of its own with the same settings."""
        other = copy.copy(self)
        if not isinstance(self.sch_rules, str):
            other.sch_rules = [r.clone() for r in self.sch_rules]
        if not isinstance(self.postprocs, str):
            other.postprocs = [p.clone() for p in self.postprocs]
        if not isinstance(self.mutator_probs, str):
            other.mutator_probs = {m.clone(): p for m, p in self.mutator_probs.items()}
        other.rng = random.Random(self.rng.getrandbits(64))
        return other

    @staticmethod
    def create(
        kind: str | ScheduleFnType = "post-order-apply", *args: Any, **kwargs: Any
    ) -> SpaceGenerator:
        """A generator by name.

        Args:
            kind: "post-order-apply", "union", or a function that schedules.
            args, kwargs: for its constructor.

        Raises:
            UserError: another kind, or a union without members.
        """
        if callable(kind):
            return ScheduleFn(kind, *args, **kwargs)
        if kind == "post-order-apply":
            return PostOrderApply(*args, **kwargs)
        if kind == "union":
            if not args and "space_generators" not in kwargs:
                raise UserError(
                    "a union of spaces needs its members",
                    hint='SpaceGenerator.create("union", [generator, generator, ...])',
                    code="union",
                )
            return SpaceGeneratorUnion(*args, **kwargs)
        raise UserError(
            f"{kind!r} is no kind of space generator",
            hint='there are "post-order-apply" and "union"; or give a function that schedules',
            code="kind",
        )

    def _schedule(self, mod: IRModule | PrimFunc) -> Schedule:
        seed = self.rng.randint(1, 2**31 - 1)
        return WatchedSchedule(mod, maker=self, wishes=self.wishes, seed=seed)


@left_open
class PySpaceGenerator(SpaceGenerator):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


def _listed(given: Any, base: type, name: str) -> Any:
    """A list of parts, or the word for one."""
    if given is None or isinstance(given, str):
        return given or []
    if not isinstance(given, list | tuple):
        raise UserError(
            f"{name} is a list of {base.__name__}, a kind of target or 'from-target', "
            f"found {given!r:.60}",
            code="part",
        )
    return [check_part(p, base, f"each of {name}") for p in given]


def _weighted(given: Any) -> Any:
    """Mutators with how often each is chosen, or the word for them."""
    if given is None or isinstance(given, str):
        return given or {}
    if not isinstance(given, Mapping):
        raise UserError(
            "mutator_probs is a mapping from Mutator to how often it is chosen, a kind of target "
            f"or 'from-target', found {given!r:.60}",
            code="part",
        )
    for m, p in given.items():
        check_part(m, Mutator, "each of mutator_probs")
        if not (isinstance(p, Real) and 0 <= float(p) < math.inf):
            raise UserError(f"mutator_probs: {type(m).__name__} is chosen {p!r} times", code="part")
    return dict(given)


def _kind(given: str, context: TuneContext, what: str) -> str:
    return kind_of_target(context, what) if given == "from-target" else given


def create(
    kind: str | ScheduleFnType = "post-order-apply", *args: Any, **kwargs: Any
) -> SpaceGenerator:
    """`SpaceGenerator.create`."""
    return SpaceGenerator.create(kind, *args, **kwargs)


# ----------------------------------------------------------------------------- rules
class PostOrderApply(SpaceGenerator):
    """Applies each rule to each block, consumers before producers, of all schedules so far.

    A block with the annotation `schedule_rule` is touched by ApplyCustomRule only.

    Args:
        f_block_filter: `(Block) -> bool`; blocks for which it is false are left alone.
        sch_rules, postprocs, mutator_probs: see SpaceGenerator.
    """

    def __init__(
        self,
        f_block_filter: Callable[[Block], bool] | None = None,
        sch_rules: Rules = "from-target",
        postprocs: Postprocs = "from-target",
        mutator_probs: Mutators = "from-target",
    ) -> None:
        super().__init__(sch_rules, postprocs, mutator_probs)
        self.f_block_filter = f_block_filter

    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """The sketches.

        Raises:
            UserError: the generator was not initialised with a context; a rule did not return
                schedules.
            ScheduleError: two blocks of a function have one name.
        """
        if isinstance(self.sch_rules, str):
            raise UserError(
                f"the schedule rules {self.sch_rules!r} are not settled yet",
                hint="call initialize_with_tune_context(context) first",
                code="not-initialised",
            )
        sch = self._schedule(mod)
        blocks = self._blocks(sch)
        spaces = [sch]
        for rule in self.sch_rules:
            for block in reversed(blocks):
                spaces = [new for s in spaces for new in _apply(rule, s, block)]
        for s in spaces:
            s.trace = s.trace.simplified(remove_postproc=False)
        return spaces

    def _blocks(self, sch: Schedule) -> list[BlockRV]:
        """Handles of the blocks to visit, inner blocks before the blocks around them."""
        out: list[BlockRV] = []
        for name, func in sch.mod.functions.items():
            if not isinstance(func, PrimFunc) or is_scheduled(func):
                continue
            for block in _post_order(func, name):
                if self.f_block_filter is None or self.f_block_filter(block):
                    out.append(sch.get_block(block.name, name))
        return out


def _post_order(func: PrimFunc, name: str) -> list[Block]:
    """The blocks of a function, in program order, inner ones first."""
    out: list[Block] = []
    seen: set[str] = set()

    def visit(s: Any) -> None:
        for child in stmt_children(s):
            visit(child)
        if type(s) is Block:
            if s.name in seen:
                raise ScheduleError(
                    f"two blocks of function {name!r} are named {s.name!r}",
                    hint="rules find blocks by name: give each its own",
                    code="block-name",
                )
            seen.add(s.name)
            out.append(s)

    visit(func.body)
    return out


def _apply(rule: ScheduleRule, sch: Schedule, block: BlockRV) -> Sequence[Schedule]:
    if is_gone(sch, block):
        return [sch]
    if not isinstance(rule, ApplyCustomRule):
        if annotation(sch.get(block), SCHEDULE_RULE) is not None:
            return [sch]
    if not is_ours(rule):
        note_foreign(sch)
    return _schedules(rule.apply(sch, block), f"the schedule rule {type(rule).__name__}")


def _schedules(found: Any, who: str) -> Sequence[Schedule]:
    if not isinstance(found, (list, tuple)) or not all(isinstance(s, Schedule) for s in found):
        raise UserError(
            f"{who} returned {type(found).__name__}, not a list of schedules", code="rule-result"
        )
    return found


# ----------------------------------------------------------------------------- functions
class ScheduleFn(SpaceGenerator):
    """The space that a function spans: it schedules, with sampling instructions where it leaves a
    choice.

    Args:
        sch_fn: takes a Schedule; changes it and returns None, or returns a schedule, or several.
            If it hands sampled values on to primitives, its trace stands for the space, and
            thousands of candidates are looked at at once. If it reads them (`sch.get(v)`, or
            extents that follow from them), it is called anew for every candidate.
        sch_rules, postprocs, mutator_probs: see SpaceGenerator. The rules are not used.
    """

    def __init__(
        self,
        sch_fn: ScheduleFnType,
        sch_rules: Rules = "from-target",
        postprocs: Postprocs = "from-target",
        mutator_probs: Mutators = "from-target",
    ) -> None:
        super().__init__(sch_rules, postprocs, mutator_probs)
        if not callable(sch_fn):
            raise UserError(f"sch_fn is a function of a schedule, got {type(sch_fn).__name__}")
        self.sch_fn = sch_fn

    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """What the function makes of the program.

        Raises:
            UserError: it returned something else.
        """
        sch = self._schedule(mod)
        note_foreign(sch)
        found = self.sch_fn(sch)
        if found is None:
            return [sch]
        if isinstance(found, Schedule):
            return [found]
        name = getattr(self.sch_fn, "__name__", type(self.sch_fn).__name__)
        return list(_schedules(found, f"the schedule function {name}"))


class SpaceGeneratorUnion(SpaceGenerator):
    """The spaces of several generators together.

    Args:
        space_generators: the generators.
        sch_rules, postprocs, mutator_probs: see SpaceGenerator; the rules of the parts are their
            own.
    """

    def __init__(
        self,
        space_generators: Sequence[SpaceGenerator],
        sch_rules: Rules = "from-target",
        postprocs: Postprocs = "from-target",
        mutator_probs: Mutators = "from-target",
    ) -> None:
        super().__init__(sch_rules, postprocs, mutator_probs)
        members = space_generators if isinstance(space_generators, list | tuple) else None
        if not members or not all(isinstance(g, SpaceGenerator) for g in members):
            raise UserError(
                "a union of spaces needs a list of space generators, at least one, "
                f"found {space_generators!r:.80}",
                hint='SpaceGenerator.create("union", [generator, generator, ...])',
                code="union",
            )
        self.space_generators = list(members)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        for g in self.space_generators:
            g.initialize_with_tune_context(context)

    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """The spaces of the parts, one after the other."""
        return [s for g in self.space_generators for s in g.generate_design_space(mod)]

    def clone(self) -> SpaceGenerator:
        """A union of clones."""
        other = super().clone()
        assert isinstance(other, SpaceGeneratorUnion)
        other.space_generators = [g.clone() for g in self.space_generators]
        return other
