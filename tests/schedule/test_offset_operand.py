# ruff: noqa: E501 - golden programs are printed as they are
"""A factor of a sum of products in another range: the same result, to the bit; or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from tests.properties.law import check_round_trips
from tests.schedule.schedule_helpers import prints, scheduled
from tests.schedule.tensor_programs import bf16_matmul, i8_matmul, u8_conv, u8_matmul


def product(init: str = "0", value: str = "X * Y", a: str = "int8") -> PrimFunc:
    func = from_source(
        f"""
@T.prim_func
def f(A: T.Buffer((5, 9), "{a}"), B: T.Buffer((9, 7), "int8"), C: T.Buffer((5, 7), "int32")):
    for i, j, k in T.grid(5, 7, 9):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = {init}
            C[vi, vj] = C[vi, vj] + {value}
""".replace("X", 'T.cast(A[vi, vk], "int32")').replace("Y", 'T.cast(B[vk, vj], "int32")')
    )
    assert isinstance(func, PrimFunc)
    return func


def agrees(func: PrimFunc, sch: Schedule, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    args: list[np.ndarray] = []
    for b in func.buffers:
        info = np.iinfo(b.dtype)
        shape = [int(getattr(n, "value", 0)) for n in b.shape]
        args.append(rng.integers(info.min, info.max, shape, endpoint=True).astype(b.dtype))
    want, got, made = ([a.copy() for a in args] for _ in range(3))
    run(func, *want)
    run(sch.mod[func.name], *got)
    np.testing.assert_array_equal(got[-1], want[-1])
    build(sch.mod, "llvm --num-cores=1")[func.name](*made)
    np.testing.assert_array_equal(made[-1], want[-1])


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("program", [i8_matmul, u8_matmul, u8_conv])
def test_the_result_is_the_same(program: Any, index: int) -> None:
    func = program()
    sch = Schedule(func, seed=1, debug_mask="all")
    block = sch.get_block("Y" if program is u8_conv else "C")
    unsigned = sch.get(block).reads[index].buffer.dtype == "uint8"
    sch.offset_operand(block, index, *((-128, "int8") if unsigned else (128, "uint8")))
    agrees(func, sch)
    check_round_trips(func, sch)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    init=st.sampled_from(["0", "7", "vi - vj"]),
    value=st.sampled_from(["X * Y", "Y * X"]),
    offset=st.integers(-500, 500),
    index=st.integers(0, 1),
    split=st.booleans(),
)
def test_any_offset_and_start(init: str, value: str, offset: int, index: int, split: bool) -> None:
    func = product(init, value)
    sch = Schedule(func, seed=1)
    block = sch.get_block("C")
    sch.offset_operand(block, index, offset, "int32")
    if split:
        _, _, k = sch.get_loops(block)
        k0, _ = sch.split(k, [None, 4])
        sch.decompose_reduction(block, k0)
    agrees(func, sch, abs(offset))


def test_the_program_that_it_makes() -> None:
    sch = scheduled(product())
    sch.offset_operand("C", 0, 128, "uint8")
    prints(
        sch,
        """
        A_offset = T.alloc_buffer((5, 9), "uint8")
        B_sum = T.alloc_buffer((7,), "int32")
        for ax0, ax1 in T.grid(5, 9):
            with T.block("A_offset"):
                v0, v1 = T.axis.remap("SS", [ax0, ax1])
                T.reads(A[v0, v1])
                T.writes(A_offset[v0, v1])
                A_offset[v0, v1] = T.Cast("uint8", A[v0, v1]) + T.uint8(128)
        for ax0, ax1 in T.grid(7, 9):
            with T.block("B_sum"):
                vj, vk = T.axis.remap("SR", [ax0, ax1])
                T.reads(B[vk, vj])
                T.writes(B_sum[vj])
                with T.init():
                    B_sum[vj] = 0
                B_sum[vj] = B_sum[vj] + T.Cast("int32", B[vk, vj])
        for i, j, k in T.grid(5, 7, 9):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                T.reads(A_offset[vi, vk], B[vk, vj], B_sum[vj])
                T.writes(C[vi, vj])
                with T.init():
                    C[vi, vj] = B_sum[vj] * -128
                C[vi, vj] = C[vi, vj] + T.Cast("int32", A_offset[vi, vk]) * T.Cast("int32", B[vk, vj])
        """,
    )


def test_what_is_read_is_declared() -> None:
    sch = Schedule(product(), seed=1)
    block = sch.get_block("C")
    sch.offset_operand(block, 0, 128, "uint8")
    assert [r.buffer.name for r in sch.get(block).reads] == ["A_offset", "B", "B_sum"]
    assert [sch.get(b).name for b in sch.get_producers(block)] == ["A_offset", "B_sum"]


def refused(func: PrimFunc, *args: Any) -> ScheduleError:
    sch = Schedule(func, seed=1)
    before = sch.mod.script()
    with pytest.raises(ScheduleError) as caught:
        sch.offset_operand(sch.get_block("C"), *args)
    assert sch.mod.script() == before
    return caught.value


def test_values_must_fit() -> None:
    e = refused(product(), 0, 127, "uint8")
    assert e.code == "offset-range"
    assert "go from -1 to 254" in e.message
    assert refused(product(), 0, 0, "float32").code == "offset-range"
    assert refused(product(), 0, 0, "bool").code == "offset-range"
    assert refused(product(), 0, 0, "int9").code == "offset-range"


def test_only_products_of_integers() -> None:
    assert refused(bf16_matmul(), 0, 1, "int32").code == "offset-body"
    assert refused(product(value="X + Y"), 0, 128, "uint8").code == "offset-body"
    assert refused(product(value="X * 3"), 0, 128, "uint8").code == "offset-body"
    assert refused(product(value="X * Y * X"), 0, 128, "uint8").code == "offset-body"
    assert refused(product(value="X * X"), 0, 128, "uint8").code == "offset-operand"


def test_the_operand_must_be_one() -> None:
    assert refused(product(), 5, 128, "uint8").code == "buffer-index"


def test_a_factor_that_two_blocks_write_is_refused() -> None:
    func = from_source(
        """
