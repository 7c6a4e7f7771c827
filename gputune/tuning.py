"""How is one kernel tuned in one line? `tune`: a program in, a callable out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RecordError, ScheduleError, UserError
from .ir.nodes import IRModule, PrimFunc
from .schedule import Schedule
from .target import Target
from .target.target import TargetLike
from .tuned_kernel import Summary, TunedKernel, single_function

if TYPE_CHECKING:
    from .meta_schedule import Database, Progress, TuningRecord

DEFAULT_TRIALS = 64
"""Candidates that are measured where neither trials nor seconds are given."""

_PER_ROUND = 64


def tune(
    func: PrimFunc | IRModule,
    target: TargetLike = "auto",
    seconds: float | None = None,
    trials: int | None = None,
    work_dir: str | Path | None = None,
    *,
    seed: int | None = None,
    space: Any = "post-order-apply",
    progress: Callable[[Progress], None] | None = None,
) -> TunedKernel:
    """Search for a fast schedule of a kernel, and give it back compiled.

    Ctrl-C ends the search; the best kernel found so far is returned.

    Args:
        func: a PrimFunc, or an IRModule of one function.
        target: what `Target` accepts; "auto" is the best that this machine offers.
        seconds: time limit of the search.
        trials: limit of the candidates that are measured. With both limits the first one reached
            ends the search; with neither, 64 candidates are measured.
        work_dir: folder of the database. What is found is added to it, and what it holds already
            counts: the result is the best of the whole history. None: nothing is kept.
        seed: of all that is random; the same seed on the same machine tries the same candidates.
        space: what to choose from: "post-order-apply" (gputune's own rules), a `SpaceGenerator`, or
            a function that schedules with sampling instructions.
        progress: called often during the search with a `meta_schedule.Progress`.

    Returns:
        A `TunedKernel`.

    Raises:
        UserError: an argument that makes no sense, a folder that cannot be used, or Ctrl-C before
            anything was measured.
        TargetError: no such target.
        RunError: every candidate failed; says how.
        RecordError: recording failed (disk full); what was recorded before is kept.

    Example:
        >>> f = gputune.tune(matmul, seconds=20)
        >>> c = f(a, b)
        >>> print(f.report())
    """
    name, workload = single_function(func, "tune")
    _check_limits(seconds, trials)
    chosen = Target(target)
    from . import meta_schedule as ms
    from .meta_schedule.logging import quiet

    last: list[Progress] = []

    def note(now: Progress) -> None:
        last[:] = [now]
        if progress is not None:
            progress(now)

    with ExitStack() as stack:
        stack.enter_context(quiet())
        folder, database = work_dir, "json"
        if folder is None:  # logs have to go somewhere
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gputune-"))
            database = "memory"
        most = trials if trials is not None else None if seconds is not None else DEFAULT_TRIALS
        result = ms.tune_tir(
            IRModule({name: workload}),
            chosen,
            folder,
            most,
            num_trials_per_iter=_PER_ROUND,
            database=database,
            space=space,
            seed=seed,
            seconds=seconds,
            on_progress=note,
        )
        found = best_of(result, IRModule({name: workload}), chosen)
    summary = _summary(last)
    if found is None:
        why = "interrupted before" if summary.interrupted else "the search ended before"
        raise UserError(
            f"tune: {why} any candidate of {name} was measured ({summary})",
            hint="give it more time",
            code="no-schedule",
        )
    record, schedule = found
    return TunedKernel(schedule, chosen, workload=workload, record=record, summary=summary)


def best_of(
    database: Database, mod: IRModule, target: Target
) -> tuple[TuningRecord, Schedule] | None:
    """The best record of a one-function program that replays, and its schedule."""
    from .meta_schedule.database import replay

    for record in database.candidates(mod, target):
        try:
            return record, replay(record, next(iter(mod.functions)))
        except (RecordError, ScheduleError):
            continue  # the next best will do
    return None


def _check_limits(seconds: float | None, trials: int | None) -> None:
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0
    ):
        raise UserError(f"tune: seconds is a time above 0, found {seconds!r}")
    if trials is not None and (
        isinstance(trials, bool) or not isinstance(trials, int) or trials < 1
    ):
        raise UserError(f"tune: trials is a count from 1, found {trials!r}")


def _summary(last: list[Progress]) -> Summary:
    if not last:
        return Summary()
    now = last[0]
    return Summary(now.trials, now.elapsed_s, dict(now.failures), now.phase == "interrupted")
