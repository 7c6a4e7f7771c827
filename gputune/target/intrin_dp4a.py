"""Which tensor intrinsics do NVIDIA's plain cores have? dp4a: a sum of four products of bytes.

Each thread computes its own, from two rows of four bytes in shared memory into a number of its own.
Sums wrap around. The names are MetaSchedule's: dp4a_{s8s8s32,u8s8s32,s8u8s32,u8u8u32}.
"""
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..script import tir as T

_LONG = {"s8": "int8", "u8": "uint8", "s32": "int32", "u32": "uint32"}


def _dp4a(a: str, b: str, sums: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """C += the products of A and B, four of them: description and implementation."""
    of_a, of_b, of_c = _LONG[a], _LONG[b], _LONG[sums]
    op = f"cuda.dp4a.{a}{b}"

    def desc(x: T.handle, y: T.handle, z: T.handle):
        A = T.match_buffer(x, (4,), of_a, scope="shared")
        B = T.match_buffer(y, (4,), of_b, scope="shared")
        C = T.match_buffer(z, (1,), of_c, scope="local")
        for i in range(4):
            with T.block("update"):
                vi = T.axis.reduce(4, i)
                C[0] = C[0] + T.cast(A[vi], of_c) * T.cast(B[vi], of_c)

    def impl(x: T.handle, y: T.handle, z: T.handle):
        A = T.match_buffer(x, (4,), of_a, scope="shared")
        B = T.match_buffer(y, (4,), of_b, scope="shared")
        C = T.match_buffer(z, (1,), of_c, scope="local")
        C[0] = T.call_intrin(
            of_c, op, C[0], T.reinterpret(of_c, A[0:4]), T.reinterpret(of_c, B[0:4])
        )

    return desc, impl


INTRINSICS = {
    f"dp4a_{a}{b}{sums}": _dp4a(a, b, sums)
    for a, b, sums in (
        ("s8", "s8", "s32"), ("u8", "s8", "s32"), ("s8", "u8", "s32"), ("u8", "u8", "u32")
    )
}  # fmt: skip
