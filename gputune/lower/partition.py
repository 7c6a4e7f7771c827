"""Where is it checked that a tile lies within its extent? Once for a tile, not at each element.

Tiles that do not divide an extent leave conditions such as `i_0 * 6 + i_1 < 128` at every element.
All values of `i_1` pass for all tiles but the last, and the last one has a constant size. So inside
`i_0` stands one branch between the full tile without the condition, and the remainder with a
shorter loop. At most eight copies are made of any piece of code (three dimensions).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    BinOp,
    BufferLoad,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import loop_bounds, trip_count
from .limits import CpuLimits
from .prepare import as_block

_COPIES = 8
REST = "lower.rest"
"""Annotation of a vectorized loop over what is left of a tile, and so shorter than the tile."""
_Dom = dict[Var, lin.Bounds]


@dataclass(frozen=True, slots=True)
class _Limit:
    """The condition `start + var < end`: `var` is in [0, tile), `start` a multiple of `tile`."""

    start: lin.Linear
    var: Var
    tile: int
    end: int

    @property
    def key(self) -> Hashable:
        return self.start.key(), self.tile, self.end

    @property
    def rest(self) -> int:
        """The size of the last tile, if it is not full."""
        return self.end % self.tile


def partition(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with the conditions of tiles resolved outside of the tiles."""
    return as_block(func, _go(func.body, {}, 1))


def _go(s: Stmt, dom: _Dom, copies: int) -> Stmt:
    if type(s) is For:
        bounds = loop_bounds(s)
        inner = dom if bounds is None else {**dom, s.var: bounds}
        body = _split(s.var, s.body, inner, copies)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, copies))
    assert out is not None  # _go never deletes
    return out


def _split(var: Var, body: Stmt, dom: _Dom, copies: int) -> Stmt:
    """The body of the loop over `var`, with conditions that depend on it resolved."""
    found = _find(var, body, dom)
    if found is None:
        return _go(body, dom, copies)
    if not found.start.terms:
        return _split(var, _Resolve(found, "rest", dom).run(body), dom, copies)
    _, hi = lin.interval_of(found.start, dom)
    last_full = found.end - found.tile
    dtype = found.var.dtype
    start = lin.to_expr(found.start, dtype)
    full = _Resolve(found, "full", dom).run(body)
    if hi <= last_full:
        return _split(var, full, dom, copies)
    if copies * 2 > _COPIES:
        return _go(body, dom, copies)
    orelse: Stmt | None = None
    if hi >= found.end:
        orelse = _drop(_Resolve(found, "none", dom).run(walk.rename_blocks(body)))
    if found.rest:
        rest: Stmt | None = _Resolve(found, "rest", dom).run(walk.rename_blocks(body))
        rest = None if rest is None else _split(var, rest, dom, copies * 2)
        if hi < found.end:
            orelse = rest
        elif rest is not None:
            orelse = IfThenElse(build.lt(start, IntImm(found.end, dtype)), rest, orelse)
    full = _split(var, full, dom, copies * 2)
    return IfThenElse(build.le(start, IntImm(last_full, dtype)), full, orelse)


def _drop(s: Stmt) -> Stmt | None:
    """`s`, or None if it does nothing."""
    return None if all(type(x) in (Evaluate, Seq, For) for x in walk.walk_stmt(s)) else s


def _find(var: Var, body: Stmt, dom: _Dom) -> _Limit | None:
    """A condition inside `body` that can be resolved here: its start changes with `var`, or is
    constant, and with nothing inside."""

    def go(s: Stmt, loops: Mapping[Var, For]) -> _Limit | None:
        if type(s) is For:
            return go(s.body, {**loops, s.var: s})
        if type(s) is IfThenElse:
            for c in lin.conjuncts(s.cond):
                limit = _limit(c, loops, dom)
                if limit is not None and _belongs(limit, var, loops, dom):
                    return limit
        for x in walk.stmt_children(s):
            got = go(x, loops)
            if got is not None:
                return got
        return None

    return go(body, {})


def _belongs(limit: _Limit, var: Var, loops: Mapping[Var, For], dom: _Dom) -> bool:
    if any(walk.uses_var(a, set(loops)) for a in limit.start.atoms()):
        return False
    if not limit.start.terms:
        return _guarded(loops[limit.var].body, limit, loops, dom)
    return any(walk.uses_var(a, var) for a in limit.start.atoms())


