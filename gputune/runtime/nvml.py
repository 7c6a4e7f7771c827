"""How fast does the GPU run at this moment, how hot is it, and who else uses it? NVML, only read.

Nothing here changes a setting of the GPU (`clock_lock` does, when it is asked to). What a GPU or
its driver does not tell is None, and `Reading.problems` says why. What a record keeps of readings
is declared in `nvml_observer`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Bits of "clocks event reasons". While one of these is set, the GPU runs slower than it could.
SLOWING = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
OTHER_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x10: "sync boost", 0x100: "display clocks",
}  # fmt: skip
_CAPPED = 0.995  # a power limit below this share of the default one is somebody's setting


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
        about: what does not change: "driver", "name", "power_limit_w", "power_default_w",
            "max_sm_mhz", "max_mem_mhz", "mig", "ecc", "ecc_errors"; those that NVML tells.
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

    def energy_j(self) -> tuple[float | None, str]:
        """What the GPU has used since its driver was loaded, in joules; or None, and why."""
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000, ""
        except self._nvml.NVMLError as e:
            return None, str(e)

    def others(self) -> int | None:
        """How many processes that are none of ours compute on the GPU; None where NVML does not say
        (in a container it gives numbers of processes that are not ours to see). Ours are this one,
        its parent, and its parent's other workers."""
        n = self._nvml
        try:
            found = {int(p.pid) for p in n.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except n.NVMLError:
            return None
        ours = {pid for pid in found if _is_ours(pid)}
        return len(found - ours) if ours or not found else None

    def _about(self) -> dict[str, Any]:
        n, h = self._nvml, self._handle

        def text(value: Any) -> str:
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

        questions: dict[str, Callable[[], Any]] = {
            "driver": lambda: text(n.nvmlSystemGetDriverVersion()),
            "name": lambda: text(n.nvmlDeviceGetName(h)),
            "power_limit_w": lambda: n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000,
            "power_default_w": lambda: n.nvmlDeviceGetPowerManagementDefaultLimit(h) / 1000,
            "max_sm_mhz": lambda: int(n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
            "max_mem_mhz": lambda: int(n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_MEM)),
            "mig": lambda: bool(n.nvmlDeviceGetMigMode(h)[0]),
            "ecc": lambda: bool(n.nvmlDeviceGetEccMode(h)[0]),
            "ecc_errors": lambda: int(
                n.nvmlDeviceGetTotalEccErrors(
                    h, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC
                )
            ),
        }
        out: dict[str, Any] = {}
        for name, f in questions.items():
            try:
                out[name] = f()
            except n.NVMLError:
                continue  # this GPU does not have it
        return out


def _is_ours(pid: int) -> bool:
    """Is it this process, its parent, or another child of that?"""
    parent = os.getppid()
    if pid in (os.getpid(), parent):
        return True
    try:
        told = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return int(told.rpartition(")")[2].split()[1]) == parent
    except (OSError, ValueError, IndexError):
        return False  # it is gone, or not to be seen from here


def notes(about: Mapping[str, Any]) -> list[str]:
    """What of a GPU's settings (`Nvml.about`) bears on times, in words.

    Example:
        >>> notes({"power_limit_w": 350.0, "power_default_w": 700.0, "mig": False})
        ['its power limit is 350 W, 700 W by default']
    """
    out = []
    limit, default = about.get("power_limit_w"), about.get("power_default_w")
    if limit and default and limit < _CAPPED * default:
        out.append(f"its power limit is {limit:g} W, {default:g} W by default")
    if about.get("mig"):
        out.append("MIG is on: clocks, power and energy are those of the whole GPU")
    if about.get("ecc") is False:
        out.append("ECC is off")
    if about.get("ecc_errors"):
        out.append(f"{about['ecc_errors']} uncorrectable ECC errors since the driver was loaded")
    return out


def nvidia_module() -> tuple[Any, str]:
    """NVIDIA's module pynvml, or None and the reason."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError as e:
        return None, f"nvidia-ml-py cannot be imported ({e})"
    if not hasattr(pynvml, "NVMLError"):
        return None, "the module pynvml is not NVIDIA's: pip uninstall pynvml nvidia-ml-py, then " \
            "pip install nvidia-ml-py"  # fmt: skip
    return pynvml, ""


def bus_ids() -> list[str]:
    """The PCI bus ids of all GPUs that NVML sees; [] where it does not answer."""
    n, _ = nvidia_module()
    if n is None:
        return []
    out: list[str] = []
    try:
        n.nvmlInit()
        for k in range(int(n.nvmlDeviceGetCount())):
            told = n.nvmlDeviceGetPciInfo(n.nvmlDeviceGetHandleByIndex(k)).busId
            out.append(told.decode() if isinstance(told, bytes) else str(told))
    except n.NVMLError:
        pass  # what was seen so far
    return out


def open_nvml(pci_bus_id: str) -> tuple[Nvml | None, str]:
    """NVML's view of a GPU, or None and the reason.

    Args:
        pci_bus_id: such as "0000:3B:00.0"; NVML counts GPUs in another order than CUDA.
    """
    pynvml, problem = nvidia_module()
    if pynvml is None:
        return None, problem
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)), ""
    except pynvml.NVMLError as e:
        return None, f"NVML does not answer ({e})"
