"""Where does an array live, and where does a kernel run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gputune.errors import RunError

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Device:
    """One device: a kind and an index, such as `cpu(0)`."""

    kind: DeviceKind
    index: int = 0

    def __post_init__(self) -> None:
        if type(self.index) is not int or self.index < 0:
            raise RunError(f"a device index is a whole number from 0, found {self.index!r}")

    def __str__(self) -> str:
        return f"{self.kind}({self.index})"

    @property
    def exist(self) -> bool:
        """Can arrays be made and kernels be run here?"""
        return self.kind == "cpu" and self.index == 0

    def sync(self) -> None:
        """Wait until the device has finished. CPU kernels have when their call returns."""
        if not self.exist:
            raise RunError(f"there is no device {self}; this version runs kernels on cpu(0)")


def cpu(index: int = 0) -> Device:
    """The processor; `index` is 0."""
    return Device("cpu", index)


def cuda(index: int = 0) -> Device:
    """A CUDA device by its index."""
    return Device("cuda", index)


def cpu_only(device: Device | str | None, what: str) -> Device:
    """`device` (None: cpu(0)) if it is the processor; RunError, saying what wanted it, if not."""
    if device is None or device == "cpu":
        return Device("cpu")
    if not isinstance(device, Device):
        raise RunError(f"{what}: expected a device such as cpu(), found {device!r}")
    if not device.exist:
        raise RunError(f"{what}: {device} is not available; this version runs kernels on cpu(0)")
    return device
