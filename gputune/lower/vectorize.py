"""What does a vectorized loop become? Vector statements of a native number of lanes.

A loop of n iterations becomes n // lanes groups (an unrolled loop), then smaller powers of two,
then single iterations. What has no vector form, or would mean something else when all lanes run
together, runs lane by lane: never wrong, only slower. A loop whose iterations all combine into one
element combines whole vectors, and then their lanes; see `across`.

A loop over what is left of a tile is one vector more, with a mask for the lanes there are, where
the processor has masks: 7 of 16 lanes are one operation and not three. Temporaries have room for
the whole tile, so nothing is masked that only goes to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    BinaryOp,
    BinOp,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    FloatImm,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Seq,
    Stmt,
    Var,
)
from ..ir.ops import MATH
from . import across, flat
from . import linear as lin
from .accesses import Access, collect, loop_bounds, range_of, trip_count
from .limits import CpuLimits
from .partition import REST
from .prepare import as_block

_UNROLL_GROUPS = 8
_MASKS = 32  # bytes of a vector from which on loads and stores have masks
_MASKS_OF_BYTES = 64  # and from which on they have them for elements of one and two bytes
_Dom = dict[Var, lin.Bounds]


class _NoVectorForm(Exception):
    """This body cannot run all lanes together."""


def vectorize(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` without vectorized loops."""
    return as_block(func, _go(func.body, _Around({}, {}, limits)))


@dataclass(frozen=True, slots=True)
class _Around:
    """What is known where a statement stands.

    Attributes:
        dom: bounds of the loops.
        read: of each temporary, the greatest index in each dimension that is read anywhere (None:
            that is not known). What lies beyond may hold anything.
        limits: of the processor.
    """

    dom: _Dom
    read: Mapping[Buffer, tuple[int | None, ...]]
    limits: CpuLimits


def _go(s: Stmt, at: _Around) -> Stmt:
    if type(s) is For:
        s = _joined(s, at)
        inner = _Around({**at.dom, s.var: range_of(s, at.dom)}, at.read, at.limits)
        body = _go(s.body, inner)
        if s.kind == "vectorized":
            return _loop(s, body, at)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    if type(s) is Alloc:
        at = _Around(at.dom, {**at.read, s.buffer: _greatest_read(s, at.dom)}, at.limits)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, at))
    assert out is not None  # _go never deletes
    return out


# ----------------------------------------------------------------------------- short vectors
def _joined(s: For, at: _Around) -> For:
    """A serial loop of short vectors as one loop over vectors, where each begins in memory where
    the one before it ends: rows of pixels of three channels are rows."""
    v = s.body
    if s.kind != "serial" or type(v) is not For or v.kind != "vectorized":
        return s
    many, few = trip_count(s), trip_count(v)
    if many is None or few is None or many < 2 or loop_bounds(s) is None:
        return s
    lanes = _native_lanes(v.body, at.limits)
    if few >= lanes or not build.is_literal(v.min, 0) or v.annotations:
        return s
    if not _is_one_row(s, v, {**at.dom, s.var: range_of(s, at.dom), v.var: (0, few - 1)}, few):
        return s
    both = Var(v.var.name, v.var.dtype)
    n = IntImm(few, both.dtype)
    table: dict[Var, Expr] = {
        s.var: build.add(build.cast(s.var.dtype, build.floordiv(both, n)), s.min),
        v.var: build.floormod(both, n),
    }
    body = walk.substitute_stmt(v.body, table)
    return For(both, v.min, IntImm(many * few, v.extent.dtype), "vectorized", body)


def _is_one_row(s: For, v: For, dom: _Dom, few: int) -> bool:
    """Do all accesses go on from one vector to the next, or stay where they are; and does nothing
    else depend on either loop?"""
    if type(v.body) is not BufferStore or v.body.predicate is not None:
        return False
    if _depends(v.body.value, {s.var, v.var}):
        return False
    for a in collect(v.body):
        if a.mask is not None:
            return False
        where = flat.place(a.buffer, a.indices, dom)
        if where is None or where.lanes > 1:
            return False
        far, near = where.form.coef(s.var), where.form.coef(v.var)
        rest = where.form.without([s.var, v.var])
        if far != near * few or any(walk.uses_var(x, {s.var, v.var}) for x in rest.atoms()):
            return False
    return True


