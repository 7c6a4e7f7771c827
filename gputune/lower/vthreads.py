"""Where do virtual threads take turns? As far inside as they can, so that what they share is done
once.

A loop over virtual threads stands outside of the loops that fetch tiles and compute with them. Run
as a plain loop it would fetch everything once for each of them. Here its body is cut into
statements: one that does the same for all virtual threads runs once, the others each get a loop of
their own. What a virtual thread keeps in a buffer of its own gets one more axis.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import build, walk
from ..ir.build import const_int
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from .limits import CpuLimits
from .prepare import as_block

VIRTUAL = "virtual_thread"
"""The annotation of a loop that stood for virtual threads."""
_WRITTEN_OUT = 16  # turns that are written out, so that what they keep can be in registers


def sink_vthreads(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with each loop over virtual threads around nothing but what differs between them."""
    return as_block(func, _go(func.body))


def is_virtual(f: For) -> bool:
    """Did the loop stand for virtual threads?"""
    return any(k == VIRTUAL for k, _ in f.annotations)


def _go(s: Stmt) -> Stmt:
    out = walk.map_stmt(s, lambda e: e, _go)  # inner ones first
    assert out is not None  # _go never deletes
    if type(out) is not For or not is_virtual(out):
        return out
    notes = tuple([kv for kv in out.annotations if kv[0] != VIRTUAL])
    plain = For(out.var, out.min, out.extent, out.kind, out.body, out.thread, notes)
    if const_int(out.extent) is None:
        return plain
    own = _Own(out.body, out.var)
    if any(b.scope.startswith("shared") or b.strides is not None for b in own.buffers):
        return plain  # what one exchanges with other threads, the next would overwrite
    return _Sinker(plain, own).go(out.body)


class _Own:
    """What differs between virtual threads: variables, and buffers that live inside the loop."""

    def __init__(self, body: Stmt, v: Var) -> None:
        self.inside = {s.buffer for s in walk.walk_stmt(body) if type(s) is Alloc}
        self.variables = {v}
        self.buffers: set[Buffer] = set()
        before = -1
        while before != (before := len(self.variables) + len(self.buffers)):
            self._look(body, False)

    def depends(self, e: Expr) -> bool:
        """Is the value another one for another virtual thread?"""
        return any(
            (type(x) is Var and x in self.variables)
            or (type(x) is BufferLoad and x.buffer in self.buffers)
            for x in walk.walk_expr(e)
        )

    def differs(self, s: Stmt) -> bool:
        """Does any part of the statement depend on the virtual thread?"""
        return any(
            any(map(self.depends, walk.stmt_exprs(x)))
            or (type(x) is BufferStore and x.buffer in self.buffers)
            for x in walk.walk_stmt(s)
        )

    def _look(self, s: Stmt, within: bool) -> None:
        """Note what depends on what is known to; `within`: a condition or length around does."""
        here = any(map(self.depends, walk.stmt_exprs(s)))
        if type(s) is LetStmt:
            if here:
                self.variables.add(s.var)
        elif here:
            within = True
        if type(s) is BufferStore and within and s.buffer in self.inside:
            self.buffers.add(s.buffer)
        for x in walk.stmt_children(s):
            self._look(x, within)


class _Sinker:
    """Rewrites the body of one loop over virtual threads."""

    def __init__(self, loop: For, own: _Own) -> None:
        self.loop = loop
        self.own = own
        self.kept: dict[Buffer, Buffer] = {}
        n = const_int(loop.extent)
        self.few = n is not None and n <= _WRITTEN_OUT

    def go(self, s: Stmt) -> Stmt:
        """The statement for all virtual threads."""
        own = self.own
        if type(s) is Alloc:
            return self._alloc(s)
        if not own.differs(s):
            return self._moved(s)
        if self._is_whole(s):
            return self._turns(s)
        match s:
            case Seq():
                return Seq(tuple([self.go(x) for x in s.items]))
            case For():
                body = self.go(s.body)
                return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
            case IfThenElse():
                other = None if s.orelse is None else self.go(s.orelse)
                return IfThenElse(s.cond, self.go(s.then), other)
            case LetStmt():
                return LetStmt(s.var, s.value, self.go(s.body))
            case _:
                return self._turns(s)

    def _is_whole(self, s: Stmt) -> bool:
        """Does the statement get one loop around it, rather than its parts? Few turns go as far
        inside as they can: what does not differ between them is then loaded once."""
        if any(map(self.own.depends, walk.stmt_exprs(s))):
            return True
        if type(s) is For and s.kind == "vectorized":
            return True
        if self.few or any(type(x) is Alloc for x in walk.walk_stmt(s)):
            return False
        return all(
            self.own.differs(x) for x in walk.walk_stmt(s) if type(x) in (BufferStore, Evaluate)
        )

    def _alloc(self, s: Alloc) -> Stmt:
        b = s.buffer
        if b not in self.own.buffers:
            return Alloc(b, self.go(s.body))
        shape = (self.loop.extent, *b.shape)
        self.kept[b] = replace(b, shape=shape, strides=None, elem_offset=None)
        return Alloc(self.kept[b], self.go(s.body))

    def _turns(self, s: Stmt) -> Stmt:
        f = self.loop
        kind = "unrolled" if self.few else f.kind
        v = Var(f.var.name, f.var.dtype)
        body = walk.substitute_stmt(self._moved(s), {f.var: v})
        return For(v, f.min, f.extent, kind, body, f.thread, f.annotations)

    def _moved(self, s: Stmt) -> Stmt:
        """The statement with the buffers that got an axis."""
        kept, v = self.kept, self.loop.var
        if not kept:
            return s

        def on_expr(e: Expr) -> Expr:
            out = walk.map_expr(e, on_expr)
            if type(out) is BufferLoad and out.buffer in kept:
                return BufferLoad(kept[out.buffer], (self._turn(v), *out.indices), out.predicate)
            return out

        def on_stmt(x: Stmt) -> Stmt:
            out = walk.map_stmt(x, on_expr, on_stmt)
            assert out is not None  # nothing is deleted
            if type(out) is BufferStore and out.buffer in kept:
                at = (self._turn(v), *out.indices)
                return BufferStore(kept[out.buffer], out.value, at, out.predicate)
            return out

        return on_stmt(s)

    def _turn(self, v: Var) -> Expr:
        return build.sub(v, self.loop.min)
