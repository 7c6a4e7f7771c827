"""Which loops are written out? Small inner ones, register tiles, and what the schedule asks for.

A loop that is to be written out gets the kind "unrolled"; the code generator repeats its body.
Where `pragma_unroll_explicit` is 0, what the schedule asks for beyond that is left to LLVM.
"""

from __future__ import annotations

from ..ir import walk
from ..ir.nodes import (
    Alloc,
    Block,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    IfThenElse,
    Let,
    LetStmt,
    PrimFunc,
    Seq,
    Shuffle,
    Stmt,
)
from .accesses import trip_count
from .interior import COLD
from .limits import CpuLimits
from .pragmas import Unroll
from .prepare import as_block

BY_LLVM = "lower.unrolled_by_llvm"
"""The annotation, between here and the code generator, of a loop that LLVM is asked to unroll."""
_ASKED = 512
_SMALL = 16


class _Budget:
    """How many statements may still be added; a part is reserved for loops that accumulate, whose
    sums can then stay in registers, wherever they stand."""

    def __init__(self, left: int, reserved: int = 0) -> None:
        self.left = left
        self.reserved = reserved

    def allows(self, more: int, accumulating: bool) -> bool:
        """May a loop add so many?"""
        return more <= self.left - (0 if accumulating else self.reserved)

    def take(self, more: int, accumulating: bool) -> None:
        """A loop adds so many."""
        self.left -= more
        if accumulating:
            self.reserved = max(self.reserved - more, 0)


def unroll(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with loops marked as unrolled."""
    most = limits.statements - _count(func.body)
    alone = _Budget(most, most)  # none for the others
    _go(func.body, Unroll(), limits, alone)
    body, _ = _go(func.body, Unroll(), limits, _Budget(most, most - alone.left))
    return as_block(func, body)


def _accumulates(s: For) -> bool:
    """Does a statement inside add to what it stores to?"""
    return any(
        type(x) is BufferStore
        and any(type(e) is BufferLoad and e.buffer is x.buffer for e in walk.walk_expr(x.value))
        for x in walk.walk_stmt(s.body)
    )


def _count(s: Stmt) -> int:
    return sum(_work(x) for x in walk.walk_stmt(s) if type(x) in (BufferStore, Evaluate))


def _work(s: Stmt) -> int:
    """How many statements it counts as: more than one where it combines the lanes of vectors."""
    if type(s) is not BufferStore or type(s.value) is not Let:
        return 1
    return 1 + sum(type(x) in (BufferLoad, Shuffle) for x in walk.walk_expr(s.value)) // 2


def _go(s: Stmt, asked: Unroll, limits: CpuLimits, budget: _Budget) -> tuple[Stmt, int | None]:
    """(`s` with its loops marked, statements in it when written out or None if a loop is left).

    `asked`: what the pragmas around `s` say."""
    match s:
        case For():
            return _loop(s, asked, limits, budget)
        case Seq():
            items = [_go(x, asked, limits, budget) for x in s.items]
            total = 0
            for _, n in items:
                if n is None:
                    return Seq(tuple(x for x, _ in items)), None
                total += n
            return Seq(tuple(x for x, _ in items)), total
        case IfThenElse():
            then, n = _go(s.then, asked, limits, budget)
            if s.orelse is None:
                return IfThenElse(s.cond, then), n
            orelse, m = _go(s.orelse, asked, limits, budget)
            return IfThenElse(s.cond, then, orelse), None if n is None or m is None else n + m
        case LetStmt():
            body, n = _go(s.body, asked, limits, budget)
            return LetStmt(s.var, s.value, body), n
        case Alloc():
            body, n = _go(s.body, asked, limits, budget)
            return Alloc(s.buffer, body), n
        case Block():
            body, n = _go(s.body, asked, limits, budget)
            new = Block(
                s.key, s.name, s.iter_vars, s.iter_values, s.predicate, s.reads, s.writes, body,
                s.init, s.alloc_buffers, s.match_buffers, s.annotations,
            )  # fmt: skip
            return new, n
        case BufferStore() | Evaluate():
            return s, _work(s)


def _loop(s: For, asked: Unroll, limits: CpuLimits, budget: _Budget) -> tuple[Stmt, int | None]:
    if (COLD, 1) in s.annotations:
        return s, None
    asked = asked.inside(s)
    body, inner = _go(s.body, asked, limits, budget)
    mine = _accumulates(s)
    n = trip_count(s)
    kind = s.kind
    total = None if inner is None or n is None else inner * n
    if s.kind == "unrolled":
        if total is None or total > _ASKED:
            kind, total = "serial", None
        elif inner is not None:
            budget.take(total - inner, mine)
    elif s.kind == "serial" and total is not None and inner is not None:
        limit = _SMALL if asked.explicit is False else max(asked.steps, _SMALL)
        if _is_tile(s):
            limit = max(limit, limits.tile_registers)
        if total <= limit and budget.allows(total - inner, mine):
            kind = "unrolled"
            budget.take(total - inner, mine)
        else:
            total = None
    else:
        total = None
    notes = s.annotations
    if kind == "serial" and asked.explicit is False and 0 < _written_out(s) <= asked.steps:
        notes = (*notes, (BY_LLVM, 1))
    return For(s.var, s.min, s.extent, kind, body, s.thread, notes), total


def _written_out(s: Stmt) -> int:
    """Statements when all loops are written out; 0 where a loop has no constant extent."""
    if type(s) is For:
        return (trip_count(s) or 0) * _written_out(s.body)
    if type(s) is BufferStore or type(s) is Evaluate:
        return 1
    parts = [_written_out(x) for x in walk.stmt_children(s)]
    return sum(parts) if all(parts) else 0


def _is_tile(s: For) -> bool:
    """Does every store inside go to another place in each iteration?"""
    stores = [x for x in walk.walk_stmt(s.body) if type(x) is BufferStore]
    return all(any(walk.uses_var(i, s.var) for i in x.indices) for x in stores)
