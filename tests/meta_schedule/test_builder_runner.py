"""Do builder and runner answer for every candidate, whatever it does? Are wrong numbers found?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, matmul, split_j

from gputune.errors import RunError, UserError
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule import (
    ArgInfo,
    Builder,
    BuilderInput,
    BuilderResult,
    EvaluatorConfig,
    LocalBuilder,
    LocalRunner,
    PyBuilder,
    PyRunner,
    PyRunnerFuture,
    Runner,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
    Verifier,
    artifact,
    derived_object,
)
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.runner import BestSoFar, shared_worker
from gputune.runtime import operations
from gputune.runtime.module import build
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target import Target

LLVM = Target(TARGET)
ARGS = ArgInfo.from_entry_func(matmul())


def programs(n: int = 3) -> list[IRModule]:
    return [split_j(matmul(), 2**k).mod for k in range(n)]


def built(mod: IRModule | None = None) -> str:
    (result,) = LocalBuilder(1).build([BuilderInput(mod or matmul(), LLVM)])
    assert result.error_msg is None
    assert result.artifact_path is not None
    return result.artifact_path


def run_one(path: str, runner: LocalRunner | None = None, **more: Any) -> RunnerResult:
    (future,) = (runner or LocalRunner()).run([RunnerInput(path, "cpu", ARGS, **more)])
    return future.result()


def broken() -> IRModule:
    """A program that no CPU can be made to run."""
    mod = matmul()
    from gputune.schedule import Schedule

    sch = Schedule(mod)
    sch.bind(sch.get_loops(sch.get_block("C"))[0], "blockIdx.x")
    return sch.mod


# ----------------------------------------------------------------------------- building
def test_results_in_order_and_failures_as_results() -> None:
    mods = [*programs(), broken()]
    results = LocalBuilder(2).build([BuilderInput(m, LLVM) for m in mods])
    assert [r.artifact_path is None for r in results] == [False, False, False, True]
    bad = results[3]
    assert bad.failure is not None
    assert bad.failure.phase == "build"
    assert bad.failure.kind == "LowerError"
    assert "blockIdx.x" in str(bad.error_msg)
    for mod, r in zip(mods, results):
        if r.artifact_path is not None:
            assert Artifact.load(r.artifact_path).script == mod.script()
    assert LocalBuilder().build([]) == []


def test_equal_programs_are_built_once() -> None:
    builder = LocalBuilder(1)
    one, two, three = builder.build([BuilderInput(m, LLVM) for m in (*programs(2), programs(1)[0])])
    assert one == three
    assert one != two
    other = Target({**LLVM.export(), "num-cores": 2})
    a, b = builder.build([BuilderInput(matmul(), LLVM), BuilderInput(matmul(), other)])
    assert a != b  # another target is another program


def slow_to_build() -> IRModule:
    """A program that nobody has built before, and that takes the compiler a while."""
    fresh = int.from_bytes(os.urandom(3))
    lines = [
        "@T.prim_func",
        'def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):',
    ]
    for k in range(400):
        lines += [
            "    for i in range(64):",
            f'        with T.block("B{k}"):',
            "            vi = T.axis.spatial(64, i)",
            f"            B[vi] = T.exp(A[vi] * T.float32({fresh + k}))",
        ]
    func = from_source("\n".join(lines))
    assert isinstance(func, PrimFunc)
    return IRModule({"main": func})


def test_a_build_that_takes_too_long() -> None:
    (result,) = LocalBuilder(1, timeout_sec=0.02).build([BuilderInput(slow_to_build(), LLVM)])
    assert result.failure is not None
    assert result.failure.reason == "build timeout"
    assert built()  # the worker was replaced


WORK = """
import os, pathlib, stat, sys
sys.path.insert(0, sys.argv[1])
from ms_fakes import matmul
from gputune.meta_schedule import BuilderInput, LocalBuilder
from gputune.target import Target
path = LocalBuilder(1).build([BuilderInput(matmul(), Target("llvm"))])[0].artifact_path
folder = pathlib.Path(path).parent
assert stat.S_IMODE(folder.stat().st_mode) == 0o700
print(folder)
if sys.argv[2] == "killed":
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""


