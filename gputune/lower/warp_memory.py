"""Where does a buffer of scope "warp" live? In the registers of the 32 lanes of a warp, each of
which holds a part; what another lane holds is fetched by a shuffle.

Counted row by row, `step` elements at a time go to one lane after the other: element f belongs to
lane `f // step % 32`. What the stores say decides the step: each lane stores elements of its own,
at `step * threadIdx.x` plus what is the same for all lanes. A load may be of any lane's element, if
it is the same register for all lanes: a lane gives what it has in the register that *it* names.

All lanes come to a shuffle. So it stands before the statement that needs it, and a condition which
lanes answer differently moves inwards, to the single statements.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from math import prod

from ..errors import LowerError
from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    PrimFunc,
    Select,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import collect, range_of
from .flat import steps_of
from .kernels import inner, with_inner
from .lanes import shuffle
from .limits import CpuLimits
from .private import reads_of_others
from .tiles import WARP, of_warp
from .touches import Threads, length

_CODE = "warp-memory"
_SHARED = 'or set_scope(..., "shared")'


def lower_warp_memory(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with registers and shuffles in place of what warps hold.

    Raises:
        LowerError: a buffer of scope "warp" is stored or loaded as lanes cannot do it.
    """
    axes, body = inner(kernel)
    if not any(type(s) is Alloc and of_warp(s.buffer) for s in walk.walk_stmt(body)):
        return kernel
    lane = next(a.var for a in axes if a.thread == "threadIdx.x")  # (`split_kernels` made it)
    dom = {a.var: (0, length(a) - 1) for a in axes}
    return with_inner(kernel, _Lowering(lane, Threads(axes)).go(body, dom, build.TRUE))


@dataclass(frozen=True, slots=True)
class _Held:
    """How lanes hold a buffer.

    Attributes:
        registers: what one lane has of it. (Its scope stays: a lane that never wrote in a register
            gives what it has to a shuffle all the same, and nobody takes it.)
        step: neighbouring elements that lie in one lane.
        rounds: how often it goes round the lanes.
    """

    registers: Buffer
    step: int
    rounds: int


class _Shuffled:
    """The shuffles before a statement, each once."""

    def __init__(self) -> None:
        self.made: dict[Hashable, tuple[Var, Expr]] = {}
        self.of: set[Buffer] = set()

    def ask(self, b: Buffer, held: _Held, register: Expr, lane: Expr) -> Var:
        """The variable that has what a lane has in a register."""
        self.of.add(b)
        key = (b, lin.key(register), lin.key(lane))
        if key not in self.made:
            value = shuffle(BufferLoad(held.registers, (register,)), lane)
            self.made[key] = (Var(f"{b.name}_other", b.dtype), value)
        return self.made[key][0]

    def before(self, s: Stmt) -> Stmt:
        """The statement with them."""
        for v, e in reversed(self.made.values()):
            s = LetStmt(v, e, s)
        return s


