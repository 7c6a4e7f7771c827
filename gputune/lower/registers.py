"""Which memory can be registers? Accumulators of reduction loops, and small temporaries.

A reduction loop whose unrolled tile adds to elements that do not depend on the loop gets a copy of
those elements in registers: read before the loop, written after it. Where the elements are set
right before the loop, the registers are set instead. A temporary that is only touched at constant
places becomes registers as a whole. Such buffers have the scope "register": all their indices are
constant once unrolled loops are written out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Ramp,
    Seq,
    Stmt,
    Var,
)
from . import flat
from . import linear as lin
from .accesses import Access, collect, loop_bounds, range_of, touches, trip_count
from .limits import CpuLimits
from .prepare import as_block
from .unroll import BY_LLVM
from .zeros import statements

_Dom = dict[Var, lin.Bounds]
_K_UNROLL = 4
_K_STATEMENTS = 128


def use_registers(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with accumulators and small temporaries in buffers of scope "register"."""
    room = _Room(limits.statements - statements(func.body))
    return as_block(func, _go(func.body, {}, limits, room))


@dataclass(slots=True)
class _Room:
    """How many statements the kernel may still grow by, and how often what is looked at will be
    written out."""

    left: int
    times: int = 1

    def take(self, more: int) -> None:
        self.left -= more * self.times


def _go(s: Stmt, dom: _Dom, limits: CpuLimits, room: _Room) -> Stmt:
    match s:
        case Seq():
            return _sequence(list(s.items), dom, limits, room)
        case For():
            return _sequence([s], dom, limits, room)
        case Alloc():
            body = s.body
            if s.buffer.scope != "register" and _fits(s, dom, limits):
                new = _register(s.buffer.name, s.buffer.shape, s.buffer)
                body = walk.replace_buffers(body, {s.buffer: new})
                return Alloc(new, _go(body, dom, limits, room))
            body = _go(body, dom, limits, room)
            return s if body is s.body else Alloc(s.buffer, body)
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, dom, limits, room))
            assert out is not None  # _go never deletes
            return out


def _register(name: str, shape: tuple[Expr, ...], like: Buffer) -> Buffer:
    return Buffer(name, shape, like.dtype, "register", like.strides)


def _sequence(items: list[Stmt], dom: _Dom, limits: CpuLimits, room: _Room) -> Stmt:
    """The statements with each loop among them treated, together with what comes before it."""
    out: list[Stmt] = []
    for s in items:
        if type(s) is not For:
            out.append(_go(s, dom, limits, room))
            continue
        loop, copies = _promote(s, dom, limits)
        first = len(out)
        before: list[Stmt] = []
        after: list[Stmt] = []
        for copy in copies:
            at = _set_before(out, copy, dom)
            if at is None:
                before += copy.reads()
            else:
                first = min(first, at)
            after += copy.writes()
        inner = {**dom, loop.var: range_of(loop, dom)}
        often = trip_count(loop) if loop.kind == "unrolled" else None
        room.times *= often or 1
        body = _go(loop.body, inner, limits, room)
        room.times //= often or 1
        loop = For(loop.var, loop.min, loop.extent, loop.kind, body, loop.thread, loop.annotations)
        room.take(sum(map(statements, (*before, *after))))
        done = _unroll_some(loop, room) if copies else loop
        held = build.seq(*out[first:], *before, done, *after)
        del out[first:]
        for copy in copies:
            for g in copy.groups.values():
                held = Alloc(g.register, held)
        out.append(held)
    return build.seq(*out)


# ----------------------------------------------------------------------------- cells
_Axis = tuple[int, int, int]  # coefficient, first value, number of values


@dataclass(frozen=True, slots=True)
class _Form:
    """The elements of an access: `base` from outside, then axes of unrolled loops.

    `vars` are the loop variables of `axes`, in the same order (by coefficient)."""

    base: Hashable
    const: int
    axes: tuple[_Axis, ...]
    vars: tuple[Var, ...]
    lanes: int
    step: int

    @property
    def signature(self) -> Hashable:
        return self.const, self.axes, self.lanes, self.step

    def cells(self) -> list[int]:
        """First element of every cell, relative to the base."""
        spans = [range(lo * c, (lo + n) * c, c) for c, lo, n in self.axes]
        return [self.const + sum(p) for p in product(*spans)]

    def count(self) -> int:
        out = 1
        for _, _, n in self.axes:
            out *= n
        return out


