"""Can all stages of a row be computed together, while the row is in the cache? FuseRows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...schedule.analysis import is_output, kind_of
from ...schedule.tree import Link
from ..analysis import is_root, is_spatial
from ..row_chains import has_own_nest, row_depth, stages_of
from .add_rfactor import fuse_reduction
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
_LEAST = 8  # fewer lanes do not fill a vector


class FuseRows(ScheduleRule):
    """An output whose rows need reductions over these rows, such as a softmax or a layer norm, is
    also offered with all its stages under one loop over the rows.

    Each reduction is factored into lanes, of a sampled number, if any fills vectors. Then all that
    makes the output moves to the innermost of its loops where each reduction gives one element, so
    that a row stays in the first cache from the first stage to the last, and the rows can be shared
    out among cores. The unchanged schedule is offered too.

    It applies where every stage does for one row just what the row needs, nothing twice. Products
    of matrices, and what else suits tiles, are no stages: rows begin where they end.

    Args:
        max_innermost_factor: the most lanes of a reduction. They divide its length: a block that
            leaves out elements could not be moved.
    """

    def __init__(self, max_innermost_factor: int = 64) -> None:
        self.max_innermost_factor = max_innermost_factor

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the one with the rows fused if the block is the end of such stages."""
        link = sch.block(block)
        if is_root(link) or not is_root(link.scope()) or not _is_end(sch, link):
            return [sch]
        stages = stages_of(sch, link)
        if stages is None or all(is_spatial(b) for b in stages):
            return [sch]
        func = sch.func_of(link.block().key)
        fused = sch.copy()
        moved = [(fused.get_block(b.name, func), not is_spatial(b)) for b in stages]
        depth = row_depth(fused, block, moved, len(fused.get_loops(block)) - 1)
        if depth is None:
            return [sch]
        try:
            self._fuse(fused, block, moved, depth)
        except ScheduleError:  # a combiner that is not known, or that takes no other order
            return [sch]
        return [sch, fused]

    def _fuse(
        self, sch: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]], depth: int
    ) -> None:
        """Factor the reductions, and move all stages."""
        order: list[BlockRV] = []
        for block, reduces in stages:
            if reduces:
                order += self._lanes(sch, block)
            order.append(block)
        row = sch.get_loops(end)[depth - 1]
        for block in reversed(order):
            sch.compute_at(block, row, preserve_unit_loops=True)

    def _lanes(self, sch: Schedule, block: BlockRV) -> list[BlockRV]:
        """Factor a reduction into lanes; the block of what each makes. None where no number of
        lanes that divides the reduction fills a vector."""
        fused, _ = fuse_reduction(sch, block)
        extent, most = int(sch.get(fused).extent.value), self.max_innermost_factor
        if all(extent % n for n in range(_LEAST, most + 1)):
            return []
        _, lanes = sch.split(fused, list(sch.sample_perfect_tile(fused, 2, most)))
        return [sch.rfactor(lanes, len(sch.get(block).writes[0].buffer.shape))]


def _is_end(sch: Schedule, link: Link) -> bool:
    """Is it an output with a loop nest of its own, computed element by element?"""
    b = link.block()
    return (
        is_spatial(b)
        and is_output(link, sch)
        and kind_of(link, sch) == "complete"
        and has_own_nest(link)
    )
