"""What happens after each round? Records are kept, files removed, models updated."""

from __future__ import annotations

import contextlib
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .builder import BuilderResult
from .derived import left_open
from .failures import Failure
from .measure_candidate import MeasureCandidate
from .record import TuningRecord
from .runner import RunnerResult

if TYPE_CHECKING:
    from .task_scheduler import TaskScheduler


class MeasureCallback(ABC):
    """Base class of callbacks; write your own by inheriting from it.

    What it raises ends tuning, after the round is in the database."""

    @abstractmethod
    def apply(
        self,
        task_scheduler: TaskScheduler,
        task_id: int,
        measure_candidates: list[MeasureCandidate],
        builder_results: list[BuilderResult],
        runner_results: list[RunnerResult],
    ) -> None:
        """Called after each round of a task, with lists of equal length (empty after a round in
        which nothing was left to measure)."""

    @staticmethod
    def create(kind: str = "default") -> list[MeasureCallback]:
        """The callbacks of a kind; "default" is the only one. ValueError for another."""
        if kind == "default":
            return [AddToDatabase(), RemoveBuildArtifact(), UpdateCostModel()]
        raise UserError(f"unknown kind of measure callbacks {kind!r}; known is: default")


@left_open
class PyMeasureCallback(MeasureCallback):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


class AddToDatabase(MeasureCallback):
    """Commits every candidate, failed ones with the reason, to the scheduler's database."""

    def apply(
        self,
        task_scheduler: TaskScheduler,
        task_id: int,
        measure_candidates: list[MeasureCandidate],
        builder_results: list[BuilderResult],
        runner_results: list[RunnerResult],
    ) -> None:
        """Commit the round. If recording fails, the rest of the round is still kept in memory, and
        the error is raised at the end."""
        database = task_scheduler.database
        if database is None or not measure_candidates:
            return
        task = task_scheduler.tasks[task_id]
        workload = database.commit_workload(task.ctx.mod)
        problem: Exception | None = None
        for candidate, built, ran in zip(measure_candidates, builder_results, runner_results):
            failure = built.problem or ran.problem
            if failure is not None and failure.infrastructure:
                continue  # says nothing about the candidate
            record = TuningRecord(
                candidate.sch.trace,
                workload,
                None if failure is not None else ran.run_secs,
                task.ctx.target,
                candidate.args_info,
                _extras(candidate, ran, failure, task.ctx.rand_state),
            )
            record.own, record.verified = failure is None, ran.verified
            try:
                database.commit_tuning_record(record)
            except Exception as e:  # of a database of the user's, anything
                problem = problem or e
        if problem is not None:
            raise problem
        database.flush()


def _extras(
    candidate: MeasureCandidate, ran: RunnerResult, failure: Failure | None, seed: int
) -> dict[str, Any]:
    extras: dict[str, Any] = {
        "program": candidate.digest,
        "seed": seed,
        "time": round(time.time(), 3),
        "versions": versions(),
    }
    extras.update(ran.extras)
    if candidate.compiled is not None and candidate.compiled.code:
        extras["code"] = candidate.compiled.code
    if candidate.excused:
        extras["excused"] = candidate.excused
    if failure is not None:
        extras["error"] = failure.as_json()
        return extras
    extras["verified"] = ran.verified
    if ran.cut:
        extras["cut"] = True
    if ran.disturbed:
        extras["disturbed"] = ran.disturbed
    return extras


@cache
def versions() -> dict[str, str]:
    """What compiled and measured: versions of gputune and of the compiler."""
    from importlib.metadata import PackageNotFoundError, version

    from llvmlite import __version__ as llvmlite_version
    from llvmlite import binding

    out = {"llvmlite": llvmlite_version, "llvm": ".".join(map(str, binding.llvm_version_info))}
    with contextlib.suppress(PackageNotFoundError):  # run from a source tree
        out["gputune"] = version("gputune")
    return out


class RemoveBuildArtifact(MeasureCallback):
    """Removes the files that the builder made (a folder with all that is in it)."""

    def apply(
        self,
        task_scheduler: TaskScheduler,
        task_id: int,
        measure_candidates: list[MeasureCandidate],
        builder_results: list[BuilderResult],
        runner_results: list[RunnerResult],
    ) -> None:
        """Remove the artifacts of the round."""
        remove_artifacts(builder_results)


def remove_artifacts(builder_results: Sequence[BuilderResult]) -> None:
    """Remove the artifacts of some results; those that are gone already do not matter."""
    for path in {r.artifact_path for r in builder_results if r.artifact_path is not None}:
        if Path(path).is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(path).unlink()


class UpdateCostModel(MeasureCallback):
    """Teaches the scheduler's cost model what was measured."""

    def apply(
        self,
        task_scheduler: TaskScheduler,
        task_id: int,
        measure_candidates: list[MeasureCandidate],
        builder_results: list[BuilderResult],
        runner_results: list[RunnerResult],
    ) -> None:
        """Update the model with the candidates that could be built."""
        model = task_scheduler.cost_model
        if model is None:
            return
        usable = [
            (c, r)
            for c, b, r in zip(measure_candidates, builder_results, runner_results)
            if b.problem is None and not (r.problem is not None and r.problem.infrastructure)
        ]
        if usable:
            ctx = task_scheduler.tasks[task_id].ctx
            model.update(ctx, [c for c, _ in usable], [r for _, r in usable])


create = MeasureCallback.create
