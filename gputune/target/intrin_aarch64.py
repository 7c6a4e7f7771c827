"""Which tensor intrinsics do aarch64 processors have? Dot products of four bytes, four at a time.

All of them compute `C[i] += sum_k A[k] * B[i, k]`, exactly; sums wrap around.
"""
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..script import tir as T

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""Description and implementation."""


def _desc(bytes_: str, sums: str) -> Callable[..., Any]:
    """Four sums in dtype `sums` over four products of dtype `bytes_`."""

    def desc(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (4,), bytes_)
        B = T.match_buffer(b, (4, 4), bytes_)
        C = T.match_buffer(c, (4,), sums)
        for i, k in T.grid(4, 4):
            with T.block("update"):
                vi, vk = T.axis.remap("SR", [i, k])
                C[vi] = C[vi] + T.cast(A[vk], sums) * T.cast(B[vi, vk], sums)

    return desc


def dot_4x4_neon(
    A: T.Buffer((4,), "int8"), B: T.Buffer((4, 4), "int8"), C: T.Buffer((4,), "int32")
):
    """For processors without dot products: 16-bit products (smull) of two rows at a time, added
    to their neighbours twice (saddlp, addp)."""
    a = T.reinterpret("int8x8", T.Broadcast(T.reinterpret("int32", A[0:4]), 2))
    C[0:4] = C[0:4] + T.call_intrin(
        "int32x4", "aarch64.addp",
        T.call_intrin("int32x4", "aarch64.saddlp", T.call_intrin(
            "int16x8", "aarch64.smull", a, B[T.Ramp(0, 1, 8) // 4, T.Ramp(0, 1, 8) % 4]
        )),
        T.call_intrin("int32x4", "aarch64.saddlp", T.call_intrin(
            "int16x8", "aarch64.smull", a, B[T.Ramp(8, 1, 8) // 4, T.Ramp(8, 1, 8) % 4]
        )),
    )  # fmt: skip


def dot_4x4_sdot(
    A: T.Buffer((4,), "int8"), B: T.Buffer((4, 4), "int8"), C: T.Buffer((4,), "int32")
):
    """One sdot."""
    C[0:4] = T.call_intrin(
        "int32x4", "aarch64.sdot", C[0:4],
        T.reinterpret("int8x16", T.Broadcast(T.reinterpret("int32", A[0:4]), 4)),
        B[T.Ramp(0, 1, 16) // 4, T.Ramp(0, 1, 16) % 4],
    )  # fmt: skip


def dot_4x4_udot(
    A: T.Buffer((4,), "uint8"), B: T.Buffer((4, 4), "uint8"), C: T.Buffer((4,), "uint32")
):
    """One udot."""
    C[0:4] = T.call_intrin(
        "uint32x4", "aarch64.udot", C[0:4],
        T.reinterpret("uint8x16", T.Broadcast(T.reinterpret("int32", A[0:4]), 4)),
        B[T.Ramp(0, 1, 16) // 4, T.Ramp(0, 1, 16) % 4],
    )  # fmt: skip


def dot_4x4_hdot(
    A: T.Buffer((4,), "uint8"), B: T.Buffer((4, 4), "uint8"), C: T.Buffer((4,), "int32")
):
    """One udot, its sums taken as signed numbers: the bits are the same."""
    C[0:4] = T.reinterpret("int32x4", T.call_intrin(
        "uint32x4", "aarch64.udot", T.reinterpret("uint32x4", C[0:4]),
        T.reinterpret("uint8x16", T.Broadcast(T.reinterpret("int32", A[0:4]), 4)),
        B[T.Ramp(0, 1, 16) // 4, T.Ramp(0, 1, 16) % 4],
    ))  # fmt: skip


INTRINSICS: dict[str, Pair] = {
    "dot_4x4_i8i8s32_neon": (_desc("int8", "int32"), dot_4x4_neon),
    "dot_4x4_i8i8s32_sdot": (_desc("int8", "int32"), dot_4x4_sdot),
    "dot_4x4_u8u8u32_udot": (_desc("uint8", "uint32"), dot_4x4_udot),
    "dot_4x4_u8u8i32_hdot": (_desc("uint8", "int32"), dot_4x4_hdot),
}
