"""Where is it asked whether an element lies in the padding? Once for a tile, not at each element.

A padded stage, or a convolution with its padding inlined, chooses at every element between memory
and a constant: `if_then_else(1 <= y and y < 113, X[y - 1], 0)`. In a tile all elements of which lie
inside, the choice is known. So around the loops of the tile stands one branch: its first side asks
nothing, its second, for tiles at the edges, asks as before, but further inside, by rows. Code that
only copies has none where its choices become masks of vectors. A serial loop around copies only
that itself decides is cut into its beginning, its steady part and its end.

Which comparisons are known is found by intervals: `outer + inner < 5` holds for the whole tile
where `outer < 5 - greatest(inner)`. Of a micro-kernel at most three copies are made, of code that
only copies at most five; what is left for the edges there is not written out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd, prod

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import loop_bounds
from .limits import CpuLimits
from .prepare import as_block
from .simplify import simplify

_DEEP = 3
_DEEP_SUMS = 2
_MOSTLY = 0.7  # of the tiles must be inside for a branch to be worth its copy
_BETTER = 0.02  # more of them must be for one further inside, which is asked more often
_MASKS = 64  # bytes of a vector from which on a load with a mask is as fast as one without
_LANES = 16  # iterations of a vectorized loop that count as one
_LITTLE = 4  # stores at most in a loop that is cut
_LONG = 17  # iterations at least: shorter loops are written out
COLD = "lower.cold"
"""Annotation of a loop that runs seldom: it is not written out."""
_Dom = dict[Var, lin.Bounds]
_Known = Mapping[int, bool]
_Seen = dict[int, tuple[Expr, "lin.Linear | bool | None"]]
_Bounded = tuple[Hashable, int | None, int | None]


def interior(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with the choices of padding resolved outside of the tiles that lie inside."""
    if not any(_chooses(e) for e in walk.all_exprs(func.body)):
        return func
    body = _go(func.body, _At({}, 1, frozenset(), False, limits.vector_bytes >= _MASKS, {}))
    return func if body is func.body else simplify(as_block(func, body), limits)


def _chooses(e: Expr) -> bool:
    return type(e) is Call and e.op == "if_then_else"


@dataclass(frozen=True, slots=True)
class _At:
    """What is known where a statement stands.

    Attributes:
        dom: bounds of the loops around it.
        depth: how many branches are around it, edges counting double.
        asked: what branches around it ask, at the edges of which it stands.
        summing: is it inside of a loop that adds to what it stores?
        masks: has the processor masks for all vectors?
        seen: by the id of a comparison, itself and what `_Uses` found it to be; of a condition,
            itself and its value. Both are the same seen from all loops.
    """

    dom: _Dom
    depth: int
    asked: frozenset[_Bounded]
    summing: bool
    masks: bool
    seen: _Seen

    def inside(self, s: For) -> _At:
        summing = self.summing or _sums_over(s)
        return _At(_with(self.dom, s), self.depth, self.asked, summing, self.masks, self.seen)


def _with(dom: _Dom, s: For) -> _Dom:
    bounds = loop_bounds(s)
    if bounds is None:
        (a, b), (_, m) = lin.interval(s.min, dom), lin.interval(s.extent, dom)
        bounds = (a, max(a, b + m - 1))
    return {**dom, s.var: bounds}


def _go(s: Stmt, at: _At) -> Stmt:
    if type(s) is not For:
        out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, at))
        assert out is not None  # _go never deletes
        return out
    uses = _Uses(at)
    uses.stmt(s, 1.0)
    if not uses.found:
        return s
    cut = _cut(s, uses, at)
    if cut is not None:
        return cut
    plan = _plan(s, uses, at)
    if plan is not None:
        return _branch(s, plan, uses, at)
    body = _go(s.body, at.inside(s))
    if body is s.body:
        return s
    return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)


# ----------------------------------------------------------------------------- what is asked
@dataclass(frozen=True, slots=True)
class _Use:
    """A comparison in the condition of a choice: `form` is below 0 just where it holds."""

    atom: BinOp
    form: lin.Linear
    dom: _Dom
    inner: frozenset[Var]


