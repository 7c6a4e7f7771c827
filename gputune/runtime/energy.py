"""How much energy does a call of a CUDA program take? By NVML, over a run of a second and more.

The total-energy counter is read after every batch; it moves in steps, so the run is counted from
its first step to its last one. Where there is no counter, the mean of the power that was read
meanwhile is multiplied with the time. Either way it is the whole GPU's energy, what it draws when
idle included, so nothing is said where somebody else uses the GPU, or where it is divided (MIG).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from .cuda_device import cuda_errors
from .cuda_program import CudaCall, current_device
from .cuda_timer import CudaRun, CudaTimerConfig
from .nvml import Nvml
from .nvml_observer import NvmlFacts
from .observe import Subject

LEAST_S = 1.0
"""A shorter run says too little: counters move in steps, and power is a mean over a while."""
_BATCH_MS = 100.0  # so that readings between batches take a small share of the time
_MOST_BATCHES = 100_000


@dataclass(frozen=True, slots=True)
class Energy:
    """What a call took; a record's extras["energy"].

    Attributes:
        joules: a call; None: not known, because of `problem`.
        problem: why it is not known, else "".
        source: "counter" or "power".
        seconds: of the run that was counted.
        calls: in it.
        watts: mean power.
    """

    joules: float | None = None
    problem: str = ""
    source: str = ""
    seconds: float = 0.0
    calls: int = 0
    watts: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def energy_problem(nvml: Nvml | None, nvml_problem: str) -> str:
    """Why this GPU's energy cannot be measured, or ""."""
    if nvml is None:
        return nvml_problem or "there is no NVML"
    if nvml.about.get("mig"):
        return "MIG is on: NVML's energy is that of the whole GPU"
    counter, why = nvml.energy_j()
    if counter is None:
        now = nvml.read()
        if now.power_w is None:
            told = now.problems.get("power_w", "not told")
            return f"NVML tells neither energy ({why}) nor power ({told})"
    return ""


def measure_energy(
    calls: Sequence[CudaCall],
    config: CudaTimerConfig,
    nvml: Nvml | None,
    nvml_problem: str = "",
    seconds: float = LEAST_S,
) -> Energy:
    """Run a program for a while and count its energy.

    Args:
        calls: as of `measure_cuda`.
        config: `graph` of it; the rest is this function's. Arguments take turns, as in the regime
            "rotate": what another one does between calls would be counted.
        seconds: how long at least.

    Raises:
        RunError: the program fails on the device.
    """
    problem = energy_problem(nvml, nvml_problem)
    if problem or nvml is None:
        return Energy(problem=problem)
    loaded = calls[0].loaded
    config = replace(config, regime="rotate", min_repeat_ms=_BATCH_MS, cutoff_s=None)
    with cuda_errors(loaded.host.name), current_device(loaded.cupy, loaded.device):
        run = CudaRun(loaded.cupy, calls, config, nvml)
        run.watch.before(Subject(loaded.host.name, "cuda"))
        points, power = _run(run, nvml, seconds)
        facts = NvmlFacts.in_record({"nvml": run.told(())})
    if facts is not None and facts.others:
        return Energy(problem=f"{facts.others} other processes used the GPU")
    return _by_counter(points) or _by_power(points, power)


@dataclass(frozen=True, slots=True)
class _Point:
    """Where a run stood after a batch: seconds and calls so far, and the counter."""

    seconds: float
    calls: int
    joules: float | None


def _run(run: CudaRun, nvml: Nvml, seconds: float) -> tuple[list[_Point], list[float]]:
    number = run.prepare(run.first())
    points = [_Point(0.0, 0, nvml.energy_j()[0])]
    power: list[float] = []
    for _ in range(_MOST_BATCHES):
        took, calls = run.batch(number)
        watts = nvml.read().power_w
        if watts is not None:
            power.append(watts)
        last = points[-1]
        points.append(_Point(last.seconds + took, last.calls + calls, nvml.energy_j()[0]))
        if _span(points) >= seconds:
            break
        if points[-1].seconds >= 2 * seconds:
            break  # the counter stands still, or there is none
    return points, power


def _steps(points: Sequence[_Point]) -> list[_Point]:
    """The points at which the counter had moved."""
    return [
        b for a, b in pairwise(points)
        if a.joules is not None and b.joules is not None and b.joules > a.joules
    ]  # fmt: skip


def _span(points: Sequence[_Point]) -> float:
    """Seconds from the counter's first step to its last."""
    steps = _steps(points)
    return steps[-1].seconds - steps[0].seconds if len(steps) > 1 else 0.0


def _by_counter(points: Sequence[_Point]) -> Energy | None:
    steps = _steps(points)
    if len(steps) < 2:
        return None
    a, b = steps[0], steps[-1]
    assert a.joules is not None
    assert b.joules is not None
    joules, seconds, calls = b.joules - a.joules, b.seconds - a.seconds, b.calls - a.calls
    if calls < 1 or seconds <= 0:
        return None
    return Energy(joules / calls, "", "counter", seconds, calls, joules / seconds)


def _by_power(points: Sequence[_Point], power: Sequence[float]) -> Energy:
    last = points[-1]
    if not power or last.calls < 1:
        return Energy(problem="NVML stopped telling energy and power during the run")
    watts = statistics.fmean(power)
    joules = watts * last.seconds / last.calls
    if not (math.isfinite(joules) and joules > 0):
        return Energy(problem=f"NVML's power of {watts:g} W cannot be")
    return Energy(joules, "", "power", last.seconds, last.calls, watts)
