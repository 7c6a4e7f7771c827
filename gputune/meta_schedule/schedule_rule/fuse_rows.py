"""Can all stages of a row be computed together, while the row is in the cache? FuseRows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.nodes import Block
from ...schedule.analysis import is_output, is_trivial_binding, kind_of, producers
from ...schedule.tree import Link
from ..analysis import (
    is_root,
    is_single_chain,
    is_spatial,
    loop_kinds,
    loop_links,
    needs_multi_level_tiling,
)
from .add_rfactor import fuse_reduction
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
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
        stages = _stages(sch, link)
        if all(is_spatial(b) for b in stages):
            return [sch]
        func = sch.func_of(link.block().key)
        fused = sch.copy()
        moved = [(fused.get_block(b.name, func), not is_spatial(b)) for b in stages]
        depth = _depth(fused, block, moved)
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
        is_spatial(b) and is_output(link, sch) and kind_of(link, sch) == "complete" and _own(link)
    )


def _own(link: Link) -> bool:
    """Does the block have its own loops, one an iterator, of constant extents?"""
    loops = loop_links(link)
    return (
        bool(loops)
        and is_single_chain(link)
        and is_trivial_binding(link)
        and all(const_int(x.loop().extent) is not None for x in loops)
    )


def _stages(sch: Schedule, end: Link) -> list[Block]:
    """What makes an output, producers before consumers; none if a part of it has no loops of its
    own, or is not understood."""
    out: dict[object, Block] = {}
    known = True

    def visit(link: Link) -> None:
        nonlocal known
        for maker in producers(link, sch):
            b = maker.block()
            if b.key in out or needs_multi_level_tiling(sch, maker):
                continue
            known = known and bool(kind_of(maker, sch)) and _own(maker)
            visit(maker)
            out[b.key] = b

    visit(end)
    return list(out.values()) if known else []


def _depth(sch: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]]) -> int | None:
    """How many loops of the output go over rows; None if there are no such rows."""
    extents = _extents(sch, sch.get_loops(end))
    for depth in range(len(extents) - 1, 0, -1):
        if prod(extents[depth:]) > 1 and _suits(sch.copy(), end, stages, depth):
            return depth
    return None


def _suits(
    trial: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]], depth: int
) -> bool:
    """Does every stage do for one row what only this row needs, and each reduction make one
    element?"""
    loops = trial.get_loops(end)[:depth]
    rows = prod(_extents(trial, loops))
    for block, reduces in reversed(stages):
        whole = prod(_extents(trial, trial.get_loops(block)))
        try:
            trial.compute_at(block, loops[-1], preserve_unit_loops=True)
        except ScheduleError:  # others need it too, or it is an output itself
            return False
        inner = trial.get_loops(block)[depth:]
        if rows * prod(_extents(trial, inner)) != whole:
            return False
        if reduces:
            kinds = loop_kinds(loop_links(trial.block(block)), [trial.block(block)])
            places = [x for x in inner if kinds[trial.get(x).var] != "reduce"]
            if prod(_extents(trial, places)) != 1:
                return False
    return True


def _extents(sch: Schedule, loops: Sequence[LoopRV]) -> list[int]:
    return [int(sch.get(x).extent.value) for x in loops]
