"""Tensor intrinsics: registering them, and that what is registered computes what it says."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.errors import UserError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.check import check
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.runtime.module import build
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin

BUILT_IN = ["dot_16x2_avx512bf16", "dot_16x4_avx512", "dot_16x4_vnni"]


@T.prim_func
def desc(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.block("B"):
            vi = T.axis.spatial(4, i)
            B[vi] = A[vi] * T.float32(2)


@T.prim_func
def impl(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
    B[0:4] = A[0:4] + A[0:4]


def operands(func: PrimFunc, which: int) -> list[np.ndarray]:
    rng = np.random.default_rng(which)
    out = []
    for b in func.buffers:
        shape = [int(const_int(n) or 0) for n in b.shape]
        kind = dtypes.numpy_dtype(b.dtype)
        if dtypes.is_float(b.dtype):
            out.append(rng.integers(-99, 100, shape).astype(kind))
        else:
            lo, hi = np.iinfo(kind).min, np.iinfo(kind).max
            small = b.dtype == "int32"  # the accumulator: no overflow
            pick = [rng.integers(lo, hi, shape, endpoint=True), np.full(shape, lo),
                    np.full(shape, hi)][which % 3]  # fmt: skip
            out.append((pick % 1000 if small else pick).astype(kind))
    return out


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("which", range(6))
def test_the_implementation_does_what_is_described(name: str, which: int) -> None:
    found = intrin(name)
    check(IRModule.from_expr(found.desc))
    check(IRModule.from_expr(found.impl))
    want, got = operands(found.desc, which), operands(found.desc, which)
    run(found.desc, *want)
    run(found.impl, *got)
    np.testing.assert_array_equal(got[-1], want[-1])
    missing = found.missing(Target("llvm"))
    if missing:
        pytest.skip(missing)
    got = operands(found.desc, which)
    build(found.impl, "llvm")(*got)
    np.testing.assert_array_equal(got[-1], want[-1])


def test_bfloat16_dot_rounds_as_its_meaning_says() -> None:
    found = intrin("dot_16x2_avx512bf16")
    if found.missing(Target("llvm")):
        pytest.skip(found.missing(Target("llvm")))
    rng = np.random.default_rng(0)
    args = [
        rng.standard_normal([int(const_int(n) or 0) for n in b.shape]).astype(
            dtypes.numpy_dtype(b.dtype)
        )
        for b in found.desc.buffers
    ]
    machine, meaning = args[2].copy(), args[2].copy()
    build(found.impl, "llvm")(args[0], args[1], machine)
    run(found.impl, args[0], args[1], meaning)
    np.testing.assert_allclose(machine, meaning, rtol=3e-7)


def test_built_in_names_and_features() -> None:
    assert set(BUILT_IN) <= set(TensorIntrin.names())
    assert intrin("dot_16x4_vnni").features == {"avx512vnni"}
    assert "no avx512vnni" in intrin("dot_16x4_vnni").missing(Target("llvm -mattr=-avx512vnni"))
    assert "llvm" in intrin("dot_16x4_vnni").missing(Target("cuda -arch=sm_90a"))


def test_scripts_print_and_parse() -> None:
    for name in BUILT_IN:
        for f in (intrin(name).desc, intrin(name).impl):
            again = from_source(f.script())
            assert isinstance(again, PrimFunc)
            assert again.script() == f.script()


def test_registering() -> None:
    TensorIntrin.register("test.registered", desc, impl, override=True)
    assert intrin("test.registered").impl is impl
    with pytest.raises(UserError, match="already") as caught:
        TensorIntrin.register("test.registered", desc, impl)
    assert caught.value.code == "intrin-taken"
    with pytest.raises(UserError, match="already"):
        TensorIntrin.register("dot_16x4_vnni", desc, impl)


def _plain_desc(A: T.Buffer((2,), "int32"), B: T.Buffer((2,), "int32")):
    for i in range(2):
        with T.block("B"):
            vi = T.axis.spatial(2, i)
            B[vi] = A[vi]


def _plain_impl(A: T.Buffer((2,), "int32"), B: T.Buffer((2,), "int32")):
    B[0:2] = A[0:2]


def test_plain_functions_are_parsed_when_first_used() -> None:
    def broken(A: T.Buffer((2,), "int32"), B: T.Buffer((2,), "int32")):
        B[0] = nowhere  # noqa: F821  # the point of the test

    TensorIntrin.register("test.plain", _plain_desc, _plain_impl, override=True)
    assert intrin("test.plain").desc.buffers[0].dtype == "int32"
    TensorIntrin.register("test.broken", _plain_desc, broken, override=True)
    with pytest.raises(Exception, match="nowhere"):
        _ = intrin("test.broken").impl


def test_refuses_other_parameters() -> None:
    @T.prim_func
    def other(A: T.Buffer((4,), "float32"), B: T.Buffer((8,), "float32")):
        B[0:4] = A[0:4]

    with pytest.raises(UserError, match="buffer B of desc is float32 of shape"):
        TensorIntrin.register("test.other", desc, other)
    with pytest.raises(UserError, match="is a prim_func, got int"):
        TensorIntrin.register("test.other", desc, 3)
    assert TensorIntrin.get("test.other", allow_missing=True) is None


def test_an_unknown_name_has_a_hint() -> None:
    with pytest.raises(UserError, match="no tensor intrinsic 'dot_16x4'") as caught:
        TensorIntrin.get("dot_16x4")
    assert "dot_16x4_vnni" in caught.value.hint
