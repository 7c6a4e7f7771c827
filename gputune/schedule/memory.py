"""Primitives that move data: cache_read, cache_write, set_scope, storage_align."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

from ..ir import build
from ..ir.boxes import Ranges, covers, domain, relax_exact
from ..ir.build import TRUE, const_int, is_literal
from ..ir.known_annotations import listed
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    For,
    IntImm,
    IterVar,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import blocks, replace_buffers, uses_var
from .analysis import (
    Loops,
    blocks_below,
    bound_region,
    fills_domain,
    guard_above,
    has_point_each,
    kind_of,
    loop_ranges,
    loose_fault,
    may_leave_out,
    region_under,
    runs_whole_domain,
    writes_all,
)
from .handles import BlockRV
from .place import is_inside
from .primitive import primitive
from .state import State, buffer_at, is_spelled
from .tree import Link, block_with, graft_below

BufferIndex: TypeAlias = int | str | Buffer

SCOPES = (
    "global", "shared", "shared.dyn", "local", "warp", "wmma.matrix_a", "wmma.matrix_b",
    "wmma.accumulator", "mma.matrix_a", "mma.matrix_b", "mma.accumulator", "global.vtcm",
    "m16n8k8.matrixA", "m16n8k8.matrixB", "m16n8k8.matrixC", "amx.tmm",
)  # fmt: skip


def check_scope(s: State, scope: str, at: object) -> None:
    """Refuses what is no memory scope."""
    if scope not in SCOPES:
        s.fail(
            f"the storage scope {scope!r} is invalid",
            hint=f"known: {', '.join(SCOPES)}",
            code="storage-scope",
            at=at,
        )


def pick_buffer(
    s: State, regions: Sequence[BufferRegion], index: BufferIndex, what: str, at: Block
) -> int:
    """The position among `regions` of a buffer given by position, name or object."""
    if isinstance(index, int):
        buffer_at(regions, index, what, s, at)
        return index
    for k, r in enumerate(regions):
        if r.buffer is index or r.buffer.name == index:
            return k
    if isinstance(index, str):  # as the program is printed
        for k, r in enumerate(regions):
            if is_spelled(r.buffer.name, index):
                return k
    names = ", ".join(r.buffer.name for r in regions) or "none"
    name = index if isinstance(index, str) else index.name
    s.fail(
        f"block {at.name} has no {what} of buffer {name!r}",
        hint=f"its {what}s are: {names}",
        code="buffer-index",
        at=at,
    )


def record_index(s: State, name: str, given: BufferIndex, index: int) -> None:
    """A trace holds no buffer object, but its position."""
    if isinstance(given, Buffer):
        s.resolved[name] = index


def copy_nest(
    name: str, source: Buffer, dest: Buffer, part: Part | None = None, where: Expr = TRUE
) -> tuple[Stmt, BlockKey]:
    """Loops and a block that copy all of `source`, or a part of it, into `dest` (same shape), where
    a condition of the loops around holds."""
    loops = [Var(f"ax{k}", e.dtype) for k, e in enumerate(source.shape)]
    iters = [Var(f"v{k}", e.dtype) for k, e in enumerate(source.shape)]
    point = tuple([Range(v, IntImm(1, v.dtype)) for v in iters])
    values: list[Expr] = list(loops)
    extents = list(source.shape)
    conditions: list[Expr] = [where]
    if part is not None:
        values = [build.add(build.cast(v.dtype, r.min), v) for r, v in zip(part.box, loops)]
        extents = [build.cast(v.dtype, r.extent) for r, v in zip(part.box, loops)]
        conditions += [build.ge(x, 0) for x, early in zip(values, part.is_early) if early]
        conditions += [
            build.lt(x, n) for x, n, cut in zip(values, source.shape, part.is_cut) if cut
        ]
    key = BlockKey()
    body: Stmt = Block(
        key,
        name,
        tuple([
            IterVar(v, Range(IntImm(0, v.dtype), e), "spatial")
            for v, e in zip(iters, source.shape, strict=True)
        ]),
        tuple(values),
        build.logical_and(*conditions),
        (BufferRegion(source, point),),
        (BufferRegion(dest, point),),
        BufferStore(dest, BufferLoad(source, tuple(iters)), tuple(iters)),
    )  # fmt: skip
    for v, e in zip(reversed(loops), reversed(extents), strict=True):
        body = For(v, IntImm(0, v.dtype), e, "serial", body)
    return body, key


# ----------------------------------------------------------------------------- where a copy goes
class Part(NamedTuple):
    """A box of a buffer.

    Attributes:
        box: what it is if the buffer does not end before.
        is_cut: does the buffer end before, in this dimension?
        is_early: does the box begin before the buffer, in this dimension? Empty: in none.
    """

    box: Ranges
    is_cut: tuple[bool, ...]
    is_early: tuple[bool, ...] = ()


def _copied_after(link: Link, others: Sequence[Link], scope: Link) -> Link:
    """On the way to a block, the statement beside the nearest of some other blocks; a statement of
    the scope's body where none of them shares loops with the block."""
    shared = {id(x.node) for other in others for x in other.above()}
    child = link
    for x in link.above():
        if id(x.node) in shared or _is_body(x, scope):
            break
        child = x
    return child


