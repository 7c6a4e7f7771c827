"""Vector intrinsics and reinterpreted lanes: machine code against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.errors import BuildError, CheckError, RunError
from gputune.ir.check import check
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.ir.ops import VECTOR, VectorOp, declare_vector_op
from gputune.runtime.module import build
from gputune.script import from_source
from gputune.script import tir as T


def same(func: PrimFunc, *args: np.ndarray) -> None:
    """The last argument is the result."""
    check(IRModule.from_expr(func))
    want, got = args[-1].copy(), args[-1].copy()
    run(func, *args[:-1], want)
    build(func, "llvm")(*args[:-1], got)
    np.testing.assert_array_equal(got, want)
    assert from_source(func.script()).script() == func.script()


def some(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def test_lanes_are_joined_lowest_first() -> None:
    @T.prim_func
    def f(A: T.Buffer((16,), "uint8"), B: T.Buffer((4,), "int32")):
        B[0:4] = T.reinterpret("int32x4", A[0:16])

    b = np.zeros(4, np.int32)
    run(f, np.arange(16, dtype=np.uint8), b)
    assert b[0] == 0x03020100
    same(f, some((16,), "uint8"), np.zeros(4, np.int32))


def test_lanes_are_cut() -> None:
    @T.prim_func
    def f(A: T.Buffer((4,), "int32"), B: T.Buffer((8,), "int16"), C: T.Buffer((4,), "uint8")):
        B[0:8] = T.reinterpret("int16x8", A[0:4])
        C[0:4] = T.reinterpret("uint8x4", A[1])

    a, b, c = some((4,), "int32"), np.zeros(8, np.int16), np.zeros(4, np.uint8)
    same(f, a, b, c)
    run(f, a, b, c)
    np.testing.assert_array_equal(b, a.view(np.int16))
    np.testing.assert_array_equal(c, a[1:2].view(np.uint8))


def test_narrow_floats_are_reinterpreted_as_their_bits() -> None:
    import ml_dtypes

    @T.prim_func
    def f(
        A: T.Buffer((8,), "bfloat16"), B: T.Buffer((4,), "uint32"), C: T.Buffer((8,), "bfloat16")
    ):
        B[0:4] = T.reinterpret("uint32x4", A[0:8])
        C[0:8] = T.reinterpret("bfloat16x8", T.reinterpret("uint32x4", A[0:8]))

    a = np.linspace(-3, 7, 8).astype(ml_dtypes.bfloat16)
    b, c = np.zeros(4, np.uint32), np.zeros(8, ml_dtypes.bfloat16)
    build(f, "llvm")(a, b, c)
    np.testing.assert_array_equal(b, a.view(np.uint32))
    np.testing.assert_array_equal(c, a)
    same(f, a, b, c)


@pytest.mark.parametrize("pitch", [4, 5, 8])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_rows_are_gathered_in_runs(pitch: int, dtype: str) -> None:
    """Elements that lie next to each other are read together, whatever the distance of rows."""

    @T.prim_func
    def f(A: T.Buffer((16, pitch), dtype), B: T.Buffer((64,), dtype)):
        B[0:64] = A[T.Ramp(0, 1, 64) // 4, T.Ramp(0, 1, 64) % 4]

    same(f, some((16, pitch), dtype), np.zeros(64, dtype))


def test_runs_of_bfloat16() -> None:
    import ml_dtypes

    @T.prim_func
    def f(A: T.Buffer((8, 3), "bfloat16"), B: T.Buffer((16,), "bfloat16")):
        B[0:16] = A[T.Ramp(0, 1, 16) // 2, T.Ramp(0, 1, 16) % 2 + 1]

    a = np.arange(24).reshape(8, 3).astype(ml_dtypes.bfloat16)
    same(f, a, np.zeros(16, ml_dtypes.bfloat16))


def test_an_intrinsic_may_have_any_pattern_of_lanes() -> None:
    """Only the interpreter runs one that has no LLVM function; each statement computes it anew."""
    declare_vector_op(
        "test.sums",
        VectorOp("int32x2", ("int32x4",), lambda x: np.array([x.sum(), x.max()])),
        override=True,
    )

    @T.prim_func
    def f(A: T.Buffer((3, 4), "int32"), B: T.Buffer((3, 2), "int32")):
        for i in range(3):
            B[i, 0:2] = T.call_intrin("int32x2", "test.sums", A[i, 0:4])

    a = np.arange(12, dtype=np.int32).reshape(3, 4)
    b = np.zeros((3, 2), np.int32)
    run(f, a, b)
    np.testing.assert_array_equal(b, np.stack([a.sum(1), a.max(1)], 1))
    with pytest.raises(BuildError, match=r"test\.sums has no code on llvm targets"):
        build(f, "llvm")


def test_processors_without_the_instruction_are_refused() -> None:
    @T.prim_func
    def f(A: T.Buffer((32,), "int16"), B: T.Buffer((16,), "int32")):
        B[0:16] = T.call_intrin("int32x16", "x86.pmaddwd", A[0:32], A[0:32])

    with pytest.raises(BuildError, match="needs a processor with avx512bw"):
        build(f, "llvm -mattr=-avx512bw,-avx512vl,-avx512dq,-avx512vnni,-avx512bf16")


def test_wrong_arguments_are_refused() -> None:
    text = """
@T.prim_func
def f(A: T.Buffer((32,), "int16"), B: T.Buffer((16,), "int32")):
    B[0:16] = T.call_intrin("int32x16", "x86.pmaddwd", A[0:16], A[0:32])
"""
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    with pytest.raises(CheckError, match="int16x16"):
        check(IRModule.from_expr(func))
    with pytest.raises(RunError, match=r"x86\.pmaddwd takes int16x32, int16x32"):
        run(func, np.zeros(32, np.int16), np.zeros(16, np.int32))


def test_names_are_dotted_and_taken_once() -> None:
    op = VECTOR["x86.pmaddwd"]
    with pytest.raises(ValueError, match="dotted"):
        declare_vector_op("pmaddwd", op)
    with pytest.raises(ValueError, match="already"):
        declare_vector_op("x86.pmaddwd", op)
