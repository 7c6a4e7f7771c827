"""Does memory of scope "warp" lie in the registers of lanes, which load from each other by
shuffles? What does not fit that form is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_programs import ARCHS, needs_nvrtc
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_reductions import ORDERS

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.gpu_resources import count_gpu_resources
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.kernels import KERNELS
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.schedule import Schedule
from gputune.script import from_source

STAGED = """@T.prim_func
def main(A: T.Buffer(({n},), "{dtype}"), P: T.Buffer((32,), "int32"),
         B: T.Buffer(({n},), "{dtype}")):
    W = T.alloc_buffer(({n},), "{dtype}", scope="warp")
    for b in T.thread_binding({blocks}, thread="blockIdx.x"):
        for y in T.thread_binding({warps}, thread="threadIdx.y"):
            for x in T.thread_binding(32, thread="threadIdx.x"):
                for i in range({rounds}):
                    with T.block("W"):
                        v = T.axis.spatial({n}, {base} + {write})
                        {where_write}
                        W[v] = A[v]
            for x in T.thread_binding(32, thread="threadIdx.x"):
                for i in range({rounds}):
                    with T.block("B"):
                        v = T.axis.spatial({n}, {base} + i * 32 + x)
                        {where}
                        T.reads(W[{base} : {base} + {rounds} * 32], P[0:32])
                        T.writes(B[v])
                        B[v] = W[{base} + {read}]
