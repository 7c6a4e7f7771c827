"""At which loop of its consumers should a block be computed? RandomComputeLocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...schedule.analysis import blocks_below, consumers
from ..analysis import (
    RANDOM_COMPUTE_PRODUCER,
    TILING_STRUCTURE,
    annotation,
    is_gone,
    is_root,
    loop_links,
)
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule


class RandomComputeLocation(ScheduleRule):
    """A block under the root with a loop nest of its own, not tiled and with consumers, is computed
    at a sampled place: inlined, left alone, or at a loop over its consumers. The partial results of
    a factored reduction (annotation `meta_schedule.random_compute_producer`) are, too.
    """

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Sample the place, and move the block there."""
        makers: list[BlockRV] = []
        if annotation(sch.get(block), RANDOM_COMPUTE_PRODUCER) is not None:
            # before the block itself moves: inlined blocks can no longer be asked
            makers = sch.get_producers(block)
            sch.unannotate(block, RANDOM_COMPUTE_PRODUCER)
        for b in (block, *makers):
            if not is_gone(sch, b) and _can_move(sch, b):
                sch = _move_somewhere(sch, b)
        return [sch]


def _can_move(sch: Schedule, block: BlockRV) -> bool:
    link = sch.block(block)
    if is_root(link) or link.scope().up is not None:
        return False
    loops = loop_links(link)
    if not loops or len(blocks_below(loops[0])) > 1:
        return False
    if annotation(link.block(), TILING_STRUCTURE) is not None:
        return False
    return bool(consumers(link, sch))


def _move_somewhere(sch: Schedule, block: BlockRV) -> Schedule:
    moved = sch.copy()
    try:
        moved.compute_at(block, moved.sample_compute_location(block), preserve_unit_loops=True)
    except ScheduleError:  # the place drawn is refused: the sketch starts from "stay where you are"
        moved = sch
        stay = moved.sample_compute_location(block, decision=-1)
        moved.compute_at(block, stay, preserve_unit_loops=True)
    return moved
