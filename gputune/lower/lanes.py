"""Which loops are summed across the lanes of vectors? Those that a schedule notes for it.

A reduction that `rfactor` made as wide as a few vectors ends in a short loop over the partial
results. With the annotation `LANES` the order in which that loop combines them is free: its vectors
are combined lane by lane, and the lanes of the one that is left by halves. That is 4 dependent
steps for 16 elements, and not 16; and no partial result has to go through memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    BinaryOp,
    BinOp,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IntImm,
    LetStmt,
    PrimFunc,
    Shuffle,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import trip_count
from .limits import CpuLimits
from .prepare import as_block
from .vectorize import Lanes, NoVectorForm, native_lanes, range_of

LANES = "reduce_lanes"
"""Annotation of a serial loop that combines elements: they may be combined in any order."""
VECTORS = 8
"""Of longer loops all vectors together would not stay in registers: they are left alone."""
_FREE = frozenset({"+", "*", "min", "max"})
_Dom = dict[Var, lin.Bounds]


def reduce_lanes(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with the annotated loops as operations on vectors."""
    return as_block(func, _go(func.body, {}, limits))


def _go(s: Stmt, dom: _Dom, limits: CpuLimits) -> Stmt:
    if type(s) is For:
        inner = {**dom, s.var: range_of(s, dom)}
        if s.kind == "serial" and (LANES, 1) in s.annotations:
            found = _sum_of(s, limits)
            if found is not None:
                return found.vectors(inner) or s
        body = _go(s.body, inner, limits)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, limits))
    assert out is not None  # nothing is deleted
    return out


@dataclass(frozen=True, slots=True)
class _Sum:
    """The loop `for k in range(count): place = place op element`.

    Attributes:
        store: the statement.
        old: what stands at the place.
        lanes: of a vector, a power of two.
    """

    loop: For
    store: BufferStore
    op: BinaryOp
    old: BufferLoad
    element: Expr
    count: int
    lanes: int

    def vectors(self, dom: _Dom) -> Stmt | None:
        """The same with vectors; None where the element has no vector form."""
        lets: list[tuple[Var, Expr]] = []

        def held(e: Expr) -> Var:
            lets.append((Var("lanes", e.dtype), e))
            return lets[-1][0]

        total: Expr = self.old
        at, lanes = 0, self.lanes
        try:
            while at < self.count:
                groups = (self.count - at) // lanes
                parts = [self._part(at + k * lanes, lanes, dom) for k in range(groups)]
                at += groups * lanes
                if parts:
                    one = _tree(self.op, parts)
                    while dtypes.lanes(one.dtype) > 1:
                        v, n = held(one), dtypes.lanes(one.dtype)
                        low, high = tuple(range(n // 2)), tuple(range(n // 2, n))
                        one = build.binary(self.op, Shuffle((v,), low), Shuffle((v,), high))
                    total = build.binary(self.op, total, one)
                lanes //= 2
        except NoVectorForm:
            return None
        out: Stmt = BufferStore(self.store.buffer, total, self.store.indices)
        for v, e in reversed(lets):
            out = LetStmt(v, e, out)
        return out

    def _part(self, first: int, lanes: int, dom: _Dom) -> Expr:
        """The elements from `first` on."""
        var = self.loop.var
        start = build.add(self.loop.min, IntImm(first, var.dtype))
        if lanes == 1:
            return walk.substitute(self.element, {var: start})
        value = Lanes(var, start, lanes, dom).expr(self.element, None)
        if dtypes.lanes(value.dtype) != lanes:
            raise NoVectorForm  # the same element again and again
        return value


def _tree(op: BinaryOp, parts: list[Expr]) -> Expr:
    """All of them combined, neighbours first."""
    while len(parts) > 1:
        pairs = [build.binary(op, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[len(pairs) * 2 :]]
    return parts[0]


def _sum_of(s: For, limits: CpuLimits) -> _Sum | None:
    """The loop as a sum; None where it is none, or has too many elements for registers."""
    n, store = trip_count(s), s.body
    if type(store) is not BufferStore or store.predicate is not None or n is None or n < 2:
        return None
    value = store.value
    if type(value) is not BinOp or value.op not in _FREE or dtypes.lanes(value.dtype) > 1:
        return None
    place = [lin.key(i) for i in store.indices]
    lanes = native_lanes(store, limits)
    if any(walk.uses_var(i, s.var) for i in store.indices) or n > VECTORS * lanes:
        return None
    for old, element in ((value.a, value.b), (value.b, value.a)):
        if type(old) is not BufferLoad or old.buffer is not store.buffer:
            continue
        if old.predicate is not None or [lin.key(i) for i in old.indices] != place:
            continue
        if any(type(x) is BufferLoad and x.buffer is store.buffer for x in walk.walk_expr(element)):
            return None
        return _Sum(s, store, value.op, old, element, n, lanes)
    return None
