"""Which loops become parallel, which vectors, and what is unrolled?
RewriteParallelVectorizeUnroll."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import gcd, lcm
from typing import TYPE_CHECKING, Any

from ...errors import ScheduleError
from ...ir.build import const_int, is_literal
from ...ir.nodes import Buffer, For, Var
from ...schedule.dim import Dim, minimum, take
from ...schedule.tree import Link
from ..analysis import (
    AUTO_UNROLL_MAX_STEP,
    PARALLEL,
    UNROLL_EXPLICIT,
    UNROLL_IMPLICIT,
    UNROLL_IS_EXPLICIT,
    VECTORIZE,
    LoopKind,
    annotation,
    is_spatial,
    loop_kinds,
    loop_links,
)
from ..strides import Strides, strides_of
from .postproc import Postproc
from .rewrite_layout import will_be_packed

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule

_KEYS = (PARALLEL, VECTORIZE, UNROLL_EXPLICIT, UNROLL_IMPLICIT)
_LANES = 16  # extents that are a multiple of this fill whole vectors of 4-byte elements
_HALF = 8  # and of this, half ones
_COMBINED = 4  # so many times the vector limit may be combined into one element at once
_NOT_LEGAL = frozenset({"not-pipeline", "not-complete", "not-affine", "feeds-reduce", "iter-kind"})


class RewriteParallelVectorizeUnroll(Postproc):
    """Does what ParallelizeVectorizeUnroll noted on the root block.

    In every loop nest under the root

    * the outermost spatial loops are fused, up to the first product above the parallel limit, and
      the fused loop becomes parallel; a loop with several children is the last one to be fused;
    * the innermost spatial loop becomes a vector if the block stores, and loads, neighbouring
      elements along it (or loads the same one for all); loops that continue it in memory are fused
      to it up to the vector limit, and a longer loop is split; if only reductions are inside it, it
      changes places with them; arguments that RewriteLayout will pack do not stand in its way;
    * where there is none, and one loop inside combines neighbouring elements into one, in any order
      (such as the partial results of a factored reduction), that loop becomes a vector;
    * the outermost loop is annotated with the unroll limit, if there is a reduction in the nest.

    Where the program does not allow it (a scope that is no stage pipeline, bindings that are not
    affine), loops stay serial.
    """

    def apply(self, sch: Schedule) -> bool:
        """Rewrite every function whose root block has notes."""
        for name, func in list(sch.mod.functions.items()):
            notes = {k: annotation(func.body, k) for k, _ in func.body.annotations if k in _KEYS}
            if not notes:
                continue
            root = sch.get_block("root", name)
            for key in _KEYS:
                if key in notes:
                    sch.unannotate(root, key)
            packed = will_be_packed(sch, name)
            for block in sch.get_child_blocks(root):
                _rewrite_nest(sch, block, notes, packed)
        return True


def _rewrite_nest(
    sch: Schedule, block: BlockRV, notes: dict[str, Any], packed: Collection[Buffer]
) -> None:
    if not sch.block(block).loops():
        return
    jobs, lanes = notes.get(PARALLEL, -1), notes.get(VECTORIZE, -1)
    loops = sch.get_loops(block)
    link = sch.block(block)
    nest = loop_links(link)
    kinds = loop_kinds(nest)
    if lanes != -1:
        sunk = _sink_vector_loop(sch, link, nest, kinds, loops, lanes, packed)
        if sunk is not None:
            loops = sunk
            link = sch.block(block)
            nest = loop_links(link)
            kinds = loop_kinds(nest)
    vector = plan_vector(link, nest, kinds, lanes, packed) if lanes != -1 else NO_VECTOR
    if vector.width is not None and vector.fuse == len(nest) > 1:  # one vector loop for it all
        outer, inner = sch.split(sch.fuse(*loops), [None, vector.width])
        if jobs != -1:
            _try(sch.parallel, outer)
        _try(sch.vectorize, inner)
        _note_unroll(sch, block, outer, notes)
        return
    if vector.width is not None:
        *head, last = loops
        loops = [*head, *sch.split(last, [None, vector.width])]
        of_both = kinds[nest[-1].loop().var]
        nest = loop_links(sch.block(block))
        kinds = {**kinds, **{x.loop().var: of_both for x in nest[-2:]}}
    if jobs != -1:
        count = count_parallel(nest[: len(nest) - vector.fuse], kinds, jobs)
        if count:
            fused = sch.fuse(*loops[:count])
            _try(sch.parallel, fused)
            loops = [fused, *loops[count:]]
    if lanes != -1 and combines_lanes(link, nest, kinds, lanes, packed):
        _try(sch.vectorize, loops[-1])
    if vector.fuse:
        inner = loops[-1] if vector.width is not None else sch.fuse(*loops[-vector.fuse :])
        _try(sch.vectorize, inner)
        loops = [*loops[: -vector.fuse], inner]
    _note_unroll(sch, block, loops[0], notes)


def _sink_vector_loop(
    sch: Schedule,
    link: Link,
    nest: list[Link],
    kinds: Mapping[Var, LoopKind],
    loops: list[LoopRV],
    limit: int,
    packed: Collection[Buffer],
) -> list[LoopRV] | None:
    """Where the innermost loops reduce and the one around them would make a vector (pooling, sums
    of columns), put that one, or a vector split off it, innermost. Gives the loops that there are
    then; None where nothing is to be done."""
    if kinds[nest[-1].loop().var] != "reduce":
        return None
    reducing = len(_chain(link, nest, kinds, "reduce"))
    if not 0 < reducing < len(nest):
        return None
    at = len(nest) - reducing - 1
    outer = nest[at]
    around = _chain(Link(nest[at + 1].node, None), nest[: at + 1], kinds, "spatial")
    strides = strides_of(link.block(), packed, _extents([outer]))
    if not around or strides is None or not strides.is_unit(outer.loop().var):
        return None
    extent = const_int(outer.loop().extent)
    assert extent is not None  # _chain takes no other
    head, vector, reduce = loops[:at], loops[at], loops[at + 1 :]
    if extent > limit:
        rest, vector = sch.split(vector, [None, split_width(extent, limit)])
        head = [*head, rest]
    if _try(sch.reorder, *reduce, vector):
        return [*head, *reduce, vector]
    return [*head, vector, *reduce]


def _try(move: Callable[..., None], *loops: LoopRV) -> bool:
    """Make a move, unless the program does not allow it; was it made?"""
    try:
        move(*loops)
    except ScheduleError as e:
        if e.code not in _NOT_LEGAL:
            raise
        return False
    return True


def _note_unroll(sch: Schedule, block: BlockRV, outermost: LoopRV, notes: dict[str, Any]) -> None:
    """Leave the unroll limit on the nest, once, and only if there is a reduction to unroll. A limit
    of 0 is noted too: whether a sampled limit is 0 must not change the program's structure."""
    explicit = UNROLL_EXPLICIT in notes
    step = notes.get(UNROLL_EXPLICIT if explicit else UNROLL_IMPLICIT)
    if step is None or is_spatial(sch.get(block)):
        return
    if annotation(sch.get(outermost), AUTO_UNROLL_MAX_STEP) is None:
        sch.annotate(outermost, AUTO_UNROLL_MAX_STEP, step)
        sch.annotate(outermost, UNROLL_IS_EXPLICIT, int(explicit))


