"""How are records ranked, and how are they kept for as long as the process lives?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.nodes import IRModule
from .database import Database, Pruned, check_record, check_top_k, says_wrong, survivors
from .module_equality import ModuleEquality, as_module
from .record import TuningRecord, Workload
from .timescale import by_regime


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
        names, have its times from now on, and what it knows of their energy."""
        workload = record.workload
        if record.remeasures:
            for r in self._of.get(workload, ()):
                if r.regime != record.regime:
                    continue
                if r.seconds == record.extras.get("was") and r.key == record.remeasures:
                    r.run_secs = record.run_secs
                    _amend(r.extras, record.extras)
            self._ranked.pop(workload, None)
            return
        self.records.append(record)
        self._of.setdefault(workload, []).append(record)
        self._ranked.pop(workload, None)
        if says_wrong(record):
            self._wrong.setdefault(workload, set()).add(record.program)
        if record.withdraws:
            self._withdrawn.setdefault(workload, set()).add(record.withdraws)

    def of(self, workload: Workload) -> list[TuningRecord]:
        """All records of a workload, failures included, the oldest first."""
        return list(self._of.get(workload, ()))

    def ranked(self, workload: Workload) -> list[TuningRecord]:
        """The valid records of a workload, the best first; of equals the oldest first, and those
        of one cache regime together."""
        found = self._ranked.get(workload)
        if found is None:
            wrong = self._wrong.get(workload, set())
            valid = [r for r in self._of.get(workload, ()) if r.is_valid and r.program not in wrong]
            if withdrawn := self._withdrawn.get(workload):
                valid = [r for r in valid if r.key not in withdrawn]
            found = by_regime(sorted(valid, key=lambda r: r.seconds))
            self._ranked[workload] = found
        return found


def _amend(extras: dict[str, Any], by: Mapping[str, Any]) -> None:
    """Bring a record's extras up to its new times: the clock is that of these."""
    for name in ("clock", "energy"):
        if name in by:
            extras[name] = by[name]
        elif name == "clock":
            extras.pop(name, None)


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

    def get_records(self, workload: Workload) -> list[TuningRecord]:
        """All records of a program, failures included, the oldest first."""
        known = [w for some in self._workloads.values() for w in some]
        return [r for w in known if w.shash == workload.shash for r in self._shelf.of(w)]

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All records in the order in which they were added, failures included."""
        return list(self._shelf.records)

    def prune(self, keep: int = 1, *, unreadable: bool = False) -> Pruned:
        """Keep the best records and forget the others; see `Database.prune`."""
        kept = {id(r) for r in survivors(self, keep)}
        before, self._shelf = self._shelf.records, Shelf()
        for record in before:
            if id(record) in kept:
                self._shelf.add(record)
        return Pruned(len(kept), len(before) - len(kept))
