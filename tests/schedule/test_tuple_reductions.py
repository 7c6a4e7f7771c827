# ruff: noqa: E501 - golden programs are printed as they are
"""Reductions of several values at once: argmax, pairs of sums, Welford, the online softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.errors import LowerError, UserError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import Expr, IRModule, PrimFunc
from gputune.ir.walk import blocks
from gputune.kernels.reduce import _argmax as library_argmax
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.schedule.dim import Dim, Evaluator, recording
from gputune.schedule.recognise import Fault, Reduction, reduction_of
from gputune.schedule.reducers import MERGES, Each, Pick, register_reducer
from gputune.script import from_source
from gputune.target import Target
from tests.properties.moves import inputs, results
from tests.properties.programs import nearest

from . import schedule_programs as programs
from . import tuple_programs as tuples
from .schedule_helpers import keeps, loops, prints, refuses, scheduled
from .tuple_programs import SPELLINGS, block, parsed

CPU = "llvm --num-cores=2"


def compiled(func: PrimFunc, sch: Schedule, *, seeds: int = 2, close: bool = False) -> None:
    """LLVM's code of the schedule computes what the interpreter makes of the program."""
    module = build(sch.mod, CPU)
    for seed in range(seeds):
        arrays = inputs(func, seed)
        module[func.name](*arrays)
        for want, got in zip(results(func, seed), arrays, strict=True):
            if close:
                np.testing.assert_allclose(got, want, 1e-5, 1e-5)
            else:
                np.testing.assert_array_equal(got, want, err_msg=str(sch.trace))


def round_trip(sch: Schedule) -> None:
    parsed_again = from_source(sch.mod.script())
    assert isinstance(parsed_again, IRModule)
    assert structural_equal(parsed_again, sch.mod)