def _is_body(x: Link, scope: Link) -> bool:
    """Is it the scope block, or the sequence that is its body?"""
    if x.node is scope.node:
        return True
    return type(x.node) is Seq and x.up is not None and x.up.node is scope.node


def _part_written(
    s: State, writer: Link, child: Link, scope: Link, buffer: Buffer, readers: Sequence[Link]
) -> Part | None:
    """What of a buffer its writer writes each time that `child`, a statement above it, runs; None
    (all of it) for a statement of the scope's body. Anything but just that would be copied before
    it is written, or again after it was written elsewhere."""
    up = child.up
    assert up is not None
    if _is_body(up, scope):
        return None
    b = writer.block()

    def refuse(why: str) -> NoReturn:
        s.fail(
            f"a reader of {buffer.name} shares its loops with the writer, block {b.name}, and a "
            f"copy between the two is not possible: {why}",
            hint="make the copy before compute_at or reverse_compute_at bring the two together",
            code="cache-place",
            at=[b, *(x.node for x in readers)],
        )

    if type(up.node) is not Seq:
        refuse("they are branches of one condition")
    around = up.loops()
    names = {f.var for f in around}
    for iv, value in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind != "spatial" and uses_var(value, names):
            loop = next(f for f in around if uses_var(value, {f.var}))
            refuse(
                f"the loop {loop.var.name} around both drives the {iv.kind} iterator "
                f"{iv.var.name}, so the result is not complete there"
            )
    if guard_above(writer, up.node) is not None:
        refuse("the writer stands under a condition or let of its own")
    written = [w for w in b.writes if w.buffer is buffer]
    is_guarded = not is_literal(b.predicate, 1)
    if len(written) != 1 or (
        is_guarded and not (runs_whole_domain(b) and has_point_each(b, written[0]))
    ):
        refuse("it is not one box that the writer writes there")
    box = region_under(writer, up, written[0], exact=True)
    if box is None:
        refuse("what the writer writes there is not one box of constant extents, without gaps")
    if not is_guarded and not may_leave_out(b, buffer):
        return Part(box, (False,) * len(box))  # it is written, so it is in the buffer
    ranges = loop_ranges(around)
    ends = [not _ends_inside(r, n, ranges) for r, n in zip(box, buffer.shape)]
    if is_guarded:
        return Part(box, tuple(ends))
    return Part(box, tuple(ends), tuple([not _begins_inside(r, ranges) for r in box]))


def _ends_inside(r: Range, extent: Expr, around: Loops | None) -> bool:
    m, n = const_int(r.extent), const_int(extent)
    if m is None or n is None:
        return False
    return is_inside(r.min, m, 0, n, None if around is None else domain(around))[1]


def _begins_inside(r: Range, around: Loops | None) -> bool:
    n = const_int(r.extent)
    return (
        n is not None and is_inside(r.min, n, 0, n, None if around is None else domain(around))[0]
    )


def put_copy(s: State, scope: Link, child: Link, new: Stmt, cache: Buffer) -> None:
    """Replace a statement, and let the scope allocate the cache."""
    b = scope.block()
    body = graft_below(scope, child, new)
    s.replace(scope, block_with(b, body=body, alloc_buffers=(*b.alloc_buffers, cache)))


