"""Can all of a GPU work on a few long reductions? TwoLevelReduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ...errors import ScheduleError, UserError
from ...ir.build import const_int
from ...ir.dtypes import itemsize
from ...ir.nodes import For
from ...schedule.analysis import consumers, is_output
from ...schedule.recognise import Reduction, reduction_of
from ...schedule.tree import Link
from ..analysis import (
    is_root,
    is_spatial,
    loop_kinds,
    loop_links,
    needs_multi_level_tiling,
    needs_rfactor,
)
from ..kinds import target_of
from ..row_chains import has_own_nest
from ..rows_on_threads import (
    VECTOR_BYTES,
    Choices,
    can_be_shared,
    column_of,
    drawn,
    fetches,
    fused,
    limit_unrolling,
    part_of,
    runs_along,
    spread,
)
from ..strides import strides_of
from .auto_bind import checked_extents
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ...target.gpu import GpuLimits
    from ..tune_context import TuneContext

_SMS = 128
"""Multiprocessors of a GPU that does not say how many it has."""
_BUSY = 4
"""Blocks for each multiprocessor with which one level is enough."""
_MOST = 32
"""Blocks for each multiprocessor: more parts would only be more work for the second level."""
_LEAST = 64
"""Elements of a part."""
_COLUMNS = (32, 64, 128)
"""Columns of a block of threads, for each of which a thread reads neighbours of the others."""


class TwoLevelReduction(ScheduleRule):
    """A reduction with few results is also offered in two kernels: blocks of threads reduce a part
    each, of a sampled number of parts, into a workspace; then one block for each result, or for a
    few, reduces the parts.

    It applies where blocks of a result each would leave the GPU idle: to reductions of a whole
    tensor, of a few long rows, of columns (whose neighbours are read together), if no further
    reduction takes the results. What is computed of the results, element by element, is done by the
    second kernel. The unchanged schedule is offered too.

    Args:
        part_counts: numbers of parts, from which one is drawn.
        thread_extents: numbers of threads that share a part; for columns, the rows that they read
            at once are as many as there is room for.
        vector_lens: elements that are accessed at once, see PersistentRows.
        min_elements: of what is reduced in all; less is not worth a second kernel.

    Raises:
        UserError: no candidates, or one that is not positive.
    """

    def __init__(
        self,
        part_counts: Sequence[int] = (4, 8, 16, 32, 64, 128, 256, 512, 1024),
        thread_extents: Sequence[int] = (64, 128, 256, 512, 1024),
        vector_lens: Sequence[int] = (1, 2, 4, 8, 16),
        min_elements: int = 1 << 16,
    ) -> None:
        self.min_elements = min_elements
        self.part_counts = checked_extents(part_counts)
        self.thread_extents = checked_extents(thread_extents)
        self.vector_lens = checked_extents(vector_lens)
        if not (self.part_counts and self.thread_extents and self.vector_lens):
            raise UserError(
                "TwoLevelReduction: there are no parts, threads or widths to choose from",
                hint="for example part_counts=[64, 256], thread_extents=[128, 256], "
                "vector_lens=[1, 2, 4]",
                code="thread-extents",
            )
        self.limits: GpuLimits | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        self.limits = target.limits if target is not None and target.kind == "cuda" else None

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the one with two kernels if the reduction needs them."""
        link = sch.block(block)
        if self.limits is None or is_root(link) or not is_root(link.scope()):
            return [sch]
        if not needs_rfactor(sch, link, self.limits.threads_per_block):
            return [sch]
        if needs_multi_level_tiling(sch, link) or not can_be_shared(link):
            return [sch]
        plan = self._plan(sch, link, self.limits)
        if plan is None or not _is_last(sch, link):
            return [sch]
        made = sch.copy()
        try:
            _apply(made, block, plan)
        except ScheduleError:  # loops that cannot be moved, fused or bound like that
            return [sch]
        return [sch, made]

    def _plan(self, sch: Schedule, link: Link, limits: GpuLimits) -> _Plan | None:
        """What to do, and what to draw from; None where one level is enough."""
        nest = [x.loop() for x in loop_links(link)]
        kinds = loop_kinds(loop_links(link))
        over = [k for k, f in enumerate(nest) if kinds[f.var] == "spatial"]
        along = [k for k, f in enumerate(nest) if kinds[f.var] == "reduce"]
        strides = strides_of(link.block())
        if strides is None:
            return None
        column = column_of(strides, nest, over, along[-1])
        if column is not None:
            over = [*(k for k in over if k != column), column]
        results, length = (prod(_extent(nest[k]) for k in ks) for ks in (over, along))
        sms = limits.sms or _SMS
        wide = results if column is None else -(-results // _COLUMNS[0])
        if wide >= _BUSY * sms or results * length < self.min_elements:
            return None
        counts = [n for n in self.part_counts if n * wide <= _MOST * sms and n * _LEAST <= length]
        if not counts:
            return None
        threads = [n for n in self.thread_extents if n <= limits.threads_per_block]
        sizes = [itemsize(r.buffer.dtype) for r in link.block().reads]
        most = VECTOR_BYTES // max(sizes, default=VECTOR_BYTES)
        last = _extent(nest[along[-1]])
        widths = [n for n in self.vector_lens if n <= most and last % n == 0]
        if column is not None or not runs_along(strides, nest[along[-1]]):
            widths = [1]
        # vectors are fetched where it is plain that each part consists of them
        exact = [n for n in counts if (length // max(widths)) % n == 0] if widths else []
        return _Plan(
            tuple(over),
            tuple(along),
            column is not None,
            tuple(exact or counts),
            tuple(widths) if exact else (1,),
            tuple(threads or [limits.threads_per_block]),
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a reduction is done in two kernels.

    Attributes:
        over, along: places of its loops, in their new order: of the results, and of the reduction.
        columns: do neighbouring results read neighbours in memory?
        counts, widths, threads: what is drawn from.
    """

    over: tuple[int, ...]
    along: tuple[int, ...]
    columns: bool
    counts: tuple[int, ...]
    widths: tuple[int, ...]
    threads: tuple[int, ...]


def _extent(f: For) -> int:
    n = const_int(f.extent)
    assert n is not None  # needs_rfactor has looked
    return int(n)


def _is_last(sch: Schedule, link: Link) -> bool:
    """Does nothing reduce the results any further?"""
    todo, seen = [link], set()
    while todo:
        for user in consumers(todo.pop(), sch):
            if not is_spatial(user.block()):
                return False
            if user.block().key not in seen:
                seen.add(user.block().key)
                todo.append(user)
    return True


# ----------------------------------------------------------------------------- the two kernels
def _apply(sch: Schedule, block: BlockRV, plan: _Plan) -> None:
    loops = sch.get_loops(block)
    over, along = [loops[k] for k in plan.over], [loops[k] for k in plan.along]
    if [*over, *along] != loops:
        sch.reorder(*over, *along)
    vector = None
    if plan.widths != (1,):
        last, vector = sch.split(along[-1], [None, drawn(sch, plan.widths)])
        along[-1] = last
    part, _ = sch.split(fused(sch, along), [drawn(sch, plan.counts), None])
    axis = 0 if plan.columns else len(sch.get(block).writes[0].buffer.shape)
    first = sch.rfactor(part, axis)
    (_columns if plan.columns else _rows)(sch, first, plan, vector is not None)
    found = reduction_of(sch.get(block))
    if isinstance(found, Reduction) and found.reducer.commutative:
        _second(sch, block, plan)  # else the parts are taken in their order, by a thread a result


def _rows(sch: Schedule, first: BlockRV, plan: _Plan, vectors: bool) -> None:
    """A block of threads for each part of each result."""
    loops = sch.get_loops(first)
    over, (along, *vector) = loops[: len(plan.over) + 1], loops[len(plan.over) + 1 :]
    if vectors:
        made = [w.buffer for w in sch.get(first).writes]
        read = dict.fromkeys([r.buffer for r in sch.get(first).reads])
        for copy in list(fetches(sch, first, [b for b in read if b not in made and b.shape])):
            sch.compute_at(copy, along, preserve_unit_loops=True)
            sch.vectorize(sch.get_loops(copy)[-1])
        sch.unroll(vector[0])
    _, thread = sch.split(along, [None, drawn(sch, plan.threads)])
    sch.bind(thread, "threadIdx.x")
    grid = fused(sch, over)
    sch.bind(grid, "blockIdx.x")
    limit_unrolling(sch, grid)


def _columns(sch: Schedule, first: BlockRV, plan: _Plan, vectors: bool) -> None:
    """A block of threads for each part of some neighbouring results; several rows at once."""
    *outer, column, part, along = sch.get_loops(first)
    sch.reorder(part, *outer, column)
    most = max(plan.threads)
    columns = [n for n in _COLUMNS if n <= most] or [most]
    rows = [n for n in (4, 8, 16, 32) if n * columns[0] <= most] or [1]
    grid, lane = sch.split(column, [None, drawn(sch, columns)])
    _, row = sch.split(along, [None, drawn(sch, rows)])
    sch.bind(row, "threadIdx.y")
    sch.bind(lane, "threadIdx.x")
    grid = fused(sch, [part, *outer, grid])
    sch.bind(grid, "blockIdx.x")
    limit_unrolling(sch, grid)


def _second(sch: Schedule, block: BlockRV, plan: _Plan) -> None:
    """The parts of a result become one, and what follows is done."""
    end = _with_consumer(sch, block)
    depth = len(sch.get_loops(end)) if end is not block else len(plan.over)
    if not depth:
        sch.add_unit_loop(sch.get_loops(block)[0])
        depth = 1
    parts = [p for p in (part_of(sch, b, depth) for b in dict.fromkeys((block, end))) if p]
    most = max(plan.threads)
    if plan.columns:
        rows = tuple([n for n in _COLUMNS if n <= most])
        threads = tuple([n for n in (1, 4, 8, 16) if n * _COLUMNS[0] <= most])
        spread(sch, parts, depth, {}, Choices(threads or (1,), rows or (most,), (1,)), across=True)
    else:
        threads = tuple([n for n in (32, 64, 128, 256) if n <= most])
        spread(sch, parts, depth, {}, Choices(threads or (most,), (1,), (1,)))


def _with_consumer(sch: Schedule, block: BlockRV) -> BlockRV:
    """The one block that takes the results on, with the reduction moved under all of its loops;
    else the reduction itself."""
    link = sch.block(block)
    users = consumers(link, sch)
    if len(users) != 1 or is_output(link, sch) or not has_own_nest(users[0]):
        return block
    func = sch.func_of(link.block().key)
    user = sch.get_block(users[0].block().name, func)
    trial = sch.copy()
    try:
        trial.compute_at(block, trial.get_loops(user)[-1])
    except ScheduleError:  # it needs several results at once
        return block
    along = trial.get_loops(block)[len(trial.get_loops(user)) :]
    if len(along) != 1:  # and so it does here
        return block
    for k in range(len(sch.get(block).writes)):
        sch.set_scope(block, k, "local")
    sch.compute_at(block, sch.get_loops(user)[-1])
    return user