class _Uses:
    """The comparisons in a statement, and how much of its work depends on them.

    Attributes:
        found: in conditions of choices, undecided so far.
        conds: all conditions of choices.
        stores, choosing: how many are made, and how many of them with a choice (vectors count one).
        sums: does a store with a choice add to what it stores to?
        masked: does a choice differ between the lanes of a vector, so that it becomes a mask?
    """

    def __init__(self, at: _At) -> None:
        self.dom = at.dom
        self.seen = at.seen
        self.inner: frozenset[Var] = frozenset()
        self.found: list[_Use] = []
        self.conds: list[Expr] = []
        self.stores = 0.0
        self.choosing = 0.0
        self.places = 0
        self.sums = False
        self.masked = False
        self.vectors: frozenset[Var] = frozenset()

    def stmt(self, s: Stmt, times: float) -> None:
        outer = self.dom, self.inner
        match s:
            case For():
                n = int(s.extent.value) if type(s.extent) is IntImm else _LANES
                times *= max(1.0, n / _LANES) if s.kind == "vectorized" else n
                self.dom, self.inner = _with(self.dom, s), self.inner | {s.var}
                if s.kind == "vectorized":
                    self.vectors = self.vectors | {s.var}
                self.stmt(s.body, times)
            case LetStmt():
                self._expr(s.value)
                self.inner = self.inner | {s.var}
                self.stmt(s.body, times)
            case BufferStore():
                before = len(self.conds)
                for e in walk.stmt_exprs(s):
                    self._expr(e)
                self.stores += times
                self.places += 1
                if len(self.conds) > before:
                    self.choosing += times
                    self.sums = self.sums or _adds(s)
            case _:
                for e in walk.stmt_exprs(s):
                    self._expr(e)
                for x in walk.stmt_children(s):
                    self.stmt(x, times)
        self.dom, self.inner = outer

    def _expr(self, e: Expr) -> None:
        if type(e) is Let:
            self._expr(e.value)
            outer = self.inner
            self.inner = self.inner | {e.var}
            self._expr(e.body)
            self.inner = outer
            return
        if type(e) is Call and e.op == "if_then_else":
            known = self._value(e.args[0])
            if known is not None:
                self._expr(e.args[1] if known else e.args[2])
                return
            before = len(self.found)
            self._condition(e.args[0])
            if len(self.found) > before:
                self.conds.append(e.args[0])
        for x in walk.expr_children(e):
            self._expr(x)

    def _condition(self, c: Expr) -> None:
        if type(c) is BinOp and c.op in ("<", "<=", ">", ">="):
            form = self._form(c)
            if form is not None:
                self.found.append(_Use(c, form, self.dom, self.inner))
                self.masked = self.masked or walk.uses_var(c, self.vectors)
        elif dtypes.is_bool(c.dtype) and dtypes.lanes(c.dtype) == 1:
            for x in walk.expr_children(c):
                self._condition(x)

    def _form(self, c: Expr) -> lin.Linear | None:
        """What is below 0 just where the comparison holds; None where it is decided, or no sum."""
        old = self.seen.get(id(c))
        if old is None:
            form = None if walk.loads(c) else lin.below_zero(c, self.dom)
            if form is not None:
                lo, hi = lin.interval_of(form, self.dom)
                form = form if lo < 0 <= hi else None
            old = self.seen[id(c)] = c, form
        assert not isinstance(old[1], bool)  # comparisons have forms
        return old[1]

    def _value(self, c: Expr) -> bool | None:
        """The value of a condition, as far as it is known."""
        if type(c) is BinOp and c.op not in ("and", "or"):
            return None  # a comparison: simplify has decided it, or cutting a loop will
        old = self.seen.get(id(c))
        if old is None:
            old = self.seen[id(c)] = c, None if walk.loads(c) else lin.decide(c, self.dom)
        assert not isinstance(old[1], lin.Linear)  # conditions have values
        return old[1]


def _adds(s: BufferStore) -> bool:
    """Does the statement add to what it stores to?"""
    return any(x.buffer is s.buffer for x in walk.loads(s.value))


def _sums_over(s: For) -> bool:
    """Does a statement inside add to elements that do not depend on the loop, and that its
    iterations have in common?"""
    found = list(walk.walk_stmt(s.body))
    own = {x.buffer for x in found if type(x) is Alloc}
    return any(
        type(x) is BufferStore
        and x.buffer not in own
        and _adds(x)
        and not any(walk.uses_var(i, s.var) for i in x.indices)
        for x in found
    )


