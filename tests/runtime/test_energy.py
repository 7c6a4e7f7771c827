"""Is the energy of a call counted, and is it said why where it is not?"""

from __future__ import annotations

from typing import Any

import pytest
from fake_gpu import FakeGpu
from test_cuda_function import add
from test_cuda_timer import calls

from gputune.runtime.cuda_timer import CudaTimerConfig
from gputune.runtime.energy import Energy, measure_energy
from gputune.runtime.nvml import Reading


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    fake.kernels["add_kernel"] = add
    fake.install(monkeypatch)
    return fake


class Meter:
    """NVML whose counter and power follow from the time that passes on the FakeGpu.

    Args:
        watts: what the GPU draws.
        tick: joules by which the counter moves; 0: it has none.
        lost_after: so many questions for power and for the counter are answered.
    """

    def __init__(
        self, gpu: FakeGpu, watts: float | None = 200.0, tick: float = 1.0, others: int | None = 0,
        lost_after: float = float("inf"), **about: Any,
    ) -> None:  # fmt: skip
        self.gpu, self.watts, self.tick = gpu, watts, tick
        self._others, self.about = others, about
        self.lost_after, self.asked = lost_after, 0

    def _lost(self) -> bool:
        self.asked += 1
        return self.asked > self.lost_after

    def read(self) -> Reading:
        if self.watts is None or self._lost():
            return Reading(1755, problems={"power_w": "GPU is lost"})
        return Reading(1755, 2619, self.watts, 50, 0)

    def energy_j(self) -> tuple[float | None, str]:
        if not self.tick or self._lost():
            return None, "Not Supported"
        passed = sum(s.now for s in self.gpu.streams.values())
        assert self.watts is not None
        return passed * self.watts // self.tick * self.tick, ""

    def others(self) -> int | None:
        return self._others


def measured(gpu: FakeGpu, meter: Any, seconds: float = 1.0, copies: int = 1) -> Energy:
    gpu.seconds["add_kernel"] = 2e-3
    return measure_energy(calls(gpu, copies), CudaTimerConfig(), meter, "", seconds)


def test_the_counter(gpu: FakeGpu) -> None:
    for copies in (1, 3):
        found = measured(gpu, Meter(gpu), copies=copies)
        assert found.problem == ""
        assert found.source == "counter"
        assert found.joules == pytest.approx(200 * 2e-3, rel=0.03)
        assert found.watts == pytest.approx(200, rel=0.03)
        assert found.seconds >= 1.0
        assert found.calls == pytest.approx(found.seconds / 2e-3)
    coarse = measured(gpu, Meter(gpu, tick=30.0))  # a step every 0.15 s
    assert coarse.joules == pytest.approx(200 * 2e-3, rel=0.15)


def test_power_where_there_is_no_counter(gpu: FakeGpu) -> None:
    found = measured(gpu, Meter(gpu, tick=0))
    assert (found.source, found.problem) == ("power", "")
    assert found.joules == pytest.approx(200 * 2e-3)
    still = Meter(gpu, tick=1e9)  # a counter that stands still
    assert measured(gpu, still).source == "power"


def test_why_there_is_none(gpu: FakeGpu) -> None:
    config = CudaTimerConfig()
    assert measure_energy(calls(gpu), config, None, "NVML does not answer").problem == (
        "NVML does not answer"
    )
    assert "MIG is on" in measured(gpu, Meter(gpu, mig=True)).problem
    assert measured(gpu, Meter(gpu, others=2)).problem == "2 other processes used the GPU"
    assert measured(gpu, Meter(gpu, others=None)).problem == ""  # not known: as within containers
    neither = measured(gpu, Meter(gpu, watts=None, tick=0))
    assert neither.problem == "NVML tells neither energy (Not Supported) nor power (GPU is lost)"
    assert neither.joules is None
    stopped = measured(gpu, Meter(gpu, tick=0, lost_after=2))
    assert "stopped telling" in stopped.problem
    assert stopped.as_json()["joules"] is None


def test_nvml_that_is_lost_in_the_middle(gpu: FakeGpu) -> None:
    found = measured(gpu, Meter(gpu, lost_after=30))
    assert found.joules == pytest.approx(200 * 2e-3, rel=0.1)  # of what was told by then
