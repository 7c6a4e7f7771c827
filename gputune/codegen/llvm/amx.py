"""How is an instruction of AMX on tiles called? With the numbers of registers, or with an address.

Which tile of a buffer is meant must be a constant, so loops that choose one are written out. Which
register it is: see tile_registers.py.
"""

from __future__ import annotations

from ...errors import BuildError
from ...ir import walk
from ...ir.nodes import BufferStore, Call, Expr, For
from ...ir.ops import AMX, VectorOp
from ...lower import linear as lin
from ...lower.tiles import Operand, columns, operands, place_of, tile_op
from . import memory
from .fn import Fn
from .memory import IndexValue
from .tile_registers import ROW_BYTES, is_tiles
from .vector_ops import require


def chooses_tile(s: For, f: Fn) -> bool:
    """Does the variable of a loop say which tile in registers is used?"""
    if not f.tiles.held:
        return False
    for x in walk.walk_stmt(s.body):
        op = tile_op(x)
        if op is not None and type(x) is BufferStore:
            for tile in operands(x, op):
                if is_tiles(tile.buffer) and any(walk.uses_var(i, s.var) for i in tile.indices):
                    return True
    return False


def emit(f: Fn, s: BufferStore, op: VectorOp, index: IndexValue) -> None:
    """An instruction on tiles.

    Raises:
        BuildError: the processor has not got it; a tile is not where the instruction can take it.
    """
    assert type(s.value) is Call
    name = s.value.op
    require(f, name, op)
    if s.predicate is not None:
        raise BuildError(f"{name} is masked: a tile is stored as a whole")
    found = list(operands(s, op))
    if len(found) != len(op.tiles):
        raise BuildError(f"{name} takes tiles, it is given {s.value}")
    if len(found) == 4 and not _same(found[0], found[1]):
        raise BuildError(
            f"{name} adds to the tile that it stores to, and these two differ: "
            f"{found[0].buffer.name} and {found[1].buffer.name}"
        )
    places = [found[0], *found[2:]] if len(found) == 4 else found
    registers = [f"i8 {_register(f, x, index)}" for x in places if x.layout == AMX]
    spot: list[str] = []
    for x in places:
        if x.layout == "memory":
            spot = _spot(f, x, index)
    kinds = ", ".join(a.split(" ")[0] for a in (*registers, *spot))
    fn = f.module.declare(op.llvm, "void", kinds)
    f.do(f"call void {fn}({', '.join([*registers, *spot])})")
    if op.tiles[0] == "memory":
        f.bump(f.memory(s.buffer))


def _same(a: Operand, b: Operand) -> bool:
    return a.buffer is b.buffer and [str(i) for i in a.indices] == [str(i) for i in b.indices]


def _register(f: Fn, x: Operand, index: IndexValue) -> int:
    if not is_tiles(x.buffer):
        raise BuildError(
            f"buffer {x.buffer.name} is in {x.buffer.scope} memory, the instruction takes it from "
            f"{AMX}"
        )
    place = place_of(x, f.dom)
    if isinstance(place, str):
        raise BuildError(f"a tile of {x.buffer.name} cannot be a register: {place}")
    first = index(f, lin.to_expr(place.form, "int64")).const
    if first is None:
        raise BuildError(
            f"which tile of {x.buffer.name} is meant is not constant: {_shown(place.indices)}",
            hint="the loops over tiles need constant extents",
        )
    return f.tiles.number(x.buffer, (first, place.stride, columns(x.indices)))


def _spot(f: Fn, x: Operand, index: IndexValue) -> list[str]:
    """Address and bytes from a row to the next."""
    if is_tiles(x.buffer):
        raise BuildError(f"buffer {x.buffer.name} is in {AMX}, the instruction takes it in memory")
    place = place_of(x, f.dom)
    if isinstance(place, str):
        raise BuildError(
            f"a tile of {x.buffer.name} cannot be taken from memory: {place}",
            hint=f"each of its rows is {ROW_BYTES} bytes one after another",
        )
    at = memory.address(f, x.buffer, place.form, index)
    size = ROW_BYTES // columns(x.indices)
    return [f"ptr {at.ref}", f"i64 {place.stride * size}"]


def _shown(indices: tuple[Expr, ...]) -> str:
    return f"[{', '.join(str(i) for i in indices)}]"
