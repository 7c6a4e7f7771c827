"""What is obvious in a plain program? Unit loops vanish, decided conditions and sums are folded."""

from __future__ import annotations

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Annotations,
    BinOp,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    Let,
    PrimFunc,
    Select,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import loop_bounds
from .limits import CpuLimits
from .pragmas import pragmas_of
from .prepare import as_block
from .tiles import tidied, tile_op

_Dom = dict[Var, lin.Bounds]


def simplify(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` without unit loops, empty loops and conditions that are always true or false."""
    return _simplified(func, {})


def simplify_within(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`simplify`, with conditions as coarse as they can be, and known where they hold: what threads
    fetch together has indices that are taken from a sum, and a condition on that sum."""
    return _simplified(func, lin.Where({}))


def _simplified(func: PrimFunc, dom: _Dom) -> PrimFunc:
    body = _go(func.body.body, dom, {}, ())
    return as_block(func, Evaluate(IntImm(0)) if body is None else body)


def _go(s: Stmt, dom: _Dom, table: dict[Var, Expr], pragmas: Annotations) -> Stmt | None:
    """`table`: variables of loops that are gone; `pragmas`: what was noted on those."""
    match s:
        case For():
            return _loop(s, dom, table, pragmas)
        case IfThenElse():
            cond = expr(walk.substitute(s.cond, table), dom)
            known = lin.decide(cond, dom)
            inner = dom
            if isinstance(dom, lin.Where):
                cond = _coarser(cond, dom)
                inner = lin.within(cond, dom)
            if known is not None and not _reads(cond):
                taken = s.then if known else s.orelse
                return None if taken is None else _go(taken, dom, table, pragmas)
            then = _go(s.then, inner, table, pragmas)
            orelse = None if s.orelse is None else _go(s.orelse, dom, table, pragmas)
            if then is None:
                if orelse is None:
                    return None
                return IfThenElse(build.logical_not(cond), orelse)
            return IfThenElse(cond, then, orelse)
        case BufferStore() if tile_op(s) is not None:
            at = tuple([walk.substitute(i, table) for i in s.indices])
            value = walk.substitute(s.value, table)
            return tidied(BufferStore(s.buffer, value, at, s.predicate), dom)
        case BufferStore():
            indices = tuple([_index(walk.substitute(i, table), dom) for i in s.indices])
            mask = None
            if s.predicate is not None:
                mask = expr(walk.substitute(s.predicate, table), dom)
            return BufferStore(s.buffer, expr(walk.substitute(s.value, table), dom), indices, mask)
        case Seq():
            items = [_go(x, dom, table, pragmas) for x in s.items]
            kept = [x for x in items if x is not None]
            return build.seq(*kept) if kept else None
        case Evaluate():
            value = walk.substitute(s.value, table)
            if type(value) is Call and value.op not in ("assume", "likely"):
                return Evaluate(expr(value, dom))
            return None  # a value without effect
        case _:
            return walk.map_stmt(
                s,
                lambda e: expr(walk.substitute(e, table), dom),
                lambda x: _go(x, dom, table, pragmas),
            )


def _coarser(cond: Expr, dom: _Dom) -> Expr:
    out: Expr = build.TRUE
    for c in lin.conjuncts(cond):
        out = build.logical_and(out, lin.coarser(c, dom))
    return out


def _reads(e: Expr) -> bool:
    return any(type(x) is BufferLoad for x in walk.walk_expr(e))


def _loop(s: For, dom: _Dom, table: dict[Var, Expr], pragmas: Annotations) -> Stmt | None:
    lo = _index(walk.substitute(s.min, table), dom)
    n = _index(walk.substitute(s.extent, table), dom)
    notes = {**dict(pragmas), **dict(s.annotations)}
    if type(n) is IntImm and n.value <= 0:
        return None
    if type(n) is IntImm and n.value == 1:
        value = lo if lo.dtype == s.var.dtype else build.cast(s.var.dtype, lo)
        return _go(s.body, dom, {**table, s.var: value}, pragmas_of(tuple(notes.items())))
    bounds = loop_bounds(For(s.var, lo, n, s.kind, s.body))
    if bounds is None:
        (a, _), (_, b), (_, m) = (lin.interval(x, dom) for x in (lo, lo, n))
        bounds = (a, max(a, b + m - 1))
    inner = lin.inside(dom, s.var, bounds)
    body = _go(s.body, inner, table, ())
    if body is None:
        return None
    return For(s.var, lo, n, s.kind, body, s.thread, tuple(notes.items()))


def _index(e: Expr, dom: _Dom) -> Expr:
    """An index (or bound) in the form of a plain sum."""
    if type(e) is IntImm or type(e) is Var:
        return e
    if dtypes.lanes(e.dtype) > 1 or not dtypes.is_int(e.dtype):
        return expr(e, dom)
    return lin.to_expr(lin.linear(_inner(e, dom), dom), e.dtype)


def _inner(e: Expr, dom: _Dom) -> Expr:
    """Loads inside an index have indices of their own."""
    if not _reads(e):
        return e
    if type(e) is BufferLoad:
        return expr(e, dom)
    return walk.map_expr(e, lambda x: _inner(x, dom))


def expr(e: Expr, dom: _Dom) -> Expr:
    """`e` with indices, conditions and choices simplified; values keep their arithmetic."""
    t = type(e)
    if t is Var or t is IntImm or t is FloatImm:
        return e
    match e:
        case BufferLoad():
            indices = tuple([_index(i, dom) for i in e.indices])
            mask = None if e.predicate is None else expr(e.predicate, dom)
            if mask is not None and build.is_literal(mask, 1):
                mask = None
            if mask is e.predicate and all(x is y for x, y in zip(indices, e.indices)):
                return e
            return BufferLoad(e.buffer, indices, mask)
        case Call(op="likely"):
            return expr(e.args[0], dom)
        case Call(op="if_then_else") | Select():
            c, a, b = e.args if type(e) is Call else walk.expr_children(e)
            cond = expr(c, dom)
            known = None if _reads(cond) else lin.decide(cond, dom)
            if known is not None:
                return expr(a if known else b, dom)
            a, b = expr(a, dom), expr(b, dom)
            if type(e) is Select:
                return Select(cond, a, b)
            return Call("if_then_else", (cond, a, b), e.dtype)
        case Let():
            return walk.map_expr(e, lambda x: expr(x, dom))
        case BinOp() if dtypes.scalar(e.dtype) == "bool":
            out = walk.map_expr(e, lambda x: expr(x, dom))
            if dtypes.lanes(out.dtype) == 1 and not _reads(out):
                known = lin.decide(out, dom)
                if known is not None:
                    return build.TRUE if known else build.FALSE
            return out
        case BinOp(op="//" | "%") if _is_index(e, dom):
            return _index(e, dom)
        case _:
            return walk.map_expr(e, lambda x: expr(x, dom))


def _is_index(e: Expr, dom: _Dom) -> bool:
    """Is `e` made of loop variables only, so that it cannot wrap around?"""
    if e.dtype not in ("int32", "int64"):
        return False
    return all(
        x in dom if type(x) is Var else type(x) in (IntImm, BinOp) for x in walk.walk_expr(e)
    )
