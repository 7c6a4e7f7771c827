"""What kind of block is this, and which blocks depend on which?

The words are MetaSchedule's: a *complete* block is spatial throughout, the only writer of what it
writes, and does not read it; a *reduction* block has an init and spatial and reduce iterators only;
a scope is a *stage pipeline* when each block in it is one of the two and whatever a block reads
from another has been written before, in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

from ..ir.affine import same
from ..ir.boxes import covers, intersect_shape, relax, relax_exact
from ..ir.build import const_int, is_literal
from ..ir.iter_map import is_affine_binding
from ..ir.nodes import (
    Alloc,
    BinOp,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    LetStmt,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import (
    all_exprs,
    map_region,
    stmt_children,
    stmt_exprs,
    substitute,
    uses_var,
    walk_expr,
    walk_stmt,
)
from .tree import Link, Tree

if TYPE_CHECKING:
    from .state import State

BlockKind: TypeAlias = Literal["complete", "reduction", ""]
Loops: TypeAlias = dict[Var, tuple[int, int]]


def blocks_below(link: Link) -> list[Link]:
    """The outermost blocks below a node, in program order."""
    out: list[Link] = []
    stack = [(c, link) for c in reversed(stmt_children(link.node))]
    while stack:
        node, up = stack.pop()
        while type(node) is For:
            up = up.down(node)
            node = node.body
        here = up.down(node)
        if type(node) is Block:
            out.append(here)
        else:
            stack += [(c, here) for c in reversed(stmt_children(node))]
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
def binding_is_affine(link: Link, s: State) -> bool:
    """Are the bindings a bijective quasi-affine map of the loops above?

    Split (without a predicate) and fuse keep the property and say so in `s.affine`; what they have
    not said is found from the bindings themselves.
    """
    block = link.block()
    if block.iter_values in s.affine:
        return True
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
    if not kinds <= {"spatial", "reduce"} or reads_own_elsewhere(reads, writes):
        return ""
    reduce_vars = {iv.var for iv in iter_vars if iv.kind == "reduce"}
    for w in writes:
        for g in w.region:
            if uses_var(g.min, reduce_vars) or uses_var(g.extent, reduce_vars):
                return ""
    return "reduction"


def reads_own_elsewhere(reads: Sequence[BufferRegion], writes: Sequence[BufferRegion]) -> bool:
    """Does a block read what other points of its domain write?"""
    for r in reads:
        places = [w.region for w in writes if w.buffer is r.buffer]
        if places and not any(
            all(same(a.min, b.min) and same(a.extent, b.extent) for a, b in zip(r.region, p))
            for p in places
        ):
            return True
    return False


def kind_of(link: Link, s: State) -> BlockKind:
    """What kind of block is it in its scope?"""
    b = link.block()
    kind = _shape_of_block(b.iter_vars, b.reads, b.writes, b.init)
    if kind and is_only_writer(link, s) and not uses_loops(link):
        return kind
    return ""


def uses_loops(link: Link) -> bool:
    """Does a block look at the loops above it, other than through iterators? (Only one without
    iterators may; nothing then says which of its iterations are independent.)"""
    b = link.block()
    if b.iter_vars:
        return False
    loops = {f.var for f in link.loops()}
    return bool(loops) and any(uses_var(e, loops) for e in (*stmt_exprs(b), *all_exprs(b)))


def domain_uses_loops(link: Link) -> bool:
    """Does the domain of an iterator depend on the loops above (triangular domains do)?"""
    doms = [iv.dom for iv in link.block().iter_vars]
    if all(type(d.min) is IntImm and type(d.extent) is IntImm for d in doms):
        return False
    loops = {f.var for f in link.loops()}
    return any(uses_var(e, loops) for d in doms for e in (d.min, d.extent))


def guard_above(link: Link, top: Stmt | None = None) -> Stmt | None:
    """The nearest statement above a block that is neither a loop nor a sequence (a condition, a
    let), up to `top` or to the scope block."""
    x = link.up
    while x is not None:
        node, x = x
        t = type(node)
        if node is top or t is Block:
            return None
        if t is not For and t is not Seq:
            return node
    return None


def fills_domain(link: Link, *, reduce_only: bool = False) -> bool:
    """Do the loops take the (reduce) iterators through all of their domain?"""
    b = link.block()
    loops = {f.var: f for f in link.loops()}
    hard: list[tuple[Expr, Range]] = []
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        if reduce_only and iv.kind != "reduce":
            continue
        f = loops.get(v) if type(v) is Var else None
        if f is not None and same(f.min, iv.dom.min) and same(f.extent, iv.dom.extent):
            del loops[f.var]  # a loop that two iterators share visits a diagonal
        else:
            hard.append((v, iv.dom))
    if not hard:
        return True
    ranges = loop_ranges(list(loops.values()))
    if ranges is None:
        return False
    box = relax_exact([Range(v, IntImm(1, v.dtype)) for v, _ in hard], ranges)
    return box is not None and covers(box, [d for _, d in hard], {})


def writes_all(link: Link, region: BufferRegion) -> bool:
    """Does a block with loops of unknown extent plainly write a whole buffer: one loop an iterator,
    one iterator a dimension, each as long as the other?"""
    return (
        has_point_each(link.block(), region)
        and not domain_uses_loops(link)
        and guard_above(link) is None
        and fills_domain(link)
    )


def has_point_each(b: Block, region: BufferRegion) -> bool:
    """Does the block plainly have one point of its domain for each element of a buffer: one
    iterator a dimension, each as long as the other?"""
    doms = {iv.var: iv.dom for iv in b.iter_vars}
    for g, n in zip(region.region, region.buffer.shape, strict=True):
        dom = doms.pop(g.min, None) if type(g.min) is Var else None
        if dom is None or not is_literal(dom.min, 0) or not as_long(dom.extent, n):
            return False
    return True


def as_long(a: Expr, b: Expr) -> bool:
    """Are two starts, extents or sizes the same? Where sampled values decide, these are asked."""
    if same(a, b):
        return True
    m, n = const_int(a), const_int(b)
    return m is not None and n is not None and bool(m == n)


def is_plainly_whole(link: Link) -> bool:
    """Is every iterator bound to a loop of its own, just as long as its domain?"""
    b = link.block()
    loops = {f.var: f for f in link.loops()}
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        f = loops.pop(v, None) if type(v) is Var else None
        if f is None or not as_long(f.min, iv.dom.min) or not as_long(f.extent, iv.dom.extent):
            return False
    return True


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
    link: Link,
    top: Link,
    region: BufferRegion,
    *,
    exact: bool = False,
    threads: bool = False,
    lanes: bool = False,
) -> tuple[Range, ...] | None:
    """The box that the block touches while the loops below `top` run; None if a bound is not
    constant, or with `exact` if the block leaves gaps in the box. With `threads` it is what all
    threads of a GPU block touch: thread loops from `top` upwards run too; with `lanes` what those
    of a warp touch: loops over threadIdx.x."""
    inner: list[For] = []
    below = True
    for x in link.above():
        below = below and x.node is not top.node
        if type(x.node) is For and (
            below or (threads and _is_thread(x.node)) or (lanes and x.node.thread == "threadIdx.x")
        ):
            inner.append(x.node)
        elif not below and (not (threads or lanes) or type(x.node) is Block):
            break
    ranges = loop_ranges(inner)
    if ranges is None:
        return None
    return (relax_exact if exact else relax)(bound_region(link.block(), region).region, ranges)


def _is_thread(f: For) -> bool:
    return f.thread is not None and f.thread.startswith(("threadIdx", "vthread"))


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
            _same(c.a, v) and _is_end(c.b, iv.dom)
            for iv, v in zip(block.iter_vars, block.iter_values, strict=True)
        ):
            return False
    return True


def _is_end(e: Expr, dom: Range) -> bool:
    """Is it the first value beyond a domain? (That of a loop's part may begin later than at 0.)"""
    end, lo, n = const_int(e), const_int(dom.min), const_int(dom.extent)
    return end is not None and lo is not None and n is not None and end == lo + n


def may_leave_out(b: Block, buffer: Buffer) -> bool:
    """May a block that runs leave a buffer alone that it says it writes, because all its stores to
    it stand under conditions? (What intrinsics write counts as written.)"""
    parts = (b.body,) if b.init is None else (b.init, b.body)
    return not any(_always_stores(x, buffer) for x in parts) and any(
        _stores(x, buffer) for x in parts
    )


def _always_stores(x: Stmt, buffer: Buffer) -> bool:
    match x:
        case BufferStore():
            return x.buffer is buffer and x.predicate is None
        case For():
            n = const_int(x.extent)
            runs = n is not None and (type(n) is not int or n > 0)  # a sampled one is at least 1
            return runs and _always_stores(x.body, buffer)
        case Block():
            return runs_whole_domain(x) and _always_stores(x.body, buffer)
        case IfThenElse():
            return x.orelse is not None and all(
                _always_stores(y, buffer) for y in (x.then, x.orelse)
            )
        case Seq():
            # each part may write a region of its own, so all must do so, other than updates
            rest = [y for y in x.items if not _always_stores(y, buffer)]
            return len(rest) < len(x.items) and all(
                _only_updates(y, buffer) for y in rest if _stores(y, buffer)
            )
        case LetStmt() | Alloc() | Evaluate():
            return any(_always_stores(y, buffer) for y in stmt_children(x))
        case _:
            assert_never(x)


def _stores(x: Stmt, buffer: Buffer) -> bool:
    return any(type(y) is BufferStore and y.buffer is buffer for y in walk_stmt(x))


def _only_updates(x: Stmt, buffer: Buffer) -> bool:
    """Does each store of a statement put together what the buffer holds with something else?"""
    return all(
        not (type(y) is BufferStore and y.buffer is buffer)
        or any(type(z) is BufferLoad and z.buffer is buffer for z in walk_expr(y.value))
        for y in walk_stmt(x)
    )


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


def loose_fault(top: Stmt, written: Set[Buffer]) -> str:
    """What below `top`, outside any block, touches data that blocks write; or "". Such statements
    belong to no block, so nothing says what may be moved past them."""
    stack: list[Stmt] = list(stmt_children(top))
    while stack:
        x = stack.pop()
        t = type(x)
        if t is BufferStore or t is Evaluate:
            return f"a statement stands outside any block: {_first_line(x)}"
        if t is Seq:
            stack += stmt_children(x)
            continue
        own: tuple[Expr, ...] = stmt_exprs(x)
        if type(x) is Block:
            own = (*x.iter_values, x.predicate)
        else:
            stack += stmt_children(x)
        for e in own:
            if type(e) is IntImm or type(e) is Var:
                continue
            for y in walk_expr(e):
                if type(y) is BufferLoad and y.buffer in written:
                    return f"{y} is read outside any block"
    return ""


def _first_line(x: Stmt) -> str:
    if type(x) is BufferStore:
        return f"{BufferLoad(x.buffer, x.indices)} = {x.value}"
    return str(x.value) if type(x) is Evaluate else type(x).__name__


def pipeline_fault(scope: Link) -> str:
    """Why the scope is not a stage pipeline, or ""."""
    blocks = _scope_blocks(scope)
    loose = loose_fault(scope.node, {w.buffer for x in blocks for w in x.block().writes})
    if loose:
        return loose
    writer: dict[Buffer, int] = {}
    for k, link in enumerate(blocks):
        b = link.block()
        if not _shape_of_block(b.iter_vars, b.reads, b.writes, b.init) or uses_loops(link):
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


@lru_cache(maxsize=256)
def first_pipeline_fault(root: Block, scope: BlockKey) -> str | None:
    """`pipeline_fault` of a scope in an unscheduled function; None if it is not in there. Replays
    of many traces ask it of one function."""
    link = Tree(root).find(scope)
    return None if link is None else pipeline_fault(link)


def _cover_fault(producer: Link, consumer: Link, read: BufferRegion, in_order: bool) -> str:
    """Why the producer has not written all that the consumer reads, or ""."""
    p, c = producer.block(), consumer.block()
    if not in_order:
        return f"block {c.name} reads {read.buffer.name} before block {p.name} writes it"
    if not runs_whole_domain(p):
        return f"block {p.name}, which writes {read.buffer.name}, has a predicate"
    if guard_above(producer) is not None:
        return f"block {p.name}, which writes {read.buffer.name}, stands under a condition or let"
    top = common_ancestor(producer, consumer)
    around = {x.node.var for x in (top, *top.above()) if type(x.node) is For}
    if any(
        iv.kind != "spatial" and uses_var(v, around)
        for iv, v in zip(p.iter_vars, p.iter_values, strict=True)
    ):
        return f"block {c.name} reads {read.buffer.name} while block {p.name} still reduces it"
    written = next(w for w in p.writes if w.buffer is read.buffer)
    out = region_under(producer, top, written, exact=True)
    need = region_under(consumer, top, read)
    if out is None or need is None:
        if loop_ranges(producer.loops()) is None and writes_all(producer, written):
            top_loops = {x.node for x in top.above()} | {top.node}
            if not any(f in top_loops for f in producer.loops()):
                return ""  # of unknown extent, but all of it was written before
        return f"the region of {read.buffer.name} between {p.name} and {c.name} is not constant"
    need = intersect_shape(need, read.buffer)
    if covers(out, need, {}):
        return ""
    return f"block {p.name} does not write all of {read.buffer.name} that block {c.name} reads"
