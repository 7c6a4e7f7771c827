"""Should this block live on its own, or inside its neighbours? AutoInline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...errors import ScheduleError
from ...schedule.analysis import kind_of, producers
from ...schedule.inline import inline_fault
from ..analysis import (
    INLINE_RULE,
    TILING_STRUCTURE,
    access_pattern,
    annotation,
    has_call,
    has_if_then_else,
    is_root,
    is_spatial,
    is_spatial_program,
)
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...ir.nodes import Block
    from ...schedule import BlockRV, Schedule

Way: TypeAlias = Literal["", "into-consumer", "into-producer"]


class AutoInline(ScheduleRule):
    """Spatial blocks whose recomputation costs nothing are inlined.

    Args:
        into_producer: may a block move into its only producer?
        into_consumer: may it move into its consumers?
        inline_const_tensor: are tensors that read nothing inlined whatever the other conditions?
        disallow_if_then_else: do blocks that branch stay? (A branch costs in an inner loop.)
        require_injective: do blocks stay that read one input index for several output indices?
        require_ordered: do blocks stay that read their input in another order of axes?
        disallow_op: intrinsics too dear to be recomputed, such as "exp".

    The last four do not hold in functions that are spatial throughout: there is nothing to fuse for
    but locality. The annotation `meta_schedule.inline_rule = "disable"` keeps a block.
    """

    def __init__(
        self,
        into_producer: bool,
        into_consumer: bool,
        inline_const_tensor: bool,
        disallow_if_then_else: bool,
        require_injective: bool,
        require_ordered: bool,
        disallow_op: Sequence[str] | None = None,
    ) -> None:
        self.into_producer = into_producer
        self.into_consumer = into_consumer
        self.inline_const_tensor = inline_const_tensor
        self.disallow_if_then_else = disallow_if_then_else
        self.require_injective = require_injective
        self.require_ordered = require_ordered
        self.disallow_op = frozenset(x.removeprefix("tir.") for x in disallow_op or ())

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Inline the block, if that pays."""
        way = self._way(sch, block)
        if way == "into-consumer":
            sch.compute_inline(block)
        elif way == "into-producer":
            trial = sch.copy()
            try:
                trial.reverse_compute_inline(block)
            except ScheduleError:  # what it needs is exactly what the primitive checks
                return [sch]
            return [trial]
        return [sch]

    def _way(self, sch: Schedule, rv: BlockRV) -> Way:
        link = sch.block(rv)
        block = link.block()
        if is_root(link) or len(block.writes) != 1 or not is_spatial(block):
            return ""
        if annotation(block, INLINE_RULE) == "disable":
            return ""
        can_inline = not inline_fault(sch, link)[0]
        if self.inline_const_tensor and not block.reads and can_inline:
            return "into-consumer"
        if not is_spatial_program(sch, link) and self._is_dear(block):
            return ""
        if not self._is_plain(block):
            return ""
        if self.into_consumer and can_inline:
            return "into-consumer"
        if self.into_producer:
            makers = producers(link, sch)
            if len(makers) == 1 and kind_of(makers[0], sch) == "complete":
                if annotation(makers[0].block(), TILING_STRUCTURE) is None:
                    return "into-producer"
        return ""

    def _is_dear(self, block: Block) -> bool:
        """Does it do what is too dear to do again?"""
        if self.disallow_op and has_call(block, self.disallow_op):
            return True
        return self.disallow_if_then_else and has_if_then_else(block)

    def _is_plain(self, block: Block) -> bool:
        """Are its reads as simple as required?"""
        if not (self.require_injective or self.require_ordered):
            return True
        for read in block.reads:
            p = access_pattern(read, block.writes[0])
            if p is None:
                return False
            if (self.require_injective and not p.injective) or (
                self.require_ordered and not p.ordered
            ):
                return False
        return True
