"""What of a program scheduled for a GPU do the search's features see? Kernels, blocks, accesses.

As in sketch_layout.py, the layout holds what is the same for all candidates of one structure, and
integers go into a list of facts, which may be `Dim`s: nothing is asked of them here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from ..ir import dtypes, fragments
from ..ir.build import const_int
from ..ir.known_annotations import plain
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    For,
    IntImm,
    IRModule,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from ..ir.ops import TILE, VECTOR
from ..ir.walk import expr_children, stmt_children, stmt_exprs, walk_stmt
from ..lower.linear import conjuncts
from ..lower.place_memory import home_of
from ..schedule.analysis import region_under
from ..schedule.dim import expr_of, maximum, minimum
from ..schedule.tree import Link, Tree
from .analysis import annotation
from .gpu_usage import BLOCK, GRID, elements_exchanged, kernels_of, versions_of
from .index_spans import ZERO, Form, Span, facts_in, form_of, plus, renumbered, span_of, times
from .layout_parts import drives_reduction, operations, work

Scope: TypeAlias = Literal["global", "shared", "local"]
Rank: TypeAlias = tuple[bool, float, int]

_UNROLL = "pragma_auto_unroll_max_step"
_LANES = {"threadIdx.x": "x", "threadIdx.y": "y", "threadIdx.z": "z"}


@dataclass(frozen=True, slots=True)
class GpuLoop:
    """A loop around a block.

    Attributes:
        extent: fact.
        kind: "serial", "unrolled", "vectorized", "blockIdx", "threadIdx", "vthread".
        reduces: does it drive a reduction?
        axis: of a loop over blocks or threads: 0, 1, 2 for x, y, z.
        idle: a loop over virtual threads that all do the same here, which is done once; or one over
            an axis that a loop further inside is bound to as well.
    """

    extent: int
    kind: str
    reduces: bool
    axis: int = 0
    idle: bool = False


@dataclass(frozen=True, slots=True)
class GpuAccess:
    """What a block does to one buffer with one set of indices.

    Attributes:
        scope: where the buffer lives.
        size: bytes of an element.
        spans: one a dimension.
        shape: facts, one a dimension; of a buffer on the chip, what is allocated.
        form: the element that each thread of a warp accesses, up to a shift that is the same for
            all; its numbers are places in `params`.
        params: facts: extents of the kernel's threads along x, y, z; how far the loops over them
            around this block run; that of the vectorized loop; then those of the form.
        steps: facts: distances of neighbours in all dimensions but the last, in elements.
        reads, writes: is it loaded; is it stored?
        buffer: its name.
    """

    scope: Scope
    size: int
    spans: tuple[Span, ...]
    shape: tuple[int, ...]
    form: Form
    params: tuple[int, ...]
    steps: tuple[int, ...]
    reads: bool
    writes: bool
    buffer: str = ""


@dataclass(frozen=True, slots=True)
class WarpOp:
    """What a warp does at once with a tile, its threads holding parts of it.

    Attributes:
        multiply_adds: of all its threads, as many as float16 ones take the time of.
        flops: of all its threads.
        instructions: that it is made of.
        passes: of 128 bytes, from or to shared memory.
    """

    multiply_adds: float
    flops: float
    instructions: float
    passes: float


@dataclass(frozen=True, slots=True)
class GpuBlock:
    """A block without blocks inside.

    Attributes:
        loops: around it, outermost first.
        threads: facts: how many threads along x, y, z run it.
        flops: arithmetic operations of one instance.
        calls: transcendental functions of one instance.
        wide: is it arithmetic of 64 bits?
        unroll: fact: the limit up to which loops are unrolled; -1 for none.
        guarded: does it run under a predicate?
        crossing: places of the thread loops that share a reduction.
        everyone: does it write nothing but the threads' own registers?
        within: what its predicate compares: indices, each with the fact that it must be below.
        refilled: how many of a thread's loops, from the outermost, fill shared memory anew that it
            uses: with barriers inside, nothing stays in registers from one iteration to the next.
        again: how many of a thread's loops, from the outermost, may touch the same elements again;
            -1: any of them.
        warp: what a whole warp does together, if it does.
        exchange: fact: elements of shared memory through which the threads that share a reduction
            combine one result each; 0 where they do so within warps; -1 if none is shared.
    """

    loops: tuple[GpuLoop, ...]
    threads: tuple[int, int, int]
    accesses: tuple[GpuAccess, ...]
    flops: float
    calls: float
    wide: bool
    unroll: int
    guarded: bool
    crossing: tuple[int, ...]
    everyone: bool
    within: tuple[tuple[Span, int], ...]
    refilled: int
    again: int
    warp: WarpOp | None = None
    exchange: int = -1


@dataclass(frozen=True, slots=True)
class OnChip:
    """A buffer in shared memory or in registers.

    Attributes:
        scope: where.
        size: bytes of an element.
        shape: facts: what is allocated, in each dimension.
        written: facts: extents of the loops that fill it. (Threads may leave gaps in what they
            allocate; gaps take no registers.) Of what warps hold together: what is allocated.
        copies: facts: extents of the virtual threads that have one each.
        turns: facts: extents of the loops in each iteration of which it is filled anew.
        share: how much of it a thread holds.
        home: a number of the place where it lives, the same for buffers that live together.
        versions: fact: how many there are at a time, in a software pipeline; -1: one.
    """

    scope: Scope
    size: int
    shape: tuple[int, ...]
    written: tuple[int, ...]
    copies: tuple[int, ...]
    turns: tuple[int, ...]
    share: float = 1.0
    home: int = 0
    versions: int = -1


@dataclass(frozen=True, slots=True)
class GpuKernel:
    """A launch.

    Attributes:
        grid, block: facts: blocks along x, y, z; threads of a block along x, y, z.
        vthreads: facts: extents of loops over virtual threads.
        shared: fact: bytes of shared memory of a block.
        blocks: the most important first: reductions, then by arithmetic.
        memory: its buffers on the chip.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    vthreads: tuple[int, ...]
    shared: int
    blocks: tuple[GpuBlock, ...]
    memory: tuple[OnChip, ...]


