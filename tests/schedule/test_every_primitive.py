# ruff: noqa: E501 - golden programs are printed as they are
"""Has every primitive a test of what it prints, one of what it computes, and one of each refusal?

`GOLDEN` names the test that compares a program, or what a getter gives, before and after; `SCENES`
does each primitive to a program that a wrong step would make compute something else. Which tests
meet which refusal is not written down but found out: see `test_every_place_that_refuses_is_met`.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.schedule import KINDS, Schedule
from gputune.schedule.codes import all_sites
from gputune.script import tir as T
from tests.properties.on_the_host import check_on_the_host as check

from . import schedule_programs as programs
from .everywhere import same_everywhere
from .schedule_helpers import keeps, loops, prints, scheduled
from .tensor_programs import u8_matmul
from .test_cache_index import resize
from .test_rolling import rolled

HERE = Path(__file__).parent

OURS = {k: kind for k, kind in KINDS.items() if kind.fn.__module__.startswith("gputune.")}


# ----------------------------------------------------------------------------- numbers
def _located(s: Schedule) -> None:
    s.compute_at("B", s.sample_compute_location("B", decision=0))


def _tensorized(s: Schedule) -> None:
    s.pad_einsum("C", [1, 16, 4])
    _, j, k = loops(s, "C")
    _, j1 = s.split(j, [None, 16])
    k0, k1 = s.split(k, [None, 4])
    s.reorder(k0, j1, k1)
    block = s.blockize(j1)
    s.decompose_reduction(block, k0)
    s.tensorize(block, "dot_16x4_avx512")


def _blockized(s: Schedule) -> None:
    i, k = loops(s, "Y")
    i0, i1 = s.split(i, [None, 2])
    k0, k1 = s.split(k, [None, 3])
    s.reorder(i0, k0, i1, k1)
    s.decompose_reduction(s.blockize(i1), k0)


def _bound(s: Schedule) -> None:
    i, j = loops(s, "Y")
    i0, i1 = s.split(i, [None, 3])
    for loop, axis in ((i0, "blockIdx.x"), (i1, "threadIdx.x"), (j, "threadIdx.y")):
        s.bind(loop, axis)


def _epilogue() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((5, 7), "float32"), b: T.Buffer((5,), "float32"), Z: T.Buffer((5,), "float32")
    ):
        Y = T.alloc_buffer((5,))
        for i, k in T.grid(5, 7):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                Z[vi] = Y[vi] + b[vi]

    return f


def _padding() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((5,), "float32"), Y: T.Buffer((9,), "float32")):
        for i in range(9):
            with T.block("Y"):
                vi = T.axis.spatial(9, i)
                Y[vi] = T.if_then_else(vi >= 2 and vi < 7, X[vi - 2], 0.0)

    return f


def _in_place() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((5, 4), "float32")):
        for i, j in T.grid(5, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                X[vi, vj] = X[vi, vj] * 2.0 + 1.0

    return f


Do = Callable[[Schedule], Any]
P = programs
SCENES: dict[str, tuple[Callable[[], PrimFunc], Do]] = {
    "GetSBlock": (P.chain, lambda s: s.compute_inline(s.get_block("B"))),
    "GetLoops": (P.chain, lambda s: s.compute_at("B", s.get_loops("Y")[1])),
    "GetChildBlocks": (P.chain, lambda s: s.compute_inline(s.get_child_blocks(s.get_block("root"))[0])),
    "GetProducers": (P.chain, lambda s: s.compute_inline(s.get_producers("Y")[0])),
    "GetConsumers": (P.chain, lambda s: s.reverse_compute_inline(s.get_consumers("B")[0])),
    "GetOutputBlocks": (P.chain, lambda s: s.reverse_compute_inline(s.get_output_blocks("root")[0])),
    "SamplePerfectTile": (P.row_sum, lambda s: s.split(
        loops(s, "Y")[0], s.sample_perfect_tile(loops(s, "Y")[0], 2, decision=[2, 2]))),
    "SampleTile": (P.row_sum, lambda s: s.split(
        loops(s, "Y")[1], s.sample_tile(loops(s, "Y")[1], 2, decision=[2, 4]))),
    "SamplePartitionedTile": (P.chain, lambda s: s.split(
        loops(s, "Y")[1], s.sample_partitioned_tile(loops(s, "Y")[1], 2, 1, 3, decision=[2, 3]))),
    "SampleCategorical": (P.row_sum, lambda s: s.split(
        loops(s, "Y")[1], [None, s.sample_categorical([2, 5], [0.5, 0.5], decision=1)])),
    "SampleComputeLocation": (P.halo, _located),
    "Split": (P.row_sum, lambda s: s.split(loops(s, "Y")[1], [None, 2, 2])),
    "LoopPartition": (P.row_sum, lambda s: s.loop_partition(loops(s, "Y")[1], [3, 2])),
    "Fuse": (P.row_sum, lambda s: s.fuse(*loops(s, "Y"))),
    "Merge": (P.chain, lambda s: s.merge(loops(s, "B")[0], loops(s, "Y")[0])),
    "Reorder": (P.row_sum, lambda s: s.reorder(*reversed(loops(s, "Y")))),
    "AddUnitLoop": (P.row_sum, lambda s: s.add_unit_loop(loops(s, "Y")[1])),
    "Parallel": (P.row_sum, lambda s: s.parallel(loops(s, "Y")[0])),
    "Vectorize": (P.copy2d, lambda s: s.vectorize(s.split(loops(s, "Y")[1], [None, 4])[1])),
    "Unroll": (P.row_sum, lambda s: s.unroll(loops(s, "Y")[1])),
    "CacheRead": (P.halo, lambda s: s.compute_at(s.cache_read("Y", 0, "local"), loops(s, "Y")[0])),
    "CacheWrite": (P.row_sum, lambda s: s.reverse_compute_at(
        s.cache_write("Y", 0, "local"), loops(s, "Y")[0])),
    "CacheInplace": (_in_place, lambda s: s.cache_inplace("Y", 0, "local")),
    "CacheIndex": (resize, lambda s: s.cache_index("B", "local")),
    "SetScope": (P.halo, lambda s: s.set_scope("B", 0, "local")),
    "StorageAlign": (P.chain, lambda s: s.storage_align("B", 0, 0, 8, 3)),
    "OffsetOperand": (u8_matmul, lambda s: s.offset_operand("C", 0, -128, "int8")),
    "UnsafeSetDType": (P.chain, lambda s: s.unsafe_set_dtype("B", 0, "float64")),
    "ReIndex": (P.padded_conv, lambda s: s.reindex("O", ("read", 0))),
    "ReindexCacheRead": (P.copy2d, lambda s: s.reindex_cache_read(
        "Y", 0, "local", lambda i, j: (j, i))),
    "ReindexCacheWrite": (P.copy2d, lambda s: s.reindex_cache_write(
        "Y", 0, "local", lambda i, j: (j, i))),
    "ReadAt": (P.halo, lambda s: s.read_at(
        s.split(loops(s, "Y")[0], [None, 3])[0], "Y", 0, "local")),
    "WriteAt": (P.row_sum, lambda s: s.write_at(loops(s, "Y")[0], "Y", 0, "local")),
    "TransformLayout": (P.halo, lambda s: s.transform_layout(
        "B", ("write", 0), lambda i: (i % 4, i // 4), 7.0)),
    "TransformBlockLayout": (P.row_sum, lambda s: s.transform_block_layout(
        "Y", lambda i, k: (k, i))),
    "ReorderBlockIterVar": (P.row_sum, lambda s: s.reorder_block_iter_var("Y", [1, 0])),
    "PadEinsum": (P.row_sum, lambda s: s.pad_einsum("Y", [3, 4])),
    "DecomposePadding": (_padding, lambda s: s.decompose_padding("Y", loops(s, "Y")[0])),
    "ComputeAt": (P.halo, lambda s: s.compute_at("B", s.split(loops(s, "Y")[0], [None, 3])[0])),
    "ReverseComputeAt": (P.chain, lambda s: s.reverse_compute_at(
        "Y", s.split(loops(s, "B")[1], [None, 4])[0])),
    "RollingBuffer": (P.halo, rolled("B", "Y", 0, 3)),
    "ComputeInline": (P.halo, lambda s: s.compute_inline("B")),
    "ReverseComputeInline": (P.chain, lambda s: s.reverse_compute_inline("Y")),
    "DecomposeReduction": (P.row_sum, lambda s: s.decompose_reduction(
        "Y", s.split(loops(s, "Y")[1], [None, 2])[0])),
    "RFactor": (P.row_sum, lambda s: s.rfactor(s.split(loops(s, "Y")[1], [None, 3])[1], 0)),
    "FuseReductionEpilogue": (_epilogue, lambda s: s.fuse_reduction_epilogue("Y", "Z")),
    "Blockize": (lambda: P.row_sum(4, 6), _blockized),
    "Tensorize": (lambda: u8_matmul(3, 20, 6), _tensorized),
    "Annotate": (P.row_sum, lambda s: s.annotate(loops(s, "Y")[1], "pragma_auto_unroll_max_step", 4)),
    "Unannotate": (P.row_sum, lambda s: (
        s.annotate("Y", "a", 1), s.unannotate("Y", "a"), s.fuse(*loops(s, "Y")))),
    "AnnotateBufferAccess": (P.halo, lambda s: (
        s.annotate_buffer_access("Y", 0, "read", lambda i: ((i, i + 3),)),
        s.compute_at("B", loops(s, "Y")[0]))),
    "UnsafeHideBufferAccess": (P.halo, lambda s: s.unsafe_hide_buffer_access("Y", "read", [0])),
    "EnterPostproc": (P.row_sum, lambda s: (s.enter_postproc(), s.unroll(loops(s, "Y")[1]))),
    "Bind": (P.copy2d, _bound),
}  # fmt: skip


def test_there_is_a_scene_for_each() -> None:
    assert set(SCENES) == set(OURS)


@pytest.mark.parametrize("kind", [k for k in SCENES if k != "Bind"])
def test_it_computes_the_same_and_its_text_reads_back(kind: str) -> None:
    """By the interpreter and by LLVM; trace and program survive text and JSON."""
    program, do = SCENES[kind]
    func = program()
    sch = same_everywhere(func, do)
    assert kind in {i.kind.name for i in sch.trace.insts}


def test_what_is_bound_computes_the_same() -> None:
    program, do = SCENES["Bind"]
    func = program()
    scheduled_ = keeps(func, do).mod["f"]
    assert isinstance(scheduled_, PrimFunc)
    check(func, scheduled_, 1)


# ----------------------------------------------------------------------------- texts
GOLDEN = {
    "GetSBlock": "test_getters:test_get_block_finds_by_unique_name",
    "GetLoops": "test_getters:test_get_loops_stop_at_the_scope_block",
    "GetChildBlocks": "test_getters:test_get_child_blocks",
    "GetProducers": "test_getters:test_producers_and_consumers_in_order_and_once",
    "GetConsumers": "test_getters:test_producers_and_consumers_in_order_and_once",
    "GetOutputBlocks": "test_getters:test_get_output_blocks",
    "SamplePerfectTile": "test_every_primitive:test_sampled_values_print",
    "SampleTile": "test_every_primitive:test_sampled_values_print",
    "SamplePartitionedTile":
        "test_sampling:test_sample_partitioned_tile_cuts_a_loop_into_an_outer_and_an_inner_part",
    "SampleCategorical": "test_every_primitive:test_sampled_values_print",
    "SampleComputeLocation": "test_every_primitive:test_sampled_values_print",
    "OffsetOperand": "test_offset_operand:test_the_program_that_it_makes",
    "Split": "test_loops:test_split_prints_a_nest_with_a_predicate",
    "LoopPartition": "test_partition:test_partition_prints",
    "Fuse": "test_loops:test_fuse_prints_one_loop",
    "Merge": "test_merge:test_merge_prints",
    "Reorder": "test_loops:test_reorder_prints_the_other_order",
    "AddUnitLoop": "test_loops:test_add_unit_loop_prints_it",
    "Parallel": "test_loops:test_loop_kinds_print",
    "Vectorize": "test_loops:test_loop_kinds_print",
    "Unroll": "test_loops:test_loop_kinds_print",
    "Bind": "test_loops:test_bind_prints_the_axis",
    "CacheRead": "test_memory:test_cache_read_prints_a_copy",
    "CacheWrite": "test_memory:test_cache_write_prints_the_copy_back",
    "CacheInplace": "test_cache_inplace:test_cache_inplace_prints_both_copies",
    "CacheIndex": "test_cache_index:test_cache_index_prints_computing_blocks",
    "SetScope": "test_memory:test_set_scope_and_storage_align_print",
    "StorageAlign": "test_memory:test_set_scope_and_storage_align_print",
    "UnsafeSetDType": "test_set_dtype:test_values_are_converted_at_stores_and_loads",
    "ReIndex": "test_layout_blocks:test_reindex_of_what_is_read_is_im2col",
    "ReindexCacheRead":
        "test_reindex_cache:test_reindex_cache_read_prints_a_copy_at_ones_own_indices",
    "ReindexCacheWrite": "test_reindex_cache:test_reindex_cache_write_prints_the_copy_back",
    "ReadAt": "test_copy_at:test_read_at_copies_what_each_iteration_reads",
    "WriteAt": "test_copy_at:test_write_at_copies_back_what_each_iteration_wrote",
    "TransformLayout": "test_layout:test_every_access_is_rewritten",
    "TransformBlockLayout": "test_layout_blocks:test_transform_block_layout_makes_new_loops",
    "ReorderBlockIterVar": "test_every_primitive:test_the_order_of_iterators_prints",
    "PadEinsum": "test_layout_blocks:test_pad_einsum_prints_the_padded_copies",
    "DecomposePadding": "test_layout_blocks:test_decompose_padding_prints_both_blocks",
    "ComputeAt": "test_place:test_compute_at_prints_what_is_needed",
    "ReverseComputeAt": "test_place:test_reverse_compute_at_prints_what_was_made",
    "RollingBuffer": "test_rolling:test_only_what_is_new_is_computed_into_a_ring",
    "ComputeInline": "test_inline:test_compute_inline_prints_the_value_in_place",
    "ReverseComputeInline": "test_inline:test_reverse_compute_inline_prints_the_joined_block",
    "DecomposeReduction": "test_reduce:test_decompose_prints_init_and_update",
    "RFactor": "test_reduce:test_rfactor_prints_partial_results",
    "FuseReductionEpilogue": "test_epilogue:test_a_bias_is_what_the_sum_starts_from",
    "Blockize": "test_blockize:test_a_reduction_is_cut_in_two_with_its_init_outside",
    "Tensorize": "test_every_primitive:test_an_instruction_prints",
    "Annotate": "test_note:test_annotations_print_on_loops_and_blocks",
    "Unannotate": "test_every_primitive:test_notes_taken_away_print",
    "AnnotateBufferAccess": "test_access_notes:test_a_stated_region_is_what_others_go_by",
    "UnsafeHideBufferAccess": "test_access_notes:test_hidden_accesses_happen_all_the_same",
    "EnterPostproc": "test_every_primitive:test_notes_taken_away_print",
}  # fmt: skip
"""The test with the texts, by kind: file and function."""


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((HERE / f"{file}.py").read_text())
    return {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}


def called(file: str, name: str) -> set[str]:
    """What a test calls, and what the helpers of its file and of `everywhere` call for it."""
    found: set[str] = set()
    stack = [name]
    while stack:
        f = functions(file).get(stack.pop())
        if f is None:
            continue
        for x in ast.walk(f):
            for used in (getattr(x, "id", None), getattr(x, "attr", None)):
                if isinstance(used, str) and used not in found:
                    found.add(used)
                    stack.append(used)
    return found


@pytest.mark.parametrize("kind", OURS)
def test_it_has_a_golden_test(kind: str) -> None:
    file, name = GOLDEN[kind].split(":")
    assert name in functions(file), f"{file}.py has no {name}"
    uses = called(file, name)
    assert OURS[kind].method in uses, f"{name} does not call {OURS[kind].method}"
    compared = "names" if kind.startswith("Get") else "prints"
    assert compared in uses or kind in ("GetLoops", "GetSBlock"), f"{name} compares nothing"


def test_nothing_else_is_listed() -> None:
    assert set(GOLDEN) == set(OURS)


def test_sampled_values_print() -> None:
    sch = scheduled(programs.halo())
    (i,) = loops(sch, "B")
    sch.split(i, sch.sample_perfect_tile(i, 2, decision=[5, 2]))
    (i,) = loops(sch, "Y")
    i0, _ = sch.split(i, sch.sample_tile(i, 2, decision=[3, 3]))
    n = sch.sample_categorical([16, 64], [0.5, 0.5], decision=1)
    sch.annotate(i0, "pragma_auto_unroll_max_step", n)
    sch.compute_at("B", sch.sample_compute_location("B", decision=0))
    prints(
        sch,
        """
        B = T.alloc_buffer((10,))
        for i_0 in T.serial(3, annotations={"pragma_auto_unroll_max_step": 64}):
            for ax0 in range(5):
                with T.block("B"):
                    vi = T.axis.spatial(10, i_0 * 3 + ax0)
                    T.where(i_0 * 3 + ax0 < 10)
                    T.reads(X[vi:vi + 3])
                    T.writes(B[vi])
                    B[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
            for i_1 in range(3):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i_0 * 3 + i_1)
                    T.where(i_0 * 3 + i_1 < 8)
                    T.reads(B[vi:vi + 3])
                    T.writes(Y[vi])
                    Y[vi] = B[vi] - B[vi + 1] + B[vi + 2]
        """,
    )
    assert [x.split(" = sch.")[-1] for x in str(sch.trace).splitlines() if "sample" in x] == [
        "sample_perfect_tile(loop=l1, n=2, max_innermost_factor=16, decision=[5, 2])",
        "sample_tile(loop=l7, n=2, max_innermost_factor=16, decision=[3, 3])",
        "sample_categorical(candidates=[16, 64], probs=[0.5, 0.5], decision=1)",
        "sample_compute_location(block=b13, decision=0)",
    ]


def test_the_order_of_iterators_prints() -> None:
    sch = scheduled(programs.row_sum())
    sch.reorder_block_iter_var("Y", [1, 0])
    prints(
        sch,
        """
        for i, k in T.grid(4, 7):
            with T.block("Y"):
                vk, vi = T.axis.remap("RS", [k, i])
                T.reads(X[vi, vk])
                T.writes(Y[vi])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + X[vi, vk]
        """,
    )


def test_an_instruction_prints() -> None:
    sch = scheduled(u8_matmul(2, 16, 8))
    _tensorized(sch)
    prints(
        sch,
        """
        for i, j_0 in T.grid(2, 1):
            with T.block("C_o_init"):
                vi, vj_o = T.axis.remap("SS", [i, j_0])
                T.reads()
                T.writes(C[vi, vj_o * 16:vj_o * 16 + 16])
                for j_1_init in range(16):
                    with T.block("C_init"):
                        vj_i = T.axis.spatial(16, j_1_init)
                        T.reads()
                        T.writes(C[vi, vj_o * 16 + vj_i])
                        C[vi, vj_o * 16 + vj_i] = 0
            for q_0 in range(2):
                with T.block("C_o_update"):
                    vi, vj_o, vk_o = T.axis.remap("SSR", [i, j_0, q_0])
                    T.reads(C[vi, vj_o * 16:vj_o * 16 + 16], A[vi, vk_o * 4:vk_o * 4 + 4], B[vj_o * 16:vj_o * 16 + 16, vk_o * 4:vk_o * 4 + 4])
                    T.writes(C[vi, vj_o * 16:vj_o * 16 + 16])
                    A_1 = T.match_buffer(A[vi, vk_o * 4:vk_o * 4 + 4], (4,), "uint8")
                    B_1 = T.match_buffer(B[vj_o * 16:vj_o * 16 + 16, vk_o * 4:vk_o * 4 + 4], (16, 4), "int8")
                    C_1 = T.match_buffer(C[vi, vj_o * 16:vj_o * 16 + 16], (16,), "int32")
                    a: T.uint16x32 = T.reinterpret("uint16x32", T.Broadcast(T.reinterpret("int32", A_1[T.Ramp(0, 1, 4)]), 16))
                    b: T.int16x32 = T.reinterpret("int16x32", B_1[T.Ramp(0, 1, 64) // T.Broadcast(4, 64), T.Ramp(0, 1, 64) % T.Broadcast(4, 64)])
                    C_1[T.Ramp(0, 1, 16)] = C_1[T.Ramp(0, 1, 16)] + T.call_intrin("int32x16", "x86.pmaddwd", T.reinterpret("int16x32", a & T.Broadcast(T.uint16(255), 32)), b << T.Broadcast(T.int16(8), 32) >> T.Broadcast(T.int16(8), 32)) + T.call_intrin("int32x16", "x86.pmaddwd", T.reinterpret("int16x32", a >> T.Broadcast(T.uint16(8), 32)), b >> T.Broadcast(T.int16(8), 32))
        """,
    )


def test_notes_taken_away_print() -> None:
    sch = scheduled(programs.copy2d())
    i, _ = loops(sch, "Y")
    sch.annotate(i, "a", 1)
    sch.annotate(i, "b", 2)
    sch.unannotate(i, "a")
    sch.enter_postproc()
    prints(
        sch,
        """
        for i in T.serial(4, annotations={"b": 2}):
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(X[vi, vj])
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = X[vi, vj] + T.float32(1)
        """,
    )
    sch.unannotate(i, "b")
    prints(
        sch,
        """
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
        """,
    )
    assert str(sch.trace).splitlines()[-3:] == [
        'sch.unannotate(block_or_loop=l1, ann_key="a")',
        "sch.enter_postproc()",
        'sch.unannotate(block_or_loop=l1, ann_key="b")',
    ]


# ----------------------------------------------------------------------------- refusals
ELSEWHERE = {"sampling-inside": "test_errors_teach:test_a_primitive_cannot_hide_a_decision"}
"""Codes that are met in files which the run below leaves out."""
GUARDS = {
    ("place", "_check_covered", "the extent ... of a new loop is not constant"):
        "`_check_whole_domain` has refused what is known to give such loops",
}  # fmt: skip
"""Places that no program is known to come to, and why they stand there all the same."""
LEFT_OUT = (
    "test_every_primitive.py", "test_refusals.py", "test_errors_teach.py", "test_covering_moves.py",
    "test_extensions.py", "test_dim.py", "test_explain.py",
)  # fmt: skip
"""Files with random calls, which may meet a refusal today and none tomorrow, and slow ones."""


def test_every_place_that_refuses_is_met(tmp_path: Path) -> None:
    """The tests of this folder are run with the places counted that they come to."""
    found = tmp_path / "met.json"
    # options meant for the run that this test is part of are not for the one inside it
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "tests.schedule.met_refusals", "-p",
            "no:cacheprovider", "-p", "no:xdist", str(HERE),
            *[f"--ignore={HERE / name}" for name in LEFT_OUT],
        ],
        cwd=HERE.parents[1], capture_output=True, text=True, check=False,
        env={**env, "GPUTUNE_TEST_MET": str(found)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    met = set(json.loads(found.read_text()))
    for code, where in ELSEWHERE.items():
        file, name = where.split(":")
        assert code in ast.unparse(functions(file)[name])
    lacking = [
        f"{s.module}.py:{s.line} {s.function}: {'/'.join(s.codes)}: {s.message!r}"
        for s in all_sites()
        if f"{s.module}:{s.line}" not in met
        and not set(s.codes) & set(ELSEWHERE)
        and (s.module, s.function, s.message) not in GUARDS
    ]
    assert {(s.module, s.function, s.message) for s in all_sites()} >= set(GUARDS)
    assert not lacking, "write a test that comes here:\n" + "\n".join(lacking)
