"""What is left of a block when all is decided? Its statements, with the iterators filled in.

Iterators become their bindings, predicates become `if`, buffers allocated by a block become `Alloc`
around it, and views (`match_buffer`) become accesses to what they view.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import LowerError
from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    IfThenElse,
    IntImm,
    LetStmt,
    MatchBuffer,
    PrimFunc,
    Ramp,
    Stmt,
    Var,
)
from .limits import CpuLimits
from .pragmas import with_pragmas
from .prepare import as_block

SWIZZLE = "shared_swizzle"
ALIGN_ATTR = "lower.dim_align"
"""Function attribute between passes: ((buffer, axis, factor, offset), ...) from storage_align."""


@dataclass(frozen=True, slots=True)
class _View:
    source: Buffer
    mins: tuple[Expr, ...]


@dataclass(slots=True)
class _Scope:
    """What names stand for at the present place."""

    vars: dict[Var, Expr]
    views: dict[Buffer, _View]
    aligns: list[tuple[Buffer, int, int, int]] = field(default_factory=list)
    swizzled: dict[Buffer, Buffer] = field(default_factory=dict)


def lower_blocks(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with no block but the root, which has no buffers."""
    scope = _Scope({}, {})
    out = as_block(func, _go(func.body, scope))
    if scope.swizzled:
        out = as_block(out, walk.replace_buffers(out.body, scope.swizzled))
    aligns = tuple([(scope.swizzled.get(b, b), *how) for b, *how in scope.aligns])
    return out.with_attr(ALIGN_ATTR, aligns) if aligns else out


def _go(s: Stmt, scope: _Scope) -> Stmt:
    match s:
        case Block():
            return _block(s, scope)
        case BufferStore():
            indices = tuple([_expr(i, scope) for i in s.indices])
            buffer, indices = _resolve(s.buffer, indices, scope)
            mask = None if s.predicate is None else _expr(s.predicate, scope)
            return BufferStore(buffer, _expr(s.value, scope), indices, mask)
        case _:
            out = walk.map_stmt(s, lambda e: _expr(e, scope), lambda x: _go(x, scope))
            assert out is not None  # _go never deletes
            return out


def _expr(e: Expr, scope: _Scope) -> Expr:
    if isinstance(e, Var):
        return scope.vars.get(e, e)
    if isinstance(e, IntImm):
        return e
    if isinstance(e, BufferLoad):
        indices = tuple([_expr(i, scope) for i in e.indices])
        buffer, indices = _resolve(e.buffer, indices, scope)
        mask = None if e.predicate is None else _expr(e.predicate, scope)
        return BufferLoad(buffer, indices, mask)
    return walk.map_expr(e, lambda x: _expr(x, scope))


def _resolve(
    buffer: Buffer, indices: tuple[Expr, ...], scope: _Scope
) -> tuple[Buffer, tuple[Expr, ...]]:
    """The memory behind a view. A view of a view was resolved when it was entered."""
    view = scope.views.get(buffer)
    if view is None:
        return buffer, indices
    lead = len(view.mins) - len(indices)
    shifted = [_shift(lo, i) for lo, i in zip(view.mins[lead:], indices)]
    return view.source, (*view.mins[:lead], *shifted)


def _shift(lo: Expr, index: Expr) -> Expr:
    if type(index) is Ramp:
        return Ramp(build.add(lo, index.base), index.stride, index.lanes)
    n = dtypes.lanes(index.dtype)
    return build.add(build.broadcast(lo, n), index) if n > 1 else build.add(lo, index)


def _block(b: Block, scope: _Scope) -> Stmt:
    inner = _Scope(dict(scope.vars), dict(scope.views), scope.aligns, scope.swizzled)
    lets: list[tuple[Var, Expr]] = []
    for iv, bound in zip(b.iter_vars, b.iter_values):
        value = _expr(bound, scope)
        if value.dtype != iv.var.dtype:
            value = build.cast(iv.var.dtype, value)
        if any(type(x) is BufferLoad for x in walk.walk_expr(value)):
            fresh = Var(iv.var.name, iv.var.dtype)  # what is loaded may change inside the block
            lets.append((fresh, value))
            value = fresh
        inner.vars[iv.var] = value
    predicate = _expr(b.predicate, inner)  # the bindings see the loops; a predicate sees both
    for m in b.match_buffers:
        _enter_view(m, inner)
    _note_alignment(b, inner)
    body = with_pragmas(_go(b.body, inner), b.annotations)
    if b.init is not None:
        raise LowerError(f"block {b.name} still has an init: lower_init comes first")
    for buffer in reversed(b.alloc_buffers):
        body = Alloc(buffer, body)
    if not build.is_literal(predicate, 1):
        body = IfThenElse(predicate, body)
    for var, value in reversed(lets):
        body = LetStmt(var, value, body)
    return body


def _enter_view(m: MatchBuffer, scope: _Scope) -> None:
    mins = tuple([_expr(r.min, scope) for r in m.source.region])
    extents = tuple([_expr(r.extent, scope) for r in m.source.region])
    source, full = _resolve(m.source.buffer, mins, scope)
    scope.views[m.buffer] = _View(source, full)
    lead = len(extents) - len(m.buffer.shape)
    for size, extent in zip(m.buffer.shape, extents[lead:]):
        if type(size) is Var:
            scope.vars.setdefault(size, extent)
    steps = _strides(source)
    if m.buffer.strides is not None:
        for name, step in zip(m.buffer.strides, steps[len(steps) - len(m.buffer.shape) :]):
            if type(name) is Var:
                scope.vars.setdefault(name, step)
    if type(m.buffer.elem_offset) is Var:
        at: Expr = source.elem_offset if source.elem_offset is not None else IntImm(0)
        for lo, step in zip(full, steps):
            at = build.add(at, build.mul(lo, step))
        scope.vars.setdefault(m.buffer.elem_offset, at)


def _strides(b: Buffer) -> tuple[Expr, ...]:
    """The strides of a buffer in elements, row-major where it does not say."""
    if b.strides is not None:
        return b.strides
    steps: list[Expr] = [IntImm(1)] * len(b.shape)
    for k in range(len(b.shape) - 2, -1, -1):
        steps[k] = build.mul(steps[k + 1], b.shape[k + 1])
    return tuple(steps)


def _note_alignment(b: Block, scope: _Scope) -> None:
    for name, entries in b.annotations:
        if name == SWIZZLE:
            _note_swizzle(b, entries, scope)
        if name != "buffer_dim_align":
            continue
        for entry in entries:
            which, axis, factor, offset = (_plain(x) for x in entry)
            if 0 <= which < len(b.writes):
                buffer = b.writes[which].buffer
                scope.aligns.append((buffer, axis, factor, offset))


def _note_swizzle(b: Block, span: Any, scope: _Scope) -> None:
    found = [w.buffer for w in b.writes if w.buffer.scope.startswith("shared")]
    if not found:
        raise LowerError(
            f"{SWIZZLE} of block {b.name}: it writes no buffer in shared memory",
            hint="annotate a copy to shared memory with the bytes of a row of it, at most 128",
            code="swizzle",
        )
    for buffer in found:
        size = _plain(span)
        align = max(buffer.align, size)
        scope.swizzled[buffer] = replace(buffer, align=align, swizzle=size)


def _plain(x: Any) -> int:
    return int(x.value) if isinstance(x, IntImm) else int(x)
