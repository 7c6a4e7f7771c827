"""Which task is worked on next, and what happens in a round? The loop of tuning."""

from __future__ import annotations

import contextlib
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import RecordError, RunError, UserError
from ..ir.nodes import IRModule
from ..runtime.interruption import at_once, checkpoint, graceful, held
from ..target import Target
from .admission import admitted, known_seconds
from .builder import Builder, BuilderInput, BuilderResult, same_order
from .conditions import Conditions
from .cuda_runner import CudaRunner
from .derived import left_open
from .early_stop import Outlook, StopRule
from .failures import REFUSED, Failure, in_words, write_failures
from .host_runner import HostExecutionRunner
from .judgement import judge_round, judged
from .logging import console
from .measure_callback import (
    AddToDatabase,
    MeasureCallback,
    RemoveBuildArtifact,
    remove_artifacts,
)
from .measure_candidate import MeasureCandidate
from .on_dask import DaskRunner
from .predicted import predict, source_of
from .profiler import Profiler
from .round_log import Round, RoundLog, predictions
from .runner import (
    BestSoFar,
    LocalRunner,
    Runner,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
    shared_worker,
)
from .second_look import look, rank_again, refusals, regret
from .statistics_table import table
from .task_record import FAILED_MS, Budget, Progress, TaskRecord
from .tune_context import TuneContext, check_seed
from .verify import Verifier

if TYPE_CHECKING:
    from .cost_model import CostModel
    from .database import Database

# Rounds that may fail whole before a task is given up.
_PATIENCE = 3
# Candidates that may fail for one and the same reason before anything has worked.
_ALIKE = 32
# Rounds running in which a strategy may have nothing to measure.
_EMPTY = 100
# Programs that are built between two looks at the clock, for each build worker.
_SLICE = 8
# Where tasks share a time limit: candidates of the very first round, when nobody knows how long one
# takes, and the least of any other.
_FIRST, _LEAST = 16, 4


