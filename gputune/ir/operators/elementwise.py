"""Operators on elements, each result made of the elements at the same place; shapes broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import build, dtypes
from ..build import const
from ..graph import TensorType
from ..nodes import Call, Expr
from ..ops import MATH
from .emit import Emitter, Operand
from .operator import Attr, Operator, broadcast, needs_float, refuse, same_dtype, signature

_ROOT_HALF = math.sqrt(0.5)
_TANH_GELU = math.sqrt(2 / math.pi), 0.044715


# ----------------------------------------------------------------------------- one argument
def _unary(
    name: str,
    value: Callable[..., Any],
    numpy: Callable[..., Any],
    *attrs: Attr,
    numbers: str = "floats",
    moves: bool = False,
) -> Operator:
    """`value(element, **attrs)` is the element of the result; `numbers` says what is taken:
    "floats", "numbers" (signed or not), or "bools"."""

    def result(x: TensorType, **_: Any) -> TensorType:
        if numbers == "floats":
            needs_float(x, "x")
        elif dtypes.is_bool(x.dtype) != (numbers == "bools"):
            wanted = "bool" if numbers == "bools" else "numbers"
            refuse(f"x has dtype {x.dtype}, and it is defined for {wanted}")
        return x

    def emit(e: Emitter, x: Operand, **attrs: Any) -> None:
        e.fill(e.outs[0], lambda *i: value(x.at(i), **attrs))

    return Operator(name, *signature("x", *attrs), result, numpy, emit, moves=moves, literals=True)


def _math(name: str) -> Operator:
    """A math intrinsic."""
    return _unary(name, lambda x: Call(name, (x,), x.dtype), MATH[name].numpy)


def _gelu(x: Expr) -> Expr:
    return 0.5 * x * (1.0 + Call("erf", (x * _ROOT_HALF,), x.dtype))


def _gelu_tanh(x: Expr) -> Expr:
    a, b = _TANH_GELU
    return 0.5 * x * (1.0 + Call("tanh", (a * (x + b * (x * x * x)),), x.dtype))


def _gelu_tanh_numpy(x: Any) -> Any:
    a, b = _TANH_GELU
    return 0.5 * x * (1.0 + np.tanh(a * (x + b * x**3)))


def _between(x: Expr, low: float, high: float) -> Expr:
    return build.minimum(build.maximum(x, const(low, x.dtype)), const(high, x.dtype))


def _clip(x: Expr, min: Any, max: Any) -> Expr:
    if min is not None:
        x = build.maximum(x, _limit(min, x.dtype))
    return x if max is None else build.minimum(x, _limit(max, x.dtype))


def _limit(value: Any, dtype: str) -> Expr:
    return const(float(value) if dtypes.is_float(dtype) else value, dtype)


def _clip_type(x: TensorType, min: Any, max: Any) -> TensorType:
    if dtypes.is_bool(x.dtype):
        refuse("x has dtype bool, and it is defined for numbers")
    for name, value in (("min", min), ("max", max)):
        if isinstance(value, float) and not dtypes.is_float(x.dtype):
            refuse(f"{name} is {value}, x has dtype {x.dtype}", "give a whole number")
        if value is not None and dtypes.is_int(x.dtype):
            if not dtypes.min_value(x.dtype) <= value <= dtypes.max_value(x.dtype):
                refuse(f"{name} is {value}, which {x.dtype} cannot hold")
    return x


def _clip_numpy(x: Any, min: Any, max: Any) -> Any:
    if min is not None:
        x = np.maximum(x, min)
    return x if max is None else np.minimum(x, max)


def _cast_value(x: Expr, dtype: str) -> Expr:
    if dtypes.is_bool(dtype) and not dtypes.is_bool(x.dtype):
        return build.ne(x, const(0, x.dtype))
    return build.cast(dtype, x)


_UNARY = (
    *[_math(n) for n in (
        "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "sigmoid", "floor", "ceil",
    )],
    _unary("round", lambda x: Call("nearbyint", (x,), x.dtype), np.rint),
    _unary("negative", build.neg, np.negative, numbers="numbers", moves=True),
    _unary("abs", lambda x: Call("abs", (x,), x.dtype), np.abs, numbers="numbers", moves=True),
    _unary("logical_not", build.logical_not, np.logical_not, numbers="bools", moves=True),
    _unary("nn.relu", lambda x: build.maximum(x, const(0, x.dtype)),
           lambda x: np.maximum(x, 0), numbers="numbers"),
    _unary("nn.relu6", lambda x: _between(x, 0, 6), lambda x: np.clip(x, 0, 6)),
    _unary("nn.leakyrelu",
           lambda x, alpha: build.select(build.gt(x, const(0, x.dtype)), x, x * alpha),
           lambda x, alpha: np.where(x > 0, x, x * alpha), Attr("alpha", "float", 0.01)),
    _unary("nn.gelu", _gelu, lambda x: 0.5 * x * (1.0 + MATH["erf"].numpy(x * _ROOT_HALF))),
    _unary("nn.gelu_tanh", _gelu_tanh, _gelu_tanh_numpy),
    _unary("nn.silu", lambda x: x * Call("sigmoid", (x,), x.dtype),
           lambda x: x / (1.0 + np.exp(-x))),
    _unary("nn.hardsigmoid", lambda x: _between(x + 3.0, 0, 6) * (1 / 6),
           lambda x: np.clip(x + 3.0, 0, 6) / 6),
    _unary("nn.hardswish", lambda x: x * (_between(x + 3.0, 0, 6) * (1 / 6)),
           lambda x: x * np.clip(x + 3.0, 0, 6) / 6),
)  # fmt: skip


def _emit_clip(e: Emitter, x: Operand, min: Any, max: Any) -> None:
    e.fill(e.outs[0], lambda *i: _clip(x.at(i), min, max))


def _emit_cast(e: Emitter, x: Operand, dtype: str) -> None:
    e.fill(e.outs[0], lambda *i: _cast_value(x.at(i), dtype))


_CHANGED = (
    Operator("clip", *signature("x", Attr("min", "number", None), Attr("max", "number", None)),
             _clip_type, _clip_numpy, _emit_clip, literals=True),
    Operator("astype", *signature("x", Attr("dtype", "dtype")),
             lambda x, dtype: TensorType(x.shape, dtype),
             lambda x, dtype: x.astype(dtypes.numpy_dtype(dtype)), _emit_cast, moves=True,
             literals=True),
)  # fmt: skip


# ----------------------------------------------------------------------------- two arguments
def _binary(
    name: str,
    value: Callable[[Any, Any], Any],
    numpy: Callable[[Any, Any], Any],
    *,
    numbers: str = "numbers",
    to_bool: bool = False,
) -> Operator:
    """`value(a, b)` is the element of the result; `numbers` says what is taken: "floats", "ints",
    "numbers", "bools" or "any"."""

    def result(a: TensorType, b: TensorType) -> TensorType:
        dtype = same_dtype(a=a, b=b)
        taken = {
            "floats": dtypes.is_float(dtype),
            "ints": dtypes.is_int(dtype),
            "numbers": not dtypes.is_bool(dtype),
            "bools": dtypes.is_bool(dtype),
            "any": True,
        }
        if not taken[numbers]:
            refuse(f"the arguments have dtype {dtype}, and it is defined for {numbers}")
        shape = broadcast(a=a.shape, b=b.shape)
        return TensorType(shape, "bool" if to_bool else dtype)

    def emit(e: Emitter, a: Operand, b: Operand) -> None:
        e.fill(e.outs[0], lambda *i: value(a.at(i), b.at(i)))

    moves = to_bool or numbers in ("bools", "ints")
    return Operator(name, *signature("a, b"), result, numpy, emit, moves=moves, literals=True)


_BINARY = (
    _binary("add", build.add, np.add),
    _binary("subtract", build.sub, np.subtract),
    _binary("multiply", build.mul, np.multiply),
    _binary("divide", build.div, np.divide, numbers="floats"),
    _binary("floor_divide", build.floordiv, np.floor_divide, numbers="ints"),
    _binary("floor_mod", build.floormod, np.mod, numbers="ints"),
    _binary("power", lambda a, b: Call("pow", (a, b), a.dtype), np.power, numbers="floats"),
    _binary("maximum", build.maximum, np.maximum),
    _binary("minimum", build.minimum, np.minimum),
    _binary("equal", build.eq, np.equal, numbers="any", to_bool=True),
    _binary("not_equal", build.ne, np.not_equal, numbers="any", to_bool=True),
    _binary("less", build.lt, np.less, to_bool=True),
    _binary("less_equal", build.le, np.less_equal, to_bool=True),
    _binary("greater", build.gt, np.greater, to_bool=True),
    _binary("greater_equal", build.ge, np.greater_equal, to_bool=True),
    _binary("logical_and", lambda a, b: build.binary("and", a, b), np.logical_and, numbers="bools"),
    _binary("logical_or", lambda a, b: build.binary("or", a, b), np.logical_or, numbers="bools"),
)


# ----------------------------------------------------------------------------- three
def _where_type(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    if not dtypes.is_bool(condition.dtype):
        refuse(
            f"condition has dtype {condition.dtype}, and it is defined for bool",
            'convert it: R.astype(condition, "bool")',
        )
    dtype = same_dtype(a=a, b=b)
    return TensorType(broadcast(condition=condition.shape, a=a.shape, b=b.shape), dtype)


def _emit_where(e: Emitter, condition: Operand, a: Operand, b: Operand) -> None:
    e.fill(e.outs[0], lambda *i: build.select(condition.at(i), a.at(i), b.at(i)))


WHERE = Operator("where", *signature("condition, a, b"), _where_type, np.where, _emit_where,
                 moves=True, literals=True)  # fmt: skip

OPERATORS = (*_UNARY, *_CHANGED, *_BINARY, WHERE)
