"""Primitives that dissolve a block into its neighbours: compute_inline, reverse_compute_inline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir import build
from ..ir.arith import bounds, simplify
from ..ir.build import const_int, is_literal
from ..ir.iter_map import inverse_affine
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    IterVar,
    MatchBuffer,
    Stmt,
    Var,
)
from ..ir.regions import access_regions, explicit_again, without_explicit
from ..ir.walk import (
    ExprFn,
    all_exprs,
    map_expr,
    map_stmt,
    rewrite_exprs,
    substitute,
    uses_var,
    walk_stmt,
)
from .analysis import (
    consumers,
    fills_domain,
    guard_above,
    is_output,
    kind_of,
    producers,
    runs_whole_domain,
)
from .handles import BlockRV
from .primitive import primitive
from .state import State
from .tree import Link, block_with


def _store_of(block: Block) -> BufferStore | None:
    """The single plain store that is the block's body, if it is one."""
    body = block.body
    if type(body) is BufferStore and body.predicate is None and not block.match_buffers:
        return body
    return None


def inline_fault(s: State, link: Link) -> tuple[str, str]:
    """Why a block cannot be inlined into its consumers, as (message, code); ("", "") if it can."""
    b = link.block()
    if link.up is None:
        return "the root block cannot be inlined", "root-block"
    if b.init is not None:
        return f"block {b.name} has an init statement", "inline-init"
    if kind_of(link, s) != "complete":
        return f"block {b.name} is not a complete block", "not-complete"
    if len(b.writes) != 1:
        return f"block {b.name} writes {len(b.writes)} buffers, not one", "inline-outputs"
    if is_output(link, s):
        return f"block {b.name} is an output block", "inline-output"
    store = _store_of(b)
    if store is None:
        return f"the body of block {b.name} is not a single store", "inline-body"
    if any(type(i) is not Var for i in store.indices) or len(set(store.indices)) != len(
        store.indices
    ):
        return (
            f"block {b.name} does not store at distinct plain iterators: {b.writes[0].buffer.name}"
            f"[{', '.join(map(str, store.indices))}]",
            "inline-body",
        )
    free = {iv.var for iv in b.iter_vars} - set(store.indices)
    if any(uses_var(store.value, v) for v in free):
        return f"the value of block {b.name} uses an iterator it does not store at", "inline-body"
    if not runs_whole_domain(b):
        return f"block {b.name} has a non-trivial predicate {b.predicate}", "inline-predicate"
    if not _covers_buffer(b, store):
        return f"block {b.name} does not store all of {store.buffer.name}", "inline-partial"
    users = consumers(link, s)
    if not users:
        return f"block {b.name} has no consumer", "inline-consumer"
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        return f"the scope is not a stage pipeline: {fault}", "not-pipeline"
    for u in users:
        if any(m.source.buffer is store.buffer for m in _matches(u.block())):
            return (
                f"block {u.block().name} has opaque access to {store.buffer.name}",
                "inline-opaque",
            )
        if any(w.buffer is store.buffer for w in u.block().writes):
            return f"block {u.block().name} writes {store.buffer.name} too", "inline-consumer"
    return "", ""


def _matches(b: Block) -> Sequence[MatchBuffer]:
    return [m for x in walk_stmt(b) if type(x) is Block for m in x.match_buffers]


def _covers_buffer(b: Block, store: BufferStore) -> bool:
    doms = {iv.var: iv.dom for iv in b.iter_vars}
    for i, n in zip(store.indices, store.buffer.shape, strict=True):
        assert type(i) is Var
        # an iterator of a block around covers one place
        if i not in doms or not is_literal(doms[i].min, 0):
            return False
        a, c = const_int(doms[i].extent), const_int(n)
        if a is None or c is None:
            if doms[i].extent is not n:
                return False
        elif a != c:
            return False
    return True


