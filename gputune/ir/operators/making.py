"""Operators that look elements up by number, keep a triangle, or make tensors of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import build, dtypes
from ..graph import TensorType
from ..nodes import Expr
from .emit import Emitter, Operand, scalar
from .operator import Array, Attr, Operator, axis_in, refuse, signature


# ----------------------------------------------------------------------------- looking up
def _take_axis(shape: Sequence[int], axis: int | None) -> int:
    if axis is not None:
        return axis_in(axis, len(shape))
    if len(shape) != 1:
        refuse(f"x has the shape {tuple(shape)}, and no axis is given")
    return 0


def _take_type(x: TensorType, indices: TensorType, axis: int | None) -> TensorType:
    at = _take_axis(x.shape, axis)
    if not dtypes.is_int(indices.dtype):
        refuse(f"indices has dtype {indices.dtype}; they are whole numbers",
               'convert it: R.astype(indices, "int64")')  # fmt: skip
    if x.shape[at] == 0:
        refuse(f"x has the shape {x.shape}: there is nothing to take along axis {at}")
    return TensorType((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]), x.dtype)


def _emit_take(e: Emitter, x: Operand, indices: Operand, axis: int | None) -> None:
    at = _take_axis(x.shape, axis)
    n, rank = x.shape[at], len(indices.shape)

    def element(*i: Any) -> Expr:
        k = indices[tuple(i[at : at + rank])]
        k = build.cast(_wide_index(k.dtype), k)
        if not dtypes.is_unsigned(k.dtype):
            k = build.select(build.lt(k, 0), build.add(k, n), k)
            k = build.maximum(k, build.const(0, k.dtype))
        k = build.cast("int32", build.minimum(k, build.const(n - 1, k.dtype)))
        return x[(*i[:at], k, *i[at + rank :])]

    e.fill(e.outs[0], element)


def _wide_index(dtype: str) -> str:
    """A dtype that holds the indices, and the size of an axis added to them."""
    if dtypes.bits(dtype) < 32:
        return "int32"
    return "int64" if dtype == "uint32" else dtype


def _take_numpy(x: Array, indices: Array, axis: int | None) -> Array:
    at = _take_axis(x.shape, axis)
    n = x.shape[at]
    k = np.minimum(indices, n - 1) if indices.dtype == np.uint64 else indices
    k = k.astype(np.int64)
    return np.take(x, np.clip(np.where(k < 0, k + n, k), 0, n - 1), axis=at)


# ----------------------------------------------------------------------------- triangles
def _triangle(name: str, below: bool) -> Operator:
    """Keeps the elements on one side of the diagonal `k`, and it; the others are 0."""

    def result(x: TensorType, k: int) -> TensorType:
        if len(x.shape) < 2:
            refuse(f"x has the shape {x.shape}; it has at least 2 dimensions")
        return x

    def emit(e: Emitter, x: Operand, k: int) -> None:
        def element(*i: Any) -> Expr:
            row, column = build.add(i[-2], k), i[-1]
            keep = build.le(column, row) if below else build.ge(column, row)
            return build.select(keep, x.at(i), scalar(0, x.dtype))

        e.fill(e.outs[0], element)

    meaning: Callable[..., Array] = np.tril if below else np.triu
    return Operator(name, *signature("x", Attr("k", "int", 0)), result, meaning, emit, moves=True)


# ----------------------------------------------------------------------------- of nothing
def _count(start: float, stop: float, step: float) -> int:
    if step == 0:
        refuse("step is 0", code="operator-attribute")
    if not all(math.isfinite(v) for v in (start, stop, step)):
        refuse(f"start is {start}, stop {stop}, step {step}", code="operator-attribute")
    return max(0, math.ceil((stop - start) / step))


def _arange_type(start: Any, stop: Any, step: Any, dtype: str) -> TensorType:
    if dtypes.is_bool(dtype):
        refuse("dtype is bool; it makes numbers", code="operator-attribute")
    whole = all(isinstance(v, int) for v in (start, stop, step))
    if not whole and not dtypes.is_float(dtype):
        refuse(f"start is {start}, stop {stop}, step {step}, which {dtype} cannot hold",
               code="operator-attribute")  # fmt: skip
    return TensorType((_count(start, stop, step),), dtype)


def _emit_arange(e: Emitter, start: Any, stop: Any, step: Any, dtype: str) -> None:
    def element(i: Any) -> Expr:
        return build.add(build.mul(build.cast(dtype, i), scalar(step, dtype)), scalar(start, dtype))

    e.fill(e.outs[0], element)


def _arange_numpy(start: Any, stop: Any, step: Any, dtype: str) -> Array:
    return np.asarray(np.arange(_count(start, stop, step)) * step + start)


def _full_type(shape: Sequence[int], value: Any, dtype: str) -> TensorType:
    if any(n < 0 for n in shape):
        refuse(
            f"shape is {tuple(shape)}; sizes are whole numbers from 0", code="operator-attribute"
        )
    if isinstance(value, float) and not dtypes.is_float(dtype):
        refuse(f"value is {value}, which {dtype} cannot hold", code="operator-attribute")
    if dtypes.is_int(dtype) and not dtypes.min_value(dtype) <= value <= dtypes.max_value(dtype):
        refuse(f"value is {value}, which {dtype} cannot hold", code="operator-attribute")
    return TensorType(tuple(shape), dtype)


def _emit_full(e: Emitter, shape: Sequence[int], value: Any, dtype: str) -> None:
    e.fill(e.outs[0], lambda *i: scalar(value, dtype))


OPERATORS = (
    Operator("take", *signature("x, indices", Attr("axis", "int", None)), _take_type, _take_numpy,
             _emit_take, moves=True),
    _triangle("tril", True),
    _triangle("triu", False),
    Operator("arange",
             *signature("", Attr("start", "number"), Attr("stop", "number"),
                        Attr("step", "number", 1), Attr("dtype", "dtype", "int64")),
             _arange_type, _arange_numpy, _emit_arange),
    Operator("full",
             *signature("", Attr("shape", "ints"), Attr("value", "number"),
                        Attr("dtype", "dtype", "float32")),
             _full_type,
             lambda shape, value, dtype: np.full(shape, value, dtypes.numpy_dtype(dtype)),
             _emit_full, moves=True),
)  # fmt: skip
