"""How is the arithmetic of inner loops made quick in the interpreter?

Closures for the operations that nearly every program spends its time in. What they compute is what
scalar.py says; they only get there with fewer calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import dtypes, scalar
from .access import CELL, Code, Env
from .nodes import BinOp, Expr, IntImm, Var


def affine_form(e: Expr) -> tuple[dict[Var, int], int] | None:
    """`e` as (factor of each variable, constant), where it is a scalar made of + - * only."""
    if type(e) is IntImm:
        return {}, int(e.value)
    if type(e) is Var:
        return ({e: 1}, 0) if dtypes.lanes(e.dtype) == 1 else None
    if type(e) is not BinOp or e.op not in ("+", "-", "*"):
        return None
    a, b = affine_form(e.a), affine_form(e.b)
    if a is None or b is None:
        return None
    if e.op == "*":
        if a[0] and b[0]:
            return None
        (terms, k), (_, f) = (a, b) if a[0] else (b, a)
        return {v: x * f for v, x in terms.items()}, k * f
    sign = 1 if e.op == "+" else -1
    out = dict(a[0])
    for v, x in b[0].items():
        out[v] = out.get(v, 0) + sign * x
    return out, a[1] + sign * b[1]


def affine(terms: Sequence[tuple[int, int]], k: int, dtype: str) -> Code:
    """A sum of (slot, factor) products and `k`: wrapping around once at the end gives what wrapping
    after each operation gives."""
    lo, hi = int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))
    fit = scalar.wrap(dtype)
    if len(terms) == 1:
        ((s, f),) = terms

        def one(env: Env) -> Any:
            x = env[s] * f + k
            return x if lo <= x <= hi else fit(x)

        return one
    if len(terms) == 2:
        (s, f), (t, g) = terms

        def two(env: Env) -> Any:
            x = env[s] * f + env[t] * g + k
            return x if lo <= x <= hi else fit(x)

        return two

    def many(env: Env) -> Any:
        x = k
        for s, f in terms:
            x += env[s] * f
        return x if lo <= x <= hi else fit(x)

    return many


def compare(op: str, a: Code, b: Code) -> Code | None:
    """A comparison, or None where `op` is something else."""
    match op:
        case "<":
            return lambda env: a(env) < b(env)
        case "<=":
            return lambda env: a(env) <= b(env)
        case ">":
            return lambda env: a(env) > b(env)
        case ">=":
            return lambda env: a(env) >= b(env)
        case "==":
            return lambda env: a(env) == b(env)
        case "!=":
            return lambda env: a(env) != b(env)
        case _:
            return None


def _add(a: Code, b: Code, single: bool) -> Code:
    if not single:
        return lambda env: a(env) + b(env)

    def add(env: Env) -> Any:
        x = a(env) + b(env)
        cell = env[CELL]
        cell[0] = x
        return cell[0]

    return add


def _sub(a: Code, b: Code, single: bool) -> Code:
    if not single:
        return lambda env: a(env) - b(env)

    def sub(env: Env) -> Any:
        x = a(env) - b(env)
        cell = env[CELL]
        cell[0] = x
        return cell[0]

    return sub


def _mul(a: Code, b: Code, single: bool) -> Code:
    if not single:
        return lambda env: a(env) * b(env)

    def mul(env: Env) -> Any:
        x = a(env) * b(env)
        cell = env[CELL]
        cell[0] = x
        return cell[0]

    return mul


FLOAT: dict[str, Callable[[Code, Code, bool], Code]] = {
    "+": _add,
    "-": _sub,
    "*": _mul,
}
