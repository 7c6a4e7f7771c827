"""What does a warp do as one? Operations on tiles, which its 32 threads call together.

Such an operation is a store whose value is a call of an op with `tiles` (`gputune.ir.ops`); its
operands are vectors of 16 x 16 elements (those of AMX, which one thread of a CPU computes, of 16
rows of 64 bytes; those of mma.sync as they say). Memory that it uses any of the threads may touch,
in any place of the tile: which one does is the machine's affair. What is in a scope `wmma.*` or
`mma.*` the warp holds in registers, part by part.

Where each lane of a warp has elements in is known for `mma.*`. `fragments` therefore replaces
operations on such tiles by calls in which every lane names what it brings (`warp_call`).
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

OPAQUE = "wmma."
"""How the scopes of tiles begin of which only the machine knows where lanes hold what."""

FRAGMENT = (OPAQUE, "mma.")
"""How the scopes of what a warp holds in registers begin."""

WARP_CALL = "warp."
"""How calls begin to which all lanes of a warp come, each with registers of its own; what follows
is the device's function. In lowered code only, and there only as the value that a statement stores:
it stores to registers, given as a ramp, and its arguments are loads: of registers, or of the 16
bytes that a lane names."""


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
    """Is there one in a statement, or another use of what a warp holds, lane by lane?"""
    return any(tile_op(x) is not None or uses_known(x) for x in walk.walk_stmt(s))


def is_known(b: Buffer) -> bool:
    """Does a warp hold the buffer so that plain code can use it (see `gputune.ir.fragments`)?"""
    return is_fragment(b) and not b.scope.startswith(OPAQUE)


def uses_known(s: Stmt) -> bool:
    """Does a statement itself load or store what a warp holds so?"""
    if type(s) is BufferStore and is_known(s.buffer):
        return True
    return any(is_known(x.buffer) for e in walk.stmt_exprs(s) for x in walk.loads(e))


def warp_call(s: Stmt) -> Call | None:
    """The call of a warp that a statement of lowered code is, None if it is none."""
    if type(s) is BufferStore and type(s.value) is Call and s.value.op.startswith(WARP_CALL):
        return s.value
    return None


@dataclass(frozen=True, slots=True)
class Operand:
    """A tile that an operation takes or gives: where it is, how it lies there (see
    `VectorOp.tiles`), and its rows and columns."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    store: bool
    layout: str
    rows: int
    cols: int


def operands(s: BufferStore, op: VectorOp) -> Iterator[Operand]:
    """The tiles of an operation, what it gives first."""
    assert type(s.value) is Call
    yield Operand(s.buffer, s.indices, True, op.tiles[0], *_shape(op, 0, s.indices))
    for k, (e, layout) in enumerate(zip(s.value.args, op.tiles[1:], strict=True), 1):
        if layout and type(e) is BufferLoad:
            yield Operand(e.buffer, e.indices, False, layout, *_shape(op, k, e.indices))


