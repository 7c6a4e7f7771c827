"""Can the threads of a GPU block share a reduction? CrossThreadReduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...errors import ScheduleError, UserError
from ...ir.build import const_int
from ...ir.nodes import For
from ...schedule.analysis import consumers, is_output
from ...schedule.combine import any_order
from ...schedule.recognise import Reduction, reduction_of
from ...schedule.tree import Link
from ..analysis import is_gone, is_root, is_spatial, loop_kinds, loop_links, needs_rfactor
from ..kinds import target_of
from .add_rfactor import fuse_reduction
from .auto_bind import checked_extents
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext

_THREADS = "threadIdx.x"


class CrossThreadReduction(ScheduleRule):
    """A reduction is also offered with its (fused) reduction loop shared by the threads of a block.

    It applies to what does not suit tiles: reductions without data reuse, or with few results and
    many terms. Where the consumers of the result have a loop in common (or there is one consumer),
    the reduction moves there, with the result in shared memory, so that all of them are one kernel;
    its threads are then the consumers' threads.

    Args:
        thread_extents: numbers of threads, from which one is sampled.

    Raises:
        UserError: no candidates, or one that is not positive.
    """

    def __init__(self, thread_extents: Sequence[int]) -> None:
        self.thread_extents = checked_extents(thread_extents)
        if not self.thread_extents:
            raise UserError(
                "CrossThreadReduction: there are no thread extents to choose from",
                hint="for example [4, 8, 16, 32, 64, 128, 256, 512]",
                code="thread-extents",
            )
        self.max_threads = 0

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.max_threads = target.limits.threads_per_block

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the one with the reduction shared out if the block allows it."""
        link = sch.block(block)
        if not self.max_threads or is_root(link) or not is_root(link.scope()):
            return [sch]
        found = reduction_of(link.block())
        if not isinstance(found, Reduction) or not needs_rfactor(sch, link, self.max_threads):
            return [sch]
        if any_order(link.block(), link.loops(), found) is None:
            return [sch]
        place = _place(sch, link)
        for where in (place, None) if place is not None else (None,):
            shared = sch.copy()
            try:
                self._share(shared, block, where)
            except ScheduleError:  # loops that cannot be moved or fused there
                continue
            return [sch, shared]
        return [sch]

    def _share(self, sch: Schedule, block: BlockRV, place: _Place | None) -> None:
        """Share the reduction out among threads: new ones, or those that its consumers have."""
        if place is None:
            self._split(sch, block, self._sampled(sch))
            return
        threads = None if place.threads is None else _threads_of(sch, place.threads)
        if threads is None:
            threads = self._sampled(sch)
        consumer = sch.get_consumers(block)[0]
        loops = sch.get_loops(consumer)
        at = loops[place.depth]
        if place.threads is None:
            outer, inner = sch.split(loops[-1], [None, threads])
            sch.bind(inner, _THREADS)
            at = outer if place.depth == len(loops) - 1 else at
        sch.compute_at(block, at, preserve_unit_loops=True)
        for k in range(len(sch.get(block).writes)):
            sch.set_scope(block, k, "shared")
        self._split(sch, block, threads)

    def _sampled(self, sch: Schedule) -> ExprRV | int:
        fit = [n for n in self.thread_extents if n <= self.max_threads]
        if len(fit) < 2:
            return fit[0] if fit else self.max_threads
        return sch.sample_categorical(fit, [1 / len(fit)] * len(fit))

    def _split(self, sch: Schedule, block: BlockRV, threads: ExprRV | int) -> None:
        fused, _ = fuse_reduction(sch, block)
        _, inner = sch.split(fused, [None, threads])
        sch.bind(inner, _THREADS)


class _Place(NamedTuple):
    """Where a reduction can be computed so that its consumers are in the same kernel.

    depth: number of the loop, among those of its first consumer; threads: the consumers' loop over
    threads, None where the (only) consumer has none yet.
    """

    depth: int
    threads: For | None


def _place(sch: Schedule, link: Link) -> _Place | None:
    """The place, or None: the result is the function's, or its consumers have no loop in common."""
    users = consumers(link, sch)
    if not users or is_output(link, sch):
        return None
    common: list[For] = []
    for level in zip(*[loop_links(u) for u in users], strict=False):
        f = level[0].loop()
        if any(x.node is not f for x in level) or f.kind != "serial":
            break
        kinds = [loop_kinds(loop_links(u), [u])[f.var] for u in users]
        if any(k != "spatial" for k in kinds):
            break
        common.append(f)
    own = [k == "spatial" for k in loop_kinds(loop_links(link)).values()]
    outer = own.index(False) if False in own else len(own)
    depth = min(len(common), outer) - 1
    if depth < 0:
        return None
    bound = [_thread_loop(u) for u in users]
    if all(f is not None for f in bound):
        return _Place(depth, bound[0])
    if len(users) == 1 and is_spatial(users[0].block()):
        return _Place(depth, None)
    return None


def _thread_loop(link: Link) -> For | None:
    """The loop above a block that is bound to threadIdx.x."""
    return next((f for f in link.loops() if f.thread == _THREADS), None)


def _threads_of(sch: Schedule, loop: For) -> ExprRV | int | None:
    """The number of threads of a loop, as it was sampled; else its extent, None if that is not
    constant."""
    for inst in reversed(sch.trace.insts):
        if inst.kind.name != "Split":
            continue
        for made, factor in zip(inst.outputs, inst.inputs[1:], strict=True):
            if factor is not None and not is_gone(sch, made) and sch.get(made).var is loop.var:
                threads: ExprRV | int = factor
                return threads
    return const_int(loop.extent)
