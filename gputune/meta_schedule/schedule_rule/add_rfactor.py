"""Can a reduction be made wider by computing partial results? AddRFactor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ..analysis import RANDOM_COMPUTE_PRODUCER, is_root, loop_kinds, loop_links, needs_rfactor
from ..kinds import target_of
from .multi_level_tiling import tiles_divide
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
    from ..tune_context import TuneContext


class AddRFactor(ScheduleRule):
    """A reduction that leaves cores or lanes idle is also offered in two factored forms.

    The reduction loops are fused into one, which is split in two by sampled factors; either part
    becomes an axis of partial results. The unchanged schedule is offered too.

    Args:
        max_jobs_per_core: a tileable reduction with more spatial points than this times the number
            of cores is wide enough.
        max_innermost_factor: of the sampled split; None: no limit.
        must_divide: the factors divide the reduction; see MultiLevelTiling.
    """

    def __init__(
        self,
        max_jobs_per_core: int = 16,
        max_innermost_factor: int | None = None,
        must_divide: bool | None = True,
    ) -> None:
        self.max_jobs_per_core = max_jobs_per_core
        self.max_innermost_factor = max_innermost_factor
        self.must_divide = must_divide
        self.num_cores = 1

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None:
            self.num_cores = target.num_cores

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the factored ones if the block needs them."""
        link = sch.block(block)
        if is_root(link) or not needs_rfactor(sch, link, self.max_jobs_per_core * self.num_cores):
            return [sch]
        out = [sch]
        factored = sch.copy()
        try:
            fused, num_spatial = fuse_reduction(factored, block)
        except ScheduleError:  # loops that cannot be reordered or fused: nothing to offer
            return out
        extent = int(factored.get(fused).extent.value)
        divide = tiles_divide(extent, self.must_divide)
        sample = factored.sample_perfect_tile if divide else factored.sample_tile
        factors = sample(fused, 2, self.max_innermost_factor or extent)
        for loop in factored.split(fused, list(factors)):
            variant = factored.copy()
            ndim = len(variant.get(block).writes[0].buffer.shape)
            try:
                variant.rfactor(loop, min(num_spatial, ndim))
            except ScheduleError:  # a combiner that is not known, say: this variant does not exist
                continue
            variant.annotate(block, RANDOM_COMPUTE_PRODUCER, 1)
            out.append(variant)
        return out


def fuse_reduction(sch: Schedule, block: BlockRV) -> tuple[LoopRV, int]:
    """Spatial loops outside, reduction loops inside and fused; also how many are spatial."""
    kinds = list(loop_kinds(loop_links(sch.block(block))).values())
    loops = sch.get_loops(block)
    spatial = [x for x, k in zip(loops, kinds, strict=True) if k == "spatial"]
    reduce = [x for x, k in zip(loops, kinds, strict=True) if k == "reduce"]
    if spatial + reduce != loops:
        sch.reorder(*spatial, *reduce)
    return (sch.fuse(*reduce) if len(reduce) > 1 else reduce[0]), len(spatial)
