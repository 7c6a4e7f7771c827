"""How do the threads of a GPU share rows? What the rules for rows and reductions have in common.

A thread takes elements of a row that lie `threads` vectors apart, so that neighbours read
neighbours; what all of a row's threads need, such as its sum, each of them gets. Blocks of threads
take one row or several. Where neighbouring elements belong to neighbouring rows (reductions over an
outer axis), rows and elements change places: threads along x take a row each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..ir.affine import linear
from ..ir.build import const_int
from ..ir.dtypes import itemsize
from ..ir.nodes import Buffer, BufferRegion, Expr, For, Var
from ..ir.walk import free_vars
from ..schedule.combine import any_order
from ..schedule.recognise import Reduction, reduction_of
from ..schedule.tree import Link
from .analysis import AUTO_UNROLL_MAX_STEP, is_spatial, loop_links
from .row_chains import extents_of
from .strides import Strides

if TYPE_CHECKING:
    from ..schedule import BlockRV, LoopRV, Schedule
    from ..schedule.handles import ExprRV

Way: TypeAlias = Literal["row", "place", "other"]

VECTOR_BYTES = 16
"""The widest access of a thread."""
UNROLLED = (16, 64, 256)
"""Statements that are written out, at most."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What is drawn.

    Attributes:
        threads: that share a row.
        rows: that a block of threads has at once.
        widths: elements that a thread accesses at once; (1,): no vectors are made.
    """

    threads: tuple[int, ...]
    rows: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A block under the loops over rows.

    Attributes:
        block: its handle.
        elements: its iterators that go along the row, outermost first; none: it is about the row as
            a whole.
        reduces: does it reduce the row?
        moves: does it only move elements, or store the result: does its innermost loop become a
            vector?
    """

    block: BlockRV
    elements: tuple[Var, ...]
    reduces: bool
    moves: bool = False


def drawn(sch: Schedule, candidates: Sequence[int]) -> ExprRV | int:
    """One of some numbers, all as likely; the only one is not drawn."""
    if len(candidates) == 1:
        return candidates[0]
    return sch.sample_categorical(list(candidates), [1 / len(candidates)] * len(candidates))


def can_be_shared(link: Link) -> bool:
    """Is it a reduction that threads can share?"""
    found = reduction_of(link.block())
    return isinstance(found, Reduction) and any_order(link.block(), link.loops(), found) is not None


def runs_along(strides: Strides, loop: For) -> bool:
    """Does each load move by one element along a loop, or not at all, and one of them move?"""
    steps = [strides.step(a, loop.var) for a in strides.accesses if not a.is_store]
    return any(s == 1 for s in steps) and all(s in (0, 1) for s in steps)


def column_of(strides: Strides, nest: Sequence[For], over: Sequence[int], last: int) -> int | None:
    """The place of the loop whose iterations are neighbours in memory, where that is one over
    results, and not the last loop of the reduction.

    Args:
        nest: all loops of a reduction.
        over: the places of those over results.
        last: the place of the innermost one that reduces.
    """
    if runs_along(strides, nest[last]) and const_int(nest[last].extent) != 1:
        return None
    for k in reversed(over):
        if const_int(nest[k].extent) != 1 and runs_along(strides, nest[k]):
            return k
    return None


# ----------------------------------------------------------------------------- what goes along rows
def part_of(sch: Schedule, rv: BlockRV, depth: int, moves: bool = False) -> Part | None:
    """A block under `depth` loops over rows; None where its other loops are not an iterator
    each."""
    link = sch.block(rv)
    block = link.block()
    bound = {_alone(v): iv.var for iv, v in zip(block.iter_vars, block.iter_values, strict=True)}
    inner = [x.loop() for x in loop_links(link)[depth:]]
    if any(f.var not in bound for f in inner):
        return None
    elements = tuple([bound[f.var] for f in inner if const_int(f.extent) != 1])
    return Part(rv, elements, not is_spatial(block), moves)


def way_of(region: BufferRegion, elements: Sequence[Var]) -> Way:
    """How an access goes with the elements of a row: one of it for each of them, in their order
    ("row"), the same for all of them ("place"), or in another way."""
    seen: list[Var] = []
    for r in region.region:
        if not free_vars(r.min) & set(elements):
            if const_int(r.extent) != 1:
                return "other"
            continue
        if type(r.min) is not Var or const_int(r.extent) != 1:
            return "other"
        seen.append(r.min)
    if not seen:
        return "place"
    return "row" if seen == list(elements) else "other"


def made_by(sch: Schedule, parts: Sequence[Part]) -> set[Buffer]:
    """What the parts write."""
    return {w.buffer for p in parts for w in sch.get(p.block).writes}


def read_along(sch: Schedule, parts: Sequence[Part]) -> dict[Buffer, list[Part]]:
    """The buffers in global memory that come from outside and of which parts read a row, element by
    element; with those parts."""
    made = made_by(sch, parts)
    out: dict[Buffer, list[Part]] = {}
    for p in parts:
        ways: dict[Buffer, set[Way]] = {}
        for r in sch.get(p.block).reads:
            ways.setdefault(r.buffer, set()).add(way_of(r, p.elements))
        for buffer, found in ways.items():
            if found == {"row"} and buffer not in made and buffer.scope == "global":
                out.setdefault(buffer, []).append(p)
    return out


