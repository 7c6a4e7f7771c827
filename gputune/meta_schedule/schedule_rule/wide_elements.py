"""How many elements does a thread of an elementwise kernel take, and how wide are its accesses?
WideElements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from ...errors import ScheduleError, UserError
from ...ir.build import const_int, is_literal
from ...ir.dtypes import itemsize
from ...ir.nodes import Block, For
from ...schedule.analysis import kind_of
from ..analysis import is_root, is_spatial_program, loop_links
from ..kinds import target_of
from ..row_chains import has_own_nest
from ..rows_on_threads import VECTOR_BYTES, drawn, fused
from ..strides import Strides, strides_of
from .auto_bind import checked_extents
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext


class WideElements(ScheduleRule):
    """A step of an elementwise program whose neighbouring iterations touch neighbours in memory is
    also offered with a sampled number of elements a thread, as vectors of a sampled width.

    A thread's vectors lie as many vectors apart as there are threads, so that all threads together
    go through memory in one go. The unchanged schedule is offered too.

    Args:
        thread_extents: numbers of threads of a block, from which one is drawn.
        item_extents: numbers of vectors of a thread.
        vector_lens: elements of a vector, as far as these are 16 bytes or fewer and the innermost
            extent (or, where all of it lies in one piece, the whole) consists of such vectors.

    Raises:
        UserError: no candidates, or one that is not positive.
    """

    def __init__(
        self,
        thread_extents: Sequence[int] = (64, 128, 256, 512, 1024),
        item_extents: Sequence[int] = (1, 2, 4, 8),
        vector_lens: Sequence[int] = (1, 2, 4, 8, 16),
    ) -> None:
        self.thread_extents = checked_extents(thread_extents)
        self.item_extents = checked_extents(item_extents)
        self.vector_lens = checked_extents(vector_lens)
        if not (self.thread_extents and self.item_extents and self.vector_lens):
            raise UserError(
                "WideElements: there are no threads, items or widths to choose from",
                hint="for example thread_extents=[128, 256], item_extents=[1, 2], "
                "vector_lens=[1, 2, 4]",
                code="thread-extents",
            )
        self.max_threads = 0

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.max_threads = target.limits.threads_per_block

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the one with vectors where they suit the block."""
        link = sch.block(block)
        if not self.max_threads or is_root(link) or not is_root(link.scope()):
            return [sch]
        if not is_spatial_program(sch, link) or kind_of(link, sch) != "complete":
            return [sch]
        nest = [x.loop() for x in loop_links(link)]
        if not has_own_nest(link) or not all(map(_is_plain, nest)):
            return [sch]
        strides = strides_of(link.block())
        if strides is None or not strides.is_unit(nest[-1].var):
            return [sch]
        whole = _in_one_piece(strides, nest)
        extents = [const_int(f.extent) or 1 for f in nest]
        widths = self._widths(link.block(), prod(extents) if whole else extents[-1])
        made = sch.copy()
        try:
            self._spread(made, block, whole, widths, prod(extents))
        except ScheduleError:  # loops that cannot be fused or bound
            return [sch]
        return [sch, made]

    def _widths(self, block: Block, length: int) -> list[int]:
        sizes = [itemsize(r.buffer.dtype) for r in (*block.reads, *block.writes)]
        most = VECTOR_BYTES // max(sizes)
        return [n for n in self.vector_lens if n <= most and length % n == 0] or [1]

    def _spread(
        self, sch: Schedule, block: BlockRV, whole: bool, widths: Sequence[int], total: int
    ) -> None:
        loops = sch.get_loops(block)
        if whole:
            loops = [fused(sch, loops)]
        last, vector = sch.split(loops[-1], [None, drawn(sch, widths)])
        threads = [n for n in self.thread_extents if n <= self.max_threads and n < 2 * total]
        items = [n for n in self.item_extents if n * self.thread_extents[0] < 2 * total]
        grid, item, thread = sch.split(
            fused(sch, [*loops[:-1], last]),
            [None, drawn(sch, items or [1]), drawn(sch, threads or [self.max_threads])],
        )
        sch.reorder(grid, thread, item, vector)
        sch.bind(grid, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        sch.unroll(item)
        sch.vectorize(vector)


def _is_plain(f: For) -> bool:
    return f.kind == "serial" and not f.annotations and is_literal(f.min, 0)


def _in_one_piece(strides: Strides, nest: Sequence[For]) -> bool:
    """Does each access that moves go through memory element by element, from the first iteration of
    the whole nest to the last?"""
    run = 1
    for inner, outer in pairwise(reversed(nest)):
        run *= const_int(inner.extent) or 1
        if not strides.continues(outer.var, nest[-1].var, run):
            return False
    return True
