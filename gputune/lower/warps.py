"""Can whole warps run what they shall run together? Operations on tiles, checked one by one, and
shuffles.

All 32 threads of a warp must come to such an operation, with the same tile; tiles must lie where
and as the machine takes them; and what a warp holds in registers nothing else can touch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import LowerError
from ..ir import dtypes, walk
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Stmt,
    Var,
)
from ..ir.ops import VectorOp
from . import linear as lin
from .accesses import loop_bounds
from .kernels import BLOCK, inner
from .lanes import is_shuffle
from .limits import CpuLimits
from .tiles import (
    OPAQUE,
    WARP,
    Operand,
    fragments_of,
    in_registers,
    is_fragment,
    is_known,
    number_of,
    of_warp,
    operands,
    place_of,
    tile_op,
)
from .touches import IntArray, Threads, evaluate, length, reach

_ALIGN = 16
"""Bytes: rows of a tile in memory begin at multiples of this."""


def check_warps(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel, as it is.

    Raises:
        LowerError: an operation of a warp that not all its threads would run alike; a tile that
            the machine cannot take; other code that uses what warps hold in registers.
    """
    axes, body = inner(kernel)
    dom = {a.var: (0, length(a) - 1) for a in axes}
    lanes = {a.var for a in axes if a.thread == "threadIdx.x" and length(a) > 1}
    for s in walk.walk_stmt(body):
        if tile_op(s) is None:
            _check_plain(s)
    _Checker(lanes).go(body, dom, "")
    if any(map(is_shuffle, walk.all_exprs(body))):
        _Shuffles(axes).go(body, frozenset(), "")
    return kernel


def _check_plain(s: Stmt) -> None:
    """What is no operation of a warp leaves alone what warps hold."""
    used = [
        x.buffer for e in walk.stmt_exprs(s) for x in walk.walk_expr(e) if type(x) is BufferLoad
    ]
    if type(s) is BufferStore:
        used.append(s.buffer)
    for b in used:
        if is_fragment(b) and not is_known(b):
            raise LowerError(
                f"buffer {b.name} lies in {b.scope}, in parts that only operations of whole "
                "warps can use, but plain code uses it too",
                hint="tensorize all blocks that use it (wmma_load, wmma_fill, wmma_sync, "
                "wmma_store; decompose_reduction makes a block of the initial values), and go "
                "through shared memory for the rest",
                code="warp-plain",
            )


class _Shuffles:
    """All threads of a warp come to a shuffle. Warps are those of the linear order of threads."""

    def __init__(self, axes: list[For]) -> None:
        threads = Threads(axes)
        self.env = dict(zip(threads.lengths, threads.at, strict=True))
        number, size = np.zeros(threads.count, np.int64), 1
        for name in BLOCK:
            for a in axes:
                if a.thread == name:
                    number, size = number + self.env[a.var] * size, size * length(a)
        self.warp = number // WARP

    def go(self, s: Stmt, own: frozenset[Var], apart: str) -> None:
        """`own`: variables that may differ among threads of a warp; `apart`: what keeps them apart
        here, "" if nothing does."""
        given = type(s) is LetStmt and is_shuffle(s.value)
        inside = [x for e in walk.stmt_exprs(s) for x in walk.walk_expr(e) if is_shuffle(x)]
        if len(inside) > given:
            raise LowerError(
                f"a shuffle stands inside an expression: {inside[-1]}",
                hint="name its value by a statement of its own, to which all threads of the warp "
                "come",
                code="warp-divergent",
            )
        if given and apart:
            raise LowerError(
                f"a shuffle is for whole warps, but the threads of a warp differ in {apart}",
                hint="let all of them come to it, and only use the value under the condition",
                code="warp-divergent",
            )
        match s:
            case IfThenElse() if not self._alike(s.cond, own):
                apart = apart or f"the condition {s.cond}"
            case For() if not (self._alike(s.min, own) and self._alike(s.extent, own)):
                apart = apart or f"loop {s.var.name}, whose length differs"
                own = own | {s.var}
            case LetStmt() if given or not self._alike(s.value, own):
                own = own | {s.var}
            case _:
                pass
        for x in walk.stmt_children(s):
            self.go(x, own, apart)

    def _alike(self, e: Expr, own: frozenset[Var]) -> bool:
        """Do the threads of each warp find the same value?"""
        return all(self._same(x, own) for x in lin.conjuncts(e))

    def _same(self, e: Expr, own: frozenset[Var]) -> bool:
        names = walk.free_vars(e)
        if names & own or any(type(x) is BufferLoad for x in walk.walk_expr(e)):
            return False
        if all(self._constant(self.env[v]) for v in names if v in self.env):
            return True
        found = evaluate(e, self.env)
        return found is not None and self._constant(np.broadcast_to(found, self.warp.shape))

    def _constant(self, values: IntArray) -> bool:
        """Is it one value in each warp?"""
        least = np.full(int(self.warp.max()) + 1, np.iinfo(np.int64).max)
        most = -least
        np.minimum.at(least, self.warp, values)
        np.maximum.at(most, self.warp, values)
        return bool((least == most).all())


