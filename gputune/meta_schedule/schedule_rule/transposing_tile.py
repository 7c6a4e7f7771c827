"""How do the threads of a GPU turn data? Through tiles in shared memory: TransposingTile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError, UserError
from ...ir.build import const_int
from ...ir.dtypes import itemsize
from ...ir.nodes import Block, For
from ..analysis import BUFFER_DIM_ALIGN, COOPERATIVE_FETCH, loop_links
from ..kinds import target_of
from ..strides import strides_of
from .rule import ScheduleRule
from .transposing_copy import turned_loops

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext

_SHORT = 16  # steps of a loop that are no more than a few sectors: caches do as well
_BANK_BYTES = 4


class TransposingTile(ScheduleRule):
    """A block that stores along one loop and loads along another is cut into square tiles, one for
    each block of threads: what lies along the loads is fetched into shared memory in the order in
    which it lies there, and stored in that of the result. So both sides go along memory.

    The rows of a tile begin one word apart from a multiple of all banks, so that neither side meets
    in a bank. What sticks out of the data is left out by conditions.

    Args:
        sides: of a tile, in elements; one is sampled.
        thread_extents: threads of a block, of which one is sampled.

    Raises:
        UserError: no side, or no number of threads.
    """

    def __init__(
        self, sides: Sequence[int] = (16, 32, 64), thread_extents: Sequence[int] = (64, 128, 256)
    ) -> None:
        for name, given in (("sides", sides), ("thread_extents", thread_extents)):
            if not given or any(type(n) is not int or n < 1 for n in given):
                raise UserError(f"{name} are positive integers, at least one, got {list(given)}")
        self.sides = tuple(sides)
        self.thread_extents = tuple(thread_extents)
        self.is_gpu = True

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        self.is_gpu = target is None or target.kind == "cuda"

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The tiled schedule where that suits the block, or the schedule as it is."""
        found = turned_loops(sch, sch.block(block)) if self.is_gpu else None
        if found is None or any((const_int(f.extent) or 1) < _SHORT for f in found):
            return [sch]
        reads = _turned_reads(sch.get(block), *found)
        new = sch.copy()
        try:
            self._tile(new, block, *found, reads)
        except ScheduleError:  # a region that cannot be copied: nothing to offer
            return [sch]
        return [new]

    def _tile(
        self, sch: Schedule, block: BlockRV, stored: For, loaded: For, reads: Sequence[int]
    ) -> None:
        nest = [x.loop() for x in loop_links(sch.block(block))]
        loops = sch.get_loops(block)
        along = {f.var: loop for f, loop in zip(nest, loops, strict=True)}
        rest = [along[f.var] for f in nest if f is not stored and f is not loaded]
        side = _one_of(sch, self.sides)
        columns, column = sch.split(along[stored.var], [None, side])
        rows, row = sch.split(along[loaded.var], [None, side])
        sch.reorder(*rest, rows, columns, row, column)
        grid = sch.fuse(*rest, rows, columns)
        sch.bind(grid, "blockIdx.x")
        tile = sch.fuse(row, column)
        _, thread = sch.split(tile, [None, _one_of(sch, self.thread_extents)])
        sch.bind(thread, "threadIdx.x")
        for k in reads:
            buffer = sch.get(block).reads[k].buffer
            ndim = len(buffer.shape)
            copy = sch.cache_read(block, k, "shared", [block])
            sch.compute_at(copy, grid, preserve_unit_loops=True)
            sch.fuse(*sch.get_loops(copy)[-ndim:])
            sch.annotate(copy, COOPERATIVE_FETCH, 1)
            odd = max(1, _BANK_BYTES // itemsize(buffer.dtype))  # elements of a word
            sch.annotate(copy, BUFFER_DIM_ALIGN, [[0, ndim - 2, 2 * odd, odd]])


def _one_of(sch: Schedule, given: Sequence[int]) -> ExprRV:
    return sch.sample_categorical(list(given), [1 / len(given)] * len(given))


def _turned_reads(block: Block, stored: For, loaded: For) -> list[int]:
    """Which reads go along the one loop, and leap along the other."""
    out: list[int] = []
    for k, read in enumerate(block.reads):
        others = [r.buffer for r in (*block.reads, *block.writes) if r.buffer is not read.buffer]
        strides = strides_of(block, others)
        if strides is not None and any(
            not a.is_store
            and strides.step(a, loaded.var) == 1
            and strides.step(a, stored.var) not in (None, 0, 1)
            for a in strides.accesses
        ):
            out.append(k)
    return out
