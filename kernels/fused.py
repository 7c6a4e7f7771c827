"""What models put around their norms and activations: a loss, a residual, a gate, a mask."""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .elementwise import GELU_CUBE, GELU_SCALE
from .kernel import FLOATS, Array, Kernel, table
from .rows import EPSILON

KEPT = 0.9
"""The share of elements that a mask of `bias_gelu_mask` keeps: what is kept is divided by it."""

_RAISED = 1.0 / KEPT


def _cross_entropy(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    # The label is compared with every column, and nothing is loaded at an index that comes from
    # memory: a label outside the columns picks nothing, and its logit counts as 0.
    @T.prim_func
    def cross_entropy(
        X: T.Buffer((m, n), dtype),
        label: T.Buffer((m,), "int32"),
        loss: T.Buffer((m,), out),
    ):
        top = T.alloc_buffer((m,), acc)
        total = T.alloc_buffer((m,), acc)
        picked = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("top"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    top[vi] = T.min_value(acc)
                top[vi] = T.max(top[vi], T.Cast(acc, X[vi, vj]))
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0
                total[vi] = total[vi] + T.exp(T.Cast(acc, X[vi, vj]) - top[vi])
        for i, j in T.grid(m, n):
            with T.block("picked"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    picked[vi] = 0
                picked[vi] = picked[vi] + T.Select(label[vi] == vj, T.Cast(acc, X[vi, vj]), 0)
        for i in range(m):
            with T.block("loss"):
                vi = T.axis.spatial(m, i)
                loss[vi] = T.Cast(out, top[vi] + T.log(total[vi]) - picked[vi])

    return cross_entropy


def _add_rmsnorm(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def add_rmsnorm(
        X: T.Buffer((m, n), dtype),
        R: T.Buffer((m, n), dtype),
        gamma: T.Buffer((n,), dtype),
        S: T.Buffer((m, n), out),
        Y: T.Buffer((m, n), out),
    ):
        added = T.alloc_buffer((m, n), acc)
        square = T.alloc_buffer((m,), acc)
        scale = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("added"):
                vi, vj = T.axis.remap("SS", [i, j])
                added[vi, vj] = T.Cast(acc, X[vi, vj]) + T.Cast(acc, R[vi, vj])
        for i, j in T.grid(m, n):
            with T.block("S"):
                vi, vj = T.axis.remap("SS", [i, j])
                S[vi, vj] = T.Cast(out, added[vi, vj])
        for i, j in T.grid(m, n):
            with T.block("square"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    square[vi] = 0
                square[vi] = square[vi] + added[vi, vj] * added[vi, vj]
        for i in range(m):
            with T.block("scale"):
                vi = T.axis.spatial(m, i)
                scale[vi] = T.rsqrt(square[vi] / n + EPSILON)
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(out, added[vi, vj] * scale[vi] * T.Cast(acc, gamma[vj]))

    return add_rmsnorm


def _silu_mul(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def silu_mul(
        X: T.Buffer((m, n), dtype),
        Z: T.Buffer((m, n), dtype),
        Y: T.Buffer((m, n), out),
    ):
        gate = T.alloc_buffer((m, n), acc)
        for i, j in T.grid(m, n):
            with T.block("gate"):
                vi, vj = T.axis.remap("SS", [i, j])
                gate[vi, vj] = T.Cast(acc, X[vi, vj]) * T.sigmoid(T.Cast(acc, X[vi, vj]))
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(out, gate[vi, vj] * T.Cast(acc, Z[vi, vj]))

    return silu_mul


def _bias_gelu_mask(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def bias_gelu_mask(
        X: T.Buffer((m, n), dtype),
        b: T.Buffer((n,), dtype),
        M: T.Buffer((m, n), "uint8"),
        Y: T.Buffer((m, n), out),
    ):
        biased = T.alloc_buffer((m, n), acc)
        inner = T.alloc_buffer((m, n), acc)
        for i, j in T.grid(m, n):
            with T.block("biased"):
                vi, vj = T.axis.remap("SS", [i, j])
                biased[vi, vj] = T.Cast(acc, X[vi, vj]) + T.Cast(acc, b[vj])
        for i, j in T.grid(m, n):
            with T.block("inner"):
                vi, vj = T.axis.remap("SS", [i, j])
                inner[vi, vj] = GELU_SCALE * (
                    biased[vi, vj] + GELU_CUBE * biased[vi, vj] * biased[vi, vj] * biased[vi, vj]
                )
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.Cast(
                    out,
                    T.Select(
                        M[vi, vj] != T.uint8(0),
                        0.5 * biased[vi, vj] * (1.0 + T.tanh(inner[vi, vj])) * _RAISED,
                        0.0,
                    ),
                )

    return bias_gelu_mask


# ----------------------------------------------------------------------------- references
def _cross_entropy_reference(x: Array, label: Array, /, *, n: int, **_: int) -> tuple[Array, ...]:
    top = x.max(axis=1)
    total = np.exp(x - top[:, None]).sum(axis=1)
    inside = (label >= 0) & (label < n)
    picked = np.take_along_axis(x, np.where(inside, label, 0)[:, None], axis=1)[:, 0]
    return (top + np.log(total) - np.where(inside, picked, 0),)


def _add_rmsnorm_reference(x: Array, r: Array, gamma: Array, /, **_: int) -> tuple[Array, ...]:
    s = x + r
    return s, s / np.sqrt((s * s).mean(axis=1, keepdims=True) + EPSILON) * gamma


def _bias_gelu_mask_reference(x: Array, b: Array, mask: Array, /, **_: int) -> tuple[Array, ...]:
    v = x + b
    y = 0.5 * v * (1.0 + np.tanh(GELU_SCALE * (v + GELU_CUBE * v * v * v)))
    return (np.where(mask != 0, y * _RAISED, 0.0),)


_SHAPE = {"m": 512, "n": 768}
_CHECKS = (
    {"m": 8, "n": 16},
    {"m": 1, "n": 33},
    {"m": 7, "n": 13},
    {"m": 33, "n": 1},
    {"m": 2, "n": 1000},
)

KERNELS = table(
    Kernel("cross_entropy", _cross_entropy, _cross_entropy_reference,
           ("loss",), _SHAPE, _CHECKS, lambda m, n: 4 * m * n + 2 * m,
           dtypes=FLOATS, exact=False),
    Kernel("add_rmsnorm", _add_rmsnorm, _add_rmsnorm_reference,
           ("S", "Y"), _SHAPE, _CHECKS, lambda m, n: 5 * m * n + 2 * m,
           dtypes=FLOATS, exact=False),
    Kernel("silu_mul", _silu_mul, lambda x, z, /, **_: (x / (1.0 + np.exp(-x)) * z,),
           ("Y",), _SHAPE, _CHECKS, lambda m, n: 2 * m * n, dtypes=FLOATS, exact=False),
    Kernel("bias_gelu_mask", _bias_gelu_mask, _bias_gelu_mask_reference,
           ("Y",), _SHAPE, _CHECKS, lambda m, n: 10 * m * n, dtypes=FLOATS, exact=False),
)  # fmt: skip
