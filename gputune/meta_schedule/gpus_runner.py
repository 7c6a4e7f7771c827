"""Who measures on one certain GPU, and on several of this machine at once?"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace

from ..runtime.gpus import LocalGpu, choose, worker_on
from ..runtime.process import Worker
from .cuda_runner import CudaRunner
from .logging import console
from .runner import RunnerInput, RunnerResult
from .spread import Lane


def lanes_of(runner: CudaRunner, devices: str | Sequence[int], mixed: bool) -> list[Lane]:
    """The GPUs on which a runner measures.

    Raises:
        RunError: there is no GPU.
        UserError: no such devices; unequal ones, unless `mixed`.
    """
    chosen, left_out = choose(devices, mixed)
    for gpu in left_out:
        console().warning(
            "%s (%s) is left out: the times of different models do not rank together", gpu, gpu.name
        )
    out = []
    for gpu in chosen:
        one = OneGpuRunner(runner, gpu)
        out.append(Lane(f"{gpu} ({gpu.name})", one.measure, one.worker))
    return out


class OneGpuRunner(CudaRunner):
    """Measures as another runner does, on one GPU of this machine; records name it.

    Args:
        like: the settings.
        gpu: the device.
    """

    def __init__(self, like: CudaRunner, gpu: LocalGpu) -> None:
        self.__dict__.update(vars(like))
        self.devices = None
        self.gpu = gpu

    @property
    def worker(self) -> Worker:
        """The worker process on this GPU."""
        return worker_on(self.gpu)

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Time one kernel now."""
        return named(super().measure(x), str(self.gpu), self.gpu.name)


def named(result: RunnerResult, device: str, name: str) -> RunnerResult:
    """A result that says where it is from, as records keep it.

    Args:
        device: such as "cuda:1" or "cpu".
        name: its model.
    """
    where = {"host": platform.node(), "device": device, "name": name}
    return replace(result, extras={**result.extras, "measured_on": where})
