"""What does a warp do as one? Operations on tiles, which its 32 threads call together.

Such an operation is a store whose value is a call of an op with `tiles` (`gputune.ir.ops`); its
operands are vectors of 16 x 16 elements (those of AMX, which one thread of a CPU computes, of 16
rows of 64 bytes). Memory that it uses any of the threads may touch, in any
place of the tile: which one does is the machine's affair. What is in a scope `wmma.*` the warp
holds in registers, part by part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IntImm,
    Ramp,
    Stmt,
    Var,
)
from ..ir.ops import TILE, VECTOR, VectorOp
from . import linear as lin
from .flat import LANE, by_lane, steps_of

WARP = 32
"""Threads of a warp: those with equal threadIdx.y and threadIdx.z, where threadIdx.x has 32."""

FRAGMENT = "wmma."
"""How the scopes of what a warp holds in registers begin."""


def in_registers(b: Buffer) -> bool:
    """Does every thread, or every warp, have a buffer of its own?"""
    return b.scope == "local" or of_warp(b) or b.scope.startswith(FRAGMENT)


def of_warp(b: Buffer) -> bool:
    """Do the lanes of a warp have the buffer together, each a part (see `warp_memory`)?"""
    return b.scope == "warp"


def is_fragment(b: Buffer) -> bool:
    """Does a warp hold the buffer, each of its threads a part?"""
    return b.scope.startswith(FRAGMENT)


def tile_op(s: Stmt) -> VectorOp | None:
    """The operation of a warp that a statement is, None if it is none."""
    if type(s) is not BufferStore or type(s.value) is not Call:
        return None
    op = VECTOR.get(s.value.op)
    return op if op is not None and op.tiles else None


def has_tile_op(s: Stmt) -> bool:
    """Is there one in a statement?"""
    return any(tile_op(x) is not None for x in walk.walk_stmt(s))


@dataclass(frozen=True, slots=True)
class Operand:
    """A tile that an operation takes or gives: where it is, and how it lies there (see
    `VectorOp.tiles`)."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    store: bool
    layout: str


def operands(s: BufferStore, op: VectorOp) -> Iterator[Operand]:
    """The tiles of an operation, what it gives first."""
    assert type(s.value) is Call
    yield Operand(s.buffer, s.indices, True, op.tiles[0])
    for e, layout in zip(s.value.args, op.tiles[1:], strict=True):
        if layout and type(e) is BufferLoad:
            yield Operand(e.buffer, e.indices, False, layout)


def numbers(s: BufferStore, op: VectorOp) -> Iterator[Expr]:
    """What an operation takes beside tiles, and the indices at which its tiles lie."""
    assert type(s.value) is Call
    yield from s.indices
    for e, layout in zip(s.value.args, op.tiles[1:], strict=True):
        if layout and type(e) is BufferLoad:
            yield from e.indices
        else:
            yield e