# ----------------------------------------------------------------------------- parallel
def count_parallel(nest: list[Link], kinds: Mapping[Var, LoopKind], jobs: int) -> int:
    """How many of the loops (outermost first) fuse into one parallel loop: spatial ones, up to and
    with the first that makes the product larger than `jobs`, or that has several children."""
    count, product = 0, 1
    for loop in nest:
        f = loop.loop()
        n = const_int(f.extent)
        if n is None or not is_plain(f) or kinds[f.var] != "spatial":
            break
        count += 1
        product = n * product
        if product > jobs or type(f.body) is not For:
            break
    return count


def is_plain(f: For) -> bool:
    """Is the loop serial, from 0, and without annotation, so that it can be fused?"""
    return f.kind == "serial" and not f.annotations and is_literal(f.min, 0)


# ----------------------------------------------------------------------------- vectors
@dataclass(frozen=True)
class VectorPlan:
    """How a nest is vectorised.

    Attributes:
        fuse: how many of the innermost loops are fused into the vector; 0: no vector.
        width: None, or the extent of the vector that the fused loop is split into.
    """

    fuse: int
    width: int | None = None


NO_VECTOR = VectorPlan(0)


def plan_vector(
    block: Link,
    nest: list[Link],
    kinds: Mapping[Var, LoopKind],
    limit: int,
    packed: Collection[Buffer] = (),
) -> VectorPlan:
    """Choose the vector of a block: at most `limit` iterations of loops along which the block's
    stores touch neighbouring elements, and its loads neighbouring elements or a single one. Loads
    of what will be packed in the order of the loops do not matter."""
    usable = _chain(block, nest, kinds, "spatial")
    if not usable:
        return NO_VECTOR
    strides = strides_of(block.block(), packed, _extents(nest))
    if strides is None or not strides.is_unit(usable[0].var):
        return NO_VECTOR
    extent = const_int(usable[0].extent)
    assert extent is not None  # _chain takes no other
    whole = _whole_nest(usable, nest, strides, limit)
    if whole is not None:
        return whole
    if extent > limit:
        return VectorPlan(1, split_width(extent, limit))
    fuse = 1
    for inner, outer in pairwise(usable):
        n = const_int(outer.extent)
        assert n is not None
        if not strides.continues(outer.var, inner.var, extent) or extent * n > limit:
            break
        extent = extent * n
        fuse += 1
    return VectorPlan(fuse)


