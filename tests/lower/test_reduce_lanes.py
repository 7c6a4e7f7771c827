"""What becomes of a loop with the annotation `reduce_lanes`? Vectors, where they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gputune.ir import interp, walk
from gputune.ir.nodes import PrimFunc, Shuffle
from gputune.lower.lanes import LANES
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.runtime.module import build
from gputune.script import from_source

AVX512 = CpuLimits(64, 32, 1)
AVX2 = CpuLimits(32, 16, 1)

ROWS = """
@T.prim_func
def main(A: T.Buffer((3, N), DTYPE), B: T.Buffer((3,), DTYPE)):
    for i in range(3):
        B[i] = B[i] + T.Cast(DTYPE, 1)
        for k in T.serial(N, annotations={"reduce_lanes": NOTE}):
            B[i] = STEP
"""


def rows(n: int, step: str = "B[i] + A[i, k]", dtype: str = "float32", note: int = 1) -> PrimFunc:
    text = ROWS.replace("STEP", step).replace("DTYPE", repr(dtype)).replace("NOTE", str(note))
    out = from_source(text.replace("N)", f"{n})").replace("(N,", f"({n},"))
    assert isinstance(out, PrimFunc)
    return out


def uses_lanes(f: PrimFunc) -> bool:
    return any(type(e) is Shuffle for e in walk.all_exprs(f.body))


def result(run: Callable[..., Any], n: int, dtype: str) -> Any:
    rng = np.random.default_rng(n)
    a, b = rng.integers(1, 3, (3, n)).astype(dtype), rng.integers(1, 9, 3).astype(dtype)
    run(a, b)
    return b


def check(f: PrimFunc, n: int, limits: CpuLimits, dtype: str = "float32") -> PrimFunc:
    """The lowered program, after a check that it and machine code do what the program does."""
    out = lower(f, limits)
    want = result(partial(interp.run, f), n, dtype)
    np.testing.assert_array_equal(result(partial(interp.run, out), n, dtype), want)
    compiled = build(f, "llvm --num-cores=1")["main"]
    np.testing.assert_array_equal(result(compiled, n, dtype), want)
    return out


def test_the_name_of_the_annotation() -> None:
    assert LANES == "reduce_lanes"


def test_a_sum_of_two_vectors() -> None:
    """Golden: the vectors first, then halves of what is left."""
    text = check(rows(32), 32, AVX512).script()
    assert text.endswith("""\
        lanes: T.float32x16 = A[i, T.Ramp(0, 1, 16)] + A[i, T.Ramp(16, 1, 16)]
        lanes_1: T.float32x8 = T.Shuffle([lanes], [0, 1, 2, 3, 4, 5, 6, 7]) + \
T.Shuffle([lanes], [8, 9, 10, 11, 12, 13, 14, 15])
        lanes_2: T.float32x4 = T.Shuffle([lanes_1], [0, 1, 2, 3]) + \
T.Shuffle([lanes_1], [4, 5, 6, 7])
        lanes_3: T.float32x2 = T.Shuffle([lanes_2], [0, 1]) + T.Shuffle([lanes_2], [2, 3])
        B[i] = B[i] + (T.Shuffle([lanes_3], [0]) + T.Shuffle([lanes_3], [1]))
"""), text


@pytest.mark.parametrize("limits", [AVX512, AVX2])
@pytest.mark.parametrize("n", [2, 3, 8, 16, 21, 48, 64])
def test_any_length(n: int, limits: CpuLimits) -> None:
    assert uses_lanes(check(rows(n), n, limits))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16", "int8"])
@pytest.mark.parametrize(
    "step",
    ["B[i] + A[i, k]", "A[i, k] * B[i]", "T.min(B[i], A[i, k])", "T.max(A[i, k], B[i])",
     "B[i] + A[i, k] * A[i, k]"],
)  # fmt: skip
def test_operations_and_dtypes(step: str, dtype: str) -> None:
    n = 8 if "float16" in dtype or "int8" in dtype else 19  # products stay exact
    if "*" in step and "B[i]" in step.split("*")[1]:
        n = min(n, 5)
    assert uses_lanes(check(rows(n, step, dtype), n, AVX512, dtype))


def test_conditions_become_masks() -> None:
    step = "B[i] + T.if_then_else(k < 13, A[i, k], T.float32(0))"
    assert uses_lanes(check(rows(16, step), 16, AVX512))


@pytest.mark.parametrize(
    ("why", "program"),
    [
        ("the order is not free", rows(16, "B[i] - A[i, k]")),
        ("no annotation", rows(16, note=0)),
        ("the element is what is added to", rows(16, "B[i] + A[i, k] * B[i]")),
        ("more than eight vectors", rows(160)),
        ("nothing runs along the lanes", rows(16, "B[i] + A[i, 3]")),
        ("one element", rows(1)),
        ("it starts anew each time", rows(16, "A[i, k] + A[i, 0]")),
    ],
)
def test_other_loops_are_left_alone(why: str, program: PrimFunc) -> None:
    n = int(program.buffers[0].shape[1].value)  # type: ignore[union-attr]  # a constant
    assert not uses_lanes(check(program, n, AVX512)), why


def test_a_place_that_moves_is_no_sum() -> None:
    f = from_source("""
@T.prim_func
def main(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
    for k in T.serial(16, annotations={"reduce_lanes": 1}):
        B[k] = B[k] + A[k]
""")
    assert isinstance(f, PrimFunc)
    assert not uses_lanes(lower(f, AVX512))
