"""tensorize and the analyses around it: what matches, what does not and why, and same numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError, UserError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import BlockRV, Schedule, Trace
from gputune.schedule.intrin_mapping import (
    find_anchor_block,
    get_auto_tensorize_mapping_info,
    get_tensorize_loop_mapping,
    is_output_block,
    is_trivial_binding,
    tile_with_tensor_intrin,
)
from gputune.script import tir as T
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin
from tests.properties import moves
from tests.properties.law import check_round_trips

from . import tensor_programs as programs
from .schedule_helpers import loops, refuses, scheduled


def there(name: str) -> bool:
    """Has this machine the instruction?"""
    return not intrin(name).missing(Target("llvm"))


def numbers(func: PrimFunc, seed: int = 0) -> list[np.ndarray]:
    """Any bytes; small whole numbers as floats, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        shape = [int(const_int(n) or 0) for n in b.shape]
        kind = dtypes.numpy_dtype(b.dtype)
        lo, hi = (-8, 9) if dtypes.is_float(b.dtype) else (np.iinfo(kind).min, np.iinfo(kind).max)
        out.append(rng.integers(lo, hi, shape, endpoint=True).astype(kind))
    return out


def agrees(func: PrimFunc, sch: Schedule, name: str) -> None:
    """The unscheduled program, the interpreter and machine code give the same bits."""
    want = numbers(func)
    run(func, *want)
    got = numbers(func)
    run(sch.mod[func.name], *got, check_regions=True)
    np.testing.assert_array_equal(got[-1], want[-1])
    if there(name):
        got = numbers(func)
        build(sch.mod, "llvm --num-cores=2")[func.name](*got)
        np.testing.assert_array_equal(got[-1], want[-1])
    check_round_trips(func, sch)


def tensorized(func: PrimFunc, name: str, block: str = "C") -> Schedule:
    sch = scheduled(func)
    rv = sch.get_block(block)
    loop = tile_with_tensor_intrin(sch, rv, name)
    assert loop is not None
    outer = sch.blockize(loop)
    first = next(
        x for x, f in zip(sch.get_loops(outer), sch.block(outer).loops(), strict=True)
        if f.var is sch.get(outer).iter_values[_first_reduce(sch, outer)]
    )  # fmt: skip
    sch.decompose_reduction(outer, first)
    sch.tensorize(outer, name)
    return sch


def _first_reduce(sch: Schedule, rv: BlockRV) -> int:
    return next(k for k, iv in enumerate(sch.get(rv).iter_vars) if iv.kind == "reduce")


# ----------------------------------------------------------------------------- same numbers
@pytest.mark.parametrize("name", ["dot_16x4_vnni", "dot_16x4_avx512"])
@pytest.mark.parametrize(
    "program", [programs.u8_matmul, programs.packed_matmul, programs.batched_matmul]
)
def test_products_of_bytes(name: str, program: Any) -> None:
    func = program()
    sch = tensorized(func, name)
    agrees(func, sch, name)
    a, b, c = numbers(func)
    run(sch.mod[func.name], a, b, c)
    if program is programs.u8_matmul:
        np.testing.assert_array_equal(c, a.astype(np.int32) @ b.astype(np.int32).T)


def test_products_of_bfloat16() -> None:
    func = programs.bf16_matmul()
    sch = tensorized(func, "dot_16x2_avx512bf16")
    agrees(func, sch, "dot_16x2_avx512bf16")
    a, b, c = numbers(func)
    run(sch.mod[func.name], a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.float32) @ b.astype(np.float32).T)


@pytest.mark.parametrize("name", ["dot_16x4_vnni", "dot_16x4_avx512"])
def test_a_convolution(name: str) -> None:
    func = programs.u8_conv()
    agrees(func, tensorized(func, name, "Y"), name)


@pytest.mark.parametrize("name", ["dot_16x4_vnni", "dot_16x4_avx512"])
def test_the_largest_bytes_do_not_saturate(name: str) -> None:
    func = programs.u8_matmul(1, 16, 8)
    sch = tensorized(func, name)
    for b in (-128, 127):
        a = np.full((1, 8), 255, np.uint8)
        w = np.full((16, 8), b, np.int8)
        c = np.zeros((1, 16), np.int32)
        run(sch.mod["mm"], a, w, c)
        assert (c == 255 * b * 8).all()
        if there(name):
            c[:] = 7
            build(sch.mod, "llvm")["mm"](a, w, c)
            assert (c == 255 * b * 8).all()


