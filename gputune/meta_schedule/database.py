"""Where are tuning results kept, and which one is the best? Databases in memory, and unions."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from types import TracebackType
from typing import Any, ClassVar

from ..errors import GputuneError, RecordError, ScheduleError, UserError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .derived import left_open
from .module_equality import ModuleEquality, as_module
from .record import TuningRecord, Workload

_local = threading.local()


def _stack() -> list[Database]:
    found: list[Database] | None = getattr(_local, "stack", None)
    if found is None:
        found = _local.stack = []
    return found


class Database(ABC):
    """Workloads and their tuning records.

    `with database:` makes it the current one of this thread. Of a workload's records the best is
    the one with the least median of `run_secs`; failures are kept and never returned as results.

    Subclasses implement `has_workload`, `commit_workload`, `commit_tuning_record`, `get_top_k` and
    `get_all_tuning_records`; the queries follow from these.

    Attributes:
        allow_other_device: let queries return records of another class of machine (of the same
            target kind). Off by default: such a record may be slow here, or not run at all.
    """

    allow_other_device: bool = False
    takes_amendments: ClassVar[bool] = False
    """Does `commit_tuning_record` understand records with "remeasures" (see `TuningRecord`)?"""
    KINDS: ClassVar[tuple[str, ...]] = ("json", "memory", "union", "ordered_union")

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
        self, mod: IRModule | PrimFunc, target: TargetLike, workload_name: str = "main"
    ) -> Schedule | None:
        """The best schedule of a program: its record's trace, replayed.

        A record whose trace cannot be read or does not apply is passed over for the next best. One
        of a similar program (module_equality="anchor-block") is applied by way of the anchor block.
        Nothing is run: see `compile_tir` for a schedule whose program was checked.
        """
        from .trace_apply import schedule_for

        whole, chosen = as_module(mod), Target(target)
        for record in self.candidates(whole, chosen):
            try:
                return schedule_for(record, whole, chosen, workload_name)
            except (RecordError, ScheduleError):
                continue
        return None

    def query_ir_module(
        self, mod: IRModule | PrimFunc, target: TargetLike, workload_name: str = "main"
    ) -> IRModule | None:
        """The best schedule's program."""
        sch = self.query_schedule(mod, target, workload_name)
        return None if sch is None else sch.mod

    def query(
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        *,
        workload_name: str = "main",
        kind: str = "schedule",
    ) -> Any:
        """The best "schedule", "record" or "ir_module" of a program, or None.

        Raises:
            ValueError: another kind.
        """
        if kind == "schedule":
            return self.query_schedule(mod, target, workload_name)
        if kind == "record":
            return self.query_tuning_record(mod, target, workload_name)
        if kind == "ir_module":
            return self.query_ir_module(mod, target, workload_name)
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
        records = self.get_top_k(self.commit_workload(mod), _ALL)
        return for_target(records, Target(target), anywhere)

    def dump_pruned(self, destination: Database) -> None:
        """Commit the best record of each workload (and target) to another database.

        Raises:
            UserError: `destination` is none.
        """
        if not isinstance(destination, Database):
            raise UserError(
                f"dump_pruned: the destination is {destination!r:.60}, not a Database",
                hint='such as gputune.meta_schedule.Database.create("memory")',
                code="database",
            )
        best: dict[tuple[str, str, str], TuningRecord] = {}
        for record in self.get_all_tuning_records():
            if not record.is_valid:
                continue
            key = (record.workload.shash, str(record.target_json()), _device(record))
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
        """A database by kind: "json", "memory", "union", "ordered_union", or a function that
        schedules.

        Raises:
            ValueError: another kind.
        """
        if callable(kind):
            return ScheduleFnDatabase(kind, *args, **kwargs)
        if kind == "json":
            from .json_database import JSONDatabase

            return JSONDatabase(*args, **kwargs)
        if kind == "memory":
            return MemoryDatabase(*args, **kwargs)
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


