"""Does a worker with a GPU time, check and run programs, and does a bad one cost only itself?

The worker is a real process whose CuPy is a FakeGpu (`fake_gpu_worker.py`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_kernels import SM90, add_code, add_func, steps_code

from gputune.codegen import llvm
from gputune.errors import GputuneError, RunError, TimeoutExpired
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import BuilderInput, EvaluatorConfig, LocalBuilder, RunnerInput, Verifier
from gputune.meta_schedule import cuda_runner as ms_cuda
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.cuda_runner import CudaRunner
from gputune.meta_schedule.runner import BestSoFar, LocalRunner, Runner
from gputune.runtime import operations
from gputune.runtime.cuda_build import described_arguments
from gputune.runtime.operations import Held
from gputune.runtime.process import Worker
from gputune.target import Target

HERE = Path(__file__).parent
ARGUMENTS = described_arguments(add_func())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    argv = (sys.executable, str(HERE / "fake_gpu_worker.py"))
    with Worker(argv, gpu=True) as w:
        yield w


def ask(worker: Worker, name: str, op: str = "run_cuda", timeout_s: float = 20, **more: Any) -> Any:
    code = add_code(name)
    args = {"cuda": code.as_json(), "arguments": ARGUMENTS, **more}
    blobs: tuple[bytes, ...] = (code.object_code,)
    if op == "check_cuda":
        reference = add_func()
        target = Target("llvm -num-cores=1")
        kernel = llvm.compile(unbound(), target, "add")
        args["reference"] = {"symbol": kernel.symbol}
        blobs = (*blobs, kernel.object_code)
        assert reference.name == "add"
    return worker.request(op, args, blobs, timeout_s)


def unbound() -> Any:
    """The program before anything is bound to threads."""
    from gputune.script import from_source

    return from_source(
        """
@T.prim_func
def add(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32"),
        C: T.Buffer((64,), "float32")):
    for i in range(64):
        with T.block("C"):
            v = T.axis.spatial(64, i)
            C[v] = A[v] + B[v]
