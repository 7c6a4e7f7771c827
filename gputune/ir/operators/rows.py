"""Operators that look at a whole row for each element: softmax and the norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import build
from ..graph import Expr, TensorType, constant
from ..nodes import Buffer
from ..nodes import Call as Intrinsic
from ..nodes import Expr as Element
from .emit import Emitter, Operand, wide
from .operator import (
    Array,
    Attr,
    Operator,
    axes_in,
    axis_in,
    needs_float,
    needs_rank,
    refuse,
    signature,
)
from .reductions import along, lowest, mean_of, reduced, squares_of


def _without(i: Sequence[Any], axes: Sequence[int]) -> tuple[Any, ...]:
    return tuple([v for k, v in enumerate(i) if k not in axes])


# ----------------------------------------------------------------------------- softmax
def _softmax_type(x: TensorType, axis: int) -> TensorType:
    needs_float(x, "x")
    axis_in(axis, len(x.shape))
    return x


def _emit_softmax(log: bool) -> Any:
    def emit(e: Emitter, x: Operand, axis: int) -> None:
        at = axis % len(x.shape)
        to = wide(x.dtype)
        left = reduced(x.shape, (at,), False)
        top = e.temporary("top", left, x.dtype)
        along(e, top, x.shape, (at,), False, lambda *i: x[i], build.maximum, lowest(x.dtype))

        def below(*i: Any) -> Element:
            return build.sub(
                build.cast(to, x[i]), build.cast(to, build.load(top, _without(i, (at,))))
            )

        power = e.temporary("power", x.shape, to)
        e.fill(power, lambda *i: Intrinsic("exp", (below(*i),), to))
        total = e.temporary("total", left, to)
        along(e, total, x.shape, (at,), False, lambda *i: build.load(power, i))

        def share(*i: Any) -> Element:
            whole = build.load(total, _without(i, (at,)))
            if log:
                return build.sub(below(*i), Intrinsic("log", (whole,), to))
            return build.div(build.load(power, i), whole)

        e.fill(e.outs[0], share)

    return emit


def _softmax_numpy(x: Array, axis: int) -> Array:
    power = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return np.asarray(power / power.sum(axis=axis, keepdims=True))


def _log_softmax_numpy(x: Array, axis: int) -> Array:
    y = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(y - np.log(np.exp(y).sum(axis=axis, keepdims=True)))


# ----------------------------------------------------------------------------- norms of rows
def _norm_type(
    x: TensorType, *weights: TensorType, axes: Sequence[int], epsilon: float
) -> TensorType:
    needs_float(x, "x")
    over = axes_in(axes, len(x.shape), "axes")
    if not over:
        refuse("axes is (); there is at least one")
    sizes = tuple([x.shape[a] for a in over])
    if 0 in sizes:
        refuse(f"x has the shape {x.shape}: nothing along axes {over}")
    for name, t in zip(("weight", "bias"), weights):
        if t.shape != sizes or t.dtype != x.dtype:
            refuse(
                f"{name} has the shape {t.shape} and dtype {t.dtype}; along axes {over} x has "
                f"{sizes} and {x.dtype}"
            )
    return x


def _scaled(
    value: Element, over: Sequence[int], i: Sequence[Any], weights: Sequence[Operand], to: str
) -> Element:
    """`value * weight + bias`, as far as they are there."""
    at = tuple([i[a] for a in over])
    if weights:
        value = build.mul(value, build.cast(to, weights[0][at]))
    if len(weights) > 1:
        value = build.add(value, build.cast(to, weights[1][at]))
    return value


def _rsqrt(e: Emitter, x: Buffer, epsilon: float) -> Buffer:
    """1 / sqrt(x + epsilon) of every element."""
    shape = [build.const_int(n) or 0 for n in x.shape]
    out = e.temporary("scale", shape, x.dtype)
    return e.fill(
        out, lambda *i: Intrinsic("rsqrt", (build.add(build.load(x, i), epsilon),), x.dtype)
    )


def _emit_layer_norm(
    e: Emitter, x: Operand, *weights: Operand, axes: Sequence[int], epsilon: float
) -> None:
    over = axes_in(axes, len(x.shape))
    to = wide(x.dtype)
    mean = mean_of(e, "mean", x.shape, over, to, lambda *i: build.cast(to, x[i]))
    scale = _rsqrt(e, squares_of(e, "variance", x, over, mean), epsilon)

    def value(*i: Any) -> Element:
        row = _without(i, over)
        distance = build.sub(build.cast(to, x[i]), build.load(mean, row))
        return _scaled(build.mul(distance, build.load(scale, row)), over, i, weights, to)

    e.fill(e.outs[0], value)


def _emit_rms_norm(
    e: Emitter, x: Operand, *weights: Operand, axes: Sequence[int], epsilon: float
) -> None:
    over = axes_in(axes, len(x.shape))
    to = wide(x.dtype)

    def square(*i: Any) -> Element:
        element = build.cast(to, x[i])
        return build.mul(element, element)

    scale = _rsqrt(e, mean_of(e, "square", x.shape, over, to, square), epsilon)

    def value(*i: Any) -> Element:
        element = build.mul(build.cast(to, x[i]), build.load(scale, _without(i, over)))
        return _scaled(element, over, i, weights, to)

    e.fill(e.outs[0], value)


def _aligned(w: Array, rank: int, over: Sequence[int]) -> Array:
    """`w`, whose dimensions are the axes `over`, with the dimensions of the whole."""
    return w.reshape([w.shape[over.index(k)] if k in over else 1 for k in range(rank)])


def _layer_norm_numpy(x: Array, *weights: Array, axes: Sequence[int], epsilon: float) -> Array:
    over = axes_in(axes, x.ndim)
    y = x - x.mean(axis=over, keepdims=True)
    y = y / np.sqrt((y * y).mean(axis=over, keepdims=True) + epsilon)
    return _scaled_numpy(y, weights, over)


def _rms_norm_numpy(x: Array, *weights: Array, axes: Sequence[int], epsilon: float) -> Array:
    over = axes_in(axes, x.ndim)
    y = x / np.sqrt((x * x).mean(axis=over, keepdims=True) + epsilon)
    return _scaled_numpy(y, weights, over)


def _scaled_numpy(y: Array, weights: Sequence[Array], over: Sequence[int]) -> Array:
    parts = [_aligned(w, y.ndim, over) for w in weights]
    if parts:
        y = y * parts[0]
    return y + parts[1] if len(parts) > 1 else y


# ----------------------------------------------------------------------------- batch norm
_STATISTICS = ("weight", "bias", "mean", "variance")


def _batch_norm_type(
    x: TensorType, *statistics: TensorType, axis: int, epsilon: float
) -> TensorType:
    needs_float(x, "x")
    n = x.shape[axis_in(axis, len(x.shape))]
    for name, t in zip(_STATISTICS, statistics):
        needs_rank(t, name, 1, "one number a channel")
        if t.shape != (n,) or t.dtype != x.dtype:
            refuse(
                f"{name} has the shape {t.shape} and dtype {t.dtype}; x has {n} channels along "
                f"axis {axis}, of {x.dtype}"
            )
    return x


def _emit_batch_norm(
    e: Emitter, x: Operand, weight: Operand, bias: Operand, mean: Operand, variance: Operand,
    axis: int, epsilon: float,
) -> None:  # fmt: skip
    at = axis % len(x.shape)
    to = wide(x.dtype)
    n = (x.shape[at],)
    scale, shift = e.temporary("scale", n, to), e.temporary("shift", n, to)

    def factor(c: Any) -> Element:
        root = Intrinsic("rsqrt", (build.add(build.cast(to, variance[(c,)]), epsilon),), to)
        return build.mul(build.cast(to, weight[(c,)]), root)

    e.fill(scale, factor)
    e.fill(
        shift,
        lambda c: build.sub(
            build.cast(to, bias[(c,)]),
            build.mul(build.cast(to, mean[(c,)]), build.load(scale, (c,))),
        ),
    )

    def value(*i: Any) -> Element:
        c = (i[at],)
        return build.add(
            build.mul(build.cast(to, x[i]), build.load(scale, c)), build.load(shift, c)
        )

    e.fill(e.outs[0], value)


def _decompose_batch_norm(
    op: Any, x: Expr, weight: Expr, bias: Expr, mean: Expr, variance: Expr,
    axis: int, epsilon: float,
) -> Any:  # fmt: skip
    """`x * scale + shift`, where scale and shift are constants if the statistics are."""
    assert isinstance(x.type, TensorType)
    rank = len(x.type.shape)
    tail = tuple(range(1, rank - axis % rank))  # dimensions behind the channels
    root = op("rsqrt", op("add", variance, constant(epsilon, x.type.dtype)))
    scale = op("multiply", weight, root)
    shift = op("subtract", bias, op("multiply", mean, scale))
    if tail:
        scale = op("expand_dims", scale, axis=tail)
        shift = op("expand_dims", shift, axis=tail)
    return op("add", op("multiply", x, scale), shift)


def _batch_norm_numpy(x: Array, *statistics: Array, axis: int, epsilon: float) -> Array:
    over = (axis % x.ndim,)
    weight, bias, mean, variance = [_aligned(s, x.ndim, over) for s in statistics]
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


_NORM = Attr("axes", "ints", (-1,)), Attr("epsilon", "float", 1e-5)
OPERATORS = (
    Operator("nn.softmax", *signature("x", Attr("axis", "int", -1)), _softmax_type,
             _softmax_numpy, _emit_softmax(False)),
    Operator("nn.log_softmax", *signature("x", Attr("axis", "int", -1)), _softmax_type,
             _log_softmax_numpy, _emit_softmax(True)),
    Operator("nn.layer_norm", *signature("x, weight?, bias?", *_NORM), _norm_type,
             _layer_norm_numpy, _emit_layer_norm),
    Operator("nn.rms_norm", *signature("x, weight?", *_NORM), _norm_type,
             _rms_norm_numpy, _emit_rms_norm),
    Operator("nn.batch_norm",
             *signature("x, weight, bias, mean, variance", Attr("axis", "int", 1),
                        Attr("epsilon", "float", 1e-5)),
             _batch_norm_type, _batch_norm_numpy, _emit_batch_norm, _decompose_batch_norm),
)  # fmt: skip
