"""Does every thread find in its registers what it wrote there? What one thread keeps no other can
read."""

from __future__ import annotations

import numpy as np

from ..errors import LowerError
from ..ir import walk
from ..ir.nodes import Alloc, For, PrimFunc, Stmt, Var
from . import linear as lin
from .accesses import collect, loop_bounds
from .kernels import inner
from .limits import CpuLimits
from .tiles import of_warp
from .touches import Points, Threads, Touch, length, reach


def check_private(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel, as it is.

    Raises:
        LowerError: a thread reads an element of a local buffer that only others wrote.
    """
    axes, body = inner(kernel)
    threads = Threads(axes)
    if threads.count > 1:
        _go(body, {a.var: (0, length(a) - 1) for a in axes}, threads)
    return kernel


def _go(s: Stmt, dom: dict[Var, lin.Bounds], threads: Threads) -> None:
    # one in global memory that is allocated inside a kernel is each thread's own, too
    # (and what warps have was looked at before its lanes got their parts, see `warp_memory`)
    if type(s) is Alloc and not s.buffer.scope.startswith("shared") and not of_warp(s.buffer):
        _check(s, dom, threads)
    if type(s) is For:
        dom = {**dom, s.var: loop_bounds(s) or reach(s, dom)}
    for x in walk.stmt_children(s):
        _go(x, dom, threads)


def _check(s: Alloc, dom: dict[Var, lin.Bounds], threads: Threads) -> None:
    if reads_of_others(s, dom, threads):
        what = "one" if s.buffer.scope == "global" else "registers"
        raise LowerError(
            f"{s.buffer.scope} buffer {s.buffer.name}: a thread reads an element that another "
            f"thread wrote, but each thread has {what} of its own",
            hint='bind the loops of writer and reader alike, or set_scope(..., "shared")',
            code="not-private",
        )


def reads_of_others(
    s: Alloc, dom: dict[Var, lin.Bounds], threads: Threads, *, warps: bool = False
) -> bool:
    """Is it known that a thread (or, of `warps`, a warp) reads an element of the buffer that others
    wrote, and it did not?"""
    found = _points(s, dom, threads, dom)
    if found is None:
        return False  # not known
    if len({frozenset(p.symbolic.items()) for p in (*found[False], *found[True])}) > 1:
        # some depend on the block or on loops around, others do not: count a few of those out too
        few = {
            v: (lo, hi) if v in threads.lengths else (lo, min(hi, lo + _SAMPLE - 1))
            for v, (lo, hi) in dom.items()
        }
        found = _points(s, few, threads, {})
        if found is None:
            return False
    if warps:
        found = {store: [threads.warps_of(p) for p in some] for store, some in found.items()}
    wrote = np.unique(np.concatenate([_keys(p, threads) for p in found[True]] or [_NONE]))
    return any(not np.isin(_keys(p, threads), wrote).all() for p in found[False])


def _points(
    s: Alloc, dom: dict[Var, lin.Bounds], threads: Threads, common: dict[Var, lin.Bounds]
) -> dict[bool, list[Points]] | None:
    """What threads load (False) and store (True) of the buffer, for each access; None where that is
    not known. Variables of `dom` that are not in `common` are counted out."""
    alike = [v for v in dom if v not in common and v not in threads.lengths]
    out: dict[bool, list[Points]] = {True: [], False: []}
    for a in collect(s.body, s.buffer):
        mine = dict(dom)
        for loop in a.loops:
            mine[loop.var] = loop_bounds(loop) or reach(loop, mine)
        if a.warp:  # whole tiles are written and read (`check_warps`): one element stands for all
            mine.update({loop.var: (0, 0) for loop in a.loops[-2:]})
        points = threads.points(Touch(a, mine), common, alike=alike)
        if points is None:
            return None
        out[a.store].append(points)
    return out


_SAMPLE = 3
"""Values of a variable around the buffer that are looked at."""

_NONE = np.zeros(0, np.int64)


def _keys(p: Points, threads: Threads) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """One number for each pair of element and thread."""
    return p.at * threads.count + p.who
