"""What do schedule rules and postprocs need to know about a block before they touch it?

Questions only: nothing here records an instruction. Rules ask about programs as they were written,
postprocs about programs whose extents may be sampled values, so whatever a postproc asks compares
extents only where the answer decides something.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from ..errors import ScheduleError
from ..ir.affine import linear
from ..ir.build import const_int
from ..ir.known_annotations import fault, plain
from ..ir.nodes import Block, Buffer, BufferRegion, Call, For, IfThenElse, Var
from ..ir.walk import all_exprs, blocks, free_vars, mentioned, walk_stmt
from ..schedule.analysis import blocks_below, is_trivial_binding, kind_of
from ..schedule.handles import BlockRV, LoopRV
from ..schedule.tree import Link

if TYPE_CHECKING:
    from ..schedule import Schedule

TILING_STRUCTURE = "meta_schedule.tiling_structure"
COOPERATIVE_FETCH = "meta_schedule.cooperative_fetch"
THREAD_EXTENT_LOW = "meta_schedule.thread_extent_low_inclusive"
THREAD_EXTENT_HIGH = "meta_schedule.thread_extent_high_inclusive"
RANDOM_COMPUTE_PRODUCER = "meta_schedule.random_compute_producer"
PARALLEL = "meta_schedule.parallel"
VECTORIZE = "meta_schedule.vectorize"
UNROLL_EXPLICIT = "meta_schedule.unroll_explicit"
UNROLL_IMPLICIT = "meta_schedule.unroll_implicit"
AUTO_TENSORIZE = "meta_schedule.auto_tensorize"
AUTO_TENSORIZE_INIT = "meta_schedule.auto_tensorize_init"
INLINE_RULE = "meta_schedule.inline_rule"
WRITE_CACHE_LEVEL = "meta_schedule.write_cache_level"
WARP_EXECUTION = "warp_execution"
BUFFER_DIM_ALIGN = "buffer_dim_align"
PIPELINE_STAGE = "software_pipeline_stage"
PIPELINE_ASYNC_STAGES = "software_pipeline_async_stages"
SCHEDULE_RULE = "schedule_rule"
AUTO_UNROLL_MAX_STEP = "pragma_auto_unroll_max_step"
UNROLL_IS_EXPLICIT = "pragma_unroll_explicit"

LoopKind: TypeAlias = Literal["spatial", "reduce", "mixed"]


# ----------------------------------------------------------------------------- annotations
def annotation(node: Block | For, key: str) -> Any:
    """The value of an annotation, or None.

    Raises:
        ScheduleError: a value that an annotation of that name cannot have.
    """
    for k, v in node.annotations:
        if k == key:
            if v is not None and (wrong := fault(key, v)):
                at = f"block {node.name}" if isinstance(node, Block) else f"loop {node.var.name}"
                raise ScheduleError(
                    f"the annotation {key!r} of {at}: {wrong}",
                    hint="unannotate it, and annotate it with such a value",
                    code="annotation-value",
                )
            return plain(v)
    return None


def is_gone(sch: Schedule, rv: BlockRV | LoopRV) -> bool:
    """Has the block or loop been inlined, or replaced by others?"""
    try:
        sch.get(rv)
    except ScheduleError as e:
        if e.code in ("block-gone", "loop-gone"):
            return True
        raise
    return False


# ----------------------------------------------------------------------------- loops
def loop_kinds(nest: Sequence[Link], below: Iterable[Link] | None = None) -> dict[Var, LoopKind]:
    """What each loop of a nest feeds in the blocks below it: spatial iterators only (or nothing),
    reduce iterators only, or anything else.

    Args:
        nest: loops, the outermost first.
        below: the blocks to look at; None is all of them.

    Returns:
        The kinds by loop variable, in the order of `nest`.
    """
    if not nest:
        return {}
    feeds: dict[Var, LoopKind | None] = {x.loop().var: None for x in nest}
    for b in blocks_below(nest[0]) if below is None else below:
        block = b.block()
        for iv, value in zip(block.iter_vars, block.iter_values, strict=True):
            kind: LoopKind = iv.kind if iv.kind in ("spatial", "reduce") else "mixed"
            for v in mentioned(value):
                if v in feeds:
                    old = feeds[v]
                    feeds[v] = kind if old is None or old == kind else "mixed"
    return {v: k or "spatial" for v, k in feeds.items()}


def loop_links(block: Link) -> list[Link]:
    """The links of the loops above a block up to its scope, outermost first."""
    out: list[Link] = []
    for x in block.above():
        if type(x.node) is For:
            out.append(x)
        elif type(x.node) is Block:
            break
    out.reverse()
    return out


def is_single_chain(block: Link) -> bool:
    """Is the block alone under its loops, each of which holds just the next one?"""
    loops = loop_links(block)
    nest = [*(x.node for x in loops), block.node]
    return all(x.loop().body is inner for x, inner in zip(loops, nest[1:], strict=True))


# ----------------------------------------------------------------------------- blocks
def is_root(link: Link) -> bool:
    """Is it the root block of a function?"""
    return link.up is None


def is_spatial(block: Block) -> bool:
    """Are all its iterators spatial?"""
    return all(iv.kind == "spatial" for iv in block.iter_vars)


def is_spatial_program(sch: Schedule, link: Link) -> bool:
    """Are all blocks of the function that holds the block spatial?"""
    func = sch.mod[sch.func_of(link.block().key)]
    return all(is_spatial(b) for b in blocks(func.body))


def has_if_then_else(block: Block) -> bool:
    """Does it branch: a statement or `T.if_then_else`?"""
    return any(type(s) is IfThenElse for s in walk_stmt(block.body)) or has_call(
        block, frozenset({"if_then_else"})
    )


def has_call(block: Block, names: frozenset[str]) -> bool:
    """Does it call one of the intrinsics?"""
    return any(type(e) is Call and e.op in names for e in all_exprs(block.body))


class AccessPattern(NamedTuple):
    """How the indices of a read follow from those of a write, both single points.

    Attributes:
        surjective: every index of the write occurs in the read.
        injective: none occurs twice.
        ordered: they occur in the order of the write.
        has_constant: an index of the read is a constant.
        has_shift: one is an iterator plus a constant other than 0.
    """

    surjective: bool
    injective: bool
    ordered: bool
    has_constant: bool
    has_shift: bool


def access_pattern(read: BufferRegion, write: BufferRegion) -> AccessPattern | None:
    """The pattern, or None where an index is neither `iterator + constant` nor a constant."""
    place: dict[Var, int] = {}
    for k, r in enumerate(write.region):
        if type(r.min) is not Var or const_int(r.extent) != 1:
            return None
        place[r.min] = k
    order: list[int] = []
    has_constant = has_shift = False
    for r in read.region:
        if const_int(r.extent) != 1:
            return None
        terms, const = linear(r.min)
        if not terms:
            has_constant = True
            continue
        (atom, factor), *more = terms.items()
        if more or factor != 1 or type(atom) is not Var or atom not in place:
            return None
        has_shift = has_shift or const != 0
        order.append(place[atom])
    return AccessPattern(
        surjective=set(order) == set(place.values()),
        injective=len(set(order)) == len(order),
        ordered=all(a < b for a, b in pairwise(order)),
        has_constant=has_constant,
        has_shift=has_shift,
    )


def is_write_cache(block: Block) -> bool:
    """Does the block take each element from what it reads at the same place (an epilogue, a copy)?
    Such a consumer can stand in for a write cache."""
    if len(block.writes) != 1 or block.init is not None:
        return False
    for read in block.reads:
        p = access_pattern(read, block.writes[0])
        if p is None or not (p.injective and p.ordered) or p.has_constant or p.has_shift:
            return False
    return True


def needs_multi_level_tiling(sch: Schedule, link: Link) -> bool:
    """Is there data reuse that tiles can exploit: a reduction in which some input does not depend
    on some spatial iterator?"""
    block = link.block()
    if (
        annotation(block, TILING_STRUCTURE) is not None
        or len(block.writes) != 1
        or not block.reads
        or is_spatial(block)
        or not is_trivial_binding(link)
        or any(const_int(f.extent) is None for f in link.loops())
        or not kind_of(link, sch)
    ):
        return False
    if any(iv.kind not in ("spatial", "reduce") for iv in block.iter_vars):
        return False
    spatial = [
        iv.var for iv in block.iter_vars if iv.kind == "spatial" and const_int(iv.dom.extent) != 1
    ]
    written = block.writes[0].buffer
    seen: set[Buffer] = set()
    unused = 0
    for read in block.reads:
        if read.buffer in seen:
            return False
        seen.add(read.buffer)
        if read.buffer is written:
            continue
        used: set[Var] = set()
        for r in read.region:
            if const_int(r.extent) is None:
                return False
            used |= free_vars(r.min)
        unused += sum(v not in used for v in spatial)
    return unused > 0


def needs_rfactor(sch: Schedule, link: Link, max_parallel_extent: int) -> bool:
    """Is it a reduction whose spatial loops alone do not keep the machine busy?

    A block that multi-level tiling suits is factored only if it reduces over more than it is wide,
    and is no wider than `max_parallel_extent`; any other reduction always may be. Not so where a
    loop has been given a kind: its place in the program is decided.
    """
    if kind_of(link, sch) != "reduction" or not is_trivial_binding(link):
        return False
    if not is_single_chain(link):
        return False
    space = reduce = 1
    nest = loop_links(link)
    kinds = loop_kinds(nest)
    if any(x.loop().kind != "serial" for x in nest):
        return False
    for loop in nest:
        n = const_int(loop.loop().extent)
        kind = kinds[loop.loop().var]
        if n is None or kind == "mixed" or loop.loop().annotations:
            return False
        if kind == "spatial":
            space *= n
        else:
            reduce *= n
    if needs_multi_level_tiling(sch, link):
        return reduce > space and space <= max_parallel_extent
    return reduce > 1
