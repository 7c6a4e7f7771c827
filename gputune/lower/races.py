"""Do two threads write one element with nothing to order them? No barrier can repair that.

Threads of a block must not meet in the same run of one statement; blocks of a grid, which never
wait for each other, must not meet in global memory at all. Both are counted out (`touches`); what
cannot be counted (indices that are loaded, very many elements) is left to the schedule's own
checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement

from ..errors import LowerError
from ..ir import walk
from ..ir.nodes import Buffer, For, PrimFunc, Var
from . import linear as lin
from .accesses import Access, collect, loop_bounds
from .kernels import GRID, inner
from .limits import CpuLimits
from .tiles import in_registers
from .touches import Threads, Touch, length, mixed, reach, share

_MOST_POINTS = 1 << 16
"""Elements that are counted out for one access."""

_SAMPLE = 3
"""Blocks along each axis of the grid that are compared: neighbours meet, if any do."""


def check_races(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel, as it is.

    Raises:
        LowerError: threads meet in one statement, or blocks in global memory.
    """
    axes, body = inner(kernel)
    found = [a for a in collect(body) if not in_registers(a.buffer)]
    stored = {a.buffer for a in found if a.store}
    found = [a for a in found if a.buffer in stored]
    own = {a.var: (0, length(a) - 1) for a in axes}
    _between_threads(found, own, Threads(axes))
    _between_blocks(found, own, axes)
    return kernel


def _ranges(a: Access, own: Mapping[Var, lin.Bounds]) -> dict[Var, lin.Bounds]:
    out = dict(own)
    for loop in a.loops:
        out[loop.var] = loop_bounds(loop) or reach(loop, out)
    return out


# ----------------------------------------------------------------------------- threads
def _between_threads(
    found: Sequence[Access], own: Mapping[Var, lin.Bounds], threads: Threads
) -> None:
    if threads.count == 1:
        return
    for a, b in _pairs(found):
        if a.order != b.order:
            continue
        dom = _ranges(a, own)
        if not _meet(a, b, dom, dom, (), threads):
            continue
        tied = mixed(a, dom, threads.lengths) | mixed(b, dom, threads.lengths)
        common = {v: r for v, r in dom.items() if v not in tied}
        if _meet(a, b, dom, common, [v for v in dom if v in tied], threads):
            raise LowerError(
                f"threads of a block {_what(a, b)} one element of {a.buffer.name} in the same run "
                "of a statement, in no order",
                hint='let each element be written by one thread, set_scope(..., "local"), or '
                "set_scope before compute_at, which then covers all threads",
                code="thread-race",
            )


def _meet(
    a: Access,
    b: Access,
    dom: Mapping[Var, lin.Bounds],
    common: Mapping[Var, lin.Bounds],
    alike: Sequence[Var],
    threads: Threads,
) -> bool:
    """Are there threads that are known to meet, as far as conditions over `common` allow?"""
    one, two = (
        threads.points(Touch(x, dom), common, alike=alike, most=_MOST_POINTS) for x in (a, b)
    )
    if one is None or two is None or one.symbolic != two.symbolic:
        return False
    if a.warp and b.warp:
        one, two = threads.warps_of(one), threads.warps_of(two)
    return share(one, two)


# ----------------------------------------------------------------------------- blocks
def _between_blocks(
    found: Sequence[Access], own: Mapping[Var, lin.Bounds], axes: Sequence[For]
) -> None:
    grid = [a for a in axes if a.thread in GRID and length(a) > 1]
    if not grid:
        return
    names = {a.var for a in grid}
    shared = [a for a in found if not a.buffer.scope.startswith("shared")]
    doms = {a: _ranges(a, own) for a in shared}
    open_ = {
        b for b in {a.buffer for a in shared}
        if not _apart([a for a in shared if a.buffer is b], doms, names)
    }  # fmt: skip
    if not open_:
        return
    few = {a.var: min(length(a), _SAMPLE) for a in grid}
    blocks = Threads.along(few)
    for a, b in _pairs([a for a in shared if a.buffer in open_]):
        ends = [Touch(x, {**doms[x], **{v: (0, n - 1) for v, n in few.items()}}) for x in (a, b)]
        one, two = (blocks.points(t, {}, most=_MOST_POINTS) for t in ends)
        if one is not None and two is not None and share(one, two):
            raise LowerError(
                f"blocks of the grid {_what(a, b)} one element of {a.buffer.name}, which is in "
                "global memory, in no order",
                hint='set_scope(..., "shared") or "local", so that each has its own, or compute it '
                "in a kernel before",
                code="grid-race",
            )


def _apart(
    found: Sequence[Access], doms: Mapping[Access, Mapping[Var, lin.Bounds]], grid: set[Var]
) -> bool:
    """Is it plain from the indices that each block has elements of its own? Then every axis of the
    grid is alone in a dimension, where the rest of the index stays below its step."""
    left = set(grid)
    for k in range(len(found[0].indices)):
        forms = [lin.linear(a.indices[k], doms[a]) for a in found]
        ours = {v: forms[0].coef(v) for v in grid if forms[0].coef(v)}
        if len(ours) != 1 or any({v: f.coef(v) for v in grid if f.coef(v)} != ours for f in forms):
            continue
        ((v, step),) = ours.items()
        rest = [f.without([v]) for f in forms]
        if any(walk.free_vars(atom) & grid for f in rest for atom in f.atoms()):
            continue
        reach_of = [lin.interval_of(f, doms[a]) for f, a in zip(rest, found, strict=True)]
        if max(hi for _, hi in reach_of) - min(lo for lo, _ in reach_of) < abs(step):
            left.discard(v)
    return not left


# ----------------------------------------------------------------------------- both
def _pairs(found: Sequence[Access]) -> Iterator[tuple[Access, Access]]:
    """Accesses to one buffer (also of one with itself), at least one of them a store."""
    by_buffer: dict[Buffer, list[Access]] = {}
    for a in found:
        by_buffer.setdefault(a.buffer, []).append(a)
    for group in by_buffer.values():
        for a, b in combinations_with_replacement(group, 2):
            if a.store or b.store:
                yield a, b


def _what(a: Access, b: Access) -> str:
    return "write" if a.store and b.store else "write and read"