def test_a_loop_is_made_a_block_first() -> None:
    func = programs.u8_matmul()
    sch = scheduled(func)
    block = sch.get_block("C")
    _, j, k = sch.get_loops(block)
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    sch.decompose_reduction(block, k0)
    sch.tensorize(j1, "dot_16x4_vnni")
    text = sch.mod.script()
    assert "x86.vpdpbusd" in text
    assert "T.match_buffer(B[vj_o * 16:vj_o * 16 + 16, vk_o * 4:vk_o * 4 + 4], (16, 4)" in text
    agrees(func, sch, "dot_16x4_vnni")


def test_the_accumulator_may_be_a_cache() -> None:
    func = programs.u8_matmul(8, 32, 16)
    sch = scheduled(func)
    rv = sch.get_block("C")
    outer = sch.blockize(tile_with_tensor_intrin(sch, rv, "dot_16x4_vnni"))
    i, _, k = sch.get_loops(outer)
    cache = sch.cache_write(outer, 0, "global")
    sch.reverse_compute_at(cache, i)
    sch.parallel(i)
    sch.decompose_reduction(outer, k)
    sch.tensorize(outer, "dot_16x4_vnni")
    agrees(func, sch, "dot_16x4_vnni")


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 2**31 - 1))
def test_random_schedules_around_an_instruction_keep_the_meaning(seed: int) -> None:
    rng = random.Random(seed)
    func = rng.choice([programs.u8_matmul(4, 16, 8), programs.packed_matmul()])
    sch = Schedule(func, seed=seed, debug_mask="all", error_render_level="none")
    chosen = [m for m in moves.MOVES if m[0] in ("split", "reorder", "cache_write", "parallel")]
    for name, move in [*rng.choices(chosen, k=2), ("tensorize", moves._tensorize),
                       *rng.choices(chosen, k=3)]:  # fmt: skip
        before = sch.mod
        try:
            move(sch, rng)
        except ScheduleError:
            assert name != "parallel" or sch.mod is before
    agrees(func, sch, "dot_16x4_vnni")


# ----------------------------------------------------------------------------- refusals
def inner(func: PrimFunc, j: int = 16, k: int = 4) -> tuple[Schedule, BlockRV]:
    """The product cut into tiles of j times k, ready to be tensorized."""
    sch = scheduled(func)
    block = sch.get_block("C")
    _, j_loop, k_loop = sch.get_loops(block)
    _, j1 = sch.split(j_loop, [None, j])
    k0, k1 = sch.split(k_loop, [None, k])
    sch.reorder(k0, j1, k1)
    sch.decompose_reduction(block, k0)
    return sch, sch.blockize(j1)


@pytest.mark.parametrize(
    ("program", "j", "k", "reason"),
    [
        (programs.u8_matmul, 8, 4, "runs 8 times"),
        (programs.u8_matmul, 16, 8, "runs 8 times"),
        (programs.i8_matmul, 16, 4, "has dtype int8"),
        (programs.bf16_matmul, 16, 4, "has dtype float32"),
        (lambda: programs.u8_matmul(8, 32, 18), 16, 4, "has the predicate"),
    ],
)
def test_refuses_what_is_not_described(program: Any, j: int, k: int, reason: str) -> None:
    sch, block = inner(program(), j, k)
    refuses(sch, "tensorize-match", lambda: sch.tensorize(block, "dot_16x4_vnni"), names=reason)


def test_refuses_a_block_that_still_initialises() -> None:
    sch = scheduled(programs.u8_matmul())
    block = sch.get_block("C")
    e = refuses(
        sch, "tensorize-match", lambda: sch.tensorize(block, "dot_16x4_vnni"), names="has an init"
    )
    assert "decompose_reduction" in e.message


def test_refuses_loops_in_another_order() -> None:
    func = programs.u8_matmul(8, 16, 16)
    sch = scheduled(func)
    block = sch.get_block("C")
    _, j, k = sch.get_loops(block)
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, k1, j)
    sch.decompose_reduction(block, k0)
    refuses(sch, "tensorize-match", lambda: sch.tensorize(k1, "dot_16x4_vnni"), names="4 times")


