"""Which intrinsic functions exist? One table that script, interpreter and backends share.

A math intrinsic is written `T.exp(x)` and stands in the program as `Call("exp", (x,), dtype)`. The
result has the dtype of the first argument, or bool where `to_bool`. The NumPy function computes it
on scalars and arrays (in float32 for narrower floats) and is the meaning of the intrinsic.

A vector intrinsic is a function on whole vectors that some processor has as one instruction. It is
written `T.call_intrin("int32x16", "x86.vpdpbusd", acc, a, b)`; its lanes may depend on any lanes of
its arguments. `VECTOR` holds those that there are, `declare_vector_op` adds one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MathOp:
    """One math intrinsic: number of arguments, NumPy meaning, result kind, integer operands."""

    arity: int
    numpy: Callable[..., Any]
    to_bool: bool = False
    on_ints: bool = False


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _popcount(x: Any) -> Any:
    return np.bitwise_count(x)


def _round(x: Any) -> Any:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)  # half away from zero, like C's round


MATH: dict[str, MathOp] = {
    "exp": MathOp(1, np.exp),
    "exp2": MathOp(1, np.exp2),
    "exp10": MathOp(1, lambda x: np.power(10.0, x)),
    "log": MathOp(1, np.log),
    "log2": MathOp(1, np.log2),
    "log10": MathOp(1, np.log10),
    "log1p": MathOp(1, np.log1p),
    "sqrt": MathOp(1, np.sqrt),
    "rsqrt": MathOp(1, lambda x: 1.0 / np.sqrt(x)),
    "sin": MathOp(1, np.sin),
    "cos": MathOp(1, np.cos),
    "tan": MathOp(1, np.tan),
    "sinh": MathOp(1, np.sinh),
    "cosh": MathOp(1, np.cosh),
    "tanh": MathOp(1, np.tanh),
    "asin": MathOp(1, np.arcsin),
    "acos": MathOp(1, np.arccos),
    "atan": MathOp(1, np.arctan),
    "atan2": MathOp(2, np.arctan2),
    "sigmoid": MathOp(1, lambda x: 1.0 / (1.0 + np.exp(-x))),
    "erf": MathOp(1, _erf),
    "pow": MathOp(2, np.power),
    "fmod": MathOp(2, np.fmod),
    "copysign": MathOp(2, np.copysign),
    "hypot": MathOp(2, np.hypot),
    "floor": MathOp(1, np.floor),
    "ceil": MathOp(1, np.ceil),
    "trunc": MathOp(1, np.trunc),
    "round": MathOp(1, _round),
    "nearbyint": MathOp(1, np.rint),
    "abs": MathOp(1, np.abs, on_ints=True),
    "isnan": MathOp(1, np.isnan, to_bool=True),
    "isinf": MathOp(1, np.isinf, to_bool=True),
    "isfinite": MathOp(1, np.isfinite, to_bool=True),
    "popcount": MathOp(1, _popcount, on_ints=True),
}


@dataclass(frozen=True)
class VectorOp:
    """One vector intrinsic.

    Attributes:
        result: the dtype of the value, lanes included, such as "int32x16".
        args: the dtypes of the arguments.
        numpy: the meaning: arrays, one element a lane, to the array of the result. It must be pure.
        llvm: the LLVM function that computes it, "" if there is none. Narrow floats are passed as
            LLVM's own types (bfloat, half).
        features: what the processor needs for it, as LLVM names its features; of a GPU, the first
            architecture that has it, such as "sm_70".
        cuda: the device function that computes it, "" if there is none. If it has
            tiles, the 32 threads of a warp call it together: they hold what is in a scope `wmma.*`
            or `mma.*` in parts.
        tiles: for instructions on tiles, how the result and each argument lie: a scope `wmma.*` or
            `mma.*`, with ":row" or ":col" where the registers depend on it, or `amx.tmm`;
            "memory"; or "" for a number.
        shapes: rows and columns of each of `tiles`; empty: 16 rows, and as many columns as there
            are lanes for.
    """

    result: str
    args: tuple[str, ...]
    numpy: Callable[..., Any]
    llvm: str = ""
    features: tuple[str, ...] = ()
    cuda: str = ""
    tiles: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()


def _quads(a: Any, b: Any) -> Any:
    """Sums of four products of bytes."""
    return (a.astype(np.int32) * b.astype(np.int32)).reshape(-1, 4).sum(axis=1, dtype=np.int32)


def _flushed(x: Any) -> Any:
    """As float32, what is smaller than the least normal number as a zero of its sign."""
    with np.errstate(over="ignore"):
        y = np.asarray(x).astype(np.float32)
    return np.where(np.abs(y) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), y), y)


def _fused(acc: Any, a: Any, b: Any) -> Any:
    """acc + a * b of float32 as instructions on bfloat16 do it: rounded once, to nearest, tiny
    numbers taken and given as zero. (The float64 sum of a float32 number and a product of two
    bfloat16 never lies so near the middle of two float32 that rounding twice could go wrong.)"""
    with np.errstate(invalid="ignore"):
        exact = acc.astype(np.float64) + a.astype(np.float64) * b.astype(np.float64)
    return _flushed(exact)


def _bf16_pairs(acc: Any, a: Any, b: Any) -> Any:
    """The odd products first, then the even ones."""
    x, y = _flushed(a), _flushed(b)
    return _fused(_fused(_flushed(acc), x[1::2], y[1::2]), x[0::2], y[0::2])


def _pairs(a: Any, b: Any) -> Any:
    return (a.astype(np.int32) * b.astype(np.int32)).reshape(-1, 2).sum(axis=1, dtype=np.int32)


def _saturated_pairs(a: Any, b: Any) -> Any:
    """Sums of two products of bytes, at the ends of int16 where they do not fit."""
    return np.clip(_pairs(a, b), -(2**15), 2**15 - 1).astype(np.int16)


VECTOR: dict[str, VectorOp] = {
    "x86.vpdpbusd": VectorOp(
        "int32x16", ("int32x16", "uint8x64", "int8x64"), lambda acc, a, b: acc + _quads(a, b),
        "llvm.x86.avx512.vpdpbusd.512", ("avx512vnni",),
    ),
    "x86.vpdpbusd.256": VectorOp(
        "int32x8", ("int32x8", "uint8x32", "int8x32"), lambda acc, a, b: acc + _quads(a, b),
        "llvm.x86.avx512.vpdpbusd.256", ("avxvnni",),
    ),
    "x86.vpdpbssd.256": VectorOp(
        "int32x8", ("int32x8", "int8x32", "int8x32"), lambda acc, a, b: acc + _quads(a, b),
        "llvm.x86.avx2.vpdpbssd.256", ("avxvnniint8",),
    ),
    "x86.pmaddwd": VectorOp(
        "int32x16", ("int16x32", "int16x32"), _pairs,
        "llvm.x86.avx512.pmaddw.d.512", ("avx512bw",),
    ),
    "x86.pmaddubsw": VectorOp(
        "int16x32", ("uint8x64", "int8x64"), _saturated_pairs,
        "llvm.x86.avx512.pmaddubs.w.512", ("avx512bw",),
    ),
    "x86.vdpbf16ps": VectorOp(
        "float32x16", ("float32x16", "bfloat16x32", "bfloat16x32"), _bf16_pairs,
        "llvm.x86.avx512bf16.dpbf16ps.512", ("avx512bf16",),
    ),
    "aarch64.sdot": VectorOp(
        "int32x4", ("int32x4", "int8x16", "int8x16"), lambda acc, a, b: acc + _quads(a, b),
        "llvm.aarch64.neon.sdot.v4i32.v16i8", ("dotprod",),
    ),
    "aarch64.udot": VectorOp(
        "uint32x4", ("uint32x4", "uint8x16", "uint8x16"),
        lambda acc, a, b: acc + _quads(a, b).view(np.uint32),
        "llvm.aarch64.neon.udot.v4i32.v16i8", ("dotprod",),
    ),
    "aarch64.smull": VectorOp(
        "int16x8", ("int8x8", "int8x8"), lambda a, b: a.astype(np.int16) * b.astype(np.int16),
        "llvm.aarch64.neon.smull.v8i16", ("neon",),
    ),
    "aarch64.saddlp": VectorOp(
        "int32x4", ("int16x8",), lambda a: a.reshape(4, 2).sum(axis=1, dtype=np.int32),
        "llvm.aarch64.neon.saddlp.v4i32.v8i16", ("neon",),
    ),
    "aarch64.addp": VectorOp(
        "int32x4", ("int32x4", "int32x4"),
        lambda a, b: np.concatenate([a, b]).reshape(4, 2).sum(axis=1, dtype=np.int32),
        "llvm.aarch64.neon.addp.v4i32", ("neon",),
    ),
}  # fmt: skip


def _dp4a(a: type, b: type) -> Callable[..., Any]:
    """A sum and four products of the bytes of two numbers, seen as of types `a` and `b`."""

    def run(acc: Any, x: Any, y: Any) -> Any:
        left, right = (v.view(k).astype(np.int32) for v, k in ((x, a), (y, b)))
        return acc + (left * right).sum(dtype=np.int32).astype(acc.dtype)

    return run


def _byte_ops() -> dict[str, VectorOp]:
    """What one thread of a GPU does with four bytes at a time."""
    out = {}
    for a, b, sums in (("s8", "s8", "int32"), ("u8", "s8", "int32"), ("s8", "u8", "int32"),
                       ("u8", "u8", "uint32")):  # fmt: skip
        kinds = [np.int8 if x == "s8" else np.uint8 for x in (a, b)]
        out[f"cuda.dp4a.{a}{b}"] = VectorOp(
            sums, (sums, sums, sums), _dp4a(*kinds), features=("sm_61",), cuda=f"gt_dp4a_{a}{b}"
        )
    return out


VECTOR.update(_byte_ops())

_FIRST = {"float16": "sm_70", "float32": "sm_70", "int8": "sm_72", "int32": "sm_72"}

TILE = 16
"""Rows of a tile, and columns of those that a warp computes with; a vector holds one row after
another."""


def _multiply(wide: Any, of_a: str, of_b: str) -> Callable[..., Any]:
    """acc + a @ b of tiles, those that lie by columns ("col") transposed; summed in `wide`, rounded
    once."""

    def run(acc: Any, a: Any, b: Any) -> Any:
        x, y = (v.reshape(TILE, TILE).astype(wide) for v in (a, b))
        product = (x.T if of_a == "col" else x) @ (y.T if of_b == "col" else y)
        return acc.astype(wide) + product.ravel()

    return run


def _warp_ops() -> dict[str, VectorOp]:
    """What the tensor cores of a GPU do with tiles of 16 x 16: load, fill, multiply, store."""
    lanes, out = TILE * TILE, {}
    for short, dtype in (("f16", "float16"), ("s8", "int8")):
        tile = f"{dtype}x{lanes}"
        for operand, layout in (
            ("a", "row"), ("a_trans", "col"), ("b", "row"), ("b_trans", "col")
        ):  # fmt: skip
            held = f"wmma.matrix_{operand[0]}:{layout}"
            out[f"wmma.load_{operand}.{short}"] = VectorOp(
                tile, (tile,), lambda x: x, features=(_FIRST[dtype],),
                cuda=f"gt_wmma_load_{operand}", tiles=(held, "memory"),
            )  # fmt: skip
    for short, dtype in (("f32", "float32"), ("f16", "float16"), ("s32", "int32")):
        tile, acc = f"{dtype}x{lanes}", "wmma.accumulator"
        out[f"wmma.fill.{short}"] = VectorOp(
            tile, (dtype,), lambda x: np.repeat(x, TILE * TILE), features=(_FIRST[dtype],),
            cuda="gt_wmma_fill", tiles=(acc, ""),
        )  # fmt: skip
        out[f"wmma.store.{short}"] = VectorOp(
            tile, (tile,), lambda x: x, features=(_FIRST[dtype],),
            cuda="gt_wmma_store", tiles=("memory", acc),
        )  # fmt: skip
    for short, ab, c, wide in (
        ("f16f16f32", "float16", "float32", np.float32),
        ("f16f16f16", "float16", "float16", np.float32),
        ("s8s8s32", "int8", "int32", np.int32),
    ):
        for name, of_a, of_b in (
            ("mma", "row", "row"), ("mma_trans", "row", "col"), ("mma_trans_a", "col", "row"),
            ("mma_trans_a_trans_b", "col", "col"),
        ):  # fmt: skip
            out[f"wmma.{name}.{short}"] = VectorOp(
                f"{c}x{lanes}", (f"{c}x{lanes}", f"{ab}x{lanes}", f"{ab}x{lanes}"),
                _multiply(wide, of_a, of_b), features=(_FIRST[ab],), cuda=f"gt_wmma_{name}",
                tiles=(acc, acc, f"wmma.matrix_a:{of_a}", f"wmma.matrix_b:{of_b}"),
            )  # fmt: skip
    return out


VECTOR.update(_warp_ops())

MMA_OPERANDS = {
    "f16": "float16", "bf16": "bfloat16", "tf32": "float32", "i8": "int8", "u8": "uint8",
}  # fmt: skip
"""What mma.sync multiplies: 32 bytes of each row of A and column of B at a time."""
MMA_KINDS = (
    ("f16", "f32"), ("f16", "f16"), ("bf16", "f32"), ("tf32", "f32"), ("i8", "i32"), ("u8", "i32")
)  # fmt: skip
"""Operands and sums of its products."""
MMA_SUMS = {"f32": "float32", "f16": "float16", "i32": "int32"}
_MMA_BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "i8": 1, "u8": 1}


def mma_depth(short: str) -> int:
    """Products that mma.sync sums for each element: what 32 bytes of an operand hold."""
    return 32 // _MMA_BYTES[short]


def mma_shape(short: str, operand: str) -> tuple[int, int]:
    """Rows and columns of a tile of an operand: "a", "b", or transposed, "a_trans", "b_trans"."""
    k = mma_depth(short)
    return (TILE, k) if operand in ("a", "b_trans") else (k, TILE)


def rounded_tf32(x: Any) -> Any:
    """float32 as tf32, which has 10 bits behind the point: to nearest, ties away from zero."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    near = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), near, x).astype(np.float32)