_ALL = 1 << 62


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
    """The records that may serve on a target, in their order, those of exactly it first."""
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
    return exact + near + (far if allow_other_device else [])


def _device(record: TuningRecord) -> str:
    return str(record.extras.get("device", ""))


def _is_readable(record: TuningRecord) -> bool:
    try:
        return record.trace is not None and record.target is not None
    except GputuneError:
        return False


class Shelf:
    """The records of the workloads of one database, ranked; shared by its implementations."""

    def __init__(self) -> None:
        self.records: list[TuningRecord] = []
        self._of: dict[Workload, list[TuningRecord]] = {}
        self._wrong: dict[Workload, set[str]] = {}
        self._withdrawn: dict[Workload, set[str]] = {}
        self._ranked: dict[Workload, list[TuningRecord]] = {}

    def add(self, record: TuningRecord) -> None:
        """Add a record. One that says "wrong_result" withdraws all records of its program, and one
        that has a key under "withdraws" the records with that key. One that has a key under
        "remeasures" is none of its own: the records with that key, whose time was the one that it
        names, have its times from now on."""
        workload = record.workload
        if record.remeasures:
            for r in self._of.get(workload, ()):
                if r.seconds == record.extras.get("was") and r.key == record.remeasures:
                    r.run_secs = record.run_secs
            self._ranked.pop(workload, None)
            return
        self.records.append(record)
        self._of.setdefault(workload, []).append(record)
        self._ranked.pop(workload, None)
        error = record.error
        if error is not None and error.get("kind") == "wrong_result" and record.program:
            self._wrong.setdefault(workload, set()).add(record.program)
        if record.withdraws:
            self._withdrawn.setdefault(workload, set()).add(record.withdraws)

    def ranked(self, workload: Workload) -> list[TuningRecord]:
        """The valid records of a workload, the best first; of equals the oldest first."""
        found = self._ranked.get(workload)
        if found is None:
            wrong = self._wrong.get(workload, set())
            valid = [r for r in self._of.get(workload, ()) if r.is_valid and r.program not in wrong]
            if withdrawn := self._withdrawn.get(workload):
                valid = [r for r in valid if r.key not in withdrawn]
            found = self._ranked[workload] = sorted(valid, key=lambda r: r.seconds)
        return found


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


class MemoryDatabase(Database):
    """A database that is forgotten with the process.

    Args:
        module_equality: see `ModuleEquality`.
    """

    takes_amendments = True

    def __init__(self, module_equality: str = "structural") -> None:
        self.equality = ModuleEquality(module_equality)
        self._workloads: dict[str, list[Workload]] = {}
        self._known: set[Workload] = set()
        self._shelf = Shelf()

    def _find(self, mod: IRModule) -> tuple[str, Workload | None]:
        key = self.equality.hash(mod)
        for workload in self._workloads.get(key, ()):
            if self.equality.equal(workload.mod, mod):
                return key, workload
        return key, None

    def has_workload(self, mod: IRModule) -> bool:
        """Is the program known?"""
        return self._find(as_module(mod))[1] is not None

    def commit_workload(self, mod: IRModule) -> Workload:
        """The workload of a program, added if it is new."""
        mod = as_module(mod)
        key, found = self._find(mod)
        if found is None:
            found = Workload(mod)
            self._keep(key, found)
        return found

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Add a record; its workload too, if that is new."""
        record.workload = self._own(check_record(record).workload, add=True)
        self._shelf.add(record)

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The `top_k` best records of a workload by the median of their times."""
        return self._shelf.ranked(self._own(workload))[: check_top_k(top_k)]

    def _own(self, workload: Workload, add: bool = False) -> Workload:
        """This database's object for a workload (which may be another's, or made by hand); where
        there is none, the workload itself, which is added if asked for."""
        if workload in self._known:
            return workload
        key, found = self._find(workload.mod)
        if found is None and add:
            self._keep(key, workload)
        return found or workload

    def _keep(self, key: str, workload: Workload) -> None:
        self._workloads.setdefault(key, []).append(workload)
        self._known.add(workload)

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All records in the order in which they were added, failures included."""
        return list(self._shelf.records)


class _QueryOnly(Database):
    """A database that holds nothing itself."""

    def commit_workload(self, mod: IRModule) -> Workload:
        """Refused: there is nowhere to write."""
        raise self._refuse("commit_workload")

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Refused: there is nowhere to write."""
        raise self._refuse("commit_tuning_record")

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """Refused: only queries are answered."""
        raise self._refuse("get_top_k")

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """Refused: only queries are answered."""
        raise self._refuse("get_all_tuning_records")

    def __len__(self) -> int:
        raise self._refuse("len")

    def _refuse(self, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} answers queries only, not {what}: use one of its members"
        )


