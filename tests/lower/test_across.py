"""Do vectorized loops over reductions become trees of vectors, and nothing else?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.ir import dtypes, walk
from gputune.ir.nodes import BufferStore, For, PrimFunc, Shuffle
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.script import from_source
from tests.codegen.llvm_running import check

AVX512 = CpuLimits(64, 32, 2)


def reduction(n: int, op: str = "+", dtype: str = "float32", value: str = "A[t, k]") -> PrimFunc:
    """Z[t] op= value for all k."""
    combined = f"Z[t] {op} {value}" if op in "+*" else f"T.{op}(Z[t], {value})"
    text = f"""
@T.prim_func
def main(A: T.Buffer((3, {n}), "{dtype}"), Z: T.Buffer((3,), "{dtype}")):
    for t in range(3):
        for k in T.vectorized({n}):
            Z[t] = {combined}
"""
    out = from_source(text)
    assert isinstance(out, PrimFunc)
    return out


def numbers(*shape: int, dtype: str = "float32", seed: int = 1) -> np.ndarray[Any, Any]:
    found = np.random.default_rng(seed).integers(-2, 3, shape)
    return np.where(found == 0, 1, found).astype(dtypes.numpy_dtype(dtype))


def lowered(f: PrimFunc) -> tuple[list[Any], list[Any]]:
    """The stores, and the lanes that shuffles pick."""
    body = lower(f, AVX512).body
    stores = [s for s in walk.walk_stmt(body) if type(s) is BufferStore]
    picked = [e.indices for e in walk.all_exprs(body) if type(e) is Shuffle]
    return stores, picked


def test_sixteen_lanes_are_halved_four_times() -> None:
    stores, picked = lowered(reduction(16))
    assert len(stores) == 1
    assert sorted(len(x) for x in picked) == [1, 1, 2, 2, 4, 4, 8, 8]
    assert [s for s in walk.walk_stmt(lower(reduction(16), AVX512).body) if type(s) is For]


def test_golden_text_of_six_lanes() -> None:
    text = lower(reduction(6), AVX512).script()
    assert text.splitlines()[-1].strip() == (
        "Z[t] = T.Let(T.Let(Z[t] + (T.Shuffle([v_1], [0]) + T.Shuffle([v_1], [1])), "
        "where={v_1: T.Shuffle([v], [0, 1]) + T.Shuffle([v], [2, 3]) + A[t, T.Ramp(4, 1, 2)]}), "
        "where={v: A[t, T.Ramp(0, 1, 4)]})"
    )


@pytest.mark.parametrize("op", ["+", "*", "min", "max"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "int8"])
def test_every_operator_and_dtype(op: str, dtype: str) -> None:
    n = 8 if op == "*" else 24
    check(reduction(n, op, dtype), [numbers(3, n, dtype=dtype), numbers(3, dtype=dtype, seed=2)])


@given(n=st.integers(1, 300), op=st.sampled_from(["+", "max"]))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_every_length(n: int, op: str) -> None:
    f = reduction(n, op, value="A[t, k] * T.Cast('float32', k + t)")
    check(f, [numbers(3, n), numbers(3, seed=2)], passes=False)


def test_a_long_loop_stays_a_loop() -> None:
    stores, picked = lowered(reduction(256))  # sixteen whole vectors
    assert picked
    assert len(stores) == 1
    _, picked = lowered(reduction(272))
    assert not picked


@pytest.mark.parametrize(
    "body",
    [
        "Z[t] = Z[t] - A[t, k]",  # no operator for any order
        "Z[t] = Z[t] + A[t, k] * Z[t]",  # what is added follows from what there is
        "Z[t] = Z[0] + A[t, k]",  # another element
        "Z[t] = A[t, k] + T.float32(1)",  # nothing is combined: the last one stays
        "Z[k % 3] = Z[k % 3] + A[t, k]",  # several elements
    ],
)
def test_what_is_no_such_reduction_runs_in_order(body: str) -> None:
    f = from_source(f"""
@T.prim_func
def main(A: T.Buffer((3, 16), "float32"), Z: T.Buffer((3,), "float32")):
    for t in range(3):
        for k in T.vectorized(16):
            {body}
""")
    assert isinstance(f, PrimFunc)
    _, picked = lowered(f)
    assert not picked
    check(f, [numbers(3, 16), numbers(3, seed=2)])


def test_partial_sums_stay_in_registers_until_they_are_one() -> None:
    """The lanes of a factored sum are written and read as the same vectors."""
    f = from_source("""
@T.prim_func
def main(A: T.Buffer((8, 96), "float32"), Z: T.Buffer((8,), "float32")):
    S = T.alloc_buffer((8, 48), "float32")
    for t in range(8):
        for k in T.vectorized(48):
            S[t, k] = T.float32(0)
        for j in range(2):
            for k in T.vectorized(48):
                S[t, k] = S[t, k] + A[t, j * 48 + k]
        Z[t] = T.float32(0)
        for k in T.vectorized(48):
            Z[t] = Z[t] + S[t, k]
""")
    assert isinstance(f, PrimFunc)
    scopes = {s.buffer.scope for s in lowered(f)[0] if s.buffer.name.startswith("S")}
    assert scopes == {"register"}
    check(f, [numbers(8, 96), numbers(8, seed=2)])


def test_a_tree_counts_as_what_it_takes() -> None:
    """A limit of 64 statements writes out 32 sums of one element, and not 32 trees."""
    for n, left in ((1, False), (16, True)):
        f = from_source(f"""
@T.prim_func
def main(A: T.Buffer((32, {n}), "float32"), Z: T.Buffer((32,), "float32")):
    for t in T.serial(32, annotations={{"pragma_auto_unroll_max_step": 64}}):
        for k in T.vectorized({n}):
            Z[t] = Z[t] + A[t, k]
""")
        assert isinstance(f, PrimFunc)
        (loop,) = [s for s in walk.walk_stmt(lower(f, AVX512).body) if type(s) is For]
        assert (loop.kind == "serial") == left
