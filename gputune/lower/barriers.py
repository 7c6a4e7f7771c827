"""Where must the threads of a block wait for each other? Before a statement that touches an element
which another thread has touched since the last barrier, if one of the two stores.

A barrier is needed only where the threads differ: accesses by the same thread are in order anyway.
Arrays that take turns in the same memory are always parted by one.
Who touches what is counted out (`touches`); where there is too much to count, a barrier is put.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from ..errors import LowerError
from ..ir import build, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import Access, collect, loop_bounds
from .kernels import inner, with_inner
from .limits import CpuLimits
from .shared_memory import SharedLayout, shared_layout
from .tiles import in_registers
from .touches import Threads, Touch, address_of, length, mixed, reach, share

BARRIER = "sync_threads"
"""`T.evaluate(Call(BARRIER))` is a barrier of the block (lowered code only)."""
_FEW_TURNS = 8  # of a loop that are counted out one by one


def barrier() -> Stmt:
    """All threads of the block wait here."""
    return Evaluate(Call(BARRIER, (), "int32"))


def is_barrier(s: Stmt) -> bool:
    """Is it one?"""
    return type(s) is Evaluate and type(s.value) is Call and s.value.op == BARRIER


def insert_barriers(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with barriers where threads exchange data.

    Raises:
        LowerError: one would stand where not all threads of the block come by.
    """
    axes, body = inner(kernel)
    threads = Threads(axes)
    if threads.count == 1:
        return kernel
    dom = {a.var: (0, length(a) - 1) for a in axes}
    stored = {s.buffer for s in walk.walk_stmt(body) if type(s) is BufferStore}
    shared = {b for b in stored if not in_registers(b)}
    out = _Inserter(threads, shared, shared_layout(body)).go(body, dom)
    return with_inner(kernel, out.stmt)


def has_enough(kernel: PrimFunc) -> bool:
    """Do the barriers of a lowered kernel suffice: would no other be put?

    Raises:
        LowerError: one more would stand where not all threads of the block come by.
    """
    put = insert_barriers(kernel, CpuLimits())
    return _count(put.body) == _count(kernel.body)


@dataclass(frozen=True, slots=True)
class _Done:
    """A statement with its barriers.

    head: what it touches before its first barrier; tail: after its last one; fenced: does every
    thread pass a barrier in it (then head and tail are apart)?
    """

    stmt: Stmt
    head: list[Touch]
    tail: list[Touch]
    fenced: bool


