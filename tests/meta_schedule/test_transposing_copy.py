"""TransposingCopy: which blocks it tiles, and that these compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from search_spaces import sketches
from space_programs import apply_rule, chain, matmul
from test_population import agree

from gputune import kernels
from gputune.ir import walk
from gputune.ir.nodes import PrimFunc, Shuffle
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.meta_schedule.schedule_rule import TransposingCopy
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

TRACE = """\
b0 = sch.get_block(name="K_T", func_name="transpose_batch_matmul")
sch.annotate(block_or_loop=b0, ann_key="meta_schedule.tiling_structure", ann_val="SS")
l1, l2, l3, l4 = sch.get_loops(block=b0)
v5, v6 = sch.sample_perfect_tile(loop=l1, n=2, max_innermost_factor=64, decision=[1, 1])
l7, l8 = sch.split(loop=l1, factors=[v5, v6], preserve_unit_iters=True)
v9, v10 = sch.sample_perfect_tile(loop=l2, n=2, max_innermost_factor=64, decision=[2, 1])
l11, l12 = sch.split(loop=l2, factors=[v9, v10], preserve_unit_iters=True)
v13, v14 = sch.sample_perfect_tile(loop=l3, n=2, max_innermost_factor=64, decision=[2, 16])
l15, l16 = sch.split(loop=l3, factors=[v13, v14], preserve_unit_iters=True)
v17, v18 = sch.sample_perfect_tile(loop=l4, n=2, max_innermost_factor=64, decision=[2, 16])
l19, l20 = sch.split(loop=l4, factors=[v17, v18], preserve_unit_iters=True)
sch.reorder(l7, l11, l15, l19, l8, l12, l16, l20)"""

SMALL = {"batch": 1, "seq": 32, "heads": 2, "dim": 32}


def tiled(func: PrimFunc, block: str) -> list[Schedule]:
    """What the rule makes of a block, beside the schedule as it is."""
    first, *made = apply_rule(TransposingCopy(64), func, block)
    assert "tiling_structure" not in str(first.trace)
    return made


def decided(func: PrimFunc, block: str, *tiles: list[int]) -> Schedule:
    (sketch,) = tiled(func, block)
    new, given = Schedule(func, seed=1, debug_mask="all"), iter(tiles)
    sketch.trace.apply_to_schedule(new, decision_provider=lambda i, x, a, d: next(given))
    return new


def test_the_sketch_of_a_transposed_tensor() -> None:
    func = kernels.get("transpose_batch_matmul").build(**SMALL)
    sch = decided(func, "K_T", [1, 1], [2, 1], [2, 16], [2, 16])
    assert str(sch.trace) == TRACE
    (scheduled,) = sch.mod.functions.values()
    assert isinstance(scheduled, PrimFunc)
    plain = lower(scheduled, CpuLimits(64, 32, 1))
    assert any(type(e) is Shuffle for e in walk.all_exprs(plain.body))  # see lower.turn


@pytest.mark.parametrize(
    ("m", "n", "tiles"),
    [(64, 96, ([4, 16], [2, 48])), (17, 31, ([1, 17], [31, 1])), (40, 24, ([10, 4], [3, 8]))],
)
def test_tiles_compute_the_same(m: int, n: int, tiles: tuple[list[int], list[int]]) -> None:
    kernel, shape = kernels.get("transpose"), {"m": m, "n": n}
    func = kernel.build(shape)
    (block,) = [b.name for b in walk.blocks(func.body) if b.name != "root"]
    swapped = tiles if const(func) == m else tiles[::-1]
    sch = decided(func, block, *swapped)
    assert postprocess(sch, Postproc.create("llvm")) is None
    args = kernel.arguments(shape, exact=True)
    (want,) = kernel.expected(args, shape)
    build(sch.mod, "llvm --num-cores=1")[func.name](*args)
    np.testing.assert_array_equal(args[-1], want)


def const(func: PrimFunc) -> int:
    """How long the outermost loop is."""
    sch = Schedule(func)
    (block,) = [b.name for b in walk.blocks(func.body) if b.name != "root"]
    return int(sch.get(sch.get_loops(sch.get_block(block))[0]).extent.value)  # type: ignore[arg-type]


@T.prim_func
def both_ways(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16, 16), "float32")):
    for i, j in T.grid(16, 16):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] + A[vj, vi]


@T.prim_func
def rows_apart(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16,), "float32")):
    for i in range(16):
        with T.block("B"):
            vi = T.axis.spatial(16, i)
            B[vi] = A[vi, 3]


def test_blocks_that_compute_are_tiled_too() -> None:
    assert len(tiled(both_ways, "B")) == 1


@pytest.mark.parametrize(
    ("why", "func", "block"),
    [
        ("a reduction", matmul, "C"),
        ("the root", matmul, "root"),
        ("it goes along memory", chain, "B"),
        ("rows are only moved", kernels.get("transpose_batch_matmul").build(**SMALL), "Q_T"),
        ("nothing is read along memory", rows_apart, "B"),
    ],
)
def test_it_leaves_alone(why: str, func: PrimFunc, block: str) -> None:
    assert tiled(func, block) == [], why


def test_a_matrix_of_decisions_agrees_with_replay() -> None:
    func = kernels.get("transpose_batch_matmul").build(**SMALL)
    found = [s for s in sketches(func) if '"SS"' in str(s.trace)]
    assert len(found) == 3
    rows = found[0].decisions.sample(16, np.random.default_rng(5))
    agree(found[0], rows)
    assert not found[0].fallbacks
