"""Primitives that move data: cache_read, cache_write, set_scope, storage_align."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..ir import build
from ..ir.boxes import covers, relax_exact
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    For,
    IntImm,
    IterVar,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import blocks, replace_buffers
from .analysis import (
    blocks_below,
    bound_region,
    guard_above,
    has_point_each,
    loop_ranges,
    runs_whole_domain,
    writes_all,
)
from .handles import BlockRV
from .primitive import primitive
from .state import State, buffer_at
from .tree import Link, block_with, graft_below

BufferIndex: TypeAlias = int | str | Buffer

SCOPES = (
    "global", "shared", "shared.dyn", "local", "warp", "wmma.matrix_a", "wmma.matrix_b",
    "wmma.accumulator", "m16n8k8.matrixA", "m16n8k8.matrixB", "m16n8k8.matrixC", "amx.tmm",
)  # fmt: skip


def _check_scope(s: State, scope: str, at: object) -> None:
    if scope not in SCOPES:
        s.fail(
            f"the storage scope {scope!r} is invalid",
            hint=f"known: {', '.join(SCOPES)}",
            code="storage-scope",
            at=at,
        )


def _pick(
    s: State, regions: Sequence[BufferRegion], index: BufferIndex, what: str, at: Block
) -> int:
    """The position among `regions` of a buffer given by position, name or object."""
    if isinstance(index, bool) or not isinstance(index, (int, str, Buffer)):
        s.fail(
            f"a buffer is given by index, name or object, got {index!r}", code="buffer-index", at=at
        )
    if isinstance(index, int):
        buffer_at(regions, index, what, s, at)
        return index
    for k, r in enumerate(regions):
        if r.buffer is index or r.buffer.name == index:
            return k
    names = ", ".join(r.buffer.name for r in regions) or "none"
    name = index if isinstance(index, str) else index.name
    s.fail(
        f"block {at.name} has no {what} of buffer {name!r}",
        hint=f"its {what}s are: {names}",
        code="buffer-index",
        at=at,
    )


def _record_index(s: State, name: str, given: BufferIndex, index: int) -> None:
    """A trace holds no buffer object, but its position."""
    if isinstance(given, Buffer):
        s.resolved[name] = index


def _copy_nest(name: str, source: Buffer, dest: Buffer) -> tuple[Stmt, BlockKey]:
    """Loops and a block that copy all of `source` into `dest` (same shape)."""
    loops = [Var(f"ax{k}", e.dtype) for k, e in enumerate(source.shape)]
    iters = [Var(f"v{k}", e.dtype) for k, e in enumerate(source.shape)]
    point = tuple([Range(v, IntImm(1, v.dtype)) for v in iters])
    key = BlockKey()
    body: Stmt = Block(
        key,
        name,
        tuple([
            IterVar(v, Range(IntImm(0, v.dtype), e), "spatial")
            for v, e in zip(iters, source.shape, strict=True)
        ]),
        tuple(loops),
        build.TRUE,
        (BufferRegion(source, point),),
        (BufferRegion(dest, point),),
        BufferStore(dest, BufferLoad(source, tuple(iters)), tuple(iters)),
    )  # fmt: skip
    for v, e in zip(reversed(loops), reversed(source.shape), strict=True):
        body = For(v, IntImm(0, v.dtype), e, "serial", body)
    return body, key


def _statements(scope: Block) -> list[Stmt]:
    return list(scope.body.items) if type(scope.body) is Seq else [scope.body]


def _top_statement(link: Link, scope: Link) -> Stmt:
    """The statement directly in the scope block that holds the link."""
    below: Link = link
    for x in link.above():
        if x.node is scope.node or (
            type(x.node) is Seq and x.up is not None and x.up.node is scope.node
        ):
            return below.node
        below = x
    raise AssertionError("the scope is above the block")


def fresh_name(s: State, func: str, name: str) -> str:
    """A block name that the function does not have yet."""
    taken = s.tree(func).names
    return name if name not in taken else next(
        f"{name}_{k}" for k in range(1, len(taken) + 2) if f"{name}_{k}" not in taken
    )  # fmt: skip


def _require_pipeline(s: State, scope: Link, at: Block) -> None:
    fault = s.pipeline_fault(scope) if s.enable_check else ""
    if fault:
        s.fail(f"the scope is not a stage pipeline: {fault}", code="not-pipeline", at=at)


def _redirect(s: State, link: Link, old: Buffer, new: Buffer) -> None:
    """Let a block access `new` where it accessed `old`."""
    s.replace(link, _with_buffer(link.block(), old, new))


def _with_buffer(block: Block, old: Buffer, new: Buffer) -> Stmt:
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
        writer of the buffer, to be moved with `compute_at`.

    Raises:
        ScheduleError: the buffer has more than one writer in the scope; the scope is no stage
            pipeline; no such buffer or memory scope; a consumer does not read the buffer.

    Example:
        >>> sch = demo_schedule(); b = sch.cache_read(sch.get_block("B"), 0, "local")
        >>> sch.get(b).name
        'A_local'
    """
    s.resolved["consumer_blocks"] = list(consumer_blocks or ())
    link = s.block(block)
    b = link.block()
    _check_scope(s, storage_scope, b)
    index = _pick(s, b.reads, read_buffer_index, "read", b)
    _record_index(s, "read_buffer_index", read_buffer_index, index)
    buffer = b.reads[index].buffer
    scope = link.scope()
    _no_root(s, link)
    _require_pipeline(s, scope, b)
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
                    code="cache-consumer",
                    at=b,
                )
        readers = [x for x in readers if any(x.block().key is k for k in wanted)]
    if not readers:
        s.fail(f"nobody reads {buffer.name} but its writer", code="cache-consumer", at=b)
    cache = Buffer(
        f"{buffer.name}_{storage_scope.replace('.', '_')}",
        buffer.shape,
        buffer.dtype,
        storage_scope,
    )
    func = s.func_of(b.key)
    nest, key = _copy_nest(fresh_name(s, func, cache.name), buffer, cache)
    scope_block = scope.block()
    items = _statements(scope_block)
    if writers:
        at = _index(items, _top_statement(writers[0], scope)) + 1
    else:
        at = min(_index(items, _top_statement(x, scope)) for x in readers)
    # a reader that shares its top statement with the writer would come before the copy
    if any(_index(items, _top_statement(x, scope)) < at for x in readers):
        s.fail(
            f"a reader of {buffer.name} shares its loops with the writer",
            hint="cache_read before compute_at",
            code="cache-place",
            at=[x.node for x in readers],
        )
    keys = [x.block().key for x in readers]
    items.insert(at, nest)
    new_scope = block_with(
        scope_block, body=build.seq(*items), alloc_buffers=(*scope_block.alloc_buffers, cache)
    )
    s.replace(scope, new_scope)
    for k in keys:
        found = s.find(k)
        assert found is not None
        _redirect(s, found[1], buffer, cache)
    return s.mint_block(key)


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