def _shape(op: VectorOp, k: int, indices: Sequence[Expr]) -> tuple[int, int]:
    """Rows and columns of the tile that is the result (0) or an argument of an operation."""
    return op.shapes[k] if op.shapes else (TILE, columns(indices))


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
    """How many elements a row of a tile of 16 rows has."""
    return max(1, max([dtypes.lanes(i.dtype) for i in indices], default=1) // TILE)


def by_row_and_column(
    indices: Sequence[Expr], row: Var, col: Var, part: Var | None = None, rows: int = TILE
) -> tuple[Expr, ...]:
    """The indices of one element of a tile, whose lanes are its rows one after another.

    part: numbers the elements of a column that has several; `col` counts columns of one without.
    """
    width = columns(indices) * TILE // rows
    lane: Expr = row * width + (col if part is None else col * (width // TILE) + part)
    dom: dict[Var, lin.Bounds] = {row: (0, rows - 1), col: (0, width - 1)}
    if part is not None:
        dom |= {col: (0, TILE - 1), part: (0, width // TILE - 1)}
    return tuple([
        lin.to_expr(
            lin.linear(walk.substitute(by_lane(i), {LANE: lane}), dom), dtypes.scalar(i.dtype)
        )
        for i in indices
    ])  # fmt: skip


def tile_loops(body: Stmt, rows: int, width: int, warp: bool) -> tuple[For, ...]:
    """Loops over rows and columns that stand for a tile: of one of a warp, these two; else over 16
    columns, and elements of a column if it has several."""
    sizes = [("row", rows), ("col", width)]
    if not warp and width > TILE:
        sizes = [("row", rows), ("col", TILE), ("part", width // TILE)]
    return tuple([For(Var(v), IntImm(0), IntImm(n), "serial", body) for v, n in sizes])


def tidied(s: BufferStore, dom: lin.Dom) -> BufferStore:
    """The operation with the indices of its tiles as plain sums: where a tile begins, and the row
    or column within it."""
    assert type(s.value) is Call
    op = VECTOR[s.value.op]
    args = tuple([
        BufferLoad(e.buffer, _tidied(e.indices, _shape(op, k, e.indices), dom), e.predicate)
        if type(e) is BufferLoad
        else e
        for k, e in enumerate(s.value.args, 1)
    ])  # fmt: skip
    value = Call(s.value.op, args, s.value.dtype)
    at = _tidied(s.indices, _shape(op, 0, s.indices), dom)
    return BufferStore(s.buffer, value, at, s.predicate)


def _tidied(
    indices: tuple[Expr, ...], shape: tuple[int, int], dom: lin.Dom
) -> tuple[Expr, ...]:  # fmt: skip
    row, col = Var("row"), Var("col")
    rows, width = shape
    inner = {**dom, row: (0, rows - 1), col: (0, width - 1)}
    try:
        plain = by_row_and_column(indices, row, col, rows=rows)
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
    inner = {**dom, row: (0, x.rows - 1), col: (0, x.cols - 1)}
    try:
        indices = by_row_and_column(x.indices, row, col, rows=x.rows)
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
    inner = {**dom, row: (0, x.rows - 1), col: (0, x.cols - 1)}
    try:
        indices = by_row_and_column(x.indices, row, col, rows=x.rows)
    except ValueError:
        return "its elements have no plain indices"
    return tile_number(x.buffer, indices, (row, col), (x.rows, x.cols), inner)


def tile_number(
    b: Buffer, indices: Sequence[Expr], within: tuple[Var, Var], shape: tuple[int, int],
    dom: lin.Dom,
) -> lin.Linear | str:  # fmt: skip
    """Which tile of its buffer an element is in; or why it is in none.

    Args:
        within: the variables that are its row and its column in the tile.
        shape: rows and columns of the tiles.
        dom: the ranges of these and of all other variables.
    """
    row, col = within
    total, step = lin.Linear({}, 0), 1
    wanted: list[tuple[Var | None, int]] = [(None, 1)] * (len(indices) - 2)
    wanted += [(row, shape[0]), (col, shape[1])]
    for i, n, (v, unit) in reversed(list(zip(indices, b.shape, wanted, strict=True))):
        form, size = lin.linear(i, dom), int(n.value) if type(n) is IntImm else 1
        if v is not None:
            base = form.without([v])
            if (
                form.coef(v) != 1
                or base.const % unit
                or any(c % unit for _, c in base.terms.values())
            ):
                return f"its index {i} is no multiple of {unit}"
            form = lin.Linear(
                {k: (a, c // unit) for k, (a, c) in base.terms.items()}, base.const // unit
            )
            size //= unit
        if any(walk.uses_var(a, w) for a in form.atoms() for w in (row, col)):
            return "its rows and columns are not the last two dimensions"
        total = lin.plus(total, lin.times(form, step))
        step *= size
    return total
