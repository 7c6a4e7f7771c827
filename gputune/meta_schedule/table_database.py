"""How is a tuning history kept in tables of SQL, which many processes and machines use at once?

Three tables, the same for every engine:

* `gputune_schema (version)`: one row.
* `gputune_workload (id, digest, shash, body)`: `body` is a line of `database_workload.json`.
* `gputune_tuning_record (id, digest, workload_id, amends, seconds, device, target, body)`: `body`
  is the record of a line of `database_tuning_record.json`, checksum included; `seconds` (its median
  as it was measured, NULL for a failure), `device` and `target` (its kind) are there for queries of
  one's own. Times that were measured again stand as records of their own, with `amends` 1, not 0.

Rows are added and never changed; `digest` keeps the same row from being added twice. Writers take
turns, so that who has seen a row has seen all before it. Everything in the tables is data.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from ..errors import GputuneError, RecordError
from ..ir.nodes import IRModule
from . import record_line
from .database import Database, Pruned, check_record, check_top_k, survivors
from .json_database import Skipped
from .memory_database import Shelf
from .module_equality import ModuleEquality, as_module
from .record import TuningRecord, Workload

SCHEMA_VERSION = 1
WORKLOADS, RECORDS = "gputune_workload", "gputune_tuning_record"
_AT_ONCE = 500  # rows of a statement that deletes

CREATE = (
    "CREATE TABLE IF NOT EXISTS gputune_workload (id {id}, digest TEXT NOT NULL UNIQUE, "
    "shash TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS gputune_tuning_record (id {id}, digest TEXT NOT NULL UNIQUE, "
    "workload_id BIGINT NOT NULL REFERENCES gputune_workload (id), amends INTEGER NOT NULL, "
    "seconds DOUBLE PRECISION, device TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS gputune_tuning_record_of ON gputune_tuning_record "
    "(workload_id, id)",
    "CREATE TABLE IF NOT EXISTS gputune_schema (version INTEGER NOT NULL)",
    "INSERT INTO gputune_schema (version) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM gputune_schema)",
)
"""Statements that make the tables; `{id}` is the engine's kind of a number that counts up."""

_ADD_WORKLOAD = (
    "INSERT INTO gputune_workload (digest, shash, body) VALUES (:digest, :shash, :body) "
    "ON CONFLICT (digest) DO NOTHING"
)
_ADD_RECORD = (
    "INSERT INTO gputune_tuning_record "
    "(digest, workload_id, amends, seconds, device, target, body) "
    "VALUES (:digest, :workload, :amends, :seconds, :device, :target, :body) "
    "ON CONFLICT (digest) DO NOTHING RETURNING id"
)

Rows = list[tuple[Any, ...]]