def test_artifacts_lie_in_a_private_folder_and_go_with_the_process(tmp_path: Path) -> None:
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": str(here.parents[1]), "XDG_CACHE_HOME": str(tmp_path)}

    def folder(how: str) -> Path:
        command = [sys.executable, "-c", WORK, str(here), how]
        found = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        return Path(found.stdout.strip())

    left = folder("killed")
    assert left.parent == tmp_path / "gputune"
    assert left.exists()
    gone = folder("ended")
    assert gone.parent == left.parent
    assert not gone.exists()
    assert not left.exists()  # the next process sweeps up


def test_a_folder_that_others_may_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(artifact, "_folders", {})
    assert artifact.new_path().parent.parent == tmp_path / "gputune"
    (tmp_path / "gputune").chmod(0o777)
    monkeypatch.setattr(artifact, "_folders", {})
    assert artifact.new_path().parent.parent != tmp_path / "gputune"


def test_a_changed_artifact_is_refused() -> None:
    builder = LocalBuilder(1)
    (result,) = builder.build([BuilderInput(matmul(), LLVM)])
    path = Path(str(result.artifact_path))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = run_one(str(path))
    assert found.run_secs is None
    assert "not an artifact" in str(found.error_msg)
    missing = run_one("/nowhere/0.o")
    assert missing.failure is not None
    assert missing.failure.phase == "run"
    assert "/nowhere/0.o" in missing.failure.message


def test_functions_of_the_user_run_here() -> None:
    seen: list[str] = []

    def f_build(mod: IRModule, target: Target, params: Any) -> Any:
        seen.append(str(params))
        if params:
            raise KeyError("my mistake")
        return build(mod, target)

    builder = LocalBuilder(f_build=f_build, initializer=lambda: seen.append("ready"))
    good, bad = builder.build(
        [BuilderInput(matmul(), LLVM), BuilderInput(matmul(), LLVM, {"x": 1})]
    )
    assert seen == ["ready", "None", "{'x': 1}"]
    assert bad.failure is not None
    assert bad.failure.reason == "build KeyError"
    assert run_one(str(good.artifact_path)).error_msg is None
    (exported,) = LocalBuilder(f_export=lambda module: "here").build([BuilderInput(matmul(), LLVM)])
    assert exported == BuilderResult("here", None)
    (odd,) = LocalBuilder(f_build=lambda m, t, p: 3).build([BuilderInput(matmul(), LLVM)])
    assert "int without the function main" in str(odd.error_msg)


def test_an_initializer() -> None:
    seen: list[int] = []
    builder = LocalBuilder(1, initializer=lambda: seen.append(1))
    for _ in range(2):
        (result,) = builder.build([BuilderInput(matmul(), LLVM)])
        assert result.error_msg is None
    assert seen == [1]

    def fails() -> None:
        raise KeyError("no licence")

    (result,) = LocalBuilder(1, initializer=fails).build([BuilderInput(matmul(), LLVM)])
    assert result.failure is not None
    assert result.failure.reason == "build KeyError"
    assert "no licence" in result.failure.message
    (future,) = LocalRunner(initializer=fails).run([RunnerInput(built(), "cpu", ARGS)])
    assert "no licence" in str(future.result().error_msg)


def test_create_and_bad_options() -> None:
    assert isinstance(Builder.create("local", 1), LocalBuilder)
    assert isinstance(Runner.create("local"), LocalRunner)
    with pytest.raises(ValueError, match="'rpc'"):
        Builder.create("rpc")
    with pytest.raises(UserError, match="the RPC tracker is not known: TVM_TRACKER_HOST"):
        Runner.create("rpc")
    with pytest.raises(ValueError, match="'cloud'"):
        Runner.create("cloud")
    with pytest.raises(UserError, match="max_workers"):
        LocalBuilder(0)
    with pytest.raises(UserError, match="timeout_sec"):
        LocalBuilder(timeout_sec=0)
    with pytest.raises(UserError, match="alloc_repeat"):
        LocalRunner(alloc_repeat=0)
    with pytest.raises(UserError, match="repeat"):
        EvaluatorConfig(repeat=0)


