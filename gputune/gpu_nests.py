"""What does a default GPU schedule need to know about a loop nest before it changes it?

Which loops of a block are spatial, whether they may run at once, what inlining would cost, and how
a result is kept in registers until it is complete.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from .errors import ScheduleError
from .ir import dtypes
from .ir.build import const_int, is_literal
from .ir.nodes import (
    COMPARISONS,
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    Var,
)
from .ir.walk import all_exprs, expr_children, uses_var, walk_expr, walk_stmt
from .schedule import BlockRV, LoopRV, Schedule
from .schedule.analysis import binding_is_affine, blocks_below, guard_above, reads_own_elsewhere
from .schedule.tree import Link
from .target import Target

_BLOCK_THREADS = 256
_SHARED_BYTES = 48 * 1024  # of a block, on every device without asking
_SMALL = 32  # operations and loads that a consumer may grow by
_CHEAP_CALLS = frozenset({
    "if_then_else", "likely", "abs", "floor", "ceil", "trunc", "round", "nearbyint", "isnan",
    "isinf", "isfinite", "reinterpret",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class GpuSizes:
    """Threads of a block, and bytes of shared memory, that a default schedule uses at most."""

    threads: int = _BLOCK_THREADS
    shared_bytes: int = _SHARED_BYTES

    @staticmethod
    def of(target: Target) -> GpuSizes:
        """What suits every device, or less where the target says so."""
        most = int(target.attrs.get("max-threads-per-block", _BLOCK_THREADS))
        shared = int(target.attrs.get("max-shared-memory-per-block", _SHARED_BYTES))
        return GpuSizes(min(_BLOCK_THREADS, most), min(_SHARED_BYTES, shared))


@dataclass(slots=True)
class Nest:
    """A block and the loops around it, by what they drive.

    Attributes:
        block, node: the block.
        loops: all of them, outermost first.
        spatial: those that drive spatial iterators only (or run once).
        reduce: those that drive reduce iterators only.
        other: the rest.
        spatial_vars: the variables of `spatial`.
        shared: other blocks stand under the outermost loop.
    """

    block: BlockRV
    node: Block
    loops: list[LoopRV]
    spatial: list[LoopRV]
    reduce: list[LoopRV]
    other: list[LoopRV]
    spatial_vars: list[Var]
    shared: bool


def nest_of(sch: Schedule, block: BlockRV) -> Nest:
    """The nest of a block.

    Raises:
        ScheduleError: a loop is already bound, annotated or of another kind than serial; a
            condition stands between the loops.
    """
    link = sch.block(block)
    node = link.block()
    loops = sch.get_loops(block)
    if guard_above(link) is not None or not all(map(_is_plain, link.loops())):
        raise ScheduleError("not a plain nest", code="gpu-nest")
    nest = Nest(block, node, loops, [], [], [], [], _is_shared(link))
    for rv, loop in zip(loops, link.loops()):
        kinds = {
            iv.kind
            for iv, v in zip(node.iter_vars, node.iter_values)
            if uses_var(v, loop.var)
        }  # fmt: skip
        if kinds == {"spatial"} or (not kinds and const_int(loop.extent) == 1):
            nest.spatial.append(rv)
            nest.spatial_vars.append(loop.var)
        elif kinds == {"reduce"}:
            nest.reduce.append(rv)
        else:
            nest.other.append(rv)
    return nest


def _is_plain(f: For) -> bool:
    return f.kind == "serial" and f.thread is None and not f.annotations and is_literal(f.min, 0)


def _is_shared(link: Link) -> bool:
    top: Link | None = None
    for x in link.above():
        if type(x.node) is Block:
            break
        top = x if type(x.node) is For else top
    return top is not None and len(blocks_below(top)) > 1


def spatial_prefix(sch: Schedule, block: BlockRV) -> list[LoopRV]:
    """The outermost loops that are each the only child of the one before, and spatial to all the
    blocks under them."""
    out: list[LoopRV] = []
    before: For | None = None
    for rv in sch.get_loops(block):
        link = sch.loop(rv)
        loop = link.loop()
        if not _is_plain(loop) or (before is not None and before.body is not loop):
            break
        if not all(_spatial_to(x.block(), loop.var) for x in blocks_below(link)):
            break
        out.append(rv)
        before = loop
    return out


def _spatial_to(b: Block, var: Var) -> bool:
    kinds = {iv.kind for iv, v in zip(b.iter_vars, b.iter_values) if uses_var(v, var)}
    return kinds == {"spatial"}


def independent(sch: Schedule, block: BlockRV) -> bool:
    """Do different spatial points of a block that has its nest for itself touch different elements
    of all that it writes? Then they may run at once, whatever other blocks do with the same
    buffers before and after."""
    link = sch.block(block)
    b = link.block()
    if _is_shared(link) or any(iv.kind not in ("spatial", "reduce") for iv in b.iter_vars):
        return False
    if any(type(s) in (Block, Evaluate) for s in walk_stmt(b.body)) or b.match_buffers:
        return False
    if not b.iter_vars or not binding_is_affine(link, sch):
        return False
    if reads_own_elsewhere(b.reads, b.writes):
        return False
    moving = {
        iv.var for iv in b.iter_vars if iv.kind == "spatial" and const_int(iv.dom.extent) != 1
    }
    return all(moving <= {g.min for g in w.region if const_int(g.extent) == 1} for w in b.writes)


def extent_of(sch: Schedule, loop: LoopRV) -> int | None:
    """The extent of a loop; None if it is not constant."""
    return const_int(sch.loop(loop).loop().extent)


def product(sch: Schedule, loops: Sequence[LoopRV]) -> int | None:
    """How often the loops run together; None if that is not constant."""
    total = 1
    for x in loops:
        n = extent_of(sch, x)
        if n is None:
            return None
        total *= n
    return total


# ----------------------------------------------------------------------------- inlining
def cheap_to_inline(sch: Schedule, block: BlockRV) -> bool:
    """Is it less work to compute the block's value where it is used than to keep it in memory?

    Arithmetic is cheap unless it is repeated many times; other functions are inlined only where
    they are evaluated no more often than now.
    """
    b = sch.block(block).block()
    if type(b.body) is not BufferStore:
        return False
    buffer = b.body.buffer
    users = [sch.block(x).block() for x in sch.get_consumers(block)]
    sites = sum(_loads(u, buffer) for u in users)
    if any(type(e) is Call and e.op not in _CHEAP_CALLS for e in walk_expr(b.body.value)):
        if sites != 1 or users[0].init is not None:
            return False
        mine, theirs = _points(b), _points(users[0])
        return mine is not None and theirs is not None and theirs <= mine
    return _cost(b.body.value) * sites <= _SMALL


def _loads(b: Block, buffer: Buffer) -> int:
    return sum(type(e) is BufferLoad and e.buffer is buffer for e in all_exprs(b.body))


def _cost(value: Expr) -> int:
    """Loads and operations of a value, those of indices left out."""
    total = 0
    stack: list[Expr] = [value]
    while stack:
        e = stack.pop()
        if type(e) is BufferLoad:
            total += 1
            continue
        if type(e) is BinOp and e.op not in COMPARISONS and dtypes.is_float(e.dtype):
            total += 4 if e.op == "/" else 1
        stack.extend(expr_children(e))
    return total


def _points(b: Block) -> int | None:
    extents = [const_int(iv.dom.extent) for iv in b.iter_vars]
    return None if None in extents else math.prod(n for n in extents if n is not None)


def make_local(sch: Schedule, block: BlockRV, loop: LoopRV) -> BlockRV | None:
    """Let a reduction accumulate in registers and hand its result over under `loop`, with what
    follows it elementwise; None, and nothing is changed, where that is not allowed."""
    if len(sch.block(block).block().writes) != 1:
        return None
    attempt = sch.copy()
    try:
        copy = with_epilogue(attempt, block)
        attempt.reverse_compute_at(copy, loop)
    except ScheduleError:
        return None
    copy = with_epilogue(sch, block)
    sch.reverse_compute_at(copy, loop)
    return copy


def with_epilogue(sch: Schedule, block: BlockRV) -> BlockRV:
    """Cache what a reduction writes in registers; the block that copies it back computes what
    follows elementwise, too."""
    copy = sch.cache_write(block, 0, "local")
    with suppress(ScheduleError):
        while len(users := sch.get_consumers(copy)) == 1:
            sch.reverse_compute_inline(users[0])
    return copy


# ----------------------------------------------------------------------------- what is written how
def vector_legal(b: Block, along: Var) -> bool:
    """May four neighbours along an iterator be one access of 16 bytes, everywhere in the block?"""
    store = b.body
    if type(store) is not BufferStore or store.predicate is not None or b.match_buffers:
        return False
    if uses_var(b.predicate, along) or not _row(store.buffer, store.indices, along):
        return False
    for e in walk_expr(store.value):
        if type(e) is Call and e.op in ("if_then_else", "call_extern", "reinterpret"):
            return False
        if type(e) is Var and e is along:  # it is an index where this is allowed, below
            continue
        if type(e) is BufferLoad and (
            e.predicate is not None
            or (any(uses_var(i, along) for i in e.indices) and not _row(e.buffer, e.indices, along))
        ):
            return False
    return True


def _row(buffer: Buffer, indices: tuple[Expr, ...], along: Var) -> bool:
    """Does the iterator walk along rows of whole groups of four 4-byte elements?"""
    if dtypes.itemsize(buffer.dtype) != 4 or not indices or indices[-1] is not along:
        return False
    row = const_int(buffer.shape[-1])
    return (
        row is not None
        and row % 4 == 0
        and buffer.strides is None
        and buffer.elem_offset is None
        and not any(uses_var(i, along) for i in indices[:-1])
    )