def cache_name(buffer: Buffer, scope: str) -> str:
    """What a copy of a buffer in a memory scope is called, and the block that makes it. The dot of
    "shared.dyn" stays, as in TVM; a printed program has "_" for it in names of buffers."""
    return f"{buffer.name}_{scope}"


def fresh_name(s: State, func: str, name: str, others: Iterable[str] = ()) -> str:
    """A block name that the function does not have yet, and that is none of some others."""
    taken = s.tree(func).names.union(others)
    return name if name not in taken else next(
        f"{name}_{k}" for k in range(1, len(taken) + 2) if f"{name}_{k}" not in taken
    )  # fmt: skip


def _require_pipeline(s: State, scope: Link, at: Block) -> None:
    fault = s.pipeline_fault(scope) if s.enable_check else ""
    if fault:
        _refuse_scope(s, fault, at)


def _refuse_scope(s: State, fault: str, at: Block) -> NoReturn:
    s.fail(
        f"the scope is not a stage pipeline: {fault}",
        hint="each block of the scope must write its buffers alone and whole, in"
        " front of those that read them",
        code="not-pipeline",
        at=at,
    )


def _require_order(s: State, scope: Link, child: Link, at: Block) -> None:
    """A copy beside a statement of the scope's body takes whole buffers, when all that was written
    is there: only statements outside any block might come in between. One inside loops takes what
    one iteration writes, and that must be all that is read."""
    assert child.up is not None
    fault = s.pipeline_fault(scope) if s.enable_check else ""
    if fault and _is_body(child.up, scope):
        written = {w.buffer for x in blocks_below(scope) for w in x.block().writes}
        fault = loose_fault(scope.node, written)
    if fault:
        _refuse_scope(s, fault, at)


def _redirect(s: State, link: Link, old: Buffer, new: Buffer) -> None:
    """Let a block access `new` where it accessed `old`."""
    s.replace(link, with_buffer(link.block(), old, new))


def with_buffer(block: Block, old: Buffer, new: Buffer) -> Stmt:
    """The block with `new` for `old`; views of it live in its memory scope."""
    table = {old: new}
    if old.scope != new.scope:
        for b in blocks(block):
            for m in b.match_buffers:
                if m.source.buffer in table:
                    v = m.buffer
                    table[v] = Buffer(
                        v.name, v.shape, v.dtype, new.scope, v.strides, v.elem_offset, v.align
                    )
    return replace_buffers(block, table)