@dataclass(frozen=True, slots=True)
class GpuLayout:
    """The kernels of a module, the most important first."""

    kernels: tuple[GpuKernel, ...]


def is_gpu_program(mod: IRModule) -> bool:
    """Is any loop bound to threads?"""
    return any(
        type(s) is For and s.thread is not None
        for f in mod.functions.values()
        for s in walk_stmt(f.body)
    )


def describe_gpu(mod: IRModule, facts: list[int]) -> GpuLayout:
    """The kernels of a scheduled module; their integers are appended to `facts`."""
    table = _Facts(facts)
    found: list[tuple[Rank, GpuKernel]] = []
    for func in mod.functions.values():
        found += _Program(func, table).kernels()
    order = sorted(range(len(found)), key=lambda k: found[k][0], reverse=True)
    return GpuLayout(tuple([found[k][1] for k in order]))


class _Facts:
    """The list of facts; equal expressions are kept once."""

    def __init__(self, facts: list[int]) -> None:
        self.facts = facts
        self.places: dict[object, int] = {}
        self.one = self.add(1)

    def add(self, x: int) -> int:
        key = expr_of(x)
        at = self.places.get(key)
        if at is None:
            at = self.places[key] = len(self.facts)
            self.facts.append(x)
        return at


@dataclass(slots=True)
class _Around:
    """What is known on the way down to a block."""

    loops: tuple[For, ...]
    spans: dict[Var, Span]
    forms: dict[Var, Form]
    values: dict[Var, tuple[Var, ...]]  # the loops that a variable follows from
    unroll: int


@dataclass(slots=True)
class _Room:
    """What of a buffer on the chip is allocated: sizes, steps between neighbours (elements)."""

    shape: list[int]
    steps: list[int]


