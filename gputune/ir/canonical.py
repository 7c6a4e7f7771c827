"""What is the canonical form of an index expression, given what is known of its variables?

Integer sums, floordiv, floormod, min, max and comparisons of int32 and int64 are brought to one
form, using constant bounds of the variables and the conditions that hold; other expressions are
gone into, but no floating-point arithmetic changes. Only constants with `type(v) is int` steer it
(see nodes.py).
"""

from __future__ import annotations

import math

from . import build, dtypes
from .affine import Terms, collect, from_linear, linear, recombine, same
from .build import FALSE, TRUE
from .intervals import INDEX, Domain, compare
from .known import FLIPPED, Known, as_negative, assume, is_negative, knowing, negated, with_value
from .nodes import (
    COMPARISONS,
    BinaryOp,
    BinOp,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Let,
    Not,
    Select,
    StringImm,
    Var,
)
from .walk import map_expr, substitute


def simplify(e: Expr, dom: Domain | None = None, *, keep_unit_vars: bool = False) -> Expr:
    """The canonical form of `e` for variables within `dom`; the same object if it is canonical.

    A variable whose bounds leave one value becomes that constant, unless `keep_unit_vars`.

    Example: with j in 0..3, `(i*4 + j)//4` is i.
    """
    return simplify_known(e, knowing(dom, keep_unit_vars))


def simplify_known(e: Expr, known: Known) -> Expr:
    """`simplify` where more is known than bounds."""
    if type(e) is IntImm or type(e) is FloatImm or type(e) is StringImm:
        return e
    if type(e) is Var:
        return _var(e, known)
    hit = known.memo.get(id(e))
    if hit is not None:
        return hit[1]
    out = _compute(e, known)
    known.memo[id(e)] = (e, out)  # holding `e` keeps its id from being used again
    return out


def _var(v: Var, known: Known) -> Expr:
    found = known.dom.get(v)
    if found is not None and not known.keep_unit_vars:
        lo, hi = found
        if lo is not None and lo == hi:
            return IntImm(lo, v.dtype)
    return v


def _compute(e: Expr, known: Known) -> Expr:
    if e.dtype in INDEX:
        terms, const = _sum(e, known)
        out = from_linear(terms, const, e.dtype)
        return e if same(out, e) else out
    match e:
        case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
            return _choice(e, cond, a, b, known)
        case Let():
            return _let(e, known)
        case Call(op="likely", args=(cond,)):
            inner = simplify_known(cond, known)
            if inner is cond:
                return e
            return inner if type(inner) is IntImm else Call("likely", (inner,), e.dtype)
    if e.dtype == "bool":
        return _truth(e, known)
    return map_expr(e, lambda x: simplify_known(x, known))


def _choice(e: Expr, cond: Expr, a: Expr, b: Expr, known: Known) -> Expr:
    """Select or if_then_else: each side may use what the condition says."""
    c = simplify_known(cond, known)
    if build.is_literal(c, 1):
        return simplify_known(a, known)
    if build.is_literal(c, 0):
        return simplify_known(b, known)
    if dtypes.lanes(c.dtype) > 1:
        x, y = simplify_known(a, known), simplify_known(b, known)
    else:
        x = simplify_known(a, assume(c, known))
        y = simplify_known(b, assume(c, known, holds=False))
    if same(x, y):
        return x
    if c is cond and x is a and y is b:
        return e
    return Select(c, x, y) if type(e) is Select else Call("if_then_else", (c, x, y), e.dtype)


def _let(e: Let, known: Known) -> Expr:
    value = simplify_known(e.value, known)
    if type(value) is IntImm or type(value) is Var:
        return simplify_known(substitute(e.body, {e.var: value}), known)
    body = simplify_known(e.body, with_value(known, e.var, value))
    return e if value is e.value and body is e.body else Let(e.var, value, body)


# ----------------------------------------------------------------------------- sums
def _sum(e: Expr, known: Known) -> tuple[Terms, int]:
    """`e` as a sum of simplified atoms."""
    terms: Terms = {}
    const = _add(e, 1, terms, known)
    if len(terms) > 1:
        const = recombine(terms, const)
    return terms, const


def _add(e: Expr, c: int, terms: Terms, known: Known) -> int:
    """Add c times `e`, simplified, to `terms`; the constant part is returned."""
    if type(e) is IntImm:
        return collect(e, c, terms)
    if type(e) is BinOp:
        op, a, b = e.op, e.a, e.b
        if op == "+":
            return _add(a, c, terms, known) + _add(b, c, terms, known)
        if op == "-":
            return _add(a, c, terms, known) + _add(b, -c, terms, known)
        if op == "*":
            if type(a) is IntImm:
                a, b = b, a
            if type(b) is IntImm:
                k = b.value
                if type(k) is int and k == 0:
                    return 0
                return _add(a, k if type(c) is int and c == 1 else c * k, terms, known)
    elif type(e) is Cast and e.dtype == "int64" and e.value.dtype == "int32":
        return _add(e.value, c, terms, known)
    return collect(_atom(e, known), c, terms)