def _index(items: Sequence[Stmt], item: Stmt) -> int:
    return next(k for k, x in enumerate(items) if x is item)


def _no_root(s: State, link: Link) -> None:
    if link.up is None:
        s.fail("the root block itself cannot be cached", code="root-block", at=link.node)


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
        The block that copies back, named `<buffer>_<scope>`, placed right after the writer, to be
        moved with `reverse_compute_at`.

    Raises:
        ScheduleError: the buffer has another writer; the scope is no stage pipeline; no such buffer
            or memory scope.

    Example:
        >>> sch = demo_schedule(); b = sch.cache_write(sch.get_block("B"), 0, "local")
        >>> sch.get(b).name
        'B_local'
    """
    s.resolved["consumer_blocks"] = list(consumer_blocks or ())
    link = s.block(block)
    b = link.block()
    _check_scope(s, storage_scope, b)
    index = _pick(s, b.writes, write_buffer_index, "write", b)
    _record_index(s, "write_buffer_index", write_buffer_index, index)
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
    _require_pipeline(s, scope, b)
    cache = Buffer(
        f"{buffer.name}_{storage_scope.replace('.', '_')}",
        buffer.shape,
        buffer.dtype,
        storage_scope,
    )
    _check_writes_all(s, link, b.writes[index], buffer)
    moved = [s.block(c) for c in consumer_blocks or ()]
    for x in moved:
        if not any(r.buffer is buffer for r in x.block().reads):
            s.fail(
                f"consumer block {x.block().name} does not read {buffer.name}",
                code="cache-consumer",
                at=x.node,
            )
    func = s.func_of(b.key)
    nest, key = _copy_nest(fresh_name(s, func, cache.name), cache, buffer)
    scope_block = scope.block()
    items = _statements(scope_block)
    mine = _top_statement(link, scope)
    at = _index(items, mine) + 1
    inside = [
        x for x in below
        if x.block().key is not b.key
        and any(r.buffer is buffer for r in x.block().reads)
        and _top_statement(x, scope) is mine
    ]  # fmt: skip
    if any(x.block().key not in {m.block().key for m in moved} for x in inside):
        s.fail(
            f"a reader of {buffer.name} shares its loops with the writer",
            hint="name it in consumer_blocks, or cache_write before compute_at",
            code="cache-place",
            at=[x.node for x in inside],
        )
    body = graft_below(scope, link, _with_buffer(b, buffer, cache))
    assert body is not None
    items = list(body.items) if type(body) is Seq else [body]
    items.insert(at, nest)
    new_scope = block_with(
        scope_block, body=build.seq(*items), alloc_buffers=(*scope_block.alloc_buffers, cache)
    )
    keys = [x.block().key for x in moved]
    s.replace(scope, new_scope)
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
    if unguarded:
        written = None if ranges is None else relax_exact(bound_region(b, region).region, ranges)
        if written is not None and covers(written, whole, {}):
            return
        if ranges is None and writes_all(link, region):
            return
    s.fail(
        f"block {b.name} does not write all of {buffer.name}, so copying it back would overwrite "
        "the rest",
        hint="cache only buffers that one block writes in full",
        code="cache-partial",
        at=b,
    )


# ----------------------------------------------------------------------------- where buffers live
def _allocator(s: State, link: Link, buffer: Buffer) -> Link:
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
    _check_scope(s, storage_scope, b)
    index = _pick(s, b.writes, buffer_index, "write", b)
    _record_index(s, "buffer_index", buffer_index, index)
    buffer = b.writes[index].buffer
    owner = _allocator(s, link, buffer)
    if buffer.scope == storage_scope:
        return
    new = Buffer(
        buffer.name, buffer.shape, buffer.dtype, storage_scope, buffer.strides, buffer.elem_offset,
        buffer.align,
    )  # fmt: skip
    s.replace(owner, _with_buffer(owner.block(), buffer, new))


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
    index = _pick(s, b.writes, buffer_index, "write", b)
    _record_index(s, "buffer_index", buffer_index, index)
    buffer = b.writes[index].buffer
    _allocator(s, link, buffer)
    ndim = len(buffer.shape)
    if not -ndim <= axis < ndim:
        s.fail(
            f"axis {axis} is out of range for buffer {buffer.name} of {ndim} dimensions",
            code="storage-align",
            at=b,
        )
    if factor < 1:
        s.fail(f"factor must be at least 1, got {factor}", code="storage-align", at=b)
    entry = (index, axis % ndim, factor, offset)
    notes = dict(b.annotations)
    old = tuple(e for e in notes.get("buffer_dim_align", ()) if tuple(e)[:2] != entry[:2])
    notes["buffer_dim_align"] = (*old, entry)
    s.replace(link, block_with(b, annotations=tuple(notes.items())))
