"""Is there an integer point that satisfies some linear inequalities?

Intervals of the variables are narrowed until nothing changes, sums of two inequalities that share a
variable are added, and where that decides nothing the widest variable is cut in two. So the answer
is exact as long as the search stays within its budget; else it is "unknown", never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Final, TypeAlias

Bound: TypeAlias = int | None
"""A least or a greatest value; None where there is none."""
Terms: TypeAlias = tuple[tuple[int, int], ...]
"""A sum: (variable, factor), ascending by variable, factors not 0, the first one positive."""

UNKNOWN: Final = "unknown"
_ROUNDS = 40  # of narrowing, before the search goes on by cutting
_SUMS = 200  # inequalities that are added, at most
_REACH = 16  # values that are tried first of a variable without end


@dataclass(frozen=True, slots=True)
class Between:
    """lo <= the sum of factor * variable <= hi."""

    form: Mapping[int, int]
    lo: Bound
    hi: Bound


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of some lists of constraints holds."""

    choices: tuple[tuple[Constraint, ...], ...]


Constraint: TypeAlias = Between | AnyOf
_Rows: TypeAlias = dict[Terms, tuple[Bound, Bound]]
_Box: TypeAlias = list[tuple[Bound, Bound]]


class _Empty(Exception):
    """No point is left."""


class _Spent(Exception):
    """The budget is used up."""


@dataclass(slots=True)
class Problem:
    """Variables, each with an interval, and constraints on them.

    Example:
        >>> p = Problem()
        >>> i, j = p.variable(0, 21), p.variable(0, 5)
        >>> p.constraints.append(Between({i: 6, j: 1}, None, 127))
        >>> p.constraints.append(Between({i: 6, j: 1}, 128, None))
        >>> p.solve() is None
        True
    """

    box: _Box = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)

    def variable(self, lo: Bound = None, hi: Bound = None) -> int:
        """A new variable with values from lo to hi, both inclusive."""
        self.box.append((lo, hi))
        return len(self.box) - 1

    def solve(self, budget: int = 2000) -> list[int] | str | None:
        """A value for each variable such that all constraints hold; None if there are none such;
        `UNKNOWN` if `budget` steps were not enough to find out."""
        rows: _Rows = {}
        box = list(self.box)
        try:
            if any(lo is not None and hi is not None and lo > hi for lo, hi in box):
                return None
            cases = _take(self.constraints, rows, box)
            return _search(rows, box, cases, [budget])
        except _Empty:
            return None
        except _Spent:
            return UNKNOWN


# ----------------------------------------------------------------------------- rows
def _take(constraints: Sequence[Constraint], rows: _Rows, box: _Box) -> list[AnyOf]:
    """Put constraints into rows and box; the alternatives among them are given back."""
    cases: list[AnyOf] = []
    for c in constraints:
        if isinstance(c, AnyOf):
            if len(c.choices) == 1:
                cases += _take(c.choices[0], rows, box)
            elif not c.choices:
                raise _Empty
            else:
                cases.append(c)
        else:
            _add(rows, box, c.form, c.lo, c.hi)
    return cases


