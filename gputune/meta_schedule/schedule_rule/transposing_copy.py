"""In which order is data turned, that is written along other loops than it is read? By tiles:
TransposingCopy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.build import const_int
from ...schedule.analysis import is_trivial_binding, kind_of
from ..analysis import is_root, is_single_chain, is_spatial, loop_links
from ..strides import Strides, strides_of
from .multi_level_tiling import MultiLevelTiling

if TYPE_CHECKING:
    from ...ir.nodes import For
    from ...schedule import BlockRV, Schedule
    from ...schedule.tree import Link


class TransposingCopy(MultiLevelTiling):
    """A block that stores along one loop and loads along another is also offered in tiles: "SS".

    Transposed tensors: row by row, each element read is in another cache line, which is gone when
    its neighbours are wanted. The unchanged schedule, which other rules may move to where the data
    is used, is offered too.

    Args:
        max_innermost_factor, must_divide: see MultiLevelTiling.
    """

    def __init__(
        self, max_innermost_factor: int | None = None, must_divide: bool | None = True
    ) -> None:
        super().__init__("SS", max_innermost_factor=max_innermost_factor, must_divide=must_divide)

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the tiled one where that suits the block."""
        if not self._is_wanted(sch, block):
            return [sch]
        return [sch, *self._tilings(sch.copy(), block)]

    def _is_wanted(self, sch: Schedule, block: BlockRV) -> bool:
        return turned_loops(sch, sch.block(block)) is not None


def turned_loops(sch: Schedule, link: Link) -> tuple[For, For] | None:
    """The loop along which a block writes memory as it goes on, and the one along which it reads
    some, which leaps along the other; None of other blocks, and where loops are bound to threads
    or annotated."""
    if is_root(link) or kind_of(link, sch) != "complete" or not is_spatial(link.block()):
        return None
    if not is_trivial_binding(link) or not is_single_chain(link):
        return None
    nest = [x.loop() for x in loop_links(link)]
    if any(const_int(f.extent) is None or f.annotations or f.thread is not None for f in nest):
        return None
    strides = strides_of(link.block())
    if strides is None:
        return None
    return _turns(strides, [f for f in nest if const_int(f.extent) != 1])


def _turns(strides: Strides, nest: list[For]) -> tuple[For, For] | None:
    """Along which loop does memory go on where it is written, and along which other one where it is
    read?"""
    stores = [a for a in strides.accesses if a.is_store]
    loads = [a for a in strides.accesses if not a.is_store]
    for f in nest:
        if any(strides.step(a, f.var) != 1 for a in stores):
            continue
        for a in loads:
            if strides.step(a, f.var) in (None, 0, 1):
                continue
            for g in nest:
                if g is not f and strides.step(a, g.var) == 1:
                    return f, g
    return None
