"""What is a schedule rule? From a schedule and a block to the schedules worth exploring."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..kinds import choose

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext


class ScheduleRule(ABC):
    """Base class of schedule rules; write your own by inheriting from it.

    Example:
        >>> class UnrollInner(ScheduleRule):
        ...     def apply(self, sch, block):
        ...         loops = sch.get_loops(block)
        ...         if loops:
        ...             sch.unroll(loops[-1])
        ...         return [sch]
    """

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned (`context.mod`) and for which machine (`context.target`)."""
        self._initialize_with_tune_context(context)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:  # noqa: B027
        """For subclasses; does nothing here."""

    @abstractmethod
    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedules that the rule makes of one; `[sch]` where it does not apply.

        The rule may change `sch` and give it back; it must `copy()` it to give several.
        """

    def clone(self) -> ScheduleRule:
        """A rule of its own with the same settings."""
        return copy.copy(self)

    @staticmethod
    def create(kind: str) -> list[ScheduleRule]:
        """The default rules for a kind of target, such as "llvm".

        Raises:
            UserError: there are none for that kind.
        """
        from . import DEFAULTS

        return [r.clone() for r in choose(DEFAULTS, kind, "schedule rules")]
