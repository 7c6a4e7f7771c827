"""What tensor does `R.const(...)` of a script hold?

Either numbers, in nested lists, with a dtype; or the bytes of all elements in base64, with the
type; or an array that the decorator captured.
"""

from __future__ import annotations

import ast
import base64
import binascii
import math
from typing import Any

import numpy as np

from ..ir import dtypes, graph
from ..ir.graph import TensorType
from .context import Context
from .relax import default_dtype
from .values import describe


def constant_of(
    ctx: Context, node: ast.Call, value: Any, kind: str | TensorType | None
) -> graph.Constant:
    """The constant; `value` is `...` where the printer left the elements out."""
    if value is ...:
        ctx.fail(
            node, "the elements of this constant were left out when it was printed",
            "print with script(), which keeps them",
        )  # fmt: skip
    if isinstance(value, str):
        if not isinstance(kind, TensorType):
            ctx.fail(node, "bytes in base64 need a type", "R.const(text, R.Tensor(shape, dtype))")
        return _from_bytes(ctx, node, value, kind)
    if isinstance(value, graph.Constant):
        value = value.data
    dtype = kind.dtype if isinstance(kind, TensorType) else kind
    written = not hasattr(value, "__array__")
    if written:
        if not isinstance(value, (bool, int, float, list, tuple)):
            ctx.fail(node, f"a constant is made of numbers or an array, got {describe(value)}")
        dtype = dtype or default_dtype(value)
        _check_numbers(ctx, node, value, dtype)
    try:
        with np.errstate(over="ignore"):  # said below
            made = graph.constant(value, dtype)
    except (ValueError, TypeError, OverflowError) as e:
        ctx.fail(node, f"these numbers make no tensor: {e}", code="script-constant")
    if written and dtypes.is_float(made.type.dtype):
        if np.isinf(made.data.astype(np.float64)).any() and not _has_infinity(value):
            ctx.fail(
                node, f"a number of the constant does not fit into {dtype}", code="script-range"
            )
    if isinstance(kind, TensorType) and made.type.shape != kind.shape:
        ctx.fail(node, f"a constant of shape {kind.shape} is given numbers of {made.type.shape}")
    return made


def _check_numbers(ctx: Context, node: ast.Call, value: Any, dtype: str) -> None:
    """Only numbers of that dtype, however deep the lists: NumPy would cut off what does not fit."""
    items = [value]
    while items:
        x = items.pop()
        if isinstance(x, (list, tuple)):
            items.extend(x)
        elif not isinstance(x, (bool, int, float)):
            ctx.fail(node, f"a constant is made of numbers, got {describe(x)}")
        elif (isinstance(x, float) and not dtypes.is_float(dtype)) or (
            dtypes.is_bool(dtype) and x not in (0, 1)
        ):
            ctx.fail(node, f"{x!r} is no {dtype}", code="script-range")


def _has_infinity(value: Any) -> bool:
    return bool(np.isinf(np.asarray(value, np.float64)).any())


def _from_bytes(ctx: Context, node: ast.Call, text: str, kind: TensorType) -> graph.Constant:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as e:
        ctx.fail(node, f"the elements are not in base64: {e}", code="script-constant")
    dtype = dtypes.numpy_dtype(kind.dtype)
    wanted = math.prod(kind.shape) * dtype.itemsize
    if len(raw) != wanted:
        ctx.fail(
            node, f"{kind.dtype} elements of shape {kind.shape} are {wanted} bytes, got {len(raw)}",
            code="script-constant",
        )  # fmt: skip
    if dtype.kind == "b" and not set(raw) <= {0, 1}:
        ctx.fail(node, "a bool is 0 or 1 in memory", code="script-constant")
    data = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return graph.constant(data.reshape(kind.shape))
