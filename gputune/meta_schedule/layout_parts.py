"""What does a block do, whatever the candidate? For the layouts of CPU and GPU programs."""

from __future__ import annotations

from ..ir import dtypes
from ..ir.nodes import (
    COMPARISONS,
    LOGIC,
    BinOp,
    Block,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IntImm,
    Stmt,
)
from ..ir.ops import VECTOR
from ..ir.walk import expr_children, stmt_children, walk_expr, walk_stmt


def drives_reduction(loop: For) -> bool:
    """Is the loop used by the binding of an iterator that is not spatial? (Remainders of 1, and
    quotients by no less than the extent, are simplified away with numbers; of symbols it must be
    asked.)"""
    stack: list[Stmt] = [loop.body]
    while stack:
        s = stack.pop()
        if type(s) is Block:
            for iv, value in zip(s.iter_vars, s.iter_values):
                if iv.kind != "spatial" and _mentions(value, loop):
                    return True
            continue
        stack.extend(stmt_children(s))
    return False


def _mentions(e: Expr, loop: For) -> bool:
    v, n = loop.var, loop.extent
    stack = [e]
    while stack:
        x = stack.pop()
        if x is v:
            return True
        if type(x) is BinOp:
            if type(x.b) is IntImm:
                if x.op == "%" and x.b.value == 1:
                    continue
                if x.op == "//" and x.a is v and type(n) is IntImm and n.value <= x.b.value:
                    continue
            stack.append(x.a)
            stack.append(x.b)
        else:
            stack.extend(expr_children(x))
    return False


_COUNTED = frozenset({"+", "-", "*", "/", "//", "%", "truncmod", "min", "max"})
_FREE_CALLS = frozenset({"if_then_else", "likely", "assume"})


def operations(e: Expr, padding: bool = True) -> tuple[float, float]:
    """Arithmetic operations (comparisons and conditions at half the price) and calls of a value.

    `padding`: do choices by place, such as those of padding, count? (A CPU makes few of them: see
    `lower.interior`.)
    """
    flops = calls = 0.0
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is BinOp:
            if dtypes.is_int(x.dtype) and not _loads(x):
                continue  # the arithmetic of indices, in a condition or as a value
            if x.op in _COUNTED:
                flops += 1
            elif x.op in COMPARISONS or x.op in LOGIC:
                flops += 0.5
        elif type(x) is Call and x.op == "if_then_else" and not (padding or _loads(x.args[0])):
            stack.extend(x.args[1:])
            continue
        elif type(x) is Call and x.op not in _FREE_CALLS:
            calls += 1
        if type(x) is not BufferLoad:  # the arithmetic of indices is another matter
            stack.extend(expr_children(x))
    return flops, calls


def _loads(e: Expr) -> bool:
    return any(type(x) is BufferLoad for x in walk_expr(e))


_VECTOR_OPERATIONS = {
    "exp": 13.0, "exp2": 12.0, "exp10": 13.0, "log": 20.0, "log2": 20.0, "log10": 20.0,
    "log1p": 22.0, "sigmoid": 25.0, "tanh": 30.0, "erf": 30.0, "pow": 90.0, "sqrt": 16.0,
    "rsqrt": 24.0, "sin": 25.0, "cos": 25.0, "tan": 40.0, "abs": 1.0, "floor": 1.0, "ceil": 1.0,
    "round": 3.0, "trunc": 1.0, "nearbyint": 1.0, "copysign": 2.0, "isnan": 1.0, "isinf": 2.0,
    "isfinite": 2.0,
}  # fmt: skip
"""What functions of `codegen.llvm` take of a core that begins two operations a cycle."""
_DIVISION, _FUNCTION = 16.0, 30.0


def vector_operations(e: Expr) -> float:
    """What divisions and functions in a value cost a CPU: operations on vectors that it could do
    instead (more for a 64-bit result)."""
    out = 0.0
    stack = [e]
    while stack:
        x = stack.pop()
        each = 0.0
        if type(x) is BinOp and x.op == "/":
            each = _DIVISION
        elif type(x) is Call and x.op not in _FREE_CALLS:
            each = _VECTOR_OPERATIONS.get(x.op, _FUNCTION)
        out += each * (1.7 if x.dtype.startswith("float64") else 1.0)
        if type(x) is not BufferLoad:
            stack.extend(expr_children(x))
    return out


def choices(e: Expr) -> int:
    """Conditions that a value depends on, each of which may become a branch."""
    return sum(1 for x in walk_expr(e) if type(x) is Call and x.op == "if_then_else")


def instructions(b: Block) -> int:
    """Vector intrinsics that a block calls: what a tensor intrinsic put there."""
    return sum(
        type(x) is Call and x.op in VECTOR
        for s in walk_stmt(b.body)
        if type(s) is BufferStore
        for x in walk_expr(s.value)
    )


def work(b: Block) -> tuple[bool, float, int]:
    """How much a block matters, from what is the same for all candidates: extents are not."""
    flops = calls = 0.0
    for s in walk_stmt(b.body):
        if type(s) is BufferStore:
            f, c = operations(s.value)
            flops, calls = flops + f, calls + c
    reduces = any(iv.kind == "reduce" for iv in b.iter_vars)
    return reduces and flops + calls > 0, flops + 8 * calls, len(b.iter_vars)
