"""What becomes of a vectorized loop in CUDA C++? Accesses of several neighbouring elements at once.

The loop's iterations go in groups. What a group loads from neighbouring elements comes in one
access, what it stores to neighbours goes in one, and between them each lane computes for itself;
operands that do not lie side by side are loaded lane by lane, and results that do not, or that the
next lane needs (sums), are stored so. An access is as wide as its alignment is known to be, 16
bytes at most: that of the place is worked out here, that of an argument's first element is noted,
and asked for when the function is called. Where a condition may hold for a part of a group only,
such a group goes lane by lane.

What a thread keeps in registers has no neighbours in memory, so it is read and written by element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ...ir import build, dtypes, walk
from ...ir.nodes import (
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
    Select,
    Seq,
    Stmt,
    Var,
)
from ...ir.ops import MATH, VECTOR
from ...lower import linear as lin
from ...lower.accesses import trip_count
from ...lower.async_copies import BACKGROUND, copied
from ...lower.cache_hints import load_hint, store_hint
from ...lower.flat import inside
from ...lower.tiles import in_registers, tile_op, warp_call
from .expr import Scope, element, stored, text
from .indices import address
from .names import stored_type

if TYPE_CHECKING:
    from .stmt import Body

VECTOR_BYTES = 16
"""The widest access of a thread."""
_FEW = 64
"""Steps of a loop that becomes vectors although it is not marked."""


COPY_BYTES = (4, 8, 16)
"""What one copy in the background takes."""


def one_copy(b: Buffer, indices: tuple[Expr, ...], value: Expr, scope: Scope) -> str | None:
    """The copy of one element in the background; None where there is none of its size."""
    found, size = copied(value), dtypes.itemsize(b.dtype)
    if found is None or size not in COPY_BYTES or found[0].buffer not in scope.outside:
        return None
    load, cond = found
    return _copy_text((b, indices), (load.buffer, load.indices), 1, size, cond, scope)


_Place: TypeAlias = tuple[Buffer, tuple[Expr, ...]]


def _copy_text(
    to: _Place, source: _Place, count: int, size: int, cond: Expr | None, scope: Scope
) -> str:
    """The copy of so many neighbours, in words of so many bytes; zeros where `cond` does not
    hold."""
    parts = [f"&{element(*to, scope)}", f"&{element(*source, scope)}"]
    if cond is not None:
        parts.append(text(cond, scope))
    for b in (to[0], source[0]):
        scope.needs(b, size)
    kind = stored_type(to[0].dtype)
    return f"gt_copy_async<{kind}, {count}, {size}>({', '.join(parts)});"


def vector_loop(out: Body, s: For) -> bool:
    """Write a loop as accesses of several elements at once; False (and nothing is written) where it
    has none, or nobody asked for vectors and it does not write back a few neighbouring results of a
    thread."""
    n = trip_count(s)
    if n is None or n < 2 or not build.is_literal(s.min, 0):
        return False
    asked = s.kind == "vectorized"
    if not asked:
        turned = _turned(s, n, out.scope)
        if turned is not None:
            out.emit(turned)
            return True
        if not _writes_back(s, n, out.scope):
            return False
    parts = _in_parts(s, {**out.scope.dom, s.var: (0, n - 1)}) if asked else None
    if parts is not None:
        out.emit(parts)
        return True
    body: Stmt = s.body
    cond: Expr | None = None
    if type(body) is IfThenElse and body.orelse is None:
        cond, body = body.cond, body.then
    if not _is_plain(body):
        return False
    group = _grouped(out, s, n, body, cond)
    if group is None:
        return False
    group.write()
    return True


# ----------------------------------------------------------------------------- what is in the loop
def _in_parts(s: For, dom: lin.Dom) -> Stmt | None:
    """The loop as several, where it has several statements that have nothing to do with other
    iterations of each other, or asks a condition whose answer is the same in all; else None."""

    def loop(body: Stmt) -> For:
        return For(s.var, s.min, s.extent, s.kind, body, None, s.annotations)

    body = s.body
    if type(body) is Seq and all(_single_store(x)[0] is not None for x in body.items):
        return build.seq(*map(loop, body.items)) if _apart(body.items, s.var, dom) else None
    if type(body) is IfThenElse and not walk.uses_var(body.cond, s.var):
        read = {x.buffer for x in walk.loads(body.cond)}
        if not any(type(x) is BufferStore and x.buffer in read for x in walk.walk_stmt(body)):
            orelse = None if body.orelse is None else loop(body.orelse)
            return IfThenElse(body.cond, loop(body.then), orelse)
    store, cond = _single_store(body)
    if store is None or cond is not None:
        return None
    e = store.value
    if type(e) is Call and e.op == "if_then_else" and not walk.uses_var(e.args[0], s.var):
        # one thing or another is stored, by a condition that is the same for all
        sides = [loop(BufferStore(store.buffer, x, store.indices)) for x in e.args[1:]]
        if not any(x.buffer is store.buffer for x in walk.loads(e.args[0])):
            return IfThenElse(e.args[0], sides[0], sides[1])
    return None


def _writes_back(s: For, n: int, scope: Scope) -> bool:
    """Is it a short loop that stores to the memory of an argument?"""
    store, _ = _single_store(s.body)
    plain = store is not None and not _of_warp(store) and store.buffer in scope.outside
    return plain and n <= _FEW and s.kind in ("serial", "unrolled")


def _turned(s: For, n: int, scope: Scope) -> For | None:
    """A short loop along memory around loops with larger steps, in which results are written back
    (those of virtual threads), with the short one inside; None if it is none."""
    loops: list[For] = []
    body = s.body
    while type(body) is For and trip_count(body) and build.is_literal(body.min, 0):
        loops.append(body)
        body = body.body
    inner = For(s.var, s.min, s.extent, s.kind, body, None, s.annotations)
    if not loops or not _writes_back(inner, n, scope):
        return None
    store, _ = _single_store(body)
    assert store is not None  # `_writes_back` has seen it
    if any(x.buffer is store.buffer for x in walk.all_loads(body)) or scope.alias:
        return None
    dom = {**scope.dom, s.var: (0, n - 1)}
    for f in loops:
        dom[f.var] = (0, (trip_count(f) or 1) - 1)
    form = lin.linear(address(store.buffer, store.indices, dom), dom)
    names = {s.var, *(f.var for f in loops)}
    if form.coef(s.var) != 1 or any(walk.uses_var(x, names) for x in form.without(names).atoms()):
        return None
    reach = n  # of what is stored so far, no element twice
    for step, count in sorted((abs(form.coef(f.var)), trip_count(f) or 1) for f in loops):
        if step < reach:
            return None
        reach = step * (count - 1) + reach
    out: Stmt = inner
    for f in reversed(loops):
        out = For(f.var, f.min, f.extent, f.kind, out, None, f.annotations)
    assert type(out) is For
    return out


def _single_store(s: Stmt) -> tuple[BufferStore | None, Expr | None]:
    if type(s) is BufferStore and s.predicate is None:
        return s, None
    if type(s) is IfThenElse and s.orelse is None and type(s.then) is BufferStore:
        return s.then, s.cond
    return None, None


def _apart(items: Sequence[Stmt], v: Var, dom: lin.Dom) -> bool:
    """Do the statements of an iteration touch nothing that those of other iterations store, but for
    what each iteration has for itself?"""
    stores = [x for s in items for x in walk.walk_stmt(s) if type(x) is BufferStore]
    loads = [x for s in items for x in walk.all_loads(s)]
    touched: list[BufferStore | BufferLoad] = [*stores, *loads]
    for store in stores:
        own = _place(store, v, dom)
        for x in touched:
            if x is store or x.buffer is not store.buffer:
                continue
            if own is None or _place(x, v, dom) != own:
                return False
    return True


def _place(x: BufferStore | BufferLoad, v: Var, dom: lin.Dom) -> object:
    """Something that is equal for accesses to the same element, if it is another one in each
    iteration; None where that is not known."""
    if any(type(e) is BufferLoad for i in x.indices for e in walk.walk_expr(i)):
        return None
    form = lin.linear(address(x.buffer, x.indices, dict(dom)), dom)
    if not form.coef(v) or any(walk.uses_var(e, v) for e in form.without([v]).atoms()):
        return None
    return form.key()


def _is_plain(s: Stmt) -> bool:
    """Is it stores of elements, names and conditions, and nothing that threads do together?"""
    return all(
        type(x) in (Seq, IfThenElse, LetStmt)
        or (type(x) is BufferStore and x.predicate is None and not _of_warp(x))
        for x in walk.walk_stmt(s)
    ) and all(_is_own(e) for e in walk.all_exprs(s))


def _of_warp(s: BufferStore) -> bool:
    return tile_op(s) is not None or warp_call(s) is not None


def _is_own(e: Expr) -> bool:
    """Does a thread compute it for itself?"""
    if type(e) is not Call or e.op in MATH or e.op in VECTOR or load_hint(e) is not None:
        return True
    return e.op in ("if_then_else", "likely", "assume", "reinterpret") or store_hint(e)[1] != ""


def _stored_in(s: Stmt, alias: bool) -> Callable[[Buffer], bool]:
    """Whether a statement may store to a buffer; `alias`: arguments may lie in the same memory."""
    stored = {x.buffer for x in walk.walk_stmt(s) if type(x) is BufferStore}
    outside = alias and any(b.scope == "global" for b in stored)
    return lambda b: b in stored or (outside and b.scope == "global")


def _at_once(s: Stmt, v: Var, dom: lin.Dom, alias: bool) -> bool:
    """Is it a single store, which may be made for several iterations after all that they load?"""
    if type(s) is not BufferStore:
        return False
    touched = _stored_in(s, alias)
    found = [x for e in walk.stmt_exprs(s) for x in walk.loads(e) if touched(x.buffer)]
    own = _place(s, v, dom) if found else None
    return all(x.buffer is s.buffer and own is not None and _place(x, v, dom) == own for x in found)


def _early_in(s: Stmt, scope: Scope) -> Iterator[tuple[BufferLoad, str]]:
    """The loads that may be made before a statement, if it stores to none of their buffers."""
    match s:
        case Seq():
            for x in s.items:
                yield from _early_in(x, scope)
        case IfThenElse():
            yield from _early(s.cond, scope)
        case LetStmt():
            yield from _early(s.value, scope)
            for load, hint in _early_in(s.body, scope):
                if not any(walk.uses_var(i, s.var) for i in load.indices):
                    yield load, hint
        case BufferStore():
            for e in walk.stmt_exprs(s):
                yield from _early(e, scope)
        case _:
            return


def _early(e: Expr, scope: Scope, sure: bool = True) -> Iterator[tuple[BufferLoad, str]]:
    """The loads that may be made before the conditions in an expression are asked, with their
    hints: those that are made whatever they say, and those of inputs that a `Select` may leave
    alone, where they are in bounds."""
    load, hint = load_hint(e) or (e, "")
    if type(load) is BufferLoad:
        known = load.buffer in scope.inputs and inside(load.buffer, load.indices, scope.dom)
        if sure or known:
            yield load, hint
            for i in load.indices:
                yield from _early(i, scope, sure)
        return
    if type(e) is Let:
        yield from _early(e.value, scope, sure)
        for x, how in _early(e.body, scope, sure):
            if not any(walk.uses_var(i, e.var) for i in x.indices):
                yield x, how
        return
    parts = walk.expr_children(e)
    if (type(e) is Call and e.op == "if_then_else") or (type(e) is BinOp and e.op in ("and", "or")):
        parts = parts[:1]
    if type(e) is Select:
        yield from _early(e.cond, scope, sure)
        parts, sure = (e.a, e.b), False
    for part in parts:
        yield from _early(part, scope, sure)


# ----------------------------------------------------------------------------- groups
@dataclass(frozen=True, slots=True)
class _Lanes:
    """How the iterations of a loop are grouped: `var` is `first + lane`, where `lane` is less than
    `count`, and `first` a multiple of it that depends on `group` if there are several."""

    var: Var
    group: Var
    lane: Var
    count: int
    groups: int

    @staticmethod
    def of(v: Var, n: int, count: int) -> _Lanes:
        group, lane = Var(f"{v.name}_group"), Var(f"{v.name}_lane")
        return _Lanes(v, group, lane, count, n // count)

    @property
    def first(self) -> Expr:
        return IntImm(0) if self.groups == 1 else build.mul(self.group, IntImm(self.count))

    @property
    def dom(self) -> dict[Var, lin.Bounds]:
        return {self.group: (0, self.groups - 1), self.lane: (0, self.count - 1)}

    @property
    def table(self) -> dict[Var, Expr]:
        """What the variable of the loop is."""
        return {self.var: build.cast(self.var.dtype, build.add(self.first, self.lane))}

    def at(self, e: Expr) -> Expr:
        """An expression for a lane of a group."""
        return walk.substitute(e, self.table)

    def together(self, b: Buffer, indices: tuple[Expr, ...], dom: lin.Dom) -> int:
        """How many elements an access of neighbours by all lanes can take at a time, by where it
        is; 1 where it is none of neighbours, or they are not aligned."""
        if in_registers(b) or any(dtypes.lanes(i.dtype) > 1 for i in indices):
            return 1
        if b.swizzle and self.count * dtypes.itemsize(b.dtype) > VECTOR_BYTES:
            return 1  # the next word lies elsewhere
        inner = {**dom, **self.dom}
        here = tuple([self.at(i) for i in indices])
        form = lin.linear(address(b, here, inner), inner)
        rest = form.without([self.lane])
        if form.coef(self.lane) != 1 or any(walk.uses_var(x, self.lane) for x in rest.atoms()):
            return 1
        most = min(self.count, VECTOR_BYTES // dtypes.itemsize(b.dtype))
        for step in (rest.const, *[c for _, c in rest.terms.values()]):
            most = min(most, step & -step) if step else most
        return max(1, most)


def _grouped(out: Body, s: For, n: int, body: Stmt, cond: Expr | None) -> _Group | None:
    """The groups in which most accesses are wide; None if none is."""
    scope = out.scope
    at_once = _at_once(body, s.var, {**scope.dom, s.var: (0, n - 1)}, scope.alias)
    touched = _stored_in(body, scope.alias)
    places = [
        (x.buffer, x.indices)
        for x in walk.all_loads(body)
        if x.predicate is None and (at_once or not touched(x.buffer))
    ]
    asked = s.kind == "vectorized"
    if not asked:  # what arguments are read should not have to be aligned for it
        places = [p for p in places if p[0] not in scope.outside]
    if at_once:
        assert type(body) is BufferStore
        places.append((body.buffer, body.indices))
    elif not asked:
        return None
    places = [p for p in places if any(walk.uses_var(i, s.var) for i in p[1])]
    best: tuple[int, _Lanes, bool] | None = None
    for count in (16, 8, 4, 2):
        if n % count:
            continue
        lanes = _Lanes.of(s.var, n, count)
        widths = [lanes.together(b, at, scope.dom) for b, at in places]
        wide = sum(x > 1 for x in widths)
        if count <= max(widths, default=0) and (best is None or wide > best[0]):
            back = any(x > 1 and b in scope.outside for x, (b, _) in zip(widths, places))
            best = wide, lanes, back
    if best is None:
        return None
    _, lanes, back = best
    if not asked and not back:
        return None
    some: list[Expr] = []  # conditions that may hold for a part of a group
    every: list[Expr] = []
    if cond is not None:
        if any(touched(x.buffer) for x in walk.loads(cond)):
            return None
        dom = {**scope.dom, **lanes.dom}
        for c in lin.conjuncts(cond):
            here = lin.coarser(lanes.at(c), dom)
            if not walk.uses_var(here, lanes.lane):
                every.append(here)
            elif _at_the_worst(here, lanes, dom) is None:
                return None
            else:
                some.append(here)
    narrow = frozenset() if asked else scope.outside
    return _Group(out, lanes, body, at_once, every, some, narrow)


def _coarser(cond: Expr, dom: lin.Dom) -> Expr:
    return build.logical_and(*[lin.coarser(c, dom) for c in lin.conjuncts(cond)])


def _at_the_worst(cond: Expr, lanes: _Lanes, dom: lin.Dom) -> Expr | None:
    """A condition that holds just where `cond` does for all lanes; None where that is not known."""
    parts = [_one_at_the_worst(c, lanes, dom) for c in lin.conjuncts(cond)]
    known = [c for c in parts if c is not None]
    return build.logical_and(*known) if len(known) == len(parts) else None


def _one_at_the_worst(c: Expr, lanes: _Lanes, dom: lin.Dom) -> Expr | None:
    if not walk.uses_var(c, lanes.lane):
        return c
    form = lin.below_zero(c, dom)
    if form is None:
        return None
    step = form.coef(lanes.lane)
    if any(walk.uses_var(x, lanes.lane) for x in form.without([lanes.lane]).atoms()):
        return None
    worst = IntImm(lanes.count - 1 if step > 0 else 0)
    return walk.substitute(c, {lanes.lane: worst})


class _Group:
    """The lines of a loop whose iterations go in groups.

    Args:
        body: what an iteration does.
        at_once: it is one store, which may be made for all lanes together.
        every: conditions with one answer for all lanes of a group.
        some: its other conditions.
        narrow: buffers that are loaded by element in any case.
    """

    def __init__(
        self,
        out: Body,
        lanes: _Lanes,
        body: Stmt,
        at_once: bool,
        every: list[Expr],
        some: list[Expr],
        narrow: frozenset[Buffer],
    ) -> None:
        self.out = out
        self.lanes = lanes
        self.body = walk.substitute_stmt(body, lanes.table)
        self.at_once = at_once
        self.every = every
        self.some = some
        self.narrow = narrow

    @property
    def scope(self) -> Scope:
        return self.out.scope

    @property
    def lane(self) -> str:
        """What the number of a lane is called."""
        return self.scope.names.of(self.lanes.lane, self.lanes.lane.name)

    def write(self) -> None:
        """All groups."""
        lanes, scope = self.lanes, self.scope
        outer = dict(scope.dom)
        scope.dom.update(lanes.dom)
        if lanes.groups == 1:
            self._group()
        else:
            name = scope.names.of(lanes.group, lanes.group.name)
            with self.out.turns(name, lanes.groups):
                self._group()
        scope.dom.clear()
        scope.dom.update(outer)

    def _group(self) -> None:
        out, lanes, scope = self.out, self.lanes, self.scope
        if self.every:
            out.open(f"if ({text(build.logical_and(*self.every), scope)}) {{")
        if not self.some:
            self._together()
        else:
            worst = [_at_the_worst(c, lanes, scope.dom) for c in self.some]
            whole = build.logical_and(*[c for c in worst if c is not None])
            with out.block(f"if ({text(whole, scope)}) {{", "} else {"):
                self._together()
            with out.turns(self.lane, lanes.count):
                out.emit(IfThenElse(build.logical_and(*self.some), self.body))
            out.close()
        if self.every:
            out.close()

    def _together(self) -> None:
        """One group, of which all lanes run."""
        if self.at_once:
            assert type(self.body) is BufferStore
            self._value(*store_hint(self.body.value))
            return
        before = dict(self.scope.fetched)
        touched = _stored_in(self.body, self.scope.alias)
        for load, how in _early_in(self.body, self.scope):
            if not touched(load.buffer):
                self._fetch(load, how)
        with self.out.turns(self.lane, self.lanes.count):
            self.out.emit(self.body)
        self.scope.fetched = before

    def _fetch(self, load: BufferLoad, how: str) -> None:
        """Load what all lanes do in one access, if it is one of neighbours."""
        scope, width = self.scope, self._wide(load)
        key = (load.buffer, lin.key(address(load.buffer, load.indices, scope.dom)))
        if width == 1 or key in scope.fetched:
            return
        place = element(load.buffer, self._first(load.indices), scope)
        name = scope.names.fresh(f"{load.buffer.name}_v")
        held, words = self._vector(load.buffer), self._words(load.buffer, width)
        call = f"gt_load{how and '_'}{how}<{words}>(&{place})"
        if not how and f"gt_vec<{words}>" == held:
            call = f"*(const {held}*)&{place}"
        self.out.line(f"const {held} {name} = {call};")
        scope.fetched[key] = f"{name}.v[{self.lane}]"
        scope.needs(load.buffer, width * dtypes.itemsize(load.buffer.dtype))

    def _value(self, e: Expr, hint: str) -> None:
        """One group: by cases, where the value stored is one thing or another."""
        out, lanes, scope = self.out, self.lanes, self.scope
        if hint == BACKGROUND and self._copy(e):
            return
        if type(e) is Call and e.op == "if_then_else":
            c, a, b = e.args
            c = _coarser(c, scope.dom)
            if not walk.uses_var(c, lanes.lane):
                with out.block(f"if ({text(c, scope)}) {{", "} else {"):
                    self._value(a, hint)
                self._value(b, hint)
                out.close()
                return
            whole = _at_the_worst(c, lanes, scope.dom)
            if whole is not None and any(self._wide(x) > 1 for x, _ in _early(a, scope)):
                with out.block(f"if ({text(whole, scope)}) {{", "} else {"):
                    self._value(a, hint)
                self._move(e, hint)
                out.close()
                return
        self._move(e, hint)

    def _wide(self, x: BufferLoad) -> int:
        """How many of the elements that the lanes load an access can take at a time."""
        moves = any(walk.uses_var(i, self.lanes.lane) for i in x.indices)
        if x.predicate is not None or x.buffer in self.narrow or not moves:
            return 1
        return self.lanes.together(x.buffer, x.indices, self.scope.dom)

    def _copy(self, value: Expr) -> bool:
        """Copy in the background, for all lanes of a group; False (and nothing is written) where
        there is no such copy."""
        scope, store = self.scope, self.body
        assert type(store) is BufferStore
        found = copied(value)
        if found is None or found[0].buffer not in scope.outside:
            return False
        load, cond = found
        if cond is not None:
            cond = _coarser(cond, scope.dom)
            if walk.uses_var(cond, self.lanes.lane):
                return False
        width = min(self._wide(load), self.lanes.together(store.buffer, store.indices, scope.dom))
        size = width * dtypes.itemsize(store.buffer.dtype)
        if size not in COPY_BYTES:
            return False
        to, source = self._first(store.indices), self._first(load.indices)
        self.out.line(_copy_text((store.buffer, to), (load.buffer, source), self.lanes.count, size,
                                 cond, scope))  # fmt: skip
        return True

    def _move(self, value: Expr, hint: str) -> None:
        """Load, compute and store, for all lanes of a group."""
        out, scope, store = self.out, self.scope, self.body
        assert type(store) is BufferStore
        b = store.buffer
        if hint == BACKGROUND:
            if self._copy(value):
                return
            hint = ""
        before = dict(scope.fetched)
        for load, how in _early(value, scope):
            self._fetch(load, how)
        width = self.lanes.together(b, store.indices, scope.dom)
        if width == 1:
            with out.turns(self.lane, self.lanes.count):
                out.put(b, store.indices, stored(value, scope), hint)
        else:
            name = scope.names.fresh(f"{b.name}_v")
            out.line(f"{self._vector(b)} {name};")
            with out.turns(self.lane, self.lanes.count):
                out.line(f"{name}.v[{self.lane}] = {stored(value, scope)};")
            place = element(b, self._first(store.indices), scope)
            words = self._words(b, width)
            if not hint and f"gt_vec<{words}>" == self._vector(b):
                out.line(f"*({self._vector(b)}*)&{place} = {name};")
            else:
                out.line(f"gt_store{hint and '_'}{hint}<{words}>(&{place}, {name});")
            scope.needs(b, width * dtypes.itemsize(b.dtype))
        scope.fetched = before

    def _first(self, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple([walk.substitute(i, {self.lanes.lane: IntImm(0)}) for i in indices])

    def _vector(self, b: Buffer) -> str:
        return f"gt_vec<{stored_type(b.dtype)}, {self.lanes.count}>"

    def _words(self, b: Buffer, width: int) -> str:
        """The arguments of an access by words of `width` elements, which may be fewer than fit."""
        size, count = dtypes.itemsize(b.dtype), self.lanes.count
        words = "" if width == count else f", {width * size}"
        return f"{stored_type(b.dtype)}, {count}{words}"
