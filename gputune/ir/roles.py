"""Which parameters of a function does its caller give, and which does the function make?"""

from __future__ import annotations

from typing import Literal, TypeAlias

from .nodes import Block, Buffer, BufferLoad, BufferStore, Call, Expr, PrimFunc, Stmt
from .walk import stmt_children, stmt_exprs, walk_expr

Role: TypeAlias = Literal["in", "out", "inout"]


def roles(func: PrimFunc) -> tuple[Role, ...]:
    """What each parameter is to the caller, in order; numbers are "in".

    Read off the unscheduled program: what is stored to before it is loaded is an "out" (a
    reduction's init comes first), what is loaded first and stored to later an "inout".
    """
    first: dict[Buffer, str] = {}
    stored: set[Buffer] = set()
    _order(func.body, first, stored, {})
    table = dict(func.buffer_map)

    def role(buffer: Buffer | None) -> Role:
        if buffer is None or buffer not in stored:
            return "in"
        return "out" if first[buffer] == "store" else "inout"

    return tuple(role(table.get(p)) for p in func.params)


def _order(
    s: Stmt, first: dict[Buffer, str], stored: set[Buffer], views: dict[Buffer, Buffer]
) -> None:
    """Note, in the order of execution, how each buffer is touched first."""

    def source(b: Buffer) -> Buffer:
        while b in views:
            b = views[b]
        return b

    if isinstance(s, Block):
        views = {**views, **{m.buffer: m.source.buffer for m in s.match_buffers}}
        for part in (s.init, s.body):
            if part is not None:
                _order(part, first, stored, views)
        if _is_opaque(s):  # what an external function touches is what the block declares
            for r in s.reads:
                first.setdefault(source(r.buffer), "load")
            for r in s.writes:
                first.setdefault(source(r.buffer), "store")
                stored.add(source(r.buffer))
        return
    for e in stmt_exprs(s):
        for x in walk_expr(e):
            if isinstance(x, BufferLoad):
                first.setdefault(source(x.buffer), "load")
    if isinstance(s, BufferStore):
        first.setdefault(source(s.buffer), "store")
        stored.add(source(s.buffer))
    for child in stmt_children(s):
        _order(child, first, stored, views)


def _is_opaque(block: Block) -> bool:
    """Does the block call external functions, whose accesses only its declaration tells?"""

    def calls(e: Expr) -> bool:
        return any(isinstance(x, Call) and x.op == "call_extern" for x in walk_expr(e))

    def inside(s: Stmt) -> bool:
        if isinstance(s, Block):
            return False  # it speaks for itself
        return any(map(calls, stmt_exprs(s))) or any(map(inside, stmt_children(s)))

    return inside(block.body)