def _depends(e: Expr, names: set[Var]) -> bool:
    """Does a value depend on variables otherwise than by the place of what it loads?"""
    if type(e) is BufferLoad:
        return any(walk.loads(i) for i in e.indices)
    if type(e) is Var:
        return e in names
    return any(_depends(x, names) for x in walk.expr_children(e))


def _greatest_read(s: Alloc, dom: _Dom) -> tuple[int | None, ...]:
    """The greatest index in each dimension of a temporary that is read."""
    out: list[int | None] = [-1] * len(s.buffer.shape)
    for a in collect(s.body, s.buffer):
        if a.store and not a.warp:
            continue
        inner = dict(dom)
        for loop in a.loops:
            inner[loop.var] = range_of(loop, inner)
        for k, index in enumerate(a.indices):
            most = None
            if dtypes.lanes(index.dtype) == 1 and not any(walk.uses_var(index, v) for v in a.lets):
                most = lin.interval(index, inner)[1]
            known = out[k]
            out[k] = None if most is None or known is None else max(known, most)
    return tuple(out)


def _loop(s: For, body: Stmt, at: _Around) -> Stmt:
    lanes = _native_lanes(body, at.limits)
    n = trip_count(s)
    widest = lanes
    if n is not None:
        while lanes > n:
            lanes //= 2
    if lanes < 2:
        return _serial(s, body, n)
    inner = {**at.dom, s.var: range_of(s, at.dom)}
    try:
        if n is not None and n // lanes <= across.MOST:
            one = across.into_one(body, s.var)
            if one is not None:
                return _combined(s, *one, n, lanes, at.dom)
        _check_lanes(s, body, lanes, inner)
        if n is not None and (REST, 1) in s.annotations:
            masked = _rest(s, body, widest, n, at)
            if masked is not None:
                return masked
        return _chunks(s, body, lanes, n, at.dom)
    except _NoVectorForm:
        return _serial(s, body, n)


def _serial(s: For, body: Stmt, n: int | None) -> Stmt:
    kind: ForKind = "unrolled" if n is not None and n <= 4 else "serial"
    return For(s.var, s.min, s.extent, kind, body, None, s.annotations)


def _combined(
    s: For, store: BufferStore, op: BinaryOp, combined: Expr, n: int, lanes: int, dom: _Dom
) -> Stmt:
    """The loop as one statement that combines all its iterations into one element."""

    def part(at: int, size: int) -> Expr:
        first = build.add(s.min, IntImm(at, s.min.dtype))
        if size == 1:
            return walk.substitute(combined, {s.var: first})
        return Lanes(s.var, first, size, dom).whole(combined)

    return across.combined(store, op, part, n, lanes)


def _native_lanes(body: Stmt, limits: CpuLimits) -> int:
    """Lanes such that the widest element of the computation fills one register."""
    width = 1
    for x in walk.walk_stmt(body):
        if type(x) is BufferStore:
            width = max(width, _width(x.buffer.dtype))
        for e in walk.stmt_exprs(x):
            for y in walk.walk_expr(e):
                if type(y) is BufferLoad:
                    width = max(width, _width(y.buffer.dtype))
                elif type(y) is Cast and dtypes.is_float(y.dtype):
                    width = max(width, _width(y.dtype))
    return limits.vector_bytes // width


def _width(dtype: str) -> int:
    size = dtypes.itemsize(dtype)
    return 4 if dtypes.is_float(dtype) and size < 4 else size  # narrow floats compute in float32


def _chunks(s: For, body: Stmt, lanes: int, n: int | None, dom: _Dom) -> Stmt:
    if n is None:
        groups = build.floordiv(s.extent, IntImm(lanes, s.extent.dtype))
        done = build.mul(groups, IntImm(lanes, s.extent.dtype))
        main = _group_loop(s, body, lanes, groups, "serial", dom)
        rest = Var(s.var.name, s.var.dtype)
        tail = walk.substitute_stmt(walk.rename_blocks(body), {s.var: rest})
        return build.seq(
            main, For(rest, build.add(s.min, done), build.sub(s.extent, done), "serial", tail)
        )
    out: list[Stmt] = []
    groups_n = n // lanes
    if groups_n == 1:
        out.append(Lanes(s.var, s.min, lanes, dom).stmt(body))
    else:
        kind: ForKind = "unrolled" if groups_n <= _UNROLL_GROUPS else "serial"
        out.append(_group_loop(s, body, lanes, IntImm(groups_n, s.extent.dtype), kind, dom))
    at, size = groups_n * lanes, lanes // 2
    while at < n:
        if at + size <= n:
            start = build.add(s.min, IntImm(at, s.min.dtype))
            fresh = walk.rename_blocks(body)
            if size == 1:
                out.append(walk.substitute_stmt(fresh, {s.var: start}))
            else:
                out.append(Lanes(s.var, start, size, dom).stmt(fresh))
            at += size
        size //= 2
    return build.seq(*out)


