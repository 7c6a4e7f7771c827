"""Which operands of a product lie across its vectors, and are turned? TransposedOperand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.index_map import IndexMap
from ...ir.nodes import Block, BufferRegion, Expr, IterVar, Var
from ...ir.walk import uses_var
from ...lower.layout_preproc import free_positions
from ..analysis import needs_multi_level_tiling
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule

_SQUARE = 16  # elements of a cache line, for those of four bytes: both sides move whole lines
_OFTEN = 16  # uses of an element from which on the copy costs little


class TransposedOperand(ScheduleRule):
    """Of a block with data reuse, operands that lie along the reduction are copied, so that they
    lie along the last dimension of the result.

    Products with a transposed matrix (layers whose weights are (outputs, inputs), the scores of
    attention) have no vectors otherwise: neighbours in the result take elements that are a row
    apart. The copy is made once, by squares. Where each element is used seldom, the unchanged
    schedule is offered too. Arguments whose layout is free are left to RewriteLayout, which packs
    them beforehand.
    """

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule with the copies, or as it is."""
        link = sch.block(block)
        if link.up is None or not needs_multi_level_tiling(sch, link):
            return [sch]
        func = sch.mod[sch.func_of(link.block().key)]
        table = dict(func.buffer_map)
        free = {table[func.params[k]] for k in free_positions(func)}
        found = [x for x in _across(link.block()) if link.block().reads[x[0]].buffer not in free]
        if not found:
            return [sch]
        made = sch.copy()
        try:
            for read, dimension, _ in found:
                _turn(made, block, read, dimension)
        except ScheduleError:  # a region that cannot be copied: nothing to offer
            return [sch]
        often = all(uses >= _OFTEN for _, _, uses in found)
        return [made] if often else [sch, made]


def _across(b: Block) -> list[tuple[int, int, int]]:
    """Operands that lie across the vectors: which read, the dimension that the vectors go along,
    and how often each element is used."""
    kinds: dict[object, IterVar] = {iv.var: iv for iv in b.iter_vars}
    if not b.writes[0].region:
        return []
    lane = kinds.get(_variable(b.writes[0].region[-1].min))
    if lane is None or lane.kind != "spatial" or (const_int(lane.dom.extent) or 1) < 2:
        return []
    out: list[tuple[int, int, int]] = []
    for k, read in enumerate(b.reads):
        at = _lies_across(read, lane, kinds)
        if at is not None and read.buffer is not b.writes[0].buffer:
            uses = 1
            for iv in b.iter_vars:
                if iv.kind == "spatial" and not any(uses_var(r.min, iv.var) for r in read.region):
                    uses *= const_int(iv.dom.extent) or 1
            if uses > 1:
                out.append((k, at, uses))
    return out


def _lies_across(read: BufferRegion, lane: IterVar, kinds: dict[object, IterVar]) -> int | None:
    """The dimension whose index is the iterator of the vectors, where the last one is that of a
    reduction; None of other operands."""
    if any(const_int(r.extent) != 1 for r in read.region):
        return None
    at = [k for k, r in enumerate(read.region) if uses_var(r.min, lane.var)]
    if len(at) != 1 or read.region[at[0]].min is not lane.var:
        return None
    last = kinds.get(_variable(read.region[-1].min))
    return at[0] if last is not None and last.kind == "reduce" else None


def _variable(e: Expr) -> Var | None:
    return e if type(e) is Var else None


def _turn(sch: Schedule, block: BlockRV, read: int, dimension: int) -> None:
    """Copy an operand so that `dimension` is the last one."""

    def turned(*x: Expr) -> Sequence[Expr]:
        return [*x[:dimension], *x[dimension + 1 :], x[dimension]]

    dimensions = len(sch.get(block).reads[read].region)
    copy = sch.cache_read(block, read, "global", [block])
    sch.transform_layout(block, ("read", read), IndexMap.from_func(turned, dimensions))
    *outer, last = sch.get_loops(copy)
    lane = outer.pop(dimension)
    lanes, some_lanes = sch.split(lane, [None, _SQUARE])
    steps, some_steps = sch.split(last, [None, _SQUARE])
    sch.reorder(*outer, lanes, steps, some_steps, some_lanes)
