"""What does a store into a buffer mean?"""

from __future__ import annotations

import ast
from typing import Any

from ..ir import build, dtypes
from ..ir.nodes import (
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    FloatImm,
    IntImm,
    Stmt,
)
from .calls import bind_args, vector_indices
from .context import Context
from .expressions import (
    BINOPS,
    access_indices,
    evaluate,
    expression,
)
from .values import (
    binary,
    constant,
    describe,
    is_expr,
    to_expr,
)


def store(ctx: Context, target: ast.Subscript, value_node: ast.expr) -> Stmt:
    """`A[i] = value`."""
    b = _stored_buffer(ctx, target)
    indices = access_indices(ctx, b, target)
    dtype = dtypes.access_dtype(b.dtype, indices)
    value = evaluate(ctx, value_node)
    return BufferStore(b, stored(ctx, b, dtype, value, value_node), indices)


def augmented(ctx: Context, node: ast.AugAssign) -> Stmt:
    """`A[i] += value` and the like."""
    target = node.target
    if type(target) is not ast.Subscript:
        ctx.fail(node, "only buffer elements can be updated in place", "variables are bound once")
    op = BINOPS.get(type(node.op))
    if op is None:
        ctx.fail(node, f"{type(node.op).__name__} has no in-place form", code="script-syntax")
    b = _stored_buffer(ctx, target)
    indices = access_indices(ctx, b, target)
    load = BufferLoad(b, indices)
    value = binary(ctx, op, load, evaluate(ctx, node.value), node, target, node.value)
    if op == "/" and not dtypes.is_float(value.dtype):
        ctx.fail(node, f"operator '/' on {value.dtype} is ambiguous", "use //= or T.truncdiv")
    return BufferStore(b, stored(ctx, b, load.dtype, value, node.value), indices)


def vstore(ctx: Context, call: ast.Call, func: ast.Attribute) -> Stmt:
    """`A.vstore([i], value, predicate=mask)`."""
    b = evaluate(ctx, func.value)
    if not isinstance(b, Buffer):
        ctx.fail(call, f"cannot store into {describe(b)}")
    args = bind_args(ctx, call, f"{b.name}.vstore", ("begin", "value", "predicate"), 2)
    indices = vector_indices(ctx, b, args["begin"])
    dtype = dtypes.access_dtype(b.dtype, indices)
    value = stored(ctx, b, dtype, evaluate(ctx, args["value"]), args["value"])
    mask = expression(ctx, args["predicate"]) if "predicate" in args else None
    return BufferStore(b, value, indices, mask)


def _stored_buffer(ctx: Context, target: ast.Subscript) -> Buffer:
    b = evaluate(ctx, target.value)
    if not isinstance(b, Buffer):
        ctx.fail(target, f"cannot store into {describe(b)}", "only buffers can be stored into")
    return b


def stored(ctx: Context, b: Buffer, dtype: str, value: Any, node: ast.AST) -> Expr:
    """`value` as it is stored into an access of `dtype`: constants adapt, anything else must have
    that dtype."""
    if not is_expr(value):
        if not isinstance(value, (bool, int, float)):
            to_expr(ctx, value, node)  # says what is wrong with it
            ctx.fail(node, f"cannot store {describe(value)} into buffer {b.name} of {b.dtype}")
        return constant(ctx, value, node, dtype)
    e: Expr = value
    if e.dtype == dtype:
        return e
    base, n = dtypes.split(e.dtype)
    if type(e) is IntImm and dtypes.is_int(base):
        return constant(ctx, int(e.value), node, dtype)
    if type(e) is FloatImm and dtypes.is_float(dtype):
        return build.cast(dtype, e)
    if n == 1 and base == b.dtype:
        return build.broadcast(e, dtypes.lanes(dtype))
    ctx.fail(
        node,
        f"cannot store a {e.dtype} into buffer {b.name} of {dtype}",
        f'write T.cast(..., "{b.dtype}")' if n == dtypes.lanes(dtype) else "lanes must agree",
        "script-dtype",
    )
