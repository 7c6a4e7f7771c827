"""What every runner of kernels for a processor keeps to. Inherit from `RunnerContract` and give
`runner`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule import ArgInfo, BuilderInput, LocalBuilder, Runner, RunnerInput
from gputune.meta_schedule.artifact import Artifact, new_path
from gputune.meta_schedule.runner import BestSoFar, EvaluatorConfig, RunnerResult
from gputune.runtime.native import assemble
from gputune.script import from_source

from .builder import LLVM, scale

CRASH = """
define i32 @crash(ptr %args, ptr %pool) {
  store volatile i32 1, ptr inttoptr (i64 16 to ptr)
  ret i32 0
}
"""
FOREVER = """
@sink = global i64 0
define i32 @forever(ptr %args, ptr %pool) {
entry:
  br label %loop
loop:
  %v = load volatile i64, ptr @sink
  %w = add i64 %v, 1
  store volatile i64 %w, ptr @sink
  br label %loop
}
"""
LONGER = """
@T.prim_func
def main(A: T.Buffer((1048576,), "float32"), B: T.Buffer((1048576,), "float32")):
    for i in range(1048576):
        with T.block("B"):
            vi = T.axis.spatial(1048576, i)
            B[vi] = A[vi] * T.float32(3)
"""


def longer() -> IRModule:
    """A program that takes some hundred microseconds."""
    func = from_source(LONGER)
    assert isinstance(func, PrimFunc)
    return IRModule({"main": func})


@cache
def _built(script: str) -> str:
    func = from_source(script)
    mod = IRModule({"main": func}) if isinstance(func, PrimFunc) else func
    (result,) = LocalBuilder(1).build([BuilderInput(mod, LLVM)])
    assert result.artifact_path is not None, result.error_msg
    return result.artifact_path


def built(mod: IRModule) -> str:
    """The artifact of a program."""
    (func,) = mod.functions.values()
    return _built(func.script())


@cache
def machine_code(name: str, text: str) -> str:
    """An artifact whose kernel is written in LLVM's language, and takes no arguments."""
    path = new_path()
    Artifact(name, [], 1, scale().script(), LLVM.export(), assemble(text)).save(path)
    return str(path)


class RunnerContract:
    """The tests."""

    def runner(
        self, timeout_sec: float = 30.0, evaluator_config: EvaluatorConfig | None = None
    ) -> Runner:
        """A runner; two of them may share what they need."""
        raise NotImplementedError

    def run(
        self, *paths: str, runner: Runner | None = None, best: BestSoFar | None = None
    ) -> list[RunnerResult]:
        chosen = runner or self.runner()
        chosen.start()
        args = ArgInfo.from_entry_func(scale())
        futures = chosen.run([RunnerInput(p, "cpu", args, best) for p in paths])
        assert len(futures) == len(paths)
        return [f.result() for f in futures]

    def test_times(self) -> None:
        one, two = self.run(built(scale()), built(longer()))
        for r in (one, two):
            assert r.problem is None
            assert r.error_msg is None
            assert r.run_secs is not None
            assert all(1e-9 < s < 1 for s in r.run_secs)
        assert one.seconds < two.seconds

    def test_settings_are_kept_to(self) -> None:
        exact = EvaluatorConfig(number=2, repeat=3, min_repeat_ms=0, cut=float("inf"))
        (result,) = self.run(built(scale()), runner=self.runner(evaluator_config=exact))
        assert len(result.run_secs or ()) == 3

    def test_nothing_to_measure(self) -> None:
        assert self.run() == []

    def test_a_future_measures_once(self) -> None:
        args = ArgInfo.from_entry_func(scale())
        (future,) = self.runner().run([RunnerInput(built(scale()), "cpu", args)])
        assert future.done()
        assert future.result() is future.result()

    def test_failures_are_results(self, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.o"
        damaged.write_bytes(Path(built(scale())).read_bytes()[:-1] + b"?")
        missing, bad, good = self.run("/nowhere/0.o", str(damaged), built(scale()))
        assert missing.problem is not None
        assert missing.problem.phase == "run"
        assert "/nowhere/0.o" in missing.problem.message
        assert bad.problem is not None
        assert "not an artifact" in bad.problem.message
        assert good.problem is None
        assert not missing.is_lost
        assert not bad.is_lost

    def test_a_crash_costs_itself_only(self) -> None:
        good = built(scale())
        results = self.run(good, machine_code("crash", CRASH), good)
        assert [r.problem is None for r in results] == [True, False, True]
        crashed = results[1].problem
        assert crashed is not None
        assert crashed.reason == "run crash"
        assert "SIGSEGV" in crashed.message

    def test_one_that_never_ends_and_the_next(self) -> None:
        runner = self.runner(timeout_sec=0.5)
        hangs, good = self.run(machine_code("forever", FOREVER), built(scale()), runner=runner)
        assert hangs.problem is not None
        assert hangs.problem.reason == "run timeout"
        assert good.problem is None

    def test_one_that_is_clearly_slower_is_called_once(self) -> None:
        usual, slow = (
            self.run(built(longer()), best=best)[0] for best in (BestSoFar(), BestSoFar(1e-6))
        )
        assert not usual.cut
        assert slow.cut
        assert len(slow.run_secs or ()) == 1

    def test_another_device_is_a_failure(self) -> None:
        args = ArgInfo.from_entry_func(scale())
        (future,) = self.runner().run([RunnerInput(built(scale()), "hexagon", args)])
        result = future.result()
        assert result.problem is not None
        assert "hexagon" in result.problem.message
