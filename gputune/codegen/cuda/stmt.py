"""What is a statement in CUDA C++? Lines of a kernel's body, readable and indented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

from ...errors import BuildError
from ...ir import build, dtypes, walk
from ...ir.nodes import (
    Alloc,
    Buffer,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from ...lower import linear as lin
from ...lower.accesses import loop_bounds, trip_count
from ...lower.async_copies import BACKGROUND, is_commit, waited_for
from ...lower.barriers import is_barrier
from ...lower.cache_hints import store_hint
from ...lower.pragmas import Unroll
from ...lower.shared_memory import DYNAMIC, SHARED
from ...lower.tiles import is_fragment, operands, tile_op, warp_call
from . import tiles
from .expr import Scope, element, stored, text
from .names import compute_type, stored_type
from .vectors import VECTOR_BYTES, one_copy, vector_loop

_WRITTEN_OUT = 16
"""Statements up to which a loop is written out where `pragma_unroll_explicit` asks for it. Kernels
of a matmul and a convolution whose 256 to 1024 statements were all written out took the generator 3
to 13 times as long, NVRTC 1.1 to 2 times, and gave machine code of about the same size; with loops
of up to 32 it was the same code, for up to a fifth more of NVRTC's time."""


@dataclass(slots=True)
class Body:
    """Lines of a kernel as they come; `shared`: its arrays in shared memory, each with its name,
    the type of its elements and their number."""

    scope: Scope
    shared: list[tuple[Buffer, str, str, int]] = field(default_factory=list)
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
            case BufferStore() if (call := warp_call(s)) is not None:
                self.line(tiles.warp_call_text(s, call, self.scope))
            case BufferStore():
                if s.predicate is not None:
                    raise BuildError(f"a masked store to {s.buffer.name} has no code on CUDA")
                value, hint = store_hint(s.value)
                if hint == BACKGROUND:
                    hint, copy = "", one_copy(s.buffer, s.indices, value, self.scope)
                    if copy is not None:
                        self.line(copy)
                        return
                self.put(s.buffer, s.indices, stored(value, self.scope), hint)
            case LetStmt():
                self._let(s)
            case Alloc():
                self._alloc(s)
            case Evaluate():
                if is_barrier(s):
                    self.line("__syncthreads();")
                elif is_commit(s):
                    self.line("gt_commit_copies();")
                elif (left := waited_for(s)) is not None:
                    self.line(f"gt_wait_copies<{left}>();")
                else:
                    self.line(f"(void)({text(s.value, self.scope)});")
            case _:
                raise BuildError(f"a {type(s).__name__} is left in lowered code")

    def put(self, b: Buffer, indices: tuple[Expr, ...], value: str, hint: str = "") -> None:
        """Store what `value` says."""
        place = element(b, indices, self.scope)
        if hint:
            self.line(f"gt_store_{hint}<{stored_type(b.dtype)}>(&{place}, {value});")
        else:
            self.line(f"{place} = {value};")

    # -------------------------------------------------------------- blocks of lines
    def open(self, head: str) -> None:
        """Begin a block."""
        self.line(head)
        self.depth += 1

    def close(self, tail: str = "}") -> None:
        """End a block; where the tail begins another one, that is open."""
        self.depth -= 1
        self.line(tail)
        if tail.endswith("{"):
            self.depth += 1

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        """A block around what is written inside."""
        self.open(head)
        yield
        self.close(tail)

    @contextmanager
    def turns(self, name: str, count: int) -> Iterator[None]:
        """A short loop that the compiler writes out around what is written inside."""
        self.line("#pragma unroll")
        with self.block(f"for (int {name} = 0; {name} < {count}; ++{name}) {{"):
            yield

    def _inside(self, head: str, body: Stmt) -> None:
        with self.block(head):
            self.emit(body)

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
        self.scope.lets.add(s.var)
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
        if b.swizzle:  # (the rest of a row belongs to it)
            count = -(-count * dtypes.itemsize(b.dtype) // b.swizzle) * b.swizzle
            count //= dtypes.itemsize(b.dtype)
        name = self.scope.names.of(b, b.name)
        kind = stored_type(b.dtype)
        if is_fragment(b):
            self.line(tiles.declaration(b, name))
        elif b.scope in (SHARED, DYNAMIC):
            self.shared.append((b, name, kind, count))
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
        if vector_loop(self, s):
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
        s = self._short(s, bounds)
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

    def _short(self, s: For, bounds: lin.Bounds) -> For:
        """A loop whose variable has 32 bits, where these are enough for what 64 are asked for.
        (What is computed of it has as many as that needs.)"""
        if s.var.dtype != "int64":
            return s
        least, _ = lin.interval(s.extent, self.scope.dom)
        if min(bounds[0], least) < -(2**31) or bounds[1] >= 2**31 - 1:
            return s
        var = Var(s.var.name, "int32")
        body = walk.substitute_stmt(s.body, {s.var: build.cast("int64", var)})
        lo, n = (lin.to_expr(lin.linear(x, self.scope.dom), "int32") for x in (s.min, s.extent))
        return For(var, lo, n, s.kind, body, s.thread, s.annotations)

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