class _Inserter:
    def __init__(self, threads: Threads, shared: set[Buffer], layout: SharedLayout) -> None:
        self.threads = threads
        self.shared = shared
        self.layout = layout

    def go(self, s: Stmt, dom: dict[Var, lin.Bounds]) -> _Done:
        match s:
            case Seq():
                return self._seq(s.items, dom)
            case For():
                return self._loop(s, dom)
            case IfThenElse():
                return self._branch(s, dom)
            case LetStmt():
                x = self.go(s.body, dom)
                own = self._touches(Evaluate(s.value), dom)
                return _Done(LetStmt(s.var, s.value, x.stmt), own + x.head, x.tail, x.fenced)
            case Alloc():
                x = self.go(s.body, dom)
                return _Done(Alloc(s.buffer, x.stmt), x.head, x.tail, x.fenced)
            case Evaluate() if is_barrier(s):
                return _Done(s, [], [], True)
            case _:
                own = self._touches(s, dom)
                return _Done(s, own, own, False)

    def _touches(self, s: Stmt, dom: dict[Var, lin.Bounds]) -> list[Touch]:
        out: list[Touch] = []
        for a in collect(s):
            if a.buffer in self.shared:
                mine = dict(dom)
                for loop in a.loops:
                    bounds = loop_bounds(loop)
                    if bounds is not None:
                        mine[loop.var] = bounds
                out.append(Touch(a, mine))
        return out

    def _seq(self, items: Sequence[Stmt], dom: dict[Var, lin.Bounds]) -> _Done:
        out: list[Stmt] = []
        head: list[Touch] = []
        pending: list[Touch] = []
        fenced = False
        for item in items:
            x = self.go(item, dom)
            if self._conflict(pending, x.head, dom):
                out.append(barrier())
                fenced, pending = True, []
            if not fenced:
                head += x.head
            if x.fenced:
                fenced, pending = True, list(x.tail)
            else:
                pending += x.tail
            out.append(x.stmt)
        return _Done(build.seq(*out), head, pending, fenced)

    def _loop(self, s: For, dom: dict[Var, lin.Bounds]) -> _Done:
        bounds = loop_bounds(s)
        x = self.go(s.body, {**dom, s.var: bounds or reach(s, dom)})
        body, head, fenced = x.stmt, x.head, x.fenced
        if self._conflict(x.tail, x.head, dom, s.var):
            body, head, fenced = build.seq(barrier(), body), [], True
        if fenced and self._divergent(s.min, s.extent):
            raise _diverges(f"loop {s.var.name}, whose length differs from thread to thread,")
        new = For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
        runs = bounds is not None  # at least once
        return _Done(new, head, x.tail if fenced and runs else [*x.head, *x.tail], fenced and runs)

    def _branch(self, s: IfThenElse, dom: dict[Var, lin.Bounds]) -> _Done:
        own = self._touches(Evaluate(s.cond), dom)
        then = self.go(s.then, dom)
        orelse = None if s.orelse is None else self.go(s.orelse, dom)
        inside = [*then.head, *then.tail]
        has = _has_barrier(then.stmt)
        if orelse is not None:
            inside += [*orelse.head, *orelse.tail]
            has = has or _has_barrier(orelse.stmt)
        touched = [_under(t, s.cond) for t in inside]
        if has and self._divergent(s.cond):
            if s.orelse is not None or not _may_repeat(s):
                raise _diverges("a condition that threads answer differently")
            return self.go(_spread(s.cond, s.then), dom)
        new = IfThenElse(s.cond, then.stmt, None if orelse is None else orelse.stmt)
        return _Done(new, own + touched, own + touched, False)

    def _divergent(self, *exprs: Expr) -> bool:
        """May threads of a block find different values?"""
        return any(
            type(x) is BufferLoad or (type(x) is Var and self.threads.lengths.get(x, 1) > 1)
            for e in exprs
            for x in walk.walk_expr(e)
        )

    # -------------------------------------------------------------- who touches what
    def _conflict(
        self,
        before: Sequence[Touch],
        after: Sequence[Touch],
        dom: Mapping[Var, lin.Bounds],
        loop: Var | None = None,
    ) -> bool:
        """May a thread touch through `after` what another has touched through `before`, one of them
        storing?

        Args:
            dom: the variables that have the same value for both.
            loop: `after` is in a later iteration of this loop than `before`.
        """
        return any(
            (a.access.store or b.access.store)
            and (
                self._meet(a, b, dom, loop)
                if a.access.buffer is b.access.buffer
                else self.layout.overlap(a.access.buffer, b.access.buffer)
            )
            for a in before
            for b in after
        )

    def _meet(self, a: Touch, b: Touch, dom: Mapping[Var, lin.Bounds], loop: Var | None) -> bool:
        """May different threads touch one element through the two?"""
        if not self._may(a, b, dom, loop, ()):
            return False
        tied = {
            v
            for t in (a, b)
            for v in mixed(t.access, t.dom, {*self.threads.lengths, *(t.dom.keys() - dom.keys())})
            if v in dom and v not in self.threads.lengths
        }
        # on some of what is the same for both depends what runs: count that out as well
        return not tied or self._may(a, b, dom, loop, [v for v in dom if v in tied])

    def _may(
        self,
        a: Touch,
        b: Touch,
        dom: Mapping[Var, lin.Bounds],
        loop: Var | None,
        alike: Sequence[Var],
    ) -> bool:
        common = {v: r for v, r in dom.items() if v not in alike}
        one, two = (self.threads.points(t, common, loop, alike) for t in (a, b))
        if one is None or two is None:
            return True
        if one.symbolic != two.symbolic:
            turns = _in_turns(a, b, [v for v in common if v not in self.threads.lengths])
            if turns is None:
                return True
            a, b, v = turns
            common.pop(v)
            one, two = (self.threads.points(t, common, loop, [*alike, v]) for t in (a, b))
            if one is None or two is None or one.symbolic != two.symbolic:
                return True
        if not share(one, two):
            return False
        if loop is None:
            return True
        rounds = np.unique(one.round)
        return any(share(one.only(one.round == k), two.only(two.round > k)) for k in rounds)


