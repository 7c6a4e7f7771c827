"""How is a program scheduled when nothing was tuned? Cheaply, and better than not at all.

For a GPU see `default_gpu_schedule`; here is the CPU. Each block gets the arrangement that helps
most: the axis along which it writes goes innermost and is vectorised, and the outer ones run in
parallel where there is enough to do. A step that a block does not allow is left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from .default_gpu_schedule import default_gpu_schedule
from .errors import BuildError, LowerError, ScheduleError
from .ir import dtypes
from .ir.build import const_int
from .ir.flops import estimate_flops
from .ir.nodes import Block, For, IRModule, PrimFunc, Var
from .ir.walk import uses_var
from .runtime.module import Module, build
from .schedule import BlockRV, LoopRV, Schedule
from .target import Target

# Starting the threads of a region costs about as much as this many operations.
_WORTH_THREADS = 200_000


def default_schedule(func: PrimFunc | IRModule, target: Target) -> Schedule:
    """A schedule of a one-function program, made without a search in milliseconds."""
    if target.kind == "cuda":
        return default_gpu_schedule(func, target)
    sch = Schedule(func, seed=1, error_render_level="none")
    name = next(iter(sch.mod.functions))
    threads = target.num_cores if estimate_flops(sch.mod) >= _WORTH_THREADS else 1
    for block in sch.get_child_blocks(sch.get_block("root", name)):
        with contextlib.suppress(ScheduleError):
            _arrange(sch, block, target, threads)
    return sch


def build_default(func: PrimFunc | IRModule, target: Target) -> tuple[Schedule, Module]:
    """The default schedule and its code; the program as it is, if that cannot be compiled."""
    sch = default_schedule(func, target)
    try:
        return sch, build(sch.mod, target)
    except (LowerError, BuildError):
        if target.kind == "cuda":
            raise  # what is not bound to threads cannot run at all
        sch = Schedule(func, seed=1)
        return sch, build(sch.mod, target)


def _arrange(sch: Schedule, block: BlockRV, target: Target, threads: int) -> None:
    """Reorder, vectorise and parallelise the loops of one block, as far as it allows."""
    node = sch.get(block)
    assert isinstance(node, Block)
    loops = sch.get_loops(block)
    kinds = _kinds(sch, node, loops)
    if kinds is None or not node.writes:
        return
    spatial = [x for x, kind in zip(loops, kinds) if kind == "spatial"]
    reduce = [x for x, kind in zip(loops, kinds) if kind != "spatial"]
    inner = _along(sch, node, spatial)
    outer = [x for x in spatial if x is not inner]
    order = [*outer, *reduce, *([] if inner is None else [inner])]
    if order != loops:
        sch.reorder(*order)
    if inner is not None:
        with contextlib.suppress(ScheduleError):
            _vectorize(sch, inner, target.vector_bytes // dtypes.itemsize(_dtype(node)))
    if threads > 1 and outer:
        with contextlib.suppress(ScheduleError):
            sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
    if reduce:  # last: half a reduction can no longer be vectorised
        with contextlib.suppress(ScheduleError):
            sch.decompose_reduction(block, reduce[0])


def _kinds(sch: Schedule, node: Block, loops: Sequence[LoopRV]) -> list[str] | None:
    """The iterator kind that each loop is bound to; None unless every loop is one iterator."""
    bound = {v: iv.kind for iv, v in zip(node.iter_vars, node.iter_values) if isinstance(v, Var)}
    found = [bound.get(_loop(sch, x).var) for x in loops]
    if len(bound) != len(node.iter_vars) or None in found:
        return None
    return [k for k in found if k is not None]


def _loop(sch: Schedule, loop: LoopRV) -> For:
    node = sch.get(loop)
    assert isinstance(node, For)
    return node


def _dtype(node: Block) -> str:
    return node.writes[0].buffer.dtype


def _along(sch: Schedule, node: Block, spatial: Sequence[LoopRV]) -> LoopRV | None:
    """The loop that walks through what the block writes, and nothing that it reads in strides."""
    region = node.writes[0].region
    last = region[-1].min if region else None
    if not isinstance(last, Var):
        return None
    for r in node.reads:
        if any(uses_var(g.min, last) for g in r.region[:-1]):
            return None
    value = next((v for iv, v in zip(node.iter_vars, node.iter_values) if iv.var is last), None)
    return next((x for x in spatial if _loop(sch, x).var is value), None)


def _vectorize(sch: Schedule, loop: LoopRV, lanes: int) -> None:
    extent = const_int(_loop(sch, loop).extent) or 0
    width = math.gcd(extent, max(1, lanes))
    if width > 1:
        _, vector = sch.split(loop, [None, width])
        sch.vectorize(vector)
