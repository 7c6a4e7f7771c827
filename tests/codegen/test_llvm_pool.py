"""Does the thread pool run every chunk once, whoever launches, and come back from everything?"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from llvm_programs import SOFTMAX, tiled_matmul
from llvm_running import call, compiled, host, interpreted, parse

from gputune.codegen.llvm import compile, load
from gputune.codegen.llvm.jit import emit_object, host_features
from gputune.codegen.llvm.pool import Pool
from gputune.errors import BuildError

COUNT = """
define void @count(i64 %i, ptr %ctx) {
  %p = getelementptr i32, ptr %ctx, i64 %i
  %old = atomicrmw add ptr %p, i32 1 monotonic
  ret void
}
define i32 @run(ptr %pool, ptr %ctx, i64 %n, i64 %times) {
entry:
  %launch = load ptr, ptr %pool
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
  call void %launch(ptr %pool, ptr @count, ptr %ctx, i64 %n)
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %times
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
define void @nest(i64 %i, ptr %ctx) {
  %pool = load ptr, ptr %ctx
  %launch = load ptr, ptr %pool
  %pc = getelementptr ptr, ptr %ctx, i64 1
  %counts = load ptr, ptr %pc
  call void %launch(ptr %pool, ptr @count, ptr %counts, i64 8)
  ret void
}
define i32 @run_nested(ptr %pool, ptr %ctx, i64 %n, i64 %times) {
  %launch = load ptr, ptr %pool
  call void %launch(ptr %pool, ptr @nest, ptr %ctx, i64 %n)
  ret i32 0
}
"""
Run = Callable[[int, int, int, int], int]


@pytest.fixture(scope="module")
def code() -> Iterator[tuple[Run, Run]]:
    loaded = load(emit_object(COUNT, *host_features()), "run", "run_nested")
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )
    yield kind(loaded.address), kind(loaded.lookup("run_nested"))
    assert loaded.address  # keeps the code


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 64])
def test_every_chunk_runs_once(code: tuple[Run, Run], threads: int, n: int) -> None:
    counts = np.zeros(n + 1, np.int32)
    with Pool(threads) as pool:
        code[0](pool.address, counts.ctypes.data, n, 300)
    np.testing.assert_array_equal(counts[:n], 300)
    assert counts[n] == 0


def test_launches_after_the_workers_went_to_sleep(code: tuple[Run, Run]) -> None:
    counts = np.zeros(16, np.int32)
    with Pool(3) as pool:
        for _ in range(5):
            time.sleep(0.02)
            code[0](pool.address, counts.ctypes.data, 16, 2)
    np.testing.assert_array_equal(counts, 10)


def test_two_threads_launch_at_once(code: tuple[Run, Run]) -> None:
    counts = [np.zeros(32, np.int32) for _ in range(4)]
    with Pool(2) as pool:
        threads = [
            threading.Thread(target=code[0], args=(pool.address, c.ctypes.data, 32, 2000))
            for c in counts
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for c in counts:
        np.testing.assert_array_equal(c, 2000)


def test_a_launch_inside_a_chunk_runs_serially(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    with Pool(2) as pool:
        ctx = np.array([pool.address, counts.ctypes.data], np.uint64)
        code[1](pool.address, ctx.ctypes.data, 50, 1)
    np.testing.assert_array_equal(counts, 50)


def test_a_closed_pool_still_runs(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    pool = Pool(2)
    pool.close()
    pool.close()
    code[0](pool.address, counts.ctypes.data, 8, 3)
    np.testing.assert_array_equal(counts, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_runs_serially(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    with Pool(2) as pool:
        code[0](pool.address, counts.ctypes.data, 8, 10)
        pid = os.fork()
        if pid == 0:
            code[0](pool.address, counts.ctypes.data, 8, 10)
            os._exit(0 if (counts == 20).all() else 1)
        deadline = time.monotonic() + 20
        done, status = 0, 1
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if not done:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        assert done, "the child hangs"
        assert status == 0


def test_the_interpreter_exits_with_threads_asleep_and_awake() -> None:
    program = (
        "from gputune.codegen.llvm.pool import Pool\n"
        "import time\n"
        "a = Pool(3); time.sleep(0.05); b = Pool(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0


def test_no_pool_of_zero_threads() -> None:
    with pytest.raises(BuildError, match="0 threads"):
        Pool(0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parallel_kernels_on_a_pool(threads: int) -> None:
    rng = np.random.default_rng(0)
    f = parse(tiled_matmul(64, [4, 1, 4, 4], [2, 2, 1, 16], [4, 16]))
    a, b = (rng.integers(-4, 5, (64, 64)).astype(np.float32) for _ in range(2))
    with Pool(threads) as pool:
        out = compiled(f, [a, b, np.zeros((64, 64), np.float32)], pool=pool.address)
        np.testing.assert_array_equal(out[2], a @ b)
        x = rng.standard_normal((5, 37)).astype(np.float32)
        y = np.zeros_like(x)
        got = compiled(parse(SOFTMAX), [x, y], pool=pool.address)
        np.testing.assert_allclose(got[1], interpreted(parse(SOFTMAX), [x, y])[1], rtol=1e-5)


def test_failure_to_allocate_is_an_error_code() -> None:
    text = """
@T.prim_func
def main(Z: T.Buffer((4,), "float32")):
    for i in T.parallel(4):
        W = T.alloc_buffer((1099511627776, 64), "float32")
        for j, k in T.grid(T.int64(1099511627776), 64):
            with T.block("W"):
                vj, vk = T.axis.remap("SS", [j, k])
                W[vj, vk] = T.float32(0)
        Z[i] = W[T.int64(5), 7]
"""
    kernel = compile(parse(text), host())
    z = np.zeros(4, np.float32)
    with Pool(2) as pool:
        assert call(kernel, [z], pool=pool.address) == 1
    assert call(kernel, [z]) == 1
