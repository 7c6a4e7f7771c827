"""Which box of indices is touched as loops run, and how do boxes compare?

A box is one `Range` per dimension: a minimum, which may mention variables, and an extent, which is
constant wherever it can be. Boxes are never too small: `relax` gives a superset of what is touched
(`relax_exact` gives it only where the box is exactly what is touched).

Extents may be sampled values (see nodes.py); they are then computed as such, with no question asked
beyond the sign of factors, so long as the indices are sums of loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from . import build
from .affine import Terms, add_term, collect, from_linear, linear, minus, recombine, same
from .intervals import NOTHING, Domain, bounds, sum_bounds
from .iter_map import IterSum, Loops, detect_iter_map
from .nodes import BinOp, Buffer, Cast, Expr, IntImm, Range, Var
from .walk import expr_children

Ranges: TypeAlias = tuple[Range, ...]
_Span: TypeAlias = tuple[Terms, int, int]
"""The values first, ..., first + extent - 1 of an expression: first as a sum, and the extent."""

_LEAST, _COUNT = -(2**30), 2**31 - 1


def anything(dtype: str) -> Range:
    """The range of an index of which nothing is known; `intersect_shape` makes it a dimension."""
    return Range(IntImm(_LEAST, dtype), IntImm(_COUNT, dtype))


# ----------------------------------------------------------------------------- relaxing
def relax(indices_or_region: Sequence[Range], loops: Loops) -> Ranges:
    """The box that holds the region for all values of `loops` (variable -> (minimum, extent)).

    Minima are over the variables that are left. An index that is not affine in the loops and has
    no constant bounds gives `anything`.

    Example: `[i*4 + j, 1)` relaxed over j in 0..3 is `[i*4, 4)`.
    """
    return tuple([_relax(r, loops) for r in indices_or_region])


def _relax(r: Range, loops: Loops) -> Range:
    e = r.min
    n = r.extent
    if type(n) is not IntImm:
        return _relax_symbolic(r, loops)
    if type(e) is IntImm:
        return r
    if type(e) is Var:
        found = loops.get(e)
        if found is None:
            return r
        lo, extent = found
        return Range(IntImm(lo, e.dtype), IntImm(_grow(extent, n.value), e.dtype))
    span = _span(e, loops)
    if span is None:
        return anything(e.dtype)
    terms, const, extent = span
    if type(extent) is int and extent == 1:
        return r if _untouched(e, loops) else Range(from_linear(terms, const, e.dtype), n)
    extent = _grow(extent, n.value)
    return Range(from_linear(terms, const, e.dtype), IntImm(extent, e.dtype))


def _grow(a: int, b: int) -> int:
    """The extent of the sums of two intervals: a + b - 1."""
    if type(b) is int and b == 1:
        return a
    if type(a) is int and a == 1:
        return b
    return a + b - 1


def _relax_symbolic(r: Range, loops: Loops) -> Range:
    """A range whose extent is not constant."""
    n = r.extent
    if not _untouched(n, loops):
        _, most = bounds(n, domain(loops))
        if most is None:
            return anything(r.min.dtype)
        return _relax(Range(r.min, IntImm(most, n.dtype)), loops)
    span = _span(r.min, loops)
    if span is None:
        return anything(r.min.dtype)
    terms, const, extent = span
    return Range(from_linear(terms, const, r.min.dtype), build.add(n, extent - 1))


def domain(loops: Loops) -> dict[Var, tuple[int, int]]:
    """Inclusive bounds of loop variables from (minimum, extent)."""
    return {v: (lo, lo + n - 1) for v, (lo, n) in loops.items()}


def _untouched(e: Expr, loops: Loops) -> bool:
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is Var:
            if x in loops:
                return False
        elif type(x) is BinOp:
            stack += (x.a, x.b)
        else:
            stack += expr_children(x)
    return True


def _span(e: Expr, loops: Loops) -> _Span | None:
    terms, const = linear(e)
    if len(terms) > 1 and not all(type(v) is Var for v in terms):
        const = recombine(terms, const)
    kept: Terms = {}
    extent = 1
    for atom, c in terms.items():
        if type(atom) is Var:
            found = loops.get(atom)
            if found is None:
                kept[atom] = c
                continue
            lo, n = found
        elif _untouched(atom, loops):
            kept[atom] = c
            continue
        else:
            part = _atom_span(atom, loops)
            if part is None:
                return None
            first, lo, n = part
            for a, k in first.items():
                _merge(kept, a, c * k)
        if c < 0:
            lo = lo + n - 1
            more = -c * (n - 1)
        else:
            more = c * (n - 1)
        if type(lo) is not int or lo != 0:
            const = const + c * lo
        if type(c) is int and (c == 1 or c == -1) and type(extent) is int and extent == 1:
            extent = n
        else:
            extent = extent + more
    return kept, const, extent


def _merge(terms: Terms, atom: Expr, c: int) -> None:
    for x in terms:
        if x is atom or same(x, atom):
            add_term(terms, x, c)
            return
    terms[atom] = c


def _atom_span(e: Expr, loops: Loops) -> _Span | None:
    """The values of a node that is not a sum and does depend on the loops."""
    if type(e) is BinOp and e.op in ("//", "%") and type(e.b) is IntImm:
        inner = _span(e.a, loops)
        if inner is not None and e.b.value > 0:
            return _divided(e, inner, e.b)
    elif type(e) is BinOp and e.op in ("min", "max"):
        a, b = _span(e.a, loops), _span(e.b, loops)
        if a is not None and b is not None:
            first = build.binary(
                e.op, from_linear(a[0], a[1], e.dtype), from_linear(b[0], b[1], e.dtype)
            )
            # min and max move no faster than their arguments do
            terms, const = linear(first)
            if type(a[2]) is int and a[2] == 1:
                return terms, const, b[2]
            if type(b[2]) is int and b[2] == 1:
                return terms, const, a[2]
            return terms, const, max(a[2], b[2])
    elif type(e) is Cast and e.dtype in ("int32", "int64") and e.value.dtype in ("int32", "int64"):
        inner = _span(e.value, loops)
        if inner is not None:
            value = build.cast(e.dtype, from_linear(inner[0], inner[1], e.value.dtype))
            return (*linear(value), inner[2])
    lo, hi = bounds(e, domain(loops))
    return None if lo is None or hi is None else ({}, lo, hi - lo + 1)


def _divided(e: BinOp, x: _Span, divisor: IntImm) -> _Span:
    """The values of `x // k` or `x % k`, for the values of x."""
    terms, const, n = x
    k = divisor.value
    step, rest = _residue(terms, const, k)  # first = rest (mod step), and step divides k
    whole = step is k
    if e.op == "//":
        top = rest if whole else k - step + rest  # the most that first % k can be
        extent = (top + n - 1) // k + 1 if type(top) is not int or top != 0 else -(-n // k)
        if whole:
            return {a: c // k for a, c in terms.items()}, const // k, extent
        first = build.floordiv(from_linear(terms, const, e.dtype), divisor)
    else:
        if whole and n % k == 0 and rest == 0:
            return {}, 0, k  # every remainder, as often as the quotient says: no question of sizes
        if not rest + n <= step:
            return {}, 0, k
        if whole:
            return {}, rest, n
        first = build.floormod(from_linear(terms, const, e.dtype), divisor)
        extent = n
    return (*linear(first), extent)


def _residue(terms: Terms, const: int, k: int) -> tuple[int, int]:
    """(step, rest) with sum = rest modulo step, where step divides k and is k itself if it can."""
    if all(c is k or c % k == 0 for c in terms.values()):
        return k, const % k
    step = k
    for c in terms.values():
        step = _gcd(step, c)
    return step, const % step


def _gcd(a: int, b: int) -> int:
    """The greatest common divisor; of sampled values, one that keeps their expression."""
    for x, y in ((a, b), (b, a)):
        if type(x) is not int:
            return x.gcd(y)  # type: ignore[no-any-return,attr-defined]  # what sampled ints have
    return math.gcd(a, b)


# ----------------------------------------------------------------------------- exact boxes
def relax_exact(region: Sequence[Range], loops: Loops) -> Ranges | None:
    """`relax`, but None unless every point of the box is touched (what a producer surely writes).

    Example: `[i*2, 1)` over i in 0..3 touches 4 points of a box of 7: None.
    """
    seen: set[Var] = set()
    for r in region:
        terms, _ = linear(r.min)
        if type(r.extent) is not IntImm:
            return None
        covered = r.extent.value
        for atom, c in reversed(terms.items()):
            if type(atom) is not Var:
                if _untouched(atom, loops):
                    continue
                return _exact_digits(region, loops)
            found = loops.get(atom)
            if found is None:
                continue
            if atom in seen:
                return None
            if not 0 < c <= covered:
                return _exact_digits(region, loops)
            seen.add(atom)
            covered = covered + c * (found[1] - 1)
    return relax(region, loops)


def _exact_digits(region: Sequence[Range], loops: Loops) -> Ranges | None:
    """The same for digits of fused loops, and for sums that are not written heaviest first."""
    moving: list[Expr] = []
    fixed: list[tuple[Terms, int]] = []
    for r in region:
        terms, const, inner = _apart(r.min, loops)
        moving.append(inner)
        fixed.append((terms, const))
    sums = detect_iter_map(moving, loops, bijective=False)
    if sums is None:
        return None
    out: list[Range] = []
    for r, s, (terms, const) in zip(region, sums, fixed):
        covered = None if type(r.extent) is not IntImm else _gapless(s, r.extent.value)
        if covered is None:
            return None
        dtype = r.min.dtype
        out.append(Range(from_linear(terms, const + s.base, dtype), IntImm(covered, dtype)))
    return tuple(out)


def _apart(e: Expr, loops: Loops) -> tuple[Terms, int, Expr]:
    """`e` as the sum of what stands still while the loops run (terms and constant) and what moves:
    `(i*8 + j) // 4` with only j moving is i*2 plus `j // 4`."""
    terms, const = linear(e)
    still: Terms = {}
    moving: Terms = {}
    extra = 0
    for atom, c in terms.items():
        if _untouched(atom, loops):
            _merge(still, atom, c)
            continue
        if type(atom) is BinOp and atom.op in ("//", "%") and type(atom.b) is IntImm:
            k = atom.b.value
            below, offset, inner = _apart(atom.a, loops)
            step, rest = _residue(below, offset, k) if k > 0 else (0, 0)
            if (below or type(offset) is not int or offset != 0) and step is k and rest == 0:
                if atom.op == "//":
                    for a, f in below.items():
                        _merge(still, a, f // k * c)
                    if type(offset) is not int or offset != 0:
                        const = const + offset // k * c
                extra = extra + collect(build.binary(atom.op, inner, atom.b), c, moving)
                continue
        extra = extra + collect(atom, c, moving)
    if type(extra) is not int or extra != 0:
        const = const + extra
    return still, const, from_linear(moving, 0, e.dtype)


def _gapless(s: IterSum, covered: int) -> int | None:
    """How many values in a row the sum takes, each with `covered` values after it; None if there
    are gaps."""
    for d in reversed(s.args):
        if type(d.source.source) is not Var:
            return None
        if not (d.scale <= covered and d.lower_factor * d.extent <= d.source.extent):
            return None
        covered = covered + d.scale * (d.extent - 1)
    return covered


# ----------------------------------------------------------------------------- comparing
def union(
    a: Sequence[Range],
    b: Sequence[Range],
    dom: Domain = NOTHING,
    shape: Sequence[Expr] | None = None,
) -> Ranges:
    """A box that holds both. Where the two cannot be compared over `dom`, a dimension becomes all
    of `shape` if that is given, else a constant range if there is one, else min(...) and max(...).
    """
    full = [None] * len(a) if shape is None else shape
    return tuple([_union(x, y, dom, n) for x, y, n in zip(a, b, full)])


def _union(x: Range, y: Range, dom: Domain, full: Expr | None) -> Range:
    if same(x.min, y.min) and same(x.extent, y.extent):
        return x
    dtype = x.min.dtype
    if type(x.extent) is IntImm and type(y.extent) is IntImm:
        nx, ny = x.extent.value, y.extent.value
        lo, hi = _distance(x.min, y.min, dom)
        if lo is not None and hi is not None:
            if lo >= 0:
                n = _most(nx, hi + ny)
                return x if n is nx else Range(x.min, IntImm(n, dtype))
            if hi <= 0:
                n = _most(ny, nx - lo)
                return y if n is ny else Range(y.min, IntImm(n, dtype))
    if full is not None:
        return Range(IntImm(0, dtype), full if full.dtype == dtype else build.cast(dtype, full))
    box = _constant_hull(x, y, dom)
    if box is not None:
        return box
    first = build.minimum(x.min, y.min)
    end = build.maximum(build.add(x.min, x.extent), build.add(y.min, y.extent))
    return Range(first, build.sub(end, first))


def _most(a: int, b: int) -> int:
    return a if b <= a else b


def _distance(a: Expr, b: Expr, dom: Domain) -> tuple[int | None, int | None]:
    """Bounds of b - a."""
    terms, const = minus(b, a)
    return sum_bounds(terms, const, dom) if terms else (const, const)


def _constant_hull(x: Range, y: Range, dom: Domain) -> Range | None:
    lo: list[int] = []
    hi: list[int] = []
    for r in (x, y):
        a, _ = bounds(r.min, dom)
        _, b = bounds(build.add(r.min, r.extent), dom)
        if a is None or b is None:
            return None
        lo.append(a)
        hi.append(b)
    first = min(lo)
    return Range(IntImm(first, x.min.dtype), IntImm(max(hi) - first, x.min.dtype))


def covers(outer: Sequence[Range], inner: Sequence[Range], dom: Domain = NOTHING) -> bool:
    """Is `inner` within `outer` at every point of `dom`, provably?"""
    for x, y in zip(outer, inner):
        if x is y:
            continue
        lo, hi = _distance(x.min, y.min, dom)
        if lo is None or not lo >= 0:
            return False
        if type(x.extent) is IntImm and type(y.extent) is IntImm:
            room: int | None = None if hi is None else x.extent.value - y.extent.value - hi
        else:
            end, other = build.add(x.min, x.extent), build.add(y.min, y.extent)
            room, _ = _distance(other, end, dom)
        if room is None or not room >= 0:
            return False
    return True


def intersect_shape(ranges: Sequence[Range], buffer: Buffer) -> Ranges:
    """The box without what constant arithmetic shows to lie outside the buffer.

    A range with a symbolic minimum stays as it is unless it is wider than the buffer.
    """
    return tuple([clip(r, IntImm(0, n.dtype), n) for r, n in zip(ranges, buffer.shape)])


def clip(r: Range, first: Expr, extent: Expr) -> Range:
    """`r` cut to [first, first + extent) where constants allow: a superset of what they share."""
    if type(r.extent) is not IntImm or type(first) is not IntImm:
        return r
    dtype = r.min.dtype
    n = r.extent.value
    if type(extent) is not IntImm:
        unknown = type(r.min) is IntImm and r.min.value <= _LEAST and n >= _COUNT
        if unknown:
            return Range(build.cast(dtype, first), build.cast(dtype, extent))
        return r
    start, total = first.value, extent.value
    if type(r.min) is not IntImm:
        return Range(IntImm(start, dtype), IntImm(total, dtype)) if n > total else r
    lo = r.min.value
    low_in, high_in = bool(lo >= start), bool(lo + n <= start + total)
    if low_in and high_in:
        return r
    new_lo = lo if low_in else start
    count = (lo + n if high_in else start + total) - new_lo
    if not count > 0:  # nothing in common: nothing to gain
        return r
    return Range(IntImm(new_lo, dtype), IntImm(count, dtype))
