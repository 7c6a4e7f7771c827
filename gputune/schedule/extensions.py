"""Which primitives and rules do other packages bring? Entry points, loaded when first needed.

A distribution names what it brings in its metadata, in the groups below. Nothing of it is imported
until something is asked for that gputune itself does not have: a method of `Schedule`, an
instruction of a trace, a schedule rule that a block names. An entry point that cannot be loaded is
a warning with its name, and the others go on.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from .primitive import KINDS, InstructionKind

PRIMITIVES = "gputune.primitives"
"""The group of modules that declare primitives, or of primitives."""
SCHEDULE_RULES = "gputune.schedule_rules"
"""The group of schedule rules, under the names by which blocks ask for them."""


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the entry points of a group gave.

    Attributes:
        found: what was loaded, by the name of its entry point.
        failed: what is wrong with the others, by the same.
    """

    found: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def failures(self) -> str:
        """What failed, as the end of a message; "" if nothing did."""
        return "; ".join(f"the entry point {n!r} failed: {why}" for n, why in self.failed.items())


_loading: set[str] = set()


def extensions(group: str) -> Extensions:
    """What the installed distributions bring in a group; loaded once.

    Args:
        group: `PRIMITIVES` or `SCHEDULE_RULES`.
    """
    if group in _loading:  # one of them, while it is imported, asks for what is not there
        return Extensions()
    _loading.add(group)
    try:
        return _extensions(group)
    finally:
        _loading.discard(group)


@functools.cache
def _extensions(group: str) -> Extensions:
    from importlib.metadata import entry_points

    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
        why = ""
        try:
            if point.name in found:
                why = "another distribution has one of the same name"
            else:
                thing = point.load()
                why = _fault(group, thing)
        except (Exception, SystemExit) as e:  # whatever a foreign module does when it is imported
            why = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        if not why:
            found[point.name] = thing
            continue
        failed[point.name] = why
        owner = f" of {point.dist.name}" if point.dist is not None else ""
        warnings.warn(
            f"{group}: the entry point {point.name!r}{owner} ({point.value}) is left out: {why}",
            stacklevel=4,
        )
    return Extensions(found, failed)


def _fault(group: str, thing: Any) -> str:
    """Why what was loaded is not what the group is for, or ""."""
    if group != PRIMITIVES:
        if callable(thing) or callable(getattr(thing, "apply", None)):
            return ""
        return f"a {type(thing).__name__} is no rule: a function (sch, block) -> [sch] is one"
    if isinstance(thing, ModuleType):
        inside = f"{thing.__name__}."
        known = any(f"{k.fn.__module__}.".startswith(inside) for k in KINDS.values())
        known = known or any(declared(x) for x in vars(thing).values())
        return "" if known else f"the module {thing.__name__} declares no primitive"
    if declared(thing):
        return ""
    return f"a {type(thing).__name__} is no primitive: @primitive declares one"


def declared(thing: object) -> bool:
    """Was it declared by `@primitive`?"""
    return isinstance(getattr(thing, "kind", None), InstructionKind)


ABSENT: Mapping[str, str] = {
    "set_axis_separator": "memory has one dimension here (TVM has it for textures, and no longer)",
}
"""Methods that TVM's schedules have or had, and why there are none here."""


def missing_method(schedule: object, name: str) -> Any:
    """The method of a schedule that an extension brings; AttributeError if none does."""
    failures = ""
    if not name.startswith("_"):
        failures = extensions(PRIMITIVES).failures()
        if hasattr(type(schedule), name):
            return getattr(schedule, name)
    message = f"{type(schedule).__name__!r} object has no attribute {name!r}"
    if name in ABSENT:
        message = f"{message}: {ABSENT[name]}"
    raise AttributeError(
        f"{message} ({failures})" if failures else message, name=name, obj=schedule
    )
