"""Which registers of a lane hold what its warp has of a tile? Fragments, made registers.

A buffer in a scope `mma.*` becomes an array that each lane has for itself, tile after tile, and a
loop over rows and columns of such a buffer a loop over the lane's own elements of it: which row and
column these are is said by `gputune.ir.fragments`. So an epilogue runs where the sums are. Neither
barriers nor shuffles are needed, since no lane uses what another one has. Operations of the warp
become calls in which every lane names its registers, and for `ldmatrix` the row that it brings.

What comes after this pass sees what each thread touches, element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..errors import LowerError
from ..ir import build, dtypes, walk
from ..ir.fragments import Fragment, fragment, ldmatrix_row
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Ramp,
    Stmt,
    Var,
)
from ..ir.ops import VectorOp
from . import linear as lin
from .accesses import Access, collect, range_of
from .kernels import inner, with_inner
from .limits import CpuLimits
from .tiles import (
    WARP,
    WARP_CALL,
    Operand,
    by_row_and_column,
    is_known,
    number_of,
    operands,
    tile_number,
    tile_op,
    uses_known,
)
from .touches import length

_CODE = "warp-fragment"
_ROW_BYTES = 16
"""What a lane names to ldmatrix."""


def lower_fragments(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with registers of lanes in place of tiles that warps hold.

    Raises:
        LowerError: a buffer is no row of tiles, or is used as no loop over registers can do it.
    """
    for b in kernel.buffers:
        if is_known(b):
            raise LowerError(
                f"argument {b.name} is in {b.scope}, which only a warp has while it runs",
                hint=f'let it be in global memory, and have a copy: cache_read(..., "{b.scope}")',
                code="warp-scope",
            )
    axes, body = inner(kernel)
    lane = next((a.var for a in axes if a.thread == "threadIdx.x"), None)
    if lane is None or not any(is_known(b) for b in _used(body)):
        return kernel
    dom = {a.var: (0, length(a) - 1) for a in axes}
    assert dom[lane] == (0, WARP - 1)  # `split_kernels` has seen to it
    orders = _orders(body)
    known = [s.buffer for s in walk.walk_stmt(body) if type(s) is Alloc and is_known(s.buffer)]
    held = {b: _hold(b, orders.get(b, "row")) for b in known}
    return with_inner(kernel, _Lowering(lane, held).go(body, dom))


def _orders(body: Stmt) -> dict[Buffer, str]:
    """How operands lie, by what multiplies or loads them (`check_warps`: all alike)."""
    out: dict[Buffer, str] = {}
    for s in walk.walk_stmt(body):
        op = tile_op(s)
        if op is not None:
            assert type(s) is BufferStore
            for x in operands(s, op):
                if is_known(x.buffer) and ":" in x.layout:
                    out[x.buffer] = x.layout.partition(":")[2]
    return out


@dataclass(frozen=True, slots=True)
class _Held:
    """What a lane has of a buffer, and which elements of a tile these are."""

    registers: Buffer
    lies: Fragment


def _hold(b: Buffer, order: str) -> _Held:
    """What a lane has of a buffer whose tiles lie by rows or columns."""
    sizes = [int(n.value) for n in b.shape if type(n) is IntImm]
    why = ""
    if b.strides is not None or b.elem_offset is not None:
        why = "it is padded: take storage_align away"
    elif len(sizes) != len(b.shape) or len(sizes) < 2:
        why = f"it has the shape ({', '.join(str(n) for n in b.shape)})"
    elif dtypes.itemsize(b.dtype) > 4:
        why = f"a lane has words of four bytes, and its elements are {b.dtype}"
    if why:
        raise _no_tiles(b, why)
    lies = fragment(b.scope, order, dtypes.itemsize(b.dtype))
    if sizes[-2] % lies.rows or sizes[-1] % lies.cols:
        raise _no_tiles(
            b, f"its last dimensions are {sizes[-2]} x {sizes[-1]}, not multiples of "
            f"{lies.rows} and {lies.cols}"
        )  # fmt: skip
    count = prod(sizes) // WARP
    return _Held(Buffer(b.name, (IntImm(count),), b.dtype, b.scope), lies)


@dataclass(frozen=True, slots=True)
class _Nest:
    """Loops over the elements of tiles.

    Attributes:
        row, col: the loops over rows and columns.
        around: other loops, which come to stand around those over registers.
        within: conditions and names, which come to stand in them.
        body: what is in all of them.
    """

    row: For
    col: For
    around: tuple[For, ...]
    within: tuple[IfThenElse | LetStmt, ...]
    body: Stmt


