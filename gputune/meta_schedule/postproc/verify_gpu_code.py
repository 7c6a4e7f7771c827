"""Can the device run the kernels of a schedule? VerifyGPUCode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...target.gpu import GpuLimits
from ..gpu_usage import BLOCK, GRID, KernelUsage, kernels_of
from ..kinds import target_of
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..tune_context import TuneContext

MAX_VTHREAD = 8
"""The most virtual threads of one loop: each keeps what it accumulates in registers."""
MAX_VECTOR_BYTES = 16
"""The widest access of a thread."""
CHOICES = frozenset({"gpu-thread-window", "gpu-vthread"})
"""Codes of refusals that are judgements: a device can run such kernels; they are seldom fast."""


class VerifyGPUCode(Postproc):
    """Refuses schedules whose kernels the device cannot run.

    What is checked, with the limits of the target's device (those of the architecture's table, as
    the target's options change them; shared memory is what a block can have when its launch asks
    for it, not the 48 KiB that it has without):

    * the number of threads is known, in the window that multi-level tiling noted on its block, and
      at most what a block can have, in all and along each axis;
    * the grid is not too long along any axis;
    * a loop over virtual threads has at most 8 iterations;
    * vectorized loops move at most 16 bytes at once;
    * shared memory.

    Everything is read off the scheduled program; nothing is lowered. `last_error` names the limit,
    and its code is one of "gpu-dynamic", "gpu-thread-window", "gpu-threads", "gpu-thread-axis",
    "gpu-grid", "gpu-vthread", "gpu-vector", "gpu-shared". The window and the virtual threads are
    judgements (`choices`): `excusing` gives a postproc that lets one of them pass.
    """

    choices = CHOICES

    def __init__(self) -> None:
        self.limits: GpuLimits | None = None
        self.excused: frozenset[str] = frozenset()

    def excusing(self, code: str) -> VerifyGPUCode:
        """A postproc of its own that does not refuse for `code`."""
        out = copy.copy(self)
        out.excused = self.excused | ({code} & CHOICES)
        return out

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.limits = target.limits

    def apply(self, sch: Schedule) -> bool:
        """Look at every kernel of every function."""
        if self.limits is None:
            self.last_error = ScheduleError(
                "the limits of the device are not known",
                hint="initialise the postproc with a context whose target is cuda",
                code="gpu-limits",
            )
            return False
        for func in sch.mod.functions.values():
            for kernel in kernels_of(func):
                found = faults(kernel, self.limits)
                self.last_error = next((e for e in found if e.code not in self.excused), None)
                if self.last_error is not None:
                    return False
        return True


def faults(kernel: KernelUsage, limits: GpuLimits) -> Iterator[ScheduleError]:
    """Why the device cannot run a kernel, one reason after the other."""

    def error(code: str, text: str, hint: str) -> ScheduleError:
        return ScheduleError(f"kernel of block {kernel.name}: {text}", hint=hint, code=code)

    for name in kernel.dynamic:
        yield error(
            "gpu-dynamic",
            f"the thread-bound loop {name} has no constant extent",
            "a launch has constant sizes",
        )
    for w in kernel.windows:
        low = w.low is not None and w.threads < w.low
        if low or (w.high is not None and w.threads > w.high):
            yield error(
                "gpu-thread-window",
                f"block {w.block} has {int(w.threads)} threads, and asks for {w.low} to {w.high}",
                "sample other tiles for the levels that are bound to threads",
            )
    if kernel.threads > limits.threads_per_block:
        yield error(
            "gpu-threads",
            f"{int(kernel.threads)} threads, and a block of {limits.arch} has at most "
            f"{limits.threads_per_block} (max_threads_per_block)",
            "bind shorter loops to threadIdx",
        )
    for axes, most, code in (
        (BLOCK, limits.block_dims, "gpu-thread-axis"),
        (GRID, limits.grid_dims, "gpu-grid"),
    ):
        for axis, n in zip(axes, most, strict=True):
            if axis in kernel.extents and kernel.extents[axis] > n:
                yield error(
                    code,
                    f"{axis} has {int(kernel.extents[axis])} steps, the most is {n}",
                    "split the loop, or bind it to another axis",
                )
    for found in kernel.vthreads:
        if found > MAX_VTHREAD:
            yield error(
                "gpu-vthread",
                f"{int(found)} virtual threads, the most is {MAX_VTHREAD} (max_vthread)",
                "sample a smaller tile for the level that is bound to vthread",
            )
    for buffer, size in kernel.vectors:
        if size > MAX_VECTOR_BYTES:
            yield error(
                "gpu-vector",
                f"{buffer} is accessed {int(size)} bytes at once, the most is {MAX_VECTOR_BYTES} "
                "(max_vector_bytes)",
                "vectorize a shorter loop",
            )
    if kernel.shared_bytes > limits.shared_per_block:
        yield error(
            "gpu-shared",
            f"{int(kernel.shared_bytes)} bytes of shared memory, and a block of {limits.arch} has "
            f"at most {limits.shared_per_block} (max_shared_memory_per_block)",
            "sample smaller tiles for the levels inside the read caches",
        )
