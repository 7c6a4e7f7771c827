"""How does a block access a buffer by its own iterators? reindex."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.affine import all_same
from ..ir.arith import bounds
from ..ir.build import const_int, is_literal
from ..ir.iter_map import detect_iter_map
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    IntImm,
    IterKind,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.walk import all_exprs, free_vars, map_expr, map_stmt, substitute, walk_stmt
from .analysis import (
    as_long,
    blocks_below,
    domain_uses_loops,
    fills_domain,
    guard_above,
    may_leave_out,
    runs_whole_domain,
)
from .handles import BlockRV
from .memory import fresh_name
from .nests import (
    access_region,
    grid_block,
    pick_access,
    put_beside,
    refuse_aligned,
    top_statement,
)
from .primitive import BufferAccess, primitive
from .state import State
from .tree import Link, block_with


@primitive("ReIndex", inputs=("block",))
def reindex(s: State, block: BlockRV | str, buffer: BufferAccess) -> BlockRV:
    """Let a block access a copy of a buffer at its own iterators.

    `A[vi * 2 + vk]` becomes `A_reindex[vi, vk]`; a block before it (for what is written: after it)
    copies. `transform_layout` and `compute_inline` then do the rest.

    Args:
        block: accesses the buffer at one place, for all of its iterators' domains.
        buffer: `("read", 0)`, `("write", 0)`, the name of the buffer or the buffer. What is written
            may not be written to the same place by different iterations.

    Returns:
        The copying block, named `<buffer>_reindex`.

    Raises:
        ScheduleError: naming which of these does not hold; the copy would read outside the buffer;
            the buffer has another writer; the scope is no stage pipeline.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S")
        >>> sch.get(sch.reindex(b, ("read", 0))).name
        'A_reindex'
        >>> sch.get(b).reads[0].buffer.name
        'A_reindex'
    """
    link = s.block(block)
    b = link.block()
    no_root(s, link)
    access = pick_access(s, b, buffer)
    old = access_region(b, access).buffer
    indices = single_access(s, link, old, access.kind)
    used = used_iters(b, indices)
    if not used:
        s.fail(
            f"block {b.name} accesses a single element: there is nothing to index it by",
            hint="reindex takes an access at the block's iterators",
            code="reindex-access",
            at=b,
        )
    new = Buffer(f"{old.name}_reindex", tuple([iv.dom.extent for iv in used]), old.dtype, old.scope)
    return put_copy_at(s, link, access.kind, old, indices, new, [iv.var for iv in used])


def no_root(s: State, link: Link) -> None:
    """Refuses the root block."""
    if link.up is None:
        s.fail(
            "the root block has no iterators",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=link.node,
        )


def single_access(s: State, link: Link, old: Buffer, what: str) -> tuple[Expr, ...]:
    """Where a block reads (or writes) a buffer, if a copy beside its nest may do it for the block
    at every point of its domain; refuses otherwise."""
    b = link.block()
    indices = _indices(s, b, old, what)
    _check_domain(s, link)
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=b,
        )
    _check_place(s, link, old, what)
    _check_bounds(s, b, old, indices)
    if what == "write":
        if may_leave_out(b, old):
            s.fail(
                f"block {b.name} writes {old.name} under a condition, and a copy would always do "
                "so",
                hint="store with T.if_then_else, the old value where the condition does not hold",
                code="reindex-domain",
                at=b,
            )
        if not is_injective(indices, used_iters(b, indices)):
            s.fail(
                f"block {b.name} may write the same element for different iterators: "
                f"[{', '.join(map(str, indices))}]",
                hint="the indices must tell the spatial iterators apart",
                code="reindex-injective",
                at=b,
            )
    return indices


def put_copy_at(
    s: State,
    link: Link,
    what: str,
    old: Buffer,
    indices: Sequence[Expr],
    new: Buffer,
    at: Sequence[Expr],
) -> BlockRV:
    """Let a block access `new` at `at` where it read (or wrote) `old` at `indices`, all in terms of
    its iterators; a block before (after) its nest copies, over the iterators that these mention."""
    b, scope = link.block(), link.scope()
    used = used_iters(b, indices)
    iters = [Var(iv.var.name, iv.var.dtype) for iv in used]
    table: dict[Var, Expr] = {iv.var: v for iv, v in zip(used, iters, strict=True)}
    there = tuple([substitute(i, table) for i in indices])
    here = tuple([substitute(i, table) for i in at])
    if what == "read":
        copy = BufferStore(new, BufferLoad(old, there), here)
    else:
        copy = BufferStore(old, BufferLoad(new, here), there)
    spatial: list[tuple[Var, Expr, IterKind]] = [
        (v, iv.dom.extent, "spatial") for v, iv in zip(iters, used, strict=True)
    ]
    nest, key = grid_block(fresh_name(s, s.func_of(b.key), new.name), spatial, copy)
    changed = _with_copy(b, old, new, at)
    s.replace(link, changed)
    owner = s.refresh(scope)
    base = owner.block()
    s.replace(
        owner,
        block_with(
            base,
            body=put_beside(base, changed, [nest], after=what == "write"),
            alloc_buffers=(*base.alloc_buffers, new),
        ),
    )
    return s.mint_block(key)


def _indices(s: State, b: Block, old: Buffer, what: str) -> tuple[Expr, ...]:
    """Where the block accesses the buffer: one place, in terms of its iterators."""
    refuse_aligned(s, b, old)
    if any(
        m.source.buffer is old for x in walk_stmt(b) if type(x) is Block for m in x.match_buffers
    ):
        s.fail(
            f"block {b.name} looks at {old.name} through a view",
            hint="reindex before blockize and tensorize",
            code="reindex-view",
            at=b,
        )
    found: list[tuple[Expr, ...]] = []
    loads: list[tuple[Expr, ...]] = []
    for part in (b.body, b.init):
        if part is None:
            continue
        loads += [e.indices for e in all_exprs(part) if type(e) is BufferLoad and e.buffer is old]
        found += [x.indices for x in walk_stmt(part) if type(x) is BufferStore and x.buffer is old]
    if what == "read" and found:
        s.fail(
            f"block {b.name} writes {old.name} too",
            hint="take it as what the block writes",
            code="reindex-access",
            at=b,
        )
    found += loads
    if not found or not all(all_same(i, found[0]) for i in found):
        s.fail(
            f"block {b.name} accesses {old.name} at {len(found)} places; only a single one can be "
            "given its own indices",
            hint="let the block access the buffer at one place",
            code="reindex-access",
            at=b,
        )
    mine = {iv.var for iv in b.iter_vars}
    for e in found[0]:
        loose = free_vars(e) - mine
        if loose:
            s.fail(
                f"the index {e} of {old.name} in block {b.name} is not made of its iterators",
                hint="the indices of the access must use the block's iterators and constants only",
                code="reindex-access",
                at=b,
            )
    return found[0]


def _check_domain(s: State, link: Link) -> None:
    b = link.block()
    if (
        guard_above(link) is not None
        or domain_uses_loops(link)
        or not runs_whole_domain(b)
        or not fills_domain(link)
    ):
        s.fail(
            f"block {b.name} does not run for the whole domain of its iterators, and a copy would",
            hint="do this before moving and splitting the block",
            code="reindex-domain",
            at=b,
        )
    for iv in b.iter_vars:
        if not is_literal(iv.dom.min, 0):
            s.fail(
                f"iterator {iv.var.name} of block {b.name} starts at {iv.dom.min}, not 0",
                hint="iterators must run from 0: write the domain as (0, n), with the "
                "offset in the indices",
                code="reindex-domain",
                at=b,
            )


def _check_place(s: State, link: Link, old: Buffer, what: str) -> None:
    """The copy stands beside the nest of the block: nobody in the nest may need or make it."""
    b, scope = link.block(), link.scope()
    others = [x for x in blocks_below(scope) if x.block().key is not b.key]
    writers = [x for x in others if any(w.buffer is old for w in x.block().writes)]
    if what == "write" and writers:
        s.fail(
            f"buffer {old.name} has {len(writers) + 1} writers in the scope",
            hint="do this before decompose_reduction",
            code="cache-writers",
            at=[b, *(x.node for x in writers)],
        )
    mine = top_statement(link, scope)
    near = [
        x
        for x in others
        if top_statement(x, scope) is mine
        and any(r.buffer is old for r in (x.block().reads if what == "write" else x.block().writes))
    ]
    if near:
        s.fail(
            f"block {near[0].block().name} shares its loops with block {b.name} and accesses "
            f"{old.name} too",
            hint="do this before compute_at",
            code="cache-place",
            at=[x.node for x in near],
        )


def used_iters(b: Block, indices: Sequence[Expr]) -> list[IterVar]:
    """The iterators that the indices mention, in the order of the block."""
    found: set[Var] = set()
    for i in indices:
        found |= free_vars(i)
    return [iv for iv in b.iter_vars if iv.var in found]


def _check_bounds(s: State, b: Block, old: Buffer, indices: Sequence[Expr]) -> None:
    """The copy reads at every point of the domain, also where the block would not."""
    dom: dict[Var, tuple[int, int]] = {}
    doms: dict[Expr, Range] = {}
    for iv in b.iter_vars:
        doms[iv.var] = iv.dom
        n = const_int(iv.dom.extent)
        if n is not None:
            dom[iv.var] = (0, n - 1)
    for i, size in zip(indices, old.shape, strict=True):
        if i in doms and as_long(doms[i].extent, size):
            continue
        lo, hi = bounds(i, dom)
        top = const_int(size)
        if lo is None or hi is None or top is None or lo < 0 or hi >= top:
            s.fail(
                f"the index {i} of {old.name} is from {lo} to {hi}, of {size}: a copy would read "
                "outside",
                hint="pad the buffer first, or write the bound into the value with T.if_then_else",
                code="reindex-bounds",
                at=b,
            )


def is_injective(indices: Sequence[Expr], used: Sequence[IterVar]) -> bool:
    """Do different values of the iterators, all of which the indices mention, give different
    indices, as far as can be seen?"""
    loops: dict[Var, tuple[int, int]] = {}
    for iv in used:
        n = const_int(iv.dom.extent)
        if n is None:
            return all(type(i) is Var or type(i) is IntImm for i in indices)
        loops[iv.var] = (0, n)
    return detect_iter_map(indices, loops) is not None


def _with_copy(b: Block, old: Buffer, new: Buffer, at: Sequence[Expr]) -> Block:
    """The block with the copy, at indices made of its iterators, for the buffer."""
    point = BufferRegion(new, tuple([Range(i, IntImm(1, i.dtype)) for i in at]))

    def on_expr(e: Expr) -> Expr:
        if type(e) is Var or type(e) is IntImm:
            return e
        out = map_expr(e, on_expr)
        if type(out) is BufferLoad and out.buffer is old:
            return BufferLoad(new, tuple(at), out.predicate)
        return out

    def regions(of: Sequence[BufferRegion]) -> tuple[BufferRegion, ...]:
        return tuple([point if r.buffer is old else r for r in of])

    def on_stmt(x: Stmt) -> Stmt:
        out = map_stmt(x, on_expr, on_stmt)
        assert out is not None  # nothing is deleted
        if type(out) is BufferStore and out.buffer is old:
            return BufferStore(new, out.value, tuple(at), out.predicate)
        if type(out) is Block:
            return block_with(out, reads=regions(out.reads), writes=regions(out.writes))
        return out

    return block_with(
        b,
        reads=regions(b.reads),
        writes=regions(b.writes),
        body=on_stmt(b.body),
        init=None if b.init is None else on_stmt(b.init),
    )
