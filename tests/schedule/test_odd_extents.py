"""Do the primitives that cut, move, pad and roll work on extents that nothing divides? Each in
combination with splits that do not divide: interpreter, LLVM and NumPy say the same, and CUDA host
execution where threads are bound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.properties.moves import inputs
from tests.properties.on_the_host import check_on_the_host as check

from .everywhere import same_everywhere
from .schedule_helpers import keeps, loops
from .tensor_programs import u8_matmul
from .test_every_primitive import _tensorized

M, N, K = 7, 13, 11


def matmul_relu() -> PrimFunc:
    @T.prim_func
    def f(
        A: T.Buffer((M, K), "float32"), B: T.Buffer((K, N), "float32"),
        D: T.Buffer((M, N), "float32"),
    ):  # fmt: skip
        C = T.alloc_buffer((M, N))
        for i, j, k in T.grid(M, N, K):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
        for i, j in T.grid(M, N):
            with T.block("D"):
                vi, vj = T.axis.remap("SS", [i, j])
                D[vi, vj] = T.max(C[vi, vj], 0.0)

    return f


def blur() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((N + 4, K), "float32"), Y: T.Buffer((N, K), "float32")):
        B = T.alloc_buffer((N + 2, K))
        for i, j in T.grid(N + 2, K):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + X[vi + 1, vj] * 2.0 + X[vi + 2, vj]
        for i, j in T.grid(N, K):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj] - B[vi + 1, vj] + B[vi + 2, vj]

    return f


def numpy_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(a @ b, 0)


def numpy_blur(x: np.ndarray) -> np.ndarray:
    b = x[:-2] + x[1:-1] * 2 + x[2:]
    return b[:-2] - b[1:-1] + b[2:]


PROGRAMS = {"matmul": (matmul_relu, numpy_matmul), "blur": (blur, numpy_blur)}


def _grid(s: Schedule, block: str) -> None:
    """Blocks of 4 x 5 threads."""
    i, j = loops(s, block)[:2]
    (i0, i1), (j0, j1) = s.split(i, [None, 4]), s.split(j, [None, 5])
    s.reorder(i0, j0, i1, j1)
    for loop, axis in zip((i0, j0, i1, j1), ("block.y", "block.x", "thread.y", "thread.x")):
        s.bind(loop, axis.replace(".", "Idx."))


# ----------------------------------------------------------------------------- the primitives
def rfactor(s: Schedule) -> None:
    _, _, k = loops(s, "C")
    s.rfactor(s.split(k, [None, 4])[1], 2)


def rfactor_of_the_outer_part(s: Schedule) -> None:
    _, j, k = loops(s, "C")
    s.split(j, [None, 6])
    s.rfactor(s.split(k, [None, 3])[0], 0)


def decompose(s: Schedule) -> None:
    i, j, k = loops(s, "C")
    i0, i1 = s.split(i, [None, 3])
    j0, j1 = s.split(j, [None, 5])
    k0, k1 = s.split(k, [None, 4])
    s.reorder(i0, j0, k0, i1, k1, j1)
    s.vectorize(j1)
    s.decompose_reduction("C", k0)


def reverse_compute_at(s: Schedule) -> None:
    i, j, _ = loops(s, "C")
    i0, i1 = s.split(i, [None, 3])
    j0, j1 = s.split(j, [None, 5])
    s.reorder(i0, j0, i1, j1)
    s.reverse_compute_at("D", j0)


def transform_layout(s: Schedule) -> None:
    s.transform_layout("C", ("write", 0), lambda i, j: (j // 4, i // 3, i % 3, j % 4), 5.0)
    s.split(loops(s, "D")[1], [None, 4])
    s.split(loops(s, "C")[-1], [None, 2])


def blockize(s: Schedule) -> None:
    _, j, k = loops(s, "C")
    j0, j1 = s.split(j, [None, 4])
    k0, k1 = s.split(k, [None, 3])
    s.reorder(j0, k0, j1, k1)
    s.decompose_reduction(s.blockize(j1), k0)


def rolling(s: Schedule) -> None:
    i, _ = loops(s, "Y")
    i0, _ = s.split(i, [None, 4])
    s.compute_at("B", i0)
    s.rolling_buffer("B", 0)


def rolling_of_columns(s: Schedule) -> None:
    i, j = loops(s, "Y")
    j0, j1 = s.split(j, [None, 3])
    i0, i1 = s.split(i, [None, 5])
    s.reorder(j0, i0, i1, j1)
    s.vectorize(j1)
    s.compute_at("B", i0)
    s.rolling_buffer("B", 0)


CPU: list[tuple[str, Callable[[Schedule], None]]] = [
    ("matmul", rfactor), ("matmul", rfactor_of_the_outer_part), ("matmul", decompose),
    ("matmul", reverse_compute_at), ("matmul", transform_layout), ("matmul", blockize),
    ("blur", rolling), ("blur", rolling_of_columns),
]  # fmt: skip


@pytest.mark.parametrize(("name", "do"), CPU, ids=lambda x: getattr(x, "__name__", x))
def test_on_llvm_and_by_the_interpreter(name: str, do: Callable[[Schedule], None]) -> None:
    program, reference = PROGRAMS[name]
    func = program()
    sch = same_everywhere(func, do)
    assert "T.where" in sch.mod.script() or do is rfactor  # there the new axis is cut, not masked
    *given, out = inputs(func, 5)
    build(sch.mod, "llvm --num-cores=2")[func.name](*given, out)
    np.testing.assert_array_equal(out, reference(*given))


def test_tensorize() -> None:
    """Padded to instructions, and in blocks of rows that do not divide."""

    def do(s: Schedule) -> None:
        _tensorized(s)
        s.split(loops(s, "C_o_update")[0], [None, 2])

    func = u8_matmul(M, 40, 18)
    sch = same_everywhere(func, do)
    rng = np.random.default_rng(2)
    a = rng.integers(0, 256, (M, 18)).astype(np.uint8)
    b = rng.integers(-128, 128, (40, 18)).astype(np.int8)
    c = np.zeros((M, 40), np.int32)
    build(sch.mod, "llvm")["mm"](a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.astype(np.int32).T)


# ----------------------------------------------------------------------------- bound threads
def gpu_rfactor(s: Schedule) -> None:
    rfactor(s)
    for block in ("C_rf", "C", "D"):
        _grid(s, block)


def gpu_decompose(s: Schedule) -> None:
    _grid(s, "C")
    k = loops(s, "C")[-1]
    k0, _ = s.split(k, [None, 4])
    s.decompose_reduction("C", k0)
    _grid(s, "D")


def gpu_reverse_compute_at(s: Schedule) -> None:
    _grid(s, "C")
    s.set_scope("C", 0, "local")
    s.reverse_compute_at("D", loops(s, "C")[3])


def gpu_transform_layout(s: Schedule) -> None:
    """A copy of an operand, padded to whole tiles. (The rest of what a reduction writes is filled
    by a block of its own, which no thread may be bound to.)"""
    copy = s.cache_read("C", "A", "global")
    s.transform_layout(copy, ("write", 0), lambda i, k: (k // 4, i // 3, i % 3, k % 4), 5.0)
    s.split(loops(s, "C")[-1], [None, 3])
    for block in ("C", "D"):
        _grid(s, block)
    a, b, c, d = s.get_loops(copy)
    s.bind(s.fuse(a, b), "blockIdx.x")
    s.bind(s.fuse(c, d), "threadIdx.x")


def gpu_blockize(s: Schedule) -> None:
    _grid(s, "C")
    k = loops(s, "C")[-1]
    _, k1 = s.split(k, [None, 4])
    s.blockize(k1)
    _grid(s, "D")


def gpu_rolling(s: Schedule) -> None:
    """A block for each band of columns, which rolls down it with a thread a column."""
    i, j = loops(s, "Y")
    j0, j1 = s.split(j, [None, 4])
    i0, i1 = s.split(i, [None, 5])
    s.reorder(j0, i0, i1, j1)
    s.bind(j0, "blockIdx.x")
    s.bind(j1, "threadIdx.x")
    s.set_scope("B", 0, "shared")
    s.compute_at("B", i0)
    s.bind(loops(s, "B")[-1], "threadIdx.x")
    s.rolling_buffer("B", 0)


GPU: list[tuple[str, Callable[[Schedule], None]]] = [
    ("matmul", gpu_rfactor), ("matmul", gpu_decompose), ("matmul", gpu_reverse_compute_at),
    ("matmul", gpu_transform_layout), ("matmul", gpu_blockize), ("blur", gpu_rolling),
]  # fmt: skip


@pytest.mark.parametrize(("name", "do"), GPU, ids=lambda x: getattr(x, "__name__", x))
def test_on_cuda_host_execution(name: str, do: Callable[[Schedule], None]) -> None:
    func = PROGRAMS[name][0]()
    scheduled = keeps(func, do).mod["f"]
    assert isinstance(scheduled, PrimFunc)
    assert "T.where" in str(scheduled)
    check(func, scheduled, 2)
