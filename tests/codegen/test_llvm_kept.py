"""Does a kernel keep the memory of its large temporaries between calls, and give it back?"""

from __future__ import annotations

import gc
import resource
import threading

import numpy as np

import gputune as gt
from gputune.codegen.llvm import kept
from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

N = 1 << 20


def through_a_temporary() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((N,), "float32"), C: T.Buffer((N,), "float32")):
        B = T.alloc_buffer((N,), "float32")
        for i in range(N):
            with T.block("B"):
                v = T.axis.spatial(N, i)
                B[v] = A[v] + 1.0
        for i in range(N):
            with T.block("C"):
                v = T.axis.spatial(N, i)
                C[v] = B[N - 1 - v] * 2.0

    return f


def test_calls_after_the_first_touch_no_fresh_pages() -> None:
    call = gt.build(through_a_temporary(), "llvm")["f"]
    a, c = np.arange(N, dtype=np.float32) % 64, np.empty(N, np.float32)
    call(a, c)
    call(a, c)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        call(a, c)
    # fresh memory would be a thousand pages a call
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 500
    assert (c == (a[::-1] + 1.0) * 2.0).all()


def test_more_calls_at_once_than_seats() -> None:
    call = gt.build(through_a_temporary(), "llvm")["f"]
    count = kept.SEATS + 3
    wrong: list[int] = []
    gate = threading.Barrier(count)

    def work(k: int) -> None:
        a, c = np.full(N, k, np.float32), np.empty(N, np.float32)
        gate.wait()
        for _ in range(3):
            call(a, c)
            if not (c == (k + 1.0) * 2.0).all():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def _resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


def test_unloading_gives_the_memory_back() -> None:
    def once(k: int) -> None:
        func = through_a_temporary()
        call = gt.build(func, "llvm")["f"]
        a, c = np.full(N, k, np.float32), np.empty(N, np.float32)
        call(a, c)
        assert c[0] == (k + 1.0) * 2.0

    once(0)
    gc.collect()
    before = _resident()
    for k in range(12):
        once(k)
        gc.collect()
    assert _resident() - before < 6 * 4 * N  # twelve temporaries would be twice as much


def test_a_kernel_without_large_temporaries_keeps_nothing() -> None:
    func = gt.kernels.get("matmul").build(m=8, n=8, k=8)
    lib = gt.build(func, "llvm")
    assert "gputune.take" not in lib.inspect_source()
    assert "gputune.take" in gt.build(through_a_temporary(), "llvm").inspect_source()