def columns(indices: Sequence[Expr]) -> int:
    """How many elements a row of a tile has."""
    return max(1, max([dtypes.lanes(i.dtype) for i in indices], default=1) // TILE)


def by_row_and_column(
    indices: Sequence[Expr], row: Var, col: Var, part: Var | None = None
) -> tuple[Expr, ...]:
    """The indices of one element of a tile, whose lanes are its rows one after another.

    part: numbers the elements of a column that has several; `col` counts columns of one without.
    """
    width = columns(indices)
    lane: Expr = row * width + (col if part is None else col * (width // TILE) + part)
    dom: dict[Var, lin.Bounds] = {row: (0, TILE - 1), col: (0, width - 1)}
    if part is not None:
        dom |= {col: (0, TILE - 1), part: (0, width // TILE - 1)}
    return tuple([
        lin.to_expr(
            lin.linear(walk.substitute(by_lane(i), {LANE: lane}), dom), dtypes.scalar(i.dtype)
        )
        for i in indices
    ])  # fmt: skip


def tile_loops(body: Stmt, width: int = TILE) -> tuple[For, ...]:
    """Loops over rows and 16 columns, and elements of a column if it has several, that stand for a
    tile."""
    sizes = [("row", TILE), ("col", TILE), ("part", width // TILE)][: 3 if width > TILE else 2]
    return tuple([For(Var(v), IntImm(0), IntImm(n), "serial", body) for v, n in sizes])


def tidied(s: BufferStore, dom: lin.Dom) -> BufferStore:
    """The operation with the indices of its tiles as plain sums: where a tile begins, and the row
    or column within it."""
    assert type(s.value) is Call
    args = tuple([
        BufferLoad(e.buffer, _tidied(e.indices, dom), e.predicate) if type(e) is BufferLoad else e
        for e in s.value.args
    ])  # fmt: skip
    value = Call(s.value.op, args, s.value.dtype)
    return BufferStore(s.buffer, value, _tidied(s.indices, dom), s.predicate)


def _tidied(indices: tuple[Expr, ...], dom: lin.Dom) -> tuple[Expr, ...]:
    row, col = Var("row"), Var("col")
    width = columns(indices)
    inner = {**dom, row: (0, TILE - 1), col: (0, width - 1)}
    try:
        plain = by_row_and_column(indices, row, col)
    except ValueError:
        return indices
    return tuple([
        _one_tidied(i, x, row, col, width, inner) for i, x in zip(indices, plain, strict=True)
    ])  # fmt: skip


def _one_tidied(old: Expr, plain: Expr, row: Var, col: Var, width: int, dom: lin.Dom) -> Expr:
    """`plain` as an index of lanes; `old` where it is more than a sum."""
    form = lin.linear(plain, dom)
    base, steps = form.without([row, col]), (form.coef(row), form.coef(col))
    lanes, dtype = dtypes.split(old.dtype)[1], plain.dtype
    if lanes == 1 or any(walk.uses_var(a, v) for a in base.atoms() for v in (row, col)):
        return old
    start = build.broadcast(lin.to_expr(base, dtype), lanes)
    within = Ramp(IntImm(0, dtype), IntImm(1, dtype), lanes)
    tile = build.broadcast(IntImm(width, dtype), lanes)
    zero = not base.terms and not base.const
    match steps:
        case (0, 0):
            return start
        case (1, 0):
            part = within // tile
        case (0, 1):
            part = within % tile
        case _:
            return old
    return part if zero else start + part


# ----------------------------------------------------------------------------- where it lies
@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies in memory.

    indices: of its first element; form: the same as one number of elements; stride: elements from a
    row to the next.
    """

    indices: tuple[Expr, ...]
    form: lin.Linear
    stride: int


def place_of(x: Operand, dom: lin.Dom) -> Place | str:
    """Where a tile lies in memory; or why no operation can take it there."""
    row, col = Var("row"), Var("col")
    inner = {**dom, row: (0, TILE - 1), col: (0, columns(x.indices) - 1)}
    try:
        indices = by_row_and_column(x.indices, row, col)
    except ValueError:
        return "its elements have no plain indices"
    total = lin.Linear({}, 0)
    for i, step in zip(indices, steps_of(x.buffer), strict=True):
        if type(step) is not IntImm:
            return "its size is not constant"
        total = lin.plus(total, lin.times(lin.linear(i, inner), int(step.value)))
    form = total.without([row, col])
    if any(walk.uses_var(a, v) for a in form.atoms() for v in (row, col)):
        return "it is cut in pieces"
    if total.coef(col) != 1 or total.coef(row) < 1:
        return f"its rows do not lie one by one: {total.coef(col)} elements from column to column"
    if x.buffer.elem_offset is not None:
        form = lin.plus(form, lin.linear(x.buffer.elem_offset, dom))
    first = {row: IntImm(0), col: IntImm(0)}
    return Place(tuple([walk.substitute(i, first) for i in indices]), form, total.coef(row))


def fragments_of(b: Buffer) -> int | str:
    """How many tiles a buffer in registers has; or why it has none."""
    if b.strides is not None or b.elem_offset is not None:
        return "it is padded: take storage_align away"
    sizes = [int(n.value) for n in b.shape if type(n) is IntImm]
    if len(sizes) != len(b.shape) or len(sizes) < 2:
        return f"it has the shape ({', '.join(str(n) for n in b.shape)})"
    if sizes[-1] % TILE or sizes[-2] % TILE:
        return f"its last dimensions are {sizes[-2]} x {sizes[-1]}, not multiples of {TILE}"
    out = 1
    for n in sizes:
        out *= n
    return out // TILE**2


def number_of(x: Operand, dom: lin.Dom) -> lin.Linear | str:
    """Which tile of its buffer an operand in registers is; or why it is none."""
    row, col = Var("row"), Var("col")
    inner = {**dom, row: (0, TILE - 1), col: (0, TILE - 1)}
    try:
        indices = by_row_and_column(x.indices, row, col)
    except ValueError:
        return "its elements have no plain indices"
    total, step = lin.Linear({}, 0), 1
    wanted = [None] * (len(indices) - 2) + [row, col]
    for i, n, v in reversed(list(zip(indices, x.buffer.shape, wanted, strict=True))):
        form, size = lin.linear(i, inner), int(n.value) if type(n) is IntImm else 1
        if v is not None:
            base = form.without([v])
            if (
                form.coef(v) != 1
                or base.const % TILE
                or any(c % TILE for _, c in base.terms.values())
            ):
                return f"its index {i} is no multiple of {TILE}"
            form = lin.Linear(
                {k: (a, c // TILE) for k, (a, c) in base.terms.items()}, base.const // TILE
            )
            size //= TILE
        if any(walk.uses_var(a, w) for a in form.atoms() for w in (row, col)):
            return "its rows and columns are not the last two dimensions"
        total = lin.plus(total, lin.times(form, step))
        step *= size
    return total
