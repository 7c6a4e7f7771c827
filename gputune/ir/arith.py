"""Index arithmetic, in one place: bounds, sums, canonical forms, proofs; and whole statements.

What each question rests on: `affine` (sums and bounds), `canonical` (simplification). `simplify`
and `simplify_stmt` are steered by plain constants only; `prove` and `bounds` compare sampled values
as well, which records guards (see nodes.py).
"""

from __future__ import annotations

from typing import assert_never

from . import build
from .affine import from_linear, linear
from .build import TRUE
from .canonical import negation, simplify, simplify_known
from .intervals import NOTHING, Domain, Interval, bounds
from .known import Known, assume, is_plain, knowing, with_value
from .nodes import (
    Alloc,
    Block,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from .walk import map_stmt, substitute_stmt

__all__ = ["Domain", "bounds", "from_linear", "linear", "prove", "simplify", "simplify_stmt"]


def prove(cond: Expr, dom: Domain = NOTHING) -> bool:
    """Does `cond` hold at every point of `dom`? False also where that is not found out."""
    if bounds(cond, dom)[0] == 1:
        return True
    return build.is_literal(simplify(cond, dom), 1)


def simplify_stmt(
    s: Stmt,
    dom: Domain | None = None,
    *,
    drop_unit_loops: bool = False,
    keep_unit_vars: bool = False,
) -> Stmt:
    """`s` with every expression simplified for the values that its variables have there.

    Loops and block iterators bound their variables; conditions hold in the branches they guard, and
    what is assumed holds from there on. Branches that are never taken and loops that never run are
    removed. With `drop_unit_loops`, so are loops that run once, have no annotations and are not
    bound to a thread. `keep_unit_vars`: variables with a single value stay in expressions.
    """
    out = _stmt(s, knowing(dom, keep_unit_vars), drop_unit_loops)
    return Evaluate(IntImm(0, "int32")) if out is None else out


def _stmt(s: Stmt, known: Known, drop: bool) -> Stmt | None:
    match s:
        case For():
            return _loop(s, known, drop)
        case Block():
            return _block(s, known, drop)
        case Seq():
            return _sequence(s, known, drop)
        case IfThenElse():
            return _branch(s, known, drop)
        case LetStmt():
            value = simplify_known(s.value, known)
            body = _stmt(s.body, with_value(known, s.var, value), drop)
            if body is None or (value is s.value and body is s.body):
                return None if body is None else s
            return LetStmt(s.var, value, body)
        case BufferStore() | Evaluate() | Alloc():
            return map_stmt(
                s, lambda e: simplify_known(e, known), lambda x: _stmt(x, known, drop)
            )  # fmt: skip
        case _:
            assert_never(s)


def _loop(s: For, known: Known, drop: bool) -> Stmt | None:
    lo, n = simplify_known(s.min, known), simplify_known(s.extent, known)
    if type(n) is IntImm and type(n.value) is int:
        if n.value <= 0:
            return None
        if drop and n.value == 1 and s.kind != "thread_binding" and not s.annotations:
            return _stmt(substitute_stmt(s.body, {s.var: lo}), known, drop)
    body = _stmt(s.body, known.within(_with_range(known.dom, s.var, lo, n)), drop)
    if body is None:
        return None
    if lo is s.min and n is s.extent and body is s.body:
        return s
    return For(s.var, lo, n, s.kind, body, s.thread, s.annotations)


def _with_range(dom: Domain, v: Var, lo: Expr, n: Expr) -> dict[Var, Interval]:
    """`dom` with the bounds of a variable that runs over [lo, lo + n)."""
    out = {x: b for x, b in dom.items() if x is not v}
    if not (is_plain(lo) and is_plain(n)):
        return out
    least, _ = bounds(lo, dom)
    _, end = bounds(build.add(lo, n), dom)
    if least is None or end is None or least < end:
        out[v] = (least, None if end is None else end - 1)
    return out


def _block(s: Block, known: Known, drop: bool) -> Stmt | None:
    predicate = simplify_known(s.predicate, known)
    if build.is_literal(predicate, 0):
        return None
    runs = assume(predicate, known)
    dom: Domain = runs.dom
    for iv, value in zip(s.iter_vars, s.iter_values):
        inner = _with_range(dom, iv.var, iv.dom.min, iv.dom.extent)
        low, high = runs.bounds(simplify_known(value, runs))
        lo, hi = inner.get(iv.var, (None, None))
        lo = low if lo is None else lo if low is None else max(lo, low)
        hi = high if hi is None else hi if high is None else min(hi, high)
        if lo is None or hi is None or lo <= hi:
            inner[iv.var] = (lo, hi)
        dom = inner
    inside = runs.within(dom)
    # bindings and the predicate are seen from outside, the rest from inside
    outer = Block(
        s.key,
        s.name,
        s.iter_vars,
        tuple([simplify_known(v, runs) for v in s.iter_values]),
        TRUE,
        s.reads,
        s.writes,
        s.body,
        s.init,
        s.alloc_buffers,
        s.match_buffers,
        s.annotations,
    )
    table = {id(v): v for v in outer.iter_values}

    def on_expr(e: Expr) -> Expr:
        return e if id(e) in table else simplify_known(e, inside)

    out = map_stmt(outer, on_expr, lambda x: _stmt(x, inside, drop))
    if out is None:
        return None
    assert type(out) is Block
    same_values = all(a is b for a, b in zip(out.iter_values, s.iter_values))
    if predicate is s.predicate and same_values and _same_parts(out, s):
        return s
    return Block(
        s.key,
        s.name,
        out.iter_vars,
        out.iter_values,
        predicate,
        out.reads,
        out.writes,
        out.body,
        out.init,
        s.alloc_buffers,
        out.match_buffers,
        s.annotations,
    )


def _same_parts(a: Block, b: Block) -> bool:
    return (
        a.body is b.body
        and a.init is b.init
        and all(x is y for x, y in zip(a.iter_vars, b.iter_vars))
        and all(x is y for x, y in zip(a.reads, b.reads))
        and all(x is y for x, y in zip(a.writes, b.writes))
        and all(x is y for x, y in zip(a.match_buffers, b.match_buffers))
    )


def _sequence(s: Seq, known: Known, drop: bool) -> Stmt | None:
    items: list[Stmt] = []
    for x in s.items:
        new = _stmt(x, known, drop)
        if new is None:
            continue
        items.append(new)
        if type(new) is Evaluate and type(new.value) is Call and new.value.op == "assume":
            known = assume(new.value.args[0], known)
    if len(items) == len(s.items) and all(a is b for a, b in zip(items, s.items)):
        return s
    return build.seq(*items) if items else None


def _branch(s: IfThenElse, known: Known, drop: bool) -> Stmt | None:
    cond = simplify_known(s.cond, known)
    if build.is_literal(cond, 1):
        return _stmt(s.then, known, drop)
    if build.is_literal(cond, 0):
        return None if s.orelse is None else _stmt(s.orelse, known, drop)
    then = _stmt(s.then, assume(cond, known), drop)
    orelse = None
    if s.orelse is not None:
        orelse = _stmt(s.orelse, assume(cond, known, holds=False), drop)
    if cond is s.cond and then is s.then and orelse is s.orelse:
        return s
    if then is None:
        return None if orelse is None else IfThenElse(negation(cond), orelse)
    return IfThenElse(cond, then, orelse)
