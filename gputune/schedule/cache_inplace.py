"""How does a block update a buffer in another memory scope? cache_inplace."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import build
from ..ir.affine import same
from ..ir.boxes import Ranges, covers, union
from ..ir.build import const_int, is_literal
from ..ir.intervals import Domain, Interval, bounds
from ..ir.nodes import Block, Buffer, BufferRegion, Expr, For, IntImm, Range, Var
from ..ir.walk import loads, uses_var
from .analysis import bound_region
from .handles import BlockRV
from .memory import (
    BufferIndex,
    Part,
    cache_name,
    check_scope,
    copy_nest,
    fresh_name,
    pick_buffer,
    put_copy,
    record_index,
    with_buffer,
)
from .primitive import primitive
from .state import State
from .tree import Link


@primitive("CacheInplace", inputs=("block",))
def cache_inplace(
    s: State, block: BlockRV | str, read_buffer_index: BufferIndex, storage_scope: str
) -> list[BlockRV]:
    """Let a block that updates a buffer in place do so in another memory scope.

    Each time that the block runs, what it may touch of the buffer is copied there before, and what
    it may have written is copied back afterwards.

    Args:
        block: reads and writes the buffer.
        read_buffer_index: which of its read buffers (position, name or object).
        storage_scope: where it works now, such as "local" or "shared".

    Returns:
        The block that copies there, named `<buffer>_<scope>`, and the one that copies back, right
        beside the block. Their scope is no stage pipeline from here on.

    Raises:
        ScheduleError: the block does not write the buffer; a parallel, vectorized or thread-bound
            loop is above the block, and it may touch more than one element each time; a condition
            or binding of the block reads the buffer; no such buffer or memory scope.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S")
        >>> _ = sch.decompose_reduction(b, sch.get_loops(b)[1])
        >>> [sch.get(c).name for c in sch.cache_inplace(b, "S", "local")]
        ['S_local', 'S_local_1']
    """
    link = s.block(block)
    b = link.block()
    if link.up is None:
        s.fail(
            "the root block itself cannot be cached",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=b,
        )
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.reads, read_buffer_index, "read", b)
    record_index(s, "read_buffer_index", read_buffer_index, index)
    buffer = b.reads[index].buffer
    dom = _known(link)
    read = _box([r for r in b.reads if r.buffer is buffer], dom)
    written = _box([r for r in b.writes if r.buffer is buffer], dom)
    if written is None or read is None:
        s.fail(
            f"block {b.name} reads {buffer.name} and does not write it",
            hint="cache_read copies what is only read",
            code="cache-inplace",
            at=b,
        )
    _check_conditions(s, link, buffer)
    _check_threads(s, link, buffer)
    _check_outer(s, link, buffer, read, written, dom)
    touched = union(read, written, dom, buffer.shape)
    scope = link.scope()
    fault = s.pipeline_fault(scope)
    name = cache_name(buffer, storage_scope)
    cache = Buffer(name, buffer.shape, buffer.dtype, storage_scope)
    func = s.func_of(b.key)
    first = fresh_name(s, func, name)
    last = fresh_name(s, func, name, {first})
    before, there = copy_nest(first, buffer, cache, _part(b, buffer, touched, dom), b.predicate)
    after, back = copy_nest(last, cache, buffer, _part(b, buffer, written, dom), b.predicate)
    put_copy(s, scope, link, build.seq(before, with_buffer(b, buffer, cache), after), cache)
    if not fault:
        s.break_pipeline(scope, f"block {b.name} works on the copy {cache.name} of {buffer.name}")
    return [s.mint_block(there), s.mint_block(back)]


# ----------------------------------------------------------------------------- what is copied
def _known(link: Link) -> Domain:
    """The bounds of the iterators of the block and of blocks around it, and of the loops for one
    that uses them directly."""
    out: dict[Var, Interval] = {}
    for node in (link.node, *(x.node for x in link.above())):
        if type(node) is For:
            out.update(_values(node.var, node.min, node.extent))
        elif type(node) is Block:
            for iv in node.iter_vars:
                out.update(_values(iv.var, iv.dom.min, iv.dom.extent))
    return out


def _values(v: Var, low: Expr, extent: Expr) -> dict[Var, Interval]:
    lo, n = const_int(low), const_int(extent)
    return {} if lo is None or n is None else {v: (lo, lo + n - 1)}


def _box(regions: Sequence[BufferRegion], dom: Domain) -> Ranges | None:
    """One box that holds the regions of a buffer; all of a dimension where data decides."""
    out: Ranges | None = None
    for r in regions:
        box = tuple([_plain(g, n) for g, n in zip(r.region, r.buffer.shape, strict=True)])
        out = box if out is None else union(out, box, dom, r.buffer.shape)
    return out


def _plain(r: Range, extent: Expr) -> Range:
    if loads(r.min) or loads(r.extent):
        return Range(IntImm(0, extent.dtype), extent)
    return r


def _part(b: Block, buffer: Buffer, box: Ranges, dom: Domain) -> Part:
    """The box in terms of the loops, and where it may stick out of the buffer."""
    ends = [_sticks_out(r, n, dom) for r, n in zip(box, buffer.shape, strict=True)]
    bound = bound_region(b, BufferRegion(buffer, box))
    return Part(bound.region, tuple([x[1] for x in ends]), tuple([x[0] for x in ends]))


def _sticks_out(r: Range, extent: Expr, dom: Domain) -> tuple[bool, bool]:
    """May a range begin before 0, and may it end after the extent?"""
    if is_literal(r.min, 0) and same(r.extent, extent):
        return False, False
    low, _ = bounds(r.min, dom)
    room, _ = bounds(build.sub(build.sub(extent, r.min), r.extent), dom)
    return low is None or not low >= 0, room is None or not room >= 0


# ----------------------------------------------------------------------------- preconditions
def _check_conditions(s: State, link: Link, buffer: Buffer) -> None:
    """The copy back must find conditions and bindings as they were."""
    b = link.block()
    around: list[Expr] = [b.predicate, *b.iter_values]
    if any(x.buffer is buffer for e in around for x in loads(e)):
        s.fail(
            f"the predicate or a binding of block {b.name} reads {buffer.name}, which the copy "
            "back changes",
            hint="let the condition stand inside the block",
            code="cache-inplace",
            at=b,
        )


def _check_threads(s: State, link: Link, buffer: Buffer) -> None:
    """What runs at the same time must not find its elements in the copy of another iteration."""
    b = link.block()
    alone = _is_one_element(b, buffer)
    for x in link.above():
        f = x.node
        if type(f) is not For or f.kind in ("serial", "unrolled"):
            continue
        reduces = any(
            iv.kind != "spatial" and uses_var(v, f.var)
            for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
        )
        if reduces or not alone:
            s.fail(
                f"the loop {f.var.name} above block {b.name} is {f.thread or f.kind}, and what the "
                f"block touches of {buffer.name} may be touched by other iterations of it too",
                hint="cache_inplace before marking loops",
                code="cache-parallel",
                at=[f, b],
            )


def _is_one_element(b: Block, buffer: Buffer) -> bool:
    """Does the block plainly read and write just one element each time that it runs?"""
    regions = [r.region for r in (*b.reads, *b.writes) if r.buffer is buffer]
    first = [g.min for g in regions[0]]
    return all(
        is_literal(g.extent, 1) and same(g.min, e) and not loads(e)
        for r in regions
        for g, e in zip(r, first, strict=True)
    )


def _check_outer(
    s: State, link: Link, buffer: Buffer, read: Ranges, written: Ranges, dom: Domain
) -> None:
    """Blocks around say what is read inside them; what is copied counts."""
    if covers(read, written, dom):
        return
    for x in link.above():
        if type(x.node) is not Block:
            continue
        if x.up is None or buffer in x.node.alloc_buffers:
            return
        s.fail(
            f"block {link.block().name} writes more of {buffer.name} than it reads, and block "
            f"{x.node.name} around it does not say that it reads the rest",
            hint=f"cache it at block {x.node.name}",
            code="cache-partial",
            at=[x.node, link.node],
        )
