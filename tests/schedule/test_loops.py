"""split, fuse, reorder, add_unit_loop, parallel, vectorize, unroll, bind: what they make, what they
refuse, and that they keep the meaning where getting it wrong would show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gputune.errors import ScheduleError
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule, Trace
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


# ----------------------------------------------------------------------------- split
def test_split_prints_a_nest_with_a_predicate() -> None:
    sch = scheduled(programs.copy2d())
    sch.split(loops(sch, "Y")[1], [None, 4])
    prints(
        sch,
        """
        for i, j_0, j_1 in T.grid(4, 2, 4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                vj = T.axis.spatial(6, j_0 * 4 + j_1)
                T.where(j_0 * 4 + j_1 < 6)
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


def test_split_can_leave_unit_iterators_out_of_the_binding() -> None:
    sch = scheduled(programs.copy2d())
    sch.split(loops(sch, "Y")[0], [4, 1], preserve_unit_iters=False)
    prints(
        sch,
        """
        for i_0, i_1, j in T.grid(4, 1, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i_0, j])
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


@pytest.mark.parametrize("factors", [[None, 4], [5, None], [2, 3], [3, None, 2], [7], [2, 2, 2]])
@pytest.mark.parametrize("which", [0, 1])
def test_split_keeps_the_meaning(factors: list[Any], which: int) -> None:
    keeps(programs.row_sum(5, 6), lambda s: s.split(loops(s, "Y")[which], factors))


def test_split_without_predication_prints_the_keyword() -> None:
    sch = keeps(
        programs.copy2d(),
        lambda s: s.split(loops(s, "Y")[0], [2, 2], disable_predication=True),
    )
    assert "preserve_unit_iters=True, disable_predication=True)" in str(sch.trace)


@pytest.mark.parametrize("factors", [[4, None], [None, 4], [2, 4]])
def test_split_without_predication_is_refused_where_it_is_needed(factors: list[Any]) -> None:
    sch = scheduled(programs.copy2d())
    j = loops(sch, "Y")[1]
    e = refuses(
        sch,
        "split-predicate",
        lambda: sch.split(j, factors, disable_predication=True),
        names="is 8, the extent 6",
    )
    assert "leave disable_predication out" in e.hint


def test_split_without_predication_of_symbolic_extents() -> None:
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    refuses(
        sch,
        "split-predicate",
        lambda: sch.split(j, [None, 2], disable_predication=True),
        names="[None, 2] may not divide the extent i + 1",
    )
    keeps(
        programs.triangle(),
        lambda s: s.split(loops(s, "Y")[1], [None, 1], disable_predication=True),
    )


def test_a_trusted_split_without_predication_does_not_replay_unchecked() -> None:
    sch = scheduled(programs.copy2d(), enable_check=False)
    sch.split(loops(sch, "Y")[1], [2, 4], disable_predication=True)
    assert "T.where" not in sch.mod.script()
    sch.trace.apply_to_schedule(scheduled(programs.copy2d(), enable_check=False))
    for trace in (Trace.from_python(str(sch.trace)), Trace.from_json(sch.trace.as_json())):
        with pytest.raises(ScheduleError, match="would run past its end"):
            trace.apply_to_schedule(scheduled(programs.copy2d()))


@pytest.mark.parametrize("program", [programs.triangle, programs.triangle_sum, programs.guarded])
@pytest.mark.parametrize("which", [0, -1])
def test_split_of_loops_that_others_depend_on(program: Callable[[], PrimFunc], which: int) -> None:
    keeps(program(), lambda s: s.split(loops(s, "Y")[which], [None, 4]))


@pytest.mark.parametrize("program", [programs.loose_store, programs.loaded_condition])
def test_split_guards_what_no_block_holds(program: Callable[[], PrimFunc]) -> None:
    sch = keeps(program(), lambda s: s.split(loops(s, "Y")[0], [None, 3]))
    assert "if i_0 * 3 + i_1 < 8:" in sch.mod.script()


def test_split_inside_and_around_nested_blocks() -> None:
    keeps(programs.nested_blocks(), lambda s: s.split(loops(s, "inner")[0], [None, 3]))
    keeps(programs.nested_blocks(), lambda s: s.split(loops(s, "outer")[1], [3, None]))


@pytest.mark.parametrize(
    ("code", "factors", "names"),
    [
        ("split-factors", [], "no factors"),
        ("split-none", [None, None], "[None, None]"),
        ("split-positive", [0, None], "[0, None]"),
        ("split-positive", [-2, None], "[-2, None]"),
        ("split-product", [2, 2], "4, smaller than the extent 6"),
        ("argument", 4, "factors"),
        ("not-an-int", ["x", 2], "str"),
        ("not-an-int", [2.0, 3], "float"),
    ],
)
def test_split_refuses_factors(code: str, factors: Any, names: str) -> None:
    sch = scheduled(programs.copy2d())
    j = loops(sch, "Y")[1]
    refuses(sch, code, lambda: sch.split(j, factors), names=names)


def test_split_refuses_loops_that_are_not_plain() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.annotate(i, "note", 1)
    refuses(sch, "loop-annotated", lambda: sch.split(i, [2, 2]), names="loop i")
    sch.bind(j, "threadIdx.x")
    refuses(sch, "loop-annotated", lambda: sch.split(j, [2, 3]), names="loop j")


def late_loop() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in T.serial(2, 8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = X[vi]

    return f


def test_split_and_fuse_refuse_loops_that_start_late() -> None:
    sch = scheduled(late_loop())
    (i,) = loops(sch, "Y")
    refuses(sch, "loop-start", lambda: sch.split(i, [2, 3]), names="starts at 2")
    refuses(sch, "loop-start", lambda: sch.fuse(i), names="starts at 2")


def test_split_of_a_dynamic_extent_needs_a_hole() -> None:
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    refuses(sch, "split-dynamic", lambda: sch.split(j, [2, 3]), names="i + 1")


# ----------------------------------------------------------------------------- fuse
def test_fuse_prints_one_loop() -> None:
    sch = scheduled(programs.copy2d())
    sch.fuse(*loops(sch, "Y"))
    prints(
        sch,
        """
        for i_j_fused in range(24):
            with T.block("Y"):
                vi = T.axis.spatial(4, i_j_fused // 6)
                vj = T.axis.spatial(6, i_j_fused % 6)
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


def test_fuse_keeps_the_meaning_over_spatial_and_reduce_loops() -> None:
    keeps(programs.row_sum(), lambda s: s.fuse(*loops(s, "Y")))
    keeps(programs.wide_matmul(), lambda s: s.fuse(*loops(s, "C")))
    keeps(programs.padded_conv(), lambda s: s.fuse(*loops(s, "O")[2:5]))


def test_fuse_of_unit_loops() -> None:
    def do(s: Schedule) -> None:
        i0, i1 = s.split(loops(s, "Y")[0], [4, 1])
        s.fuse(i0, i1, preserve_unit_iters=False)

    keeps(programs.copy2d(), do)


def test_fuse_refuses() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    refuses(sch, "fuse-none", lambda: sch.fuse(), names="at least one")
    refuses(sch, "fuse-parent", lambda: sch.fuse(j, i), names="loop j is not the parent of i")
    j0, j1 = sch.split(j, [2, 3])
    refuses(sch, "fuse-only-child", lambda: sch.fuse(i, j1), names="j_1 is not the only child of i")
    sch.annotate(i, "note", 1)
    refuses(sch, "loop-annotated", lambda: sch.fuse(i, j0), names="loop i")


def test_fuse_refuses_loops_with_two_children_and_dependent_extents() -> None:
    sch = scheduled(programs.chain())
    i = loops(sch, "B")[0]
    sch.reverse_compute_at("Y", i)
    j = loops(sch, "B")[1]
    refuses(sch, "fuse-only-child", lambda: sch.fuse(i, j))
    sch = scheduled(programs.triangle())
    i, j = loops(sch, "Y")
    refuses(sch, "fuse-dependent", lambda: sch.fuse(i, j), names="i + 1")


# ----------------------------------------------------------------------------- reorder
def test_reorder_prints_the_other_order() -> None:
    sch = scheduled(programs.copy2d())
    sch.reorder(*loops(sch, "Y")[::-1])
    prints(
        sch,
        """
        for j, i in T.grid(6, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


def test_reorder_moves_only_the_given_loops() -> None:
    def do(s: Schedule) -> None:
        h, _, o, _, _, c = loops(s, "O")
        s.reorder(c, o, h)

    sch = keeps(programs.padded_conv(), do)
    names = [sch.get(x).var.name for x in loops(sch, "O")]
    assert names == ["c", "w", "o", "r", "s", "h"]


def test_reorder_keeps_the_meaning_with_predicates() -> None:
    def do(s: Schedule) -> None:
        i, k = loops(s, "Y")
        i0, i1 = s.split(i, [None, 3])
        k0, k1 = s.split(k, [None, 2])
        s.reorder(k1, i0, k0, i1)

    keeps(programs.row_sum(5, 7), do)


def test_reorder_refuses() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    refuses(sch, "reorder-none", lambda: sch.reorder(), names="at least one")
    refuses(sch, "reorder-twice", lambda: sch.reorder(i, j, i), names="loop i")
    sch = scheduled(programs.chain())
    a, b = loops(sch, "B")[0], loops(sch, "Y")[0]
    refuses(sch, "reorder-chain", lambda: sch.reorder(a, b), names="not in a chain")
    sch = scheduled(programs.triangle())
    i, j = loops(sch, "Y")
    refuses(sch, "reorder-dependent", lambda: sch.reorder(j, i), names="loop j")


def test_reorder_refuses_recomputed_and_opaque_blocks() -> None:
    sch = scheduled(programs.opaque_rows())
    i0, i1 = sch.split(loops(sch, "B")[0], [2, 4])
    refuses(sch, "not-affine", lambda: sch.reorder(i1, i0), names="block B")
    sch = scheduled(programs.loose_store())
    i0, i1 = sch.split(loops(sch, "Y")[0], [2, 4])
    refuses(sch, "not-pipeline", lambda: sch.reorder(i1, i0), names="outside any block")


def scan() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 5), "float32")):
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                vj = T.axis.scan(4, j)
                Y[vi, vj + 1] = Y[vi, vj] + X[vi, vj]

    return f


def test_reorder_refuses_other_iterators() -> None:
    sch = scheduled(scan())
    i, j = loops(sch, "Y")
    refuses(sch, "iter-kind", lambda: sch.reorder(j, i), names="scan iterator vj")


def test_reorder_keeps_reductions_that_mind_their_order() -> None:
    for program, block in ((programs.arg_max, "A"), (programs.horner, "Y")):
        sch = scheduled(program())
        i, k = loops(sch, block)
        k0, k1 = sch.split(k, [None, 3])
        refuses(sch, "reorder-order", lambda: sch.reorder(k1, k0), names=f"block {block}")  # noqa: B023
        sch.reorder(k0, i, k1)

    def do(s: Schedule) -> None:
        i, k = loops(s, "A")
        k0, k1 = s.split(k, [None, 3])
        s.reorder(k0, k1, i)

    keeps(programs.arg_max(), do, seeds=6)


def test_reorder_starts_every_reduction_with_its_init() -> None:
    # a*5 + b drives vi and vk together: with b outermost, some rows would not start at vk = 0
    sch = scheduled(programs.fused_reduction())
    a, b = sch.split(loops(sch, "Y")[0], [None, 5])
    refuses(sch, "reorder-order", lambda: sch.reorder(b, a), names="q_0")


def test_reorder_refuses_blocks_that_read_what_they_wrote() -> None:
    sch = scheduled(programs.recurrence())
    i, k = loops(sch, "Y")
    refuses(sch, "reorder-own", lambda: sch.reorder(k, i), names="block Y")


def test_reorder_above_a_running_reduction_is_refused() -> None:
    sch = scheduled(programs.prefix_sum())
    k0, k1 = sch.split(loops(sch, "S")[0], [2, 4])
    refuses(sch, "not-pipeline", lambda: sch.reorder(k1, k0), names="still reduces it")


# ----------------------------------------------------------------------------- add_unit_loop
def test_add_unit_loop_prints_it() -> None:
    sch = scheduled(programs.copy2d())
    sch.add_unit_loop("Y")
    prints(
        sch,
        """
        for i, j, u in T.grid(4, 6, 1):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


def test_add_unit_loop_around_loops_keeps_the_meaning() -> None:
    keeps(programs.row_sum(), lambda s: s.add_unit_loop(loops(s, "Y")[0]))
    keeps(programs.row_sum(), lambda s: s.add_unit_loop(loops(s, "Y")[1]))


def test_add_unit_loop_refuses_the_root_block() -> None:
    sch = scheduled(programs.copy2d())
    root = sch.get_block("root")
    refuses(sch, "root-block", lambda: sch.add_unit_loop(root), names="root")
    refuses(sch, "not-a-handle", lambda: sch.add_unit_loop(5), names="int 5")  # type: ignore[arg-type]  # wrong on purpose


# ----------------------------------------------------------------------------- kinds
def test_loop_kinds_print() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    j0, j1 = sch.split(j, [3, 2])
    sch.parallel(i)
    sch.unroll(j0)
    sch.vectorize(j1)
    prints(
        sch,
        """
        for i in T.parallel(4):
            for j_0 in T.unroll(3):
                for j_1 in T.vectorized(2):
                    with T.block("Y"):
                        vi = T.axis.spatial(4, i)
                        vj = T.axis.spatial(6, j_0 * 2 + j_1)
                        T.reads(X[vi, vj])
                        T.writes(Y[vi, vj])
                        Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


def test_bind_prints_the_axis() -> None:
    sch = scheduled(programs.copy2d())
    sch.bind(loops(sch, "Y")[0], "threadIdx.x")
    prints(
        sch,
        """
        for i in T.thread_binding(4, thread="threadIdx.x"):
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(X[vi, vj])
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )


MARKS: dict[str, Callable[[Schedule, Any], None]] = {
    "parallel": lambda s, x: s.parallel(x),
    "vectorize": lambda s, x: s.vectorize(x),
    "bind": lambda s, x: s.bind(x, "blockIdx.x"),
}


@pytest.mark.parametrize("mark", MARKS)
def test_marks_are_for_independent_iterations(mark: str) -> None:
    do = MARKS[mark]
    keeps(programs.arg_max(), lambda s: do(s, loops(s, "A")[0]))
    sch = scheduled(programs.arg_max())  # the first of equals: an order
    k = loops(sch, "A")[1]
    refuses(sch, "feeds-reduce", lambda: do(sch, k), names="reduce iterator vk of block A")
    sch = scheduled(programs.fused_reduction())
    (q,) = loops(sch, "Y")
    refuses(sch, "feeds-reduce", lambda: do(sch, q), names="loop q")
    for program, code in (
        (programs.opaque_rows, "not-pipeline"),
        (programs.loose_store, "not-pipeline"),
        (programs.recurrence, "not-pipeline"),
    ):
        sch = scheduled(program())
        i = loops(sch, "Y")[0]
        refuses(sch, code, lambda: do(sch, i))  # noqa: B023


@pytest.mark.parametrize("mark", ["parallel", "bind"])
def test_threads_and_blocks_share_no_reduction(mark: str) -> None:
    sch = scheduled(programs.row_sum())
    k = loops(sch, "Y")[1]
    refuses(sch, "feeds-reduce", lambda: MARKS[mark](sch, k), names="reduce iterator vk of block Y")


def test_lanes_combine_into_one_element() -> None:
    sch = scheduled(programs.row_sum())
    sch.vectorize(loops(sch, "Y")[1])
    prints(
        sch,
        """
        for i in range(4):
            for k in T.vectorized(7):
                with T.block("Y"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    T.reads(X[vi, vk])
                    T.writes(Y[vi])
                    with T.init():
                        Y[vi] = T.float32(0)
                    Y[vi] = Y[vi] + X[vi, vk]
    """,
    )
    keeps(programs.row_sum(), lambda s: s.vectorize(loops(s, "Y")[1]))


@pytest.mark.parametrize("mark", MARKS)
def test_marks_refuse_reductions_that_run_twice(mark: str) -> None:
    sch = scheduled(programs.reduced_halo())
    i0, _ = sch.split(loops(sch, "Y")[0], [2, 4])
    sch.compute_at("S", i0)
    refuses(sch, "not-affine", lambda: MARKS[mark](sch, i0), names="block S")


@pytest.mark.parametrize("mark", MARKS)
def test_marks_come_before_decompose_reduction(mark: str) -> None:
    sch = scheduled(programs.row_sum())
    i, k = loops(sch, "Y")
    sch.decompose_reduction("Y", k)
    with pytest.raises(ScheduleError) as caught:
        MARKS[mark](sch, i)
    assert caught.value.code in ("not-complete", "not-pipeline")


def test_a_complete_block_that_runs_twice_may_be_parallel() -> None:
    def do(s: Schedule) -> None:
        i0, i1 = s.split(loops(s, "Y")[0], [2, 4])
        s.compute_at("B", i0)
        s.parallel(i0)
        s.vectorize(i1)

    keeps(programs.halo(), do)


def test_one_loop_runs_in_one_way() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.parallel(i)
    sch.parallel(i)
    refuses(sch, "loop-kind", lambda: sch.vectorize(i), names="already parallel")
    refuses(sch, "loop-kind", lambda: sch.unroll(i), names="already parallel")
    refuses(sch, "loop-kind", lambda: sch.bind(i, "vthread"), names="already parallel")
    sch.bind(j, "threadIdx.x")
    refuses(
        sch, "loop-kind", lambda: sch.bind(j, "threadIdx.y"), names="already bound to threadIdx.x"
    )
    refuses(sch, "loop-kind", lambda: sch.parallel(j), names="threadIdx.x")
    refuses(sch, "loop-kind", lambda: sch.unroll(j), names="threadIdx.x")


def test_vectorize_needs_a_constant_extent() -> None:
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    refuses(sch, "vectorize-dynamic", lambda: sch.vectorize(j), names="i + 1")


def test_unroll_keeps_the_meaning_of_any_loop() -> None:
    keeps(programs.horner(), lambda s: [s.unroll(x) for x in loops(s, "Y")])


def test_bind_allows_cross_thread_reductions_only() -> None:
    keeps(programs.row_sum(), lambda s: s.bind(loops(s, "Y")[1], "threadIdx.x"))
    sch = scheduled(programs.row_sum())
    k = loops(sch, "Y")[1]
    refuses(sch, "feeds-reduce", lambda: sch.bind(k, "blockIdx.x"), names="vk")
    refuses(sch, "thread-axis", lambda: sch.bind(k, "threadIdx.w"), names="'threadIdx.w'")
    refuses(sch, "argument", lambda: sch.bind(k, 3), names="thread_axis")  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("inner_first", [False, True])
@pytest.mark.parametrize(
    ("axis", "extent", "names"),
    [
        ("threadIdx.x", 2, "loops i and j_0, one inside the other, on threadIdx.x need one"),
        ("threadIdx.x", 4, "loops i and j_0, one inside the other, on threadIdx.x are used"),
        ("blockIdx.y", 4, "which blocks of threads do not share"),
    ],
)
def test_bind_refuses_nested_loops_on_one_axis(
    axis: str, extent: int, names: str, inner_first: bool
) -> None:
    sch = scheduled(programs.copy2d(4, 8))
    i, j = loops(sch, "Y")
    j, _ = sch.split(j, [extent, None])
    first, second = (j, i) if inner_first else (i, j)
    sch.bind(first, axis)
    e = refuses(sch, "axis-twice", lambda: sch.bind(second, axis), names=names)
    assert "another axis" in e.hint
    sch.bind(second, "threadIdx.z")


@pytest.mark.parametrize("inner_first", [False, True])
def test_bind_looks_through_the_iterators_of_blocks(inner_first: bool) -> None:
    """Named for a bug: only the diagonal was computed."""
    sch = scheduled(programs.copy2d(4, 4))
    i, j = loops(sch, "Y")
    outer = sch.blockize(j)
    (i,), (j,) = sch.get_loops(outer), sch.get_loops("Y")[-1:]
    first, second = (j, i) if inner_first else (i, j)
    sch.bind(first, "threadIdx.x")
    names = "loops i and j, one inside the other, on threadIdx.x are used together"
    e = refuses(sch, "axis-twice", lambda: sch.bind(second, "threadIdx.x"), names=names)
    assert "another axis" in e.hint
    sch.bind(second, "threadIdx.y")


@pytest.mark.parametrize("inner_first", [False, True])
def test_bind_lets_threads_fetch_together(inner_first: bool) -> None:
    sch = scheduled(programs.tutorial())
    i, j, _ = loops(sch, "C")
    shared = sch.cache_read("C", 0, "shared")
    sch.bind(i, "blockIdx.x")
    sch.compute_at(shared, j)
    fetch = sch.get_loops(shared)[-1]
    for x in (fetch, j) if inner_first else (j, fetch):
        sch.bind(x, "threadIdx.x")
    replays(programs.tutorial(), sch)
    threads = [x for x in sch.get_loops(shared) if sch.get(x).thread == "threadIdx.x"]
    assert len(threads) == 2


def test_bind_of_loops_beside_each_other_and_of_virtual_threads() -> None:
    def do(s: Schedule) -> None:
        s.bind(loops(s, "B")[1], "threadIdx.x")
        s.bind(loops(s, "Y")[0], "threadIdx.x")

    keeps(programs.chain(), do)
    keeps(programs.copy2d(), lambda s: [s.bind(x, "vthread") for x in loops(s, "Y")])
