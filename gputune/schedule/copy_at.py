"""How is just what a loop needs of a buffer copied, in one block? read_at, write_at.

The copy is a block with the annotation `auto_copy`, whose loops are inside it: lowering decides how
they run (see `lower/auto_copy.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..ir import build
from ..ir.affine import same
from ..ir.boxes import Ranges, covers, domain, intersect_shape
from ..ir.build import const_int, is_literal
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.walk import free_vars, map_range, substitute, uses_var, walk_expr
from .analysis import (
    Loops,
    blocks_below,
    guard_above,
    has_point_each,
    loop_ranges,
    may_leave_out,
    region_under,
    runs_whole_domain,
)
from .handles import BlockRV, LoopRV
from .memory import (
    BufferIndex,
    cache_name,
    check_scope,
    fresh_name,
    pick_buffer,
    record_index,
    with_buffer,
)
from .place import _children, _holding, _needed_union, check_looked_up, is_inside
from .primitive import primitive
from .state import State
from .tree import Link, block_with, with_body

AUTO_COPY = "auto_copy"
"""The annotation of a block that copies a box of one buffer to the same box of another."""


@primitive("ReadAt", inputs=("loop", "block"))
def read_at(
    s: State,
    loop: LoopRV,
    block: BlockRV | str,
    read_buffer_index: BufferIndex,
    storage_scope: str,
) -> BlockRV:
    """Copy what the blocks under a loop read of a buffer into another memory scope, in each of its
    iterations, and let them read the copy.

    Args:
        loop: around the block, in its scope.
        block: a reader; all other readers under the loop read the copy, too.
        read_buffer_index: which of its read buffers (position, name or object).
        storage_scope: where the copy lives, such as "shared" or "local".

    Returns:
        The copying block, named `<buffer>_<scope>` and annotated with `auto_copy`: right before the
        first reader. On a GPU the threads of a block share the work of a copy in shared memory.

    Raises:
        ScheduleError: the block is not under the loop; no such buffer or memory scope; the buffer
            is written under the loop other than before its readers; what is read has no bounds that
            hold in each iteration.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> c = sch.read_at(sch.get_loops(b)[0], b, 0, "local")
        >>> print(sch.get(c).name, sch.get(c).writes[0].region[1].extent)
        A_local 8
    """
    w = _work(s, loop, block, storage_scope)
    index = pick_buffer(s, w.block.reads, read_buffer_index, "read", w.block)
    record_index(s, "read_buffer_index", read_buffer_index, index)
    buffer = w.block.reads[index].buffer
    readers = [x for x in w.below if _reads(x, buffer)]
    writers = [x for x in w.below if _writes(x, buffer)]
    places = _holding(w.items, w.at, readers)
    first = min(places)
    late = [x for x, k in zip(writers, _holding(w.items, w.at, writers)) if k >= first]
    if late:
        s.fail(
            f"block {late[0].block().name} writes {buffer.name} under the loop "
            f"{w.at.loop().var.name}, and not before its readers: the copy would be out of date",
            hint="copy at a loop that holds only readers",
            code="copy-order",
            at=[late[0].node, w.block],
        )
    _check_bindings(s, readers, buffer)
    outer = loop_ranges(w.around) or {}
    regions = [
        region_under(x, w.at, r, threads=w.shared)
        for x in readers
        for r in x.block().reads
        if r.buffer is buffer
    ]
    box = intersect_shape(_needed_union(s, regions, buffer, w.at, outer), buffer)
    check_looked_up(s, readers, w.at, [e for g in box for e in (g.min, g.extent)])
    _check_in_scope(s, w, buffer, box, outer)
    return _put_copy(s, w, buffer, box, readers, first, back=False)


@primitive("WriteAt", inputs=("loop", "block"))
def write_at(
    s: State,
    loop: LoopRV,
    block: BlockRV | str,
    write_buffer_index: BufferIndex,
    storage_scope: str,
) -> BlockRV:
    """Let the blocks under a loop write a buffer in another memory scope, and copy what they have
    written back at the end of each of its iterations.

    Args:
        loop: around the block, in its scope.
        block: a writer; all writers under the loop write the other buffer.
        write_buffer_index: which of its written buffers (position, name or object).
        storage_scope: where it is written now, such as "shared" or "local".

    Returns:
        The block that copies back, named `<buffer>_<scope>` and annotated with `auto_copy`: right
        after the last writer. On a GPU the threads of a block share the work of a copy from shared
        memory.

    Raises:
        ScheduleError: the block is not under the loop; no such buffer or memory scope; an iteration
            of the loop does not write one box of the buffer in full before anything under the loop
            reads it; the scope is no stage pipeline.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> c = sch.write_at(sch.get_loops(b)[0], b, 0, "local")
        >>> sch.get(c).reads[0].buffer.name
        'B_local'
    """
    w = _work(s, loop, block, storage_scope)
    index = pick_buffer(s, w.block.writes, write_buffer_index, "write", w.block)
    record_index(s, "write_buffer_index", write_buffer_index, index)
    buffer = w.block.writes[index].buffer
    fault = s.pipeline_fault(w.link.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=w.block,
        )
    users = [x for x in w.below if _reads(x, buffer) or _writes(x, buffer)]
    places = _holding(w.items, w.at, users)
    order = [k for k, x in enumerate(users) if _writes(x, buffer)]
    first, last = places[order[0]], max(places[k] for k in order)
    box = _box_written(s, w, users[order[0]], buffer)
    outer = loop_ranges(w.around)
    moved: list[Link] = []
    for k, (x, place) in enumerate(zip(users, places, strict=True)):
        if place < first or place > last:
            continue  # it reads what earlier iterations, or this one, copied back
        if k < order[0]:
            s.fail(
                f"block {x.block().name} reads {buffer.name} in the loops of its writer, block "
                f"{users[order[0]].block().name}, and before it",
                hint="give a loop further inside",
                code="copy-order",
                at=[x.node, users[order[0]].node],
            )
        if k > order[0]:
            _check_within(s, w, x, buffer, box, outer)
        moved.append(x)
    _check_bindings(s, moved, buffer)
    return _put_copy(s, w, buffer, box, moved, last + 1, back=True)


# ----------------------------------------------------------------------------- what is there
@dataclass(frozen=True, slots=True)
class _Work:
    """What a call is about."""

    at: Link
    link: Link
    scope: str

    @property
    def block(self) -> Block:
        return self.link.block()

    @property
    def shared(self) -> bool:
        """Is there one copy for all threads of a block?"""
        return self.scope.startswith("shared")

    @property
    def items(self) -> list[Stmt]:
        """What is directly under the loop."""
        return _children(self.at)

    @property
    def below(self) -> list[Link]:
        """The blocks under the loop."""
        return blocks_below(self.at)

    @property
    def around(self) -> list[For]:
        """The loops around the copy."""
        return [*self.at.loops(), self.at.loop()]


def _work(s: State, loop: LoopRV, block: BlockRV | str, scope: str) -> _Work:
    at, link = s.loop(loop), s.block(block)
    b, f = link.block(), at.loop()
    check_scope(s, scope, b)
    if not any(x.node is at.node for x in link.above()):
        s.fail(
            f"block {b.name} is not under the loop {f.var.name}",
            hint="give one of the loops that get_loops(block) returns",
            code="copy-under",
            at=[b, f],
        )
    if link.scope().node is not at.scope().node:
        s.fail(
            f"block {b.name} and the loop {f.var.name} are in different scopes",
            hint="give the block that is directly under the loop",
            code="copy-scope",
            at=[b, f],
        )
    return _Work(at, link, scope)


def _reads(x: Link, buffer: Buffer) -> bool:
    return any(r.buffer is buffer for r in x.block().reads)


def _writes(x: Link, buffer: Buffer) -> bool:
    return any(r.buffer is buffer for r in x.block().writes)


def _check_bindings(s: State, links: Sequence[Link], buffer: Buffer) -> None:
    """What a binding or a predicate reads is outside of the block's regions, so not copied."""
    for x in links:
        b = x.block()
        doms = [e for iv in b.iter_vars for e in (iv.dom.min, iv.dom.extent)]
        for e in (*b.iter_values, b.predicate, *doms):
            if any(type(y) is BufferLoad and y.buffer is buffer for y in walk_expr(e)):
                s.fail(
                    f"a binding or the predicate of block {b.name} reads {buffer.name}",
                    hint="only what the body reads can be redirected to a copy",
                    code="copy-binding",
                    at=b,
                )