class UnionDatabase(_QueryOnly):
    """The best of several databases.

    Args:
        databases: the members; a query returns the record with the least median time of all.
    """

    def __init__(self, *databases: Database) -> None:
        self.databases = check_members(databases)

    def has_workload(self, mod: IRModule) -> bool:
        """Does any member know the program?"""
        return any(d.has_workload(mod) for d in self.databases)

    def candidates(
        self, mod: IRModule | PrimFunc, target: TargetLike, allow_other_device: bool | None = None
    ) -> list[TuningRecord]:
        """The members' records that may serve, the best first."""
        found = [r for d in self.databases for r in d.candidates(mod, target, allow_other_device)]
        ranked = sorted(found, key=lambda r: r.seconds)
        return for_target(ranked, Target(target), True)  # the members have chosen already


class OrderedUnionDatabase(_QueryOnly):
    """The first of several databases that has a record.

    Args:
        databases: the members, the preferred first.
    """

    def __init__(self, *databases: Database) -> None:
        self.databases = check_members(databases)

    def has_workload(self, mod: IRModule) -> bool:
        """Does any member know the program?"""
        return any(d.has_workload(mod) for d in self.databases)

    def candidates(
        self, mod: IRModule | PrimFunc, target: TargetLike, allow_other_device: bool | None = None
    ) -> list[TuningRecord]:
        """The records of the first member that has any that may serve."""
        for d in self.databases:
            if found := d.candidates(mod, target, allow_other_device):
                return found
        return []


class ScheduleFnDatabase(_QueryOnly):
    """A database whose answer to every query is a function's schedule.

    Args:
        fn: schedules the program in place; returns False where it has no schedule for it.
        module_equality: accepted for compatibility.
    """

    def __init__(self, fn: Callable[[Schedule], bool], module_equality: str = "structural") -> None:
        self.fn = fn
        self.equality = ModuleEquality(module_equality)

    def has_workload(self, mod: IRModule) -> bool:
        """Does the function schedule the program?"""
        return self.query_schedule(mod, "llvm") is not None

    def query_schedule(
        self, mod: IRModule | PrimFunc, target: TargetLike, workload_name: str = "main"
    ) -> Schedule | None:
        """The function's schedule, or None."""
        sch = Schedule(as_module(mod))
        if workload_name in sch.mod:
            sch.work_on(workload_name)
        return sch if self.fn(sch) else None

    def candidates(
        self, mod: IRModule | PrimFunc, target: TargetLike, allow_other_device: bool | None = None
    ) -> list[TuningRecord]:
        """A record (without times) of the function's schedule, if there is one."""
        sch = self.query_schedule(mod, target)
        if sch is None:
            return []
        return [TuningRecord(sch.trace, Workload(as_module(mod)), None, target)]


def check_members(databases: Sequence[Database]) -> tuple[Database, ...]:
    """The members of a union, all of which must be databases."""
    for d in databases:
        if not isinstance(d, Database):
            raise UserError(
                f"a union is made of databases, found {type(d).__name__}",
                hint="UnionDatabase(a, b), not UnionDatabase([a, b])",
            )
    return tuple(databases)


create = Database.create

# Files build on what is above, and belong to the public names of this module: hence down here.
from .json_database import JSONDatabase as JSONDatabase  # noqa: E402
