"""What is the best? The least time, energy, or their product, of what was measured.

The search is about time, whatever the objective. For "energy" and "edp" (energy times delay) the
fastest few of each task then run for a second and more each, their energy is counted, and those
with the least come first. A record tells the energy of its program under "energy", or why it is not
known; where none is, the fastest is the best, and that is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GputuneError, UserError
from ..runtime.energy import Energy
from . import ranking
from .builder import Builder, BuilderInput
from .database import Database
from .logging import console
from .measure_callback import remove_artifacts
from .record import TuningRecord
from .runner import Meter, Runner, RunnerInput

if TYPE_CHECKING:
    from .measure_candidate import MeasureCandidate
    from .task_record import TaskRecord
    from .tune_context import TuneContext

OBJECTIVES = ("latency", "energy", "edp")
FINALISTS = 8
"""Records of a task whose energy is measured: the fastest."""
EACH_S = 3.0
"""What that takes for each, about: to build it, to warm up and to run."""
_LATE = "the time was up"


def check_objective(objective: Any) -> str:
    """An objective, or UserError."""
    if isinstance(objective, str) and objective in OBJECTIVES:
        return objective
    raise UserError(
        f"the objective is {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}, found "
        f"{objective!r:.40}",
        code="objective",
    )


def figure_of(record: TuningRecord, objective: str) -> float:
    """What an objective ranks a record by; see `ranking.figure_of`."""
    return ranking.figure_of(record.seconds, record.extras, objective)


def by_objective(records: Iterable[TuningRecord], objective: str) -> list[TuningRecord]:
    """Records of one program on one device, the best first: those of which the figure is known,
    then the others in their order."""
    given = list(records)
    return given if objective == "latency" else sorted(given, key=lambda r: figure_of(r, objective))


def refuse(
    objective: str, tasks: Sequence[TuneContext], runner: Runner, database: Database
) -> Meter | None:
    """What will measure the objective; None for latency.

    Raises:
        UserError: it cannot be measured here; says why.
    """
    if objective == "latency":
        return None
    why = ""
    meter = runner.meter()
    others = sorted({t.target.kind for t in tasks if t.target.kind != "cuda"})
    if others:
        why = f"NVML tells that of NVIDIA GPUs, and the target is {', '.join(others)}"
    elif meter is None:
        why = f"a {type(runner).__name__} does not measure it"
    elif not database.takes_amendments:
        why = f"a {type(database).__name__} does not take what is learned of a record later"
    else:
        try:
            why = str(meter.about()["energy_problem"])
        except GputuneError as e:
            why = e.message
    if why:
        raise UserError(
            f"objective {objective!r}: energy cannot be measured: {why}",
            hint='objective="latency"; gputune doctor says what NVML tells',
            code="objective",
        )
    return meter


@dataclass(slots=True, eq=False)
class _Finalist:
    record: TuningRecord
    candidate: MeasureCandidate
    task: TaskRecord


def measure_finalists(
    objective: str,
    tasks: Sequence[TaskRecord],
    database: Database,
    builder: Builder,
    meter: Meter,
    seconds: float | None = None,
) -> list[str]:
    """Measure the energy of the fastest records of each task that do not have one yet, and tell the
    database. Ctrl-C ends it; what was measured by then counts.

    Args:
        seconds: how much time is left; None: enough. Each task has at least its fastest measured.

    Returns:
        What is to be said of tasks whose best is the fastest all the same.
    """
    said: list[str] = []
    ends = math.inf if seconds is None else time.monotonic() + seconds
    for task in tasks:
        found = _finalists(task, database)
        try:
            problems = _measure(found, database, builder, meter, ends)
        except KeyboardInterrupt:
            console().info("Interrupted: energy is not measured further")
            problems = ["interrupted"]
        records = database.candidates(task.ctx.mod, task.ctx.target)[:FINALISTS]
        if records and not any(math.isfinite(figure_of(r, objective)) for r in records):
            why = problems[-1] if problems else "no record could be built again"
            said.append(
                f'task "{task.task_name}": energy could not be measured ({why}): the best is the '
                "fastest"
            )
            console().warning("%s", said[-1])
        elif problems[-1:] == [_LATE]:
            said.append(
                f'task "{task.task_name}": the time was up before the energy of all finalists was '
                "measured"
            )
        if problems[-1:] == ["interrupted"]:
            break
    return said


def _finalists(task: TaskRecord, database: Database) -> list[_Finalist]:
    out: list[_Finalist] = []
    for record in _distinct(database.candidates(task.ctx.mod, task.ctx.target))[:FINALISTS]:
        if math.isfinite(figure_of(record, "energy")):
            continue  # of an earlier run
        try:
            out.append(_Finalist(record, record.as_measure_candidate(), task))
        except GputuneError as e:
            console().warning("A record cannot be replayed: %s", e.message)
    return out


def _distinct(records: Iterable[TuningRecord]) -> list[TuningRecord]:
    out: dict[str, TuningRecord] = {}
    for r in records:
        out.setdefault(r.key, r)
    return list(out.values())


def _measure(
    found: Sequence[_Finalist],
    database: Database,
    builder: Builder,
    meter: Meter,
    ends: float,
) -> list[str]:
    """Measure and commit, one at least; why it was not possible, for each where it was not."""
    problems: list[str] = []
    inputs = [BuilderInput(x.candidate.sch.mod, x.task.ctx.target) for x in found]
    built = list(builder.build(inputs)) if inputs else []
    try:
        for k, (x, b) in enumerate(zip(found, built)):
            if k and time.monotonic() + EACH_S > ends:
                problems.append(_LATE)
                break
            if b.problem is not None or b.artifact_path is None:
                told = Energy(problem=str(b.problem or "nothing was built")).as_json()
            else:
                told = _energy(meter, b.artifact_path, x)
            if told.get("problem"):
                problems.append(str(told["problem"]))
            _amend(x.record, told, database)
    finally:
        remove_artifacts(built)
    return problems


def _energy(meter: Meter, path: str, x: _Finalist) -> dict[str, Any]:
    try:
        return dict(meter.energy(RunnerInput(path, "cuda", x.candidate.args_info)))
    except GputuneError as e:
        return Energy(problem=e.message).as_json()


def _amend(record: TuningRecord, energy: Mapping[str, Any], database: Database) -> None:
    extras = {"remeasures": record.key, "was": record.seconds, "energy": dict(energy)}
    extras |= {k: record.extras[k] for k in ("clock", "timing") if k in record.extras}
    database.commit_tuning_record(
        TuningRecord(
            record.trace, record.workload, record.run_secs, record.target, record.args_info, extras
        )
    )
