"""What is an index expression as a sum of factors times terms?

`linear` takes sums apart, `from_linear` puts them together, `recombine` finds the quotients and
remainders that belong together; `same` says when two terms are one. Constants may be sampled values
(see nodes.py): they are computed with, and nothing is asked of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from . import build
from .nodes import (
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
    Select,
    Shuffle,
    Var,
)
from .ops import MATH

Terms: TypeAlias = dict[Expr, int]
"""A sum: atom -> factor. An atom is a Var or an expression that is not a sum."""

_PURE_CALLS = frozenset(MATH) | {"if_then_else", "likely", "reinterpret"}


# ----------------------------------------------------------------------------- sameness
def same(a: Expr, b: Expr) -> bool:
    """Are two expressions built alike over the same variables and buffers?

    Sampled values (see nodes.py) are the same only if they are one object. Calls that may have an
    effect are the same only if they are one object.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    match a, b:
        case BinOp(), BinOp():
            return (
                a.op == b.op and a.dtype == b.dtype and same(a.a, b.a) and same(a.b, b.b)
            )  # fmt: skip
        case IntImm(), IntImm():
            x, y = a.value, b.value
            if x is y:
                return a.dtype == b.dtype
            return type(x) is int and type(y) is int and x == y and a.dtype == b.dtype
        case FloatImm(), FloatImm():
            return a.dtype == b.dtype and repr(a.value) == repr(b.value)
        case Cast(), Cast():
            return a.dtype == b.dtype and same(a.value, b.value)
        case Not(), Not():
            return same(a.a, b.a)
        case Select(), Select():
            return same(a.cond, b.cond) and same(a.a, b.a) and same(a.b, b.b)
        case Call(), Call():
            return (
                a.op == b.op
                and a.op in _PURE_CALLS
                and a.dtype == b.dtype
                and all_same(a.args, b.args)
            )
        case BufferLoad(), BufferLoad():
            if a.buffer is not b.buffer or not all_same(a.indices, b.indices):
                return False
            if a.predicate is None or b.predicate is None:
                return a.predicate is b.predicate
            return same(a.predicate, b.predicate)
        case Ramp(), Ramp():
            return a.lanes == b.lanes and same(a.base, b.base) and same(a.stride, b.stride)
        case Broadcast(), Broadcast():
            return a.lanes == b.lanes and same(a.value, b.value)
        case Shuffle(), Shuffle():
            return a.indices == b.indices and all_same(a.vectors, b.vectors)
        case _:  # Var and Let by identity; StringImm stands only in calls with effects
            return False