class TaskScheduler(ABC):
    """Shares a budget among tasks. Subclasses say which task is next.

    Attributes:
        tasks: the state of each task.
        database, cost_model, measure_callbacks: as given to `tune`.
        interrupted: Ctrl-C ended the tuning.
        rounds: what became of the candidates of each round.
    """

    tasks: list[TaskRecord]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """A scheduler with nothing to do; a subclass need not call `__init__` of this class."""
        self = super().__new__(cls)
        self._clear()
        return self

    def _clear(self) -> None:
        self.tasks = []
        self.database: Database | None = None
        self.cost_model: CostModel | None = None
        self.measure_callbacks: list[MeasureCallback] = []
        self.remaining_tasks = 0
        self.interrupted = False
        self.options: dict[str, Any] = {}  # of `tune`, where a subclass's does not hand them on
        self._builder: Builder | None = None
        self._runner: Runner | None = None
        self._budget = Budget(0, 0)
        self._on_progress: Callable[[Progress], None] | None = None
        self._failures_path: Path | None = None
        self.rounds = RoundLog()
        self._told: set[str] = set()  # workloads whose program is in the list of failures
        self._round_ends = math.inf
        self._stop = False
        self._conditions = Conditions()
        self._logger = console()

    @abstractmethod
    def next_task_id(self) -> int:
        """The task to work on, or -1 when all are done."""

    @staticmethod
    def create(kind: str | TaskScheduler = "gradient", *args: Any, **kwargs: Any) -> TaskScheduler:
        """A scheduler by kind: "gradient" or "round-robin". ValueError for another."""
        if isinstance(kind, TaskScheduler):
            return kind
        if kind == "gradient":
            return GradientBased(*args, **kwargs)
        if kind == "round-robin":
            return RoundRobin(*args, **kwargs)
        raise UserError(f"unknown kind of task scheduler {kind!r}; known: gradient, round-robin")

    # ------------------------------------------------------------------ the whole of it
    @graceful()
    def tune(
        self,
        tasks: Sequence[TuneContext],
        task_weights: Sequence[float],
        max_trials_global: int,
        max_trials_per_task: int,
        num_trials_per_iter: int,
        builder: Builder,
        runner: Runner,
        measure_callbacks: Sequence[MeasureCallback],
        database: Database | None,
        cost_model: CostModel | None,
        *,
        seconds: float | None = None,
        verify: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        failures_path: Path | None = None,
        rounds_path: Path | None = None,
        stop: StopRule | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        """Tune until nothing is left to do or a limit is reached.

        Trials are never exceeded: the last round is cut to what is left. Ctrl-C (and SIGTERM, see
        `runtime.interruption`) ends the round under way, records what was measured, and returns; a
        second one raises KeyboardInterrupt at once. Without trials nothing is measured: each
        task of which the database knows nothing gets the choice of its model (`predicted`).

        Args:
            tasks: what to tune.
            task_weights: how much each task's time counts.
            max_trials_global: trials of all tasks together.
            max_trials_per_task: trials of one task.
            num_trials_per_iter: candidates of a round.
            builder, runner, measure_callbacks, database, cost_model: the parts.
            seconds: time limit; the candidate being measured when it is reached is the last one.
            verify: compare new bests with the unscheduled program.
            on_progress: called often, with a `Progress`.
            failures_path: file to which failures are appended, one JSON object a line.
            rounds_path: file to which a line is appended for each round; see `round_log`.
            stop: when a task ends before its budget does; default: never.
            conditions: observers, and what clocks and other users of a GPU make of a time.

        Raises:
            RecordError, UserError: the database cannot be written.
            RunError: every candidate of every task failed; says how.
        """
        if self.options:
            seconds = self.options.get("seconds", seconds)
            verify = self.options.get("verify", verify)
            on_progress = self.options.get("on_progress", on_progress)
            failures_path = self.options.get("failures_path", failures_path)
            rounds_path = self.options.get("rounds_path", rounds_path)
            stop = self.options.get("stop", stop)
            conditions = self.options.get("conditions", conditions)
        _check_counts(max_trials_global, max_trials_per_task, num_trials_per_iter, seconds)
        _check_weights(tasks, task_weights)
        if on_progress is not None and not callable(on_progress):
            raise UserError(f"on_progress is a function of a Progress, found {on_progress!r:.60}")
        self.tasks = [TaskRecord.of(c, w) for c, w in zip(tasks, task_weights)]
        self.remaining_tasks = len(self.tasks)
        self._builder, self._runner = builder, runner
        self.measure_callbacks = list(measure_callbacks)
        self.database, self.cost_model = database, cost_model
        self._budget = Budget(max_trials_global, max_trials_per_task, seconds)
        self._on_progress, self._failures_path = on_progress, failures_path
        self.rounds = RoundLog(rounds_path)
        self._conditions = conditions or Conditions()
        self._told = set()
        for task in self.tasks:
            task.outlook = Outlook(stop or StopRule())
        self.interrupted = self._stop = False
        begun: list[TuneContext] = []
        try:
            builder.start()
            runner.start()
            for task_id in range(len(self.tasks)):
                self._initialize(task_id, num_trials_per_iter, verify)
                begun.append(self.tasks[task_id].ctx)
            self.print_tuning_statistics()
            if min(max_trials_global, max_trials_per_task) == 0:
                self._predict()
            self._loop()
        except KeyboardInterrupt:
            if at_once():
                raise
            self.interrupted = True
            self._logger.info("Interrupted: what was measured so far is kept")
        finally:
            for ctx in begun:
                ctx.post_tuning()
        with held():
            for task_id, task in enumerate(self.tasks):
                if not task.is_terminated:
                    self.terminate_task(task_id)
            ended = "interrupted" if self.interrupted else "done"
            self._report(ended, max(0, len(self.tasks) - 1))
            self._complain()

    def _initialize(self, task_id: int, num_trials_per_iter: int, verify: bool) -> None:
        task = self.tasks[task_id]
        ctx = task.ctx
        self._logger.info('Initializing Task #%d: "%s"', task_id, ctx.task_name)
        ctx.logger.info('Initializing Task #%d: "%s"', task_id, ctx.task_name)
        if verify and ctx.verifier is not None:
            task.verifier = ctx.verifier
        elif verify:
            task.verifier = verifier_of(
                ctx.mod, ctx.target, self._runner, ctx.fork_seed, ctx.reference
            )
            if ctx.reference is not None:  # whoever uses the result checks by it, too
                ctx.verifier = task.verifier
        if self.database is not None:
            with held():  # a database that cannot be written says so now
                self.database.commit_workload(ctx.mod)
            checkpoint()
            known = self.database.candidates(ctx.mod, ctx.target)
            runner = self._runner
            regime = runner.regime_on(_device(ctx.target)) if isinstance(runner, Runner) else None
            task.best = BestSoFar.among(known, regime)
            known = [r for r in known if r.regime == task.best.regime]
            if ctx.reference is not None:
                known = []  # they were compared with something else
            seconds = known_seconds(known, ctx.mod, ctx.target)
            task.known_seconds = math.inf if seconds is None else seconds
            task.best.seconds = task.outlook.best = task.known_seconds
        with Profiler.timeit("InitializeTask"):
            sketches = ctx.generate_design_space()
            for number, sch in enumerate(sketches):
                ctx.logger.info("Design space #%d:\n%s\n%s", number, sch.mod, sch.trace)
            most = max(1, self._budget.per_task)
            ctx.pre_tuning(most, num_trials_per_iter, sketches, self.database, self.cost_model)

    def _predict(self) -> None:
        """Let the models choose, where no record serves."""
        assert self._builder is not None
        for task_id, task in enumerate(self.tasks):
            ctx = task.ctx
            self._report("search", task_id)
            if self.database is not None:
                records = self.database.candidates(ctx.mod, ctx.target)
                good = admitted(
                    records, ctx.mod, ctx.target, checker=task.verifier, database=self.database
                )
                if next(good, None) is not None:
                    continue

            def note(c: MeasureCandidate, f: Failure, task: TaskRecord = task) -> None:
                self._write_failures(task, [c], [RunnerResult.failed(f)])

            with Profiler.timeit("TaskScheduler/Predict"):
                found = predict(ctx, self.cost_model, self._builder, task.verifier, note)
            task.predicted = found
            told = "no schedule was found" if found is None else str(found)
            self._logger.info('Task #%d: "%s": %s', task_id, task.task_name, told)

    def _loop(self) -> None:
        while not self._stop:
            checkpoint()
            if sum(t.trials for t in self.tasks) >= self._budget.trials:
                return
            if self._budget.is_late and self._any_success():
                return
            with Profiler.timeit("TaskScheduler/NextTaskId"):
                task_id = self._next()
            if task_id < 0:
                return
            self._round(task_id)

    def _next(self) -> int:
        """What `next_task_id` says; UserError if that is no task that has something to do."""
        given: object = self.next_task_id()
        number = isinstance(given, Integral) and not isinstance(given, bool)
        task_id = int(given) if isinstance(given, Integral) else 0
        if number and task_id < 0:
            return -1
        if number and task_id < len(self.tasks) and not self.tasks[task_id].is_terminated:
            return task_id
        done = number and task_id < len(self.tasks)
        raise UserError(
            f"{type(self).__name__}: next_task_id gave {given!r:.60}"
            + (", a task that is done" if done else f", and there are {len(self.tasks)} tasks"),
            hint="it gives the number of a task that is not terminated, or -1 when all are",
            code="task-id",
        )

    def _any_success(self) -> bool:
        return any(t.best_latency_ms is not None for t in self.tasks)

    def _limit(self, task: TaskRecord) -> int:
        """How many candidates the round of a task may have, and (`_round_ends`) how long it may
        take. Tasks that share a time limit all have their turn: the first rounds have half of the
        time, in equal parts; a later one at most a quarter of what is left."""
        left = self._budget.left(task, self.tasks)
        self._round_ends = math.inf
        alive = [t for t in self.tasks if not t.is_terminated]
        if self._budget.seconds is None or len(alive) < 2:
            return left
        seconds = max(0.0, self._budget.seconds - self._budget.elapsed_s)
        new = sum(not t.best_history_ms for t in alive)
        share = seconds / 2 / new if not task.best_history_ms else seconds / 4
        self._round_ends = time.monotonic() + share
        of = [task] if task.trials else self.tasks
        trials = sum(t.trials for t in of)
        if trials == 0:
            return min(left, _FIRST)
        each = max(sum(t.spent_s for t in of) / trials, 1e-6)
        return min(left, max(_LEAST, int(min(share / each, 1e9))))

    @property
    def _is_late(self) -> bool:
        """Is the time up, of the round or of all?"""
        return self._budget.is_late or time.monotonic() >= self._round_ends

    # ------------------------------------------------------------------ one round
    def _round(self, task_id: int) -> None:
        task = self.tasks[task_id]
        self._logger.info('Scheduler picks Task #%d: "%s"', task_id, task.task_name)
        self._report("search", task_id)
        task.begin_round(source_of(self.cost_model))
        task.last_turn = 1 + sum(len(t.best_history_ms) for t in self.tasks)
        with Profiler.timeit("TaskScheduler/GenerateMeasureCandidates"):
            left = self._limit(task)
            candidates = task.ctx.generate_measure_candidates(left)
        if candidates is None:
            self._exhausted(task_id)
            return
        task.empty_rounds = 0 if candidates else task.empty_rounds + 1
        if task.empty_rounds > _EMPTY:
            self._end_early(task_id, f"its strategy gave nothing to measure {_EMPTY} times running")
            return
        if why := task.outlook.hopeless(candidates):
            self._end_early(task_id, why)
            return
        task.measure_candidates = list(candidates)[:left]
        task.lap("search_s")
        try:
            self._send_to_builder(task_id)
            self._send_to_runner(task_id)
        except BaseException:
            remove_artifacts(task.builder_results or [])
            task.measure_candidates = task.builder_results = task.runner_futures = None
            raise
        self.join_running_task(task_id)
        if task.is_terminated:
            return
        if self._budget.per_task <= task.trials:
            self.terminate_task(task_id)
        elif why := task.outlook.tired():
            self._end_early(task_id, why)

    def _exhausted(self, task_id: int) -> None:
        """End a task whose strategy is finished; where it never gave a candidate, say why."""
        task = self.tasks[task_id]
        if not task.best_history_ms:
            self._log_round(task_id, [], [], [])
        if not task.trials and (refused := self.rounds.refusals(task_id)):
            reason, n = refused.most_common(1)[0]
            self._logger.warning(
                'Task #%d: "%s": nothing to measure: %d candidates were refused, %d of them: %s',
                task_id, task.task_name, refused.total(), n, reason,
            )  # fmt: skip
        self.terminate_task(task_id)

    def _end_early(self, task_id: int, why: str) -> None:
        task = self.tasks[task_id]
        task.ended = why
        self._logger.info('Task #%d: "%s" ends early: %s', task_id, task.task_name, why)
        self.terminate_task(task_id)

    def _send_to_builder(self, task_id: int) -> None:
        task, builder = self.tasks[task_id], self._builder
        assert task.measure_candidates is not None
        assert builder is not None
        inputs = [BuilderInput(c.sch.mod, task.ctx.target) for c in task.measure_candidates]
        self._logger.info("Sending %d sample(s) to builder", len(inputs))
        self._report("build", task_id)
        results: list[BuilderResult] = []
        task.builder_results = results
        size = len(inputs)
        if self._budget.seconds is not None:
            size = _SLICE * getattr(builder, "max_workers", 1)
        with Profiler.timeit("SendToBuilder"):
            for at in range(0, len(inputs), max(1, size)):
                if at and self._is_late:
                    break
                results += self._build(builder, inputs[at : at + size])
        task.lap("build_s")

    def _build(self, builder: Builder, inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Build; what failed for want of a worker is tried once more."""
        results = list(same_order(builder.build(inputs), inputs))
        lost = [
            i for i, r in enumerate(results) if r.problem is not None and r.problem.infrastructure
        ]
        if lost:
            again = same_order(builder.build([inputs[i] for i in lost]), lost)
            for i, r in zip(lost, again):
                results[i] = r
        return results

    def _send_to_runner(self, task_id: int) -> None:
        task, runner = self.tasks[task_id], self._runner
        assert task.measure_candidates is not None
        assert task.builder_results is not None
        assert runner is not None
        built = task.builder_results
        # what was not built for want of time is not a trial
        task.measure_candidates = task.measure_candidates[: len(built)]
        known = self._second_look(task)
        built = task.builder_results
        device = _device(task.ctx.target)
        inputs = [
            RunnerInput(str(b.artifact_path), device, c.args_info, task.best, flop=task.flop)
            for c, b, f in zip(task.measure_candidates, built, known)
            if f is None
        ]
        self._logger.info("Sending %d sample(s) to runner", len(inputs))
        self._report("measure", task_id)
        with Profiler.timeit("SendToRunner"):
            found = runner.run(inputs)
        given = list(found) if isinstance(found, Sequence) else None
        if given is None or len(given) != len(inputs):
            told = f"{found!r:.60}" if given is None else f"{len(given)} futures"
            raise UserError(
                f"the runner gave {told} for {len(inputs)} kernels",
                hint="return one RunnerFuture for each RunnerInput, in their order",
                code="runner",
            )
        coming = zip(given, inputs)
        task.runner_futures = [
            self._watched(task, c, *next(coming)) if f is None else f
            for f, c in zip(known, task.measure_candidates)
        ]

    def _watched(
        self, task: TaskRecord, candidate: MeasureCandidate, future: RunnerFuture, x: RunnerInput
    ) -> RunnerFuture:
        """A future that observers look on at, if there are any."""
        if not self._conditions.observers:
            return future
        return self._conditions.watched(future, x, task.task_name, candidate.digest)

    def _second_look(self, task: TaskRecord) -> list[RunnerFuture | None]:
        """What is known of candidates without a measurement, now that they are built; None of those
        to measure. Those of a GPU are put in the order of what the model says of them now."""
        candidates, built = task.measure_candidates, task.builder_results
        assert candidates is not None
        assert built is not None
        out: list[RunnerFuture | None] = [
            None if b.problem is None else _ready(RunnerResult.failed(b.problem)) for b in built
        ]
        if task.ctx.target.kind != "cuda":
            return out
        look(candidates, built)
        order = rank_again(task.ctx, self.cost_model, candidates)
        candidates[:] = [candidates[i] for i in order]
        built[:] = [built[i] for i in order]
        out = [out[i] for i in order]
        refused = refusals(candidates, built, task.accepted)
        for i, (candidate, no) in enumerate(zip(candidates, refused)):
            if out[i] is not None:
                continue
            if no is not None:
                out[i] = _ready(no)
            elif task.code.again(candidate):
                out[i] = RunnerFuture(lambda: True, partial(task.code.result_of, candidate))
        return out

    def join_running_task(self, task_id: int) -> list[RunnerResult]:
        """Wait for the round of a task that is under way, and take in its results.

        Returns:
            The results; an empty list if no round is under way.
        """
        task = self.tasks[task_id]
        if task.runner_futures is None:
            return []
        assert task.measure_candidates is not None
        assert task.builder_results is not None
        candidates, built = task.measure_candidates, task.builder_results
        futures = task.runner_futures
        task.measure_candidates = task.builder_results = task.runner_futures = None
        results: list[RunnerResult] = []
        try:
            with Profiler.timeit("JoinRunnerFutures"):
                for candidate, b, future in zip(candidates, built, futures):
                    if self._has_to_end(results) or _all_alike(task, results):
                        break
                    found = self._conditions.settled(_result_of(future), candidate, task.ctx.target)
                    results.append(judged(task, candidate, b, found))
                    task.code.note(candidate, results[-1])
                    task.lead(candidate, results[-1])
                    self._report("measure", task_id, results)
            judge_round(task, candidates, built, results)
            task.lead_round(candidates, results)
        except KeyboardInterrupt:
            if at_once():
                raise
            self.interrupted = self._stop = True
            self._logger.info("Interrupted: finishing with what was measured so far")
        except BaseException:  # a user's part: what was measured before is recorded all the same
            remove_artifacts(built[len(results) :])
            if results:
                with held():
                    self._take_in(task_id, candidates, built, results)
            raise
        with held():
            remove_artifacts(built[len(results) :])
            return self._take_in(task_id, candidates, built, results)

    def _has_to_end(self, results: Sequence[RunnerResult]) -> bool:
        """Is the time up, and is there something to show for it?"""
        checkpoint()
        success = any(r.problem is None for r in results)
        if self._budget.is_late:
            return success or self._any_success()
        return success and self._is_late

    # ------------------------------------------------------------------ results
    def _take_in(
        self,
        task_id: int,
        candidates: list[MeasureCandidate],
        built: list[BuilderResult],
        results: list[RunnerResult],
    ) -> list[RunnerResult]:
        """Count, record and learn from the results of a round."""
        task = self.tasks[task_id]
        task.code.end_round()
        self._count_lost(task, built, results)
        charged = [i for i, r in enumerate(results) if not r.is_lost]
        kept = [candidates[i] for i in charged]
        kept_built = [built[i] for i in charged]
        kept_results = [results[i] for i in charged]
        for c, b, r in zip(kept, kept_built, kept_results):
            task.charge(b, r)
            task.accepted |= r.problem is None and not c.excused
        unwritten: RecordError | None = None
        try:
            self._write_failures(task, kept, kept_results)
        except RecordError as e:
            unwritten = e  # the database shall have the round all the same
        best = task.best_latency_ms
        task.best_history_ms.append(FAILED_MS if best is None else best)
        self._tell(task_id, kept, kept_built, kept_results)
        task.outlook.learn(kept, kept_results, task.best.seconds)
        task.lap("measure_s")
        self._log_round(task_id, candidates, built, results)
        self._logger.info(
            '[Updated] Task #%d: "%s"\n%s', task_id, task.task_name, table(self.tasks)
        )
        if unwritten is not None:
            raise unwritten
        if kept_results and best is None:
            self._lose_patience(task_id)
        return kept_results

    def _tell(
        self,
        task_id: int,
        candidates: list[MeasureCandidate],
        built: list[BuilderResult],
        results: list[RunnerResult],
    ) -> None:
        """Tell the strategy and the callbacks of a round. What one of them raises ends tuning, but
        first the round goes into the database, its files are removed, and that is written down."""
        task = self.tasks[task_id]
        problem: BaseException | None = None
        try:
            task.ctx.notify_runner_results(candidates, results)
        except BaseException as e:
            problem = e
            self._write_problem(task, f"strategy {type(task.ctx.search_strategy).__name__}", e)
        for callback in self.measure_callbacks:
            if problem is not None and not isinstance(
                callback, (AddToDatabase, RemoveBuildArtifact)
            ):
                continue
            name = type(callback).__name__
            try:
                with Profiler.timeit(f"MeasureCallback/{name}"):
                    callback.apply(self, task_id, candidates, built, results)
            except BaseException as e:
                problem = problem or _of_recording(e)
                self._write_problem(task, f"callback {name}", e)
        if problem is not None:
            raise problem

    def _write_problem(self, task: TaskRecord, who: str, e: BaseException) -> None:
        """Put what a part raised into the log and the list of failures."""
        if isinstance(e, KeyboardInterrupt):
            return
        failure = Failure("callback", type(e).__name__, f"{who} raised: {e}")
        self._logger.error(
            'Task #%d: "%s": %s', self.tasks.index(task), task.task_name, failure, exc_info=e
        )
        line: dict[str, object] = {
            "time": round(time.time(), 3),
            "task": task.task_name,
            "workload": task.shash,
            **failure.as_json(),
        }
        self.rounds.failures.append(line)
        if self._failures_path is not None:
            with contextlib.suppress(RecordError):  # it may be what `e` is about
                write_failures(self._failures_path, [line])

    def _log_round(
        self,
        task_id: int,
        candidates: list[MeasureCandidate],
        built: list[BuilderResult],
        results: list[RunnerResult],
    ) -> None:
        task = self.tasks[task_id]
        best = task.best.seconds
        counts = getattr(task.ctx.search_strategy, "counts", None)
        line = {
            "task": task.task_name,
            "workload": task.shash,
            "round": len(task.best_history_ms),
            "model": task.source,
            "best": best if math.isfinite(best) else None,
            **{name: round(seconds, 4) for name, seconds in task.laps.items()},
            **Round.of(task.proposed, built, results).as_json(),
            **predictions(candidates, results),
            **regret(candidates, results),
        }
        self.rounds.add(task_id, line, counts() if callable(counts) else None)

    def _count_lost(
        self, task: TaskRecord, built: list[BuilderResult], results: list[RunnerResult]
    ) -> None:
        lost = [r for r in results if r.is_lost]
        remove_artifacts([b for b, r in zip(built, results) if r.is_lost])
        if not lost or len(lost) < len(results):
            task.lost_rounds = 0
            return
        task.lost_rounds += 1
        if task.lost_rounds >= _PATIENCE:
            assert lost[0].problem is not None
            raise RunError(
                f"nothing can be measured: {lost[0].problem.message}",
                hint="gputune doctor says what this machine offers",
                code="no-worker",
            )

    def _write_failures(
        self, task: TaskRecord, candidates: list[MeasureCandidate], results: list[RunnerResult]
    ) -> None:
        lines: list[dict[str, object]] = []
        for candidate, result in zip(candidates, results):
            if result.problem is None:
                continue
            task.ctx.logger.info("%s\n%s", result.problem, candidate.sch.trace)
            line: dict[str, object] = {
                "time": round(time.time(), 3),
                "task": task.task_name,
                "workload": task.shash,
                "device": task.ctx.target.device_key,
                **result.problem.as_json(),
                "program": candidate.digest,
                "trace": candidate.sch.trace.as_python(),
            }
            if result.problem.phase != REFUSED:  # that is no failure: nobody wants to see it again
                line |= self._repeatable(task, candidate)
            lines.append(line)
        self.rounds.failures += lines
        if lines and self._failures_path is not None:
            write_failures(self._failures_path, lines)

    def _repeatable(self, task: TaskRecord, candidate: MeasureCandidate) -> dict[str, object]:
        """What it takes to make a candidate anew and to do the same with it; see `reproduce`."""
        on_host = isinstance(self._runner, HostExecutionRunner)
        out: dict[str, object] = {
            "target": task.ctx.target.export(),
            "steps": candidate.sch.trace.as_json(),
            "runner": (HostExecutionRunner if on_host else type(self._runner)).__name__,
            "limits_s": [getattr(x, "timeout_sec", None) for x in (self._builder, self._runner)],
        }
        if task.shash not in self._told:  # once in a run is enough
            self._told.add(task.shash)
            out["script"] = task.ctx.mod.script()
        return out

    def _lose_patience(self, task_id: int) -> None:
        """Give a task up that only ever fails."""
        task = self.tasks[task_id]
        task.failed_rounds += 1
        if task.failed_rounds < _PATIENCE and not _all_alike(task):
            return
        task.ended = task.all_failed()
        self._logger.error(
            'Task #%d: "%s" is given up after %d round%s: %s',
            task_id, task.task_name, task.failed_rounds, "s" * (task.failed_rounds > 1), task.ended,
        )  # fmt: skip
        if not task.is_terminated:
            self.terminate_task(task_id)

    def _complain(self) -> None:
        """RunError if there were candidates, all failed, and no earlier run has a result."""
        failed = [t for t in self.tasks if (t.failures or t.unranked) and t.best_latency_ms is None]
        if not failed or self._any_success() or self.interrupted:
            return
        for t in self.tasks:
            if self.database is not None and self.database.candidates(t.ctx.mod, t.ctx.target):
                return
        if failed[0].unranked == failed[0].trials:
            raise RunError(
                f'task "{failed[0].task_name}": {failed[0].all_failed()}',
                hint="shared_gpu=True ranks them all the same",
                code="shared-gpu",
            )
        path = self._failures_path
        raise RunError(
            f'task "{failed[0].task_name}": {failed[0].all_failed()}',
            hint=f"{path} has every failure with its trace" if path is not None else "",
            code="all-failed",
        )

    # ------------------------------------------------------------------ for subclasses and users
    @property
    def builder(self) -> Builder | None:
        """The builder that `tune` was given."""
        return self._builder

    @property
    def runner(self) -> Runner | None:
        """The runner that `tune` was given."""
        return self._runner

    def touch_task(self, task_id: int) -> None:
        """Take in the results of a task's round if they are all there."""
        futures = self.tasks[task_id].runner_futures
        if futures is not None and all(f.done() for f in futures):
            self.join_running_task(task_id)

    def terminate_task(self, task_id: int) -> None:
        """Measure nothing more of a task."""
        task = self.tasks[task_id]
        if task.is_terminated:
            raise UserError(f"task #{task_id} has been terminated before")
        task.is_terminated = True
        self.remaining_tasks -= 1
        self._logger.info(
            "Task #%d has finished. Remaining task(s): %d", task_id, self.remaining_tasks
        )

    def failure_summary(self) -> str:
        """How many candidates of each task failed, and why."""
        lines = []
        for t in self.tasks:
            why = f" ({in_words(t.failures)})" if t.failures else ""
            shared = f", {t.unranked} do not rank: the GPU was shared" if t.unranked else ""
            failed = sum(t.failures.values())
            lines.append(f"{t.task_name}: {failed} of {t.trials} failed{why}{shared}")
        return "\n".join(lines)

    def print_tuning_statistics(self) -> None:
        """Log the statistics table."""
        self._logger.info("\n%s", table(self.tasks))

    def _report(self, phase: str, task_id: int, pending: Sequence[RunnerResult] = ()) -> None:
        if self._on_progress is None or not self.tasks:
            return
        tasks = list(self.tasks)
        if pending:
            tasks[task_id] = tasks[task_id].ahead(pending)
        budget = self._budget
        most = min(budget.trials, budget.per_task * len(tasks))
        trials = sum(t.trials for t in tasks)
        self._on_progress(
            Progress(phase, task_id, tuple(tasks), trials, most, budget.elapsed_s, budget.seconds)
        )


def verifier_of(
    mod: IRModule,
    target: Target,
    runner: Runner | None,
    seed: Callable[[], int],
    reference: Callable[..., Any] | None = None,
) -> Verifier | None:
    """What checks candidates of a program that a runner measures; None where gputune has nothing
    for the target.

    Args:
        seed: gives that of the inputs; called if there is a verifier.
        reference: a function that says what is right; default: the unscheduled program.
    """
    if isinstance(runner, DaskRunner):
        return runner.verifier(mod, target, seed(), reference=reference)
    if target.kind == "cuda" and isinstance(runner, LocalRunner):
        return Verifier(mod, target, runner.gpu_worker, seed(), reference=reference)
    if target.kind == "cuda" and isinstance(runner, CudaRunner):
        return Verifier(mod, target, runner.worker, seed(), reference=reference)
    if target.kind == "cuda" and isinstance(runner, HostExecutionRunner):
        return Verifier(mod, target, runner.worker, seed(), on_host=True, reference=reference)
    if target.kind == "llvm":
        worker = runner.worker if isinstance(runner, LocalRunner) else shared_worker()
        return Verifier(mod, target, worker, seed(), reference=reference)
    return None


def _check_counts(total: int, per_task: int, per_iter: int, seconds: float | None) -> None:
    for name, value, least in (
        ("max_trials_global", total, 0),
        ("max_trials_per_task", per_task, 0),
        ("num_trials_per_iter", per_iter, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} is a whole number from {least}, found {value!r}")
    if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
        raise UserError(f"seconds is a positive number, found {seconds!r}")


def _check_weights(tasks: Sequence[TuneContext], weights: Sequence[float]) -> None:
    if len(tasks) != len(weights):
        raise UserError(f"{len(tasks)} tasks were given with {len(weights)} weights")
    for w in weights:
        if not (_is_number(w) and 0 <= w < math.inf):
            raise UserError(f"a task's weight is a number from 0, found {w!r}")


def _is_number(x: object) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def _device(target: Target) -> str:
    """Where a runner runs what is compiled for a target."""
    return "cpu" if target.kind == "llvm" else target.kind


def _result_of(future: RunnerFuture) -> RunnerResult:
    """The result of any runner's future."""
    found: object = future.result()
    if isinstance(found, RunnerResult):
        return found
    raise UserError(
        f"the runner's future gave {found!r:.60}",
        hint="its result is a RunnerResult(run_secs, error_msg)",
        code="runner",
    )


def _of_recording(e: BaseException) -> BaseException:
    """That a database cannot be written: the user's mistake before the first round, a failure to
    record what was measured after it."""
    if isinstance(e, UserError) and e.code == "not-writable":
        return RecordError(e.message, hint=e.hint, code=e.code)
    return e


def _all_alike(task: TaskRecord, results: Sequence[RunnerResult] = ()) -> bool:
    """Has nothing of a task ever worked, and has everything failed for the same reason, so often
    that it must be the program, or the machine? (What a rule refuses has not failed.)"""
    if task.best_latency_ms is not None or task.known_seconds < math.inf:
        return False
    problems = [r.problem for r in results]
    if any(p is None or p.infrastructure or p.phase == REFUSED for p in problems):
        return False
    reasons = {*task.failures, *(p.reason for p in problems if p is not None)}
    return (
        len(reasons) == 1
        and not next(iter(reasons)).startswith(REFUSED)
        and task.failures.total() + len(problems) >= _ALIKE
    )


def _ready(result: RunnerResult) -> RunnerFuture:
    return RunnerFuture(lambda: True, lambda: result)


@left_open
class PyTaskScheduler(TaskScheduler):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


class RoundRobin(TaskScheduler):
    """Takes the tasks in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -1

    def next_task_id(self) -> int:
        """The next task that is not done."""
        n = len(self.tasks)
        for step in range(1, n + 1):
            task_id = (self._last + step) % n
            self.join_running_task(task_id)
            if not self.tasks[task_id].is_terminated:
                self._last = task_id
                return task_id
        return -1


class GradientBased(TaskScheduler):
    """Takes the task from which the most is to be expected.

    The expected gain of a round is `alpha` times what the last rounds gained, plus `1 - alpha`
    times the task's time divided by its rounds, all times its weight.

    Args:
        alpha: how much recent gains count.
        window_size: how many rounds back they are counted from.
        seed: of the choice among equals; -1 draws one.
    """

    def __init__(self, alpha: float = 0.2, window_size: int = 3, seed: int = -1) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"GradientBased: alpha is from 0 to 1, found {alpha!r}")
        if type(window_size) is not int or window_size < 1:
            raise UserError(f"GradientBased: window_size is a count from 1, found {window_size!r}")
        self.alpha = alpha
        self.window_size = window_size
        self._rng = random.Random(check_seed(seed))

    def next_task_id(self) -> int:
        """Each task once, then the one with the greatest expected gain. A task of which nothing has
        worked yet has a turn as often as if all had equal ones, until it is given up."""
        alive = []
        for task_id in range(len(self.tasks)):
            self.touch_task(task_id)
            if not self.tasks[task_id].is_terminated:
                alive.append(task_id)
        if not alive:
            return -1
        for task_id in alive:
            if not self.tasks[task_id].best_history_ms:
                self.join_running_task(task_id)
                return task_id
        turns = sum(len(t.best_history_ms) for t in self.tasks)
        for task_id in alive:
            task = self.tasks[task_id]
            if task.best_history_ms[-1] >= FAILED_MS and turns - task.last_turn >= len(alive):
                self.join_running_task(task_id)
                return task_id
        gains = [self._gain(self.tasks[i]) for i in alive]
        top = max(gains)
        if min(gains) == top:
            chosen = self._rng.choice(alive)
        else:
            chosen = alive[gains.index(top)]
        self.join_running_task(chosen)
        return chosen

    def _gain(self, task: TaskRecord) -> float:
        """What a round should gain; where time is the limit, what a second should."""
        best, w = task.best_history_ms, self.window_size
        n = len(best)
        if best[-1] >= FAILED_MS:
            return -1e9
        recent = (best[n - 1 - w] - best[n - 1]) / w if n >= 1 + w else 0.0
        ahead = best[n - 1] / n
        gain = (self.alpha * recent + (1 - self.alpha) * ahead) * task.task_weight
        return gain if self._budget.seconds is None else gain / max(task.spent_s / n, 1e-3)


create = TaskScheduler.create
