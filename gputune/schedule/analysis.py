"""What kind of block is this, and which blocks depend on which?

The words are MetaSchedule's: a *complete* block is spatial throughout, the only writer of what it
writes, and does not read it; a *reduction* block has an init and spatial and reduce iterators only;
a scope is a *stage pipeline* when each block in it is one of the two and whatever a block reads
from another has been written before, in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..ir.boxes import covers, intersect_shape, relax, relax_exact
from ..ir.build import const_int, is_literal
from ..ir.iter_map import is_affine_binding
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferRegion,
    Expr,
    For,
    IntImm,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.walk import map_region, stmt_children, substitute, uses_var
from .tree import Link

if TYPE_CHECKING:
    from .state import State

BlockKind: TypeAlias = Literal["complete", "reduction", ""]
Loops: TypeAlias = dict[Var, tuple[int, int]]


def blocks_below(link: Link) -> list[Link]:
    """The outermost blocks below a node, in program order."""
    out: list[Link] = []
    stack = [Link(c, link) for c in reversed(stmt_children(link.node))]
    while stack:
        x = stack.pop()
        if type(x.node) is Block:
            out.append(x)
        elif type(x.node) is For:
            stack.append(Link(x.node.body, x))
        else:
            stack += [Link(c, x) for c in reversed(stmt_children(x.node))]
    return out


def loop_ranges(loops: Sequence[For]) -> Loops | None:
    """Minimum and extent of each loop; None where one is not constant."""
    out: Loops = {}
    for f in loops:
        lo, n = const_int(f.min), const_int(f.extent)
        if lo is None or n is None:
            return None
        out[f.var] = (lo, n)
    return out


# ----------------------------------------------------------------------------- one block
def binding_is_affine(link: Link) -> bool:
    """Are the bindings a bijective quasi-affine map of the loops above?"""
    block = link.block()
    loops = link.loops()
    return _binding_is_affine(
        block.iter_vars,
        block.iter_values,
        block.predicate,
        tuple([f.var for f in loops]),
        tuple([f.min for f in loops]),
        tuple([f.extent for f in loops]),
    )


@lru_cache(maxsize=2048)
def _binding_is_affine(
    iters: tuple[IterVar, ...],
    values: tuple[Expr, ...],
    predicate: Expr,
    loops: tuple[Var, ...],
    mins: tuple[Expr, ...],
    loop_extents: tuple[Expr, ...],
) -> bool:
    ranges: Loops = {}
    for v, lo, e in zip(loops, mins, loop_extents, strict=True):
        a, n = const_int(lo), const_int(e)
        if a is None or n is None:
            return _binding_is_trivial(values, loops)
        ranges[v] = (a, n)
    extents = []
    for iv in iters:
        n = const_int(iv.dom.extent)
        if n is None:
            return _binding_is_trivial(values, loops)
        extents.append(n)
    return is_affine_binding(extents, values, ranges, predicate)


def _binding_is_trivial(values: Sequence[Expr], loops: Sequence[Var]) -> bool:
    return all(type(v) is Var for v in values) and len(set(values)) == len(values) == len(loops)


def is_trivial_binding(link: Link) -> bool:
    """Is every iterator exactly one loop variable?"""
    values = link.block().iter_values
    loops = {f.var for f in link.loops()}
    return all(type(v) is Var and v in loops for v in values) and len(set(values)) == len(values)


@lru_cache(maxsize=2048)
def _shape_of_block(
    iter_vars: tuple[IterVar, ...],
    reads: tuple[BufferRegion, ...],
    writes: tuple[BufferRegion, ...],
    init: Stmt | None,
) -> BlockKind:
    """The kind as far as the block alone decides it."""
    kinds = {iv.kind for iv in iter_vars}
    written = {w.buffer for w in writes}
    if init is None:
        if kinds <= {"spatial"} and not any(r.buffer in written for r in reads):
            return "complete"
        return ""
    if not kinds <= {"spatial", "reduce"}:
        return ""
    reduce_vars = {iv.var for iv in iter_vars if iv.kind == "reduce"}
    for w in writes:
        for g in w.region:
            if uses_var(g.min, reduce_vars) or uses_var(g.extent, reduce_vars):
                return ""
    return "reduction"


def kind_of(link: Link, s: State) -> BlockKind:
    """What kind of block is it in its scope?"""
    b = link.block()
    kind = _shape_of_block(b.iter_vars, b.reads, b.writes, b.init)
    if kind and is_only_writer(link, s):
        return kind
    return ""


def siblings(link: Link, s: State) -> list[Link]:
    """The blocks of the scope that the block is in, itself among them."""
    scope = link.scope().block()
    return s.tree(s.func_of(scope.key)).blocks[scope.key]


def is_only_writer(link: Link, s: State) -> bool:
    """Does no other block of the scope write what this one writes?"""
    b = link.block()
    mine = {w.buffer for w in b.writes}
    return not any(
        other.block().key is not b.key and any(w.buffer in mine for w in other.block().writes)
        for other in siblings(link, s)
    )


def is_output(link: Link, s: State) -> bool:
    """Does the block write a buffer that is not allocated inside its scope block?"""
    inside = set(link.scope().block().alloc_buffers)
    return any(w.buffer not in inside for w in link.block().writes)


def producers(link: Link, s: State) -> list[Link]:
    """The other blocks of the scope that write what this one reads (or, before it, writes)."""
    b = link.block()
    read = {r.buffer for r in b.reads}
    written = {w.buffer for w in b.writes}
    out: list[Link] = []
    before = True
    for other in siblings(link, s):
        o = other.block()
        if o.key is b.key:
            before = False
            continue
        theirs = {w.buffer for w in o.writes}
        if theirs & read or (before and theirs & written):
            out.append(other)
    return out


def consumers(link: Link, s: State) -> list[Link]:
    """The other blocks of the scope that read what this one writes (or, after it, write it)."""
    b = link.block()
    written = {w.buffer for w in b.writes}
    out: list[Link] = []
    after = False
    for other in siblings(link, s):
        o = other.block()
        if o.key is b.key:
            after = True
            continue
        if any(r.buffer in written for r in o.reads) or (
            after and any(w.buffer in written for w in o.writes)
        ):
            out.append(other)
    return out


# ----------------------------------------------------------------------------- regions
def bound_region(block: Block, region: BufferRegion) -> BufferRegion:
    """A region of a block in terms of the loops above it."""
    table = {iv.var: v for iv, v in zip(block.iter_vars, block.iter_values, strict=True)}
    return map_region(region, lambda e: substitute(e, table))


def region_under(
    link: Link, top: Link, region: BufferRegion, *, exact: bool = False
) -> tuple[Range, ...] | None:
    """The box that the block touches while the loops below `top` run; None if a bound is not
    constant, or with `exact` if the block leaves gaps in the box."""
    inner: list[For] = []
    for x in link.above():
        if x.node is top.node:
            break
        if type(x.node) is For:
            inner.append(x.node)
    ranges = loop_ranges(inner)
    if ranges is None:
        return None
    return (relax_exact if exact else relax)(bound_region(link.block(), region).region, ranges)


def common_ancestor(a: Link, b: Link) -> Link:
    """The lowest node above both."""
    above = {id(x.node) for x in a.above()}
    for x in b.above():
        if id(x.node) in above:
            return x
    raise AssertionError("two links of one tree have a common ancestor")


def runs_whole_domain(block: Block) -> bool:
    """Is every conjunct of the predicate just "this binding is inside the iterator's domain"? Then
    the block runs for each point of its domain."""
    for c in conjuncts(block.predicate):
        if type(c) is not BinOp or c.op != "<":
            return False
        if not any(
            _same(c.a, v)
            and const_int(c.b) is not None
            and const_int(c.b) == const_int(iv.dom.extent)
            for iv, v in zip(block.iter_vars, block.iter_values, strict=True)
        ):
            return False
    return True


def conjuncts(e: Expr) -> Iterator[Expr]:
    """The conditions that a predicate joins with `and`."""
    if type(e) is BinOp and e.op == "and":
        yield from conjuncts(e.a)
        yield from conjuncts(e.b)
    elif not is_literal(e, 1):
        yield e


def _same(a: Expr, b: Expr) -> bool:
    if a is b:
        return True
    if type(a) is BinOp and type(b) is BinOp and a.op == b.op:
        return _same(a.a, b.a) and _same(a.b, b.b)
    return type(a) is IntImm and type(b) is IntImm and a.value == b.value


# ----------------------------------------------------------------------------- the scope
def _scope_blocks(scope: Link) -> list[Link]:
    return blocks_below(scope)


def pipeline_fault(scope: Link) -> str:
    """Why the scope is not a stage pipeline, or ""."""
    blocks = _scope_blocks(scope)
    writer: dict[Buffer, int] = {}
    for k, link in enumerate(blocks):
        b = link.block()
        if not _shape_of_block(b.iter_vars, b.reads, b.writes, b.init):
            return f"block {b.name} is neither a complete nor a reduction block"
        for w in b.writes:
            if w.buffer in writer and writer[w.buffer] != k:
                first = blocks[writer[w.buffer]].block().name
                return f"blocks {first} and {b.name} both write {w.buffer.name}"
            writer[w.buffer] = k
    for k, link in enumerate(blocks):
        for r in link.block().reads:
            p = writer.get(r.buffer)
            if p is None or p == k:
                continue
            fault = _cover_fault(blocks[p], link, r, in_order=p < k)
            if fault:
                return fault
    return ""


def _cover_fault(producer: Link, consumer: Link, read: BufferRegion, in_order: bool) -> str:
    """Why the producer has not written all that the consumer reads, or ""."""
    p, c = producer.block(), consumer.block()
    if not in_order:
        return f"block {c.name} reads {read.buffer.name} before block {p.name} writes it"
    if not runs_whole_domain(p):
        return f"block {p.name}, which writes {read.buffer.name}, has a predicate"
    top = common_ancestor(producer, consumer)
    written = next(w for w in p.writes if w.buffer is read.buffer)
    out = region_under(producer, top, written, exact=True)
    need = region_under(consumer, top, read)
    if out is None or need is None:
        if type(top.node) is Block and loop_ranges(producer.loops()) is None:
            return ""  # of unknown extent, but the producer ran through its whole domain before
        return f"the region of {read.buffer.name} between {p.name} and {c.name} is not constant"
    need = intersect_shape(need, read.buffer)
    if covers(out, need, {}):
        return ""
    return f"block {p.name} does not write all of {read.buffer.name} that block {c.name} reads"


def domain_of(ranges: Mapping[Var, tuple[int, int]]) -> dict[Var, tuple[int, int]]:
    """Inclusive bounds from minimum and extent."""
    return {v: (lo, lo + n - 1) for v, (lo, n) in ranges.items()}
