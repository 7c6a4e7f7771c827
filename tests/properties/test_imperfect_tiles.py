"""Do tiles that divide nothing keep the meaning? Matmul, convolution and softmax of awkward sizes,
tiled by `sample_tile` the way the search does it, on LLVM (vectors with masks, parallel, unrolled)
and on CUDA host execution."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir.nodes import For, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.kernels.conv import KERNELS as CONV
from gputune.kernels.dense import KERNELS as DENSE
from gputune.kernels.rows import KERNELS as ROWS
from gputune.runtime.module import build
from gputune.schedule import LoopRV, Schedule

from .gpu_moves import spatial
from .gpu_moves import tiled as tiled_for_gpu
from .moves import inputs, results
from .on_the_host import check_on_the_host

_PLAIN = {"stride": 1, "dilation": 1, "groups": 1, "padding": 1}
PROGRAMS = {
    "matmul": (DENSE["matmul"].build(m=13, n=37, k=11), ["C"]),
    "conv2d": (CONV["conv2d"].build(n=1, h=5, w=3, ci=2, co=11, kernel=3, **_PLAIN), ["Y"]),
    "softmax": (ROWS["softmax"].build(m=7, n=37), ["top", "power", "total", "B"]),
}


@cache
def expected(name: str) -> list[np.ndarray]:
    """All buffers after the interpreter ran the plain program."""
    return results(PROGRAMS[name][0], 3)


def tile(s: Schedule, block: str, r: random.Random) -> list[list[LoopRV]]:
    """SSRSRS with tiles that need not divide; gives the spatial parts, outermost level first."""
    b = s.get_block(block)
    limits = [1, 4, 8, 16, 32]
    parts = [s.split(x, s.sample_tile(x, 4, r.choice(limits))) for x in spatial(s, b)]
    steps = [s.split(x, s.sample_tile(x, 2, r.choice(limits))) for x in spatial(s, b, "reduce")]
    levels = [list(x) for x in zip(*parts, strict=True)]
    outer, inner = [x[0] for x in steps], [x[1] for x in steps]
    s.reorder(*levels[0], *levels[1], *outer, *levels[2], *inner, *levels[3])
    return levels


def _moves(
    block: str, levels: list[list[LoopRV]], r: random.Random
) -> list[Callable[[Schedule], object]]:
    """What a search does after tiling."""
    return [
        lambda s: s.reverse_compute_at(
            s.cache_write(block, 0, "global"), r.choice(levels[r.choice([0, 1])]), r.random() < 0.8
        ),
        lambda s: s.rfactor(r.choice(spatial(s, s.get_block(block), "reduce")[-1:]), 0),
        lambda s: s.decompose_reduction(block, r.choice(s.get_loops(block))),
        lambda s: s.vectorize(levels[3][-1]),
        lambda s: s.unroll(levels[2][0]),
        lambda s: s.parallel(s.fuse(*levels[0])),
    ]


def for_cpu(func: PrimFunc, blocks: list[str], seed: int) -> Schedule:
    """A random schedule with every loop of some blocks tiled."""
    r = random.Random(seed)
    s = Schedule(func, seed=seed % 2**31, error_render_level="none")
    for block in blocks:
        levels = tile(s, block, r)
        for move in _moves(block, levels, r):
            if r.random() < 0.3:
                continue
            attempt = s.copy()
            try:
                move(attempt)
            except (ScheduleError, IndexError):  # IndexError: nothing to choose from
                continue
            s = attempt
    return s


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_llvm(name: str) -> None:
    func, blocks = PROGRAMS[name]
    seen = {"vectorized": 0, "predicate": 0}

    @settings(max_examples=20, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        sch = for_cpu(func, blocks, seed)
        scheduled = sch.mod[func.name]
        kinds = {x.kind for x in walk_stmt(scheduled.body) if type(x) is For}
        seen["vectorized"] += "vectorized" in kinds
        seen["predicate"] += "T.where" in sch.mod.script()
        arrays = inputs(func, 3)
        build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
        for want, got in zip(expected(name), arrays, strict=True):
            assert np.allclose(want, got, rtol=1e-5, atol=1e-5), str(sch.trace)
        again = Schedule(func, seed=1)
        sch.trace.apply_to_schedule(again)
        assert again.mod.script() == sch.mod.script()

    law()
    assert seen["vectorized"] > 4, seen
    assert seen["predicate"] > 10, seen


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_cuda_host_execution(name: str) -> None:
    func, blocks = PROGRAMS[name]
    block = "total" if name == "softmax" else blocks[0]

    @settings(max_examples=6, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        check_on_the_host(func, tiled_for_gpu(func, block, seed), seed)

    law()