# ----------------------------------------------------------------------------- one branch
@dataclass(slots=True)
class _Bound:
    """`lo <= form <= hi`, of a form in [least, most] and in steps of `step`."""

    form: lin.Linear
    dtype: str
    least: int
    most: int
    step: int
    lo: int | None = None
    hi: int | None = None

    def often(self) -> float:
        """How often it holds, if all values are as frequent."""
        first = self.least if self.lo is None else max(self.lo, self.least)
        last = self.most if self.hi is None else min(self.hi, self.most)
        first += (self.least - first) % self.step
        return max(0, (last - first) // self.step + 1) / ((self.most - self.least) // self.step + 1)

    def key(self) -> _Bounded:
        return self.form.key(), self.lo, self.hi

    def conditions(self) -> list[Expr]:
        out: list[Expr] = []
        if self.lo is not None:
            out.append(build.le(IntImm(self.lo, self.dtype), lin.to_expr(self.form, self.dtype)))
        if self.hi is not None:
            out.append(build.le(lin.to_expr(self.form, self.dtype), IntImm(self.hi, self.dtype)))
        return out


@dataclass(slots=True)
class _Plan:
    """A branch around a statement.

    Attributes:
        bounds: what it asks; asked: the same, one by one.
        known: by the id of a comparison, its value on the first side.
        outside: the same on the second side, where something is known there too.
        whole: is nothing asked on the first side?
    """

    bounds: dict[Hashable, _Bound] = field(default_factory=dict)
    asked: set[_Bounded] = field(default_factory=set)
    known: dict[int, bool] = field(default_factory=dict)
    outside: dict[int, bool] = field(default_factory=dict)
    whole: bool = True

    def often(self) -> float:
        return prod(b.often() for b in self.bounds.values())

    def condition(self) -> Expr:
        return build.logical_and(*[c for b in self.bounds.values() for c in b.conditions()])


def _plan(s: For, uses: _Uses, at: _At) -> _Plan | None:
    """The branch around `s` that is worth it; None if there is none, or a better one inside."""
    if at.masks and uses.masked and not uses.sums:
        return None  # measured: no faster, and a branch may cost the code next to it registers
    if s.kind == "parallel" or uses.choosing < uses.stores / 2 or uses.stores < 2:
        return None
    if at.depth > (_DEEP_SUMS if uses.sums else _DEEP) or (uses.sums and at.summing):
        return None
    plan = _Plan()
    exact = True
    for u in uses.found:
        got = _decided(u, plan, at)
        if got is None:
            plan.whole = False
            continue
        plan.known[id(u.atom)], sharp = got
        exact = exact and sharp
    if not plan.known or plan.often() < _MOSTLY:
        return None
    if uses.sums:
        inside = _often_inside(s.body, at.inside(s))
        if inside > (plan.often() + _BETTER if plan.whole else 0.0):
            return None
    if exact and all(plan.known.values()):
        plan.outside = _false_outside(uses, plan)
    return plan


def _decided(u: _Use, plan: _Plan, at: _At) -> tuple[bool, bool] | None:
    """(the value that the comparison has in most tiles, has it no other in the rest?), its
    condition noted in `plan`; None where it has both values in too many tiles."""
    own = {k: t for k, t in u.form.terms.items() if not walk.uses_var(t[0], u.inner)}
    if not own:
        return None
    rest = u.form.without(own)
    low, high = lin.interval_of(rest, u.dom)
    outer = lin.Linear(own, 0)
    tries = [(True, None, -high - 1), (False, -low, None)]
    best: tuple[float, bool, lin.Linear, int | None, int | None] | None = None
    for value, lo, hi in tries:
        form, lo2, hi2 = _oriented(outer, lo, hi)
        b = _bound(form, u.atom.a.dtype, at.dom)
        b.lo, b.hi = lo2, hi2
        often = b.often()
        if often >= _MOSTLY and b.key() not in at.asked and (best is None or often > best[0]):
            best = (often, value, form, lo2, hi2)
    if best is None:
        return None
    _, value, form, lo, hi = best
    plan.asked.add((form.key(), lo, hi))
    known = plan.bounds.setdefault(form.key(), _bound(form, u.atom.a.dtype, at.dom))
    if lo is not None:
        known.lo = lo if known.lo is None else max(known.lo, lo)
    if hi is not None:
        known.hi = hi if known.hi is None else min(known.hi, hi)
    return value, low == high


def _oriented(
    form: lin.Linear, lo: int | None, hi: int | None
) -> tuple[lin.Linear, int | None, int | None]:
    """The same bounds of the form with mostly positive multiples."""
    if sum(1 if c > 0 else -1 for _, c in form.terms.values()) >= 0:
        return form, lo, hi
    return lin.times(form, -1), None if hi is None else -hi, None if lo is None else -lo


def _bound(form: lin.Linear, dtype: str, dom: _Dom) -> _Bound:
    least, most = lin.interval_of(form, dom)
    return _Bound(form, dtype, least, most, gcd(*(c for _, c in form.terms.values())))


def _often_inside(s: Stmt, at: _At) -> float:
    """How often a branch further inside, still around the sum, leaves nothing to be asked; 0 if
    there is none. (At an edge a product takes several times as long.)"""
    if type(s) is not For:
        return max([_often_inside(x, at) for x in walk.stmt_children(s)], default=0.0)
    uses = _Uses(at)
    uses.stmt(s, 1.0)
    if not uses.found or at.summing or not uses.sums:
        return 0.0
    plan = _Plan()
    mine = 0.0
    if all([_decided(u, plan, at) is not None for u in uses.found]) and uses.stores >= 2:
        mine = plan.often()
    further = _often_inside(s.body, at.inside(s))
    return max(mine if mine >= _MOSTLY else 0.0, further)


def _false_outside(uses: _Uses, plan: _Plan) -> dict[int, bool]:
    """A comparison that may be taken as false where not all of `plan` hold: of each condition one,
    if each asks for all of them together."""
    out: dict[int, bool] = {}
    wanted = {lin.key(u.atom) for u in uses.found if id(u.atom) in plan.known}
    for cond in uses.conds:
        mine = [c for c in lin.conjuncts(cond) if id(c) in plan.known]
        if {lin.key(c) for c in mine} != wanted:
            return {}
        out[id(mine[0])] = False
    return out


def _branch(s: For, plan: _Plan, uses: _Uses, at: _At) -> Stmt:
    inside = _go(_resolved(s, plan.known), replace(at, depth=at.depth + 1))
    edge = walk.rename_blocks(_resolved(s, plan.outside) if plan.outside else s)
    edge = _go(edge, replace(at, depth=at.depth + 2, asked=at.asked | plan.asked))
    if not uses.sums:
        edge = _cold(edge)
    return IfThenElse(plan.condition(), inside, edge)


def _cold(s: Stmt) -> Stmt:
    """`s` with loops that are not worth writing out."""
    out = walk.map_stmt(s, lambda e: e, _cold)
    assert out is not None  # nothing is deleted
    if type(out) is not For or out.kind == "vectorized":
        return out
    return For(
        out.var, out.min, out.extent, "serial", out.body, None, (*out.annotations, (COLD, 1))
    )


def _resolved(s: Stmt, known: _Known) -> Stmt:
    """`s` where these comparisons have these values."""

    def condition(c: Expr) -> Expr:
        value = known.get(id(c))
        if value is not None:
            return build.TRUE if value else build.FALSE
        if type(c) is BinOp and c.op in ("and", "or"):
            a, b = condition(c.a), condition(c.b)
            return build.logical_and(a, b) if c.op == "and" else build.logical_or(a, b)
        if dtypes.is_bool(c.dtype) and type(c) is not BufferLoad:
            return walk.map_expr(c, condition)
        return c

    def expr(e: Expr) -> Expr:
        if type(e) is Call and e.op == "if_then_else":
            cond = condition(e.args[0])
            if type(cond) is IntImm:
                return expr(e.args[1] if cond.value else e.args[2])
            return Call(e.op, (cond, expr(e.args[1]), expr(e.args[2])), e.dtype)
        return walk.map_expr(e, expr)

    return walk.rewrite_exprs(s, expr)


# ----------------------------------------------------------------------------- cut loops
def _cut(s: For, uses: _Uses, at: _At) -> Stmt | None:
    """A loop that decides comparisons by itself as up to three loops; None where that is not so."""
    bounds = loop_bounds(s)
    if s.kind != "serial" or bounds is None or at.depth > _DEEP or uses.places > _LITTLE:
        return None
    lo, end = bounds[0], bounds[1] + 1
    if end - lo < _LONG or uses.sums or uses.choosing < uses.stores:
        return None
    first, last = lo, end
    for u in uses.found:
        c = u.form.coef(s.var)
        others = u.form.without([s.var])
        if not c or any(not walk.uses_var(a, u.inner) for a in others.atoms()):
            continue
        _, most = lin.interval_of(others, u.dom)
        # holds for all of the inside where c * var + most < 0
        if c > 0:
            last = min(last, max(lo, (-most - 1) // c + 1))
        else:
            first = max(first, min(end, -((-most - 1) // -c)))
    if (first, last) == (lo, end) or last - first < _MOSTLY * (end - lo):
        return None
    parts: list[Stmt] = []
    for a, b in ((lo, first), (first, last), (last, end)):
        if a < b:
            var = Var(s.var.name, s.var.dtype)
            body = walk.substitute_stmt(walk.rename_blocks(s.body), {s.var: var})
            start, n = IntImm(a, s.var.dtype), IntImm(b - a, s.extent.dtype)
            part = For(var, start, n, s.kind, body, s.thread, s.annotations)
            parts.append(_go(part, replace(at, depth=at.depth + (1 if a == first else 2))))
    return Seq(tuple(parts))
