"""Kernels without a reduction: moving data, activations, chains, and a stencil."""

from __future__ import annotations

import math

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, Array, Kernel, table

GELU_SCALE = math.sqrt(2.0 / math.pi)
GELU_CUBE = 0.044715


def _transpose(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def transpose(A: T.Buffer((m, n), dtype), B: T.Buffer((n, m), dtype)):
        for j, i in T.grid(n, m):
            with T.block("B"):
                vj, vi = T.axis.remap("SS", [j, i])
                B[vj, vi] = A[vi, vj]

    return transpose


def _batch_transpose(b: int, m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def batch_transpose(A: T.Buffer((b, m, n), dtype), B: T.Buffer((b, n, m), dtype)):
        for t, j, i in T.grid(b, n, m):
            with T.block("B"):
                vt, vj, vi = T.axis.remap("SSS", [t, j, i])
                B[vt, vj, vi] = A[vt, vi, vj]

    return batch_transpose


def _bias_relu(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def bias_relu(
        X: T.Buffer((m, n), dtype),
        b: T.Buffer((n,), dtype),
        Y: T.Buffer((m, n), dtype),
    ):
        S = T.alloc_buffer((m, n), dtype)
        for i, j in T.grid(m, n):
            with T.block("S"):
                vi, vj = T.axis.remap("SS", [i, j])
                S[vi, vj] = X[vi, vj] + b[vj]
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.max(S[vi, vj], 0)

    return bias_relu


def _gelu(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def gelu(X: T.Buffer((m, n), dtype), Y: T.Buffer((m, n), out)):
        inner = T.alloc_buffer((m, n), acc)
        for i, j in T.grid(m, n):
            with T.block("inner"):
                vi, vj = T.axis.remap("SS", [i, j])
                inner[vi, vj] = GELU_SCALE * (
                    T.Cast(acc, X[vi, vj])
                    + GELU_CUBE
                    * T.Cast(acc, X[vi, vj])
                    * T.Cast(acc, X[vi, vj])
                    * T.Cast(acc, X[vi, vj])
                )
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(
                    out, 0.5 * T.Cast(acc, X[vi, vj]) * (1.0 + T.tanh(inner[vi, vj]))
                )

    return gelu


def _add_mul(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def add_mul(
        A: T.Buffer((m, n), dtype),
        B: T.Buffer((m, n), dtype),
        C: T.Buffer((m, n), dtype),
        Y: T.Buffer((m, n), out),
    ):
        added = T.alloc_buffer((m, n), acc)
        scaled = T.alloc_buffer((m, n), acc)
        for i, j in T.grid(m, n):
            with T.block("added"):
                vi, vj = T.axis.remap("SS", [i, j])
                added[vi, vj] = T.Cast(acc, A[vi, vj]) + T.Cast(acc, B[vi, vj])
        for i, j in T.grid(m, n):
            with T.block("scaled"):
                vi, vj = T.axis.remap("SS", [i, j])
                scaled[vi, vj] = added[vi, vj] * T.Cast(acc, C[vi, vj])
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(out, scaled[vi, vj] - T.Cast(acc, A[vi, vj]))

    return add_mul


def _jacobi2d(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    hm, hn = m + 2, n + 2  # one cell of boundary all around

    @T.prim_func
    def jacobi2d(A: T.Buffer((hm, hn), dtype), B: T.Buffer((m, n), out)):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = T.Cast(
                    out,
                    0.25
                    * (
                        T.Cast(acc, A[vi, vj + 1])
                        + T.Cast(acc, A[vi + 2, vj + 1])
                        + T.Cast(acc, A[vi + 1, vj])
                        + T.Cast(acc, A[vi + 1, vj + 2])
                    ),
                )

    return jacobi2d


# ----------------------------------------------------------------------------- references
def _gelu_reference(x: Array, /, **_: int) -> tuple[Array, ...]:
    return (0.5 * x * (1.0 + np.tanh(GELU_SCALE * (x + GELU_CUBE * x * x * x))),)


def _jacobi2d_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    return (0.25 * (a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:]),)


_SHAPE = {"m": 1024, "n": 1024}
_CHECKS = (
    {"m": 8, "n": 8},
    {"m": 1, "n": 33},
    {"m": 33, "n": 1},
    {"m": 3, "n": 1000},
    {"m": 13, "n": 17},
)

KERNELS = table(
    Kernel("transpose", _transpose, lambda a, /, **_: (np.ascontiguousarray(a.T),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: 0, accumulates=False),
    Kernel("batch_transpose", _batch_transpose,
           lambda a, /, **_: (np.ascontiguousarray(a.transpose(0, 2, 1)),),
           ("B",), {"b": 8, "m": 256, "n": 256},
           tuple({"b": b, **s} for b, s in zip((2, 1, 3, 5), _CHECKS)),
           lambda b, m, n: 0, accumulates=False),
    Kernel("bias_relu", _bias_relu, lambda x, b, /, **_: (np.maximum(x + b, 0),),
           ("Y",), _SHAPE, _CHECKS, lambda m, n: 2 * m * n, accumulates=False),
    Kernel("gelu", _gelu, _gelu_reference,
           ("Y",), _SHAPE, _CHECKS, lambda m, n: 8 * m * n, dtypes=FLOATS, exact=False),
    Kernel("add_mul", _add_mul, lambda a, b, c, /, **_: ((a + b) * c - a,),
           ("Y",), _SHAPE, _CHECKS, lambda m, n: 3 * m * n),
    Kernel("jacobi2d", _jacobi2d, _jacobi2d_reference,
           ("B",), _SHAPE, _CHECKS, lambda m, n: 4 * m * n, dtypes=FLOATS),
)  # fmt: skip
