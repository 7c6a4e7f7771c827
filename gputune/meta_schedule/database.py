"""Where are tuning results kept, and which one is the best? What all databases are."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import TracebackType
from typing import Any, ClassVar

from ..errors import GputuneError, RecordError, ScheduleError, UserError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .derived import left_open
from .logging import console
from .module_equality import as_module
from .record import TuningRecord, Workload, canonical
from .timescale import by_regime

_local = threading.local()


def _stack() -> list[Database]:
    found: list[Database] | None = getattr(_local, "stack", None)
    if found is None:
        found = _local.stack = []
    return found


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did: how many records were kept, how many dropped, and how many lines could not
    be read."""

    kept: int
    dropped: int
    unreadable: int = 0


class Database(ABC):
    """Workloads and their tuning records.

    `with database:` makes it the current one of this thread. Of a workload's records the best is
    the one with the least median of `run_secs`; failures are kept and never returned as results.
    Times of different cache regimes (`TuningRecord.regime`) are not compared: the records of the
    regime that was measured last come first, whatever their times.

    Subclasses implement `has_workload`, `commit_workload`, `commit_tuning_record`, `get_top_k` and
    `get_all_tuning_records`; the queries follow from these.

    Attributes:
        allow_other_device: let queries return records of another class of machine (of the same
            target kind). Off by default: such a record may be slow here, or not run at all. Where
            a database has nothing but such records, a warning says so, once.
    """

    allow_other_device: bool = False
    _told: frozenset[tuple[str, Target]] = frozenset()  # of which that warning was given
    takes_amendments: ClassVar[bool] = False
    """Does `commit_tuning_record` understand records with "remeasures" (see `TuningRecord`)?"""
    KINDS: ClassVar[tuple[str, ...]] = (
        "json", "memory", "sqlite", "sql", "union", "ordered_union",
    )  # fmt: skip

    # ------------------------------------------------------------------ what a subclass says
    @abstractmethod
    def has_workload(self, mod: IRModule) -> bool:
        """Is the program known?"""

    @abstractmethod
    def commit_workload(self, mod: IRModule) -> Workload:
        """The workload of a program, added if it is new."""

    @abstractmethod
    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Add a record."""

    @abstractmethod
    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The `top_k` best records of a workload, the best first, failures left out."""

    @abstractmethod
    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All records, failures included."""

    # ------------------------------------------------------------------ what it may say
    def commit_tuning_records(self, records: Iterable[TuningRecord]) -> None:
        """Add several records; where the database can, all of them or none."""
        for record in records:
            self.commit_tuning_record(record)

    def get_records(self, workload: Workload) -> list[TuningRecord]:
        """All records of exactly this program, failures included."""
        return [r for r in self.get_all_tuning_records() if r.workload.shash == workload.shash]

    def entries(self) -> Iterator[TuningRecord]:
        """Every record as it was committed: times that were measured again later (see `finalists`)
        are records of their own, where the database has kept them apart."""
        yield from self.get_all_tuning_records()

    def prune(self, keep: int = 1, *, unreadable: bool = False) -> Pruned:
        """Keep the best records and drop the others, at once and for good.

        Kept are the `keep` best of each workload, target and device, and what says that a program
        computes wrong results or that a record is not to be used. A search forgets by it what it
        has tried: candidates that were dropped may be measured again.

        Args:
            keep: how many, from 1.
            unreadable: drop what cannot be read, too.

        Raises:
            UserError: this kind of database cannot be pruned, or `keep` makes no sense.
        """
        raise UserError(f"a {type(self).__name__} cannot be pruned", code="prune")

    def __len__(self) -> int:
        return len(self.get_all_tuning_records())

    def __bool__(self) -> bool:
        return True  # an empty database is a database

    # ------------------------------------------------------------------ queries
    def query_tuning_record(
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        workload_name: str = "main",
        *,
        allow_other_device: bool | None = None,
    ) -> TuningRecord | None:
        """The best record of a program for a target.

        Records of the same kind of target on the same class of machine (`Target.device_key`)
        count; among them those of exactly this target come first.

        Args:
            mod: the program.
            target: the machine to run on.
            workload_name: accepted for compatibility.
            allow_other_device: take records of other machines too; None: as the database says.
        """
        for record in self.candidates(mod, target, allow_other_device):
            if _is_readable(record):
                return record
        return None

    def query_schedule(
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        workload_name: str = "main",
        *,
        allow_other_device: bool | None = None,
    ) -> Schedule | None:
        """The best schedule of a program: its record's trace, replayed.

        A record whose trace cannot be read or does not apply is passed over for the next best. One
        of a similar program (module_equality="anchor-block") is applied by way of the anchor block.
        Nothing is run: see `compile_tir` for a schedule whose program was checked.
        """
        from .trace_apply import schedule_for

        whole, chosen = as_module(mod), Target(target)
        for record in self.candidates(whole, chosen, allow_other_device):
            try:
                return schedule_for(record, whole, chosen, workload_name)
            except (RecordError, ScheduleError):
                continue
        return None

    def query_ir_module(
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        workload_name: str = "main",
        *,
        allow_other_device: bool | None = None,
    ) -> IRModule | None:
        """The best schedule's program."""
        options = _given(allow_other_device)
        sch = self.query_schedule(mod, target, workload_name, **options)
        return None if sch is None else sch.mod

    def query(
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        *,
        workload_name: str = "main",
        kind: str = "schedule",
        allow_other_device: bool | None = None,
        verify: bool = False,
        reference: Callable[..., Any] | None = None,
        runner: Any = "local",
    ) -> Any:
        """The best "schedule", "record" or "ir_module" of a program, or None.

        Args:
            mod, target, workload_name: as of `query_schedule`.
            kind: which.
            verify, reference, runner: as of `compile_tir`: run it first, and give only what is
                right.

        Raises:
            ValueError: another kind.
            UserError: nothing can be run for this target here.
        """
        if (verify or reference is not None) and kind in ("schedule", "record", "ir_module"):
            from .tir_integration import compile_tir, verified_record

            if kind == "record":
                return verified_record(
                    self, mod, target, reference, runner, allow_other_device=allow_other_device
                )
            sch = compile_tir(
                self, mod, target, verify=True, reference=reference, runner=runner,
                allow_other_device=allow_other_device,
            )  # fmt: skip
            return sch.mod if sch is not None and kind == "ir_module" else sch
        # a class of the user's may have MetaSchedule's arguments only
        options = _given(allow_other_device)
        if kind == "schedule":
            return self.query_schedule(mod, target, workload_name, **options)
        if kind == "record":
            return self.query_tuning_record(mod, target, workload_name, **options)
        if kind == "ir_module":
            return self.query_ir_module(mod, target, workload_name, **options)
        raise UserError(
            f"cannot query a {kind!r}: the kinds are 'schedule', 'record' and 'ir_module'"
        )

    def candidates(
        self, mod: IRModule | PrimFunc, target: TargetLike, allow_other_device: bool | None = None
    ) -> list[TuningRecord]:
        """The records that may serve a program on a target, the best first."""
        mod = as_module(mod)
        if not self.has_workload(mod):
            return []
        anywhere = self.allow_other_device if allow_other_device is None else allow_other_device
        chosen, workload = Target(target), self.commit_workload(mod)
        records = self.get_top_k(workload, ALL)
        found = for_target(records, chosen, anywhere)
        if records and not found:
            self._tell_of_others(workload, records, chosen)
        return found

    def _tell_of_others(
        self, workload: Workload, records: Sequence[TuningRecord], target: Target
    ) -> None:
        """Say, once for a workload and target, that there are records for other machines only."""
        others = for_target(records, target, True)
        if not others or (workload.shash, target) in self._told:
            return
        self._told |= {(workload.shash, target)}
        names = sorted({_device(r).partition("/")[0] or "an unknown one" for r in others})
        console().warning(
            "The database has %d record%s of %s for other machines only (%s), which may be slow "
            "here: they are not used, unless you say allow_other_device=True",
            len(others), "" if len(others) == 1 else "s",
            ascii(", ".join(workload.mod.functions))[1:61].rstrip("'"),
            ascii(", ".join(names))[1:101].rstrip("'"),
        )  # fmt: skip

    def dump_pruned(self, destination: Database) -> None:
        """Commit the best record of each workload (and target, and cache regime) to another
        database.

        Raises:
            UserError: `destination` is none.
        """
        if not isinstance(destination, Database):
            raise UserError(
                f"dump_pruned: the destination is {destination!r:.60}, not a Database",
                hint='such as gputune.meta_schedule.Database.create("memory")',
                code="database",
            )
        best: dict[tuple[str, str, str, str], TuningRecord] = {}
        for record in self.get_all_tuning_records():
            if not record.is_valid:
                continue
            device, target = _device(record), str(record.target_json())
            key = (record.workload.shash, target, device, record.regime)
            if key not in best or record.seconds < best[key].seconds:
                best[key] = record
        for record in best.values():
            workload = destination.commit_workload(record.workload.mod)
            destination.commit_tuning_record(
                TuningRecord(
                    record.trace, workload, record.run_secs, record.target, record.args_info,
                    record.extras,
                )
            )  # fmt: skip

    def flush(self) -> None:  # noqa: B027  # a database in memory has nothing to do
        """Bring what was committed to safety, where there is something to do."""

    # ------------------------------------------------------------------ the current one
    def __enter__(self) -> Database:
        _stack().append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        _stack().pop()

    @staticmethod
    def current() -> Database | None:
        """The database of the innermost `with` of this thread, or None."""
        stack = _stack()
        return stack[-1] if stack else None

    @staticmethod
    def create(
        kind: str | Callable[[Schedule], bool] = "json", *args: Any, **kwargs: Any
    ) -> Database:
        """A database by kind: "json" (two files of a folder), "memory", "sqlite" (one file), "sql"
        (a server, through SQLAlchemy), "union", "ordered_union", or a function that schedules; or
        by an address, such as "sqlite:///tuned.sqlite".

        Raises:
            ValueError: another kind.

        Example:
            >>> Database.create("sqlite", path="tuned.sqlite")
            >>> Database.create("sql", url="postgresql+psycopg://me@host/tuning")
        """
        if callable(kind):
            return ScheduleFnDatabase(kind, *args, **kwargs)
        if isinstance(kind, str) and "://" in kind:
            from .database_address import open_database

            return open_database(kind, *args, **kwargs)
        if kind == "json":
            from .json_database import JSONDatabase

            return JSONDatabase(*args, **kwargs)
        if kind == "memory":
            return MemoryDatabase(*args, **kwargs)
        if kind == "sqlite":
            from .sqlite_database import SQLiteDatabase

            return SQLiteDatabase(*args, **kwargs)
        if kind == "sql":
            from .sql_database import SQLDatabase

            return SQLDatabase(*args, **kwargs)
        if kind == "union":
            return UnionDatabase(*args, **kwargs)
        if kind == "ordered_union":
            return OrderedUnionDatabase(*args, **kwargs)
        raise UserError(
            f"unknown kind of database {kind!r}; known are: {', '.join(Database.KINDS)}, "
            "or a function that schedules"
        )


