"""Which products do tensor cores compute with mma.sync? Tiles of 16 x 16 sums, and their operands.

As with WMMA, the 32 threads of a warp compute them together, and tiles lie in scopes of their own:
`mma.matrix_a`, `mma.matrix_b` and `mma.accumulator`. Other than there, it is known which lane holds
which element (`gputune.ir.fragments`), so plain blocks may use them, too: an epilogue scales, adds
and converts sums where they are, and what is stored needs no way through shared memory. Two
products of 16 x 8 sums make one, of k = 16 (float16, bfloat16), 8 (tf32), 32 (int8, uint8). The
names are MetaSchedule's, with more of a kind:

    mma_ldmatrix_{f16,bf16,tf32,i8,u8}_{a,b,a_trans,b_trans}[_dyn]    from shared memory
    mma_fill_16x16_{f32,f16,i32}
    mma_{f16f16f32,f16f16f16,bf16bf16f32,tf32tf32f32,i8i8i32,u8u8i32}{,_trans_b,_trans_a,
        _trans_a_trans_b}                                             C += A @ B
    mma_store_16x16_{f32,f16,i32}_{shared,shared_dyn,global}

`_trans` is for a B that lies in memory as B[n, k], or an A that lies as A[k, m]. What ldmatrix
cannot bring (it turns elements of two bytes only) is loaded element by element. tf32 are float32,
of which products take 10 bits behind the point.
"""
# mypy: disable-error-code="no-untyped-def, valid-type, index, operator, misc, assignment"
# The functions are scripts: parsed when first used, never run.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..ir.ops import (
    MMA_KINDS,
    MMA_OPERANDS,
    MMA_ORDERS,
    MMA_SUMS,
    VECTOR,
    mma_depth,
    mma_shape,
)
from ..script import tir as T

