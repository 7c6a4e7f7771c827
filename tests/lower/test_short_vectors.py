"""Rows of short vectors: one loop over whole vectors where they lie one behind the other."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir import dtypes, walk
from gputune.ir.nodes import BufferStore, For, PrimFunc
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

AVX512 = CpuLimits(64, 32, 1)


def vectors(sch: Schedule, name: str) -> list[int]:
    """Lanes of each store, loops that are written out counted once."""
    func = lower(sch.mod[name], AVX512)
    return sorted({
        max(dtypes.lanes(i.dtype) for i in s.indices)
        for s in walk.walk_stmt(func.body)
        if type(s) is BufferStore
    })  # fmt: skip


@T.prim_func
def window(A: T.Buffer((6, 40, 3), "float32"), B: T.Buffer((6, 33, 3), "float32")):
    for y, x, c in T.grid(6, 33, 3):
        with T.block("B"):
            vy, vx, vc = T.axis.remap("SSS", [y, x, c])
            B[vy, vx, vc] = A[vy, vx + 5, vc] * T.float32(2)


@T.prim_func
def gaps(A: T.Buffer((6, 40, 4), "float32"), B: T.Buffer((6, 33, 3), "float32")):
    for y, x, c in T.grid(6, 33, 3):
        with T.block("B"):
            vy, vx, vc = T.axis.remap("SSS", [y, x, c])
            B[vy, vx, vc] = A[vy, vx + 5, vc] * T.float32(2)


@T.prim_func
def shifted(B: T.Buffer((6, 34, 3), "float32")):
    for y, x in T.grid(6, 33):
        for c in T.vectorized(3):
            B[y, x + 1, c] = B[y, x, c] + T.float32(1)


@T.prim_func
def numbers(A: T.Buffer((6, 33, 3), "float32"), B: T.Buffer((6, 33, 3), "float32")):
    for y, x, c in T.grid(6, 33, 3):
        with T.block("B"):
            vy, vx, vc = T.axis.remap("SSS", [y, x, c])
            B[vy, vx, vc] = A[vy, vx, vc] * T.Cast("float32", vx)


def scheduled(func: PrimFunc) -> Schedule:
    sch = Schedule(func, seed=1, debug_mask=0)
    *_, c = sch.get_loops("B")
    sch.vectorize(c)
    return sch


def test_rows_that_lie_one_behind_the_other_are_whole_vectors() -> None:
    assert vectors(scheduled(window), "window") == [1, 2, 16]  # 99 = 6 * 16 + 2 + 1
    assert vectors(scheduled(gaps), "gaps") == [1, 2]
    assert vectors(scheduled(numbers), "numbers") == [1, 2]


@pytest.mark.parametrize("func", [window, gaps, shifted, numbers])
def test_results_are_the_same(func: PrimFunc) -> None:
    sch = Schedule(func, seed=1) if func is shifted else scheduled(func)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-8, 9, [int(n.value) for n in b.shape]).astype(np.float32)
        for b in func.buffers
    ]
    expected = [a.copy() for a in arrays]
    name = next(iter(sch.mod.functions))
    build(sch.mod, "llvm --num-cores=1")[name](*arrays)
    if func is shifted:
        for x in range(33):
            expected[0][:, x + 1] = expected[0][:, x] + 1
    else:
        a = expected[0][:, 5:38, :3] if func is not numbers else expected[0]
        by = np.arange(33)[None, :, None] if func is numbers else 2
        expected[1][:] = a * by
    for found, wanted in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_joined_loop_is_one_loop() -> None:
    func = lower(scheduled(window).mod["window"], AVX512)
    kinds = [(s.kind, s.extent.value) for s in walk.walk_stmt(func.body) if type(s) is For]
    assert kinds == [("serial", 6), ("unrolled", 6)]