@primitive("CacheRead", inputs=("block", "consumer_blocks"), quiet=("consumer_blocks",))
def cache_read(
    s: State,
    block: BlockRV | str,
    read_buffer_index: BufferIndex,
    storage_scope: str,
    consumer_blocks: Sequence[BlockRV | str] | None = None,
) -> BlockRV:
    """Copy a buffer that a block reads into another memory scope, and let the block read the copy.

    Args:
        block: the reader.
        read_buffer_index: which of its read buffers (position, name or object).
        storage_scope: where the copy lives, such as "shared" or "local".
        consumer_blocks: the blocks that read the copy; None or empty: all readers in the scope.

    Returns:
        The copying block, named `<buffer>_<scope>`, placed at the root of the scope, after the
        writer of the buffer, to be moved with `compute_at`; or, where the reader shares loops with
        the writer, inside those, right after what holds the writer alone.

    Raises:
        ScheduleError: the buffer has more than one writer in the scope; no such buffer or memory
            scope; a consumer does not read the buffer; a statement of the scope stands outside any
            block; reader and writer share loops, and what is written inside them is not complete or
            no one box, or the scope is no stage pipeline.

    Example:
        >>> sch = demo_schedule(); b = sch.cache_read(sch.get_block("B"), 0, "local")
        >>> sch.get(b).name
        'A_local'
    """
    s.resolved["consumer_blocks"] = list(consumer_blocks or ())
    link = s.block(block)
    b = link.block()
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.reads, read_buffer_index, "read", b)
    record_index(s, "read_buffer_index", read_buffer_index, index)
    buffer = b.reads[index].buffer
    scope = link.scope()
    _no_root(s, link)
    _check_reads_all(s, scope, buffer, b)
    below = blocks_below(scope)
    writers = [x for x in below if any(w.buffer is buffer for w in x.block().writes)]
    if len(writers) > 1:
        s.fail(
            f"buffer {buffer.name} has {len(writers)} writers in the scope",
            hint="cache it before decompose_reduction",
            code="cache-writers",
            at=[x.node for x in writers],
        )
    readers = [x for x in below if any(r.buffer is buffer for r in x.block().reads)]
    if writers:  # a block that reads what it writes keeps reading it
        readers = [x for x in readers if x.block().key is not writers[0].block().key]
    if consumer_blocks:
        wanted = [s.block(c).block().key for c in consumer_blocks]
        for c, k in zip(consumer_blocks, wanted, strict=True):
            if not any(x.block().key is k for x in readers):
                name = s.block(c).block().name
                s.fail(
                    f"consumer block {name} does not read {buffer.name} in this scope",
                    hint="leave consumer_blocks out, or name blocks that read the buffer",
                    code="cache-consumer",
                    at=b,
                )
        readers = [x for x in readers if any(x.block().key is k for k in wanted)]
    if not readers:
        s.fail(
            f"nobody reads {buffer.name} but its writer",
            hint="use cache_write to cache what a block writes",
            code="cache-consumer",
            at=b,
        )
    cache = Buffer(cache_name(buffer, storage_scope), buffer.shape, buffer.dtype, storage_scope)
    name = fresh_name(s, s.func_of(b.key), cache.name)
    keys = [x.block().key for x in readers]
    if writers:
        child = _copied_after(writers[0], readers, scope)
        _check_order(s, below, writers[0], readers, buffer)
        _require_order(s, scope, child, b)
        part = _part_written(s, writers[0], child, scope, buffer, readers)
        nest, key = copy_nest(name, buffer, cache, part)
        new = build.seq(child.node, nest)
    else:
        child = _copied_after(readers[0], (), scope)
        _require_order(s, scope, child, b)
        nest, key = copy_nest(name, buffer, cache)
        new = build.seq(nest, child.node)
    put_copy(s, scope, child, new, cache)
    for k in keys:
        found = s.find(k)
        assert found is not None
        _redirect(s, found[1], buffer, cache)
    return s.mint_block(key)


def _check_order(
    s: State, below: Sequence[Link], writer: Link, readers: Sequence[Link], buffer: Buffer
) -> None:
    """What is read before it is written would be read from the cache before it is copied there."""
    keys = [x.block().key for x in below]
    first = keys.index(writer.block().key)
    early = [x for x in readers if keys.index(x.block().key) < first]
    if early:
        s.fail(
            f"block {early[0].block().name} reads {buffer.name} before block "
            f"{writer.block().name} writes it",
            hint="leave it out of consumer_blocks",
            code="cache-place",
            at=[x.node for x in (writer, *early)],
        )


def _check_reads_all(s: State, scope: Link, buffer: Buffer, at: Block) -> None:
    """The copy goes over the whole buffer: a block inside another may only copy what the outer one
    says it reads, or what lives inside it."""
    owner = scope.block()
    if scope.up is None or buffer in owner.alloc_buffers:
        return
    whole = tuple([Range(IntImm(0, e.dtype), e) for e in buffer.shape])
    if not any(covers(r.region, whole, {}) for r in owner.reads if r.buffer is buffer):
        s.fail(
            f"block {owner.name} around block {at.name} reads only a part of {buffer.name}, and "
            "the copy would read all of it",
            hint=f"cache it at block {owner.name}",
            code="cache-partial",
            at=owner,
        )


def _no_root(s: State, link: Link) -> None:
    if link.up is None:
        s.fail(
            "the root block itself cannot be cached",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=link.node,
        )


