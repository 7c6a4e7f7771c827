"""How do the lanes of a vector become one number? The form of a vectorized loop over a reduction.

Such a loop combines all its elements into one, and the schedule has said that their order does not
matter. So whole vectors are combined first, two and two, then the halves of the last one, until one
lane is left: sixteen sums of a row take four additions after each other, not sixteen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir import build, dtypes, walk
from ..ir.affine import same
from ..ir.nodes import BinaryOp, BinOp, BufferLoad, BufferStore, Expr, Let, Shuffle, Stmt, Var

MOST = 16
"""Whole vectors that one statement combines; a longer loop stays a loop."""
_OPERATORS = frozenset({"+", "*", "min", "max"})

Part = Callable[[int, int], Expr]
"""What some iterations of the loop combine in: from the one of this number on, this many."""


def into_one(s: Stmt, var: Var) -> tuple[BufferStore, BinaryOp, Expr] | None:
    """(the store, the operator, what each iteration combines in) of a loop body in which all
    iterations of a loop combine into one element; None if it is something else."""
    if type(s) is not BufferStore or s.predicate is not None:
        return None
    value = s.value
    if type(value) is not BinOp or value.op not in _OPERATORS or dtypes.lanes(value.dtype) > 1:
        return None
    if any(walk.uses_var(i, var) or dtypes.lanes(i.dtype) > 1 for i in s.indices):
        return None
    for old, new in ((value.a, value.b), (value.b, value.a)):
        if _is_old(old, s) and not any(x.buffer is s.buffer for x in walk.loads(new)):
            return s, value.op, new
    return None


def _is_old(e: Expr, s: BufferStore) -> bool:
    """Is it the element that is stored, as it was?"""
    return (
        type(e) is BufferLoad
        and e.buffer is s.buffer
        and e.predicate is None
        and all(map(same, e.indices, s.indices))
    )


def combined(store: BufferStore, op: BinaryOp, part: Part, n: int, lanes: int) -> Stmt:
    """The store with all `n` iterations combined in, in vectors of `lanes` and shorter ones for the
    rest. `lanes` is a power of two, and at most n."""
    groups = n // lanes
    total = _in_pairs(op, [part(k * lanes, lanes) for k in range(groups)])
    held: list[tuple[Var, Expr]] = []
    at, size = groups * lanes, lanes
    while size > 1:
        whole = Var("v", total.dtype)
        held.append((whole, total))
        size //= 2
        half = tuple(range(size))
        total = _apply(
            op, Shuffle((whole,), half), Shuffle((whole,), tuple([k + size for k in half]))
        )
        if at + size <= n:
            total = _apply(op, total, part(at, size))
            at += size
    old = store.value
    assert type(old) is BinOp  # into_one has seen it
    first = old.a if _is_old(old.a, store) else old.b
    value = build.binary(op, first, total)
    for v, e in reversed(held):
        value = Let(v, e, value)
    return BufferStore(store.buffer, value, store.indices)


def _in_pairs(op: BinaryOp, parts: Sequence[Expr]) -> Expr:
    """All of them combined, neighbours first."""
    while len(parts) > 1:
        pairs = [_apply(op, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[2 * len(pairs) :]]
    return parts[0]


def _apply(op: BinaryOp, a: Expr, b: Expr) -> Expr:
    return BinOp(op, a, b, a.dtype)