class _Lowering:
    """own: variables that may differ among the lanes of a warp."""

    def __init__(self, lane: Var, threads: Threads) -> None:
        self.lane = lane
        self.threads = threads
        self.own = {lane}
        self.held: dict[Buffer, _Held] = {}

    def go(self, s: Stmt, dom: dict[Var, lin.Bounds], where: Expr) -> Stmt:
        """The statement; `where`: a condition that lanes answer differently, under which it runs,
        but to which its shuffles do not wait."""
        if not any(_uses(x) for x in walk.walk_stmt(s)):
            return _under(where, s)
        match s:
            case Alloc() if of_warp(s.buffer):
                held = self.held[s.buffer] = self._hold(s, dom)
                return Alloc(held.registers, self.go(s.body, dom, where))
            case Alloc():
                return Alloc(s.buffer, self.go(s.body, dom, where))
            case Seq():
                return build.seq(*[self.go(x, dom, where) for x in s.items])
            case For():
                return self._loop(s, dom, where)
            case IfThenElse():
                return self._branch(s, dom, where)
            case LetStmt():
                return self._let(s, dom, where)
            case BufferStore():
                return self._store(s, dom, where)
            case _:
                found = _Shuffled()
                out = walk.map_stmt(s, lambda e: self._expr(e, dom, found, where), lambda x: x)
                assert out is not None  # nothing is deleted
                return found.before(_under(where, out))

    # ------------------------------------------------------------------ statements
    def _loop(self, s: For, dom: dict[Var, lin.Bounds], where: Expr) -> Stmt:
        found = _Shuffled()
        lo, n = (self._expr(e, dom, found, where) for e in (s.min, s.extent))
        if found.made or self._differs(lo, n):
            raise LowerError(
                f"the length of loop {s.var.name} may differ among the lanes of a warp, but in it "
                "they load from each other",
                hint=f"let it have the same length for all, {_SHARED}",
                code=_CODE,
            )
        body = self.go(s.body, {**dom, s.var: range_of(s, dom)}, where)
        return For(s.var, lo, n, s.kind, body, s.thread, s.annotations)

    def _branch(self, s: IfThenElse, dom: dict[Var, lin.Bounds], where: Expr) -> Stmt:
        found = _Shuffled()
        cond = self._expr(s.cond, dom, found, where)
        if not self._differs(cond):
            other = None if s.orelse is None else self.go(s.orelse, dom, where)
            return found.before(IfThenElse(cond, self.go(s.then, dom, where), other))
        read = {x.buffer for x in walk.walk_expr(s.cond) if type(x) is BufferLoad}
        if any(type(x) is BufferStore and x.buffer in read for x in walk.walk_stmt(s)):
            raise LowerError(
                f"the lanes of a warp load from each other under the condition {s.cond}, which "
                "they answer differently, and which what is under it changes",
                hint="load into a local buffer first",
                code=_CODE,
            )
        then = self.go(s.then, dom, build.logical_and(where, cond))
        if s.orelse is None:
            return found.before(then)
        no = build.logical_and(where, build.logical_not(cond))
        return found.before(build.seq(then, self.go(s.orelse, dom, no)))

    def _let(self, s: LetStmt, dom: dict[Var, lin.Bounds], where: Expr) -> Stmt:
        found = _Shuffled()
        value = self._expr(s.value, dom, found, where)
        if _reads(value) and not build.is_literal(where, 1):
            raise LowerError(
                f"{s.var.name} is loaded under the condition {where}, which the lanes of a warp "
                "answer differently, and they load from each other there as well",
                hint="load into a local buffer first",
                code=_CODE,
            )
        if found.made or self._differs(value):
            self.own.add(s.var)
        return found.before(LetStmt(s.var, value, self.go(s.body, dom, where)))

    def _store(self, s: BufferStore, dom: dict[Var, lin.Bounds], where: Expr) -> Stmt:
        found = _Shuffled()
        value = self._expr(s.value, dom, found, where)
        at = tuple([self._expr(i, dom, found, where) for i in s.indices])
        held = self.held.get(s.buffer)
        if held is None:
            return found.before(_under(where, BufferStore(s.buffer, value, at, s.predicate)))
        if s.buffer in found.of:
            raise LowerError(
                f"a statement stores {s.buffer.name}, in warp memory, and loads what other lanes "
                "have in it, in no order",
                hint="load into a local buffer first",
                code=_CODE,
            )
        register = self._own(self._form(s.buffer, at, dom), held, dom)
        if register is None:
            raise self._not_own(s.buffer, at)
        return found.before(_under(where, BufferStore(held.registers, value, (register,))))

    # ------------------------------------------------------------------ expressions
    def _expr(
        self,
        e: Expr,
        dom: dict[Var, lin.Bounds],
        found: _Shuffled,
        where: Expr,
        sure: bool = True,
    ) -> Expr:
        """The expression with registers; `sure`: is it evaluated wherever the statement runs?"""
        match e:
            case Let():
                body = walk.substitute(e.body, {e.var: e.value})
                return self._expr(body, dom, found, where, sure)
            case Call(op="if_then_else") | Select() | BinOp(op="and" | "or"):
                first, *others = e.args if type(e) is Call else walk.expr_children(e)
                parts = iter([
                    self._expr(first, dom, found, where, sure),
                    *[self._expr(x, dom, found, where, False) for x in others],
                ])  # fmt: skip
                return walk.map_expr(e, lambda _: next(parts))
            case _:
                out = walk.map_expr(e, lambda x: self._expr(x, dom, found, where, sure))
        if type(out) is not BufferLoad or out.buffer not in self.held:
            return out
        held = self.held[out.buffer]
        form = self._form(out.buffer, out.indices, dom)
        register = self._own(form, held, dom)
        if register is not None:
            return BufferLoad(held.registers, (register,))
        if any(_reads(i) for i in out.indices) and not (sure and build.is_literal(where, 1)):
            raise LowerError(
                f"where {out} lies is looked up under a condition, but all lanes of a warp take "
                "part in loading it",
                hint="load the index into a local buffer first",
                code=_CODE,
            )
        return found.ask(out.buffer, held, *self._other(out, form, held, dom))

    def _differs(self, *exprs: Expr) -> bool:
        """May the lanes of a warp find different values?"""
        return any(x in self.own or _reads(x) for e in exprs for x in walk.walk_expr(e))

    # ------------------------------------------------------------------ where elements lie
    def _hold(self, s: Alloc, dom: dict[Var, lin.Bounds]) -> _Held:
        """How lanes hold a buffer, by what is stored in it."""
        b = s.buffer
        if reads_of_others(s, dom, self.threads, warps=True):
            raise LowerError(
                f"buffer {b.name} in warp memory: a warp reads an element that another warp wrote, "
                "but each warp has one of its own",
                hint=f"bind the loops that tell warps apart alike in writer and reader, {_SHARED}",
                code="not-private",
            )
        sizes = [int(n.value) for n in b.shape if type(n) is IntImm]
        if len(sizes) < len(b.shape) or b.strides is not None:
            raise LowerError(
                f"buffer {b.name} in warp memory is padded or has no constant size",
                hint="take storage_align away",
                code=_CODE,
            )
        steps: set[int] = set()
        for a in collect(s.body, b):
            if a.store:
                mine = dict(dom)
                for loop in a.loops:
                    mine[loop.var] = range_of(loop, mine)
                step = self._form(b, a.indices, mine).coef(self.lane)
                if step < 1 or (steps and step not in steps):
                    raise self._not_own(b, a.indices)
                steps.add(step)
        step = next(iter(steps), 1)
        rounds = -(-prod(sizes) // (WARP * step))
        registers = Buffer(b.name, (IntImm(rounds * step),), b.dtype, b.scope)
        return _Held(registers, step, rounds)

    def _not_own(self, b: Buffer, at: Iterable[Expr]) -> LowerError:
        place = ", ".join(map(str, at))
        return LowerError(
            f"buffer {b.name} in warp memory is stored at [{place}], but each lane of a warp keeps "
            f"elements of its own: {self.lane.name} times one number, the same for all its stores, "
            "plus what is the same for all lanes",
            hint=f"split a loop of its writer by {WARP} and bind that part to threadIdx.x, "
            f"{_SHARED}",
            code=_CODE,
        )

    def _form(self, b: Buffer, at: Iterable[Expr], dom: dict[Var, lin.Bounds]) -> lin.Linear:
        """The number of an element."""
        total = lin.Linear({}, 0)
        for i, step in zip(at, steps_of(b), strict=True):
            assert type(step) is IntImm  # `_hold` has looked
            if dtypes.lanes(i.dtype) > 1:
                raise LowerError(
                    f"{b.name} in warp memory is used by an operation on vectors or tiles",
                    hint='set_scope(..., "shared")',
                    code=_CODE,
                )
            total = lin.plus(total, lin.times(lin.linear(i, dom), int(step.value)))
        return total

    def _own(self, form: lin.Linear, held: _Held, dom: dict[Var, lin.Bounds]) -> Expr | None:
        """The register of an element that belongs to the lane itself; None if that is not sure."""
        step, round_ = held.step, WARP * held.step
        rest = form.without([self.lane])
        if form.coef(self.lane) != step or self._differs(*rest.atoms()):
            return None
        far = {k: (a, c // WARP) for k, (a, c) in rest.terms.items() if c % round_ == 0}
        rounds, const = divmod(rest.const, round_)
        near = lin.Linear({k: t for k, t in rest.terms.items() if k not in far}, const)
        lo, hi = lin.interval_of(near, dom)
        if lo < 0 or hi >= step:
            return None
        return lin.to_expr(lin.plus(lin.Linear(far, rounds * step), near), "int32")

    def _other(
        self, e: BufferLoad, form: lin.Linear, held: _Held, dom: dict[Var, lin.Bounds]
    ) -> tuple[Expr, Expr]:
        """The register and the lane of an element."""
        place = lin.to_expr(form, "int32")
        step = IntImm(held.step)
        register: Expr = IntImm(0) if held.step == 1 else place % step
        if held.rounds > 1:
            register = place // (WARP * held.step) * step + register
        register = lin.to_expr(lin.linear(register, dom), "int32")
        if self._differs(register):
            raise LowerError(
                f"the lanes of a warp load {e} from each other, but in which register it lies "
                f"differs from lane to lane: {register}",
                hint="let what is the same for all lanes decide between elements that are "
                f"{WARP * held.step} apart, {_SHARED}",
                code=_CODE,
            )
        last = held.rounds * held.step - 1
        lo, hi = lin.interval(register, dom)
        if lo < 0 or hi > last:  # (where a condition says otherwise)
            register = build.minimum(build.maximum(register, 0), last)
        return register, lin.to_expr(lin.linear(place // step % WARP, dom), "int32")


def _uses(s: Stmt) -> bool:
    """Does a statement itself store, load or allocate what warps hold?"""
    if isinstance(s, (Alloc, BufferStore)) and of_warp(s.buffer):
        return True
    return any(
        type(x) is BufferLoad and of_warp(x.buffer)
        for e in walk.stmt_exprs(s)
        for x in walk.walk_expr(e)
    )


def _reads(e: Expr) -> bool:
    return any(type(x) is BufferLoad for x in walk.walk_expr(e))


def _under(where: Expr, s: Stmt) -> Stmt:
    return s if build.is_literal(where, 1) else IfThenElse(where, s)
