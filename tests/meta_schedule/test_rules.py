"""Schedule rules: what each makes of a program it is for, and that it leaves others alone."""

from __future__ import annotations

import pytest
from space_programs import apply_rule, chain, context, linear0, matmul, row_sum, space

from gputune.errors import UserError
from gputune.ir.nodes import Block, For
from gputune.ir.walk import walk_stmt
from gputune.meta_schedule.schedule_rule import (
    AddRFactor,
    ApplyCustomRule,
    AutoInline,
    InlineConstantScalars,
    MultiLevelTiling,
    ParallelizeVectorizeUnroll,
    PyScheduleRule,
    RandomComputeLocation,
    ReuseType,
    ScheduleRule,
    register_schedule_rule,
)
from gputune.schedule import Schedule
from gputune.script import tir as T

LLVM_INLINE = {
    "into_producer": False,
    "into_consumer": True,
    "inline_const_tensor": True,
    "disallow_if_then_else": True,
    "require_injective": True,
    "require_ordered": True,
    "disallow_op": ["exp"],
}

MATMUL_TRACE = """\
b0 = sch.get_block(name="C", func_name="main")
b1 = sch.get_block(name="root", func_name="main")
sch.annotate(block_or_loop=b0, ann_key="meta_schedule.tiling_structure", ann_val="SSRSRS")
l2, l3, l4 = sch.get_loops(block=b0)
v5, v6, v7, v8 = sch.sample_perfect_tile(loop=l2, n=4, max_innermost_factor=64, decision=[4, 1, 32, 1])
l9, l10, l11, l12 = sch.split(loop=l2, factors=[v5, v6, v7, v8], preserve_unit_iters=True)
v13, v14, v15, v16 = sch.sample_perfect_tile(loop=l3, n=4, max_innermost_factor=64, decision=[4, 1, 8, 4])
l17, l18, l19, l20 = sch.split(loop=l3, factors=[v13, v14, v15, v16], preserve_unit_iters=True)
v21, v22 = sch.sample_perfect_tile(loop=l4, n=2, max_innermost_factor=64, decision=[64, 2])
l23, l24 = sch.split(loop=l4, factors=[v21, v22], preserve_unit_iters=True)
sch.reorder(l9, l17, l10, l18, l23, l11, l19, l24, l12, l20)
b25 = sch.cache_write(block=b0, write_buffer_index=0, storage_scope="global")
sch.reverse_compute_at(block=b25, loop=l18, preserve_unit_loops=True)
sch.annotate(block_or_loop=b1, ann_key="meta_schedule.parallel", ann_val=16)
sch.annotate(block_or_loop=b1, ann_key="meta_schedule.vectorize", ann_val=64)
v26 = sch.sample_categorical(candidates=[0, 16, 64, 512], probs=[0.25, 0.25, 0.25, 0.25], decision=1)
sch.annotate(block_or_loop=b1, ann_key="meta_schedule.unroll_explicit", ann_val=v26)"""  # noqa: E501
"""The tutorial's trace up to `enter_postproc`."""

TUTORIAL = {5: [4, 1, 32, 1], 13: [4, 1, 8, 4], 21: [64, 2], 26: 1}


def tutorial_decisions(sch: Schedule) -> Schedule:
    """The sketch with the tutorial's decisions."""
    given = iter(TUTORIAL.values())
    new = Schedule(matmul, seed=1, debug_mask="all")
    sch.trace.apply_to_schedule(new, decision_provider=lambda i, x, a, d: next(given))
    return new


def names(sch: Schedule) -> set[str]:
    """The names of the blocks of the (only) function."""
    (func,) = sch.mod.functions.values()
    return {s.name for s in walk_stmt(func.body) if type(s) is Block}


# ----------------------------------------------------------------------------- golden traces
def test_matmul_has_the_sketch_of_the_tutorial() -> None:
    found = [
        str(tutorial_decisions(s).trace) for s in space(matmul) if "cache_write" in str(s.trace)
    ]
    assert len(found) == 2
    assert MATMUL_TRACE in found
    outer = MATMUL_TRACE.replace("loop=l18, preserve_unit_loops", "loop=l17, preserve_unit_loops")
    assert outer in found


def test_matmul_without_a_cache_is_the_third_sketch() -> None:
    assert len(space(matmul)) == 3
    (plain,) = [s for s in space(matmul) if "cache_write" not in str(s.trace)]
    lines = str(tutorial_decisions(plain).trace).splitlines()
    assert lines[:11] == MATMUL_TRACE.splitlines()[:11]
    assert len(lines) == 15