@primitive("CacheWrite", inputs=("block", "consumer_blocks"), quiet=("consumer_blocks",))
def cache_write(
    s: State,
    block: BlockRV | str,
    write_buffer_index: BufferIndex,
    storage_scope: str,
    consumer_blocks: Sequence[BlockRV | str] | None = None,
) -> BlockRV:
    """Let a block write into another memory scope, and copy the result back afterwards.

    Args:
        block: the writer; the only one of the buffer in its scope.
        write_buffer_index: which of its written buffers (position, name or object).
        storage_scope: where it writes now, such as "local".
        consumer_blocks: blocks that read the cache instead of the buffer; None or empty: none.

    Returns:
        The block that copies back, named `<buffer>_<scope>`, placed right after the loops of the
        writer, to be moved with `reverse_compute_at`; or, where a reader shares loops with the
        writer, inside those, right after what holds the writer alone.

    Raises:
        ScheduleError: the buffer has another writer, or is written in part; no such buffer or
            memory scope; a statement of the scope stands outside any block; reader and writer share
            loops, and what is written inside them is not complete or no one box; the scope is no
            stage pipeline, and a reader shares loops with the writer, there are consumer_blocks, or
            the block is neither complete nor a reduction.

    Example:
        >>> sch = demo_schedule(); b = sch.cache_write(sch.get_block("B"), 0, "local")
        >>> sch.get(b).name
        'B_local'
    """
    s.resolved["consumer_blocks"] = list(consumer_blocks or ())
    link = s.block(block)
    b = link.block()
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.writes, write_buffer_index, "write", b)
    record_index(s, "write_buffer_index", write_buffer_index, index)
    buffer = b.writes[index].buffer
    scope = link.scope()
    _no_root(s, link)
    below = blocks_below(scope)
    writers = [x for x in below if any(w.buffer is buffer for w in x.block().writes)]
    if len(writers) != 1:
        s.fail(
            f"buffer {buffer.name} has {len(writers)} writers in the scope, not one",
            hint="cache it before decompose_reduction",
            code="cache-writers",
            at=[x.node for x in writers],
        )
    if s.pipeline_fault(scope) and (consumer_blocks or not kind_of(link, s)):
        _require_pipeline(s, scope, b)
    cache = Buffer(cache_name(buffer, storage_scope), buffer.shape, buffer.dtype, storage_scope)
    moved = [s.block(c) for c in consumer_blocks or ()]
    for x in moved:
        if not any(r.buffer is buffer for r in x.block().reads):
            s.fail(
                f"consumer block {x.block().name} does not read {buffer.name}",
                hint="leave consumer_blocks out, or name blocks that read the buffer",
                code="cache-consumer",
                at=x.node,
            )
    name = fresh_name(s, s.func_of(b.key), cache.name)
    keys = [x.block().key for x in moved]
    readers = [
        x for x in below
        if x.block().key is not b.key
        and x.block().key not in keys
        and any(r.buffer is buffer for r in x.block().reads)
    ]  # fmt: skip
    child = _copied_after(link, readers, scope)
    _require_order(s, scope, child, b)
    part = _part_written(s, link, child, scope, buffer, readers)
    if may_leave_out(b, buffer):
        s.fail(
            f"block {b.name} writes {buffer.name} under a condition, and a copy would always do so",
            hint="store with T.if_then_else, the old value where the condition does not hold",
            code="cache-partial",
            at=b,
        )
    if part is None:
        _check_writes_all(s, link, b.writes[index], buffer)
    nest, key = copy_nest(name, cache, buffer, part)
    written = graft_below(child.up, link, with_buffer(b, buffer, cache))
    assert written is not None
    put_copy(s, scope, child, build.seq(written, nest), cache)
    for k in keys:
        found = s.find(k)
        assert found is not None
        _redirect(s, found[1], buffer, cache)
    return s.mint_block(key)


def _check_writes_all(s: State, link: Link, region: BufferRegion, buffer: Buffer) -> None:
    """The copy goes over the whole buffer: the block must have written all of it, or elements that
    nobody wrote would be overwritten with what the cache happened to hold."""
    b = link.block()
    unguarded = guard_above(link) is None and runs_whole_domain(b)
    if unguarded and s.affine.get(b.iter_values) and has_point_each(b, region):
        return
    whole = tuple([Range(IntImm(0, e.dtype), e) for e in buffer.shape])
    ranges = loop_ranges(link.loops())
    if unguarded and ranges is not None:
        written = None
        if is_literal(b.predicate, 1):
            written = relax_exact(bound_region(b, region).region, ranges)
        elif fills_domain(link):  # and the predicate cuts off what is beyond
            domains = {
                iv.var: (const_int(iv.dom.min), const_int(iv.dom.extent)) for iv in b.iter_vars
            }
            points = {
                v: (lo, n) for v, (lo, n) in domains.items() if lo is not None and n is not None
            }
            if len(points) == len(domains):
                written = relax_exact(region.region, points)
        if written is not None and covers(written, whole, {}):
            return
    if unguarded and ranges is None and writes_all(link, region):
        return
    s.fail(
        f"block {b.name} does not write all of {buffer.name}, so copying it back would overwrite "
        "the rest",
        hint="cache only buffers that one block writes in full",
        code="cache-partial",
        at=b,
    )


