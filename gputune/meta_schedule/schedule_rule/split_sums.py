"""What keeps a GPU busy where few results are long sums of products? SplitSums."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ..analysis import loop_kinds, loop_links
from ..binding import bind_to_threads
from ..kinds import target_of
from .multi_level_tiling import MultiLevelTiling

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext

_LONG = 1024  # steps of a sum that is worth a second kernel
_TILE = 32 * 64  # results of a block of threads, about
_SMS = 108  # multiprocessors, where the target does not say
_BLOCKS, _THREADS = 256, 128  # of the kernel that adds the parts


class SplitSums(MultiLevelTiling):
    """MultiLevelTiling of a block whose longest reduction is cut into parts, each of which other
    blocks of the grid sum up: `rfactor`, with the parts along blockIdx.y. A second kernel adds
    them.

    For products of few results: where tiles of 32 x 64 of them would not give each multiprocessor
    a block, and a reduction has at least 1024 steps. The schedule as it is stays a candidate.

    Args:
        max_parts: of a sum; how many is sampled, among its divisors.
        settings: those of MultiLevelTiling.
    """

    def __init__(self, max_parts: int = 32, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # checked there
        self.max_parts = max_parts
        self.few = _SMS * _TILE

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        super()._initialize_with_tune_context(context)
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.few = (target.limits.sms or _SMS) * _TILE

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and its tilings in parts where that suits the block."""
        if not self._is_wanted(sch, block):
            return [sch]
        at = self._long_sum(sch, block)
        if at is None:
            return [sch]
        new = sch.copy()
        try:
            part = self._in_parts(new, block, at)
        except ScheduleError:  # a combiner that is not known, say: nothing to offer
            return [sch]
        return [sch, *self._tilings(new, part)]

    def _long_sum(self, sch: Schedule, block: BlockRV) -> int | None:
        """The place of the longest reduction loop among the loops, if it should be cut."""
        nest = loop_links(sch.block(block))
        kinds = list(loop_kinds(nest).values())
        extents = [int(const_int(x.loop().extent) or 1) for x in nest]
        if any(k == "mixed" for k in kinds) or any(x.loop().thread is not None for x in nest):
            return None
        if prod(n for n, k in zip(extents, kinds, strict=True) if k == "spatial") > self.few:
            return None
        longest = max(
            (k for k in range(len(nest)) if kinds[k] == "reduce"), key=extents.__getitem__
        )
        return longest if extents[longest] >= _LONG else None

    def _in_parts(self, sch: Schedule, block: BlockRV, at: int) -> BlockRV:
        """The block that sums up the parts, its loop over them bound to the grid."""
        loop = sch.get_loops(block)[at]
        steps, parts = sch.sample_perfect_tile(loop, 2, self.max_parts)
        outer, _ = sch.split(loop, [parts, steps])
        part = sch.rfactor(outer, 0)
        loops = sch.get_loops(part)
        if at:
            sch.reorder(loops[at], *loops[:at])
        sch.bind(loops[at], "blockIdx.y")
        bind_to_threads(sch, block, _BLOCKS, _THREADS, lambda most: min(most, _THREADS))
        return part