def test_linear0_uses_the_bias_as_its_write_cache() -> None:
    sketches = [s for s in space(linear0) if "rfactor" not in str(s.trace)]
    assert len(sketches) == 3
    moved = [s for s in sketches if "reverse_compute_at" in str(s.trace)]
    assert len(moved) == 2
    for s in moved:
        text = str(s.trace)
        assert text.startswith('b0 = sch.get_block(name="Y", func_name="linear0")\nb1 = ')
        assert ", = sch.get_consumers(block=b0)\n" in text
        assert "cache_write" not in text
        assert names(s) == {"root", "Y", "Z"}


def test_same_seed_same_sketches() -> None:
    assert [str(s.trace) for s in space(matmul)] == [str(s.trace) for s in space(matmul)]
    assert str(space(matmul)[0].trace) != str(space(matmul, seed=8)[0].trace)


# ----------------------------------------------------------------------------- inlining
def test_auto_inline_moves_a_plain_block_and_keeps_a_dear_one() -> None:
    (sch,) = apply_rule(AutoInline(**LLVM_INLINE), chain, "B")
    assert names(sch) == {"root", "C", "S", "D"}
    (sch,) = apply_rule(AutoInline(**LLVM_INLINE), chain, "C")
    assert "C" in names(sch)
    (sch,) = apply_rule(AutoInline(**{**LLVM_INLINE, "disallow_op": None}), chain, "C")
    assert "C" not in names(sch)


@pytest.mark.parametrize("block", ["S", "D", "root"])
def test_auto_inline_leaves_reductions_outputs_and_the_root(block: str) -> None:
    (sch,) = apply_rule(AutoInline(**LLVM_INLINE), chain, block)
    assert names(sch) == {"root", "B", "C", "S", "D"}


def test_auto_inline_obeys_an_annotation() -> None:
    sch = Schedule(chain, seed=1)
    sch.annotate(sch.get_block("B"), "meta_schedule.inline_rule", "disable")
    (out,) = AutoInline(**LLVM_INLINE).apply(sch, sch.get_block("B"))
    assert "B" in names(out)


@T.prim_func
def transposed(A: T.Buffer((8, 8), "float32"), S: T.Buffer((8,), "float32")):
    B = T.alloc_buffer((8, 8), "float32")
    P = T.alloc_buffer((10, 8), "float32")
    for i, j in T.grid(8, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vj, vi]
    for i, j in T.grid(10, 8):
        with T.block("P"):
            vi, vj = T.axis.remap("SS", [i, j])
            P[vi, vj] = T.if_then_else(vi >= 1 and vi < 9, B[vi - 1, vj], T.float32(0))
    for i, j in T.grid(8, 8):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + P[vi + 1, vj]


@pytest.mark.parametrize(
    ("block", "setting"), [("B", "require_ordered"), ("P", "disallow_if_then_else")]
)
def test_auto_inline_settings(block: str, setting: str) -> None:
    (kept,) = apply_rule(AutoInline(**LLVM_INLINE), transposed, block)
    assert block in names(kept)
    loose = {**LLVM_INLINE, "require_injective": False, setting: False}
    (gone,) = apply_rule(AutoInline(**loose), transposed, block)
    assert block not in names(gone)


def test_auto_inline_into_the_producer() -> None:
    both = {**LLVM_INLINE, "into_producer": True, "into_consumer": False, "disallow_op": None}
    (sch,) = apply_rule(AutoInline(**both), chain, "C")
    assert names(sch) == {"root", "B", "S", "D"}
    (sch,) = apply_rule(AutoInline(**both), linear0, "Z")  # its producer is a reduction
    assert names(sch) == {"root", "Y", "Z"}


@T.prim_func
def scalars(A: T.Buffer((4,), "float32"), C: T.Buffer((4,), "float32"), R: T.Buffer((), "float32")):
    s = T.alloc_buffer((), "float32")
    with T.block("s"):
        s[()] = T.float32(3)
    with T.block("R"):
        R[()] = T.float32(1)
    for i in range(4):
        with T.block("C"):
            vi = T.axis.spatial(4, i)
            C[vi] = A[vi] * s[()]


def test_inline_constant_scalars() -> None:
    (sch,) = apply_rule(InlineConstantScalars(), scalars, "s")
    assert names(sch) == {"root", "R", "C"}
    for block in ("R", "C"):  # an output; one that reads
        (sch,) = apply_rule(InlineConstantScalars(), scalars, block)
        assert names(sch) == {"root", "s", "R", "C"}


