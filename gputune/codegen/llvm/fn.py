"""How is the text of one LLVM function put together? Scopes, value numbering, loops, branches.

Code is collected in nested scopes: a loop body is a list of lines of its own, which is joined to
its parent only when the loop ends. While the body is written, the parent's list stands exactly in
front of the loop: what does not depend on the loop is appended there. So loop-invariant code is
hoisted, and equal computations are found, as the text is written; no LLVM pass is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...ir.nodes import Buffer, Var
from ...lower.linear import Bounds
from . import kept, tile_registers
from .jit import UNROLL
from .values import V, int_const, llvm_type, type_of


@dataclass(slots=True)
class Scope:
    """A stretch of code whose values are usable until its end.

    `table` holds the values computed so far. `conditional`: it may not run even though the parent
    does, so nothing is moved out of it. `stored`: the memories that change while it runs.
    """

    label: str
    lines: list[str] = field(default_factory=list)
    table: dict[Hashable, V] = field(default_factory=dict)
    conditional: bool = False
    stored: frozenset[Hashable] = frozenset()


@dataclass(slots=True)
class Module:
    """What the functions of one kernel share."""

    features: frozenset[str]
    x86: bool
    num_cores: int
    alias_params: bool
    declares: dict[str, str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    temporaries: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    counter: int = 0

    def declare(self, name: str, result: str, args: str) -> str:
        """Note that function `name` is used; its quoted name for a call."""
        self.declares.setdefault(name, f"declare {result} @{name}({args})")
        return f"@{name}"

    def seats_of_temporary(self) -> str:
        """The name of the place where a large temporary waits between calls; see kept.py."""
        self.declares.update(kept.DECLARES)
        self.temporaries.append(self.fresh("kept"))
        return self.temporaries[-1]

    def use_tiles(self) -> None:
        """Note that tile registers are used."""
        self.declares.update(tile_registers.DECLARES)
        self.constants = [tile_registers.constant()]

    def unrolled(self) -> str:
        """A new name for the hint that LLVM shall unroll a loop; each loop has its own."""
        if not self.hints:
            self.hints.append(f'!0 = !{{!"{UNROLL}"}}')
        name = f"!{len(self.hints)}"
        self.hints.append(f"{name} = distinct !{{{name}, !0}}")
        return name

    def fresh(self, stem: str) -> str:
        """A function name not used so far."""
        self.counter += 1
        return f"{stem}.{self.counter}"


class Fn:
    """One function under construction."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.prologue: list[str] = []
        self.scopes: list[Scope] = [Scope("start")]
        self.floor = 0
        self.env: dict[Var, V] = {}
        self.bases: dict[Buffer, V] = {}
        self.aligns: dict[Buffer, int] = {}
        self.params: frozenset[Buffer] = frozenset()
        self.regs: dict[Buffer, dict[int, V]] = {}
        self.dom: dict[Var, Bounds] = {}
        self.versions: dict[Hashable, int] = {}
        self.places: dict[int, object] = {}
        self.codes: dict[
            tuple[str, str], V
        ] = {}  # narrow float -> the bits from which it was decoded
        self.pool: V | None = None
        self.has_error = False
        self.stack_bytes = 0
        self.tiles = tile_registers.Tiles()
        self.heap: list[tuple[V, str]] = []  # large temporaries with where they are kept
        self._n = 0

    # ------------------------------------------------------------------------- values
    @property
    def depth(self) -> int:
        """The present nesting depth."""
        return len(self.scopes) - 1

    def name(self, stem: str = "v") -> str:
        """A fresh local name."""
        self._n += 1
        return f"%{stem}{self._n}"

    def op(self, text: str, dtype: str, lanes: int, depth: int) -> V:
        """The value of a pure instruction whose operands are defined at `depth` or above."""
        d = depth
        if depth < self.floor:
            d = self.floor
            for outer in range(depth, d):
                known = self.scopes[outer].table.get(text)
                if known is not None:
                    return known
        scope = self.scopes[d]
        found = scope.table.get(text)
        if found is None:
            self._n += 1
            ref = f"%v{self._n}"
            scope.lines.append(f"  {ref} = {text}")
            found = scope.table[text] = V(ref, dtype, lanes, d)
        return found

    def here(self, text: str, dtype: str, lanes: int = 1) -> V:
        """The value of an instruction that must stand exactly here."""
        ref = self.name()
        self.scopes[-1].lines.append(f"  {ref} = {text}")
        return V(ref, dtype, lanes, self.depth)

    def do(self, text: str) -> None:
        """An instruction without a value."""
        self.scopes[-1].lines.append("  " + text)

    # ------------------------------------------------------------------------- memory
    def memory(self, b: Buffer) -> Hashable:
        """What may overlap: one thing for all parameters if the kernel makes no promise."""
        return "params" if self.module.alias_params and b in self.params else b

    def version(self, b: Buffer) -> int:
        """Changes whenever `b` may have been written."""
        return self.versions.get(self.memory(b), 0)

    def bump(self, memory: Hashable) -> None:
        """`memory` may have changed."""
        self.versions[memory] = self.versions.get(memory, 0) + 1

    def load_depth(self, b: Buffer, depth: int) -> int:
        """How far out a load of `b` may move that is possible from `depth` on."""
        memory = self.memory(b)
        for d in range(len(self.scopes) - 1, depth, -1):
            if memory in self.scopes[d].stored or self.scopes[d].conditional:
                return d
        return max(depth, self.floor)

    # ------------------------------------------------------------------------- control flow
    @contextmanager
    def loop(self, lo: V, n: V, stored: frozenset[Hashable], unroll: bool = False) -> Iterator[V]:
        """Code that runs `n` (at least one) times; gives the loop variable, from `lo` on. LLVM is
        asked to `unroll` it."""
        head, done = self.name("loop")[1:], self.name("done")[1:]
        parent = self.scopes[-1]
        scope = Scope(head, stored=stored)
        self.scopes.append(scope)
        iv = V(self.name("i"), "int64", 1, self.depth)
        end = self._end(lo, n)
        for m in stored:
            self.bump(m)
        phis = self._enter_registers(stored)
        yield iv
        self.scopes.pop()
        for m in stored:
            self.bump(m)
        nxt = self.name("i")
        pre, latch = parent.label, scope.label
        out = parent.lines
        out.append(f"  br label %{head}")
        out.append(f"{head}:")
        out.append(f"  {iv.ref} = phi i64 [ {lo.ref}, %{pre} ], [ {nxt}, %{latch} ]")
        for b, at, old, phi in phis:
            new = self.regs[b][at]
            out.append(
                f"  {phi.ref} = phi {type_of(phi)} [ {old.ref}, %{pre} ], [ {new.ref}, %{latch} ]"
            )
        out += scope.lines
        out.append(f"  {nxt} = add nsw i64 {iv.ref}, 1")
        more = self.name("c")
        out.append(f"  {more} = icmp slt i64 {nxt}, {end.ref}")
        hint = f", !llvm.loop {self.module.unrolled()}" if unroll else ""
        out.append(f"  br i1 {more}, label %{head}, label %{done}{hint}")
        out.append(f"{done}:")
        parent.label = done
        self._leave_registers()

    def _end(self, lo: V, n: V) -> V:
        if lo.const is not None and n.const is not None:
            return int_const(lo.const + n.const)
        if lo.const == 0:
            return n
        d = min(max(lo.depth, n.depth), self.depth - 1)
        return self.op(f"add nsw i64 {lo.ref}, {n.ref}", "int64", 1, d)

    def _enter_registers(self, stored: frozenset[Hashable]) -> list[tuple[Buffer, int, V, V]]:
        phis = []
        for b, cells in self.regs.items():
            if b in stored:
                for at, old in cells.items():
                    phi = V(self.name("r"), old.dtype, old.lanes, self.depth)
                    phis.append((b, at, old, phi))
                    cells[at] = phi
        return phis

    def _leave_registers(self) -> None:
        """Values of registers that were defined in the scope just left belong to this one now."""
        top = self.depth
        for cells in self.regs.values():
            for at, v in cells.items():
                if v.depth > top:
                    cells[at] = V(v.ref, v.dtype, v.lanes, top, v.const)

    def branch(
        self,
        cond: V,
        then: Callable[[], V | None],
        orelse: Callable[[], V | None] | None,
        stored: frozenset[Hashable] = frozenset(),
    ) -> V | None:
        """Run `then` or `orelse`; their value, if they have one."""
        yes, no, end = (self.name(x)[1:] for x in ("then", "else", "end"))
        parent = self.scopes[-1]
        before = {b: dict(cells) for b, cells in self.regs.items()}
        first = self._side(yes, then)
        after_then = {b: dict(cells) for b, cells in self.regs.items() if b in before}
        for m in stored:
            self.bump(m)
        self.regs = {b: dict(cells) for b, cells in before.items()}
        second = self._side(no, orelse or (lambda: None))
        for m in stored:
            self.bump(m)
        out = parent.lines
        out.append(f"  br i1 {cond.ref}, label %{yes}, label %{no}")
        out.append(f"{yes}:")
        out += first[1].lines
        out.append(f"  br label %{end}")
        out.append(f"{no}:")
        out += second[1].lines
        out.append(f"  br label %{end}")
        out.append(f"{end}:")
        parent.label = end
        edges = (first[1].label, second[1].label)
        for b, cells in self.regs.items():
            other = after_then[b]
            for at in {**other, **cells}:
                cells[at] = self._merge(other.get(at), cells.get(at), edges)
        if first[0] is None or second[0] is None:
            return None
        return self._merge(first[0], second[0], edges)

    def _side(self, label: str, run: Callable[[], V | None]) -> tuple[V | None, Scope]:
        scope = Scope(label, conditional=True)
        self.scopes.append(scope)
        floor, self.floor = self.floor, self.depth
        value = run()
        self.floor = floor
        self.scopes.pop()
        return value, scope

    def _merge(self, a: V | None, b: V | None, edges: tuple[str, str]) -> V:
        some = a or b
        assert some is not None  # one side defined it
        if a is not None and b is not None and a.ref == b.ref:
            return V(a.ref, a.dtype, a.lanes, min(a.depth, self.depth), a.const)
        x, y = (v.ref if v is not None else "poison" for v in (a, b))
        return self.here(
            f"phi {llvm_type(some.dtype, some.lanes)} [ {x}, %{edges[0]} ], [ {y}, %{edges[1]} ]",
            some.dtype,
            some.lanes,
        )

    # ------------------------------------------------------------------------- the whole text
    def text(self, head: str) -> str:
        """The function: `head` is its signature."""
        body = self.scopes[0].lines
        lines = [f"{head} #0 {{", "entry:", *self.prologue]
        if self.has_error:
            lines += ["  %err = alloca i32", "  store i32 0, ptr %err"]
        if self.heap:
            lines += self._check_heap()
        lines += ["  br label %start", "start:"]
        if self.tiles.used:
            self.module.use_tiles()
            body = [tile_registers.BEGIN, *body, tile_registers.END]
        lines += body
        lines += [f"  {kept.keep(seats, v.ref)}" for v, seats in self.heap]
        if self.has_error:
            lines += ["  %rc = load i32, ptr %err", "  ret i32 %rc", "}"]
        else:
            lines += ["  ret i32 0", "}"]
        return "\n".join(lines) + "\n"

    def _check_heap(self) -> list[str]:
        lines = []
        ok = "true"
        for v, _ in self.heap:
            got, both = self.name("got"), self.name("ok")
            lines.append(f"  {got} = icmp ne ptr {v.ref}, null")
            lines.append(f"  {both} = and i1 {ok}, {got}")
            ok = both
        lines += [f"  br i1 {ok}, label %enough, label %nomemory", "nomemory:"]
        self.module.declare("free", "void", "ptr")
        lines += [f"  call void @free(ptr {v.ref})" for v, _ in self.heap]
        lines += ["  ret i32 1", "enough:"]
        return lines
