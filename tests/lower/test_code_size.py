"""How large does code become? No larger than asked for, whichever pass writes loops out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gputune.ir import walk
from gputune.ir.build import const_int
from gputune.ir.nodes import BufferStore, Evaluate, For, PrimFunc, Stmt
from gputune.kernels.conv_variants import KERNELS as VARIANTS
from gputune.kernels.dense import KERNELS as DENSE
from gputune.lower import pipeline
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.lower.zeros import statements
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

AVX512 = CpuLimits(64, 32, 1)


def counted(s: Stmt) -> int:
    """Statements, written-out loops counted in full and nothing left out."""
    if type(s) is For:
        n = const_int(s.extent) if s.kind == "unrolled" else 1
        return (n or 1) * counted(s.body)
    if type(s) in (BufferStore, Evaluate):
        return 1
    return sum(counted(x) for x in walk.stmt_children(s))


def product(asked: bool = False) -> Schedule:
    """Tiles of 2 x 32 whose sums over three products each are written out for 16 x 2 tiles: 384
    statements, and the loads and stores of as many accumulators."""
    sch = Schedule(DENSE["matmul"].build(m=32, n=64, k=21), seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [None, 2])
    j0, j1 = sch.split(j, [None, 32])
    k0, k1 = sch.split(k, [None, 3])
    sch.reorder(k0, i0, j0, k1, i1, j1)
    if asked:
        for loop in (i0, j0, k1, i1):
            sch.unroll(loop)
    sch.vectorize(j1)
    sch.annotate(k0, "pragma_auto_unroll_max_step", 512)
    sch.decompose_reduction(block, k0)
    return sch


def transposed(channels: int) -> Schedule:
    """Four rows of outputs a tile, its data spread out with zeros."""
    func = VARIANTS["conv2d_transpose"].build(
        n=1, h=4, w=4, ci=channels, co=32, kernel=4, stride=2, padding=1
    )
    sch = Schedule(func, seed=1)
    sch.compute_inline("P")
    block = sch.get_block("Y")
    _, y, x, f, ry, rx, rc = sch.get_loops(block)
    y0, y1 = sch.split(y, [None, 4])
    sch.reorder(y0, x, ry, rx, rc, y1, f)
    sch.unroll(y1)
    sch.vectorize(f)
    sch.decompose_reduction(block, ry)
    return sch


def test_statements_are_counted_as_they_are_written_out() -> None:
    func = lower(product().mod["matmul"], AVX512)
    assert statements(func.body) == counted(func.body)


def test_loads_and_stores_of_accumulators_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named for a bug: they came on top, up to two thirds more than a kernel may have."""
    func = product().mod["matmul"]
    assert counted(lower(func, AVX512).body) <= AVX512.statements
    monkeypatch.setattr(pipeline, "_TRIES", 0)
    assert counted(lower(func, AVX512).body) > AVX512.statements


def test_what_the_schedule_asks_for_is_written_out() -> None:
    assert counted(lower(product(asked=True).mod["matmul"], AVX512).body) > AVX512.statements


@pytest.mark.parametrize("most", [400, 100, 60, 30])
def test_sums_of_spread_data_are_written_out_as_far_as_there_is_room(most: int) -> None:
    """Named for a bug: writing them out could make code sixteen times as large."""
    func = transposed(8).mod["conv2d_transpose"]
    limits = replace(AVX512, statements=most)
    assert statements(lower(func, limits).body) <= most


def test_zeros_are_skipped_where_there_is_room() -> None:
    def products(func: PrimFunc) -> int:
        return statements(func.body)

    wide = lower(transposed(8).mod["conv2d_transpose"], AVX512)
    # of the four rows of a tile each step of the sum adds to two
    assert products(wide) < counted(wide.body)


@T.prim_func
def thirds(A: T.Buffer((4,), "float32"), B: T.Buffer((7,), "float32")):
    for i in T.unroll(7):
        B[i] = B[i] + T.if_then_else(i % 3 == 1, A[i // 3], T.float32(0))
    for i in T.unroll(7):
        B[i] = B[i] + T.if_then_else(i % 3 != 1, A[i // 3], T.float32(0))


def test_the_part_of_products_that_is_left() -> None:
    assert statements(thirds.body) == 3 + 5  # of seven at most: three of a remainder, five without


@pytest.mark.parametrize("most", [400, 60])
def test_results_do_not_depend_on_it(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuLimits, "of", lambda t: replace(AVX512, statements=most))
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, n).astype(np.float32) for n in ((32, 21), (21, 64)))
    c = np.full((32, 64), np.nan, np.float32)
    build(product().mod, "llvm --num-cores=1")["matmul"](a, b, c)
    np.testing.assert_array_equal(c, a @ b)
