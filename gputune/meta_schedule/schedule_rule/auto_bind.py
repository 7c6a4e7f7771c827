"""On which blocks and threads of a GPU does a loop nest run that no other rule has bound?
AutoBind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import UserError
from ..analysis import is_root
from ..binding import bind_to_threads
from ..kinds import target_of
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext


class AutoBind(ScheduleRule):
    """The outermost spatial loops of a block are fused and bound to blockIdx.x and threadIdx.x.

    Blocks that are bound already stay as they are; where inner loops are bound to threads, the
    outer ones are bound to blockIdx.x only; where no loop is spatial, the grid is a single block.

    Args:
        max_threadblocks: a grid has at most so many blocks (of the most threads that there can be);
            what is longer runs in rounds.
        thread_extents: threads of a block, from which one is sampled; those above the loop's extent
            and above the limit are left out. None or empty: as many as there can be.
        max_threads_per_block: the limit; -1: the target's.

    Raises:
        UserError: a count that is not positive.
    """

    def __init__(
        self,
        max_threadblocks: int = 256,
        thread_extents: Sequence[int] | None = None,
        max_threads_per_block: int = -1,
    ) -> None:
        self.max_threadblocks = max_threadblocks
        self.thread_extents = checked_extents(thread_extents)
        self.max_threads_per_block = max_threads_per_block
        if max_threadblocks < 1 or (max_threads_per_block < 1 and max_threads_per_block != -1):
            raise UserError(
                f"AutoBind: blocks and threads are counted from 1, found {max_threadblocks} blocks "
                f"and {max_threads_per_block} threads",
                hint="-1 threads are as many as the target allows",
                code="thread-extents",
            )
        self._limit = max_threads_per_block

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        self._limit = self.max_threads_per_block
        if target is not None and target.kind == "cuda":
            most = target.limits.threads_per_block
            self._limit = most if self._limit == -1 else min(self._limit, most)

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Bind the loops of the block, if it is one below the root block and this is a GPU."""
        link = sch.block(block)
        if self._limit == -1 or is_root(link) or not is_root(link.scope()):
            return [sch]

        def threads(most: int) -> ExprRV | int:
            fit = [n for n in self.thread_extents if n <= most]
            if len(fit) < 2:
                return fit[0] if fit else most
            return sch.sample_categorical(fit, [1 / len(fit)] * len(fit))

        bind_to_threads(sch, block, self.max_threadblocks, self._limit, threads)
        return [sch]


def checked_extents(extents: Sequence[int] | None) -> tuple[int, ...]:
    """Candidates for a number of threads.

    Raises:
        UserError: one is no positive integer.
    """
    out = tuple(extents or ())
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in out):
        raise UserError(
            f"thread extents are positive integers, found {list(out)}",
            hint="for example [32, 64, 128, 256]",
            code="thread-extents",
        )
    return out