def _in_turns(a: Touch, b: Touch, same: Sequence[Var]) -> tuple[Touch, Touch, Var] | None:
    """Two accesses whose addresses differ in remainders of a variable that is the same for both:
    as they are for the first values of that variable, which stand for all others; None where they
    differ in anything else. (Versions of a buffer take turns.)"""
    forms = [address_of(t) for t in (a, b)]
    if forms[0] is None or forms[1] is None:
        return None
    apart = lin.plus(forms[0], lin.times(forms[1], -1))
    found: set[Var] = set()
    period = 1
    for atom in apart.atoms():
        names = walk.free_vars(atom) & set(same)
        if not names:
            continue
        turn = _turn_of(atom, names, a.dom)
        if turn is None:
            return None
        period = lcm(period, turn)
        found |= names
    if len(found) != 1:
        return None
    (v,) = found
    lo, hi = a.dom[v]
    few = (lo, min(hi, lo + period - 1))
    one, two = (
        Touch(
            replace(t.access, conds=tuple([c for c in t.access.conds if not walk.uses_var(c, v)])),
            {**t.dom, v: few},
        )
        for t in (a, b)
    )
    return one, two, v


def _turn_of(atom: Expr, names: set[Var], dom: Mapping[Var, lin.Bounds]) -> int | None:
    """After how many values of a variable does an atom over it repeat itself?"""
    if type(atom) is Var:
        lo, hi = dom[atom]
        return hi - lo + 1 if hi - lo < _FEW_TURNS else None
    if type(atom) is not BinOp or atom.op != "%" or type(atom.b) is not IntImm or len(names) > 1:
        return None
    (v,) = names
    inside = lin.linear(atom.a, dom)
    return int(atom.b.value) if inside.atoms() == [v] and abs(inside.coef(v)) == 1 else None


def _diverges(what: str) -> LowerError:
    return LowerError(
        f"a barrier would stand under {what}: not all threads of the block would reach it",
        hint="split by factors that divide, or let whole blocks run the same loops",
        code="divergent-barrier",
    )


def _has_barrier(s: Stmt) -> bool:
    return any(is_barrier(x) for x in walk.walk_stmt(s))


def _count(s: Stmt) -> int:
    return sum(is_barrier(x) for x in walk.walk_stmt(s))


def _may_repeat(s: IfThenElse) -> bool:
    """Is the condition the same when it is asked again between the statements?"""
    read = {x.buffer for x in walk.walk_expr(s.cond) if type(x) is BufferLoad}
    return not any(type(x) is BufferStore and x.buffer in read for x in walk.walk_stmt(s.then))


def _spread(cond: Expr, s: Stmt) -> Stmt:
    """`if cond: s` with the condition at each statement, so that barriers can stand between."""
    match s:
        case Seq():
            return build.seq(*[_spread(cond, x) for x in s.items])
        case For():
            body = _spread(cond, s.body)
            return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
        case Alloc():
            return Alloc(s.buffer, _spread(cond, s.body))
        case LetStmt() if not any(type(x) is BufferLoad for x in walk.walk_expr(s.value)):
            return LetStmt(s.var, s.value, _spread(cond, s.body))
        case _:
            return IfThenElse(cond, s)


def _under(t: Touch, cond: Expr) -> Touch:
    a = t.access
    conds = (cond, *a.conds)
    return Touch(
        Access(a.buffer, a.indices, a.store, a.mask, a.order, a.loops, conds, a.lets, a.warp), t.dom
    )
