"""How is a random schedule for a GPU drawn? The moves of `moves`, and those that only GPUs know."""

from __future__ import annotations

import random
from typing import Any

from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.errors import ScheduleError
from gputune.ir.build import const_int
from gputune.ir.nodes import PrimFunc
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.target import Target

from .moves import MOVES, _blocks, _loop, _storage_align, _tensorize

TARGET = Target("cuda -arch=sm_80")
_AXES = ("blockIdx.x", "blockIdx.y", "threadIdx.x", "threadIdx.x", "threadIdx.y", "threadIdx.z")
_NOT_HERE = ("bind", "parallel", "look", "annotate", "unannotate", "enter_postproc", "tensorize")
_INTRINSICS = ("test.dot2", "test.copy2")  # the others are vector code for CPUs
_OTHERS = [
    *[m for m in MOVES if m[0] not in _NOT_HERE],
    ("tensorize", lambda s, r: _tensorize(s, r, _INTRINSICS)),
]


def spatial(s: Schedule, b: BlockRV, kind: str = "spatial") -> list[LoopRV]:
    """The loops around a block that drive iterators of a kind by themselves."""
    node = s.get(b)
    kinds = {v: iv.kind for iv, v in zip(node.iter_vars, node.iter_values, strict=True)}
    return [x for x in s.get_loops(b) if kinds.get(s.get(x).var) == kind]


def _some(found: list[LoopRV]) -> list[LoopRV]:
    if not found:
        raise ScheduleError("no loops", code="none")
    return found


def _tile(s: Schedule, r: random.Random) -> None:
    """A grid of blocks of threads, whether or not the sizes divide."""
    loops = _some(spatial(s, _blocks(s, r)))
    which = sorted(r.sample(range(len(loops)), r.randint(1, min(3, len(loops)))))
    pairs = [s.split(loops[w], [None, r.choice([1, 2, 3, 4, 5])]) for w in which]
    outer, inner = [p[0] for p in pairs], [p[1] for p in pairs]
    s.reorder(*outer, *inner)
    if r.random() < 0.5:
        outer, inner = [s.fuse(*outer)], [s.fuse(*inner)]
    for axis, o, i in zip("xyz", outer, inner, strict=False):
        s.bind(o, f"blockIdx.{axis}")
        s.bind(i, f"threadIdx.{axis}")


def together(s: Schedule, r: random.Random, b: BlockRV) -> None:
    """The innermost loops of a copy become work for all threads."""
    mine = [x for x in s.get_loops(b) if s.get(x).thread is None]
    fused = s.fuse(*_some(mine[-len(s.get(b).iter_vars) :]))
    if r.random() < 0.3:
        fused, lanes = s.split(fused, [None, r.choice([2, 4])])
        s.vectorize(lanes)
    _, thread = s.split(fused, [None, r.choice([2, 3, 4, 5, 8])])
    s.bind(thread, r.choice(["threadIdx.x", "threadIdx.x", "threadIdx.y"]))


def _fetch(s: Schedule, r: random.Random) -> None:
    b = _blocks(s, r)
    copy = s.cache_read(b, r.choice([0, 0, 1]), r.choice(["shared", "shared", "local"]))
    s.compute_at(copy, r.choice(_some(s.get_loops(b))), r.random() < 0.5)
    together(s, r, copy)


def _accumulate(s: Schedule, r: random.Random) -> None:
    b = _blocks(s, r)
    copy = s.cache_write(b, 0, r.choice(["local", "local", "shared"]))
    s.reverse_compute_at(copy, r.choice(_some(s.get_loops(b))), r.random() < 0.5)


def _produce(s: Schedule, r: random.Random) -> None:
    b = _blocks(s, r)
    users = s.get_consumers(b)
    if not users:
        raise ScheduleError("no consumers", code="none")
    s.compute_at(b, r.choice(_some(s.get_loops(r.choice(users)))), r.random() < 0.5)
    if r.random() < 0.7:
        s.set_scope(b, 0, r.choice(["local", "shared", "shared"]))
    if r.random() < 0.5:
        together(s, r, b)


