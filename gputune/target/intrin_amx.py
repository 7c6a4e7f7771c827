"""Which tensor intrinsics does AMX of x86 processors have? Products of matrices, tile by tile.

A core has eight tile registers, each 16 rows of 64 bytes; what is in the scope `amx.tmm` lies in
them. To a program and to the interpreter a tile is a plain array:

    amx_load_16x16x32_bf16_{a,b}                    a: [16, 32] as it is; b: [k / 2, n, 2]
    amx_load_16x16x64_{s8,u8}_{a,b}                 a: [16, 64] as it is; b: [k / 4, n, 4]
    amx_zero_16x16_{f32,s32}
    amx_load_16x16_{f32,s32}                        sums that shall be added to
    amx_dot_16x16x32_bf16bf16f32                    C += A @ B
    amx_dot_16x16x64_{s8s8s32,s8u8s32,u8s8s32,u8u8s32}
    amx_store_16x16_{f32,s32}

Of B two (bfloat16) or four (bytes) rows lie side by side, for each column: `transform_layout` of a
copy of it by `lambda k, n: (k // 4, n, k % 4)` puts it so. At most eight tiles can be in use at a
time, such as 2 x 2 of sums, two of A and two of B.

Sums of integers are exact and wrap around. How far those of bfloat16 may be off says the
description, in the attribute "tolerance": see `TensorIntrin.tolerance`.
"""
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..script import tir as T

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""Description and implementation."""

_DTYPES = {"bf16": "bfloat16", "s8": "int8", "u8": "uint8", "f32": "float32", "s32": "int32"}


def _copy(dtype: str, columns: int, source: str, target: str, op: str) -> Pair:
    """A tile of 16 rows from one scope to another."""
    lanes = 16 * columns
    tile = f"{dtype}x{lanes}"

    def desc(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, columns), dtype, scope=source)
        C = T.match_buffer(c, (16, columns), dtype, scope=target)
        for i, j in T.grid(16, columns):
            with T.block("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj]

    def impl(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, columns), dtype, scope=source)
        C = T.match_buffer(c, (16, columns), dtype, scope=target)
        C[T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns] = T.call_intrin(
            tile, op,
            A[T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns],
        )  # fmt: skip

    return desc, impl


def _load_b(dtype: str, packed: int, op: str) -> Pair:
    """A tile of B, `packed` rows side by side."""
    columns = 16 * packed
    lanes = 16 * columns
    tile = f"{dtype}x{lanes}"

    def desc(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16, packed), dtype)
        C = T.match_buffer(c, (16, 16, packed), dtype, scope="amx.tmm")
        for i, j, k in T.grid(16, 16, packed):
            with T.block("copy"):
                vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                C[vi, vj, vk] = A[vi, vj, vk]

    def impl(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16, packed), dtype)
        C = T.match_buffer(c, (16, 16, packed), dtype, scope="amx.tmm")
        C[
            T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns // packed,
            T.Ramp(0, 1, lanes) % packed,
        ] = T.call_intrin(
            tile, op,
            A[
                T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns // packed,
                T.Ramp(0, 1, lanes) % packed,
            ],
        )  # fmt: skip

    return desc, impl


def _zero(dtype: str, op: str) -> Pair:
    """A tile of zeros."""

    def desc(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="amx.tmm")
        for i, j in T.grid(16, 16):
            with T.block("init"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.cast(0, dtype)

    def impl(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="amx.tmm")
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(dtype + "x256", op)

    return desc, impl


def _dot(a_dtype: str, b_dtype: str, sums: str, packed: int, tolerance: float, op: str) -> Pair:
    """C += A @ B, `packed` rows of B side by side.

    tolerance: each of the sums is rounded to nearest, ties to even, in an order of its own: even
    products, odd products, both together, and that to C. Products are exact. Denormal numbers are
    taken and given as zero. Zero: all is exact.
    """
    columns = 16 * packed
    lanes = 16 * columns

    def desc(a: T.handle, b: T.handle, c: T.handle):
        T.func_attr({"tolerance": tolerance})
        A = T.match_buffer(a, (16, columns), a_dtype, scope="amx.tmm")
        B = T.match_buffer(b, (16, 16, packed), b_dtype, scope="amx.tmm")
        C = T.match_buffer(c, (16, 16), sums, scope="amx.tmm")
        for i, j, k in T.grid(16, 16, columns):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], sums) * T.cast(
                    B[vk // packed, vj, vk % packed], sums
                )

    def impl(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, columns), a_dtype, scope="amx.tmm")
        B = T.match_buffer(b, (16, 16, packed), b_dtype, scope="amx.tmm")
        C = T.match_buffer(c, (16, 16), sums, scope="amx.tmm")
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(
            sums + "x256", op, C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16],
            A[T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns],
            B[
                T.Ramp(0, 1, lanes) // columns, T.Ramp(0, 1, lanes) % columns // packed,
                T.Ramp(0, 1, lanes) % packed,
            ],
        )  # fmt: skip

    return desc, impl


INTRINSICS: dict[str, Pair] = {}
for _s, _k, _packed in (("bf16", 32, 2), ("s8", 64, 4), ("u8", 64, 4)):
    _load = f"x86.tileload.{_s}"
    INTRINSICS[f"amx_load_16x16x{_k}_{_s}_a"] = _copy(_DTYPES[_s], _k, "global", "amx.tmm", _load)
    INTRINSICS[f"amx_load_16x16x{_k}_{_s}_b"] = _load_b(_DTYPES[_s], _packed, _load)
for _s in ("f32", "s32"):
    _d = _DTYPES[_s]
    INTRINSICS[f"amx_zero_16x16_{_s}"] = _zero(_d, f"x86.tilezero.{_s}")
    INTRINSICS[f"amx_load_16x16_{_s}"] = _copy(_d, 16, "global", "amx.tmm", f"x86.tileload.{_s}")
    INTRINSICS[f"amx_store_16x16_{_s}"] = _copy(_d, 16, "amx.tmm", "global", f"x86.tilestore.{_s}")
INTRINSICS["amx_dot_16x16x32_bf16bf16f32"] = _dot(
    "bfloat16", "bfloat16", "float32", 2, 2.0**-17, "x86.tdpbf16ps"
)
for _a in ("s8", "u8"):
    for _b in ("s8", "u8"):
        INTRINSICS[f"amx_dot_16x16x64_{_a}{_b}s32"] = _dot(
            _DTYPES[_a], _DTYPES[_b], "int32", 4, 0.0, f"x86.tdpb{_a[0]}{_b[0]}d"
        )
