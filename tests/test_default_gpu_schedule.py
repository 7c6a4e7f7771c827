"""Is every program, without a search, one that a GPU can run, and does it compute the same?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune import kernels
from gputune.default_gpu_schedule import DefaultGPUSchedule, default_gpu_schedule
from gputune.errors import TargetError
from gputune.ir import interp
from gputune.ir.build import const_int
from gputune.ir.check import check
from gputune.ir.nodes import Block, For, IRModule, PrimFunc
from gputune.ir.walk import blocks, uses_var, walk_stmt
from gputune.kernels import KERNELS, SUITE
from gputune.kernels.kernel import Shape
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target import Target

from .gpu_schedules import as_threads_see_it, check_equal, faults, gpu_schedules, nests
from .properties.law import is_for_cpu, random_schedule
from .properties.moves import inputs, results
from .properties.programs import PROGRAMS

CUDA = Target("cuda -arch=sm_90")
CASES = [
    pytest.param(name, shape, id=f"{name}-{k}")
    for name in KERNELS
    if name not in SUITE
    for k, shape in enumerate(KERNELS[name].check_shapes)
]


def scheduled(func: PrimFunc) -> PrimFunc:
    """The one function of a default schedule, checked for what a GPU would refuse."""
    mod = default_gpu_schedule(func, CUDA).mod
    check(mod)
    out = mod[func.name]
    assert faults(out) == []
    return out


def threads_of(func: PrimFunc, axis: str) -> list[int]:
    """The extents of the loops bound to an axis, in program order."""
    return [const_int(s.extent) or 0 for s in walk_stmt(func.body)
            if type(s) is For and s.thread == axis]  # fmt: skip


# ----------------------------------------------------------------------------- the library
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_kernels_equal_numpy(name: str, shape: Shape) -> None:
    kernel = KERNELS[name]
    check_equal(kernel, shape, scheduled(kernel.build(shape)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_at_their_sizes(name: str) -> None:
    func = scheduled(KERNELS[name].build())
    assert from_source(func.script()).script() == func.script()
    for nest in nests(func):
        blocks_of_grid = [
            const_int(s.extent) or 0
            for s in walk_stmt(nest)
            if type(s) is For and s.thread == "blockIdx.x"
        ]
        assert len(blocks_of_grid) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "int32"])
@pytest.mark.parametrize("name", ["matmul", "row_sum", "column_max", "argmax", "conv1d"])
def test_kernels_of_other_dtypes(name: str, dtype: str) -> None:
    kernel = KERNELS[name]
    for shape in kernel.check_shapes[:2]:
        check_equal(kernel, shape, scheduled(kernel.build(shape, dtype)), dtype)


TILED = [
    ("matmul", {"m": 32, "n": 16, "k": 48}),
    ("batch_matmul", {"b": 2, "m": 8, "n": 12, "k": 5}),
    ("dense_bias_relu", {"m": 8, "n": 24, "k": 33}),
    ("transpose_batch_matmul", {"batch": 1, "seq": 8, "heads": 2, "dim": 6}),
    ("conv2d", {"n": 1, "h": 9, "w": 8, "ci": 3, "co": 8, "kernel": 3, "padding": 1}),
    ("conv2d", {"n": 1, "h": 5, "w": 15, "ci": 2, "co": 4, "kernel": 3, "stride": 2, "padding": 2}),
    ("conv2d_bn_relu", {"n": 1, "h": 4, "w": 8, "ci": 4, "co": 8, "kernel": 3}),
    ("conv2d_transpose", {"n": 1, "h": 4, "w": 4, "ci": 3, "co": 8, "kernel": 4, "stride": 2}),
    ("attention", {"batch": 1, "heads": 1, "seq": 8, "dim": 8}),
]


@pytest.mark.parametrize(("name", "shape"), TILED)
def test_products_are_tiled(name: str, shape: Shape) -> None:
    """Operands in shared memory, sums in registers, what follows computed with them."""
    kernel = kernels.get(name)
    func = scheduled(kernel.build(shape))
    scopes = {b.scope for b in func.body.alloc_buffers}
    assert {"shared", "local"} <= scopes
    assert name == "attention" or len(nests(func)) == 1
    check_equal(kernel, shape, func)


@pytest.mark.parametrize("name", ["row_sum", "column_max", "total_mean", "gemv", "norm"])
def test_long_reductions_are_shared_by_threads(name: str) -> None:
    kernel = kernels.get(name)
    sizes = {"m": 5, "k": 70} if name == "gemv" else {"m": 70, "n": 71}
    func = scheduled(kernel.build(sizes))
    first = nests(func)[0]
    driving = [
        s
        for b in blocks(first)
        for s in walk_stmt(first)
        if type(s) is For and s.thread == "threadIdx.x" and drives_reduction(b, s)
    ]
    assert driving
    check_equal(kernel, kernel.shape(sizes), func)


def drives_reduction(b: Block, loop: For) -> bool:
    return any(
        iv.kind == "reduce" and uses_var(v, loop.var) for iv, v in zip(b.iter_vars, b.iter_values)
    )


def test_argmax_stays_in_order() -> None:
    """Which of equal elements is found depends on the order, so one thread takes a row."""
    func = scheduled(kernels.get("argmax").build(m=2, n=100))
    (block,) = [b for b in blocks(func.body) if b.name == "argmax"]
    assert not any(
        drives_reduction(block, s)
        for s in walk_stmt(func.body)
        if type(s) is For and s.thread is not None
    )


def test_large_elementwise_blocks_use_vectors() -> None:
    kernel = kernels.get("bias_relu")
    func = scheduled(kernel.build(m=257, n=512))
    assert any(type(s) is For and s.kind == "vectorized" for s in walk_stmt(func.body))
    check_equal(kernel, kernel.shape({"m": 257, "n": 512}), func)
    odd = scheduled(kernel.build(m=512, n=257))
    assert not any(type(s) is For and s.kind == "vectorized" for s in walk_stmt(odd.body))


def test_target_limits_hold() -> None:
    small = Target("cuda -arch=sm_90 -max-threads-per-block=32 -max-shared-memory-per-block=1024")
    for name in ("matmul", "row_sum", "gelu", "conv2d"):
        func = default_gpu_schedule(KERNELS[name].build(), small).mod[name]
        assert faults(func) == []
        for nest in nests(func):
            extents = {
                s.thread: const_int(s.extent) or 0
                for s in walk_stmt(nest)
                if type(s) is For and s.thread in ("threadIdx.x", "threadIdx.y")
            }
            assert math.prod(extents.values()) <= 32


def test_only_for_cuda() -> None:
    with pytest.raises(TargetError, match="needs a cuda target, not llvm"):
        default_gpu_schedule(KERNELS["matmul"].build(), Target("llvm"))


# ----------------------------------------------------------------------------- users' programs
def in_place() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((40, 7), "float32")):
        for i, j in T.grid(40, 7):
            with T.block("A"):
                vi, vj = T.axis.remap("SS", [i, j])
                A[vi, vj] = A[vi, vj] * 2.0 + 1.0

    return f


def init_and_update() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((40, 7), "float32"), B: T.Buffer((40,), "float32")):
        for i in range(40):
            with T.block("start"):
                vi = T.axis.spatial(40, i)
                B[vi] = 0.0
        for i, k in T.grid(40, 7):
            with T.block("add"):
                vi, vk = T.axis.remap("SR", [i, k])
                B[vi] = B[vi] + A[vi, vk]

    return f


def shifted_in_place() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((40,), "float32")):
        for i in range(39):
            with T.block("A"):
                vi = T.axis.spatial(39, i)
                A[vi + 1] = A[vi] + A[vi + 1]

    return f


def scan() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((4, 9), "float32"), B: T.Buffer((4, 9), "float32")):
        for i in range(4):
            with T.block("first"):
                vi = T.axis.spatial(4, i)
                B[vi, 0] = A[vi, 0]
        for i, j in T.grid(4, 8):
            with T.block("next"):
                vi = T.axis.spatial(4, i)
                vj = T.axis.scan(8, j)
                B[vi, vj + 1] = B[vi, vj] + A[vi, vj + 1]

    return f


def opaque() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((12,), "float32"), B: T.Buffer((12,), "float32")):
        for i in range(12):
            with T.block("B"):
                T.reads(A[0:12], B[0:12])
                T.writes(B[0:12])
                B[i] = A[11 - i]
                B[0] = B[i] + 1.0

    return f


def loose_statements() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((12,), "float32"), B: T.Buffer((12,), "float32")):
        for i in range(12):
            B[i] = A[i] + 1.0
        for i in range(12):
            with T.block("B"):
                vi = T.axis.spatial(12, i)
                B[vi] = B[vi] * 2.0
        if A[0] > 0.0:
            B[3] = 7.0

    return f


def guarded() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((6, 5), "float32"), B: T.Buffer((6, 5), "float32")):
        for i, j in T.grid(6, 5):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = 0.0
        for i in range(6):
            if i < 4:
                for j in range(5):
                    with T.block("part"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        B[vi, vj] = A[vi, vj]

    return f


def triangular() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((9, 9), "float32"), B: T.Buffer((9, 9), "float32")):
        for i in range(9):
            for j in range(i + 1):
                with T.block("B"):
                    vi = T.axis.spatial(9, i)
                    vj = T.axis.spatial(9, j)
                    B[vi, vj] = A[vi, vj] + 1.0

    return f


def shared_loops() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((9, 8), "float32"), B: T.Buffer((9, 8), "float32")):
        C = T.alloc_buffer((9, 8))
        for i in range(9):
            for j in range(8):
                with T.block("C"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = T.exp(A[vi, vj])
            for j, k in T.grid(8, 8):
                with T.block("B"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    with T.init():
                        B[vi, vj] = 0.0
                    B[vi, vj] = B[vi, vj] + C[vi, vk]

    return f


def repeated() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((9,), "float32"), B: T.Buffer((9,), "float32")):
        for _r, i in T.grid(3, 9):
            with T.block("B"):
                vi = T.axis.spatial(9, i)
                B[vi] = A[vi] + 1.0

    return f


def nested_blocks() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((8, 6), "float32"), B: T.Buffer((8, 6), "float32")):
        for io in range(4):
            with T.block("outer"):
                vo = T.axis.spatial(4, io)
                T.reads(A[vo * 2 : vo * 2 + 2, 0:6])
                T.writes(B[vo * 2 : vo * 2 + 2, 0:6])
                for ii, j in T.grid(2, 6):
                    with T.block("inner"):
                        vi, vj = T.axis.remap("SS", [ii, j])
                        B[vo * 2 + vi, vj] = A[vo * 2 + vi, vj] * 3.0

    return f


def no_loops() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((2,), "float32"), B: T.Buffer((2,), "float32")):
        with T.block("B"):
            T.reads(A[0:2])
            T.writes(B[0:2])
            B[0] = A[1]
            B[1] = A[0]

    return f


def already_bound() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
        C = T.alloc_buffer((64,))
        for b in T.thread_binding(2, thread="blockIdx.x"):
            for t in T.thread_binding(32, thread="threadIdx.x"):
                with T.block("C"):
                    vi = T.axis.spatial(64, b * 32 + t)
                    C[vi] = T.exp(A[vi])
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("B"):
                vi = T.axis.spatial(64, t)
                B[vi] = C[vi] + C[63 - vi]

    return f


def other_kinds() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((6, 8), "float32"), B: T.Buffer((6, 8), "float32")):
        for i in T.parallel(6):
            for j in T.vectorized(8):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = A[vi, vj] + 1.0

    return f


def long_indices() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((33, 9), "float32"), B: T.Buffer((33,), "float32")):
        for i in range(T.int64(33)):
            for k in range(T.int64(9)):
                with T.block("B"):
                    vi = T.axis.spatial(T.int64(33), i)
                    vk = T.axis.reduce(T.int64(9), k)
                    with T.init():
                        B[vi] = 0.0
                    B[vi] = B[vi] + A[vi, vk]

    return f


def reduce_outside() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((6, 8), "float32"), B: T.Buffer((8,), "float32")):
        for k, j in T.grid(6, 8):
            with T.block("B"):
                vk, vj = T.axis.remap("RS", [k, j])
                with T.init():
                    B[vj] = 0.0
                B[vj] = B[vj] - A[vk, vj]

    return f


def own_buffer() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((8, 6), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("row"):
                vi = T.axis.spatial(8, i)
                T.reads(A[vi, 0:6])
                T.writes(B[vi])
                C = T.alloc_buffer((6,))
                for j in range(6):
                    with T.block("C"):
                        vj = T.axis.spatial(6, j)
                        C[vj] = A[vi, vj] * 2.0
                for j in range(6):
                    with T.block("B"):
                        vj = T.axis.reduce(6, j)
                        with T.init():
                            B[vi] = 0.0
                        B[vi] = B[vi] + C[vj]

    return f


def between_kernels() -> PrimFunc:
    @T.prim_func
    def f(A: T.Buffer((40,), "float32"), B: T.Buffer((40,), "float32")):
        C = T.alloc_buffer((40,), scope="shared")
        for i in range(40):
            with T.block("C"):
                vi = T.axis.spatial(40, i)
                C[vi] = T.exp(A[vi])
        for i in range(40):
            with T.block("B"):
                vi = T.axis.spatial(40, i)
                B[vi] = C[vi] + C[39 - vi]

    return f


USERS: tuple[Callable[[], PrimFunc], ...] = (
    in_place, init_and_update, shifted_in_place, scan, opaque, loose_statements, guarded,
    triangular, shared_loops, repeated, nested_blocks, no_loops, already_bound, other_kinds,
    long_indices, reduce_outside, own_buffer, between_kernels,
)  # fmt: skip
SERIAL = {"shifted_in_place", "opaque", "no_loops", "other_kinds", "own_buffer"}
"""Programs of which nothing runs in parallel."""


def same_results(before: PrimFunc, after: PrimFunc, seed: int) -> None:
    expected = results(before, seed)
    for program in (after, as_threads_see_it(after)):
        arrays = inputs(before, seed)
        interp.run(program, *arrays)
        for want, got in zip(expected, arrays, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("make", USERS, ids=[u.__name__ for u in USERS])
def test_programs_of_users(make: Callable[[], PrimFunc]) -> None:
    func = make()
    after = scheduled(func)
    same_results(func, after, 5)
    most = max(max(threads_of(after, a), default=1) for a in ("blockIdx.x", "threadIdx.x"))
    assert (most == 1) == (make.__name__ in SERIAL)


def test_every_function_of_a_module() -> None:
    funcs = {"a": in_place(), "b": scan(), "c": kernels.get("matmul").build(m=8, n=8, k=8)}
    mod = default_gpu_schedule(IRModule(funcs), CUDA).mod
    assert set(mod.functions) == set(funcs)
    for func in mod.functions.values():
        assert faults(func) == []


def test_the_pass_over_modules() -> None:
    matmul = kernels.get("matmul").build(m=8, n=8, k=8)
    bound = scheduled(in_place())
    marked = scan().with_attr("tir.is_scheduled", True)
    mod = IRModule({"a": matmul, "b": bound, "c": marked}, (("note", 1),))
    done = DefaultGPUSchedule(CUDA)(mod)
    check(done)
    assert list(done.functions) == ["a", "b", "c"]
    assert done.attrs == mod.attrs
    assert faults(done["a"]) == []
    assert dict(done["a"].attrs)["tir.is_scheduled"]
    assert done["b"] is bound  # all of it is in a grid
    assert done["c"] is marked  # whatever is in it
    again = DefaultGPUSchedule(CUDA)(done)
    assert all(again[name] is done[name] for name in done)
    check_equal(
        kernels.get("matmul"), kernels.get("matmul").shape({"m": 8, "n": 8, "k": 8}), done["a"]
    )


def test_the_pass_completes_what_is_bound_in_part() -> None:
    @T.prim_func
    def half(A: T.Buffer((64,), "float32"), C: T.Buffer((64,), "float32")):
        B = T.alloc_buffer((64,))
        for i in T.thread_binding(64, thread="blockIdx.x"):
            with T.block("B"):
                vi = T.axis.spatial(64, i)
                B[vi] = T.exp(A[vi])
        for i in range(64):
            with T.block("C"):
                vi = T.axis.spatial(64, i)
                C[vi] = B[63 - vi]

    with CUDA:
        func = DefaultGPUSchedule()(IRModule({"half": half}))["half"]
    assert faults(func) == []
    assert threads_of(func, "blockIdx.x")[0] == 64
    assert len(threads_of(func, "blockIdx.x")) == 2


def test_the_pass_needs_a_gpu() -> None:
    with pytest.raises(TargetError, match="needs a cuda target, not llvm"):
        DefaultGPUSchedule("llvm")
    with pytest.raises(TargetError, match="no current target"):
        DefaultGPUSchedule()


def test_more_elements_than_an_int32_counts() -> None:
    """No fused loop variable overflows, and no grid is too large."""

    @T.prim_func
    def wide(A: T.Buffer((70000, 70000), "int8"), B: T.Buffer((70000, 70000), "int8")):
        for i, j in T.grid(70000, 70000):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj]

    @T.prim_func
    def long(A: T.Buffer((1 << 40,), "int8"), B: T.Buffer((1 << 40,), "int8")):
        for i in range(T.int64(1 << 40)):
            with T.block("B"):
                vi = T.axis.spatial(T.int64(1 << 40), i)
                B[vi] = A[vi]

    for func in (wide, long):
        out = scheduled(func)
        for loop in walk_stmt(out.body):
            if type(loop) is For and loop.var.dtype == "int32":
                assert (const_int(loop.extent) or 0) < 2**31
    assert max(threads_of(scheduled(wide), "blockIdx.x")) * 256 < 2**31


def test_sizes_that_are_not_known() -> None:
    @T.prim_func
    def f(a: T.handle, b: T.handle, m: T.int32, n: T.int32):
        A = T.match_buffer(a, (m, n))
        B = T.match_buffer(b, (m,))
        C = T.alloc_buffer((m, n))
        for i, j in T.grid(m, n):
            with T.block("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = A[vi, vj] + 1.0
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    B[vi] = 0.0
                B[vi] = B[vi] + C[vi, vj]

    out = default_gpu_schedule(f, CUDA).mod["f"]
    assert all(x.endswith("has the extent [-1]") for x in faults(out))
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.full(3, np.nan, np.float32)
    interp.run(out, a, b, 3, 4)
    np.testing.assert_array_equal(b, (a + 1).sum(axis=1))


@pytest.mark.parametrize("which", range(len(PROGRAMS)), ids=[p.__name__ for p in PROGRAMS])
def test_whatever_was_done_to_a_program_before(which: int) -> None:
    """Programs that random primitives went over, as users may write them."""

    @settings(max_examples=12, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        func = PROGRAMS[which]()
        sch = random_schedule(func, seed)
        if not is_for_cpu(sch.mod):
            return
        before = sch.mod[func.name]
        after = default_gpu_schedule(before, CUDA).mod[func.name]
        check(after)
        assert faults(after) == []
        expected = results(func, seed)
        for program in (after, as_threads_see_it(after)):
            arrays = inputs(func, seed)
            interp.run(program, *arrays)
            for want, got in zip(expected, arrays, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-6, equal_nan=True)

    law()


# ----------------------------------------------------------------------------- random programs
def random_program(rng: random.Random) -> str:
    """A chain of stages over small matrices, of random kinds and sizes."""
    m, n = rng.choice([1, 3, 8, 13, 16]), rng.choice([1, 4, 8, 32, 37])
    shape, name = (m, n), "X"
    lines: list[str] = []
    allocs: list[str] = []
    for k in range(rng.randint(1, 4)):
        new = f"S{k}"
        a, b = shape
        kind = rng.choice(["add", "exp", "pad", "transpose", "sum", "max", "product", "update"])
        if kind == "update" and name == "X":
            kind = "add"
        target = {
            "pad": (a + 2, b), "transpose": (b, a), "sum": (a, 1), "max": (1, b), "product": (a, a)
        }.get(kind, shape)  # fmt: skip
        reduce = {"sum": b, "max": a, "product": b}.get(kind)
        read = f"{name}[vi, vj]"
        value = {
            "add": f"{read} * 2.0 + 1.0",
            "exp": f"T.abs({read})",
            "pad": f"T.if_then_else(1 <= vi and vi < {a + 1}, {name}[vi - 1, vj], 0.0)",
            "transpose": f"{name}[vj, vi]",
            "sum": f"{new}[vi, vj] + {name}[vi, vk]",
            "max": f"T.max({new}[vi, vj], {name}[vk, vj])",
            "product": f"{new}[vi, vj] + {name}[vi, vk] * {name}[vj, vk]",
            "update": f"{read} - 3.0",
        }[kind]
        if kind == "update":
            new = name
        elif kind != "update":
            allocs.append(f"    {new} = T.alloc_buffer({target})")
        loops = f"i, j{', k' if reduce else ''}"
        grid = f"{target[0]}, {target[1]}{f', {reduce}' if reduce else ''}"
        lines += [
            f"    for {loops} in T.grid({grid}):",
            f'        with T.block("b{k}"):',
            f"            vi, vj{', vk' if reduce else ''} = "
            f'T.axis.remap("{"SSR" if reduce else "SS"}", [{loops}])',
        ]
        if reduce:
            start = 'T.min_value("float32")' if kind == "max" else "0.0"
            lines += ["            with T.init():", f"                {new}[vi, vj] = {start}"]
        lines.append(f"            {new}[vi, vj] = {value}")
        shape, name = target, new
    lines += [
        f"    for i, j in T.grid({shape[0]}, {shape[1]}):",
        '        with T.block("Y"):',
        '            vi, vj = T.axis.remap("SS", [i, j])',
        f"            Y[vi, vj] = {name}[vi, vj] + 1.0",
    ]
    head = [
        "@T.prim_func",
        f'def f(X: T.Buffer(({m}, {n}), "float32"), Y: T.Buffer({shape}, "float32")):',
    ]
    return "\n".join([*head, *allocs, *lines])


@settings(max_examples=120, derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**31 - 1))
def test_random_programs(seed: int) -> None:
    func = from_source(random_program(random.Random(seed)))
    assert isinstance(func, PrimFunc)
    same_results(func, scheduled(func), seed)


# ----------------------------------------------------------------------------- by hand
@pytest.mark.parametrize("name", ["matmul", "softmax", "conv2d"])
def test_schedules_by_hand_are_right(name: str) -> None:
    made = gpu_schedules(name)
    assert len({g.func.script() for g in made}) == 10
    assert [g.label for g in made] == [g.label for g in gpu_schedules(name)]
    for g in made:
        assert faults(g.func) == [], g.label
        check_equal(g.kernel, g.shape, g.func)


def test_the_checks_can_fail() -> None:
    """A block outside the grid, an axis bound twice, extents that differ, a register that another
    thread wrote: each is seen."""
    kernel = kernels.get("row_sum")
    assert faults(kernel.build(m=8, n=8)) == ["block B is under no grid"]

    @T.prim_func
    def bad(A: T.Buffer((8, 2048), "float32"), B: T.Buffer((8, 2048), "float32")):
        C = T.alloc_buffer((8, 2048), scope="local")
        for b in T.thread_binding(8, thread="blockIdx.x"):
            for t in T.thread_binding(4, thread="threadIdx.x"):
                for s in T.thread_binding(512, thread="threadIdx.x"):
                    with T.block("C"):
                        vi = T.axis.spatial(8, b)
                        vj = T.axis.spatial(2048, t * 512 + s)
                        C[vi, vj] = A[vi, vj]
            for t in T.thread_binding(2048, thread="threadIdx.x"):
                with T.block("B"):
                    vi = T.axis.spatial(8, b)
                    vj = T.axis.spatial(2048, t)
                    B[vi, vj] = C[vi, 2047 - vj]

    text = "; ".join(faults(bad))
    assert "bound twice" in text
    assert "has the extents [4, 512, 2048]" in text
    assert "[2048] threads are more than 1024" in text

    @T.prim_func
    def foreign(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        C = T.alloc_buffer((8,), scope="local")
        for _b in T.thread_binding(1, thread="blockIdx.x"):
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("C"):
                    vi = T.axis.spatial(8, t)
                    C[vi] = A[vi]
            for t in T.thread_binding(8, thread="threadIdx.x"):
                with T.block("B"):
                    vi = T.axis.spatial(8, t)
                    B[vi] = C[7 - vi]

    assert faults(foreign) == []
    with pytest.raises(AssertionError):
        same_results(foreign, foreign, 1)