# ----------------------------------------------------------------------------- masks
def _rest(s: For, body: Stmt, lanes: int, n: int, at: _Around) -> Stmt | None:
    """The loop as whole vectors and one with a mask; None where that is no better than smaller
    vectors (one would do), or where the processor or the program has no such vector."""
    groups, left = divmod(n, lanes)
    if left.bit_count() < 2 or not _has_masks(body, at.limits):
        return None
    while lanes >= 2 * left:
        lanes //= 2
    first = n - left
    inner = {**at.dom, s.var: (0, first + lanes - 1)}
    try:
        _check_lanes(s, body, lanes, inner)
        masked = _Masked(s, first, lanes, left, at)
        tail = masked.stmt(walk.rename_blocks(body), masked.mask)
    except _NoVectorForm:
        return None
    if not groups:
        return tail
    short = IntImm(first, s.extent.dtype)
    whole = For(s.var, s.min, short, s.kind, body, s.thread, ())
    return build.seq(_chunks(whole, body, _native_lanes(body, at.limits), first, at.dom), tail)


def _has_masks(body: Stmt, limits: CpuLimits) -> bool:
    """Has the processor masked loads and stores for what the loop touches, and is nothing computed
    that may not be computed of zeros, which lanes without data hold?"""
    if limits.vector_bytes < _MASKS:
        return False
    least = 1 if limits.vector_bytes >= _MASKS_OF_BYTES else 4
    for x in walk.walk_stmt(body):
        if type(x) is BufferStore and dtypes.itemsize(x.buffer.dtype) < least:
            return False
        for e in walk.stmt_exprs(x):
            for y in walk.walk_expr(e):
                if type(y) is BufferLoad and dtypes.itemsize(y.buffer.dtype) < least:
                    return False
                if type(y) is BinOp and y.op in _DIVISIONS and dtypes.is_int(y.dtype):
                    if type(y.b) is not IntImm:
                        return False
    return True


_DIVISIONS = frozenset({"/", "//", "%", "truncmod"})


def _group_loop(s: For, body: Stmt, lanes: int, groups: Expr, kind: ForKind, dom: _Dom) -> Stmt:
    g = Var(f"{s.var.name}_v", s.var.dtype)
    base = build.add(s.min, build.mul(g, IntImm(lanes, s.var.dtype)))
    zero = IntImm(0, s.var.dtype)
    inner = {**dom, g: range_of(For(g, zero, groups, kind, body), dom)}
    return For(g, zero, groups, kind, Lanes(s.var, base, lanes, inner).stmt(body))


# ----------------------------------------------------------------------------- is it allowed?
def _check_lanes(s: For, body: Stmt, lanes: int, dom: _Dom) -> None:
    """Do different iterations of `s` never touch the same stored element, and is every loop inside
    the same for all lanes?"""
    inner = dict(dom)
    local: set[Buffer] = set()
    for x in walk.walk_stmt(body):
        if type(x) is For:
            if walk.uses_var(x.min, s.var) or walk.uses_var(x.extent, s.var):
                raise _NoVectorForm
            inner[x.var] = range_of(x, inner)
        elif type(x) is Alloc:
            local.add(x.buffer)
    found = collect(body)
    stored = {a.buffer for a in found if a.store} - local
    for b in stored:
        _check_buffer([a for a in found if a.buffer is b], s.var, lanes, inner)


