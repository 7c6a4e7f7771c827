"""Which of the fastest is the fastest? They are timed again, in turns, in fresh processes.

The best of many measured times is also a lucky one, and some programs are fast only where their
memory happens to lie well: in the process that measured them, and not in the next. So, when a
tuning is over, the best few of each task are measured several times more, in new processes, the
arguments each time at other places of their pages, and are ranked by the mean of what these found.
They stay in the cache regime, and on the scale, of their first times (`timescale`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import GputuneError
from ..runtime.interruption import at_once, checkpoint, held, interrupted
from .builder import Builder, BuilderInput, BuilderResult
from .database import Database
from .logging import console
from .measure_callback import remove_artifacts
from .measure_candidate import MeasureCandidate
from .record import TuningRecord
from .runner import OwnProcess, Runner, RunnerInput, RunnerResult
from .task_record import TaskRecord
from .timescale import BestSoFar, nominal_of

PROCESSES = 3
"""Fresh processes in which finalists are measured."""
GPU_PROCESSES = 1
"""The same for a GPU: what differs from process to process is the processor's memory, and opening a
GPU takes a second or two."""
_MOST = 6  # finalists of a task
_WITHIN = 1.2  # times the best: what is slower than that does not win
_LONGEST_S = 0.5  # a kernel that takes longer is not measured again
_TWICE_S = 0.02  # one that takes no longer is measured twice in each process
_RESERVE_S, _RESERVE = 2.5, 0.1  # of a time limit: at most so much, and such a share
_START_S = 1.0  # to build the finalists again and to start the processes
_GPU_RESERVE_S, _GPU_START_S = 6.0, 4.0  # the same for a GPU
_CALLS = 8  # of a kernel, at most, in one measurement that does not lengthen it
_ONCE_S = 0.02  # and what else one measurement takes


@dataclass(slots=True)
class _Finalist:
    task: TaskRecord
    record: TuningRecord
    candidate: MeasureCandidate
    built: BuilderResult | None = None
    seconds: list[float] = field(default_factory=list)
    """Of each process."""


def reserve(seconds: float, gpu: bool = False) -> float:
    """How much of a time limit is kept for the finalists; nothing where that would not do."""
    share = min(_GPU_RESERVE_S if gpu else _RESERVE_S, _RESERVE * seconds)
    return share if share >= (_GPU_START_S if gpu else _START_S) else 0.0


def reserve_for(runner: Runner, kinds: set[str], seconds: float) -> float:
    """The same for tasks of these kinds of targets; nothing where a runner measures none again."""
    kept = [0.0]
    if "llvm" in kinds and runner.fresh() is not None:
        kept.append(reserve(seconds))
    if "cuda" in kinds and runner.fresh_on_gpu() is not None:
        kept.append(reserve(seconds, gpu=True))
    return max(kept)


@held()
def measure_again(
    tasks: Sequence[TaskRecord],
    database: Database,
    builder: Builder,
    runner: Runner,
    seconds: float | None = None,
) -> None:
    """Measure the best records of this run again, and tell the database.

    Nothing happens where the runner has no other process to offer (`Runner.fresh`, and for kernels
    of a GPU `Runner.fresh_on_gpu`), or the database does not keep such amendments. Ctrl-C ends it;
    what is complete by then counts. Only records of the cache regime of this run are finalists, and
    they are measured in it.

    Args:
        tasks: those that were tuned.
        database: holds the records; it is given an amendment for each finalist.
        builder, runner: those of the tuning.
        seconds: how much time is left; None: enough.
    """
    ends = math.inf if seconds is None else time.monotonic() + seconds
    if not database.takes_amendments or interrupted():
        return
    for kind, fresh, count, start_s in (
        ("llvm", runner.fresh, PROCESSES, _START_S),
        ("cuda", runner.fresh_on_gpu, GPU_PROCESSES, _GPU_START_S),
    ):
        mine = [t for t in tasks if t.ctx.target.kind == kind]
        if mine and fresh() is not None:
            found = [x for task in mine for x in _finalists(task, database)]
            if not _measure(found, database, builder, fresh, count, start_s, ends):
                return


def _measure(
    found: list[_Finalist],
    database: Database,
    builder: Builder,
    fresh: Callable[[], OwnProcess | None],
    count: int,
    start_s: float,
    ends: float,
) -> bool:
    """Measure finalists of one kind of device; False where that was interrupted."""
    expected = sum(2 * (_ONCE_S + _CALLS * x.record.seconds) for x in found)
    if not found or time.monotonic() + start_s + expected > ends:
        return True
    tasks = list({id(x.task): x.task for x in found}.values())
    processes = [x for x in (fresh() for _ in range(count)) if x is not None]
    go_on = True
    try:
        for process in processes:
            process.start()
        _build(found, builder)
        found = [x for x in found if x.built is not None]
        for process in processes:
            checkpoint()
            process.wait()  # none starts up while another measures
        for k, process in enumerate(processes):
            begun = time.monotonic()
            if begun + expected > ends:
                break
            _one_process(found, process, 2 * k)
            expected = time.monotonic() - begun
    except GputuneError as e:
        console().warning("The finalists cannot be measured again: %s", e.message)
    except KeyboardInterrupt:
        if at_once():
            raise
        console().info("Interrupted: the finalists are not measured further")
        go_on = False
    finally:
        for process in processes:
            process.close()
        remove_artifacts([x.built for x in found if x.built is not None])
    for task in tasks:
        _amend([x for x in found if x.task is task], database)
    return go_on


def _finalists(task: TaskRecord, database: Database) -> list[_Finalist]:
    records = database.candidates(task.ctx.mod, task.ctx.target)
    records = [r for r in records if r.regime == (task.best.regime or r.regime)]
    best = min((r.seconds for r in records), default=math.inf)
    if not best <= _LONGEST_S:
        return []
    out: list[_Finalist] = []
    seen: set[str] = set()
    for record in records:
        if len(out) == _MOST or record.seconds > _WITHIN * best:
            break
        if not record.own or record.key in seen:
            continue
        seen.add(record.key)
        try:
            out.append(_Finalist(task, record, record.as_measure_candidate()))
        except GputuneError as e:  # of this process's own making, and yet
            console().warning("A record cannot be replayed: %s", e.message)
    # alone it has nobody to be compared with
    return out if len(out) > 1 else []


def _build(found: Sequence[_Finalist], builder: Builder) -> None:
    inputs = [BuilderInput(x.candidate.sch.mod, x.task.ctx.target) for x in found]
    for x, built in zip(found, builder.build(inputs)):
        if built.problem is None and built.artifact_path is not None:
            x.built = built


def _one_process(found: Sequence[_Finalist], process: OwnProcess, placement: int) -> None:
    """Measure each finalist in a new process, there with one placement of the arguments and back
    again with the next."""
    times: list[list[float]] = [[] for _ in found]
    for back in (0, 1):
        for i in reversed(range(len(found))) if back else range(len(found)):
            x = found[i]
            checkpoint()
            assert x.built is not None
            assert x.built.artifact_path is not None
            if times[i] and x.record.seconds > _TWICE_S:
                continue
            best = BestSoFar(x.record.seconds, x.record.regime, nominal_of([x.record]))
            device = "cpu" if x.task.ctx.target.kind == "llvm" else x.task.ctx.target.kind
            given = RunnerInput(
                x.built.artifact_path, device, x.candidate.args_info, best, placement + back,
                x.task.flop,
            )  # fmt: skip
            result = process.measure(given)
            if result.problem is None and result.run_secs and _compares(x, result):
                times[i].append(statistics.median(result.run_secs))
    # A process counts for all finalists of a task, or for none: processes differ.
    for x, mine in zip(found, times):
        if all(t for y, t in zip(found, times) if y.task is x.task):
            x.seconds.append(statistics.fmean(mine))


def _compares(x: _Finalist, result: RunnerResult) -> bool:
    """Was it measured in the cache regime of its record, as far as the process says?"""
    return "timing" not in result.extras or result.regime == x.record.regime


def _amend(found: Sequence[_Finalist], database: Database) -> None:
    """Tell the database, on the scale of the first times: so they compare with other records,
    whatever the machine was doing meanwhile."""
    if not found or not all(x.seconds for x in found):
        return
    means = [statistics.fmean(x.seconds) for x in found]
    scale = statistics.median(x.record.seconds / m for x, m in zip(found, means))
    for x, mean in zip(found, means):
        r = x.record
        extras: dict[str, Any] = {"remeasures": r.key, "was": r.seconds, "processes": x.seconds}
        extras["timing"] = {"regime": r.regime}
        database.commit_tuning_record(
            TuningRecord(r.trace, r.workload, [mean * scale], r.target, r.args_info, extras)
        )
    found[0].task.ctx.logger.info(
        "%d finalists measured again in %d fresh processes: the best took %.4g us",
        len(found), len(found[0].seconds), min(means) * 1e6,
    )  # fmt: skip
