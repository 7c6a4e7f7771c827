"""How large must a temporary buffer be? As large as the region touched while it lives.

Registers of a thread may be a region with gaps: elements that lie as far apart as other threads
need. Where the steps between elements show it, these move together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TypeAlias

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IntImm,
    PrimFunc,
    Ramp,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import Access, collect, loop_bounds
from .blocks import ALIGN_ATTR
from .limits import CpuLimits
from .prepare import as_block
from .tiles import of_warp
from .vthreads import is_virtual

_Aligns = dict[Buffer, list[tuple[int, int, int]]]
_Indices: TypeAlias = Callable[[tuple[Expr, ...]], tuple[Expr, ...]]


def compact_buffers(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with temporaries cut to what is used, and padded where storage_align asks."""
    aligns: _Aligns = {}
    for buffer, axis, factor, offset in dict(func.attrs).get(ALIGN_ATTR, ()):
        aligns.setdefault(buffer, []).append((axis, factor, offset))
    out = as_block(func, _go(func.body, {}, aligns, ()))
    attrs = tuple((k, v) for k, v in out.attrs if k != ALIGN_ATTR)
    return PrimFunc(out.params, out.buffer_map, out.body, attrs) if aligns else out


def _go(s: Stmt, dom: dict[Var, lin.Bounds], aligns: _Aligns, threads: tuple[For, ...]) -> Stmt:
    """`threads`: the thread axes around `s`, virtual ones among them."""
    match s:
        case For():
            bounds = loop_bounds(s)
            inner = dom if bounds is None else {**dom, s.var: bounds}
            if is_virtual(s) or (s.thread is not None and s.thread.startswith("threadIdx")):
                threads = (*threads, s)
            body = _go(s.body, inner, aligns, threads)
            return s if body is s.body else For(
                s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations
            )  # fmt: skip
        case Alloc():
            return _alloc(s, dom, aligns, threads)
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, aligns, threads))
            assert out is not None  # _go never deletes
            return out


def _alloc(s: Alloc, dom: dict[Var, lin.Bounds], aligns: _Aligns, threads: tuple[For, ...]) -> Stmt:
    old = s.buffer
    found = collect(s.body, old)
    inside = frozenset([
        f.var
        for f in threads
        if old.scope.startswith("shared") or (of_warp(old) and f.thread == "threadIdx.x")
    ])  # fmt: skip
    own = frozenset([f.var for f in threads if old.scope == "local"])
    boxes = [_dimension(k, old.shape[k], found, dom, inside, own) for k in range(len(old.shape))]
    shape = tuple(n if box is None else IntImm(box[1]) for n, box in zip(old.shape, boxes))
    strides = _padded(shape, aligns.get(old, []))
    body = s.body
    if strides is not None or any(box is not None for box in boxes):
        new = replace(old, shape=shape, strides=strides, elem_offset=None)
        body = _rebase(body, old, new, [None if x is None else x[0] for x in boxes])
        old = new
    if old.scope == "local" and strides is None:
        body, old = _closed(body, old)
    body = _go(body, dom, aligns, threads)
    return s if old is s.buffer and body is s.body else Alloc(old, body)


def _dimension(
    k: int,
    size: Expr,
    found: list[Access],
    dom: dict[Var, lin.Bounds],
    inside: frozenset[Var],
    own: frozenset[Var],
) -> tuple[Expr, int] | None:
    """(first index, extent) of what is touched of dimension `k`; None to keep it as it is. A part
    that begins at another index for each of the threads `own` is taken however large it is."""
    if type(size) is not IntImm:
        return None
    outer: lin.Linear | None = None
    at: Hashable = None
    lo = hi = 0
    for a in found:
        box = _reach(a, k, dom, inside)
        if box is None:
            return None
        if outer is None:
            outer, lo, hi = box
            at = outer.key()
        elif box[0].key() != at:
            return None
        else:
            lo, hi = min(lo, box[1]), max(hi, box[2])
    if outer is None:
        return None
    if hi - lo + 1 >= int(size.value) and not own & set(outer.terms):
        return None
    return lin.to_expr(lin.Linear(outer.terms, lo), a.indices[k].dtype), hi - lo + 1


def _reach(
    a: Access, k: int, dom: dict[Var, lin.Bounds], inside: frozenset[Var]
) -> tuple[lin.Linear, int, int] | None:
    """The index of dimension `k`, as (part fixed outside, least, greatest of the rest). Variables
    of `inside` count as inside: the threads of a block share the buffer."""
    index = a.indices[k]
    spread = 0
    if type(index) is Ramp:
        if type(index.stride) is not IntImm:
            return None
        spread = (index.lanes - 1) * int(index.stride.value)
        index = index.base
    inner = dict(dom)
    names: set[Var] = set(a.lets) | inside
    for loop in a.loops:
        names.add(loop.var)
        bounds = loop_bounds(loop)
        if bounds is not None:
            inner[loop.var] = bounds
    for cond in a.conds:
        inner = lin.within(cond, inner)
    form = lin.linear(index, inner)
    outer: dict[Hashable, tuple[Expr, int]] = {}
    for key, (atom, c) in form.terms.items():
        loads = any(type(x) is BufferLoad for x in walk.walk_expr(atom))
        if not loads and not walk.uses_var(atom, names):
            outer[key] = (atom, c)
    lo, hi = lin.interval_of(form.without(outer), inner)
    lo, hi = lo + min(spread, 0), hi + max(spread, 0)
    if hi - lo > 2**31:
        return None
    return lin.Linear(outer, 0), lo, hi


