"""Does the timer for GPUs give the time that passes on the device, whatever the regime?"""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cuda_kernels import add_code
from fake_gpu import FakeGpu, number
from test_cuda_function import add

from gputune.errors import RunError
from gputune.runtime.cuda_device import gpu_facts
from gputune.runtime.cuda_gauge import yardstick_or_why
from gputune.runtime.cuda_program import CudaCall
from gputune.runtime.cuda_timer import CudaTimerConfig, CudaTiming, measure_cuda
from gputune.runtime.evaluator import BenchmarkResult
from gputune.runtime.module import build
from gputune.runtime.nvml import Reading
from gputune.runtime.nvml_observer import NvmlFacts


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    fake.kernels["add_kernel"] = add
    fake.install(monkeypatch)
    return fake


def calls(gpu: FakeGpu, copies: int = 1) -> list[CudaCall]:
    f = add_code().function("add")
    out = []
    for _ in range(copies):
        args = [gpu.array(np.zeros(64, np.float32)) for _ in range(3)]
        out.append(f.bind(*args))
    return out


def timed(gpu: FakeGpu, seconds: float, copies: int = 1, **config: Any) -> CudaTiming:
    gpu.seconds["add_kernel"] = seconds
    return measure_cuda(calls(gpu, copies), CudaTimerConfig(**config))


class FakeNvml:
    """Readings one after the other; the last one for good."""

    def __init__(self, *reasons: int) -> None:
        self.reasons = list(reasons)
        self.about: dict[str, Any] = {}

    def read(self) -> Reading:
        now = self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0]
        return Reading(1755, 2619, 300.0, 50, now)

    def others(self) -> int | None:
        return 0


@pytest.mark.parametrize("seconds", [2e-6, 30e-6, 3e-3])
@pytest.mark.parametrize("regime", ["rotate", "flush", "warm"])
def test_the_time_of_a_kernel(gpu: FakeGpu, seconds: float, regime: Any) -> None:
    found = timed(gpu, seconds, 3 if regime == "rotate" else 1, regime=regime, min_repeat_ms=0.2)
    assert isinstance(found, BenchmarkResult)
    assert found.median == pytest.approx(seconds)
    assert found.regime == regime
    assert found.graph == (seconds == 2e-6 and regime != "flush")
    assert len(found.results) >= 5
    assert found.spread == pytest.approx(0, abs=1e-6)
    assert found.nvml is None


def test_batches_last_long_enough(gpu: FakeGpu) -> None:
    assert timed(gpu, 100e-6, regime="warm", min_repeat_ms=5).number in (50, 51)
    short = timed(gpu, 2e-6, 4, min_repeat_ms=2)
    assert short.graph
    assert short.number * 2e-6 >= 1.9e-3
    assert timed(gpu, 2e-6, regime="warm", graph=False).graph is False


def test_copies_take_turns(gpu: FakeGpu) -> None:
    gpu.seconds["add_kernel"] = 50e-6
    rotating = calls(gpu, 4)
    seen: list[int] = []
    gpu.kernels["add_kernel"] = lambda g, sizes, table: seen.append(number(table, 0, "uint64"))
    measure_cuda(rotating, CudaTimerConfig(repeat=1, most=1, min_repeat_ms=0))
    assert len(set(seen)) == 4
    assert all(x != y for x, y in pairwise(seen))


def test_flush_writes_over_the_cache_before_every_call(gpu: FakeGpu) -> None:
    timed(gpu, 10e-6, regime="flush", number=2, repeat=3, most=3)
    kinds = [x[0] for x in gpu.log]
    assert kinds[-12:] == ["memset", "launch"] * 6
    size = next(x[1] for x in gpu.log if x[0] == "memset")
    assert size >= max(128 << 20, 2 * gpu.l2)


def test_hopeless_kernels_are_cut(gpu: FakeGpu) -> None:
    found = timed(gpu, 0.5, regime="rotate", cutoff_s=1e-3)
    assert found.cut
    assert found.results == pytest.approx((0.5,))
    assert len([x for x in gpu.log if x[0] == "launch"]) == 1
    near = timed(gpu, 1.1e-3, cutoff_s=1e-3)
    assert near.cut
    assert near.results[0] == pytest.approx(1.1e-3)
    assert not timed(gpu, 0.9e-3, cutoff_s=1e-3).cut


def test_more_batches_where_times_vary(gpu: FakeGpu) -> None:
    rng = np.random.default_rng(0)
    steady = timed(gpu, 1e-3, min_repeat_ms=0, budget_s=1)
    gpu.noise = lambda: float(rng.uniform(0.8, 1.2))
    noisy = timed(gpu, 1e-3, min_repeat_ms=0, budget_s=1)
    assert len(steady.results) == 5
    assert len(noisy.results) > 20
    assert noisy.spread > 0.1
    assert len(timed(gpu, 1e-3, min_repeat_ms=0, budget_s=0.01).results) <= 12


def test_slowed_batches_are_taken_again(gpu: FakeGpu) -> None:
    gpu.seconds["add_kernel"] = 50e-6
    config = CudaTimerConfig(repeat=4, most=4, regime="warm")
    once: Any = FakeNvml(0x40, 0)
    found = measure_cuda(calls(gpu), config, once)
    assert (len(found.results), found.disturbed) == (4, 0)
    assert found.nvml is not None
    assert found.nvml["slowed"] == ["hardware thermal slowdown"]
    assert found.nvml["sm_mhz"] == 1755
    assert found.nvml["others"] == 0
    always: Any = FakeNvml(0x4)
    found = measure_cuda(calls(gpu), config, always)
    assert (len(found.results), found.disturbed) == (4, 4)  # it is so all the time


