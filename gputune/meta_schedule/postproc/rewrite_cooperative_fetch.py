"""How do the threads of a GPU block fetch a tile together? RewriteCooperativeFetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.dtypes import bits
from ...ir.nodes import Block, For, Seq
from ...ir.walk import walk_stmt
from ...schedule.analysis import region_under
from ...schedule.dim import maximum, minimum
from ...schedule.tree import Link
from ..analysis import COOPERATIVE_FETCH, WARP_EXECUTION, annotation
from ..kinds import target_of
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..tune_context import TuneContext

_WARP = 32


class RewriteCooperativeFetch(Postproc):
    """Does what multi-level tiling noted on the blocks that fill shared memory.

    The fused loop of such a copy is split over rounds, the threads of the block (threadIdx.y and
    .x, as far as the kernel has them), and the elements that a thread moves at once, which become a
    vector. Where that number does not divide the loop, the rows that are copied, or the rows of
    the tensor that they are copied from, or where elements have 64 bits, a thread moves one element
    at a time. What a thread copies out of its registers by itself it moves in the widest vectors
    that divide these.
    """

    def __init__(self) -> None:
        self.warp = _WARP

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.warp = target.limits.warp

    def apply(self, sch: Schedule) -> bool:
        """Rewrite every block with such a note."""
        for func, name, wanted in list(_noted(sch)):
            block = sch.get_block(name, func)
            sch.unannotate(block, COOPERATIVE_FETCH)
            link = sch.block(block)
            alone = any(r.buffer.scope == "local" for r in link.block().reads)
            threads = {} if alone else self._threads(link)
            if not threads and not alone:
                self.last_error = ScheduleError(
                    f"block {name} is to be fetched by threads together, but no loop around it is "
                    "bound to threadIdx.x or threadIdx.y",
                    hint="bind a loop of the tiles, or leave the note out",
                    code="fetch-threads",
                )
                return False
            loop = sch.get_loops(block)[-1]
            if alone and sch.get(loop).kind != "serial":
                continue
            extent = const_int(sch.get(loop).extent)
            assert extent is not None  # tiles of constant extents have constant copies
            rows = _rows(sch.block(block), sch.loop(loop))
            lengths = (extent, *rows)
            width = _widest(lengths, wanted) if alone else _width(link.block(), lengths, wanted)
            axes = [a for a in ("threadIdx.y", "threadIdx.x") if a in threads]
            _, *bound, vector = sch.split(loop, [None, *(threads[a] for a in axes), width])
            sch.vectorize(vector)
            for part, axis in zip(bound, axes, strict=True):
                sch.bind(part, axis)
        return True

    def _threads(self, link: Link) -> dict[str, int]:
        """How many threads there are along each axis: as the loops around the block say; else, for
        one that copies what other threads have made, the loops of the kernel beside it."""
        out: dict[str, int] = {}
        nest = [x.node for x in (link, *link.above()) if x.up is not None]
        kernel = list(walk_stmt([s for s in nest if type(s) is not Seq][-1]))
        for s in (*(x.node for x in link.above()), *kernel):
            if type(s) is For and s.thread in ("threadIdx.x", "threadIdx.y"):
                n = const_int(s.extent)
                if n is not None and s.thread not in out:
                    out[s.thread] = n
        if any(type(s) is Block and annotation(s, WARP_EXECUTION) for s in kernel):
            out["threadIdx.x"] = self.warp
        return out


def _noted(sch: Schedule) -> Iterator[tuple[str, str, int]]:
    """Function, name and note of the blocks to rewrite."""
    for name in sch.mod.functions:
        for link in sch.tree(name).links.values():
            if type(link.node) is Block:
                wanted = annotation(link.node, COOPERATIVE_FETCH)
                if isinstance(wanted, int):
                    yield name, link.node.name, wanted


def _rows(link: Link, loop: Link) -> list[int]:
    """How long the rows are that a copy moves, and those of the tensors that they are parts of, as
    far as that is known."""
    out: list[int] = []
    assert loop.up is not None  # the root block is above
    for part in (*link.block().reads, *link.block().writes):
        if part.buffer.scope != "global" or not part.region:
            continue
        box = region_under(link, loop.up, part)
        for e in (*(() if box is None else (box[-1].extent,)), part.buffer.shape[-1]):
            n = const_int(e)
            if n is not None:
                out.append(n)
    return out


def _width(block: Block, lengths: Sequence[int], wanted: int) -> int:
    """How many elements a thread moves at once: as many as wanted, or one. (Counted out, not
    compared: the structure of the program is the same for all.)"""
    if any(bits(r.buffer.dtype) >= 64 for r in (*block.reads, *block.writes)):
        return 1
    rest = 0
    for n in lengths:
        rest = maximum(rest, n % wanted)
    return wanted - (wanted - 1) * minimum(rest, 1)


def _widest(lengths: Sequence[int], wanted: int) -> int:
    """As many elements as wanted, or the half of them, and so on: what divides all lengths."""
    width = part = 1
    while 2 * part <= wanted:
        rest = 0
        for n in lengths:
            rest = maximum(rest, n % (2 * part))
        width = width + part * (1 - minimum(rest, 1))
        part *= 2
    return width