def right(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    """Interpreter, LLVM, trace and script agree with the program, to the last bit."""
    sch = keeps(func, do)
    round_trip(sch)
    compiled(func, sch)
    return sch


def nearly(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    """The same up to rounding."""
    sch = scheduled(func)
    do(sch)
    round_trip(sch)
    compiled(func, sch, close=True)
    for seed in range(2):
        arrays = inputs(func, seed)
        run(sch.mod[func.name], *arrays)
        for want, got in zip(results(func, seed), arrays, strict=True):
            np.testing.assert_allclose(got, want, 1e-5, 1e-5)
    return sch


def factored(
    name: str, factors: list[Any], which: int, axis: int = 0
) -> Callable[[Schedule], Any]:  # fmt: skip
    return lambda s: s.rfactor(s.split(loops(s, name)[-1], factors)[which], axis)


def known(func: PrimFunc) -> Reduction:
    (node,) = [b for b in blocks(func.body) if b.init is not None]
    found = reduction_of(node)
    assert not isinstance(found, Fault), found
    return found


# ----------------------------------------------------------------------------- golden
def test_argmax_keeps_its_combiner_where_the_order_stays() -> None:
    sch = scheduled(SPELLINGS["argmax"])
    sch.rfactor(sch.split(loops(sch, "A")[1], [None, 5])[0], 0)
    prints(
        sch,
        """
        J_rf = T.alloc_buffer((3, 4), "int32")
        V_rf = T.alloc_buffer((3, 4))
        for i, k_0, k_1 in T.grid(4, 3, 5):
            with T.block("A_rf"):
                vi, vk_0, vk_1 = T.axis.remap("SSR", [i, k_0, k_1])
                T.reads(X[vi, vk_0 * 5 + vk_1])
                T.writes(J_rf[vk_0, vi], V_rf[vk_0, vi])
                with T.init():
                    J_rf[vk_0, vi] = -1
                    V_rf[vk_0, vi] = T.float32("-inf")
                if vk_0 * 5 + vk_1 < 13:
                    j: T.int32 = T.Select(V_rf[vk_0, vi] >= X[vi, vk_0 * 5 + vk_1], J_rf[vk_0, vi], vk_0 * 5 + vk_1)
                    v: T.float32 = T.Select(V_rf[vk_0, vi] >= X[vi, vk_0 * 5 + vk_1], V_rf[vk_0, vi], X[vi, vk_0 * 5 + vk_1])
                    J_rf[vk_0, vi] = j
                    V_rf[vk_0, vi] = v
        for i, k_0 in T.grid(4, 3):
            with T.block("A"):
                vi, vk_0 = T.axis.remap("SR", [i, k_0])
                T.reads(V_rf[vk_0, vi], J_rf[vk_0, vi])
                T.writes(J[vi], V[vi])
                with T.init():
                    J[vi] = -1
                    V[vi] = T.float32(-3.4028234663852886e+38)
                v_J: T.int32 = T.Select(V[vi] >= V_rf[vk_0, vi], J[vi], J_rf[vk_0, vi])
                v_V: T.float32 = T.Select(V[vi] >= V_rf[vk_0, vi], V[vi], V_rf[vk_0, vi])
                J[vi] = v_J
                V[vi] = v_V
    """,
    )


def test_argmax_asks_for_the_index_where_the_order_changes() -> None:
    sch = scheduled(SPELLINGS["argmax"])
    sch.rfactor(sch.split(loops(sch, "A")[1], [13, 1])[1], 0)
    text = sch.mod.script()
    assert (
        "T.Select(V[vi] > V_rf[vk_1, vi] or V[vi] == V_rf[vk_1, vi] and J[vi] <= J_rf[vk_1, vi], "
        "J[vi], J_rf[vk_1, vi])"
    ) in text
    assert "J_rf[vk_1, vi] = 2147483647" in text  # loses every tie


def test_two_sums() -> None:
    sch = scheduled(tuples.two_sums())
    sch.rfactor(sch.split(loops(sch, "S")[1], [None, 4])[1], -1)
    prints(
        sch,
        """
        S_rf = T.alloc_buffer((4, 4))
        Q_rf = T.alloc_buffer((4, 4))
        for i, k_0, k_1 in T.grid(4, 4, 4):
            with T.block("S_rf"):
                vi, vk_1, vk_0 = T.axis.remap("SSR", [i, k_1, k_0])
                T.reads(X[vi, vk_0 * 4 + vk_1])
                T.writes(S_rf[vi, vk_1], Q_rf[vi, vk_1])
                with T.init():
                    S_rf[vi, vk_1] = T.float32(0)
                    Q_rf[vi, vk_1] = T.float32(0)
                S_rf[vi, vk_1] = S_rf[vi, vk_1] + T.if_then_else(vk_0 * 4 + vk_1 < 13, X[vi, vk_0 * 4 + vk_1], T.float32(0))
                Q_rf[vi, vk_1] = Q_rf[vi, vk_1] + T.if_then_else(vk_0 * 4 + vk_1 < 13, X[vi, vk_0 * 4 + vk_1] * X[vi, vk_0 * 4 + vk_1], T.float32(0))
        for i, k_1 in T.grid(4, 4):
            with T.block("S"):
                vi, vk_1 = T.axis.remap("SR", [i, k_1])
                T.reads(S_rf[vi, vk_1], Q_rf[vi, vk_1])
                T.writes(S[vi], Q[vi])
                with T.init():
                    S[vi] = T.float32(0)
                    Q[vi] = T.float32(2)
                S[vi] = S[vi] + S_rf[vi, vk_1]
                Q[vi] = Q[vi] + Q_rf[vi, vk_1]
    """,
    )


def test_decompose_of_an_argmax() -> None:
    sch = scheduled(library_argmax(4, 7, "float32", "", ""))
    sch.decompose_reduction("argmax", loops(sch, "argmax")[1])
    prints(
        sch,
        """
        for i in range(4):
            with T.block("argmax_init"):
                vi = T.axis.spatial(4, i)
                T.reads()
                T.writes(index[vi], value[vi])
                index[vi] = -1
                value[vi] = T.float32(-3.4028234663852886e+38)
            for j in range(7):
                with T.block("argmax_update"):
                    vi, vj = T.axis.remap("SR", [i, j])
                    T.reads(value[vi], A[vi, vj], index[vi])
                    T.writes(index[vi], value[vi])
                    v_index: T.int32 = T.Select(value[vi] >= A[vi, vj], index[vi], vj)
                    v_value: T.float32 = T.Select(value[vi] >= A[vi, vj], value[vi], A[vi, vj])
                    index[vi] = v_index
                    value[vi] = v_value
    """,
    )


# ----------------------------------------------------------------------------- what is known
WANTED = {
    "argmax": Pick(2, 1, ">", "first"),
    "argmax of the smaller index": Pick(2, 1, ">", "smaller", 0),
    "argmin": Pick(2, 1, "<", "first"),
    "argmin of the smaller index": Pick(2, 1, "<", "smaller", 0),
    "new value first": Pick(2, 1, ">", "first"),
    "not": Pick(2, 1, ">", "first"),
    "last of equals": Pick(2, 1, ">", "last"),
    "last argmin": Pick(2, 1, "<", "last"),
    "larger index": Pick(2, 1, ">", "larger", 0),
    "three ways": Pick(2, 1, ">", "smaller", 0),
    "bytes": Pick(2, 1, ">", "first"),
    "offset index": Pick(2, 1, ">", "first"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_known(name: str) -> None:
    assert known(SPELLINGS[name]).reducer == WANTED[name]


def test_other_combiners_are_known() -> None:
    assert known(tuples.plane_argmax()).reducer == Pick(3, 0, ">", "first")
    for program in (tuples.two_sums(), tuples.spread()):
        assert type(known(program).reducer) is Each
    found = known(tuples.welford())
    assert [str(e) for e in found.combined] == ["T.float32(1)", "X[vi, vk]", "T.float32(0)"]
    assert [b.name for b in found.buffers] == ["N", "M", "Q"]


def test_of_mixed_choices_none_is_known() -> None:
    for body in (
        "A[vi] = T.Select(X[vi, vk] > B[vi], X[vi, vk], A[vi])\nB[vi] = T.min(B[vi], X[vi, vk])",
        "A[vi] = T.Select(X[vi, vk] > 2.0, X[vi, vk], A[vi])\nB[vi] = T.max(B[vi], X[vi, vk])",
        "A[vi] = B[vi]\nB[vi] = T.max(B[vi], X[vi, vk])",
        "B[vi] = T.max(B[vi], X[vi, vk])\nA[vi] = T.Select(X[vi, vk] > B[vi], X[vi, vk] + 1.0, A[vi])",
        "A[vi] = A[vi] + B[vi]\nB[vi] = B[vi] + X[vi, vk]",
    ):
        sch = scheduled(block("A[vi] = 0.0\nB[vi] = 0.0", body))
        k = loops(sch, "R")[1]
        refuses(sch, "rfactor-combiner", lambda: sch.rfactor(k, 0), names="block R")  # noqa: B023


# ----------------------------------------------------------------------------- the meaning
@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize(
    ("factors", "which"), [([None, 5], 0), ([None, 5], 1), ([7, None], 0), ([7, None], 1), ([13, 1], 0)]
)  # fmt: skip
def test_choices_keep_the_meaning_with_ties(name: str, factors: list[Any], which: int) -> None:
    """13 does not divide by 5, and 7 parts of 2 leave none empty, but 7 of 13 in fives do."""
    right(SPELLINGS[name], factored("A", factors, which, -1))


def test_parts_that_are_empty_hold_what_changes_nothing() -> None:
    for name in ("argmax", "last of equals", "larger index"):
        right(SPELLINGS[name], factored("A", [7, 5], 0))  # 35 for 13
    right(tuples.two_sums(), factored("S", [7, 5], 0))
    nearly(tuples.welford(), factored("W", [7, 5], 0))
    nearly(tuples.online_softmax(), factored("L", [7, 5], 0))


@pytest.mark.parametrize("least", ["T.min_value", "T.infinity"])
@pytest.mark.parametrize("name", ["argmax", "last of equals", "larger index"])
def test_rows_of_the_least_value(name: str, least: str) -> None:
    """Elements as low as the identity itself: whoever wins must still be the same."""
    func = SPELLINGS[name]
    low = -np.inf if least == "T.infinity" else np.finfo(np.float32).min
    for factors, which in (([None, 5], 0), ([None, 5], 1), ([7, 5], 0), ([7, 5], 1)):
        sch = scheduled(func)
        factored("A", factors, which)(sch)
        x = np.full((4, 13), low, np.float32)
        x[1, 6] = 0
        x[2, ::2] = -np.inf
        out: list[list[np.ndarray]] = []
        for program in (func, sch.mod["f"]):
            arrays = inputs(func, 0)
            arrays[0][:] = x
            run(program, *arrays)
            out.append(arrays)
        np.testing.assert_array_equal(out[0][2], out[1][2])
        np.testing.assert_array_equal(out[0][3], out[1][3])


def test_a_start_that_wins_ties_with_a_later_index() -> None:
    """From (5, 0) on: an index of the array below 5 with value 0 must not replace it."""
    func = tuples.picked(
        "T.Select(V[vi] >= {x}, J[vi], {p})", "T.max(V[vi], {x})", start="5", least="0 * T.min_value"
    )  # fmt: skip
    sch = scheduled(func)
    _, k1 = sch.split(loops(sch, "A")[1], [None, 5])
    refuses(sch, "rfactor-order", lambda: sch.rfactor(k1, 0), names="block A")
    right(func, factored("A", [None, 5], 0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_axis_of_an_argmax(axis: int) -> None:
    right(tuples.plane_axes(), lambda s: s.rfactor(loops(s, "A")[2], axis))


def test_axis_out_of_range() -> None:
    sch = scheduled(tuples.plane_axes())
    k = loops(sch, "A")[2]
    for axis in (3, -4):
        refuses(sch, "rfactor-axis", lambda: sch.rfactor(k, axis), names="[-3, 2]")  # noqa: B023


def test_several_reduction_loops_and_a_payload_of_two() -> None:
    for at in (1, 2):
        right(tuples.plane_argmax(), lambda s: s.rfactor(loops(s, "A")[at], 0))  # noqa: B023
    for at in (0, 1):  # the parts of a row go past its end
        right(
            tuples.plane_argmax(),
            lambda s: s.rfactor(s.split(loops(s, "A")[2], [None, 4])[at], 0),  # noqa: B023
        )
    right(
        tuples.plane_argmax(),
        lambda s: s.rfactor(s.split(s.fuse(*loops(s, "A")[1:]), [None, 7])[1], 1),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_sums_keep_the_meaning(dtype: str) -> None:
    for factors in ([None, 5], [4, None]):
        for which in (0, 1):
            right(tuples.two_sums(13, dtype), factored("S", factors, which))
    right(tuples.spread(), factored("R", [None, 2], 1, -1))


@pytest.mark.parametrize("which", [0, 1])
def test_merges_keep_the_numbers(which: int) -> None:
    for count in ("float32", "int32"):
        nearly(tuples.welford(count), factored("W", [None, 5], which))
    for exp in ("exp", "exp2"):
        nearly(tuples.online_softmax(exp), factored("L", [None, 5], which))
    nearly(tuples.welford(), lambda s: s.rfactor(loops(s, "W")[1], 0))  # nothing left to reduce


def test_partial_results_are_factored_again_and_decomposed() -> None:
    def again(s: Schedule, first: int, second: int) -> None:
        ks = s.split(loops(s, "A")[1], [2, 3, 3])
        rf = s.rfactor(ks[first], 0)
        s.rfactor(s.get_loops(rf)[1:][second], 0)
        s.decompose_reduction(rf, s.get_loops(rf)[-1])
        s.decompose_reduction("A", loops(s, "A")[0])

    for name in ("argmax", "larger index"):
        for first, second in ((0, 1), (0, 2), (2, 0), (1, 2)):
            right(SPELLINGS[name], lambda s: again(s, first, second))  # noqa: B023


def test_vector_lanes_and_parallel_rows() -> None:
    """The usual schedule of a CPU: each lane has partial results of its own."""

    def lanes(s: Schedule, name: str) -> None:
        i, k = loops(s, name)
        _, k1 = s.split(k, [None, 8])
        rf = s.rfactor(k1, -1)
        i, k0, k1 = s.get_loops(rf)
        s.reorder(k0, k1)
        s.parallel(i)
        s.vectorize(k1)
        s.decompose_reduction(rf, k0)
        s.parallel(loops(s, name)[0])

    for name in SPELLINGS:
        right(SPELLINGS[name], lambda s: lanes(s, "A"))
    right(tuples.two_sums(29), lambda s: lanes(s, "S"))
    nearly(tuples.welford(n=29), lambda s: lanes(s, "W"))
    nearly(tuples.online_softmax(n=29), lambda s: lanes(s, "L"))


def test_nan_is_kept_as_long_as_the_program_keeps_it() -> None:
    """One NaN, factored in order: a part keeps what follows its NaN, as the program does."""
    func = SPELLINGS["argmax"]
    sch = scheduled(func)
    factored("A", [None, 5], 0)(sch)
    for at in (4, 9, 12):  # the last element of a part
        out = []
        for program in (func, sch.mod["f"]):
            arrays = inputs(func, 0)
            arrays[0][:, at] = np.nan
            run(program, *arrays)
            out.append(arrays[2:])
        for want, got in zip(*out, strict=True):
            np.testing.assert_array_equal(got, want)


# ----------------------------------------------------------------------------- the twelve
PAIR = "A[vi] = A[vi] + X[vi, vk]\nB[vi] = B[vi] + X[vi, vk]"
ZERO = "A[vi] = 0.0\nB[vi] = 0.0"
CONDITIONS: dict[str, tuple[PrimFunc, str, str]] = {
    "1: the init is stores": (
        block("if vi > 1:\n    A[vi] = 0.0\nB[vi] = 0.0", PAIR), "rfactor-init", "more than stores"
    ),
    "2: to different buffers": (
        block("A[vi] = 0.0\nA[vi] = 1.0\nB[vi] = 0.0", PAIR), "rfactor-init", "stores A twice"
    ),
    "3: the body is lets and stores": (
        block(ZERO, "A[vi] = A[vi] + X[vi, vk]\nif vi > 1:\n    B[vi] = B[vi] + X[vi, vk]"),
        "rfactor-body", "block R",
    ),
    "4: the condition around them reads no output": (
        block(ZERO, "if A[vi] < 5.0:\n    A[vi] = A[vi] + X[vi, vk]\n    B[vi] = B[vi] + 1.0"),
        "rfactor-body", "A[vi] < ",
    ),
    "5: a store for each buffer of the init": (
        block(ZERO, "A[vi] = A[vi] + X[vi, vk]"), "rfactor-stores", "initialises 2 buffers and stores 1"
    ),
    "6: for no other": (
        block("A[vi] = 0.0", PAIR), "rfactor-stores", "initialises 1 buffers and stores 2"
    ),
    "7: none is stored twice": (
        block(ZERO, PAIR + "\nA[vi] = A[vi] + 1.0"), "rfactor-stores", "stores A twice"
    ),
    "8: one shape": (
        block(ZERO, PAIR, shape="(5,)"), "rfactor-shapes", "A and B"
    ),
    "9: one place": (
        block("A[vi] = 0.0\nB[3 - vi] = 0.0", PAIR.replace("B[vi]", "B[3 - vi]")),
        "rfactor-indices", "B[3 - vi]",
    ),
    "10: that of the init": (
        block("A[vi] = 0.0\nB[3 - vi] = 0.0", PAIR), "rfactor-indices", "different places"
    ),
    "11: values of the old ones": (
        block(ZERO, PAIR.replace("B[vi] +", "A[vi] +")), "rfactor-combiner", "block R"
    ),
    "12: a known combiner": (
        block(ZERO, PAIR.replace("B[vi] +", "B[vi] * 2.0 +")), "rfactor-combiner", "block R"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_of_rfactor(name: str) -> None:
    func, code, names = CONDITIONS[name]
    sch = scheduled(func)
    k = loops(sch, "R")[1]
    e = refuses(sch, code, lambda: sch.rfactor(k, 0), names=names)
    assert "rfactor" in str(e)
    assert "> " in str(e)  # the place is marked


def test_a_buffer_that_is_begun_but_not_updated() -> None:
    func = parsed(
        """
@T.prim_func
def f(X: T.Buffer((4, 7), "float32"), A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32"),
      C: T.Buffer((4,), "float32")):
    for i, k in T.grid(4, 7):
        with T.block("R"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                A[vi] = 0.0
                C[vi] = 0.0
            A[vi] = A[vi] + X[vi, vk]
            B[vi] = B[vi] + X[vi, vk]
"""
    )
    sch = scheduled(func)
    k = loops(sch, "R")[1]
    refuses(sch, "rfactor-buffers", lambda: sch.rfactor(k, 0), names="initialises C")


def test_what_the_reference_asks_beyond_that_is_not_needed() -> None:
    """Any number of variables, values stored without them, one after the other."""
    right(
        block(
            "A[vi] = T.min_value('float32')\nB[vi] = -1.0",
            "old: T.float32 = A[vi]\nx: T.float32 = X[vi, vk]\nunused: T.float32 = x + 1.0\n"
            "A[vi] = T.max(old, x)\n"
            "B[vi] = T.Select(x > old, T.Cast('float32', vk), B[vi])",
        ),
        lambda s: s.rfactor(loops(s, "R")[1], 0),
    )
    right(block(ZERO, PAIR), lambda s: s.rfactor(loops(s, "R")[1], 0))


def test_order_is_kept_or_refused() -> None:
    for tie in (False, True):
        func = tuples.payload_given(tie)
        right(func, factored("A", [None, 5], 0))
        sch = scheduled(func)
        _, k1 = sch.split(loops(sch, "A")[1], [None, 5])
        if tie:
            right(func, factored("A", [None, 5], 1))
        else:
            e = refuses(sch, "rfactor-order", lambda: sch.rfactor(k1, 0), names="loop k_1")  # noqa: B023
            assert "outermost" in e.hint
    # downwards, or with gaps that overlap, the index tells no order
    for payload in ("12 - vk", "vk // 2", "vk % 5", "T.Cast('int8', vk)"):
        kind = "int8" if "int8" in payload else "int32"
        func = tuples.picked(
            "T.Select(V[vi] >= {x}, J[vi], {p})", "T.max(V[vi], {x})", payload=payload, kind=kind
        )
        sch = scheduled(func)
        _, k1 = sch.split(loops(sch, "A")[1], [None, 5])
        refuses(sch, "rfactor-order", lambda: sch.rfactor(k1, 0), names="block A")  # noqa: B023


def test_loops_are_reordered_where_the_order_is_free() -> None:
    def swapped(s: Schedule, name: str) -> None:
        k0, k1 = s.split(loops(s, name)[-1], [None, 5])
        s.reorder(k1, k0)

    right(SPELLINGS["argmax of the smaller index"], lambda s: swapped(s, "A"))
    right(SPELLINGS["larger index"], lambda s: swapped(s, "A"))
    right(tuples.two_sums(), lambda s: swapped(s, "S"))
    nearly(tuples.welford(), lambda s: swapped(s, "W"))
    for name in ("argmax", "last of equals"):
        sch = scheduled(SPELLINGS[name])
        k0, k1 = sch.split(loops(sch, "A")[1], [None, 5])
        refuses(sch, "reorder-order", lambda: sch.reorder(k1, k0), names="block A")  # noqa: B023


def test_of_three_values_the_tie_must_tell_all_elements_apart() -> None:
    func = tuples.plane_ties()
    assert known(func).reducer == Pick(3, 2, ">", "smaller", 0)
    for at in (1, 2):
        right(func, lambda s: s.rfactor(loops(s, "A")[at], 0))  # noqa: B023
    other = tuples.plane_ties("vh", before="<=")  # takes the last of equal rows: no such combiner
    sch = scheduled(other)
    h = loops(sch, "A")[1]
    refuses(sch, "rfactor-combiner", lambda: sch.rfactor(h, 0), names="block A")
    for position, start in (("vh", "1000"), ("vh * 5 + vw", "1000"), ("vh * 6 + vw", "3")):
        func = tuples.plane_ties(position, start)
        right(func, lambda s: s.rfactor(loops(s, "A")[1], 0))
        sch = scheduled(func)
        w = loops(sch, "A")[2]
        refuses(sch, "rfactor-order", lambda: sch.rfactor(w, 0), names="block A")  # noqa: B023


# ----------------------------------------------------------------------------- one's own
@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(MERGES)
    yield
    MERGES.clear()
    MERGES.update(before)


def products() -> PrimFunc:
    """A product of complex numbers X + iY."""
    return parsed(
        """
@T.prim_func
def f(X: T.Buffer((2, 6), "int32"), Y: T.Buffer((2, 6), "int32"), R: T.Buffer((2,), "int32"),
      I: T.Buffer((2,), "int32")):
    for i, k in T.grid(2, 6):
        with T.block("P"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                R[vi] = 1
                I[vi] = 0
            r: T.int32 = X[vi, vk] * R[vi] - I[vi] * Y[vi, vk]
            s: T.int32 = X[vi, vk] * I[vi] + R[vi] * Y[vi, vk]
            R[vi] = r
            I[vi] = s
"""
    )


Pair = tuple[Expr, ...]


def times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def one(kinds: Any) -> Pair:
    from gputune.ir import build as ir

    return ir.const(1, kinds[0]), ir.const(0, kinds[1])


@pytest.mark.usefixtures("registered")
def test_a_combiner_of_ones_own() -> None:
    sch = scheduled(products())
    k = loops(sch, "P")[1]
    refuses(sch, "rfactor-combiner", lambda: sch.rfactor(k, 0), names="block P")
    register_reducer("complex product", 2, times, one)
    for factors, which in (([None, 4], 0), ([None, 4], 1), ([6, 1], 0)):
        right(products(), factored("P", factors, which))
    register_reducer("complex product", 2, times, one, commutative=False)
    right(products(), factored("P", [None, 4], 0))
    sch = scheduled(products())
    _, k1 = sch.split(loops(sch, "P")[1], [None, 4])
    refuses(sch, "rfactor-order", lambda: sch.rfactor(k1, 0), names="block P")


def test_combiners_that_are_not_registered() -> None:
    with pytest.raises(UserError) as e:
        register_reducer("none", 0, times, one)
    assert e.value.code == "reducer-size"
    with pytest.raises(UserError) as e:
        register_reducer("half", 2, times, one, update=times)
    assert e.value.code == "reducer-update"
    assert "none" not in MERGES
    assert "half" not in MERGES


# ----------------------------------------------------------------------------- GPU, host execution
SHARED = {
    **{k: (v, "A") for k, v in SPELLINGS.items()},
    "welford": (tuples.welford(), "W"),
    "online softmax": (tuples.online_softmax(), "L"),
    "two sums": (tuples.two_sums(), "S"),
    "spread": (tuples.spread(), "R"),
}


def on_gpu(func: PrimFunc, sch: Schedule, order: str = "forward") -> None:
    """Host execution of the kernels: no findings, and the results of the program."""
    source = generate(default_gpu_schedule(sch.mod, Target("cuda -arch=sm_90")).mod[func.name])
    arrays = inputs(func, 3)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values, order=order, seed=1)
    assert report.completed
    assert not report.findings, str(report)
    for p, want in zip(params, results(func, 3), strict=True):
        if p.written:
            got = report.outputs[p.name].reshape(want.shape)
            np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@pytest.mark.parametrize("name", ["argmax", "last of equals", "welford", "two sums"])
def test_serial_rfactor_on_a_gpu(name: str) -> None:
    func, b = SHARED[name]
    sch = scheduled(func)
    i, k = loops(sch, b)
    rf = sch.rfactor(sch.split(k, [None, 4])[1], 0)
    i, k0, k1 = sch.get_loops(rf)
    sch.reorder(k1, k0)
    sch.bind(i, "blockIdx.x")
    sch.bind(k1, "threadIdx.x")
    on_gpu(func, sch)


@pytest.mark.parametrize("name", ["argmax", "last of equals", "larger index", "three ways", "bytes",
                                  "argmin", "welford", "online softmax", "two sums"])  # fmt: skip
@pytest.mark.parametrize("which", [0, 1])
def test_threads_share_a_reduction_of_several_values(name: str, which: int) -> None:
    """Neighbours in turn, or each thread a stretch; 13 elements for 5 threads."""
    func, b = SHARED[name]
    sch = scheduled(func)
    i, k = loops(sch, b)
    sch.bind(sch.split(k, [None, 5] if which else [5, None])[which], "threadIdx.x")
    sch.bind(i, "blockIdx.x")
    on_gpu(func, sch, "random")


def test_threads_and_rows_share_a_reduction() -> None:
    """Two thread axes reduce, one makes rows, and what is left is a loop in registers."""
    func = tuples.plane_argmax()
    sch = scheduled(func)
    i, h, w = loops(sch, "A")
    _, w1 = sch.split(w, [None, 4])
    sch.bind(h, "threadIdx.y")
    sch.bind(w1, "threadIdx.x")
    sch.bind(i, "threadIdx.z")
    on_gpu(func, sch, "reverse")


def test_threads_share_partial_results() -> None:
    func = SPELLINGS["argmax"]
    sch = scheduled(func)
    i, k = loops(sch, "A")
    rf = sch.rfactor(sch.split(k, [None, 5])[1], 0)
    i, k0, k1 = sch.get_loops(rf)
    sch.reorder(k1, k0)
    sch.bind(sch.fuse(i, k1), "blockIdx.x")
    sch.bind(k0, "threadIdx.x")
    i, k = loops(sch, "A")
    sch.bind(i, "blockIdx.x")
    sch.bind(k, "threadIdx.x")
    on_gpu(func, sch)


def test_shared_results_are_read_by_the_threads_of_a_consumer() -> None:
    """As the rule CrossThreadReduction makes it: the results in shared memory."""
    func = nearest()
    sch = scheduled(func)
    (i,) = loops(sch, "Y")
    grid, thread = sch.split(i, [None, 4])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    for name in ("J", "S"):
        sch.compute_at(name, grid, True)
        for k in (0, 1):
            sch.set_scope(name, k, "shared")
        sch.bind(sch.split(loops(sch, name)[-1], [None, 4])[1], "threadIdx.x")
    on_gpu(func, sch)


def test_outputs_in_different_scopes() -> None:
    func = nearest()
    sch = scheduled(func)
    (i,) = loops(sch, "Y")
    sch.bind(i, "blockIdx.x")
    sch.compute_at("J", i, True)
    sch.set_scope("J", 0, "shared")
    sch.set_scope("J", 1, "local")
    sch.bind(loops(sch, "J")[-1], "threadIdx.x")
    with pytest.raises(LowerError) as e:
        generate(default_gpu_schedule(sch.mod, Target("cuda -arch=sm_90")).mod["f"])
    assert e.value.code == "cross-thread"
    assert "local, shared" in e.value.message


def test_threads_do_not_share_what_needs_an_order() -> None:
    for func, b, says in (
        (tuples.payload_given(), "A", "order of its elements"),
        (products(), "P", "not known"),
    ):
        sch = scheduled(func)
        i, k = loops(sch, b)
        sch.bind(i, "blockIdx.x")
        sch.bind(k, "threadIdx.x")
        with pytest.raises(LowerError) as e:
            generate(sch.mod["f"])
        assert e.value.code == "cross-thread"
        assert says in e.value.message


# ----------------------------------------------------------------------------- matrix evaluation
def test_one_replay_stands_for_all_tile_sizes() -> None:
    """That the index tells the order follows from the form of a split, not from the sizes."""
    func = SPELLINGS["argmax"]
    for which in (0, 1):
        sch = Schedule(func, seed=1)
        k = loops(sch, "A")[1]
        tile = list(sch.sample_tile(k, 2, 8, decision=[5, 3]))
        sch.rfactor(sch.split(k, tile)[which], 0)
        again = Schedule(func, seed=1, error_render_level="none")
        with recording() as guards:
            sch.trace.apply_to_schedule(
                again,
                decision_provider=lambda inst, inputs, attrs, old: [
                    Dim(x, f"t.{n}") for n, x in enumerate(old)
                ],
            )
        arrays = inputs(func, 0)
        run(again.mod["f"], *arrays)
        for want, got in zip(results(func, 0), arrays, strict=True):
            np.testing.assert_array_equal(got, want)
        rows = {"t.0": np.array([5, 7, 4, 2, 3]), "t.1": np.array([3, 2, 4, 7, 5])}
        assert Evaluator(rows).holds(list(guards), np.ones(5, bool)).all()


def test_programs_with_an_argmax_inside() -> None:
    """The results are intermediate, and read afterwards."""
    right(programs.arg_max(), factored("A", [None, 3], 1))