# ----------------------------------------------------------------------------- where buffers live
def allocator(s: State, link: Link, buffer: Buffer) -> Link:
    """The block that allocates a buffer."""
    for x in (link, *link.above()):
        if type(x.node) is Block and buffer in x.node.alloc_buffers:
            return x
    s.fail(
        f"buffer {buffer.name} is a parameter, not allocated by a block",
        hint="cache_read or cache_write it, and change the cache",
        code="buffer-parameter",
        at=link.node,
    )


@primitive("SetScope", inputs=("block",))
def set_scope(
    s: State, block: BlockRV | str, buffer_index: BufferIndex, storage_scope: str
) -> None:
    """Change the memory scope of a buffer that a block writes.

    Args:
        block: the writer.
        buffer_index: which of its written buffers (position, name or object).
        storage_scope: the new scope.

    Raises:
        ScheduleError: the buffer is a parameter of the function; no such buffer or memory scope.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); _ = sch.cache_write(b, 0, "global")
        >>> sch.set_scope(b, 0, "shared"); sch.get(b).writes[0].buffer.scope
        'shared'
    """
    link = s.block(block)
    b = link.block()
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.writes, buffer_index, "write", b)
    record_index(s, "buffer_index", buffer_index, index)
    buffer = b.writes[index].buffer
    owner = allocator(s, link, buffer)
    if buffer.scope == storage_scope:
        return
    new = Buffer(
        buffer.name, buffer.shape, buffer.dtype, storage_scope, buffer.strides, buffer.elem_offset,
        buffer.align,
    )  # fmt: skip
    s.replace(owner, with_buffer(owner.block(), buffer, new))


@primitive("StorageAlign", inputs=("block",))
def storage_align(
    s: State, block: BlockRV | str, buffer_index: BufferIndex, axis: int, factor: int, offset: int
) -> None:
    """Pad a buffer so that the stride of an axis is `offset` plus a multiple of `factor` elements.

    Args:
        block: the block that writes the buffer.
        buffer_index: which of its written buffers (position, name or object).
        axis: the dimension; negative counts from the end.
        factor: at least 1, in elements.
        offset: in elements.

    Raises:
        ScheduleError: factor or axis is out of range; the buffer is a parameter of the function.

    Example:
        >>> sch = demo_schedule(); b = sch.cache_read(sch.get_block("B"), 0, "shared")
        >>> sch.storage_align(b, 0, -2, 32, 8)
        >>> dict(sch.get(b).annotations)
        {'buffer_dim_align': ((0, 0, 32, 8),)}
    """
    link = s.block(block)
    b = link.block()
    index = pick_buffer(s, b.writes, buffer_index, "write", b)
    record_index(s, "buffer_index", buffer_index, index)
    buffer = b.writes[index].buffer
    allocator(s, link, buffer)
    ndim = len(buffer.shape)
    if not -ndim <= axis < ndim:
        s.fail(
            f"axis {axis} is out of range for buffer {buffer.name} of {ndim} dimensions",
            hint=f"axis is from {-ndim} to {ndim - 1}",
            code="storage-align",
            at=b,
        )
    if factor < 1:
        s.fail(
            f"factor must be at least 1, got {factor}",
            hint="give the number of elements that the stride is to be a multiple of, such as 32",
            code="storage-align",
            at=b,
        )
    entry = (index, axis % ndim, factor, offset)
    notes = dict(b.annotations)
    before = listed(b.annotations, "buffer_dim_align", f"block {b.name}")
    old = tuple(e for e in before if tuple(e)[:2] != entry[:2])
    notes["buffer_dim_align"] = (*old, entry)
    s.replace(link, block_with(b, annotations=tuple(notes.items())))
