"""The rules and postprocs that only GPUs have: what each does, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from space_programs import chain, linear0, matmul, row_sum

import gputune as gt
import gputune.meta_schedule as ms
from gputune.errors import ScheduleError, UserError
from gputune.ir.nodes import Block, For, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.meta_schedule.gpu_usage import KernelUsage, kernels_of
from gputune.meta_schedule.postproc import (
    DisallowAsyncStridedMemCopy,
    RewriteCooperativeFetch,
    RewriteReductionBlock,
    RewriteUnboundBlock,
    VerifyGPUCode,
)
from gputune.meta_schedule.postproc.verify_gpu_code import faults
from gputune.meta_schedule.schedule_rule import (
    AutoBind,
    CrossThreadReduction,
    MultiLevelTiling,
    ReuseType,
    ScheduleRule,
)
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target.gpu import limits_of


def on_gpu(part: Any, func: PrimFunc, target: str = "cuda -arch=sm_80") -> Any:
    """A rule or postproc that knows the device."""
    context = ms.TuneContext(func, target=gt.Target(target), space_generator=None)
    part.initialize_with_tune_context(context)
    return part


def ruled(rule: ScheduleRule, func: PrimFunc, block: str, **kw: Any) -> list[Schedule]:
    sch = Schedule(func, seed=3, debug_mask="all")
    return list(on_gpu(rule, func, **kw).apply(sch, sch.get_block(block)))


def bound(sch: Schedule) -> list[tuple[str, int]]:
    """Axis and extent of each bound loop."""
    (func,) = sch.mod.functions.values()
    return [
        (s.thread, int(s.extent.value))  # type: ignore[union-attr]  # all are constant
        for s in walk_stmt(func.body)
        if type(s) is For and s.thread is not None
    ]


def vector_add(n: int, dtype: str = "float32") -> PrimFunc:
    @T.prim_func
    def double(A: T.Buffer((n,), dtype), B: T.Buffer((n,), dtype)):
        for i in range(n):
            with T.block("B"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi] + A[vi]

    return double


# ----------------------------------------------------------------------------- AutoBind
def test_auto_bind_fuses_the_spatial_loops() -> None:
    (sch,) = ruled(AutoBind(256, [32]), chain, "D")  # 8 x 6 points
    assert bound(sch) == [("blockIdx.x", 2), ("threadIdx.x", 32)]
    (sch,) = ruled(AutoBind(256, [8, 16, 32, 64]), chain, "D")
    assert "sample_categorical(candidates=[8, 16, 32], " in str(sch.trace)  # 64 are too many
    (sch,) = ruled(AutoBind(256, [64, 128]), chain, "D")
    assert bound(sch) == [("blockIdx.x", 1), ("threadIdx.x", 48)]  # none fits: all at once
    (sch,) = ruled(AutoBind(256), chain, "S")  # what is not spatial stays inside
    assert bound(sch) == [("blockIdx.x", 1), ("threadIdx.x", 8)]


def test_auto_bind_runs_a_long_loop_in_rounds() -> None:
    (sch,) = ruled(AutoBind(4, [8], 16), vector_add(65), "B")
    assert bound(sch) == [("blockIdx.x", 4), ("threadIdx.x", 16)]
    loops = [sch.get(x) for x in sch.get_loops(sch.get_block("B"))]
    assert [f.extent.value for f in loops] == [4, 16, 2]  # the round is the innermost
    (sch,) = ruled(AutoBind(4, [8], 16), vector_add(64), "B")  # just not too long
    assert bound(sch) == [("blockIdx.x", 8), ("threadIdx.x", 8)]


def test_auto_bind_knows_the_device() -> None:
    (sch,) = ruled(
        AutoBind(256, [32, 1024]), vector_add(5000), "B",
        target="cuda -arch=sm_80 -max-threads-per-block=64",
    )  # fmt: skip
    assert ("threadIdx.x", 32) in bound(sch)
    sch = Schedule(chain, seed=1)
    rule = AutoBind(256, [32])
    rule.initialize_with_tune_context(ms.TuneContext(chain, target="llvm", space_generator=None))
    assert not bound(rule.apply(sch, sch.get_block("D"))[0])


def test_auto_bind_of_what_has_no_spatial_loop() -> None:
    @T.prim_func
    def total(A: T.Buffer((8,), "float32"), S: T.Buffer((), "float32")):
        for k in range(8):
            with T.block("S"):
                vk = T.axis.reduce(8, k)
                with T.init():
                    S[()] = T.float32(0)
                S[()] = S[()] + A[vk]

    (sch,) = ruled(AutoBind(256, [32]), total, "S")
    assert bound(sch) == [("blockIdx.x", 1)]
    (_, shared) = ruled(CrossThreadReduction([4]), total, "S")
    (sch,) = on_gpu(AutoBind(256, [32]), total).apply(shared, shared.get_block("S"))
    assert bound(sch) == [("blockIdx.x", 1), ("threadIdx.x", 4)]


def test_auto_bind_leaves_what_is_bound() -> None:
    sch = Schedule(chain, seed=1)
    i, j = sch.get_loops(sch.get_block("D"))
    sch.bind(i, "blockIdx.x")
    (out,) = on_gpu(AutoBind(256, [32]), chain).apply(sch, sch.get_block("D"))
    assert bound(out) == [("blockIdx.x", 8)]
    sch = Schedule(chain, seed=1)
    i, j = sch.get_loops(sch.get_block("D"))
    sch.bind(j, "threadIdx.x")
    (out,) = on_gpu(AutoBind(256, [32]), chain).apply(sch, sch.get_block("D"))
    assert bound(out) == [("blockIdx.x", 8), ("threadIdx.x", 6)]
    (out,) = ruled(AutoBind(256, [32]), chain, "root")
    assert not bound(out)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoBind(0), "counted from 1"),
        (lambda: AutoBind(256, [32], 0), "counted from 1"),
        (lambda: AutoBind(256, [32, 0]), "positive integers"),
        (lambda: CrossThreadReduction([]), "no thread extents"),
        (lambda: CrossThreadReduction([True]), "positive integers"),
        (lambda: RewriteUnboundBlock(0), "from 1"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as e:
        make()
    assert e.value.code == "thread-extents"


# ----------------------------------------------------------------------------- CrossThreadReduction
def test_cross_thread_reduction_offers_both() -> None:
    plain, shared = ruled(CrossThreadReduction([4, 8]), row_sum, "S")
    assert not bound(plain)
    assert [a for a, _ in bound(shared)] == ["threadIdx.x"]
    assert "sample_categorical(candidates=[4, 8], " in str(shared.trace)
    assert "set_scope" not in str(shared.trace)  # nobody reads it: it is the result


def test_cross_thread_reduction_moves_to_its_consumer() -> None:
    _, shared = ruled(CrossThreadReduction([4]), chain, "S")
    assert bound(shared) == [("threadIdx.x", 4), ("threadIdx.x", 4)]  # of S, then of D
    (func,) = shared.mod.functions.values()
    assert {b.name: b.scope for b in func.body.alloc_buffers}["S"] == "shared"
    text = str(shared.trace)
    assert text.index("get_consumers") < text.index("compute_at") < text.index("set_scope")


def test_cross_thread_reduction_to_a_consumer_of_one_loop() -> None:
    @T.prim_func
    def scaled(A: T.Buffer((6, 32), "float32"), D: T.Buffer((6,), "float32")):
        S = T.alloc_buffer((6,), "float32")
        for i, k in T.grid(6, 32):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = S[vi] + A[vi, vk]
        for i in range(6):
            with T.block("D"):
                vi = T.axis.spatial(6, i)
                D[vi] = S[vi] * T.float32(2)

    _, shared = ruled(CrossThreadReduction([4]), scaled, "S")
    assert bound(shared) == [("threadIdx.x", 4), ("threadIdx.x", 4)]
    loops = [shared.get(x).extent.value for x in shared.get_loops(shared.get_block("S"))]
    assert loops == [2, 4, 8, 4]  # the rows of a block of the grid, each shared by 4 threads


def test_cross_thread_reduction_of_several_values() -> None:
    """All results of an argmax go to shared memory; one whose order matters is left alone."""

    def picked(payload: str) -> PrimFunc:
        func = from_source(
            f"""
