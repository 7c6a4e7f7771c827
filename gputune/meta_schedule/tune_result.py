"""What does tuning give back? The database, which is also the best schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GputuneError, UserError
from ..ir.equal import structural_hash
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule, Trace
from ..target import Target
from ..target.target import TargetLike
from .database import Database, Pruned
from .objective import by_objective
from .predicted import Predicted
from .record import TuningRecord, Workload
from .tir_integration import best_schedule, usable
from .verify import Verifier
from .why import Why

if TYPE_CHECKING:
    from .tune_context import TuneContext
    from .verify import Checker


class TuneResult(Database):
    """The database of a tuning, with the parts of the best schedule at hand.

    It is a `Database` like the one it is about. Besides, `.mod`, `.trace`, `.script()` and
    everything else that a `Schedule` has are those of the best schedule, so that programs which
    expect the tuned schedule work.

    Attributes:
        database: where the records are.
        tasks: what was tuned.
        believe_own: take what this process measured without a check of its numbers; what comes from
            files is checked in any case (see `compile_tir`).
        predicted: schedules that were chosen without a measurement (no trials were asked for); they
            serve where the database has no record.
        objective: "latency", "energy" or "edp": by which the best is the best.

    Example:
        >>> result = tune_tir(matmul, "llvm", "./tuned", max_trials_global=64)
        >>> print(result.trace)
    """

    def __init__(
        self,
        database: Database,
        mod: IRModule,
        target: Target,
        tasks: Sequence[TuneContext] = (),
        *,
        believe_own: bool = False,
        predicted: Iterable[Predicted] = (),
        why: Why | None = None,
        objective: str = "latency",
    ) -> None:
        self.database = database
        self.tasks = tuple(tasks)
        self.believe_own = believe_own
        self.predicted = tuple(predicted)
        self.objective = objective
        self._why = why
        self._mod = mod
        self._target = target
        self._schedule: Schedule | None = None

    # ------------------------------------------------------------------ the best schedule
    @property
    def schedule(self) -> Schedule:
        """The best schedule; UserError if nothing was found.

        Found once; a module of several functions has each function's best. Where nothing was
        measured it is the predicted one, and `seconds` is None.
        """
        if self._schedule is None:
            found = best_schedule(
                self._ranked, self._mod, self._target, believe_own=self.believe_own,
                checker_of=self.checker_of,
            )  # fmt: skip
            found = self._with_predictions(found)
            if found is None:
                raise self._nothing_found()
            self._schedule = found
        return self._schedule

    def checker_of(self, mod: IRModule) -> Checker | None:
        """What decides which numbers of a program are right, where its task has such a thing of
        its own: a reference of the user's."""
        for task in self.tasks:
            found = task.verifier
            if isinstance(found, Verifier) and found.by_user:
                if structural_hash(task.mod) == structural_hash(mod):
                    return found
        return None

    def _nothing_found(self) -> UserError:
        refused = sum((t.counter("refused") for t in self.why().tasks), Counter[str]())
        hint = "give it more trials, or build the program as it is"
        if refused and not any(t.total("proposed") for t in self.why().tasks):
            (reason, n), total = refused.most_common(1)[0], refused.total()
            hint = f"all {total} candidates that were looked at were refused, {n} of them: {reason}"
        return UserError("tuning has found no schedule", hint=hint, code="no-schedule")

    def predicted_for(self, mod: IRModule) -> Predicted | None:
        """What was chosen for a program without a measurement, if anything was."""
        key = structural_hash(mod) if self.predicted else ""
        return next((p for p in self.predicted if structural_hash(p.mod) == key), None)

    def _with_predictions(self, found: Schedule | None) -> Schedule | None:
        """The best schedule by records, with predictions for what has none."""
        whole = self._mod
        if not self.predicted:
            return found
        if len(whole.functions) == 1 and not whole.graphs:
            predicted = self.predicted_for(whole) if found is None else None
            return found if predicted is None else predicted.schedule
        sch = Schedule(whole, error_render_level="fast") if found is None else found
        done = found is not None
        for name, func in whole.functions.items():
            alone = IRModule({name: func})
            predicted = self.predicted_for(alone)
            if predicted is None or self.database.candidates(alone, self._target):
                continue
            attempt = sch.copy()
            attempt.work_on(name)
            try:
                predicted.schedule.trace.apply_to_schedule(attempt, remove_postproc=False)
            except GputuneError:
                continue
            sch, done = attempt, True
        return sch if done else None

    def conclude(self, predicted: Iterable[Predicted], why: Why) -> None:
        """Take up what a tuning that has ended says of itself."""
        self.predicted, self._why, self._schedule = tuple(predicted), why, None

    def why(self) -> Why:
        """Where the candidates of this run went, and how well the model ranked them; prints as
        tables. `Why.read(work_dir)` is about all runs of a folder.

        Example:
            >>> print(result.why())
        """
        return Why.of(()) if self._why is None else self._why

    @property
    def mod(self) -> IRModule:
        """The best program."""
        return self.schedule.mod

    @property
    def trace(self) -> Trace:
        """What was done to the program."""
        return self.schedule.trace

    @property
    def record(self) -> TuningRecord | None:
        """The best record, for a program of one function."""
        usual = usable(
            self._ranked, self._mod, self._target, checker=self.checker_of(self._mod),
            believe_own=self.believe_own,
        )  # fmt: skip
        found = next(usual, None)
        return None if found is None else found.record

    @property
    def seconds(self) -> float | None:
        """The median time of the best record, for a program of one function; None if it was not
        measured."""
        record = self.record
        return None if record is None else record.seconds

    def script(self) -> str:
        """The best program's text."""
        return self.mod.script()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.schedule, name)

    # ------------------------------------------------------------------ the database
    def has_workload(self, mod: IRModule) -> bool:
        """Is the program known?"""
        return self.database.has_workload(mod)

    def commit_workload(self, mod: IRModule) -> Workload:
        """The workload of a program, added if it is new."""
        return self.database.commit_workload(mod)

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Add a record."""
        self._schedule = None
        self.database.commit_tuning_record(record)

    def commit_tuning_records(self, records: Iterable[TuningRecord]) -> None:
        """Add several records."""
        self._schedule = None
        self.database.commit_tuning_records(records)

    def get_records(self, workload: Workload) -> list[TuningRecord]:
        """All records of a workload."""
        return self.database.get_records(workload)

    def entries(self) -> Iterator[TuningRecord]:
        """Every record as it was committed."""
        return self.database.entries()

    def prune(self, keep: int = 1, *, unreadable: bool = False) -> Pruned:
        """Keep the best records and drop the others."""
        return self.database.prune(keep, unreadable=unreadable)

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The `top_k` best records of a workload."""
        return self.database.get_top_k(workload, top_k)

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All records."""
        return self.database.get_all_tuning_records()

    def candidates(
        self, mod: IRModule | PrimFunc, target: TargetLike, allow_other_device: bool | None = None
    ) -> list[TuningRecord]:
        """The records that may serve a program on a target, the best first, by the objective."""
        found = self.database.candidates(mod, target, allow_other_device)
        return by_objective(found, self.objective)

    @property
    def _ranked(self) -> Database:
        """What knows which record is the best."""
        return self.database if self.objective == "latency" else self

    def __len__(self) -> int:
        return len(self.database)

    def flush(self) -> None:
        """Bring what was committed to safety."""
        self.database.flush()

    def __repr__(self) -> str:
        return f"TuneResult({self.database!r})"
