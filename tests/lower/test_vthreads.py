"""Virtual threads take turns only where they differ; what conditions say of sums is known where
they hold; pragmas of thread-bound loops reach the code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir import build
from gputune.ir.nodes import Alloc, For, IntImm, PrimFunc, Var
from gputune.ir.walk import walk_stmt
from gputune.lower import linear as lin
from gputune.lower.gpu import lower_gpu
from gputune.schedule import Schedule
from gputune.script import tir as T


@T.prim_func
def mm(
    A: T.Buffer((32, 32), "float32"),
    B: T.Buffer((32, 32), "float32"),
    C: T.Buffer((32, 32), "float32"),
):
    for i, j, k in T.grid(32, 32, 32):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


def tiled(vthreads: int = 4, vector: int = 4, pragma: int = 0) -> PrimFunc:
    """Rows over virtual threads, columns over threads, both operands fetched together."""
    sch = Schedule(mm, seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, iv, i1 = sch.split(i, [2, vthreads, None])
    j0, j1 = sch.split(j, [2, 16])
    k0, k1 = sch.split(k, [4, 8])
    sch.reorder(i0, j0, iv, j1, k0, k1, i1)
    grid = sch.fuse(i0, j0)
    sch.bind(grid, "blockIdx.x")
    sch.bind(iv, "vthread.x")
    sch.bind(j1, "threadIdx.x")
    back = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(back, j1)
    for operand in (0, 1):
        tile = sch.cache_read(block, operand, "shared")
        sch.compute_at(tile, k0)
        fetch = sch.fuse(*sch.get_loops(tile)[-2:])
        _, tx, v = sch.split(fetch, [None, 16, vector])
        sch.bind(tx, "threadIdx.x")
        sch.vectorize(v)
    sch.decompose_reduction(block, k0)
    if pragma:
        sch.annotate(grid, "pragma_auto_unroll_max_step", pragma)
    return sch.mod["mm"]


def check(func: PrimFunc) -> str:
    """What host execution computes, against NumPy; the source."""
    source = generate(func)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (32, 32)).astype(np.float32) for _ in range(2))
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None}, order="random", seed=1)
    assert not report.findings
    np.testing.assert_array_equal(report.outputs["C"].reshape(32, 32), a @ b)
    return source.text


@pytest.mark.parametrize("vthreads", [1, 2, 4, 16])
def test_tiles_are_fetched_once_for_all_virtual_threads(vthreads: int) -> None:
    func = tiled(vthreads)
    text = check(func)
    arrays = dict(re.findall(r"float (\w+)\[(\d+)\];", text))
    # a tile holds what all virtual threads read, and each has accumulators of its own
    assert arrays == {"A_shared": "128", "B_shared": "128", "C_local": "16"}
    (kernel,) = lower_gpu(func).kernels
    k0 = next(s for s in walk_stmt(kernel.func.body) if type(s) is For and s.var.name == "k_0")
    above = text[: text.index(f"for (int {k0.var.name}")]
    assert "for (int i_1" not in above.split("C_local[16];")[0]  # no loop around everything


def test_an_accumulator_gets_an_axis() -> None:
    (kernel,) = lower_gpu(tiled(4)).kernels
    (local,) = [
        s.buffer
        for s in walk_stmt(kernel.func.body)
        if type(s) is Alloc and s.buffer.scope == "local"
    ]
    assert [int(n.value) for n in local.shape] == [4, 4, 1]  # type: ignore[union-attr]  # constant


def test_what_virtual_threads_exchange_stays_in_turns() -> None:
    """Each virtual thread fills the same elements of shared memory with values of its own."""

    @T.prim_func
    def rotated(A: T.Buffer((4, 16), "float32"), B: T.Buffer((4, 16), "float32")):
        for _b in T.thread_binding(1, thread="blockIdx.x"):
            for v in T.thread_binding(4, thread="vthread.x"):
                for t in T.thread_binding(16, thread="threadIdx.x"):
                    with T.block("turn"):
                        vv, vt = T.axis.remap("SS", [v, t])
                        T.reads(A[vv, 0:16])
                        T.writes(B[vv, 0:16])
                        S = T.alloc_buffer((16,), "float32", scope="shared")
                        with T.block("fill"):
                            S[vt] = A[vv, vt]
                        with T.block("drain"):
                            B[vv, vt] = S[(vt + 1) % 16]

    source = generate(rotated)
    a = np.arange(64, dtype=np.float32).reshape(4, 16)
    report = host_run(host_compile(source), {"A": a, "B": None}, order="reverse", seed=1)
    assert not report.findings
    np.testing.assert_array_equal(report.outputs["B"].reshape(4, 16), np.roll(a, -1, axis=1))


def test_pragmas_of_thread_loops_reach_the_code() -> None:
    plain, unrolled = check(tiled(4)), check(tiled(4, pragma=64))
    assert unrolled.count("#pragma unroll") > plain.count("#pragma unroll")


# ----------------------------------------------------------------------------- conditions
def test_a_last_round_that_is_not_full_keeps_its_vectors_and_its_tile() -> None:
    @T.prim_func
    def copy(A: T.Buffer((64, 12), "float32"), B: T.Buffer((64, 12), "float32")):
        for i, j in T.grid(64, 12):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj]

    sch = Schedule(copy, seed=1)
    block = sch.get_block("B")
    i, j = sch.get_loops(block)
    i0, i1 = sch.split(i, [8, 8])
    sch.bind(i0, "blockIdx.x")
    sch.bind(i1, "threadIdx.x")
    tile = sch.cache_read(block, 0, "shared")
    sch.compute_at(tile, i0)
    _, tx, v = sch.split(sch.fuse(*sch.get_loops(tile)[-2:]), [None, 8, 4])  # 96 of 3 * 32
    sch.bind(tx, "threadIdx.x")
    sch.vectorize(v)
    assert "if (" not in generate(sch.mod["copy"]).text
    sch = Schedule(copy, seed=1)
    block = sch.get_block("B")
    i, j = sch.get_loops(block)
    i0, i1 = sch.split(i, [8, 8])
    sch.bind(i0, "blockIdx.x")
    _, j1 = sch.split(j, [None, 5])
    sch.bind(j1, "threadIdx.x")
    tile = sch.cache_read(block, 0, "shared")
    sch.compute_at(tile, i0)
    _, tx, v = sch.split(sch.fuse(*sch.get_loops(tile)[-2:]), [None, 5, 4])  # 96 of 5 * 20
    sch.bind(tx, "threadIdx.x")
    sch.vectorize(v)
    source = generate(sch.mod["copy"])
    assert "float A_shared[96];" in source.text  # not 100
    assert "gt_vec<float, 4> A_v = " in source.text
    assert re.search(r"if \(ax0_ax1_fused_0 \* 5 \+ thread_x < 24\)", source.text)
    a = np.arange(64 * 12, dtype=np.float32)
    report = host_run(host_compile(source), {"A": a, "B": None}, order="reverse", seed=1)
    assert not report.findings
    np.testing.assert_array_equal(report.outputs["B"].ravel(), a)


def test_coarser_conditions() -> None:
    x, lane = Var("x"), Var("lane")
    dom = {x: (0, 99), lane: (0, 3)}
    total = build.add(build.mul(x, IntImm(4)), lane)

    def shown(n: int) -> str:
        return str(lin.coarser(build.lt(total, IntImm(n)), dom))

    assert shown(48) == "x < 12"
    assert shown(50) == "x * 4 + lane < 50"  # the lanes of the last group differ
    for n in range(60):
        cond = lin.coarser(build.lt(total, IntImm(n)), dom)
        form = lin.below_zero(cond, dom)
        assert form is not None
        for a in range(20):
            for b in range(4):
                value = form.const + form.coef(x) * a + form.coef(lane) * b
                assert (value < 0) == (4 * a + b < n)


def test_sums_are_bounded_where_a_condition_holds() -> None:
    x, y = Var("x"), Var("y")
    dom = {x: (0, 9), y: (0, 9)}
    total = build.add(build.mul(x, IntImm(10)), y)
    inside = lin.within(build.lt(total, IntImm(30)), dom)
    assert lin.interval(build.add(total, IntImm(5)), inside) == (5, 34)
    assert lin.interval(total, dom) == (0, 99)
    assert not lin.linear(build.floordiv(total, IntImm(30)), inside).terms  # it is 0
    assert lin.within(build.lt(x, IntImm(4)), dom)[x] == (0, 3)
    further = lin.inside(inside, Var("z"), (0, 1))
    assert lin.interval(total, further) == (0, 29)
