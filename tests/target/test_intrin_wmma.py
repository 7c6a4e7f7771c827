"""Do the tensor intrinsics of WMMA mean what their descriptions say, and where do they fit?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gputune.errors import BuildError, GputuneError, LowerError, ScheduleError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin

NAMES = {
    *[
        f"wmma_load_16x16x16_{dtype}_{operand}_{scope}"
        for dtype in ("f16", "s8")
        for operand in ("a", "a_trans", "b", "b_trans")
        for scope in ("shared", "shared_dyn")
    ],
    *[f"wmma_fill_16x16x16_{dtype}" for dtype in ("f32", "f16", "s32")],
    *[
        f"wmma_sync_16x16x16_{kind}{trans}"
        for kind in ("f16f16f32", "f16f16f16", "s8s8s32")
        for trans in ("", "_trans", "_trans_a", "_trans_a_trans_b")
    ],
    *[
        f"wmma_store_16x16x16_{dtype}_{scope}"
        for dtype in ("f32", "f16", "s32")
        for scope in ("shared", "shared_dyn", "global")
    ],
}


def numbers(func: PrimFunc) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(11)
    return [rng.integers(-4, 5, (16, 16)).astype(b.dtype) for b in func.buffers]


def test_names_are_metaschedules() -> None:
    assert {n for n in TensorIntrin.names() if n.startswith("wmma_")} == NAMES


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


@pytest.mark.parametrize("name", sorted(n for n in NAMES if "_sync_" in n))
def test_products_are_numpys(name: str) -> None:
    func = intrin(name).impl
    a, b, c = numbers(func)
    x = a.T if "_trans_a" in name else a
    y = b.T if name.endswith(("32_trans", "16_trans", "_trans_b")) else b
    want = c + x.astype(c.dtype) @ y.astype(c.dtype)
    run(func, a, b, c)
    np.testing.assert_array_equal(c, want)


def test_half_sums_are_rounded_once() -> None:
    """2048 and sixteen times 1 is 2064; rounded to float16 after each sum it stayed 2048."""
    ones, c = np.ones((16, 16), "float16"), np.full((16, 16), 2048, "float16")
    run(intrin("wmma_sync_16x16x16_f16f16f16").impl, ones, ones, c)
    assert (c == 2064).all()


def test_scopes_and_dtypes() -> None:
    load = intrin("wmma_load_16x16x16_s8_b_trans_shared_dyn").impl.buffers
    assert [(b.dtype, b.scope) for b in load] == [
        ("int8", "shared.dyn"), ("int8", "wmma.matrix_b"),
    ]  # fmt: skip
    sync = intrin("wmma_sync_16x16x16_f16f16f32").impl.buffers
    assert [(b.dtype, b.scope) for b in sync] == [
        ("float16", "wmma.matrix_a"), ("float16", "wmma.matrix_b"), ("float32", "wmma.accumulator"),
    ]  # fmt: skip


# ----------------------------------------------------------------------------- where they fit
def test_which_targets_have_them() -> None:
    half, bytes_ = intrin("wmma_sync_16x16x16_f16f16f32"), intrin("wmma_fill_16x16x16_s32")
    assert (half.kind, intrin("dot_16x4_vnni").kind) == ("cuda", "llvm")
    for arch in ("sm_75", "sm_80", "sm_90a", "sm_120"):
        assert not half.missing(Target(f"cuda -arch={arch}"))
        assert not bytes_.missing(Target(f"cuda -arch={arch}"))
    assert not half.missing(Target("cuda -arch=sm_70"))
    assert "sm_72 was the first" in bytes_.missing(Target("cuda -arch=sm_70"))
    assert "sm_61 has no tensor cores" in half.missing(Target("cuda -arch=sm_61"))
    assert "for cuda targets, not for llvm" in half.missing(Target("llvm"))


def test_cpus_have_no_code_for_them() -> None:
    import gputune as gt

    with pytest.raises((BuildError, LowerError), match=r"no code on llvm|wmma") as caught:
        gt.build(intrin("wmma_fill_16x16x16_f32").impl, target="llvm")
    assert isinstance(caught.value, GputuneError)


def copy(n: int = 16, dtype: str = "float16", scope: str = "shared") -> Schedule:
    func = from_source(f"""
@T.prim_func
def main(A: T.Buffer(({n}, {n}), "{dtype}"), B: T.Buffer(({n}, {n}), "{dtype}")):
    S = T.alloc_buffer(({n}, {n}), "{dtype}", scope="{scope}")
    M = T.alloc_buffer(({n}, {n}), "{dtype}", scope="wmma.matrix_a")
    for i, j in T.grid({n}, {n}):
        with T.block("S"):
            v, w = T.axis.remap("SS", [i, j])
            S[v, w] = A[v, w]
    for i, j in T.grid({n}, {n}):
        with T.block("M"):
            v, w = T.axis.remap("SS", [i, j])
            M[v, w] = S[v, w]
    for i, j in T.grid({n}, {n}):
        with T.block("B"):
            v, w = T.axis.remap("SS", [i, j])
            B[v, w] = M[v, w]
""")
    return Schedule(func)


def tensorized(sch: Schedule, name: str) -> None:
    sch.tensorize(sch.get_loops(sch.get_block("M"))[0], name)


def test_a_tile_is_tensorized() -> None:
    sch = copy()
    tensorized(sch, "wmma_load_16x16x16_f16_a_shared")
    assert '"wmma.load_a.f16"' in sch.mod["main"].script()


@pytest.mark.parametrize(
    ("sch", "name", "reason"),
    [
        (lambda: copy(dtype="int8"), "f16_a_shared", "dtype int8, C of the description float16"),
        (lambda: copy(), "s8_a_shared", "dtype float16, C of the description int8"),
        (lambda: copy(scope="local"), "f16_a_shared", "local memory, A of the description in"),
        (lambda: copy(scope="shared.dyn"), "f16_a_shared", "shared.dyn memory"),
        (lambda: copy(), "f16_a_shared_dyn", "shared memory, A of the description in shared.dyn"),
        (lambda: copy(), "f16_b_shared", "wmma.matrix_a memory, C of the description"),
        (lambda: copy(n=8), "f16_a_shared", "runs 8 times"),
        (lambda: copy(n=32), "f16_a_shared", "runs 32 times"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(sch: Any, name: str, reason: str) -> None:
    s = sch()
    before = s.mod["main"].script()
    with pytest.raises(ScheduleError, match=re.escape(reason)) as caught:
        tensorized(s, f"wmma_load_16x16x16_{name}")
    assert caught.value.code == "tensorize-match"
    assert s.mod["main"].script() == before
