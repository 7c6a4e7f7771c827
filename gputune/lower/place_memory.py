"""Where do shared and local buffers of a GPU program live? In the innermost loop that writes, in
each iteration, all that it reads.

Works on blocks, where regions say what is written and read, however the loops were fused and
split; thread-bound loops count as loops. Buffers in global memory stay where they are: they are
workspaces of the whole program.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.boxes import covers, domain
from ..ir.build import const_int
from ..ir.nodes import Alloc, Block, Buffer, For, IntImm, PrimFunc, Range, Var
from ..ir.walk import uses_var
from ..schedule.analysis import blocks_below, region_under
from ..schedule.tree import Link, block_with, graft, with_body
from .limits import CpuLimits
from .prepare import as_block
from .tiles import of_warp

_FAR = 1 << 40  # elements


def on_chip(b: Buffer) -> bool:
    """Does the buffer live in shared memory, or in registers of threads?"""
    return b.scope != "global"


def place_memory(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with an `Alloc` for each on-chip buffer of the root block, as deep as it may be."""
    for b in [x for x in func.body.alloc_buffers if on_chip(x)]:
        func = _place(func, b)
    return func


def home_of(users: Sequence[Link], b: Buffer) -> tuple[Link | None, Link | None]:
    """Where does a buffer live that these blocks use? The loop in each of whose iterations it is
    anew, and the outermost loop around all of the blocks; None where there is none."""
    common = common_loops(users)
    at: Link | None = None
    for x in common:
        if _written_first(users, x, b):
            at = x
    return at, common[0] if common else None


def _place(func: PrimFunc, b: Buffer) -> PrimFunc:
    root = func.body
    users = [x for x in blocks_below(Link(root, None)) if _uses(x.block(), b)]
    rest = block_with(root, alloc_buffers=tuple([x for x in root.alloc_buffers if x is not b]))
    if not users:
        return as_block(func, rest)
    at, top = home_of(users, b)
    if at is not None:
        loop = at.loop()
        new = graft(at, with_body(loop, Alloc(b, loop.body)))
    else:
        if top is None:
            return func  # used by several kernels: `split_kernels` says so
        new = graft(top, Alloc(b, top.node))
    kept = block_with(new, alloc_buffers=rest.alloc_buffers)
    return as_block(func, kept)


def _uses(block: Block, b: Buffer) -> bool:
    return any(r.buffer is b for r in (*block.reads, *block.writes))


def common_loops(links: Sequence[Link]) -> list[Link]:
    """The loops above all of the blocks, outermost first."""
    chains = [[x for x in reversed(list(link.above())) if type(x.node) is For] for link in links]
    out: list[Link] = []
    for level in zip(*chains, strict=False):
        if any(x.node is not level[0].node for x in level):
            break
        out.append(level[0])
    return out


def _written_first(users: Sequence[Link], at: Link, b: Buffer) -> bool:
    """Is all of `b` that one iteration of the loop reads written earlier in that iteration? (What
    threads share is read and written by all of them.)"""
    shared, lanes = b.scope.startswith("shared"), of_warp(b)
    loops = {at.loop().var} | {x.loop().var for x in at.above() if type(x.node) is For}
    for k, user in enumerate(users):
        block = user.block()
        reduces = [
            v for iv, v in zip(block.iter_vars, block.iter_values, strict=True)
            if iv.kind != "spatial"
        ]  # fmt: skip
        mine = any(w.buffer is b for w in block.writes)
        if mine and any(uses_var(v, loops) for v in reduces):
            return False  # its value grows from iteration to iteration
        for r in block.reads:
            if r.buffer is not b or (mine and block.init is not None):
                continue
            need = region_under(user, at, r, threads=shared, lanes=lanes)
            if need is None:
                return False
            made = [
                region_under(w, at, x, threads=shared, lanes=lanes)
                for w in users[:k]
                for x in w.block().writes
                if x.buffer is b
            ]
            made = [None if m is None else tuple(_all_there(m, b)) for m in made]
            dom = domain(_ranges(at))
            if not any(m is not None and covers(m, need, dom) for m in made):
                return False
    return True


def _all_there(box: Sequence[Range], b: Buffer) -> list[Range]:
    """A part of a buffer, as far as it may go on where the buffer ends: nobody reads beyond. (The
    last tile of a loop may stick out.)"""
    out: list[Range] = []
    for r, n in zip(box, b.shape, strict=True):
        lo, size, whole = const_int(r.min), const_int(r.extent), const_int(n)
        if lo is None or size is None or whole is None:
            out.append(r)
            continue
        first = -_FAR if lo <= 0 else lo
        end = _FAR if lo + size >= whole else lo + size
        out.append(Range(IntImm(first, r.min.dtype), IntImm(end - first, r.min.dtype)))
    return out


def _ranges(at: Link) -> dict[Var, tuple[int, int]]:
    out: dict[Var, tuple[int, int]] = {}
    for x in (at, *at.above()):
        if type(x.node) is For:
            lo, n = const_int(x.node.min), const_int(x.node.extent)
            if lo is not None and n is not None:
                out[x.node.var] = (lo, n)
    return out