def _across(s: Schedule, r: random.Random) -> None:
    parts = s.split(
        r.choice(_some(spatial(s, _blocks(s, r), "reduce"))), [None, r.choice([2, 3, 4])]
    )
    s.bind(r.choice(parts), r.choice(["threadIdx.x", "threadIdx.y"]))


GPU_MOVES: list[Any] = [
    *[lambda s, r: s.bind(_loop(s, r), r.choice(_AXES))] * 3,
    lambda s, r: s.bind(_loop(s, r), "vthread.x"),
    *[_tile] * 4,
    *[_fetch] * 4,
    *[_accumulate] * 3,
    *[_produce] * 3,
    *[_across] * 3,
    *[lambda s, r: together(s, r, _blocks(s, r))] * 3,
    _storage_align,
]


def random_gpu_schedule(func: PrimFunc, seed: int) -> PrimFunc:
    """A program after up to 9 accepted moves; what is then on no grid gets the default schedule."""
    r = random.Random(seed)
    s = Schedule(func, seed=seed % 2**31, error_render_level="none")
    moves = [_tile] if r.random() < 0.5 else []
    for _ in range(r.randint(2, 9)):
        moves.append(r.choice(GPU_MOVES) if r.random() < 0.65 else r.choice(_OTHERS)[1])
    for move in moves:
        attempt = s.copy()
        try:
            move(attempt, r)
        except ScheduleError:
            continue
        s = attempt
    return default_gpu_schedule(s.mod, TARGET).mod[func.name]


def _four(s: Schedule, loop: LoopRV, r: random.Random) -> list[Any]:
    """Factors for a loop, whether or not they divide it."""
    if r.random() < 0.5:
        return list(s.sample_tile(loop, 4, r.choice([1, 4])))
    return [None, *[r.choice([1, 2, 3, 4]) for _ in range(3)]]


def tiled(func: PrimFunc, block: str, seed: int) -> PrimFunc:
    """The usual tiling of a reduction, as a search would draw it: blocks, virtual threads, threads,
    a result in registers, operands fetched together into shared memory."""
    r = random.Random(seed)
    s = Schedule(func, seed=seed % 2**31, error_render_level="none")
    b = s.get_block(block)
    inputs = len(s.get(b).reads)
    reduce = spatial(s, b, "reduce")
    parts = [s.split(x, _four(s, x, r)) for x in spatial(s, b)]
    grid, virtual, thread, inner = zip(*parts, strict=True)
    steps = [s.split(x, [None, r.choice([1, 2, 3])]) for x in reduce]
    outer = [x[0] for x in steps]
    s.reorder(*grid, *virtual, *thread, *outer, *[x[1] for x in steps], *inner)
    s.bind(s.fuse(*grid), "blockIdx.x")
    s.bind(s.fuse(*virtual), "vthread.x")
    last = s.fuse(*thread)
    s.bind(last, "threadIdx.x")
    width = const_int(s.get(last).extent)

    def result(c: Schedule, _: int) -> None:
        c.reverse_compute_at(c.cache_write(b, 0, "local"), last, True)

    def operand(c: Schedule, k: int) -> None:
        copy = c.cache_read(b, k, "shared")
        c.compute_at(copy, outer[-1], True)
        fused = c.fuse(*c.get_loops(copy)[-len(c.get(copy).iter_vars) :])
        _, middle, lanes = c.split(fused, [None, width, r.choice([1, 2, 4])])
        c.bind(middle, "threadIdx.x")
        c.vectorize(lanes)

    fetched = 0
    for change, k in ((result, 0), *[(operand, k) for k in range(inputs)]):
        attempt = s.copy()
        try:
            change(attempt, k)
        except ScheduleError:
            continue
        s = attempt
        fetched += change is operand
    if fetched and r.random() < 0.5:  # fetches run ahead
        s.annotate(outer[-1], "software_pipeline_stage", [*[0] * fetched, r.choice([1, 1, 2])])
    return default_gpu_schedule(s.mod, TARGET).mod[func.name]
