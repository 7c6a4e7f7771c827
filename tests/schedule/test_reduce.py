# ruff: noqa: E501 - golden programs are printed as they are
"""decompose_reduction, rfactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.script import tir as T
from tests.properties.programs import split_conditions

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled


def test_decompose_prints_init_and_update() -> None:
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    prints(
        sch,
        """
        for i in range(4):
            with T.block("Y_init"):
                vi = T.axis.spatial(4, i)
                T.reads()
                T.writes(Y[vi])
                Y[vi] = T.float32(0)
            for k in range(7):
                with T.block("Y_update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    T.reads(Y[vi], X[vi, vk])
                    T.writes(Y[vi])
                    Y[vi] = Y[vi] + X[vi, vk]
    """,
    )


@pytest.mark.parametrize(
    ("program", "block", "at"),
    [
        (programs.row_sum, "Y", 0),
        (programs.arg_max, "A", 0),
        (programs.arg_max, "A", 1),
        (programs.padded_conv, "O", 1),
        (programs.padded_conv, "O", 3),
        (programs.fused_reduction, "Y", 0),
        (programs.init_from_producer, "Y", 0),
        (programs.triangle_sum, "Y", 0),
        (programs.triangle_sum, "Y", 1),
        (programs.wide_matmul, "C", 2),
        (programs.prefix_sum, "S", 0),
        (programs.guarded_sum, "Y", 1),
        (programs.horner, "Y", 0),
    ],
)
def test_decompose_keeps_the_meaning(program: Callable[[], PrimFunc], block: str, at: int) -> None:
    keeps(program(), lambda s: s.decompose_reduction(block, loops(s, block)[at]))


def test_decompose_under_tiles_that_do_not_divide() -> None:
    def do(s: Schedule) -> None:
        i, k = loops(s, "Y")
        i0, i1 = s.split(i, [None, 3])
        k0, k1 = s.split(k, [None, 4])
        s.reorder(i0, k0, k1, i1)
        s.decompose_reduction("Y", k0)

    keeps(programs.row_sum(5, 7), do)
    keeps(
        programs.fused_reduction(),
        lambda s: s.decompose_reduction("Y", s.split(loops(s, "Y")[0], [None, 5])[0]),
    )


def test_decompose_where_halos_are_computed_again() -> None:
    def do(s: Schedule, depth: int) -> None:
        i0, _ = s.split(loops(s, "Y")[0], [2, 4])
        s.compute_at("S", i0)
        s.decompose_reduction("S", loops(s, "S")[depth])

    keeps(programs.reduced_halo(), lambda s: do(s, 1))
    keeps(programs.reduced_halo(), lambda s: do(s, 2))
    sch = scheduled(programs.reduced_halo())
    i0, _ = sch.split(loops(sch, "Y")[0], [2, 4])
    sch.compute_at("S", i0)
    refuses(sch, "reduction-repeat", lambda: sch.decompose_reduction("S", i0), names="block S")


def test_decompose_refuses_a_loop_that_repeats_the_reduction() -> None:
    sch = scheduled(repeated())
    r = loops(sch, "Y")[0]
    refuses(sch, "reduction-repeat", lambda: sch.decompose_reduction("Y", r), names="loop r")


def repeated() -> PrimFunc:
    """A sum that is computed three times over."""

    @T.prim_func
    def f(X: T.Buffer((4, 5), "float32"), Y: T.Buffer((4,), "float32")):
        for r, i, k in T.grid(3, 4, 5):  # noqa: B007
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def test_decompose_refuses() -> None:
    sch = scheduled(programs.padded_conv())
    h, _, _, r, s, _ = loops(sch, "O")
    p0 = loops(sch, "P")[0]
    refuses(sch, "not-reduction", lambda: sch.decompose_reduction("P", p0), names="block P")
    refuses(sch, "reduction-ancestor", lambda: sch.decompose_reduction("O", p0), names="loop h")
    refuses(sch, "reduction-loop", lambda: sch.decompose_reduction("O", s), names="loop r above s")
    sch.decompose_reduction("O", r)
    refuses(sch, "not-reduction", lambda: sch.decompose_reduction("O_update", r), names="no init")
    refuses(sch, "not-reduction", lambda: sch.decompose_reduction("root", h), names="root")


def test_decompose_refuses_what_would_lose_the_init() -> None:
    for program, code, name in (
        (programs.where_sum, "reduction-predicate", "i * 8 + k < 30"),
        (programs.late_start, "reduction-predicate", "k >= 2"),
        (programs.guarded_sum, "reduction-guard", "block Y"),
        (programs.recurrence, "not-reduction", "block Y"),
        (late_loop, "reduction-start", "starts at 2"),
    ):
        sch = scheduled(program())
        i = loops(sch, "Y")[0]
        refuses(sch, code, lambda: sch.decompose_reduction("Y", i), names=name)  # noqa: B023


def late_loop() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(6):
            for k in T.serial(2, 8):
                with T.block("Y"):
                    vi = T.axis.spatial(6, i)
                    vk = T.axis.reduce(8, k)
                    with T.init():
                        Y[vi] = 0.0
                    Y[vi] = Y[vi] + X[vi, vk]

    return f


def test_decompose_refuses_to_pass_a_block_that_minds() -> None:
    sch = scheduled(programs.init_from_producer())
    i = loops(sch, "Y")[0]
    sch.compute_at("P", i)
    refuses(sch, "reduction-place", lambda: sch.decompose_reduction("Y", i), names="block P")
    sch = scheduled(early_reader())
    (k,) = loops(sch, "S")
    refuses(sch, "reduction-place", lambda: sch.decompose_reduction("S", k), names="block Q")


def early_reader() -> PrimFunc:
    """A block that reads the accumulator before the sum begins."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Q: T.Buffer((8,), "float32"), S: T.Buffer((1,), "float32")):
        for k in range(8):
            with T.block("Q"):
                vk = T.axis.spatial(8, k)
                Q[vk] = S[0]
            with T.block("S"):
                vk = T.axis.reduce(8, k)
                with T.init():
                    S[0] = 0.0
                S[0] = S[0] + X[vk]

    return f


# ----------------------------------------------------------------------------- rfactor
def test_rfactor_prints_partial_results() -> None:
    sch = scheduled(programs.row_sum())
    _, k1 = sch.split(loops(sch, "Y")[1], [None, 3])
    sch.rfactor(k1, 0)
    prints(
        sch,
        """
        Y_rf = T.alloc_buffer((3, 4))
        for i, k_0, k_1 in T.grid(4, 3, 3):
            with T.block("Y_rf"):
                vi, vk_1, vk_0 = T.axis.remap("SSR", [i, k_1, k_0])
                T.reads(X[vi, vk_0 * 3 + vk_1])
                T.writes(Y_rf[vk_1, vi])
                with T.init():
                    Y_rf[vk_1, vi] = T.float32(0)
                Y_rf[vk_1, vi] = Y_rf[vk_1, vi] + T.if_then_else(vk_0 * 3 + vk_1 < 7, X[vi, vk_0 * 3 + vk_1], T.float32(0))
        for i, k_1 in T.grid(4, 3):
            with T.block("Y"):
                vi, vk_1 = T.axis.remap("SR", [i, k_1])
                T.reads(Y_rf[vk_1, vi])
                T.writes(Y[vi])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + Y_rf[vk_1, vi]
    """,
    )


@pytest.mark.parametrize("factors", [[None, 3], [2, None], [7, 1], [1, 7], [5, None]])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_rfactor_keeps_the_meaning(factors: list[Any], which: int, axis: int) -> None:
    def do(s: Schedule) -> None:
        s.rfactor(s.split(loops(s, "Y")[1], factors)[which], axis)

    keeps(programs.row_sum(), do, seeds=1)


def combined(op: str, dtype: str) -> PrimFunc:
    value = {
        "*": "Y[vi] * X[vi, vk]",
        "+": "X[vi, vk] + Y[vi]",
        "min": "T.min(Y[vi], X[vi, vk])",
        "max": "T.max(X[vi, vk], Y[vi])",
    }[op]
    start = {"*": 1, "min": 100, "max": -100, "+": 3}[op]
    func = from_source(
        f"""
@T.prim_func
def f(X: T.Buffer((3, 7), "{dtype}"), Y: T.Buffer((3,), "{dtype}")):
    for i, k in T.grid(3, 7):
        with T.block("Y"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                Y[vi] = T.{dtype}({start})
            Y[vi] = {value}
"""
    )
    assert isinstance(func, PrimFunc)
    return func


@pytest.mark.parametrize("op", ["+", "*", "min", "max"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "float64", "int8"])
def test_rfactor_knows_the_identity_of_each_combiner(op: str, dtype: str) -> None:
    keeps(combined(op, dtype), lambda s: s.rfactor(s.split(loops(s, "Y")[1], [None, 3])[1], 0))


def test_rfactor_of_several_reduction_loops_and_wide_ones() -> None:
    keeps(programs.padded_conv(), lambda s: s.rfactor(loops(s, "O")[4], 2))
    keeps(
        programs.wide_matmul(),
        lambda s: s.rfactor(s.split(loops(s, "C")[2], [None, 4])[0], 0),
    )
    keeps(programs.init_from_producer(), lambda s: s.rfactor(loops(s, "Y")[1], 0))
    keeps(programs.softmax(), lambda s: s.rfactor(s.split(loops(s, "M")[1], [None, 4])[1], 1))


def test_rfactor_refuses() -> None:
    sch = scheduled(programs.row_sum())
    i, k = loops(sch, "Y")
    refuses(sch, "rfactor-loop", lambda: sch.rfactor(i, 0), names="loop i drives a spatial")
    refuses(sch, "rfactor-axis", lambda: sch.rfactor(k, 2), names="factor_axis 2")
    refuses(sch, "rfactor-axis", lambda: sch.rfactor(k, -3), names="factor_axis -3")
    refuses(sch, "argument", lambda: sch.rfactor(k, "0"), names="factor_axis")  # type: ignore[arg-type]  # wrong on purpose
    u = sch.add_unit_loop("Y")
    refuses(sch, "rfactor-loop", lambda: sch.rfactor(u, 0), names="drives no reduce")
    sch.annotate(k, "note", 1)
    refuses(sch, "rfactor-loop", lambda: sch.rfactor(k, 0), names="annotated")
    sch = scheduled(programs.copy2d())
    j = loops(sch, "Y")[1]
    refuses(sch, "not-reduction", lambda: sch.rfactor(j, 0), names="block Y")
    sch = scheduled(programs.row_sum())
    i, k = loops(sch, "Y")
    sch.unroll(k)
    refuses(sch, "rfactor-loop", lambda: sch.rfactor(k, 0), names="unrolled")


def test_rfactor_refuses_reductions_it_does_not_understand() -> None:
    for program, block, at, code, name in (
        (programs.horner, "Y", 1, "rfactor-combiner", "block Y"),
        (programs.prefix_sum, "S", 0, "rfactor-blocks", "2 blocks"),
        (programs.fused_reduction, "Y", 0, "rfactor-loop", "spatial"),
        (programs.where_sum, "Y", 1, "reduction-predicate", "i * 8 + k < 30"),
        (programs.late_start, "Y", 1, "reduction-predicate", "k >= 2"),
        (programs.guarded_sum, "Y", 1, "rfactor-guard", "block Y"),
        (programs.triangle_sum, "Y", 1, "rfactor-loop", "depend on each other"),
        (programs.recurrence, "Y", 1, "not-reduction", "block Y"),
        (late_loop, "Y", 1, "rfactor-loop", "starts at 2"),
        (repeated, "Y", 2, "not-affine", "block Y"),
    ):
        sch = scheduled(program())
        k = loops(sch, block)[at]
        refuses(sch, code, lambda: sch.rfactor(k, 0), names=name)  # noqa: B023


def test_rfactor_refuses_loops_that_others_share() -> None:
    sch = scheduled(programs.init_from_producer())
    i, k = loops(sch, "Y")
    sch.compute_at("P", i)
    refuses(sch, "rfactor-chain", lambda: sch.rfactor(k, 0), names="loop i")
    sch = scheduled(programs.row_sum(4, 6))
    i, k = loops(sch, "Y")
    k0, k1 = sch.split(k, [2, 3])
    sch.reorder(k1, i, k0)
    f = sch.fuse(i, k0)
    refuses(sch, "rfactor-mixed", lambda: sch.rfactor(k1, 0), names=sch.get(f).var.name)


def idle_condition() -> PrimFunc:
    """A predicate over a loop that drives nothing."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, u, k in T.grid(6, 1, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(u >= 1)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def test_rfactor_after_loop_partition_refuses_what_ties_it_to_the_blocks_outside() -> None:
    """The rows outside are an iterator of the block around, and no row may begin that did not."""
    sch = scheduled(programs.where_sum())
    sch.loop_partition(loops(sch, "Y")[1], [4])
    (k0,) = loops(sch, "Y_k0")
    e = refuses(sch, "reduction-predicate", lambda: sch.rfactor(k0, -1), names="vi of the blocks")
    assert "vi * 8 + k0 < 30" in e.message
    assert e.hint


@pytest.mark.parametrize("axis", [0, 1])
def test_rfactor_after_loop_partition_keeps_conditions_on_the_blocks_outside(axis: int) -> None:
    def do(s: Schedule) -> None:
        s.loop_partition(loops(s, "Y")[1], [5])
        s.rfactor(loops(s, "Y_k0")[0], axis)

    sch = keeps(split_conditions(), do)
    assert str(sch.get(sch.get_block("Y_k0")).predicate) == "vi < 4"
    assert from_source(sch.mod.script()).script() == sch.mod.script()
    keeps(split_conditions(), lambda s: s.rfactor(loops(s, "Y")[1], axis))


def test_a_condition_over_a_loop_that_drives_nothing_keeps_the_reduction_from_beginning() -> None:
    sch = scheduled(idle_condition())
    i, _, k = loops(sch, "Y")
    for do in (lambda: sch.rfactor(k, 0), lambda: sch.decompose_reduction("Y", i)):
        refuses(sch, "reduction-predicate", do, names="u >= 1")
