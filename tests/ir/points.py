"""Brute force for the tests of arithmetic: expressions evaluated point by point."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from gputune.ir import build as b
from gputune.ir.iter_map import IterMark, IterSum
from gputune.ir.nodes import BinOp, Call, Cast, Expr, IntImm, Not, Select, Var

COMPARE = {
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}


class Undefined(Exception):
    """Division by zero."""


def value(e: Expr, env: Mapping[Var, int]) -> int:
    """The value of an integer or bool expression as a mathematical integer."""
    match e:
        case IntImm():
            return int(e.value)
        case Var():
            return env[e]
        case Cast():
            return value(e.value, env)
        case Not():
            return 1 - value(e.a, env)
        case Select(cond=c, a=x, b=y) | Call(op="if_then_else", args=(c, x, y)):
            return value(x if value(c, env) else y, env)
        case Call(op="likely", args=(x,)):
            return value(x, env)
        case Call(op="abs", args=(x,)):
            return abs(value(x, env))
        case BinOp(op="and"):
            return int(bool(value(e.a, env) and value(e.b, env)))
        case BinOp(op="or"):
            return int(bool(value(e.a, env) or value(e.b, env)))
        case BinOp():
            return _binary(e.op, value(e.a, env), value(e.b, env))
    raise AssertionError(f"not an index expression: {type(e)}")


def _binary(op: str, x: int, y: int) -> int:
    if op in COMPARE:
        return int(COMPARE[op](x, y))
    if op in ("//", "%", "/", "truncmod") and y == 0:
        raise Undefined
    toward_zero = 0 if y == 0 else (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)
    table: dict[str, Any] = {
        "+": lambda: x + y,
        "-": lambda: x - y,
        "*": lambda: x * y,
        "//": lambda: x // y,
        "%": lambda: x % y,
        "/": lambda: toward_zero,
        "truncmod": lambda: x - y * toward_zero,
        "min": lambda: min(x, y),
        "max": lambda: max(x, y),
        "&": lambda: x & y,
        "|": lambda: x | y,
        "^": lambda: x ^ y,
        "<<": lambda: x << y,
        ">>": lambda: x >> y,
    }
    out: int = table[op]()
    return out


def points(ranges: Mapping[Var, tuple[int, int]]) -> Iterator[dict[Var, int]]:
    """Every point of a domain with inclusive bounds."""
    names = list(ranges)
    for at in itertools.product(*[range(lo, hi + 1) for lo, hi in ranges.values()]):
        yield dict(zip(names, at))


def loop_points(loops: Mapping[Var, tuple[int, int]]) -> Iterator[dict[Var, int]]:
    """Every point of loops given as (minimum, extent)."""
    return points({v: (lo, lo + n - 1) for v, (lo, n) in loops.items()})


def mark_value(mark: IterMark, env: Mapping[Var, int], loops: Mapping[Var, Any]) -> int:
    if isinstance(mark.source, IterSum):
        return sum_value(mark.source, env, loops)
    return env[mark.source] - loops[mark.source][0]


def sum_value(s: IterSum, env: Mapping[Var, int], loops: Mapping[Var, Any]) -> int:
    """What a sum of digits says its value is."""
    return s.base + sum(
        mark_value(d.source, env, loops) // d.lower_factor % d.extent * d.scale for d in s.args
    )


def size(e: Expr) -> int:
    from gputune.ir.walk import walk_expr

    return sum(1 for _ in walk_expr(e))


# ----------------------------------------------------------------------------- strategies
def index_expr(variables: list[Var], depth: int = 3) -> st.SearchStrategy[Expr]:
    """Integer expressions of the kinds that indices are made of."""
    leaf = st.one_of(st.sampled_from(variables), st.integers(-9, 9).map(b.const))
    if depth == 0:
        return leaf
    inner = index_expr(variables, depth - 1)
    small = st.integers(1, 8)
    signed = st.sampled_from([-6, -4, -3, -1, 2, 3, 4, 5, 6, 8])
    return st.one_of(
        leaf,
        st.builds(b.add, inner, inner),
        st.builds(b.sub, inner, inner),
        st.builds(b.mul, inner, st.integers(-6, 8)),
        st.builds(lambda x, k, y: x * k + y, inner, small, inner),
        st.builds(b.floordiv, inner, small),
        st.builds(b.floormod, inner, small),
        st.builds(lambda x, k: x // k * k + x % k, inner, small),
        st.builds(b.floordiv, inner, signed),
        st.builds(b.floormod, inner, signed),
        st.builds(b.div, inner, signed),
        st.builds(lambda x, k: b.binary("truncmod", x, k), inner, signed),
        st.builds(b.minimum, inner, inner),
        st.builds(b.maximum, inner, inner),
        st.builds(lambda c, x, y: b.select(c, x, y), condition(variables, depth - 1), inner, inner),
        st.builds(
            lambda c, x, y: b.if_then_else(c, x, y), condition(variables, depth - 1), inner, inner
        ),
        st.builds(lambda x: Call("abs", (x,), x.dtype), inner),
        st.builds(lambda x: b.cast("int32", b.cast("int64", x) * 2 + 1), inner),
        st.builds(lambda op, x, y: b.binary(op, x, y), st.sampled_from("&|^"), inner, inner),
        st.builds(b.floordiv, inner, inner),
        st.builds(b.floormod, inner, inner),
    )


def condition(variables: list[Var], depth: int = 2) -> st.SearchStrategy[Expr]:
    """Conditions over index expressions."""
    side = index_expr(variables, min(depth, 2))
    plain = st.builds(
        lambda op, x, y: b.binary(op, x, y), st.sampled_from(sorted(COMPARE)), side, side
    )
    if depth <= 0:
        return plain
    inner = condition(variables, depth - 1)
    return st.one_of(
        plain,
        plain,
        st.builds(b.logical_and, inner, inner),
        st.builds(b.logical_or, inner, inner),
        st.builds(b.logical_not, inner),
        st.builds(lambda c: Call("likely", (c,), "bool"), inner),
    )


def affine_expr(variables: list[Var]) -> st.SearchStrategy[Expr]:
    """Sums, and quotients and remainders of sums by positive constants."""
    leaf = st.one_of(st.sampled_from(variables), st.integers(-3, 9).map(b.const))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(b.add, inner, inner),
            st.builds(b.sub, inner, inner),
            st.builds(b.mul, inner, st.sampled_from([2, 3, 4, 8, -1])),
            st.builds(b.floordiv, inner, st.sampled_from([2, 3, 4, 6, 8])),
            st.builds(b.floormod, inner, st.sampled_from([2, 3, 4, 6, 8])),
        ),
        max_leaves=6,
    )
