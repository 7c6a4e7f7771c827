"""Is each element of a thread's tile asked whether it is within its extent? Once for all of them,
where they are.

Tiles that do not divide an extent leave conditions such as `i_0 * 64 + thread * 8 + i_1 < 127`
around each element, innermost in loops that are written out. A thread whose tile is within the
extent as a whole, as most are, takes a copy of the loops without such conditions; others take the
loops as they are. Threads may go different ways: there is no barrier in the loops, and nothing that
a warp does together.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir import build, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    PrimFunc,
    Stmt,
    Var,
)
from ..ir.ops import MATH
from . import linear as lin
from .accesses import loop_bounds
from .limits import CpuLimits
from .prepare import as_block
from .software_pipeline import fresh_copy
from .tiles import tile_op

_OFTEN = 16  # times that a condition is asked in loops, from which on a copy of them pays
_EACH = frozenset({*MATH, "if_then_else", "likely"})  # what a thread computes for itself


def whole_tiles(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with loops without a barrier in two forms, where conditions inside hold throughout
    them for most threads."""
    return as_block(func, _go(func.body, {}))


def _go(s: Stmt, dom: dict[Var, lin.Bounds]) -> Stmt:
    if type(s) is For:
        bounds = loop_bounds(s)
        if s.thread is None and bounds is not None and _is_own(s):
            out = _either(s, dom)
            if out is not None:
                return out
        inner = dom if bounds is None else {**dom, s.var: bounds}
        body = _go(s.body, inner)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom))
    assert out is not None  # _go never deletes
    return out


def _is_own(s: Stmt) -> bool:
    """Does each thread compute for itself, in registers? (Copies are short, and wait for memory in
    any case.)"""
    for x in walk.walk_stmt(s):
        if type(x) is Evaluate or (type(x) is Alloc and x.buffer.scope != "local"):
            return False
        if type(x) is BufferStore and (
            x.buffer.scope != "local" or tile_op(x) is not None or x.predicate is not None
        ):
            return False
    return not any(type(e) is Call and e.op not in _EACH for e in walk.all_exprs(s))


def _either(s: For, dom: dict[Var, lin.Bounds]) -> Stmt | None:
    """The loops without conditions if these hold throughout, else as they are; None where there are
    none, or they never do."""
    at_once: dict[object, Expr] = {}
    held: set[int] = set()
    for c, form, loops in _asked(s, dom, {}, 1):
        inside = {k for k, (atom, _) in form.terms.items() if walk.free_vars(atom) & loops.keys()}
        _, most = lin.interval_of(form.without(form.terms.keys() - inside), {**dom, **loops})
        rest = lin.Linear(form.without(inside).terms, 0)
        throughout = build.lt(lin.to_expr(rest, c.a.dtype), build.const(-most, c.a.dtype))
        at_once[lin.key(throughout)] = throughout
        held.add(id(c))
    if not held:
        return None
    cond = build.logical_and(*at_once.values())
    if lin.decide(cond, dom) is False:
        return None
    return IfThenElse(cond, fresh_copy(_without(s, held)), s)


def _asked(
    s: Stmt, dom: dict[Var, lin.Bounds], loops: dict[Var, lin.Bounds], times: int
) -> Iterator[tuple[BinOp, lin.Linear, dict[Var, lin.Bounds]]]:
    """The comparisons that loops inside ask often, for different values of their variables: each
    with the form that is below 0 where it holds, and these loops."""
    if type(s) is For:
        bounds = loop_bounds(s)
        if bounds is None:
            return  # its variable has no range
        yield from _asked(
            s.body, dom, {**loops, s.var: bounds}, times * (bounds[1] - bounds[0] + 1)
        )
        return
    if type(s) is IfThenElse and s.orelse is None and times >= _OFTEN:
        for c in lin.conjuncts(s.cond):
            form = lin.below_zero(c, {**dom, **loops})
            if form is None or walk.loads(c) or not walk.free_vars(c) & loops.keys():
                continue
            assert type(c) is BinOp  # or there were no form
            if walk.free_vars(c) <= dom.keys() | loops.keys():
                yield c, form, loops
    for x in walk.stmt_children(s):
        yield from _asked(x, dom, loops, times)


def _without(s: Stmt, held: set[int]) -> Stmt:
    """A statement without the comparisons that hold."""
    if type(s) is IfThenElse and s.orelse is None:
        kept = [c for c in lin.conjuncts(s.cond) if id(c) not in held]
        then = _without(s.then, held)
        return IfThenElse(build.logical_and(*kept), then) if kept else then
    out = walk.map_stmt(s, lambda e: e, lambda x: _without(x, held))
    assert out is not None  # nothing is deleted
    return out
