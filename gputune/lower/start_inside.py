"""Where are initial values set? In the loop that adds to them, not in one of their own before it.

A reduction is initialised before its outermost loop, and may have spatial loops inside of that: all
of a tile is set to zero and goes through memory to the loop that adds to it. Where each iteration
of that loop touches other elements, it sets its own ones, which then never leave registers.

    for y: Y[y] = 0                    for y:
    for y:                     ->          Y[y] = 0
        for k: Y[y] += ...                 for k: Y[y] += ...
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import build, dtypes, walk
from ..ir.nodes import BufferStore, Evaluate, Expr, For, IfThenElse, PrimFunc, Seq, Stmt, Var
from . import linear as lin
from .accesses import collect, loop_bounds, touches
from .limits import CpuLimits
from .prepare import as_block

_Dom = dict[Var, lin.Bounds]


def start_inside(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with initial values set in the loops that use them."""
    return as_block(func, _go(func.body, {}))


def _go(s: Stmt, dom: _Dom) -> Stmt:
    match s:
        case For():
            bounds = loop_bounds(s)
            inner = dom if bounds is None else {**dom, s.var: bounds}
            body = _go(s.body, inner)
            return s if body is s.body else _around(s, body)
        case Seq():
            return _sequence(s, dom)
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom))
            assert out is not None  # _go never deletes
            return out


def _around(s: For, body: Stmt) -> For:
    return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)


def _sequence(s: Seq, dom: _Dom) -> Stmt:
    items: list[Stmt | None] = list(s.items)
    for k, item in enumerate(items):  # an item may have become more than it was
        store = None if item is None else _initial(item)
        if item is None or store is None:
            continue
        user = next((j for j in range(k + 1, len(items)) if _uses(items[j], store)), None)
        loop = None if user is None else items[user]
        if user is None or type(loop) is not For:
            continue
        if not _same_there(store, items[k + 1 : user + 1]):
            continue
        moved = _moved(item, store, loop, dom)
        if moved is not None:
            items[k], items[user] = None, moved
    if all(x is y for x, y in zip(items, s.items, strict=True)):
        out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom))
        assert out is not None  # _go never deletes
        return out
    return build.seq(*[None if x is None else _go(x, dom) for x in items])


def _uses(s: Stmt | None, store: BufferStore) -> bool:
    return s is not None and touches(s, store.buffer)


def _same_there(store: BufferStore, items: Sequence[Stmt | None]) -> bool:
    """Does what the initial value is read from stay as it is while these run, the last of which
    adds to it?"""
    read = {x.buffer for e in walk.stmt_exprs(store) for x in walk.loads(e)}
    if not read:
        return True
    last = items[-1]
    assert last is not None  # it uses the buffer
    if not any(type(x) is BufferStore and x.buffer is store.buffer for x in walk.walk_stmt(last)):
        return False  # a copy for others to read
    for item in items:
        for x in () if item is None else walk.walk_stmt(item):
            if type(x) is BufferStore and x.buffer in read:
                return False
            if type(x) is Evaluate and any(touches(x, b) for b in read):
                return False  # a call may change what it names
    return True


def _initial(s: Stmt) -> BufferStore | None:
    """The store of a loop nest that does nothing but set elements to a value known before it: no
    element of the buffer that it sets."""
    if type(s) is not For:
        return None
    inner: Stmt = s
    while True:
        if type(inner) is For:
            if inner.kind == "parallel" or loop_bounds(inner) is None:
                return None
            inner = inner.body
        elif type(inner) is IfThenElse and inner.orelse is None and not walk.loads(inner.cond):
            inner = inner.then
        else:
            break
    if type(inner) is not BufferStore or inner.predicate is not None:
        return None
    read = [x for e in walk.stmt_exprs(inner) for x in walk.loads(e)]
    return None if any(x.buffer is inner.buffer for x in read) else inner


def _moved(item: Stmt, store: BufferStore, loop: For, dom: _Dom) -> For | None:
    """The loop with what is needed of the initial values in front of its body; None if iterations
    share elements."""
    bounds = loop_bounds(loop)
    if loop.kind != "serial" or bounds is None:
        return None
    nest = walk.rename_blocks(item)  # its own variables, whatever those of the loop are
    path: list[For] = []
    own: Stmt = nest
    while type(own) is For or type(own) is IfThenElse:
        if type(own) is For:
            path.append(own)
            own = own.body
        else:
            assert type(own) is IfThenElse
            own = own.then
    assert type(own) is BufferStore  # see _initial
    for same in path:
        if (
            same.kind == "serial"
            and loop_bounds(same) == bounds
            and same.var.dtype == loop.var.dtype
        ):
            if _apart(own, same.var, path, loop, dom):
                first = walk.substitute_stmt(_without(nest, same), {same.var: loop.var})
                return _around(loop, build.seq(first, loop.body))
    return None


def _without(s: Stmt, gone: For) -> Stmt:
    if s is gone:
        return gone.body
    if type(s) is For:
        return _around(s, _without(s.body, gone))
    assert type(s) is IfThenElse  # see _initial
    return IfThenElse(s.cond, _without(s.then, gone))


def _apart(own: BufferStore, var: Var, path: list[For], loop: For, dom: _Dom) -> bool:
    """Are the elements set by one iteration over `var` touched by that iteration of `loop` only?"""
    inner = dict(dom)
    for x in (*path, loop):
        bounds = loop_bounds(x)
        assert bounds is not None  # see _initial and _moved
        inner[x.var] = bounds
    if any(type(x) is Evaluate and touches(x, own.buffer) for x in walk.walk_stmt(loop.body)):
        return False  # a call may touch more than the element that it names
    for a in collect(loop.body, own.buffer):
        here = dict(inner)
        for x in a.loops:
            bounds = loop_bounds(x)
            if bounds is not None:
                here[x.var] = bounds
        pairs = zip(own.indices, a.indices, strict=True)
        if a.warp or not any(_differ(i, var, j, loop.var, here) for i, j in pairs):
            return False
    return True


def _differ(i: Expr, v: Var, j: Expr, w: Var, dom: _Dom) -> bool:
    """Are the indices `i` and `j` never the same where `v` is not `w`?"""
    if dtypes.lanes(i.dtype) > 1 or dtypes.lanes(j.dtype) > 1:
        return False
    a, b = lin.linear(i, dom), lin.linear(j, dom)
    step = abs(a.coef(v))
    if not step or a.coef(v) != b.coef(w):
        return False
    rest = lin.plus(a.without([v]), lin.times(b.without([w]), -1))
    if any(walk.uses_var(x, {v, w}) for x in rest.atoms()):
        return False
    lo, hi = lin.interval_of(rest, dom)
    return -step < lo and hi < step
