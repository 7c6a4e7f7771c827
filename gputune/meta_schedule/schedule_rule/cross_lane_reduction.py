"""Can a reduction that runs along memory be done in the lanes of vectors? CrossLaneReduction."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.dtypes import is_float, itemsize
from ...ir.nodes import Block, For
from ...schedule.analysis import is_trivial_binding, kind_of
from ..analysis import is_root, is_single_chain, loop_kinds, loop_links
from ..kinds import target_of
from ..strides import Access, Strides, strides_of
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext

_FEW = 4  # uses of an element, at most
_VECTORS = 8  # of more, all together would not stay in registers


class CrossLaneReduction(ScheduleRule):
    """A reduction whose elements lie side by side in memory is also offered in vectors.

    Matrix times vector (or a few of them), dot products, norms, sums of rows: some operand is read
    once, or for a few results that are computed together, along the reduction, and no spatial loop
    makes a vector. The reduction is split by a sampled width of one or more vectors, partial
    results of that width are computed for a sampled number of rows at once, and combined right
    after. The unchanged schedule is offered too.

    Args:
        max_vectors: the widths are 1, 2, 4, ... vectors, up to this many; twice as many where there
            is but one row. (More than 8 are never combined at once.)
        max_rows: computed at once, at most.
    """

    def __init__(self, max_vectors: int = 4, max_rows: int = 8) -> None:
        self.max_vectors = max_vectors
        self.max_rows = max_rows
        self.vector_bytes = 0

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "llvm":
            self.vector_bytes = target.vector_bytes

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the one with vectors where they suit the block."""
        plan = self._plan(sch, block)
        if plan is None:
            return [sch]
        made = sch.copy()
        try:
            _apply(made, block, plan, self.max_rows)
        except ScheduleError:  # a combiner that is not known, say
            return [sch]
        return [sch, made]

    def _plan(self, sch: Schedule, rv: BlockRV) -> _Plan | None:
        link = sch.block(rv)
        if is_root(link) or kind_of(link, sch) != "reduction" or not is_trivial_binding(link):
            return None
        block = link.block()
        if not is_single_chain(link):
            return None
        nest = [x.loop() for x in loop_links(link)]
        kinds = loop_kinds(loop_links(link))
        if any(const_int(f.extent) is None or kinds[f.var] == "mixed" for f in nest):
            return None
        strides = strides_of(block)
        if strides is None:
            return None
        spatial = [k for k, f in enumerate(nest) if kinds[f.var] == "spatial"]
        reduce = [k for k, f in enumerate(nest) if kinds[f.var] == "reduce"]
        found = _along(strides, nest, spatial, reduce)
        if found is None:
            return None
        along, few = found
        extent = prod(_extent(nest[k]) for k in along)
        lanes = self._lanes(block)
        several = any(_extent(nest[k]) != 1 for k in spatial)
        most = min(self.max_vectors if several else 2 * self.max_vectors, _VECTORS)
        widths = [lanes << k for k in range(most.bit_length()) if lanes << k <= extent]
        if not widths or lanes < 2:
            return None
        return _Plan(spatial, few, [k for k in reduce if k not in along], along, widths)

    def _lanes(self, block: Block) -> int:
        """Of a vector of the widest partial result (narrow floats are computed as float32)."""
        dtypes = [w.buffer.dtype for w in block.writes]
        return self.vector_bytes // max(max(itemsize(x), 4 * is_float(x)) for x in dtypes)


@dataclass(frozen=True)
class _Plan:
    """Positions of loops: the spatial ones, those among them that use each element again, those of
    the reduction that stay outside, and those that together run along memory, outermost first; and
    the widths to choose from."""

    spatial: list[int]
    few: list[int]
    outer: list[int]
    along: list[int]
    widths: list[int]


def _extent(f: For) -> int:
    extent = const_int(f.extent)
    assert extent is not None  # the caller looked
    return extent


def _along(
    strides: Strides, nest: list[For], spatial: list[int], reduce: list[int]
) -> tuple[list[int], list[int]] | None:
    """The reduction loops that run along memory, as one, and the spatial ones that use each element
    of an operand again; None where there are no such, where a spatial loop makes a vector, or where
    all operands are used again and again (tiles suit those)."""
    wide = [k for k in spatial if _extent(nest[k]) != 1]
    if any(strides.is_unit(nest[k].var) for k in wide):
        return None
    loads = [a for a in strides.accesses if not a.is_store]
    for last in reversed(reduce):
        steps = [strides.step(a, nest[last].var) for a in loads]
        if any(s not in (0, 1) for s in steps):
            continue
        moving = [a for a, s in zip(loads, steps, strict=True) if s == 1]
        again = [_again(strides, a, nest, wide, reduce) for a in moving]
        few = min([x for x in again if x is not None], key=len, default=None)
        if few is None:
            continue
        along, run = [last], _extent(nest[last])
        for k in reversed(reduce[: reduce.index(last)]):
            if not strides.continues(nest[k].var, nest[last].var, run):
                break
            along.insert(0, k)
            run *= _extent(nest[k])
        return along, few if len(few) < len(wide) else []
    return None


def _again(
    strides: Strides, a: Access, nest: list[For], wide: list[int], reduce: list[int]
) -> list[int] | None:
    """The spatial loops in all iterations of which an access reads the same; None where these are
    more than a few iterations, or a loop of the reduction reads the same again."""
    if any(strides.step(a, nest[k].var) == 0 for k in reduce if _extent(nest[k]) != 1):
        return None
    out = [k for k in wide if strides.step(a, nest[k].var) == 0]
    return out if prod(_extent(nest[k]) for k in out) <= _FEW else None


def _apply(sch: Schedule, block: BlockRV, plan: _Plan, max_rows: int) -> None:
    loops = sch.get_loops(block)
    spatial, outer, along = (
        [loops[k] for k in at] for at in (plan.spatial, plan.outer, plan.along)
    )
    if [*spatial, *outer, *along] != loops:
        sch.reorder(*spatial, *outer, *along)
    fused = sch.fuse(*along) if len(along) > 1 else along[0]
    width: ExprRV | int = plan.widths[0]
    if len(plan.widths) > 1:
        width = sch.sample_categorical(plan.widths, [1 / len(plan.widths)] * len(plan.widths))
    _, lanes = sch.split(fused, [None, width])
    partial = sch.rfactor(lanes, len(sch.get(block).writes[0].buffer.shape))
    if spatial:
        loops = sch.get_loops(partial)
        steps, vector = loops[len(spatial) : -1], loops[-1]
        few = [loops[plan.spatial.index(k)] for k in plan.few]
        *_, row = [x for x in loops[: len(spatial)] if x not in few]
        some, rows = sch.split(row, list(sch.sample_perfect_tile(row, 2, max_rows)))
        sch.reorder(some, *steps, rows, *few, vector)
        sch.reverse_compute_at(block, some, preserve_unit_loops=True)
    sch.vectorize(sch.get_loops(block)[-1])  # lowered as a tree, see `lower.across`