def _check_in_scope(s: State, w: _Work, buffer: Buffer, box: Ranges, outer: Loops) -> None:
    """A block inside another may only copy what the outer one says it reads."""
    scope = w.link.scope()
    owner = scope.block()
    if scope.up is None or buffer in owner.alloc_buffers:
        return
    if not any(covers(r.region, box, domain(outer)) for r in owner.reads if r.buffer is buffer):
        s.fail(
            f"block {owner.name} around block {w.block.name} reads only a part of {buffer.name}, "
            "and the copy may read more of it",
            hint=f"copy it at block {owner.name}",
            code="cache-partial",
            at=owner,
        )


def _box_written(s: State, w: _Work, x: Link, buffer: Buffer) -> Ranges:
    """The box that the first writer writes in full in each iteration of the loop."""
    b, f = x.block(), w.at.loop()

    def refuse(why: str) -> NoReturn:
        s.fail(
            f"block {b.name} does not write one box of {buffer.name} in full in each iteration of "
            f"the loop {f.var.name}: {why}",
            hint="give another loop, or use cache_write",
            code="copy-partial",
            at=[b, f],
        )

    if _reads(x, buffer):
        refuse(f"it begins with what {buffer.name} held before")
    around = {g.var for g in w.around}
    inside = {g.var for g in x.loops()} - around
    for iv, value in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind == "spatial" or free_vars(value) <= inside:
            continue
        drives = "the loop or one above it" if uses_var(value, around) else "a block around it"
        refuse(f"{drives} drives the {iv.kind} iterator {iv.var.name}")
    if guard_above(x, w.at.node) is not None:
        refuse("it stands under a condition or let")
    if may_leave_out(b, buffer):
        refuse("it stores under a condition")
    written = [r for r in b.writes if r.buffer is buffer]
    plain = is_literal(b.predicate, 1)
    if not plain and not (runs_whole_domain(b) and has_point_each(b, written[0])):
        refuse(f"it has the predicate {b.predicate}")
    sizes = [const_int(g.extent) for g in written[0].region]
    if plain and any(n is None or n != 1 for n in sizes):
        dom = domain(loop_ranges(x.loops()) or {})
        whole = tuple([Range(IntImm(0, n.dtype), n) for n in buffer.shape])
        table = {iv.var: v for iv, v in zip(b.iter_vars, b.iter_values, strict=True)}
        bound = [map_range(g, lambda e: substitute(e, table)) for g in written[0].region]
        if not covers(whole, bound, dom):
            refuse(f"what it is said to write may lie outside of {buffer.name}")
    box = region_under(x, w.at, written[0], exact=True, threads=w.shared)
    if box is None:
        refuse("what it writes has no constant extents, or has gaps")
    return box


