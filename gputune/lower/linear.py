"""What is an index, as a sum of integer multiples of things? Linear forms and intervals.

A linear form is `const + sum(coef * atom)`; an atom is a variable or an expression that is not a
sum itself. Division and remainder by constants are resolved where the intervals of the variables
(`Dom`) allow it, so what splitting and fusing wrote comes out as the plain sum that it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from math import gcd
from typing import TypeAlias

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
    Let,
    Not,
    Ramp,
    Select,
    Shuffle,
    StringImm,
    Var,
)

Bounds: TypeAlias = tuple[int, int]
Dom: TypeAlias = Mapping[Var, Bounds]
"""Variable -> the least and greatest value that it takes (both included)."""


class Where(dict[Var, Bounds]):
    """The domain inside of conditions, with what they say of sums.

    Attributes:
        sums: by the key of a sum without constant, the greatest value that it takes.
    """

    __slots__ = ("sums",)

    def __init__(self, dom: Dom, sums: Mapping[Hashable, int] | None = None) -> None:
        super().__init__(dom)
        known = dom.sums if isinstance(dom, Where) else {}
        self.sums: dict[Hashable, int] = dict(known if sums is None else sums)


def inside(dom: Dom, v: Var, bounds: Bounds) -> dict[Var, Bounds]:
    """The domain inside a loop."""
    out = Where(dom) if isinstance(dom, Where) else dict(dom)
    out[v] = bounds
    return out


_ANY: Bounds = (-(2**63), 2**63 - 1)


class Linear:
    """`const + sum(coef * atom)`; `terms` maps the key of an atom to (atom, coef), coef not 0."""

    __slots__ = ("const", "terms")

    def __init__(self, terms: dict[Hashable, tuple[Expr, int]], const: int) -> None:
        self.terms = terms
        self.const = const

    def coef(self, var: Var) -> int:
        """The multiple of `var`."""
        found = self.terms.get(var)
        return found[1] if found is not None else 0

    def without(self, names: Iterable[Hashable]) -> Linear:
        """The form less the terms of these keys."""
        drop = set(names)
        return Linear({k: t for k, t in self.terms.items() if k not in drop}, self.const)

    def key(self) -> Hashable:
        """Equal for equal forms."""
        return (frozenset((k, c) for k, (_, c) in self.terms.items()), self.const)

    def atoms(self) -> list[Expr]:
        """The things that are added."""
        return [a for a, _ in self.terms.values()]


def key(e: Expr) -> Hashable:
    """Equal for expressions of the same structure over the same variables and buffers."""
    t = type(e)
    if t is Var:
        return e
    match e:
        case IntImm():
            return ("i", int(e.value), e.dtype)
        case FloatImm():
            return ("f", e.value.hex(), e.dtype)
        case StringImm():
            return ("s", e.value)
        case BinOp():
            return (e.op, key(e.a), key(e.b))
        case Cast():
            return ("cast", e.dtype, key(e.value))
        case Call():
            return ("call", e.op, e.dtype, *map(key, e.args))
        case BufferLoad():
            mask = None if e.predicate is None else key(e.predicate)
            return ("load", e.buffer, mask, *map(key, e.indices))
        case Ramp():
            return ("ramp", key(e.base), key(e.stride), e.lanes)
        case Broadcast():
            return ("broadcast", key(e.value), e.lanes)
        case Shuffle():
            return ("shuffle", e.indices, *map(key, e.vectors))
        case Let():
            return ("let", e.var, key(e.value), key(e.body))
        case Not() | Select() | Var():
            return (type(e).__name__, *map(key, walk.expr_children(e)))


def linear(e: Expr, dom: Dom) -> Linear:
    """The scalar integer expression `e` as a linear form."""
    t = type(e)
    if t is IntImm:
        return Linear({}, int(e.value))  # type: ignore[union-attr, arg-type]  # t is the class of e
    if t is Var:
        return Linear({e: (e, 1)}, 0)
    match e:
        case BinOp(op="+"):
            return plus(linear(e.a, dom), linear(e.b, dom))
        case BinOp(op="-"):
            return plus(linear(e.a, dom), times(linear(e.b, dom), -1))
        case BinOp(op="*"):
            a, b = linear(e.a, dom), linear(e.b, dom)
            if not b.terms:
                return times(a, b.const)
            if not a.terms:
                return times(b, a.const)
            return _opaque(BinOp("*", to_expr(a, e.dtype), to_expr(b, e.dtype), e.dtype))
        case BinOp(op="<<") if type(e.b) is IntImm and 0 <= e.b.value < 31:
            return times(linear(e.a, dom), 1 << int(e.b.value))
        case BinOp(op="//" | "%" | "/" | "truncmod") if type(e.b) is IntImm and e.b.value > 0:
            a, c = linear(e.a, dom), int(e.b.value)
            if e.op in ("/", "truncmod") and interval_of(a, dom)[0] < 0:
                return _opaque(e)
            return _floordiv(a, c, e.dtype, dom) if e.op in ("//", "/") else _mod(
                a, c, e.dtype, dom
            )  # fmt: skip
        case Cast() if _widens(e):
            return linear(e.value, dom)
        case Call(op="likely"):
            return linear(e.args[0], dom)
        case BinOp(op="min" | "max"):
            a, b = linear(e.a, dom), linear(e.b, dom)
            lo, hi = interval_of(plus(a, times(b, -1)), dom)
            if hi <= 0:
                return a if e.op == "min" else b
            if lo >= 0:
                return b if e.op == "min" else a
            return _opaque(e)
        case _:
            return _opaque(e)


def _opaque(e: Expr) -> Linear:
    return Linear({key(e): (e, 1)}, 0)


def _widens(e: Cast) -> bool:
    src = e.value.dtype
    if not dtypes.is_int(src) or not dtypes.is_int(e.dtype) or dtypes.is_unsigned(e.dtype):
        return False
    return dtypes.bits(e.dtype) > dtypes.bits(src) or (
        dtypes.bits(e.dtype) == dtypes.bits(src) and not dtypes.is_unsigned(src)
    )


def plus(a: Linear, b: Linear) -> Linear:
    """The sum; what a split and a fuse wrote (`x // c * c + x % c`) is put together again."""
    if not b.terms:
        return Linear(a.terms, a.const + b.const) if b.const else a
    if not a.terms:
        return Linear(b.terms, a.const + b.const) if a.const else b
    terms = dict(a.terms)
    for k, (atom, c) in b.terms.items():
        old = terms.get(k)
        c += old[1] if old is not None else 0
        if c:
            terms[k] = (atom, c)
        else:
            del terms[k]
    return _rejoin(Linear(terms, a.const + b.const))


def _rejoin(form: Linear) -> Linear:
    for k, (atom, c) in form.terms.items():
        if type(atom) is BinOp and atom.op == "%" and type(atom.b) is IntImm:
            quotient = ("//", key(atom.a), key(atom.b))
            found = form.terms.get(quotient)
            if found is not None and found[1] == c * int(atom.b.value):
                rest = form.without((k, quotient))
                return plus(rest, times(linear(atom.a, {}), c))
    return form


def times(a: Linear, c: int) -> Linear:
    """`a` times the constant `c`."""
    if c == 1:
        return a
    if c == 0:
        return Linear({}, 0)
    return Linear({k: (x, n * c) for k, (x, n) in a.terms.items()}, a.const * c)


def _split(a: Linear, c: int) -> tuple[Linear, Linear]:
    """(d, r) with a = c * d + r, the constant of r in [0, c), and no term of r divisible by c."""
    whole = {k: (x, n // c) for k, (x, n) in a.terms.items() if n % c == 0}
    rest = {k: t for k, t in a.terms.items() if t[1] % c}
    return Linear(whole, a.const // c), Linear(rest, a.const % c)


def _floordiv(a: Linear, c: int, dtype: str, dom: Dom) -> Linear:
    if c == 1:
        return a
    whole, rest = _split(a, c)
    lo, hi = interval_of(rest, dom)
    if lo // c == hi // c:
        return Linear(whole.terms, whole.const + lo // c)
    rest, _ = _peel(rest, c, dom)
    g = gcd(c, *(n for _, n in rest.terms.values()))
    inner = Linear({k: (x, n // g) for k, (x, n) in rest.terms.items()}, rest.const // g)
    folded = _fold_div(inner, c // g, dtype)
    return plus(whole, folded)


def _peel(a: Linear, c: int, dom: Dom) -> tuple[Linear, Linear]:
    """(b, r) with a = b + r and a // c = b // c: all of b is a multiple of some divisor of c, and r
    is less than that. Example: of `(4 * t + lane) // 16` with lane < 4, r is the lane."""
    for g in sorted({gcd(n, c) for _, n in a.terms.values()}, reverse=True):
        small = Linear({k: t for k, t in a.terms.items() if t[1] % g}, a.const % g)
        if g == 1 or not small.terms:
            continue
        lo, hi = interval_of(small, dom)
        if lo >= 0 and hi < g:
            big = {k: t for k, t in a.terms.items() if t[1] % g == 0}
            return Linear(big, a.const - a.const % g), small
    return a, Linear({}, 0)


def _fold_div(inner: Linear, c: int, dtype: str) -> Linear:
    """`inner // c`, with (x // a) // c as x // (a * c)."""
    if len(inner.terms) == 1 and inner.const == 0:
        ((atom, n),) = inner.terms.values()
        if n == 1 and type(atom) is BinOp and atom.op == "//" and type(atom.b) is IntImm:
            return _opaque(BinOp("//", atom.a, IntImm(int(atom.b.value) * c, dtype), dtype))
    return _opaque(BinOp("//", to_expr(inner, dtype), IntImm(c, dtype), dtype))


def _mod(a: Linear, c: int, dtype: str, dom: Dom) -> Linear:
    if c == 1:
        return Linear({}, 0)
    _, rest = _split(a, c)
    lo, hi = interval_of(rest, dom)
    if lo // c == hi // c:
        return Linear(rest.terms, rest.const - lo // c * c)
    rest, small = _peel(rest, c, dom)
    if small.terms:
        return plus(_mod(rest, c, dtype, dom), small)
    g = gcd(c, *(n for _, n in rest.terms.values()))
    inner = Linear({k: (x, n // g) for k, (x, n) in rest.terms.items()}, rest.const // g)
    atom = BinOp("%", to_expr(inner, dtype), IntImm(c // g, dtype), dtype)
    out = times(_opaque(atom), g)
    return Linear(out.terms, rest.const % g)


def to_expr(form: Linear, dtype: str) -> Expr:
    """The form as an expression of `dtype`: terms first, then the constant."""
    out: Expr | None = None
    for atom, c in form.terms.values():
        x = atom if atom.dtype == dtype else build.cast(dtype, atom)
        if out is None:
            out = x if c == 1 else build.mul(x, IntImm(c, dtype))
        elif c == -1:
            out = build.sub(out, x)
        elif c < 0:
            out = build.sub(out, build.mul(x, IntImm(-c, dtype)))
        else:
            out = build.add(out, x if c == 1 else build.mul(x, IntImm(c, dtype)))
    if out is None:
        return IntImm(form.const, dtype)
    if form.const < 0:
        return build.sub(out, IntImm(-form.const, dtype))
    return build.add(out, IntImm(form.const, dtype))


# ----------------------------------------------------------------------------- intervals
def interval_of(form: Linear, dom: Dom) -> Bounds:
    """The least and greatest value that the form can take (or wider)."""
    lo = hi = form.const
    for atom, c in form.terms.values():
        a, b = _atom_interval(atom, dom)
        if c < 0:
            a, b = b, a
        lo += a * c
        hi += b * c
    if isinstance(dom, Where) and dom.sums and len(form.terms) > 1:
        most = dom.sums.get(Linear(form.terms, 0).key())
        if most is not None:
            hi = max(lo, min(hi, most + form.const))
    return lo, hi


def within(cond: Expr, dom: Dom) -> Where:
    """The domain where a condition holds: variables, and sums of several, have upper bounds."""
    out = Where(dom)
    for c in conjuncts(cond):
        form = below_zero(c, dom)
        if form is None:
            continue
        free, most = Linear(form.terms, 0), -form.const - 1
        if len(free.terms) > 1:
            out.sums[free.key()] = min(most, out.sums.get(free.key(), most))
            continue
        for atom, n in free.terms.values():
            if type(atom) is Var and n == 1 and atom in out:
                lo, hi = out[atom]
                out[atom] = (lo, max(lo, min(hi, most)))
    return out


def below_zero(c: Expr, dom: Dom) -> Linear | None:
    """The form that is below 0 just where the comparison holds."""
    if type(c) is not BinOp or c.op not in ("<", "<=", ">", ">="):
        return None
    if not dtypes.is_int(c.a.dtype) or dtypes.lanes(c.a.dtype) > 1:
        return None
    a, b = (c.a, c.b) if c.op in ("<", "<=") else (c.b, c.a)
    form = plus(linear(a, dom), times(linear(b, dom), -1))
    return form if c.op in ("<", ">") else Linear(form.terms, form.const - 1)


def coarser(c: Expr, dom: Dom) -> Expr:
    """The comparison without what is too small to matter: `x * 4 + lane < 48` with lane < 4 is
    `x < 12`."""
    form = below_zero(c, dom)
    if form is None or not form.terms:
        return c
    for g in sorted({abs(n) for _, n in form.terms.values()}, reverse=True):
        small = Linear({k: t for k, t in form.terms.items() if t[1] % g}, form.const % g)
        if g == 1 or not small.terms:
            continue
        lo, hi = interval_of(small, dom)
        if lo >= 0 and hi < g:
            big = {k: (x, n // g) for k, (x, n) in form.terms.items() if n % g == 0}
            assert type(c) is BinOp  # or there were no form
            sum_, bound = to_expr(Linear(big, 0), c.a.dtype), -(form.const // g)
            return build.lt(sum_, IntImm(bound, c.a.dtype))
    return c


def interval(e: Expr, dom: Dom) -> Bounds:
    """The least and greatest value that the integer expression `e` can take (or wider)."""
    return interval_of(linear(e, dom), dom)


def _atom_interval(e: Expr, dom: Dom) -> Bounds:
    if type(e) is Var:
        known = dom.get(e)
        return known if known is not None else _dtype_interval(e.dtype)
    match e:
        case BinOp(op="//" | "/") if type(e.b) is IntImm and e.b.value > 0:
            lo, hi = interval(e.a, dom)
            c = int(e.b.value)
            if e.op == "/":
                return -(-lo // c) if lo < 0 else lo // c, -(-hi // c) if hi < 0 else hi // c
            return lo // c, hi // c
        case BinOp(op="%") if type(e.b) is IntImm and e.b.value > 0:
            lo, hi = interval(e.a, dom)
            c = int(e.b.value)
            return (lo % c, hi % c) if lo // c == hi // c else (0, c - 1)
        case BinOp(op="min"):
            (a, b), (c, d) = interval(e.a, dom), interval(e.b, dom)
            return min(a, c), min(b, d)
        case BinOp(op="max"):
            (a, b), (c, d) = interval(e.a, dom), interval(e.b, dom)
            return max(a, c), max(b, d)
        case BinOp(op="*"):
            (a, b), (c, d) = interval(e.a, dom), interval(e.b, dom)
            ends = (a * c, a * d, b * c, b * d)
            return min(ends), max(ends)
        case BinOp(op="&") if type(e.b) is IntImm and e.b.value >= 0:
            return 0, int(e.b.value)
        case BinOp(op=">>") if type(e.b) is IntImm and 0 <= e.b.value < 64:
            lo, hi = interval(e.a, dom)
            return lo >> int(e.b.value), hi >> int(e.b.value)
        case Select():
            return _union(e.a, e.b, dom)
        case Call(op="if_then_else"):
            return _union(e.args[1], e.args[2], dom)
        case Cast() if dtypes.is_int(e.value.dtype) or dtypes.is_bool(e.value.dtype):
            inner = (0, 1) if dtypes.is_bool(e.value.dtype) else interval(e.value, dom)
            own = _dtype_interval(e.dtype)
            return inner if own[0] <= inner[0] and inner[1] <= own[1] else own
        case _:
            return _dtype_interval(e.dtype)


def _union(a: Expr, b: Expr, dom: Dom) -> Bounds:
    (p, q), (r, s) = interval(a, dom), interval(b, dom)
    return min(p, r), max(q, s)


def _dtype_interval(dtype: str) -> Bounds:
    if dtypes.is_int(dtype):
        return int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))
    return (0, 1) if dtypes.is_bool(dtype) else _ANY


# ----------------------------------------------------------------------------- conditions
def conjuncts(cond: Expr) -> list[Expr]:
    """The conditions of which `cond` is the "and"."""
    if type(cond) is BinOp and cond.op == "and":
        return conjuncts(cond.a) + conjuncts(cond.b)
    if type(cond) is Call and cond.op == "likely":
        return conjuncts(cond.args[0])
    if type(cond) is IntImm and cond.value:
        return []
    return [cond]


def decide(cond: Expr, dom: Dom) -> bool | None:
    """Is the scalar condition always true, always false, or neither as far as is known?"""
    match cond:
        case IntImm():
            return bool(cond.value)
        case BinOp(op="and"):
            a, b = decide(cond.a, dom), decide(cond.b, dom)
            if a is False or b is False:
                return False
            return True if a and b else None
        case BinOp(op="or"):
            a, b = decide(cond.a, dom), decide(cond.b, dom)
            if a or b:
                return True
            return False if a is False and b is False else None
        case Not():
            a = decide(cond.a, dom)
            return None if a is None else not a
        case Call(op="likely"):
            return decide(cond.args[0], dom)
        case BinOp(op="<" | "<=" | ">" | ">=" | "==" | "!="):
            if not dtypes.is_int(cond.a.dtype) or dtypes.lanes(cond.a.dtype) > 1:
                return None
            return _compare(cond, dom)
        case _:
            return None


def _compare(cond: BinOp, dom: Dom) -> bool | None:
    diff = plus(linear(cond.a, dom), times(linear(cond.b, dom), -1))
    lo, hi = interval_of(diff, dom)
    match cond.op:
        case "<":
            return True if hi < 0 else False if lo >= 0 else None
        case "<=":
            return True if hi <= 0 else False if lo > 0 else None
        case ">":
            return True if lo > 0 else False if hi <= 0 else None
        case ">=":
            return True if lo >= 0 else False if hi < 0 else None
        case "==" | "!=":
            equal = _equal(diff, lo, hi)
            return equal if cond.op == "==" or equal is None else not equal
        case _:
            return None


def _equal(diff: Linear, lo: int, hi: int) -> bool | None:
    if lo == hi == 0:
        return True
    if lo > 0 or hi < 0:
        return False
    g = gcd(*(c for _, c in diff.terms.values()))
    return False if g and diff.const % g else None