class _Program:
    """One function."""

    def __init__(self, func: PrimFunc, table: _Facts) -> None:
        self.func = func
        self.table = table
        self.fact = table.add
        self.tree = Tree(func.body)
        self.rooms: dict[Buffer, _Room] = {}
        self.homes: dict[Buffer, list[For]] = {}  # the loops around that a buffer outlives
        self.places: dict[int | None, int] = {}  # of the innermost of these, its number
        self.found: list[tuple[Rank, GpuBlock]] = []
        self.threads: dict[str, int] = {}
        self.extents: Mapping[str, int] = {}

    def kernels(self) -> list[tuple[Rank, GpuKernel]]:
        """The kernels in order of launch."""
        root = self.func.body
        items = list(root.body.items) if type(root.body) is Seq else [root.body]
        items = [s for s in items if any(type(x) in (For, Block) for x in walk_stmt(s))]
        chip: dict[int, list[OnChip]] = {}
        for b, users in _on_chip(self.tree).items():
            top = _below_root(users[0])
            chip.setdefault(id(top), []).extend(self._room(b, users))
        out: list[tuple[Rank, GpuKernel]] = []
        for item, usage in zip(items, kernels_of(self.func), strict=False):
            self.found = []
            self.extents = usage.extents
            self.threads = {a: self.fact(usage.extents.get(a, 1)) for a in (*GRID, *BLOCK)}
            self._walk(item, _Around((), {}, {}, {}, -1))
            order = sorted(
                range(len(self.found)), key=lambda k: self.found[k][0], reverse=True
            )  # fmt: skip
            x, y, z = (self.threads[a] for a in GRID)
            p, q, r = (self.threads[a] for a in BLOCK)
            kernel = GpuKernel(
                (x, y, z),
                (p, q, r),
                tuple(map(self.fact, usage.vthreads)),
                self.fact(usage.shared_bytes),
                tuple([self.found[k][1] for k in order]),
                tuple(chip.get(id(item), ())),
            )
            rank = max([f[0] for f in self.found], default=(False, 0.0, 0))
            out.append((rank, kernel))
        return out

    # ------------------------------------------------------------------ memory on the chip
    def _room(self, b: Buffer, users: list[Link]) -> list[OnChip]:
        """What is allocated of a buffer: as much as is touched while it lives; and the registers
        that hold what is fetched ahead for it."""
        at, outermost = home_of(users, b)
        top = at if at is not None else outermost.up if outermost is not None else None
        scope = _scope(b)
        shape = [_size(n) for n in b.shape]
        touched: list[int | None] = [None] * len(shape)
        for user in users:
            block = user.block()
            for r in (*block.reads, *block.writes):
                if r.buffer is not b or top is None:
                    continue
                box = region_under(user, top, r, threads=scope == "shared", lanes=b.scope == "warp")
                for k, n in enumerate(shape):
                    own = None if box is None else const_int(box[k].extent)
                    size = n if own is None else minimum(own, n)
                    before = touched[k]
                    touched[k] = size if before is None else maximum(before, size)
        shape = [n if own is None else own for own, n in zip(touched, shape)]
        self.rooms[b] = _Room(shape, _steps(shape, _alignments(b, users)))
        above: list[For] = (
            [] if top is None else [x.node for x in (top, *top.above()) if type(x.node) is For]
        )
        self.homes[b] = above
        copies = [f for f in above if (f.thread or "").startswith("vthread")]
        turns = [f for f in above if f.thread is None]
        share = _SHARES.get(b.scope, 1.0)
        written = [_size(f.extent) for f in _filling(b, users, above)] if share == 1 else shape
        filled = tuple(map(self.fact, written))
        turned = tuple([self.fact(_size(f.extent)) for f in turns])
        place = self.places.setdefault(None if top is None else id(top.node), len(self.places))
        versions = versions_of(b, users, top) if scope == "shared" else 1
        several = type(versions) is not int or versions > 1
        out = [
            OnChip(
                scope,
                dtypes.itemsize(b.dtype),
                tuple(map(self.fact, shape)),
                filled,
                tuple([self.fact(_size(f.extent)) for f in copies if scope == "local"]),
                turned,
                share,
                place,
                self.fact(versions) if several else -1,
            )
        ]
        if several:
            held = (*filled, self.fact(minimum(versions - 1, 1)))
            out.append(
                OnChip("local", dtypes.itemsize(b.dtype), held, held, (), turned, 1.0, place)
            )
        return out

    # ------------------------------------------------------------------ down to the blocks
    def _walk(self, s: Stmt, a: _Around) -> None:
        if type(s) is For:
            unroll = self._unroll(s, a)
            self._walk(s.body, _Around((*a.loops, s), *self._under(s, a, len(a.loops)), unroll))
        elif type(s) is Block:
            inner = self._bound(s, a)
            if any(type(x) is Block for x in walk_stmt(s.body)):
                self._walk(s.body, inner)
            else:
                self.found.append((work(s), self._block(s, inner, a)))
        else:
            for c in stmt_children(s):
                self._walk(c, a)

    def _unroll(self, s: For | Block, a: _Around) -> int:
        """The limit of unrolling inside a loop or block."""
        unroll = a.unroll
        for key, value in s.annotations:
            if key == _UNROLL and isinstance(value, int):
                unroll = self.fact(value)
        return unroll

    def _under(
        self, s: For, a: _Around, at: int
    ) -> tuple[dict[Var, Span], dict[Var, Form], dict[Var, tuple[Var, ...]]]:
        """What is known inside a loop."""
        lane = _LANES.get(s.thread or "")
        form: Form = ("lane", lane) if lane else ("lane", "v") if s.kind == "vectorized" else ZERO
        return (
            {**a.spans, s.var: ("loop", at)},
            {**a.forms, s.var: form},
            {**a.values, s.var: (s.var,)},
        )

    def _bound(self, b: Block, a: _Around) -> _Around:
        """What is known inside a block: its iterators are what they are bound to."""
        spans, forms, values = dict(a.spans), dict(a.forms), dict(a.values)
        for iv, value in zip(b.iter_vars, b.iter_values):
            spans[iv.var] = span_of(value, a.spans, self.fact)
            forms[iv.var] = form_of(value, a.forms, self.fact)
            values[iv.var] = tuple({
                loop: None for v in _variables(value) for loop in a.values.get(v, ())
            })  # fmt: skip
        return _Around(a.loops, spans, forms, values, self._unroll(b, a))

    # ------------------------------------------------------------------ one block
    def _block(self, b: Block, a: _Around, outside: _Around) -> GpuBlock:
        warp = _warp_op(b)
        if warp is not None:
            return self._warp_block(b, a, outside, warp)
        flops = calls = 0.0
        spans, forms = dict(a.spans), dict(a.forms)
        loops = list(a.loops)
        touched: dict[tuple[Buffer, tuple[Span, ...], tuple[Form, ...]], list[bool]] = {}
        used: set[Var] = set()
        stack: list[Stmt] = [b.body]
        while stack:
            s = stack.pop()
            if type(s) is For:  # a loop inside the block is one more loop
                inside = _Around(tuple(loops), spans, forms, {}, -1)
                spans, forms, _ = self._under(s, inside, len(loops))
                loops.append(s)
            if type(s) is BufferStore:
                _touch(touched, s.buffer, s.indices, spans, forms, self.fact)[1] = True
                f, c = operations(s.value)
                flops, calls = flops + f, calls + c
            for e in stmt_exprs(s):
                self._loads(e, spans, forms, touched)
                used |= {loop for v in _variables(e) for loop in a.values.get(v, ())}
            stack.extend(reversed(stmt_children(s)))
        stored = [k[0] for k, how in touched.items() if how[1]]
        everyone = bool(stored) and all(_scope(x) == "local" for x in stored)
        own = self._own(loops)
        facts = self._loops(b, loops, outside, used, stored)
        lanes = [own.get(x, self.table.one) for x in BLOCK]
        if everyone:  # threads without a loop of their own do it as well
            lanes = [own.get(x, self.threads[x]) for x in BLOCK]
        vector = [x.extent for x in facts if x.kind == "vectorized"]
        prefix = [
            *(self.threads[x] for x in BLOCK),
            *lanes,
            vector[-1] if vector else self.table.one,
        ]
        wide = any(dtypes.itemsize(x.dtype) > 4 and dtypes.is_float(x.dtype) for x in stored)
        x, y, z = lanes
        return GpuBlock(
            facts,
            (x, y, z),
            tuple([self._access(k[0], k[1], k[2], how, prefix) for k, how in touched.items()]),
            flops,
            calls,
            wide,
            a.unroll,
            type(b.predicate) is not IntImm,
            self._crossing(b, loops, outside),
            everyone,
            self._within(b, outside),
            self._refilled([k[0] for k in touched], loops),
            self._again([k[0] for k in touched], stored, loops),
            exchange=self._exchange(b),
        )

    def _exchange(self, b: Block) -> int:
        """What the threads that share its reduction need to combine a result."""
        link = self.tree.find(b.key)
        found = None if link is None else elements_exchanged(self.extents, link)
        return -1 if found is None else self.fact(found)

    def _refilled(self, touched: Sequence[Buffer], loops: Sequence[For]) -> int:
        """How many of a thread's loops fill shared memory anew."""
        homes = [self.homes[x] for x in touched if _scope(x) == "shared" and x in self.homes]
        return max([sum(f.thread is None and f in h for f in loops) for h in homes], default=0)

    def _within(self, b: Block, a: _Around) -> tuple[tuple[Span, int], ...]:
        """What the predicate of a block compares with constants."""
        if type(b.predicate) is IntImm:
            return ()
        out = []
        for c in conjuncts(b.predicate):
            most = const_int(c.b) if type(c) is BinOp and c.op == "<" else None
            if most is not None and type(c) is BinOp:
                out.append((span_of(c.a, a.spans, self.fact), self.fact(most)))
        return tuple(out)

    def _warp_block(self, b: Block, a: _Around, outside: _Around, warp: WarpOp) -> GpuBlock:
        """A block that warps run: each thread of them does."""
        stored = [w.buffer for w in b.writes]
        facts = self._loops(b, a.loops, outside, set(), stored)
        own = self._own(a.loops)
        x, y, z = [self.threads[BLOCK[0]], *(own.get(k, self.table.one) for k in BLOCK[1:])]
        guarded = type(b.predicate) is not IntImm
        everyone = all(_scope(s) == "local" for s in stored)
        return GpuBlock(
            facts,
            (x, y, z),
            (),
            0.0,
            0.0,
            False,
            a.unroll,
            guarded,
            (),
            everyone,
            (),
            0,
            -1,
            warp,
        )

    def _again(
        self, touched: Sequence[Buffer], stored: Sequence[Buffer], loops: Sequence[For]
    ) -> int:
        """A copy to or from the chip touches each element of global memory once in each turn of the
        buffer on the chip."""
        chip = [x for x in touched if _scope(x) != "global" and x in self.homes]
        if not chip or any(_scope(x) == "shared" for x in touched if x not in stored):
            return -1
        if all(_scope(x) == "global" for x in stored) or all(_scope(x) == "shared" for x in stored):
            home = self.homes[chip[0]]
            return sum(f.thread is None and f in home for f in loops)
        return -1

    def _own(self, loops: Sequence[For]) -> dict[str, int]:
        """How far the (innermost) loop over each thread axis runs."""
        return {f.thread: self.fact(_size(f.extent)) for f in loops if f.thread in BLOCK}

    def _loops(
        self,
        b: Block,
        loops: Sequence[For],
        a: _Around,
        used: set[Var],
        stored: Sequence[Buffer],
    ) -> tuple[GpuLoop, ...]:
        local = {x for x in stored if _scope(x) == "local"}
        out: list[GpuLoop] = []
        for k, f in enumerate(loops):
            thread = f.thread or ""
            kind = f.kind if f.thread is None else thread.partition(".")[0]
            if kind == "parallel":
                kind = "serial"
            idle = thread != "" and any(x.thread == thread for x in loops[k + 1 :])
            if kind == "vthread":
                # what threads keep in registers differs between virtual threads
                idle = f.var not in used and not local
            reduces = k < len(a.loops) and drives_reduction(f)
            axis = "xyz".find(thread.partition(".")[2] or "x")
            out.append(GpuLoop(self.fact(_size(f.extent)), kind, reduces, axis, idle))
        return tuple(out)

    def _crossing(self, b: Block, loops: Sequence[For], a: _Around) -> tuple[int, ...]:
        """The thread loops that drive a reduction."""
        reduce = [
            a.values.get(v, ())
            for iv, value in zip(b.iter_vars, b.iter_values)
            if iv.kind == "reduce"
            for v in _variables(value)
        ]
        driving = {x for some in reduce for x in some}
        return tuple([
            k for k, f in enumerate(loops) if f.thread in BLOCK and f.var in driving
        ])  # fmt: skip

    def _loads(
        self,
        e: Expr,
        spans: dict[Var, Span],
        forms: dict[Var, Form],
        touched: dict[tuple[Buffer, tuple[Span, ...], tuple[Form, ...]], list[bool]],
    ) -> None:
        stack = [e]
        while stack:
            x = stack.pop()
            if type(x) is BufferLoad:
                _touch(touched, x.buffer, x.indices, spans, forms, self.fact)[0] = True
            stack.extend(expr_children(x))

    def _access(
        self,
        b: Buffer,
        spans: tuple[Span, ...],
        forms: tuple[Form, ...],
        how: Sequence[bool],
        prefix: Sequence[int],
    ) -> GpuAccess:
        room = self.rooms.get(b)
        if room is None:
            shape = [_size(n) for n in b.shape]
            steps = _steps(shape, ())
            if b.strides is not None:
                steps = [_size(n) for n in b.strides]
        else:
            shape, steps = room.shape, room.steps
        form = ZERO
        for f, step in zip(forms, steps):
            form = plus(form, times(f, step, self.fact))
        places = {at: len(prefix) + k for k, at in enumerate(dict.fromkeys(facts_in(form)))}
        return GpuAccess(
            _scope(b),
            dtypes.itemsize(b.dtype),
            spans,
            tuple(map(self.fact, shape)),
            renumbered(form, places),
            (*prefix, *places),
            tuple(map(self.fact, steps[:-1])),
            how[0],
            how[1],
            b.name,
        )