def _check_buffer(accesses: list[Access], var: Var, lanes: int, dom: _Dom) -> None:
    first: lin.Linear | None = None
    moving: set[Var] = set()
    for a in accesses:
        moving |= {loop.var for loop in a.loops} | set(a.lets)
    for a in accesses:
        where = flat.place(a.buffer, a.indices, dom)
        if where is None or where.lanes > 1:
            raise _NoVectorForm
        form = where.form
        step = form.coef(var)
        rest = [x for x in form.atoms() if x is not var]
        if step == 0 or any(walk.uses_var(x, var) for x in rest):
            raise _NoVectorForm
        inner = [(dom.get(x), form.coef(x)) for x in rest if type(x) is Var and x in moving]
        if any(type(x) is not Var and walk.uses_var(x, moving) for x in rest):
            raise _NoVectorForm
        if first is None:
            first = form
            if not _apart(step, lanes, inner):
                raise _NoVectorForm
            continue
        gap = lin.plus(form, lin.times(first, -1))
        divisor = gcd(step, *(c for _, c in inner))
        if gap.terms or (gap.const and gap.const % divisor == 0):
            raise _NoVectorForm


def _apart(step: int, lanes: int, inner: list[tuple[lin.Bounds | None, int]]) -> bool:
    """Do lanes stay apart whatever the loops inside do?"""
    if not inner:
        return True
    span = 0
    for bounds, c in inner:
        if bounds is None:
            return False
        span += (bounds[1] - bounds[0]) * abs(c)
    return span < abs(step) or abs(step) * (lanes - 1) < gcd(*(c for _, c in inner))