def _check_within(
    s: State, w: _Work, x: Link, buffer: Buffer, box: Ranges, outer: Loops | None
) -> None:
    """Whatever else touches the buffer between must stay where it is written first."""
    b = x.block()
    for r in (*b.reads, *b.writes):
        if r.buffer is not buffer:
            continue
        need = region_under(x, w.at, r, threads=w.shared)
        if need is None or not covers(box, intersect_shape(need, buffer), domain(outer or {})):
            s.fail(
                f"block {b.name} touches more of {buffer.name} under the loop "
                f"{w.at.loop().var.name} than is written there first",
                hint="give a loop further outside, or use cache_write",
                code="copy-partial",
                at=[b, w.at.node],
            )


# ----------------------------------------------------------------------------- the copy
def _put_copy(
    s: State,
    w: _Work,
    buffer: Buffer,
    box: Ranges,
    users: Sequence[Link],
    place: int,
    *,
    back: bool,
) -> BlockRV:
    """Let blocks use a new buffer, and put the copy at a place under the loop."""
    scope = w.link.scope().block()
    func = s.func_of(scope.key)
    name = cache_name(buffer, w.scope)
    cache = Buffer(name, buffer.shape, buffer.dtype, w.scope)
    source, dest = (cache, buffer) if back else (buffer, cache)
    copy = _copy_block(s, w, fresh_name(s, func, name), source, dest, box)
    for key in [x.block().key for x in users]:
        found = s.find(key)
        assert found is not None
        s.replace(found[1], with_buffer(found[1].block(), buffer, cache))
    at = s.refresh(w.at)
    items = _children(at)
    items.insert(place, copy)
    s.replace(at, with_body(at.loop(), build.seq(*items)))
    found = s.find(scope.key)
    assert found is not None
    b = found[1].block()
    s.replace(found[1], block_with(b, alloc_buffers=(*b.alloc_buffers, cache)))
    return s.mint_block(copy.key)