def test_clocks_of_batches_that_count(gpu: FakeGpu) -> None:
    gpu.seconds["add_kernel"] = 50e-6
    config = CudaTimerConfig(repeat=4, most=4, regime="warm", retries=2)

    class Slow(FakeNvml):
        """Slowed in the first three batches, at half the clock; then not."""

        asked = 0

        def read(self) -> Reading:
            self.asked += 1
            slow = 2 <= self.asked <= 4  # the first is before all batches
            return Reading(900 if slow else 1800, 2619, 300.0, 50, 0x40 if slow else 0)

    slow: Any = Slow()
    found = measure_cuda(calls(gpu), config, slow)
    assert found.nvml is not None
    facts = NvmlFacts.in_record({"nvml": found.nvml})
    assert facts is not None
    assert (facts.batches, facts.slow_batches, found.disturbed) == (4, 1, 1)  # two were repeated
    assert (facts.readings, facts.sm_mhz, facts.sm_mhz_least) == (4, 1800, 900)
    assert not facts.steady
    assert facts.throttled


def test_long_batches_are_read_again_and_again(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads runs while this one waits for the batch."""
    more = threading.Event()

    class Watched(FakeNvml):
        asked = 0

        def read(self) -> Reading:
            self.asked += 1
            if threading.current_thread() is not threading.main_thread():
                more.set()
            return super().read()

    nvml: Any = Watched(0)
    check = gpu.check

    def wait() -> None:
        check()
        if any(t.name == "gputune-observers" for t in threading.enumerate()):
            assert more.wait(30)

    monkeypatch.setattr(gpu, "check", wait)
    long = CudaTimerConfig(repeat=2, most=2, regime="warm", min_repeat_ms=50)
    gpu.seconds["add_kernel"] = 1e-3
    found = measure_cuda(calls(gpu), long, nvml)
    assert more.is_set()
    assert found.nvml is not None
    assert found.nvml["readings"] > found.nvml["batches"] == 2
    more.clear()
    short = CudaTimerConfig(repeat=2, most=2, regime="warm", min_repeat_ms=5)
    found = measure_cuda(calls(gpu), short, nvml)
    assert not more.is_set()
    assert found.nvml is not None
    assert found.nvml["readings"] == found.nvml["batches"] == 2


def test_readings_that_raise_cost_only_the_readings(gpu: FakeGpu) -> None:
    class Broken(FakeNvml):
        def read(self) -> Reading:
            raise OSError("the library is gone")

    broken: Any = Broken(0)
    found = measure_cuda(calls(gpu), CudaTimerConfig(repeat=3, most=3), broken)
    assert len(found.results) == 3
    assert found.nvml == {"problems": {"nvml": "before: OSError: the library is gone"}}


def test_the_reference_kernel_is_read_before_and_after(gpu: FakeGpu) -> None:
    gpu.kernels["gputune_reference"] = lambda g, sizes, table: None
    gpu.counts["gputune_reference"] = 1
    gpu.seconds["gputune_reference"] = 30e-6
    gpu.seconds["add_kernel"] = 50e-6
    reference, why = yardstick_or_why(gpu.cupy, gpu_facts(gpu.cupy, 0))
    assert reference is not None, why
    assert reference.nominal_s == pytest.approx(30e-6)
    gpu.seconds["gputune_reference"] = 45e-6
    found = measure_cuda(calls(gpu), CudaTimerConfig(regime="warm"), reference=reference)
    assert found.readings == pytest.approx((45e-6,) * 4)
    told = found.as_json()
    assert told["nominal_s"] == pytest.approx(30e-6)
    assert told["reference_s"] == pytest.approx(45e-6)
    cut = measure_cuda(calls(gpu), CudaTimerConfig(cutoff_s=1e-6), reference=reference)
    assert cut.cut
    assert len(cut.readings) == 2


def test_without_the_reference_kernel_there_is_a_reason(gpu: FakeGpu) -> None:
    reference, why = yardstick_or_why(gpu.cupy, gpu_facts(gpu.cupy, 0))
    assert reference is None
    assert "gputune_reference" in why
    assert measure_cuda(calls(gpu), CudaTimerConfig(), reference=reference).readings == ()


def test_time_evaluator(gpu: FakeGpu) -> None:
    gpu.seconds["add_kernel"] = 100e-6
    lib = build(add_code().lowered, "cuda -arch=sm_90")
    args = [gpu.array(np.zeros(64, np.float32)) for _ in range(3)]
    found = lib.time_evaluator("main", number=3, repeat=7)(*args)
    assert len(found.results) == 7
    assert found.mean == pytest.approx(100e-6)
    assert isinstance(found, CudaTiming)
    assert found.regime == "warm"
    flushed = lib.time_evaluator("main", number=2, repeat=2, flush_cache=True)(*args)
    assert isinstance(flushed, CudaTiming)
    assert flushed.regime == "flush"
    assert flushed.number == 2
    assert flushed.results == pytest.approx((100e-6, 100e-6))


def test_refusals(gpu: FakeGpu) -> None:
    for bad in ({"regime": "cold"}, {"repeat": 0}, {"min_repeat_ms": -1}, {"budget_s": "long"}):
        with pytest.raises(RunError, match="CUDA timer"):
            CudaTimerConfig(**bad)
    prepared = calls(gpu)
    gpu.free = 1000
    with pytest.raises(RunError, match="out of memory") as refused:
        measure_cuda(prepared, CudaTimerConfig())
    assert refused.value.code == "out-of-memory"
