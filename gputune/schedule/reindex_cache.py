"""How is a cache indexed as one likes? reindex_cache_read, reindex_cache_write."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..ir import build
from ..ir.affine import minus
from ..ir.arith import simplify
from ..ir.build import const_int
from ..ir.index_map import IndexMap
from ..ir.nodes import Block, Buffer, BufferRegion, Expr, IntImm, Var
from .handles import BlockRV
from .memory import BufferIndex, cache_name, check_scope, pick_buffer, record_index
from .nests import bound_map, const_extents, read_map
from .primitive import IndexMapLike, primitive
from .reindex import is_injective, no_root, put_copy_at, single_access, used_iters
from .state import State
from .tree import Link


@primitive("ReindexCacheRead", inputs=("block", "index_map"))
def reindex_cache_read(
    s: State,
    block: BlockRV | str,
    read_buffer_index: BufferIndex,
    storage_scope: str,
    index_map: IndexMapLike,
) -> BlockRV:
    """Copy what a block reads into another memory scope, at indices of one's own, and let the block
    read the copy.

    With the map `lambda i, k: (k, i)`, `A[vi * 2 + vk]` becomes `A_shared[vk, vi]`. Only this block
    reads the copy; `cache_read` is for several.

    Args:
        block: reads the buffer at one place, for all of its iterators' domains.
        read_buffer_index: which of its read buffers (position, name or object).
        storage_scope: where the copy lives, such as "shared" or "local".
        index_map: from the iterators of the block to the indices of the copy. It uses the iterators
            that the index of the buffer uses; where it gives two of their values the same indices,
            the index of the buffer must be one of the map's, up to a constant. It may hold sampled
            values.

    Returns:
        The copying block, named `<buffer>_<scope>`, right before the nest of the block, with a loop
        for each of those iterators in their order.

    Raises:
        ScheduleError: naming which of these does not hold; the copy would read outside the buffer;
            the scope is no stage pipeline; no such buffer or memory scope.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> c = sch.reindex_cache_read(b, 0, "shared", lambda i, j: (j // 4, i, j % 4))
        >>> [e.value for e in sch.get(c).writes[0].buffer.shape]
        [2, 8, 4]
    """
    link = s.block(block)
    b = link.block()
    no_root(s, link)
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.reads, read_buffer_index, "read", b)
    record_index(s, "read_buffer_index", read_buffer_index, index)
    return _cache_at(s, link, "read", b.reads[index], storage_scope, index_map)


@primitive("ReindexCacheWrite", inputs=("block", "index_map"))
def reindex_cache_write(
    s: State,
    block: BlockRV | str,
    write_buffer_index: BufferIndex,
    storage_scope: str,
    index_map: IndexMapLike,
) -> BlockRV:
    """Let a block write into another memory scope, at indices of one's own, and copy the result to
    where it belongs.

    With the map `lambda i, j, k: (j, i)`, `C[vi, vj]` becomes `C_local[vj, vi]`.

    Args:
        block: writes the buffer at one place, for all of its iterators' domains, and for different
            values of the iterators that this place mentions at different elements.
        write_buffer_index: which of its written buffers (position, name or object).
        storage_scope: where it writes now, such as "local".
        index_map: from the iterators of the block to the indices of the cache. It uses the
            iterators that the index of the buffer uses, and gives no two of their values the same
            indices. It may hold sampled values.

    Returns:
        The block that copies back, named `<buffer>_<scope>`, right after the nest of the block,
        with a loop for each of those iterators in their order.

    Raises:
        ScheduleError: naming which of these does not hold; the buffer has another writer; the scope
            is no stage pipeline; no such buffer or memory scope.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S")
        >>> c = sch.reindex_cache_write(b, 0, "local", lambda i, k: (i // 4, i % 4))
        >>> str(sch.get(b).body.indices[0]), str(sch.get(c).body.indices[0])
        ('vi // 4', 'vi')
    """
    link = s.block(block)
    b = link.block()
    no_root(s, link)
    check_scope(s, storage_scope, b)
    index = pick_buffer(s, b.writes, write_buffer_index, "write", b)
    record_index(s, "write_buffer_index", write_buffer_index, index)
    return _cache_at(s, link, "write", b.writes[index], storage_scope, index_map)


def _cache_at(
    s: State, link: Link, what: str, region: BufferRegion, scope: str, index_map: IndexMapLike
) -> BlockRV:
    b, old = link.block(), region.buffer
    m = read_map(s, index_map, len(b.iter_vars), b)
    m = bound_map(s, m, [iv.dom.extent for iv in b.iter_vars])
    indices = single_access(s, link, old, what)
    at = _new_indices(b, m)
    _check_same_iters(s, b, old, indices, at)
    _check_distinct(s, b, old, what, indices, at, m)
    name = cache_name(old, scope)
    new = Buffer(name, _shape(s, b, m), old.dtype, scope)
    return put_copy_at(s, link, what, old, indices, new, at)


def _new_indices(b: Block, m: IndexMap) -> list[Expr]:
    known: dict[Var, tuple[int | None, int | None]] = {}
    for iv in b.iter_vars:
        n = const_int(iv.dom.extent)
        if n is not None:
            known[iv.var] = (0, n - 1)
    out = []
    for e in m.map_indices([iv.var for iv in b.iter_vars]):
        new = simplify(e, known, keep_unit_vars=True)
        # the text of a map does not say of what type a constant is
        out.append(build.cast(_dtype(b), new) if type(new) is IntImm else new)
    return out


def _dtype(b: Block) -> str:
    return "int64" if any(iv.var.dtype == "int64" for iv in b.iter_vars) else "int32"


def _check_same_iters(
    s: State, b: Block, old: Buffer, indices: Sequence[Expr], at: Sequence[Expr]
) -> None:
    mine, theirs = used_iters(b, at), used_iters(b, indices)
    if [iv.var for iv in mine] == [iv.var for iv in theirs]:
        return
    shown = [", ".join(iv.var.name for iv in x) or "none" for x in (mine, theirs)]
    s.fail(
        f"index_map uses the iterators {shown[0]} of block {b.name}, and its index "
        f"[{', '.join(map(str, indices))}] of {old.name} uses {shown[1]}",
        hint="let the map use just those",
        code="reindex-cache-iters",
        at=b,
    )


def _check_distinct(
    s: State,
    b: Block,
    old: Buffer,
    what: str,
    indices: Sequence[Expr],
    at: Sequence[Expr],
    m: IndexMap,
) -> None:
    """An element of the cache must stand for one element of the buffer."""
    if is_injective(at, used_iters(b, at)):
        return
    if what == "read" and all(_follows(i, at) for i in indices):
        return
    hint = "write it with // and % by constants that divide the extents of the iterators"
    if what == "read":
        hint += f", or with the indices of {old.name} themselves"
    s.fail(
        f"{m} may give different elements of {old.name}, at [{', '.join(map(str, indices))}], the "
        "same indices",
        hint=hint,
        code="reindex-cache-injective",
        at=b,
    )


def _follows(index: Expr, at: Sequence[Expr]) -> bool:
    """Is an index of the buffer an index of the cache, up to a constant, or a constant itself?"""
    return type(index) is IntImm or any(not minus(index, e)[0] for e in at)


def _shape(s: State, b: Block, m: IndexMap) -> tuple[Expr, ...]:
    """The extents of the cache."""
    extents = {v: iv.dom.extent for v, iv in zip(m.initial_indices, b.iter_vars, strict=True)}
    if all(type(e) is Var for e in m.final_indices):  # of whatever length
        return tuple([extents[e] for e in m.final_indices if type(e) is Var])
    shape = const_extents(s, list(extents.values()), f"block {b.name}", b)
    try:
        return tuple([IntImm(n, _dtype(b)) for n in m.map_shape(shape)])
    except UserError as e:
        s.fail(e.message, hint=e.hint, code="index-map", at=b)
