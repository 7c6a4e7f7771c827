"""Do per-store features say what MetaSchedule's say, for programs of which the numbers are known?

`per_store_features.json` holds programs with the rows that TVM 0.27 gives for them; written by
`python bench/per_store_feature.py PEER --write FILE`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune import kernels
from gputune.errors import UserError
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule import MeasureCandidate, TuneContext
from gputune.meta_schedule.feature_extractor import (
    FeatureExtractor,
    PerStoreFeature,
    RandomFeatureExtractor,
    SketchFeature,
    feature_names,
)
from gputune.schedule import Schedule
from gputune.script import tir as T
from gputune.script.parser import from_source

GOLDEN = json.loads((Path(__file__).parent / "per_store_features.json").read_text())
TARGETS = {"llvm": "llvm -num-cores 4", "cuda": "cuda -arch=sm_80"}
Row = dict[str, float]


def rows_of(program: PrimFunc | Schedule, target: str = "llvm", **options: Any) -> list[Row]:
    """The rows of a program, by name."""
    sch = program if isinstance(program, Schedule) else Schedule(program)
    context = TuneContext(sch.mod, target=TARGETS[target], rand_state=1)
    extractor = PerStoreFeature(**options)
    (found,) = extractor.extract_from(context, [MeasureCandidate(sch, [])])
    return [dict(zip(extractor.feature_names, row.tolist(), strict=True)) for row in found]


def slog2(x: float) -> float:
    return math.log2(x + 1)


@pytest.mark.parametrize("case", GOLDEN, ids=[c["name"] for c in GOLDEN])
def test_the_rows_are_those_of_tvm(case: dict[str, Any]) -> None:
    func = from_source("\n".join(case["script"]))
    assert isinstance(func, PrimFunc)
    got = rows_of(func, case["target"], extract_workload=True)
    assert len(got) == len(case["rows"])
    for mine, told in zip(got, case["rows"], strict=True):
        for name, x in mine.items():
            assert x == pytest.approx(told.get(name, 0.0), rel=1e-5, abs=2e-6), name


def test_a_plain_matmul_by_hand() -> None:
    (row,) = rows_of(kernels.get("matmul").build(m=512, n=256, k=128))
    often = 512 * 256 * 128
    assert row["float_mul"] == row["float_addsub"] == slog2(often)
    assert row["int_addsub"] == row["int_mul"] == 0  # the indices are loop variables
    assert row["parallel_type.kPosNone"] == 1
    assert row["outer_prod"] == slog2(often)
    assert row["num_loops"] == slog2(3)
    assert row["alloc_size"] == slog2(512 * 256 * 4)
    # B moves along its rows in the innermost loop, so it has most cache lines and comes first
    assert row["B0.acc_type.kRead"] == 1
    assert row["B0.bytes"] == slog2(often * 4)
    assert row["B0.unique_bytes"] == slog2(128 * 256 * 4)
    assert row["B0.lines"] == slog2(often)
    assert row["B0.stride"] == slog2(256)
    assert row["B0.reuse_type.kLoopMultipleRead"] == 1
    assert row["B0.reuse_ct"] == slog2(512)
    assert row["B0.reuse_dis_iter"] == slog2(256 * 128)
    # the accumulator stays where it is in the innermost loop
    assert row["B2.acc_type.kReadWrite"] == 1
    assert row["B2.reuse_ct"] == slog2(128)
    assert row["B2.stride"] == 0
    assert row["B3.bytes"] == 0
    total = (512 * 128 + 128 * 256 + 512 * 256) * 4
    assert row["arith_intensity_curve_9"] == pytest.approx(slog2(2 * often / total))


def test_loop_kinds() -> None:
    sch = Schedule(kernels.get("matmul").build(m=64, n=64, k=64))
    i, j, k = sch.get_loops("C")
    j0, j1 = sch.split(j, [None, 8])
    sch.reorder(i, j0, k, j1)
    sch.parallel(i)
    sch.unroll(k)
    sch.vectorize(j1)
    sch.annotate(i, "pragma_auto_unroll_max_step", 16)
    (row,) = rows_of(sch)
    for kind, n in (("parallel", 64), ("unroll", 64), ("vec", 8)):
        assert row[f"{kind}_num"] == slog2(1)
        assert row[f"{kind}_prod"] == row[f"{kind}_len"] == slog2(n)
        assert row[f"{kind}_type.kPosMixed"] == 1
        assert row[f"{kind}_type.kPosNone"] == 0
    assert row["auto_unroll_max_step"] == slog2(16)
    assert row["is_gpu"] == 0


def test_unit_loops_are_gone() -> None:
    plain, split = (Schedule(kernels.get("matmul").build(m=32, n=32, k=32)) for _ in range(2))
    for loop in split.get_loops("C"):
        split.split(loop, [1, None, 1])
    assert rows_of(plain) == rows_of(split)


def test_storing_constants_does_not_count() -> None:
    @T.prim_func
    def zeros(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("A"):
                vi = T.axis.spatial(8, i)
                A[vi] = T.float32(0)
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi] + T.float32(1)

    rows = rows_of(zeros)
    assert len(rows) == 1
    assert rows[0]["B0.acc_type.kRead"] + rows[0]["B1.acc_type.kRead"] == 1
    only = rows_of(zeros, buffers_per_store=1)
    assert "B1.bytes" not in only[0]


def test_a_program_that_stores_only_constants_has_no_rows() -> None:
    @T.prim_func
    def zeros(A: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("A"):
                vi = T.axis.spatial(8, i)
                A[vi] = T.float32(0)

    context = TuneContext(zeros, target=TARGETS["llvm"])
    (x,) = PerStoreFeature().extract_from(context, [MeasureCandidate(Schedule(zeros), [])])
    assert x.shape == (0, 164)


def test_what_a_let_computes_counts() -> None:
    rows = rows_of(kernels.get("argmax").build(m=16, n=32))
    assert len(rows) == 2
    assert all(r["select_op"] > 0 and r["int_cmp"] > 0 for r in rows)


def test_a_cached_tile_is_as_small_as_its_use() -> None:
    sch = Schedule(kernels.get("matmul").build(m=64, n=64, k=64))
    i, _, _ = sch.get_loops("C")
    i0, _ = sch.split(i, [None, 16])
    sch.compute_at(sch.cache_read("C", 0, "global"), i0)
    tile, _ = rows_of(sch)
    assert tile["alloc_size"] == slog2(16 * 64 * 4)
    assert tile["alloc_outer_prod"] == slog2(4)
    assert tile["alloc_inner_prod"] == slog2(16 * 64)


def test_every_kernel_of_the_library() -> None:
    for name in kernels.KERNELS:
        kernel = kernels.get(name)
        rows = rows_of(kernel.build(**kernel.check_shapes[0]))
        assert rows, name
        for row in rows:
            assert all(math.isfinite(x) for x in row.values()), name


@pytest.mark.parametrize("name", ["matmul", "softmax", "conv2d"])
def test_gpu_candidates(name: str) -> None:
    kernel = kernels.get(name)
    func = kernel.build(**kernel.check_shapes[0])
    context = TuneContext(
        func, target=TARGETS["cuda"], space_generator="post-order-apply", rand_state=2
    )
    for sch in context.generate_design_space()[:4]:
        for row in rows_of(sch, "cuda"):
            assert row["is_gpu"] == 1


def test_workload_columns() -> None:
    for block, operator in (
        ("T_softmax_max", "softmax"),
        ("row_max", "max_min"),
        ("AddMin", "max_min"),
        ("T_add", "add"),
        ("batch_matmul", "batch_matmul"),
        ("matmul", "matmul"),
        ("DepthwiseConv2d", "depthwiseconv2d"),
        ("conv2d_winograd", "conv2d_winograd"),
        ("group_conv2d", "conv2d"),
        ("dense", None),
    ):
        func = renamed(kernels.get("gelu").build(m=4, n=4), block)
        (row, *_) = rows_of(func, extract_workload=True)
        found = {n for n, x in row.items() if n.startswith("workload") and x}
        assert found == ({f"workload.{operator}"} if operator else set())


def renamed(func: PrimFunc, block: str) -> PrimFunc:
    """The one-block program with another name for its block."""
    text = func.script()
    name = text.split('T.block("')[2].split('"')[0]
    out = from_source(text.replace(f'T.block("{name}")', f'T.block("{block}")'))
    assert isinstance(out, PrimFunc)
    return out


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 10**6))
def test_random_candidates(seed: int) -> None:
    """Amounts are never negative, and shares of work add up, whatever the tiles."""
    sch = Schedule(kernels.get("matmul").build(m=48, n=40, k=36), seed=seed)
    loops = sch.get_loops("C")
    tiles = [sch.split(x, sch.sample_perfect_tile(x, n=3)) for x in loops]
    sch.reorder(*[t[k] for k in range(3) for t in tiles])
    sch.reverse_compute_at(sch.cache_write("C", 0, "global"), tiles[0][0])
    first, second = rows_of(sch)
    assert min(*first.values(), *second.values()) >= 0
    assert first["outer_prod"] == pytest.approx(slog2(48 * 40 * 36))
    assert second["outer_prod"] == pytest.approx(slog2(48 * 40))
    for row in (first, second):
        inner, outer = 2 ** row["alloc_inner_prod"] - 1, 2 ** row["alloc_outer_prod"] - 1
        assert inner * outer == pytest.approx(2 ** row["outer_prod"] - 1, rel=1e-6)


def test_names() -> None:
    assert len(feature_names()) == len(set(feature_names())) == 57 + 5 * 18 + 10 + 4 + 3 == 164
    assert len(feature_names(extract_workload=True)) == 172
    assert feature_names()[57:60] == tuple(
        f"B0.acc_type.{x}" for x in ("kRead", "kWrite", "kReadWrite")
    )
    assert PerStoreFeature(2, 3).width == 57 + 2 * 18 + 3 + 4 + 3


def test_create() -> None:
    assert isinstance(FeatureExtractor.create(), PerStoreFeature)
    assert FeatureExtractor.create("per-store-feature", extract_workload=True).width == 172  # type: ignore[attr-defined]  # that class has it
    assert isinstance(FeatureExtractor.create("sketch-feature"), SketchFeature)
    assert isinstance(FeatureExtractor.create("random", feature_size=4), RandomFeatureExtractor)
    with pytest.raises(UserError, match="'nonsense' is no feature extractor"):
        FeatureExtractor.create("nonsense")


@pytest.mark.parametrize(
    "option", ["buffers_per_store", "arith_intensity_curve_num_samples", "cache_line_bytes"]
)
def test_counts_below_one_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} is a count from 1, found 0"):
        PerStoreFeature(**{option: 0})


def test_random_rows() -> None:
    context = TuneContext(kernels.get("gelu").build(m=4, n=4), target=TARGETS["llvm"])
    one = MeasureCandidate(Schedule(context.mod), [])
    a, b = RandomFeatureExtractor(seed=3, max_block_num=7), RandomFeatureExtractor(seed=3)
    rows = a.extract_from(context, [one] * 50)
    assert {len(x) for x in rows} == set(range(1, 8))
    assert all(((x >= 0) & (x < 1)).all() and x.shape[1] == 30 for x in rows)
    assert not np.array_equal(rows[0], a.extract_from(context, [one])[0])
    assert b.extract_from(context, [one])[0].shape[1] == 30
    for option in ("feature_size", "max_block_num"):
        with pytest.raises(UserError, match=f"{option} is a count from 1"):
            RandomFeatureExtractor(**{option: 0})


def test_a_module_of_two_functions_has_the_rows_of_both() -> None:
    f, g = kernels.get("gelu").build(m=4, n=4), kernels.get("matmul").build(m=4, n=4, k=4)
    mod = IRModule({"f": f, "g": g})
    context = TuneContext(mod, target=TARGETS["llvm"])
    (x,) = PerStoreFeature().extract_from(context, [MeasureCandidate(Schedule(mod), [])])
    assert len(x) == len(rows_of(f)) + len(rows_of(g))
