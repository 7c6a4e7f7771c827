"""CrossLaneReduction: which reductions it takes into the lanes of vectors, what it makes of them,
and that this computes the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from search_spaces import sketches
from space_programs import chain, matmul
from test_population import agree

from gputune import kernels
from gputune.ir import walk
from gputune.ir.nodes import PrimFunc, Shuffle
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.meta_schedule.schedule_rule import AddRFactor, CrossLaneReduction
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

TRACE = """\
b0 = sch.get_block(name="Y", func_name="gemv")
l1, l2 = sch.get_loops(block=b0)
v3 = sch.sample_categorical(candidates=[16, 32, 64], probs=[0.3333333333333333, 0.3333333333333333, 0.3333333333333333], decision=1)
l4, l5 = sch.split(loop=l2, factors=[None, v3], preserve_unit_iters=True)
b6 = sch.rfactor(loop=l5, factor_axis=1)
l7, l8, l9 = sch.get_loops(block=b6)
v10, v11 = sch.sample_perfect_tile(loop=l7, n=2, max_innermost_factor=8, decision=[6, 4])
l12, l13 = sch.split(loop=l7, factors=[v10, v11], preserve_unit_iters=True)
sch.reorder(l12, l8, l13, l9)
sch.reverse_compute_at(block=b0, loop=l12, preserve_unit_loops=True)
l14, l15, l16 = sch.get_loops(block=b0)
sch.vectorize(loop=l16)"""  # noqa: E501

TARGET = "llvm --num-cores=1"


def vectors(func: PrimFunc, block: str) -> list[Schedule]:
    """What the rule makes of a block, beside the schedule as it is."""
    rule = CrossLaneReduction()
    rule.vector_bytes = 64
    first, *made = rule.apply(sch := Schedule(func, seed=3), sch.get_block(block))
    assert first is sch
    assert not first.trace.insts[1:]
    return made


def decided(func: PrimFunc, block: str, *decisions: Any) -> Schedule:
    (sketch,) = vectors(func, block)
    new, given = Schedule(func, seed=1, debug_mask="all"), iter(decisions)
    sketch.trace.apply_to_schedule(new, decision_provider=lambda i, x, a, d: next(given))
    return new


def choice(
    sch: Schedule, width: int, rows: int, inst: Any, inputs: Any, attrs: Any, decision: Any
) -> Any:
    """The width of this number and as many rows at once as that."""
    if inst.kind.name == "SampleCategorical":
        return min(width, len(attrs[0]) - 1)
    n = int(sch.get(inputs[0]).extent.value)
    tile = max(t for t in range(1, min(n, rows) + 1) if n % t == 0)
    return [n // tile, tile]


def lowered(sch: Schedule) -> PrimFunc:
    (func,) = sch.mod.functions.values()
    assert isinstance(func, PrimFunc)
    return lower(func, CpuLimits(64, 32, 1))


# ----------------------------------------------------------------------------- what it makes
def test_the_sketch_of_a_matrix_times_a_vector() -> None:
    sch = decided(kernels.get("gemv").build(m=24, k=100), "Y", 1, [6, 4])
    assert str(sch.trace) == TRACE


def test_partial_results_stay_in_registers() -> None:
    sch = decided(kernels.get("gemv").build(m=24, k=100), "Y", 1, [6, 4])
    vector = sch.get_loops(sch.get_block("Y_rf"))[-1]
    sch.vectorize(vector)
    text = lowered(sch).script()
    assert 'Y_rf = T.decl_buffer((4, 32), scope="register")' in text
    assert "T.Shuffle" in text


@pytest.mark.parametrize(
    ("name", "block", "shape"),
    [
        ("gemv", "Y", {"m": 7, "k": 33}),
        ("gemv", "Y", {"m": 1, "k": 127}),
        ("dense_bias_relu", "Y", {"m": 1, "n": 13, "k": 101}),
        ("dense_bias_relu", "Y", {"m": 3, "n": 14, "k": 101}),
        ("row_sum", "B", {"m": 9, "n": 65}),
        ("row_max", "B", {"m": 6, "n": 17}),
        ("row_mean", "total", {"m": 5, "n": 31}),
        ("total_sum", "B", {"m": 7, "n": 19}),
        ("norm", "C", {"b": 2, "m": 5, "n": 9}),
        ("argmax", "argmax", {"m": 5, "n": 33}),
    ],
)
@pytest.mark.parametrize("width", [0, 1, 2])
def test_odd_extents(name: str, block: str, shape: dict[str, int], width: int) -> None:
    kernel = kernels.get(name)
    func = kernel.build(**shape)
    (sketch,) = vectors(func, block)
    tiles = "sample_perfect_tile" in str(sketch.trace)
    for rows in (1, 8) if tiles else (1,):
        new = Schedule(func, seed=rows, debug_mask="all")
        choose = partial(choice, new, width, rows)
        sketch.trace.apply_to_schedule(new, decision_provider=choose)
        new.vectorize(new.get_loops(new.get_block(f"{block}_rf"))[-1])
        args = kernel.arguments(shape, exact=True)
        want = kernel.expected(args, shape)
        build(new.mod, TARGET)[func.name](*args)
        outputs = [a for a, b in zip(args, func.buffers, strict=True) if b.name in kernel.outputs]
        for got, right in zip(outputs, want, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-6)


def test_a_few_vectors_are_multiplied_together() -> None:
    """Each row of the matrix is read once for all of them."""
    layer = kernels.get("dense_bias_relu")
    sch = decided(layer.build(m=4, n=24, k=100), "Y", 0, [12, 2])
    assert [str(sch.get(x).extent) for x in sch.get_loops(sch.get_block("Y_rf"))] == [
        "12", "7", "2", "4", "16",
    ]  # fmt: skip
    assert vectors(layer.build(m=5, n=24, k=100), "Y") == []  # tiles suit it


def test_one_row_has_wider_vectors() -> None:
    """Sums that wait for themselves: eight at once are as many as there are."""
    (sketch,) = vectors(kernels.get("total_sum").build(m=64, n=64), "B")
    assert "candidates=[16, 32, 64, 128]" in str(sketch.trace)
    (sketch,) = vectors(kernels.get("total_sum").build(m=5, n=9), "B")
    assert "candidates=[16, 32]" in str(sketch.trace)


def test_reductions_over_several_loops_become_one_where_memory_goes_on() -> None:
    (sketch,) = vectors(kernels.get("norm").build(b=2, m=8, n=24), "C")
    assert "sch.fuse(" in str(sketch.trace)

    @T.prim_func
    def gaps(A: T.Buffer((4, 6, 40), "float32"), B: T.Buffer((4,), "float32")):
        for i, j, k in T.grid(4, 6, 32):
            with T.block("B"):
                vi, vj, vk = T.axis.remap("SRR", [i, j, k])
                with T.init():
                    B[vi] = T.float32(0)
                B[vi] = B[vi] + A[vi, vj, vk]

    (sketch,) = vectors(gaps, "B")
    assert "sch.fuse(" not in str(sketch.trace)
    assert "candidates=[16, 32]" in str(sketch.trace)


# ----------------------------------------------------------------------------- what it leaves
@pytest.mark.parametrize(
    ("why", "func", "block"),
    [
        ("tiles suit it", matmul, "C"),
        ("no reduction", chain, "B"),
        ("the root", matmul, "root"),
        ("its columns make vectors", kernels.get("column_sum").build(m=64, n=64), "B"),
        ("shorter than a vector", kernels.get("row_sum").build(m=64, n=15), "B"),
        ("its channels make vectors", kernels.get("max_pool2d").build(), "Y"),
        ("every operand is read again and again",
         kernels.get("attention").build(heads=2, seq=32, dim=32), "dot"),
    ],
)  # fmt: skip
def test_it_leaves_alone(why: str, func: PrimFunc, block: str) -> None:
    assert vectors(func, block) == [], why


def test_without_vectors_there_is_nothing_to_do() -> None:
    """Not initialised for a CPU."""
    func = kernels.get("row_sum").build(m=4, n=64)
    sch = Schedule(func)
    assert CrossLaneReduction().apply(sch, sch.get_block("B")) == [sch]


def test_combiners_that_are_not_known_are_left_alone() -> None:
    @T.prim_func
    def last(A: T.Buffer((4, 64), "float32"), B: T.Buffer((4,), "float32")):
        for i, k in T.grid(4, 64):
            with T.block("B"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    B[vi] = T.float32(0)
                B[vi] = B[vi] * T.float32(0.5) + A[vi, vk]

    assert vectors(last, "B") == []


def test_partial_results_are_not_factored_again() -> None:
    (sketch,) = vectors(kernels.get("total_sum").build(m=64, n=64), "B")
    assert len(AddRFactor(16, 64).apply(sketch, sketch.get_block("B"))) == 1


# ----------------------------------------------------------------------------- in the search
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gemv", {"m": 24, "k": 100}), ("gemv", {"m": 24, "k": 20}),
        ("dense_bias_relu", {"m": 3, "n": 24, "k": 20}), ("total_sum", {"m": 13, "n": 17}),
        ("row_max", {}),
    ],
)  # fmt: skip
def test_a_matrix_of_decisions_agrees_with_replay(name: str, shape: dict[str, int]) -> None:
    func = kernels.get(name).build(**shape)
    found = [s for s in sketches(func) if "sch.vectorize(" in str(s.trace)]
    assert len(found) == 1
    rows = found[0].decisions.sample(24, np.random.default_rng(5))
    assert agree(found[0], rows) == 24
    assert not found[0].fallbacks


def test_candidates_combine_lanes_in_registers() -> None:
    func = kernels.get("gemv").build(m=24, k=100)
    (sketch,) = [s for s in sketches(func) if "sch.vectorize(" in str(s.trace)]
    for row in sketch.decisions.sample(8, np.random.default_rng(2)):
        (scheduled,) = sketch.materialise(row).mod.functions.values()
        assert isinstance(scheduled, PrimFunc)
        plain = lower(scheduled, CpuLimits(64, 32, 2))
        assert any(type(e) is Shuffle for e in walk.all_exprs(plain.body)), plain.script()
