"""What are the bounds and options of a loop?"""

from __future__ import annotations

import ast
from typing import Any

from ..ir import dtypes
from ..ir.nodes import (
    Expr,
    ForKind,
    IntImm,
)
from .blocks import annotations_of
from .context import Context
from .expressions import (
    evaluate,
)
from .intervals import extent_of, interval
from .values import (
    dtype_of,
    is_expr,
    to_expr,
)

LOOPS: dict[str, ForKind] = {
    "range": "serial",
    "serial": "serial",
    "parallel": "parallel",
    "vectorized": "vectorized",
    "unroll": "unrolled",
    "thread_binding": "thread_binding",
}


def loop_bounds(
    ctx: Context, call: ast.Call, word: str
) -> tuple[Expr, Expr, dict[str, Any]]:  # fmt: skip
    """Minimum, extent and options ("thread", "annotations", "dtype") of a loop."""
    what = word if word == "range" else f"T.{word}"
    options: dict[str, Any] = {}
    extent_node: ast.expr | None = None
    positional = list(call.args)
    if word == "thread_binding" and positional and _is_text(positional[-1]):
        options["thread"] = evaluate(ctx, positional.pop())
    for k in call.keywords:
        if k.arg == "annotations":
            options["annotations"] = annotations_of(ctx, k.value)
        elif k.arg == "thread" and word == "thread_binding":
            options["thread"] = evaluate(ctx, k.value)
        elif k.arg == "extent" and word != "range" and len(positional) == 1:
            extent_node = k.value
        elif k.arg == "dtype" and word != "range":
            options["dtype"] = dtype_of(ctx, evaluate(ctx, k.value), k.value)
        else:
            ctx.fail(k.value, f"{what} has no argument {k.arg!r}")
    if word == "thread_binding" and not isinstance(options.get("thread"), str):
        ctx.fail(call, 'T.thread_binding needs a thread, such as thread="threadIdx.x"')
    if word == "range" and len(positional) == 3:
        step = evaluate(ctx, positional.pop())
        if step != 1 or is_expr(step):
            ctx.fail(call, "a loop has step 1", "scale the loop variable where it is used")
    if not 1 <= len(positional) <= 2:
        ctx.fail(call, f"{what} takes one or two bounds, got {len(positional)}")
    first = evaluate(ctx, positional[0])
    if extent_node is not None:
        extent = extent_of(ctx, evaluate(ctx, extent_node), extent_node)
        return _bound(ctx, first, positional[0], extent.dtype), extent, options
    if len(positional) == 1:
        extent = extent_of(ctx, first, positional[0])
        return IntImm(0, extent.dtype), extent, options
    r = interval(ctx, first, evaluate(ctx, positional[1]), positional[1])
    return r.min, extent_of(ctx, r.extent, call), options


def _bound(ctx: Context, value: Any, node: ast.AST, dtype: str) -> Expr:
    e = to_expr(ctx, value, node, dtype if isinstance(value, int) else None)
    if not dtypes.is_int(e.dtype):
        ctx.fail(node, f"a loop bound is an integer, got {e.dtype}")
    return e


def _is_text(node: ast.AST) -> bool:
    return type(node) is ast.Constant and isinstance(node.value, str)