def _copy_block(s: State, w: _Work, name: str, source: Buffer, dest: Buffer, box: Ranges) -> Block:
    """A block that copies a box, as far as the buffer reaches; its iterators are the loops around
    on which the box depends."""
    used = [f for f in w.around if any(uses_var(e, f.var) for g in box for e in (g.min, g.extent))]
    names = {f.var for f in w.around}
    for f in used:
        if uses_var(f.min, names) or uses_var(f.extent, names):
            s.fail(
                f"the bounds of loop {f.var.name} depend on another loop, so it cannot be an "
                "iterator of the copy",
                hint="the bounds of the loops under it must be the same in every iteration",
                code="copy-loop",
                at=f,
            )
    iters = [
        IterVar(Var(f"v{k}", f.var.dtype), Range(f.min, f.extent), "spatial")
        for k, f in enumerate(used)
    ]
    table: dict[Var, Expr] = {f.var: iv.var for f, iv in zip(used, iters, strict=True)}
    ranges = loop_ranges(w.around)
    around = None if ranges is None else domain(ranges)
    region: list[Range] = []
    at: list[Expr] = []
    loops: list[tuple[Var, Expr]] = []
    conditions: list[Expr] = []
    for k, (g, size) in enumerate(zip(box, source.shape, strict=True)):
        lo, n = substitute(g.min, table), substitute(g.extent, table)
        region.append(Range(lo, n))
        v = Var(f"ax{k}", lo.dtype)
        loops.append((v, build.cast(v.dtype, n)))
        i = build.add(lo, v)
        at.append(i)
        early, late = _sticks_out(g, size, around)
        if early:
            conditions.append(build.ge(i, 0))
        if late:
            conditions.append(build.lt(i, size))
    body: Stmt = BufferStore(dest, BufferLoad(source, tuple(at)), tuple(at))
    if conditions:
        body = IfThenElse(build.logical_and(*conditions), body)
    for v, n in reversed(loops):
        body = For(v, IntImm(0, v.dtype), n, "serial", body)
    return Block(
        BlockKey(),
        name,
        tuple(iters),
        tuple([f.var for f in used]),
        build.TRUE,
        (BufferRegion(source, tuple(region)),),
        (BufferRegion(dest, tuple(region)),),
        body,
        annotations=((AUTO_COPY, 1),),
    )


def _sticks_out(
    g: Range, size: Expr, around: dict[Var, tuple[int, int]] | None
) -> tuple[bool, bool]:
    """May a range begin before a dimension of the buffer, and end after it?"""
    if is_literal(g.min, 0) and same(g.extent, size):
        return False, False
    n, total = const_int(g.extent), const_int(size)
    if n is None or total is None:
        return True, True
    inside = is_inside(g.min, n, 0, total, around)
    return not inside[0], not inside[1]
