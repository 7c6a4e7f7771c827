"""How much parallelism, vectorisation and unrolling may postprocessing use?
ParallelizeVectorizeUnroll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.walk import blocks
from ...schedule.tree import Link
from ..analysis import (
    AUTO_UNROLL_MAX_STEP,
    PARALLEL,
    UNROLL_EXPLICIT,
    UNROLL_IMPLICIT,
    VECTORIZE,
    annotation,
    is_root,
    is_spatial,
    is_spatial_program,
    loop_links,
)
from ..kinds import target_of
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext


class ParallelizeVectorizeUnroll(ScheduleRule):
    """Notes on the root block what RewriteParallelVectorizeUnroll shall do.

    Args:
        max_jobs_per_core: parallel loops have up to about this many iterations a core; -1: none.
        max_vectorize_extent: vectorised loops have up to this many iterations; -1: none.
        unroll_max_steps: candidates for the number of statements that unrolling may make, from
            which one is sampled; None or empty: no unrolling.
        unroll_explicit: unroll in the generated program rather than ask the compiler to (LLVM, or
            NVRTC by `#pragma unroll`).
    """

    def __init__(
        self,
        max_jobs_per_core: int = 16,
        max_vectorize_extent: int = 16,
        unroll_max_steps: Sequence[int] | None = None,
        unroll_explicit: bool = True,
    ) -> None:
        self.max_jobs_per_core = max_jobs_per_core
        self.max_vectorize_extent = max_vectorize_extent
        self.unroll_max_steps = list(unroll_max_steps or ())
        self.unroll_explicit = unroll_explicit
        self.num_cores = 1

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None:
            self.num_cores = target.num_cores

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """Annotate the block if it is the root block."""
        link = sch.block(block)
        if not is_root(link):
            return [sch]
        if self.max_jobs_per_core != -1:
            sch.annotate(block, PARALLEL, self.max_jobs_per_core * self.num_cores)
        if self.max_vectorize_extent != -1:
            sch.annotate(block, VECTORIZE, self.max_vectorize_extent)
        spatial = is_spatial_program(sch, link)
        if self.unroll_max_steps and not spatial and not _is_decided(sch, link):
            n = len(self.unroll_max_steps)
            step = sch.sample_categorical(self.unroll_max_steps, [1 / n] * n)
            sch.annotate(block, UNROLL_EXPLICIT if self.unroll_explicit else UNROLL_IMPLICIT, step)
        return [sch]


def _is_decided(sch: Schedule, root: Link) -> bool:
    """Has another rule decided about unrolling in every nest with a reduction?"""
    for x in sch.tree(sch.func_of(root.block().key)).blocks[root.block().key]:
        nest = loop_links(x)
        limited = nest and annotation(nest[0].loop(), AUTO_UNROLL_MAX_STEP) is not None
        if not limited and not all(is_spatial(b) for b in (x.block(), *blocks(x.block().body))):
            return False
    return True