def _atom(e: Expr, known: Known) -> Expr:
    """An integer node that is not a sum, simplified."""
    if type(e) is Var:
        return _var(e, known)
    hit = known.memo.get(id(e))
    if hit is not None:
        return hit[1]
    out = _atom_value(e, known)
    if out is not e and same(out, e):
        out = e
    known.memo[id(e)] = (e, out)
    return out


def _atom_value(e: Expr, known: Known) -> Expr:
    match e:
        case BinOp(op="//" | "%"):
            return _division(e.op, e.a, e.b, e.dtype, known)
        case BinOp(op="/" | "truncmod"):
            a, b = simplify_known(e.a, known), simplify_known(e.b, known)
            low, divisor = known.bounds(a)[0], known.bounds(b)[0]
            if type(low) is int and low >= 0 and type(divisor) is int and divisor > 0:
                return _division("//" if e.op == "/" else "%", a, b, e.dtype, known)
            return build.binary(e.op, a, b)
        case BinOp(op="min" | "max"):
            return _min_max(e.op, simplify_known(e.a, known), simplify_known(e.b, known), known)
        case BinOp(op="*"):
            return build.binary("*", simplify_known(e.a, known), simplify_known(e.b, known))
        case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
            return _choice(e, cond, a, b, known)
        case Let():
            return _let(e, known)
        case Call(op="abs", args=(a,)):
            inner = simplify_known(a, known)
            low, high = known.bounds(inner)
            if type(low) is int and low >= 0:
                return inner
            if type(high) is int and high <= 0:
                return simplify_known(build.neg(inner), known)
            return e if inner is a else Call("abs", (inner,), e.dtype)
        case Cast(value=Cast(value=inner)) if (
            inner.dtype == e.dtype == "int32" and e.value.dtype == "int64"
        ):
            return simplify_known(inner, known)
        case _:
            return map_expr(e, lambda x: simplify_known(x, known))


def _min_max(op: BinaryOp, a: Expr, b: Expr, known: Known) -> Expr:
    if type(a) is IntImm:
        a, b = b, a
    if type(b) is IntImm and type(a) is BinOp and a.op == op:
        inner = a.b
        if type(b.value) is int and type(inner) is IntImm and type(inner.value) is int:
            a, b = a.a, build.binary(op, inner, b)
    terms: Terms = {}
    const = collect(a, 1, terms) + collect(b, -1, terms)
    if len(terms) > 1:
        const = recombine(terms, const)
    lo, hi = known.span(terms, const)
    if lo is not None and lo >= 0:
        return a if op == "max" else b
    if hi is not None and hi <= 0:
        return b if op == "max" else a
    return build.binary(op, a, b)


# ----------------------------------------------------------------------------- division
def _division(op: BinaryOp, a: Expr, b: Expr, dtype: str, known: Known) -> Expr:
    divisor = simplify_known(b, known)
    if type(divisor) is not IntImm or type(divisor.value) is not int or divisor.value == 0:
        x = simplify_known(a, known)
        return _unknown_division(op, x, divisor, known)
    terms, const = _sum(a, known)
    if type(const) is not int or not all(type(c) is int for c in terms.values()):
        return build.binary(op, from_linear(terms, const, dtype), divisor)
    k = divisor.value
    sign = 1
    if k < 0:  # x // -k is (-x) // k, and x % -k is -((-x) % k)
        terms, const, k, sign = {x: -c for x, c in terms.items()}, -const, -k, -1
    if op == "//":
        return from_linear(*_floordiv(terms, const, k, known, dtype), dtype)
    out, rest = _floormod(terms, const, k, known, dtype)
    if sign < 0:
        out, rest = {x: -c for x, c in out.items()}, -rest
    return from_linear(out, rest, dtype)


def _unknown_division(op: BinaryOp, x: Expr, divisor: Expr, known: Known) -> Expr:
    """Division by something that is no plain constant."""
    lo, hi = known.bounds(x)
    least, _ = known.bounds(divisor)
    if type(lo) is int and type(hi) is int and type(least) is int and lo >= 0 and hi < least:
        return IntImm(0, x.dtype) if op == "//" else x
    return build.binary(op, x, divisor)


