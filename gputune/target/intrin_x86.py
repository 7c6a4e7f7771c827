"""Which tensor intrinsics do x86 processors have for vectors? Dot products of AVX-512 and AVX-VNNI.

The `dot_*` compute 16 (or 8) sums over a few products: `C[i] += sum_k A[k] * B[i, k]`; the `sum_*`
what an offset of A adds to those: `C[i] += sum_k B[i, k]`. Those of
integers are exact, sums wrap around. How far one of floats may be off says its description, in the
attribute "tolerance": see `TensorIntrin.tolerance`. Tiles of matrices are in `intrin_amx.py`.
"""
# ruff: noqa: D103
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..script import tir as T


def dot_16x4_u8i8i32(
    A: T.Buffer((4,), "uint8"),
    B: T.Buffer((16, 4), "int8"),
    C: T.Buffer((16,), "int32"),
):
    for i, k in T.grid(16, 4):
        with T.block("update"):
            vi, vk = T.axis.remap("SR", [i, k])
            C[vi] = C[vi] + T.Cast("int32", A[vk]) * T.Cast("int32", B[vi, vk])


def dot_16x4_vnni(
    A: T.Buffer((4,), "uint8"),
    B: T.Buffer((16, 4), "int8"),
    C: T.Buffer((16,), "int32"),
):
    """One vpdpbusd. It multiplies bytes and adds four products to a lane, without saturation."""
    C[0:16] = T.call_intrin(
        "int32x16", "x86.vpdpbusd", C[0:16],
        T.reinterpret("uint8x64", T.Broadcast(T.reinterpret("int32", A[0:4]), 16)),
        B[T.Ramp(0, 1, 64) // 4, T.Ramp(0, 1, 64) % 4],
    )  # fmt: skip


def dot_16x4_avx512(
    A: T.Buffer((4,), "uint8"),
    B: T.Buffer((16, 4), "int8"),
    C: T.Buffer((16,), "int32"),
):
    """For processors without VNNI: even and odd bytes as 16-bit numbers, two vpmaddwd. (The shorter
    vpmaddubsw saturates: 255 * 127 * 2 does not fit into 16 bits. This is exact.)"""
    a = T.reinterpret("uint16x32", T.Broadcast(T.reinterpret("int32", A[0:4]), 16))
    b = T.reinterpret("int16x32", B[T.Ramp(0, 1, 64) // 4, T.Ramp(0, 1, 64) % 4])
    C[0:16] = (
        C[0:16]
        + T.call_intrin(
            "int32x16", "x86.pmaddwd",
            T.reinterpret("int16x32", a & T.Broadcast(T.uint16(255), 32)),
            (b << T.Broadcast(T.int16(8), 32)) >> T.Broadcast(T.int16(8), 32),
        )
        + T.call_intrin(
            "int32x16", "x86.pmaddwd",
            T.reinterpret("int16x32", a >> T.Broadcast(T.uint16(8), 32)),
            b >> T.Broadcast(T.int16(8), 32),
        )
    )  # fmt: skip


def dot_8x4_u8i8i32(
    A: T.Buffer((4,), "uint8"),
    B: T.Buffer((8, 4), "int8"),
    C: T.Buffer((8,), "int32"),
):
    for i, k in T.grid(8, 4):
        with T.block("update"):
            vi, vk = T.axis.remap("SR", [i, k])
            C[vi] = C[vi] + T.Cast("int32", A[vk]) * T.Cast("int32", B[vi, vk])


def dot_8x4_avxvnni(
    A: T.Buffer((4,), "uint8"),
    B: T.Buffer((8, 4), "int8"),
    C: T.Buffer((8,), "int32"),
):
    """One vpdpbusd of 256 bits, for processors that have AVX-VNNI and not AVX-512."""
    C[0:8] = T.call_intrin(
        "int32x8", "x86.vpdpbusd.256", C[0:8],
        T.reinterpret("uint8x32", T.Broadcast(T.reinterpret("int32", A[0:4]), 8)),
        B[T.Ramp(0, 1, 32) // 4, T.Ramp(0, 1, 32) % 4],
    )  # fmt: skip


def _signed(lanes: int) -> Callable[..., Any]:
    """So many sums over four products of signed bytes."""

    def desc(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (4,), "int8")
        B = T.match_buffer(b, (lanes, 4), "int8")
        C = T.match_buffer(c, (lanes,), "int32")
        for i, k in T.grid(lanes, 4):
            with T.block("update"):
                vi, vk = T.axis.remap("SR", [i, k])
                C[vi] = C[vi] + T.Cast("int32", A[vk]) * T.Cast("int32", B[vi, vk])

    return desc


def _signed_by_offset(lanes: int, op: str) -> Callable[..., Any]:
    """For processors that multiply unsigned by signed bytes only: (a + 128) * b, less 128 * b. The
    latter is one instruction for all uses of the same B."""
    bytes_, sums = f"uint8x{4 * lanes}", f"int32x{lanes}"

    def impl(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (4,), "int8")
        B = T.match_buffer(b, (lanes, 4), "int8")
        C = T.match_buffer(c, (lanes,), "int32")
        C[0:lanes] = T.call_intrin(
            sums, op, C[0:lanes],
            T.reinterpret(
                bytes_,
                T.Broadcast(T.reinterpret("int32", A[0:4]), lanes)
                ^ T.Broadcast(T.int32(-0x7F7F7F80), lanes),
            ),
            B[T.Ramp(0, 1, 4 * lanes) // 4, T.Ramp(0, 1, 4 * lanes) % 4],
        ) - T.call_intrin(
            sums, op, T.Broadcast(T.int32(0), lanes),
            T.reinterpret(bytes_, T.Broadcast(T.int32(-0x7F7F7F80), lanes)),
            B[T.Ramp(0, 1, 4 * lanes) // 4, T.Ramp(0, 1, 4 * lanes) % 4],
        )  # fmt: skip

    return impl


def dot_16x4_i8i8_avx512(
    A: T.Buffer((4,), "int8"),
    B: T.Buffer((16, 4), "int8"),
    C: T.Buffer((16,), "int32"),
):
    """As `dot_16x4_avx512`, both operands signed."""
    a = T.reinterpret("int16x32", T.Broadcast(T.reinterpret("int32", A[0:4]), 16))
    b = T.reinterpret("int16x32", B[T.Ramp(0, 1, 64) // 4, T.Ramp(0, 1, 64) % 4])
    C[0:16] = (
        C[0:16]
        + T.call_intrin(
            "int32x16", "x86.pmaddwd",
            (a << T.Broadcast(T.int16(8), 32)) >> T.Broadcast(T.int16(8), 32),
            (b << T.Broadcast(T.int16(8), 32)) >> T.Broadcast(T.int16(8), 32),
        )
        + T.call_intrin(
            "int32x16", "x86.pmaddwd",
            a >> T.Broadcast(T.int16(8), 32), b >> T.Broadcast(T.int16(8), 32),
        )
    )  # fmt: skip


def dot_8x4_avxvnniint8(
    A: T.Buffer((4,), "int8"),
    B: T.Buffer((8, 4), "int8"),
    C: T.Buffer((8,), "int32"),
):
    """One vpdpbssd of 256 bits, which takes signed bytes as they are."""
    C[0:8] = T.call_intrin(
        "int32x8", "x86.vpdpbssd.256", C[0:8],
        T.reinterpret("int8x32", T.Broadcast(T.reinterpret("int32", A[0:4]), 8)),
        B[T.Ramp(0, 1, 32) // 4, T.Ramp(0, 1, 32) % 4],
    )  # fmt: skip


def dot_16x2_bf16bf16f32(
    A: T.Buffer((2,), "bfloat16"),
    B: T.Buffer((16, 2), "bfloat16"),
    C: T.Buffer((16,), "float32"),
):
    """The two sums may be taken in either order, each rounded to nearest: 2 ** -22 of the sum of
    absolute values. Numbers below 2 ** -126 (of A, B, C, and results) may be taken as zero."""
    T.func_attr({"tolerance": 2.0**-22})
    for i, k in T.grid(16, 2):
        with T.block("update"):
            vi, vk = T.axis.remap("SR", [i, k])
            C[vi] = C[vi] + T.Cast("float32", A[vk]) * T.Cast("float32", B[vi, vk])


def dot_16x2_avx512bf16(
    A: T.Buffer((2,), "bfloat16"),
    B: T.Buffer((16, 2), "bfloat16"),
    C: T.Buffer((16,), "float32"),
):
    """One vdpbf16ps. It adds the product of the odd elements first, then that of the even ones.
    Each is one fused operation: the product is exact, the sum is rounded to nearest, ties to even,
    whatever the rounding mode of the thread; denormal numbers are taken and given as zero."""
    C[0:16] = T.call_intrin(
        "float32x16", "x86.vdpbf16ps", C[0:16],
        T.reinterpret("bfloat16x32", T.Broadcast(T.reinterpret("int32", A[0:2]), 16)),
        B[T.Ramp(0, 1, 32) // 2, T.Ramp(0, 1, 32) % 2],
    )  # fmt: skip


def _sums(lanes: int) -> Callable[..., Any]:
    """So many sums over four signed bytes."""

    def desc(b: T.handle, c: T.handle):
        B = T.match_buffer(b, (lanes, 4), "int8")
        C = T.match_buffer(c, (lanes,), "int32")
        for i, k in T.grid(lanes, 4):
            with T.block("update"):
                vi, vk = T.axis.remap("SR", [i, k])
                C[vi] = C[vi] + T.Cast("int32", B[vi, vk])

    return desc


def _sums_by_ones(lanes: int, op: str) -> Callable[..., Any]:
    """As a dot product with ones."""
    result = f"int32x{lanes}"

    def impl(b: T.handle, c: T.handle):
        B = T.match_buffer(b, (lanes, 4), "int8")
        C = T.match_buffer(c, (lanes,), "int32")
        C[0:lanes] = T.call_intrin(
            result, op, C[0:lanes], T.Broadcast(T.uint8(1), 4 * lanes),
            B[T.Ramp(0, 1, 4 * lanes) // 4, T.Ramp(0, 1, 4 * lanes) % 4],
        )  # fmt: skip

    return impl


def sum_16x4_avx512(B: T.Buffer((16, 4), "int8"), C: T.Buffer((16,), "int32")):
    """Sums of two bytes, then of two of those. (vpmaddubsw does not saturate here.)"""
    C[0:16] = C[0:16] + T.call_intrin(
        "int32x16", "x86.pmaddwd",
        T.call_intrin(
            "int16x32", "x86.pmaddubsw", T.Broadcast(T.uint8(1), 64),
            B[T.Ramp(0, 1, 64) // 4, T.Ramp(0, 1, 64) % 4],
        ),
        T.Broadcast(T.int16(1), 32),
    )  # fmt: skip


INTRINSICS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "dot_16x4_vnni": (dot_16x4_u8i8i32, dot_16x4_vnni),
    "dot_16x4_avx512": (dot_16x4_u8i8i32, dot_16x4_avx512),
    "dot_8x4_avxvnni": (dot_8x4_u8i8i32, dot_8x4_avxvnni),
    "dot_16x4_i8i8_vnni": (_signed(16), _signed_by_offset(16, "x86.vpdpbusd")),
    "dot_16x4_i8i8_avx512": (_signed(16), dot_16x4_i8i8_avx512),
    "dot_8x4_i8i8_avxvnni": (_signed(8), _signed_by_offset(8, "x86.vpdpbusd.256")),
    "dot_8x4_avxvnniint8": (_signed(8), dot_8x4_avxvnniint8),
    "dot_16x2_avx512bf16": (dot_16x2_bf16bf16f32, dot_16x2_avx512bf16),
    "sum_16x4_vnni": (_sums(16), _sums_by_ones(16, "x86.vpdpbusd")),
    "sum_16x4_avx512": (_sums(16), sum_16x4_avx512),
    "sum_8x4_avxvnni": (_sums(8), _sums_by_ones(8, "x86.vpdpbusd.256")),
}
