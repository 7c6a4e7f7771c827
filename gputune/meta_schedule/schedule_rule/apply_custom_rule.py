"""Has the author of the kernel written a rule for this block? ApplyCustomRule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ...errors import UserError
from ...schedule.extensions import SCHEDULE_RULES, extensions
from ..analysis import SCHEDULE_RULE, annotation
from ..kinds import target_of
from ..watched import note_foreign
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext

CustomRule: TypeAlias = "Callable[[Schedule, BlockRV], list[Schedule]]"
F = TypeVar("F", bound=Callable[..., object])

_rules: dict[str, CustomRule] = {}
_KEYS = {"llvm": ("cpu", "llvm"), "cuda": ("gpu", "cuda")}


def register_schedule_rule(name: str, *, override: bool = False) -> Callable[[F], F]:
    """Give a function a name that blocks can ask for with `T.block_attr({"schedule_rule": ...})`.

    Args:
        name: "my_rule"; or "meta_schedule.cpu.my_rule", which a block that asks for "my_rule" gets
            on CPUs only (also "...llvm...", "...cuda...", "...gpu...").
        override: replace a function of that name.

    Raises:
        UserError: the name is taken.

    Example:
        >>> @register_schedule_rule("leave_it", override=True)
        ... def leave_it(sch, block):
        ...     return [sch]
    """

    def register(func: F) -> F:
        if name in _rules and not override:
            raise UserError(
                f"a schedule rule named {name!r} is there already",
                hint="choose another name, or say override=True",
                code="rule-exists",
            )
        _rules[name] = func  # type: ignore[assignment]  # a CustomRule, which F keeps precise
        return func

    return register


def _brought(names: Sequence[str]) -> CustomRule | None:
    """The rule that another package brings under one of the names: a function (sch, block), a
    `ScheduleRule`, or a class of such."""
    found = extensions(SCHEDULE_RULES).found
    thing: Any = next((found[n] for n in names if n in found), None)
    rule: Any = thing() if isinstance(thing, type) and issubclass(thing, ScheduleRule) else thing
    return rule.apply if isinstance(rule, ScheduleRule) else rule


class ApplyCustomRule(ScheduleRule):
    """Blocks with the annotation `schedule_rule` are scheduled by the function of that name.

    The value "None" leaves the block alone. No other rule touches such a block.
    """

    def __init__(self) -> None:
        self.kind = "llvm"

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None:
            self.kind = target.kind

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Call the function that the block asks for.

        Raises:
            UserError: there is no such function (the names tried are listed), or it did not return
                a list of schedules.
        """
        name = annotation(sch.get(block), SCHEDULE_RULE)
        if name is None or name == "None":
            return [sch]
        tried = [f"meta_schedule.{key}.{name}" for key in _KEYS.get(self.kind, (self.kind,))]
        tried.append(str(name))
        rule = next((_rules[n] for n in tried if n in _rules), None) or _brought(tried)
        if rule is None:
            failures = extensions(SCHEDULE_RULES).failures()
            raise UserError(
                f"block {sch.get(block).name} asks for the schedule rule {name!r}, which is not "
                f"registered; tried {', '.join(tried)}",
                hint=f'@register_schedule_rule("{name}") names a function (sch, block) -> [sch]'
                + (f"; {failures}" if failures else ""),
                code="no-rule",
            )
        note_foreign(sch)
        out = rule(sch, block)
        if not isinstance(out, (list, tuple)):
            raise UserError(
                f"the schedule rule {name!r} returned {type(out).__name__}, not a list of "
                "schedules",
                code="rule-result",
            )
        return list(out)