def test_derived_classes() -> None:
    @derived_object
    class MyBuilder(PyBuilder):
        def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
            return [BuilderResult("x") for _ in build_inputs]

    @derived_object
    class MyFuture(PyRunnerFuture):
        def done(self) -> bool:
            return True

        def result(self) -> RunnerResult:
            return RunnerResult([1.0])

    @derived_object
    class MyRunner(PyRunner):
        def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
            return [MyFuture() for _ in runner_inputs]

    (made,) = MyBuilder().build([BuilderInput(matmul(), LLVM)])
    (future,) = MyRunner().run([RunnerInput(str(made.artifact_path), "cpu", ARGS)])
    assert future.result().run_secs == [1.0]
    with pytest.raises(TypeError, match="run"):
        Runner()  # type: ignore[abstract]  # the mistake in question
    with pytest.raises(NotImplementedError, match="PyRunner: run is not implemented"):
        PyRunner().run([])  # type: ignore[abstract]  # the mistake in question
    with pytest.raises(NotImplementedError, match="result"):
        PyRunnerFuture().result()
    with pytest.raises(TypeError, match="decorates a class"):
        derived_object(3)  # type: ignore[arg-type]  # the mistake in question


# ----------------------------------------------------------------------------- running
def test_times() -> None:
    found = run_one(built())
    assert found.error_msg is None
    assert found.run_secs is not None
    assert len(found.run_secs) == 5
    assert all(1e-7 < s < 1e-2 for s in found.run_secs)
    exact = EvaluatorConfig(number=2, repeat=3, min_repeat_ms=0, adaptive=False)
    assert len(run_one(built(), LocalRunner(evaluator_config=exact)).run_secs or ()) == 3
    twice = LocalRunner(alloc_repeat=2)
    assert len(run_one(built(), twice).run_secs or ()) == 10


def test_candidates_share_a_process() -> None:
    """To start one would cost as much as a hundred measurements."""
    path, runner = built(), LocalRunner()
    run_one(path, runner)
    starts = runner.worker.starts
    for _ in range(3):
        assert run_one(path, runner).run_secs
    assert runner.worker.starts == starts


def test_one_that_is_clearly_slower_is_called_once() -> None:
    path = built(matmul(128))
    usual = run_one(path, best=BestSoFar())
    assert not usual.cut
    assert len(usual.run_secs or ()) == 5
    slow = run_one(path, best=BestSoFar(1e-6))
    assert slow.cut
    assert len(slow.run_secs or ()) == 1


def test_one_that_takes_too_long_and_the_next() -> None:
    path = built(matmul(512))  # a tenth of a second, naively
    found = run_one(path, LocalRunner(timeout_sec=0.02))
    assert found.failure is not None
    assert found.failure.reason == "run timeout"
    assert run_one(built()).error_msg is None


def test_a_future_measures_when_it_is_asked() -> None:
    cleaned: list[int] = []
    runner = LocalRunner(f_cleanup=lambda: cleaned.append(1))
    first, second = runner.run([RunnerInput(built(), "cpu", ARGS)] * 2)
    assert cleaned == []
    assert first.done()
    assert first.result() is first.result()
    assert cleaned == [1]
    assert second.result().error_msg is None


def test_another_device_is_a_failure() -> None:
    (future,) = LocalRunner().run([RunnerInput(built(), "cuda", ARGS)])
    assert "cuda" in str(future.result().error_msg)