def _mma_product(short: str, sums: str, of_a: str, of_b: str) -> Callable[..., Any]:
    """acc + a @ b of tiles, those that lie by columns ("col") transposed."""
    wide = np.int32 if sums == "i32" else np.float32
    shape_a = mma_shape(short, "a" if of_a == "row" else "a_trans")
    shape_b = mma_shape(short, "b" if of_b == "row" else "b_trans")

    def run(acc: Any, a: Any, b: Any) -> Any:
        x, y = a.astype(wide).reshape(shape_a), b.astype(wide).reshape(shape_b)
        if short == "tf32":
            x, y = rounded_tf32(x), rounded_tf32(y)
        product = (x.T if of_a == "col" else x) @ (y.T if of_b == "col" else y)
        return acc.astype(wide) + product.ravel()

    return run


def _mma_ops() -> dict[str, VectorOp]:
    """What a warp does with mma.sync and ldmatrix on tiles of 16 x 16 sums."""
    out = {}
    for short, dtype in MMA_OPERANDS.items():
        # ldmatrix turns tiles of two bytes an element, others it brings as they lie
        turned = ("b", "a_trans") if _MMA_BYTES[short] == 2 else ()
        for operand in ("a", "b_trans", *turned):
            order = "col" if operand.endswith("_trans") else "row"
            shape = mma_shape(short, operand)
            tile = f"{dtype}x{shape[0] * shape[1]}"
            trans = "_trans" * (operand in turned)
            out[f"mma.load_{operand}.{short}"] = VectorOp(
                tile, (tile,), lambda x: x, features=("sm_80",), cuda=f"gt_ldmatrix_x4{trans}",
                tiles=(f"mma.matrix_{operand[0]}:{order}", "memory"), shapes=(shape, shape),
            )  # fmt: skip
    for short, sums in MMA_KINDS:
        for suffix, of_a, of_b in MMA_ORDERS:
            acc = f"{MMA_SUMS[sums]}x{TILE * TILE}"
            shapes = (
                mma_shape(short, "a" if of_a == "row" else "a_trans"),
                mma_shape(short, "b" if of_b == "row" else "b_trans"),
            )
            tile = f"{MMA_OPERANDS[short]}x{TILE * mma_depth(short)}"
            out[f"mma.sync{suffix}.{short}{short}{sums}"] = VectorOp(
                acc, (acc, tile, tile), _mma_product(short, sums, of_a, of_b),
                features=("sm_80",), cuda=f"gt_mma_{short}{short}{sums}",
                tiles=(
                    "mma.accumulator", "mma.accumulator", f"mma.matrix_a:{of_a}",
                    f"mma.matrix_b:{of_b}",
                ),
                shapes=((TILE, TILE), (TILE, TILE), *shapes),
            )  # fmt: skip
    return out


