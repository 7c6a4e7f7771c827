"""How long is [lo, hi)? Bounds of loops, slices and regions."""

from __future__ import annotations

import ast
from typing import Any

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    BinOp,
    Broadcast,
    BufferLoad,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Not,
    Ramp,
    Range,
    Select,
    Shuffle,
    StringImm,
    Var,
)
from .context import Context
from .values import (
    is_expr,
    python_binary,
    to_expr,
)


def interval(ctx: Context, lo: Any, hi: Any, node: ast.AST) -> Range:
    """[lo, hi) as a Range."""
    extent = distance(ctx, lo, hi, node)
    low = to_expr(ctx, lo, node, extent.dtype if isinstance(lo, int) else None)
    for e in (low, extent):
        if not dtypes.is_int(e.dtype):
            ctx.fail(node, f"a bound has dtype {e.dtype}; bounds are integers")
    return Range(low, extent)


def distance(ctx: Context, lo: Any, hi: Any, node: ast.AST) -> Expr:
    """The extent of [lo, hi): `hi - lo` with what both have in common cancelled."""
    if not is_expr(lo) and not is_expr(hi):
        return to_expr(ctx, python_binary(ctx, "-", hi, lo, node), node)
    if is_expr(lo):
        hi_e: Expr = to_expr(ctx, hi, node, lo.dtype)
        lo_e: Expr = lo
    else:
        hi_e = hi
        lo_e = to_expr(ctx, lo, node, hi.dtype)
    if type(lo_e) is IntImm and int(lo_e.value) == 0 and lo_e.dtype == hi_e.dtype:
        return hi_e
    if type(lo_e) is IntImm and type(hi_e) is IntImm and lo_e.dtype == hi_e.dtype:
        return IntImm(hi_e.value - lo_e.value, hi_e.dtype)
    if type(hi_e) is BinOp and hi_e.op == "+" and same(hi_e.a, lo_e):
        return hi_e.b
    return _cancel(hi_e, lo_e)


def _cancel(hi: Expr, lo: Expr) -> Expr:
    """`hi - lo` as a sum without the terms that occur in both."""
    terms: list[tuple[Expr, int]] = []
    const = 0
    stack = [(lo, -1), (hi, 1)]
    while stack:
        e, sign = stack.pop()
        if type(e) is BinOp and e.op in ("+", "-"):
            stack.append((e.b, sign if e.op == "+" else -sign))
            stack.append((e.a, sign))
        elif type(e) is IntImm:
            const += sign * e.value
        else:
            for k, (x, s) in enumerate(terms):
                if s == -sign and same(x, e):
                    del terms[k]
                    break
            else:
                terms.append((e, sign))
    dtype = hi.dtype if hi.dtype == lo.dtype else dtypes.promote(hi.dtype, lo.dtype)
    total: Expr = IntImm(0, dtype)
    for e, sign in sorted(terms, key=lambda t: -t[1]):
        total = build.add(total, e) if sign > 0 else build.sub(total, e)
    return build.add(total, IntImm(const, dtype))


def same(a: Expr, b: Expr) -> bool:
    """Are two expressions over the same variables written alike?"""
    if a is b:
        return True
    t = type(a)
    if t is not type(b) or t is Var or a.dtype != b.dtype:
        return False
    match a, b:
        case IntImm(), IntImm():
            return int(a.value) == int(b.value)
        case FloatImm(), FloatImm():
            return repr(a.value) == repr(b.value)  # -0.0 is not 0.0, and nan is nan
        case StringImm(), StringImm():
            return a.value == b.value
        case BinOp(), BinOp():
            if a.op != b.op:
                return False
        case Call(), Call():
            if a.op != b.op:
                return False
        case BufferLoad(), BufferLoad():
            if a.buffer is not b.buffer or (a.predicate is None) != (b.predicate is None):
                return False
        case Shuffle(), Shuffle():
            if a.indices != b.indices:
                return False
        case (
            (Cast(), Cast())
            | (Not(), Not())
            | (Select(), Select())
            | (Ramp(), Ramp())
            | (Broadcast(), Broadcast())
        ):
            pass
        case _:
            return False
    xs, ys = walk.expr_children(a), walk.expr_children(b)
    return len(xs) == len(ys) and all([same(x, y) for x, y in zip(xs, ys)])


def extent_of(ctx: Context, value: Any, node: ast.AST) -> Expr:
    """`value` as a loop or iterator extent: an integer, not negative if constant."""
    e = to_expr(ctx, value, node)
    if not dtypes.is_int(e.dtype):
        got = repr(value) if isinstance(value, float) else e.dtype
        ctx.fail(node, f"a loop extent is an integer, got {got}", "use // to divide")
    if type(e) is IntImm and int(e.value) < 0:
        ctx.fail(node, f"a loop extent is not negative, got {int(e.value)}", code="script-range")
    return e
