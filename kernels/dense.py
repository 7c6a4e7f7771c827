"""Matrix products: which take two matrices, many, a vector, or carry an epilogue?"""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import PRODUCTS, Array, Kernel, table
from .narrow import narrow


def _matmul(m: int, n: int, k: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def matmul(
        A: T.Buffer((m, k), dtype),
        B: T.Buffer((k, n), dtype),
        C: T.Buffer((m, n), acc),
    ):
        for i, j, r in T.grid(m, n, k):
            with T.block("C"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.Cast(acc, A[vi, vr]) * T.Cast(acc, B[vr, vj])

    return narrow(matmul, "C", out)


def _linear(m: int, n: int, k: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def linear(
        X: T.Buffer((m, k), dtype),
        W: T.Buffer((n, k), dtype),
        Y: T.Buffer((m, n), acc),
    ):
        for i, j, r in T.grid(m, n, k):
            with T.block("Y"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    Y[vi, vj] = 0
                Y[vi, vj] = Y[vi, vj] + T.Cast(acc, X[vi, vr]) * T.Cast(acc, W[vj, vr])

    return narrow(linear, "Y", out)


def _batch_matmul(b: int, m: int, n: int, k: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def batch_matmul(
        A: T.Buffer((b, m, k), dtype),
        B: T.Buffer((b, k, n), dtype),
        C: T.Buffer((b, m, n), acc),
    ):
        for t, i, j, r in T.grid(b, m, n, k):
            with T.block("C"):
                vt, vi, vj, vr = T.axis.remap("SSSR", [t, i, j, r])
                with T.init():
                    C[vt, vi, vj] = 0
                C[vt, vi, vj] = C[vt, vi, vj] + T.Cast(acc, A[vt, vi, vr]) * T.Cast(
                    acc, B[vt, vr, vj]
                )

    return narrow(batch_matmul, "C", out)


def _gemv(m: int, k: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def gemv(
        A: T.Buffer((m, k), dtype),
        X: T.Buffer((k,), dtype),
        Y: T.Buffer((m,), acc),
    ):
        for i, r in T.grid(m, k):
            with T.block("Y"):
                vi, vr = T.axis.remap("SR", [i, r])
                with T.init():
                    Y[vi] = 0
                Y[vi] = Y[vi] + T.Cast(acc, A[vi, vr]) * T.Cast(acc, X[vr])

    return narrow(gemv, "Y", out)


def _dense_bias_relu(m: int, n: int, k: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def dense_bias_relu(
        X: T.Buffer((m, k), dtype),
        W: T.Buffer((n, k), dtype),
        B: T.Buffer((n,), dtype),
        Z: T.Buffer((m, n), out),
    ):
        Y = T.alloc_buffer((m, n), acc)
        for i, j, r in T.grid(m, n, k):
            with T.block("Y"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    Y[vi, vj] = 0
                Y[vi, vj] = Y[vi, vj] + T.Cast(acc, X[vi, vr]) * T.Cast(acc, W[vj, vr])
        for i, j in T.grid(m, n):
            with T.block("Z"):
                vi, vj = T.axis.remap("SS", [i, j])
                Z[vi, vj] = T.Cast(out, T.max(Y[vi, vj] + T.Cast(acc, B[vj]), 0))

    return dense_bias_relu


def _transpose_batch_matmul(
    batch: int, seq: int, heads: int, dim: int, dtype: str, acc: str, out: str
) -> PrimFunc:
    @T.prim_func
    def transpose_batch_matmul(
        Q: T.Buffer((batch, seq, heads, dim), dtype),
        K: T.Buffer((batch, seq, heads, dim), dtype),
        C: T.Buffer((batch, heads, seq, seq), acc),
    ):
        Q_T = T.alloc_buffer((batch, heads, seq, dim), dtype)
        K_T = T.alloc_buffer((batch, heads, dim, seq), dtype)
        for b, h, s, d in T.grid(batch, heads, seq, dim):
            with T.block("Q_T"):
                vb, vh, vs, vd = T.axis.remap("SSSS", [b, h, s, d])
                Q_T[vb, vh, vs, vd] = Q[vb, vs, vh, vd]
        for b, h, d, s in T.grid(batch, heads, dim, seq):
            with T.block("K_T"):
                vb, vh, vd, vs = T.axis.remap("SSSS", [b, h, d, s])
                K_T[vb, vh, vd, vs] = K[vb, vs, vh, vd]
        for b, h, i, j, r in T.grid(batch, heads, seq, seq, dim):
            with T.block("C"):
                vb, vh, vi, vj, vr = T.axis.remap("SSSSR", [b, h, i, j, r])
                with T.init():
                    C[vb, vh, vi, vj] = 0
                C[vb, vh, vi, vj] = C[vb, vh, vi, vj] + T.Cast(acc, Q_T[vb, vh, vi, vr]) * T.Cast(
                    acc, K_T[vb, vh, vr, vj]
                )

    return narrow(transpose_batch_matmul, "C", out)


def _product(a: Array, b: Array, /, **_: int) -> tuple[Array, ...]:
    return (a @ b,)


def _dense_reference(x: Array, w: Array, b: Array, /, **_: int) -> tuple[Array, ...]:
    y = x @ w.T
    y += b
    return (np.maximum(y, 0, out=y),)


def _scores_reference(q: Array, k: Array, /, **_: int) -> tuple[Array, ...]:
    return (q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1),)


_MATRIX_CHECKS = (
    {"m": 8, "n": 8, "k": 8},
    {"m": 1, "n": 33, "k": 7},
    {"m": 13, "n": 1, "k": 17},
    {"m": 2, "n": 1000, "k": 3},
    {"m": 5, "n": 3, "k": 1},
)

KERNELS = table(
    Kernel(
        "matmul",
        _matmul,
        _product,
        outputs=("C",),
        shapes={"m": 128, "n": 128, "k": 128},
        check_shapes=_MATRIX_CHECKS,
        flops=lambda m, n, k: 2 * m * n * k,
        dtypes=PRODUCTS,
    ),
    Kernel(
        "linear",
        _linear,
        lambda x, w, /, **_: (x @ w.T,),
        outputs=("Y",),
        shapes={"m": 128, "n": 128, "k": 128},
        check_shapes=_MATRIX_CHECKS,
        flops=lambda m, n, k: 2 * m * n * k,
        dtypes=PRODUCTS,
    ),
    Kernel(
        "batch_matmul",
        _batch_matmul,
        _product,
        outputs=("C",),
        shapes={"b": 16, "m": 128, "n": 128, "k": 64},
        check_shapes=tuple({"b": b, **s} for b, s in zip((1, 3, 2, 1, 5), _MATRIX_CHECKS)),
        flops=lambda b, m, n, k: 2 * b * m * n * k,
        dtypes=PRODUCTS,
    ),
    Kernel(
        "gemv",
        _gemv,
        _product,
        outputs=("Y",),
        shapes={"m": 1024, "k": 1024},
        check_shapes=(
            {"m": 16, "k": 16},
            {"m": 1, "k": 33},
            {"m": 33, "k": 1},
            {"m": 3, "k": 1000},
            {"m": 17, "k": 29},
        ),
        flops=lambda m, k: 2 * m * k,
        dtypes=PRODUCTS,
    ),
    Kernel(
        "dense_bias_relu",
        _dense_bias_relu,
        _dense_reference,
        outputs=("Z",),
        shapes={"m": 1, "n": 128, "k": 784},
        check_shapes=_MATRIX_CHECKS,
        flops=lambda m, n, k: 2 * m * n * k + 2 * m * n,
    ),
    Kernel(
        "transpose_batch_matmul",
        _transpose_batch_matmul,
        _scores_reference,
        outputs=("C",),
        shapes={"batch": 1, "seq": 128, "heads": 12, "dim": 64},
        check_shapes=(
            {"batch": 1, "seq": 8, "heads": 2, "dim": 4},
            {"batch": 2, "seq": 7, "heads": 3, "dim": 5},
            {"batch": 1, "seq": 2, "heads": 1000, "dim": 1},
            {"batch": 1, "seq": 1, "heads": 1, "dim": 33},
        ),
        flops=lambda batch, seq, heads, dim: 2 * batch * heads * seq * seq * dim,
        dtypes=PRODUCTS,
    ),
)
