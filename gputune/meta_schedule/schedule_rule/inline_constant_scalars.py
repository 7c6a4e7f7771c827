"""Is this block just a constant kept in memory? InlineConstantScalars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schedule.inline import inline_fault
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule


class InlineConstantScalars(ScheduleRule):
    """A block that reads nothing and writes one scalar is inlined."""

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Inline the block if it is one."""
        link = sch.block(block)
        b = link.block()
        if not b.reads and len(b.writes) == 1 and not b.writes[0].buffer.shape:
            if not inline_fault(sch, link)[0]:
                sch.compute_inline(block)
        return [sch]
