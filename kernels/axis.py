"""Reductions along any one axis of a tensor: what lies before the axis, the axis, what lies after.

A tensor of any rank is seen as (outer, size, inner); the axis of `size` elements is reduced. With
inner = 1 it is the last axis, with outer = 1 the first.
"""

from __future__ import annotations

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import Array, Kernel, table
from .narrow import narrow


def _axis_sum(outer: int, size: int, inner: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def axis_sum(
        A: T.Buffer((outer, size, inner), dtype),
        B: T.Buffer((outer, inner), acc),
    ):
        for o, i, s in T.grid(outer, inner, size):
            with T.block("B"):
                vo, vi, vs = T.axis.remap("SSR", [o, i, s])
                with T.init():
                    B[vo, vi] = 0
                B[vo, vi] = B[vo, vi] + T.Cast(acc, A[vo, vs, vi])

    return narrow(axis_sum, "B", out)


def _axis_max(outer: int, size: int, inner: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def axis_max(
        A: T.Buffer((outer, size, inner), dtype),
        B: T.Buffer((outer, inner), dtype),
    ):
        for o, i, s in T.grid(outer, inner, size):
            with T.block("B"):
                vo, vi, vs = T.axis.remap("SSR", [o, i, s])
                with T.init():
                    B[vo, vi] = T.min_value(dtype)
                B[vo, vi] = T.max(B[vo, vi], A[vo, vs, vi])

    return axis_max


def _axis_argmax(outer: int, size: int, inner: int, dtype: str, acc: str, out: str) -> PrimFunc:
    @T.prim_func
    def axis_argmax(
        A: T.Buffer((outer, size, inner), dtype),
        index: T.Buffer((outer, inner), "int32"),
        value: T.Buffer((outer, inner), dtype),
    ):
        for o, i, s in T.grid(outer, inner, size):
            with T.block("argmax"):
                vo, vi, vs = T.axis.remap("SSR", [o, i, s])
                with T.init():
                    index[vo, vi] = -1
                    value[vo, vi] = T.min_value(dtype)
                v_index = T.Select(value[vo, vi] >= A[vo, vs, vi], index[vo, vi], vs)
                v_value = T.Select(value[vo, vi] >= A[vo, vs, vi], value[vo, vi], A[vo, vs, vi])
                index[vo, vi] = v_index
                value[vo, vi] = v_value

    return axis_argmax


def _argmax_reference(a: Array, /, **_: int) -> tuple[Array, ...]:
    index = a.argmax(axis=1)
    return index.astype(np.int32), np.take_along_axis(a, index[:, None], axis=1)[:, 0]


_SHAPE = {"outer": 64, "size": 128, "inner": 64}
_CHECKS = (
    {"outer": 3, "size": 8, "inner": 4},
    {"outer": 1, "size": 33, "inner": 5},
    {"outer": 7, "size": 13, "inner": 1},
    {"outer": 2, "size": 1, "inner": 3},
    {"outer": 1, "size": 1000, "inner": 2},
)


def _elements(outer: int, size: int, inner: int) -> int:
    return outer * size * inner


KERNELS = table(
    Kernel("axis_sum", _axis_sum, lambda a, /, **_: (a.sum(axis=1),),
           ("B",), _SHAPE, _CHECKS, _elements),
    Kernel("axis_max", _axis_max, lambda a, /, **_: (a.max(axis=1),),
           ("B",), _SHAPE, _CHECKS, _elements, accumulates=False),
    Kernel("axis_argmax", _axis_argmax, _argmax_reference,
           ("index", "value"), _SHAPE, _CHECKS, lambda outer, size, inner: 0, accumulates=False),
)  # fmt: skip