# ----------------------------------------------------------------------------- the vector form
class Lanes:
    """Rewrites a loop body for `lanes` iterations at once, from `base` on."""

    def __init__(self, var: Var, base: Expr, lanes: int, dom: _Dom) -> None:
        self.lanes = lanes
        self.dom = dom
        self.vars: dict[Var, Expr] = {var: Ramp(base, IntImm(1, var.dtype), lanes)}
        self.buffers: dict[Buffer, Buffer] = {}

    # statements -----------------------------------------------------------------
    def stmt(self, s: Stmt, mask: Expr | None = None) -> Stmt:
        """`s` for all lanes; with a mask, for those where it holds."""
        match s:
            case BufferStore():
                return self._store(s, mask)
            case Seq():
                return build.seq(*[self.stmt(x, mask) for x in s.items])
            case For():
                lo, n = self.expr(s.min, mask), self.expr(s.extent, mask)
                if dtypes.lanes(lo.dtype) > 1 or dtypes.lanes(n.dtype) > 1:
                    raise _NoVectorForm
                self.dom = {**self.dom, s.var: range_of(s, self.dom)}
                body = self.stmt(s.body, mask)
                return For(s.var, lo, n, s.kind, body, s.thread, s.annotations)
            case IfThenElse():
                return self._branch(s, mask)
            case LetStmt():
                value = self.expr(s.value, mask)
                fresh = Var(s.var.name, value.dtype)
                self.vars[s.var] = fresh
                return LetStmt(fresh, value, self.stmt(s.body, mask))
            case Alloc():
                return self._alloc(s, mask)
            case Evaluate() if type(s.value) is Call and s.value.op == "assume":
                return Evaluate(IntImm(0))
            case _:
                raise _NoVectorForm

    def _store(self, s: BufferStore, mask: Expr | None) -> Stmt:
        buffer, indices = self._access(s.buffer, s.indices, mask)
        n = max(dtypes.lanes(i.dtype) for i in indices) if indices else 1
        if n == 1:
            raise _NoVectorForm
        own = None if s.predicate is None else self.expr(s.predicate, mask)
        value = self._wide(self.expr(s.value, mask))
        return BufferStore(buffer, value, indices, self._both(mask, own))

    def _branch(self, s: IfThenElse, mask: Expr | None) -> Stmt:
        cond = self.expr(s.cond, mask)
        if dtypes.lanes(cond.dtype) == 1:
            then = self.stmt(s.then, mask)
            return IfThenElse(cond, then, None if s.orelse is None else self.stmt(s.orelse, mask))
        held = Var("mask", cond.dtype)
        then = self.stmt(s.then, self._both(mask, held))
        if s.orelse is not None:
            then = build.seq(then, self.stmt(s.orelse, self._both(mask, Not(held))))
        return LetStmt(held, cond, then)

    def _alloc(self, s: Alloc, mask: Expr | None) -> Stmt:
        """A buffer of one iteration gets a copy per lane."""
        old = s.buffer
        if old.strides is not None or old.elem_offset is not None:
            raise _NoVectorForm
        shape = (*old.shape, IntImm(self.lanes))
        new = Buffer(old.name, shape, old.dtype, old.scope, None, None, old.align)
        self.buffers[old] = new
        return Alloc(new, self.stmt(s.body, mask))

    # expressions ----------------------------------------------------------------
    def whole(self, e: Expr) -> Expr:
        """`e` for all lanes, as a vector."""
        return self._wide(self.expr(e, None))

    def _wide(self, e: Expr) -> Expr:
        return e if dtypes.lanes(e.dtype) > 1 else Broadcast(e, self.lanes)

    def _both(self, a: Expr | None, b: Expr | None) -> Expr | None:
        if a is None or b is None:
            chosen = a if b is None else b
            return None if chosen is None else self._wide(chosen)
        a, b = self._wide(a), self._wide(b)
        return BinOp("and", a, b, a.dtype)

    def _access(
        self, b: Buffer, indices: tuple[Expr, ...], mask: Expr | None
    ) -> tuple[Buffer, tuple[Expr, ...]]:
        out = tuple([self.expr(i, mask) for i in indices])
        new = self.buffers.get(b)
        if new is None:
            return b, out
        lane = Ramp(IntImm(0), IntImm(1), self.lanes)
        return new, (*out, lane)

    def expr(self, e: Expr, mask: Expr | None) -> Expr:
        """`e` for all lanes: scalar where it is the same for all."""
        t = type(e)
        if t is Var:
            return self.vars.get(e, e)  # type: ignore[arg-type]  # t is the class of e
        if t is IntImm or t is FloatImm:
            return e
        match e:
            case BinOp():
                return self._binary(e, self.expr(e.a, mask), self.expr(e.b, mask))
            case BufferLoad():
                return self._load(e, mask)
            case Call():
                return self._call(e, mask)
            case Select():
                c, a, b = (self.expr(x, mask) for x in (e.cond, e.a, e.b))
                if dtypes.lanes(c.dtype) == dtypes.lanes(a.dtype) == dtypes.lanes(b.dtype) == 1:
                    return Select(c, a, b)
                return Select(self._wide(c), self._wide(a), self._wide(b))
            case Cast():
                value = self.expr(e.value, mask)
                if dtypes.lanes(value.dtype) == 1:
                    return build.cast(e.dtype, value)
                if type(value) is Ramp and dtypes.is_int(e.dtype) and dtypes.bits(e.dtype) >= 32:
                    base, step = build.cast(e.dtype, value.base), build.cast(e.dtype, value.stride)
                    return Ramp(base, step, value.lanes)
                return Cast(dtypes.with_lanes(e.dtype, self.lanes), value)
            case Not():
                return build.logical_not(self.expr(e.a, mask))
            case Let():
                value = self.expr(e.value, mask)
                fresh = Var(e.var.name, value.dtype)
                self.vars[e.var] = fresh
                return Let(fresh, value, self.expr(e.body, mask))
            case _:
                raise _NoVectorForm  # vectors inside a vectorized loop, strings

    def _binary(self, e: BinOp, a: Expr, b: Expr) -> Expr:
        la, lb = dtypes.lanes(a.dtype), dtypes.lanes(b.dtype)
        if la == lb == 1:
            return e if a is e.a and b is e.b else build.binary(e.op, a, b)
        if type(a) is Ramp and lb == 1 and e.op in ("+", "-", "*"):
            if e.op == "*":
                return Ramp(build.mul(a.base, b), build.mul(a.stride, b), a.lanes)
            return Ramp(build.binary(e.op, a.base, b), a.stride, a.lanes)
        if type(b) is Ramp and la == 1 and e.op in ("+", "*"):
            if e.op == "*":
                return Ramp(build.mul(a, b.base), build.mul(a, b.stride), b.lanes)
            return Ramp(build.add(a, b.base), b.stride, b.lanes)
        if type(a) is Ramp and type(b) is Ramp and e.op in ("+", "-"):
            return Ramp(
                build.binary(e.op, a.base, b.base), build.binary(e.op, a.stride, b.stride), a.lanes
            )
        return BinOp(e.op, self._wide(a), self._wide(b), dtypes.with_lanes(e.dtype, self.lanes))

    def _load(self, e: BufferLoad, mask: Expr | None) -> Expr:
        own = None if e.predicate is None else self.expr(e.predicate, mask)
        buffer, indices = self._access(e.buffer, e.indices, mask)
        vector = any(dtypes.lanes(i.dtype) > 1 for i in indices)
        if mask is not None and not flat.inside(buffer, indices, self.dom):
            own = self._both(mask, own)
        if own is None:
            return BufferLoad(buffer, indices)
        if not vector:
            if dtypes.lanes(own.dtype) == 1 and mask is None:
                return BufferLoad(buffer, indices, own)
            indices = tuple([self._wide(i) for i in indices])
        return BufferLoad(buffer, indices, self._wide(own))

    def _call(self, e: Call, mask: Expr | None) -> Expr:
        if e.op == "likely":
            return self.expr(e.args[0], mask)
        if e.op == "if_then_else":
            return self._choice(e, mask)
        args = tuple([self.expr(x, mask) for x in e.args])
        if all(dtypes.lanes(x.dtype) == 1 for x in args):
            return Call(e.op, args, e.dtype) if e.op != "call_extern" else self._refuse()
        if e.op in MATH or e.op == "reinterpret":
            wide = tuple([self._wide(x) for x in args])
            return Call(e.op, wide, dtypes.with_lanes(e.dtype, self.lanes))
        return self._refuse()

    def _refuse(self) -> Expr:
        raise _NoVectorForm

    def _choice(self, e: Call, mask: Expr | None) -> Expr:
        c = self.expr(e.args[0], mask)
        if dtypes.lanes(c.dtype) == 1:
            a, b = self.expr(e.args[1], mask), self.expr(e.args[2], mask)
            if dtypes.lanes(a.dtype) > 1 or dtypes.lanes(b.dtype) > 1:
                a, b = self._wide(a), self._wide(b)
            return Call("if_then_else", (c, a, b), a.dtype)
        a = self.expr(e.args[1], self._both(mask, c))
        b = self.expr(e.args[2], self._both(mask, Not(c)))
        return Select(c, self._wide(a), self._wide(b))


