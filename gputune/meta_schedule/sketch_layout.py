"""What of a scheduled program do the search's features see? Its structure, and integers beside it.

A `Layout` holds what is the same for all candidates of one structure: leaf blocks, kinds of loops,
which access depends on which loop and how. Every integer (extents, strides, shapes) goes into a
list of *facts*, and may be a `Dim`; the features are computed from layout and facts alone, so one
candidate and a matrix of candidates go through the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..ir import dtypes
from ..ir.build import const_int
from ..ir.nodes import (
    COMPARISONS,
    LOGIC,
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Expr,
    For,
    ForKind,
    IntImm,
    IRModule,
    Stmt,
    Var,
)
from ..ir.walk import expr_children, stmt_children, stmt_exprs, walk_stmt

# An index expression as far as its width matters. Numbers in it are positions in the facts.
Span: TypeAlias = (
    tuple[Literal["point"]]
    | tuple[Literal["loop"], int]
    | tuple[Literal["sum"], "tuple[Span, ...]"]
    | tuple[Literal["scale", "div", "mod"], "Span", int]
    | tuple[Literal["all"]]
)
POINT: Span = ("point",)
ALL: Span = ("all",)

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
    """

    buffer: int
    size: int
    spans: tuple[Span, ...]
    shape: tuple[int, ...]
    reads: bool
    writes: bool
    packed: bool


@dataclass(frozen=True, slots=True)
class BlockFact:
    """A block without blocks inside, and the loops around it, outermost first.

    Attributes:
        flops: arithmetic operations of one instance.
        calls: transcendental functions of one instance.
        unroll: fact: the limit up to which loops are unrolled; -1 for none.
        guarded: does it run under a predicate?
    """

    loops: tuple[LoopFact, ...]
    accesses: tuple[AccessFact, ...]
    flops: float
    calls: float
    unroll: int
    guarded: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """The leaf blocks of a module, the most important first: reductions, then by arithmetic."""

    blocks: tuple[BlockFact, ...]


def describe(mod: IRModule) -> tuple[Layout, list[int]]:
    """The layout of a scheduled module, and its facts (ints or Dims).

    The order of blocks and all else in the layout follow from the structure alone: no sampled value
    is compared.
    """
    facts: list[int] = []
    found: list[tuple[tuple[bool, float, int], BlockFact]] = []
    for func in mod.functions.values():
        walk = _Walk(facts, {b: k for k, b in enumerate(func.buffers)})
        walk.stmt(func.body, (), {}, frozenset(), -1)
        found += walk.found
    order = sorted(range(len(found)), key=lambda k: found[k][0], reverse=True)
    return Layout(tuple([found[k][1] for k in order])), facts