def all_same(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    """Are two lists of expressions the same one by one?"""
    return len(a) == len(b) and all(map(same, a, b))


# ----------------------------------------------------------------------------- sums
def linear(e: Expr) -> tuple[Terms, int]:
    """`e` as a sum: ({atom: factor}, constant), atoms in order of first appearance.

    An atom is a Var or a node that is not a sum (floordiv, min, a load, a product of variables,
    ...); equal atoms are merged. A cast from int32 to int64 is looked through, so the atoms of an
    int64 sum may be int32. Terms whose factors cancel to a plain 0 are left out.

    Example: `i*4 + j//2 + 3 - i` is ({i: 3, j//2: 1}, 3).
    """
    terms: Terms = {}
    return terms, collect(e, 1, terms)


def collect(e: Expr, c: int, terms: Terms) -> int:
    """Add `c * e` to `terms`; the constant part is returned."""
    if type(e) is Var:
        if e in terms:
            add_term(terms, e, c)
        else:
            terms[e] = c
        return 0
    if type(e) is IntImm:
        return e.value if type(c) is int and c == 1 else c * e.value
    if type(e) is BinOp:
        op = e.op
        if op == "+":
            return collect(e.a, c, terms) + collect(e.b, c, terms)
        if op == "*":
            f, x = e.b, e.a
            if type(f) is not IntImm:
                f, x = x, f
            if type(f) is IntImm:
                k = f.value
                if type(k) is int and k == 0:
                    return 0
                return collect(x, k if type(c) is int and c == 1 else c * k, terms)
        elif op == "-":
            return collect(e.a, c, terms) + collect(e.b, -c, terms)
    elif type(e) is Cast and e.dtype == "int64" and e.value.dtype == "int32":
        return collect(e.value, c, terms)
    t = type(e)
    for atom in terms:
        if atom is e or (type(atom) is t and same(atom, e)):
            add_term(terms, atom, c)
            return 0
    terms[e] = c
    return 0


def add_term(terms: Terms, atom: Expr, c: int) -> None:
    """Add `c * atom`, where `atom` is one of the keys or a new atom unlike all of them."""
    total = terms.get(atom, 0) + c
    if type(total) is int and total == 0:
        terms.pop(atom, None)
    else:
        terms[atom] = total


def minus(a: Expr, b: Expr) -> tuple[Terms, int]:
    """a - b as a sum. Equal factors cancel even where they are sampled values: those are compared,
    which records a guard unless they are known to be the same."""
    terms, const = linear(a)
    others, more = linear(b)
    for atom, c in others.items():
        mine: Expr | None = atom if atom in terms else None
        if mine is None and type(atom) is not Var:
            mine = next((x for x in terms if same(x, atom)), None)
        if mine is None:
            terms[atom] = -c
        elif terms[mine] == c:
            del terms[mine]
        else:
            terms[mine] = terms[mine] - c
    const = const - more
    return terms, (recombine(terms, const) if len(terms) > 1 else const)


def from_linear(terms: Mapping[Expr, int], const: int, dtype: str) -> Expr:
    """The sum as an expression of `dtype`: terms in their order (one with a positive factor first,
    if there is any), then the constant."""
    out: Expr | None = None
    late: list[tuple[Expr, int]] = []
    for atom, c in terms.items():
        if type(c) is int and c < 0:
            if out is None:
                late.append((atom, c))
            else:
                out = build.sub(out, _times(atom, -c, dtype))
            continue
        x = _times(atom, c, dtype)
        out = x if out is None else build.add(out, x)
        if late:
            out = _subtract(out, late, dtype)
    if out is None:  # all factors are negative
        if not late:
            return IntImm(const, dtype)
        return _subtract(IntImm(const, dtype), late, dtype)
    if type(const) is int and const < 0:
        return build.sub(out, IntImm(-const, dtype))
    return build.add(out, IntImm(const, dtype))


def _subtract(out: Expr, late: list[tuple[Expr, int]], dtype: str) -> Expr:
    for atom, c in late:
        out = build.sub(out, _times(atom, -c, dtype))
    late.clear()
    return out


def _times(atom: Expr, c: int, dtype: str) -> Expr:
    if atom.dtype != dtype:
        atom = build.cast(dtype, atom)
    if type(c) is int and c == 1:
        return atom
    return build.binary("*", atom, IntImm(c, dtype))


def recombine(terms: Terms, const: int = 0) -> int:
    """Put quotients and remainders of one number together, in place:

    `x//k*k + x%k` becomes x, `x - x//k*k` becomes x%k, and `x//a%b*a + x%a` becomes x%(a*b) (each
    times any factor). The new constant is returned.
    """
    while True:
        for atom in terms:
            if type(atom) is BinOp and atom.op == "%" and type(atom.b) is IntImm:
                found = _partner(terms, atom, atom.b.value)
                if found is not None:
                    new, gone = found
                    c = terms.pop(atom)
                    del terms[gone]
                    const += collect(new, c, terms)
                    break
            elif type(atom) is BinOp and atom.op == "//" and type(atom.a) is Var:
                k = int_value(atom.b)
                c = terms.get(atom.a, 0)
                if k is not None and type(c) is int and type(k) is int and c != 0 and k > 0:
                    if type(terms[atom]) is int and terms[atom] == -c * k:
                        del terms[atom], terms[atom.a]
                        const += collect(build.binary("%", atom.a, atom.b), c, terms)
                        break
        else:
            return const


def int_value(e: Expr) -> int | None:
    """The value of an integer constant, else None."""
    return e.value if type(e) is IntImm else None


def _partner(terms: Terms, mod: BinOp, k: int) -> tuple[Expr, Expr] | None:
    """For `mod` = y % k: (what the two become, the atom that goes with it), or None."""
    y, c = mod.a, terms[mod]
    for d, f in terms.items():
        if type(d) is not BinOp or type(d.b) is not IntImm or d is mod:
            continue
        if d.op == "//":
            if _is_product(f, c, k) and _is_quotient(d, y, k):
                return y, d
        elif d.op == "%" and _is_product(f, c, k) and type(k) is type(d.b.value) is int:
            if type(d.a) is BinOp and d.a.op == "//" and _is_quotient(d.a, y, k):
                return build.binary("%", y, IntImm(k * d.b.value, y.dtype)), d
    return None


def _is_product(f: int, c: int, k: int) -> bool:
    """Is f == c * k, for every candidate?"""
    if type(f) is type(c) is type(k) is int:
        return f == c * k
    return f is k and type(c) is int and c == 1


def _is_quotient(d: BinOp, y: Expr, k: int) -> bool:
    """Is `d` (a floordiv by a constant) the same as y // k?"""
    v = int_value(d.b)
    if (v is k or (type(v) is type(k) is int and v == k)) and same(d.a, y):
        return True
    if type(y) is BinOp and y.op == "//" and type(y.b) is IntImm:
        inner = y.b.value
        if type(v) is type(k) is type(inner) is int and v == inner * k:
            return same(d.a, y.a)
    return False
