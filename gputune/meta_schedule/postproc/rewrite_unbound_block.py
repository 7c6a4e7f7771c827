"""What runs on a GPU's threads that no rule has bound? RewriteUnboundBlock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UserError
from ..binding import bind_to_threads, unbound_blocks
from ..kinds import target_of
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..tune_context import TuneContext

_THREADS = 1024  # of a block, on every device


class RewriteUnboundBlock(Postproc):
    """Binds the spatial loops of every block that is not part of a kernel yet.

    The fused loop is split over blockIdx.x and as many threads as a block can have; one of more
    than `max_threadblocks` times that runs in rounds.

    Args:
        max_threadblocks: the most blocks of a grid of full blocks.

    Raises:
        UserError: it is not positive.
    """

    def __init__(self, max_threadblocks: int = 256) -> None:
        if max_threadblocks < 1:
            raise UserError(
                "RewriteUnboundBlock: max_threadblocks is a count from 1, found "
                f"{max_threadblocks}",
                code="thread-extents",
            )
        self.max_threadblocks = max_threadblocks
        self.max_threads = _THREADS

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.max_threads = target.limits.threads_per_block

    def apply(self, sch: Schedule) -> bool:
        """Bind what is unbound in every function."""
        for name in list(sch.mod.functions):
            for block in unbound_blocks(sch, name):
                rv = sch.get_block(block.name, name)
                bind_to_threads(sch, rv, self.max_threadblocks, self.max_threads, lambda n: n)
        return True