class _Walk:
    """One pass over a function."""

    def __init__(self, facts: list[int], params: dict[Buffer, int]) -> None:
        self.facts = facts
        self.buffers = params
        self.params = frozenset(params)
        self.found: list[tuple[tuple[bool, float, int], BlockFact]] = []

    def fact(self, x: int) -> int:
        self.facts.append(x)
        return len(self.facts) - 1

    def stmt(
        self,
        s: Stmt,
        loops: tuple[LoopFact, ...],
        env: dict[Var, Span],
        reducing: frozenset[Var],
        unroll: int,
    ) -> None:
        t = type(s)
        if t is For:
            assert isinstance(s, For)
            n = const_int(s.extent)
            for key, value in s.annotations:
                if key == _UNROLL_KEYS[0] and isinstance(value, int):
                    unroll = self.fact(value)
            loop = LoopFact(
                self.fact(1 if n is None else n), KIND_CODES[s.kind], _drives_reduction(s)
            )
            inner = {**env, s.var: ("loop", len(loops))}
            self.stmt(s.body, (*loops, loop), inner, reducing, unroll)
        elif t is Block:
            assert isinstance(s, Block)
            inner = dict(env)
            for iv, value in zip(s.iter_vars, s.iter_values):
                inner[iv.var] = self.span(value, env)
            if any(type(x) is Block for x in walk_stmt(s.body)):
                self.stmt(s.body, loops, inner, reducing, unroll)
            else:
                self.found.append((_work(s), self.block(s, loops, inner, unroll)))
        else:
            for c in stmt_children(s):
                self.stmt(c, loops, env, reducing, unroll)

    # ------------------------------------------------------------------ blocks
    def block(
        self, b: Block, loops: tuple[LoopFact, ...], env: dict[Var, Span], unroll: int
    ) -> BlockFact:
        inner = dict(env)
        flops = calls = 0.0
        own = list(loops)
        touched: dict[tuple[Buffer, tuple[Span, ...]], list[bool]] = {}
        stack: list[Stmt] = [b.body]
        while stack:
            s = stack.pop()
            if type(s) is For:  # a loop inside the block is one more loop
                n = const_int(s.extent)
                inner[s.var] = ("loop", len(own))
                own.append(LoopFact(self.fact(1 if n is None else n), KIND_CODES[s.kind], False))
            if type(s) is BufferStore:
                self.touch(touched, s.buffer, s.indices, inner, 1)
                f, c = _operations(s.value)
                flops, calls = flops + f, calls + c
            for e in stmt_exprs(s):
                self.loads(e, inner, touched)
            stack.extend(reversed(stmt_children(s)))
        accesses = tuple([self.access(k[0], k[1], how) for k, how in touched.items()])
        guarded = type(b.predicate) is not IntImm
        return BlockFact(tuple(own), accesses, flops, calls, unroll, guarded)

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
        spans = tuple([self.span(i, env) for i in indices])
        touched.setdefault((buffer, spans), [False, False])[how] = True

    def access(self, buffer: Buffer, spans: tuple[Span, ...], how: list[bool]) -> AccessFact:
        number = self.buffers.setdefault(buffer, len(self.buffers))
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

    # ------------------------------------------------------------------ indices
    def span(self, e: Expr, env: dict[Var, Span]) -> Span:
        t = type(e)
        if t is Var:
            return env.get(e, POINT)  # type: ignore[arg-type]  # t is the class of e
        if t is IntImm:
            return POINT
        if isinstance(e, Cast):
            return self.span(e.value, env)
        if t is not BinOp:
            return ALL
        assert isinstance(e, BinOp)
        a, b = self.span(e.a, env), self.span(e.b, env)
        if e.op in ("+", "-"):
            parts = [
                y
                for x in (a, b)
                if x is not POINT
                for y in (x[1] if x[0] == "sum" else (x,))
            ]  # fmt: skip
            if ALL in parts:
                return ALL
            return POINT if not parts else parts[0] if len(parts) == 1 else ("sum", tuple(parts))
        if a is POINT and b is POINT:
            return POINT
        if a is ALL or b is ALL:
            return ALL
        if e.op == "*":
            for x, y in ((a, e.b), (b, e.a)):
                c = const_int(y)
                if c is not None:
                    return ("scale", x, self.fact(c))
        c = const_int(e.b)
        if c is not None and e.op == "//":
            return ("div", a, self.fact(c))
        if c is not None and e.op in ("%", "truncmod"):
            return ("mod", a, self.fact(c))
        return ALL


def _drives_reduction(loop: For) -> bool:
    """Is the loop used by the binding of an iterator that is not spatial?"""
    stack: list[Stmt] = [loop.body]
    while stack:
        s = stack.pop()
        if type(s) is Block:
            for iv, value in zip(s.iter_vars, s.iter_values):
                if iv.kind != "spatial" and _mentions(value, loop.var):
                    return True
            continue
        stack.extend(stmt_children(s))
    return False


def _mentions(e: Expr, v: Var) -> bool:
    stack = [e]
    while stack:
        x = stack.pop()
        if x is v:
            return True
        if type(x) is BinOp:
            stack.append(x.a)
            stack.append(x.b)
        else:
            stack.extend(expr_children(x))
    return False


_COUNTED = frozenset({"+", "-", "*", "/", "//", "%", "truncmod", "min", "max"})
_FREE_CALLS = frozenset({"if_then_else", "likely", "assume"})


def _operations(e: Expr) -> tuple[float, float]:
    """Arithmetic operations (comparisons and conditions at half the price) and calls of a value."""
    flops = calls = 0.0
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is BinOp:
            if x.op in _COUNTED:
                flops += 1
            elif x.op in COMPARISONS or x.op in LOGIC:
                flops += 0.5
        elif type(x) is Call and x.op not in _FREE_CALLS:
            calls += 1
        if type(x) is not BufferLoad:  # the arithmetic of indices is another matter
            stack.extend(expr_children(x))
    return flops, calls


def _work(b: Block) -> tuple[bool, float, int]:
    """How much a block matters, from what is the same for all candidates: extents are not."""
    flops = calls = 0.0
    for s in walk_stmt(b.body):
        if type(s) is BufferStore:
            f, c = _operations(s.value)
            flops, calls = flops + f, calls + c
    reduces = any(iv.kind == "reduce" for iv in b.iter_vars)
    return reduces and flops + calls > 0, flops + 8 * calls, len(b.iter_vars)
