"""Do conversions between float16, bfloat16 and wider floats round to nearest even, everywhere?"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from llvm_running import FakeTarget, compiled, host, parse, targets

from gputune.codegen.llvm import compile
from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc

NARROW = ("float16", "bfloat16")
Array = np.ndarray[Any, Any]


@cache
def _cast(src: str, dst: str, n: int, lanes: int) -> PrimFunc:
    return parse(f"""
@T.prim_func
def main(A: T.Buffer(({n},), "{src}"), Z: T.Buffer(({n},), "{dst}")):
    for i in range({-(-n // lanes)}):
        for j in T.vectorized({lanes}):
            with T.block("Z"):
                v = T.axis.spatial({n}, i * {lanes} + j)
                T.where(i * {lanes} + j < {n})
                Z[v] = T.Cast("{dst}", A[v])
""")


def converted(a: Array, dst: str, lanes: int, target: FakeTarget) -> Array:
    """`a` as the machine code converts it."""
    out = np.zeros(len(a), dtypes.numpy_dtype(dst))
    got: Array = compiled(_cast(str(a.dtype), dst, len(a), lanes), [a, out], target)[1]
    return got


def every(dtype: str) -> Array:
    """All 65536 numbers of a narrow dtype."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtypes.numpy_dtype(dtype))


def around(dtype: str) -> Array:
    """float32 numbers at which rounding to a narrow dtype decides: its numbers, the middles between
    neighbours, and what is next to these on either side; NaNs too."""
    with np.errstate(all="ignore"):
        exact = np.sort(every(dtype).astype(np.float32)[np.isfinite(every(dtype))])
        middle = (exact[1:] / 2 + exact[:-1] / 2).astype(np.float32)
        last = exact[-1:] + (exact[-1:] - exact[-2:-1]) / 2
        points = np.concatenate([exact, middle, last, -last])
        up, down = (np.nextafter(points, np.float32(x)) for x in (np.inf, -np.inf))
    nans = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    return np.concatenate([points, up, down, nans.view(np.float32)])


def same(got: Array, want: Array) -> None:
    """Equal bits, but for NaNs, which must be NaNs with the same sign."""
    nan = np.isnan(want.astype(np.float32))
    assert (np.isnan(got.astype(np.float32)) == nan).all()
    bits = f"u{want.dtype.itemsize}"
    np.testing.assert_array_equal(got.view(bits)[~nan], want.view(bits)[~nan])
    np.testing.assert_array_equal(np.signbit(got.view(want.dtype))[nan], np.signbit(want)[nan])


@pytest.mark.parametrize("dtype", NARROW)
def test_float32_is_rounded_to_nearest_even(dtype: str) -> None:
    a = around(dtype)
    with np.errstate(all="ignore"):
        want = a.astype(dtypes.numpy_dtype(dtype))
    for target in targets():
        same(converted(a, dtype, 16, target), want)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_every_narrow_number_is_kept(dtype: str, wide: str) -> None:
    a = every(dtype)
    with np.errstate(all="ignore"):
        want = a.astype(wide)
    for target in targets():
        same(converted(a, wide, 16, target), want)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 8, 13, 24, 32, 33, 64])
def test_conversions_at_any_lane_count(dtype: str, lanes: int) -> None:
    a = np.random.default_rng(1).permutation(around(dtype))[:1000]
    with np.errstate(all="ignore"):
        want = a.astype(dtypes.numpy_dtype(dtype))
        back = want.astype(np.float32)
    for target in targets():
        same(converted(a, dtype, lanes, target), want)
        same(converted(want, "float32", lanes, target), back)


@pytest.mark.parametrize("dtype", NARROW)
def test_conversions_are_vector_code(dtype: str) -> None:
    for target in targets():
        for src, dst in (("float32", dtype), (dtype, "float32")):
            text = compile(_cast(src, dst, 1024, 16), target).asm()
            assert "call" not in text.replace("callq\t*", ""), (target.mcpu, src, dst)
    if "+f16c" in host().mattr:
        text = compile(_cast("float32", "float16", 1024, 16), host()).asm()
        assert "vcvtps2ph" in text
