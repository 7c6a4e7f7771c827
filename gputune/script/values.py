"""How do Python values and expressions of a script combine?

A number that the text spells out is kept as it stands (`x * 1` stays a product), so that printed
programs come back exactly; arithmetic between Python values, and with captured ones, is done here
(`x * stride` with a captured stride of 1 is x).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..ir import build, dtypes
from ..ir.nodes import (
    COMPARISONS,
    EXPR_CLASSES,
    BinaryOp,
    BinOp,
    Buffer,
    Expr,
    IntImm,
)
from . import tir
from .context import Context, dtype_problem

_MAX_INT = 2**64

_MAX_ITEMS = 4096

_PYTHON: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod, "&": operator.and_, "|": operator.or_,
    "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift, "==": operator.eq,
    "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "min": min, "max": max, "and": lambda a, b: a and b, "or": lambda a, b: a or b,
}  # fmt: skip


# ----------------------------------------------------------------------------- conversions
def is_expr(value: Any) -> bool:
    """Is this an IR expression, rather than a Python value?"""
    return isinstance(value, EXPR_CLASSES)


def describe(value: Any) -> str:
    """What a value is, for messages."""
    if is_expr(value):
        return f"an expression of dtype {value.dtype}"
    if isinstance(value, Buffer):
        return f"buffer {value.name}"
    return repr(value) if value is None or isinstance(value, (int, float, str)) else (
        f"a {type(value).__name__}"
    )  # fmt: skip


def python_value(value: Any) -> Any:
    """A captured value as the script sees it: NumPy numbers become Python numbers, NumPy dtypes
    become names."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        try:
            return dtypes.from_numpy(np.dtype(value))
        except (TypeError, ValueError):
            return value  # no element type: refused where it is used
    return value


@cache
def _limits(dtype: str) -> tuple[int, int]:
    base = dtypes.scalar(dtype)
    return int(dtypes.min_value(base)), int(dtypes.max_value(base))


def constant(ctx: Context, value: Any, node: ast.AST, dtype: str | None = None) -> Expr:
    """A Python number as a constant; refused where it does not fit."""
    if isinstance(value, str):
        return build.const(value)
    if isinstance(value, float) and dtype is not None and not dtypes.is_float(dtype):
        ctx.fail(node, f"constant {value!r} is not of dtype {dtype}", f'use T.cast(..., "{dtype}")')
    if isinstance(value, int) and not isinstance(value, bool):
        goal = dtype or ("int32" if -(2**31) <= value < 2**31 else "int64")
        if dtypes.is_int(goal):
            lo, hi = _limits(goal)
            if not lo <= value <= hi:
                hint = f"{goal} holds {lo} to {hi}"
                ctx.fail(node, f"constant {value} does not fit into {goal}", hint, "script-range")
        elif dtypes.is_bool(goal) and value not in (0, 1):
            ctx.fail(node, f"constant {value} is not a bool", "write True or False")
        dtype = goal
    if dtype == "handle":
        ctx.fail(node, f"{value!r} is not a handle")
    return build.const(value, dtype)


def to_expr(ctx: Context, value: Any, node: ast.AST, dtype: str | None = None) -> Expr:
    """`value` as an expression; Python numbers take `dtype` if one is given."""
    if isinstance(value, EXPR_CLASSES):
        return value
    if isinstance(value, (bool, int, float, str)):
        return constant(ctx, value, node, dtype)
    if isinstance(value, Buffer):
        ctx.fail(node, f"buffer {value.name} is used as a value", f"index it: {value.name}[...]")
    if isinstance(value, np.generic):  # from inside a captured tuple or dict
        return to_expr(ctx, value.item(), node, dtype)
    ctx.fail(node, f"expected an expression, got {describe(value)}")


