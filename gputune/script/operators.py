"""What does `R.nn.conv2d(x, w, strides=2)` mean in a graph function? A call of an operator.

Tensors come first, attributes after them, both by position or by name, as the table of operators
has them (`gputune.ir.operators`).
"""

from __future__ import annotations

import ast

from ..errors import CheckError
from ..ir import graph
from ..ir.operators import OPERATORS, Operator, call
from . import relax
from .calls import bind_args
from .context import Context, closest
from .expressions import evaluate
from .values import dtype_of, python_value


def operator_word(ctx: Context, node: ast.Call) -> Operator | None:
    """The operator that is called, if it is one; a word of `R` that is none is left to others."""
    parts: list[str] = []
    base: ast.expr = node.func
    while isinstance(base, ast.Attribute):
        parts.append(base.attr)
        base = base.value
    if not isinstance(base, ast.Name) or not parts or ctx.lookup(base) is not relax:
        return None
    name = ".".join(reversed(parts))
    found = OPERATORS.get(name)
    if found is None and len(parts) > 1:
        near = closest(name, OPERATORS)
        hint = f"did you mean R.{near}?" if near else ""
        ctx.fail(node, f"R.{name} is no operator", hint, "script-name")
    return found


def operator_args(ctx: Context, node: ast.Call, op: Operator) -> dict[str, ast.expr]:
    """The text of arguments and attributes, by name."""
    args = [a.rstrip("?*") for a in op.args]
    names = (*args, *[a.name for a in op.attrs])
    required = len([a for a in op.args if not a.endswith("?")])
    found = bind_args(ctx, node, f"R.{op.name}", names, required)
    there = [a in found for a in args]
    if not all(there[: sum(there)]):
        missing = args[there.index(False)]
        ctx.fail(node, f"R.{op.name} misses argument {missing!r}, and gets one behind it")
    return found


def operator_call(
    ctx: Context, node: ast.Call, op: Operator, values: tuple[graph.Expr, ...],
    attrs: dict[str, ast.expr],
) -> graph.Call:  # fmt: skip
    """The call, with its attributes evaluated."""
    kinds = {a.name: a.kind for a in op.attrs}
    given = {}
    for name, text in attrs.items():
        value = python_value(evaluate(ctx, text))
        if kinds[name] == "dtype" and value is not None:
            value = dtype_of(ctx, value, text)
        given[name] = value
    try:
        return call(op.name, *values, **given)
    except CheckError as e:
        ctx.fail(node, e.message, e.hint, e.code)
