"""In which order is a reduction over rows done, whose columns make vectors? ColumnReduction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.build import const_int
from ...ir.nodes import Block, Var
from ...schedule.analysis import is_trivial_binding, kind_of
from ..analysis import is_root, is_single_chain, loop_kinds, loop_links
from ..strides import strides_of
from .multi_level_tiling import MultiLevelTiling

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule

_ROWS = 16  # fewer are read at once as they are


class ColumnReduction(MultiLevelTiling):
    """A reduction that reads each element once, and along whose spatial loop elements lie side by
    side, is also offered in tiles of rows and columns: "SRSRS".

    Sums and maxima of columns: column by column, each row costs a few bytes of another page. In
    tiles, a few rows are read from end to end, into sums that are kept in the first cache. The
    unchanged schedule is offered too.

    Args:
        max_innermost_factor, must_divide: see MultiLevelTiling.
    """

    def __init__(
        self, max_innermost_factor: int | None = None, must_divide: bool | None = True
    ) -> None:
        super().__init__(
            "SRSRS", max_innermost_factor=max_innermost_factor, must_divide=must_divide
        )

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule, and the tiled one where that suits the block."""
        if not self._is_wanted(sch, block):
            return [sch]
        return [sch, *self._tilings(sch.copy(), block)]

    def _is_wanted(self, sch: Schedule, block: BlockRV) -> bool:
        link = sch.block(block)
        if is_root(link) or kind_of(link, sch) != "reduction" or not is_trivial_binding(link):
            return False
        if not is_single_chain(link) or not _reads_once(link.block()):
            return False
        nest, kinds = [x.loop() for x in loop_links(link)], loop_kinds(loop_links(link))
        rows = 1
        for f in nest:
            n = const_int(f.extent)
            if n is None or kinds[f.var] == "mixed" or f.annotations:
                return False
            if kinds[f.var] == "reduce":
                rows *= n
        strides = strides_of(link.block())
        if strides is None or rows < _ROWS:
            return False
        return any(
            kinds[f.var] == "spatial" and const_int(f.extent) != 1 and strides.is_unit(f.var)
            for f in nest
        )


def _reads_once(block: Block) -> bool:
    """Does each run of the block read other elements than all others? Each iterator must be an
    index of its own in everything that is read."""
    own = {iv.var for iv in block.iter_vars if const_int(iv.dom.extent) != 1}
    written = {w.buffer for w in block.writes}
    for read in block.reads:
        if read.buffer in written:
            continue
        if any(const_int(r.extent) != 1 for r in read.region):
            return False
        if not own <= {r.min for r in read.region if type(r.min) is Var}:
            return False
    return len(block.writes) == 1 and bool(block.reads)
