"""Which of several databases answers, and how does a function of the user's answer like one?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import UserError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .database import Database, for_target
from .module_equality import ModuleEquality, as_module
from .record import TuningRecord, Workload


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

    def _anywhere(self, allow_other_device: bool | None) -> bool | None:
        """What members are told: what was asked for, or this union allows; else as they say."""
        return (
            (self.allow_other_device or None) if allow_other_device is None else allow_other_device
        )

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
        anywhere = self._anywhere(allow_other_device)
        found = [r for d in self.databases for r in d.candidates(mod, target, anywhere)]
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
        anywhere = self._anywhere(allow_other_device)
        for d in self.databases:
            if found := d.candidates(mod, target, anywhere):
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
        self,
        mod: IRModule | PrimFunc,
        target: TargetLike,
        workload_name: str = "main",
        *,
        allow_other_device: bool | None = None,
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
