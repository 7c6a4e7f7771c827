from __future__ import annotations

import threading

import numpy as np
import pytest

from gputune.errors import BuildError, LowerError, RunError, TargetError
from gputune.ir.nodes import IRModule
from gputune.runtime.devices import cpu, cuda
from gputune.runtime.evaluator import BenchmarkResult
from gputune.runtime.module import build
from gputune.runtime.ndarray import array, empty
from gputune.runtime.pool import WorkerPool
from gputune.runtime.requests import build_request, check_request, run_request
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target import Target


@T.prim_func
def mm(
    A: T.Buffer((16, 32), "float32"),
    B: T.Buffer((32, 8), "float32"),
    C: T.Buffer((16, 8), "float32"),
):
    T.func_attr({"global_symbol": "mm", "tir.noalias": True})
    for i, j, k in T.grid(16, 8, 32):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func
def twice(A: T.Buffer((64,), "int32"), B: T.Buffer((64,), "int32")):
    T.func_attr({"global_symbol": "twice"})
    for i in T.parallel(64):
        with T.block("B"):
            vi = T.axis.spatial(64, i)
            B[vi] = A[vi] * 2


@T.prim_func
def grow(a: T.handle, b: T.handle, s: T.float32):
    T.func_attr({"global_symbol": "grow"})
    n = T.int32()
    A = T.match_buffer(a, (n, 4), "float32")
    B = T.match_buffer(b, (n, 4), "float32")
    for i, j in T.grid(n, 4):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * s


def inputs():
    rng = np.random.default_rng(0)
    a, b = rng.random((16, 32), "float32"), rng.random((32, 8), "float32")
    return a, b, np.full((16, 8), np.nan, "float32")


def test_build_call_and_time():
    lib = build(mm, "llvm -num-cores 1")
    a, b, c = inputs()
    lib["mm"](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    timer = lib.time_evaluator("main", cpu(), number=10, repeat=3)
    result = timer(array(a), array(b), empty((16, 8)))
    assert isinstance(result, BenchmarkResult)
    assert len(result.results) == 3
    assert 0 < result.mean < 1e-2
    assert repr(lib).startswith("Module(mm(A: float32[16, 32], ")


def test_what_can_be_built():
    a, b, c = inputs()
    for mod in (
        mm,
        IRModule({"main": mm}),
        type("Scheduled", (), {"mod": IRModule({"main": mm})})(),
    ):
        lib = build(mod)
        c[:] = np.nan
        lib["main"](a, b, c)
        np.testing.assert_allclose(c, a @ b, rtol=1e-5)
    assert list(build(mm, name="renamed")) == ["renamed"]


def test_several_functions():
    lib = build(IRModule({"mm": mm, "twice": twice}))
    assert list(lib) == ["mm", "twice"]
    assert "twice" in lib
    x, y = np.arange(64, dtype="int32"), np.zeros(64, "int32")
    lib["twice"](x, y)
    assert np.array_equal(y, x * 2)
    with pytest.raises(
        RunError, match=r"no function named 'main' in this module \(it has: mm, twice"
    ):
        lib["main"]
    with pytest.raises(RunError, match="calling a module needs a module of one function"):
        lib(x, y)
    build(twice)(x, y)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_parallel_loops(cores):
    lib = build(twice, f"llvm -num-cores {cores}")
    x, y = np.arange(64, dtype="int32"), np.zeros(64, "int32")
    call = lib["twice"].bind(x, y)
    assert call.parallel is (cores > 1)
    for _ in range(50):
        y[:] = 0
        call()
        assert np.array_equal(y, x * 2)
    assert lib.time_evaluator("twice", number=100)(x, y).mean > 0


def test_symbolic_sizes_and_scalars():
    lib = build(grow)
    for n in (1, 5):
        a, b = np.ones((n, 4), "float32"), np.zeros((n, 4), "float32")
        lib["grow"](a, b, 2.5)
        assert (b == 2.5).all()
    with pytest.raises(RunError, match=r"grow: argument 'B' \(2 of 3\): expected shape \(5, 4\)"):
        lib["grow"](a, np.zeros((6, 4), "float32"), 1.0)


def test_target_is_the_current_one_unless_given():
    with Target("llvm -num-cores 3"):
        assert build(mm).target.num_cores == 3
        assert build(mm, "llvm -num-cores 2").target.num_cores == 2
    assert build(mm).target == Target("llvm")


def test_refusals():
    with pytest.raises(LowerError, match="not bound to threads of the GPU") as unbound:
        build(mm, "cuda -arch=sm_90a")
    assert "default_gpu_schedule" in unbound.value.hint
    with pytest.raises(TargetError, match="unknown target kind 'lvm'"):
        build(mm, "lvm")
    with pytest.raises(
        BuildError, match="expected a PrimFunc, an IRModule or a Schedule, found int"
    ):
        build(3)
    with pytest.raises(BuildError, match="the module has no functions"):
        build(IRModule({}))
    with pytest.raises(BuildError, match="name='x' is for one function"):
        build(IRModule({"mm": mm, "twice": twice}), name="x")
    lib = build(mm)
    with pytest.raises(RunError, match=r"cuda\(0\) is not available"):
        lib.time_evaluator("mm", cuda())
    with pytest.raises(RunError, match="no function named 'nn'"):
        lib.time_evaluator("nn", cpu())
    with pytest.raises(RunError, match="number must be"):
        lib.time_evaluator("mm", cpu(), number=0)
    with pytest.raises(RunError, match="expected 'll' or 'asm' for llvm, found 'cu'"):
        lib.inspect_source("cu")


def test_source():
    lib = build(mm)
    assert "define" in lib.inspect_source()
    asm = lib.inspect_source("asm")
    assert "define" not in asm
    assert "ret" in asm


def test_through_workers():
    target = Target("llvm -num-cores 2")
    bad = from_source(mm.script().replace("A[vi, vk] * B", "A[vi, vk] + B"))
    with WorkerPool(2) as pool:
        good, wrong, par = pool.map([build_request(f, target) for f in (mm, bad, twice)])
        assert par.data["parallel"]
        assert not good.data["parallel"]
        timing = {"number": 3, "repeat": 2, "min_repeat_ms": 1}
        runs = pool.map([run_request(b, evaluator=timing) for b in (good, par)])
        assert all(len(r.data["run_secs"]) == 2 for r in runs)
        checks = pool.map(
            [check_request(b, good, seed=3) for b in (good, wrong)] + [check_request(par, par)]
        )
        assert [c.data["ok"] for c in checks] == [True, False, True]
        symbolic = pool.map([build_request(grow, target)])[0]
        assert symbolic.data["arguments"] is None


def test_parallel_kernels_called_from_several_threads():
    f = build(twice, "llvm -num-cores 2")["twice"]
    wrong = []

    def work(seed):
        x = np.arange(seed, seed + 64, dtype="int32")
        for _ in range(200):
            y = np.zeros(64, "int32")
            f(x, y)
            if not np.array_equal(y, x * 2):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