def _touch(
    touched: dict[tuple[Buffer, tuple[Span, ...], tuple[Form, ...]], list[bool]],
    buffer: Buffer,
    indices: Sequence[Expr],
    spans: Mapping[Var, Span],
    forms: Mapping[Var, Form],
    fact: Callable[[int], int],
) -> list[bool]:
    """The entry of an access: is it read, is it written?"""
    key = (
        buffer,
        tuple([span_of(i, spans, fact) for i in indices]),
        tuple([form_of(i, forms, fact) for i in indices]),
    )
    return touched.setdefault(key, [False, False])


# ----------------------------------------------------------------------------- warps
# Operands of float16 lie twice in the registers of a warp on some architectures, and wmma has room
# for that on all.
_SHARES = {
    "warp": 1 / 32, "wmma.accumulator": 1 / 32, "wmma.matrix_a": 2 / 32, "wmma.matrix_b": 2 / 32,
    "mma.accumulator": 1 / 32, "mma.matrix_a": 1 / 32, "mma.matrix_b": 1 / 32,
}  # fmt: skip
_INSTRUCTIONS = {"load": 2.0, "fill": 8.0, "multiply": 2.0, "store": 8.0}


def _warp_op(b: Block) -> WarpOp | None:
    """What the threads of a warp do together in a block that was tensorized."""
    if type(b.body) is For:
        return _by_registers(b)
    if type(b.body) is not BufferStore or type(b.body.value) is not Call:
        return None
    op = VECTOR.get(b.body.value.op)
    if op is None or not op.cuda or not op.tiles:
        return None
    size = dtypes.itemsize(dtypes.scalar(op.args[-1]))
    if len(op.tiles) > 2:
        products = float(TILE * dtypes.lanes(op.args[-1]))
        return WarpOp(products * size / 2, 2 * products, _INSTRUCTIONS["multiply"], 0.0)
    if "memory" not in op.tiles:
        return WarpOp(0.0, 0.0, _INSTRUCTIONS["fill"], 0.0)
    what = "store" if op.tiles[0] == "memory" else "load"
    moved = dtypes.lanes(op.args[-1]) * size / 128
    return WarpOp(0.0, 0.0, 1.0 if op.shapes else _INSTRUCTIONS[what], moved)


