"""How is an operation of a whole warp on tiles called in CUDA C++? By a function of `wmma.cuh`.

A buffer in a scope `wmma.*` is an array of tiles, of which each thread of the warp holds its part
in registers: so all loops over tiles are written out. One in a scope `mma.*` is an array of the
thread's own elements by now (see `gputune.lower.fragments`); calls of the warp, functions of
`mma.cuh`, name where in such arrays a tile begins.
"""

from __future__ import annotations

from ...errors import BuildError
from ...ir import walk
from ...ir.nodes import Buffer, BufferLoad, BufferStore, Call, Expr, For, Ramp, Stmt
from ...ir.ops import VectorOp
from ...lower import linear as lin
from ...lower.tiles import (
    WARP_CALL,
    Operand,
    fragments_of,
    is_fragment,
    is_known,
    number_of,
    operands,
    place_of,
    tile_op,
)
from .expr import Scope, element, stored, text
from .names import stored_type
from .vectors import VECTOR_BYTES

_TYPES = {
    "wmma.matrix_a": "gt_wmma_a", "wmma.matrix_b": "gt_wmma_b",
    "wmma.accumulator": "gt_wmma_acc",
}  # fmt: skip


def declaration(b: Buffer, name: str) -> str:
    """Tiles in registers."""
    if is_known(b):
        return f"gt_fragment<{stored_type(b.dtype)}, {b.shape[0]}> {name};"
    count = fragments_of(b)
    if isinstance(count, str) or b.scope not in _TYPES:
        raise BuildError(f"buffer {b.name} in {b.scope} has no form in CUDA code: {count}")
    return f"{_TYPES[b.scope]}<{stored_type(b.dtype)}> {name}[{count}];"


def call(s: BufferStore, op: VectorOp, scope: Scope) -> str:
    """The operation as a statement: what it gives first, then what it takes, a stride last."""
    assert type(s.value) is Call
    if not op.cuda:
        raise BuildError(f"{s.value.op} has no code on cuda targets")
    parts: list[str] = []
    more: list[str] = []
    where = ""
    found = operands(s, op)
    for e, layout in zip((None, *s.value.args), op.tiles, strict=True):
        if e is not None and not layout:
            parts.append(stored(e, scope))
            continue
        x = next(found)
        if layout == "memory":
            place = place_of(x, scope.dom)
            if isinstance(place, str):
                raise BuildError(f"a tile of {x.buffer.name} has no form in CUDA code: {place}")
            parts.append(f"&{element(x.buffer, place.indices, scope)}")
            more.append(str(place.stride))
            where = "_shared" if x.buffer.scope.startswith("shared") else ""
        else:
            parts.append(_fragment(x, scope))
    return f"{op.cuda}{where}({', '.join([*parts, *more])});"


def _fragment(x: Operand, scope: Scope) -> str:
    which = number_of(x, scope.dom)
    if isinstance(which, str):
        raise BuildError(f"a tile of {x.buffer.name} has no form in CUDA code: {which}")
    number: Expr = lin.to_expr(which, "int32")
    return f"{scope.names.of(x.buffer, x.buffer.name)}[{text(number, scope)}]"


def warp_call_text(s: BufferStore, call: Call, scope: Scope) -> str:
    """A call of the warp as a statement: what it gives, then what it takes beside."""
    given = [e for e in call.args if type(e) is BufferLoad and e.buffer is not s.buffer]
    parts = [_named(e, scope) for e in (BufferLoad(s.buffer, s.indices), *given)]
    return f"{call.op.removeprefix(WARP_CALL)}({', '.join(parts)});"


def _named(e: BufferLoad, scope: Scope) -> str:
    """Where the elements of an operand begin: in registers, or in memory."""
    first = tuple([i.base if type(i) is Ramp else i for i in e.indices])
    if is_known(e.buffer):
        return f"{scope.names.of(e.buffer, e.buffer.name)}, {text(first[0], scope)}"
    scope.needs(e.buffer, VECTOR_BYTES)
    return f"&{element(e.buffer, first, scope)}"


def _registers_at(x: Stmt) -> list[Expr]:
    """Which registers of what a warp holds a statement itself uses."""
    loads = [y for e in walk.stmt_exprs(x) for y in walk.loads(e)]
    used: list[BufferStore | BufferLoad] = [*loads]
    if type(x) is BufferStore:
        used.append(x)
    return [i for y in used if is_known(y.buffer) for i in y.indices]


def chooses_fragment(s: For, dom: lin.Dom) -> bool:
    """Does the variable of a loop say which tile in registers is used?"""
    for x in walk.walk_stmt(s.body):
        if any(walk.uses_var(i, s.var) for i in _registers_at(x)):
            return True
        op = tile_op(x)
        if op is None or type(x) is not BufferStore:
            continue
        for tile in operands(x, op):
            if is_fragment(tile.buffer):
                which = number_of(tile, dom)
                if isinstance(which, str) or any(walk.uses_var(a, s.var) for a in which.atoms()):
                    return True
    return False