class _Lowering:
    def __init__(self, lane: Var, held: Mapping[Buffer, _Held]) -> None:
        self.lane = lane
        self.held = held

    def go(self, s: Stmt, dom: dict[Var, lin.Bounds]) -> Stmt:
        """The statement, with registers."""
        match s:
            case Alloc() if is_known(s.buffer):
                return Alloc(self.held[s.buffer].registers, self.go(s.body, dom))
            case BufferStore() if (op := tile_op(s)) is not None:
                known = any(is_known(x.buffer) for x in operands(s, op))
                return self._operation(s, op, dom) if known else s
            case For() if self._moving(s, s.var, dom):
                return self._elements(s, dom)
            case For():
                body = self.go(s.body, {**dom, s.var: range_of(s, dom)})
                return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
            case _:
                if uses_known(s):
                    raise _by_element(s)
                out = walk.map_stmt(s, lambda e: e, lambda x: self.go(x, dom))
                assert out is not None  # nothing is deleted
                return out

    # ------------------------------------------------------------------ operations of the warp
    def _operation(self, s: BufferStore, op: VectorOp, dom: dict[Var, lin.Bounds]) -> Stmt:
        assert type(s.value) is Call
        found = list(operands(s, op))
        at = self._registers(found[0], dom)
        if found[1].layout == "memory":
            args = [self._memory(found[1], dom, self.held[s.buffer].lies)]
        else:
            if found[1].buffer is not s.buffer or (
                self._number(found[1], dom).key() != self._number(found[0], dom).key()
            ):
                raise LowerError(
                    f"{s.value.op} adds to {found[1].buffer.name} and puts the sums elsewhere",
                    hint="let it add to the tile that it stores",
                    code="warp-operand",
                )
            args = [self._registers(x, dom) for x in found[1:]]
        value = Call(f"{WARP_CALL}{op.cuda}", tuple(args), at.dtype)
        return BufferStore(at.buffer, value, at.indices)

    def _number(self, x: Operand, dom: Mapping[Var, lin.Bounds]) -> lin.Linear:
        which = number_of(x, dom)
        assert not isinstance(which, str)  # `check_warps` has looked
        return which

    def _registers(self, x: Operand, dom: Mapping[Var, lin.Bounds]) -> BufferLoad:
        """The registers of a tile."""
        held = self.held[x.buffer]
        count = held.lies.registers
        first = lin.to_expr(lin.times(self._number(x, dom), count), "int32")
        return BufferLoad(held.registers, (Ramp(first, IntImm(1), count),))

    def _memory(self, x: Operand, dom: dict[Var, lin.Bounds], lies: Fragment) -> BufferLoad:
        """What a lane names of a tile in shared memory: 16 bytes of a row."""
        if not x.buffer.scope.startswith("shared"):
            raise LowerError(
                f"ldmatrix takes tiles in shared memory, {x.buffer.name} is in {x.buffer.scope}",
                hint="cache_read it into shared memory; or do not tensorize the block that loads "
                "it, which then does so element by element",
                code="warp-scope",
            )
        row, col = Var("row"), Var("col")
        inner = {**dom, row: (0, x.rows - 1), col: (0, x.cols - 1)}
        first_row, first_col = ldmatrix_row(lies, self.lane)
        width = _ROW_BYTES // dtypes.itemsize(x.buffer.dtype)
        at: list[Expr] = []
        for i in by_row_and_column(x.indices, row, col, rows=x.rows):
            form = lin.linear(i, inner)
            table = {row: build.cast(i.dtype, first_row), col: build.cast(i.dtype, first_col)}
            start = lin.to_expr(lin.linear(walk.substitute(i, table), dom), i.dtype)
            if form.coef(col) == 1:
                at.append(Ramp(start, IntImm(1, i.dtype), width))
                continue
            if any(walk.uses_var(a, col) for a in form.atoms()):
                raise LowerError(
                    f"the rows of a tile of {x.buffer.name} lie along {i}, in pieces",
                    hint="let columns be a dimension of their own",
                    code="warp-tile",
                )
            at.append(start)
        return BufferLoad(x.buffer, tuple(at))

    # ------------------------------------------------------------------ elements
    def _plain(self, s: Stmt, dom: Mapping[Var, lin.Bounds]) -> list[tuple[Access, lin.Dom]]:
        """The accesses that are no part of an operation of the warp, with ranges."""
        out: list[tuple[Access, lin.Dom]] = []
        for a in collect(s):
            if is_known(a.buffer) and not a.warp:
                ranges = dict(dom)
                for loop in a.loops:
                    ranges[loop.var] = range_of(loop, ranges)
                out.append((a, ranges))
        return out

    def _moving(self, s: Stmt, v: Var, dom: Mapping[Var, lin.Bounds]) -> bool:
        """Does a variable go through the elements of a tile?"""
        for a, ranges in self._plain(s, dom):
            lies = self.held[a.buffer].lies
            for i, unit in zip(a.indices[-2:], (lies.rows, lies.cols), strict=True):
                form = lin.linear(i, ranges)
                inside = form.without([v]).atoms()
                if form.coef(v) % unit or any(walk.uses_var(x, v) for x in inside):
                    return True
        return False

    def _elements(self, s: For, dom: dict[Var, lin.Bounds]) -> Stmt:
        """Loops over the elements of tiles as loops over the registers of a lane."""
        nest = self._nest(s, dom)
        lies = self._lies(nest)
        self._check_stores(nest.body)
        ranges = dict(dom)
        for f in (nest.row, nest.col, *nest.around):
            ranges[f.var] = range_of(f, ranges)
        group, part = Var("group"), Var("part")
        within = (Var("row", nest.row.var.dtype), Var("col", nest.col.var.dtype))
        table: dict[Var, Expr] = {}  # what the variables of the loops are, for a register,
        split: dict[Var, Expr] = {}  # and for an element of a tile
        tiles: list[For] = []
        for f, unit, at, v in zip(
            (nest.row, nest.col), (lies.rows, lies.cols), lies.place(self.lane, group, part),
            within, strict=True,
        ):  # fmt: skip
            tile = self._tiles(f, unit)
            begin: Expr = IntImm(0, f.var.dtype)
            if not build.is_literal(tile.extent, 1):
                tiles.append(tile)
                ranges[tile.var] = range_of(tile, ranges)
                begin = build.mul(tile.var, IntImm(unit, f.var.dtype))
            ranges[v] = (0, unit - 1)
            table[f.var] = build.add(begin, build.cast(f.var.dtype, at))
            split[f.var] = build.add(begin, v)
        mine = _Registers(self.held, lies, split, within, ranges, group * lies.parts + part)
        body = walk.substitute_stmt(mine.stmt(nest.body), table)
        for x in reversed(nest.within):
            if type(x) is IfThenElse:
                body = IfThenElse(walk.substitute(mine.expr(x.cond), table), body)
            elif type(x) is LetStmt:
                body = LetStmt(x.var, walk.substitute(mine.expr(x.value), table), body)
        wide = lies.along_row and lies.parts > 1
        body = For(part, IntImm(0), IntImm(lies.parts), "vectorized" if wide else "unrolled", body)
        body = For(group, IntImm(0), IntImm(lies.groups), "unrolled", body)
        for f in reversed((*nest.around, *tiles)):
            body = For(f.var, f.min, f.extent, f.kind, body, f.thread, f.annotations)
        return body

    def _tiles(self, f: For, unit: int) -> For:
        """The loop over tiles that a loop over their elements is."""
        n = int(f.extent.value) if type(f.extent) is IntImm else None
        if n is None or n % unit or not build.is_literal(f.min, 0):
            raise LowerError(
                f"loop {f.var.name} over elements that a warp holds runs from {f.min} for "
                f"{f.extent}, not over tiles of {unit}",
                hint=f"let its extent be a multiple of {unit}, with a condition inside where there "
                "is less",
                code=_CODE,
            )
        which, count = Var(f"{f.var.name}_tile", f.var.dtype), IntImm(n // unit, f.var.dtype)
        return For(which, IntImm(0, f.var.dtype), count, "unrolled", f.body)

    def _lies(self, nest: _Nest) -> Fragment:
        """How all buffers lie that loops over elements use."""
        used = _used(nest.body).union(*[_used(_own(x)) for x in nest.within])
        first, *others = sorted(used, key=lambda b: b.name)
        lies = self.held[first].lies
        for b in others:
            if not self.held[b].lies.is_like(lies):
                raise LowerError(
                    f"a statement uses {first.name} and {b.name}, of which a lane holds different "
                    "elements",
                    hint="go through shared memory from one to the other",
                    code=_CODE,
                )
        return lies

    def _nest(self, s: For, dom: Mapping[Var, lin.Bounds]) -> _Nest:
        loops: list[For] = []
        around: list[For] = []
        within: list[IfThenElse | LetStmt] = []
        inside: Stmt = s
        ranges = dict(dom)
        while len(loops) < 2:
            match inside:
                case For(kind="serial" | "unrolled" | "vectorized"):
                    moves = self._moving(inside, inside.var, ranges)
                    (loops if moves else around).append(inside)
                    ranges[inside.var] = range_of(inside, ranges)
                    inside = inside.body
                case IfThenElse() if inside.orelse is None:
                    within.append(inside)
                    inside = inside.then
                case LetStmt():
                    within.append(inside)
                    inside = inside.body
                case _:
                    raise _by_element(inside)
        names = {f.var for f in loops} | {x.var for x in within if type(x) is LetStmt}
        for f in around:
            if any(walk.uses_var(e, v) for e in (f.min, f.extent) for v in names):
                raise _by_element(f)
        plain = self._plain(inside, ranges)
        if not plain:  # (only a condition uses what the warp holds)
            raise _by_element(inside)
        a, known = plain[0]
        one, two = loops
        if lin.linear(a.indices[-2], known).coef(one.var) != 1:
            one, two = two, one
        return _Nest(one, two, tuple(around), tuple(within), inside)

    def _check_stores(self, body: Stmt) -> None:
        """What a lane stores beside the warp's registers others must see."""
        for x in walk.walk_stmt(body):
            if type(x) is BufferStore and x.buffer.scope in ("local", "warp"):
                raise LowerError(
                    f"a block stores to {x.buffer.name} in {x.buffer.scope} memory what it has of "
                    "elements that a warp holds, of which each lane has its own",
                    hint='set_scope(..., "mma.accumulator") or "shared"',
                    code=_CODE,
                )


class _Registers:
    """Registers in place of the elements of buffers.

    Args:
        lies: how all of them lie.
        split: what the variables over rows and columns are: a tile's first, and `within` it.
        ranges: of all variables.
        number: which of a lane's elements of a tile.
    """

    def __init__(
        self,
        held: Mapping[Buffer, _Held],
        lies: Fragment,
        split: Mapping[Var, Expr],
        within: tuple[Var, Var],
        ranges: lin.Dom,
        number: Expr,
    ) -> None:
        self.held = held
        self.lies = lies
        self.split = split
        self.within = within
        self.ranges = ranges
        self.number = number

    def expr(self, e: Expr) -> Expr:
        """An expression."""
        out = walk.map_expr(e, self.expr)
        if type(out) is BufferLoad and is_known(out.buffer):
            at = self._at(out.buffer, out.indices)
            return BufferLoad(self.held[out.buffer].registers, (at,), out.predicate)
        return out

    def stmt(self, s: Stmt) -> Stmt:
        """A statement."""
        out = walk.map_stmt(s, self.expr, self.stmt)
        assert out is not None  # nothing is deleted
        if type(out) is BufferStore and is_known(out.buffer):
            at = self._at(out.buffer, out.indices)
            return BufferStore(self.held[out.buffer].registers, out.value, (at,), out.predicate)
        return out

    def _at(self, b: Buffer, indices: Sequence[Expr]) -> Expr:
        own = [walk.substitute(i, self.split) for i in indices]
        shape = (self.lies.rows, self.lies.cols)
        which = tile_number(b, own, self.within, shape, self.ranges)
        if isinstance(which, str):
            raise LowerError(
                f"{b.name}[{', '.join(map(str, indices))}] in {b.scope} is no element of a tile "
                f"that the loops go through: {which}",
                hint="index its last two dimensions with the loops over rows and columns, one each",
                code=_CODE,
            )
        first = lin.to_expr(lin.times(which, self.lies.registers), "int32")
        return build.add(first, self.number)


def _own(s: IfThenElse | LetStmt) -> Stmt:
    """Something with the expression of a condition or name, and nothing that is inside."""
    return Evaluate(s.value if isinstance(s, LetStmt) else s.cond)


def _no_tiles(b: Buffer, why: str) -> LowerError:
    return LowerError(
        f"buffer {b.name} in {b.scope} is no row of tiles: {why}",
        hint="split the loops by the sizes of a tile and compute whole tiles",
        code=_CODE,
    )


def _by_element(s: Stmt) -> LowerError:
    names = sorted({b.name for b in _used(s)})
    return LowerError(
        f"a statement uses {', '.join(names) or 'what a warp holds'}, of which each lane of a warp "
        "holds some elements, but not in two loops over rows and columns of whole tiles",
        hint="give the block two spatial loops over whole tiles, or tensorize it",
        code=_CODE,
    )


def _used(s: Stmt) -> set[Buffer]:
    return {
        x.buffer
        for y in walk.walk_stmt(s)
        for x in (*[z for e in walk.stmt_exprs(y) for z in walk.loads(e)], y)
        if isinstance(x, BufferLoad | BufferStore) and is_known(x.buffer)
    }
