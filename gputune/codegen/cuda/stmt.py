"""What is a statement in CUDA C++? Lines of a kernel's body, readable and indented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from ...errors import BuildError
from ...ir import build, dtypes, walk
from ...ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from ...lower import linear as lin
from ...lower.accesses import loop_bounds, trip_count
from ...lower.barriers import is_barrier
from ...lower.pragmas import Unroll
from ...lower.tiles import is_fragment, operands, tile_op
from . import tiles
from .expr import Scope, address, element, stored, text
from .names import compute_type, stored_type

VECTOR_BYTES = 16
"""The widest access of a thread."""
_WRITTEN_OUT = 16
"""Statements up to which a loop is written out where `pragma_unroll_explicit` asks for it. Kernels
of a matmul and a convolution whose 256 to 1024 statements were all written out took the generator 3
to 13 times as long, NVRTC 1.1 to 2 times, and gave machine code of about the same size; with loops
of up to 32 it was the same code, for up to a fifth more of NVRTC's time."""


@dataclass(slots=True)
class Shared:
    """Shared memory of a kernel: declarations `(name, type, elements, bytes)` in order."""

    arrays: list[tuple[str, str, int, int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all arrays, each from a 16-byte boundary."""
        return sum(-(-size // 16) * 16 for *_, size in self.arrays)


@dataclass(slots=True)
class Body:
    """Lines of a kernel as they come."""

    scope: Scope
    shared: Shared = field(default_factory=Shared)
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    unroll: Unroll = field(default_factory=Unroll)

    def line(self, s: str) -> None:
        """One line at the present depth; declarations that it waits for come first."""
        for x in self.scope.pending:
            self.lines.append("  " * self.depth + x)
        self.scope.pending.clear()
        self.lines.append("  " * self.depth + s)

    def emit(self, s: Stmt) -> None:
        """The lines of a statement."""
        match s:
            case Seq():
                for x in s.items:
                    self.emit(x)
            case For():
                self._loop(s)
            case IfThenElse():
                self._branch(s)
            case BufferStore() if (op := tile_op(s)) is not None:
                for tile in operands(s, op):
                    if tile.layout == "memory":
                        self.scope.needs(tile.buffer, VECTOR_BYTES)
                self.line(tiles.call(s, op, self.scope))
            case BufferStore():
                if s.predicate is not None:
                    raise BuildError(f"a masked store to {s.buffer.name} has no code on CUDA")
                value = stored(s.value, self.scope)
                self.line(f"{element(s.buffer, s.indices, self.scope)} = {value};")
            case LetStmt():
                self._let(s)
            case Alloc():
                self._alloc(s)
            case Evaluate():
                if is_barrier(s):
                    self.line("__syncthreads();")
                else:
                    self.line(f"(void)({text(s.value, self.scope)});")
            case _:
                raise BuildError(f"a {type(s).__name__} is left in lowered code")

    # -------------------------------------------------------------- blocks of lines
    def _inside(self, head: str, body: Stmt) -> None:
        self.line(head)
        self.depth += 1
        self.emit(body)
        self.depth -= 1
        self.line("}")

    def _branch(self, s: IfThenElse) -> None:
        self._inside(f"if ({text(s.cond, self.scope)}) {{", s.then)
        if s.orelse is not None:
            self.lines.pop()
            self._inside("} else {", s.orelse)

    def _let(self, s: LetStmt) -> None:
        kind = compute_type(s.var.dtype)
        value = text(s.value, self.scope)
        name = self.scope.names.fresh(s.var.name)  # (a statement may be written more than once)
        self.scope.names.rename(s.var, name)
        self.line(f"const {kind} {name} = {value};")
        if dtypes.is_int(s.value.dtype):
            self.scope.dom[s.var] = lin.interval(s.value, self.scope.dom)
        self.emit(s.body)

    def _alloc(self, s: Alloc) -> None:
        b = s.buffer
        sizes = [n.value if type(n) is IntImm else None for n in (b.strides or ())[:1]]
        if any(type(n) is not IntImm for n in b.shape) or None in sizes:
            raise BuildError(f"the size of {b.name} in {b.scope} memory is not constant")
        shape = [int(n.value) for n in b.shape if type(n) is IntImm]
        count = prod(shape)
        if b.strides is not None and shape:
            steps = [int(n.value) for n in b.strides if type(n) is IntImm]
            count = 1 + sum((n - 1) * k for n, k in zip(shape, steps, strict=True))
        name = self.scope.names.of(b, b.name)
        kind = stored_type(b.dtype)
        if is_fragment(b):
            self.line(tiles.declaration(b, name))
        elif b.scope.startswith("shared"):
            self.shared.arrays.append((name, kind, count, count * dtypes.itemsize(b.dtype)))
        elif b.scope in ("local", "global", "warp"):
            # (what is called global here lives in one thread: nobody else can name it)
            self.line(f"__align__(16) {kind} {name}[{count}];")
        else:
            raise BuildError(
                f"buffer {b.name} is in memory scope {b.scope!r}, which CUDA code has no form for",
                hint='use "local" or "shared"',
            )
        self.emit(s.body)

    # -------------------------------------------------------------- loops
    def _loop(self, s: For) -> None:
        if s.kind == "vectorized" and self._vector(s):
            return
        before = self.unroll
        self.unroll = before.inside(s)
        if self.unroll.explicit and self._small(s) and self._written_out(s):
            self.unroll = before
            return
        bounds = loop_bounds(s)
        scope = self.scope
        outer = dict(scope.dom)
        if bounds is None:
            (a, _), (_, b), (_, n) = (lin.interval(x, scope.dom) for x in (s.min, s.min, s.extent))
            bounds = (a, max(a, b + n - 1))
        name = scope.names.fresh(s.var.name)
        scope.names.rename(s.var, name)
        end = text(build.add(s.min, s.extent), scope)
        start = text(s.min, scope)
        scope.dom[s.var] = bounds
        kind = compute_type(s.var.dtype)
        if (
            s.kind in ("unrolled", "vectorized")
            or self._small(s)
            or tiles.chooses_fragment(s, scope.dom)
        ):
            self.line("#pragma unroll")
        self._inside(f"for ({kind} {name} = {start}; {name} < {end}; ++{name}) {{", s.body)
        scope.dom.clear()
        scope.dom.update(outer)
        self.unroll = before

    def _small(self, s: For) -> bool:
        """Is the loop, all inside written out, within what the schedule allows?"""
        total = _statements(s)
        return total is not None and 0 < total <= self.unroll.steps

    def _written_out(self, s: For) -> bool:
        """The copies of a loop's body, one after the other; False if they would be too many, or if
        it has memory that all copies share, and therefore must stay one piece."""
        n, total = trip_count(s), _statements(s)
        inside = [x.buffer for x in walk.walk_stmt(s.body) if type(x) is Alloc]
        if n is None or type(s.min) is not IntImm or total is None or total > _WRITTEN_OUT:
            return False
        if any(b.scope.startswith("shared") for b in inside):
            return False
        for k in range(n):
            copy = walk.substitute_stmt(s.body, {s.var: IntImm(s.min.value + k, s.var.dtype)})
            if inside:
                self._inside("{", copy)
            else:
                self.emit(copy)
        return True

    def _vector(self, s: For) -> bool:
        """A loop over neighbouring elements as accesses of several at once; False if it is none."""
        n = trip_count(s)
        store, cond = _single_store(s.body)
        if n is None or store is None or not build.is_literal(s.min, 0):
            return False
        if cond is not None and walk.uses_var(cond, s.var):
            return False
        if any(type(x) is Let for x in walk.walk_expr(store.value)):
            return False
        if cond is None and (both := _sides(s, store)) is not None:
            self.emit(both)
            return True
        scope = self.scope
        width = self._width(s, store, n)
        if width < 2:
            return False
        if cond is not None:
            self.line(f"if ({text(cond, scope)}) {{")
            self.depth += 1
        group = Var(f"{s.var.name}_group", s.var.dtype)
        lane = Var(f"{s.var.name}_lane", s.var.dtype)
        at: Expr = build.mul(group, IntImm(width, s.var.dtype))
        if n == width:
            self._vector_body(s, store, width, IntImm(0, s.var.dtype), lane)
        else:
            name = scope.names.of(group, group.name)
            scope.dom[group] = (0, n // width - 1)
            self.line("#pragma unroll")
            self.line(f"for (int {name} = 0; {name} < {n // width}; ++{name}) {{")
            self.depth += 1
            self._vector_body(s, store, width, at, lane)
            self.depth -= 1
            self.line("}")
        if cond is not None:
            self.depth -= 1
            self.line("}")
        return True

    def _vector_body(self, s: For, store: BufferStore, width: int, at: Expr, lane: Var) -> None:
        scope = self.scope
        helper = scope.use("gt_vec")
        scope.dom[lane] = (0, width - 1)
        whole = {s.var: build.add(at, lane)}
        first = {s.var: at}
        lane_name = scope.names.of(lane, lane.name)
        value = walk.substitute(store.value, whole)
        fetched = dict(scope.fetched)
        for e in _surely(store.value):
            if type(e) is not BufferLoad or not self._contiguous(e.buffer, e.indices, s.var, width):
                continue
            here = tuple([walk.substitute(i, whole) for i in e.indices])
            key = (e.buffer, lin.key(address(e.buffer, here, scope.dom)))
            if key in scope.fetched:
                continue
            kind = f"{helper}<{stored_type(e.buffer.dtype)}, {width}>"
            name = scope.names.fresh(f"{e.buffer.name}_v")
            base = tuple([walk.substitute(i, first) for i in e.indices])
            place = element(e.buffer, base, scope)
            self.line(f"const {kind} {name} = *(const {kind}*)&{place};")
            scope.fetched[key] = f"{name}.v[{lane_name}]"
            self.scope.needs(e.buffer, width * dtypes.itemsize(e.buffer.dtype))
        kind = f"{helper}<{stored_type(store.buffer.dtype)}, {width}>"
        name = scope.names.fresh(f"{store.buffer.name}_v")
        base = tuple([walk.substitute(i, first) for i in store.indices])
        self.line(f"{kind} {name};")
        self.line("#pragma unroll")
        self.line(f"for (int {lane_name} = 0; {lane_name} < {width}; ++{lane_name}) {{")
        self.depth += 1
        self.line(f"{name}.v[{lane_name}] = {stored(value, scope)};")
        self.depth -= 1
        self.line("}")
        self.line(f"*({kind}*)&{element(store.buffer, base, scope)} = {name};")
        self.scope.needs(store.buffer, width * dtypes.itemsize(store.buffer.dtype))
        scope.fetched = fetched

    def _width(self, s: For, store: BufferStore, n: int) -> int:
        """The most neighbouring elements that one access of the store may take; 1: no more."""
        if any(
            type(e) is BufferLoad and e.buffer is store.buffer for e in walk.walk_expr(store.value)
        ):
            return 1  # what one lane stores another might load
        width = VECTOR_BYTES // dtypes.itemsize(store.buffer.dtype)
        while width > 1 and (
            n % width or not self._contiguous(store.buffer, store.indices, s.var, width)
        ):
            width //= 2
        return width

    def _contiguous(self, b: Buffer, indices: tuple[Expr, ...], v: Var, width: int) -> bool:
        """Do `width` iterations of `v` touch neighbours, beginning at a multiple of `width`?"""
        if width * dtypes.itemsize(b.dtype) > VECTOR_BYTES:
            return False
        dom = {**self.scope.dom, v: (0, width - 1)}
        form = lin.linear(address(b, indices, dom), dom)
        if form.coef(v) != 1 or any(walk.uses_var(x, v) for x in form.without([v]).atoms()):
            return False
        rest = form.without([v])
        return rest.const % width == 0 and all(c % width == 0 for _, c in rest.terms.values())


def _single_store(s: Stmt) -> tuple[BufferStore | None, Expr | None]:
    if type(s) is BufferStore and s.predicate is None:
        return s, None
    if type(s) is IfThenElse and s.orelse is None and type(s.then) is BufferStore:
        return s.then, s.cond
    return None, None


def _sides(s: For, store: BufferStore) -> Stmt | None:
    """A loop that stores one thing or another, by a condition that is the same for all iterations,
    as a loop for each; None if it is no such loop."""
    e = store.value
    if type(e) is not Call or e.op != "if_then_else" or walk.uses_var(e.args[0], s.var):
        return None

    def side(value: Expr) -> Stmt:
        body = BufferStore(store.buffer, value, store.indices)
        return For(s.var, s.min, s.extent, s.kind, body, None, s.annotations)

    return IfThenElse(e.args[0], side(e.args[1]), side(e.args[2]))


def _surely(e: Expr) -> Iterator[Expr]:
    """The parts of an expression that are evaluated whatever its conditions say."""
    yield e
    if type(e) is Call and e.op == "if_then_else":
        yield from _surely(e.args[0])
        return
    for x in walk.expr_children(e):
        yield from _surely(x)


def _statements(s: Stmt) -> int | None:
    """Statements when all loops are written out; None if a loop has no constant extent."""
    match s:
        case For():
            inside, n = _statements(s.body), trip_count(s)
            return None if inside is None or n is None else inside * n
        case BufferStore() | Evaluate():
            return 1
        case _:
            total = 0
            for x in walk.stmt_children(s):
                part = _statements(x)
                if part is None:
                    return None
                total += part
            return total
