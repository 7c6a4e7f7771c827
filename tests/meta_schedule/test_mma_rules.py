"""Does the tiling for tensor cores take mma.sync's intrinsics, for any sizes and types?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from test_cuda_space import cuda_context, drawn, needs_compiler
from test_tensor_core_rules import checked, intrinsics, tiling

from gputune.codegen.cuda.kernel import generate
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import KERNELS
from gputune.kernels.kernel import Shape
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.schedule_rule import MMA_GROUPS
from gputune.schedule import Schedule

CASES: list[tuple[str, str, Shape, str, str]] = [
    ("matmul", "C", {"m": 3, "n": 100, "k": 33}, "float16", "float32"),
    ("matmul", "C", {"m": 40, "n": 50, "k": 20}, "bfloat16", "float32"),
    ("matmul", "C", {"m": 32, "n": 32, "k": 64}, "int8", "int32"),
    ("conv2d", "Y", {"n": 1, "h": 6, "w": 6, "ci": 17, "co": 16}, "float16", "float32"),
]


def sketches(func: PrimFunc, block: str) -> list[Sketch]:
    """One for each order of B that the instructions take."""
    sch = Schedule(func, seed=3)
    _, *found = tiling(intrin_groups=MMA_GROUPS).apply(sch, sch.get_block(block))
    context = cuda_context(func, "sm_86")
    assert context.space_generator is not None
    posts = context.space_generator.postprocs
    return [Sketch(IRModule({func.name: func}), s.trace, posts) for s in found]  # type: ignore[arg-type]  # a list


def candidates(sketch: Sketch, count: int, seed: int) -> list[PrimFunc]:
    rows = drawn(sketch, 256, seed=seed)
    out: list[PrimFunc] = []
    for k in np.flatnonzero(sketch.evaluate(rows).valid)[:count]:
        (func,) = sketch.materialise(rows[k]).mod.functions.values()
        assert isinstance(func, PrimFunc)
        out.append(func)
    assert len(out) == count
    return out


def test_the_groups() -> None:
    """All types of operands and sums, and both orders of B."""
    assert [g["compute"] for g in MMA_GROUPS] == [
        f"mma_{kind}{order}"
        for kind in ("f16f16f32", "f16f16f16", "bf16bf16f32", "i8i8i32", "u8u8i32")
        for order in ("", "_trans_b")
    ]


def test_every_group_that_matches_is_a_candidate() -> None:
    func = KERNELS["matmul"].build({"m": 64, "n": 64, "k": 64}, "bfloat16", out="float32")
    sch = Schedule(func)
    plain, *found = tiling(intrin_groups=MMA_GROUPS).apply(sch, sch.get_block("C"))
    assert intrinsics(plain) == []
    assert [intrinsics(s)[0] for s in found] == ["mma_bf16bf16f32", "mma_bf16bf16f32_trans_b"]


@pytest.mark.parametrize(("name", "block", "shape", "dtype", "out"), CASES)
def test_random_decisions_keep_the_meaning(
    name: str, block: str, shape: Shape, dtype: str, out: str
) -> None:
    kernel = KERNELS[name]
    func = kernel.build(shape, dtype, out=out)
    found = sketches(func, block)
    assert len(found) == 2
    for sketch in found:
        for scheduled in candidates(sketch, 1, seed=5):
            assert "mma.sync" in str(scheduled)
            arrays: list[Any] = list(kernel.arguments(shape, dtype, 3, exact=True, out=out))
            wanted = [a.copy() for a in arrays]
            run(func, *wanted)
            run(scheduled, *arrays)
            for got, want in zip(arrays, wanted, strict=True):
                np.testing.assert_array_equal(got, want)


@needs_compiler
def test_copies_in_the_background() -> None:
    """How far ahead they run is sampled; candidates of all depths are right."""
    kernel, shape = KERNELS["matmul"], {"m": 40, "n": 50, "k": 128}
    func = kernel.build(shape, "float16", out="float32")
    sch = Schedule(func, seed=3)
    rule = tiling(intrin_groups=MMA_GROUPS[:2], use_software_pipeline=True)
    _, *found = rule.apply(sch, sch.get_block("C"))
    context = cuda_context(func, "sm_86")
    assert context.space_generator is not None
    posts = context.space_generator.postprocs
    depths: set[int] = set()
    for new in found[1:]:
        sketch = Sketch(IRModule({func.name: func}), new.trace, posts)  # type: ignore[arg-type]  # a list
        for scheduled in candidates(sketch, 4, seed=8):
            text = generate(scheduled).text
            depths.add(1 + max(map(int, re.findall(r"gt_wait_copies<(\d+)>", text)), default=-1))
            arrays = list(kernel.arguments(shape, "float16", 4, exact=True, out="float32"))
            checked(func, scheduled, arrays, "random")
    assert len(depths) > 1


@needs_compiler
@pytest.mark.parametrize(("name", "block", "shape", "dtype", "out"), CASES)
def test_host_execution_of_candidates(
    name: str, block: str, shape: Shape, dtype: str, out: str
) -> None:
    kernel = KERNELS[name]
    func = kernel.build(shape, dtype, out=out)
    for sketch, order in zip(sketches(func, block), ("reverse", "random"), strict=True):
        (scheduled,) = candidates(sketch, 1, seed=6)
        arrays = list(kernel.arguments(shape, dtype, 4, exact=True, out=out))
        checked(func, scheduled, arrays, order)