def _form(a: Access, fixed: frozenset[Var], dom: _Dom) -> _Form | None:
    """The form of `a`, seen from outside the loops and lets of `a` and of `fixed` variables that
    change inside; None where it has none."""
    changing: set[Var] = set(a.lets) | set(fixed)
    written_out: dict[Var, tuple[int, int]] = {}
    inner = dict(dom)
    for loop in a.loops:
        inner[loop.var] = range_of(loop, inner)
        bounds = loop_bounds(loop)
        if loop.kind == "unrolled" and bounds is not None:
            written_out[loop.var] = (bounds[0], bounds[1] - bounds[0] + 1)
        else:
            changing.add(loop.var)
    place = flat.place(a.buffer, a.indices, inner)
    if place is None or place.step is None or (place.lanes > 1 and place.step == 0):
        return None
    base: list[tuple[Hashable, int]] = []
    axes: list[tuple[_Axis, Var]] = []
    for key, (atom, c) in place.form.terms.items():
        if type(atom) is Var and atom in written_out and atom not in changing:
            axes.append(((c, *written_out[atom]), atom))
        elif walk.uses_var(atom, changing | set(written_out)) or _loads(atom):
            return None
        else:
            base.append((key, c))
    if any(walk.uses_var(i, changing) for i in a.indices):
        return None
    axes.sort(key=lambda x: x[0])
    return _Form(
        frozenset(base), place.form.const, tuple(x for x, _ in axes), tuple(v for _, v in axes),
        place.lanes, place.step,
    )  # fmt: skip


def _loads(e: Expr) -> bool:
    return any(type(x) is BufferLoad for x in walk.walk_expr(e))


