"""Do these bindings visit every point of the loops exactly once, and how are they inverted?

A binding is quasi-affine when it is a number in a mixed radix whose digits are taken from the
loops: `i_0*16 + i_1`, `f//4%8`, `(i_0*16 + i_1)//10`. Each digit is an `IterSplit` of an `IterMark`
(a loop, or a number that is itself such a sum). If the digits of a mark neither overlap nor leave
gaps, and no two bindings share a digit, the bindings are a bijection of the loops.

Extents and factors may be sampled values (see nodes.py). Digits are therefore matched with the
radix in the order in which they are written, which is right in every candidate, and sorted only if
that fails; nothing asks whether an extent is 1 unless a loop is not used at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from . import build
from .affine import linear, same
from .build import TRUE
from .nodes import BinOp, Expr, IntImm, Var

Loops: TypeAlias = Mapping[Var, tuple[int, int]]
"""Loop variable -> (minimum, extent)."""


@dataclass(frozen=True, slots=True, eq=False)
class IterMark:
    """What runs over 0, ..., extent - 1: a loop (less its minimum), or a number made of digits."""

    source: Var | IterSum
    extent: int


@dataclass(frozen=True, slots=True, eq=False)
class IterSplit:
    """One digit of a mark, weighted: `source // lower_factor % extent * scale`."""

    source: IterMark
    lower_factor: int
    extent: int
    scale: int


@dataclass(frozen=True, slots=True, eq=False)
class IterSum:
    """A sum of weighted digits, heaviest first, plus `base`."""

    args: tuple[IterSplit, ...]
    base: int


def is_affine_binding(
    extents: Sequence[int], bindings: Sequence[Expr], loops: Loops, predicate: Expr = TRUE
) -> bool:
    """Are the bindings of a block a bijection of the loops onto the points that the block visits?

    `extents` are those of the block's iterators. Loops that no binding uses must have extent 1.
    Without a predicate, a binding that takes more values than its iterator has is refused.
    The quick form of `detect_iter_map`: sums of loops in mixed radix, written heaviest first, are
    decided without making an object.
    """
    quick = _quick_binding(extents, bindings, loops, predicate is TRUE)
    if quick is not None:
        return quick
    sums = detect_iter_map(bindings, loops, predicate)
    if sums is None:
        return False
    if predicate is TRUE:
        for n, s in zip(extents, sums):
            if s.args and not _span(s) <= n:
                return False
    return True


def _quick_binding(
    extents: Sequence[int], bindings: Sequence[Expr], loops: Loops, unguarded: bool
) -> bool | None:
    """The answer where every binding is a loop or a plain mixed-radix sum of loops; else None."""
    seen: set[Expr] = set()
    for n, e in zip(extents, bindings):
        if type(e) is Var:
            found = loops.get(e)
            if found is None or e in seen:
                return None
            seen.add(e)
            need = found[1]
        elif type(e) is IntImm:
            continue
        else:
            terms, _ = linear(e)
            need = 1
            for v in reversed(terms):
                found = loops.get(v)  # type: ignore[arg-type]  # an atom that is no Var: None
                if found is None or v in seen or terms[v] != need:
                    return None
                seen.add(v)
                need = need * found[1] if type(need) is not int or need != 1 else found[1]
        if unguarded and not need <= n:
            return False
    if len(seen) != len(loops):
        return all(v in seen or found[1] == 1 for v, found in loops.items())
    return True


def _span(s: IterSum) -> int:
    """One more than the largest value of the digits of a sum."""
    n = 1
    for d in s.args:
        n = n + (d.extent - 1) * d.scale
    return n


# ----------------------------------------------------------------------------- detection
def detect_iter_map(
    bindings: Sequence[Expr], loops: Loops, predicate: Expr = TRUE, *, bijective: bool = True
) -> tuple[IterSum, ...] | None:
    """The bindings as sums of digits of the loops, or None if they are not quasi-affine.

    Different points of the loops then give different values of the bindings. With `bijective` False
    loops, or digits of them, may go unused; the digits that are used still do not overlap.
    `predicate` is what holds wherever the bindings are used: bounds such as `i_0*16 + i_1 < 100`
    limit the number they bound; anything else only takes points away, and is not needed.

    Example: with f in 0..31, `(f//8, f%8)` is found and `(f//8, f%4)` is not.
    """
    parser = _Parser(loops, _limits(predicate, loops))
    out: list[IterSum] = []
    for e in bindings:
        found = parser.number(e)
        ordered = None if found is None else in_radix(found.args)
        if found is None or ordered is None:
            return None
        parser.claim(ordered)
        out.append(IterSum(ordered, found.base))
    return tuple(out) if parser.settled(bijective) else None


def in_radix(digits: Sequence[IterSplit]) -> tuple[IterSplit, ...] | None:
    """The digits heaviest first, if no two sums of them are equal; else None."""
    if not digits:
        return ()
    need = digits[-1].scale
    for d in reversed(digits):
        if d.scale != need:
            break
        need = _times(need, d.extent)
    else:
        return tuple(digits) if digits[-1].scale > 0 else None
    ordered = sorted(digits, key=lambda d: (int(d.scale), int(d.extent)), reverse=True)
    if not ordered[-1].scale > 0:
        return None
    need = ordered[-1].scale
    for d in reversed(ordered):
        if not d.scale >= need:
            return None
        need = d.scale * d.extent
    return tuple(ordered)


def _limits(predicate: Expr, loops: Loops) -> list[tuple[Expr, int]]:
    """What a predicate says of the form `e < n`, as (e, n)."""
    out: list[tuple[Expr, int]] = []
    stack = [predicate]
    while stack:
        p = stack.pop()
        if type(p) is not BinOp:
            continue
        if p.op == "and":
            stack += (p.b, p.a)
        elif p.op in ("<", "<=") and type(p.b) is IntImm:
            out.append((p.a, p.b.value if p.op == "<" else p.b.value + 1))
        elif p.op in (">", ">=") and type(p.a) is IntImm:
            out.append((p.b, p.a.value if p.op == ">" else p.a.value + 1))
    return out


class _Parser:
    """Reads bindings as digits, and keeps account of which digits of a mark were claimed."""

    __slots__ = ("claims", "fused", "limits", "loops", "marks")

    def __init__(self, loops: Loops, limits: list[tuple[Expr, int]]) -> None:
        self.loops = loops
        self.limits = limits
        self.marks: dict[Var, IterMark] = {}
        self.fused: list[tuple[IterSum, IterMark]] = []  # in the order in which they were made
        self.claims: dict[IterMark, list[IterSplit]] = {}

    def number(self, e: Expr) -> IterSum | None:
        """`e` as a sum of digits, in the order in which they are written."""
        terms, base = linear(e)
        digits: list[IterSplit] = []
        for atom, c in terms.items():
            if type(atom) is Var:
                found = self.loops.get(atom)
                if found is None:
                    return None
                mark = self.marks.get(atom)
                if mark is None:
                    mark = self.marks[atom] = IterMark(atom, found[1])
                if not _is_zero(found[0]):
                    base = base + found[0] * c
                digits.append(IterSplit(mark, 1, found[1], c))
            elif type(atom) is BinOp and atom.op in ("//", "%") and type(atom.b) is IntImm:
                inner = self.number(atom.a)
                if inner is None or not atom.b.value > 0:
                    return None
                part = self.part(atom.a, inner, atom.b.value, atom.op == "//")
                if part is None:
                    return None
                if not _is_zero(part.base):
                    base = base + part.base * c
                digits += [
                    IterSplit(d.source, d.lower_factor, d.extent, _times(d.scale, c))
                    for d in part.args
                ]
            else:
                return None
        return IterSum(tuple(digits), base)

    def part(self, e: Expr, x: IterSum, k: int, quotient: bool) -> IterSum | None:
        """`x // k` or `x % k`, where `x` is `e` read as digits."""
        if not x.args:
            return IterSum((), x.base // k if quotient else x.base % k)
        digits = in_radix(x.args)
        if digits is None:
            return None
        plain = not self._is_limited(e) or x.base < 0 or digits[-1].scale != 1
        if plain and (_is_zero(x.base) or x.base % k == 0):
            cut = _cut(digits, k)
            if cut is not None:
                high, low = cut
                if quotient:
                    base = 0 if _is_zero(x.base) else x.base // k
                    return IterSum(tuple([_scaled(d, k) for d in high]), base)
                return IterSum(low, 0)
        if x.base < 0 or digits[-1].scale != 1:
            return None
        mark = self._fuse(e, IterSum(digits, x.base))
        if mark is None:
            return None
        if quotient:
            return IterSum((IterSplit(mark, k, -(-mark.extent // k), 1),), 0)
        if mark.extent <= k:
            return IterSum((IterSplit(mark, 1, mark.extent, 1),), 0)
        return IterSum((IterSplit(mark, 1, k, 1),), 0)

    def _fuse(self, e: Expr, x: IterSum) -> IterMark | None:
        """The mark that stands for a whole number, and claims its digits when it is made."""
        for known, mark in self.fused:
            if known.base == x.base and _same_digits(known.args, x.args):
                return mark
        need = 1
        for d in reversed(x.args):
            if d.scale != need:
                return None  # a number with gaps has no digits of its own
            need = _times(need, d.extent)
        extent = need + x.base
        for bounded, n in self.limits:
            if same(bounded, e) and n < extent:
                extent = n
        self.claim(x.args)
        mark = IterMark(x, extent)
        self.fused.append((x, mark))
        return mark

    def _is_limited(self, e: Expr) -> bool:
        """Does the predicate bound this number? Then it is one mark for all that is taken of it:
        the bound may cut through what the loops that it is made of would be cut into."""
        return any(same(bounded, e) for bounded, _ in self.limits)

    def claim(self, digits: Sequence[IterSplit]) -> None:
        """Note that the digits are used."""
        for d in digits:
            self.claims.setdefault(d.source, []).append(d)

    def settled(self, bijective: bool) -> bool:
        """Do the claims on each mark fit together, and (if bijective) use all of it?"""
        for mark, used in self.claims.items():
            if not _fits(mark, used, bijective):
                return False
        if bijective:
            if not all(mark in self.claims or mark.extent == 1 for _, mark in self.fused):
                return False
            for v, (_, n) in self.loops.items():
                mark_of = self.marks.get(v)
                if (mark_of is None or mark_of not in self.claims) and n != 1:
                    return False
        return True


def _cut(
    digits: tuple[IterSplit, ...], k: int
) -> tuple[tuple[IterSplit, ...], tuple[IterSplit, ...]] | None:
    """Digits that make up multiples of `k`, and those below, if `k` falls on or in a digit."""
    if len(digits) == 1 and _is_one(digits[0].scale):
        return _cut_digit(digits[0], k)
    at = next((j for j, d in enumerate(digits) if _is_same(d.scale, k)), None)
    if at is None:  # not plainly: the values decide
        at = next((j for j in range(len(digits) - 1, -1, -1) if digits[j].scale == k), None)
        if at is None:
            return _cut_inside(digits, k)
    high, low = digits[: at + 1], digits[at + 1 :]
    if _whole(high, k) and _below(low, k):
        return high, low
    return None


def _cut_digit(d: IterSplit, k: int) -> tuple[tuple[IterSplit, ...], tuple[IterSplit, ...]] | None:
    """The cut of a single digit of scale 1, such as a fused loop; it may come out empty-handed:
    a digit of extent 1 is as good as none."""
    if d.extent % k == 0:
        high = d.extent // k
    elif _is_top(d):
        high = -(-d.extent // k)
    elif d.extent <= k:
        return (), (d,)
    else:
        return None
    upper = IterSplit(d.source, _times(d.lower_factor, k), high, k)
    return (upper,), (IterSplit(d.source, d.lower_factor, k, d.scale),)


def _is_same(a: int, b: int) -> bool:
    """Are they the same number, or the same expression over sampled values? (So whatever these are:
    where a digit has one value only, several digits may have that scale just now.)"""
    if type(a) is int or type(b) is int:
        return type(a) is type(b) and a == b
    return bool(getattr(a, "expr", a) == getattr(b, "expr", b))


def _is_one(n: int) -> bool:
    return type(n) is int and n == 1


def _is_zero(n: int) -> bool:
    return type(n) is int and n == 0


def _times(a: int, b: int) -> int:
    """a * b, without work where a factor is plainly 1."""
    if type(a) is int and a == 1:
        return b
    return a if type(b) is int and b == 1 else a * b


def _cut_inside(
    digits: tuple[IterSplit, ...], k: int
) -> tuple[tuple[IterSplit, ...], tuple[IterSplit, ...]] | None:
    if digits[0].scale * digits[0].extent == k:
        return ((), digits) if _below(digits, k) else None
    for j, d in enumerate(digits):
        if d.scale >= k:
            continue
        if d.scale * d.extent <= k:  # k lies between two digits
            if _whole(digits[:j], k) and _below(digits[j:], k):
                return digits[:j], digits[j:]
            return None
        m = k // d.scale
        if m * d.scale != k or not (d.extent % m == 0 or (j == 0 and _is_top(d))):
            return None
        upper = IterSplit(d.source, d.lower_factor * m, -(-d.extent // m), k)
        lower = IterSplit(d.source, d.lower_factor, m, d.scale)
        if _whole(digits[:j], k) and _below(digits[j + 1 :], d.scale):
            return (*digits[:j], upper), (lower, *digits[j + 1 :])
        return None
    return (digits, ()) if _whole(digits, k) else None


def _is_top(d: IterSplit) -> bool:
    """Is there nothing of the mark above this digit?"""
    return bool(d.lower_factor * d.extent >= d.source.extent)


def _whole(high: tuple[IterSplit, ...], k: int) -> bool:
    return all(d.scale is k or d.scale % k == 0 for d in high)


def _below(low: tuple[IterSplit, ...], k: int) -> bool:
    """Is the sum of the digits always less than `k`? They are in radix."""
    return not low or bool(low[0].scale * low[0].extent <= k)


def _scaled(d: IterSplit, k: int) -> IterSplit:
    return IterSplit(d.source, d.lower_factor, d.extent, 1 if d.scale is k else d.scale // k)


def _same_digits(a: Sequence[IterSplit], b: Sequence[IterSplit]) -> bool:
    return len(a) == len(b) and all(
        x.source is y.source
        and x.lower_factor == y.lower_factor
        and x.extent == y.extent
        and x.scale == y.scale
        for x, y in zip(a, b)
    )


def _fits(mark: IterMark, used: list[IterSplit], bijective: bool) -> bool:
    """Do the digits of a mark not overlap, and (if bijective) leave no gap?"""
    if len(used) == 1:
        d = used[0]
        return not bijective or (bool(d.lower_factor == 1) and bool(d.extent >= mark.extent))
    # digits are mostly written heaviest first, which decides between equal ones
    ordered = sorted(reversed(used), key=lambda d: (int(d.lower_factor), int(d.extent)))
    need = 1
    for d in ordered:
        if bijective:
            if d.lower_factor != need:
                return False
        elif not d.lower_factor >= need:
            return False
        need = _times(d.lower_factor, d.extent)
    return not bijective or bool(need >= mark.extent)


# ----------------------------------------------------------------------------- inverse
def inverse_affine(
    indices: Sequence[Expr], iters: Mapping[Var, int], out: Sequence[Var]
) -> dict[Var, Expr] | None:
    """Each iterator (0 <= v < iters[v]) in terms of the values of the indices, or None.

    `out[k]` stands for the value of `indices[k]`. The result is right for values that the indices
    take; whether others lie off their image is for the caller to ask.

    Example: `[vi*4 + vj]` with vj in 0..3 gives {vi: o0//4, vj: o0%4}.
    """
    loops = {v: (0, n) for v, n in iters.items()}
    parser = _Parser(loops, [])
    values: dict[IterMark, list[tuple[IterSplit, Expr]]] = {}
    for e, o in zip(indices, out):
        found = parser.number(e)
        if found is None:
            return None
        digits = in_radix(found.args)
        if digits is None:
            return None
        parser.claim(digits)
        _take_digits(IterSum(digits, found.base), o, values)
    if not parser.settled(True):
        return None
    for x, mark in reversed(parser.fused):
        known = values.get(mark)
        if known is None:
            return None
        _take_digits(x, _assemble(known, out[0].dtype), values)
    result: dict[Var, Expr] = {}
    for v in iters:
        known = values.get(parser.marks[v]) if v in parser.marks else None
        zero: Expr = IntImm(0, v.dtype)
        result[v] = zero if known is None else build.cast(v.dtype, _assemble(known, v.dtype))
    return result


def _take_digits(
    x: IterSum, value: Expr, values: dict[IterMark, list[tuple[IterSplit, Expr]]]
) -> None:
    """Read off each digit of `x` from the value that it has."""
    rest = build.sub(value, IntImm(x.base, value.dtype))
    above: int | None = None
    for d in x.args:
        tight = above is None or bool(above == _times(d.scale, d.extent))
        if not tight and above is not None:  # a gap: take off what is above
            rest = build.floormod(rest, IntImm(above, value.dtype))
        e = build.floordiv(rest, IntImm(d.scale, value.dtype))
        if tight and above is not None:
            e = build.floormod(e, IntImm(d.extent, value.dtype))
        above = d.scale
        values.setdefault(d.source, []).append((d, e))


def _assemble(digits: list[tuple[IterSplit, Expr]], dtype: str) -> Expr:
    out: Expr | None = None
    for d, e in digits:
        x = build.mul(build.cast(dtype, e), IntImm(d.lower_factor, dtype))
        out = x if out is None else build.add(out, x)
    assert out is not None  # a mark is entered with its first digit
    return out
