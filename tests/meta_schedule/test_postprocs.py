"""Postprocs: what each does to a schedule, what it leaves alone, and how refusals are reported."""

from __future__ import annotations

import pytest
from space_programs import context, linear0, matmul, row_sum, space
from test_rules import tutorial_decisions

from gputune import kernels
from gputune.errors import ScheduleError, UserError
from gputune.ir.nodes import Block, For, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.meta_schedule.postproc import (
    DisallowDynamicLoop,
    Postproc,
    PyPostproc,
    RewriteParallelVectorizeUnroll,
    RewriteReductionBlock,
    postprocess,
)
from gputune.meta_schedule.postproc.rewrite_parallel_vectorize_unroll import split_width
from gputune.schedule import Dim, Schedule
from gputune.schedule.dim import recording
from gputune.script import tir as T

AFTER = """\
sch.enter_postproc()
b27 = sch.get_block(name="root", func_name="main")
sch.unannotate(block_or_loop=b27, ann_key="meta_schedule.parallel")
sch.unannotate(block_or_loop=b27, ann_key="meta_schedule.vectorize")
sch.unannotate(block_or_loop=b27, ann_key="meta_schedule.unroll_explicit")
b28, b29 = sch.get_child_blocks(b27)
l30, l31, l32, l33, l34, l35, l36, l37, l38, l39 = sch.get_loops(block=b28)
l40 = sch.fuse(l30, l31, l32, l33, preserve_unit_iters=True)
sch.parallel(loop=l40)
l41 = sch.fuse(l39, preserve_unit_iters=True)
sch.vectorize(loop=l41)
sch.annotate(block_or_loop=l40, ann_key="pragma_auto_unroll_max_step", ann_val=16)
sch.annotate(block_or_loop=l40, ann_key="pragma_unroll_explicit", ann_val=1)
l42, l43, l44 = sch.get_loops(block=b29)
l45 = sch.fuse(l44, preserve_unit_iters=True)
sch.vectorize(loop=l45)
b46 = sch.get_block(name="C", func_name="main")
l47, l48, l49, l50, l51, l52, l53 = sch.get_loops(block=b46)
b54 = sch.decompose_reduction(block=b46, loop=l48)"""
"""The tutorial's trace after postprocessing; it notes the unroll limit on l42 a second time, which
is the loop l40 (gputune refuses to annotate twice what TVM silently ignores)."""


def loops(func: PrimFunc) -> list[tuple[str, str, int]]:
    """Name, kind and extent of each loop, in program order."""
    return [
        (s.var.name, s.kind, int(s.extent.value))  # type: ignore[union-attr]  # all are constant
        for s in walk_stmt(func.body)
        if type(s) is For
    ]


def rewritten(func: PrimFunc, **notes: int) -> Schedule:
    """The program after RewriteParallelVectorizeUnroll with these notes on the root."""
    sch = Schedule(func, seed=1, debug_mask="all")
    for key, value in notes.items():
        sch.annotate(sch.get_block("root"), f"meta_schedule.{key}", value)
    assert RewriteParallelVectorizeUnroll().apply(sch)
    return sch


def only(sch: Schedule) -> PrimFunc:
    (func,) = sch.mod.functions.values()
    return func


# ----------------------------------------------------------------------------- the tutorial
def test_matmul_ends_like_the_tutorial() -> None:
    texts = []
    for sketch in space(matmul):
        sch = tutorial_decisions(sketch)
        before = str(sch.trace)
        assert postprocess(sch, Postproc.create("llvm")) is None
        texts.append(str(sch.trace)[len(before) + 1 :])
    assert AFTER in texts


def test_the_printed_trace_replays() -> None:
    from gputune.ir.equal import structural_equal
    from gputune.schedule import Trace

    for sketch in space(matmul):
        sch = tutorial_decisions(sketch)
        assert postprocess(sch, Postproc.create("llvm")) is None
        again = Schedule(matmul)
        Trace.from_python(str(sch.trace)).apply_to_schedule(again)
        assert structural_equal(again.mod, sch.mod)