@left_open
class PyDatabase(Database):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


ALL = 1 << 62
"""How many records are all of them, for `get_top_k`."""


def _given(allow_other_device: bool | None) -> dict[str, bool]:
    """The option, where it was given."""
    return {} if allow_other_device is None else {"allow_other_device": allow_other_device}


def replay(record: TuningRecord, workload_name: str = "main") -> Schedule:
    """The schedule of a record; RecordError or ScheduleError if its trace is not usable."""
    sch = Schedule(record.workload.mod, error_render_level="fast")
    if workload_name in record.workload.mod:
        sch.work_on(workload_name)
    record.trace.apply_to_schedule(sch, remove_postproc=False)
    return sch


def for_target(
    records: Iterable[TuningRecord], target: Target, allow_other_device: bool = False
) -> list[TuningRecord]:
    """The records that may serve on a target, in their order, those of exactly it first; of each
    kind those of one cache regime together (`by_regime`)."""
    exact: list[TuningRecord] = []
    near: list[TuningRecord] = []
    far: list[TuningRecord] = []
    export = target.export()
    for record in records:
        found = record.target_json()
        if found is None or found.get("kind") != target.kind:
            continue
        if _device(record) != target.device_key:
            far.append(record)
        elif found == export:
            exact.append(record)
        else:
            near.append(record)
    here = by_regime(exact) + by_regime(near)
    return here + by_regime(far) if allow_other_device else here


