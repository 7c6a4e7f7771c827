"""Operators that sum products of two tensors: matmul, linear, attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import build, dtypes
from ..graph import Expr, TensorType, constant
from ..nodes import Expr as Element
from .emit import Emitter, Operand, wide
from .operator import Array, Attr, Operator, broadcast, needs_float, refuse, same_dtype, signature


def product(dtype: str, a: Any, b: Any) -> Element:
    """The product of two elements in the dtype in which sums of `dtype` are kept."""
    to = wide(dtype)
    return build.mul(build.cast(to, a), build.cast(to, b))


def _numbers(dtype: str) -> None:
    if dtypes.is_bool(dtype):
        refuse("the arguments have dtype bool, and it is defined for numbers")


# ----------------------------------------------------------------------------- matmul
def _matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        refuse(f"a has the shape {a}, b {b}: neither is a scalar")
    rows = a if len(a) > 1 else (1, *a)
    columns = b if len(b) > 1 else (*b, 1)
    if rows[-1] != columns[-2]:
        refuse(
            f"a has the shape {a}, b {b}: rows of {rows[-1]}, columns of {columns[-2]}",
            "the last dimension of a is the last but one of b",
        )
    batch = broadcast(a=rows[:-2], b=columns[:-2])
    out = batch
    if len(a) > 1:
        out = (*out, rows[-2])
    if len(b) > 1:
        out = (*out, columns[-1])
    return out


def _matmul_type(a: TensorType, b: TensorType, out_dtype: str | None) -> TensorType:
    dtype = same_dtype(a=a, b=b)
    _numbers(dtype)
    out = out_dtype or dtype
    if dtypes.is_float(out) != dtypes.is_float(dtype) or dtypes.is_bool(out):
        refuse(f"out_dtype is {out}, the arguments have dtype {dtype}")
    return TensorType(_matmul_shape(a.shape, b.shape), out)


def _emit_matmul(e: Emitter, a: Operand, b: Operand, out_dtype: str | None) -> None:
    (y,) = e.outs
    row, column = len(a.shape) > 1, len(b.shape) > 1

    def value(*i: Any) -> Any:
        *at, k = i
        j = at.pop() if column else None
        r = at.pop() if row else None
        left = a.at([*at, r, k], exact=2) if row else a[(k,)]
        right = b.at([*at, k, j], exact=2) if column else b[(k,)]
        return product(y.dtype, left, right)

    e.reduce(y, (a.shape[-1],), value)


def _matmul_numpy(a: Array, b: Array, out_dtype: str | None) -> Array:
    if out_dtype is not None and not dtypes.is_float(out_dtype):
        a, b = a.astype(out_dtype), b.astype(out_dtype)
    return np.asarray(np.matmul(a, b))


# ----------------------------------------------------------------------------- linear
def _linear_type(x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
    dtype = same_dtype(x=x, weight=weight)
    _numbers(dtype)
    if len(weight.shape) != 2:
        refuse(f"weight has the shape {weight.shape}; it has 2 dimensions, (outputs, inputs)")
    outputs, inputs = weight.shape
    if not x.shape or x.shape[-1] != inputs:
        refuse(f"x has the shape {x.shape}, weight {weight.shape}",
               "the last dimension of x is the last of weight")  # fmt: skip
    check_bias(bias, outputs, dtype)
    return TensorType((*x.shape[:-1], outputs), dtype)


def check_bias(bias: TensorType | None, outputs: int, dtype: str) -> None:
    """Refuse a bias that is not one number an output."""
    if bias is None:
        return
    if bias.shape != (outputs,) or bias.dtype != dtype:
        refuse(f"bias has the shape {bias.shape} and dtype {bias.dtype}; "
               f"it is of {(outputs,)} and {dtype}")  # fmt: skip


def _emit_linear(e: Emitter, x: Operand, weight: Operand, bias: Operand | None = None) -> None:
    (y,) = e.outs
    out = y if bias is None else e.temporary("product", [*x.shape[:-1], weight.shape[0]],
                                             wide(y.dtype))  # fmt: skip
    e.reduce(
        out,
        (x.shape[-1],),
        lambda *i: product(y.dtype, x[(*i[:-2], i[-1])], weight[(i[-2], i[-1])]),
    )
    add_bias(e, out, bias, -1)


def add_bias(e: Emitter, out: Any, bias: Operand | None, axis: int) -> None:
    """Fill the result with what is in `out` and the bias along `axis`; nothing without a bias."""
    if bias is None:
        return
    e.fill(
        e.outs[0],
        lambda *i: build.add(build.load(out, i), build.cast(out.dtype, bias[(i[axis],)])),
    )


def _linear_numpy(x: Array, weight: Array, bias: Array | None = None) -> Array:
    y = x @ weight.T
    return y if bias is None else y + bias


# ----------------------------------------------------------------------------- attention
def _attention_type(
    q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None,
    *, is_causal: bool, scale: float | None,
) -> TensorType:  # fmt: skip
    dtype = same_dtype(q=q, k=k, v=v)
    needs_float(q, "q")
    for name, t in (("q", q), ("k", k), ("v", v)):
        if len(t.shape) < 2:
            refuse(
                f"{name} has the shape {t.shape}; it has at least 2 dimensions, (..., rows, size)"
            )
    if q.shape[-1] != k.shape[-1]:
        refuse(f"q has rows of {q.shape[-1]}, k of {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        refuse(f"k has {k.shape[-2]} rows, v {v.shape[-2]}")
    if scale is None and q.shape[-1] == 0:
        refuse("q has rows of no elements, and no scale is given")
    batch = broadcast(q=q.shape[:-2], k=k.shape[:-2], v=v.shape[:-2])
    scores = (*batch, q.shape[-2], k.shape[-2])
    if mask is not None:
        if is_causal:
            refuse("there is a mask, and is_causal=True beside it", "put both into one mask")
        if mask.dtype not in ("bool", dtype):
            refuse(f"mask has dtype {mask.dtype}; it is bool or {dtype}")
        if broadcast(mask=mask.shape, scores=scores) != scores:
            refuse(f"mask has the shape {mask.shape}, the scores {scores}")
    return TensorType((*batch, q.shape[-2], v.shape[-1]), dtype)


def _scale(scale: float | None, size: int) -> float:
    return 1 / math.sqrt(size) if scale is None else scale


def _decompose_attention(
    op: Any, q: Expr, k: Expr, v: Expr, mask: Expr | None = None,
    *, is_causal: bool, scale: float | None,
) -> Any:  # fmt: skip
    assert isinstance(q.type, TensorType)
    assert isinstance(k.type, TensorType)
    rank, dtype = len(k.type.shape), q.type.dtype
    turned = op("permute_dims", k, axes=(*range(rank - 2), rank - 1, rank - 2))
    factor = constant(_scale(scale, q.type.shape[-1]), dtype)
    scores = op("multiply", op("matmul", q, turned), factor)
    if is_causal:
        shape = (q.type.shape[-2], k.type.shape[-2])
        mask = constant(np.tril(np.ones(shape, bool)))
    if mask is not None:
        assert isinstance(mask.type, TensorType)
        if mask.type.dtype == "bool":
            scores = op("where", mask, scores, constant(-math.inf, dtype))
        else:
            scores = op("add", scores, mask)
    return op("matmul", op("nn.softmax", scores, axis=-1), v)


def _attention_numpy(
    q: Array, k: Array, v: Array, mask: Array | None = None, *, is_causal: bool, scale: float | None
) -> Array:
    scores = (q @ np.swapaxes(k, -1, -2)) * _scale(scale, q.shape[-1])
    if is_causal:
        mask = np.tril(np.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray((scores / scores.sum(axis=-1, keepdims=True)) @ v)


OPERATORS = (
    Operator("matmul", *signature("a, b", Attr("out_dtype", "dtype", None)),
             _matmul_type, _matmul_numpy, _emit_matmul),
    Operator("linear", *signature("x, weight, bias?"), _linear_type, _linear_numpy, _emit_linear),
    Operator("nn.scaled_dot_product_attention",
             *signature("q, k, v, mask?", Attr("is_causal", "bool", False),
                        Attr("scale", "float", None)),
             _attention_type, _attention_numpy, decompose=_decompose_attention),
)  # fmt: skip
