"""Do records say what NVML said, and does a tuning get by with whatever it says?

A worker process with a FakeGpu, whose kernels run slower at a lower clock, and a libnvidia-ml built
here. The test changes what that answers, from the outside or by an observer between two
measurements."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvml_library import Answers, gpu_worker
from test_cuda_operations import ask, built

import gputune as gt
from gputune.errors import RunError
from gputune.meta_schedule import RunnerInput
from gputune.meta_schedule import cuda_runner as ms_cuda
from gputune.meta_schedule.cuda_runner import CudaRunner
from gputune.runtime.nvml_observer import NvmlFacts
from gputune.runtime.process import Worker

TEXT = """\
extern "C" __global__ void vadd(float* c, const float* a, const float* b, int n) {
  int i = blockIdx.x * BX + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
"""
N = 1000
A, B = np.linspace(-1, 1, N, dtype=np.float32), np.linspace(3, 0, N, dtype=np.float32)
BY_TIME = [256, 128, 64, 512]
"""The values of BX, the fastest first; see `fake_gpu_worker.main`."""
USUAL = {"sm": 1980}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answers, Worker]]:
    with pytest.MonkeyPatch.context() as patch:
        answers = Answers(tmp_path_factory.mktemp("nvml"), patch)
        patch.setenv("XDG_CACHE_HOME", str(answers.path.parent / "cache"))
        answers.set(**USUAL)
        with gpu_worker() as w:
            yield answers, w


@pytest.fixture
def worker(
    started: tuple[Answers, Worker], monkeypatch: pytest.MonkeyPatch
) -> tuple[Answers, Worker]:
    answers, w = started
    answers.set(**USUAL)
    answers.log.unlink(missing_ok=True)
    monkeypatch.setattr(ms_cuda, "shared_gpu_worker", lambda: w)
    monkeypatch.setattr(ms_cuda, "_PAUSE_S", 0.0)
    monkeypatch.setattr(ms_cuda, "ENERGY_S", 0.2)
    return answers, w


def tuned(**options: Any) -> Any:
    kernel = gt.cuda_kernel(
        "vadd", source=TEXT, params={"BX": [64, 128, 256, 512]}, outputs=("c",),
        grid=lambda p, c, a, b, n: gt.cdiv(int(n), p.BX), block=lambda p: p.BX,
    )  # fmt: skip
    given: dict[str, Any] = {
        "reference": lambda c, a, b, n: {"c": a + b}, "target": "cuda -arch=sm_90",
        "runner": CudaRunner(), "cost_model": "none", "seed": 1,
    }  # fmt: skip
    args = (np.zeros(N, np.float32), A, B, np.int32(N))
    return gt.tune_kernel(kernel, args, **{**given, **options})


def order(r: Any) -> list[int]:
    return [m.params.BX for m in r.measured]


class Between(gt.Observer):
    """Changes the answers before each measurement."""

    def __init__(self, answers: Answers, *told: dict[str, int]) -> None:
        self.answers, self.told, self.count = answers, told, 0

    def before(self, subject: Any) -> None:
        self.answers.set(**self.told[self.count % len(self.told)])
        self.count += 1

    def results(self) -> dict[str, Any]:
        return {"at": (self.count - 1) % len(self.told)}


# ----------------------------------------------------------------------------- what records say
def test_facts_of_a_measurement(worker: tuple[Answers, Worker]) -> None:
    result = CudaRunner().measure(RunnerInput(built("add"), "cuda", []))
    told = result.extras["nvml"]
    facts = NvmlFacts.in_record(result.extras)
    assert facts is not None
    assert (facts.sm_mhz, facts.mem_mhz, facts.power_w, facts.temperature_c) == (
        1980, 2619, 300.0, 50
    )  # fmt: skip
    assert facts.others == 0
    assert facts.batches == len(result.run_secs or [])
    assert facts.readings >= facts.batches
    assert "problems" not in told
    gpu = result.extras["gpu"]
    assert (gpu["reference_sm_mhz"], gpu["reference_mem_mhz"]) == (1980, 2619)
    assert (gpu["nvml_mig"], gpu["nvml_ecc"], gpu["nvml_power_limit_w"]) == (False, True, 700.0)
    assert gpu["nvml_power_default_w"] == 700.0
    cut = ask(worker[1], "add", cutoff_s=1e-6).data
    assert cut["cut"]
    assert cut["nvml"]["readings"] == 0
    assert cut["nvml"]["sm_mhz"] == 1980


def test_at_70_percent_of_the_clock_the_ranking_does_not_change(
    worker: tuple[Answers, Worker],
) -> None:
    answers, _ = worker
    assert order(tuned()) == BY_TIME
    toggle = Between(answers, {"sm": 1386}, {"sm": 1980})
    r = tuned(observers=[toggle])
    assert order(r) == BY_TIME
    factors = [m.extras["clock"]["factor"] for m in r.measured]
    assert sorted(factors) == pytest.approx([0.7, 0.7, 1.0, 1.0])
    assert {m.extras["clock"]["bound"] for m in r.measured} == {"compute"}
    assert [m.extras["observed"]["Between"]["at"] for m in r.measured] == [
        0 if f < 1 else 1 for f in factors
    ]
    assert r.best.seconds == pytest.approx(1e-4)


# ----------------------------------------------------------------------------- what may go wrong
def test_nvml_that_fails_in_the_middle(worker: tuple[Answers, Worker]) -> None:
    answers, _ = worker
    lost = dict.fromkeys(
        ("sm_rc", "mem_rc", "power_rc", "temp_rc", "reasons_rc", "processes_rc", "energy_rc"), 15
    )
    r = tuned(observers=[Between(answers, USUAL, USUAL, lost, lost)])
    assert order(r) == BY_TIME
    told = sorted((m.extras["nvml"] for m in r.measured), key=lambda x: x.get("problems") is None)
    assert [x["sm_mhz"] for x in told] == [None, None, 1980, 1980]
    assert told[0]["problems"] == dict.fromkeys(
        ("sm_mhz", "mem_mhz", "power_w", "temperature_c", "reasons"), "GPU is lost"
    )
    assert told[0]["others"] is None
    assert sorted("clock" in m.extras for m in r.measured) == [False, False, True, True]


def test_nvml_that_fails_within_a_measurement(tmp_path: Path) -> None:
    """A library that counts: after so many questions for a clock the GPU is lost."""
    with pytest.MonkeyPatch.context() as patch:
        answers = Answers(tmp_path, patch)
        # the reference's, and some of the first measurement's
        answers.set(sm=1980, lost_after=8)
        with gpu_worker() as w:
            data = ask(w, "add").data
            assert len(data["run_secs"]) >= 5
            assert data["nvml"]["problems"] == {"sm_mhz": "GPU is lost", "mem_mhz": "GPU is lost"}
            assert data["nvml"]["sm_mhz"] == 1980  # of what was read by then
            assert data["gpu"]["reference_sm_mhz"] == 1980
            again = ask(w, "add").data
            assert again["nvml"]["sm_mhz"] is None
            assert again["run_secs"]


def test_without_nvml_times_are_as_good(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Answers(tmp_path, patch).set(init_rc=4)
        with gpu_worker() as w:
            data = ask(w, "add").data
            assert data["nvml"] is None
            assert data["nvml_problem"] == "NVML does not answer (Insufficient Permissions)"
            assert "reference_sm_mhz" not in data["gpu"]
            told = w.request("gpu_cuda").data
            assert told["energy_problem"] == data["nvml_problem"]


# ----------------------------------------------------------------------------- slowed
def test_slowed_measurements_are_repeated_a_few_times(
    worker: tuple[Answers, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, _ = worker
    answers.set(sm=1386, reasons=64)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            answers.set(**USUAL)  # it has cooled down

    monkeypatch.setattr(ms_cuda, "time", SimpleNamespace(sleep=pause))
    path, runner = built("add"), CudaRunner()
    result = runner.measure(RunnerInput(path, "cuda", []))
    assert result.extras["repeated"] == 2
    assert not result.extras["nvml"]["slow_batches"]
    assert result.seconds == pytest.approx(10e-6)
    assert "repeated" not in runner.measure(RunnerInput(path, "cuda", [])).extras
    answers.set(sm=1386, reasons=64)
    pauses[:] = [0.0] * 9  # it does not cool down any more
    told = [runner.measure(RunnerInput(path, "cuda", [])).extras for _ in range(5)]
    # after three that stayed slowed it is taken to be how this GPU is
    assert [x.get("repeated", 0) for x in told] == [2, 2, 2, 0, 0]
    assert all(x["nvml"]["slow_batches"] == x["nvml"]["batches"] > 0 for x in told)
    assert told[0]["nvml"]["slowed"] == ["hardware thermal slowdown"]
    answers.set(**USUAL)
    runner.measure(RunnerInput(path, "cuda", []))
    answers.set(sm=1386, reasons=64)
    assert runner.measure(RunnerInput(path, "cuda", [])).extras["repeated"] == 2


# ----------------------------------------------------------------------------- shared
def test_a_shared_gpu(worker: tuple[Answers, Worker]) -> None:
    answers, w = worker
    ask(w, "add")
    assert w.pid is not None
    shared = {**USUAL, "processes": 3, "own_pid": w.pid}
    answers.set(**shared)
    with pytest.raises(RunError, match="while others computed on the GPU, and do not rank"):
        tuned()
    assert order(tuned(shared_gpu=True)) == BY_TIME
    r = tuned(observers=[Between(answers, USUAL, shared)])
    assert [m.status for m in r.measured].count("shared GPU") == 2
    assert r.best.measured.extras["nvml"]["others"] == 0
    assert all(m.extras["nvml"]["others"] == 2 for m in r.measured if m.status == "shared GPU")
    assert "shared GPU" in r.table()


# ----------------------------------------------------------------------------- energy
def test_energy(worker: tuple[Answers, Worker]) -> None:
    answers, _ = worker
    answers.set(**USUAL, energy_step=2000)
    x = RunnerInput(built("changes_input"), "cuda", [])
    told = CudaRunner().energy(x)
    assert (told["source"], told["problem"]) == ("counter", "")
    assert told["joules"] > 0
    answers.set(**USUAL, energy_rc=3)
    told = CudaRunner().energy(x)
    assert told["source"] == "power"
    assert told["joules"] == pytest.approx(300 * 1e-3, rel=0.01)
    answers.set(**USUAL, energy_rc=3, power_rc=4)
    told = CudaRunner().energy(x)
    assert told["joules"] is None
    assert told["problem"] == (
        "NVML tells neither energy (Not Supported) nor power (Insufficient Permissions)"
    )
    with pytest.raises(gt.UserError, match=r"energy cannot be measured: NVML tells neither"):
        tuned(objective="energy")
    answers.set(**USUAL, energy_rc=3)
    r = tuned(objective="energy")  # power is the same for all: the fastest
    assert order(r) == BY_TIME
    assert r.best.measured.joules == pytest.approx(300 * 1e-4, rel=0.01)


# ----------------------------------------------------------------------------- locked clocks
def test_clocks_are_locked_for_a_tuning_only(worker: tuple[Answers, Worker]) -> None:
    answers, w = worker
    may = {**USUAL, "may_lock": 1}
    answers.set(**may)
    seen: list[list[str]] = []

    class Look(gt.Observer):
        def before(self, subject: Any) -> None:
            seen.append(answers.changes())
            if len(seen) == 2 and w.pid is not None:
                os.kill(w.pid, signal.SIGKILL)  # the worker is no part of it

    r = tuned(lock_clocks=1200, observers=[Look()])
    assert seen == [["lock 1200 1200"]] * 4
    assert answers.changes() == ["lock 1200 1200", "reset 0 0"]
    assert {m.extras["locked_clocks"] for m in r.measured} == {"1200 MHz"}
    assert order(r) == BY_TIME
    with pytest.raises(ZeroDivisionError):
        tuned(lock_clocks=True, progress=lambda now: 1 / 0)
    assert answers.changes()[2:] == [f"lock {0xFFFFFF01} {0xFFFFFF01}", "reset 0 0"]

    def interrupt(now: Any) -> None:
        if now.phase == "measure" and now.trials:
            raise KeyboardInterrupt

    r = tuned(lock_clocks=900, progress=interrupt)
    assert r.summary.interrupted
    assert answers.changes()[4:] == ["lock 900 900", "reset 0 0"]


def test_without_permission_it_goes_on_and_says_so(
    worker: tuple[Answers, Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    answers, _ = worker
    answers.set(**USUAL, may_lock=1, lock_rc=4)
    r = tuned(lock_clocks=1200)
    assert order(r) == BY_TIME
    assert answers.changes() == []
    assert not any("locked_clocks" in m.extras for m in r.measured)
    assert "Clocks are not locked: Insufficient Permissions" in capsys.readouterr().err


def test_the_reference_follows_a_locked_clock(worker: tuple[Answers, Worker]) -> None:
    """Locked at 70 %, all run alike: no time is corrected, and none afterwards."""
    answers, _ = worker
    locked = {"sm": 1386, "may_lock": 1}
    answers.set(**locked)
    r = tuned(lock_clocks=1386)
    assert [m.extras["clock"]["factor"] for m in r.measured] == [1.0] * 4
    answers.set(**USUAL)
    CudaRunner().about(again=True)
    assert tuned().best.measured.extras["clock"]["factor"] == 1.0


# ----------------------------------------------------------------------------- doctor
DOCTOR = """
import os
from pathlib import Path
from gputune.cli import doctor
print([f for f in doctor._gpus()])
told = "limit 350000\\nmig 1\\necc 0\\nprocesses 2\\npower_rc 4\\nown_pid " + str(os.getpid())
Path(os.environ["FAKE_NVML"]).write_text(told + "\\n")
print([f for f in doctor._gpus()])
"""


def test_the_doctor_tells_of_the_gpu(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Answers(tmp_path, patch)
        done = subprocess.run(
            [sys.executable, "-c", DOCTOR], capture_output=True, text=True, timeout=120,
            check=True, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
    good, bad = done.stdout.splitlines()
    assert "0000:3B:00.0 Fake: clocks, power, temperature and energy can be read" in good
    assert "state='ok'" in good
    assert "state='note'" in bad
    for text in (
        "its power limit is 350 W, 700 W by default", "MIG is on", "ECC is off",
        "1 other processes compute on it", "power_w cannot be read (Insufficient Permissions)",
        "energy cannot be measured (MIG is on",
    ):  # fmt: skip
        assert text in bad