def test_refuses_another_access() -> None:
    @T.prim_func
    def mm(
        A: T.Buffer((8, 16), "uint8"), B: T.Buffer((16, 32), "int8"), C: T.Buffer((8, 32), "int32")
    ):
        for i, j, q in T.grid(8, 32, 16):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vk, vj], "int32")

    sch, block = inner(mm)
    refuses(
        sch, "tensorize-match", lambda: sch.tensorize(block, "dot_16x4_vnni"),
        names="does not run over B as B[vi, vk] of the description does",
    )  # fmt: skip


def test_refuses_an_operand_that_is_written_too() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 2), "float32")):
        for i, j in T.grid(3, 2):
            with T.block("X"):
                vi, vj = T.axis.remap("SS", [i, j])
                X[vi, vj] = X[vi + 1, vj]

    sch = scheduled(f)
    j = loops(sch, "X")[1]
    e = refuses(
        sch, "tensorize-match", lambda: sch.tensorize(j, "test.copy2"), names="both written"
    )
    assert e.hint


def test_refuses_memory_of_another_kind() -> None:
    func = programs.u8_matmul()
    sch = scheduled(func)
    rv = sch.get_block("C")
    outer = sch.blockize(tile_with_tensor_intrin(sch, rv, "dot_16x4_vnni"))
    sch.cache_write(outer, 0, "local")
    sch.decompose_reduction(outer, sch.get_loops(outer)[2])
    refuses(
        sch, "tensorize-match", lambda: sch.tensorize(outer, "dot_16x4_vnni"), names="local memory"
    )


def test_refuses_an_unknown_intrinsic() -> None:
    sch = scheduled(programs.u8_matmul())
    block = sch.get_block("C")
    e = refuses(sch, "intrin-unknown", lambda: sch.tensorize(block, "dot_16x4_vnnj"))
    assert "dot_16x4_vnni" in e.hint


# ----------------------------------------------------------------------------- analyses
def test_loop_mapping_takes_the_last_loops_that_fit() -> None:
    sch = scheduled(programs.u8_conv())
    info = get_tensorize_loop_mapping(sch, sch.get_block("Y"), intrin("dot_16x4_vnni").desc)
    assert info is not None
    assert {v.name: str(f.extent) for v, f in info.loop_map.items()} == {"co": "16", "ci": "4"}
    assert list(info.desc_loop_indexer.values()) == [0, 1]
    assert info.block_iter_paddings is None


def test_loop_mapping_asks_what_is_computed() -> None:
    desc = intrin("dot_16x4_vnni").desc
    sch = scheduled(programs.i8_matmul())
    assert get_tensorize_loop_mapping(sch, sch.get_block("C"), desc) is None
    sch = scheduled(programs.u8_matmul(8, 24, 16))
    assert get_tensorize_loop_mapping(sch, sch.get_block("C"), desc) is None
    info = get_tensorize_loop_mapping(sch, sch.get_block("C"), desc, allow_padding=True)
    assert info is not None
    assert info.block_iter_paddings == (1, 16, 1)


def test_tiling_leaves_a_block_that_does_not_fit_alone() -> None:
    sch = scheduled(programs.i8_matmul())
    block = sch.get_block("C")
    mod, count = sch.mod, len(sch.trace.insts)
    assert tile_with_tensor_intrin(sch, block, "dot_16x4_vnni") is None
    assert sch.mod is mod
    assert len(sch.trace.insts) == count
    with pytest.raises(UserError, match="no tensor intrinsic"):
        tile_with_tensor_intrin(sch, block, "nothing")


