"""How far is the tuning of a task? What the scheduler, the table and a progress display read."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import CheckError
from ..ir.equal import structural_hash
from ..ir.flops import estimate_flops
from ..schedule import Schedule
from .builder import BuilderResult
from .early_stop import Outlook, StopRule
from .failures import Failure, in_words
from .measure_candidate import MeasureCandidate
from .predicted import Predicted
from .runner import BestSoFar, RunnerFuture, RunnerResult
from .second_look import MeasuredCode
from .tune_context import TuneContext
from .verify import Checker

FAILED_MS = 1e9
"""The latency of a trial that failed."""


@dataclass(slots=True, eq=False)
class TaskRecord:
    """A task and its state.

    Attributes:
        ctx: what is tuned.
        task_weight: how much its time counts.
        flop: operations of one call of the program; 0 where they cannot be counted.
        is_terminated: nothing more will be measured.
        build_error_count, run_error_count: trials that failed to build, and to run.
        latency_ms: of each trial, the median of its repeats; 1e9 for a failure, and for a sample
            that does not rank.
        unranked: trials that were measured and do not rank, as others used the GPU.
        measure_candidates, builder_results, runner_futures: of the round under way, or None.
        best_history_ms: the best latency after each round.
        failures: counts by reason, such as "build timeout".
        best: the least time known, of earlier runs too; what candidates compete with.
        known_seconds: the least checked time of earlier runs.
        verifier: checks new bests; None: nobody does.
        failed_rounds: rounds in which all candidates failed, before the first success.
        lost_rounds: rounds on end in which no worker could be had.
        empty_rounds: rounds on end in which there was nothing to measure.
        last_failure: the failure that happened last.
        best_candidate: the best of this run so far, measured, and checked where checks are on.
        predicted: what was chosen without a measurement, where nothing was to be measured.
        outlook: is it worth going on?
        ended: why it ended before its budget did, or "".
        source: who ranked the candidates of the round under way.
        laps: seconds of the parts of the round under way: "search_s", "build_s", "measure_s".
        spent_s: of all rounds.
        proposed: candidates of the last round.
        last_turn: which of all rounds was its last, from 1.
        code: what was measured in this run, by machine code.
        accepted: has it a candidate that no rule refuses, and that is measured?
    """

    ctx: TuneContext
    task_weight: float = 1.0
    flop: float = 0.0
    is_terminated: bool = False
    build_error_count: int = 0
    run_error_count: int = 0
    latency_ms: list[float] = field(default_factory=list)
    measure_candidates: list[MeasureCandidate] | None = None
    builder_results: list[BuilderResult] | None = None
    runner_futures: list[RunnerFuture] | None = None
    best_history_ms: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    best: BestSoFar = field(default_factory=BestSoFar)
    known_seconds: float = math.inf
    verifier: Checker | None = None
    unranked: int = 0
    failed_rounds: int = 0
    lost_rounds: int = 0
    empty_rounds: int = 0
    last_failure: Failure | None = None
    best_candidate: MeasureCandidate | None = None
    predicted: Predicted | None = None
    outlook: Outlook = field(default_factory=lambda: Outlook(StopRule()))
    ended: str = ""
    source: str = ""
    laps: dict[str, float] = field(default_factory=dict)
    spent_s: float = 0.0
    proposed: int = 0
    last_turn: int = 0
    code: MeasuredCode = field(default_factory=MeasuredCode)
    accepted: bool = False
    _shash: str = ""
    _led_by: float = math.inf
    _since: float = 0.0

    @staticmethod
    def of(ctx: TuneContext, weight: float) -> TaskRecord:
        """The record of a task that has not begun."""
        try:
            flop = estimate_flops(ctx.mod)
        except CheckError:
            flop = 0.0
        return TaskRecord(ctx, float(weight), flop)

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.ctx.task_name

    @property
    def shash(self) -> str:
        """The digest of the program."""
        if not self._shash:
            self._shash = structural_hash(self.ctx.mod)
        return self._shash

    @property
    def trials(self) -> int:
        """Candidates measured, failed ones included."""
        return len(self.latency_ms)

    @property
    def best_latency_ms(self) -> float | None:
        """The best of this run, or None before the first success."""
        best = min(self.latency_ms, default=FAILED_MS)
        return best if best < FAILED_MS else None

    def charge(self, built: BuilderResult, result: RunnerResult) -> None:
        """Count a trial."""
        if result.unranked:
            self.latency_ms.append(FAILED_MS)
            self.unranked += 1
            return
        if result.problem is None:
            self.latency_ms.append(result.seconds * 1e3)
            return
        self.latency_ms.append(FAILED_MS)
        self.failures[result.problem.reason] += 1
        self.last_failure = result.problem
        if built.problem is not None:
            self.build_error_count += 1
        else:
            self.run_error_count += 1

    # ------------------------------------------------------------------ a round
    def begin_round(self, source: str) -> None:
        """Start the clock of a round."""
        self.source, self.laps, self._since = source, {}, time.monotonic()

    def lap(self, name: str) -> None:
        """A part of the round is over."""
        now = time.monotonic()
        if self._since:
            self.laps[name] = self.laps.get(name, 0.0) + now - self._since
            self.spent_s += now - self._since
        self._since = now
        if name == "search_s" and self.measure_candidates is not None:
            self.proposed = len(self.measure_candidates)

    def lead(self, candidate: MeasureCandidate, result: RunnerResult) -> None:
        """Take note of the best so far; where only the best of a round is checked, after that."""
        if self.verifier is None or self.verifier.eager:
            self._lead(candidate, result)

    def lead_round(
        self, candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
    ) -> None:
        """Take note of the best of a round whose checks are done."""
        for candidate, result in zip(candidates, results):
            if result.problem is None and result.seconds <= self.best.seconds:
                self._lead(candidate, result)

    def _lead(self, candidate: MeasureCandidate, result: RunnerResult) -> None:
        if result.regime != (self.best.regime or result.regime):
            return  # its time says nothing here
        if result.problem is None and result.seconds < self._led_by:
            self._led_by, self.best_candidate = result.seconds, candidate

    def all_failed(self) -> str:
        """That nothing worked, and why."""
        if self.unranked == self.trials:
            return (
                f"all {self.trials} candidates were measured while others computed on the GPU, and "
                "do not rank"
            )
        last = "" if self.last_failure is None else f"; the last: {self.last_failure.message}"
        return f"all {self.trials} candidates failed ({in_words(self.failures, 3)}){last}"

    def ahead(self, pending: Sequence[RunnerResult]) -> TaskRecord:
        """A copy that counts the results of the round under way."""
        other = replace(self, latency_ms=list(self.latency_ms), failures=self.failures.copy())
        for r in pending:
            other.charge(BuilderResult(""), r)
        return other


@dataclass(frozen=True, slots=True)
class Progress:
    """Where tuning stands, for a display.

    Attributes:
        phase: "search", "build", "measure"; at the end "done" or "interrupted".
        task_id: the task at work.
        tasks: all of them.
        trials, max_trials: candidates measured, and the most that will be.
        elapsed_s, seconds: time gone by, and the time limit (None: none).
    """

    phase: str
    task_id: int
    tasks: tuple[TaskRecord, ...]
    trials: int
    max_trials: int
    elapsed_s: float
    seconds: float | None

    @property
    def failures(self) -> Counter[str]:
        """Failed candidates by reason, over all tasks."""
        return sum((t.failures for t in self.tasks), Counter())

    @property
    def task(self) -> TaskRecord:
        """The task at work."""
        return self.tasks[self.task_id]

    @property
    def best_seconds(self) -> float | None:
        """The best of the task at work in this run."""
        ms = self.task.best_latency_ms
        return None if ms is None else ms * 1e-3

    @property
    def best_schedule(self) -> Schedule | None:
        """The schedule of the task at work that is the best of this run so far; None if there is
        none yet. A program may use it at any moment: it was measured, and checked where checks are
        on."""
        found = self.task.best_candidate
        return None if found is None else found.sch

    @property
    def gflops(self) -> float | None:
        """10**9 operations a second of that best."""
        seconds = self.best_seconds
        return None if seconds is None else self.task.flop / seconds * 1e-9


@dataclass(slots=True)
class Budget:
    """How much may be spent; all limits hold at once.

    Attributes:
        trials: over all tasks.
        per_task: of one task.
        seconds: from `start` on; None: no limit.
    """

    trials: int
    per_task: int
    seconds: float | None = None
    start: float = field(default_factory=lambda: time.monotonic())

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    @property
    def is_late(self) -> bool:
        """Is the time up?"""
        return self.elapsed_s >= (math.inf if self.seconds is None else self.seconds)

    def left(self, task: TaskRecord, tasks: list[TaskRecord]) -> int:
        """Trials that a task may still spend."""
        spent = sum(t.trials for t in tasks)
        return max(0, min(self.trials - spent, self.per_task - task.trials))
