"""Are all GPUs of a machine found, used at once, each by a worker near it, and missed when lost?

The driver is a library built here; workers are real processes whose CuPy is a FakeGpu."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_kernels import SM90, add_func

from gputune.errors import RunError, UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import BuilderInput, LocalBuilder, LocalRunner, RunnerInput
from gputune.meta_schedule.cuda_runner import CudaRunner
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.runner import BestSoFar, RunnerResult
from gputune.meta_schedule.spread import Lane, spread
from gputune.meta_schedule.task_scheduler import verifier_of
from gputune.runtime import gpus
from gputune.runtime.gpus import LocalGpu, check_devices, choose, cpu_list, near_cpus, worker_on

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


# ----------------------------------------------------------------------------- what there is
FIND = """
import json
from gputune.runtime.gpus import driver_gpus
from gputune.errors import RunError
try:
    found = [[g.index, g.name, g.arch, g.pci_bus_id, g.visible] for g in driver_gpus()]
except RunError as e:
    found = str(e)
print(json.dumps(found))
"""


def found_by_driver(tmp_path: Path, told: str, **env: str) -> Any:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    words = [compiler, "-shared", "-fPIC", "-w", "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run([*words, str(HERE / "fake_cuda.c")], check=True, timeout=60)
    inherited = {k: v for k, v in os.environ.items() if k != gpus.VISIBLE}
    own = {"FAKE_CUDA": told, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        [sys.executable, "-c", FIND], env={**inherited, **own}, text=True, check=True, timeout=60,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_driver_is_asked(tmp_path: Path) -> None:
    assert found_by_driver(tmp_path, "3") == [
        [0, "Fake H100", "sm_90", "0000:3A:00.0", "0"],
        [1, "Fake H100", "sm_90", "0000:3B:00.0", "1"],
        [2, "Fake A10", "sm_86", "0000:3C:00.0", "2"],
    ]


def test_a_worker_sees_what_the_variable_says(tmp_path: Path) -> None:
    """CUDA counts from 0 what CUDA_VISIBLE_DEVICES lists; a worker is given the entry itself."""
    found = found_by_driver(tmp_path, "2", CUDA_VISIBLE_DEVICES="5, MIG-1234")
    assert [g[4] for g in found] == ["5", "MIG-1234"]


def test_a_driver_that_does_not_answer(tmp_path: Path) -> None:
    assert "answers cuInit with error 999" in found_by_driver(tmp_path, "broken")


def test_processors_near_a_device(tmp_path: Path) -> None:
    (tmp_path / "0000:3b:00.0").mkdir()
    (tmp_path / "0000:3b:00.0" / "local_cpulist").write_text("0-2,8\n")
    assert near_cpus("0000:3B:00.0", tmp_path) == (0, 1, 2, 8)
    assert near_cpus("0000:3C:00.0", tmp_path) == ()
    assert cpu_list("3") == (3,)
    for nonsense in ("", "a-b", "1-", "-3"):
        assert cpu_list(nonsense) == ()


# ----------------------------------------------------------------------------- which are meant
def a_gpu(index: int, name: str = "Fake H100", cpus: tuple[int, ...] = ()) -> LocalGpu:
    return LocalGpu(index, name, "sm_90", f"0000:0{index}:00.0", str(index), cpus)


def have(monkeypatch: pytest.MonkeyPatch, *there: LocalGpu) -> None:
    monkeypatch.setattr(gpus, "local_gpus", lambda: there)


def test_all_are_those_of_the_first_model(monkeypatch: pytest.MonkeyPatch) -> None:
    one, odd, two = a_gpu(0), a_gpu(1, "Fake A10"), a_gpu(2)
    have(monkeypatch, one, odd, two)
    assert choose("all") == ((one, two), (odd,))
    assert choose("all", mixed=True) == ((one, odd, two), ())
    assert choose([2, 0]) == ((two, one), ())
    assert choose([0, 1], mixed=True) == ((one, odd), ())
    with pytest.raises(UserError, match=r"different models \(Fake H100, Fake A10\)") as refused:
        choose([0, 1])
    assert "mixed=True" in refused.value.hint
    with pytest.raises(UserError, match="devices names 3, 4, and this machine has 3"):
        choose([0, 3, 4])


@pytest.mark.parametrize("devices", ["some", "0", [], [0, 0], [-1], [0.5], ["0"], 3])
def test_what_is_no_list_of_devices(devices: Any) -> None:
    for make in (check_devices, lambda d: CudaRunner(devices=d), lambda d: LocalRunner(devices=d)):
        with pytest.raises(UserError, match="different numbers from 0"):
            make(devices)


def test_functions_of_the_user_measure_on_one_device() -> None:
    with pytest.raises(UserError, match=r"not with devices="):
        LocalRunner(devices="all", f_cleanup=lambda: None)


def test_where_there_is_no_gpu_all_are_none() -> None:
    from gputune.target.host import cuda_problem

    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(RunError, match="measuring on all GPUs needs an NVIDIA GPU"):
        CudaRunner(devices="all").run([])


# ----------------------------------------------------------------------------- measuring
@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalGpu, ...]]:
    cpu = min(os.sched_getaffinity(0))
    there = (a_gpu(0, cpus=(cpu,)), a_gpu(1))
    have(monkeypatch, *there)
    monkeypatch.setattr(gpus, "_COMMAND", (sys.executable, str(HERE / "fake_gpu_worker.py")))
    monkeypatch.setenv("FAKE_GPUS", str(tmp_path))
    worker_on.cache_clear()
    yield there
    for gpu in there:
        worker_on(gpu).close()
    worker_on.cache_clear()


def built(name: str) -> str:
    mod = IRModule({name: add_func(name)})
    (result,) = LocalBuilder(1).build([BuilderInput(mod, SM90)])
    assert result.error_msg is None
    return str(result.artifact_path)


def results(runner: CudaRunner | LocalRunner, *names: str, **more: Any) -> list[RunnerResult]:
    paths = {name: built(name) for name in names}
    inputs = [RunnerInput(paths[name], "cuda", [], **more) for name in names]
    return [f.result() for f in runner.run(inputs)]


def test_a_batch_is_spread_and_records_name_the_device(two_gpus: tuple[LocalGpu, ...]) -> None:
    runner = LocalRunner(devices="all")
    runner.start()
    found = results(runner, *["add"] * 12)
    assert [r.problem for r in found] == [None] * 12
    where = [r.extras["measured_on"]["device"] for r in found]
    assert set(where) == {"cuda:0", "cuda:1"}
    for r, device in zip(found, where):
        # the worker's only device is the one that it was given
        assert r.extras["gpu"]["pci_bus_id"] == f"0000:0{device[-1]}:00.0"
        assert r.extras["measured_on"]["host"] == os.uname().nodename
        assert r.extras["measured_on"]["name"] == "Fake H100"
    near, anywhere = (worker_on(g) for g in two_gpus)
    assert near.pid is not None
    assert anywhere.pid is not None
    assert os.sched_getaffinity(near.pid) == set(two_gpus[0].cpus)
    assert os.sched_getaffinity(anywhere.pid) == os.sched_getaffinity(0)
    verifier = verifier_of(IRModule({"add": add_func()}), SM90, runner, lambda: 1)
    assert verifier is not None
    assert verifier.worker is near


def test_the_first_of_a_task_goes_alone(two_gpus: tuple[LocalGpu, ...]) -> None:
    runner = CudaRunner(devices=[1, 0])
    found = results(runner, *["add"] * 3, best=BestSoFar())
    assert found[0].extras["measured_on"]["device"] == "cuda:1"
    assert [r.problem for r in found] == [None] * 3


def test_bad_candidates_cost_themselves_only(two_gpus: tuple[LocalGpu, ...]) -> None:
    found = results(CudaRunner(devices="all"), "add", "crash", "sticky", "add", "add", "add")
    assert [r.problem is None for r in found] == [True, False, False, True, True, True]
    assert not any(r.is_lost for r in found)


def test_what_a_lost_device_had_goes_to_the_others(
    two_gpus: tuple[LocalGpu, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    runner = CudaRunner(devices="all")
    found = results(runner, *["unplug"] * 10)
    assert [r.problem for r in found] == [None] * 10
    where = [r.extras["measured_on"]["device"] for r in found]
    assert set(where) == {"cuda:0"}
    assert "cuda:1 (Fake H100) is lost" in capsys.readouterr().err
    assert runner.worker is worker_on(two_gpus[0])
    assert results(runner, "add")[0].problem is None  # and stays so


def test_without_any_device_nobody_is_to_blame(two_gpus: tuple[LocalGpu, ...]) -> None:
    found = results(CudaRunner(devices="all"), *["unplug_all"] * 3)
    assert all(r.is_lost for r in found)
    assert "all devices are lost" in str(found[0].problem)


# ----------------------------------------------------------------------------- one helping
def a_lane(measure: Callable[[RunnerInput], RunnerResult], **worker: Any) -> Lane:
    told: Any = SimpleNamespace(**{"pid": 1, "kill": lambda: None, **worker})
    return Lane("a device", measure, told)


def inputs(n: int) -> list[RunnerInput]:
    return [RunnerInput(str(k), "cuda", []) for k in range(n)]


def test_nothing_is_measured_before_it_is_asked() -> None:
    seen: list[str] = []

    def measure(x: RunnerInput) -> RunnerResult:
        seen.append(x.artifact_path)
        return RunnerResult([1.0 + int(x.artifact_path)])

    futures = spread([a_lane(measure)], inputs(9))
    assert seen == []
    assert futures[0].result().run_secs == [1.0]
    assert seen == ["0", "1", "2", "3"]  # a helping, and no more
    assert [f.result().run_secs for f in futures] == [[1.0 + k] for k in range(9)]
    assert sorted(seen) == [str(k) for k in range(9)]


def test_what_was_lost_for_no_fault_of_its_own_is_tried_again() -> None:
    tries: list[str] = []

    def measure(x: RunnerInput) -> RunnerResult:
        tries.append(x.artifact_path)
        lost = RunnerResult.failed(Failure("start", "lost", "no luck"))
        return lost if x.artifact_path == "1" else RunnerResult([1.0])

    futures = spread([a_lane(measure)], inputs(2))
    assert [f.result().is_lost for f in futures] == [False, True]
    assert tries == ["0", "1", "1"]


def test_a_fault_of_ours_is_not_swallowed() -> None:
    def measure(x: RunnerInput) -> RunnerResult:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        spread([a_lane(measure)], inputs(2))[0].result()


def test_ctrl_c_kills_the_kernels_under_way() -> None:
    killed = threading.Event()

    def hangs(x: RunnerInput) -> RunnerResult:
        assert killed.wait(60)
        return RunnerResult.failed(Failure("run", "crash", "killed"))

    def interrupts(x: RunnerInput) -> RunnerResult:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        assert killed.wait(60)
        return RunnerResult([1.0])

    lanes = [a_lane(hangs, kill=killed.set), a_lane(interrupts)]
    futures = spread(lanes, inputs(6))
    with pytest.raises(KeyboardInterrupt):
        futures[0].result()
    assert killed.is_set()


def test_a_worker_is_killed_from_another_thread(two_gpus: tuple[LocalGpu, ...]) -> None:
    """By a signal that is not taken for the system's own, after which it would be asked again."""
    worker = worker_on(two_gpus[1])
    worker.request("ping")
    path = built("hang")
    found: list[RunnerResult] = []
    runner = CudaRunner(devices=[1])
    lane = runner._lanes[0]
    began = threading.Event()
    send = worker._on_message

    def note(message: Any) -> None:
        send(message)
        if message.header.get("began"):
            began.set()

    worker._on_message = note  # type: ignore[method-assign]  # to know when
    measure = threading.Thread(
        target=lambda: found.append(lane.measure(RunnerInput(path, "cuda", [])))
    )
    measure.start()
    assert began.wait(60)
    worker.kill()
    measure.join(60)
    assert found[0].problem is not None
    assert found[0].problem.kind == "crash"