def combines_lanes(
    block: Link,
    nest: list[Link],
    kinds: Mapping[Var, LoopKind],
    limit: int,
    packed: Collection[Buffer] = (),
) -> bool:
    """Is the innermost loop the only one that reduces, with not too many iterations, each of which
    takes the next element, or the same?"""
    reducing = [x for x in nest if kinds[x.loop().var] != "spatial"]
    usable = _chain(block, nest, kinds, "reduce")
    if len(reducing) != 1 or len(usable) != 1:
        return False
    strides = strides_of(block.block(), packed)
    extent = const_int(usable[0].extent)
    assert extent is not None  # _chain takes no other
    return strides is not None and strides.gathers(usable[0].var) and extent <= _COMBINED * limit


def _extents(nest: list[Link]) -> dict[Var, int]:
    """Of the innermost loop, along which a vector may go."""
    f = nest[-1].loop()
    n = const_int(f.extent)
    return {} if n is None else {f.var: n}


def _chain(
    block: Link, nest: list[Link], kinds: Mapping[Var, LoopKind], kind: LoopKind
) -> list[For]:
    """The innermost loops, each the only child of the next, that are plain, constant, and feed one
    kind of iterator; innermost first."""
    out: list[For] = []
    node = block.node
    for loop in reversed(nest):
        f = loop.loop()
        if f.body is not node or const_int(f.extent) is None or not is_plain(f):
            break
        if kinds[f.var] != kind:
            break
        out.append(f)
        node = f
    return out


def _whole_nest(
    usable: list[For], nest: list[Link], strides: Strides, limit: int
) -> VectorPlan | None:
    """The plan that makes one loop of the nest and splits a vector off it, where the innermost loop
    alone would leave lanes empty and all loops together run through memory in one go."""
    if len(usable) != len(nest) or len(nest) < 2:
        return None
    extents = [const_int(f.extent) for f in usable]
    total = 1
    for n in extents:
        assert n is not None
        total *= n
    inner = extents[0]
    assert inner is not None
    width = split_width(inner, limit) if inner > limit else inner
    if total <= limit or (width % _LANES == 0 and inner % width == 0):
        return None
    run = 1
    for f, g in pairwise(usable):
        n = const_int(f.extent)
        assert n is not None
        run *= n
        if not strides.continues(g.var, usable[0].var, run):
            return None
    return VectorPlan(len(nest), split_width(total, limit))


def split_width(extent: int, limit: int) -> int:
    """Into vectors of which length is a loop longer than `limit` split? The longest that divides it
    and fills whole registers; else the longest of half registers; else `limit`, with a predicate on
    the last vector. (Looked up: of a sampled extent each comparison would be a guard.)"""
    multiple, widths = _widths(limit)
    common = extent.gcd(multiple) if type(extent) is Dim else gcd(extent, multiple)
    halves = common // _HALF * (1 - minimum(common % _HALF, 1))  # 0: they do not divide it
    return take(widths, halves)


@lru_cache(maxsize=64)
def _widths(limit: int) -> tuple[int, tuple[int, ...]]:
    """A number m, and the lengths of vectors for loops that have k * 8 as common divisor with m."""
    candidates = [m * _HALF << k for m in (1, 3, 5, 7) for k in range(7) if m * _HALF << k <= limit]
    candidates.sort(key=lambda w: (w % _LANES > 0, -w))
    multiple = lcm(_HALF, *candidates)
    return multiple, tuple(
        next((w for w in candidates if k and k * _HALF % w == 0), limit)
        for k in range(multiple // _HALF + 1)
    )
