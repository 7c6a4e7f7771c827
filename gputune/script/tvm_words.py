"""What do the words mean in which tensor intrinsics for TVM are written?

Those are written with LLVM's functions (`T.call_llvm_pure_intrin`), halves of vectors, and tiles
that `T.tvm_mma_sync` and its kin reach through pointers. Here each becomes what this language has
for it: a vector intrinsic of `gputune.ir.ops.VECTOR`, a shuffle, an access. What has no such form
is refused with what would work.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NoReturn

from ..ir import dtypes, ops
from ..ir.nodes import (
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    IntImm,
    Ramp,
    Shuffle,
    Stmt,
    StringImm,
    Var,
)
from ..ir.walk import walk_expr
from .calls import bind_args
from .context import Context, closest
from .expressions import evaluate
from .values import binary, describe, dtype_of, is_expr, python_int, to_expr

_TILE = ops.TILE
_POINTERS = (
    "index the buffer (A[i, 0:16], A.vload([i], dtype)); tiles of tensor cores are moved with "
    "T.tvm_load_matrix_sync and T.tvm_store_matrix_sync, or T.call_intrin"
)
_TENSOR_CORES = (
    "tensor cores are reached with T.tvm_mma_sync, or T.call_intrin('float32x256', "
    "'wmma.mma.f16f16f32', c, a, b), on tiles of 16 x 16 in scopes wmma.*"
)
INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        (
            "ptx_mma", "ptx_mma_sp", "ptx_ldmatrix", "mma_fill", "mma_store",
            "tvm_bmma_sync", "simdgroup_multiply_accumulate", "tvm_mfma",
        ),
        _TENSOR_CORES,
    ),
    **dict.fromkeys(("address_of", "tvm_access_ptr", "ptr"), _POINTERS),
    **dict.fromkeys(
        ("ptx_cp_async", "ptx_commit_group", "ptx_wait_group", "tvm_storage_sync"),
        "write the copy as a loop over a buffer in scope shared: barriers are placed by lowering",
    ),
    "tvm_thread_allreduce": "write the reduction as a block: lowering combines what threads hold",
    **dict.fromkeys(
        ("tvm_warp_shuffle", "tvm_warp_shuffle_up", "tvm_warp_shuffle_down", "tvm_warp_activemask"),
        "reductions that threads share are combined by shuffles, and so are loads of what other "
        "lanes hold of a buffer in scope warp",
    ),
    "call_packed": "T.call_extern calls a C function that the process has loaded",
    "comm_reducer": "write the combination in a block with T.init, or gputune.schedule."
    "register_reducer",
}  # fmt: skip
"""Words of TVM that this language lacks: what would work."""

_ORDER = {"row_major": "", "col_major": "_trans"}


def no_pointer(ctx: Context, node: ast.AST, what: str) -> NoReturn:
    """Refuse a pointer where it stands alone."""
    ctx.fail(node, f"{what} is a pointer, and programs have none", _POINTERS, "script-pointer")


# ----------------------------------------------------------------------------- values
def _dtype_and_args(
    ctx: Context, node: ast.Call, what: str
) -> tuple[str, list[Any], list[ast.expr]]:
    """The dtype of the result, which stands first or has its name, and the other arguments."""
    nodes = list(node.args)
    said: ast.expr | None = None
    for k in node.keywords:
        if k.arg != "dtype":
            ctx.fail(k.value, f"{what} has no argument {k.arg!r}", "it has dtype")
        said = k.value
    if said is None:
        if not nodes:
            ctx.fail(node, f"{what} misses the dtype of its result")
        said = nodes.pop(0)
    return dtype_of(ctx, evaluate(ctx, said), said), [evaluate(ctx, a) for a in nodes], nodes


def _llvm_name(ctx: Context, node: ast.Call) -> str:
    args = bind_args(ctx, node, "T.llvm_lookup_intrinsic_id", ("name",), 1)
    name = evaluate(ctx, args["name"])
    if not isinstance(name, str):
        ctx.fail(node, f"a function of LLVM is named by a string, got {describe(name)}")
    return name


def _call_llvm(ctx: Context, node: ast.Call) -> Expr:
    """The vector intrinsic that this function of LLVM computes. The number of arguments that some
    scripts put after the name is skipped."""
    what = "T.call_llvm_pure_intrin"
    dtype, values, nodes = _dtype_and_args(ctx, node, what)
    if not values or not isinstance(values[0], str):
        ctx.fail(
            node, f"{what} misses the name of a function",
            f'{what}("int32x16", "llvm.x86.avx512.vpdpbusd.512", ...)', "script-call",
        )  # fmt: skip
    name, values, nodes = values[0], values[1:], nodes[1:]
    known = {n: op for n, op in ops.VECTOR.items() if op.llvm == name}
    if not known:
        near = closest(name, {op.llvm for op in ops.VECTOR.values() if op.llvm})
        hint = "gputune.ir.ops.declare_vector_op makes one known, with its meaning"
        if near:
            hint = f"did you mean {near}? {hint}"
        ctx.fail(node, f"no vector intrinsic stands for LLVM's {name!r}", hint, "script-name")
    if len(values) == 1 + min(len(op.args) for op in known.values()) and _is_count(values[0]):
        values, nodes = values[1:], nodes[1:]
    given = tuple([to_expr(ctx, v, n) for v, n in zip(values, nodes)])
    got = tuple([e.dtype for e in given])
    for own, op in known.items():
        if (op.result, op.args) == (dtype, got):
            return Call(own, given, dtype)
    wanted = " or ".join(f"({', '.join(op.args)}) -> {op.result}" for op in known.values())
    ctx.fail(
        node, f"{name} takes {wanted}, got ({', '.join(got)}) -> {dtype}",
        "T.reinterpret keeps the bits and changes the dtype", "script-dtype",
    )  # fmt: skip


def _is_count(value: Any) -> bool:
    return type(value) is IntImm or (isinstance(value, int) and not isinstance(value, bool))


def _half(name: str) -> Callable[[Context, ast.Call], Expr]:
    """`T.vectorlow(dtype, v)` and `T.vectorhigh(dtype, v)`: half of the lanes."""

    def handler(ctx: Context, node: ast.Call) -> Expr:
        dtype, (v,) = _vectors(ctx, node, name, 1)
        half = dtypes.lanes(v.dtype) // 2
        start = half if name == "vectorhigh" else 0
        return _shuffle(ctx, node, (v,), range(start, start + half), dtype, name)

    return handler


def _vectors(ctx: Context, node: ast.Call, name: str, count: int) -> tuple[str, list[Expr]]:
    dtype, values, nodes = _dtype_and_args(ctx, node, f"T.{name}")
    if len(values) != count:
        ctx.fail(node, f"T.{name} takes a dtype and {count} vectors, got {len(values)}")
    return dtype, [to_expr(ctx, v, n) for v, n in zip(values, nodes)]


def _shuffle(
    ctx: Context, node: ast.AST, vectors: tuple[Expr, ...], lanes: range, dtype: str, name: str
) -> Expr:
    bases = {dtypes.scalar(v.dtype) for v in vectors}
    got = dtypes.with_lanes(bases.pop(), len(lanes)) if len(bases) == 1 and lanes else ""
    if got != dtype:
        shown = ", ".join(v.dtype for v in vectors)
        ctx.fail(node, f"T.{name} of {shown} is not {dtype}", code="script-dtype")
    return Shuffle(vectors, tuple(lanes))


def _combine(ctx: Context, node: ast.Call) -> Expr:
    dtype, vectors = _vectors(ctx, node, "vectorcombine", 2)
    total = sum(dtypes.lanes(v.dtype) for v in vectors)
    return _shuffle(ctx, node, tuple(vectors), range(total), dtype, "vectorcombine")


def pure_extern(ctx: Context, node: ast.Call, e: Expr) -> Expr:
    """A call of a C function; that of `__dp4a` is the intrinsic which it names."""
    assert type(e) is Call
    name, *args = e.args
    if type(name) is not StringImm or name.value != "__dp4a" or len(args) != 3:
        return e
    a, b, sums = args
    short = {"int8x4": "s8", "uint8x4": "u8"}
    op = f"cuda.dp4a.{short.get(a.dtype, a.dtype)}{short.get(b.dtype, b.dtype)}"
    known = ops.VECTOR.get(op)
    if known is None or known.result != e.dtype or sums.dtype != e.dtype:
        ctx.fail(
            node, f"__dp4a takes four bytes twice, and a sum, got ({a.dtype}, {b.dtype}, "
            f"{sums.dtype}) -> {e.dtype}",
            'T.call_pure_extern("__dp4a", A.vload([0], "int8x4"), B.vload([0], "int8x4"), '
            'T.int32(0), dtype="int32")', "script-dtype",
        )  # fmt: skip
    whole = [Call("reinterpret", (x,), e.dtype) for x in (a, b)]
    return Call(op, (sums, *whole), e.dtype)


FUNCTIONS: dict[str, Callable[[Context, ast.Call], Any]] = {
    "call_llvm_pure_intrin": _call_llvm,
    "call_llvm_intrin": _call_llvm,
    "llvm_lookup_intrinsic_id": _llvm_name,
    "vectorlow": _half("vectorlow"),
    "vectorhigh": _half("vectorhigh"),
    "vectorcombine": _combine,
}


# ----------------------------------------------------------------------------- tiles
def _args(ctx: Context, node: ast.Call, word: str, names: tuple[str, ...]) -> dict[str, ast.expr]:
    """The arguments by name; the dtype "handle" of the call says nothing."""
    keywords = [k for k in node.keywords if k.arg != "dtype"]
    call = ast.copy_location(ast.Call(node.func, node.args, keywords), node)
    return bind_args(ctx, call, f"T.{word}", names, len(names))


def _tile(ctx: Context, node: ast.expr, index: ast.expr, word: str) -> Buffer:
    """The tile that `C.data` and its number name. Here a tile is a whole buffer of 16 x 16, so that
    the number can only be made of where that buffer lies."""
    found = evaluate(ctx, node.value) if _is_attribute(node, "data") else None  # type: ignore[attr-defined]  # an Attribute has a value
    if not isinstance(found, Buffer):
        hint = "such as C.data of C = T.match_buffer(c, (16, 16), ..., scope='wmma.accumulator')"
        ctx.fail(node, f"T.{word} takes the data of a tile", hint, "script-tile")
    shape = [s.value if type(s) is IntImm else None for s in found.shape]
    if shape != [_TILE, _TILE] or not found.scope.startswith("wmma."):
        ctx.fail(
            node, f"T.{word} works on tiles of 16 x 16 in a scope wmma.*, {found.name} is "
            f"({', '.join(str(s) for s in found.shape)}) in {found.scope}", code="script-tile",
        )  # fmt: skip
    number = evaluate(ctx, index)
    own = {e for e in (found.elem_offset, *(found.strides or ())) if type(e) is Var}
    if is_expr(number):
        strangers = [x.name for x in walk_expr(number) if type(x) is Var and x not in own]
        fits = not strangers and type(number) is not IntImm
    else:
        fits = number == 0
    if not fits:
        ctx.fail(
            index, f"the number of tile {found.name} is {describe(number)}",
            f"it is 0, or made of {found.name}.elem_offset and strides alone", "script-tile",
        )  # fmt: skip
    return found


def _is_attribute(node: ast.expr, name: str) -> bool:
    return type(node) is ast.Attribute and node.attr == name


def _memory(ctx: Context, node: ast.expr, stride: ast.expr, word: str) -> Buffer:
    """The buffer that `A.access_ptr("r")` and the distance of its rows name."""
    call = node if type(node) is ast.Call and _is_attribute(node.func, "access_ptr") else None
    func = None if call is None else call.func
    b = evaluate(ctx, func.value) if type(func) is ast.Attribute else None
    if call is None or not isinstance(b, Buffer):
        ctx.fail(
            node, f'T.{word} takes a pointer such as A.access_ptr("r")', code="script-pointer"
        )  # fmt: skip
    names = ("access_mask", "ptr_type", "content_lanes", "offset", "extent")
    args = bind_args(ctx, call, f"{b.name}.access_ptr", names, 1)
    mask = evaluate(ctx, args["access_mask"])
    if mask not in ("r", "w", "rw", "wr", 1, 2, 3):
        ctx.fail(args["access_mask"], f'access_ptr takes "r", "w" or "rw", got {describe(mask)}')
    offset = evaluate(ctx, args["offset"]) if "offset" in args else 0
    if is_expr(offset) or offset != 0:
        hint = f"view the part with T.match_buffer and take its pointer, not {b.name}'s"
        ctx.fail(args["offset"], f"a pointer into {b.name} has an offset", hint, "script-pointer")
    if len(b.shape) != 2:
        ctx.fail(node, f"T.{word} moves tiles, {b.name} has {len(b.shape)} dimensions")
    step = evaluate(ctx, stride)
    rows = b.shape[1] if b.strides is None else b.strides[0]
    same = step is rows or (type(rows) is IntImm and _number(step) == rows.value)
    if not same:
        ctx.fail(
            stride, f"the rows of {b.name} are {rows} apart, T.{word} is told {describe(step)}",
            f"pass {b.name}.strides[0]", "script-tile",
        )  # fmt: skip
    return b


def _number(value: Any) -> int | None:
    if type(value) is IntImm:
        return int(value.value)
    return value if isinstance(value, int) else None


def _whole(ctx: Context, b: Buffer, node: ast.AST) -> tuple[Expr, ...]:
    """The indices of all elements of a tile, row by row."""
    ramp = Ramp(IntImm(0), IntImm(1), _TILE * _TILE)
    at: ast.AST = ast.copy_location(ast.Constant(_TILE), node)
    return tuple([binary(ctx, op, ramp, _TILE, node, node, at) for op in ("//", "%")])


def _moved(
    ctx: Context, node: ast.Call, op: str, out: Buffer, args: tuple[Expr | Buffer, ...], dtype: str
) -> Stmt:
    """A tile gets what an intrinsic makes of others."""
    known = ops.VECTOR.get(op)
    values = tuple([
        BufferLoad(a, _whole(ctx, a, node)) if isinstance(a, Buffer) else a for a in args
    ])  # fmt: skip
    result = f"{dtype}x{_TILE * _TILE}"
    wanted = (result, *[v.dtype for v in values])
    if known is None or (known.result, *known.args) != wanted:
        near = closest(op, [n for n in ops.VECTOR if n.startswith("wmma.")])
        hint = f"near is {near}" if near else "tiles hold float16 (sums float32 too) or int8"
        ctx.fail(node, f"no tensor core has {op} ({', '.join(wanted)})", hint, "script-tile")
    return BufferStore(out, Call(op, values, result), _whole(ctx, out, node))


_SHORT = {"float16": "f16", "float32": "f32", "int8": "s8", "int32": "s32"}


def _short(dtype: str) -> str:
    return _SHORT.get(dtype, dtype)


def _sizes(ctx: Context, args: dict[str, ast.expr], word: str) -> None:
    found = [python_int(ctx, evaluate(ctx, args[k]), args[k], k) for k in "mnk"]
    if found != [_TILE] * 3:
        shown = " x ".join(map(str, found))
        ctx.fail(args["m"], f"T.{word} of {shown}; 16 x 16 x 16 is possible", code="script-tile")


def _layout(ctx: Context, node: ast.expr, word: str) -> str:
    value = evaluate(ctx, node)
    if value not in _ORDER:
        ctx.fail(node, f'T.{word}: a layout is "row_major" or "col_major", got {describe(value)}')
    return _ORDER[value]


def _fill(ctx: Context, node: ast.Call) -> Stmt:
    word = "tvm_fill_fragment"
    args = _args(ctx, node, word, ("fragment", "m", "n", "k", "index", "value"))
    _sizes(ctx, args, word)
    tile = _tile(ctx, args["fragment"], args["index"], word)
    value = evaluate(ctx, args["value"])
    number = to_expr(ctx, value, args["value"], None if is_expr(value) else tile.dtype)
    return _moved(ctx, node, f"wmma.fill.{_short(tile.dtype)}", tile, (number,), tile.dtype)


_MOVE = ("fragment", "m", "n", "k", "index", "buffer_ptr", "stride", "layout")


def _load(ctx: Context, node: ast.Call) -> Stmt:
    word = "tvm_load_matrix_sync"
    args = _args(ctx, node, word, _MOVE)
    _sizes(ctx, args, word)
    tile = _tile(ctx, args["fragment"], args["index"], word)
    source = _memory(ctx, args["buffer_ptr"], args["stride"], word)
    operand = tile.scope.removeprefix("wmma.matrix_")
    op = f"wmma.load_{operand}{_layout(ctx, args['layout'], word)}.{_short(tile.dtype)}"
    return _moved(ctx, node, op, tile, (source,), tile.dtype)


def _store(ctx: Context, node: ast.Call) -> Stmt:
    word = "tvm_store_matrix_sync"
    args = _args(ctx, node, word, _MOVE)
    _sizes(ctx, args, word)
    tile = _tile(ctx, args["fragment"], args["index"], word)
    target = _memory(ctx, args["buffer_ptr"], args["stride"], word)
    op = f"wmma.store{_layout(ctx, args['layout'], word)}.{_short(tile.dtype)}"
    return _moved(ctx, node, op, target, (tile,), target.dtype)


def _mma(ctx: Context, node: ast.Call) -> Stmt:
    """D = A @ B + C. (For a B that was loaded in columns, `wmma.mma_trans` is the intrinsic: which
    one is meant, tiles do not say.)"""
    word = "tvm_mma_sync"
    names = tuple([f"{what}_{x}" for x in "dabc" for what in ("fragment", "index")])
    args = _args(ctx, node, word, names)
    d, a, b, c = [_tile(ctx, args[f"fragment_{x}"], args[f"index_{x}"], word) for x in "dabc"]
    op = f"wmma.mma.{_short(a.dtype)}{_short(b.dtype)}{_short(c.dtype)}"
    return _moved(ctx, node, op, d, (c, a, b), d.dtype)


STATEMENTS: dict[str, Callable[[Context, ast.Call], Stmt]] = {
    "tvm_fill_fragment": _fill,
    "tvm_load_matrix_sync": _load,
    "tvm_mma_sync": _mma,
    "tvm_store_matrix_sync": _store,
}
"""Calls that stand as statements, bare or in T.evaluate."""