"""
    )


# ----------------------------------------------------------------------------- one request
def test_a_measurement(worker: Worker) -> None:
    data = ask(worker, "add").data
    assert data["run_secs"] == pytest.approx([10e-6] * len(data["run_secs"]))
    assert data["timing"]["regime"] == "warm"  # too small for copies that exceed the cache
    assert data["timing"]["graph"] is True
    assert data["gpu"]["name"] == "Fake H100"
    assert data["nvml"] is None
    assert "NVML" in data["nvml_problem"]
    assert data["cut"] is False
    fixed = ask(worker, "add", evaluator={"repeat": 3, "most": 3, "regime": "flush"}).data
    assert len(fixed["run_secs"]) == 3
    assert fixed["timing"]["regime"] == "flush"
    with pytest.raises(RunError, match="evaluator config"):
        ask(worker, "add", evaluator={"rounds": 3})
    assert ask(worker, "add", cutoff_s=1e-6).data["cut"] is True


def test_arguments_rotate_where_they_fit_the_cache_a_few_times(worker: Worker) -> None:
    big = [{**a, "shape": [64 * 1024]} for a in ARGUMENTS]
    code = add_code()
    args = {"cuda": code.as_json(), "arguments": big}
    timing = worker.request("run_cuda", args, (code.object_code,)).data["timing"]
    assert timing["regime"] == "rotate"
    assert timing["copies"] == 4  # 3 x 256 KiB each, the cache has 1 MiB: three times that


def test_the_reference_kernel_is_timed_around_a_measurement(worker: Worker) -> None:
    timing = ask(worker, "add").data["timing"]
    assert timing["reference_s"] == pytest.approx(40e-6)
    assert timing["nominal_s"] == pytest.approx(40e-6)
    assert timing["size"] == 3 * 64 * 4
    assert timing["in_cache"] is True
    without = ask(worker, "add", evaluator={"reference": False}).data["timing"]
    assert "reference_s" not in without


def test_what_writes_around_its_arrays_has_no_time(worker: Worker) -> None:
    with pytest.raises(RunError, match="C: written outside its bounds") as failed:
        ask(worker, "outside")
    assert failed.value.code == "out_of_bounds"
    assert ask(worker, "add").data["run_secs"]  # the margins are whole again


def test_a_programs_own_memory_has_margins_too(worker: Worker) -> None:
    code = steps_code()
    scalar = {"kind": "scalar", "name": "s", "dtype": "float32", "value": 2.0}
    args = {"cuda": code.as_json(), "arguments": [ARGUMENTS[0], scalar, ARGUMENTS[2]]}
    with pytest.raises(RunError, match="W: written outside its bounds") as failed:
        worker.request("outputs_cuda", args, (code.object_code,))
    assert failed.value.code == "out_of_bounds"


def test_a_check_against_what_is_expected(worker: Worker) -> None:
    code = add_code()
    held = [h for h in operations.arguments({"arguments": ARGUMENTS}, 4) if isinstance(h, Held)]
    right = (held[0].array + held[1].array).astype(np.float32)
    args = {"cuda": code.as_json(), "arguments": ARGUMENTS, "seed": 4, "expected": [2]}
    for wanted, ok in ((right, True), (right + 1, False)):
        blobs = (code.object_code, wanted.tobytes())
        assert worker.request("check_cuda", args, blobs).data["ok"] is ok
    with pytest.raises(RunError, match="argument 2 is no array of 4 bytes"):
        worker.request("check_cuda", args, (code.object_code, b"1234"))


def test_outputs(worker: Worker) -> None:
    reply = ask(worker, "add", "outputs_cuda", seed=3)
    assert [x["name"] for x in reply.data["outputs"]] == ["C"]
    assert np.frombuffer(reply.blobs[0], np.float32).shape == (64,)
    with pytest.raises(RunError, match="C: written outside its bounds") as bad:
        ask(worker, "outside", "outputs_cuda")
    assert bad.value.code == "out_of_bounds"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("add", ""), ("wrong", "1 elements differ, worst at [17]"),
     ("outside", "C: written outside its bounds"), ("changes_input", "A: an input was changed")],
)  # fmt: skip
def test_checks(worker: Worker, name: str, reason: str) -> None:
    for seed in (1, 2, 1):
        data = ask(worker, name, "check_cuda", seed=seed).data
        assert data["ok"] == (not reason)
        assert reason in data["reason"]


def test_a_check_against_another_cuda_program(worker: Worker) -> None:
    good, bad = add_code(), add_code("wrong")
    for code, right in ((good, True), (bad, False)):
        args = {
            "cuda": code.as_json(), "reference": {"cuda": good.as_json()}, "arguments": ARGUMENTS,
        }  # fmt: skip
        data = worker.request("check_cuda", args, (code.object_code, good.object_code)).data
        assert data["ok"] == right


# ----------------------------------------------------------------------------- bad candidates
def test_a_sticky_error_costs_the_worker_and_no_more(worker: Worker) -> None:
    ask(worker, "add")
    before = worker.pid
    with pytest.raises(RunError, match="memory that is not there") as failed:
        ask(worker, "sticky")
    assert failed.value.details["phase"] == "run_cuda"
    assert failed.value.code == "cuda-700"
    assert ask(worker, "add").data["run_secs"]
    assert worker.pid != before


def test_hang_and_crash(worker: Worker) -> None:
    with pytest.raises(TimeoutExpired, match=r"run_cuda took longer than its limit of 0\.5 s"):
        ask(worker, "hang", timeout_s=0.5)
    with pytest.raises(RunError, match="SIGABRT"):
        ask(worker, "crash")
    assert ask(worker, "add").data["run_secs"]


def test_out_of_memory_and_wrong_architecture_keep_the_worker(worker: Worker) -> None:
    ask(worker, "add")
    before = worker.pid
    with pytest.raises(RunError, match="out of memory") as failed:
        ask(worker, "no_memory")
    assert failed.value.code == "out-of-memory"
    code = add_code()
    args = {"cuda": {**code.as_json(), "arch": "sm_80"}, "arguments": ARGUMENTS}
    with pytest.raises(RunError, match="built for sm_80, and this GPU is an Fake H100"):
        worker.request("run_cuda", args, (code.object_code,))
    with pytest.raises(RunError, match="no CUDA program"):
        worker.request("run_cuda", {"cuda": {}, "arguments": []}, (b"",))
    assert worker.pid == before


def test_no_gpu_is_nobodys_fault() -> None:
    from gputune.meta_schedule.failures import Failure
    from gputune.target.host import cuda_problem

    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    with Worker(gpu=True) as w, pytest.raises(GputuneError, match="needs an NVIDIA GPU") as failed:
        w.request("run_cuda")
    assert Failure.of(failed.value, "run").infrastructure


# ----------------------------------------------------------------------------- meta_schedule
@pytest.fixture
def tuner_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(ms_cuda, "shared_gpu_worker", lambda: worker)
    return worker


def built(name: str) -> str:
    mod = IRModule({name: add_func(name)})
    (result,) = LocalBuilder(1).build([BuilderInput(mod, SM90)])
    assert result.error_msg is None
    return str(result.artifact_path)


def test_runners(tuner_worker: Worker) -> None:
    path = built("add")
    for runner in (CudaRunner(), LocalRunner(), Runner.create("cuda", timeout_sec=5)):
        (future,) = runner.run([RunnerInput(path, "cuda", [])])
        result = future.result()
        assert result.problem is None
        assert result.seconds == pytest.approx(10e-6)
        assert result.extras["gpu"]["name"] == "Fake H100"
        assert result.extras["facts"]["add_kernel"]["registers"] > 0
        assert "nvml_problem" in result.extras
        assert result.regime == "warm"
        assert result.extras["timing"]["drift"] == 1.0
    cut = CudaRunner().measure(RunnerInput(path, "cuda", [], BestSoFar(1e-9)))
    assert not cut.cut  # what is so short is not worth cutting
    flush = LocalRunner(evaluator_config=EvaluatorConfig(enable_cpu_cache_flush=True))
    assert flush.measure(RunnerInput(path, "cuda", [])).extras["timing"]["regime"] == "flush"
    failed = CudaRunner().measure(RunnerInput(built("sticky"), "cuda", []))
    assert failed.failure is not None
    assert failed.failure.reason == "run cuda-700"
    assert not failed.is_lost


def test_runners_keep_the_regime_and_the_scale_of_a_task(tuner_worker: Worker) -> None:
    path, runner = built("add"), CudaRunner()
    best = BestSoFar()
    assert runner.measure(RunnerInput(path, "cuda", [], best)).regime == "warm"
    assert best.regime == "warm"
    assert best.nominal_s == pytest.approx(40e-6)
    flushed = BestSoFar(regime="flush", nominal_s=32e-6)  # as records of earlier say
    result = runner.measure(RunnerInput(path, "cuda", [], flushed, flop=1e9))
    assert result.regime == "flush"
    assert result.extras["timing"]["drift"] == pytest.approx(1.25)
    assert result.extras["timing"]["corrected"] is True
    assert result.seconds == pytest.approx(8e-6)
    asked = CudaRunner(evaluator={"regime": "warm"})
    assert asked.regime_on("cuda") == "warm"
    assert asked.measure(RunnerInput(path, "cuda", [], flushed)).regime == "warm"


def test_where_nvml_tells_the_clock_the_reference_kernel_corrects_nothing(
    monkeypatch: pytest.MonkeyPatch, tuner_worker: Worker
) -> None:
    real = CudaRunner._ask

    def told(self: CudaRunner, *args: Any) -> Any:
        reply = real(self, *args)
        reply.data["nvml"] = {"sm_mhz": 1200}
        return reply

    monkeypatch.setattr(CudaRunner, "_ask", told)
    best = BestSoFar(nominal_s=32e-6)
    result = CudaRunner().measure(RunnerInput(built("add"), "cuda", [], best))
    assert result.seconds == pytest.approx(10e-6)
    assert result.extras["timing"]["corrected"] is False
    assert result.extras["timing"]["drift"] == pytest.approx(1.25)


def test_drift_is_left_alone_where_that_is_asked_for(tuner_worker: Worker) -> None:
    x = RunnerInput(built("add"), "cuda", [], BestSoFar(nominal_s=32e-6))
    for runner, seconds in (
        (CudaRunner(), 8e-6),
        (CudaRunner(evaluator={"correct_drift": False}), 10e-6),
        (LocalRunner(evaluator_config=EvaluatorConfig(correct_drift=False)), 10e-6),
    ):
        assert runner.measure(x).seconds == pytest.approx(seconds)


def test_a_fresh_process_for_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = (sys.executable, str(HERE / "fake_gpu_worker.py"))
    monkeypatch.setattr(ms_cuda, "fresh_gpu_worker", lambda: Worker(argv, gpu=True))
    for runner in (CudaRunner(evaluator={"regime": "flush"}), LocalRunner()):
        process = runner.fresh_on_gpu()
        assert process is not None
        try:
            process.start()
            process.wait()
            result = process.measure(RunnerInput(built("add"), "cuda", [], BestSoFar(1e-9)))
        finally:
            process.close()
        assert result.problem is None, result
        assert not result.cut  # finalists are timed in full
        assert result.regime == ("flush" if isinstance(runner, CudaRunner) else "warm")
    assert CudaRunner(arguments=ARGUMENTS).fresh_on_gpu() is None
    assert LocalRunner(initializer=lambda: None).fresh_on_gpu() is None


def test_outputs_of_a_runner(tuner_worker: Worker) -> None:
    found = CudaRunner(arguments=ARGUMENTS, seed=5).outputs(Artifact.load(built("add")))
    assert found["C"].shape == (64,)
    other = CudaRunner().with_arguments(ARGUMENTS)
    assert other.arguments == ARGUMENTS


def test_the_verifier(tuner_worker: Worker) -> None:
    workload = IRModule({"add": unbound()})
    verifier = Verifier(workload, SM90, tuner_worker)
    assert verifier.check(Artifact.load(built("add"))).outcome == "right"
    wrong = verifier.check(Artifact.load(built("wrong")))
    assert wrong.outcome == "wrong"
    assert wrong.failure is not None
    assert "elements differ" in wrong.failure.message
    sticky = verifier.check(Artifact.load(built("sticky")))
    assert sticky.outcome == "wrong"
    assert verifier.check(Artifact.load(built("add"))).outcome == "right"
    assert verifier.check_program(IRModule({"add": add_func()})).outcome == "right"


def test_bad_options() -> None:
    with pytest.raises(GputuneError, match="timeout_sec"):
        CudaRunner(timeout_sec=0)
    with pytest.raises(GputuneError, match="regime"):
        CudaRunner(evaluator={"regime": "cold"})
