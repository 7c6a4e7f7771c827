"""Operators that combine all elements along some axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import build, dtypes
from ..graph import TensorType
from ..nodes import Buffer, Expr
from .emit import Emitter, Operand, Value, wide
from .operator import Array, Attr, Operator, axes_in, axis_in, needs_float, refuse, signature

_AXES = Attr("axis", "ints", None), Attr("keepdims", "bool", False)


def reduced(shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    """The shape that is left when `axes` are combined."""
    if keepdims:
        return tuple([1 if k in axes else n for k, n in enumerate(shape)])
    return tuple([n for k, n in enumerate(shape) if k not in axes])


def spread(shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> Callable[..., list[Any]]:
    """What makes the indices of the whole tensor of those of the result and of the axes."""
    rank = len(shape)

    def whole(outer: Sequence[Any], inner: Sequence[Any]) -> list[Any]:
        if keepdims:
            kept = {k: outer[k] for k in range(rank) if k not in axes}
        else:
            kept = dict(zip([k for k in range(rank) if k not in axes], outer))
        return [*[{**kept, **dict(zip(axes, inner))}[k] for k in range(rank)]]

    return whole


def lowest(dtype: str) -> Any:
    """What any element is at least: where a maximum starts."""
    infinite = dtypes.is_float(dtype) and not dtype.startswith("float8")
    return -math.inf if infinite else dtypes.min_value(dtype)


def highest(dtype: str) -> Any:
    """What any element is at most: where a minimum starts."""
    infinite = dtypes.is_float(dtype) and not dtype.startswith("float8")
    return math.inf if infinite else dtypes.max_value(dtype)


def along(
    e: Emitter,
    target: Buffer,
    shape: Sequence[int],
    axes: Sequence[int],
    keepdims: bool,
    value: Value,
    combine: Callable[[Any, Any], Expr] = build.add,
    start: Any = 0,
) -> Buffer:
    """Fill `target` with `value`, a function of the indices of the whole, combined over `axes`."""
    whole = spread(shape, axes, keepdims)
    split = len(target.shape)

    def element(*i: Any) -> Any:
        return value(*whole(i[:split], i[split:]))

    return e.reduce(target, [shape[a] for a in axes], element, combine, start)


def _operator(
    name: str,
    numpy: Callable[..., Any],
    emit: Callable[..., None],
    *,
    floats: bool = False,
    some: bool = False,
    moves: bool = False,
) -> Operator:
    """`some`: there has to be an element; `floats`: defined for floats only."""

    def result(x: TensorType, axis: Sequence[int] | None, keepdims: bool) -> TensorType:
        axes = axes_in(axis, len(x.shape))
        if dtypes.is_bool(x.dtype):
            refuse("x has dtype bool, and it is defined for numbers",
                   'convert it: R.astype(x, "int32")')  # fmt: skip
        if floats:
            needs_float(x, "x")
        if some and any(x.shape[a] == 0 for a in axes):
            refuse(f"x has the shape {x.shape}: nothing along axis {axes}")
        return TensorType(reduced(x.shape, axes, keepdims), x.dtype)

    def meaning(x: Array, axis: Sequence[int] | None, keepdims: bool) -> Any:
        return numpy(x, axis=axes_in(axis, x.ndim), keepdims=keepdims)

    return Operator(name, *signature("x", *_AXES), result, meaning, emit, moves=moves)


def _emit_sum(e: Emitter, x: Operand, axis: Any, keepdims: bool) -> None:
    axes = axes_in(axis, len(x.shape))
    along(e, e.outs[0], x.shape, axes, keepdims, lambda *i: x[i])


def _emit_extreme(most: bool) -> Callable[..., None]:
    def emit(e: Emitter, x: Operand, axis: Any, keepdims: bool) -> None:
        axes = axes_in(axis, len(x.shape))
        combine = build.maximum if most else build.minimum
        start = lowest(x.dtype) if most else highest(x.dtype)
        along(e, e.outs[0], x.shape, axes, keepdims, lambda *i: x[i], combine, start)

    return emit


def mean_of(
    e: Emitter, name: str, shape: Sequence[int], axes: Sequence[int], dtype: str, value: Value,
    into: Buffer | None = None, keepdims: bool = False,
) -> Buffer:  # fmt: skip
    """The mean of `value` over `axes`, in `dtype`: a buffer of its own, or `into`."""
    left = reduced(shape, axes, keepdims)
    total = e.temporary(f"{name}_sum", left, dtype)
    along(e, total, shape, axes, keepdims, value)
    count = math.prod([shape[a] for a in axes])
    target = into or e.temporary(name, left, dtype)
    return e.fill(target, lambda *i: build.mul(build.load(total, i), 1.0 / count))


def _emit_mean(e: Emitter, x: Operand, axis: Any, keepdims: bool) -> None:
    axes = axes_in(axis, len(x.shape))
    to = wide(x.dtype)
    mean_of(e, "mean", x.shape, axes, to, lambda *i: build.cast(to, x[i]), e.outs[0], keepdims)


def squares_of(e: Emitter, name: str, x: Operand, axes: Sequence[int], mean: Buffer,
               into: Buffer | None = None, keepdims: bool = False) -> Buffer:  # fmt: skip
    """The mean of the squared distances from `mean` (without the axes): the variance."""
    to = mean.dtype

    def square(*i: Any) -> Expr:
        at = tuple([v for k, v in enumerate(i) if k not in axes])
        distance = build.sub(build.cast(to, x[i]), build.load(mean, at))
        return build.mul(distance, distance)

    return mean_of(e, name, x.shape, axes, to, square, into, keepdims)


def _emit_variance(e: Emitter, x: Operand, axis: Any, keepdims: bool) -> None:
    axes = axes_in(axis, len(x.shape))
    to = wide(x.dtype)
    mean = mean_of(e, "mean", x.shape, axes, to, lambda *i: build.cast(to, x[i]))
    squares_of(e, "variance", x, axes, mean, e.outs[0], keepdims)


# ----------------------------------------------------------------------------- where it is
def _arg(name: str, most: bool) -> Operator:
    """The first place of the greatest (or least) element along one axis."""

    def result(x: TensorType, axis: int, keepdims: bool, dtype: str) -> TensorType:
        at = axis_in(axis, len(x.shape))
        if dtypes.is_bool(x.dtype):
            refuse("x has dtype bool, and it is defined for numbers")
        if not dtypes.is_int(dtype):
            refuse(f"dtype is {dtype}; places are whole numbers")
        if x.shape[at] == 0:
            refuse(f"x has the shape {x.shape}: nothing along axis {at}")
        return TensorType(reduced(x.shape, (at,), keepdims), dtype)

    def meaning(x: Array, axis: int, keepdims: bool, dtype: str) -> Array:
        find = np.argmax if most else np.argmin
        return np.asarray(find(x, axis=axis, keepdims=keepdims)).astype(dtype)

    def emit(e: Emitter, x: Operand, axis: int, keepdims: bool, dtype: str) -> None:
        at = axis % len(x.shape)
        left = reduced(x.shape, (at,), False)
        best = e.temporary("best", left, x.dtype)
        combine = build.maximum if most else build.minimum
        start = lowest(x.dtype) if most else highest(x.dtype)
        along(e, best, x.shape, (at,), False, lambda *i: x[i], combine, start)
        last = x.shape[at] - 1

        def place(*i: Any) -> Expr:
            found = build.load(best, tuple([v for k, v in enumerate(i) if k != at]))
            return build.select(
                build.eq(x[i], found), build.cast(dtype, i[at]), build.const(last, dtype)
            )

        along(e, e.outs[0], x.shape, (at,), keepdims, place, build.minimum, last)

    attrs = (Attr("axis", "int"), Attr("keepdims", "bool", False), Attr("dtype", "dtype", "int64"))
    return Operator(name, *signature("x", *attrs), result, meaning, emit, moves=True)


OPERATORS = (
    _operator("sum", np.sum, _emit_sum),
    _operator("mean", np.mean, _emit_mean, floats=True, some=True),
    _operator("variance", np.var, _emit_variance, floats=True, some=True),
    _operator("max", np.max, _emit_extreme(True), some=True, moves=True),
    _operator("min", np.min, _emit_extreme(False), some=True, moves=True),
    _arg("argmax", True),
    _arg("argmin", False),
)