def in_step(sch: Schedule, parts: Sequence[Part]) -> bool:
    """Does each part that reads an element of a row which another part wrote read the one that the
    same thread wrote?"""
    made = made_by(sch, [p for p in parts if p.elements and not p.reduces])
    return all(
        way_of(r, p.elements) == "row"
        for p in parts
        for r in (*sch.get(p.block).reads, *sch.get(p.block).writes)
        if r.buffer in made
    )


def lies_across(sch: Schedule, parts: Sequence[Part], row: Var) -> bool:
    """Do neighbours in memory belong to neighbouring rows, and not to one row?

    Args:
        row: the innermost loop over rows.
    """
    across = False
    for p in parts:
        link = sch.block(p.block)
        block = link.block()
        bound = {iv.var: v for iv, v in zip(block.iter_vars, block.iter_values, strict=True)}
        for r in block.reads:
            if r.buffer.scope != "global" or way_of(r, p.elements) != "row":
                continue
            last = r.region[-1].min
            if last is p.elements[-1] and len(r.region) > 1:
                return False
            across = across or (type(last) is Var and _alone(bound.get(last, last)) is row)
    return across


def _alone(e: Expr) -> Var | None:
    """The variable that an expression is, if it is one."""
    terms, start = linear(e)
    (atom,) = terms if len(terms) == 1 else (None,)
    return atom if type(atom) is Var and terms[atom] == 1 and start == 0 else None


def widths_of(
    sch: Schedule, parts: Sequence[Part], candidates: Sequence[int], length: int
) -> tuple[int, ...]:
    """How many elements a thread may access at once: as fit 16 bytes, and as divide the innermost
    extent of a row."""
    sizes = [
        itemsize(r.buffer.dtype)
        for p in parts
        for r in (*sch.get(p.block).reads, *sch.get(p.block).writes)
        if r.buffer.scope == "global" and way_of(r, p.elements) == "row"
    ]
    most = VECTOR_BYTES // max(sizes, default=VECTOR_BYTES)
    return tuple([n for n in candidates if n <= most and length % n == 0]) or (1,)


# ----------------------------------------------------------------------------- loops and threads
def spread(
    sch: Schedule,
    parts: Sequence[Part],
    depth: int,
    fetched: Mapping[BlockRV, Collection[Buffer]],
    choices: Choices,
    *,
    across: bool = False,
    unrolled: bool = False,
) -> None:
    """Bind the loops of a chain: those over rows, of which all parts are under the same, to
    blockIdx.x and one axis of threads, those along rows to another.

    Args:
        parts: all blocks under the loops over rows.
        depth: how many loops go over rows.
        fetched: of which buffers a part fetches a vector at a time into registers.
        choices: to draw from.
        across: neighbours in memory are of neighbouring rows.
        unrolled: are the loops along rows written out? (What is kept in registers must be.)

    Raises:
        ScheduleError: the program does not allow it.
    """
    along, over = ("threadIdx.y", "threadIdx.x") if across else ("threadIdx.x", "threadIdx.y")
    width = None if choices.widths == (1,) else drawn(sch, choices.widths)
    threads, rows = drawn(sch, choices.threads), drawn(sch, choices.rows)
    for p in parts:
        if p.elements:
            _share(sch, p, depth, fetched.get(p.block, ()), width, threads, along, unrolled)
    loops = sch.get_loops(parts[0].block)[:depth]
    grid, row = sch.split(fused(sch, loops), [None, rows])
    sch.bind(grid, "blockIdx.x")
    sch.bind(row, over)
    limit_unrolling(sch, grid, (0,) if unrolled else UNROLLED)


def limit_unrolling(sch: Schedule, grid: LoopRV, candidates: Sequence[int] = UNROLLED) -> None:
    """Say up to how many statements loops are written out in a kernel, which then is not drawn for
    the program as a whole. (Of loads that are written out by the hundred the compiler starts more
    than there are registers for.)"""
    sch.annotate(grid, AUTO_UNROLL_MAX_STEP, drawn(sch, candidates))


def _share(
    sch: Schedule,
    p: Part,
    depth: int,
    fetched: Collection[Buffer],
    width: ExprRV | int | None,
    threads: ExprRV | int,
    axis: str,
    unrolled: bool,
) -> None:
    """Share the loops of one part that go along rows."""
    *outer, last = sch.get_loops(p.block)[depth:]
    vector = None
    if width is not None:
        last, vector = sch.split(last, [None, width])
        for copy in list(fetches(sch, p.block, fetched)):
            sch.compute_at(copy, last, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(copy)[-1])
    steps, thread = sch.split(fused(sch, [*outer, last]), [None, threads])
    sch.bind(thread, axis)
    if vector is not None:
        (sch.vectorize if p.moves else sch.unroll)(vector)
    if unrolled:
        sch.unroll(steps)


def fetches(sch: Schedule, reader: BlockRV, buffers: Collection[Buffer]) -> Iterator[BlockRV]:
    """Copies of what a block reads, into registers and for it alone."""
    for buffer in buffers:
        k = next(k for k, r in enumerate(sch.get(reader).reads) if r.buffer is buffer)
        yield sch.cache_read(reader, k, "local", [reader])


def fused(sch: Schedule, loops: Sequence[LoopRV]) -> LoopRV:
    """One loop for some."""
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def lengths_of(sch: Schedule, p: Part, depth: int) -> list[int]:
    """How long the loops are that go along rows, without those of one step."""
    return [n for n in extents_of(sch, sch.get_loops(p.block)[depth:]) if n != 1]
