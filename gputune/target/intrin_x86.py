"""Which tensor intrinsics do x86 processors have for vectors? Dot products of AVX-512 and AVX-VNNI.

All of them compute 16 (or 8) sums over a few products: `C[i] += sum_k A[k] * B[i, k]`. Those of
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


INTRINSICS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "dot_16x4_vnni": (dot_16x4_u8i8i32, dot_16x4_vnni),
    "dot_16x4_avx512": (dot_16x4_u8i8i32, dot_16x4_avx512),
    "dot_8x4_avxvnni": (dot_8x4_u8i8i32, dot_8x4_avxvnni),
    "dot_16x2_avx512bf16": (dot_16x2_bf16bf16f32, dot_16x2_avx512bf16),
}
