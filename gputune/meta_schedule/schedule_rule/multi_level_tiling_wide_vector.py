"""How is a block tiled for a machine with one width of vectors? MultiLevelTilingWideVector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...ir.build import const_int
from ...ir.dtypes import bits
from ...ir.walk import uses_var
from .multi_level_tiling import Filter, MultiLevelTiling, ReuseType

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
    from ...schedule.handles import ExprRV


class MultiLevelTilingWideVector(MultiLevelTiling):
    """MultiLevelTiling whose innermost tile is one vector register of what the block writes.

    That is the tile of the loop that runs along the last dimension of the result: it has as many
    iterations as a register has elements (or all of the loop, where that is shorter), and only the
    outer tiles are sampled.

    Args:
        structure: see MultiLevelTiling; it ends in S.
        vector_length_in_bits: of a register.
        max_innermost_factor, reuse_read, reuse_write, tile_binds, vector_load_lens, filter_fn,
            must_divide: see MultiLevelTiling.

    Raises:
        UserError: a setting makes no sense.
    """

    def __init__(
        self,
        structure: str,
        vector_length_in_bits: int,
        max_innermost_factor: int | None = None,
        reuse_read: ReuseType | Mapping[str, Any] | None = None,
        reuse_write: ReuseType | Mapping[str, Any] | None = None,
        tile_binds: Sequence[str] | None = None,
        vector_load_lens: Sequence[int] | None = None,
        filter_fn: Filter | None = None,
        must_divide: bool = True,
    ) -> None:
        super().__init__(
            structure, tile_binds, max_innermost_factor, vector_load_lens, reuse_read, reuse_write,
            filter_fn, must_divide,
        )  # fmt: skip
        if vector_length_in_bits < 8 or vector_length_in_bits % 8:
            raise UserError(
                "MultiLevelTilingWideVector: a vector has whole bytes, found "
                f"{vector_length_in_bits} bits",
                hint="for example 1024",
                code="vector-length",
            )
        if not structure.endswith("S"):
            raise UserError(
                f"MultiLevelTilingWideVector: the innermost tile of {structure!r} is no vector",
                hint='end the structure in S: "SRSRS"',
                code="vector-length",
            )
        self.vector_length_in_bits = vector_length_in_bits

    def _split(
        self, sch: Schedule, block: BlockRV, loop: LoopRV, n: int
    ) -> list[tuple[LoopRV, ExprRV | int]]:
        written = sch.get(block).writes[0]
        lanes = self.vector_length_in_bits // bits(written.buffer.dtype)
        extent = int(const_int(sch.get(loop).extent) or 1)
        if not _runs_along(sch, block, loop) or lanes < 2:
            return super()._split(sch, block, loop, n)
        if extent <= lanes:
            factors: list[ExprRV | int] = [*[1] * (n - 1), extent]
            return list(zip(sch.split(loop, factors), factors, strict=True))
        outer, vector = sch.split(loop, [None, lanes])
        return [*super()._split(sch, block, outer, n - 1), (vector, lanes)]


def _runs_along(sch: Schedule, block: BlockRV, loop: LoopRV) -> bool:
    """Does the loop drive the last index of what the block writes?"""
    b, v = sch.get(block), sch.get(loop).var
    last = b.writes[0].region[-1].min if b.writes[0].region else None
    return last is not None and any(
        iv.kind == "spatial" and uses_var(value, v) and uses_var(last, iv.var)
        for iv, value in zip(b.iter_vars, b.iter_values, strict=True)
    )
