"""Which measured times count? Those of candidates whose numbers are right."""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import RunError
from ..ir.nodes import IRModule
from ..target import Target
from . import proofs
from .artifact import Artifact
from .builder import BuilderResult
from .logging import console
from .measure_candidate import MeasureCandidate
from .profiler import Profiler
from .runner import RunnerResult
from .task_record import FAILED_MS, TaskRecord
from .verify import Checker, Verdict, Verifier

_MOST_DECIDED = 90  # characters of a candidate's decisions in a message


def judged(
    task: TaskRecord, candidate: MeasureCandidate, built: BuilderResult, result: RunnerResult
) -> RunnerResult:
    """A result, or the failure that it turns into: a new best is checked before anything builds on
    it, unless checks are so dear that only the best of a round has one (`judge_round`)."""
    if not competes(task, result):
        return result
    seconds = result.seconds
    if seconds >= task.best.seconds:
        return result
    if task.verifier is not None and task.verifier.eager:
        result = _checked(task, task.verifier, candidate, built, result)
    if result.problem is None:
        task.best.seconds = seconds
    return result


def competes(task: TaskRecord, result: RunnerResult) -> bool:
    """Is it a time that may be compared with the task's best? The first one settles the cache
    regime of a run, and what earlier runs found in another one then counts no more."""
    if result.problem is not None or result.unranked:
        return False
    best = task.best
    if not best.measured:
        if best.regime not in ("", result.regime):
            best.seconds = task.known_seconds = math.inf
            best.nominal_s = 0.0
        best.regime, best.measured = result.regime, True
    return result.regime == best.regime


def judge_round(
    task: TaskRecord,
    candidates: list[MeasureCandidate],
    built: list[BuilderResult],
    results: list[RunnerResult],
) -> None:
    """Check the best of a round if it is the best so far and has not been checked; where it is
    wrong, the next best. Wrong results are replaced in `results`."""
    if task.verifier is None or task.verifier.eager:
        return
    while True:
        good = [i for i, r in enumerate(results) if competes(task, r)]
        if not good:
            return
        best = min(good, key=lambda i: results[i].seconds)
        if results[best].verified or results[best].seconds > task.best.seconds:
            return
        results[best] = _checked(task, task.verifier, candidates[best], built[best], results[best])
        if results[best].problem is None:
            return
        rest = [results[i].seconds for i in good if i != best]
        earlier = [ms * 1e-3 for ms in task.latency_ms if ms < FAILED_MS]
        task.best.seconds = min([*rest, *earlier, task.known_seconds], default=math.inf)


def _checked(
    task: TaskRecord,
    verifier: Checker,
    candidate: MeasureCandidate,
    built: BuilderResult,
    result: RunnerResult,
) -> RunnerResult:
    with Profiler.timeit("Verify"):
        verdict = check_built(verifier, task.ctx.mod, task.ctx.target, candidate, built)
    if verdict.outcome == "wrong":
        assert verdict.failure is not None
        message = f"{verdict.failure.message}; {_which(candidate)}"
        console().warning("A fast candidate computes wrong results and is rejected: %s", message)
        failure = replace(verdict.failure, message=message)
        return replace(RunnerResult.failed(failure), extras=result.extras)
    if verdict.outcome != "right":
        return result
    return replace(result, verified=True)


def _which(candidate: MeasureCandidate) -> str:
    """Which candidate it is, for people: its program's digest, and what was decided."""
    decided = ", ".join(str(d) for d in candidate.sch.trace.decisions.values())
    if len(decided) > _MOST_DECIDED:
        decided = decided[: _MOST_DECIDED - 3] + "..."
    return f"program {candidate.digest[:12]}" + (f", decisions {decided}" if decided else "")


def check_built(
    verifier: Checker,
    mod: IRModule,
    target: Target,
    candidate: MeasureCandidate,
    built: BuilderResult,
) -> Verdict:
    """Check what was built of a candidate, or its program where a builder of one's own built
    something else; that it is right is remembered."""
    try:
        artifact = Artifact.load(str(built.artifact_path))
    except RunError:
        verdict = verifier.check_program(candidate.sch.mod)
    else:
        verdict = verifier.check(artifact)
    if verdict.outcome == "right" and isinstance(verifier, Verifier):
        if verifier.by_user:  # a proof is about the unscheduled program
            verifier.remember(candidate.sch.mod)
        else:
            proofs.note(proofs.key_of(mod, candidate.sch.mod, target), verdict)
    return verdict
