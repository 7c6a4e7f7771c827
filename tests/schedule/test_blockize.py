"""blockize: of a loop, of blocks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.properties.law import check_round_trips
from tests.properties.moves import inputs, results
from tests.properties.programs import matmul

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled
from .tensor_programs import u8_matmul


def agrees(func: PrimFunc, sch: Schedule, llvm: bool = True) -> None:
    """Same results, from the interpreter (which checks regions) and compiled; round trips."""
    want = results(func, 3)
    arrays = inputs(func, 3)
    run(sch.mod[func.name], *arrays, check_regions=True)
    assert all(map(np.array_equal, want, arrays))
    if llvm:
        arrays = inputs(func, 3)
        build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
        assert all(map(np.array_equal, want, arrays))
    check_round_trips(func, sch)


def test_a_reduction_is_cut_in_two_with_its_init_outside() -> None:
    func = u8_matmul(4, 32, 8)
    sch = scheduled(func)
    _, j, k = loops(sch, "C")
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    outer = sch.blockize(j1)
    assert sch.get(outer).name == "C_o"
    prints(
        sch,
        """
        for i, j_0, q_0 in T.grid(4, 2, 2):
            with T.block("C_o"):
                vi, vj_o, vk_o = T.axis.remap("SSR", [i, j_0, q_0])
                T.reads(A[vi, vk_o * 4:vk_o * 4 + 4], B[vj_o * 16:vj_o * 16 + 16, vk_o * 4:vk_o * 4 + 4])
                T.writes(C[vi, vj_o * 16:vj_o * 16 + 16])
                with T.init():
                    for j_1_init in range(16):
                        with T.block("C_init"):
                            vj_i = T.axis.spatial(16, j_1_init)
                            T.reads()
                            T.writes(C[vi, vj_o * 16 + vj_i])
                            C[vi, vj_o * 16 + vj_i] = 0
                for j_1, q_1 in T.grid(16, 4):
                    with T.block("C"):
                        vj_i, vk_i = T.axis.remap("SR", [j_1, q_1])
                        T.reads(C[vi, vj_o * 16 + vj_i], A[vi, vk_o * 4 + vk_i], B[vj_o * 16 + vj_i, vk_o * 4 + vk_i])
                        T.writes(C[vi, vj_o * 16 + vj_i])
                        C[vi, vj_o * 16 + vj_i] = C[vi, vj_o * 16 + vj_i] + T.Cast("int32", A[vi, vk_o * 4 + vk_i]) * T.Cast("int32", B[vj_o * 16 + vj_i, vk_o * 4 + vk_i])
        """,  # noqa: E501
    )
    agrees(func, sch)


@pytest.mark.parametrize("unit", [True, False])
def test_all_loops_inside(unit: bool) -> None:
    func = u8_matmul(4, 5, 6)
    sch = scheduled(func)
    outer = sch.blockize(loops(sch, "C")[0], preserve_unit_iters=unit)
    assert len(sch.get(outer).iter_vars) == (3 if unit else 0)
    agrees(func, sch)


@pytest.mark.parametrize("factor", [3, 4, 5, 7])
def test_extents_that_do_not_divide_keep_their_predicate_inside(factor: int) -> None:
    func = u8_matmul(4, 10, 9)
    sch = scheduled(func)
    _, j, k = loops(sch, "C")
    j0, j1 = sch.split(j, [None, factor])
    k0, k1 = sch.split(k, [None, factor])
    sch.reorder(j0, k0, j1, k1)
    outer = sch.blockize(j1)
    assert str(sch.get(sch.get_block("C")).predicate) != "T.bool(True)"
    sch.decompose_reduction(outer, k0)
    agrees(func, sch)


def test_a_bound_of_an_outside_loop_goes_outside() -> None:
    func = u8_matmul(5, 8, 4)
    sch = scheduled(func)
    i, j, _ = loops(sch, "C")
    sch.split(i, [None, 2])
    outer = sch.blockize(j)
    assert "< 5" in str(sch.get(outer).predicate)
    agrees(func, sch)


def test_quotients_of_packed_indices_fold() -> None:
    from .tensor_programs import packed_matmul

    func = packed_matmul()
    sch = scheduled(func)
    _, j, k = loops(sch, "C")
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    sch.blockize(j1)
    text = sch.mod.script()
    assert "B[vj_o, vk_o, vj_i, vk_i]" in text
    assert "B[vj_o, vk_o, 0:16, 0:4]" in text
    agrees(func, sch)


def test_the_outer_block_can_be_scheduled_on() -> None:
    func = u8_matmul(8, 32, 16)
    sch = scheduled(func)
    i, j, k = loops(sch, "C")
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    outer = sch.blockize(j1)
    i0, _ = sch.split(i, [None, 4])
    cache = sch.cache_write(outer, 0, "local")
    sch.reverse_compute_at(cache, i0)
    sch.parallel(i0)
    sch.decompose_reduction(outer, sch.get_loops(outer)[3])
    agrees(func, sch)


def test_sampled_tiles() -> None:
    func = u8_matmul(8, 32, 16)
    sch = scheduled(func)
    _, j, k = loops(sch, "C")
    _, j1 = sch.split(j, list(sch.sample_perfect_tile(j, 2, 16, decision=[4, 8])))
    k0, k1 = sch.split(k, list(sch.sample_perfect_tile(k, 2, 16, decision=[4, 4])))
    sch.reorder(k0, j1, k1)
    sch.blockize(j1)
    agrees(func, sch)


def test_neighbouring_blocks() -> None:
    func = u8_matmul(4, 8, 4)
    sch = scheduled(func)
    block = sch.get_block("C")
    init = sch.decompose_reduction(block, sch.get_loops(block)[1])
    outer = sch.blockize([init, block])
    b = sch.get(outer)
    assert (b.name, [iv.kind for iv in b.iter_vars]) == ("C_init_C_update_o", ["spatial"])
    agrees(func, sch)


def test_blocks_by_name_and_a_single_block() -> None:
    func = programs.chain()
    sch = scheduled(func)
    sch.blockize(["B"])
    assert sch.get(sch.get_block("B_o")).name == "B_o"
    agrees(func, sch)


# ----------------------------------------------------------------------------- refusals
def test_refuses_a_loop_above_several_blocks() -> None:
    sch = scheduled(u8_matmul())
    i, j, _ = loops(sch, "C")
    sch.decompose_reduction(sch.get_block("C"), j)
    refuses(sch, "blockize-blocks", lambda: sch.blockize(i), names="2 blocks")


def test_refuses_tiles_that_are_not_the_low_digits() -> None:
    sch = scheduled(u8_matmul())
    _, j, _ = loops(sch, "C")
    j0, j1 = sch.split(j, [None, 16])
    sch.reorder(j1, j0)
    e = refuses(sch, "blockize-binding", lambda: sch.blockize(j0), names="vj")
    assert "low digits" in e.hint


def test_refuses_what_is_no_target() -> None:
    sch = scheduled(u8_matmul())
    refuses(sch, "blockize-target", lambda: sch.blockize([]))
    block = sch.get_block("C")
    refuses(sch, "blockize-target", lambda: sch.blockize([block, block]))
    refuses(sch, "root-block", lambda: sch.blockize(["root"]))


def test_refuses_blocks_with_others_between() -> None:
    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        P = T.alloc_buffer((4,))
        Q = T.alloc_buffer((4,))
        for i in range(4):
            with T.block("P"):
                v = T.axis.spatial(4, i)
                P[v] = X[v] + T.float32(1)
        for i in range(4):
            with T.block("Q"):
                v = T.axis.spatial(4, i)
                Q[v] = P[v] * T.float32(2)
        for i in range(4):
            with T.block("Y"):
                v = T.axis.spatial(4, i)
                Y[v] = Q[v] + P[v]

    sch = scheduled(f)
    refuses(sch, "blockize-between", lambda: sch.blockize(["P", "Y"]), names="block Q")
    sch.blockize(["P", "Q"])
    agrees(f, sch)
    refuses(sch, "blockize-scope", lambda: sch.blockize(["P", "Y"]))


def test_refuses_a_condition_in_between() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i < 5:
                with T.block("Y"):
                    v = T.axis.spatial(8, i)
                    Y[v] = X[v]

    sch = scheduled(f)
    loop = loops(sch, "Y")[0]
    refuses(sch, "blockize-guard", lambda: sch.blockize(loop))


def test_refuses_a_reduction_that_never_starts() -> None:
    func = programs.late_start()
    sch = scheduled(func)
    loop = loops(sch, "Y")[-1]
    refuses(sch, "reduction-predicate", lambda: sch.blockize(loop))


def test_refuses_loops_that_tie_iterators_together() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        for i in range(4):
            with T.block("Y"):
                v = T.axis.spatial(4, i)
                w = T.axis.spatial(4, i)
                Y[v, w] = X[v, w]

    sch = scheduled(f)
    loop = loops(sch, "Y")[0]
    refuses(sch, "blockize-binding", lambda: sch.blockize(loop))


def test_refuses_a_predicate_that_ties_iterators_together() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                v, w = T.axis.remap("SS", [i, j])
                T.where(i + j < 5)
                Y[v, w] = X[v, w]

    sch = scheduled(f)
    loop = loops(sch, "Y")[1]
    refuses(sch, "blockize-predicate", lambda: sch.blockize(loop))


def test_a_copy_that_runs_again_is_reordered_and_cut() -> None:
    """Complete blocks may run several times for the same iterators: they do the same each time."""

    @T.prim_func
    def copies(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((3, 8, 8), "float32")):
        B = T.alloc_buffer((8, 8))
        for i, j in T.grid(8, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * T.float32(2)
        for u, i, j in T.grid(3, 8, 8):
            with T.block("Y"):
                vu, vi, vj = T.axis.remap("SSS", [u, i, j])
                Y[vu, vi, vj] = B[vi, vj]

    sch = scheduled(copies)
    u, *_ = loops(sch, "Y")
    sch.compute_at("B", u)
    _, i, j = loops(sch, "B")
    i0, i1 = sch.split(i, [None, 4])
    j0, j1 = sch.split(j, [None, 4])
    sch.reorder(i0, j0, i1, j1)
    outer = sch.blockize(i1)
    assert [iv.dom.extent.value for iv in sch.get(outer).iter_vars] == [2, 2]
    agrees(copies, sch)


def test_refuses_to_cut_a_reduction_that_runs_again() -> None:
    @T.prim_func
    def sums(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8,), "float32")):
        for _u, i, k in T.grid(1, 8, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + X[vi, vk]

    sch = scheduled(sums)
    _, i, k = loops(sch, "Y")
    sch.blockize(sch.split(k, [None, 4])[1])  # runs once

    @T.prim_func
    def twice(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8,), "float32")):
        for _u, i, k in T.grid(2, 8, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + X[vi, vk]

    sch = scheduled(twice)
    _, i, k = loops(sch, "Y")
    refuses(sch, "not-affine", lambda: sch.blockize(k), names="Y")
    refuses(sch, "not-affine", lambda: sch.reorder(k, i), names="Y")


@pytest.mark.parametrize(
    "names", [("P", "Q", "R"), ("R", "P", "Q"), ("P", "Q", "R", "Y"), ("Q", "R", "Y"), ("Q", "R")]
)
def test_three_or_more_neighbours_make_a_block(names: tuple[str, ...]) -> None:
    """In any order: their common place holds them all, and is not looked for above itself."""

    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        P = T.alloc_buffer((4,))
        Q = T.alloc_buffer((4,))
        R = T.alloc_buffer((4,))
        for i in range(4):
            with T.block("P"):
                v = T.axis.spatial(4, i)
                P[v] = X[v] + T.float32(1)
            with T.block("Q"):
                v = T.axis.spatial(4, i)
                Q[v] = P[v] * T.float32(2)
            with T.block("R"):
                v = T.axis.spatial(4, i)
                R[v] = Q[v] + P[v]
            with T.block("Y"):
                v = T.axis.spatial(4, i)
                Y[v] = R[v] - Q[v]

    sch = scheduled(f)
    outer = sch.blockize(list(names))
    assert sch.get(outer).name == "_".join(names) + "_o"
    assert [sch.get(b).name for b in sch.get_child_blocks(outer)] == sorted(names, key="PQRY".index)
    agrees(f, sch)


def test_refuses_three_blocks_with_another_between_or_in_different_loops() -> None:
    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        P = T.alloc_buffer((4,))
        Q = T.alloc_buffer((4,))
        R = T.alloc_buffer((4,))
        for i in range(4):
            with T.block("P"):
                v = T.axis.spatial(4, i)
                P[v] = X[v] + T.float32(1)
            with T.block("Q"):
                v = T.axis.spatial(4, i)
                Q[v] = P[v] * T.float32(2)
        for i in range(4):
            with T.block("R"):
                v = T.axis.spatial(4, i)
                R[v] = Q[v] + P[v]
        for i in range(4):
            with T.block("Y"):
                v = T.axis.spatial(4, i)
                Y[v] = R[v] - Q[v]

    sch = scheduled(f)
    for names, other in ((["P", "R", "Y"], "Q"), (["Y", "P", "Q"], "R")):
        refuses(sch, "blockize-between", lambda: sch.blockize(names), names=f"block {other}")  # noqa: B023
    sch.blockize(["P", "Q", "R"])  # two in one loop, one in the next
    agrees(f, sch)


def test_refuses_a_block_that_looks_at_a_loop_inside_itself() -> None:
    """It has no iterators, so the regions of a block outside the loop could not be told."""
    sch = scheduled(programs.opaque_rows())
    sch.loop_partition(loops(sch, "B")[0], [7])
    (i1,) = loops(sch, "B_i1")  # runs once
    refuses(sch, "blockize-binding", lambda: sch.blockize(i1), names="block B_i1 has no iterators")


@pytest.mark.parametrize("kept", [False, True])
def test_blockize_where_loops_outside_run_past_the_last_tile(kept: bool) -> None:
    """Named for a bug: k was split into 2 tiles of 8, of which the predicate leaves one; without
    an iterator for it, or with one beyond its domain, the reduction ran twice."""

    def do(s: Schedule) -> None:
        s.split(loops(s, "C")[2], [2, None, 8], preserve_unit_iters=kept)
        s.blockize(loops(s, "C")[-1], preserve_unit_iters=kept)

    sch = keeps(matmul(), do)
    predicate = str(sch.get(sch.get_block("C_o")).predicate)
    assert predicate == ("k_0 + k_1 < 1" if kept else "k_0 < 1")
