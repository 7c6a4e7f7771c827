"""Can the best schedule be made better by small turns? Droplet search, after the search proper.

From the best record of a task it looks at the schedules one turn of one knob away
(`knobs_of_trace`), measures them, and moves to one that is surely faster; when no neighbour is, it
tries longer turns, and then it ends. "Surely" means: the two were timed in turns, and a t-test
gives a p-value of at most 0.05. What it ends with was timed once more in turns with what it began
with; only then, and after its numbers were checked, is a record written. So post-optimisation never
makes anything slower.

The idea is Droplet search (Canesche and others, "The Droplet Search Algorithm for Kernel
Scheduling", ACM TACO 2024).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GputuneError, RecordError, ScheduleError, UserError
from ..ir.nodes import IRModule
from ..runtime.interruption import at_once, checkpoint, held, interrupted
from ..schedule import Schedule, Trace
from ..target import Target
from ..target.target import TargetLike
from .builder import Builder, BuilderInput, BuilderResult, same_order
from .database import Database
from .json_database import JSONDatabase
from .judgement import check_built
from .knobs_of_trace import WIDEST, Neighbour, extents_of, neighbours, open_part
from .logging import console
from .measure_callback import remove_artifacts, versions
from .measure_candidate import MeasureCandidate
from .postproc import Postproc, postprocess
from .record import TuningRecord
from .runner import BestSoFar, Runner, RunnerInput
from .significance import steady, welch
from .tir_integration import usable
from .verify import Checker

if TYPE_CHECKING:
    from .task_scheduler import TaskScheduler

TRIALS = 100
PVALUE = 0.05
_BATCH = 8  # neighbours that are built together
_ROUNDS = 5  # turns of a comparison
_FINAL_ROUNDS = 9
_COMPARED = 2  # of a batch, how many are compared with the best so far
_KNOWN_SLOWER = 1.1  # a program that an earlier trial found slower by this is not tried again


@dataclass(slots=True, eq=False)
class _Point:
    """A schedule that was built and measured."""

    candidate: MeasureCandidate
    trace: Trace  # its open part
    built: BuilderResult
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Improvement:
    """What a Droplet search found.

    Attributes:
        candidate: the schedule.
        samples: its seconds, timed in turns with the start.
        start_samples: those of the start, at the same time.
        pvalue: that the two do not differ.
        verified: its numbers were compared with the unscheduled program's.
        trials: candidates that were measured on the way.
    """

    candidate: MeasureCandidate
    samples: list[float]
    start_samples: list[float]
    pvalue: float
    verified: bool
    trials: int

    @property
    def speedup(self) -> float:
        """How many times as fast as the start."""
        return statistics.median(self.start_samples) / statistics.median(self.samples)


class Droplet:
    """One search from one schedule.

    Args:
        mod: the unscheduled program.
        target: the machine.
        start: the trace to begin with.
        builder, runner: the parts.
        postprocs: what finishes a schedule; default: those of the target.
        checker: compares numbers with the unscheduled program's; None: nobody does.
        known: seconds of programs that were measured before, by digest.
        pvalue: the greatest probability of mistaking noise for a gain.
        log: file to which a line is appended for each trial and comparison.

    Raises:
        UserError: a p-value that is none.
        ScheduleError: the trace does not apply.
    """

    def __init__(
        self,
        mod: IRModule,
        target: TargetLike,
        start: Trace,
        builder: Builder,
        runner: Runner,
        *,
        postprocs: Sequence[Postproc] | None = None,
        checker: Checker | None = None,
        known: dict[str, float] | None = None,
        pvalue: float = PVALUE,
        log: Path | None = None,
    ) -> None:
        if isinstance(pvalue, bool) or not isinstance(pvalue, int | float) or not 0 < pvalue < 1:
            raise UserError(f"a p-value is between 0 and 1, found {pvalue!r}", code="pvalue")
        self.mod = mod
        self.target = Target(target)
        self.builder = builder
        self.runner = runner
        self.checker = checker
        self.known = dict(known or {})
        self.pvalue = float(pvalue)
        self.log = log
        self.trials = 0
        self._start, self._finished = open_part(start)
        self._postprocs = list(
            Postproc.create(self.target.kind) if postprocs is None else postprocs
        )
        self._whole = start
        self._extents = extents_of(self._start, Schedule(mod, error_render_level="none"))
        self._seen: set[str] = set()
        self._deadline = math.inf

    def tune(self, n_trials: int = TRIALS, seconds: float | None = None) -> Improvement | None:
        """Search.

        Args:
            n_trials: the most candidates to measure; comparisons of measured ones are not counted.
            seconds: time limit; None: none.

        Returns:
            A schedule that is surely faster than the start, and right; None if none was found.
        """
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        with ExitStack() as stack:
            start = self._first(stack)
            if start is None:
                return None
            here = start
            try:
                here = self._descend(start, n_trials, stack)
            except KeyboardInterrupt:
                if at_once():
                    raise
                self._note(event="interrupted")
            if here is start:
                return None
            return self._confirmed(start, here)

    # ------------------------------------------------------------------ the descent
    def _first(self, stack: ExitStack) -> _Point | None:
        sch = Schedule(self.mod, error_render_level="none")
        self._whole.apply_to_schedule(sch)
        candidate = MeasureCandidate.of(sch)
        self._seen.add(candidate.digest)
        (point,) = self._measured([(candidate, self._start, "start")], math.inf, stack)
        return point

    def _descend(self, here: _Point, n_trials: int, stack: ExitStack) -> _Point:
        stride, last = 1, -1
        while stride <= WIDEST:
            moved = False
            for batch in self._batches(here, stride, last):
                checkpoint()
                room = n_trials - self.trials
                if room <= 0 or self._late:
                    return here
                points = self._measured([b[:3] for b in batch[:room]], here.seconds, stack)
                self.trials += len(points)
                found = self._better(here, points)
                if found is not None:
                    last = next(b[3] for b, p in zip(batch, points) if p is found)
                    self._note(event="moved", seconds=found.seconds)
                    here, moved = found, True
                    break
            stride = 1 if moved else stride + 1
        self._note(event="no neighbour is faster")
        return here

    def _batches(
        self, here: _Point, stride: int, last: int
    ) -> list[list[tuple[MeasureCandidate, Trace, str, int]]]:
        """New legal neighbours, those of the knob that helped last first, a few at a time."""
        near = neighbours(here.trace, stride, self._extents)
        near.sort(key=lambda n: n.knob != last)
        made = []
        for n in near:
            candidate = self._made(n)
            if candidate is not None:
                made.append((candidate, n.trace, n.label, n.knob))
        return [made[k : k + _BATCH] for k in range(0, len(made), _BATCH)]

    def _made(self, n: Neighbour) -> MeasureCandidate | None:
        """The candidate of a neighbour, if it is legal and worth a trial."""
        sch = Schedule(self.mod, error_render_level="none")
        try:
            n.trace.apply_to_schedule(sch)
            if self._finished and postprocess(sch, self._postprocs) is not None:
                return None
        except ScheduleError:
            return None
        candidate = MeasureCandidate.of(sch)
        if candidate.digest in self._seen:
            return None
        self._seen.add(candidate.digest)
        before = self.known.get(candidate.digest)
        start = self.known.get("", math.inf)
        return None if before is not None and before > start * _KNOWN_SLOWER else candidate

    def _better(self, here: _Point, points: Sequence[_Point | None]) -> _Point | None:
        """The first of the fastest that is surely faster, and right."""
        good = sorted((p for p in points if p is not None), key=lambda p: p.seconds)
        for point in good[:_COMPARED]:
            if point.seconds >= here.seconds or self._late:
                return None
            ours, theirs = map(steady, self._in_turns(here, point, _ROUNDS))
            p = welch(ours, theirs)
            faster = bool(ours) and statistics.median(theirs) < statistics.median(ours)
            right = faster and p <= self.pvalue and self._is_right(point)[0]
            self._note(event="compared", best=ours, found=theirs, pvalue=p, accepted=bool(right))
            if right:
                point.seconds = statistics.median(theirs)
                return point
        return None

    def _confirmed(self, start: _Point, end: _Point) -> Improvement | None:
        before, after = map(steady, self._in_turns(start, end, _FINAL_ROUNDS))
        p = welch(before, after)
        better = bool(before) and statistics.median(after) < statistics.median(before)
        if not better or p > self.pvalue:
            self._note(event="not confirmed", start=before, found=after, pvalue=p)
            return None
        verified = self._is_right(end)[1]
        self._note(event="confirmed", start=before, found=after, pvalue=p)
        return Improvement(end.candidate, after, before, p, verified, self.trials)

    # ------------------------------------------------------------------ measuring
    @property
    def _late(self) -> bool:
        return time.monotonic() >= self._deadline

    def _measured(
        self,
        what: Sequence[tuple[MeasureCandidate, Trace, str]],
        best: float,
        stack: ExitStack,
    ) -> list[_Point | None]:
        """Build and time candidates; None for one that failed, or was not reached in time."""
        inputs = [BuilderInput(c.sch.mod, self.target) for c, _, _ in what]
        built = list(same_order(self.builder.build(inputs), inputs))
        stack.callback(remove_artifacts, built)
        out: list[_Point | None] = []
        for (candidate, trace, label), b in zip(what, built):
            problem = b.problem
            seconds = math.inf
            if problem is None and (not self._late or best == math.inf):
                result = self._run(candidate, b, BestSoFar(best))
                problem, seconds = result.problem, result.seconds
            told = {} if problem is None else {"error": problem.as_json()}
            self._note(
                trial=self.trials + len(out),
                what=label,
                seconds=seconds if seconds < math.inf else None,
                **told,
            )
            out.append(_Point(candidate, trace, b, seconds) if seconds < math.inf else None)
        return out

    def _run(self, candidate: MeasureCandidate, built: BuilderResult, best: BestSoFar) -> Any:
        device = "cpu" if self.target.kind == "llvm" else self.target.kind
        x = RunnerInput(str(built.artifact_path), device, candidate.args_info, best)
        (future,) = self.runner.run([x])
        return future.result()

    def _in_turns(self, a: _Point, b: _Point, rounds: int) -> tuple[list[float], list[float]]:
        """Seconds of two, timed in turns, each first as often as the other; empty lists if either
        fails."""
        found: tuple[list[float], list[float]] = ([], [])
        for k in range(rounds):
            for which in (0, 1) if k % 2 == 0 else (1, 0):
                point = (a, b)[which]
                best = BestSoFar(max(a.seconds, b.seconds))
                result = self._run(point.candidate, point.built, best)
                if result.problem is not None:
                    return [], []
                found[which].append(result.seconds)
        return found

    def _is_right(self, point: _Point) -> tuple[bool, bool]:
        """May it be taken; and were its numbers compared?"""
        if self.checker is None:
            return True, False
        verdict = check_built(self.checker, self.mod, self.target, point.candidate, point.built)
        if verdict.outcome == "wrong":
            failure = verdict.failure
            self._note(event="wrong", error=None if failure is None else failure.as_json())
        return verdict.outcome != "wrong", verdict.outcome == "right"

    def _note(self, **facts: Any) -> None:
        if self.log is None:
            return
        line = json.dumps({"time": round(time.time(), 3), **facts}, sort_keys=True)
        try:
            with self.log.open("a", encoding="utf-8") as f:
                f.write(line + "\n")
        except OSError as e:
            raise RecordError(
                f"cannot record in {self.log}: {e.strerror or e}", code="not-recorded"
            ) from None


# ----------------------------------------------------------------------------- with a database
def improve(
    database: Database,
    mod: IRModule,
    target: Target,
    builder: Builder,
    runner: Runner,
    *,
    postprocs: Sequence[Postproc] | None = None,
    checker: Checker | None = None,
    trials: int = TRIALS,
    seconds: float | None = None,
    believe_own: bool = False,
    log: Path | None = None,
    name: str = "main",
) -> TuningRecord | None:
    """Start a Droplet search from the best record of a program, and record what it finds.

    The record's `run_secs` are those of the start, divided by how many times as fast the new one
    was while the two were timed in turns: so the two compare, whatever the machine was doing when
    the start was measured. What was measured is in the record's extras ("post_optimization").

    Returns:
        The new record; None if nothing is surely faster, or there is nothing to start from.
    """
    device = "cpu" if target.kind == "llvm" else target.kind
    regime = runner.regime_on(device) if isinstance(runner, Runner) else None
    found = next(
        (
            x
            for x in usable(database, mod, target, believe_own=believe_own)
            if regime in (None, x.record.regime)
        ),
        None,
    )
    if found is None:
        console().info("Post-optimization of %s: there is no record to start from", name)
        return None
    start = found.record
    known = {
        r.program: r.seconds
        for r in database.candidates(mod, target)
        if r.program and r.regime == start.regime
    }
    droplet = Droplet(
        mod, target, start.trace, builder, runner, postprocs=postprocs, checker=checker,
        known={**known, "": start.seconds}, log=log,
    )  # fmt: skip
    best = droplet.tune(trials, seconds)
    if best is None:
        console().info(
            "Post-optimization of %s: %d trials, nothing surely faster", name, droplet.trials
        )
        return None
    scale = start.seconds / statistics.median(best.start_samples)
    extras = {
        "program": best.candidate.digest,
        "time": round(time.time(), 3),
        "versions": versions(),
        "verified": best.verified,
        "post_optimization": {
            "start": start.key,
            "speedup": best.speedup,
            "pvalue": best.pvalue,
            "trials": best.trials,
            "measured": best.samples,
        },
    }
    if "timing" in start.extras:  # its scale, and its cache regime
        extras["timing"] = start.extras["timing"]
    record = TuningRecord(
        best.candidate.sch.trace,
        database.commit_workload(mod),
        [s * scale for s in best.samples],
        target,
        best.candidate.args_info,
        extras,
    )
    record.own, record.verified = True, best.verified
    database.commit_tuning_record(record)
    database.flush()
    console().info(
        "Post-optimization of %s: %.2fx as fast after %d trials (p = %.2g)",
        name, best.speedup, best.trials, best.pvalue,
    )  # fmt: skip
    return record


@held()
def post_optimize(
    scheduler: TaskScheduler,
    work_dir: str | Path,
    *,
    trials: int = TRIALS,
    seconds: float | None = None,
    believe_own: bool = False,
) -> list[TuningRecord | None]:
    """Post-optimise the tasks of a scheduler that has tuned them, with its builder and runner.

    Args:
        scheduler: after `tune`.
        work_dir: folder of the logs `opt_<i>.log`.
        trials: of each task.
        seconds: for all tasks together; None: no limit.
        believe_own: of `TuneResult`.

    Returns:
        The new record of each task, or None.
    """
    database, builder, runner = scheduler.database, scheduler.builder, scheduler.runner
    if database is None or builder is None or runner is None:
        return [None] * len(scheduler.tasks)
    end = math.inf if seconds is None else time.monotonic() + seconds
    out: list[TuningRecord | None] = []
    for k, task in enumerate(scheduler.tasks):
        now = time.monotonic()
        if now >= end or interrupted():
            out.append(None)
            continue
        share = None if end == math.inf else (end - now) / (len(scheduler.tasks) - k)
        space = task.ctx.space_generator
        postprocs = None if space is None else space.postprocs
        try:
            out.append(
                improve(
                    database, task.ctx.mod, task.ctx.target, builder, runner,
                    postprocs=None if isinstance(postprocs, str) else postprocs,
                    checker=task.verifier, trials=trials, seconds=share, believe_own=believe_own,
                    log=Path(work_dir) / f"opt_{k}.log", name=task.task_name,
                )
            )  # fmt: skip
        except ScheduleError as e:
            console().warning("Post-optimization of %s: %s", task.task_name, e.message)
            out.append(None)
    return out


class PostOpt:
    """Post-optimises what a folder of tuning results holds.

    Args:
        work_dir: the folder; the logs `opt_<i>.log` go there.
        target: records of this target are improved.
        trials: the most candidates to measure for each workload.
        builder, runner: "local" or an object.
        verify: compare results with the unscheduled program.

    Example:
        >>> PostOpt("./tuned", "llvm").run()  # doctest: +SKIP
    """

    def __init__(
        self,
        work_dir: str | Path,
        target: TargetLike,
        trials: int = TRIALS,
        *,
        builder: str | Builder = "local",
        runner: str | Runner = "local",
        verify: bool = True,
    ) -> None:
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise UserError(f"PostOpt: trials is a count from 1, found {trials!r}", code="trials")
        self.work_dir = Path(work_dir)
        self.target = Target(target)
        self.trials = trials
        self.builder = Builder.create(builder)
        self.runner = Runner.create(runner)
        self.verify = verify

    def run(self) -> list[TuningRecord]:
        """Improve the best record of each workload.

        Returns:
            The new records, which were added to the database; those of workloads for which nothing
            surely faster was found are missing.

        Raises:
            UserError: the folder holds no database.
        """
        from .task_scheduler import verifier_of

        database = JSONDatabase(work_dir=self.work_dir, allow_missing=False)
        workloads = {r.workload.shash: r.workload for r in database.get_all_tuning_records()}
        self.builder.start()
        self.runner.start()
        out: list[TuningRecord] = []
        for k, workload in enumerate(workloads.values()):
            try:
                mod = workload.mod
                checker = (
                    verifier_of(mod, self.target, self.runner, lambda: 1) if self.verify else None
                )
                found = improve(
                    database, mod, self.target, self.builder, self.runner, checker=checker,
                    trials=self.trials, log=self.work_dir / f"opt_{k}.log",
                    believe_own=not self.verify, name=next(iter(mod.functions), "main"),
                )  # fmt: skip
            except RecordError as e:
                if e.code == "not-recorded":
                    raise
                console().warning("Post-optimization of a workload: %s", e.message)
                continue
            except GputuneError as e:
                console().warning("Post-optimization of a workload: %s", e.message)
                continue
            if found is not None:
                out.append(found)
        return out
