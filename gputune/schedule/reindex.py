"""How does a block access a buffer by its own iterators? reindex."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.affine import all_same, same
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
    blocks_below,
    domain_uses_loops,
    fills_domain,
    guard_above,
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
    if link.up is None:
        s.fail("the root block has no iterators", code="root-block", at=b)
    access = pick_access(s, b, buffer)
    old = access_region(b, access).buffer
    indices = _indices(s, b, old, access.kind)
    _check_domain(s, link)
    scope = link.scope()
    fault = s.pipeline_fault(scope) if s.enable_check else ""
    if fault:
        s.fail(f"the scope is not a stage pipeline: {fault}", code="not-pipeline", at=b)
    _check_place(s, link, old, access.kind)
    used = _used(s, b, indices)
    _check_bounds(s, b, old, indices)
    if access.kind == "write":
        _check_injective(s, b, indices, used)
    new = Buffer(f"{old.name}_reindex", tuple([iv.dom.extent for iv in used]), old.dtype, old.scope)
    iters = [Var(iv.var.name, iv.var.dtype) for iv in used]
    table: dict[Var, Expr] = {iv.var: v for iv, v in zip(used, iters, strict=True)}
    there = tuple([substitute(i, table) for i in indices])
    if access.kind == "read":
        copy = BufferStore(new, BufferLoad(old, there), tuple(iters))
    else:
        copy = BufferStore(old, BufferLoad(new, tuple(iters)), there)
    spatial: list[tuple[Var, Expr, IterKind]] = [
        (v, iv.dom.extent, "spatial") for v, iv in zip(iters, used, strict=True)
    ]
    nest, key = grid_block(fresh_name(s, s.func_of(b.key), new.name), spatial, copy)
    changed = _with_copy(b, old, new, [iv.var for iv in used])
    s.replace(link, changed)
    owner = s.refresh(scope)
    base = owner.block()
    s.replace(
        owner,
        block_with(
            base,
            body=put_beside(base, changed, [nest], after=access.kind == "write"),
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
        s.fail(f"block {b.name} looks at {old.name} through a view", code="reindex-view", at=b)
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
            hint='reindex ("write", ...)',
            code="reindex-access",
            at=b,
        )
    found += loads
    if not found or not all(all_same(i, found[0]) for i in found):
        s.fail(
            f"block {b.name} accesses {old.name} at {len(found)} places; only a single one can be "
            "given its own indices",
            code="reindex-access",
            at=b,
        )
    mine = {iv.var for iv in b.iter_vars}
    for e in found[0]:
        loose = free_vars(e) - mine
        if loose:
            s.fail(
                f"the index {e} of {old.name} in block {b.name} is not made of its iterators",
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
            hint="reindex first",
            code="reindex-domain",
            at=b,
        )
    for iv in b.iter_vars:
        if not is_literal(iv.dom.min, 0):
            s.fail(
                f"iterator {iv.var.name} of block {b.name} starts at {iv.dom.min}, not 0",
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
            hint="reindex before decompose_reduction",
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
            hint="reindex before compute_at",
            code="cache-place",
            at=[x.node for x in near],
        )


def _used(s: State, b: Block, indices: Sequence[Expr]) -> list[IterVar]:
    """The iterators that the indices mention."""
    found: set[Var] = set()
    for i in indices:
        found |= free_vars(i)
    used = [iv for iv in b.iter_vars if iv.var in found]
    if not used:
        s.fail(
            f"block {b.name} accesses a single element: there is nothing to index it by",
            code="reindex-access",
            at=b,
        )
    return used


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
        if i in doms and same(doms[i].extent, size):
            continue
        lo, hi = bounds(i, dom)
        top = const_int(size)
        if lo is None or hi is None or top is None or lo < 0 or hi >= top:
            s.fail(
                f"the index {i} of {old.name} is from {lo} to {hi}, of {size}: a copy would read "
                "outside",
                code="reindex-bounds",
                at=b,
            )


def _check_injective(s: State, b: Block, indices: Sequence[Expr], used: Sequence[IterVar]) -> None:
    loops: dict[Var, tuple[int, int]] = {}
    for iv in used:
        n = const_int(iv.dom.extent)
        if n is None:
            if all(type(i) is Var or type(i) is IntImm for i in indices):
                return
            n = 0
        loops[iv.var] = (0, n)
    if detect_iter_map(indices, loops) is None:
        s.fail(
            f"block {b.name} may write the same element for different iterators: "
            f"[{', '.join(map(str, indices))}]",
            code="reindex-injective",
            at=b,
        )


def _with_copy(b: Block, old: Buffer, new: Buffer, at: Sequence[Var]) -> Block:
    """The block with the copy at its iterators for the buffer."""
    point = BufferRegion(new, tuple([Range(v, IntImm(1, v.dtype)) for v in at]))

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
