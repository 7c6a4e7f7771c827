"""Where does a temporary buffer live? As deep inside the loops as its uses allow.

A buffer moves into a loop only if each iteration writes what it reads: then one iteration's copy
serves the next, and `compact` can make it small.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..ir import build, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    Buffer,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Ramp,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import Access, collect, loop_bounds, touches
from .limits import CpuLimits
from .prepare import as_block


def place_buffers(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with every `Alloc` at the smallest statement that may hold it."""
    return as_block(func, _go(func.body, {}))


def _go(s: Stmt, dom: dict[Var, lin.Bounds]) -> Stmt:
    match s:
        case Alloc():
            body = _go(s.body, dom)
            if not touches(body, s.buffer):
                return body
            return _sink(s.buffer, body, dom)
        case For():
            bounds = loop_bounds(s)
            inner = dom if bounds is None else {**dom, s.var: bounds}
            body = _go(s.body, inner)
            return s if body is s.body else For(
                s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations
            )  # fmt: skip
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom))
            assert out is not None  # _go never deletes
            return out


def _sink(b: Buffer, s: Stmt, dom: dict[Var, lin.Bounds]) -> Stmt:
    """`Alloc(b, s)`, moved inwards."""
    match s:
        case Seq():
            used = [k for k, x in enumerate(s.items) if touches(x, b)]
            first, last = used[0], used[-1]
            held = _sink(b, build.seq(*s.items[first : last + 1]), dom) if (
                first == last
            ) else Alloc(b, build.seq(*s.items[first : last + 1]))  # fmt: skip
            return build.seq(*s.items[:first], held, *s.items[last + 1 :])
        case For() if _in_head(s, b):
            return Alloc(b, s)
        case For():
            if not private(s, b, dom):
                return Alloc(b, s)
            bounds = loop_bounds(s)
            inner = dom if bounds is None else {**dom, s.var: bounds}
            body = _sink(b, s.body, inner)
            return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
        case IfThenElse() if not _loads(s.cond, b):
            in_then = touches(s.then, b)
            in_else = s.orelse is not None and touches(s.orelse, b)
            if in_then and not in_else:
                return IfThenElse(s.cond, _sink(b, s.then, dom), s.orelse)
            if in_else and not in_then and s.orelse is not None:
                return IfThenElse(s.cond, s.then, _sink(b, s.orelse, dom))
            return Alloc(b, s)
        case LetStmt() if not _loads(s.value, b):
            return LetStmt(s.var, s.value, _sink(b, s.body, dom))
        case Alloc():
            return Alloc(s.buffer, _sink(b, s.body, dom))
        case _:
            return Alloc(b, s)


def _in_head(loop: For, b: Buffer) -> bool:
    return _loads(loop.min, b) or _loads(loop.extent, b)


def _loads(e: Expr, b: Buffer) -> bool:
    return any(getattr(x, "buffer", None) is b for x in walk.walk_expr(e))


def private(loop: For, b: Buffer, dom: dict[Var, lin.Bounds]) -> bool:
    """Does each iteration of `loop` write every element of `b` before it reads it?"""
    if any(walk.uses_var(n, loop.var) for n in b.shape):
        return False
    found = collect(loop.body, b)
    bounds = loop_bounds(loop)
    if bounds is not None:
        dom = {**dom, loop.var: bounds}
    stores = [a for a in found if a.store and a.mask is None]
    return all(
        any(w.order < r.order and _covers(w, r, dom) for w in stores) for r in found if not r.store
    )


def _covers(w: Access, r: Access, dom: dict[Var, lin.Bounds]) -> bool:
    """Has `w` written all that `r` reads, for every value of what encloses both?"""
    shared = 0
    for x, y in zip(w.loops, r.loops):
        if x is not y:
            break
        shared += 1
    if w.lets or r.lets:
        return False
    own_w, own_r = w.loops[shared:], r.loops[shared:]
    inner = dict(dom)
    for loop in (*w.loops, *r.loops):
        bounds = loop_bounds(loop)
        if bounds is None:
            return False
        inner[loop.var] = bounds
    if not _conds_allow(w, r, inner):
        return False
    used: set[Var] = set()
    for i_w, i_r in zip(w.indices, r.indices):
        box_w = _box(i_w, own_w, inner, exact=True)
        box_r = _box(i_r, own_r, inner, exact=False)
        if box_w is None or box_r is None:
            return False
        mine = {v for v in box_w[3] if v in {x.var for x in own_w}}
        if mine & used:
            return False  # one loop moves two dimensions: the box is not filled
        used |= mine
        if box_w[0].key() != box_r[0].key():
            return False
        if box_r[1] < box_w[1] or box_r[2] > box_w[2]:
            return False
    return True


def _box(
    index: Expr, own: tuple[For, ...], dom: dict[Var, lin.Bounds], *, exact: bool
) -> tuple[lin.Linear, int, int, set[Var]] | None:
    """(outer part without constant, least, greatest, variables) of an index over the loops `own`;
    None if it is not known or, for `exact`, not every value between is taken."""
    if type(index) is Ramp:
        return None
    form = lin.linear(index, dom)
    names = {loop.var for loop in own}
    outer: dict[Hashable, tuple[Expr, int]] = {}
    lo = hi = form.const
    steps: list[tuple[int, int]] = []
    seen: set[Var] = set()
    for k, (atom, c) in form.terms.items():
        if type(atom) is Var and atom in names:
            a, z = dom[atom]
            lo += min(a * c, z * c)
            hi += max(a * c, z * c)
            steps.append((abs(c), z - a))
            seen.add(atom)
        elif walk.uses_var(atom, names):
            a, z = lin.interval(atom, dom)
            if exact:
                return None
            lo += min(a * c, z * c)
            hi += max(a * c, z * c)
        else:
            outer[k] = (atom, c)
    if exact:
        reach = 0
        for c, n in sorted(steps):
            if n and c > reach + 1:
                return None
            reach += c * n
    return lin.Linear(outer, 0), lo, hi, seen


def _conds_allow(w: Access, r: Access, dom: dict[Var, lin.Bounds]) -> bool:
    """Is whatever the conditions of the store exclude never read?"""
    given = {lin.key(c) for cond in r.conds for c in lin.conjuncts(cond)}
    for cond in w.conds:
        for c in lin.conjuncts(cond):
            if lin.decide(c, dom) is True or lin.key(c) in given:
                continue
            if not _is_bound(c, w, dom):
                return False
    return True


def _is_bound(c: Expr, w: Access, dom: dict[Var, lin.Bounds]) -> bool:
    """Is `c` false only where an index of `w` is outside the buffer?"""
    if type(c) is not BinOp or c.op not in ("<", "<="):
        return False
    for index, size in zip(w.indices, w.buffer.shape):
        if type(size) is not IntImm or type(index) is Ramp:
            continue
        # c: a < b. Outside is index >= size. Both agree if a - b = index - size + (slack >= 0 less)
        diff = lin.plus(lin.linear(c.a, dom), lin.times(lin.linear(c.b, dom), -1))
        own = lin.linear(index, dom)
        gap = lin.plus(diff, lin.times(own, -1))
        limit = -int(size.value) if c.op == "<" else -int(size.value) + 1
        if not gap.terms and gap.const <= limit:
            return True
    return False
