"""Which loads and stores of global memory are caches told about? Those of blocks that say so.

The annotation "load_hint" of a block is for what it loads from global memory, "store_hint" for what
it stores there. In lowered code a load with a hint stands in a call `load_hint.<how>`, and so does
the value of a store in `store_hint.<how>`; to all else these calls are their argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LowerError
from ..ir import walk
from ..ir.known_annotations import plain
from ..ir.nodes import Block, Buffer, BufferLoad, BufferStore, Call, Expr, PrimFunc, Stmt
from .limits import CpuLimits
from .prepare import as_block
from .tiles import tile_op

LOAD, STORE = "load_hint", "store_hint"
_CONSTANT = ("read_only", "no_allocate")
"""Hints that promise that nothing in the kernel stores to the buffer."""


def mark_hints(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with the loads and stores marked for which its blocks give hints.

    Raises:
        LowerError: a hint that only constant memory may have, for a buffer that the kernel writes.
    """
    if not any(k in (LOAD, STORE) for b in walk.blocks(kernel.body) for k, _ in b.annotations):
        return kernel
    blocks = walk.blocks(kernel.body)
    outside = set(kernel.buffers)
    for b in blocks:
        outside |= {m.buffer for m in b.match_buffers if m.source.buffer in outside}
    written = {s.buffer for s in walk.walk_stmt(kernel.body) if type(s) is BufferStore}
    for b in reversed(blocks):  # (what is inside sees views of views)
        written |= {m.source.buffer for m in b.match_buffers if m.buffer in written}
    return as_block(kernel, _Marker(outside, written).go(kernel.body, _Hints()))


def load_hint(e: Expr) -> tuple[BufferLoad, str] | None:
    """A load with its hint; None if the expression is none."""
    if type(e) is Call and e.op.startswith(f"{LOAD}."):
        (load,) = e.args
        assert type(load) is BufferLoad
        return load, e.op.partition(".")[2]
    return None


def store_hint(e: Expr) -> tuple[Expr, str]:
    """What a store puts into memory, and the hint for it, "" if there is none."""
    if type(e) is Call and e.op.startswith(f"{STORE}."):
        return e.args[0], e.op.partition(".")[2]
    return e, ""


@dataclass(frozen=True, slots=True)
class _Hints:
    """Those of a block."""

    block: str = ""
    load: str = ""
    store: str = ""


def _hints(b: Block) -> _Hints:
    notes = {k: str(plain(v)) for k, v in b.annotations if k in (LOAD, STORE)}
    return _Hints(b.name, notes.get(LOAD, ""), notes.get(STORE, ""))


@dataclass(frozen=True, slots=True)
class _Marker:
    """`outside`: buffers in global memory, and views of them; `written`: those that the kernel
    stores to."""

    outside: set[Buffer]
    written: set[Buffer]

    def go(self, s: Stmt, hints: _Hints) -> Stmt:
        """The statement with marks; `hints` are those of the innermost block around it."""
        if type(s) is BufferStore:
            return s if tile_op(s) is not None else self._store(s, hints)
        if type(s) is Block:
            hints = _hints(s)
        out = walk.map_stmt(s, lambda e: e, lambda x: self.go(x, hints))
        assert out is not None  # nothing is deleted
        return out

    def _store(self, s: BufferStore, hints: _Hints) -> BufferStore:
        value = self._value(s.value, hints) if hints.load else s.value
        if hints.store and s.buffer in self.outside:
            value = Call(f"{STORE}.{hints.store}", (value,), value.dtype)
        return s if value is s.value else BufferStore(s.buffer, value, s.indices, s.predicate)

    def _value(self, e: Expr, hints: _Hints) -> Expr:
        """A value with its loads marked; those that are part of indices are not."""
        if type(e) is not BufferLoad:
            return walk.map_expr(e, lambda x: self._value(x, hints))
        if e.buffer not in self.outside:
            return e
        if e.buffer in self.written and hints.load in _CONSTANT:
            raise LowerError(
                f"block {hints.block}: load_hint {hints.load!r} promises that {e.buffer.name} does "
                "not change while the kernel runs, but the kernel writes it",
                hint='load_hint "streaming" promises nothing',
                code="cache-hint",
            )
        return Call(f"{LOAD}.{hints.load}", (e,), e.dtype)
