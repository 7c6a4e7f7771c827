"""Do the tensor intrinsics of mma.sync mean what their descriptions say?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.errors import UserError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.ir.ops import rounded_tf32
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin

OPERANDS = ("f16", "bf16", "tf32", "i8", "u8")
KINDS = ("f16f16f32", "f16f16f16", "bf16bf16f32", "tf32tf32f32", "i8i8i32", "u8u8i32")
ORDERS = ("", "_trans_b", "_trans_a", "_trans_a_trans_b")
NAMES = {
    *[
        f"mma_ldmatrix_{dtype}_{operand}{scope}"
        for dtype in OPERANDS
        for operand in ("a", "b", "a_trans", "b_trans")
        for scope in ("", "_dyn")
    ],
    *[f"mma_fill_16x16_{dtype}" for dtype in ("f32", "f16", "i32")],
    *[f"mma_{kind}{order}" for kind in KINDS for order in ORDERS],
    *[
        f"mma_store_16x16_{dtype}_{scope}"
        for dtype in ("f32", "f16", "i32")
        for scope in ("shared", "shared_dyn", "global")
    ],
}


def numbers(func: PrimFunc) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(11)
    out = []
    for b in func.buffers:
        shape = tuple(const_int(n) or 0 for n in b.shape)
        low = 0 if b.dtype == "uint8" else -4
        out.append(rng.integers(low, 5, shape).astype(dtypes.numpy_dtype(b.dtype)))
    return out


def test_names() -> None:
    assert {n for n in TensorIntrin.names() if n.startswith("mma_")} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_implementation_does_what_the_description_says(name: str) -> None:
    found = intrin(name)
    wanted = numbers(found.desc)
    got = [x.copy() for x in wanted]
    before = [x.copy() for x in wanted]
    run(found.desc, *wanted)
    run(found.impl, *got)
    for x, y in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(got[-1], before[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_products_are_numpys(kind: str, order: str) -> None:
    func = intrin(f"mma_{kind}{order}").impl
    a, b, c = numbers(func)
    x = a.T if "_trans_a" in order else a
    y = b.T if "_trans_b" in order else b
    assert x.shape == (16, y.shape[0])
    assert x.nbytes == 16 * 32
    want = c + (x.astype(np.float64) @ y.astype(np.float64)).astype(c.dtype)
    run(func, a, b, c)
    np.testing.assert_array_equal(c, want)


def test_tf32_has_ten_bits_behind_the_point() -> None:
    found = intrin("mma_tf32tf32f32")
    assert found.tolerance == 2.0**-10
    one = np.float32(1)
    x = np.array([one + 2**-10, one + 2**-11, one + 2**-12, -one - 2**-11, np.inf, 0], np.float32)
    near = [1 + 2**-10, 1 + 2**-10, 1, -1 - 2**-10, np.inf, 0]
    np.testing.assert_array_equal(rounded_tf32(x), np.array(near, np.float32))
    a, b = np.zeros((16, 8), np.float32), np.zeros((8, 16), np.float32)
    a[0, 0], b[0, 0] = 1 + 2**-11, 1 + 2**-12
    c = np.zeros((16, 16), np.float32)
    run(found.impl, a, b, c)
    assert c[0, 0] == 1 + 2**-10


def test_which_targets_have_them() -> None:
    for name in ("mma_f16f16f32", "mma_fill_16x16_f32", "mma_store_16x16_i32_global"):
        found = intrin(name)
        assert found.kind == "cuda"
        for arch in ("sm_80", "sm_86", "sm_90a", "sm_120"):
            assert not found.missing(Target(f"cuda -arch={arch}"))
        assert "sm_80 was the first" in found.missing(Target("cuda -arch=sm_75"))
        assert "for cuda targets, not for llvm" in found.missing(Target("llvm"))


@pytest.mark.parametrize(
    ("name", "why"),
    [("mma_load_m16n8k8_f16_A_shared_dyn", "16 x 16 sums"), ("mma_e4m3e4m3f32", "float8")],
)
def test_what_is_not_there_is_named(name: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        intrin(name)
    assert why in caught.value.hint
