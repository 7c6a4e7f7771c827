"""Which blocks compute a row together, such as those of a softmax or of a layer norm?

A chain is an end, whose nest goes over rows first, and its stages: all blocks that make what it
reads, back to inputs, to what suits tiles, and to what is in a kernel already. For one row each of
them does just what that row needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from ..errors import ScheduleError
from ..ir.build import const_int
from ..ir.nodes import Block
from ..schedule.analysis import is_trivial_binding, kind_of, producers
from ..schedule.tree import Link
from .analysis import is_single_chain, loop_kinds, loop_links, needs_multi_level_tiling
from .binding import is_bound

if TYPE_CHECKING:
    from ..schedule import BlockRV, LoopRV, Schedule


def has_own_nest(link: Link) -> bool:
    """Does the block have its own loops, one an iterator, of constant extents?"""
    loops = loop_links(link)
    return (
        bool(loops)
        and is_single_chain(link)
        and is_trivial_binding(link)
        and all(const_int(x.loop().extent) is not None for x in loops)
    )


def stages_of(sch: Schedule, end: Link) -> list[Block] | None:
    """What makes what the end reads, producers before consumers; None if a part of it has no loops
    of its own, or is not understood."""
    out: dict[object, Block] = {}
    known = True

    def visit(link: Link) -> None:
        nonlocal known
        for maker in producers(link, sch):
            b = maker.block()
            if b.key in out or needs_multi_level_tiling(sch, maker) or is_bound(maker):
                continue
            known = known and bool(kind_of(maker, sch)) and has_own_nest(maker)
            visit(maker)
            out[b.key] = b

    visit(end)
    return list(out.values()) if known else None


def row_depth(
    sch: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]], most: int
) -> int | None:
    """How many loops of the end go over rows; None if there are no such rows.

    Args:
        stages: with whether it is a reduction, producers before consumers.
        most: no more loops than these.
    """
    extents = extents_of(sch, sch.get_loops(end))
    for depth in range(most, 0, -1):
        several = depth == len(extents) or prod(extents[depth:]) > 1
        if several and _suits(sch.copy(), end, stages, depth):
            return depth
    return None


def _suits(
    trial: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]], depth: int
) -> bool:
    """Does every stage do for one row what only this row needs, and each reduction make one
    element?"""
    loops = trial.get_loops(end)[:depth]
    rows = prod(extents_of(trial, loops))
    for block, reduces in reversed(stages):
        whole = prod(extents_of(trial, trial.get_loops(block)))
        try:
            trial.compute_at(block, loops[-1], preserve_unit_loops=True)
        except ScheduleError:  # others need it too, or it is an output itself
            return False
        inner = trial.get_loops(block)[depth:]
        if rows * prod(extents_of(trial, inner)) != whole:
            return False
        if reduces:
            kinds = loop_kinds(loop_links(trial.block(block)), [trial.block(block)])
            places = [x for x in inner if kinds[trial.get(x).var] != "reduce"]
            if prod(extents_of(trial, places)) != 1:
                return False
    return True


def extents_of(sch: Schedule, loops: Sequence[LoopRV]) -> list[int]:
    """How long loops of constant extents are."""
    return [int(sch.get(x).extent.value) for x in loops]
