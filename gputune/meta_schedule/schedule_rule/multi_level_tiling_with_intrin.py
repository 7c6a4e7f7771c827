"""How is a block tiled around an instruction that computes a small product at once?
MultiLevelTilingWithIntrin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...schedule.intrin_mapping import tile_with_tensor_intrin
from ...target.intrin import TensorIntrin, intrin
from ..analysis import AUTO_TENSORIZE
from ..kinds import target_of
from .multi_level_tiling import Filter, MultiLevelTiling, ReuseType

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule
    from ..tune_context import TuneContext


class MultiLevelTilingWithIntrin(MultiLevelTiling):
    """MultiLevelTiling of a block whose innermost tile is what a tensor intrinsic computes.

    The tile becomes a block of its own, annotated with the intrinsic's name, which RewriteTensorize
    puts in its place. The schedule without the intrinsic stays a candidate, for the rules after
    this one. Nothing is done where the block is not what the intrinsic describes, or the target has
    no such instruction.

    Args:
        intrin_name: see `TensorIntrin.register`.
        structure, tile_binds, max_innermost_factor, vector_load_lens, reuse_read, reuse_write,
            filter_fn, must_divide: see MultiLevelTiling; the tiles are counted in products of the
            intrinsic.

    Raises:
        UserError: a setting makes no sense; there is no such intrinsic.
    """

    def __init__(
        self,
        intrin_name: str,
        structure: str,
        tile_binds: Sequence[str] | None = None,
        max_innermost_factor: int | None = None,
        vector_load_lens: Sequence[int] | None = None,
        reuse_read: ReuseType | Mapping[str, Any] | None = None,
        reuse_write: ReuseType | Mapping[str, Any] | None = None,
        filter_fn: Filter | None = None,
        must_divide: bool = True,
    ) -> None:
        super().__init__(
            structure, tile_binds, max_innermost_factor, vector_load_lens, reuse_read, reuse_write,
            filter_fn, must_divide,
        )  # fmt: skip
        TensorIntrin.get(intrin_name)  # refuse a name that does not exist
        self.intrin_name = intrin_name
        self.is_there = True

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        super()._initialize_with_tune_context(context)
        target = target_of(context)
        if target is not None and target.kind == "llvm":
            self.is_there = not intrin(self.intrin_name).missing(target)

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule as it is, and its tilings with the intrinsic."""
        if not self.is_there or not self._is_wanted(sch, block):
            return [sch]
        new = sch.copy()
        loop = tile_with_tensor_intrin(new, block, self.intrin_name)
        if loop is None:
            return [sch]
        outer = new.blockize(loop)
        new.annotate(outer, AUTO_TENSORIZE, self.intrin_name)
        return [sch, *self._tilings(new, outer)]
