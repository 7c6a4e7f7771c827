"""Which copies into shared memory go on while their thread does something else?

A store that copies an element of global memory into shared memory, or puts a zero there by a
condition, may be asynchronous: a mark in lowered code says so (a hint for the store, see
`cache_hints`; to all else the store is one like others). What a thread has copied since its last
`commit` is a group, and `wait(n)` lets it go on when all but its n last groups are there; other
threads see them after a barrier. (Code that cannot copy so makes the copy at once, which is right
as well.)
"""

from __future__ import annotations

from math import copysign

from ..ir import build, walk
from ..ir.nodes import BufferLoad, BufferStore, Call, Evaluate, Expr, FloatImm, IntImm, Stmt
from .cache_hints import STORE
from .tiles import tile_op

BACKGROUND = "async"
"""The hint of an asynchronous store."""
_COMMIT, _WAIT = "async_commit", "async_wait"


def commit() -> Stmt:
    """Makes what the thread has copied since the last time a group, which may be empty."""
    return Evaluate(Call(_COMMIT, (), "int32"))


def wait(under_way: int) -> Stmt:
    """Waits until no more than the last so many groups of the thread are under way."""
    return Evaluate(Call(_WAIT, (IntImm(under_way),), "int32"))


def is_commit(s: Stmt) -> bool:
    """Is it the end of a group?"""
    return type(s) is Evaluate and type(s.value) is Call and s.value.op == _COMMIT


def waited_for(s: Stmt) -> int | None:
    """Of a wait, how many groups may be under way; None of other statements."""
    if type(s) is Evaluate and type(s.value) is Call and s.value.op == _WAIT:
        (n,) = s.value.args
        assert type(n) is IntImm  # `wait`
        return int(n.value)
    return None


def in_background(s: Stmt) -> Stmt:
    """A statement with its copies from global to shared memory marked as asynchronous."""
    out = walk.map_stmt(s, lambda e: e, in_background)
    assert out is not None  # nothing is deleted
    if type(out) is not BufferStore or out.predicate is not None or tile_op(out) is not None:
        return out
    if not out.buffer.scope.startswith("shared") or copied(out.value) is None:
        return out
    value = Call(f"{STORE}.{BACKGROUND}", (out.value,), out.value.dtype)
    return BufferStore(out.buffer, value, out.indices)


def copied(e: Expr) -> tuple[BufferLoad, Expr | None] | None:
    """An element of global memory, with the condition without which it is zero instead, if there is
    one; None of other values."""
    if type(e) is Call and e.op == "if_then_else":
        cond, there, other = e.args
        inside = copied(there)
        if inside is None or inside[1] is not None or not _is_zero(other):
            return None
        return inside[0], cond
    if type(e) is BufferLoad and e.buffer.scope == "global" and e.predicate is None:
        return e, None
    return None


def _is_zero(e: Expr) -> bool:
    """Is it zero, in every bit?"""
    if type(e) is FloatImm:
        return e.value == 0 and copysign(1.0, e.value) > 0
    return build.is_literal(e, 0)
