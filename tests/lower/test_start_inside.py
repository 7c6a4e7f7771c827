"""Where are initial values set? In the loop that adds to them, where each iteration has its own."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir import interp, walk
from gputune.ir.nodes import BufferStore, For, PrimFunc, Stmt
from gputune.kernels.conv_variants import KERNELS as VARIANTS
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import LLVM, lower
from gputune.lower.start_inside import start_inside
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

AVX512 = CpuLimits(64, 32, 1)


def before(func: PrimFunc) -> PrimFunc:
    """The program before the pass."""
    for step in LLVM:
        if step is start_inside:
            return func
        func = step(func, AVX512)
    raise AssertionError("start_inside is one of the passes")


def loops_around(func: PrimFunc, value: float) -> list[list[str]]:
    """The loops around each store of a constant, outermost first."""
    out: list[list[str]] = []

    def go(s: Stmt, path: list[str]) -> None:
        if type(s) is For:
            path = [*path, s.var.name]
        if type(s) is BufferStore and getattr(s.value, "value", None) == value:
            out.append(path)
        for x in walk.stmt_children(s):
            go(x, path)

    go(func.body, [])
    return out


def depthwise(h: int, tile: int) -> Schedule:
    """Tiles of two rows of `tile` rows, whose sums start before the outermost reduction loop."""
    func = VARIANTS["depthwise_conv2d"].build(
        n=1, h=h, w=8, c=16, factor=1, kernel=3, stride=1, padding=1
    )
    sch = Schedule(func, seed=1)
    sch.compute_inline("P")
    block = sch.get_block("Y")
    _, y, x, f, ry, rx = sch.get_loops(block)
    y0, y1, y2 = sch.split(y, [None, 2, tile])
    one, ry = sch.split(ry, [1, None])
    sch.reorder(y0, one, y1, x, ry, rx, y2, f)
    sch.vectorize(f)
    sch.decompose_reduction(block, one)
    return sch


def test_initial_values_are_set_in_the_loops_that_add_to_them() -> None:
    func = before(depthwise(16, 4).mod["depthwise_conv2d"])
    assert loops_around(func, 0.0) == [["y_0", "y_1_init", "x_init", "y_2_init", "f_init"]]
    moved = start_inside(func, AVX512)
    assert loops_around(moved, 0.0) == [["y_0", "y_1", "x", "y_2_init", "f_init"]]
    # and so the sums never come from memory
    lowered = lower(depthwise(16, 4).mod["depthwise_conv2d"], AVX512)
    read = {e.buffer.name for e in walk.all_loads(lowered.body)}
    assert "Y" not in read


@pytest.mark.parametrize(("h", "tile"), [(16, 4), (13, 3), (7, 4)])
def test_sums_are_right(h: int, tile: int) -> None:
    sch = depthwise(h, tile)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (1, h, 8, 16)).astype(np.float32)
    w = rng.integers(-4, 5, (3, 3, 16, 1)).astype(np.float32)
    found, expected = (np.full((1, h, 8, 16), np.nan, np.float32) for _ in range(2))
    build(sch.mod, "llvm --num-cores=1")["depthwise_conv2d"](x, w, found)
    interp.run(sch.mod["depthwise_conv2d"], x, w, expected)
    np.testing.assert_array_equal(found, expected)


@T.prim_func
def neighbours(A: T.Buffer((8,), "float32"), B: T.Buffer((9,), "float32")):
    for i in range(8):
        B[i] = T.float32(0)
    for i in range(8):
        for k in range(2):
            B[i + k] = B[i + k] + A[i]


@T.prim_func
def backwards(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[7 - i] = T.float32(0)
    for i in range(8):
        B[i] = B[i] + A[i]


@T.prim_func
def longer(A: T.Buffer((8,), "float32"), B: T.Buffer((9,), "float32")):
    for i in range(9):
        B[i] = T.float32(0)
    for i in range(8):
        B[i] = B[i] + A[i]


@T.prim_func
def read_between(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = T.float32(0)
    A[0] = B[7]
    for i in range(8):
        B[i] = B[i] + A[i]


@T.prim_func
def totals(A: T.Buffer((8, 4), "float32"), B: T.Buffer((4,), "float32")):
    for i in range(4):
        B[i] = T.float32(0)
    for k in range(4):
        for i in range(4):
            B[i] = B[i] + A[k, i]


@T.prim_func
def changed_inside(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = A[7 - i]
    for i in range(8):
        B[i] = B[i] + A[i]
        A[i] = T.float32(0)


@T.prim_func
def changed_between(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = A[7 - i]
    A[3] = T.float32(1)
    for i in range(8):
        B[i] = B[i] + T.float32(1)


@T.prim_func
def maybe_changed(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = A[7 - i]
    T.evaluate(T.call_extern("int32", "change", A[0]))
    for i in range(8):
        B[i] = B[i] + T.float32(1)


@T.prim_func
def of_itself(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        B[i] = B[7 - i]
    for i in range(8):
        B[i] = B[i] + A[i]


@T.prim_func
def copied(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32"),
           C: T.Buffer((8,), "float32")):  # fmt: skip
    for i in range(8):
        B[i] = A[i]
    for i in range(8):
        C[i] = B[i]


SHARED = [neighbours, backwards, longer, read_between, totals]
CHANGED = [changed_inside, changed_between, maybe_changed, of_itself, copied]


@pytest.mark.parametrize("func", [*SHARED, *CHANGED])
def test_values_that_iterations_share_stay_before_the_loop(func: PrimFunc) -> None:
    plain = before(func)
    assert start_inside(plain, AVX512) is plain


@T.prim_func
def from_data(A: T.Buffer((8, 4), "float32"), D: T.Buffer((8,), "float32"),
              B: T.Buffer((8,), "float32")):  # fmt: skip
    for i in range(8):
        B[i] = D[7 - i] * T.float32(3)
    for i, k in T.grid(8, 4):
        B[i] = B[i] + A[i, k]


def test_initial_values_from_data_are_set_there_too() -> None:
    """And stay in registers: a product of signed bytes starts from sums of the other operand."""
    moved = start_inside(before(from_data), AVX512)
    assert len([x for x in walk.walk_stmt(moved.body) if type(x) is For]) == 2
    read = {e.buffer.name for e in walk.all_loads(lower(from_data, AVX512).body)}
    assert "B" not in read
    rng = np.random.default_rng(0)
    a, d = (rng.integers(-4, 5, n).astype(np.float32) for n in ((8, 4), 8))
    found = np.full(8, np.nan, np.float32)
    build(from_data, "llvm --num-cores=1")["from_data"](a, d, found)
    np.testing.assert_array_equal(found, d[::-1] * 3 + a.sum(axis=1))


@T.prim_func
def chained(A: T.Buffer((8,), "float32"), D: T.Buffer((8,), "float32"),
            B: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):  # fmt: skip
    for i in range(8):
        B[i] = A[i]
    for i in range(8):
        B[i] = B[i] + D[i]
    for i in range(8):
        C[i] = B[i]
    for i in range(8):
        C[i] = C[i] + D[i]


def test_what_is_moved_into_a_loop_goes_with_it() -> None:
    """Named for a bug: of two initial values one after the other the first one was lost, where the
    loop that it had been moved into was itself taken for one that only sets elements."""
    rng = np.random.default_rng(0)
    a, d = (rng.integers(-4, 5, 8).astype(np.float32) for _ in range(2))
    b, c = np.full(8, np.nan, np.float32), np.full(8, np.nan, np.float32)
    build(chained, "llvm --num-cores=1")["chained"](a, d, b, c)
    np.testing.assert_array_equal(b, a + d)
    np.testing.assert_array_equal(c, a + 2 * d)


@T.prim_func
def strided(A: T.Buffer((8, 2), "float32"), B: T.Buffer((16,), "float32")):
    for i, j in T.grid(8, 2):
        B[i * 2 + j] = T.float32(0)
    A[0, 0] = T.float32(1)
    for i, j in T.grid(8, 2):
        B[i * 2 + j] = B[i * 2 + j] + A[i, j]


def test_statements_between_do_not_matter_if_they_touch_other_memory() -> None:
    func = start_inside(before(strided), AVX512)
    assert loops_around(func, 0.0) == [["i", "j"]]
    assert len([x for x in walk.walk_stmt(func.body) if type(x) is For]) == 2
