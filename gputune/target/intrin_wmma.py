"""Which tensor intrinsics do NVIDIA's tensor cores have? Those of WMMA, on tiles of 16 x 16.

The 32 threads of a warp compute them together. Tiles of operands lie in the scopes `wmma.matrix_a`,
`wmma.matrix_b` and `wmma.accumulator`: in registers, each thread holding a part. To a program and
to the interpreter a tile is a plain array of 16 x 16. The names are MetaSchedule's:

    wmma_load_16x16x16_{f16,s8}_{a,b}{,_trans}_{shared,shared_dyn}
    wmma_fill_16x16x16_{f32,f16,s32}
    wmma_sync_16x16x16_{f16f16f32,f16f16f16,s8s8s32}{,_trans}       C += A @ B, or A @ B.T
    wmma_store_16x16x16_{f32,f16,s32}_{shared,shared_dyn,global}

`_trans` is for a B that lies in memory as B[n, k]; its loads and products go together. So do those
of an A that lies as A[k, m]: `wmma_load_..._a_trans_...` with `wmma_sync_..._trans_a` and
`wmma_sync_..._trans_a_trans_b`, which TVM has not got (there no product takes what these load).
"""
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..script import tir as T

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""Description and implementation."""

_SHORT = {"float16": "f16", "float32": "f32", "int8": "s8", "int32": "s32"}


def _copy(dtype: str, source: str, target: str, op: str) -> Pair:
    """A tile from one scope to another."""

    def desc(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), dtype, scope=source)
        C = T.match_buffer(c, (16, 16), dtype, scope=target)
        for i, j in T.grid(16, 16):
            with T.block("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj]

    def impl(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), dtype, scope=source)
        C = T.match_buffer(c, (16, 16), dtype, scope=target)
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(
            dtype + "x256", op, A[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16]
        )

    return desc, impl


def _fill(dtype: str, op: str) -> Pair:
    """A tile of zeros."""

    def desc(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="wmma.accumulator")
        for i, j in T.grid(16, 16):
            with T.block("init"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.cast(0, dtype)

    def impl(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="wmma.accumulator")
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(
            dtype + "x256", op, T.cast(0, dtype)
        )

    return desc, impl


def _sync(ab: str, sums: str, transposed: str, op: str) -> Pair:
    """C += A @ B: operands of dtype `ab`, sums of dtype `sums`. What `transposed` names ("", "a",
    "b", "ab") lies by columns."""

    def desc(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), ab, scope="wmma.matrix_a")
        B = T.match_buffer(b, (16, 16), ab, scope="wmma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="wmma.accumulator")
        for i, j, k in T.grid(16, 16, 16):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], sums) * T.cast(B[vk, vj], sums)

    def desc_b(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), ab, scope="wmma.matrix_a")
        B = T.match_buffer(b, (16, 16), ab, scope="wmma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="wmma.accumulator")
        for i, j, k in T.grid(16, 16, 16):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], sums) * T.cast(B[vj, vk], sums)

    def desc_a(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), ab, scope="wmma.matrix_a")
        B = T.match_buffer(b, (16, 16), ab, scope="wmma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="wmma.accumulator")
        for i, j, k in T.grid(16, 16, 16):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + T.cast(A[vk, vi], sums) * T.cast(B[vk, vj], sums)

    def desc_ab(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), ab, scope="wmma.matrix_a")
        B = T.match_buffer(b, (16, 16), ab, scope="wmma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="wmma.accumulator")
        for i, j, k in T.grid(16, 16, 16):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                C[vi, vj] = C[vi, vj] + T.cast(A[vk, vi], sums) * T.cast(B[vj, vk], sums)

    def impl(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (16, 16), ab, scope="wmma.matrix_a")
        B = T.match_buffer(b, (16, 16), ab, scope="wmma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="wmma.accumulator")
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(
            sums + "x256", op,
            C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16],
            A[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16],
            B[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16],
        )  # fmt: skip

    return {"": desc, "a": desc_a, "b": desc_b, "ab": desc_ab}[transposed], impl


def _all() -> dict[str, Pair]:
    out: dict[str, Pair] = {}
    head = "16x16x16"
    for dtype in ("float16", "int8"):
        short = _SHORT[dtype]
        for operand in ("a", "a_trans", "b", "b_trans"):
            held, op = f"wmma.matrix_{operand[0]}", f"wmma.load_{operand}.{short}"
            for scope in ("shared", "shared.dyn"):
                name = f"wmma_load_{head}_{short}_{operand}_{scope.replace('.', '_')}"
                out[name] = _copy(dtype, scope, held, op)
    for dtype in ("float32", "float16", "int32"):
        short = _SHORT[dtype]
        out[f"wmma_fill_{head}_{short}"] = _fill(dtype, f"wmma.fill.{short}")
        for scope in ("shared", "shared.dyn", "global"):
            name = f"wmma_store_{head}_{short}_{scope.replace('.', '_')}"
            out[name] = _copy(dtype, "wmma.accumulator", scope, f"wmma.store.{short}")
    for ab, c in (("float16", "float32"), ("float16", "float16"), ("int8", "int32")):
        kind = f"{_SHORT[ab]}{_SHORT[ab]}{_SHORT[c]}"
        for suffix, turned in (
            ("", ""), ("_trans", "b"), ("_trans_a", "a"), ("_trans_a_trans_b", "ab")
        ):  # fmt: skip
            out[f"wmma_sync_{head}_{kind}{suffix}"] = _sync(
                ab, c, turned, f"wmma.mma{suffix}.{kind}"
            )
    return out


INTRINSICS: dict[str, Pair] = _all()