def _registers_for(cells: int, lanes: int, dtype: str, limits: CpuLimits) -> int:
    size = max(4, dtypes.itemsize(dtype)) if dtypes.is_float(dtype) else dtypes.itemsize(dtype)
    return cells * max(1, -(-lanes * size // limits.vector_bytes))


def _consistent(cells: Iterable[tuple[int, int, int]]) -> bool:
    """Are cells (first element, lanes, step) the same or apart, for every two?"""
    owner: dict[int, tuple[int, int, int]] = {}
    for cell in set(cells):
        at, lanes, step = cell
        for k in range(lanes):
            if owner.setdefault(at + k * step, cell) != cell:
                return False
    return True


def _fits(s: Alloc, dom: _Dom, limits: CpuLimits) -> bool:
    """Can the temporary live in registers as a whole?"""
    b = s.buffer
    size = 1
    for n in b.shape:
        if type(n) is not IntImm:
            return False
        size *= int(n.value)
    if size > limits.tile_registers * limits.vector_bytes:
        return False
    cells: set[tuple[int, int, int]] = set()
    sure: list[tuple[tuple[Var, ...], set[int]]] = []
    for a in collect(s.body, b):
        if any(loop.kind == "parallel" for loop in a.loops):
            return False
        form = _form(a, frozenset(), dom)
        if form is None or form.base:
            return False
        if form.count() > limits.tile_registers:
            return False
        here = set(form.cells())
        if not _is_set(a, here, sure):
            return False
        if a.store and not a.conds and a.mask is None:
            sure.append((_rolled(a), here))
        cells |= {(at, form.lanes, form.step) for at in here}
        if len(cells) > limits.tile_registers:
            return False
    need = sum(_registers_for(1, lanes, b.dtype, limits) for _, lanes, _ in cells)
    return need <= limits.tile_registers and _consistent(cells)


def _rolled(a: Access) -> tuple[Var, ...]:
    """The loops around an access that are not written out."""
    return tuple([loop.var for loop in a.loops if loop.kind != "unrolled"])


def _is_set(a: Access, cells: set[int], sure: list[tuple[tuple[Var, ...], set[int]]]) -> bool:
    """Does the access find its cells set in every iteration of the loops around it?

    A register that a loop changes is carried around it only from a value it has before. So what a
    loop reads, or sets under a condition only, must surely be set before the loop, or earlier in
    the same iteration.
    """
    loops = _rolled(a)
    if not loops or (a.store and not a.conds and a.mask is None):
        return True
    known: set[int] = set()
    for around, stored in sure:
        if loops[: len(around)] == around:
            known |= stored
    return cells <= known


# ----------------------------------------------------------------------------- accumulators
@dataclass(slots=True)
class _Group:
    """Accesses to the same cells, and the registers that hold them."""

    form: _Form
    sample: Access
    register: Buffer
    guards: tuple[Expr, ...]
    mask: Expr | None
    stored: bool = False
    set_before: bool = False

    def index(self, form: _Form) -> Expr:
        """The place in the register buffer, for an access with this form."""
        at: Expr = IntImm(0)
        step = form.lanes
        for (_, lo, n), v in zip(reversed(form.axes), reversed(form.vars)):
            at = build.add(at, build.mul(build.sub(v, IntImm(lo, v.dtype)), IntImm(step, v.dtype)))
            step *= n
        return Ramp(at, IntImm(1, at.dtype), form.lanes) if form.lanes > 1 else at


@dataclass(slots=True)
class _Copy:
    """The registers of one buffer during one loop."""

    buffer: Buffer
    groups: dict[Hashable, _Group] = field(default_factory=dict)

    def reads(self) -> list[Stmt]:
        return [self._nest(g, read=True) for g in self.groups.values() if not g.set_before]

    def writes(self) -> list[Stmt]:
        return [self._nest(g, read=False) for g in self.groups.values() if g.stored]

    def _nest(self, g: _Group, *, read: bool) -> Stmt:
        """Loops over all cells of a group that copy memory to registers or back."""
        table: dict[Var, Expr] = {}
        fresh = []
        for v in g.form.vars:
            new = Var(v.name, v.dtype)
            table[v] = new
            fresh.append(new)
        form = _Form(
            g.form.base, g.form.const, g.form.axes, tuple(fresh), g.form.lanes, g.form.step
        )
        place = tuple(walk.substitute(i, table) for i in g.sample.indices)
        mask = None if g.mask is None else walk.substitute(g.mask, table)
        at = g.index(form)
        body: Stmt
        if read:
            body = BufferStore(g.register, BufferLoad(self.buffer, place, mask), (at,))
        else:
            body = BufferStore(self.buffer, BufferLoad(g.register, (at,)), place, mask)
        guard = build.logical_and(*[walk.substitute(c, table) for c in g.guards])
        if not build.is_literal(guard, 1):
            body = IfThenElse(guard, body)
        for (_, lo, n), v in zip(form.axes, fresh):
            body = For(v, IntImm(lo, v.dtype), IntImm(n, v.dtype), "unrolled", body)
        return body


def _promote(s: For, dom: _Dom, limits: CpuLimits) -> tuple[For, list[_Copy]]:
    """The loop with accumulators in registers, and the copies to set up around it."""
    if s.kind == "parallel":
        return s, []
    found = collect(s.body)
    local = {x.buffer for x in walk.walk_stmt(s.body) if type(x) is Alloc}
    inner = {**dom, s.var: range_of(s, dom)}
    if any(loop.kind == "parallel" for a in found for loop in a.loops):
        return s, []
    left = limits.tile_registers
    copies = []
    masks = {a.order: a.mask for a in found if a.store}
    for b in dict.fromkeys(a.buffer for a in found if a.store):
        mine = [a for a in found if a.buffer is b]
        if b in local or b.scope == "register" or all(a.store for a in mine):
            continue
        copy = _copy(b, mine, masks, s, inner, limits, left)
        if copy is not None:
            left -= sum(
                _registers_for(g.form.count(), g.form.lanes, b.dtype, limits)
                for g in copy.groups.values()
            )
            copies.append(copy)
    if not copies:
        return s, []
    body = s.body
    for copy in copies:
        body = _redirect(body, copy, s, inner)
    return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations), copies


def _copy(
    b: Buffer,
    accesses: list[Access],
    masks: Mapping[int, Expr | None],
    s: For,
    dom: _Dom,
    limits: CpuLimits,
    left: int,
) -> _Copy | None:
    """The registers of a buffer; None where they would not do. `masks`: of the store of each
    statement."""
    fixed = frozenset([s.var])
    forms: list[_Form] = []
    for a in accesses:
        form = _form(a, fixed, dom)
        if form is None or form.count() > left:
            return None
        if forms and form.base != forms[0].base:
            return None
        forms.append(form)
    out = _Copy(b)
    for a, form in zip(accesses, forms):
        g = out.groups.get(form.signature)
        if g is None:
            need = _registers_for(form.count(), form.lanes, b.dtype, limits)
            cells = form.cells()
            if need > left or len(set(cells)) != len(cells):
                return None
            left -= need
            shape = (IntImm(form.count() * form.lanes),)
            g = _Group(form, a, Buffer(f"{b.name}_reg", shape, b.dtype, "register"), (), None)
            out.groups[form.signature] = g
        if a.store and not _note_store(g, a, form, s):
            return None
        if not a.store and a.mask is not None and not _steady(a.mask, a, form, s):
            return None
    for a, form in zip(accesses, forms):
        g = out.groups[form.signature]
        if a.store or a.mask is not None or g.mask is None:
            continue
        # registers hold the lanes of the mask only: others must not matter to who reads them
        user = masks.get(a.order)
        table: dict[Var, Expr] = dict(zip(form.vars, g.form.vars))
        if user is None or lin.key(walk.substitute(user, table)) != lin.key(g.mask):
            return None
    every = [(at, g.form.lanes, g.form.step) for g in out.groups.values() for at in g.form.cells()]
    if len(set(every)) != len(every) or not _consistent(every):
        return None
    for g in out.groups.values():
        if not g.stored and (g.sample.conds or g.sample.mask is not None):
            return None
    return out


def _bound_inside(a: Access, s: For) -> set[Var]:
    return {s.var, *a.lets, *(loop.var for loop in a.loops)}


def _steady(e: Expr, a: Access, form: _Form, s: For) -> bool:
    """Does `e` have the same value in all iterations (but for the written-out loops)?"""
    return not walk.uses_var(e, _bound_inside(a, s) - set(form.vars)) and not _loads(e)


def _note_store(g: _Group, a: Access, form: _Form, s: For) -> bool:
    """Take up the conditions of a store; False if the copy cannot follow them."""
    guards = []
    changing = _bound_inside(a, s) - set(form.vars)
    for cond in a.conds:
        for c in lin.conjuncts(cond):
            if _steady(c, a, form, s):
                guards.append(c)
            elif walk.free_vars(c) - changing or _loads(c):
                return False  # which cells are written depends on the reduction
    if a.mask is not None and not _steady(a.mask, a, form, s):
        return False
    if g.stored:
        table: dict[Var, Expr] = dict(zip(form.vars, g.form.vars))
        mine = {lin.key(walk.substitute(c, table)) for c in guards}
        if mine != {lin.key(c) for c in g.guards}:
            return False
        mask = None if a.mask is None else lin.key(walk.substitute(a.mask, table))
        return mask == (None if g.mask is None else lin.key(g.mask))
    g.stored, g.form, g.sample, g.guards, g.mask = True, form, a, tuple(guards), a.mask
    return True


def _redirect(s: Stmt, copy: _Copy, loop: For, dom: _Dom) -> Stmt:
    """`s` with accesses to the buffer turned to its registers."""
    fixed = frozenset([loop.var])

    def place(
        node: BufferLoad | BufferStore, loops: tuple[For, ...]
    ) -> tuple[Buffer, tuple[Expr, ...]] | None:
        a = Access(copy.buffer, node.indices, False, None, 0, loops, (), ())
        form = _form(a, fixed, dom)
        g = None if form is None else copy.groups.get(form.signature)
        if g is None or form is None:
            return None
        return g.register, (g.index(form),)

    def on_expr(e: Expr, loops: tuple[For, ...]) -> Expr:
        if type(e) is BufferLoad and e.buffer is copy.buffer:
            to = place(e, loops)
            assert to is not None  # every access has a group
            return BufferLoad(*to)
        return walk.map_expr(e, lambda x: on_expr(x, loops))

    def on_stmt(x: Stmt, loops: tuple[For, ...]) -> Stmt:
        if type(x) is For:
            body = on_stmt(x.body, (*loops, x))
            return For(x.var, x.min, x.extent, x.kind, body, x.thread, x.annotations)
        if type(x) is BufferStore and x.buffer is copy.buffer:
            to = place(x, loops)
            assert to is not None  # every access has a group
            return BufferStore(to[0], on_expr(x.value, loops), to[1])
        out = walk.map_stmt(x, lambda e: on_expr(e, loops), lambda y: on_stmt(y, loops))
        assert out is not None  # nothing is deleted
        return out

    return on_stmt(s, ())


def _set_before(out: list[Stmt], copy: _Copy, dom: _Dom) -> int | None:
    """If a statement in `out` sets all cells of `copy` (those lanes of them that are written back),
    let it set the registers; its position."""
    at = len(out) - 1
    while at >= 0 and not touches(out[at], copy.buffer):
        at -= 1
    if at < 0 or any(g.guards for g in copy.groups.values()):
        return None
    found = collect(out[at], copy.buffer)
    seen: set[Hashable] = set()
    bases = {g.form.base for g in copy.groups.values()}
    for a in found:
        form = _form(a, frozenset(), dom)
        if not a.store or a.conds or form is None:
            return None
        if any(loop.kind != "unrolled" for loop in a.loops) or form.base not in bases:
            return None
        if form.signature not in copy.groups or form.signature in seen:
            return None
        if not _same_lanes(a.mask, copy.groups[form.signature].mask):
            return None
        if any(not _has_axis(loop, form) for loop in a.loops):
            return None
        seen.add(form.signature)
    if seen != set(copy.groups) or not _plain_stores(out[at]):
        return None
    nowhere = For(Var("none"), IntImm(0), IntImm(1), "serial", out[at])
    out[at] = _redirect(out[at], copy, nowhere, dom)
    for g in copy.groups.values():
        g.set_before = True
    return at


def _same_lanes(a: Expr | None, b: Expr | None) -> bool:
    """Are two masks one, and the same wherever they stand?"""
    if a is None or b is None:
        return a is b
    return not walk.free_vars(a) and not _loads(a) and lin.key(a) == lin.key(b)


def _has_axis(loop: For, form: _Form) -> bool:
    return any(v is loop.var for v in form.vars)


def _plain_stores(s: Stmt) -> bool:
    """Nothing but unrolled loops around stores?"""
    match s:
        case BufferStore():
            return True
        case For():
            return s.kind == "unrolled" and _plain_stores(s.body)
        case Seq():
            return all(_plain_stores(x) for x in s.items)
        case _:
            return False


# ----------------------------------------------------------------------------- reduction loops
def _statements(s: Stmt) -> int | None:
    """Statements of straight-line code with unrolled loops written out; None if it has others."""
    match s:
        case BufferStore() | Evaluate():
            return 1
        case For():
            n = trip_count(s)
            inner = _statements(s.body)
            return n * inner if s.kind == "unrolled" and n is not None and inner else None
        case Seq():
            total = 0
            for x in s.items:
                n = _statements(x)
                if n is None:
                    return None
                total += n
            return total
        case LetStmt() | Alloc():
            return _statements(s.body)
        case _:
            return None


def _unroll_some(s: For, room: _Room) -> For:
    """A reduction loop with a few iterations written out at a time, if there is room for them."""
    n, inside = trip_count(s), _statements(s.body)
    if s.kind != "serial" or n is None or not inside or type(s.min) is not IntImm:
        return s
    if (BY_LLVM, 1) in s.annotations:
        return s
    times = _K_UNROLL
    most = min(_K_STATEMENTS, inside + room.left // room.times)
    while times > 1 and (n % times or inside * times > most):
        times //= 2
    if times == 1 or n == times:
        return s
    room.take(inside * (times - 1))
    outer, inner = Var(f"{s.var.name}_o", s.var.dtype), Var(f"{s.var.name}_u", s.var.dtype)
    k = build.add(build.mul(outer, IntImm(times, outer.dtype)), inner)
    body = walk.substitute_stmt(s.body, {s.var: build.add(k, s.min)})
    zero = IntImm(0, inner.dtype)
    few = For(inner, zero, IntImm(times, inner.dtype), "unrolled", body)
    return For(outer, zero, IntImm(n // times, outer.dtype), "serial", few)