MMA_ORDERS = (
    ("", "row", "row"), ("_trans_b", "row", "col"), ("_trans_a", "col", "row"),
    ("_trans_a_trans_b", "col", "col"),
)  # fmt: skip
"""How A and B of a product lie, and what its name ends in: a B by columns is B[n, k]."""

VECTOR.update(_mma_ops())

AMX = "amx.tmm"
"""The scope of AMX tiles: eight registers of a core, each 16 rows of 64 bytes."""


def _tile_bytes(acc: Any, a: Any, b: Any) -> Any:
    """acc + a @ b of 16 x 64 and 64 x 16 bytes; four rows of b lie side by side, for each column.
    Sums wrap around."""
    x = a.reshape(16, 64).astype(np.int32)
    y = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int32)
    return acc + (x @ y).ravel()


def _tile_bf16(acc: Any, a: Any, b: Any) -> Any:
    """acc + a @ b of 16 x 32 and 32 x 16 bfloat16; two rows of b lie side by side, for each column.
    Even and odd products are summed apart, then together, then to acc; every step as `_fused`."""
    x, y = _flushed(a).reshape(16, 16, 2), _flushed(b).reshape(16, 16, 2)
    sums = np.zeros((2, 16, 16), np.float32)
    for k in range(16):
        for odd in (0, 1):
            sums[odd] = _fused(sums[odd], x[:, k, odd, None], y[None, k, :, odd])
    both = _flushed(_flushed(sums[0]) + _flushed(sums[1]))
    return _flushed(_flushed(acc) + both.ravel())


