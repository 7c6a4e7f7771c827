"""How is a random schedule drawn? Any primitive, any argument of its kind; refusals are fine."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from gputune.errors import ScheduleError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import Block, PrimFunc
from gputune.schedule import BlockRV, LoopRV, Schedule


def _blocks(sch: Schedule, rng: random.Random) -> BlockRV:
    names = [n.name for n in _all_blocks(sch) if n.name != "root"]
    unique = [n for n in names if names.count(n) == 1]
    return sch.get_block(rng.choice(unique))


def _all_blocks(sch: Schedule) -> list[Block]:
    (name,) = sch.mod.functions
    return [x.node for x in sch.tree(name).links.values() if type(x.node) is Block]


def _loop(sch: Schedule, rng: random.Random) -> LoopRV:
    loops = sch.get_loops(_blocks(sch, rng))
    if not loops:
        raise ScheduleError("no loops", code="none")
    return rng.choice(loops)


def _factors(sch: Schedule, loop: LoopRV, rng: random.Random) -> list[Any]:
    extent = const_int(sch.get(loop).extent) or 4
    kind = rng.randrange(3)
    if kind == 0:
        return list(
            sch.sample_perfect_tile(loop, n=rng.choice([1, 2, 2, 3]), max_innermost_factor=64)
        )
    if kind == 1:
        return [None, rng.choice([1, 2, 3, 4, 5])]
    return [rng.choice([2, 3]), None, rng.choice([1, 2])] if extent > 1 else [None, 1]


def step(sch: Schedule, rng: random.Random) -> str:
    """Try one random primitive; returns its name. ScheduleError when it refuses."""
    move = rng.choice(MOVES)
    move[1](sch, rng)
    return move[0]


def _split(s: Schedule, r: random.Random) -> None:
    loop = _loop(s, r)
    s.split(loop, _factors(s, loop, r), r.random() < 0.8, disable_predication=r.random() < 0.2)


def _fuse(s: Schedule, r: random.Random) -> None:
    loops = s.get_loops(_blocks(s, r))
    k = r.randrange(len(loops) + 1)
    s.fuse(*loops[k : k + r.choice([1, 2, 2, 3])], preserve_unit_iters=r.random() < 0.8)


def _reorder(s: Schedule, r: random.Random) -> None:
    loops = s.get_loops(_blocks(s, r))
    r.shuffle(loops)
    s.reorder(*loops[: r.randint(min(1, len(loops)), len(loops))])


def _compute_at(s: Schedule, r: random.Random) -> None:
    s.compute_at(_blocks(s, r), _loop(s, r), r.random() < 0.5, r.choice([-1, -1, -2]))


def _reverse_compute_at(s: Schedule, r: random.Random) -> None:
    s.reverse_compute_at(_blocks(s, r), _loop(s, r), r.random() < 0.5, r.choice([-1, -1, -2]))


def _sampled_location(s: Schedule, r: random.Random) -> None:
    b = _blocks(s, r)
    s.compute_at(b, s.sample_compute_location(b))


def _annotate(s: Schedule, r: random.Random) -> None:
    v = s.sample_categorical([0, 16, 64], [0.25, 0.25, 0.5])
    s.annotate(_loop(s, r), "pragma_auto_unroll_max_step", v)


def _storage_align(s: Schedule, r: random.Random) -> None:
    s.storage_align(_blocks(s, r), 0, r.choice([0, -1, -2]), r.choice([4, 8]), r.choice([0, 1]))


SCOPES = ["global", "local", "shared"]
MOVES: list[tuple[str, Any]] = [
    ("split", _split),
    ("split", _split),
    ("fuse", _fuse),
    ("reorder", _reorder),
    ("reorder", _reorder),
    ("compute_at", _compute_at),
    ("compute_at", _compute_at),
    ("reverse_compute_at", _reverse_compute_at),
    ("reverse_compute_at", _reverse_compute_at),
    ("sample_compute_location", _sampled_location),
    ("compute_inline", lambda s, r: s.compute_inline(_blocks(s, r))),
    ("reverse_compute_inline", lambda s, r: s.reverse_compute_inline(_blocks(s, r))),
    ("cache_read", lambda s, r: s.cache_read(_blocks(s, r), r.choice([0, 0, 1]), r.choice(SCOPES))),
    ("cache_write", lambda s, r: s.cache_write(_blocks(s, r), 0, r.choice(SCOPES))),
    ("decompose_reduction", lambda s, r: s.decompose_reduction(_blocks(s, r), _loop(s, r))),
    ("rfactor", lambda s, r: s.rfactor(_loop(s, r), r.choice([-1, 0, 1]))),
    ("parallel", lambda s, r: s.parallel(_loop(s, r))),
    ("vectorize", lambda s, r: s.vectorize(_loop(s, r))),
    ("unroll", lambda s, r: s.unroll(_loop(s, r))),
    ("bind", lambda s, r: s.bind(_loop(s, r), r.choice(["blockIdx.x", "threadIdx.x"]))),
    ("add_unit_loop", lambda s, r: s.add_unit_loop(_loop(s, r))),
    ("set_scope", lambda s, r: s.set_scope(_blocks(s, r), 0, r.choice(SCOPES))),
    ("storage_align", _storage_align),
    ("annotate", _annotate),
    ("get_producers", lambda s, r: s.get_producers(_blocks(s, r))),
    ("get_consumers", lambda s, r: s.get_consumers(_blocks(s, r))),
]


def inputs(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """Small integers as values, so that sums are exact in any order; outputs are poisoned."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        shape = tuple(int(const_int(e) or 0) for e in b.shape)
        out.append(rng.integers(-4, 5, shape).astype(dtypes.numpy_dtype(b.dtype)))
    return out


def results(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """All buffers after the interpreter ran the program."""
    arrays = inputs(func, seed)
    run(func, *arrays)
    return arrays
