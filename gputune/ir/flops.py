"""How many arithmetic operations does a program do?

One count for one addition, subtraction, multiplication, division, remainder, minimum or maximum in
a *stored value*, whatever the dtype; a vector operation counts once a lane. Indices, comparisons
(with their operands) and intrinsics such as exp count nothing; the operands of intrinsics do count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from ..errors import CheckError
from . import dtypes
from .nodes import (
    COMPARISONS,
    Alloc,
    BinOp,
    Block,
    Broadcast,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    Let,
    LetStmt,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Seq,
    Shuffle,
    Stmt,
    StringImm,
    Var,
)

_COUNTED = frozenset({"+", "-", "*", "/", "//", "%", "truncmod", "min", "max"})
Bounds = dict[Var, tuple[int, int]]
Report = Callable[[Block, float], None]


def estimate_flops(x: PrimFunc | IRModule | Stmt) -> float:
    """The floating and integer operations of one execution of `x`.

    Loops multiply by their extent (by its upper bound where it depends on outer loops), `if` and
    select count the condition and the dearer side, block predicates are taken to hold. A function
    with the attribute "estimated_flops" counts what the attribute says; a module is the sum of its
    functions.

    Raises:
        CheckError: a loop has no constant bound (symbolic shape).

    Example:
        a 128 x 128 x 128 matmul -> 4194304.0
    """
    if isinstance(x, IRModule):
        return float(sum(estimate_flops(f) for f in x.functions.values()))
    if isinstance(x, PrimFunc):
        known = dict(x.attrs).get("estimated_flops")
        if known is not None:
            return float(known.value if isinstance(known, (IntImm, FloatImm)) else known)
        return _stmt(x.body, {}, 1.0, None)
    return _stmt(x, {}, 1.0, None)


def flops_by_block(x: Stmt) -> list[tuple[Block, float]]:
    """Each block in `x` with the operations that its executions do in all, in program order."""
    out: dict[Block, float] = {}

    def report(block: Block, flops: float) -> None:
        out[block] = out.get(block, 0.0) + flops

    _stmt(x, {}, 1.0, report)
    # blocks are reported when they are left (inner first); readers expect program order
    from .walk import blocks

    return [(b, out[b]) for b in blocks(x)]


def _stmt(s: Stmt, bounds: Bounds, trips: float, report: Report | None) -> float:
    """Operations of all `trips` executions of `s`."""
    match s:
        case BufferStore():
            return trips * _expr(s.value)
        case For():
            extent = max(0, _extent(s, bounds))
            lo = _interval(s.min, bounds)
            inner = bounds
            if lo is not None and extent > 0:
                inner = {**bounds, s.var: (lo[0], lo[1] + extent - 1)}
            return _stmt(s.body, inner, trips * extent, report)
        case Block():
            inner = dict(bounds)
            for iv, value in zip(s.iter_vars, s.iter_values):
                found = _interval(value, bounds)
                if found is not None:
                    inner[iv.var] = found
            total = _stmt(s.body, inner, trips, report)
            if s.init is not None:
                total += _stmt(s.init, inner, trips, report)
            if report is not None:
                report(s, total)
            return total
        case Seq():
            return sum(_stmt(x, bounds, trips, report) for x in s.items)
        case IfThenElse():
            sides = _stmt(s.then, bounds, trips, report)
            if s.orelse is not None:
                sides = max(sides, _stmt(s.orelse, bounds, trips, report))
            return trips * _expr(s.cond) + sides
        case LetStmt():
            found = _interval(s.value, bounds)
            inner = bounds if found is None else {**bounds, s.var: found}
            return trips * _expr(s.value) + _stmt(s.body, inner, trips, report)
        case Alloc():
            return _stmt(s.body, bounds, trips, report)
        case Evaluate():
            return 0.0
        case _:
            assert_never(s)


def _expr(e: Expr) -> float:
    """Operations of one evaluation of `e`, all lanes."""
    match e:
        case Var() | IntImm() | FloatImm() | StringImm() | BufferLoad() | Ramp():
            return 0.0
        case BinOp():
            if e.op in COMPARISONS:
                return 0.0
            own = dtypes.lanes(e.dtype) if e.op in _COUNTED else 0
            return own + _expr(e.a) + _expr(e.b)
        case Cast() | Broadcast():
            return _expr(e.value)
        case Not():
            return _expr(e.a)
        case Select():
            return _expr(e.cond) + max(_expr(e.a), _expr(e.b))
        case Call():
            if e.op == "if_then_else":
                cond, a, b = e.args
                return _expr(cond) + max(_expr(a), _expr(b))
            return sum(_expr(x) for x in e.args)
        case Shuffle():
            return sum(_expr(x) for x in e.vectors)
        case Let():
            return _expr(e.value) + _expr(e.body)
        case _:
            assert_never(e)


def _extent(loop: For, bounds: Bounds) -> int:
    found = _interval(loop.extent, bounds)
    if found is None:
        raise CheckError(
            f"the operations of loop {loop.var.name} cannot be counted: its extent has no constant "
            "bound",
            hint='set the function attribute "estimated_flops"',
            code="flops-extent",
        )
    return found[1]


def _interval(e: Expr, bounds: Bounds) -> tuple[int, int] | None:
    """The least and the greatest value of an integer expression, or None where unknown."""
    if type(e) is IntImm:
        v = int(e.value)
        return (v, v)
    if type(e) is Var:
        return bounds.get(e)
    if type(e) is Cast and dtypes.is_int(e.dtype):
        return _interval(e.value, bounds)
    if type(e) is not BinOp:
        return None
    b = _interval(e.b, bounds)
    if e.op == "min":  # one known side bounds a minimum from above
        a = _interval(e.a, bounds)
        if a is None or b is None:
            return None
        return (min(a[0], b[0]), min(a[1], b[1]))
    if b is None:
        return None
    if e.op == "%":
        return (0, b[1] - 1) if b[0] > 0 else None
    a = _interval(e.a, bounds)
    if a is None:
        return None
    match e.op:
        case "+":
            return (a[0] + b[0], a[1] + b[1])
        case "-":
            return (a[0] - b[1], a[1] - b[0])
        case "max":
            return (max(a[0], b[0]), max(a[1], b[1]))
        case "*":
            ends = [x * y for x in a for y in b]
            return (min(ends), max(ends))
        case "//":
            if b[0] <= 0:
                return None
            ends = [x // y for x in a for y in b]
            return (min(ends), max(ends))
        case _:
            return None