@T.prim_func
def f(X: T.Buffer((4, 8), "int8"), B: T.Buffer((8, 6), "int8"), C: T.Buffer((4, 6), "int32")):
    A = T.alloc_buffer((4, 8), "int8")
    for i, k in T.grid(4, 4):
        with T.block("left"):
            vi, vk = T.axis.remap("SS", [i, k])
            A[vi, vk] = X[vi, vk]
    for i, k in T.grid(4, 4):
        with T.block("right"):
            vi, vk = T.axis.remap("SS", [i, k])
            A[vi, vk + 4] = X[vi, vk + 4]
    for i, j, k in T.grid(4, 6, 8):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vk, vj], "int32")
"""
    )
    assert isinstance(func, PrimFunc)
    e = refused(func, 0, 128, "uint8")
    assert e.code == "cache-writers"
    assert "buffer A has 2 writers" in e.message


def test_not_after_decomposition() -> None:
    sch = Schedule(product(), seed=1)
    block = sch.get_block("C")
    sch.decompose_reduction(block, sch.get_loops(block)[0])
    with pytest.raises(ScheduleError, match="no reduction with an init"):
        sch.offset_operand(block, 0, 128, "uint8")


def test_a_block_inside_of_blocks_that_only_reduces() -> None:
    """Named for a bug: a block without a spatial iterator of its own got its reduction twice."""
    func = product()
    sch = Schedule(func)
    _, _, k = sch.get_loops(sch.get_block("C"))
    sch.loop_partition(k, [4])
    sch.offset_operand(sch.get_block("C_k0"), 0, 128, "uint8")
    agrees(func, sch)
