"""Software pipelines on a GPU: what runs ahead of what, in how many versions, with how many
barriers, and that the results stay what they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import LowerError
from gputune.ir import walk
from gputune.ir.nodes import Alloc, Buffer, BufferStore, For, IfThenElse, PrimFunc, Stmt
from gputune.kernels import KERNELS
from gputune.lower.barriers import is_barrier
from gputune.lower.gpu import lower_gpu
from gputune.lower.kernels import inner
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from tests.codegen.cuda_programs import needs_nvrtc
from tests.properties.on_the_host import check_on_the_host

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)

STEPS = """
@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in T.serial({n}{notes}):
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("S"):
                    v = T.axis.spatial(64, k * 8 + t)
                    S[v] = A[v]
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, k * 8 + t)
                    B[v] = S[k * 8 + 7 - t] + T.float32(1)
"""


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def steps(n: int, **notes: Any) -> PrimFunc:
    """A loop of n steps, in which each thread takes what another one has fetched."""
    given = {f"software_pipeline_{k}": v for k, v in notes.items()}
    return parse(STEPS.format(n=n, notes=f", annotations={given}" if given else ""))


def lowered(func: PrimFunc) -> Stmt:
    (kernel,) = lower_gpu(func).kernels
    return inner(kernel.func)[1]


def all_of(s: Stmt, kind: type) -> list[Any]:
    return [x for x in walk.walk_stmt(s) if type(x) is kind]


def barriers(s: Stmt) -> int:
    return sum(map(is_barrier, walk.walk_stmt(s)))


def room(s: Stmt, scope: str = "shared") -> list[Buffer]:
    return [x.buffer for x in all_of(s, Alloc) if x.buffer.scope == scope]


def sizes(b: Buffer) -> list[int]:
    return [int(n.value) for n in b.shape]  # type: ignore[union-attr]  # constant


# ----------------------------------------------------------------------------- what it becomes
def test_two_versions_and_one_barrier_a_step() -> None:
    before, after = lowered(steps(8)), lowered(steps(8, stage=[0, 1]))
    assert barriers(before) == 2
    assert sizes(room(before)[0]) == [8]
    assert barriers(after) == 1
    assert sizes(room(after)[0]) == [2, 8]
    (loop,) = all_of(after, For)
    assert is_barrier(loop.body.items[0])


def test_loads_come_before_the_arithmetic_and_stores_after() -> None:
    body = lowered(steps(8, stage=[0, 1]))
    (loop,) = all_of(body, For)
    kinds = []
    for s in all_of(loop, BufferStore):
        loaded = [x.buffer.name for x in walk.loads(s.value)]
        kinds.append((loaded, s.buffer.name))
    assert kinds == [(["A"], "S_next"), (["S"], "B"), (["S_next"], "S")]
    assert [str(c.cond) for c in all_of(loop, IfThenElse)] == ["k + 1 < 8", "k + 1 < 8"]
    assert sizes(room(body, "local")[0]) == [1]


def test_stages_that_are_the_same_are_no_pipeline() -> None:
    assert str(lowered(steps(8, stage=[0, 0]))) == str(lowered(steps(8)))
    assert str(lowered(steps(8, stage=[3, 3], order=[0, 1]))) == str(lowered(steps(8)))


def test_a_loop_of_one_step_is_none() -> None:
    assert str(lowered(steps(1, stage=[0, 1]))) == str(lowered(steps(1)))


@pytest.mark.parametrize(("stages", "versions"), [([0, 2], 3), ([1, 4], 4), ([0, 7], 8)])
def test_further_ahead(stages: list[int], versions: int) -> None:
    (shared,) = room(lowered(steps(8, stage=stages)))
    assert sizes(shared) == [versions, 8]


def test_no_more_versions_than_steps() -> None:
    (shared,) = room(lowered(steps(3, stage=[0, 5])))
    assert sizes(shared) == [3, 8]


@needs_compiler
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("stages", [[0, 1], [0, 2], [0, 4]])
def test_they_compute_the_same(n: int, stages: list[int]) -> None:
    check_on_the_host(steps(n), steps(n, stage=stages), seed=n)


@needs_compiler
def test_a_loop_whose_length_differs_between_blocks() -> None:
    text = STEPS.replace("(1, thread", "(8, thread").replace("k * 8", "b * 8")
    text = text.replace("T.serial({n}{notes})", "T.serial(b % 3{notes})")
    plain = parse(text.format(notes=""))
    ahead = parse(text.format(notes=", annotations={'software_pipeline_stage': [0, 1]}"))
    assert (barriers(lowered(plain)), barriers(lowered(ahead))) == (2, 1)
    check_on_the_host(plain, ahead, seed=1)


# ----------------------------------------------------------------------------- tiles of a product
def product(shape: tuple[int, int, int], ahead: int) -> tuple[PrimFunc, PrimFunc]:
    """A product as it is, and in the usual tiles with the fetches so many steps ahead."""
    func = KERNELS["matmul"].build(**dict(zip("mnk", shape, strict=True)))
    sch = Schedule(func, seed=1)
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    local = sch.cache_write(c, 0, "local")
    i0, i1, i2, i3 = sch.split(i, [None, 2, 4, 2])
    j0, j1, j2, j3 = sch.split(j, [None, 1, 8, 2])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(i0, j0, i1, j1, i2, j2, k0, k1, i3, j3)
    sch.bind(sch.fuse(i0, j0), "blockIdx.x")
    sch.bind(sch.fuse(i1, j1), "vthread.x")
    thread = sch.fuse(i2, j2)
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
    for buffer in ("A", "B"):
        copy = sch.cache_read(c, buffer, "shared")
        sch.compute_at(copy, k0, preserve_unit_loops=True)
        fused = sch.fuse(*sch.get_loops(copy)[-2:])
        _, threads, lanes = sch.split(fused, [None, 32, 2])
        sch.vectorize(lanes)
        sch.bind(threads, "threadIdx.x")
    sch.decompose_reduction(c, k0)
    if ahead:
        sch.annotate(k0, "software_pipeline_stage", [0, 0, ahead])
    return func, sch.mod[func.name]


@needs_compiler
@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("shape", [(32, 32, 32), (16, 16, 4), (17, 33, 13), (1, 40, 9)])
def test_products(shape: tuple[int, int, int], ahead: int) -> None:
    check_on_the_host(*product(shape, ahead), seed=sum(shape))


def test_one_barrier_a_step_of_a_product() -> None:
    for shape in ((64, 64, 64), (16, 16, 8)):
        body = lowered(product(shape, 1)[1])
        assert barriers(body) == 1
        assert [sizes(b)[0] for b in room(body)] == [2, 2]
        assert barriers(lowered(product(shape, 0)[1])) == 2


@needs_compiler
def test_a_barrier_less_is_a_race() -> None:
    """The one barrier of a step is needed: without it, host execution finds a race."""
    _, func = product((32, 32, 32), 1)
    source = generate(func)
    assert source.text.count("__syncthreads();") == 1
    broken = replace(source, text=source.text.replace("__syncthreads();", ""))
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, 32 * 32).astype(np.float32) for _ in range(2))
    found = host_run(host_compile(broken), {"A": a, "B": b, "C": None}, order="forward").findings
    assert any("race" in f.kind for f in found)


# ----------------------------------------------------------------------------- refusals
CARRIED = """
@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    W = T.alloc_buffer((8,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in T.serial(8, annotations={"software_pipeline_stage": [0, 1]}):
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("W"):
                    v = T.axis.spatial(8, t)
                    r = T.axis.reduce(8, k)
                    with T.init():
                        W[v] = T.float32(0)
                    W[v] = W[v] + A[r * 8 + v]
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, k * 8 + t)
                    B[v] = W[v % 8]
"""


@pytest.mark.parametrize(
    ("func", "what"),
    [
        (lambda: steps(8, stage=[0, 0, 1]), "has 2 statements, for which there are 3 stages"),
        (lambda: steps(8, stage=[0, 1], order=[0]), "1 places in the order"),
        (lambda: steps(8, stage=[0, 1], order=[0, 2]), r"the order \[0, 2\]"),
        (lambda: steps(8, stage=[0, -1]), r"the stages \[0, -1\]"),
        (lambda: steps(8, stage=[1, 0]), "stages 1 and 0 that both use S"),
        (lambda: steps(8, stage=[0, 0], order=[1, 0]), "stages 0 and 0 that both use S"),
        (lambda: parse(CARRIED), "that both use W, which outlives an iteration"),
    ],
)  # fmt: skip
def test_refused(func: Any, what: str) -> None:
    with pytest.raises(LowerError, match=what) as e:
        lower_gpu(func())
    assert e.value.code == "pipeline"
    assert "loop k" in e.value.message
    assert e.value.hint


def test_only_loops_whose_steps_follow_each_other() -> None:
    text = STEPS.replace("T.serial(", "T.vectorized(")
    notes = ", annotations={'software_pipeline_stage': [0, 1]}"
    with pytest.raises(LowerError, match="which is to be a pipeline, is vectorized"):
        lower_gpu(parse(text.format(n=8, notes=notes)))


def test_a_cpu_runs_the_loop_as_it_is() -> None:
    func = KERNELS["matmul"].build(m=8, n=8, k=8)
    sch = Schedule(func, seed=1)
    copy = sch.cache_read(sch.get_block("C"), "A", "global")
    k = sch.get_loops(sch.get_block("C"))[-1]
    sch.compute_at(copy, k)
    sch.annotate(k, "software_pipeline_stage", [0, 1])
    a, b = (np.random.default_rng(s).integers(-4, 5, (8, 8)).astype(np.float32) for s in (1, 2))
    out = np.full((8, 8), np.nan, np.float32)
    build(sch.mod, "llvm -num-cores=1")[func.name](a, b, out)
    np.testing.assert_array_equal(out, a @ b)


# ----------------------------------------------------------------------------- machine code
@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120"])
def test_registers_are_enough(arch: str) -> None:
    """64 x 64 results of 128 threads, 16 steps of the sum at a time: nothing is spilled."""
    func = KERNELS["matmul"].build(m=512, n=512, k=512)
    sch = Schedule(func, seed=1)
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
        fused = sch.fuse(*sch.get_loops(copy)[-2:])
        _, threads, lanes = sch.split(fused, [None, 128, 4])
        sch.vectorize(lanes)
        sch.bind(threads, "threadIdx.x")
    sch.decompose_reduction(c, k0)
    sch.annotate(k0, "software_pipeline_stage", [0, 0, 1])
    sch.annotate(sch.get_loops(c)[0], "pragma_auto_unroll_max_step", 1024)
    source = generate(sch.mod[func.name])
    assert source.text.count("__syncthreads();") == 1
    (facts,) = compile_cuda(source, arch).facts.values()
    assert (facts.stack_bytes, facts.spill_loads, facts.spill_stores) == (0, 0, 0)
    assert facts.registers <= 128
    assert facts.mix["BAR"] == 1
    assert facts.shared_bytes == 2 * (64 * 16 + 16 * 64) * 4