def _amx_ops() -> dict[str, VectorOp]:
    """What AMX does with its tiles: load, zero, multiply, store. They are emitted with the numbers
    of the registers (see `gputune.codegen.llvm.amx`)."""
    lanes = {"bf16": "bfloat16x512", "s8": "int8x1024", "u8": "uint8x1024", "f32": "float32x256",
             "s32": "int32x256"}  # fmt: skip
    out = {}
    for short, tile in lanes.items():
        out[f"x86.tileload.{short}"] = VectorOp(
            tile, (tile,), lambda x: x, "llvm.x86.tileloadd64", ("amx-tile",), tiles=(AMX, "memory")
        )
    for short in ("f32", "s32"):
        tile = lanes[short]
        kind = np.float32 if short == "f32" else np.int32
        out[f"x86.tilezero.{short}"] = VectorOp(
            tile, (), lambda kind=kind: np.zeros(256, kind), "llvm.x86.tilezero", ("amx-tile",),
            tiles=(AMX,),
        )  # fmt: skip
        out[f"x86.tilestore.{short}"] = VectorOp(
            tile, (tile,), lambda x: x, "llvm.x86.tilestored64", ("amx-tile",),
            tiles=("memory", AMX),
        )  # fmt: skip
    for name, a, b in (("ssd", "s8", "s8"), ("sud", "s8", "u8"), ("usd", "u8", "s8"),
                       ("uud", "u8", "u8")):  # fmt: skip
        out[f"x86.tdpb{name}"] = VectorOp(
            lanes["s32"], (lanes["s32"], lanes[a], lanes[b]), _tile_bytes,
            f"llvm.x86.tdpb{name}", ("amx-int8",), tiles=(AMX, AMX, AMX, AMX),
        )  # fmt: skip
    out["x86.tdpbf16ps"] = VectorOp(
        lanes["f32"], (lanes["f32"], lanes["bf16"], lanes["bf16"]), _tile_bf16,
        "llvm.x86.tdpbf16ps", ("amx-bf16",), tiles=(AMX, AMX, AMX, AMX),
    )  # fmt: skip
    return out


VECTOR.update(_amx_ops())


def declare_vector_op(name: str, op: VectorOp, *, override: bool = False) -> None:
    """Let programs call a vector intrinsic of this name.

    Raises:
        ValueError: the name is taken, and `override` is not set; or it is no dotted name.

    Example:
        >>> double = VectorOp("int32x4", ("int32x4",), lambda x: x + x)
        >>> declare_vector_op("example.double", double, override=True)
        >>> VECTOR["example.double"].numpy(np.arange(3)).tolist()
        [0, 2, 4]
    """
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"the name of a vector intrinsic is dotted (x86.vpdpbusd), got {name!r}")
    if name in VECTOR and not override:
        raise ValueError(f"there is a vector intrinsic {name!r} already; pass override=True")
    VECTOR[name] = op


STRUCTURAL = ("if_then_else", "likely", "assume", "call_extern", "reinterpret")
"""Intrinsics with a meaning of their own: `if_then_else(c, a, b)` evaluates one side; `likely(c)`
is c; `assume(c)` promises c; `call_extern(name, ...)` calls a C function of the process;
`reinterpret(x)` keeps the bits and changes the dtype (of equal size; lanes may be joined or cut:
four lanes of uint8 are one of int32, the first lane in the low bits)."""
