"""A worker process whose GPU is a FakeGpu; kernels misbehave as their names say."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fake_gpu import CudaError, FakeGpu, at, number

from gputune.runtime import worker


def add(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    a, b, c = (at(table, i, 64) for i in range(3))
    np_sum = a + b
    c[...] = np_sum


def wrong(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    add(gpu, sizes, table)
    at(table, 2, 64)[17] += 1


def outside(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    add(gpu, sizes, table)
    at(table, 2, 65)[64] = 3


def changes_input(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    add(gpu, sizes, table)
    at(table, 0, 64)[3] = 7


def hang(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    time.sleep(600)


def crash(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    os.abort()


def sticky(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    gpu.lost = 700


def no_memory(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    raise CudaError(2, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")


def vadd(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    """As `vadd_kernel` of `nvml_library` says."""
    n = int(number(table, 3, "int32"))
    c, a, b = (at(table, i, n) for i in range(3))
    c[...] = a + b


def slowness() -> float:
    """How much longer kernels take at the clock that the fake NVML tells."""
    path = os.environ.get("FAKE_NVML", "")
    if not os.path.exists(path):
        return 1.0
    told = dict(line.split() for line in Path(path).read_text().splitlines())
    return 1980 / int(told.get("sm", "1980"))


def unplug(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    """Device 1 falls off the bus; on others it is `add`."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "1":
        _unplugged("1").touch()
        os.abort()
    add(gpu, sizes, table)


def unplug_all(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    _unplugged(os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    os.abort()


def _unplugged(device: str) -> Path:
    """Is there while a device is not; the folder is the test's."""
    return Path(os.environ.get("FAKE_GPUS", "/nowhere")) / f"unplugged-{device}"


def reference(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    """The kernel that tells how fast the GPU is: it does nothing to memory."""


def overruns(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    """Writes behind its own memory, of 64 numbers."""
    at(table, 2, 65)[:] = 1.0


def last(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    at(table, 0, 64)[...] = at(table, 1, 64)[::-1]


def main() -> None:
    gpu = FakeGpu()
    gpu.noise = slowness
    gpu.kernels["vadd"], gpu.counts["vadd"] = vadd, 4
    gpu.seconds["vadd"] = lambda sizes: 1e-4 * (1 + abs(sizes[3] - 256) / 640)
    for kernel in (
        add, wrong, outside, changes_input, hang, crash, sticky, no_memory, unplug, unplug_all,
    ):  # fmt: skip
        gpu.kernels[f"{kernel.__name__}_kernel"] = kernel
    gpu.kernels |= {"steps_0_kernel": overruns, "steps_1_kernel": last}
    gpu.counts["steps_1_kernel"] = 2
    gpu.kernels["gputune_reference"] = reference
    gpu.counts["gputune_reference"] = 1
    gpu.seconds["gputune_reference"] = 40e-6
    gpu.seconds["wrong_kernel"] = 5e-6
    gpu.seconds["changes_input_kernel"] = 1e-3
    if "--visible-device" in sys.argv:
        device = sys.argv[sys.argv.index("--visible-device") + 1]
        gpu.cupy.cuda.runtime.deviceGetPCIBusId = lambda k: f"0000:0{device}:00.0"
        if _unplugged(device).exists():
            gpu.lost = 999
    gpu.install()
    worker.main(sys.argv[1:])


if __name__ == "__main__":
    main()
