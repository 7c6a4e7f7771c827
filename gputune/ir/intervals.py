"""Which values can an integer expression take?

Index arithmetic (int32, int64) is taken not to overflow; narrower and unsigned integers wrap
around, and are given the bounds of their dtype wherever they might. Sampled values (see nodes.py)
are compared where it must be, which records guards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from . import build, dtypes
from .affine import linear, minus, recombine
from .nodes import (
    COMPARISONS,
    BinOp,
    Broadcast,
    Call,
    Cast,
    Expr,
    IntImm,
    Let,
    Not,
    Ramp,
    Select,
    Var,
)

Interval: TypeAlias = tuple[int | None, int | None]
"""Inclusive bounds; None where there is none."""

Domain: TypeAlias = Mapping[Var, Interval]
"""Inclusive constant bounds of variables; a variable that is missing is unbounded."""

INDEX = frozenset({"int32", "int64"})
"""Dtypes of index arithmetic, in which overflow does not happen."""

NOTHING: Domain = {}
_ANY: Interval = (None, None)


def bounds(e: Expr, dom: Domain = NOTHING) -> Interval:
    """Inclusive constant bounds of an integer or bool expression over `dom`; None where unbounded.

    Exact for sums with distinct variables; never too narrow.

    Example: with i in 0..7, `i*2 + 1` is in (1, 15).
    """
    if type(e) is IntImm:
        return e.value, e.value
    if type(e) is Var:
        found = dom.get(e)
        return found if found is not None else dtype_bounds(e.dtype)
    if type(e) is BinOp and e.op in ("+", "-", "*"):
        if not dtypes.is_int(e.dtype):
            return dtype_bounds(e.dtype)
        terms, const = linear(e)
        if len(terms) > 1:
            const = recombine(terms, const)
        return _fit(sum_bounds(terms, const, dom), e.dtype)
    return _atom_bounds(e, dom)


def sum_bounds(terms: Mapping[Expr, int], const: int, dom: Domain) -> Interval:
    """Bounds of a sum."""
    lo: int | None = const
    hi: int | None = const
    for atom, c in terms.items():
        a, b = _atom_bounds(atom, dom)
        if c < 0:
            a, b = b, a
        lo = None if lo is None or a is None else lo + c * a
        hi = None if hi is None or b is None else hi + c * b
        if lo is None and hi is None:
            return _ANY
    return lo, hi


def dtype_bounds(dtype: str) -> Interval:
    """What every value of the dtype keeps to; none for index dtypes, floats and handles."""
    base = dtypes.scalar(dtype)
    if base in INDEX or not (dtypes.is_int(base) or base == "bool"):
        return _ANY
    return int(dtypes.min_value(base)), int(dtypes.max_value(base))


def _fit(b: Interval, dtype: str) -> Interval:
    """`b`, or the range of the dtype where the value may wrap around."""
    base = dtypes.scalar(dtype)
    if base in INDEX:
        return b
    lo, hi = dtype_bounds(base)
    if lo is None or hi is None:
        return b
    if b[0] is None or b[1] is None or b[0] < lo or b[1] > hi:
        return lo, hi
    return b


def _atom_bounds(e: Expr, dom: Domain) -> Interval:
    match e:
        case Var() | IntImm():
            return bounds(e, dom)
        case BinOp():
            return _fit(_binop_bounds(e, dom), e.dtype)
        case Cast():
            return _cast_bounds(e, dom)
        case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
            if not (dtypes.is_int(e.dtype) or dtypes.is_bool(e.dtype)):
                return _ANY
            known = bounds(cond, dom)
            if known == (1, 1):
                return bounds(a, dom)
            if known == (0, 0):
                return bounds(b, dom)
            return _hull(bounds(a, dom), bounds(b, dom))
        case Call(op="likely", args=(a,)):
            return bounds(a, dom)
        case Call(op="abs", args=(a,)) if dtypes.is_int(e.dtype):
            return _fit(_abs_bounds(bounds(a, dom)), e.dtype)
        case Call(op="popcount"):
            return 0, 64
        case Not(a=a):
            lo, hi = bounds(a, dom)
            return None if hi is None else 1 - hi, None if lo is None else 1 - lo
        case Broadcast(value=a):
            return bounds(a, dom)
        case Ramp():
            return _hull(
                bounds(e.base, dom),
                bounds(build.add(e.base, build.mul(e.stride, e.lanes - 1)), dom),
            )
        case Let():
            lo, hi = bounds(e.value, dom)
            if lo is None or hi is None:
                return bounds(e.body, dom)
            return bounds(e.body, {**dom, e.var: (lo, hi)})
        case _:
            return dtype_bounds(e.dtype)


def _hull(a: Interval, b: Interval) -> Interval:
    return _least(a[0], b[0]), _most(a[1], b[1])


def _least(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else min(a, b)


def _most(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else max(a, b)


def _abs_bounds(b: Interval) -> Interval:
    lo, hi = b
    most = None if lo is None or hi is None else max(-lo, hi)
    if lo is not None and lo >= 0:
        return lo, hi
    if hi is not None and hi <= 0:
        return -hi, most
    return 0, most


def _cast_bounds(e: Cast, dom: Domain) -> Interval:
    if dtypes.is_bool(e.dtype):
        return 0, 1
    source = e.value.dtype
    if not dtypes.is_int(e.dtype):
        return _ANY
    if not (dtypes.is_int(source) or dtypes.is_bool(source)):
        return dtype_bounds(e.dtype)
    inner = bounds(e.value, dom)
    if dtypes.scalar(e.dtype) == "int32" and dtypes.scalar(source) in ("int64", "uint64", "uint32"):
        lo, hi = inner
        if lo is None or hi is None or lo < -(2**31) or hi >= 2**31:
            return -(2**31), 2**31 - 1
    if dtypes.scalar(e.dtype) == "int64" and dtypes.scalar(source) == "uint64":
        if inner[1] is None or inner[1] >= 2**63:
            return _ANY
    return _fit(inner, e.dtype)


def _binop_bounds(e: BinOp, dom: Domain) -> Interval:
    op = e.op
    if op in COMPARISONS or op in ("and", "or"):
        return _truth_bounds(e, dom)
    if not (dtypes.is_int(e.dtype) or dtypes.is_bool(e.dtype)):
        return _ANY
    a, b = bounds(e.a, dom), bounds(e.b, dom)
    match op:
        case "+" | "-":  # reached only through an atom that is not one: bool arithmetic
            return dtype_bounds(e.dtype)
        case "*":
            return _product_bounds(a, b)
        case "//":
            return _floordiv_bounds(a, b)
        case "%":
            return _floormod_bounds(a, b)
        case "/":
            return _truncdiv_bounds(a, b)
        case "truncmod":
            return _truncmod_bounds(a, b)
        case "min":
            lo = _least(a[0], b[0])
            return lo, _narrow(min, a[1], b[1])
        case "max":
            return _narrow(max, a[0], b[0]), _most(a[1], b[1])
        case "&" | "|" | "^":
            return _bit_bounds(op, a, b)
        case "<<":
            if b[0] is not None and b[0] >= 0 and b[1] is not None and b[1] < 64:
                return _corners(a, b, lambda x, y: x << y)
            return _ANY
        case ">>":
            if b[0] is not None and b[0] >= 0 and b[1] is not None and b[1] < 64:
                return _corners(a, b, lambda x, y: x >> y)
            return _ANY
        case _:
            return _ANY


def _narrow(pick: Any, a: int | None, b: int | None) -> int | None:
    """`pick(a, b)`, where None is no bound at all."""
    if a is None:
        return b
    if b is None:
        return a
    out: int = pick(a, b)
    return out


def _product_bounds(a: Interval, b: Interval) -> Interval:
    if a[0] is not None and b[0] is not None and a[0] >= 0 and b[0] >= 0:
        return a[0] * b[0], None if a[1] is None or b[1] is None else a[1] * b[1]
    return _corners(a, b, lambda x, y: x * y)


def _corners(a: Interval, b: Interval, f: Any) -> Interval:
    """Bounds of `f`, monotone in each argument, from the corners."""
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return _ANY
    points = [f(x, y) for x in a for y in b]
    return min(points), max(points)


def _not_negative(a: Interval) -> bool:
    return a[0] is not None and bool(a[0] >= 0)


def _floordiv_bounds(a: Interval, b: Interval) -> Interval:
    if b[0] is None or b[0] <= 0:
        if b[1] is not None and b[1] < 0 and None not in (*a, b[0]):
            return _corners(a, b, lambda x, y: x // y)
        return _ANY
    lo, hi = a
    if b[0] is b[1]:  # a constant
        return (None if lo is None else lo // b[0]), (None if hi is None else hi // b[0])
    least, most = b[0], b[1]
    if lo is not None:
        if lo >= 0:
            lo = 0 if most is None else lo // most
        else:
            lo = lo // least
    if hi is not None:
        if hi >= 0:
            hi = hi // least
        else:
            hi = -1 if most is None else hi // most
    return lo, hi


def _floormod_bounds(a: Interval, b: Interval) -> Interval:
    if b[0] is None or b[1] is None:
        if b[0] is not None and b[0] > 0:
            return 0, a[1] if _not_negative(a) else None
        return _ANY
    lo, hi = a
    if b[0] <= 0:
        return (b[0] + 1, 0) if b[1] < 0 else _ANY
    if lo is not None and hi is not None:
        if b[0] is b[1]:
            k = b[0]
            if (hi + 1 - lo) % k == 0 and lo % k == 0:
                return 0, k - 1  # every remainder: no question of how many periods
            if lo // k == hi // k:  # one period
                return lo % k, hi % k
        elif lo >= 0 and hi < b[0]:
            return a
    top = b[1] - 1
    if lo is not None and hi is not None and lo >= 0 and hi < top:
        top = hi
    return 0, top


def _truncdiv_bounds(a: Interval, b: Interval) -> Interval:
    if _not_negative(a) and b[0] is not None and b[0] > 0:
        return _floordiv_bounds(a, b)
    if None in (*a, *b) or b[0] <= 0 <= b[1]:  # type: ignore[operator]  # none of them is None
        return _ANY
    low, high = _corners(a, b, lambda x, y: x // y if (x >= 0) == (y > 0) else -(-x // y))
    assert low is not None
    assert high is not None
    if a[0] <= 0 <= a[1]:  # type: ignore[operator]
        return min(low, 0), max(high, 0)
    return low, high


def _truncmod_bounds(a: Interval, b: Interval) -> Interval:
    """The remainder has the sign of `a` and is smaller than `b`, both taken without sign."""
    if b[0] is None or b[1] is None or b[0] <= 0 <= b[1]:
        return _ANY
    top = max(-b[0], b[1]) - 1
    lo: int | None = -top
    hi: int | None = top
    if a[0] is not None:
        lo = 0 if a[0] >= 0 else max(-top, a[0])
    if a[1] is not None:
        hi = 0 if a[1] <= 0 else min(top, a[1])
    return lo, hi


def _bit_bounds(op: str, a: Interval, b: Interval) -> Interval:
    plus_a, plus_b = _not_negative(a), _not_negative(b)
    if op == "&":
        if plus_a and plus_b:
            return 0, _narrow(min, a[1], b[1])
        if plus_a or plus_b:
            return 0, a[1] if plus_a else b[1]
        return _ANY
    if not (plus_a and plus_b) or a[1] is None or b[1] is None:
        return _ANY
    top = (1 << int(max(a[1], b[1])).bit_length()) - 1
    return (max(a[0], b[0]) if op == "|" else 0), top  # type: ignore[type-var]  # not negative


def _truth_bounds(e: BinOp, dom: Domain) -> Interval:
    if e.op == "and":
        a, b = bounds(e.a, dom), bounds(e.b, dom)
        if a == (0, 0) or b == (0, 0):
            return 0, 0
        return (1, 1) if a == b == (1, 1) else (0, 1)
    if e.op == "or":
        a, b = bounds(e.a, dom), bounds(e.b, dom)
        if a == (1, 1) or b == (1, 1):
            return 1, 1
        return (0, 0) if a == b == (0, 0) else (0, 1)
    known = compare(e.op, difference(e.a, e.b, dom))
    return (0, 1) if known is None else (int(known), int(known))


def difference(a: Expr, b: Expr, dom: Domain) -> Interval:
    """Bounds of a - b as mathematical integers, without wrapping around."""
    if not (dtypes.is_int(a.dtype) or dtypes.is_bool(a.dtype)):
        return _ANY
    if dtypes.scalar(a.dtype) in INDEX:
        terms, const = minus(a, b)
        return sum_bounds(terms, const, dom)
    x, y = bounds(a, dom), bounds(b, dom)
    return (
        None if x[0] is None or y[1] is None else x[0] - y[1],
        None if x[1] is None or y[0] is None else x[1] - y[0],
    )


def compare(op: str, d: Interval) -> bool | None:
    """Is `x op 0` true or false for all x in the interval, or (None) neither?"""
    lo, hi = d
    match op:
        case "<":
            if hi is not None and hi < 0:
                return True
            return False if lo is not None and lo >= 0 else None
        case "<=":
            if hi is not None and hi <= 0:
                return True
            return False if lo is not None and lo > 0 else None
        case ">":
            if lo is not None and lo > 0:
                return True
            return False if hi is not None and hi <= 0 else None
        case ">=":
            if lo is not None and lo >= 0:
                return True
            return False if hi is not None and hi < 0 else None
        case "==" | "!=":
            known: bool | None = None
            if (lo is not None and lo > 0) or (hi is not None and hi < 0):
                known = False
            elif lo is not None and hi is not None and lo == 0 == hi:
                known = True
            return known if known is None or op == "==" else not known
        case _:
            return None
