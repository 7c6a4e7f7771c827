"""Does a condition have to be asked in every iteration? Those that a loop does not change move out
of it."""

from __future__ import annotations

from ..ir import walk
from ..ir.nodes import BufferLoad, BufferStore, Expr, For, IfThenElse, PrimFunc, Seq, Stmt
from .barriers import is_barrier
from .limits import CpuLimits
from .linear import key
from .prepare import as_block


def hoist_guards(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with conditions around loops instead of inside, where nothing else is in the loop, and
    neighbours under one condition joined. A condition that threads answer differently never comes
    to stand around a barrier."""
    return as_block(func, _go(func.body))


def _go(s: Stmt) -> Stmt:
    out = walk.map_stmt(s, lambda e: e, _go)
    assert out is not None  # nothing is deleted
    if type(out) is For and type(out.body) is IfThenElse and out.kind != "thread_binding":
        c = out.body
        if c.orelse is None and not walk.uses_var(c.cond, out.var) and not _changes(c.cond, c.then):
            loop = For(out.var, out.min, out.extent, out.kind, c.then, None, out.annotations)
            return IfThenElse(c.cond, loop)
    if type(out) is Seq:
        return _joined(out)
    return out


def _joined(s: Seq) -> Stmt:
    items: list[Stmt] = [s.items[0]]
    for x in s.items[1:]:
        last = items[-1]
        if (
            type(x) is IfThenElse
            and type(last) is IfThenElse
            and x.orelse is None
            and last.orelse is None
            and key(x.cond) == key(last.cond)
            and not _changes(x.cond, last.then)
        ):
            items[-1] = IfThenElse(last.cond, Seq((*_items(last.then), *_items(x.then))))
        else:
            items.append(x)
    return items[0] if len(items) == 1 else Seq(tuple(items))


def _items(s: Stmt) -> tuple[Stmt, ...]:
    return s.items if type(s) is Seq else (s,)


def _changes(cond: Expr, s: Stmt) -> bool:
    """May the statement change what the condition reads? (Barriers stay where they are.)"""
    read = {x.buffer for x in walk.walk_expr(cond) if type(x) is BufferLoad}
    for x in walk.walk_stmt(s):
        if is_barrier(x) or (type(x) is BufferStore and x.buffer in read):
            return True
    return False
