"""Tiles on a GPU beyond MetaSchedule's: fetches that run ahead, operands that are turned and
padded, sums in parts, transposed data through shared memory; widths of fetches that are proved."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from test_cuda_rules import bound, on_gpu, ruled
from test_cuda_space import check, cuda_context, drawn, needs_compiler, sketches_of

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import UserError
from gputune.ir.nodes import Alloc, Buffer, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.kernels import KERNELS
from gputune.lower.barriers import is_barrier
from gputune.lower.gpu import lower_gpu
from gputune.meta_schedule.gpu_machine import GpuMachine
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc import RewriteCooperativeFetch
from gputune.meta_schedule.schedule_rule import (
    CUDA,
    MultiLevelTiling,
    ReuseType,
    SplitSums,
    TransposingTile,
)
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.codegen.cuda_programs import needs_nvrtc

SETTINGS: dict[str, Any] = {
    "structure": "SSSRRSRS", "tile_binds": ["blockIdx.x", "vthread.x", "threadIdx.x"],
    "max_innermost_factor": 16, "vector_load_lens": [1, 2, 4],
    "reuse_read": ReuseType("must", [4], "shared"), "reuse_write": ReuseType("must", [3], "local"),
}  # fmt: skip


def built(name: str, dtype: str = "float32", **shape: int) -> PrimFunc:
    return KERNELS[name].build(shape or None, dtype)


def sampled(sketch: Sketch, seed: int, count: int = 2048) -> list[PrimFunc]:
    """The programs of the valid ones among random candidates."""
    rows = drawn(sketch, count, seed)
    out = []
    for k in np.flatnonzero(sketch.evaluate(rows).valid):
        out += [f for f in sketch.materialise(rows[k]).mod.functions.values()]
        if len(out) == 12:
            break
    return out  # type: ignore[return-value]  # there are no other functions


def shared(func: PrimFunc) -> list[Buffer]:
    """The arrays in shared memory of its first kernel."""
    body = lower_gpu(func).kernels[0].func.body
    return [
        s.buffer for s in walk_stmt(body)
        if type(s) is Alloc and s.buffer.scope.startswith("shared")
    ]  # fmt: skip


# ----------------------------------------------------------------------------- ahead
def test_fetches_run_ahead_where_the_decision_says_so() -> None:
    (sketch, _) = sketches_of(built("matmul", m=64, n=64, k=512))
    seen = {True: 0, False: 0}
    for func in sampled(sketch, 1) + sampled(sketch, 2):
        text = func.script()
        runs_ahead = '"software_pipeline_stage": (0, 0, 1)' in text
        assert runs_ahead or '"software_pipeline_stage": (0, 0, 0)' in text
        arrays = shared(func)
        body = lower_gpu(func).kernels[0].func.body
        barriers = sum(map(is_barrier, walk_stmt(body)))
        several = any(len(b.shape) == 3 for b in arrays)
        assert several <= runs_ahead  # (a loop of one step has nothing to be ahead of)
        if several:
            assert barriers == 1
        seen[several] += 1
    assert min(seen.values()) >= 2, seen


def test_the_model_knows_what_running_ahead_costs_and_gives() -> None:
    """The same tiles: twice the shared memory, more registers, half the barriers, less waiting."""
    from gputune.meta_schedule.gpu_layout import describe_gpu
    from gputune.meta_schedule.gpu_model import GPU_COLUMNS, column, gpu_features

    def features(ahead: int) -> Any:
        sch = Schedule(built("matmul", m=512, n=512, k=512), seed=1)
        c = sch.get_block("C")
        i, j, k = sch.get_loops(c)
        local = sch.cache_write(c, 0, "local")
        i0, i1, i2 = sch.split(i, [None, 16, 4])
        j0, j1, j2 = sch.split(j, [None, 8, 8])
        k0, k1 = sch.split(k, [None, 16])
        sch.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
        sch.bind(sch.fuse(i0, j0), "blockIdx.x")
        thread = sch.fuse(i1, j1)
        sch.bind(thread, "threadIdx.x")
        sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
        for buffer in ("A", "B"):
            copy = sch.cache_read(c, buffer, "shared")
            sch.compute_at(copy, k0, preserve_unit_loops=True)
            sch.fuse(*sch.get_loops(copy)[-2:])
            sch.annotate(copy, "meta_schedule.cooperative_fetch", 4)
        sch.annotate(k0, "software_pipeline_stage", [0, 0, ahead])
        assert RewriteCooperativeFetch().apply(sch)
        facts: list[int] = []
        layout = describe_gpu(sch.mod, facts)
        out = np.zeros((len(GPU_COLUMNS), 1))
        gpu_features(layout, np.array([facts], float).T, GpuMachine.named("sm_90"), out)
        return {n: out[column(f"kernel0.{n}"), 0] for n in (
            "shared_bytes", "registers", "barriers", "latency_ns")}  # fmt: skip

    plain, ahead = features(0), features(1)
    assert ahead["shared_bytes"] == 2 * plain["shared_bytes"]
    assert ahead["registers"] == plain["registers"] + 2 * (64 * 16 // 128)
    assert ahead["barriers"] == plain["barriers"] / 2
    assert ahead["latency_ns"] < plain["latency_ns"]


# ----------------------------------------------------------------------------- layouts
def test_operands_along_the_sum_are_turned_in_a_sketch() -> None:
    """A lies along k, B along j; for a layer with weights (outputs, inputs) both lie along k."""
    plain, turned = cuda_context(built("matmul", m=64, n=64, k=64)).generate_design_space()
    assert "transform_layout" not in str(plain.trace)
    assert str(turned.trace).count("transform_layout") == 1
    # the rows of A are padded or not, in both
    assert str(plain.trace).count("buffer_dim_align") == 1
    assert str(turned.trace).count("buffer_dim_align") == 1

    @T.prim_func
    def layer(
        X: T.Buffer((32, 64), "float32"),
        W: T.Buffer((48, 64), "float32"),
        Y: T.Buffer((32, 48), "float32"),
    ):
        for i, j, k in T.grid(32, 48, 64):
            with T.block("Y"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    Y[vi, vj] = T.float32(0)
                Y[vi, vj] = Y[vi, vj] + X[vi, vk] * W[vj, vk]

    _, turned = cuda_context(layer).generate_design_space()
    assert str(turned.trace).count("transform_layout") == 2


def test_rows_are_padded_by_a_decision() -> None:
    _, sketch = sketches_of(built("matmul", m=64, n=64, k=64))
    pads = set()
    for func in sampled(sketch, 2):
        a = next(b for b in shared(func) if b.name.startswith("A"))
        rows = int(a.shape[-1].value)  # type: ignore[union-attr]  # constant
        if a.strides is not None:
            stride = int(a.strides[-2].value)  # type: ignore[union-attr]  # constant
            assert stride % 4 == 0  # what a thread takes at once is aligned
            assert rows <= stride < rows + 8
            pads.add(stride % 8)
    assert pads == {0, 4}


def test_no_shared_memory_for_what_is_used_once() -> None:
    """Depthwise: the weights are the same for all pixels, the data only for neighbours."""
    cached, plain = cuda_context(built("depthwise_conv2d")).generate_design_space()
    assert str(cached.trace).count("cache_read") == 2
    assert str(plain.trace).count("cache_read") == 1


@needs_compiler
def test_turned_and_padded_tiles_have_fewer_bank_conflicts() -> None:
    """16 x 16 threads with 4 x 4 results each: a step of the sum takes 4 elements of A at once."""

    def conflicts(turn: bool, pad: int) -> tuple[int, int]:
        sch = Schedule(built("matmul", m=64, n=64, k=64), seed=1)
        c = sch.get_block("C")
        i, j, k = sch.get_loops(c)
        local = sch.cache_write(c, 0, "local")
        i0, i1, i2 = sch.split(i, [1, 16, 4])
        j0, j1, j2 = sch.split(j, [1, 16, 4])
        k0, k1 = sch.split(k, [None, 16])
        sch.reorder(i0, j0, j1, i1, k0, k1, i2, j2)
        sch.bind(sch.fuse(i0, j0), "blockIdx.x")
        thread = sch.fuse(j1, i1)
        sch.bind(thread, "threadIdx.x")
        sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
        for buffer in ("A", "B"):
            copy = sch.cache_read(c, buffer, "shared")
            if turn and buffer == "A":
                sch.transform_layout(copy, ("write", 0), lambda x, y: (y, x))
            sch.compute_at(copy, k0, preserve_unit_loops=True)
            fused = sch.fuse(*sch.get_loops(copy)[-2:])
            _, threads = sch.split(fused, [None, 256])
            sch.bind(threads, "threadIdx.x")
            if pad and buffer == "A":
                sch.storage_align(copy, 0, -2, 8, pad)
        sch.decompose_reduction(c, k0)
        source = generate(next(iter(sch.mod.functions.values())))
        rng = np.random.default_rng(0)
        a, b = (rng.random(64 * 64, np.float32) for _ in range(2))
        report = host_run(host_compile(source), {"A": a, "B": b, "C": None})
        assert not report.findings
        (figures,) = report.kernels.values()
        return figures.shared_requests, figures.bank_conflicts

    plain, turned, padded = conflicts(False, 0), conflicts(True, 0), conflicts(True, 4)
    assert turned[1] < plain[1] / 2
    assert padded[1] <= turned[1]


# ----------------------------------------------------------------------------- sums in parts
def test_long_sums_of_few_results_are_also_cut() -> None:
    func = built("matmul", m=64, n=64, k=4096)
    whole, *_, parts, _ = cuda_context(func).generate_design_space()
    found = [s for s in cuda_context(func).generate_design_space() if "rfactor" in str(s.trace)]
    assert len(found) == 2  # with A as it is, and turned
    for sch in found:
        axes = [axis for axis, _ in bound(sch)]
        assert axes.count("blockIdx.y") == 1
        assert axes.count("blockIdx.x") == 2  # the parts, and what adds them
    assert whole is not parts


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"m": 64, "n": 64, "k": 512}, "the sum is short"),
        ({"m": 2048, "n": 2048, "k": 2048}, "there are tiles enough"),
    ],
)
def test_other_products_are_not(shape: dict[str, int], why: str) -> None:
    (sch,) = ruled(SplitSums(**SETTINGS), built("matmul", **shape), "C")
    assert "rfactor" not in str(sch.trace), why


@needs_compiler
def test_parts_compute_the_same() -> None:
    shape = {"m": 5, "n": 12, "k": 1024}
    orders = itertools.cycle(("forward", "reverse", "random"))
    seen = 0
    for sketch in sketches_of(built("matmul", **shape)):
        if not any(i.kind.name == "RFactor" for i in sketch.trace.insts):
            continue
        for func in sampled(sketch, 5)[:3]:
            assert len(lower_gpu(func).kernels) == 2
            check("matmul", shape, func, next(orders))
            seen += 1
    assert seen == 6


# ----------------------------------------------------------------------------- transposed data
def turned(name: str, block: str, **shape: int) -> list[Schedule]:
    return ruled(TransposingTile(), built(name, **shape), block)


def test_transposed_data_goes_through_shared_memory() -> None:
    (sch,) = turned("transpose", "B", m=128, n=256)
    assert [axis for axis, _ in bound(sch)] == ["blockIdx.x", "threadIdx.x"]
    assert 'storage_scope="shared"' in str(sch.trace)
    assert RewriteCooperativeFetch().apply(sch)
    assert [axis for axis, _ in bound(sch)] == ["blockIdx.x", "threadIdx.x", "threadIdx.x"]


@pytest.mark.parametrize(
    ("name", "block", "shape", "why"),
    [
        ("transpose", "B", {"m": 8, "n": 256}, "rows are short"),
        ("bias_relu", "Y", {"m": 64, "n": 64}, "it goes along memory"),
        ("matmul", "C", {"m": 64, "n": 64, "k": 64}, "a reduction"),
    ],
)
def test_it_leaves_alone(name: str, block: str, shape: dict[str, int], why: str) -> None:
    (sch,) = turned(name, block, **shape)
    assert "cache_read" not in str(sch.trace), why


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8"])
@needs_compiler
def test_both_sides_go_along_memory_without_bank_conflicts(dtype: str) -> None:
    """32 x 32 and 64 x 64 elements: a row of threads meets in no bank, on either side."""

    @T.prim_func
    def turn(A: T.Buffer((128, 64), dtype), B: T.Buffer((64, 128), dtype)):
        for j, i in T.grid(64, 128):
            with T.block("B"):
                vj, vi = T.axis.remap("SS", [j, i])
                B[vj, vi] = A[vi, vj]

    (sketch,) = sketches_of(turn)
    a = np.random.default_rng(1).integers(-9, 9, (128, 64)).astype(dtype)
    seen = 0
    for func in sampled(sketch, 3):
        source = generate(func)
        report = host_run(host_compile(source), {"A": a.ravel(), "B": None}, order="random")
        assert not report.findings, source.text
        np.testing.assert_array_equal(report.outputs["B"].reshape(64, 128), a.T)
        (figures,) = report.kernels.values()
        side = shared(func)[0].shape[-1]
        if int(side.value) >= 32:  # type: ignore[union-attr]  # constant
            assert figures.bank_conflicts == 0, source.text
            seen += 1
    assert seen >= 2


@needs_compiler
@pytest.mark.parametrize(("m", "n"), [(16, 16), (17, 31), (100, 33), (64, 65)])
def test_what_sticks_out_is_left_out(m: int, n: int) -> None:
    orders = itertools.cycle(("forward", "reverse", "random"))
    (sketch,) = sketches_of(built("transpose", m=m, n=n))
    for func in sampled(sketch, 4)[:6]:
        check("transpose", {"m": m, "n": n}, func, next(orders))


@needs_compiler
def test_channels_first_and_last() -> None:
    @T.prim_func
    def nhwc(A: T.Buffer((2, 20, 3, 18), "float32"), B: T.Buffer((2, 3, 18, 20), "float32")):
        for n, h, w, c in T.grid(2, 3, 18, 20):
            with T.block("B"):
                vn, vh, vw, vc = T.axis.remap("SSSS", [n, h, w, c])
                B[vn, vh, vw, vc] = A[vn, vc, vh, vw] * T.float32(2)

    (sketch,) = sketches_of(nhwc)
    a = np.random.default_rng(1).integers(-9, 9, (2, 20, 3, 18)).astype(np.float32)
    for func in sampled(sketch, 4)[:4]:
        report = host_run(
            host_compile(generate(func)), {"A": a.ravel(), "B": None}, order="reverse"
        )
        assert not report.findings
        np.testing.assert_array_equal(
            report.outputs["B"].reshape(2, 3, 18, 20), 2 * a.transpose(0, 2, 3, 1)
        )


@pytest.mark.parametrize("kw", [{"sides": []}, {"sides": [0]}, {"thread_extents": ["x"]}])
def test_settings_that_make_no_sense(kw: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(kw))):
        TransposingTile(**kw)
    with pytest.raises(UserError, match="0 or more steps ahead"):
        MultiLevelTiling("SRS", ahead=[-1])


# ----------------------------------------------------------------------------- widths
@pytest.mark.parametrize(
    ("rows", "length", "wanted", "lanes"),
    [(16, 16, 4, 4), (16, 6, 4, 1), (16, 6, 2, 2), (16, 7, 2, 1)],
)
def test_the_width_of_a_fetch_is_proved(rows: int, length: int, wanted: int, lanes: int) -> None:
    """A thread moves several elements at once only where rows are multiples of that."""

    @T.prim_func
    def rows_of(A: T.Buffer((rows, length), "float32"), B: T.Buffer((rows, length), "float32")):
        for i, j in T.grid(rows, length):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] + T.float32(1)

    sch = Schedule(rows_of, seed=1)
    b = sch.get_block("B")
    i, _ = sch.get_loops(b)
    grid = sch.add_unit_loop(i)
    sch.bind(grid, "blockIdx.x")
    sch.bind(i, "threadIdx.x")
    copy = sch.cache_read(b, "A", "shared")
    sch.compute_at(copy, grid)
    sch.fuse(*sch.get_loops(copy)[-2:])
    sch.annotate(copy, "meta_schedule.cooperative_fetch", wanted)
    assert on_gpu(RewriteCooperativeFetch(), rows_of).apply(sch)
    last = sch.get(sch.get_loops(sch.get_block("A_shared"))[-1])
    assert (last.kind, int(last.extent.value)) == ("vectorized", lanes)  # type: ignore[union-attr]


@pytest.mark.parametrize(("n", "tile", "lanes"), [(64, 8, 4), (64, 2, 2), (66, 6, 2), (63, 3, 1)])
def test_a_thread_stores_in_vectors_where_rows_allow_it(n: int, tile: int, lanes: int) -> None:
    sch = Schedule(built("matmul", m=16, n=n, k=16), seed=1)
    c = sch.get_block("C")
    i, j, _ = sch.get_loops(c)
    j0, _ = sch.split(j, [None, tile])
    local = sch.cache_write(c, 0, "local")
    sch.bind(i, "blockIdx.x")
    sch.bind(j0, "threadIdx.x")
    sch.reverse_compute_at(local, j0, preserve_unit_loops=True)
    sch.annotate(local, "meta_schedule.cooperative_fetch", 4)
    assert RewriteCooperativeFetch().apply(sch)
    last = sch.get(sch.get_loops(local)[-1])
    assert (last.kind, int(last.extent.value)) == ("vectorized", lanes)  # type: ignore[union-attr]
    assert [axis for axis, _ in bound(sch)] == ["blockIdx.x", "threadIdx.x"]


# ----------------------------------------------------------------------------- odd kernels
ODD: list[tuple[str, dict[str, int]]] = [
    ("matmul", {"m": 127, "n": 33, "k": 65}),
    ("batch_matmul", {"b": 3, "m": 17, "n": 19, "k": 23}),
    ("conv2d", {"n": 1, "h": 7, "w": 19, "ci": 17, "co": 5}),
    ("depthwise_conv2d", {"n": 1, "h": 9, "w": 9, "c": 37, "kernel": 3, "padding": 1}),
    ("conv2d_transpose", {"n": 1, "h": 5, "w": 5, "ci": 3, "co": 19, "kernel": 4}),
]


@needs_compiler
@pytest.mark.parametrize(("name", "shape"), ODD, ids=[n for n, _ in ODD])
def test_odd_sizes_compute_the_same(name: str, shape: dict[str, int]) -> None:
    orders = itertools.cycle(("forward", "reverse", "random"))
    full = {**KERNELS[name].check_shapes[0], **shape}
    seen = 0
    for sketch in sketches_of(KERNELS[name].build(full, "float32")):
        for func in sampled(sketch, 9)[:3]:
            check(name, full, func, next(orders))
            seen += 1
    assert seen >= 3


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120"])
def test_candidates_compile(arch: str) -> None:
    for name in ("matmul", "transpose"):
        for sketch in sketches_of(built(name)):
            func = sampled(sketch, 6, 256)[0]
            (facts,) = compile_cuda(generate(func), arch).facts.values()
            (usage,) = kernels_of(func)
            asked = usage.shared_bytes > 48 << 10  # for at the launch, not declared
            assert asked or 0 <= usage.shared_bytes - facts.shared_bytes < 16


def test_no_sketch_of_a_convolution_pads_in_a_kernel_of_its_own() -> None:
    for name in ("conv1d", "conv2d", "conv3d", "depthwise_conv2d", "conv2d_transpose"):
        for sch in cuda_context(built(name)).generate_design_space():
            (func,) = sch.mod.functions.values()
            assert len(kernels_of(func)) == 1, name  # type: ignore[arg-type]  # a function


def test_the_default_rules_say_so() -> None:
    assert [type(r) for r in CUDA].count(SplitSums) == 1