def inline_block(s: State, link: Link) -> None:
    """Put the value of a block into its consumers and remove it."""
    message, code = inline_fault(s, link)
    if message:
        s.fail(
            message,
            hint="compute_inline takes a block, other than an output, that stores "
            "every element of one buffer once, at its own iterators",
            code=code,
            at=link.node,
        )
    b = link.block()
    store = _store_of(b)
    assert store is not None
    table = [i for i in store.indices if type(i) is Var]
    buffer = store.buffer

    def on_expr(e: Expr) -> Expr:
        out = map_expr(e, on_expr)
        if type(out) is BufferLoad and out.buffer is buffer:
            return substitute(store.value, dict(zip(table, out.indices, strict=True)))
        return out

    scope = link.scope()
    s.replace(scope, _without(scope.block(), b, buffer, on_expr))


def _without(scope: Block, gone: Block, buffer: Buffer, on_expr: ExprFn) -> Block:
    """The scope without a block and without a buffer, its readers rewritten by `on_expr`."""

    def on_stmt(x: Stmt) -> Stmt | None:
        if x is gone:
            return None
        if type(x) is Block and any(r.buffer is buffer for r in x.reads):
            new = _reading_again(rewrite_exprs(block_with(x, reads=()), on_expr), x.writes)
            return explicit_again(x, new)
        if type(x) is Block and type(x.body) is BufferStore:
            return x
        return map_stmt(x, lambda e: e, on_stmt)

    body = on_stmt(scope.body)
    assert body is not None, "the consumers stay"
    allocs = tuple([a for a in scope.alloc_buffers if a is not buffer])
    return block_with(scope, body=body, alloc_buffers=allocs)


def _reading_again(block: Stmt, writes: tuple[BufferRegion, ...]) -> Block:
    """The block with its read regions found anew, its own and those of the blocks in it."""
    assert type(block) is Block

    def inner(x: Stmt) -> Stmt | None:
        if type(x) is Block:
            return _reading_again(x, x.writes)
        return map_stmt(x, lambda e: e, inner)

    notes = without_explicit(block.annotations)
    bare = block_with(block, body=inner(block.body), reads=(), writes=(), annotations=notes)
    reads, _ = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


@primitive("ComputeInline", inputs=("block",))
def compute_inline(s: State, block: BlockRV | str) -> None:
    """Compute the value of a block wherever it is used, and remove the block.

    Args:
        block: complete, with one plain store `B[i, j, ...] = ...` at distinct iterators that covers
            the buffer, which is not an output.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_read(b, 0, "local")
        >>> sch.compute_inline(c); len(sch.get_child_blocks(sch.get_block("root")))
        1
    """
    inline_block(s, s.block(block))


@primitive("ReverseComputeInline", inputs=("block",))
def reverse_compute_inline(s: State, block: BlockRV | str) -> None:
    """Put a consumer's computation into its only producer, and remove the consumer.

    Args:
        block: complete, one plain store; reads one buffer of its producer at one place whose
            indices can be inverted; the producer is complete, with one plain store, and has no
            other consumer.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_write(b, 0, "local")
        >>> sch.reverse_compute_inline(c); len(sch.get_child_blocks(sch.get_block("root")))
        1
    """
    reverse_inline_block(s, s.block(block))