@T.prim_func
def product16(
    A: T.Buffer((16, 16), "uint8"), B: T.Buffer((16, 16), "int8"), C: T.Buffer((16, 16), "int32")
):
    for i, j, k in T.grid(16, 16, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")


def test_a_convolution_is_a_product_of_matrices() -> None:
    sch = scheduled(programs.u8_conv())
    info = get_auto_tensorize_mapping_info(sch, sch.get_block("Y"), product16)
    assert info is not None
    (index_map,) = info.mappings
    assert index_map.map_shape([2, 4, 4, 16, 3, 3, 8]) == (32, 16, 72)
    assert [[iv.var.name for iv in g] for g in info.groups] == [
        ["vn", "vh", "vw"], ["vc"], ["vr", "vs", "vi"]
    ]  # fmt: skip
    assert {k.name: v.name for k, v in info.lhs_buffer_map.items()} == {
        "X": "A", "W": "B", "Y": "C"
    }  # fmt: skip
    assert not info.batch
    assert {k.name: tuple(map(str, v)) for k, v in info.rhs_buffer_indices.items()} == {
        "A": ("vi", "vk"), "B": ("vj", "vk"), "C": ("vi", "vj")
    }  # fmt: skip
    assert {v for i in info.rhs_buffer_indices.values() for v in i} == {
        iv.var for iv in info.rhs_iters
    }


def test_what_indexes_all_operands_is_a_batch() -> None:
    sch = scheduled(programs.batched_matmul())
    info = get_auto_tensorize_mapping_info(sch, sch.get_block("C"), product16)
    assert info is not None
    assert [iv.var.name for iv in info.batch] == ["vb"]
    assert info.mappings[0].map_shape([3, 8, 32, 16]) == (3, 8, 32, 16)


def test_no_mapping_where_something_else_is_computed() -> None:
    sch = scheduled(programs.i8_matmul())
    assert get_auto_tensorize_mapping_info(sch, sch.get_block("C"), product16) is None

    @T.prim_func
    def rows(A: T.Buffer((8, 16), "uint8"), B: T.Buffer((16,), "int8"), C: T.Buffer((8,), "int32")):
        for i, q in T.grid(8, 16):
            with T.block("C"):
                vi, vk = T.axis.remap("SR", [i, q])
                with T.init():
                    C[vi] = 0
                C[vi] = C[vi] + T.cast(A[vi, vk], "int32") * T.cast(B[vk], "int32")

    sch = scheduled(rows)  # there are no columns
    assert get_auto_tensorize_mapping_info(sch, sch.get_block("C"), product16) is None


def test_small_questions() -> None:
    func = programs.u8_matmul()
    sch = scheduled(func)
    block = sch.get_block("C")
    assert is_output_block(sch, block)
    assert is_trivial_binding(sch, block)
    sch.cache_write(block, 0, "global")
    assert not is_output_block(sch, block)
    sch.split(sch.get_loops(block)[1], [None, 4])
    assert not is_trivial_binding(sch, block)
    anchor = find_anchor_block(sch.mod)
    assert anchor is not None
    assert anchor.name == "C"
    assert TensorIntrin.get("nothing", allow_missing=True) is None


def test_padding_makes_any_size_fit() -> None:
    func = programs.u8_matmul(3, 20, 6)
    sch = scheduled(func)
    block = sch.get_block("C")
    assert tile_with_tensor_intrin(sch, block, "dot_16x4_vnni") is None
    loop = tile_with_tensor_intrin(sch, block, "dot_16x4_vnni", allow_padding=True)
    assert loop is not None
    outer = sch.blockize(loop)
    sch.decompose_reduction(outer, sch.get_loops(outer)[2])
    sch.tensorize(outer, "dot_16x4_vnni")
    agrees(func, sch, "dot_16x4_vnni")


# ----------------------------------------------------------------------------- tails
@pytest.mark.parametrize("name", ["dot_16x4_vnni", "dot_16x4_avx512"])
@pytest.mark.parametrize("extents", [(3, 40, 18), (1, 17, 5), (5, 16, 7)])
def test_a_tail_is_padded_first(name: str, extents: tuple[int, int, int]) -> None:
    func = programs.u8_matmul(*extents)
    sch = scheduled(func)
    sch.pad_einsum("C", [1, 16, 4])
    sch, block = tiled(sch)
    sch.tensorize(block, name)
    agrees(func, sch, name)


def test_the_8_lanes_of_avxvnni() -> None:
    func = programs.u8_matmul(3, 20, 6)
    sch = scheduled(func)
    sch.pad_einsum("C", [1, 8, 4])
    sch, block = tiled(sch, 8)
    sch.tensorize(block, "dot_8x4_avxvnni")
    assert "x86.vpdpbusd.256" in sch.mod.script()
    agrees(func, sch, "dot_8x4_avxvnni")


def test_floats_are_padded_too() -> None:
    func = programs.bf16_matmul(3, 20, 5)
    sch = scheduled(func)
    sch.pad_einsum("C", [1, 16, 2])
    sch, block = tiled(sch, 16, 2)
    sch.tensorize(block, "dot_16x2_avx512bf16")
    agrees(func, sch, "dot_16x2_avx512bf16")


@pytest.mark.parametrize("name", ["dot_16x4_vnni", "dot_16x4_avx512"])
def test_a_tail_is_a_loop_of_its_own(name: str) -> None:
    """Columns 32 to 39 and products 16 and 17 are computed without the instruction."""
    func = programs.u8_matmul(3, 40, 18)
    sch = scheduled(func)
    i, j, k = loops(sch, "C")
    sch.reorder(j, i, k)
    sch.loop_partition(j, [32])
    j, i, k = loops(sch, "C_j0")
    j0, j1 = sch.split(j, [None, 16])
    sch.reorder(j0, i, k, j1)
    sch.loop_partition(k, [16])
    block = sch.get_block("C_j0_q0")
    k, j1 = sch.get_loops(block)
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    sch.decompose_reduction(block, k0)
    sch.tensorize(j1, name)
    agrees(func, sch, name)


def test_a_tail_of_a_loop_outside_does_no_harm() -> None:
    func = programs.u8_matmul(5, 32, 16)
    sch = scheduled(func)
    i, *_ = loops(sch, "C")
    sch.split(i, [None, 2])
    block = sch.get_block("C")
    *_, j, k = sch.get_loops(block)
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    sch.decompose_reduction(block, k0)
    sch.tensorize(j1, "dot_16x4_vnni")
    assert "T.where" in sch.mod.script()
    agrees(func, sch, "dot_16x4_vnni")


@pytest.mark.parametrize("extents", [(8, 40, 16), (8, 32, 18), (8, 40, 18)])
def test_the_hint_names_both_ways_out_of_a_tail(extents: tuple[int, int, int]) -> None:
    sch, block = inner(programs.u8_matmul(*extents))
    e = refuses(
        sch, "tensorize-match", lambda: sch.tensorize(block, "dot_16x4_vnni"),
        names="has the predicate",
    )  # fmt: skip
    assert "pad_einsum" in e.hint
    assert "loop_partition" in e.hint


def tiled(sch: Schedule, j: int = 16, k: int = 4) -> tuple[Schedule, BlockRV]:
    """The block C cut into tiles of j times k, its init apart; the block to be tensorized."""
    block = sch.get_block("C")
    *_, j_loop, k_loop = sch.get_loops(block)
    _, j1 = sch.split(j_loop, [None, j])
    k0, k1 = sch.split(k_loop, [None, k])
    sch.reorder(k0, j1, k1)
    sch.decompose_reduction(block, k0)
    return sch, sch.blockize(j1)


# ----------------------------------------------------------------------------- the target at hand
def test_refuses_what_the_current_target_does_not_have() -> None:
    sch, block = inner(programs.u8_matmul())
    for target, reason in (
        ("cuda -arch=sm_90a", "is for llvm targets, not for cuda"),
        ("llvm -mattr=-avx512vnni", "the processor has no avx512vnni"),
    ):
        with Target(target):
            e = refuses(
                sch, "tensorize-target", lambda: sch.tensorize(block, "dot_16x4_vnni"), names=reason
            )
        assert "missing(target)" in e.hint
    sch.tensorize(block, "dot_16x4_vnni")  # without a target, any may be meant


def test_takes_what_the_current_target_has() -> None:
    sch, block = inner(programs.u8_matmul())
    with Target("llvm -mattr=+avx512vnni"):
        sch.tensorize(block, "dot_16x4_vnni")
    assert "x86.vpdpbusd" in sch.mod.script()


def test_the_intrinsic_by_keyword() -> None:
    """Named for a bug: TVM's keyword, which its traces print, was unknown."""
    sch = scheduled(programs.u8_matmul(8, 16, 8))
    i, j, k = loops(sch, "C")
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(i, k0, j, k1)
    sch.decompose_reduction("C", k0)
    trace = []
    for keyword in ("tensor_intrin", "intrin_name"):  # the second is how it was called here
        s = sch.copy()
        s.tensorize(j, **{keyword: "dot_16x4_avx512"})
        trace.append(str(s.trace))
        assert 'tensor_intrin="dot_16x4_avx512", preserve_unit_iters=True)' in trace[-1]
        again = Schedule(programs.u8_matmul(8, 16, 8))
        text = trace[-1].replace("tensor_intrin=", f"{keyword}=")
        Trace.from_python(text).apply_to_schedule(again)
        assert str(again.trace) == trace[-1]
    assert trace[0] == trace[1]
    with pytest.raises(TypeError, match="got two values for 'intrin_name'"):
        sch.tensorize("C", "x", intrin_name="x")  # type: ignore[call-arg]  # wrong on purpose
