"""Normalisations: softmax and its logarithm, layer norm, root-mean-square norm, matrix norm."""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, Array, Kernel, table

EPSILON = 1e-5


def _softmax(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def softmax(
        A: T.Buffer((m, n), dtype),
        B: T.Buffer((m, n), out),
    ):
        top = T.alloc_buffer((m,), acc)
        power = T.alloc_buffer((m, n), acc)
        total = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("top"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    top[vi] = T.min_value(acc)
                top[vi] = T.max(top[vi], T.Cast(acc, A[vi, vj]))
        for i, j in T.grid(m, n):
            with T.block("power"):
                vi, vj = T.axis.remap("SS", [i, j])
                power[vi, vj] = T.exp(T.Cast(acc, A[vi, vj]) - top[vi])
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0
                total[vi] = total[vi] + power[vi, vj]
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = T.Cast(out, power[vi, vj] / total[vi])

    return softmax


def _log_softmax(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def log_softmax(
        A: T.Buffer((m, n), dtype),
        B: T.Buffer((m, n), out),
    ):
        top = T.alloc_buffer((m,), acc)
        total = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("top"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    top[vi] = T.min_value(acc)
                top[vi] = T.max(top[vi], T.Cast(acc, A[vi, vj]))
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0
                total[vi] = total[vi] + T.exp(T.Cast(acc, A[vi, vj]) - top[vi])
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = T.Cast(out, T.Cast(acc, A[vi, vj]) - top[vi] - T.log(total[vi]))

    return log_softmax


def _layernorm(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def layernorm(
        X: T.Buffer((m, n), dtype),
        gamma: T.Buffer((n,), dtype),
        beta: T.Buffer((n,), dtype),
        Y: T.Buffer((m, n), out),
    ):
        total = T.alloc_buffer((m,), acc)
        mean = T.alloc_buffer((m,), acc)
        square = T.alloc_buffer((m,), acc)
        scale = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0
                total[vi] = total[vi] + T.Cast(acc, X[vi, vj])
        for i in range(m):
            with T.block("mean"):
                vi = T.axis.spatial(m, i)
                mean[vi] = total[vi] / n
        for i, j in T.grid(m, n):
            with T.block("square"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    square[vi] = 0
                square[vi] = square[vi] + (T.Cast(acc, X[vi, vj]) - mean[vi]) * (
                    T.Cast(acc, X[vi, vj]) - mean[vi]
                )
        for i in range(m):
            with T.block("scale"):
                vi = T.axis.spatial(m, i)
                scale[vi] = T.rsqrt(square[vi] / n + EPSILON)
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(
                    out,
                    (T.Cast(acc, X[vi, vj]) - mean[vi]) * scale[vi] * T.Cast(acc, gamma[vj])
                    + T.Cast(acc, beta[vj]),
                )

    return layernorm


def _rmsnorm(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def rmsnorm(
        X: T.Buffer((m, n), dtype),
        gamma: T.Buffer((n,), dtype),
        Y: T.Buffer((m, n), out),
    ):
        square = T.alloc_buffer((m,), acc)
        scale = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("square"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    square[vi] = 0
                square[vi] = square[vi] + T.Cast(acc, X[vi, vj]) * T.Cast(acc, X[vi, vj])
        for i in range(m):
            with T.block("scale"):
                vi = T.axis.spatial(m, i)
                scale[vi] = T.rsqrt(square[vi] / n + EPSILON)
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(out, T.Cast(acc, X[vi, vj]) * scale[vi] * T.Cast(acc, gamma[vj]))

    return rmsnorm


def _norm(b: int, m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def norm(
        A: T.Buffer((b, m, n), dtype),
        D: T.Buffer((b,), out),
    ):
        C = T.alloc_buffer((b,), acc)
        for t, i, j in T.grid(b, m, n):
            with T.block("C"):
                vt, vi, vj = T.axis.remap("SRR", [t, i, j])
                with T.init():
                    C[vt] = 0
                C[vt] = C[vt] + T.Cast(acc, A[vt, vi, vj]) * T.Cast(acc, A[vt, vi, vj])
        for t in range(b):
            with T.block("D"):
                vt = T.axis.spatial(b, t)
                D[vt] = T.Cast(out, T.sqrt(C[vt]))

    return norm


# ----------------------------------------------------------------------------- references
def _softmax_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    e = np.exp(a - a.max(axis=1, keepdims=True))
    e /= e.sum(axis=1, keepdims=True)
    return (e,)


def _log_softmax_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    shifted = a - a.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)),)


def _layernorm_reference(x: Array, gamma: Array, beta: Array, /, **_: int) -> tuple[Array, ...]:
    centred = x - x.mean(axis=1, keepdims=True)
    variance = (centred * centred).mean(axis=1, keepdims=True)
    return (centred / np.sqrt(variance + EPSILON) * gamma + beta,)


def _rmsnorm_reference(x: Array, gamma: Array, /, **_: int) -> tuple[Array, ...]:
    return (x / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON) * gamma,)


def _norm_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    flat = a.reshape(a.shape[0], -1)
    return (np.sqrt(np.einsum("bi,bi->b", flat, flat)),)


_ROW_CHECKS = (
    {"m": 8, "n": 16},
    {"m": 1, "n": 33},
    {"m": 7, "n": 13},
    {"m": 3, "n": 1000},
    {"m": 33, "n": 1},
)

KERNELS = table(
    Kernel(
        "softmax",
        _softmax,
        _softmax_reference,
        outputs=("B",),
        shapes={"m": 1024, "n": 1024},
        check_shapes=_ROW_CHECKS,
        flops=lambda m, n: 4 * m * n,  # maximum, subtraction, sum, division; exp counts nothing
        dtypes=FLOATS,
        exact=False,
    ),
    Kernel(
        "log_softmax",
        _log_softmax,
        _log_softmax_reference,
        outputs=("B",),
        shapes={"m": 1024, "n": 1024},
        check_shapes=_ROW_CHECKS,
        flops=lambda m, n: 5 * m * n,
        dtypes=FLOATS,
        exact=False,
    ),
    Kernel(
        "layernorm",
        _layernorm,
        _layernorm_reference,
        outputs=("Y",),
        shapes={"m": 512, "n": 768},
        check_shapes=_ROW_CHECKS,
        flops=lambda m, n: 9 * m * n + 3 * m,
        dtypes=FLOATS,
        exact=False,
    ),
    Kernel(
        "rmsnorm",
        _rmsnorm,
        _rmsnorm_reference,
        outputs=("Y",),
        shapes={"m": 512, "n": 768},
        check_shapes=_ROW_CHECKS,
        flops=lambda m, n: 4 * m * n + 2 * m,
        dtypes=FLOATS,
        exact=False,
    ),
    Kernel(
        "norm",
        _norm,
        _norm_reference,
        outputs=("D",),
        shapes={"b": 1, "m": 256, "n": 256},
        check_shapes=(
            {"b": 2, "m": 4, "n": 8},
            {"b": 1, "m": 33, "n": 1},
            {"b": 1, "m": 2, "n": 1000},
            {"b": 3, "m": 5, "n": 7},
        ),
        flops=lambda b, m, n: 2 * b * m * n,
        dtypes=FLOATS,
        exact=False,
    ),
)
