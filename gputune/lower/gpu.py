"""In which order does a scheduled GPU program become kernels? The passes for CUDA.

First the program as a whole is cut into kernels, then each kernel goes through passes that it
mostly shares with the CPU (see `pipeline`). GPUTUNE_DUMP writes each step, as there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .. import knobs
from ..errors import LowerError
from ..ir.nodes import Buffer, PrimFunc
from .any_order import free_shared_orders
from .barriers import insert_barriers
from .blocks import lower_blocks
from .cache_hints import mark_hints
from .compact import compact_buffers
from .cross_thread import lower_cross_thread
from .fragments import lower_fragments
from .guards import hoist_guards
from .ignored import warn_of_ignored
from .init import lower_init
from .kernels import GpuKernel, split_kernels
from .limits import CpuLimits
from .pipeline import Pass, dump
from .place_memory import place_memory
from .prepare import settle
from .private import check_private
from .races import check_races
from .shared_memory import shorten_lives
from .simplify import simplify_within
from .software_pipeline import mark_pipelines, pipeline_loops
from .vthreads import sink_vthreads
from .warp_memory import lower_warp_memory
from .warps import check_warps
from .whole_tiles import whole_tiles

WHOLE: tuple[Pass, ...] = (
    settle,  # sampled sizes are plain integers
    free_shared_orders,  # reductions that threads share take their elements in any order
    place_memory,  # shared and local buffers live as deep inside as they can
)
KERNEL: tuple[Pass, ...] = (
    mark_pipelines,  # which statements of a loop are its stages
    lower_cross_thread,  # reductions that threads share
    lower_init,  # initial values of reductions become statements
    mark_hints,  # how caches are to take what goes through them
    lower_blocks,  # iterators become their bindings; blocks vanish
    simplify_within,  # unit loops and decided conditions vanish
    compact_buffers,  # shared and local buffers are as small as what is used of them
    sink_vthreads,  # virtual threads take turns only where they differ
    pipeline_loops,  # fetches run ahead of what they are for
    simplify_within,
    lower_warp_memory,  # what warps hold is registers of their lanes
    check_warps,  # what whole warps do together
    lower_fragments,  # of tiles of which it is known, each lane has registers of its own
    check_private,  # registers hold what their own thread wrote
    check_races,  # what no barrier can put in order
    shorten_lives,  # shared memory changes hands between arrays that do not live at once
    insert_barriers,  # where threads exchange data
    hoist_guards,  # conditions stand outside of the loops that do not change them
    whole_tiles,  # and those of elements are asked once for a tile
)
_LIMITS = CpuLimits()  # the passes in common ask for none


@dataclass(frozen=True, slots=True, eq=False)
class GpuProgram:
    """Kernels in the order of their launch, and the buffers in global memory between them."""

    kernels: tuple[GpuKernel, ...]
    workspaces: tuple[Buffer, ...]


def lower_gpu(func: PrimFunc) -> GpuProgram:
    """A scheduled function as kernels; each is a nest of its axes around what one thread does.

    Raises:
        LowerError: naming the pass, and what the program does that a GPU cannot.
    """
    warn_of_ignored(func)
    folder = knobs.DUMP.get()
    for k, step in enumerate(WHOLE):
        func = _run(step, func, func.name)
        if folder:
            dump(Path(folder), k, step.__name__, func)
    try:
        kernels, workspaces = split_kernels(func)
    except LowerError as e:
        raise LowerError(
            f"{func.name}: pass split_kernels: {e.message}", hint=e.hint, code=e.code
        ) from None
    done: list[GpuKernel] = []
    for kernel in kernels:
        body = kernel.func
        for k, step in enumerate(KERNEL, len(WHOLE)):
            body = _run(step, body, func.name)
            if folder:
                dump(Path(folder), k, f"{kernel.name}_{step.__name__}", body)
        done.append(replace(kernel, func=body))
    return GpuProgram(tuple(done), workspaces)


def _run(step: Pass, func: PrimFunc, name: str) -> PrimFunc:
    try:
        return step(func, _LIMITS)
    except LowerError as e:
        raise LowerError(
            f"{name}: pass {step.__name__}: {e.message}", hint=e.hint, code=e.code
        ) from None
