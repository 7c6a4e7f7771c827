"""What buffer do `T.Buffer`, `T.match_buffer`, `T.alloc_buffer` and `T.decl_buffer` describe?"""

from __future__ import annotations

import ast
from typing import Any

from ..ir import build, dtypes
from ..ir.nodes import Buffer, Expr, Var
from . import tir
from .context import Context
from .expressions import evaluate
from .values import describe, dtype_of, python_int, to_expr

BUFFER_ARGS = tir.BUFFER_ARGS
_MAX_RANK = 64


def buffer_from(
    ctx: Context, name: str, args: dict[str, ast.expr], node: ast.AST,
    shape: tuple[Expr, ...] | None = None, dtype: str = "float32", scope: str = "global",
    *, allocated: bool = False,
) -> Buffer:  # fmt: skip
    """The buffer that the arguments describe; `shape`, `dtype` and `scope` are defaults.

    One that is `allocated` begins where it is put: nothing could say what its offset is."""
    args = {k: a for k, a in args.items() if not (type(a) is ast.Constant and a.value is None)}
    for word, (plain, hint) in tir.BUFFER_REFUSED.items():
        if word in args and not tir.is_one_of(evaluate(ctx, args[word]), plain):
            ctx.fail(args[word], f"buffer {name} has the argument {word!r}", hint, "script-buffer")
    if "shape" in args:
        shape = shape_of(ctx, evaluate(ctx, args["shape"]), args["shape"])
    elif shape is None:
        ctx.fail(node, f"buffer {name} has no shape")
    if "dtype" in args:
        dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
    if "scope" in args:
        scope = evaluate(ctx, args["scope"])
        if not isinstance(scope, str) or not scope:
            ctx.fail(args["scope"], f"a scope is a string, got {describe(scope)}")
    strides = _strides(ctx, args, len(shape), name)
    align = 0
    if "align" in args:
        align = max(0, python_int(ctx, evaluate(ctx, args["align"]), args["align"], "align"))
    offset = _offset(ctx, name, args)
    if allocated and "elem_offset" not in args:
        offset = None
    return Buffer(name, shape, dtype, scope, strides, offset, align)


def shape_of(ctx: Context, value: Any, node: ast.AST) -> tuple[Expr, ...]:
    """A shape: one extent or a sequence of them, not negative."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    if len(items) > _MAX_RANK:
        ctx.fail(node, f"{len(items)} dimensions; {_MAX_RANK} are the most")
    out = []
    for k, item in enumerate(items):
        e = to_expr(ctx, item, node)
        if not dtypes.is_int(e.dtype):
            got = repr(item) if isinstance(item, (float, str)) else e.dtype
            ctx.fail(node, f"dimension {k} of a shape is an integer, got {got}", "use // to divide")
        n = build.const_int(e)
        if n is not None and int(n) < 0:
            ctx.fail(node, f"dimension {k} of a shape is negative: {int(n)}", code="script-range")
        out.append(e)
    return tuple(out)


def _strides(
    ctx: Context, args: dict[str, ast.expr], rank: int, name: str
) -> tuple[Expr, ...] | None:  # fmt: skip
    if "strides" not in args:
        return None
    node = args["strides"]
    value = evaluate(ctx, node)
    if value is None:
        return None
    if not isinstance(value, (tuple, list)):
        ctx.fail(node, f"strides are a sequence, got {describe(value)}")
    if not value and rank:
        return None
    if len(value) != rank:
        ctx.fail(node, f"buffer {name} has {rank} dimensions and {len(value)} strides")
    out = []
    for v in value:
        e = Var(v, "int32") if isinstance(v, str) and v.isidentifier() else to_expr(ctx, v, node)
        if not dtypes.is_int(e.dtype):
            ctx.fail(node, f"a stride is an integer, got {describe(v)}")
        out.append(e)
    return tuple(out)


def _offset(ctx: Context, name: str, args: dict[str, ast.expr]) -> Expr | None:
    """The offset; an `offset_factor` without an offset means one that is not known."""
    if "elem_offset" in args:
        node = args["elem_offset"]
        value = evaluate(ctx, node)
        if value is not None:
            e = to_expr(ctx, value, node)
            if not dtypes.is_int(e.dtype):
                ctx.fail(node, f"an offset is an integer, got {describe(value)}")
            return e
    if "offset_factor" in args:
        node = args["offset_factor"]
        factor = python_int(ctx, evaluate(ctx, node), node, "offset_factor")
        if factor < 0:
            ctx.fail(node, f"offset_factor is not negative, got {factor}", code="script-range")
        if factor:
            return Var(f"{name}_elem_offset")
    return None
