"""Programs, and parts of the tuner with an analytic clock, for the tests of this room."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gputune.ir.nodes import IRModule
from gputune.meta_schedule import task_record, task_scheduler
from gputune.meta_schedule.arg_info import ArgInfo
from gputune.meta_schedule.builder import Builder, BuilderInput, BuilderResult
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.record import TuningRecord, Workload
from gputune.meta_schedule.runner import Runner, RunnerFuture, RunnerInput, RunnerResult
from gputune.schedule import Schedule
from gputune.script import tir as T

TARGET = "llvm -num-cores 1"


def matmul(n: int = 16) -> IRModule:
    @T.prim_func(name="main")
    def main(
        A: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
        C: T.Buffer((n, n), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for i, j, k in T.grid(n, n, n):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return IRModule({"main": main})


def split_j(mod: IRModule, factor: int) -> Schedule:
    """The matmul with its j loop split: one program for each factor."""
    sch = Schedule(mod, seed=1)
    block = sch.get_block("C", func_name="main")
    i, j, k = sch.get_loops(block)
    j0, j1 = sch.split(j, [None, factor])
    sch.reorder(i, j0, k, j1)
    return sch


def record_of(
    workload: Workload, seconds: Sequence[float] | None, factor: int = 4, **extras: Any
) -> TuningRecord:
    sch = split_j(workload.mod, factor)
    return TuningRecord(
        sch.trace, workload, seconds, TARGET, ArgInfo.from_entry_func(workload.mod), extras
    )


class Clock:
    """The time of task schedulers, which passes only where a test says so: what a budget of seconds
    leaves does not depend on the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        told = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
        for module in (task_scheduler, task_record):
            monkeypatch.setattr(module, "time", told)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ListStrategy:
    """Proposes given schedules, `num_trials_per_iter` at a time; then empty rounds, then None."""

    def __init__(self, schedules: Sequence[Schedule], empty_rounds: int = 0) -> None:
        self.waiting = list(schedules)
        self.empty_rounds = empty_rounds
        self.notified: list[list[RunnerResult]] = []
        self.per_iter = 0
        self.open = False

    def initialize_with_tune_context(self, context: Any) -> None:
        self.context = context

    def pre_tuning(self, max_trials: int, num_trials_per_iter: int, *rest: Any) -> None:
        assert not self.open
        self.open, self.per_iter = True, num_trials_per_iter

    def post_tuning(self) -> None:
        assert self.open
        self.open = False

    def generate_measure_candidates(self) -> list[MeasureCandidate] | None:
        batch, self.waiting = self.waiting[: self.per_iter], self.waiting[self.per_iter :]
        if not batch:
            self.empty_rounds -= 1
            if self.empty_rounds < 0:
                return None
        args = ArgInfo.from_entry_func(self.context.mod)
        return [MeasureCandidate(s, args) for s in batch]

    def notify_runner_results(self, candidates: list[Any], results: list[RunnerResult]) -> None:
        assert len(candidates) == len(results)
        self.notified.append(results)


class NoSpace:
    """A space generator that has only the unscheduled program."""

    def initialize_with_tune_context(self, context: Any) -> None: ...

    def generate_design_space(self, mod: IRModule) -> list[Schedule]:
        return [Schedule(mod, seed=1)]


class FakeBuilder(Builder):
    """Compiles nothing; the path is a number."""

    def __init__(self, fail: Callable[[int], str | None] = lambda i: None) -> None:
        self.fail = fail
        self.sizes: list[int] = []
        self.count = 0

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        self.sizes.append(len(build_inputs))
        out = []
        for _ in build_inputs:
            why = self.fail(self.count)
            out.append(BuilderResult(None if why else f"/nowhere/{self.count}", why))
            self.count += 1
        return out


class FakeRunner(Runner):
    """Its clock is a function of the number in the path."""

    def __init__(self, seconds: Callable[[int], float | str]) -> None:
        self.seconds = seconds
        self.measured = 0

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        return [RunnerFuture(lambda: True, lambda x=x: self._result(x)) for x in runner_inputs]

    def _result(self, x: RunnerInput) -> RunnerResult:
        self.measured += 1
        found = self.seconds(int(x.artifact_path.rsplit("/", 1)[1]))
        if isinstance(found, str):
            return RunnerResult(None, found)
        return RunnerResult([found, found * 1.5, found * 0.5])
