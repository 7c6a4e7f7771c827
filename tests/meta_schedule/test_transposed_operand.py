"""TransposedOperand: which operands it turns, how, and that this computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_spaces import sketches
from space_programs import apply_rule, chain, matmul
from test_population import agree

from gputune import kernels
from gputune.ir.nodes import PrimFunc
from gputune.meta_schedule.layout_parts import drives_reduction
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.meta_schedule.schedule_rule import TransposedOperand
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

TRACE = """\
b0 = sch.get_block(name="Y", func_name="dense_bias_relu")
b1 = sch.cache_read(block=b0, read_buffer_index=1, storage_scope="global", consumer_blocks=[b0])
sch.transform_layout(block=b0, buffer=("read", 1), index_map=lambda i0, i1: (i1, i0,), pad_value=None, assume_injective_transform=False)
l2, l3 = sch.get_loops(block=b1)
l4, l5 = sch.split(loop=l2, factors=[None, 16], preserve_unit_iters=True)
l6, l7 = sch.split(loop=l3, factors=[None, 16], preserve_unit_iters=True)
sch.reorder(l4, l6, l7, l5)"""  # noqa: E501


def turned(func: PrimFunc, block: str) -> list[Schedule]:
    """The schedules with copies that the rule makes of a block."""
    found = apply_rule(TransposedOperand(), func, block)
    return [s for s in found if "cache_read" in str(s.trace)]


def layer(m: int, n: int, k: int) -> PrimFunc:
    return kernels.get("dense_bias_relu").build(m=m, n=n, k=k)


def test_the_copy_of_the_weights_of_a_layer() -> None:
    (sch,) = apply_rule(TransposedOperand(), layer(32, 48, 40), "Y")
    assert str(sch.trace) == TRACE
    text = sch.mod.script()
    assert "W_global = T.alloc_buffer((40, 48))" in text
    assert "Y[vi, vj] + X[vi, vr] * W_global[vr, vj]" in text


def test_where_elements_are_used_seldom_there_is_a_choice() -> None:
    assert len(apply_rule(TransposedOperand(), layer(16, 48, 40), "Y")) == 1
    assert len(apply_rule(TransposedOperand(), layer(15, 48, 40), "Y")) == 2
    assert len(turned(layer(2, 48, 40), "Y")) == 1
    assert turned(layer(1, 48, 400), "Y") == []  # CrossLaneReduction suits it


def test_weights_that_are_packed_beforehand_are_not_copied_again() -> None:
    assert turned(layer(32, 48, 40).with_attr("layout_free_buffers", (1,)), "Y") == []
    assert len(turned(layer(32, 48, 40).with_attr("layout_free_buffers", (0,)), "Y")) == 1


@T.prim_func
def both(
    A: T.Buffer((32, 24), "float32"),
    B: T.Buffer((40, 24), "float32"),
    C: T.Buffer((40, 24), "float32"),
    D: T.Buffer((32, 40), "float32"),
):
    for i, j, k in T.grid(32, 40, 24):
        with T.block("D"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                D[vi, vj] = T.float32(0)
            D[vi, vj] = D[vi, vj] + A[vi, vk] * (B[vj, vk] + C[vj, vk])


def test_two_operands_are_turned() -> None:
    (sch,) = turned(both, "D")
    assert str(sch.trace).count("cache_read") == 2


@pytest.mark.parametrize(
    ("name", "shape", "block"),
    [
        ("dense_bias_relu", {"m": 17, "n": 33, "k": 19}, "Y"),
        ("dense_bias_relu", {"m": 3, "n": 7, "k": 5}, "Y"),
        ("attention", {"batch": 1, "heads": 2, "seq": 21, "dim": 13}, "dot"),
    ],
)
def test_odd_extents(name: str, shape: dict[str, int], block: str) -> None:
    kernel = kernels.get(name)
    func = kernel.build(**shape)
    (sch,) = turned(func, block)
    args = kernel.arguments(shape, seed=2)
    want = kernel.expected(args, shape)
    build(sch.mod, "llvm --num-cores=1")[func.name](*args)
    outputs = [a for a, b in zip(args, func.buffers, strict=True) if b.name in kernel.outputs]
    for got, right in zip(outputs, want, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)


@T.prim_func
def shifted(
    A: T.Buffer((32, 24), "float32"),
    B: T.Buffer((41, 24), "float32"),
    D: T.Buffer((32, 40), "float32"),
):
    for i, j, k in T.grid(32, 40, 24):
        with T.block("D"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                D[vi, vj] = T.float32(0)
            D[vi, vj] = D[vi, vj] + A[vi, vk] * B[vj + 1, vk]


@pytest.mark.parametrize(
    ("why", "func", "block"),
    [
        ("it lies along the vectors", matmul, "C"),
        ("the root", matmul, "root"),
        ("no reduction", chain, "B"),
        ("each element is used once", kernels.get("gemv").build(m=64, k=64), "Y"),
        ("sums of rows", kernels.get("row_sum").build(m=64, n=64), "B"),
        ("a window moves", kernels.get("conv2d").build(), "Y"),
        ("the index is no iterator", shifted, "D"),
    ],
)
def test_it_leaves_alone(why: str, func: PrimFunc, block: str) -> None:
    assert turned(func, block) == [], why


def candidates(func: PrimFunc, count: int) -> Any:
    for sketch in sketches(func):
        rows = sketch.decisions.sample(count, np.random.default_rng(5))
        yield sketch, rows


def test_matrices_of_decisions_agree_with_replay() -> None:
    for sketch, rows in candidates(layer(32, 48, 40), 12):
        assert "transform_layout" in str(sketch.trace)
        assert agree(sketch, rows) == 12
        assert not sketch.fallbacks


def test_the_product_has_vectors_then() -> None:
    """Named for a fault: scores of attention and layers with weights (outputs, inputs) ran element
    by element, ten times slower than NumPy."""
    func = layer(32, 48, 40)
    (sch,) = turned(func, "Y")
    sch.annotate(root := sch.get_block("root"), "meta_schedule.vectorize", 64)
    sch.annotate(root, "meta_schedule.parallel", 16)
    assert postprocess(sch, Postproc.create("llvm")) is None
    vector = sch.get(sch.get_loops(sch.get_block("Y_update"))[-1])
    assert vector.kind == "vectorized"
    assert not drives_reduction(vector)
    plain = Schedule(func)
    plain.annotate(root := plain.get_block("root"), "meta_schedule.vectorize", 64)
    assert postprocess(plain, Postproc.create("llvm")) is None
    # at best the lanes of a sum are combined for each element
    assert drives_reduction(plain.get(plain.get_loops(plain.get_block("Y_update"))[-1]))