"""


def staged(
    read: str, *, write: str = "i * 32 + x", rounds: int = 1, warps: int = 1, blocks: int = 1,
    where: str = "", where_write: str = "", dtype: str = "float32",
) -> PrimFunc:  # fmt: skip
    """B from A through warp memory: each warp takes `rounds` times 32 elements."""
    each = rounds * 32
    text = STAGED.format(
        n=each * warps * blocks, dtype=dtype, blocks=blocks, warps=warps, rounds=rounds,
        base=f"(b * {warps} + y) * {each}", write=write, read=read,
        where=f"T.where({where})" if where else "pass",
        where_write=f"T.where({where_write})" if where_write else "pass",
    )  # fmt: skip
    return parsed(text.replace("                        pass\n", ""))


def parsed(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def check(func: PrimFunc, *, given: bool = False) -> CudaSource:
    """The source, after it gave what the interpreter gives, in three orders of the threads.

    Args:
        given: does the program leave some of its results as they were?
    """
    rng = np.random.default_rng(5)
    arrays: list[Any] = []
    for b in func.buffers:
        shape = [int(n.value) for n in b.shape]  # type: ignore[union-attr]  # constant
        top = 32 if b.name == "P" else 90
        arrays.append(rng.integers(0, top, shape).astype(b.dtype))
    source = generate(func)
    params = source.host.params
    values = {
        p.name: None if p.written and not given else a.copy()
        for p, a in zip(params, arrays, strict=True)
    }
    run(func, *arrays)
    for order in ORDERS:
        report = host_run(host_compile(source), values, order=order, seed=2)
        assert not report.findings, f"{report}\n{source.text}"
        for p, want in zip(params, arrays, strict=True):
            if p.written:
                np.testing.assert_array_equal(report.outputs[p.name].reshape(want.shape), want)
    assert "__shared__" not in source.text
    assert "__syncthreads" not in source.text
    return source


# ----------------------------------------------------------------------------- what lanes can do
@pytest.mark.parametrize(
    ("read", "shuffles"),
    [
        ("i * 32 + x", 0),  # its own
        ("i * 32 + (31 - x)", 1),
        ("i * 32 + (x + 5) % 32", 1),
        ("i * 32 + 7", 1),
        ("(3 - i) * 32 + x", 0),
        ("(3 - i) * 32 + x // 4 * 4", 1),
    ],
)
def test_lanes_read_each_other(read: str, shuffles: int) -> None:
    source = check(staged(read, rounds=4, warps=2, blocks=2))
    assert source.text.count("__shfl_sync") == shuffles
    assert "float W[4];" in source.text


def test_places_that_are_looked_up() -> None:
    assert check(staged("P[x]")).text.count("__shfl_sync") == 1
    check(staged("P[31 - P[x]]"))
    check(staged("P[x] % 32", warps=3, blocks=2))


def test_neighbours_in_one_lane() -> None:
    """Where each lane keeps four neighbours."""
    for read in ("x * 4 + i", "(31 - x) * 4 + i", "5 * 4 + i", "x // 2 * 8 + i"):
        check(staged(read, write="x * 4 + i", rounds=4, warps=3))


@settings(max_examples=12, derandomize=True, deadline=None, database=None)
@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 5]),
    st.integers(0, 31),
    st.sampled_from([1, 3, 31]),
    st.sampled_from(["float32", "float16", "int8", "int64", "float64", "uint16"]),
)
def test_any_rotation(rounds: int, warps: int, by: int, times: int, dtype: str) -> None:
    read = f"({rounds - 1} - i) * 32 + (x * {times} + {by}) % 32"
    check(staged(read, rounds=rounds, warps=warps, dtype=dtype))


@pytest.mark.parametrize(
    "where", ["i * 32 + x < 77", "x < 5", "x % 2 == 0 and i < 2", "i < 2", "y * 32 + x < 40"]
)
def test_all_lanes_come_to_a_shuffle(where: str) -> None:
    """A condition on the reader does not keep the others from giving what they have."""
    for read in ("i * 32 + (31 - x)", "i * 32 + 31"):
        check(staged(read, rounds=4, warps=2, where=where), given=True)


def test_a_value_that_only_some_lanes_look_at() -> None:
    text = STAGED.replace("B[v] = W[{base} + {read}]", "{read}")
    value = "B[v] = T.if_then_else(x < 7, W[{0} + 31 - x], T.{1}(3))"
    func = parsed(
        text.format(
            n=64, dtype="float32", blocks=1, warps=2, rounds=1, base="(b * 2 + y) * 32",
            write="x", read=value.format("(b * 2 + y) * 32", "float32"), where="", where_write="",
        )
    )  # fmt: skip
    assert check(func).text.count("__shfl_sync") == 1


def test_a_product_whose_rows_lanes_hold() -> None:
    """By primitives: each lane fetches one element of a row of A, and all read it in turn."""
    kernel = KERNELS["matmul"]
    sch = Schedule(kernel.build({"m": 6, "n": 64, "k": 96}))
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    j0, j1 = sch.split(j, [None, 32])
    k0, k1 = sch.split(k, [None, 32])
    sch.reorder(i, j0, j1, k0, k1)
    sch.bind(sch.fuse(i, j0), "blockIdx.x")
    sch.bind(j1, "threadIdx.x")
    copy = sch.cache_read(block, 0, "warp")
    sch.compute_at(copy, k0)
    sch.bind(sch.get_loops(copy)[-1], "threadIdx.x")
    source = check(sch.mod["matmul"])
    assert "__shfl_sync" in source.text
    assert "float A_warp[1];" in source.text
    (taken,) = count_gpu_resources(sch.mod["matmul"])
    (usage,) = kernels_of(sch.mod["matmul"])
    assert (taken.shared_bytes, taken.threads) == (usage.shared_bytes, usage.threads) == (0, 32)


def test_fewer_threads_than_a_warp() -> None:
    """The warp is whole all the same; the loops run in some of its lanes."""
    func = parsed(
        HEAD.replace("64", "16")
        + """
        for x in T.thread_binding(16, thread="threadIdx.x"):
            with T.block("W"):
                v = T.axis.spatial(16, x)
                W[v] = A[v]
        for x in T.thread_binding(16, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(16, x)
                B[v] = W[15 - v]
"""
    )
    assert "__shfl_sync" in check(func).text
    (usage,) = kernels_of(func)
    (taken,) = count_gpu_resources(func)
    assert usage.threads == taken.threads == 32


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_it_compiles(arch: str) -> None:
    for dtype in ("float32", "float64", "bfloat16", "int8"):
        source = generate(staged("i * 32 + (31 - x)", rounds=4, warps=2, dtype=dtype))
        facts = compile_cuda(source, arch, cache=False).facts["main_kernel"]
        assert facts.shared_bytes == 0


# ----------------------------------------------------------------------------- what they cannot
REFUSED: dict[str, tuple[PrimFunc, str, str]] = {
    "others' elements stored": (staged("x", write="31 - x"), "warp-memory", "elements of its own"),
    "rotated": (staged("x", write="(x + 1) % 32"), "warp-memory", "stored at"),
    "a register that differs": (
        staged("x * 4 + i", rounds=4), "warp-memory", "differs from lane to lane",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    func, code, words = REFUSED[name]
    with pytest.raises(LowerError) as e:
        generate(func)
    assert e.value.code == code
    assert words in e.value.message
    assert "W" in e.value.message
    assert e.value.hint


HEAD = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    W = T.alloc_buffer((64,), "float32", scope="warp")
    for b in T.thread_binding(1, thread="blockIdx.x"):
"""
WRITTEN = """
        for y in T.thread_binding(2, thread="threadIdx.y"):
            for x in T.thread_binding(32, thread="threadIdx.x"):
                with T.block("W"):
                    v = T.axis.spatial(64, y * 32 + x)
                    W[v] = A[v]
"""
BY_HAND = {
    "another warp's": (
        HEAD + WRITTEN + """
        for y in T.thread_binding(2, thread="threadIdx.y"):
            for x in T.thread_binding(32, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, y * 32 + x)
                    B[v] = W[63 - v]
""", "not-private", "another warp wrote"),
    "loops of other lengths": (
        HEAD + WRITTEN + """
        for y in T.thread_binding(2, thread="threadIdx.y"):
            for x in T.thread_binding(32, thread="threadIdx.x"):
                for j in range(x + 1):
                    with T.block("B"):
                        v = T.axis.opaque(64, y * 32 + x)
                        T.reads(W[y * 32 : y * 32 + 32])
                        T.writes(B[v])
                        B[v] = W[y * 32 + j]
""", "warp-memory", "length of loop j"),
    "looked up under a condition": (
        HEAD + WRITTEN + """
        for y in T.thread_binding(2, thread="threadIdx.y"):
            for x in T.thread_binding(32, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, y * 32 + x)
                    T.where(x < 20)
                    T.reads(W[y * 32 : y * 32 + 32], A[v])
                    T.writes(B[v])
                    B[v] = W[y * 32 + T.Cast("int32", A[v]) % 32]
""", "warp-memory", "looked up under a condition"),
    "too many threads": (
        HEAD + """
        for x in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("W"):
                v = T.axis.spatial(64, x)
                W[v] = A[v]
        for x in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, x)
                B[v] = W[v]
""", "warp-lanes", "32 threads of a warp"),
    "stored by one thread": (
        HEAD + """
        for i in range(64):
            with T.block("W"):
                v = T.axis.spatial(64, i)
                W[v] = A[v]
        for x in T.thread_binding(32, thread="threadIdx.x"):
            for i in range(2):
                with T.block("B"):
                    v = T.axis.spatial(64, i * 32 + x)
                    B[v] = W[v]
""", "warp-memory", "elements of its own"),
    "one element for all": (
        HEAD + """
        for x in T.thread_binding(32, thread="threadIdx.x"):
            for i in range(2):
                with T.block("B"):
                    v = T.axis.opaque(64, i * 32 + x)
                    T.reads(A[v], W[0:64])
                    T.writes(B[v], W[0:64])
                    W[v] = A[v]
                    W[v] = W[i * 32 + 31 - x]
                    B[v] = W[v]
""", "warp-memory", "in no order"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_what_lanes_cannot_do(name: str) -> None:
    text, code, words = BY_HAND[name]
    with pytest.raises(LowerError) as e:
        generate(parsed(text))
    assert e.value.code == code
    assert words in e.value.message


def test_padding_is_refused() -> None:
    sch = Schedule(
        parsed(
            """@T.prim_func
def main(A: T.Buffer((4, 32), "float32"), B: T.Buffer((4, 32), "float32")):
    W = T.alloc_buffer((4, 32), "float32", scope="warp")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for x in T.thread_binding(32, thread="threadIdx.x"):
            for i in range(4):
                with T.block("W"):
                    v, w = T.axis.remap("SS", [i, x])
                    W[v, w] = A[v, w]
        for x in T.thread_binding(32, thread="threadIdx.x"):
            for i in range(4):
                with T.block("B"):
                    v, w = T.axis.remap("SS", [i, x])
                    B[v, w] = W[3 - v, 31 - w]
"""
        )
    )
    check(sch.mod["main"])
    sch.storage_align("W", 0, 0, 32, 1)
    with pytest.raises(LowerError) as e:
        generate(sch.mod["main"])
    assert e.value.code == "warp-memory"
    assert "padded" in e.value.message