def _limit(c: Expr, loops: Mapping[Var, For], dom: _Dom) -> _Limit | None:
    """The condition as a limit on the innermost loop of `loops` that it mentions."""
    if type(c) is not BinOp or c.op not in ("<", "<=", ">", ">=") or not dtypes.is_int(c.a.dtype):
        return None
    if dtypes.lanes(c.a.dtype) > 1 or any(type(x) is BufferLoad for x in walk.walk_expr(c)):
        return None
    inner = dict(dom)
    for v, loop in loops.items():
        bounds = loop_bounds(loop)
        if bounds is not None:
            inner[v] = bounds
    a, b = lin.linear(c.a, inner), lin.linear(c.b, inner)
    if c.op in (">", ">="):
        a, b = b, a
    diff = lin.plus(a, lin.times(b, -1))  # diff < 0, or diff <= 0
    mine = [v for v in loops if diff.coef(v)]
    if not mine:
        return None
    v = mine[-1]
    tile = trip_count(loops[v])
    low = loops[v].min
    if tile is None or tile < 2 or not build.is_literal(low, 0) or diff.coef(v) != 1:
        return None
    start = diff.without([v])
    end = -start.const if c.op in ("<", ">") else -start.const + 1
    start = lin.Linear(start.terms, 0)
    if end < 1 or any(k % tile for _, k in start.terms.values()):
        return None
    if start.terms and lin.interval_of(start, inner)[0] < 0:
        return None
    if not start.terms and end >= tile:
        return None
    return _Limit(start, v, tile, end)


class _Resolve:
    """Rewrites code where the tile is known to be full, to be the remainder, or to be outside."""

    def __init__(self, limit: _Limit, mode: str, dom: _Dom) -> None:
        self.limit = limit
        self.mode = mode
        self.dom = dom
        self.loops: dict[Var, For] = {}
        self.short: set[Var] = set()

    def run(self, s: Stmt) -> Stmt:
        out = self.go(s)
        return Evaluate(IntImm(0)) if out is None else out

    def go(self, s: Stmt) -> Stmt | None:
        match s:
            case For():
                return self._loop(s)
            case IfThenElse():
                return self._if(s)
            case _:
                return walk.map_stmt(s, lambda e: e, self.go)

    def _loop(self, s: For) -> Stmt | None:
        self.loops[s.var] = s
        extent, notes = s.extent, s.annotations
        if self.mode == "rest" and trip_count(s) == self.limit.tile:
            mine = _Limit(self.limit.start, s.var, self.limit.tile, self.limit.end)
            if _guarded(s.body, mine, self.loops, self.dom):
                self.short.add(s.var)
                rest = self.limit.rest if self.limit.start.terms else self.limit.end
                extent = IntImm(rest, extent.dtype)
                if s.kind == "vectorized":
                    notes = (*notes, (REST, 1))
        body = self.go(s.body)
        del self.loops[s.var]
        if body is None:
            return None
        if body is s.body and extent is s.extent:
            return s
        return For(s.var, s.min, extent, s.kind, body, s.thread, notes)

    def _if(self, s: IfThenElse) -> Stmt | None:
        kept = []
        for c in lin.conjuncts(s.cond):
            got = _limit(c, self.loops, self.dom)
            if got is None or got.key != self.limit.key:
                kept.append(c)
            elif self.mode == "none":
                return None if s.orelse is None else self.go(s.orelse)
            elif self.mode == "rest" and got.var not in self.short:
                kept.append(c)
        then = self.go(s.then)
        if len(kept) == len(lin.conjuncts(s.cond)):
            orelse = None if s.orelse is None else self.go(s.orelse)
            if then is None and orelse is None:
                return None
            return IfThenElse(s.cond, then or Evaluate(IntImm(0)), orelse)
        cond = build.logical_and(*kept)
        if build.is_literal(cond, 1):
            return then
        orelse = None if s.orelse is None else self.go(s.orelse)
        if then is None:
            return None if orelse is None else IfThenElse(build.logical_not(cond), orelse)
        return IfThenElse(cond, then, orelse)


def _guarded(s: Stmt, limit: _Limit, loops: Mapping[Var, For], dom: _Dom) -> bool:
    """Is everything in `s` under a condition that means `limit`?"""
    match s:
        case For():
            return _guarded(s.body, limit, {**loops, s.var: s}, dom)
        case Seq():
            return all(_guarded(x, limit, loops, dom) for x in s.items)
        case IfThenElse():
            if s.orelse is not None:
                return False
            for c in lin.conjuncts(s.cond):
                got = _limit(c, loops, dom)
                if got is not None and got.var is limit.var and got.key == limit.key:
                    return True
            return False
        case _:
            return False