Pair: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""Description and implementation."""


def _copy(dtype: str, shape: tuple[int, int], source: str, target: str, op: str = "") -> Pair:
    """A tile from one scope to another, by an operation of the warp, or by element."""
    rows, cols = shape
    lanes = rows * cols
    tile = f"{dtype}x{lanes}"

    def desc(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (rows, cols), dtype, scope=source)
        C = T.match_buffer(c, (rows, cols), dtype, scope=target)
        for i, j in T.grid(rows, cols):
            with T.block("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj]

    def by_element(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (rows, cols), dtype, scope=source)
        C = T.match_buffer(c, (rows, cols), dtype, scope=target)
        for i, j in T.grid(rows, cols):
            C[i, j] = A[i, j]

    def impl(a: T.handle, c: T.handle):
        A = T.match_buffer(a, (rows, cols), dtype, scope=source)
        C = T.match_buffer(c, (rows, cols), dtype, scope=target)
        C[T.Ramp(0, 1, lanes) // cols, T.Ramp(0, 1, lanes) % cols] = T.call_intrin(
            tile, op, A[T.Ramp(0, 1, lanes) // cols, T.Ramp(0, 1, lanes) % cols]
        )

    return desc, impl if op else by_element


def _fill(dtype: str) -> Pair:
    """A tile of zeros."""

    def desc(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="mma.accumulator")
        for i, j in T.grid(16, 16):
            with T.block("init"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.cast(0, dtype)

    def impl(c: T.handle):
        C = T.match_buffer(c, (16, 16), dtype, scope="mma.accumulator")
        for i, j in T.grid(16, 16):
            C[i, j] = T.cast(0, dtype)

    return desc, impl


_TF32 = 2.0**-10
"""What rounding both factors to 10 bits behind the point may change of a product, as a part."""


def _product(ab: str, sums: str, k: int, turned: str, tolerance: float, op: str) -> Pair:
    """C += A @ B; what `turned` names ("", "a", "b", "ab") lies by columns."""
    lanes = 16 * k
    acc = f"{sums}x256"
    rows_a, cols_a = (k, 16) if "a" in turned else (16, k)
    rows_b, cols_b = (16, k) if "b" in turned else (k, 16)

    def desc(a: T.handle, b: T.handle, c: T.handle):
        T.func_attr({"tolerance": tolerance})
        A = T.match_buffer(a, (16, k), ab, scope="mma.matrix_a")
        B = T.match_buffer(b, (k, 16), ab, scope="mma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="mma.accumulator")
        for i, j, r in T.grid(16, 16, k):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, r])
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], sums) * T.cast(B[vk, vj], sums)

    def desc_b(a: T.handle, b: T.handle, c: T.handle):
        T.func_attr({"tolerance": tolerance})
        A = T.match_buffer(a, (16, k), ab, scope="mma.matrix_a")
        B = T.match_buffer(b, (16, k), ab, scope="mma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="mma.accumulator")
        for i, j, r in T.grid(16, 16, k):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, r])
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], sums) * T.cast(B[vj, vk], sums)

    def desc_a(a: T.handle, b: T.handle, c: T.handle):
        T.func_attr({"tolerance": tolerance})
        A = T.match_buffer(a, (k, 16), ab, scope="mma.matrix_a")
        B = T.match_buffer(b, (k, 16), ab, scope="mma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="mma.accumulator")
        for i, j, r in T.grid(16, 16, k):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, r])
                C[vi, vj] = C[vi, vj] + T.cast(A[vk, vi], sums) * T.cast(B[vk, vj], sums)

    def desc_ab(a: T.handle, b: T.handle, c: T.handle):
        T.func_attr({"tolerance": tolerance})
        A = T.match_buffer(a, (k, 16), ab, scope="mma.matrix_a")
        B = T.match_buffer(b, (16, k), ab, scope="mma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="mma.accumulator")
        for i, j, r in T.grid(16, 16, k):
            with T.block("update"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, r])
                C[vi, vj] = C[vi, vj] + T.cast(A[vk, vi], sums) * T.cast(B[vj, vk], sums)

    def impl(a: T.handle, b: T.handle, c: T.handle):
        A = T.match_buffer(a, (rows_a, cols_a), ab, scope="mma.matrix_a")
        B = T.match_buffer(b, (rows_b, cols_b), ab, scope="mma.matrix_b")
        C = T.match_buffer(c, (16, 16), sums, scope="mma.accumulator")
        C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin(
            acc, op,
            C[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16],
            A[T.Ramp(0, 1, lanes) // cols_a, T.Ramp(0, 1, lanes) % cols_a],
            B[T.Ramp(0, 1, lanes) // cols_b, T.Ramp(0, 1, lanes) % cols_b],
        )  # fmt: skip

    return {"": desc, "a": desc_a, "b": desc_b, "ab": desc_ab}[turned], impl


def _all() -> dict[str, Pair]:
    out: dict[str, Pair] = {}
    for short, dtype in MMA_OPERANDS.items():
        for operand in ("a", "b", "a_trans", "b_trans"):
            op = f"mma.load_{operand}.{short}"
            for scope, word in (("shared", ""), ("shared.dyn", "_dyn")):
                out[f"mma_ldmatrix_{short}_{operand}{word}"] = _copy(
                    dtype, mma_shape(short, operand), scope, f"mma.matrix_{operand[0]}",
                    op if op in VECTOR else "",
                )  # fmt: skip
    for short, dtype in MMA_SUMS.items():
        out[f"mma_fill_16x16_{short}"] = _fill(dtype)
        for scope in ("shared", "shared.dyn", "global"):
            name = f"mma_store_16x16_{short}_{scope.replace('.', '_')}"
            out[name] = _copy(dtype, (16, 16), "mma.accumulator", scope)
    for short, sums in MMA_KINDS:
        for suffix, of_a, of_b in MMA_ORDERS:
            turned = "a" * (of_a == "col") + "b" * (of_b == "col")
            kind = f"{short}{short}{sums}"
            out[f"mma_{kind}{suffix}"] = _product(
                MMA_OPERANDS[short], MMA_SUMS[sums], mma_depth(short), turned,
                _TF32 if short == "tf32" else 0.0, f"mma.sync{suffix}.{kind}",
            )  # fmt: skip
    return out


INTRINSICS: dict[str, Pair] = _all()
