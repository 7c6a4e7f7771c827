"""Do padding, dilation, strides and spread data keep their values, however tiles meet the edges?
Convolutions, pools and transposed convolutions of random sizes, their padding inlined, cached at a
loop or left alone, on LLVM against the interpreter; and nothing outside of a buffer is read."""

from __future__ import annotations

import ctypes
import mmap
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir import walk
from gputune.ir.nodes import Call, IfThenElse, PrimFunc
from gputune.kernels.conv import KERNELS as CONV
from gputune.kernels.conv_variants import KERNELS as VARIANTS
from gputune.kernels.pool import KERNELS as POOL
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.runtime.module import build
from gputune.schedule import Schedule

from .gpu_moves import spatial
from .moves import inputs, results

_LIMITS = CpuLimits(64, 32, 1)


def program(kind: str, r: random.Random) -> PrimFunc:
    """An operator with padding, of a random odd size."""
    kernel, stride = r.choice([1, 2, 3, 4]), r.choice([1, 2, 3])
    size = {"n": 1, "kernel": kernel, "stride": stride}
    if kind == "conv1d":
        return CONV[kind].build(
            w=r.randint(7, 40), ci=r.choice([1, 3]), co=r.choice([5, 16]), groups=1,
            padding=r.randint(0, 3), dilation=r.choice([1, 2]), **size,
        )  # fmt: skip
    h, w = r.randint(7, 19), r.randint(7, 23)
    if kind == "conv2d":
        return CONV[kind].build(
            h=h, w=w, ci=2, co=r.choice([2, 16]), groups=r.choice([1, 2]),
            padding=r.randint(0, 3), dilation=r.choice([1, 2]), **size,
        )  # fmt: skip
    if kind == "depthwise_conv2d":
        return VARIANTS[kind].build(
            h=h, w=w, c=r.choice([3, 16, 17]), factor=1, padding=r.randint(0, 2), **size
        )
    if kind == "conv2d_transpose":
        padding = r.randint(0, kernel - 1)
        h, w = r.randint(3, 6), r.randint(3, 6)
        return VARIANTS[kind].build(h=h, w=w, ci=3, co=r.choice([3, 16]), padding=padding, **size)
    return POOL[kind].build(
        h=h, w=w, c=r.choice([3, 16]), padding=r.randint(0, kernel // 2), **size
    )


def scheduled(func: PrimFunc, r: random.Random) -> Schedule:
    """Tiles, and a place for the padding; moves that are refused are left out."""
    s = Schedule(func, seed=1, error_render_level="none")
    inlined = r.random() < 0.5
    if inlined:
        s.compute_inline("P")
    block = s.get_block("Y" if func.name != "avg_pool2d" else "S")
    outer, inner = [], []
    for x in spatial(s, block):
        a, b = s.split(x, s.sample_tile(x, 2, r.choice([1, 4, 8, 16])))
        outer.append(a)
        inner.append(b)
    steps = spatial(s, block, "reduce")
    r.shuffle(steps)
    s.reorder(*outer, *steps, *inner)
    at = r.choice([*outer, *steps])
    moves: list[Callable[[Schedule], object]] = [
        lambda t: t.vectorize(inner[-1]),
        lambda t: t.parallel(t.fuse(*outer[:2])) if r.random() < 0.5 else t.parallel(outer[0]),
        lambda t: t.decompose_reduction(block, r.choice(steps)),
        *[lambda t, x=x: t.unroll(x) for x in (*inner[:-1], *steps) if r.random() < 0.5],
    ]
    if not inlined:
        moves.append(lambda t: t.compute_at("P", at, True))
        moves.append(lambda t: t.vectorize(t.get_loops("P")[-1]))
        moves.append(lambda t: t.unroll(t.get_loops("P")[-2]))
    r.shuffle(moves)
    for move in moves:
        attempt = s.copy()
        try:
            move(attempt)
        except (ScheduleError, IndexError):
            continue
        s = attempt
    return s


KINDS = ("conv1d", "conv2d", "depthwise_conv2d", "conv2d_transpose", "max_pool2d", "avg_pool2d")


@pytest.mark.parametrize("kind", KINDS)
def test_values(kind: str) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        r = random.Random(seed)
        func = program(kind, r)
        sch = scheduled(func, r)
        plain = lower(sch.mod[func.name], _LIMITS)
        seen["branch"] += any(type(x) is IfThenElse for x in walk.walk_stmt(plain.body))
        seen["choice"] += any(
            type(x) is Call and x.op == "if_then_else" for x in walk.all_exprs(plain.body)
        )
        arrays = inputs(func, 3)
        build(sch.mod, "llvm --num-cores=1")[func.name](*arrays)
        for want, got in zip(results(func, 3), arrays, strict=True):
            assert np.allclose(want, got, rtol=1e-6, atol=1e-6), f"{func}\n{sch.trace}"

    law()
    assert seen["branch"] > 4, seen


class Guarded:
    """Memory between two pages that nobody may touch."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.size, self.room = size, -(-size // page) * page
        self.map = mmap.mmap(-1, self.room + 2 * page)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        for at in (self.start, self.start + page + self.room):
            assert libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0

    def array(self, like: np.ndarray, last: bool) -> np.ndarray:
        """A copy of `like` right behind the first page, or right before the last."""
        at = mmap.PAGESIZE + (self.room - self.size if last else 0)
        out = np.frombuffer(self.map, like.dtype, like.size, at).reshape(like.shape)
        out[...] = like
        return out


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="needs mprotect")
@pytest.mark.parametrize("kind", ["conv2d", "depthwise_conv2d", "conv2d_transpose", "max_pool2d"])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_chosen_is_not_read(kind: str, last: bool) -> None:
    """A load outside of the data, masked or thrown away, would end the process here."""
    for seed in range(6):
        r = random.Random(seed)
        func = program(kind, r)
        sch = scheduled(func, r)
        arrays = inputs(func, 3)
        held = [Guarded(a.nbytes) for a in arrays]
        placed = [g.array(a, last) for g, a in zip(held, arrays, strict=True)]
        build(sch.mod, "llvm --num-cores=1")[func.name](*placed)
        for want, got in zip(results(func, 3), placed, strict=True):
            assert np.allclose(want, got, rtol=1e-6, atol=1e-6)
