"""How does a block run that only copies (`auto_copy`, from read_at and write_at)?

On a CPU its innermost loop becomes one over vectors, where it goes along memory. On a GPU the
threads of a block share the work of a copy to or from shared memory: neighbours copy neighbouring
elements. Everything else is copied as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from ..ir import build, walk
from ..ir.build import const_int
from ..ir.nodes import (
    Block,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Stmt,
    Var,
)
from ..schedule.copy_at import AUTO_COPY
from ..schedule.tree import block_with, with_body
from .limits import CpuLimits
from .prepare import as_block

_THREADS = ("threadIdx.z", "threadIdx.y", "threadIdx.x")


def vector_copies(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with vector loops in its copies."""

    def go(s: Stmt) -> Stmt:
        if _is_copy(s):
            return _vectorized(s)
        out = walk.map_stmt(s, lambda e: e, go)
        assert out is not None  # nothing is deleted
        return out

    return as_block(func, go(func.body))


def shared_copies(s: Stmt, extents: Mapping[str, int], own: frozenset[Var] = frozenset()) -> Stmt:
    """A kernel with its copies shared among the threads of a block.

    Args:
        extents: how long each axis of the kernel is.
        own: variables that differ from thread to thread. A copy that depends on them is that of
            each thread for itself, and stays so.
    """
    if (type(s) is For and s.thread in _THREADS) or (
        type(s) is LetStmt and walk.uses_var(s.value, own)
    ):
        own = own | {s.var}
    elif type(s) is Block:
        mine = [
            iv.var
            for iv, value in zip(s.iter_vars, s.iter_values, strict=True)
            if walk.uses_var(value, own)
        ]
        if _is_copy(s):
            return s if mine or _uses(s, own) else _cooperative(s, extents)
        own = own.union(mine)
    out = walk.map_stmt(s, lambda e: e, lambda x: shared_copies(x, extents, own))
    assert out is not None  # nothing is deleted
    return out


def _is_copy(s: Stmt) -> TypeGuard[Block]:
    return type(s) is Block and any(k == AUTO_COPY and v for k, v in s.annotations)


def _uses(s: Stmt, names: frozenset[Var]) -> bool:
    return any(walk.uses_var(e, names) for e in walk.all_exprs(s))


def _nest(b: Block) -> tuple[list[For], Expr | None, BufferStore] | None:
    """The loops, the condition and the store of a copy; None if the block is something else."""
    loops: list[For] = []
    s = b.body
    while type(s) is For and s.kind == "serial" and build.is_literal(s.min, 0):
        loops.append(s)
        s = s.body
    cond: Expr | None = None
    if type(s) is IfThenElse and s.orelse is None:
        cond, s = s.cond, s.then
    if b.init is not None or type(s) is not BufferStore or type(s.value) is not BufferLoad:
        return None
    return loops, cond, s


def _vectorized(b: Block) -> Block:
    nest = _nest(b)
    if nest is None:
        return b
    loops, _, store = nest
    if not loops or not store.indices or not walk.uses_var(store.indices[-1], loops[-1].var):
        return b
    f = loops[-1]
    body: Stmt = For(f.var, f.min, f.extent, "vectorized", f.body, None, f.annotations)
    for g in reversed(loops[:-1]):
        body = with_body(g, body)
    return block_with(b, body=body)


def _cooperative(b: Block, extents: Mapping[str, int]) -> Block:
    nest = _nest(b)
    if nest is None:
        return b
    loops, cond, store = nest
    load = store.value
    assert type(load) is BufferLoad
    scopes = {store.buffer.scope.split(".")[0], load.buffer.scope.split(".")[0]}
    sizes = [const_int(f.extent) for f in loops]
    if "shared" not in scopes or not scopes <= {"shared", "global"}:
        return b  # threads have registers of their own
    axes = [(a, extents[a]) for a in _THREADS if a in extents]
    total = 1
    for n in sizes:
        if n is None:
            return b
        total *= int(n)
    threads = 1
    for _, n in axes:
        threads *= n
    if not axes or not loops:
        return b
    rounds = -(-total // threads)
    turn = Var("turn")
    at: Expr = turn
    nest_of: list[tuple[Var, str, int]] = []
    for axis, n in axes:
        v = Var(axis.replace("Idx.", "_"))
        nest_of.append((v, axis, n))
        at = build.add(build.mul(at, n), v)
    table: dict[Var, Expr] = {}
    weight = 1
    for f, size in zip(reversed(loops), reversed(sizes), strict=True):
        assert size is not None
        digit = build.floormod(build.floordiv(at, weight), int(size))
        table[f.var] = build.cast(f.var.dtype, digit)
        weight *= int(size)
    inner: Stmt = store if cond is None else IfThenElse(cond, store)
    body = walk.substitute_stmt(inner, table)
    if rounds * threads != total:
        body = IfThenElse(build.lt(at, total), body)
    body = For(turn, IntImm(0), IntImm(rounds), "serial", body)
    for v, axis, n in reversed(nest_of):
        body = For(v, IntImm(0), IntImm(n), "thread_binding", body, axis)
    return block_with(b, body=body)