def python_int(ctx: Context, value: Any, node: ast.AST, what: str) -> int:
    """A constant integer as a plain int."""
    if type(value) is IntImm and value.dtype != "bool":
        return int(value.value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    ctx.fail(node, f"{what} must be a constant integer, got {describe(value)}")


def dtype_of(ctx: Context, value: Any, node: ast.AST) -> str:
    """A dtype name, checked."""
    value = python_value(value)
    if isinstance(value, tir.DType):
        value = value.name
    problem = dtype_problem(value)
    if problem:
        ctx.fail(node, problem, code="script-dtype")
    return str(value)


def is_literal(node: ast.AST) -> bool:
    """Does the text spell this number out?"""
    if type(node) is ast.UnaryOp:
        node = node.operand
    return type(node) is ast.Constant


def limited(ctx: Context, value: Any, node: ast.AST) -> Any:
    """`value`, unless it is an integer that nothing can hold."""
    if type(value) is int and not -_MAX_INT < value < _MAX_INT:
        ctx.fail(node, "integer is too large", "64 bits are the most", "script-range")
    return value


# ----------------------------------------------------------------------------- arithmetic
def binary(
    ctx: Context, op: BinaryOp, a: Any, b: Any, node: ast.AST, a_node: ast.AST, b_node: ast.AST
) -> Any:
    """`a op b`: a Python value if both are, else a node (folded only if one side was captured)."""
    a_is, b_is = isinstance(a, EXPR_CLASSES), isinstance(b, EXPR_CLASSES)
    if not a_is and not b_is:
        return python_binary(ctx, op, a, b, node)
    fold = (not a_is and not is_literal(a_node)) or (not b_is and not is_literal(b_node))
    if not a_is:
        a = beside(ctx, a, b, a_node)
    elif not b_is:
        b = beside(ctx, b, a, b_node)
    return combine(ctx, op, a, b, node, fold)


def combine(ctx: Context, op: BinaryOp, a: Expr, b: Expr, node: ast.AST, fold: bool) -> Expr:
    """`a op b` on expressions: converted to one dtype and checked, folded only if asked."""
    da, db = a.dtype, b.dtype
    if "handle" in (da, db):
        ctx.fail(node, f"operator {op!r} is not defined on handles and strings")
    if da != db:
        la, lb = dtypes.lanes(da), dtypes.lanes(db)
        if la != lb and 1 not in (la, lb):
            ctx.fail(node, f"operator {op!r} cannot combine {la} and {lb} lanes ({da} and {db})")
        to = dtypes.promote(da, db)
        a, b, da = build.cast(to, a), build.cast(to, b), to
    boolean = dtypes.is_bool(da)
    if op in ("and", "or"):
        if not boolean:
            ctx.fail(node, f"{op!r} needs bool operands, got {da}", "compare first, as in x != 0")
    elif op in ("//", "%", "truncmod"):
        if dtypes.is_float(da):
            ctx.fail(node, f"{op!r} is integer division, got {da}", "use / with T.floor, or T.fmod")
    elif op in ("&", "|", "^", "<<", ">>") and dtypes.is_float(da):
        ctx.fail(node, f"operator {op!r} needs integers, got {da}")
    if fold:
        return build.binary(op, a, b)
    if op in COMPARISONS:
        return BinOp(op, a, b, dtypes.with_lanes("bool", dtypes.lanes(da)))
    return BinOp(op, a, b, da)


def beside(ctx: Context, value: Any, other: Expr, node: ast.AST) -> Expr:
    """A Python number next to an expression takes that dtype, if it can."""
    dtype = other.dtype
    if not isinstance(value, (bool, int, float)):
        return to_expr(ctx, value, node)
    if isinstance(value, float) and not dtypes.is_float(dtype):
        return constant(ctx, value, node)
    if dtypes.is_bool(dtype) and not isinstance(value, bool):
        return constant(ctx, value, node)
    return constant(ctx, value, node, dtype)


def branches(ctx: Context, node: ast.AST, a: Any, b: Any) -> tuple[Expr, Expr]:
    """Two alternatives in one dtype."""
    if is_expr(a) and not is_expr(b):
        b = beside(ctx, b, a, node)
    elif is_expr(b) and not is_expr(a):
        a = beside(ctx, a, b, node)
    elif not is_expr(a) and (isinstance(a, float) or isinstance(b, float)):
        a, b = to_expr(ctx, a, node, "float32"), to_expr(ctx, b, node, "float32")
    x, y = to_expr(ctx, a, node), to_expr(ctx, b, node)
    if x.dtype == y.dtype:
        return x, y
    if "handle" in (x.dtype, y.dtype):
        ctx.fail(node, f"the alternatives have dtypes {x.dtype} and {y.dtype}")
    to = dtypes.promote(x.dtype, y.dtype)
    return build.cast(to, x), build.cast(to, y)


def condition(ctx: Context, value: Any, node: ast.AST) -> Expr:
    """`value` as a condition: bool, or refused."""
    e = to_expr(ctx, value, node)
    if not dtypes.is_bool(e.dtype):
        ctx.fail(node, f"a condition is bool, got {e.dtype}", "compare first, as in x != 0")
    return e


# ----------------------------------------------------------------------------- Python values
def python_binary(ctx: Context, op: str, a: Any, b: Any, node: ast.AST) -> Any:
    """`a op b` on Python values."""
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    if not numbers:
        if op == "+" and type(a) is type(b) and isinstance(a, (tuple, list, str)):
            if len(a) + len(b) > _MAX_ITEMS:
                ctx.fail(node, f"a sequence of {len(a) + len(b)} items is too long")
            return a + b
        if op not in ("==", "!=", "and", "or") or isinstance(a, Buffer) or isinstance(b, Buffer):
            ctx.fail(node, f"operator {op!r} is not defined on {describe(a)} and {describe(b)}")
    if op == "<<" and not 0 <= b < 64:
        ctx.fail(node, f"shift by {b} is out of range")
    try:
        return limited(ctx, _PYTHON[op](a, b), node)
    except (ZeroDivisionError, OverflowError, TypeError, ValueError) as e:
        ctx.fail(node, f"cannot compute {describe(a)} {op} {describe(b)}: {e}")


def python_compare(ctx: Context, cmp: ast.cmpop, a: Any, b: Any, node: ast.AST) -> bool:
    """`is`, `is not`, `in`, `not in`: between Python values only."""
    if is_expr(a) or is_expr(b) or isinstance(b, Buffer):
        what = type(cmp).__name__
        ctx.fail(node, f"comparison {what} is not part of the script language", "use == or !=")
    if isinstance(cmp, (ast.Is, ast.IsNot)):
        return (a is b) == isinstance(cmp, ast.Is)
    if not isinstance(b, (tuple, list, dict, str)):
        ctx.fail(node, f"cannot look into {describe(b)}")
    try:
        return (a in b) == isinstance(cmp, ast.In)
    except TypeError as e:
        ctx.fail(node, str(e))