def _device(record: TuningRecord) -> str:
    return str(record.extras.get("device", ""))


def _is_readable(record: TuningRecord) -> bool:
    try:
        return record.trace is not None and record.target is not None
    except GputuneError:
        return False


def survivors(database: Database, keep: int) -> list[TuningRecord]:
    """The records that pruning keeps; see `Database.prune`."""
    if isinstance(keep, bool) or not isinstance(keep, Integral) or keep < 1:
        raise UserError(f"prune: keep is a count from 1, found {keep!r}", code="prune")
    of: dict[Workload, list[TuningRecord]] = {}
    for record in database.get_all_tuning_records():
        of.setdefault(record.workload, []).append(record)
    out: list[TuningRecord] = []
    for workload, records in of.items():
        counts: Counter[tuple[str, str]] = Counter()
        for record in database.get_top_k(workload, ALL):
            place = (canonical(record.target_json()), _device(record))
            counts[place] += 1
            if counts[place] <= keep:
                out.append(record)
        out += [r for r in records if r.withdraws or says_wrong(r)]
    return out


def says_wrong(record: TuningRecord) -> bool:
    """Does it say that its program computes wrong results?"""
    error = record.error
    return error is not None and error.get("kind") == "wrong_result" and bool(record.program)


def check_top_k(top_k: int) -> int:
    """`top_k`, which must be a count from 0."""
    if not isinstance(top_k, Integral) or top_k < 0:
        raise UserError(f"get_top_k: top_k is a count from 0, found {top_k!r}")
    return int(top_k)


def check_record(record: Any) -> TuningRecord:
    """What is to be committed, which must be a record."""
    if not isinstance(record, TuningRecord):
        raise UserError(f"commit_tuning_record: {record!r:.60} is no TuningRecord", code="record")
    return record


create = Database.create

# Kinds of databases build on what is above, and belong to the public names of this module: hence
# down here.
from .json_database import JSONDatabase as JSONDatabase  # noqa: E402
from .memory_database import MemoryDatabase as MemoryDatabase  # noqa: E402
from .union_database import (  # noqa: E402
    OrderedUnionDatabase as OrderedUnionDatabase,
)
from .union_database import (  # noqa: E402
    ScheduleFnDatabase as ScheduleFnDatabase,
)
from .union_database import (  # noqa: E402
    UnionDatabase as UnionDatabase,
)
