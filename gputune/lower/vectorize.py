"""What does a vectorized loop become? Vector statements of a native number of lanes.

A loop of n iterations becomes n // lanes groups (an unrolled loop), then smaller powers of two,
then single iterations. What has no vector form, or would mean something else when all lanes run
together, runs lane by lane: never wrong, only slower.
"""

from __future__ import annotations

from math import gcd

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
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
from . import flat
from . import linear as lin
from .accesses import Access, collect, loop_bounds, trip_count
from .limits import CpuLimits
from .prepare import as_block

_UNROLL_GROUPS = 8
_Dom = dict[Var, lin.Bounds]


class _NoVectorForm(Exception):
    """This body cannot run all lanes together."""


def vectorize(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` without vectorized loops."""
    return as_block(func, _go(func.body, {}, limits))


def _go(s: Stmt, dom: _Dom, limits: CpuLimits) -> Stmt:
    if type(s) is For:
        inner = {**dom, s.var: _range_of(s, dom)}
        body = _go(s.body, inner, limits)
        if s.kind == "vectorized":
            return _loop(s, body, dom, limits)
        if body is s.body:
            return s
        return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, limits))
    assert out is not None  # _go never deletes
    return out


def _range_of(s: For, dom: _Dom) -> lin.Bounds:
    known = loop_bounds(s)
    if known is not None:
        return known
    (a, b), (_, m) = lin.interval(s.min, dom), lin.interval(s.extent, dom)
    return a, max(a, b + m - 1)


def _loop(s: For, body: Stmt, dom: _Dom, limits: CpuLimits) -> Stmt:
    lanes = _native_lanes(body, limits)
    n = trip_count(s)
    if n is not None:
        while lanes > n:
            lanes //= 2
    if lanes < 2:
        return _serial(s, body, n)
    inner = {**dom, s.var: _range_of(s, dom)}
    try:
        _check_lanes(s, body, lanes, inner)
        return _chunks(s, body, lanes, n, dom)
    except _NoVectorForm:
        return _serial(s, body, n)


def _serial(s: For, body: Stmt, n: int | None) -> Stmt:
    kind: ForKind = "unrolled" if n is not None and n <= 4 else "serial"
    return For(s.var, s.min, s.extent, kind, body, None, s.annotations)


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
        out.append(_Lanes(s.var, s.min, lanes, dom).stmt(body))
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
                out.append(_Lanes(s.var, start, size, dom).stmt(fresh))
            at += size
        size //= 2
    return build.seq(*out)


def _group_loop(s: For, body: Stmt, lanes: int, groups: Expr, kind: ForKind, dom: _Dom) -> Stmt:
    g = Var(f"{s.var.name}_v", s.var.dtype)
    base = build.add(s.min, build.mul(g, IntImm(lanes, s.var.dtype)))
    zero = IntImm(0, s.var.dtype)
    inner = {**dom, g: _range_of(For(g, zero, groups, kind, body), dom)}
    return For(g, zero, groups, kind, _Lanes(s.var, base, lanes, inner).stmt(body))


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
            inner[x.var] = _range_of(x, inner)
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
class _Lanes:
    """Rewrites a loop body for `lanes` iterations at once, from `base` on."""

    def __init__(self, var: Var, base: Expr, lanes: int, dom: _Dom) -> None:
        self.lanes = lanes
        self.dom = dom
        self.vars: dict[Var, Expr] = {var: Ramp(base, IntImm(1, var.dtype), lanes)}
        self.buffers: dict[Buffer, Buffer] = {}

    # statements -----------------------------------------------------------------
    def stmt(self, s: Stmt, mask: Expr | None = None) -> Stmt:
        match s:
            case BufferStore():
                return self._store(s, mask)
            case Seq():
                return build.seq(*[self.stmt(x, mask) for x in s.items])
            case For():
                lo, n = self.expr(s.min, mask), self.expr(s.extent, mask)
                if dtypes.lanes(lo.dtype) > 1 or dtypes.lanes(n.dtype) > 1:
                    raise _NoVectorForm
                self.dom = {**self.dom, s.var: _range_of(s, self.dom)}
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
