"""What of a scheduled program do the search's features see? Its structure, and integers beside it.

A `Layout` holds what is the same for all candidates of one structure: leaf blocks, kinds of loops,
which access depends on which loop and how. Every integer (extents, strides, shapes) goes into a
list of *facts*, and may be a `Dim`; the features are computed from layout and facts alone, so one
candidate and a matrix of candidates go through the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from ..ir import dtypes
from ..ir.build import const_int
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    ForKind,
    IntImm,
    IRModule,
    Stmt,
    Var,
)
from ..ir.walk import expr_children, stmt_children, stmt_exprs, walk_expr, walk_stmt
from ..lower import zeros
from ..lower.layout_preproc import as_measured
from ..schedule.dim import expr_of
from .gpu_layout import GpuLayout, describe_gpu, is_gpu_program
from .index_spans import ALL, POINT, Span, span_of
from .layout_parts import (
    choices,
    drives_reduction,
    instructions,
    operations,
    vector_operations,
    work,
)

KIND_CODES: Mapping[ForKind, int] = {
    "serial": 0,
    "unrolled": 1,
    "vectorized": 2,
    "parallel": 3,
    "thread_binding": 4,
}
_UNROLL_KEYS = ("pragma_auto_unroll_max_step", "pragma_unroll_explicit")


@dataclass(frozen=True, slots=True)
class LoopFact:
    """A loop: its extent, what kind it is, and whether it drives a reduction."""

    extent: int
    kind: int
    reduces: bool


@dataclass(frozen=True, slots=True)
class AccessFact:
    """What a block does to one buffer with one set of indices.

    Attributes:
        buffer: number of the buffer in the function, in order of appearance.
        size: bytes of an element.
        spans: one a dimension.
        shape: facts, one a dimension.
        reads, writes: is it loaded; is it stored?
        packed: will the buffer shrink to what is in use (one that the function allocates)?
        home: how many of the block's loops go on around the buffer's life: each iteration of them
            finds the same memory (0 for a parameter).
        again: how many of the loops go on around an earlier block, too, that touches the buffer; -1
            where there is none.
    """

    buffer: int
    size: int
    spans: tuple[Span, ...]
    shape: tuple[int, ...]
    reads: bool
    writes: bool
    packed: bool
    home: int = 0
    again: int = -1


@dataclass(frozen=True, slots=True)
class BlockFact:
    """A block without blocks inside, and the loops around it, outermost first.

    Attributes:
        flops: arithmetic operations of one instance.
        calls: transcendental functions of one instance.
        costs: of those, and of divisions, in vector operations.
        unroll: fact: the limit up to which loops are unrolled; -1 for none.
        guarded: does it run under a predicate?
        choices: conditions that the stored values depend on.
        shared: how many of the loops go on around another block, too.
        residues: sums, with a modulus each: unless the remainder of a sum has one value, an
            instance adds zero, and lowering leaves it out (see `lower.zeros`).
    """

    loops: tuple[LoopFact, ...]
    accesses: tuple[AccessFact, ...]
    flops: float
    calls: float
    costs: float
    unroll: int
    guarded: bool
    choices: int = 0
    shared: int = 0
    residues: tuple[tuple[Span, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """The leaf blocks of a module, the most important first: reductions, then by arithmetic. Of a
    program with thread-bound loops, the kernels instead."""

    blocks: tuple[BlockFact, ...]
    gpu: GpuLayout | None = None


@lru_cache(maxsize=16384)
def own_facts(block: BlockFact) -> tuple[BlockFact, tuple[int, ...]]:
    """A block with its facts numbered from 0, and their places among those of the layout. Blocks of
    different layouts that do the same become equal."""
    places: dict[int, int] = {}

    def number(at: int) -> int:
        return places.setdefault(at, len(places))

    def span(s: Span) -> Span:
        match s:
            case ("sum", parts):
                return ("sum", tuple([span(x) for x in parts]))
            case (("scale" | "div" | "mod") as op, inner, at):
                return (op, span(inner), number(at))
            case _:
                return s

    out = BlockFact(
        tuple([LoopFact(number(f.extent), f.kind, f.reduces) for f in block.loops]),
        tuple([
            AccessFact(
                k,
                a.size,
                tuple([span(s) for s in a.spans]),
                tuple([number(n) for n in a.shape]),
                a.reads,
                a.writes,
                a.packed,
                a.home,
                a.again,
            )
            for k, a in enumerate(block.accesses)
        ]),
        block.flops,
        block.calls,
        block.costs,
        -1 if block.unroll < 0 else number(block.unroll),
        block.guarded,
        block.choices,
        block.shared,
        tuple([(span(s), m) for s, m in block.residues]),
    )  # fmt: skip
    return out, tuple(places)


Part: TypeAlias = BlockFact | GpuLayout


def parts_of(layout: Layout, count: int) -> list[tuple[Part, tuple[int, ...]]]:
    """What a layout with `count` facts consists of, each part with the places of its facts: the
    blocks. A program for a GPU is one part."""
    if layout.gpu is not None:
        return [(layout.gpu, tuple(range(count)))]
    return [own_facts(b) for b in layout.blocks]


def describe(mod: IRModule) -> tuple[Layout, list[int]]:
    """The layout of a scheduled module, and its facts (ints or Dims).

    The order of blocks and all else in the layout follow from the structure alone: no sampled value
    is compared. Blocks that pack constant arguments are left out, as when candidates are measured.
    """
    facts: list[int] = []
    if is_gpu_program(mod):
        return Layout((), describe_gpu(mod, facts)), facts
    found: list[tuple[tuple[bool, float, int], BlockFact]] = []
    for func in as_measured(mod).functions.values():
        walk = _Walk(facts, {b: k for k, b in enumerate(func.buffers)})
        walk.stmt(func.body, (), {}, frozenset(), -1)
        found += walk.settled()
    order = sorted(range(len(found)), key=lambda k: found[k][0], reverse=True)
    return Layout(tuple([found[k][1] for k in order])), facts


def _same(a: Sequence[For], b: Sequence[For]) -> int:
    """How many loops two ways from the root have in common."""
    count = 0
    for x, y in zip(a, b):
        if x is not y:
            break
        count += 1
    return count


class _Walk:
    """One pass over a function."""

    def __init__(self, facts: list[int], params: dict[Buffer, int]) -> None:
        self.facts = facts
        self.places: dict[object, int] = {}
        self.buffers = params
        self.params = frozenset(params)
        self.found: list[tuple[tuple[bool, float, int], BlockFact]] = []
        self.around: list[For] = []  # the loops of the statement that is looked at
        self.paths: list[list[For]] = []  # the loops around each block that was found
        self.homes: dict[int, list[For]] = {}  # of a temporary: the loops that all its uses share
        self.stored: set[Buffer] = set(params)  # by the blocks so far, or by the caller
        self.spread: dict[Buffer, zeros.Spread] = {}

    def fact(self, x: int) -> int:
        """The place of an integer; equal expressions have one, so equal indices stay equal."""
        key = expr_of(x)
        at = self.places.get(key)
        if at is None:
            at = self.places[key] = len(self.facts)
            self.facts.append(x)
        return at

    def stmt(
        self,
        s: Stmt,
        loops: tuple[LoopFact, ...],
        env: dict[Var, Span],
        reducing: frozenset[Var],
        unroll: int,
    ) -> None:
        t = type(s)
        if isinstance(s, For | Block):
            for key, value in s.annotations:
                if key == _UNROLL_KEYS[0] and isinstance(value, int):
                    unroll = self.fact(value)
        if t is For:
            assert isinstance(s, For)
            n = const_int(s.extent)
            loop = LoopFact(
                self.fact(1 if n is None else n), KIND_CODES[s.kind], drives_reduction(s)
            )
            inner = {**env, s.var: ("loop", len(loops))}
            self.around.append(s)
            self.stmt(s.body, (*loops, loop), inner, reducing, unroll)
            self.around.pop()
        elif t is Block:
            assert isinstance(s, Block)
            inner = dict(env)
            for iv, value in zip(s.iter_vars, s.iter_values):
                inner[iv.var] = span_of(value, env, self.fact)
            if any(type(x) is Block for x in walk_stmt(s.body)):
                self.stmt(s.body, loops, inner, reducing, unroll)
            else:
                self.found.append((work(s), self.block(s, loops, inner, unroll)))
                self.paths.append(list(self.around))
        else:
            for c in stmt_children(s):
                self.stmt(c, loops, env, reducing, unroll)

    def settled(self) -> list[tuple[tuple[bool, float, int], BlockFact]]:
        """The blocks, with what is known only once all have been seen."""
        out = []
        last: dict[int, int] = {}  # by buffer: the block that touched it last
        for k, (key, block) in enumerate(self.found):
            near = [self.paths[j] for j in (k - 1, k + 1) if 0 <= j < len(self.paths)]
            shared = max((_same(self.paths[k], x) for x in near), default=0)
            accesses = []
            for a in block.accesses:
                home = len(self.homes[a.buffer]) if a.buffer in self.homes else 0
                before = last.get(a.buffer)
                again = -1 if before is None else _same(self.paths[k], self.paths[before])
                accesses.append(replace(a, home=home, again=again))
            last |= dict.fromkeys([a.buffer for a in accesses], k)
            out.append((key, replace(block, accesses=tuple(accesses), shared=shared)))
        return out

    # ------------------------------------------------------------------ blocks
    def block(
        self, b: Block, loops: tuple[LoopFact, ...], env: dict[Var, Span], unroll: int
    ) -> BlockFact:
        if b.match_buffers and instructions(b):
            return self.instruction(b, loops, env, unroll)
        inner = dict(env)
        flops = calls = costs = 0.0
        chosen = 0
        own = list(loops)
        touched: dict[tuple[Buffer, tuple[Span, ...]], list[bool]] = {}
        residues: dict[tuple[Span, int], None] = {}
        stack: list[Stmt] = [b.body]
        while stack:
            s = stack.pop()
            if type(s) is For:  # a loop inside the block is one more loop
                n = const_int(s.extent)
                inner[s.var] = ("loop", len(own))
                own.append(LoopFact(self.fact(1 if n is None else n), KIND_CODES[s.kind], False))
            if type(s) is BufferStore:
                self.touch(touched, s.buffer, s.indices, inner, 1)
                f, c = operations(s.value, padding=False)
                flops, calls = flops + f, calls + c
                costs += vector_operations(s.value)
                chosen += choices(s.value)
                residues |= self.residues(s, inner)
            for e in stmt_exprs(s):
                self.loads(e, inner, touched)
            stack.extend(reversed(stmt_children(s)))
        accesses = tuple([self.access(k[0], k[1], how) for k, how in touched.items()])
        guarded = type(b.predicate) is not IntImm
        return BlockFact(
            tuple(own),
            accesses,
            flops,
            calls,
            costs,
            unroll,
            guarded,
            chosen,
            residues=tuple(residues),
        )

    def residues(self, s: BufferStore, env: dict[Var, Span]) -> dict[tuple[Span, int], None]:
        """Which remainders decide whether a statement adds zero. Notes what is said of a temporary
        that one statement sets: its zeros are those of who reads it."""
        if s.buffer in self.stored:
            self.spread.pop(s.buffer, None)
        elif spread := zeros.of_store(s):
            self.spread[s.buffer] = spread
        self.stored.add(s.buffer)
        asked = [zeros.remainder(c) for c in zeros.zero_unless(s, self.spread)]
        return dict.fromkeys([(span_of(e, env, self.fact), m) for e, m in asked])

    def instruction(
        self, b: Block, loops: tuple[LoopFact, ...], env: dict[Var, Span], unroll: int
    ) -> BlockFact:
        """A block that a tensor intrinsic computes: as a loop over each dimension of the result,
        the last one a vector. What it reads that the result has no dimension for is read as one
        wide element."""
        (store,) = [s for s in walk_stmt(b.body) if type(s) is BufferStore]
        out = store.buffer
        loaded = {
            x.buffer for e in stmt_exprs(store) for x in walk_expr(e) if type(x) is BufferLoad
        }
        sizes = [const_int(n) for n in out.shape]
        own = list(loops)
        for k, n in enumerate(sizes):
            kind = KIND_CODES["vectorized" if k == len(sizes) - 1 else "serial"]
            own.append(LoopFact(self.fact(1 if n is None else n), kind, False))
        accesses = []
        for m in b.match_buffers:
            view, source = m.buffer, m.source
            left = list(enumerate(sizes))
            spans, shape = [], []
            wide = max(1, dtypes.bits(view.dtype) // 8)
            lead = len(source.region) - len(view.shape)
            for d, (r, size) in enumerate(zip(source.region, source.buffer.shape, strict=True)):
                span, extent = span_of(r.min, env, self.fact), const_int(r.extent)
                known = const_int(size)
                whole = 1 if known is None else known
                at = next((j for j, (_, e) in enumerate(left) if e == extent), None)
                if d < lead or extent is None or extent == 1:
                    pass
                elif at is not None:
                    lane: Span = ("loop", len(loops) + left[at][0])
                    del left[: at + 1]
                    span = lane if span is POINT else ("sum", (span, lane))
                elif d == len(source.region) - 1:
                    wide *= extent
                    whole = whole // extent
                    span = span if span is POINT else ("div", span, self.fact(extent))
                else:
                    span = ALL
                spans.append(span)
                shape.append(self.fact(whole))
            how = [view in loaded, view is out]
            if any(how):
                found = self.access(source.buffer, tuple(spans), how)
                accesses.append(replace(found, size=wide, shape=tuple(shape)))
        flops = 2.0 * instructions(b) + operations(store.value)[0]
        guarded = type(b.predicate) is not IntImm
        return BlockFact(tuple(own), tuple(accesses), flops, 0.0, 0.0, unroll, guarded)

    def loads(
        self,
        e: Expr,
        env: dict[Var, Span],
        touched: dict[tuple[Buffer, tuple[Span, ...]], list[bool]],
    ) -> None:
        stack = [e]
        while stack:
            x = stack.pop()
            if type(x) is BufferLoad:
                self.touch(touched, x.buffer, x.indices, env, 0)
            stack.extend(expr_children(x))

    def touch(
        self,
        touched: dict[tuple[Buffer, tuple[Span, ...]], list[bool]],
        buffer: Buffer,
        indices: Sequence[Expr],
        env: dict[Var, Span],
        how: int,
    ) -> None:
        spans = tuple([span_of(i, env, self.fact) for i in indices])
        touched.setdefault((buffer, spans), [False, False])[how] = True

    def access(self, buffer: Buffer, spans: tuple[Span, ...], how: list[bool]) -> AccessFact:
        number = self.buffers.setdefault(buffer, len(self.buffers))
        if buffer not in self.params:
            known = self.homes.setdefault(number, list(self.around))
            del known[_same(known, self.around) :]
        shape = []
        for n in buffer.shape:
            extent = const_int(n)
            shape.append(self.fact(1 if extent is None else extent))
        bits = dtypes.bits(buffer.dtype)
        return AccessFact(
            number,
            max(1, bits // 8),
            spans,
            tuple(shape),
            how[0],
            how[1],
            buffer not in self.params,
        )
