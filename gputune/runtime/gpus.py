"""Which GPUs does this machine have, and how is a worker started on one of them?

The driver is asked without opening a GPU: only workers have contexts, one worker a GPU. A worker
sees its GPU alone, and runs on the processors that are nearest to it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gputune.errors import RunError, UserError

from .cuda_device import VISIBLE, need_gpu
from .process import Worker

_PCI = Path("/sys/bus/pci/devices")
_MAJOR, _MINOR = 75, 76  # attributes of the driver: compute capability
_COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "gputune.runtime.worker")


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """A GPU of this machine that this process may use.

    Attributes:
        index: its number here, from 0.
        name: as the driver gives it, such as "NVIDIA H100 80GB HBM3".
        arch: such as "sm_90".
        pci_bus_id: such as "0000:3B:00.0".
        visible: what CUDA_VISIBLE_DEVICES of a process holds that is to see it alone.
        cpus: the processors nearest to it; () where Linux does not say.
    """

    index: int
    name: str
    arch: str
    pci_bus_id: str
    visible: str
    cpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"cuda:{self.index}"


def local_gpus() -> tuple[LocalGpu, ...]:
    """The GPUs that this process may use, in CUDA's order.

    Raises:
        RunError: there is none, or no driver or no CuPy; says which.
    """
    need_gpu("measuring on all GPUs")
    return driver_gpus()


@cache
def driver_gpus() -> tuple[LocalGpu, ...]:
    """What the driver says of the GPUs; asked once."""
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        raise RunError(f"the NVIDIA driver does not load: {e}", code="no-gpu") from None

    def call(name: str, *args: Any) -> None:
        if code := getattr(driver, name)(*args):
            raise RunError(f"the NVIDIA driver answers {name} with error {code}", code="no-gpu")

    def text(name: str, device: ctypes.c_int) -> str:
        buffer = ctypes.create_string_buffer(256)
        call(name, buffer, len(buffer), device)
        return buffer.value.decode(errors="replace")

    def number(which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    call("cuInit", 0)
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    named = [x.strip() for x in os.environ.get(VISIBLE, "").split(",") if x.strip()]
    out = []
    for index in range(count.value):
        device = ctypes.c_int()
        call("cuDeviceGet", ctypes.byref(device), index)
        bus = text("cuDeviceGetPCIBusId", device)
        arch = f"sm_{number(_MAJOR, device)}{number(_MINOR, device)}"
        visible = named[index] if index < len(named) else str(index)
        name = text("cuDeviceGetName", device)
        out.append(LocalGpu(index, name, arch, bus, visible, near_cpus(bus)))
    return tuple(out)


def near_cpus(pci_bus_id: str, folder: Path = _PCI) -> tuple[int, ...]:
    """The processors nearest to a PCI device, as Linux tells them; () where it does not."""
    try:
        text = (folder / pci_bus_id.lower() / "local_cpulist").read_text(encoding="ascii")
    except OSError:
        return ()
    return cpu_list(text)


def cpu_list(text: str) -> tuple[int, ...]:
    """The numbers in a list of Linux; () if it is none.

    Example:
        >>> cpu_list("0-3,8,10-11")
        (0, 1, 2, 3, 8, 10, 11)
    """
    out: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()):
            return ()
        out += range(int(first), int(last) + 1)
    return tuple(out)


def choose(
    devices: str | Sequence[int], mixed: bool = False
) -> tuple[tuple[LocalGpu, ...], tuple[LocalGpu, ...]]:
    """Some GPUs of this machine, and those of "all" that are left out.

    Args:
        devices: "all", or numbers. All are those of the same model as the first: times of unequal
            GPUs do not rank together.
        mixed: unequal models are wanted all the same.

    Raises:
        RunError: there is no GPU.
        UserError: no such devices; unequal ones.
    """
    check_devices(devices)
    there = local_gpus()
    if isinstance(devices, str):
        same = tuple([g for g in there if mixed or g.name == there[0].name])
        return same, tuple([g for g in there if g not in same])
    numbers = list(devices)
    if missing := [k for k in numbers if k >= len(there)]:
        raise UserError(
            f"devices names {', '.join(map(str, missing))}, and this machine has {len(there)} "
            "that can be used",
            hint=f"{VISIBLE} may hide some" if os.environ.get(VISIBLE) else "",
            code="devices",
        )
    chosen = tuple([there[k] for k in numbers])
    models = dict.fromkeys(g.name for g in chosen)
    if len(models) > 1 and not mixed:
        raise UserError(
            f"the devices are of different models ({', '.join(models)}), whose times do not rank "
            "together",
            hint="mixed=True measures on all of them all the same",
            code="devices",
        )
    return chosen, ()


def check_devices(devices: str | Sequence[int]) -> None:
    """UserError unless it is "all" or a list of different numbers from 0."""
    if isinstance(devices, str):
        good = devices == "all"
    else:
        numbers = list(devices) if isinstance(devices, Sequence) else []
        whole = all(type(k) is int and k >= 0 for k in numbers)
        good = bool(numbers) and whole and len(set(numbers)) == len(numbers)
    if not good:
        raise UserError(
            f'devices is "all" or a list of different numbers from 0, found {devices!r:.40}',
            code="devices",
        )


@cache
def worker_on(gpu: LocalGpu) -> Worker:
    """This process's one worker on a GPU; it stays warm from one tuning to the next."""
    command = [*_COMMAND, "--visible-device", gpu.visible]
    if gpu.cpus:
        command += ["--cpus", ",".join(map(str, gpu.cpus))]
    return Worker(command, gpu=True, start_timeout_s=120.0)
