"""How fast does the GPU run at this moment, how hot is it, and who else uses it? NVML, only read.

Nothing here changes a setting of the GPU. What a GPU or its driver does not tell is None, and
`Reading.problems` says why.
"""

from __future__ import annotations

import importlib
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Bits of "clocks event reasons". While one of these is set, the GPU runs slower than it could.
SLOWING = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_OTHER_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x10: "sync boost", 0x100: "display clocks",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What NVML says at one moment.

    Attributes:
        sm_mhz: clock of the multiprocessors.
        mem_mhz: clock of the memory.
        power_w: drawn; a mean over about the last second on most GPUs.
        temperature_c: of the chip.
        reasons: why clocks are not higher, as bits; see `slowed`.
        problems: by field, why it is None.
    """

    sm_mhz: int | None = None
    mem_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    reasons: int | None = None
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def slowed(self) -> tuple[str, ...]:
        """Why the GPU runs slower than it could; () if it does not, or does not say."""
        return tuple([text for bit, text in SLOWING.items() if (self.reasons or 0) & bit])


class Nvml:
    """One GPU as NVML sees it; made by `open_nvml`.

    Attributes:
        about: what does not change: "driver", "name", "power_limit_w", "max_sm_mhz",
            "max_mem_mhz", "mig", "ecc"; those that NVML tells.
    """

    def __init__(self, pynvml: Any, handle: Any) -> None:
        self._nvml = pynvml
        self._handle = handle
        self.about = self._about()

    def read(self) -> Reading:
        """What NVML says now; never raises for what it does not."""
        n, h = self._nvml, self._handle
        problems: dict[str, str] = {}

        def ask(name: str, f: Callable[[], Any]) -> Any:
            try:
                return f()
            except n.NVMLError as e:
                problems[name] = str(e)
                return None

        milliwatts = ask("power_w", lambda: n.nvmlDeviceGetPowerUsage(h))
        return Reading(
            ask("sm_mhz", lambda: int(n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM))),
            ask("mem_mhz", lambda: int(n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM))),
            None if milliwatts is None else milliwatts / 1000,
            ask(
                "temperature_c",
                lambda: int(n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
            ),
            ask("reasons", self._reasons),
            problems,
        )

    def _reasons(self) -> int:
        n = self._nvml
        if hasattr(n, "nvmlDeviceGetCurrentClocksEventReasons"):
            try:
                return int(n.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
            except n.NVMLError_FunctionNotFound:
                pass  # a driver before 535 has it under the older name
        return int(n.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))

    def others(self) -> int | None:
        """How many processes beside this one and its parent compute on the GPU; None where NVML
        does not say (in a container it gives numbers of processes that are not ours to see)."""
        n = self._nvml
        try:
            found = {int(p.pid) for p in n.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except n.NVMLError:
            return None
        ours = found & {os.getpid(), os.getppid()}
        return len(found - ours) if ours or not found else None

    def _about(self) -> dict[str, Any]:
        n, h = self._nvml, self._handle

        def text(value: Any) -> str:
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

        questions: dict[str, Callable[[], Any]] = {
            "driver": lambda: text(n.nvmlSystemGetDriverVersion()),
            "name": lambda: text(n.nvmlDeviceGetName(h)),
            "power_limit_w": lambda: n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000,
            "max_sm_mhz": lambda: int(n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
            "max_mem_mhz": lambda: int(n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_MEM)),
            "mig": lambda: bool(n.nvmlDeviceGetMigMode(h)[0]),
            "ecc": lambda: bool(n.nvmlDeviceGetEccMode(h)[0]),
        }
        out: dict[str, Any] = {}
        for name, f in questions.items():
            try:
                out[name] = f()
            except n.NVMLError:
                continue  # this GPU does not have it
        return out


def open_nvml(pci_bus_id: str) -> tuple[Nvml | None, str]:
    """NVML's view of a GPU, or None and the reason.

    Args:
        pci_bus_id: such as "0000:3B:00.0"; NVML counts GPUs in another order than CUDA.
    """
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError as e:
        return None, f"nvidia-ml-py cannot be imported ({e})"
    if not hasattr(pynvml, "NVMLError"):
        return None, "the module pynvml is not NVIDIA's: pip uninstall pynvml nvidia-ml-py, then " \
            "pip install nvidia-ml-py"  # fmt: skip
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)), ""
    except pynvml.NVMLError as e:
        return None, f"NVML does not answer ({e})"


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """Readings taken during one measurement, as a record holds them.

    Example:
        >>> summary([Reading(1755, 2619, 410.0, 51, 4)])["slowed"]
        ['power cap']
    """
    bits = 0
    problems: dict[str, str] = {}
    for r in readings:
        bits |= r.reasons or 0
        problems |= r.problems
    names = {**_OTHER_REASONS, **SLOWING}
    out: dict[str, Any] = {
        "readings": len(readings),
        "sm_mhz": _middle([r.sm_mhz for r in readings]),
        "sm_mhz_least": min([r.sm_mhz for r in readings if r.sm_mhz is not None], default=None),
        "mem_mhz": _middle([r.mem_mhz for r in readings]),
        "power_w": _middle([r.power_w for r in readings]),
        "temperature_c": _middle([r.temperature_c for r in readings]),
        "reasons": [text for bit, text in sorted(names.items()) if bits & bit],
        "slowed": [text for bit, text in SLOWING.items() if bits & bit],
    }
    if problems:
        out["problems"] = problems
    return out


def _middle(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None
