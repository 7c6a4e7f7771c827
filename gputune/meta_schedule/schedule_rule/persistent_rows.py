"""Can the threads that share a row read it once, and do all its stages? PersistentRows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...errors import ScheduleError, UserError
from ...ir.build import const_int
from ...ir.dtypes import itemsize
from ...ir.index_map import IndexMap
from ...ir.nodes import Block, Buffer, Call, Expr
from ...ir.walk import all_exprs
from ...schedule.analysis import consumers, is_output, kind_of
from ...schedule.tree import Link
from ..analysis import (
    INLINE_RULE,
    is_root,
    is_spatial,
    loop_kinds,
    loop_links,
    needs_rfactor,
)
from ..binding import is_bound
from ..kinds import target_of
from ..row_chains import extents_of, has_own_nest, row_depth, stages_of
from ..rows_on_threads import (
    Choices,
    Part,
    can_be_shared,
    column_of,
    in_step,
    lengths_of,
    lies_across,
    part_of,
    read_along,
    spread,
    widths_of,
)
from ..strides import strides_of
from .auto_bind import checked_extents
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
    from ...target.gpu import GpuLimits
    from ..tune_context import TuneContext

Keep: TypeAlias = Literal["local", "shared", ""]

_CHEAP = frozenset({"if_then_else", "likely", "abs", "floor", "ceil", "trunc", "round", "isnan"})
"""Calls that may be done again."""
_FEW_THREADS = 32
"""Of a long row."""
_SIDE_BY_SIDE = 8
"""Elements of 4 bytes that memory gives at once."""


class PersistentRows(ScheduleRule):
    """The end of a chain of reductions over rows and of elementwise steps (a softmax, a layer norm,
    a cross entropy, a mean; a single reduction, too) is also offered with the whole chain as one
    kernel, in which the threads that share a row read it once.

    What more than one stage needs of a row is kept in registers, each thread having the elements
    that it works on, or in shared memory: two schedules, each as far as a row fits. Rows that fit
    neither, and rows that are read once anyway, are fetched a vector at a time. The results of
    reductions are in registers of all threads of the row. Elementwise steps are inlined, but for
    those that are dear and needed twice, which are kept too.

    Threads of a row, rows of a block of threads and the width of accesses are drawn. Where
    neighbours in memory belong to neighbouring rows (a softmax over the first axis), neighbouring
    threads take a row each. The unchanged schedule is offered too.

    Args:
        thread_extents: numbers of threads that share a row, ascending; of a long row at least 32.
        row_extents: numbers of rows of a block of threads.
        vector_lens: elements that are accessed at once, as far as these are 16 bytes or fewer and
            the row consists of such vectors.
        most_kept: elements of a row that a thread keeps in registers, at most: its steps are
            written out.
        shared_from: elements of a row from which it is offered to keep it in shared memory.

    Raises:
        UserError: no candidates, or one that is not positive.
    """

    def __init__(
        self,
        thread_extents: Sequence[int] = (4, 8, 16, 32, 64, 128, 256, 512, 1024),
        row_extents: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128),
        vector_lens: Sequence[int] = (1, 2, 4, 8, 16),
        most_kept: int = 64,
        shared_from: int = 1024,
    ) -> None:
        self.thread_extents = checked_extents(thread_extents)
        self.row_extents = checked_extents(row_extents)
        self.vector_lens = checked_extents(vector_lens)
        if not (self.thread_extents and self.row_extents and self.vector_lens):
            raise UserError(
                "PersistentRows: there are no threads, rows or widths to choose from",
                hint="for example thread_extents=[32, 64, 128], row_extents=[1, 2, 4], "
                "vector_lens=[1, 2, 4]",
                code="thread-extents",
            )
        self.most_kept = most_kept
        self.shared_from = shared_from
        self.limits: GpuLimits | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        self.limits = target.limits if target is not None and target.kind == "cuda" else None

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and those with the rows of a chain that ends here shared by threads."""
        link = sch.block(block)
        if self.limits is None or is_root(link) or not is_root(link.scope()):
            return [sch]
        if not _is_end(sch, link, self.limits.threads_per_block):
            return [sch]
        stages = stages_of(sch, link)
        if stages is None or all(is_spatial(b) for b in (*stages, link.block())):
            return [sch]
        kept = [self._made(sch, block, where, self.limits) for where in ("local", "shared")]
        found = [x for x in kept if x is not None]
        if not found:
            again = self._made(sch, block, "", self.limits)
            found = [] if again is None else [again]
        return [sch, *found]

    def _made(self, sch: Schedule, end: BlockRV, keep: Keep, limits: GpuLimits) -> Schedule | None:
        """The schedule that keeps rows in one place (""; nowhere), if there is one."""
        made = sch.copy()
        try:
            return made if self._arrange(made, end, keep, limits) else None
        except ScheduleError:  # loops that cannot be moved, fused or bound like that
            return None

    def _arrange(self, sch: Schedule, end: BlockRV, keep: Keep, limits: GpuLimits) -> bool:
        """Make one kernel of the chain; False if that does not suit it."""
        depth = _gathered(sch, end, keep != "")
        if depth is None:
            return False
        func = sch.func_of(sch.get(end).key)
        stages = stages_of(sch, sch.block(end)) or []
        moved = [sch.get_block(b.name, func) for b in stages]
        row = sch.get_loops(end)[depth - 1]
        for rv in reversed(moved):
            for k in range(len(sch.get(rv).writes)):
                sch.set_scope(rv, k, "local")
            sch.compute_at(rv, row)
        parts = _parts(sch, [*moved, end], depth)
        if parts is None or not in_step(sch, parts):
            return False
        (lengths,) = {tuple(lengths_of(sch, p, depth)) for p in parts if p.elements}
        across = lies_across(sch, parts, sch.get(row).var)
        widths = (1,) if across else widths_of(sch, parts, self.vector_lens, lengths[-1])
        inputs = read_along(sch, parts)
        own = [p for p in parts if p.elements and not p.reduces and p.block is not end]
        again = {b: readers for b, readers in inputs.items() if len(readers) > 1}
        size = sum(itemsize(b.dtype) for b in again) + sum(
            itemsize(w.buffer.dtype) for p in own for w in sch.get(p.block).writes
        )
        if keep == "" and own:
            return False
        if keep and not self._fits(keep, prod(lengths), size, limits):
            return False
        for p in parts:
            sch.annotate(p.block, INLINE_RULE, "disable")
        copies = _kept(sch, again, own, keep, row, depth) if keep else []
        fetched: dict[BlockRV, list[Buffer]] = {}
        for buffer, readers in inputs.items():
            for p in () if keep and buffer in again else readers:
                if not p.moves:  # what stores fetches by itself
                    fetched.setdefault(p.block, []).append(buffer)
        spread(
            sch,
            [*copies, *parts],
            depth,
            fetched,
            self._choices(prod(lengths), sch, end, depth, keep, across, widths),
            across=across,
            unrolled=keep == "local",
        )
        return True

    def _fits(self, keep: Keep, length: int, size: int, limits: GpuLimits) -> bool:
        """Is there something to keep, and room for it? `size`: bytes of each element of a row."""
        if keep == "local":
            return size > 0 and length <= _room(limits)
        return size > 0 and self.shared_from <= length <= limits.shared_per_block // size

    def _choices(
        self,
        length: int,
        sch: Schedule,
        end: BlockRV,
        depth: int,
        keep: Keep,
        across: bool,
        widths: tuple[int, ...],
    ) -> Choices:
        """What is drawn for rows of a length."""
        assert self.limits is not None
        least = _FEW_THREADS if length >= 32 * _FEW_THREADS and not across else 1
        if keep == "local":
            least = max(least, -(-length // self.most_kept))
        threads = [
            n
            for n in self.thread_extents
            if least <= n <= self.limits.threads_per_block and n < 2 * length
        ] or [self.thread_extents[0]]
        count = prod(extents_of(sch, sch.get_loops(end)[:depth]))
        most = self.limits.threads_per_block // threads[0]
        if keep == "local":
            most = min(most, _room(self.limits) // length)
        rows = [n for n in self.row_extents if n <= most and n < 2 * count]
        if across:  # neighbours in memory: what is read at once is used
            rows = [n for n in rows if n >= _SIDE_BY_SIDE] or rows[-1:]
        return Choices(tuple(threads), tuple(rows) or (1,), widths)


def _room(limits: GpuLimits) -> int:
    """Elements that the registers of a block of threads have room for, beside all else."""
    return limits.registers_per_block * 5 // 8


# ----------------------------------------------------------------------------- chains
def _is_end(sch: Schedule, link: Link, threads: int) -> bool:
    """May a chain end here? At a result of the function, or at what no other stage of the same rows
    needs."""
    b = link.block()
    if not has_own_nest(link) or is_bound(link):
        return False
    if kind_of(link, sch) == "reduction":
        return is_output(link, sch) and needs_rfactor(sch, link, threads) and can_be_shared(link)
    if not is_spatial(b) or kind_of(link, sch) != "complete":
        return False
    return is_output(link, sch) or all(
        is_bound(c) or _gives_up(c, link) for c in consumers(link, sch)
    )


def _gives_up(user: Link, maker: Link) -> bool:
    """Does a block reduce over the first dimension of what another writes?"""
    written = {w.buffer for w in maker.block().writes}
    reduce = {iv.var for iv in user.block().iter_vars if iv.kind == "reduce"}
    return all(
        r.region and r.region[0].min in reduce for r in user.block().reads if r.buffer in written
    )


def _gathered(sch: Schedule, end: BlockRV, keep: bool) -> int | None:
    """Inline what is not to be a stage; how many loops of the end then go over rows. None if there
    are no such rows."""
    stages = stages_of(sch, sch.block(end))
    if stages is None:
        return None
    func = sch.func_of(sch.get(end).key)
    late = _after_reductions(stages)
    for b in stages:
        if not is_spatial(b) or b.key in late:
            continue
        rv = sch.get_block(b.name, func)
        if keep and _is_dear(b) and len(consumers(sch.block(rv), sch)) > 1:
            continue
        try:
            sch.compute_inline(rv)
        except ScheduleError:  # it stays a stage
            continue
    stages = stages_of(sch, sch.block(end))
    if stages is None:
        return None
    handles = [(sch.get_block(b.name, func), not is_spatial(b)) for b in stages]
    if not all(can_be_shared(sch.block(rv)) for rv, reduces in handles if reduces):
        return None
    if is_spatial(sch.get(end)):
        depth = row_depth(sch, end, handles, len(sch.get_loops(end)))
        last = sch.get(sch.get_loops(end)[-1])
        return None if const_int(last.extent) == 1 and depth != len(sch.get_loops(end)) else depth
    return _rows_of_reduction(sch, end, handles)


def _rows_of_reduction(
    sch: Schedule, end: BlockRV, stages: Sequence[tuple[BlockRV, bool]]
) -> int | None:
    """Bring the spatial loops of a reduction outside, one whose iterations are neighbours in memory
    innermost of them; how many these are."""
    link = sch.block(end)
    kinds = list(loop_kinds(loop_links(link)).values())
    places = [k for k, kind in enumerate(kinds) if kind == "spatial"]
    reducing = [k for k, kind in enumerate(kinds) if kind == "reduce"]
    strides = strides_of(link.block())
    if strides is not None:
        column = column_of(strides, [x.loop() for x in loop_links(link)], places, reducing[-1])
        places = [k for k in places if k != column] + ([] if column is None else [column])
    loops = sch.get_loops(end)
    over, along = [loops[k] for k in places], [loops[k] for k in reducing]
    if over + along != loops:
        sch.reorder(*over, *along)
    if not over:
        over = [sch.add_unit_loop(along[0])]
    depth = row_depth(sch, end, stages, len(over))
    if const_int(sch.get(along[-1]).extent) == 1:
        return None
    return depth if depth == len(over) else None


def _after_reductions(stages: Sequence[Block]) -> set[object]:
    """The elementwise stages that take a reduction's result on, element by element of it."""
    results: dict[Buffer, int] = {}
    out: set[object] = set()
    for b in stages:
        places = _places(b)
        from_reduction = [results[r.buffer] for r in b.reads if r.buffer in results]
        if not is_spatial(b) or (from_reduction and places <= max(from_reduction)):
            results.update({w.buffer: places for w in b.writes})
            if is_spatial(b):
                out.add(b.key)
    return out


def _places(b: Block) -> int:
    """How many results a block has."""
    found = [const_int(iv.dom.extent) for iv in b.iter_vars if iv.kind == "spatial"]
    return prod(n for n in found if n is not None)


def _is_dear(b: Block) -> bool:
    return any(type(e) is Call and e.op not in _CHEAP for e in all_exprs(b.body))


# ----------------------------------------------------------------------------- parts
def _parts(sch: Schedule, blocks: Sequence[BlockRV], depth: int) -> list[Part] | None:
    """The blocks of a chain; None unless all that goes along rows does so in loops of the same
    lengths."""
    parts = [p for rv in blocks if (p := part_of(sch, rv, depth)) is not None]
    lengths = {tuple(lengths_of(sch, p, depth)) for p in parts if p.elements}
    if len(parts) < len(blocks) or len(lengths) != 1:
        return None
    if any(p.reduces and not p.elements for p in parts):
        return None  # of one element
    *stages, end = parts
    return [*stages, replace(end, moves=not end.reduces)]


def _kept(
    sch: Schedule,
    inputs: Mapping[Buffer, Sequence[Part]],
    own: Sequence[Part],
    keep: Keep,
    row: LoopRV,
    depth: int,
) -> list[Part]:
    """Let rows that are used again live in registers or shared memory; the parts that copy them
    there."""
    out: list[Part] = []
    for buffer, readers in inputs.items():
        block = sch.get(readers[0].block)
        k = next(k for k, r in enumerate(block.reads) if r.buffer is buffer)
        copy = sch.cache_read(readers[0].block, k, keep, [p.block for p in readers])
        sch.compute_at(copy, row)
        p = part_of(sch, copy, depth, moves=True)
        assert p is not None  # a copy has a loop for each dimension
        out.append(p)
    for p in own:
        for k in range(len(sch.get(p.block).writes)):
            sch.set_scope(p.block, k, keep)
    for p in (*out, *own):
        if len(p.elements) > 1:
            _flatten(sch, p)
    return out


def _flatten(sch: Schedule, p: Part) -> None:
    """Let the elements of a row of several dimensions follow each other in what a part writes:
    shared by threads as one loop, they are then a few for each thread."""
    for k, w in enumerate(sch.get(p.block).writes):
        along = [d for d, r in enumerate(w.region) if r.min in p.elements]
        sizes = [const_int(n) or 1 for n in w.buffer.shape]

        def flat(*indices: Expr, along: list[int] = along, sizes: list[int] = sizes) -> list[Expr]:
            total: Expr = indices[along[0]]
            for d in along[1:]:
                total = total * sizes[d] + indices[d]
            return [*(x for d, x in enumerate(indices) if d not in along), total]

        sch.transform_layout(p.block, ("write", k), IndexMap.from_func(flat, len(w.region)))
