"""Which copies turn a tile in registers? Those that store along one loop and load along another.

`for a, b: T[a, b] = S[b, a]` would move element by element. Squares of as many rows as a vector has
lanes are loaded as rows of S, exchange their halves, quarters, ... crosswise, and are then rows of
T: log2(n) * n shuffles of two vectors for n * n elements.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir import build, dtypes, walk
from ..ir.nodes import (
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
from ..ir.ops import AMX
from . import flat
from . import linear as lin
from .accesses import range_of, trip_count
from .limits import CpuLimits
from .prepare import as_block
from .vectorize import Lanes

_LEAST = 4  # rows: of smaller squares the shuffles do not pay
_SIZES = (4, 8)  # bytes of elements; narrower ones are wider in registers than in memory
_Dom = dict[Var, lin.Bounds]


def turn_tiles(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with such copies by squares."""
    return as_block(func, _go(func.body, {}, limits))


def _go(s: Stmt, dom: _Dom, limits: CpuLimits) -> Stmt:
    if type(s) is For:
        inner = {**dom, s.var: range_of(s, dom)}
        if type(s.body) is For and type(s.body.body) is BufferStore:
            return _turned(s, s.body, s.body.body, dom, limits) or s
        body = _go(s.body, inner, limits)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, limits))
    assert out is not None  # nothing is deleted
    return out


def _turned(f: For, g: For, s: BufferStore, dom: _Dom, limits: CpuLimits) -> Stmt | None:
    """The two loops by squares; None where they are no such copy."""
    load, size = s.value, dtypes.itemsize(s.buffer.dtype)
    if type(load) is not BufferLoad or load.buffer is s.buffer or size not in _SIZES:
        return None
    if AMX in (s.buffer.scope, load.buffer.scope):
        return None
    if s.predicate is not None or load.predicate is not None or dtypes.lanes(load.dtype) > 1:
        return None
    if any(x.kind != "serial" or not build.is_literal(x.min, 0) for x in (f, g)):
        return None
    inner = {**dom, f.var: range_of(f, dom), g.var: range_of(g, dom)}
    to, of = flat.place(s.buffer, s.indices, inner), flat.place(load.buffer, load.indices, inner)
    if to is None or of is None:
        return None
    for a, b in ((f, g), (g, f)):
        if to.form.coef(b.var) != 1 or of.form.coef(a.var) != 1:
            continue
        n = _side(a, b, limits.vector_bytes // size)
        if n is None or not _is_plain(to.form, a, b) or not _is_plain(of.form, b, a):
            return None
        return _squares(a, b, s, load, n, inner)
    return None


def _side(a: For, b: For, lanes: int) -> int | None:
    """Rows of a square: a power of two that divides both loops."""
    m, k = trip_count(a), trip_count(b)
    if m is None or k is None:
        return None
    n = lanes
    while n >= _LEAST and (m % n or k % n):
        n //= 2
    return n if n >= _LEAST else None


def _is_plain(form: lin.Linear, row: For, along: For) -> bool:
    """Do rows follow one another at a distance, so that no two elements are one?"""
    n = trip_count(along)
    step = form.coef(row.var)
    rest = form.without([row.var, along.var]).atoms()
    return (
        n is not None
        and abs(step) >= n
        and not any(walk.uses_var(x, {row.var, along.var}) for x in rest)
    )


def _squares(a: For, b: For, s: BufferStore, load: BufferLoad, n: int, dom: _Dom) -> Stmt:
    at = [Var(f"{x.var.name}_s", x.var.dtype) for x in (a, b)]
    starts = [build.mul(v, IntImm(n, v.dtype)) for v in at]
    first_a, first_b = starts
    lets: list[tuple[Var, Expr]] = []

    def held(e: Expr) -> Var:
        lets.append((Var("row", e.dtype), e))
        return lets[-1][0]

    rows: list[Expr] = []
    for k in range(n):
        row = walk.substitute(load, {b.var: build.add(first_b, IntImm(k, b.var.dtype))})
        rows.append(held(Lanes(a.var, first_a, n, dom).expr(row, None)))
    rows = _exchanged(rows, held)
    stores: list[Stmt] = []
    along = Lanes(b.var, first_b, n, dom)
    for k, row in enumerate(rows):
        here: dict[Var, Expr] = {a.var: build.add(first_a, IntImm(k, a.var.dtype))}
        indices = tuple([along.expr(walk.substitute(i, here), None) for i in s.indices])
        stores.append(BufferStore(s.buffer, row, indices))
    out = build.seq(*stores)
    for v, e in reversed(lets):
        out = LetStmt(v, e, out)
    for x, v in ((b, at[1]), (a, at[0])):
        count = trip_count(x)
        assert count is not None  # see _side
        zero, steps = IntImm(0, v.dtype), IntImm(count // n, v.dtype)
        out = For(v, zero, steps, "serial", out, None, x.annotations)
    return out


def _exchanged(rows: list[Expr], held: Callable[[Expr], Var]) -> list[Expr]:
    """The rows of the square turned: blocks of `far` rows and lanes change places crosswise, from
    the largest to the smallest."""
    n = len(rows)
    far = n // 2
    while far:
        low = tuple([k if not k & far else n + k - far for k in range(n)])
        high = tuple([k + far if not k & far else n + k for k in range(n)])
        out = list(rows)
        for k in range(n):
            if not k & far:
                pair = (rows[k], rows[k + far])
                out[k], out[k + far] = held(Shuffle(pair, low)), held(Shuffle(pair, high))
        rows, far = out, far // 2
    return rows
