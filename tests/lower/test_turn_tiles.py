"""Which copies are turned in registers, and do they still copy?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.ir import interp, walk
from gputune.ir.nodes import PrimFunc, Shuffle
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.runtime.module import build
from gputune.script import from_source

AVX512 = CpuLimits(64, 32, 1)
AVX2 = CpuLimits(32, 16, 1)
SSE = CpuLimits(16, 16, 1)

COPY = """
@T.prim_func
def main(A: T.Buffer((M, N), DTYPE), B: T.Buffer((N, M), DTYPE)):
    for i, j in T.grid(LOOPS):
        B[TO] = VALUE
"""

GOLDEN = """\
    row: T.float32x4 = A[0, T.Ramp(0, 1, 4)]
    row_1: T.float32x4 = A[1, T.Ramp(0, 1, 4)]
    row_2: T.float32x4 = A[2, T.Ramp(0, 1, 4)]
    row_3: T.float32x4 = A[3, T.Ramp(0, 1, 4)]
    row_4: T.float32x4 = T.Shuffle([row, row_2], [0, 1, 4, 5])
    row_5: T.float32x4 = T.Shuffle([row, row_2], [2, 3, 6, 7])
    row_6: T.float32x4 = T.Shuffle([row_1, row_3], [0, 1, 4, 5])
    row_7: T.float32x4 = T.Shuffle([row_1, row_3], [2, 3, 6, 7])
    row_8: T.float32x4 = T.Shuffle([row_4, row_6], [0, 4, 2, 6])
    row_9: T.float32x4 = T.Shuffle([row_4, row_6], [1, 5, 3, 7])
    row_10: T.float32x4 = T.Shuffle([row_5, row_7], [0, 4, 2, 6])
    row_11: T.float32x4 = T.Shuffle([row_5, row_7], [1, 5, 3, 7])
    B[0, T.Ramp(0, 1, 4)] = row_8
    B[1, T.Ramp(0, 1, 4)] = row_9
    B[2, T.Ramp(0, 1, 4)] = row_10
    B[3, T.Ramp(0, 1, 4)] = row_11
"""


def copy(
    m: int, n: int, dtype: str = "float32", loops: str = "M, N", to: str = "j, i",
    value: str = "A[i, j]",
) -> PrimFunc:  # fmt: skip
    text = COPY.replace("LOOPS", loops).replace("VALUE", value).replace("TO", to)
    text = text.replace("DTYPE", repr(dtype)).replace("M", str(m)).replace("N", str(n))
    out = from_source(text)
    assert isinstance(out, PrimFunc)
    return out


def turns(f: PrimFunc) -> bool:
    return any(type(e) is Shuffle for e in walk.all_exprs(f.body))


def check(f: PrimFunc, limits: CpuLimits = AVX512) -> PrimFunc:
    """The lowered program, after a check that it and machine code do what the program does."""
    out = lower(f, limits)
    found: list[Any] = []
    for run in (lambda *x: interp.run(f, *x), lambda *x: interp.run(out, *x),
                build(f, "llvm --num-cores=1")["main"]):  # fmt: skip
        a, b = (
            np.arange(1, 1 + int(np.prod(s))).reshape(s).astype(x.dtype)
            for x in f.buffers
            if (s := [int(n.value) for n in x.shape])  # type: ignore[union-attr]  # constants
        )
        run(a, b)
        found.append(b)
    np.testing.assert_array_equal(found[1], found[0], err_msg=out.script())
    np.testing.assert_array_equal(found[2], found[0])
    return out


def test_a_square_of_four() -> None:
    assert check(copy(4, 4), SSE).script().endswith(GOLDEN)


@pytest.mark.parametrize("limits", [AVX512, AVX2, SSE])
@pytest.mark.parametrize(("m", "n"), [(16, 16), (32, 48), (8, 24), (20, 12)])
def test_several_squares(m: int, n: int, limits: CpuLimits) -> None:
    assert turns(check(copy(m, n), limits))


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64"])
def test_other_dtypes(dtype: str) -> None:
    assert turns(check(copy(16, 32, dtype)))


def test_the_order_of_the_loops_does_not_matter() -> None:
    assert turns(check(copy(16, 32, loops="N, M", to="i, j", value="A[j, i]")))


def test_squares_inside_of_other_loops() -> None:
    f = from_source("""
@T.prim_func
def main(A: T.Buffer((3, 16, 5, 32), "float32"), B: T.Buffer((3, 5, 32, 16), "float32")):
    for b, h, d, s in T.grid(3, 5, 32, 16):
        B[b, h, d, s] = A[b, s, h, d]
""")
    assert isinstance(f, PrimFunc)
    assert turns(check(f))


@pytest.mark.parametrize(
    ("why", "program"),
    [
        ("no square of four divides it", copy(16, 18)),
        ("it copies rows", copy(16, 16, to="i, j")),
        ("it computes", copy(16, 16, value="A[i, j] * A[i, j]")),
        ("narrow", copy(16, 16, "float16")),
        ("bytes", copy(16, 16, "int8")),
        ("it reads what it writes", copy(16, 16, value="B[i, j]")),
        ("some places are written again", copy(16, 16, to="j // 16, i + j * 0")),
        ("rows overlap", copy(16, 16, loops="8, 8", to="0, i + j", value="A[j, i]")),
        ("places are far apart", copy(16, 16, loops="8, 8", to="j, i * 2")),
        ("a quotient of the loops", copy(16, 16, to="j, (i + j) // 2")),
    ],
)
def test_other_copies_are_left_alone(why: str, program: PrimFunc) -> None:
    assert not turns(check(program)), why


def test_loops_of_threads_are_left_alone() -> None:
    f = from_source("""
@T.prim_func
def main(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16, 16), "float32")):
    for i in T.parallel(16):
        for j in range(16):
            B[j, i] = A[i, j]
""")
    assert isinstance(f, PrimFunc)
    assert not turns(check(f))