class _Checker:
    """
    own: variables that differ among the threads of a warp; layouts: buffer in registers -> how it
    was first said to lie, and by which operation.
    """

    def __init__(self, own: set[Var]) -> None:
        self.own = own
        self.layouts: dict[Buffer, tuple[str, str]] = {}

    def go(self, s: Stmt, dom: Mapping[Var, lin.Bounds], apart: str) -> None:
        """`apart`: what keeps threads of a warp apart here, "" if nothing does."""
        op = tile_op(s)
        if op is not None:
            assert type(s) is BufferStore
            self._operation(s, op, dom, apart)
            return
        match s:
            case IfThenElse():
                if self._differs(s.cond):
                    apart = apart or f"the condition {s.cond}"
            case For():
                if self._differs(s.min) or self._differs(s.extent):
                    apart = apart or f"loop {s.var.name}, whose length differs"
                dom = {**dom, s.var: loop_bounds(s) or reach(s, dom)}
            case LetStmt():
                if self._differs(s.value):
                    self.own.add(s.var)
            case Alloc() if is_fragment(s.buffer) and not is_known(s.buffer):
                count = fragments_of(s.buffer)
                if isinstance(count, str):
                    raise LowerError(
                        f"buffer {s.buffer.name} in {s.buffer.scope} is no row of tiles: {count}",
                        hint="split the loops by 16 and compute whole tiles",
                        code="warp-fragment",
                    )
            case _:
                pass
        for x in walk.stmt_children(s):
            self.go(x, dom, apart)

    def _differs(self, e: Expr) -> bool:
        """May threads of one warp find different values?"""
        return any(
            x in self.own
            if type(x) is Var
            else type(x) is BufferLoad and (x.buffer.scope == "local" or of_warp(x.buffer))
            for x in walk.walk_expr(e)
        )

    # ------------------------------------------------------------------ one operation
    def _operation(
        self, s: BufferStore, op: VectorOp, dom: Mapping[Var, lin.Bounds], apart: str
    ) -> None:
        assert type(s.value) is Call
        name = s.value.op
        masks = [s.predicate, *[x.predicate for x in s.value.args if type(x) is BufferLoad]]
        if any(m is not None for m in masks):
            raise LowerError(
                f"{name} takes and gives whole tiles, it is given a mask",
                hint="pad to multiples of 16, or put a condition around it",
                code="warp-masked",
            )
        differing = [
            x for i in (s.value, *s.indices) for x in walk.walk_expr(i) if self._differs(x)
        ]
        if differing and not apart:
            apart = f"a tile at {differing[-1]}"
        if apart:
            raise LowerError(
                f"{name} is for whole warps, but the threads of a warp differ in {apart}",
                hint="bind what tells warps apart to threadIdx.y, and only what threads do one by "
                "one to threadIdx.x",
                code="warp-divergent",
            )
        found = list(operands(s, op))
        if len(found) != 1 + sum(bool(x) for x in op.tiles[1:]):
            raise LowerError(
                f"an argument of {name} is computed, but each is a tile of a buffer",
                hint="compute it into shared memory, and load it from there",
                code="warp-operand",
            )
        for x in found:
            if x.layout == "memory":
                self._memory(name, x, dom)
            else:
                self._fragment(name, x, dom)

    def _memory(self, name: str, x: Operand, dom: Mapping[Var, lin.Bounds]) -> None:
        b = x.buffer
        if in_registers(b):
            raise LowerError(
                f"{name} takes {b.name} in shared or global memory, it is in {b.scope}",
                hint='set_scope(..., "shared")',
                code="warp-scope",
            )
        place = place_of(x, dom)
        if b.swizzle and name.startswith(OPAQUE):
            place = "pieces of 16 bytes change places in it"
        if isinstance(place, str):
            raise LowerError(
                f"{name} takes a tile of rows, that of {b.name} is none: {place}",
                code="warp-tile",
            )
        size = dtypes.itemsize(b.dtype)
        loose = [c for _, c in place.form.terms.values() if c * size % _ALIGN]
        if place.stride * size % _ALIGN or place.form.const * size % _ALIGN or loose:
            raise LowerError(
                f"{name}: rows of {b.name} begin {place.stride} elements of {size} bytes apart, "
                f"the first at {lin.to_expr(place.form, 'int32')}; each must begin at a multiple "
                f"of {_ALIGN} bytes",
                hint=f"storage_align with factor and offset that are multiples of {_ALIGN // size}",
                code="warp-align",
            )

    def _fragment(self, name: str, x: Operand, dom: Mapping[Var, lin.Bounds]) -> None:
        b = x.buffer
        scope, _, order = x.layout.partition(":")
        if b.scope != scope:
            raise LowerError(
                f"{name} has {b.name} in {scope}, it is in {b.scope}",
                hint=f'set_scope(..., "{scope}")',
                code="warp-scope",
            )
        which = number_of(x, dom)
        if isinstance(which, str):
            raise LowerError(
                f"{name}: that of {b.name} is no tile: {which}",
                hint=f"split the loops by {x.rows} and {x.cols} and compute whole tiles",
                code="warp-fragment",
            )
        if order:
            before, by = self.layouts.setdefault(b, (order, name))
            if before != order:
                raise LowerError(
                    f"buffer {b.name} lies by {_LIES[before]} for {by} and by {_LIES[order]} for "
                    f"{name}: what is loaded transposed must be multiplied so",
                    hint="tensorize both with intrinsics whose names end in _trans, or neither",
                    code="warp-layout",
                )


_LIES = {"row": "rows", "col": "columns"}