def reverse_inline_block(s: State, link: Link) -> None:
    """Put a consumer into its producer; refuses what cannot be."""
    b = link.block()
    if link.up is None:
        s.fail(
            "the root block cannot be inlined",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=b,
        )
    if b.init is not None:
        s.fail(
            f"block {b.name} has an init statement",
            hint="a reduction cannot be inlined; reverse_compute_at moves its consumer to it",
            code="inline-init",
            at=b,
        )
    if kind_of(link, s) != "complete":
        s.fail(
            f"block {b.name} is not a complete block",
            hint="a complete block has only spatial iterators, writes each element "
            "once and reads none of what it writes",
            code="not-complete",
            at=b,
        )
    makers = producers(link, s)
    if len(makers) != 1:
        s.fail(
            f"block {b.name} is required to have only a single producer, it has {len(makers)}",
            hint="inline the other producers first, or move the block with reverse_compute_at",
            code="inline-producer",
            at=[b, *(m.node for m in makers)],
        )
    p = makers[0].block()
    if kind_of(makers[0], s) != "complete":
        s.fail(
            f"the producer {p.name} is not a complete block",
            hint="fuse_reduction_epilogue joins an epilogue to a reduction",
            code="inline-producer",
            at=p,
        )
    mine, theirs = _store_of(b), _store_of(p)
    if mine is None or theirs is None:
        which = b if mine is None else p
        s.fail(
            f"the body of block {which.name} does not meet the pattern of a single store",
            hint="its body must be one assignment to one element; reverse_compute_at"
            " moves other blocks",
            code="inline-body",
            at=which,
        )
    if len(consumers(makers[0], s)) != 1 or is_output(makers[0], s):
        s.fail(
            f"what block {p.name} writes is used elsewhere too",
            hint="its only reader can be inlined into it; reverse_compute_at moves a"
            " block and keeps the buffer",
            code="inline-consumer",
            at=p,
        )
    if guard_above(link) is not None:
        s.fail(
            f"block {b.name} stands under a condition or let, which inlining would lose",
            hint="write the condition into the value with T.if_then_else",
            code="inline-guard",
            at=b,
        )
    if is_output(link, s) and not fills_domain(link):
        s.fail(
            f"the loops above block {b.name} do not run through the whole domain of its iterators",
            hint="its loops must reach each value of its iterators, as those that it"
            " was written with do",
            code="inline-domain",
            at=b,
        )
    for which in (b, p):
        if not runs_whole_domain(which):
            s.fail(
                f"block {which.name} has a non-trivial predicate {which.predicate}",
                hint="inline before the loops are split unevenly, or split by divisors",
                code="inline-predicate",
                at=which,
            )
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=b,
        )
    loads = _loads(b, theirs.buffer)
    if len(loads) != 1:
        s.fail(
            f"block {b.name} reads {theirs.buffer.name} at {len(loads)} places; only a single "
            "buffer region can be inlined",
            hint="let it read the buffer at one place, or move it with reverse_compute_at",
            code="inline-region",
            at=b,
        )
    s.replace(link.scope(), _reversed(s, link.scope().block(), b, p, mine, theirs, loads[0]))


def _loads(b: Block, buffer: Buffer) -> list[BufferLoad]:
    """The loads of a buffer in a block, at different places."""
    out: dict[str, BufferLoad] = {}
    for e in all_exprs(b.body):
        if type(e) is BufferLoad and e.buffer is buffer:
            out.setdefault(", ".join(map(str, e.indices)), e)
    return list(out.values())


def _reversed(
    s: State,
    scope: Block,
    b: Block,
    p: Block,
    mine: BufferStore,
    theirs: BufferStore,
    load: BufferLoad,
) -> Block:
    table, conditions, domain = points_of_consumer(s, b, p, theirs, load)
    joined = BufferStore(
        mine.buffer,
        _at(mine.value, table, theirs),
        tuple([simplify(substitute(i, table), domain) for i in mine.indices]),
    )
    bare = block_with(p, body=joined, reads=(), writes=())
    reads, writes = access_regions(bare)
    new = block_with(
        bare,
        reads=reads,
        writes=writes,
        predicate=build.logical_and(p.predicate, build.logical_and(*conditions)),
    )
    new = explicit_again(p, new)

    def on_stmt(x: Stmt) -> Stmt | None:
        if x is b:
            return None
        if x is p:
            return new
        if type(x) is Block and type(x.body) is BufferStore:
            return x
        return map_stmt(x, lambda e: e, on_stmt)

    body = on_stmt(scope.body)
    assert body is not None
    allocs = tuple([a for a in scope.alloc_buffers if a is not theirs.buffer])
    return block_with(scope, body=body, alloc_buffers=allocs)