def _floordiv(
    terms: Terms, const: int, k: int, known: Known, dtype: str
) -> tuple[Terms, int]:  # fmt: skip
    """(sum) // k for k > 0, with plain factors; `terms` may be used up."""
    lo, hi = known.span(terms, const)
    if lo is not None and hi is not None and lo // k == hi // k:
        return {}, lo // k
    out = {x: c // k for x, c in terms.items() if c % k == 0}
    rest = {x: c for x, c in terms.items() if c % k}
    whole, r = const // k, const % k
    if not rest:
        return out, whole
    for g in _steps(rest, k):
        cut = _cut(rest, r, g, known)
        if cut is not None:
            high, more, _, _ = cut
            if g == k:
                return out, whole + more
            inner, extra = _floordiv(high, more, k // g, known, dtype)
            return _joined(out, whole + extra, inner)
    if len(rest) == 1:
        ((x, c),) = rest.items()
        nested = _nested_floordiv(x, c, r, k, known, dtype)
        if nested is not None:
            return _joined(out, whole + nested[1], nested[0])
    atom = build.binary("//", from_linear(rest, r, dtype), IntImm(k, dtype))
    return _joined(out, whole, {atom: 1})


def _nested_floordiv(
    x: Expr, c: int, r: int, k: int, known: Known, dtype: str
) -> tuple[Terms, int] | None:
    """(c*x + r) // k where x is itself a quotient or a remainder."""
    if c != 1 or type(x) is not BinOp or type(x.b) is not IntImm:
        return None
    m = x.b.value
    if type(m) is not int or m <= 0 or x.dtype != dtype:
        return None
    terms, const = linear(x.a)
    if not all(type(f) is int for f in terms.values()) or type(const) is not int:
        return None
    if x.op == "//":
        return _floordiv(terms, const + r * m, m * k, known, dtype)
    if x.op == "%" and r == 0 and m % k == 0:
        return _floormod(*_floordiv(terms, const, k, known, dtype), m // k, known, dtype)
    return None


def _floormod(
    terms: Terms, const: int, k: int, known: Known, dtype: str
) -> tuple[Terms, int]:  # fmt: skip
    """(sum) % k for k > 0, with plain factors."""
    while True:
        lo, hi = known.span(terms, const)
        if lo is not None and hi is not None and lo // k == hi // k:
            return terms, const - lo // k * k
        rest = {x: c for x, c in terms.items() if c % k}
        r = const % k
        if not rest:
            return {}, r
        for g in _steps(rest, k):
            cut = _cut(rest, r, g, known)
            if cut is not None:
                high, more, low, left = cut
                if g == k:
                    return low, left
                inner, extra = _floormod(high, more, k // g, known, dtype)
                return _joined({x: c * g for x, c in inner.items()}, left + g * extra, low)
        reduced, r = _reduced(rest, r, k)
        if reduced is None:
            atom = build.binary("%", from_linear(rest, r, dtype), IntImm(k, dtype))
            return _joined({}, 0, {atom: 1})
        terms, const = reduced, r


def _reduced(rest: Terms, r: int, k: int) -> tuple[Terms | None, int]:
    """Simpler terms that are the same modulo k, or None if there are none."""
    for x, c in rest.items():
        if type(x) is BinOp and x.op == "%" and type(x.b) is IntImm and type(x.b.value) is int:
            if x.b.value > 0 and c * x.b.value % k == 0:  # (y % m) is y modulo k
                inner, const = linear(x.a)
                if type(const) is int and all(type(f) is int for f in inner.values()):
                    out = {y: f for y, f in rest.items() if y is not x}
                    return _joined(out, r + c * const, {y: f * c for y, f in inner.items()})
    if any(not -k < c < k for c in rest.values()):
        return {x: c if -k < c < k else c % k for x, c in rest.items()}, r
    return None, r


def _steps(terms: Terms, k: int) -> list[int]:
    """The divisors of k that could separate high terms from low ones, greatest first."""
    return sorted({k, *(math.gcd(c, k) for c in terms.values())} - {1}, reverse=True)


def _cut(
    terms: Terms, const: int, g: int, known: Known
) -> tuple[Terms, int, Terms, int] | None:  # fmt: skip
    """sum = g * (high + more) + (low + left) with 0 <= low + left < g: (high, more, low, left)."""
    high = {x: c // g for x, c in terms.items() if c % g == 0}
    low = {x: c for x, c in terms.items() if c % g}
    lo, hi = known.span(low, const % g)
    if lo is None or hi is None or lo // g != hi // g:
        return None
    q = lo // g
    return high, const // g + q, low, const % g - g * q


def _joined(terms: Terms, const: int, more: Terms) -> tuple[Terms, int]:
    """The sum of two sums, with what belongs together put together."""
    out = dict(terms)
    for atom, c in more.items():
        const += collect(atom, c, out)
    if len(out) > 1:
        const = recombine(out, const)
    return out, const


# ----------------------------------------------------------------------------- conditions
def _truth(e: Expr, known: Known) -> Expr:
    match e:
        case BinOp(op="and" | "or"):
            a = simplify_known(e.a, known)
            if build.is_literal(a, 0 if e.op == "and" else 1):
                return a
            b = simplify_known(e.b, assume(a, known, holds=e.op == "and"))
            if same(a, b):
                return a
            return e if a is e.a and b is e.b else build.binary(e.op, a, b)
        case BinOp() if e.op in COMPARISONS:
            if e.a.dtype in INDEX:
                return _comparison(e, known)
            a, b = simplify_known(e.a, known), simplify_known(e.b, known)
            out = e if a is e.a and b is e.b else build.binary(e.op, a, b)
            lo, hi = known.bounds(out)
            if type(lo) is int and lo == hi:
                return TRUE if lo else FALSE
            return out
        case Not():
            a = simplify_known(e.a, known)
            out = negation(a)
            return e if same(out, e) else out
        case _:
            return map_expr(e, lambda x: simplify_known(x, known))


def negation(cond: Expr) -> Expr:
    """The opposite of a condition; a comparison of integers is turned around."""
    if type(cond) is BinOp and cond.op in COMPARISONS and dtypes.is_int(cond.a.dtype):
        return build.binary(FLIPPED[cond.op], cond.a, cond.b)
    return build.logical_not(cond)


def _comparison(e: BinOp, known: Known) -> Expr:
    dtype = e.a.dtype
    terms: Terms = {}
    const = _add(e.a, 1, terms, known) + _add(e.b, -1, terms, known)
    if len(terms) > 1:
        const = recombine(terms, const)
    if type(const) is not int or not all(type(c) is int for c in terms.values()):
        a, b = simplify_known(e.a, known), simplify_known(e.b, known)
        return e if a is e.a and b is e.b else build.binary(e.op, a, b)
    if e.op in ("==", "!="):
        out = _equality(e.op, terms, const, dtype, known)
    else:
        terms, const, opposite = as_negative(e.op, terms, const)
        out = _order(terms, const, opposite, dtype, known)
    return e if same(out, e) else out


def _equality(op: BinaryOp, terms: Terms, const: int, dtype: str, known: Known) -> Expr:
    decided = compare("==", known.span(terms, const))
    g = math.gcd(*terms.values())
    if g > 1 and const % g:
        decided = False
    if decided is None and (
        is_negative(terms, const, known) or is_negative(*negated(terms, const), known)
    ):
        decided = False
    if decided is not None:
        return TRUE if decided == (op == "==") else FALSE
    left, right = _sides({x: c // g for x, c in terms.items()})
    if not left:
        return build.binary(op, from_linear(right, 0, dtype), IntImm(const // g, dtype))
    rest = from_linear(right, -(const // g), dtype)
    return build.binary(op, from_linear(left, 0, dtype), rest)


def _order(terms: Terms, const: int, opposite: bool, dtype: str, known: Known) -> Expr:
    """`sum < 0`, or its opposite, as a comparison."""
    while True:
        decided = compare("<", known.span(terms, const))
        if decided is None:
            decided = is_negative(terms, const, known)
        if decided is not None:
            return TRUE if decided != opposite else FALSE
        smaller = _scaled_down(terms, const, known)
        if smaller is None:
            break
        terms, const = smaller
    left, right = _sides(terms)
    if left:
        op: BinaryOp = ">=" if opposite else "<"
        return build.binary(op, from_linear(left, 0, dtype), from_linear(right, -const, dtype))
    op = "<=" if opposite else ">"
    return build.binary(op, from_linear(right, 0, dtype), IntImm(const, dtype))


def _scaled_down(terms: Terms, const: int, known: Known) -> tuple[Terms, int] | None:
    """A simpler sum that is negative exactly when this one is."""
    for g in sorted({abs(c) for c in terms.values()} - {1}, reverse=True):
        cut = _cut(terms, const, g, known)
        if cut is not None and cut[0]:
            return cut[0], cut[1]
    g = math.gcd(*terms.values())
    if g > 1:
        return {x: c // g for x, c in terms.items()}, const // g
    if len(terms) == 1:
        ((x, c),) = terms.items()
        if type(x) is BinOp and x.op == "//" and type(x.b) is IntImm and abs(c) == 1:
            k = x.b.value
            inner, more = linear(x.a)
            if type(k) is not int or k <= 0 or not all(type(f) is int for f in inner.values()):
                return None
            if c == 1:  # y//k < n is y < n*k
                return inner, more + const * k
            return {y: -f for y, f in inner.items()}, (const + 1) * k - 1 - more
    return None


def _sides(terms: Terms) -> tuple[Terms, Terms]:
    left = {x: c for x, c in terms.items() if c > 0}
    return left, {x: -c for x, c in terms.items() if c < 0}