@T.prim_func
def f(A: T.Buffer((6, 32), "float32"), P: T.Buffer((6, 32), "int32"), D: T.Buffer((6,), "int32")):
    V = T.alloc_buffer((6,), "float32")
    J = T.alloc_buffer((6,), "int32")
    for i, k in T.grid(6, 32):
        with T.block("V"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                J[vi] = -1
                V[vi] = T.min_value("float32")
            J[vi] = T.Select(V[vi] >= A[vi, vk], J[vi], {payload})
            V[vi] = T.max(V[vi], A[vi, vk])
    for i in range(6):
        with T.block("D"):
            vi = T.axis.spatial(6, i)
            D[vi] = J[vi] + T.Cast("int32", V[vi])
"""
        )
        assert isinstance(func, PrimFunc)
        return func

    _, shared = ruled(CrossThreadReduction([4]), picked("vk"), "V")
    assert bound(shared) == [("threadIdx.x", 4), ("threadIdx.x", 4)]
    (func,) = shared.mod.functions.values()
    assert {b.name: b.scope for b in func.body.alloc_buffers} == {"V": "shared", "J": "shared"}
    assert len(ruled(CrossThreadReduction([4]), picked("P[vi, vk]"), "V")) == 1


def test_cross_thread_reduction_needs_a_reduction_that_suits() -> None:
    rule = CrossThreadReduction([4])
    for func, block in ((matmul, "C"), (chain, "B"), (chain, "root"), (linear0, "Z")):
        assert len(ruled(rule, func, block)) == 1

    @T.prim_func
    def differences(A: T.Buffer((4, 64), "float32"), S: T.Buffer((4,), "float32")):
        for i, k in T.grid(4, 64):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = A[vi, vk] - S[vi]  # threads cannot share that

    assert len(ruled(rule, differences, "S")) == 1
    sch = Schedule(row_sum, seed=1)
    rule = CrossThreadReduction([4])
    rule.initialize_with_tune_context(ms.TuneContext(chain, target="llvm", space_generator=None))
    assert len(rule.apply(sch, sch.get_block("S"))) == 1


# ----------------------------------------------------------------------------- fetching
def fetched(width: int, threads: int = 8, dtype: str = "float32") -> tuple[Schedule, BlockRV]:
    """A product whose first operand, tiles of 16 x 16, is to be fetched together."""

    @T.prim_func
    def mm(
        A: T.Buffer((32, 32), dtype), B: T.Buffer((32, 32), dtype), C: T.Buffer((32, 32), dtype)
    ):
        for i, j, k in T.grid(32, 32, 32):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    sch = Schedule(mm, seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [2, 16])
    j0, j1 = sch.split(j, [None, threads])
    k0, k1 = sch.split(k, [2, 16])
    sch.reorder(i0, j0, j1, k0, k1, i1)
    sch.bind(i0, "blockIdx.y")
    sch.bind(j0, "blockIdx.x")
    sch.bind(j1, "threadIdx.x")
    copy = sch.cache_read(block, 0, "shared")
    sch.compute_at(copy, k0)
    sch.fuse(*sch.get_loops(copy)[-2:])
    sch.annotate(copy, "meta_schedule.cooperative_fetch", width)
    return sch, copy


@pytest.mark.parametrize(
    ("width", "threads", "dtype", "expected"),
    [
        (4, 8, "float32", [8, 8, 4]),
        (1, 8, "float32", [32, 8, 1]),
        (3, 8, "float32", [32, 8, 1]),  # 256 elements are no multiple of 3
        (4, 8, "float64", [32, 8, 1]),  # 64 bits
        (4, 24, "float32", [3, 24, 4]),  # the last round is not full
    ],
)
def test_cooperative_fetch(width: int, threads: int, dtype: str, expected: list[int]) -> None:
    sch, copy = fetched(width, threads, dtype)
    assert on_gpu(RewriteCooperativeFetch(), matmul).apply(sch)
    loops: list[LoopRV] = sch.get_loops(copy)[-3:]
    assert [sch.get(x).extent.value for x in loops] == expected
    assert sch.get(loops[1]).thread == "threadIdx.x"
    assert sch.get(loops[2]).kind == "vectorized"
    assert not sch.get(copy).annotations


def test_cooperative_fetch_without_threads() -> None:
    sch = Schedule(matmul, seed=1)
    copy = sch.cache_read(sch.get_block("C"), 0, "shared")
    sch.annotate(copy, "meta_schedule.cooperative_fetch", 4)
    p = on_gpu(RewriteCooperativeFetch(), matmul)
    assert not p.apply(sch)
    assert p.last_error.code == "fetch-threads"


def test_cooperative_fetch_along_two_axes() -> None:
    sch = Schedule(matmul, seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [None, 4])
    j0, j1 = sch.split(j, [None, 8])
    k0, k1 = sch.split(k, [None, 16])
    sch.reorder(i0, j0, i1, j1, k0, k1)
    for loop, axis in (
        (i0, "blockIdx.y"), (j0, "blockIdx.x"), (i1, "threadIdx.y"), (j1, "threadIdx.x"),
    ):  # fmt: skip
        sch.bind(loop, axis)
    copy = sch.cache_read(block, 1, "shared")
    sch.compute_at(copy, k0)
    sch.fuse(*sch.get_loops(copy)[-2:])
    sch.annotate(copy, "meta_schedule.cooperative_fetch", 2)
    assert on_gpu(RewriteCooperativeFetch(), matmul).apply(sch)
    loops = [sch.get(x) for x in sch.get_loops(copy)[-4:]]
    assert [f.extent.value for f in loops] == [2, 4, 8, 2]
    assert [f.thread for f in loops] == [None, "threadIdx.y", "threadIdx.x", None]


def test_a_warp_fetches_together() -> None:
    sch, copy = fetched(2, 8)
    sch.annotate(sch.get_block("C"), "warp_execution", 1)
    assert on_gpu(RewriteCooperativeFetch(), matmul)._threads(sch.block(copy)) == {
        "threadIdx.x": 32
    }


# ----------------------------------------------------------------------------- unbound blocks
def test_unbound_blocks_are_bound() -> None:
    p = on_gpu(RewriteUnboundBlock(256), chain)
    sch = Schedule(chain, seed=1, debug_mask="all")
    assert p.apply(sch)
    assert bound(sch) == [
        ("blockIdx.x", 1), ("threadIdx.x", 48),
        ("blockIdx.x", 1), ("threadIdx.x", 48),
        ("blockIdx.x", 1), ("threadIdx.x", 8),
        ("blockIdx.x", 1), ("threadIdx.x", 48),
    ]  # fmt: skip
    before = sch.mod
    assert p.apply(sch)
    assert sch.mod is before  # there is nothing left


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1000, [("blockIdx.x", 1), ("threadIdx.x", 1000)]),
        (3000, [("blockIdx.x", 3), ("threadIdx.x", 1024)]),
        (4096, [("blockIdx.x", 4), ("threadIdx.x", 1024)]),
        (4097, [("blockIdx.x", 4), ("threadIdx.x", 1024)]),  # in two rounds
    ],
)
def test_grids_of_unbound_blocks(n: int, expected: list[tuple[str, int]]) -> None:
    func = vector_add(n)
    sch = Schedule(func, seed=1, debug_mask="all")
    assert on_gpu(RewriteUnboundBlock(4), func).apply(sch)
    assert bound(sch) == expected
    assert len(sch.get_loops(sch.get_block("B"))) == (3 if n > 4096 else 2)


def test_shared_reductions_are_not_decomposed() -> None:
    _, shared = ruled(CrossThreadReduction([4]), row_sum, "S")
    assert RewriteReductionBlock().apply(shared)
    assert [b.name for b in walk_stmt(shared.mod["row_sum"].body) if type(b) is Block] == [
        "root",
        "S",
    ]


# ----------------------------------------------------------------------------- VerifyGPUCode
def refusal(sch: Schedule, target: str = "cuda -arch=sm_80") -> ScheduleError | None:
    p = on_gpu(VerifyGPUCode(), matmul, target)
    accepted = p.apply(sch)
    assert accepted == (p.last_error is None)
    error: ScheduleError | None = p.last_error
    return error


def refused(sch: Schedule, code: str, *words: str, target: str = "cuda -arch=sm_80") -> None:
    error = refusal(sch, target)
    assert error is not None
    assert error.code == code
    for word in words:
        assert word in error.message


def axes(n: int, **extents: int) -> Schedule:
    """An elementwise program with its innermost loops bound as told."""
    sch = Schedule(vector_add(n), seed=1)
    (i,) = sch.get_loops(sch.get_block("B"))
    loops = sch.split(i, [None, *extents.values()])
    for loop, axis in zip(loops[1:], extents, strict=True):
        sch.bind(loop, axis.replace("_", "."))
    return sch


def test_threads_of_a_block() -> None:
    assert refusal(axes(8192, threadIdx_y=32, threadIdx_x=32)) is None
    over = axes(8192, threadIdx_y=33, threadIdx_x=32)
    refused(over, "gpu-threads", "1056 threads", "at most 1024", "max_threads_per_block")
    small = "cuda -arch=sm_80 -max-threads-per-block=512"
    refused(axes(8192, threadIdx_x=513), "gpu-threads", "at most 512", target=small)
    assert refusal(axes(8192, threadIdx_x=512), small) is None


def test_threads_along_an_axis_and_grids() -> None:
    refused(axes(8192, threadIdx_z=65), "gpu-thread-axis", "threadIdx.z has 65 steps", "is 64")
    assert refusal(axes(8192, threadIdx_z=64)) is None
    refused(axes(70000, blockIdx_y=65536), "gpu-grid", "blockIdx.y has 65536", "65535")
    assert refusal(axes(70000, blockIdx_y=65535)) is None


def test_virtual_threads() -> None:
    assert refusal(axes(1024, vthread_x=8)) is None
    refused(axes(1024, vthread_x=9), "gpu-vthread", "9 virtual threads", "most is 8", "max_vthread")


def test_vector_bytes() -> None:
    def vectors(lanes: int, dtype: str = "float32") -> Schedule:
        sch = Schedule(vector_add(1024, dtype), seed=1)
        (i,) = sch.get_loops(sch.get_block("B"))
        blocks, lane = sch.split(i, [None, lanes])
        sch.bind(blocks, "blockIdx.x")
        sch.vectorize(lane)
        return sch

    assert refusal(vectors(4)) is None
    assert refusal(vectors(16, "int8")) is None
    refused(vectors(8), "gpu-vector", "32 bytes at once", "most is 16", "max_vector_bytes")
    refused(vectors(4, "float64"), "gpu-vector", "32 bytes")


@pytest.mark.parametrize(("arch", "most"), [("sm_75", 65536), ("sm_80", 166912), ("sm_90", 232448)])
def test_shared_memory(arch: str, most: int) -> None:
    """What a block can have when its launch asks, not 48 KiB."""
    assert limits_of(arch).shared_per_block == most

    def tile(n: int) -> Schedule:
        sch = Schedule(vector_add(2 * n), seed=1)
        block = sch.get_block("B")
        (i,) = sch.get_loops(block)
        i0, _ = sch.split(i, [2, n])
        sch.bind(i0, "blockIdx.x")
        sch.compute_at(sch.cache_read(block, 0, "shared"), i0)
        return sch

    target = f"cuda -arch={arch}"
    assert refusal(tile(most // 4), target) is None
    over = most // 4 + 4
    message = (f"{over * 4} bytes", f"at most {most}", "max_shared_memory_per_block", arch)
    refused(tile(over), "gpu-shared", *message, target=target)
    low = f"{target} -max-shared-memory-per-block=1024"
    refused(tile(260), "gpu-shared", "at most 1024", target=low)


def test_the_window_of_threads() -> None:
    def tiled(low: int, high: int) -> Schedule:
        sch = axes(1024, threadIdx_x=64)
        block = sch.get_block("B")
        sch.annotate(block, "meta_schedule.thread_extent_low_inclusive", low)
        sch.annotate(block, "meta_schedule.thread_extent_high_inclusive", high)
        return sch

    assert refusal(tiled(64, 64)) is None
    refused(tiled(65, 1024), "gpu-thread-window", "64 threads", "65 to 1024")
    refused(tiled(1, 63), "gpu-thread-window", "1 to 63")


def test_a_warp_counts_as_its_threads() -> None:
    sch = axes(1024, threadIdx_y=2)
    block = sch.get_block("B")
    sch.annotate(block, "warp_execution", 1)
    sch.annotate(block, "meta_schedule.thread_extent_low_inclusive", 64)
    assert refusal(sch) is None


def test_dynamic_launches_and_unknown_devices() -> None:
    usage = KernelUsage("B", dynamic=["i"])
    assert [e.code for e in faults(usage, limits_of("sm_80"))] == ["gpu-dynamic"]
    p = VerifyGPUCode()
    assert not p.apply(Schedule(matmul))
    assert p.last_error is not None
    assert p.last_error.code == "gpu-limits"


def test_what_threads_exchange_is_counted() -> None:
    """A shared-out reduction needs an element for each warp, if a row has several."""
    for threads, size in ((64, 16), (32, 0)):
        _, shared = ruled(CrossThreadReduction([threads]), row_sum, "S")
        (usage,) = kernels_of(shared.mod["row_sum"])
        assert (usage.threads, usage.shared_bytes) == (threads, size)


def test_padding_is_counted() -> None:
    sch, copy = fetched(1)
    (usage,) = kernels_of(sch.mod["mm"])
    assert usage.shared_bytes == 16 * 16 * 4
    sch.storage_align(copy, 0, -2, 32, 8)
    (usage,) = kernels_of(sch.mod["mm"])
    assert usage.shared_bytes == (15 * 40 + 16) * 4


# ----------------------------------------------------------------------------- async copies
def pipelined(transposed: bool, stages: list[int] | None) -> Schedule:
    """Tiles of 16 x 32 of A, whose rows are copied in the first stage of a pipeline."""

    @T.prim_func
    def rows(A: T.Buffer((64, 32), "float32"), B: T.Buffer((64, 32), "float32")):
        S = T.alloc_buffer((64, 32), "float32", scope="shared")
        for k in range(4):
            for i, j in T.grid(16, 32):
                with T.block("copy"):
                    vi = T.axis.spatial(64, k * 16 + i)
                    vj = T.axis.spatial(32, j)
                    S[vi, vj] = A[vi, vj]
            for i, j in T.grid(16, 32):
                with T.block("use"):
                    vi = T.axis.spatial(64, k * 16 + i)
                    vj = T.axis.spatial(32, j)
                    B[vi, vj] = S[vi, vj] + T.float32(1)

    sch = Schedule(rows, seed=1)
    k, i, j = sch.get_loops(sch.get_block("copy"))
    if transposed:
        sch.reorder(j, i)
    if stages is not None:
        sch.annotate(k, "software_pipeline_stage", [0, 1])
        sch.annotate(k, "software_pipeline_order", [0, 1])
        sch.annotate(k, "software_pipeline_async_stages", stages)
    return sch


def test_strided_copies_in_the_background_are_refused() -> None:
    p = DisallowAsyncStridedMemCopy()
    assert p.apply(pipelined(False, [0]))
    assert p.apply(pipelined(True, None))  # not in the background
    assert p.apply(pipelined(True, [1]))  # another stage
    assert not p.apply(pipelined(True, [0]))
    assert p.last_error is not None
    assert p.last_error.code == "async-strided"
    assert "block copy" in p.last_error.message


def test_part_of_each_row_is_strided() -> None:
    sch = pipelined(False, [0])
    block = sch.get_block("copy")
    _, i, j = sch.get_loops(block)
    j0, j1 = sch.split(j, [2, 16])
    sch.reorder(j0, i, j1)  # rows of 16, at a distance of 32
    assert not DisallowAsyncStridedMemCopy().apply(sch)
    sch = pipelined(False, [0])
    _, i, j = sch.get_loops(sch.get_block("copy"))
    j0, j1 = sch.split(j, [8, 4])
    sch.bind(j0, "threadIdx.x")  # each thread copies 4 neighbours at a time
    assert DisallowAsyncStridedMemCopy().apply(sch)


# ----------------------------------------------------------------------------- the tiling
def test_tiling_knows_the_device() -> None:
    def tiled(func: PrimFunc, target: str) -> str:
        rule = MultiLevelTiling(
            "SSRS", ["blockIdx.x", "threadIdx.x"], reuse_write=ReuseType("no", [], "local")
        )
        sch = Schedule(func, seed=1)
        (out,) = on_gpu(rule, func, target).apply(sch, sch.get_block("C"))
        return str(out.trace)

    text = tiled(matmul, "cuda -arch=sm_80 -max-threads-per-block=256")
    assert 'thread_extent_high_inclusive", ann_val=256' in text
    assert 'thread_extent_low_inclusive", ann_val=32' in text


def test_a_chosen_list_of_postprocs_is_used() -> None:
    context = ms.TuneContext(
        matmul,
        target=gt.Target("cuda -arch=sm_80"),
        rand_state=1,
        space_generator=ms.space_generator.PostOrderApply(postprocs=[]),
    )
    assert context.space_generator is not None
    assert context.space_generator.postprocs == []
    assert len(context.generate_design_space()) == 2
