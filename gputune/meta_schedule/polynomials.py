"""When are two expressions over decisions the same, and what are they for a matrix of rows?

`Dim` expressions are written down as a replay meets them; the same quantity arrives in many shapes.
Here each becomes a polynomial over *atoms* (columns, and quotients, remainders, minima, maxima,
common divisors and table look-ups of polynomials), kept once and known by a small number. Equal
numbers are equal quantities; a comparison of quantities that differ by a constant is decided and
needs no guard.

    >>> from gputune.schedule.dim import sym
    >>> t = Polynomials(["a", "b"])
    >>> ab = t.number(sym("mul", sym("mul", 1, "a"), "b"))
    >>> ab == t.number(sym("add", sym("mul", "a", sym("sub", "b", 1)), "a"))
    True
    >>> Values(t, np.array([[2, 3], [4, 5]])).of(ab)
    array([ 6, 20])

Columns are at least 0, and divisors never 0: that is so for sampled factors and indices. What is
known beyond that (`restrict`) decides most comparisons without looking at a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..schedule.dim import DimExpr, Guard, Sym

IntArray: TypeAlias = npt.NDArray[np.int64]
Monomial: TypeAlias = tuple[int, ...]  # atoms, ascending, repeated for powers
Terms: TypeAlias = tuple[tuple[Monomial, int], ...]  # ascending by monomial, no zero coefficients
Literal: TypeAlias = tuple[bool, int]  # (is it "== 0" rather than "<= 0"?, number of polynomial)
Bounds: TypeAlias = tuple[int | None, int | None]  # None: unknown


@dataclass(frozen=True, slots=True)
class Range:
    """What is known of some columns that belong together.

    Attributes:
        columns: their places.
        highest: the largest value of each; the smallest is `lowest`.
        product: smallest and largest product of all of them.
        lowest: 1 for factors, 0 for indices.
    """

    columns: tuple[int, ...]
    highest: tuple[int, ...]
    product: tuple[int, int]
    lowest: int = 1


class Polynomials:
    """The polynomials over some columns, each kept once.

    Args:
        columns: the names of the columns, in the order of the matrix.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = {name: k for k, name in enumerate(columns)}
        self.atoms: list[tuple[str, object, int]] = [("column", k, 0) for k in range(len(columns))]
        self.terms: list[Terms] = []
        self._atom_numbers: dict[tuple[str, object, int], int] = {
            a: k for k, a in enumerate(self.atoms)
        }
        self._numbers: dict[Terms, int] = {}
        self._ranges: dict[int, Range] = {}  # by column
        self._highest: dict[int, int] = {}
        self._bounds: dict[int, Bounds] = {}

    def restrict(self, ranges: Sequence[Range]) -> None:
        """From now on, rows keep within these ranges. A product that is the same in all of them
        becomes a number wherever it occurs."""
        for r in ranges:
            for c, high in zip(r.columns, r.highest):
                self._ranges[c] = r
                self._highest[c] = high
        self._bounds.clear()

    def number(self, e: DimExpr, memo: dict[Sym, int] | None = None) -> int:
        """The number of the polynomial that an expression is. `memo` saves work between calls
        about expressions of one replay."""
        if type(e) is int:
            return self._keep({(): e} if e else {})
        if type(e) is str:
            return self._keep({(self.columns[e],): 1})
        assert type(e) is Sym
        memo = {} if memo is None else memo
        found = memo.get(e)
        if found is None:
            found = memo[e] = self._apply(e, memo)
        return found

    def constant(self, number: int) -> int | None:
        """The value of a polynomial that is the same for all rows."""
        terms = self.terms[number]
        if not terms:
            return 0
        if len(terms) == 1 and not terms[0][0]:
            return terms[0][1]
        return None

    def literal(self, guard: Guard, memo: dict[Sym, int]) -> tuple[Literal, bool] | None:
        """A guard as "polynomial == 0" or "polynomial <= 0", and whether that held; None if it
        holds for every row or for none."""
        op, a, b, outcome = guard
        x, y = self.number(a, memo), self.number(b, memo)
        if op in ("eq", "ne"):
            d = self._difference(x, y, 0)
            low, high = self.bounds(d)
            if (low is not None and low > 0) or (high is not None and high < 0) or low == high == 0:
                return None
            if self.terms[d][0][1] < 0:  # one sign for a - b and b - a
                d = self._difference(y, x, 0)
            return (True, d), outcome == (op == "eq")
        if op in ("gt", "ge"):  # a > b: not a <= b
            x, y, op = y, x, "lt" if op == "gt" else "le"
        d = self._difference(x, y, 1 if op == "lt" else 0)
        low, high = self.bounds(d)
        if (high is not None and high <= 0) or (low is not None and low > 0):
            return None
        return (False, d), outcome

    # ------------------------------------------------------------------ ranges
    def bounds(self, number: int) -> Bounds:
        """The least and the greatest value that a polynomial may have, where that is known."""
        found = self._bounds.get(number)
        if found is None:
            low: int | None = 0
            high: int | None = 0
            for m, c in self.terms[number]:
                a, b = self._monomial_bounds(m)
                if c < 0:
                    a, b = b, a
                low = None if low is None or a is None else low + c * a
                high = None if high is None or b is None else high + c * b
            found = self._bounds[number] = low, high
        return found

    def _monomial_bounds(self, m: Monomial) -> Bounds:
        low, high = 1, 1
        unbounded = False
        groups: dict[Range, list[int]] = {}
        for atom in m:
            r = self._ranges.get(atom)
            if r is not None and atom not in groups.get(r, ()):
                groups.setdefault(r, []).append(atom)
                continue
            a, b = self._atom_bounds(atom)
            if a is None or a < 0:
                return None, None
            low *= a
            if b is None:
                unbounded = True
            else:
                high *= b
        for r, columns in groups.items():
            low *= r.product[0] if len(columns) == len(r.columns) else r.lowest ** len(columns)
            # the other columns of the range are at least 1, so part of a product is at most all
            most = prod([self._highest[c] for c in columns])
            high *= min(most, r.product[1]) if r.lowest else most
        return low, None if unbounded else high

    def _atom_bounds(self, number: int) -> Bounds:
        op, a, b = self.atoms[number]
        if op == "column":
            r = self._ranges.get(number)
            return (0, None) if r is None else (r.lowest, self._highest[number])
        if op == "take":
            assert isinstance(a, tuple)
            return min(a), max(a)
        assert isinstance(a, int)
        (low, high), (low_b, high_b) = self.bounds(a), self.bounds(b)
        match op:
            case "floordiv":
                if low is None or low < 0 or low_b is None or low_b < 0:
                    return None, None
                most = None if high is None else high // max(low_b, 1)
                return (low // high_b if high_b else 0), most
            case "mod":
                if low_b is None or low_b < 0:
                    return None, None
                return 0, None if high_b is None else max(high_b - 1, 0)
            case "minimum":
                least = None if low is None or low_b is None else min(low, low_b)
                known = [x for x in (high, high_b) if x is not None]
                return least, min(known, default=None)
            case "maximum":
                known = [x for x in (low, low_b) if x is not None]
                most = None if high is None or high_b is None else max(high, high_b)
                return max(known, default=None), most
            case "gcd":
                return 0, None
            case _:
                return None, None

    def _reduced(self, m: Monomial) -> tuple[Monomial, int]:
        """A monomial without the products that are the same in every row, and those."""
        factor = 1
        for r in {self._ranges[c]: None for c in m if c in self._ranges}:
            low, high = r.product
            if low != high:
                continue
            left = _without(m, r.columns)
            while left is not None:
                m, factor = left, factor * low
                left = _without(m, r.columns)
        return m, factor

    # ------------------------------------------------------------------ arithmetic
    def _keep(self, terms: dict[Monomial, int]) -> int:
        if self._ranges:
            found_terms: dict[Monomial, int] = {}
            for m, c in terms.items():
                m, factor = self._reduced(m)
                found_terms[m] = found_terms.get(m, 0) + c * factor
            terms = found_terms
        key = tuple(sorted((m, c) for m, c in terms.items() if c))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.terms)
            self.terms.append(key)
        return found

    def _constant(self, x: int) -> int | None:
        """What the polynomial is, if that is one number."""
        terms = self.terms[x]
        if not terms:
            return 0
        m, c = terms[0]
        return c if len(terms) == 1 and not m else None

    def _difference(self, x: int, y: int, plus: int) -> int:
        out = dict(self.terms[x])
        for m, c in self.terms[y]:
            out[m] = out.get(m, 0) - c
        out[()] = out.get((), 0) + plus
        return self._keep(out)

    def _atom(self, op: str, a: object, b: int) -> int:
        key = (op, a, b)
        found = self._atom_numbers.get(key)
        if found is None:
            found = self._atom_numbers[key] = len(self.atoms)
            self.atoms.append(key)
        return self._keep({(found,): 1})

    def _apply(self, e: Sym, memo: dict[Sym, int]) -> int:
        if e.op == "take":
            assert type(e.a) is tuple
            at = self.number(e.b, memo)
            known = self._constant(at)
            return self._atom("take", e.a, at) if known is None else self._keep({(): e.a[known]})
        x, y = self.number(e.a, memo), self.number(e.b, memo)
        match e.op:
            case "add":
                out = dict(self.terms[x])
                for m, c in self.terms[y]:
                    out[m] = out.get(m, 0) + c
                return self._keep(out)
            case "sub":
                return self._difference(x, y, 0)
            case "mul":
                out = {}
                for m, c in self.terms[x]:
                    for n, d in self.terms[y]:
                        key = tuple(sorted(m + n)) if m and n else m or n
                        out[key] = out.get(key, 0) + c * d
                return self._keep(out)
            case "floordiv" | "mod":
                return self._divide(e.op, x, y)
            case "minimum" | "maximum":
                return self._choose(e.op, x, y)
            case "gcd":
                return self._atom("gcd", min(x, y), max(x, y))
            case _:
                raise ValueError(f"{e.op!r} is not an operation on decisions")

    def _divide(self, op: str, x: int, y: int) -> int:
        a, b = self.constant(x), self.constant(y)
        if a is not None and b:
            return self.number(a // b if op == "floordiv" else a % b)
        exact = self._exact_quotient(x, y)
        if exact is not None:
            return exact if op == "floordiv" else self.number(0)
        return self._atom(op, x, y)

    def _exact_quotient(self, x: int, y: int) -> int | None:
        """x / y where y is one term that divides every term of x."""
        if len(self.terms[y]) != 1:
            return None
        by, factor = self.terms[y][0]
        out: dict[Monomial, int] = {}
        for m, c in self.terms[x]:
            left = _without(m, by)
            if left is None or c % factor:
                return None
            out[left] = c // factor
        return self._keep(out)

    def _choose(self, op: str, x: int, y: int) -> int:
        a, b = self.constant(self._difference(x, y, 0)), 0
        if a is not None:
            return x if (a <= b) == (op == "minimum") else y
        return self._atom(op, min(x, y), max(x, y))


def _without(m: Monomial, by: Monomial) -> Monomial | None:
    """The atoms of `m` less those of `by`; None if some are missing."""
    if not by:
        return m
    left = list(m)
    for atom in by:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


class Values:
    """What polynomials are for the rows of a matrix; each part is computed once.

    Args:
        table: the polynomials.
        rows: (rows, columns).
    """

    def __init__(self, table: Polynomials, rows: IntArray) -> None:
        self.table = table
        self.count = len(rows)
        self._columns = np.ascontiguousarray(rows.T)
        self._of: dict[int, IntArray | int] = {}
        self._monomials: dict[Monomial, IntArray] = {}

    def of(self, number: int) -> IntArray | int:
        """A polynomial: one value a row, or an int if it is constant."""
        found = self._of.get(number)
        if found is None:
            total: IntArray | int = 0
            for m, c in self.table.terms[number]:
                if not m:
                    total = total + c
                    continue
                x = self._monomial(m)
                total = total + (x if c == 1 else x * c)
            found = self._of[number] = total
        return found

    def holds(self, literal: Literal) -> npt.NDArray[np.bool_]:
        """For which rows is the polynomial == 0 (or <= 0)?"""
        x = self.of(literal[1])
        out = np.equal(x, 0) if literal[0] else np.less_equal(x, 0)
        return np.broadcast_to(out, (self.count,))

    def _monomial(self, m: Monomial) -> IntArray:
        found = self._monomials.get(m)
        if found is None:
            last = self._atom(m[-1])
            found = last if len(m) == 1 else self._monomial(m[:-1]) * last
            self._monomials[m] = found
        return found

    def _atom(self, number: int) -> IntArray:
        op, a, b = self.table.atoms[number]
        if op == "column":
            assert isinstance(a, int)
            column: IntArray = self._columns[a]
            return column
        if op == "take":
            assert isinstance(a, tuple)
            taken: IntArray = np.asarray(a, np.int64)[self.of(b)]
            return taken
        assert isinstance(a, int)
        x, y = self.of(a), self.of(b)
        match op:
            case "floordiv":
                out = np.floor_divide(x, y)
            case "mod":
                out = np.remainder(x, y)
            case "minimum":
                out = np.minimum(x, y)
            case "gcd":
                out = np.gcd(x, y)
            case _:
                out = np.maximum(x, y)
        full: IntArray = np.broadcast_to(out, (self.count,))
        return full
