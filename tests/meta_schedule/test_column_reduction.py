"""ColumnReduction: which reductions it tiles, how, and that this computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from search_spaces import sketches
from space_programs import apply_rule, matmul
from test_population import agree

from gputune import kernels
from gputune.ir.nodes import PrimFunc
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.meta_schedule.schedule_rule import AddRFactor, ColumnReduction
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

TRACE = """\
b0 = sch.get_block(name="B", func_name="column_sum")
sch.annotate(block_or_loop=b0, ann_key="meta_schedule.tiling_structure", ann_val="SRSRS")
l1, l2 = sch.get_loops(block=b0)
v3, v4, v5 = sch.sample_perfect_tile(loop=l1, n=3, max_innermost_factor=64, decision=[1, 4, 32])
l6, l7, l8 = sch.split(loop=l1, factors=[v3, v4, v5], preserve_unit_iters=True)
v9, v10 = sch.sample_perfect_tile(loop=l2, n=2, max_innermost_factor=64, decision=[5, 8])
l11, l12 = sch.split(loop=l2, factors=[v9, v10], preserve_unit_iters=True)
sch.reorder(l6, l11, l7, l12, l8)"""


def tiled(func: PrimFunc, block: str) -> list[Schedule]:
    """What the rule makes of a block, beside the schedule as it is."""
    first, *made = apply_rule(ColumnReduction(64), func, block)
    assert "tiling_structure" not in str(first.trace)
    return made


def decided(func: PrimFunc, *tiles: list[int]) -> Schedule:
    (sketch,) = tiled(func, "B")
    new, given = Schedule(func, seed=1, debug_mask="all"), iter(tiles)
    sketch.trace.apply_to_schedule(new, decision_provider=lambda i, x, a, d: next(given))
    return new


def test_the_sketch_of_sums_of_columns() -> None:
    func = kernels.get("column_sum").build(m=40, n=128)
    assert str(decided(func, [1, 4, 32], [5, 8]).trace) == TRACE


@pytest.mark.parametrize(
    ("m", "n", "tiles"),
    [
        (40, 128, ([1, 4, 32], [5, 8])),
        (17, 12, ([2, 2, 3], [17, 1])),
        (31, 37, ([37, 1, 1], [1, 31])),
        (16, 96, ([3, 1, 32], [2, 8])),
    ],
)
@pytest.mark.parametrize("name", ["column_sum", "column_max"])
def test_tiles_compute_the_same(
    name: str, m: int, n: int, tiles: tuple[list[int], list[int]]
) -> None:
    kernel, shape = kernels.get(name), {"m": m, "n": n}
    func = kernel.build(**shape)
    sch = decided(func, *tiles)
    assert postprocess(sch, Postproc.create("llvm")) is None
    args = kernel.arguments(shape, exact=True)
    (want,) = kernel.expected(args, shape)
    build(sch.mod, "llvm --num-cores=1")[func.name](*args)
    np.testing.assert_array_equal(args[-1], want)


@T.prim_func
def pooled(A: T.Buffer((4, 9, 7, 32), "float32"), B: T.Buffer((4, 32), "float32")):
    for n, c, y, x in T.grid(4, 32, 9, 7):
        with T.block("B"):
            vn, vc, vy, vx = T.axis.remap("SSRR", [n, c, y, x])
            with T.init():
                B[vn, vc] = T.float32(0)
            B[vn, vc] = B[vn, vc] + A[vn, vy, vx, vc]


def test_more_loops_of_both_kinds() -> None:
    (sketch,) = tiled(pooled, "B")
    assert str(sketch.trace).count("sample_perfect_tile") == 4
    a = np.random.default_rng(1).integers(-8, 8, (4, 9, 7, 32)).astype(np.float32)
    b = np.zeros((4, 32), np.float32)
    assert postprocess(sketch, Postproc.create("llvm")) is None
    build(sketch.mod, "llvm --num-cores=1")["pooled"](a, b)
    np.testing.assert_array_equal(b, a.sum((1, 2)))


@T.prim_func
def windows(A: T.Buffer((80, 32), "float32"), B: T.Buffer((64, 32), "float32")):
    for i, j, k in T.grid(64, 32, 17):
        with T.block("B"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                B[vi, vj] = T.float32(0)
            B[vi, vj] = B[vi, vj] + A[vi + vk, vj]


@pytest.mark.parametrize(
    ("why", "func", "block"),
    [
        ("its rows make vectors", kernels.get("row_sum").build(m=64, n=64), "B"),
        ("other tiles suit it", matmul, "C"),
        ("the root", matmul, "root"),
        ("no reduction", kernels.get("gelu").build(m=32, n=32), "Y"),
        ("few rows", kernels.get("column_sum").build(m=15, n=64), "B"),
        ("one column", kernels.get("column_sum").build(m=64, n=1), "B"),
        ("windows overlap", windows, "B"),
        ("a pair of values", kernels.get("argmax").build(m=64, n=64), "argmax"),
    ],
)
def test_it_leaves_alone(why: str, func: PrimFunc, block: str) -> None:
    assert tiled(func, block) == [], why


def test_partial_results_are_not_tiled() -> None:
    for sch in apply_rule(AddRFactor(16, 64), kernels.get("column_sum").build(m=64, n=64), "B")[1:]:
        assert ColumnReduction(64).apply(sch, sch.get_block("B")) == [sch]


def test_a_matrix_of_decisions_agrees_with_replay() -> None:
    func = kernels.get("column_sum").build(m=48, n=96)
    found = [s for s in sketches(func) if '"SRSRS"' in str(s.trace)]
    assert len(found) == 1
    rows = found[0].decisions.sample(24, np.random.default_rng(5))
    assert agree(found[0], rows) == 24
    assert not found[0].fallbacks