def _add(rows: _Rows, box: _Box, form: Mapping[int, int], lo: Bound, hi: Bound) -> None:
    """One more inequality; of equal sums only one is kept."""
    terms = sorted((v, c) for v, c in form.items() if c)
    if not terms:
        if (lo is not None and lo > 0) or (hi is not None and hi < 0):
            raise _Empty
        return
    g = gcd(*(c for _, c in terms))
    if terms[0][1] < 0:
        g = -g
        lo, hi = hi, lo
    lo = None if lo is None else -(-lo // g) if g > 0 else -(lo // -g)
    hi = None if hi is None else hi // g if g > 0 else -hi // -g
    if len(terms) == 1:
        v = terms[0][0]
        box[v] = _meet(box[v], (lo, hi))
        return
    key = tuple([(v, c // g) for v, c in terms])
    rows[key] = _meet(rows.get(key, (None, None)), (lo, hi))


def _meet(a: tuple[Bound, Bound], b: tuple[Bound, Bound]) -> tuple[Bound, Bound]:
    lo = b[0] if a[0] is None else a[0] if b[0] is None else max(a[0], b[0])
    hi = b[1] if a[1] is None else a[1] if b[1] is None else min(a[1], b[1])
    if lo is not None and hi is not None and lo > hi:
        raise _Empty
    return lo, hi


# ----------------------------------------------------------------------------- narrowing
def _part(box: _Box, v: int, c: int) -> tuple[Bound, Bound]:
    lo, hi = box[v]
    if c < 0:
        lo, hi = hi, lo
    return None if lo is None else lo * c, None if hi is None else hi * c


def _narrow(rows: _Rows, box: _Box) -> None:
    """Take from the intervals what no point has."""
    for _ in range(_ROUNDS):
        changed = False
        for terms, (lo, hi) in rows.items():
            parts = [_part(box, v, c) for v, c in terms]
            for at in (0, 1):
                limit = hi if at == 0 else lo
                if limit is None:
                    continue
                ends = [p[at] for p in parts]
                open_ends = ends.count(None)
                if open_ends > 1:
                    continue
                total = sum(e for e in ends if e is not None)
                for (v, c), e in zip(terms, ends):
                    if open_ends and e is not None:
                        continue
                    # c * v is at most (at 0) or at least (at 1) this
                    room = limit - (total if e is None else total - e)
                    changed |= _limit(box, v, c, room, at == 0)
        if not changed:
            return


def _limit(box: _Box, v: int, c: int, room: int, above: bool) -> bool:
    """Let c * v be at most (`above`) or at least `room`; whether that changed anything."""
    lo, hi = box[v]
    if above == (c > 0):
        most = room // c if above else -(room // -c)
        if hi is not None and hi <= most:
            return False
        box[v] = _meet((lo, hi), (None, most))
    else:
        least = -(-room // c) if c > 0 else -(room // -c)
        if lo is not None and lo >= least:
            return False
        box[v] = _meet((lo, hi), (least, None))
    return True


def _sums(rows: _Rows, box: _Box) -> None:
    """Add sums of two inequalities in which a variable that they share is gone."""
    known = list(rows.items())
    made = 0
    for k, (a, (alo, ahi)) in enumerate(known):
        left = dict(a)
        for b, (blo, bhi) in known[:k]:
            for v, cb in b:
                ca = left.get(v)
                if ca is None:
                    continue
                g = gcd(ca, cb)
                x, y = cb // g, -(ca // g)  # x * a + y * b is without v
                form = {u: x * c for u, c in a}
                for u, c in b:
                    form[u] = form.get(u, 0) + y * c
                if sum(1 for c in form.values() if c) > max(len(a), len(b)):
                    continue
                lo = _plus(_scaled(alo, ahi, x, 0), _scaled(blo, bhi, y, 0))
                hi = _plus(_scaled(alo, ahi, x, 1), _scaled(blo, bhi, y, 1))
                if lo is None and hi is None:
                    continue
                _add(rows, box, form, lo, hi)
                made += 1
                if made >= _SUMS:
                    return


def _scaled(lo: Bound, hi: Bound, c: int, at: int) -> Bound:
    e = (lo, hi)[at if c > 0 else 1 - at]
    return None if e is None else e * c


def _plus(a: Bound, b: Bound) -> Bound:
    return None if a is None or b is None else a + b


# ----------------------------------------------------------------------------- search
def _search(rows: _Rows, box: _Box, cases: list[AnyOf], left: list[int]) -> list[int] | None:
    left[0] -= 1
    if left[0] < 0:
        raise _Spent
    try:
        _narrow(rows, box)
        if not cases:
            _sums(rows, box)
            _narrow(rows, box)
    except _Empty:
        return None
    return _cases(rows, box, cases, left) if cases else _cut(rows, box, left)


def _cases(rows: _Rows, box: _Box, cases: list[AnyOf], left: list[int]) -> list[int] | None:
    """Try the alternatives of the first choice, one after the other."""
    for choice in cases[0].choices:
        r, b = dict(rows), list(box)
        try:
            more = _take(choice, r, b)
        except _Empty:
            continue
        found = _search(r, b, [*more, *cases[1:]], left)
        if found is not None:
            return found
    return None


def _cut(rows: _Rows, box: _Box, left: list[int]) -> list[int] | None:
    """Look among the points of a box, half by half."""
    for point in _guesses(box):
        if _holds(rows, point):
            return point
    while True:
        v = _widest(rows, box)
        if v is None:
            return None  # the only point there is was a guess
        left[0] -= 1
        if left[0] < 0:
            raise _Spent
        rest, near = _halves(*box[v])
        b = list(box)
        b[v] = near
        try:
            _narrow(rows, b)
            found = _cut(rows, b, left)
        except _Empty:
            found = None
        if found is not None:
            return found
        box[v] = rest
        try:
            _narrow(rows, box)
        except _Empty:
            return None
        for point in _guesses(box):
            if _holds(rows, point):
                return point


def _guesses(box: _Box) -> Iterator[list[int]]:
    """Two corners."""
    yield [hi if hi is not None else 0 if lo is None else lo for lo, hi in box]
    yield [lo if lo is not None else 0 if hi is None else hi for lo, hi in box]


def _holds(rows: _Rows, point: Sequence[int]) -> bool:
    for terms, (lo, hi) in rows.items():
        total = sum(c * point[v] for v, c in terms)
        if (lo is not None and total < lo) or (hi is not None and total > hi):
            return False
    return True


def _widest(rows: _Rows, box: _Box) -> int | None:
    """The variable to cut: the widest of those in a row, one without end first; None if each has
    one value."""
    best, width = None, 0
    for v in {v: None for terms in rows for v, _ in terms}:
        lo, hi = box[v]
        if lo is None or hi is None:
            return v
        if hi - lo > width:
            best, width = v, hi - lo
    return best


def _halves(lo: Bound, hi: Bound) -> tuple[tuple[Bound, Bound], tuple[Bound, Bound]]:
    """What is left for later, and what is looked at first."""
    if lo is not None and hi is not None:
        mid = (lo + hi) // 2
        return (lo, mid), (mid + 1, hi)
    if lo is not None:
        return (lo + _REACH, None), (lo, lo + _REACH - 1)
    if hi is not None:
        return (None, hi - _REACH), (hi - _REACH + 1, hi)
    return (None, -1), (0, None)