def _by_registers(b: Block) -> WarpOp | None:
    """Of loops over the elements of a tile, of which each lane goes through its own: a fill, a
    store, a load of what ldmatrix cannot bring."""
    held = [r.buffer for r in (*b.reads, *b.writes) if r.buffer.scope in fragments.SCOPES]
    if not held:
        return None
    elements = prod(_size(x.extent) for x in walk_stmt(b.body) if type(x) is For)
    elsewhere = any(r.buffer not in held for r in (*b.reads, *b.writes))
    moved = elements * dtypes.itemsize(held[0].dtype) / 128
    return WarpOp(0.0, 0.0, elements / 32, moved if elsewhere else 0.0)


# ----------------------------------------------------------------------------- small things
def _scope(b: Buffer) -> Scope:
    if b.scope.startswith("shared"):
        return "shared"
    return "global" if b.scope == "global" else "local"


def _size(e: Expr) -> int:
    n = const_int(e)
    return 1 if n is None else n


def _variables(e: Expr) -> list[Var]:
    out: list[Var] = []
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is Var:
            out.append(x)
        stack.extend(expr_children(x))
    return out


def _on_chip(tree: Tree) -> dict[Buffer, list[Link]]:
    """The buffers in shared memory and in registers, each with the innermost blocks that use it."""
    users: dict[Buffer, list[Link]] = {}
    for link in tree.links.values():
        if type(link.node) is not Block or any(type(s) is Block for s in walk_stmt(link.node.body)):
            continue
        for b in dict.fromkeys([r.buffer for r in (*link.node.reads, *link.node.writes)]):
            if b.scope != "global":
                users.setdefault(b, []).append(link)
    return users