class _Masked(Lanes):
    """The same for a vector of which only the first `left` lanes are iterations. Others compute
    what nobody reads: what they load is masked unless it is there, and what they store is masked
    unless it goes to the end of a temporary."""

    def __init__(self, s: For, first: int, lanes: int, left: int, at: _Around) -> None:
        super().__init__(s.var, build.add(s.min, IntImm(first, s.min.dtype)), lanes, at.dom)
        self.var, self.read = s.var, at.read
        zero, one = IntImm(0), IntImm(1)
        end = Broadcast(IntImm(left), lanes)
        self.mask: Expr = BinOp("<", Ramp(zero, one, lanes), end, dtypes.with_lanes("bool", lanes))
        self.end = first + left

    def _store(self, s: BufferStore, mask: Expr | None) -> Stmt:
        if s.buffer not in self.read or mask is not self.mask:
            return super()._store(s, mask)
        if not self._beyond(s):
            raise _NoVectorForm  # smaller vectors stay in registers, masked ones do not
        masked = super()._store(s, mask)  # what is loaded for it may lie outside
        assert type(masked) is BufferStore
        own = None if s.predicate is None else self._wide(self.expr(s.predicate, mask))
        return BufferStore(masked.buffer, masked.value, masked.indices, own)

    def _beyond(self, s: BufferStore) -> bool:
        """Do the lanes without an iteration lie in the temporary, where nothing is read?"""
        indices = tuple([self.expr(i, None) for i in s.indices])
        if not flat.inside(s.buffer, indices, self.dom):
            return False
        moving = [k for k, i in enumerate(s.indices) if walk.uses_var(i, self.var)]
        if len(moving) != 1:
            return False
        (k,) = moving
        form, most = lin.linear(s.indices[k], self.dom), self.read[s.buffer][k]
        rest = form.without([self.var])
        if form.coef(self.var) != 1 or any(walk.uses_var(a, self.var) for a in rest.atoms()):
            return False
        return most is not None and most < lin.interval_of(rest, self.dom)[0] + self.end

    def _load(self, e: BufferLoad, mask: Expr | None) -> Expr:
        if mask is self.mask and e.predicate is None:
            buffer, indices = self._access(e.buffer, e.indices, mask)
            if all(dtypes.lanes(i.dtype) == 1 for i in indices):
                return BufferLoad(buffer, indices)  # the first lane is an iteration, and makes it
        out = super()._load(e, mask)
        if e.buffer in self.read and type(out) is BufferLoad and out.predicate is not None:
            raise _NoVectorForm
        return out
