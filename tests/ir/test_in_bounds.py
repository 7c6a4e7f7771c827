"""Is an access outside a buffer found before anything runs, and is nothing else refused?"""

from __future__ import annotations

from typing import Any

import pytest

import gputune as gt
from gputune.errors import UserError
from gputune.ir.in_bounds import check_in_bounds
from gputune.script import tir as T


@T.prim_func
def too_long(A: T.Buffer((4,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            A[vi] = B[vi]


@T.prim_func
def before_the_start(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            A[vi] = B[vi - 1]


@T.prim_func
def second_dimension(A: T.Buffer((4, 6), "float32"), B: T.Buffer((4, 6), "float32")):
    for i, j in T.grid(4, 6):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            A[vi, vj] = B[vi, vj + vi // 2]


@T.prim_func
def guarded_too_late(A: T.Buffer((4,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            T.where(i < 6)
            A[vi] = B[vi]


@T.prim_func
def only_at_the_start(A: T.Buffer((4,), "float32"), B: T.Buffer((8, 4), "float32")):
    for i, k in T.grid(8, 4):
        with T.block("C"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                A[vi] = 0.0
            A[vi // 2] = A[vi // 2] + B[vi, vk]


@T.prim_func
def other_side(A: T.Buffer((8,), "float32"), B: T.Buffer((4,), "float32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            A[vi] = T.if_then_else(vi < 5, B[vi], 0.0)


@T.prim_func
def shrinking_loop(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        for j in range(i, 9):
            A[j] = B[i]


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (too_long, "block C of too_long writes A[vi]: index 0 is 7 at i = 7, while A has the "
                   "indices 0 to 3 there"),
        (before_the_start, "reads B[vi - 1]: index 0 is -1 at i = 0"),
        (second_dimension, "reads B[vi, vj + vi // 2]: index 1 is 6 at i = 3, j = 5"),
        (guarded_too_late, "writes A[vi]: index 0 is 4 at i = 4"),
        (only_at_the_start, "writes A[vi]: index 0 is 7 at i = 7"),
        (other_side, "reads B[vi]: index 0 is 4 at i = 4"),
        (shrinking_loop, "writes A[j]: index 0 is 8 at j = 8"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)  # fmt: skip
def test_what_is_surely_outside_is_refused(func: Any, said: str) -> None:
    with pytest.raises(UserError) as e:
        check_in_bounds(func)
    assert said in e.value.message
    assert e.value.code == "out-of-bounds"
    assert "\n> " in str(e.value)  # the program is drawn, the place marked


@T.prim_func
def guarded(A: T.Buffer((4,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            T.where(i < 4)
            A[vi] = B[vi]


@T.prim_func
def in_an_if(A: T.Buffer((4,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        if i % 2 == 0:
            A[i // 2] = B[i]
        elif i < 4:
            A[i] = B[i]


@T.prim_func
def one_side(A: T.Buffer((8,), "float32"), B: T.Buffer((4,), "float32")):
    for i in range(8):
        A[i] = T.Select(i >= 2 and i < 6, B[i - 2], 0.0)


@T.prim_func
def short_circuit(A: T.Buffer((8,), "float32"), M: T.Buffer((4,), "bool")):
    for i in range(8):
        if i < 4 and M[i]:
            A[i] = 1.0


@T.prim_func
def triangle(A: T.Buffer((8, 8), "float32")):
    for i in range(8):
        for j in range(8 - i):
            A[i + j, j] = 0.0


@T.prim_func
def by_data(A: T.Buffer((4,), "float32"), I: T.Buffer((8,), "int32")):  # noqa: E741
    for i in range(8):
        A[I[i]] = 1.0


@T.prim_func
def decided_by_data(A: T.Buffer((4,), "float32"), M: T.Buffer((8,), "bool")):
    for i in range(8):
        if M[i]:
            A[i] = 1.0


@T.prim_func
def symbolic(a: T.handle, b: T.handle):
    n = T.int32()
    A = T.match_buffer(a, (n,), "float32")
    B = T.match_buffer(b, (8,), "float32")
    for i in range(n):
        with T.block("C"):
            vi = T.axis.spatial(n, i)
            A[vi + 5] = B[vi]


@T.prim_func
def never(A: T.Buffer((4,), "float32")):
    for i in range(0):
        A[i + 9] = 0.0


@pytest.mark.parametrize(
    "func",
    [
        guarded, in_an_if, one_side, short_circuit, triangle, by_data, decided_by_data, symbolic,
        never,
    ],
    ids=lambda f: f.name,
)  # fmt: skip
def test_what_may_be_inside_is_not_refused(func: Any) -> None:
    check_in_bounds(func)


def test_tuning_and_building_begin_with_it(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"writes A\[vi\]: index 0 is 7"):
        gt.build(too_long, "llvm")
    with pytest.raises(UserError, match=r"writes A\[vi\]: index 0 is 7"):
        gt.tune(too_long, "llvm", trials=1, work_dir=tmp_path)