# ----------------------------------------------------------------------------- gaps
def _closed(s: Stmt, b: Buffer) -> tuple[Stmt, Buffer]:
    """Close the gaps between the elements that a thread keeps in registers; the buffer as it is
    then."""
    found = collect(s, b)
    steps = [_steps_between(k, found) for k in range(len(b.shape))]
    if all(x is None for x in steps):
        return s, b
    shape = tuple([
        n if x is None else IntImm(1 + sum(step * most for step, most in x.values()), n.dtype)
        for n, x in zip(b.shape, steps, strict=True)
    ])  # fmt: skip
    new = Buffer(b.name, shape, b.dtype, b.scope, None, None, b.align)

    def closer(indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple([
            i if x is None else _restepped(i, x) for i, x in zip(indices, steps, strict=True)
        ])  # fmt: skip

    return _moved(s, b, new, closer), new


def _restepped(i: Expr, steps: Mapping[int, tuple[int, int]]) -> Expr:
    form = lin.linear(i, {})
    terms = {key: (atom, steps[step][0]) for key, (atom, step) in form.terms.items()}
    return lin.to_expr(lin.Linear(terms, 0), i.dtype)


def _steps_between(k: int, found: list[Access]) -> dict[int, tuple[int, int]] | None:
    """The steps that loops take along dimension `k`, each with what it becomes without gaps and how
    many there are at most; None where there are no gaps, or more to an index than such steps."""
    most: dict[int, int] = {}
    for a in found:
        index = a.indices[k]
        if a.warp or a.lets or type(index) is Ramp or dtypes.lanes(index.dtype) > 1:
            return None
        ranges = {loop.var: loop_bounds(loop) for loop in a.loops}
        form = lin.linear(index, {})
        here: dict[int, int] = {}
        for atom, step in form.terms.values():
            bounds = ranges.get(atom) if type(atom) is Var else None
            if bounds is None or bounds[0] != 0 or step < 1:
                return None
            here[step] = here.get(step, 0) + bounds[1]
        if form.const:
            return None
        for step, n in here.items():
            most[step] = max(most.get(step, 0), n)
    out: dict[int, tuple[int, int]] = {}
    reach, size = 0, 1
    for step in sorted(most):
        if step <= reach:
            return None  # they overlap
        out[step] = (size, most[step])
        reach += step * most[step]
        size *= most[step] + 1
    return out if size <= reach else None


def _padded(shape: tuple[Expr, ...], rules: list[tuple[int, int, int]]) -> tuple[Expr, ...] | None:
    """Strides of which that of `axis` is `offset` modulo `factor`; None where none is asked."""
    if not rules or any(type(n) is not IntImm for n in shape):
        return None
    sizes = [int(n.value) for n in shape if type(n) is IntImm]
    steps = [1] * len(sizes)
    for k in range(len(sizes) - 1, -1, -1):
        if k + 1 < len(sizes):
            steps[k] = steps[k + 1] * sizes[k + 1]
        for axis, factor, offset in rules:
            if axis % len(sizes) == k and k + 1 < len(sizes):
                steps[k] += (offset - steps[k]) % factor
    return tuple(IntImm(n) for n in steps)


def _rebase(s: Stmt, old: Buffer, new: Buffer, mins: list[Expr | None]) -> Stmt:
    def move(indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(
            i if lo is None
            else Ramp(_less(i.base, lo), i.stride, i.lanes) if type(i) is Ramp
            else build.sub(i, build.cast(i.dtype, lo)) if dtypes.lanes(i.dtype) > 1
            else _less(i, lo)
            for i, lo in zip(indices, mins)
        )  # fmt: skip

    return _moved(s, old, new, move)


def _moved(s: Stmt, old: Buffer, new: Buffer, move: _Indices) -> Stmt:
    """The statement with `new` for `old`, at other indices."""

    def on_expr(e: Expr) -> Expr:
        out = walk.map_expr(e, on_expr)
        if type(out) is BufferLoad and out.buffer is old:
            return BufferLoad(new, move(out.indices), out.predicate)
        return out

    def on_stmt(x: Stmt) -> Stmt:
        out = walk.map_stmt(x, on_expr, on_stmt)
        assert out is not None  # nothing is deleted
        if type(out) is BufferStore and out.buffer is old:
            return BufferStore(new, out.value, move(out.indices), out.predicate)
        return out

    return on_stmt(s)


def _less(i: Expr, lo: Expr) -> Expr:
    if lo.dtype != i.dtype:
        lo = build.cast(i.dtype, lo)
    form = lin.plus(lin.linear(i, {}), lin.times(lin.linear(lo, {}), -1))
    return lin.to_expr(form, i.dtype)
