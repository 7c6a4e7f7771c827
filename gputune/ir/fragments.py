"""Which lane of a warp holds which element of a tile? The fragments of mma.sync.

A buffer in a scope `mma.*` is made of tiles, which the 32 lanes of a warp hold in their registers:
to a program and to the interpreter it is a plain array. Here is, once for all, where each element
lies. The accumulators of all dtypes lie alike, and operands by their bytes: a lane holds words of
four bytes, so that what is said of float16 holds for float32 and int8 as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

SCOPES = ("mma.matrix_a", "mma.matrix_b", "mma.accumulator")
ACCUMULATOR = "mma.accumulator"
LANES = 32
"""Of a warp."""
_SIDE = 16  # rows of A, columns of B and of sums
_WORD = 4  # bytes


@dataclass(frozen=True, eq=False)
class Fragment:
    """How a warp holds a tile.

    Attributes:
        rows, cols: of the tile.
        groups, parts: a lane holds `groups * parts` elements; register `g * parts + p` is part p of
            group g, and the parts of a group are neighbours in memory of one kind or the other.
        along_row: do neighbours follow each other along a row? Else along a column.
        place: (lane, group, part) -> (row, column), of numbers, arrays or expressions.

    Example:
        >>> held = fragment("mma.accumulator", "", 4)
        >>> held.registers, held.place(5, 1, 1)  # the fourth register of lane 5
        (8, (9, 3))
    """

    rows: int
    cols: int
    groups: int
    parts: int
    along_row: bool
    place: Callable[[Any, Any, Any], tuple[Any, Any]]

    @property
    def registers(self) -> int:
        """Elements that a lane holds of a tile."""
        return self.groups * self.parts

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of each register of lane 0, then of lane 1, and so on."""
        return tuple([
            self.place(lane, g, p)
            for lane in range(LANES) for g in range(self.groups) for p in range(self.parts)
        ])  # fmt: skip

    def is_like(self, other: Fragment) -> bool:
        """Does each lane hold the same elements in the same registers? (So do sums and an operand A
        of elements of two bytes.)"""
        mine, theirs = (self.rows, self.cols, self.parts), (other.rows, other.cols, other.parts)
        return self is other or (mine == theirs and self.places == other.places)


def fragment(scope: str, order: str, itemsize: int) -> Fragment:
    """How tiles of a scope lie.

    Args:
        scope: one of `SCOPES`.
        order: of an operand, "row" as it stands in A @ B, "col" transposed; "" of sums.
        itemsize: bytes of an element of an operand.
    """
    return _sums() if scope == ACCUMULATOR else _operand(scope[-1], order == "col", itemsize)


@cache
def _sums() -> Fragment:
    def place(lane: Any, group: Any, part: Any) -> tuple[Any, Any]:
        return lane // 4 + group % 2 * 8, lane % 4 * 2 + group // 2 * 8 + part

    return Fragment(_SIDE, _SIDE, 4, 2, True, place)


@cache
def _operand(which: str, turned: bool, itemsize: int) -> Fragment:
    """Of A or B. What is multiplied together lies along `deep`, 32 bytes of it; `wide` counts rows
    of A, and columns of B."""
    parts = _WORD // itemsize

    def deep_and_wide(lane: Any, group: Any, part: Any) -> tuple[Any, Any]:
        first, second = (group // 2, group % 2) if which == "a" else (group % 2, group // 2)
        return lane % 4 * parts + first * (4 * parts) + part, lane // 4 + second * 8

    def place(lane: Any, group: Any, part: Any) -> tuple[Any, Any]:
        deep, wide = deep_and_wide(lane, group, part)
        return (wide, deep) if along_row else (deep, wide)

    along_row = (which == "a") != turned
    shape = (_SIDE, 8 * parts) if along_row else (8 * parts, _SIDE)
    return Fragment(*shape, 4, parts, along_row, place)


def ldmatrix_row(held: Fragment, lane: Any) -> tuple[Any, Any]:
    """Where the 16 bytes begin that a lane names to `ldmatrix.x4`, for a tile that it brings: the
    first of a row of the tile, which four lanes then hold a word of each (or, where neighbours do
    not follow each other along a row, eight lanes an element: `.trans`)."""
    group, within = lane // 8, lane % 8
    if held.along_row:
        return held.place(within * 4, group, 0)
    # row `within` of 8 x 8 elements of two bytes: lane `within // 2` holds its first, as part
    # `within % 2`
    row, col = held.place(0, group, 0)
    return row + within, col