def points_of_consumer(
    s: State, b: Block, p: Block, theirs: BufferStore, load: BufferLoad
) -> tuple[dict[Var, Expr], list[Expr], dict[Var, tuple[int, int]]]:
    """At which of its points does a consumer read what its producer makes at a point? Refuses where
    that may be more than one.

    Args:
        b: the consumer, which reads at `load`.
        p: the producer, which stores at `theirs`.

    Returns:
        The consumer's iterators in terms of the producer's, what must hold for the loops above the
        producer for there to be such a point, and the bounds of the producer's iterators.
    """
    at = [Var(f"o{k}", i.dtype) for k, i in enumerate(load.indices)]
    extents = {iv.var: const_int(iv.dom.extent) for iv in b.iter_vars}
    if any(n is None for n in extents.values()) or any(
        not is_literal(iv.dom.min, 0) for iv in b.iter_vars
    ):
        s.fail(
            f"the domain of block {b.name} is not constant from 0",
            hint="the domains of its iterators must be (0, n) with n constant",
            code="inline-domain",
            at=b,
        )
    known = {v: n for v, n in extents.items() if n is not None}
    inverse = inverse_affine(load.indices, known, at)
    if inverse is None:
        s.fail(
            f"the indices {', '.join(map(str, load.indices))} at which block {b.name} reads "
            f"{load.buffer.name} cannot be inverted",
            hint="it must read at indices that tell its iterators, such as [i // 4, "
            "i % 4]; reverse_compute_at asks for less",
            code="inline-invert",
            at=b,
        )
    own = {v: (0, n - 1) for v, n in known.items()}
    for i, size in zip(load.indices, load.buffer.shape, strict=True):
        lo, hi = bounds(i, own)
        top = const_int(size)
        if lo is None or hi is None or top is None or lo < 0 or hi >= top:
            s.fail(
                f"block {b.name} runs where block {p.name} does not: it reads {load.buffer.name} "
                f"at {i}, from {lo} to {hi}, of {size}",
                hint="inline before the producer's loops are split or padded, or move "
                "the block with reverse_compute_at",
                code="inline-domain",
                at=[b, p],
            )
    where: dict[Var, Expr] = dict(zip(at, theirs.indices, strict=True))
    domain = _domain(p.iter_vars)
    table: dict[Var, Expr] = {}
    for v, e in inverse.items():
        table[v] = simplify(substitute(e, where), domain)
    conditions = _conditions(load, theirs, table, known, domain)
    bind = dict(zip([iv.var for iv in p.iter_vars], p.iter_values, strict=True))
    return table, [substitute(c, bind) for c in conditions], domain


def _at(value: Expr, table: Mapping[Var, Expr], theirs: BufferStore) -> Expr:
    """The consumer's value with its iterators replaced and its loads of the producer resolved."""
    if type(value) is BufferLoad and value.buffer is theirs.buffer:
        return theirs.value
    if type(value) is Var:
        return table.get(value, value)
    return map_expr(value, lambda e: _at(e, table, theirs))


def _domain(iters: Sequence[IterVar]) -> dict[Var, tuple[int, int]]:
    out = {}
    for iv in iters:
        lo, n = const_int(iv.dom.min), const_int(iv.dom.extent)
        if lo is not None and n is not None:
            out[iv.var] = (lo, lo + n - 1)
    return out


def _count(extents: Iterable[int]) -> int:
    out = 1
    for n in extents:
        out = out * n
    return out


def _conditions(
    load: BufferLoad,
    theirs: BufferStore,
    table: Mapping[Var, Expr],
    extents: Mapping[Var, int],
    domain: Mapping[Var, tuple[int, int]],
) -> list[Expr]:
    """What must hold at a point of the producer for the consumer to have run there."""
    whole = [const_int(n) for n in load.buffer.shape]
    points = [n for n in whole if n is not None]
    # the indices are different for all points: as many as there are elements are all elements
    if len(points) == len(whole) and _count(points) == _count(extents.values()):
        return []
    out: list[Expr] = []
    for v, n in extents.items():
        e = table.get(v)
        if e is None:
            continue
        lo, hi = bounds(e, domain)
        if lo is None or lo < 0:
            out.append(build.ge(e, 0))
        if hi is None or hi >= n:
            out.append(build.lt(e, n))
    for i, o in zip(load.indices, theirs.indices, strict=True):  # off the image of the indices
        back = simplify(build.sub(substitute(i, table), o), domain)
        if const_int(back) is None:
            out.append(build.eq(back, 0))
        elif const_int(back) != 0:
            out.append(build.FALSE)
    return out