# ----------------------------------------------------------------------------- reductions
def test_add_rfactor_offers_both_parts_of_the_split() -> None:
    out = apply_rule(AddRFactor(16, 64), row_sum, "S")
    assert len(out) == 3
    assert [("S_rf" in names(s)) for s in out] == [False, True, True]
    for s in out[1:]:
        text = str(s.trace)
        assert "max_innermost_factor=64" in text
        assert 'ann_key="meta_schedule.random_compute_producer", ann_val=1' in text


def test_add_rfactor_needs_a_narrow_reduction() -> None:
    assert len(apply_rule(AddRFactor(16, 64), matmul, "C")) == 1  # wider than it is deep
    assert len(apply_rule(AddRFactor(16, 64), linear0, "Y", cores=1)) == 1  # wide enough
    assert len(apply_rule(AddRFactor(16, 64), linear0, "Y", cores=8)) == 3  # not for so many cores
    assert len(apply_rule(AddRFactor(16, 64), linear0, "Z")) == 1  # no reduction


def test_add_rfactor_takes_reductions_of_several_values() -> None:
    """Of both parts where the index tells the order of the elements; else of the outer one."""

    @T.prim_func
    def greatest(
        A: T.Buffer((4, 6, 8), "float32"),
        J: T.Buffer((4,), "int32"),
        V: T.Buffer((4,), "float32"),
    ):
        for i, h, w in T.grid(4, 6, 8):
            with T.block("V"):
                vi, vh, vw = T.axis.remap("SRR", [i, h, w])
                with T.init():
                    J[vi] = -1
                    V[vi] = T.min_value("float32")
                J[vi] = T.Select(A[vi, vh, vw] > V[vi], vh * 8 + vw, J[vi])
                V[vi] = T.max(A[vi, vh, vw], V[vi])

    @T.prim_func
    def column(
        A: T.Buffer((4, 8), "float32"),
        P: T.Buffer((4, 8), "float32"),
        J: T.Buffer((4,), "float32"),
        V: T.Buffer((4,), "float32"),
    ):
        for i, k in T.grid(4, 8):
            with T.block("V"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    J[vi] = T.float32(-1)
                    V[vi] = T.min_value("float32")
                J[vi] = T.Select(A[vi, vk] > V[vi], P[vi, vk], J[vi])
                V[vi] = T.max(A[vi, vk], V[vi])

    out = apply_rule(AddRFactor(16, None), greatest, "V")
    assert [("V_rf" in names(s)) for s in out] == [False, True, True]
    out = apply_rule(AddRFactor(16, None), column, "V")
    assert [("V_rf" in names(s)) for s in out] == [False, True]


def test_add_rfactor_fuses_all_reduction_loops_behind_the_spatial_ones() -> None:
    @T.prim_func
    def norm(A: T.Buffer((6, 4, 8), "float32"), S: T.Buffer((4,), "float32")):
        for k, i, r in T.grid(6, 4, 8):
            with T.block("S"):
                vk, vi, vr = T.axis.remap("RSR", [k, i, r])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = S[vi] + A[vk, vi, vr]

    out = apply_rule(AddRFactor(16, None), norm, "S")
    assert len(out) == 3
    assert "sch.reorder(l2, l1, l3)" in str(out[1].trace)
    assert "sch.fuse(l1, l3" in str(out[1].trace)


# ----------------------------------------------------------------------------- tiling
WRITE = ReuseType("may", [1, 2], "global")


def test_multi_level_tiling_leaves_what_has_no_reuse() -> None:
    for func, block in ((row_sum, "S"), (chain, "B"), (chain, "S"), (linear0, "Z")):
        (sch,) = apply_rule(MultiLevelTiling("SSRSRS", reuse_write=WRITE), func, block)
        assert len(sch.trace.insts) == 1


def test_multi_level_tiling_is_done_once() -> None:
    rule = MultiLevelTiling("SSRSRS", max_innermost_factor=64)
    (once,) = apply_rule(rule, matmul, "C")
    again = once.copy()
    (twice,) = rule.apply(again, again.get_block("C"))
    assert str(twice.trace).count("split") == 3


def test_multi_level_tiling_filter_replaces_the_test() -> None:
    rule = MultiLevelTiling("SRS", filter_fn=lambda sch, block: sch.get(block).name == "S")
    (sch,) = apply_rule(rule, row_sum, "S")
    assert "tiling_structure" in str(sch.trace)
    (sch,) = apply_rule(rule, matmul, "C")
    assert "tiling_structure" not in str(sch.trace)


def test_multi_level_tiling_pairs_loops_with_iterators_by_what_they_feed() -> None:
    sch = Schedule(matmul, seed=1, debug_mask="all")
    i, j, k = sch.get_loops(sch.get_block("C"))
    sch.reorder(k, j, i)
    (out,) = MultiLevelTiling("SRS").apply(sch, sch.get_block("C"))
    kinds = [out.get(x).var.name[0] for x in out.get_loops(out.get_block("C"))]
    assert kinds == ["j", "i", "k", "j", "i"]


def test_multi_level_tiling_of_a_gpu() -> None:
    rule = MultiLevelTiling(
        "SSSRRSRS",
        tile_binds=["blockIdx.x", "vthread.x", "threadIdx.x"],
        max_innermost_factor=64,
        vector_load_lens=[1, 2, 3, 4, 8, 16],
        reuse_read={"req": "must", "levels": [4], "scope": "shared"},
        reuse_write={"req": "must", "levels": [3], "scope": "local"},
    )
    (sch,) = apply_rule(rule, matmul, "C")
    text = str(sch.trace)
    for axis in ("blockIdx.x", "vthread.x", "threadIdx.x"):
        assert f'thread_axis="{axis}"' in text
    assert text.count("sch.cache_read(") == 2
    assert 'storage_scope="local"' in text
    # 16 bytes at once: up to four float32
    assert text.count("sample_categorical(candidates=[1, 2, 3, 4], ") == 2
    assert text.count('ann_key="meta_schedule.cooperative_fetch"') == 2
    (root,) = sch.mod.functions.values()
    bound = [s.thread for s in walk_stmt(root.body) if type(s) is For and s.thread]
    assert bound == ["blockIdx.x", "vthread.x", "threadIdx.x"]


def test_write_cache_levels_can_be_asked_for() -> None:
    sch = Schedule(matmul, seed=1)
    sch.annotate(sch.get_block("C"), "meta_schedule.write_cache_level", [2])
    out = MultiLevelTiling("SSRSRS", reuse_write=WRITE).apply(sch, sch.get_block("C"))
    assert len(out) == 1
    assert "cache_write" in str(out[0].trace)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiLevelTiling("SSX"), "made of S and R"),
        (lambda: MultiLevelTiling(""), "made of S and R"),
        (lambda: MultiLevelTiling("SRS", tile_binds=["blockIdx.x", "threadIdx.x"]), "thread axes"),
        (lambda: MultiLevelTiling("SRS", reuse_write=ReuseType("may", [4], "global")), "level 4"),
        (lambda: MultiLevelTiling("SRS", reuse_read=ReuseType("may", [1], "shared")), "read cache"),
        (lambda: ReuseType("perhaps", [1], "global"), "'perhaps'"),  # type: ignore[arg-type]
        (lambda: ReuseType("must", [], "global"), "at least one"),
        (lambda: ReuseType("must", [0], "global"), "counted from 1"),
    ],
)
def test_settings_that_make_no_sense(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


# ----------------------------------------------------------------------------- the other rules
def test_parallelize_vectorize_unroll_notes_on_the_root_only() -> None:
    rule = ParallelizeVectorizeUnroll(16, 64, [0, 16], True)
    (sch,) = apply_rule(rule, matmul, "root", cores=4)
    notes = dict(sch.mod["main"].body.annotations)
    assert notes["meta_schedule.parallel"] == 64
    assert notes["meta_schedule.vectorize"] == 64
    assert notes["meta_schedule.unroll_explicit"] in (0, 16)
    (sch,) = apply_rule(rule, matmul, "C")
    assert len(sch.trace.insts) == 1


def test_parallelize_vectorize_unroll_can_leave_things_out() -> None:
    (sch,) = apply_rule(ParallelizeVectorizeUnroll(-1, -1, [8], False), matmul, "root")
    assert dict(sch.mod["main"].body.annotations) == {"meta_schedule.unroll_implicit": 8}


def test_no_unrolling_where_there_is_no_reduction() -> None:
    @T.prim_func
    def copy(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi]

    (sch,) = apply_rule(ParallelizeVectorizeUnroll(16, 64, [0, 16], True), copy, "root")
    assert "unroll" not in str(sch.trace)


def test_random_compute_location() -> None:
    (sch,) = apply_rule(RandomComputeLocation(), chain, "C")
    assert "sample_compute_location" in str(sch.trace)
    for block in ("D", "root"):  # nobody reads it; the root
        (sch,) = apply_rule(RandomComputeLocation(), chain, block)
        assert len(sch.trace.insts) == 1


def test_random_compute_location_moves_partial_results_too() -> None:
    _, *factored = apply_rule(AddRFactor(16, 64), row_sum, "S")
    for sch in factored:
        (out,) = RandomComputeLocation().apply(sch, sch.get_block("S"))
        text = str(out.trace)
        assert ', ann_key="meta_schedule.random_compute_producer")' in text  # taken off again
        assert text.count("sample_compute_location") == 1  # S itself has no consumer


def test_random_compute_location_leaves_tiled_blocks() -> None:
    (sch,) = apply_rule(MultiLevelTiling("SRS"), linear0, "Y")
    (out,) = RandomComputeLocation().apply(sch, sch.get_block("Y"))
    assert "sample_compute_location" not in str(out.trace)


def test_custom_rules_are_found_by_name_and_shield_the_block() -> None:
    @register_schedule_rule("meta_schedule.cpu.test_split", override=True)
    def split_i(sch: Schedule, block: object) -> list[Schedule]:
        sch.split(sch.get_loops(block)[0], [2, None])  # type: ignore[arg-type]
        return [sch]

    marked = Schedule(matmul, seed=1)
    marked.annotate(marked.get_block("C"), "schedule_rule", "test_split")
    (sch,) = space(marked.mod)
    assert str(sch.trace).count("sch.split(") == 1
    assert "tiling_structure" not in str(sch.trace)


def test_custom_rule_that_is_missing_names_what_was_tried() -> None:
    marked = Schedule(matmul, seed=1)
    marked.annotate(marked.get_block("C"), "schedule_rule", "nowhere")
    with pytest.raises(
        UserError, match=r"meta_schedule\.cpu\.nowhere, meta_schedule\.llvm\.nowhere, nowhere"
    ):
        space(marked.mod)


def test_custom_rule_none_leaves_the_block_alone() -> None:
    marked = Schedule(matmul, seed=1)
    marked.annotate(marked.get_block("C"), "schedule_rule", "None")
    (sch,) = space(marked.mod)
    assert "split" not in str(sch.trace)


def test_a_taken_name_and_a_wrong_result_are_refused() -> None:
    register_schedule_rule("test_wrong", override=True)(lambda sch, block: 5)
    with pytest.raises(UserError, match="there already"):
        register_schedule_rule("test_wrong")(lambda sch, block: [sch])
    sch = Schedule(matmul, seed=1)
    sch.annotate(sch.get_block("C"), "schedule_rule", "test_wrong")
    with pytest.raises(UserError, match="returned int"):
        ApplyCustomRule().apply(sch, sch.get_block("C"))


# ----------------------------------------------------------------------------- lists
def test_default_list_of_llvm() -> None:
    kinds = [type(r).__name__ for r in ScheduleRule.create("llvm")]
    assert kinds == [
        "ApplyCustomRule", "InlineConstantScalars", "AutoInline", "FuseRows",
        "CrossLaneReduction", "AddRFactor", "ColumnReduction", "TransposedOperand",
        "TransposingCopy", "MultiLevelTiling",
        "ParallelizeVectorizeUnroll", "RandomComputeLocation",
    ]  # fmt: skip
    a, b = ScheduleRule.create("llvm"), ScheduleRule.create("llvm")
    assert not set(map(id, a)) & set(map(id, b))


@pytest.mark.parametrize("kind", ["rocm", "lvm"])
def test_kinds_without_rules_name_those_with(kind: str) -> None:
    with pytest.raises(UserError, match="llvm"):
        ScheduleRule.create(kind)


def test_users_write_rules_by_inheriting() -> None:
    class Twice(PyScheduleRule):
        def _initialize_with_tune_context(self, context: object) -> None:
            self.seen = context

        def apply(self, sch, block):  # type: ignore[no-untyped-def]
            return [sch, sch.copy()]

    rule = Twice()
    ctx = context(row_sum)
    rule.initialize_with_tune_context(ctx)
    assert rule.seen is ctx
    assert type(rule.clone()) is Twice
    assert len(apply_rule(rule, row_sum, "S")) == 2
    with pytest.raises(TypeError, match="abstract"):
        ScheduleRule()  # type: ignore[abstract]
