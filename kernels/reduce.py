"""Reductions of a matrix: sum, maximum and mean of its rows, its columns and the whole; argmax.

`row_*` gives one value a row, `column_*` one a column, `total_*` one element. `argmax` reduces
pairs of index and value.
"""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, Array, Kernel, table
from .narrow import narrow


def _row_sum(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def row_sum(A: T.Buffer((m, n), dtype), B: T.Buffer((m,), acc)):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    B[vi] = 0
                B[vi] = B[vi] + T.Cast(acc, A[vi, vj])

    return narrow(row_sum, "B", out)


def _column_sum(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def column_sum(A: T.Buffer((m, n), dtype), B: T.Buffer((n,), acc)):
        for j, i in T.grid(n, m):
            with T.block("B"):
                vj, vi = T.axis.remap("SR", [j, i])
                with T.init():
                    B[vj] = 0
                B[vj] = B[vj] + T.Cast(acc, A[vi, vj])

    return narrow(column_sum, "B", out)


def _total_sum(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def total_sum(A: T.Buffer((m, n), dtype), B: T.Buffer((1,), acc)):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("RR", [i, j])
                with T.init():
                    B[0] = 0
                B[0] = B[0] + T.Cast(acc, A[vi, vj])

    return narrow(total_sum, "B", out)


def _row_max(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def row_max(A: T.Buffer((m, n), dtype), B: T.Buffer((m,), dtype)):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    B[vi] = T.min_value(dtype)
                B[vi] = T.max(B[vi], A[vi, vj])

    return row_max


def _column_max(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def column_max(A: T.Buffer((m, n), dtype), B: T.Buffer((n,), dtype)):
        for j, i in T.grid(n, m):
            with T.block("B"):
                vj, vi = T.axis.remap("SR", [j, i])
                with T.init():
                    B[vj] = T.min_value(dtype)
                B[vj] = T.max(B[vj], A[vi, vj])

    return column_max


def _total_max(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def total_max(A: T.Buffer((m, n), dtype), B: T.Buffer((1,), dtype)):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("RR", [i, j])
                with T.init():
                    B[0] = T.min_value(dtype)
                B[0] = T.max(B[0], A[vi, vj])

    return total_max


def _row_mean(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def row_mean(A: T.Buffer((m, n), dtype), B: T.Buffer((m,), out)):
        total = T.alloc_buffer((m,), acc)
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0
                total[vi] = total[vi] + T.Cast(acc, A[vi, vj])
        for i in range(m):
            with T.block("B"):
                vi = T.axis.spatial(m, i)
                B[vi] = T.Cast(out, total[vi] / n)

    return row_mean


def _column_mean(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def column_mean(A: T.Buffer((m, n), dtype), B: T.Buffer((n,), out)):
        total = T.alloc_buffer((n,), acc)
        for j, i in T.grid(n, m):
            with T.block("total"):
                vj, vi = T.axis.remap("SR", [j, i])
                with T.init():
                    total[vj] = 0
                total[vj] = total[vj] + T.Cast(acc, A[vi, vj])
        for j in range(n):
            with T.block("B"):
                vj = T.axis.spatial(n, j)
                B[vj] = T.Cast(out, total[vj] / m)

    return column_mean


def _total_mean(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    size = m * n

    @T.prim_func
    def total_mean(A: T.Buffer((m, n), dtype), B: T.Buffer((1,), out)):
        total = T.alloc_buffer((1,), acc)
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("RR", [i, j])
                with T.init():
                    total[0] = 0
                total[0] = total[0] + T.Cast(acc, A[vi, vj])
        for i in range(1):
            with T.block("B"):
                vi = T.axis.spatial(1, i)
                B[vi] = T.Cast(out, total[vi] / size)

    return total_mean


def _argmax(m: int, n: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def argmax(
        A: T.Buffer((m, n), dtype),
        index: T.Buffer((m,), "int32"),
        value: T.Buffer((m,), dtype),
    ):
        for i, j in T.grid(m, n):
            with T.block("argmax"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    index[vi] = -1
                    value[vi] = T.min_value(dtype)
                v_index = T.Select(value[vi] >= A[vi, vj], index[vi], vj)
                v_value = T.Select(value[vi] >= A[vi, vj], value[vi], A[vi, vj])
                index[vi] = v_index
                value[vi] = v_value

    return argmax


def _argmax_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    index = a.argmax(axis=1)
    return index.astype(np.int32), np.take_along_axis(a, index[:, None], axis=1)[:, 0]


_SHAPE = {"m": 1024, "n": 1024}
_CHECKS = (
    {"m": 8, "n": 8},
    {"m": 1, "n": 33},
    {"m": 33, "n": 1},
    {"m": 3, "n": 1000},
    {"m": 13, "n": 17},
)

KERNELS = table(
    Kernel("row_sum", _row_sum, lambda a, /, **_: (a.sum(axis=1),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n),
    Kernel("column_sum", _column_sum, lambda a, /, **_: (a.sum(axis=0),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n),
    Kernel("total_sum", _total_sum, lambda a, /, **_: (a.sum(keepdims=True)[0],),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n),
    Kernel("row_max", _row_max, lambda a, /, **_: (a.max(axis=1),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n, accumulates=False),
    Kernel("column_max", _column_max, lambda a, /, **_: (a.max(axis=0),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n, accumulates=False),
    Kernel("total_max", _total_max, lambda a, /, **_: (a.max(keepdims=True)[0],),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n, accumulates=False),
    Kernel("row_mean", _row_mean, lambda a, /, **_: (a.mean(axis=1),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n + m, dtypes=FLOATS, exact=False),
    Kernel("column_mean", _column_mean, lambda a, /, **_: (a.mean(axis=0),),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n + n, dtypes=FLOATS, exact=False),
    Kernel("total_mean", _total_mean, lambda a, /, **_: (a.mean(keepdims=True)[0],),
           ("B",), _SHAPE, _CHECKS, lambda m, n: m * n + 1, dtypes=FLOATS, exact=False),
    Kernel("argmax", _argmax, _argmax_reference,
           ("index", "value"), _SHAPE, _CHECKS, lambda m, n: 0, accumulates=False),
)  # fmt: skip