def test_a_program_scheduled_by_hand_is_left_alone() -> None:
    sch = Schedule(matmul, seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    j0, j1 = sch.split(j, [None, 4])
    sch.reorder(i, j0, k, j1)
    sch.decompose_reduction(block, k)
    before = sch.mod
    assert postprocess(sch, Postproc.create("llvm")) is None
    assert sch.mod is before
    assert str(sch.trace).endswith("\nsch.enter_postproc()")


# ----------------------------------------------------------------------------- dynamic loops
def test_dynamic_loops_are_refused() -> None:
    @T.prim_func
    def dynamic(a: T.handle, b: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        B = T.match_buffer(b, (n,), "float32")
        for i in range(n):
            with T.block("B"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi]

    p = DisallowDynamicLoop()
    assert not p.apply(Schedule(dynamic))
    assert p.last_error is not None
    assert p.last_error.code == "dynamic-loop"
    assert "loop i in function dynamic" in p.last_error.message
    assert p.apply(Schedule(matmul))


# ----------------------------------------------------------------------------- parallel
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [("i_fused", "parallel", 4), ("j", "serial", 8)]),
        (4, [("i_j_fused", "parallel", 32)]),  # 4 is not above 4: one loop more
        (100, [("i_j_fused", "parallel", 32)]),  # no more spatial loops
    ],
)
def test_parallel_fuses_up_to_the_first_product_above_the_limit(
    limit: int, expected: list[tuple[str, str, int]]
) -> None:
    @T.prim_func
    def sums(A: T.Buffer((4, 8, 6), "float32"), S: T.Buffer((4, 8), "float32")):
        for i, j, k in T.grid(4, 8, 6):
            with T.block("S"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    S[vi, vj] = T.float32(0)
                S[vi, vj] = S[vi, vj] + A[vi, vj, vk]

    assert loops(only(rewritten(sums, parallel=limit))) == [*expected, ("k", "serial", 6)]


def test_parallel_stops_at_a_loop_with_several_children() -> None:
    sch = Schedule(linear0, seed=1)
    y, z = sch.get_block("Y"), sch.get_block("Z")
    j0, _ = sch.split(sch.get_loops(y)[1], [32, 4])
    sch.reverse_compute_at(z, j0)
    sch.annotate(sch.get_block("root"), "meta_schedule.parallel", 1000)
    assert RewriteParallelVectorizeUnroll().apply(sch)
    found = loops(only(sch))
    assert found[0] == ("i_j_0_fused", "parallel", 32)
    assert [k for _, k, _ in found[1:]] == ["serial"] * (len(found) - 1)


def test_a_reduction_loop_outside_is_not_parallel() -> None:
    sch = Schedule(row_sum, seed=1)
    i, k = sch.get_loops(sch.get_block("S"))
    sch.reorder(k, i)
    sch.annotate(sch.get_block("root"), "meta_schedule.parallel", 1000)
    assert RewriteParallelVectorizeUnroll().apply(sch)
    assert [kind for _, kind, _ in loops(only(sch))] == ["serial", "serial"]


def test_halo_recomputed_under_a_parallel_loop_stays_parallel() -> None:
    @T.prim_func
    def stencil(A: T.Buffer((18,), "float32"), C: T.Buffer((16,), "float32")):
        B = T.alloc_buffer((18,), "float32")
        for i in range(18):
            with T.block("B"):
                vi = T.axis.spatial(18, i)
                B[vi] = A[vi] * T.float32(2)
        for i in range(16):
            with T.block("C"):
                vi = T.axis.spatial(16, i)
                C[vi] = B[vi] + B[vi + 1] + B[vi + 2]

    sch = Schedule(stencil, seed=1, debug_mask="all")
    outer, _ = sch.split(sch.get_loops(sch.get_block("C"))[0], [4, 4])
    sch.compute_at(sch.get_block("B"), outer)
    sch.annotate(sch.get_block("root"), "meta_schedule.parallel", 4)
    assert RewriteParallelVectorizeUnroll().apply(sch)
    assert loops(only(sch))[0] == ("i_0_fused", "parallel", 4)


def test_what_may_not_run_in_parallel_stays_serial() -> None:
    @T.prim_func
    def twice(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("first"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi]
        for i in range(8):
            with T.block("second"):  # two writers: no stage pipeline
                vi = T.axis.spatial(8, i)
                B[vi] = B[vi] + T.float32(1)

    sch = rewritten(twice, parallel=16, vectorize=64)
    assert {kind for _, kind, _ in loops(only(sch))} == {"serial"}


# ----------------------------------------------------------------------------- vectors
def elementwise(shape: tuple[int, int]) -> PrimFunc:
    m, n = shape

    @T.prim_func
    def double(A: T.Buffer((m, n), "float32"), B: T.Buffer((m, n), "float32")):
        for i, j in T.grid(m, n):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] * T.float32(2)

    return double


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((40, 32), [("i_fused", "parallel", 40), ("j_fused", "vectorized", 32)]),
        ((40, 48), [("i_fused", "parallel", 40), ("j_fused", "vectorized", 48)]),
        # longer than the limit: split
        (
            (40, 96),
            [("i_fused", "parallel", 40), ("j_0", "serial", 2), ("j_1", "vectorized", 48)],
        ),
        # the row leaves lanes empty: the whole nest is one vector loop
        (
            (64, 3),
            [("i_j_fused_0", "parallel", 3), ("i_j_fused_1", "vectorized", 64)],
        ),
        ((64, 101), [("i_j_fused_0", "parallel", 101), ("i_j_fused_1", "vectorized", 64)]),
        # rows that go on in memory: both fit
        ((4, 8), [("i_j_fused", "vectorized", 32)]),
        # a prime: the last vector has a predicate
        ((1, 101), [("i_j_fused_0", "parallel", 2), ("i_j_fused_1", "vectorized", 64)]),
    ],
)
def test_vectors_of_elementwise_programs(
    shape: tuple[int, int], expected: list[tuple[str, str, int]]
) -> None:
    assert loops(only(rewritten(elementwise(shape), parallel=16, vectorize=64))) == expected