def _below_root(link: Link) -> Stmt:
    """The statement of the root block that holds a link."""
    node = link.node
    for x in link.above():
        if x.up is None:
            break
        if type(x.node) is not Seq or x.up.up is not None:
            node = x.node
    return node


def _filling(b: Buffer, users: Sequence[Link], above: Sequence[For]) -> list[For]:
    """The loops that a thread fills a buffer with, each time: of the first block that writes it,
    those that drive no reduction."""
    for user in users:
        block = user.block()
        if all(w.buffer is not b for w in block.writes):
            continue
        loops = [x.node for x in user.above() if type(x.node) is For and x.node not in above]
        inside = [f for f in walk_stmt(block.body) if type(f) is For]
        spatial = [f for f in loops if not drives_reduction(f)]
        return [f for f in (*spatial, *inside) if not (f.thread or "").startswith("thread")]
    return []


def _alignments(b: Buffer, users: Sequence[Link]) -> list[tuple[int, int, int]]:
    """What storage_align asks for: axis, factor, offset."""
    return [
        (int(axis) % len(b.shape), plain(factor), plain(offset))
        for user in users
        for k, axis, factor, offset in annotation(user.block(), "buffer_dim_align") or ()
        if user.block().writes[int(k)].buffer is b
    ]


def _steps(shape: Sequence[int], aligned: Sequence[tuple[int, int, int]]) -> list[int]:
    """Distances of neighbours in each dimension, in elements."""
    out = [1] * len(shape)
    for k in range(len(shape) - 2, -1, -1):
        out[k] = out[k + 1] * shape[k + 1]
        for axis, factor, offset in aligned:
            if axis == k:
                out[k] = out[k] + (offset - out[k]) % factor
    return out