def test_functions_of_the_user_measure_here() -> None:
    def f_run(module: Any, device: Any, config: Any, repeated: Any) -> list[float]:
        assert len(repeated) == 2
        assert repeated[0][0].shape == (16, 16)
        module(*repeated[0])
        return [0.25, 0.5]

    runner = LocalRunner(alloc_repeat=2, f_run_evaluator=f_run)
    assert run_one(built(), runner).run_secs == [0.25, 0.5]
    failing = LocalRunner(f_alloc_argument=lambda *a: 1 // 0)
    assert run_one(built(), failing).failure.reason == "run ZeroDivisionError"  # type: ignore[union-attr]  # it failed
    ones = LocalRunner(f_alloc_argument=lambda d, a, n: [[np.ones(i.shape, i.dtype) for i in a]])
    assert run_one(built(), ones).error_msg is None


# ----------------------------------------------------------------------------- checking
def wrong(limit: int) -> IRModule:
    """A matmul that leaves the last products out."""

    @T.prim_func(name="main")
    def main(
        A: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
        C: T.Buffer((16, 16), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for i, j, k in T.grid(16, 16, limit):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return IRModule({"main": main})


def test_right_and_wrong_numbers() -> None:
    verifier = Verifier(matmul(), LLVM, shared_worker())
    assert verifier.eager
    assert verifier.check_program(split_j(matmul(), 4).mod).outcome == "right"
    verdict = verifier.check_program(wrong(15))
    assert verdict.outcome == "wrong"
    assert verdict.failure is not None
    assert verdict.failure.reason == "check wrong_result"
    assert "C: " in verdict.failure.message
    assert (
        verifier.check(Artifact.load(built(wrong(0)))).outcome == "wrong"
    )  # writes nothing at all
    assert verifier.check_program(broken()).outcome == "wrong"
    assert verifier.checks == 3


def long_sum(first: int, step: int, count: int = 200_000) -> IRModule:
    """The sum of 200,000 numbers (or of the first `count`), in one order or the other."""

    @T.prim_func(name="main")
    def main(
        A: T.Buffer((200_000,), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((1,), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for k in range(count):
            with T.block("B"):
                vk = T.axis.reduce(count, k)
                with T.init():
                    B[0] = T.float32(0)
                B[0] = B[0] + A[first + vk * step]

    return IRModule({"main": main})


def test_a_sum_that_comes_near_zero_is_not_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named for a fault: -18.451 instead of -18.445, of a million numbers up to 1."""
    answers: list[Any] = []
    real = Verifier._compare

    def compare(self: Verifier, *args: Any) -> Any:
        reply = real(self, *args)
        answers.append(reply.data)
        return reply

    monkeypatch.setattr(Verifier, "_compare", compare)
    verifier = Verifier(long_sum(0, 1), LLVM, shared_worker())
    backwards = Artifact.load(built(long_sum(199_999, -1)))
    a = operations.parse_argument(backwards.arguments[0], 0)

    def total(seed: int) -> float:
        numbers = operations.random_values(np.random.default_rng(seed), a, 200_000)
        return abs(float(numbers.sum(dtype=np.float64)))

    verifier._seed = min(range(1, 200), key=total) - 1
    assert verifier.check(backwards).outcome == "right"
    assert [x["ok"] for x in answers] == [False, True, True]
    assert answers[0]["slight"]
    # a sum without its last hundredth differs no less slightly, but each time
    short = Artifact.load(built(long_sum(0, 1, 198_000)))
    assert {verifier.check(short).outcome for _ in range(20)} == {"wrong"}


def test_a_reference_that_cannot_be_run_leaves_it_open(caplog: Any) -> None:
    verifier = Verifier(broken(), LLVM, shared_worker())
    assert verifier.check_program(matmul()).outcome == "unknown"
    assert verifier.check_program(matmul()).outcome == "unknown"


def test_a_large_program_is_checked_less_often() -> None:
    assert not Verifier(matmul(512), LLVM, shared_worker()).eager
    assert Verifier(matmul(128), LLVM, shared_worker()).eager


def test_a_candidate_that_crashes_in_the_check_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(matmul(), LLVM, shared_worker())
    real = verifier._compare

    def crash(artifact: Artifact, reference: Artifact, *rest: Any) -> Any:
        if artifact is not reference:
            raise RunError("the worker process ended (SIGSEGV)", details={"kind": "crash"})
        return real(artifact, reference, *rest)

    monkeypatch.setattr(verifier, "_compare", crash)
    verdict = verifier.check_program(matmul())
    assert verdict.outcome == "wrong"
    assert "SIGSEGV" in str(verdict.failure)