def test_a_transposed_load_is_no_vector() -> None:
    @T.prim_func
    def transpose(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16, 16), "float32")):
        for i, j in T.grid(16, 16):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vj, vi]

    assert {k for _, k, _ in loops(only(rewritten(transpose, vectorize=64)))} == {"serial"}


def test_a_row_that_is_broadcast_is_not_fused_with_the_next() -> None:
    @T.prim_func
    def bias(
        A: T.Buffer((8, 4), "float32"), b: T.Buffer((4,), "float32"), B: T.Buffer((8, 4), "float32")
    ):
        for i, j in T.grid(8, 4):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] + b[vj]

    found = loops(only(rewritten(bias, vectorize=64)))
    assert found == [("i", "serial", 8), ("j_fused", "vectorized", 4)]


def test_a_group_of_channels_reads_one_element_for_all_of_a_vector() -> None:
    """Named for a bug: grouped convolutions were never vectorised, since the channel that a
    group reads is a quotient."""

    @T.prim_func
    def grouped(
        A: T.Buffer((4, 16), "float32"), W: T.Buffer((16, 128), "float32"),
        B: T.Buffer((128,), "float32"),
    ):  # fmt: skip
        for f, k in T.grid(128, 16):
            with T.block("B"):
                vf, vk = T.axis.remap("SR", [f, k])
                with T.init():
                    B[vf] = T.float32(0)
                B[vf] = B[vf] + A[vf // 32, vk] * W[vk, vf]

    def kinds(*factors: int) -> list[str]:
        sch = Schedule(grouped, seed=1, debug_mask="all")
        f, k = sch.get_loops("B")
        f0, f1, f2 = sch.split(f, [None, *factors])
        sch.reorder(f0, f1, k, f2)
        sch.annotate("root", "meta_schedule.vectorize", 64)
        assert RewriteParallelVectorizeUnroll().apply(sch)
        return [kind for _, kind, _ in loops(only(sch))]

    assert kinds(2, 16) == ["serial", "serial", "serial", "vectorized"]
    assert kinds(1, 32) == ["serial", "serial", "serial", "vectorized"]
    assert "vectorized" not in kinds(1, 64)  # two groups
    assert "vectorized" not in kinds(4, 12)  # begins anywhere in a group


def test_the_spatial_loop_of_column_sums_goes_innermost() -> None:
    @T.prim_func
    def columns(A: T.Buffer((8, 96), "float32"), S: T.Buffer((96,), "float32")):
        for j, k in T.grid(96, 8):
            with T.block("S"):
                vj, vk = T.axis.remap("SR", [j, k])
                with T.init():
                    S[vj] = T.float32(0)
                S[vj] = S[vj] + A[vk, vj]

    found = loops(only(rewritten(columns, parallel=16, vectorize=64)))
    assert found == [
        ("j_0_fused", "parallel", 2),
        ("k", "serial", 8),
        ("j_1_fused", "vectorized", 48),
    ]


def test_a_loop_that_combines_neighbours_into_one_becomes_a_vector() -> None:
    assert loops(only(rewritten(row_sum, parallel=16, vectorize=64))) == [
        ("i_fused", "parallel", 4),
        ("k", "vectorized", 64),
    ]
    # more than four vectors take; two loops that reduce; elements that do not lie side by side; and
    # the first of equals, which is a matter of order
    assert {k for _, k, _ in loops(only(rewritten(row_sum, vectorize=15)))} == {"serial"}
    for kernel, shape in (("norm", {"b": 2, "m": 4, "n": 8}), ("argmax", {"m": 4, "n": 8})):
        func = kernels.get(kernel).build(**shape)
        kinds = {n: k for n, k, _ in loops(only(rewritten(func, vectorize=64)))}
        assert kinds["j"] == "serial", kernel

    @T.prim_func
    def columns(A: T.Buffer((8, 4, 3), "float32"), S: T.Buffer((4, 3), "float32")):
        for j, c, k in T.grid(4, 3, 8):
            with T.block("S"):
                vj, vc, vk = T.axis.remap("SSR", [j, c, k])
                with T.init():
                    S[vj, vc] = T.float32(0)
                S[vj, vc] = S[vj, vc] + A[vk, vc, vj]

    assert {k for _, k, _ in loops(only(rewritten(columns, vectorize=64)))} == {"serial"}


def test_vector_widths() -> None:
    for n, width in ((128, 64), (96, 48), (112, 16), (1000, 40), (72, 24), (98, 64), (101, 64)):
        assert split_width(n, 64) == width
        with recording() as guards:
            sampled = int(split_width(Dim(n, "a"), 64))
        assert sampled == width
        assert not guards  # a width is no reason for a structure class
    for n in range(65, 2000):
        widths = [*range(64, 0, -16), *range(56, 0, -16)]
        assert split_width(n, 64) == next((w for w in widths if n % w == 0), 64)
    assert [split_width(n, 128) for n in (384, 640, 1000, 131)] == [128, 128, 40, 128]
    assert [split_width(24, limit) for limit in (1, 4, 8, 12, 16)] == [1, 4, 8, 8, 8]


# ----------------------------------------------------------------------------- unrolling
def test_unrolling_is_noted_once_on_nests_that_reduce() -> None:
    sch = rewritten(linear0, unroll_explicit=16)
    found = [
        dict(s.annotations) for s in walk_stmt(only(sch).body) if type(s) is For and s.annotations
    ]
    assert found == [{"pragma_auto_unroll_max_step": 16, "pragma_unroll_explicit": 1}]
    sch = rewritten(linear0, unroll_implicit=0)
    found = [
        dict(s.annotations) for s in walk_stmt(only(sch).body) if type(s) is For and s.annotations
    ]
    assert found == [{"pragma_auto_unroll_max_step": 0, "pragma_unroll_explicit": 0}]


def test_notes_are_taken_off_the_root() -> None:
    sch = rewritten(matmul, parallel=4, vectorize=4, unroll_explicit=4)
    assert not only(sch).body.annotations


# ----------------------------------------------------------------------------- reductions
def blocks(sch: Schedule) -> set[str]:
    return {s.name for s in walk_stmt(only(sch).body) if type(s) is Block}


def test_reductions_are_decomposed_at_the_loop_that_drives_them() -> None:
    sch = Schedule(matmul, seed=1, debug_mask="all")
    assert RewriteReductionBlock().apply(sch)
    assert blocks(sch) == {"root", "C_init", "C_update"}
    assert [n for n, _, _ in loops(only(sch))] == ["i", "j", "k"]


def test_all_reductions_are_decomposed() -> None:
    @T.prim_func
    def two(
        A: T.Buffer((4, 8), "float32"), S: T.Buffer((4,), "float32"), R: T.Buffer((4,), "float32")
    ):
        for i, k in T.grid(4, 8):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = S[vi] + A[vi, vk]
        for i, k in T.grid(4, 8):
            with T.block("R"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    R[vi] = T.float32(1)
                R[vi] = R[vi] * A[vi, vk]

    sch = Schedule(two, seed=1)
    assert RewriteReductionBlock().apply(sch)
    assert blocks(sch) == {"root", "S_init", "S_update", "R_init", "R_update"}


def test_a_reduction_run_again_is_initialised_again() -> None:
    """S is computed once for each iteration of the loop of its consumer, which it does not use."""

    @T.prim_func
    def normalise(A: T.Buffer((4, 8), "float32"), D: T.Buffer((4, 8), "float32")):
        S = T.alloc_buffer((4,), "float32")
        for i, k in T.grid(4, 8):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = S[vi] + A[vi, vk]
        for i, j in T.grid(4, 8):
            with T.block("D"):
                vi, vj = T.axis.remap("SS", [i, j])
                D[vi, vj] = A[vi, vj] / S[vi]

    sch = Schedule(normalise, seed=1)
    sch.compute_at(sch.get_block("S"), sch.get_loops(sch.get_block("D"))[1])
    assert RewriteReductionBlock().apply(sch)
    init = [sch.get(x).var.name for x in sch.get_loops(sch.get_block("S_init"))]
    assert init[:2] == ["i", "j"]


def test_reductions_shared_by_threads_keep_their_init() -> None:
    sch = Schedule(row_sum, seed=1)
    sch.bind(sch.get_loops(sch.get_block("S"))[1], "threadIdx.x")
    assert RewriteReductionBlock().apply(sch)
    assert blocks(sch) == {"root", "S"}


def test_a_tuple_reduction_is_decomposed() -> None:
    from gputune import kernels

    func = kernels.get("argmax").build(**kernels.get("argmax").check_shapes[0])
    sch = Schedule(func, seed=1, debug_mask="all")
    inits = [s for s in walk_stmt(func.body) if type(s) is Block and s.init is not None]
    assert inits
    assert RewriteReductionBlock().apply(sch)
    assert not [s for s in walk_stmt(only(sch).body) if type(s) is Block and s.init is not None]


# ----------------------------------------------------------------------------- refusals
def test_postprocess_reports_the_first_refusal() -> None:
    class Refuses(PyPostproc):
        def apply(self, sch: Schedule) -> bool:
            return False

    class Raises(PyPostproc):
        def apply(self, sch: Schedule) -> bool:
            sch.get_block("nowhere")
            return True

    error = postprocess(Schedule(matmul), [Refuses(), Raises()])
    assert isinstance(error, ScheduleError)
    assert error.message == "Refuses: refused the schedule"
    raises = Raises()
    error = postprocess(Schedule(matmul), [raises])
    assert error is not None
    assert error.code == "no-block"
    assert error.message.startswith("Raises: get_block: no block named 'nowhere'")
    assert raises.last_error is error


def test_default_list_of_llvm() -> None:
    kinds = [type(p).__name__ for p in Postproc.create("llvm")]
    assert kinds == [
        "DisallowDynamicLoop",
        "RewriteParallelVectorizeUnroll",
        "RewriteReductionBlock",
        "RewriteLayout",
    ]
    with pytest.raises(UserError, match="llvm"):
        Postproc.create("metal")
    ctx = context(matmul)
    for p in Postproc.create("llvm"):
        p.initialize_with_tune_context(ctx)
        assert type(p.clone()) is type(p)
