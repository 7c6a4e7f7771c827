"""Does each element of a tile lie in one lane, and does ldmatrix bring it there?"""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir.fragments import SCOPES, Fragment, fragment, ldmatrix_row

LANES = np.arange(32)
CASES = [
    ("mma.accumulator", "", 4),
    *[(f"mma.matrix_{x}", order, n) for x in "ab" for order in ("row", "col") for n in (1, 2, 4)],
]


def places(held: Fragment) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[lane, register] -> row, column."""
    out = np.empty((32, held.registers, 2), np.int64)
    for g in range(held.groups):
        for p in range(held.parts):
            row, col = held.place(LANES, g, p)
            out[:, g * held.parts + p, 0], out[:, g * held.parts + p, 1] = row, col
    return out


@pytest.mark.parametrize(("scope", "order", "size"), CASES)
def test_each_element_lies_in_one_place(scope: str, order: str, size: int) -> None:
    held = fragment(scope, order, size)
    found = places(held).reshape(-1, 2)
    assert len(found) == held.rows * held.cols == len({(r, c) for r, c in found.tolist()})
    assert found.min() == 0
    assert found.max(axis=0).tolist() == [held.rows - 1, held.cols - 1]


@pytest.mark.parametrize(("scope", "order", "size"), CASES)
def test_parts_are_neighbours(scope: str, order: str, size: int) -> None:
    held = fragment(scope, order, size)
    steps = np.diff(places(held).reshape(32, held.groups, held.parts, 2), axis=2)
    assert (steps == ([0, 1] if held.along_row else [1, 0])).all()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shapes_of_operands(size: int) -> None:
    k = 32 // size
    shapes = [
        (
            fragment(f"mma.matrix_{x}", order, size).rows,
            fragment(f"mma.matrix_{x}", order, size).cols,
        )
        for x in "ab"
        for order in ("row", "col")
    ]
    assert shapes == [(16, k), (k, 16), (k, 16), (16, k)]
    assert all(scope.startswith("mma.") for scope in SCOPES)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("which", "order"), [("a", "row"), ("b", "col")])
def test_ldmatrix_deals_words_of_rows(which: str, order: str, size: int) -> None:
    """Matrix g has the rows that lanes 8 g and on name, lane l gets word l % 4 of row l // 4."""
    held = fragment(f"mma.matrix_{which}", order, size)
    rows, cols = ldmatrix_row(held, LANES)
    for g in range(4):
        for p in range(held.parts):
            row, col = held.place(LANES, g, p)
            source = 8 * g + LANES // 4
            assert (row == rows[source]).all()
            assert (col == cols[source] + LANES % 4 * held.parts + p).all()


@pytest.mark.parametrize(("which", "order"), [("a", "col"), ("b", "row")])
def test_ldmatrix_turns_elements_of_two_bytes(which: str, order: str) -> None:
    """Lane l gets elements (2 * (l % 4) + p, l // 4) of the matrix."""
    held = fragment(f"mma.matrix_{which}", order, 2)
    rows, cols = ldmatrix_row(held, LANES)
    for g in range(4):
        for p in range(2):
            row, col = held.place(LANES, g, p)
            source = 8 * g + LANES % 4 * 2 + p
            assert (row == rows[source]).all()
            assert (col == cols[source] + LANES // 4).all()


def test_which_lie_alike() -> None:
    sums = fragment("mma.accumulator", "", 4)
    alike = {
        (x, order, n): fragment(f"mma.matrix_{x}", order, n).is_like(sums)
        for x in "ab"
        for order in ("row", "col")
        for n in (1, 2, 4)
    }
    assert [key for key, like in alike.items() if like] == [("a", "row", 2)]


def test_sums_lie_as_the_manual_says() -> None:
    """c0, c1 in row l / 4, c2, c3 eight rows below, columns 2 * (l % 4); then eight columns on."""
    found = places(fragment("mma.accumulator", "", 4))
    assert found[0].tolist() == [[0, 0], [0, 1], [8, 0], [8, 1], [0, 8], [0, 9], [8, 8], [8, 9]]
    assert found[31].tolist() == [
        [7, 6], [7, 7], [15, 6], [15, 7], [7, 14], [7, 15], [15, 14], [15, 15],
    ]  # fmt: skip
