"""What does NVML say here without privileges, how long does each question take, and does the clock
that it gives follow the GPU within a batch?"""

from __future__ import annotations

import time
from typing import Any

import probe

from gputune.runtime.cuda_device import gpu_facts
from gputune.runtime.nvml import open_nvml

QUESTIONS = {
    "nvmlDeviceGetPowerUsage": (), "nvmlDeviceGetTotalEnergyConsumption": (),
    "nvmlDeviceGetClockInfo": (1,), "nvmlDeviceGetMaxClockInfo": (1,),
    "nvmlDeviceGetTemperature": (0,), "nvmlDeviceGetCurrentClocksEventReasons": (),
    "nvmlDeviceGetEnforcedPowerLimit": (), "nvmlDeviceGetComputeRunningProcesses": (),
    "nvmlDeviceGetMigMode": (), "nvmlDeviceGetEccMode": (), "nvmlDeviceGetUtilizationRates": (),
    "nvmlDeviceGetPersistenceMode": (), "nvmlDeviceGetPowerManagementLimitConstraints": (),
    "nvmlDeviceGetSupportedMemoryClocks": (),
}  # fmt: skip


def compile_all() -> dict[str, Any]:
    return {}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    import pynvml

    nvml, problem = open_nvml(gpu_facts(cp, 0).pci_bus_id)
    if nvml is None:
        return {"problem": problem}
    handle = nvml._handle
    answers: dict[str, Any] = {}
    for name, more in QUESTIONS.items():
        begun = time.perf_counter()
        try:
            value = getattr(pynvml, name)(handle, *more)
            text = str(value)[:80]
        except (pynvml.NVMLError, AttributeError) as e:
            text = f"{type(e).__name__}: {e}"
        answers[name] = [text, round((time.perf_counter() - begun) * 1e6)]
    begun = time.perf_counter()
    idle = nvml.read()
    reading_us = (time.perf_counter() - begun) * 1e6
    a = cp.random.rand(8192, 8192, dtype=cp.float32)
    b = cp.empty_like(a)
    busy = []
    cp.matmul(a, a, out=b)
    cp.cuda.Device().synchronize()
    begun = time.perf_counter()
    for _ in range(20):
        cp.matmul(a, a, out=b)
    while not cp.cuda.get_current_stream().done:
        now = nvml.read()
        busy.append([round((time.perf_counter() - begun) * 1e3, 1), now.sm_mhz, now.power_w,
                     now.reasons])  # fmt: skip
        time.sleep(0.02)
    return {
        "about": nvml.about, "questions": answers, "reading_us": reading_us,
        "others": nvml.others(), "idle": [idle.sm_mhz, idle.power_w, idle.reasons],
        "busy_ms_mhz_w_reasons": busy[:60],
    }  # fmt: skip


if __name__ == "__main__":
    probe.main("nvml_reads", compile_all, measure)