class Tables(ABC):
    """One engine, connected.

    Attributes:
        name: the database's name in messages, without a password.
        counting_id: the engine's type of a primary key that counts up.
    """

    name: str
    counting_id: str

    @abstractmethod
    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Do one statement; `:name` in it stands for a value.

        Raises:
            RecordError: the engine refuses, or cannot be reached.
        """

    @abstractmethod
    def writing(self) -> contextlib.AbstractContextManager[None]:
        """All or nothing: what is run inside is written when it ends well. One at a time."""

    @abstractmethod
    def is_made(self) -> bool:
        """Are the tables there?"""

    def make(self) -> None:
        """Make the tables, or check that they are those of this version.

        Raises:
            RecordError: they are not.
        """
        if not self.is_made():
            with self.writing():
                for statement in CREATE:
                    self.run(statement.format(id=self.counting_id))
        rows = self.run("SELECT version FROM gputune_schema")
        versions = sorted({r[0] for r in rows})
        if versions != [SCHEMA_VERSION]:
            raise RecordError(
                f"{self.name} holds tables of version {versions}, this gputune reads version "
                f"{SCHEMA_VERSION}",
                code="schema",
            )

    def flush(self) -> None:  # noqa: B027  # most engines have done it
        """Bring what was written to safety."""

    @abstractmethod
    def close(self) -> None:
        """Give up the connection."""


class TableDatabase(Database):
    """A database in tables; what the kinds "sqlite" and "sql" have in common.

    Args:
        tables: the engine.
        module_equality: see `ModuleEquality`.

    Attributes:
        skipped: the rows that could not be read, in the order in which they were met.
    """

    takes_amendments = True

    def __init__(self, tables: Tables, module_equality: str = "structural") -> None:
        self.equality = ModuleEquality(module_equality)
        self.skipped: list[Skipped] = []
        self._tables = tables
        tables.make()
        self._last_workload = 0
        self._ids: dict[Workload, int] = {}
        self._by_id: dict[int, Workload] = {}
        self._by_hash: dict[str, list[Workload]] = {}
        self._unhashed: list[Workload] = []
        self._broken: set[Workload] = set()
        self._seen: dict[Workload, int] = {}  # the last row that was read
        self._rows: dict[int, TuningRecord] = {}
        self._unwritten: list[TuningRecord] = []
        self._shelf = Shelf()

    # ------------------------------------------------------------------ reading
    def reload(self) -> None:
        """See what others have written; every query does so by itself."""
        self._see_workloads()

    def _see_workloads(self) -> None:
        rows = self._tables.run(
            f"SELECT id, shash, body FROM {WORKLOADS} WHERE id > :after ORDER BY id",
            {"after": self._last_workload},
        )
        before = len(self.skipped)
        for number, shash, body in rows:
            self._last_workload = number
            try:
                workload = Workload.from_json(record_line.decoded(body.encode()))
                if workload.shash != shash:
                    raise RecordError(f"the row says {shash!r:.40}, its body {workload.shash!r}")
            except RecordError as e:
                self._skip(WORKLOADS, number, e)
                continue
            self._note(workload, number)
        self._warn(before)

    def _note(self, workload: Workload, number: int) -> None:
        self._by_id[number], self._ids[workload] = workload, number
        if self.equality.is_structural:
            self._by_hash.setdefault(workload.shash, []).append(workload)
        else:
            self._unhashed.append(workload)

    def _read_in(self, workload: Workload) -> None:
        """Read the records of a workload that were added since."""
        number = self._ids.get(workload)
        if number is None:
            return
        rows = self._tables.run(
            f"SELECT id, body FROM {RECORDS} WHERE workload_id = :number AND id > :after "
            "ORDER BY id",
            {"number": number, "after": self._seen.get(workload, 0)},
        )
        before = len(self.skipped)
        for at, body in rows:
            self._seen[workload] = at
            record = self._rows.get(at)
            if record is None:
                record = self._record(at, body, workload)
            if record is not None:
                self._rows[at] = record
                self._shelf.add(record)
        self._warn(before)

    def _record(self, at: int, body: str, workload: Workload) -> TuningRecord | None:
        try:
            return read_body(body, workload)
        except RecordError as e:
            self._skip(RECORDS, at, e)
            return None

    def _skip(self, table: str, row: int, e: RecordError) -> None:
        where = f"{self._tables.name} {table}"
        self.skipped.append(Skipped(where, row, ascii(e.message)[1:-1]))

    def _warn(self, before: int) -> None:
        new = self.skipped[before:]
        if new:
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            warnings.warn(f"skipped a row that cannot be read: {new[0]}{more}", stacklevel=3)

    # ------------------------------------------------------------------ workloads
    def _find(self, mod: IRModule) -> tuple[str, Workload | None]:
        self._see_workloads()
        for workload in self._unhashed:
            if self._readable(workload):
                self._by_hash.setdefault(self.equality.hash(workload.mod), []).append(workload)
        self._unhashed.clear()
        key = self.equality.hash(mod)
        for workload in self._by_hash.get(key, ()):
            if self._readable(workload) and self.equality.equal(workload.mod, mod):
                return key, workload
        return key, None

    def _readable(self, workload: Workload) -> bool:
        if workload in self._broken:
            return False
        try:
            return workload.mod is not None
        except RecordError as e:
            self._broken.add(workload)
            before = len(self.skipped)
            self._skip(WORKLOADS, self._ids[workload], e)
            self._warn(before)
            return False

    def _known(self, workload: Workload) -> Workload | None:
        return workload if workload in self._ids else self._find(workload.mod)[1]

    def has_workload(self, mod: IRModule) -> bool:
        """Is the program known?"""
        return self._find(as_module(mod))[1] is not None

    def commit_workload(self, mod: IRModule) -> Workload:
        """The workload of a program, added if it is new.

        Raises:
            RecordError: it could not be written.
        """
        mod = as_module(mod)
        return self._find(mod)[1] or self._add_workload(Workload(mod))

    def _add_workload(self, workload: Workload) -> Workload:
        """Add a workload, unless another process has just done so."""
        body = json.dumps(workload.as_json(), allow_nan=False)
        with self._tables.writing():
            theirs = self._find(workload.mod)[1]
            if theirs is not None:
                return theirs
            values = {"digest": _digest(body), "shash": workload.shash, "body": body}
            self._tables.run(_ADD_WORKLOAD, values)
        found = self._find(workload.mod)[1]
        if found is None:  # a row with this digest is there, and cannot be read
            raise RecordError(
                f"{self._tables.name}: workload {workload.shash} cannot be read back",
                code="not-recorded",
            )
        return found

    # ------------------------------------------------------------------ records
    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Add a record, unless the very same is there already. If it cannot be written it is kept
        in memory all the same.

        Raises:
            RecordError: it could not be written; names the database.
        """
        self.commit_tuning_records([record])

    def commit_tuning_records(self, records: Iterable[TuningRecord]) -> None:
        """Add records: all of them or, where one cannot be written, none.

        Raises:
            RecordError: they could not be written; names the database.
        """
        given = [check_record(r) for r in records]
        try:
            for record in given:
                own = self._known(record.workload)
                record.workload = own or self._add_workload(record.workload)
            rows = [_row(r, self._ids[r.workload]) for r in given]
            with self._tables.writing():
                added = [self._tables.run(_ADD_RECORD, row) for row in rows]
        except GputuneError:
            for record in given:
                self._unwritten.append(record)
                self._shelf.add(record)
            raise
        for record, ids in zip(given, added):
            if ids:
                self._rows[ids[0][0]] = record

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The `top_k` best records of a workload by the median of their times."""
        top_k = check_top_k(top_k)
        known = self._known(workload) or workload
        self._read_in(known)
        return self._shelf.ranked(known)[:top_k]

    def get_records(self, workload: Workload) -> list[TuningRecord]:
        """All readable records of a program, failures included, the oldest first."""
        self._see_workloads()
        known = dict.fromkeys([*self._ids, *(r.workload for r in self._unwritten)])
        out: list[TuningRecord] = []
        for own in known:
            if own.shash == workload.shash:
                self._read_in(own)
                out += self._shelf.of(own)
        return out

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All readable records, the best first, failures last."""
        self._see_workloads()
        for workload in list(self._ids):
            self._read_in(workload)
        return sorted(self._shelf.records, key=lambda r: r.seconds)

    def entries(self) -> Iterator[TuningRecord]:
        """Every record as it was committed, the oldest first; amendments (see `finalists`) too."""
        self._see_workloads()
        for at, number, body in self._tables.run(
            f"SELECT id, workload_id, body FROM {RECORDS} ORDER BY id"
        ):
            workload = self._by_id.get(number)
            if workload is None or workload in self._broken:
                continue
            record = self._record(at, body, workload)
            if record is not None:
                yield record

    def rows(self) -> Iterator[tuple[bool, str, int, int, str]]:
        """Every row, for checks: is it a workload, its table, its number, the workload's number,
        its body; the workloads first."""
        for number, body in self._tables.run(f"SELECT id, body FROM {WORKLOADS} ORDER BY id"):
            yield True, f"{self._tables.name} {WORKLOADS}", number, number, body
        for at, number, body in self._tables.run(
            f"SELECT id, workload_id, body FROM {RECORDS} ORDER BY id"
        ):
            yield False, f"{self._tables.name} {RECORDS}", at, number, body

    def prune(self, keep: int = 1, *, unreadable: bool = False) -> Pruned:
        """Keep the best records and drop the others, all at once; see `Database.prune`."""
        kept = {id(r) for r in survivors(self, keep)}
        known = dict(self._rows)
        names = {r.key for r in known.values() if id(r) in kept}
        out: list[int] = []
        bad = 0
        for (at,) in self._tables.run(f"SELECT id FROM {RECORDS} ORDER BY id"):
            record = known.get(at)
            if record is None:  # it cannot be read, or is newer than what was looked at
                if any(x.line == at and x.file.endswith(RECORDS) for x in self.skipped):
                    bad += 1
                    out += [at] if unreadable else []
            elif record.remeasures:
                out += [at] if record.remeasures not in names else []
            elif id(record) not in kept:
                out.append(at)
        with self._tables.writing():
            for k in range(0, len(out), _AT_ONCE):
                numbers = ", ".join(str(int(n)) for n in out[k : k + _AT_ONCE])
                self._tables.run(f"DELETE FROM {RECORDS} WHERE id IN ({numbers})")
        self._shelf, self._seen = Shelf(), {}
        for at in out:
            self._rows.pop(at, None)
        for record in self._unwritten:
            self._shelf.add(record)
        return Pruned(len(kept), len(out), bad)

    def __len__(self) -> int:
        rows = self._tables.run(f"SELECT count(*) FROM {RECORDS} WHERE amends = 0")
        return int(rows[0][0]) + len(self._unwritten)

    def flush(self) -> None:
        """Bring what was committed to safety."""
        self._tables.flush()

    def close(self) -> None:
        """Give up the connection; the object cannot be used any more."""
        self._tables.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tables.name!r})"


def read_body(body: str, workload: Workload) -> TuningRecord:
    """The record of a row's body; RecordError if it is none, or its checksum does not fit."""
    data = body.encode("utf-8", "surrogatepass")
    if record_line.fits(data):
        return record_line.read_body(data, workload)
    return TuningRecord.from_json(record_line.decoded(data), workload)


def _row(record: TuningRecord, workload: int) -> dict[str, Any]:
    body = record_line.body_of(record)
    target = record.target_json() or {}
    return {
        "digest": _digest(f"{record.workload.shash} {body}"),
        "workload": workload,
        "amends": int(bool(record.remeasures)),
        "seconds": record.seconds if math.isfinite(record.seconds) else None,
        "device": _plain(record.extras.get("device", "")),
        "target": _plain(target.get("kind", "")),
        "body": body,
    }


def _plain(value: object) -> str:
    """Text that every engine takes."""
    return ascii(str(value))[1:-1]


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
