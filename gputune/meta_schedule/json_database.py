"""How is a tuning history kept in files? Two files of one JSON value a line, shared by processes.

Line i of `database_workload.json` is workload i; a line of `database_tuning_record.json` is
`[workload index, record]`. Times that were measured again (see `finalists`) stand as records of the
same kind in a third file beside it, so that the second has a line a trial. A line that cannot be
read (torn, foreign, changed), and one that stands there twice, is skipped and reported, and never
rewritten. Everything in the files is data: nothing in them is run.

Opening looks at the checksum of each line and no further (see `record_line`); the lines of a
workload are read when somebody asks for it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import GputuneError, RecordError, UserError
from ..ir.nodes import IRModule
from . import record_line
from .database import Database, Pruned, check_record, check_top_k, survivors
from .journal import Journal
from .memory_database import Shelf
from .module_equality import ModuleEquality, as_module
from .record import TuningRecord, Workload

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"
AGAIN_SUFFIX = ".remeasured.json"
"""Takes the place of the suffix of the record file, for the file of times measured again."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that could not be read.

    Attributes:
        file: its path.
        line: its number from 1.
        reason: why, as text that is safe to print.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class _Line:
    """A line of a record file: its number from 0, and its record once it was read."""

    number: int
    record: TuningRecord | None = None


class JSONDatabase(Database):
    """A database in two files that several processes may use at once.

    Args:
        path_workload: file of the workloads; default: `database_workload.json` in `work_dir`.
        path_tuning_record: file of the records; default: `database_tuning_record.json` there.
        work_dir: folder of the two, made if need be; default: the current folder.
        allow_missing: start with files that do not exist yet.
        module_equality: see `ModuleEquality`.

    Attributes:
        skipped: the lines that could not be read, in the order in which they were met.

    Raises:
        UserError: the files or their folder cannot be read or made.

    Example:
        >>> db = JSONDatabase(work_dir="tuned")
        >>> sch = db.query_schedule(matmul, "llvm")
    """

    takes_amendments = True

    def __init__(
        self,
        path_workload: str | Path | None = None,
        path_tuning_record: str | Path | None = None,
        *,
        work_dir: str | Path | None = None,
        allow_missing: bool = True,
        module_equality: str = "structural",
    ) -> None:
        self.equality = ModuleEquality(module_equality)
        folder = Path("." if work_dir is None else work_dir)
        if work_dir is not None and allow_missing:
            make_folder(folder)
        self.path_workload = Path(path_workload or folder / WORKLOAD_FILE)
        self.path_tuning_record = Path(path_tuning_record or folder / RECORD_FILE)
        for path in (self.path_workload, self.path_tuning_record):
            if not allow_missing and not path.exists():
                raise UserError(
                    f"there is no database file {path}",
                    hint="pass allow_missing=True to start a new one",
                    code="missing",
                )
        self.skipped: list[Skipped] = []
        self._workload_file = Journal(self.path_workload)
        self._record_file = Journal(self.path_tuning_record)
        self.path_remeasured = self.path_tuning_record.with_suffix(AGAIN_SUFFIX)
        self._again_file = Journal(self.path_remeasured)
        self._by_index: list[Workload | None] = []
        self._index: dict[Workload, int] = {}
        self._workload_lines: dict[bytes, int] = {}
        self._by_hash: dict[str, list[Workload]] = {}
        self._unhashed: list[Workload] = []  # read from the file, not yet under their digest
        self._broken: set[Workload] = set()
        # of the two files of records, the one of amendments being the second
        self._lines: tuple[dict[bytes, _Line], dict[bytes, _Line]] = ({}, {})
        self._waiting: dict[Workload, list[tuple[bool, bytes]]] = {}  # lines that are not read yet
        self._unread = 0  # of those, records
        self._read: set[Workload] = set()
        self._unwritten: list[TuningRecord] = []
        self._shelf = Shelf()
        self.reload()

    # ------------------------------------------------------------------ reading
    def reload(self) -> None:
        """Read what other processes have appended since."""
        before = len(self.skipped)
        for journal, catch_up in (
            (self._workload_file, self._see_workloads),
            (self._record_file, lambda: self._see_records(False)),
            (self._again_file, lambda: self._see_records(True)),
        ):
            if not journal.path.exists():
                continue
            try:
                with journal.locked():
                    catch_up()
            except UserError:  # a folder that cannot be written can be read all the same
                catch_up()
        self._warn(before)

    def _see_workloads(self) -> None:
        self._take(self._workload_file, self._workload_file.read_new(), self._take_workload)

    def _see_records(self, again: bool) -> None:
        """Look at the new lines of a file of records; at all of them where it was written anew."""
        journal = self._again_file if again else self._record_file
        try:
            lines = journal.read_new()
        except RecordError as e:
            if e.code != "replaced" or again:
                raise
            self._start_over()
            return
        self._take(journal, lines, lambda n, line: self._take_line(n, line, again))

    def _start_over(self) -> None:
        """Somebody has pruned the records: what is gone from the file goes here, too. What stays is
        the same object as before."""
        known, amendments = self._lines
        self.skipped = [x for x in self.skipped if x.file != str(self.path_tuning_record)]
        self._lines, self._shelf = ({}, amendments), Shelf()
        self._waiting, self._read, self._unread = {}, set(), 0
        self._record_file.rewind()

        def take(number: int, line: bytes) -> None:
            self._take_line(number, line, False, known.get(line))

        self._take(self._record_file, self._record_file.read_new(), take)
        for line in amendments:
            workload = self._workload_at(_index(line))
            if workload is not None:
                self._place(workload, line, True)
        for record in self._unwritten:
            self._shelf.add(record)

    def _take(
        self,
        journal: Journal,
        lines: list[tuple[int, bytes]],
        take: Callable[[int, bytes], None],
    ) -> None:
        for number, line in lines:
            try:
                take(number, line)
            except RecordError as e:
                self._skip(journal.path, number, e)

    def _skip(self, path: Path, number: int, e: RecordError) -> None:
        self.skipped.append(Skipped(str(path), number + 1, ascii(e.message)[1:-1]))

    def _warn(self, before: int) -> None:
        new = self.skipped[before:]
        if new:
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            warnings.warn(f"skipped a line that cannot be read: {new[0]}{more}", stacklevel=3)

    def _take_workload(self, number: int, line: bytes) -> None:
        while len(self._by_index) <= number:
            self._by_index.append(None)
        first = self._workload_lines.get(line)
        if first is not None:
            self._by_index[number] = self._by_index[first]
            raise RecordError(f"the same workload as line {first + 1}")
        workload = Workload.from_json(record_line.decoded(line))
        self._by_index[number] = workload
        self._index[workload] = number
        self._workload_lines[line] = number
        if self.equality.is_structural:
            self._by_hash.setdefault(workload.shash, []).append(workload)
        else:
            self._unhashed.append(workload)

    def _workload_at(self, index: int) -> Workload | None:
        return self._by_index[index] if 0 <= index < len(self._by_index) else None

    def _take_line(self, number: int, line: bytes, again: bool, known: _Line | None = None) -> None:
        """A line of a file of records: is it whole, and of which workload? What it says is looked
        at later, unless it has a form in which that cannot be told apart."""
        lines = self._lines[again]
        first = lines.get(line)
        if first is not None:
            raise RecordError(f"the same record as line {first.number + 1}")
        index, value = record_line.index_of(line), None
        if index is None:
            value = record_line.decoded(line)
            if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is int):
                raise RecordError(f"expected [workload index, record], found {value!r:.80}")
            index = value[0]
        workload = self._workload_at(index)
        if workload is None:
            if again and not 0 <= index < len(self._by_index):
                return  # left over: somebody has removed the other two files
            raise RecordError(f"there is no readable workload {index} in {self.path_workload}")
        record = None if known is None else known.record
        if value is not None and record is None:
            record = TuningRecord.from_json(value[1], workload)
        lines[line] = _Line(number, record)
        self._place(workload, line, again)

    def _place(self, workload: Workload, line: bytes, again: bool) -> None:
        """Put a line where it is read when its workload is asked for."""
        if workload in self._read:
            self._shelve(workload, line, again)
        else:
            self._waiting.setdefault(workload, []).append((again, line))
            self._unread += not again

    def _shelve(self, workload: Workload, line: bytes, again: bool) -> None:
        found = self._lines[again][line]
        if found.record is None:
            try:
                found.record = record_line.read(line, workload)
            except RecordError as e:
                journal = self._again_file if again else self._record_file
                self._skip(journal.path, found.number, e)
                return
        self._shelf.add(found.record)

    def _read_in(self, workload: Workload) -> None:
        """Read the lines of a workload that are not read yet."""
        self._read.add(workload)
        waiting = self._waiting.pop(workload, [])
        before = len(self.skipped)
        for again, line in sorted(waiting, key=lambda x: x[0]):  # amendments last
            self._unread -= not again
            self._shelve(workload, line, again)
        self._warn(before)

    # ------------------------------------------------------------------ workloads
    def _find(self, mod: IRModule) -> tuple[str, Workload | None]:
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
        """Can its script be parsed? Found when it is first needed, and reported once."""
        if workload in self._broken:
            return False
        try:
            return workload.mod is not None
        except RecordError as e:
            self._broken.add(workload)
            before = len(self.skipped)
            self._skip(self.path_workload, self._index[workload], e)
            self._warn(before)
            return False

    def has_workload(self, mod: IRModule) -> bool:
        """Is the program known?"""
        return self._find(as_module(mod))[1] is not None

    def commit_workload(self, mod: IRModule) -> Workload:
        """The workload of a program; appended to the file if it is new.

        Raises:
            RecordError, UserError: it could not be written.
        """
        found = self._own(Workload(as_module(mod)))
        if found not in self._index:
            self._append_workload(found)
        return self._by_index[self._index[found]] or found

    def _append_workload(self, workload: Workload) -> None:
        """Write a workload, unless another process has just done so."""
        mod = workload.mod
        with self._workload_file.locked():
            before = len(self.skipped)
            self._see_workloads()
            self._warn(before)
            entries = self._by_hash[self._find(mod)[0]]
            theirs = [
                w
                for w in entries
                if w is not workload and w in self._index and w not in self._broken
            ]
            for other in theirs:
                if self.equality.equal(other.mod, mod):
                    entries.remove(workload)
                    self._index[workload] = self._index[other]
                    return
            text = json.dumps(workload.as_json(), allow_nan=False)
            number = self._workload_file.append(text)
        while len(self._by_index) <= number:
            self._by_index.append(None)
        self._by_index[number] = workload
        self._index[workload] = number
        self._workload_lines[text.encode()] = number

    # ------------------------------------------------------------------ records
    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Append a record, unless the very same stands there already. If it cannot be written it is
        kept in memory all the same.

        Raises:
            RecordError, UserError: it could not be written; names the file.
        """
        self.commit_tuning_records([record])

    def commit_tuning_records(self, records: Iterable[TuningRecord]) -> None:
        """Append records: all of them, or (the disk being full) none.

        Raises:
            RecordError, UserError: they could not be written; names the file.
        """
        given = [check_record(r) for r in records]
        for record in given:
            record.workload = self._own(record.workload)
        try:
            for record in given:
                if record.workload not in self._index:
                    self._append_workload(record.workload)
                record.workload = self._own(record.workload)
            for again in (False, True):
                some = [r for r in given if bool(r.remeasures) is again]
                if some:
                    self._append(some, again)
        except GputuneError:
            for record in given:
                if not self._has(record):
                    self._unwritten.append(record)
                    self._read_in(record.workload)
                    self._shelf.add(record)
            raise

    def _has(self, record: TuningRecord) -> bool:
        """Was it written?"""
        index = self._index.get(record.workload)
        if index is None:
            return False
        line = record_line.text_of(index, record).encode()
        return line in self._lines[bool(record.remeasures)]

    def _append(self, records: list[TuningRecord], again: bool) -> None:
        journal = self._again_file if again else self._record_file
        with journal.locked():
            before = len(self.skipped)
            self._read_workloads(journal)
            self._see_records(again)
            self._warn(before)
            lines = self._lines[again]
            new: dict[bytes, TuningRecord] = {}
            for record in records:
                line = record_line.text_of(self._index[record.workload], record).encode()
                if line not in lines:
                    new.setdefault(line, record)
            if not new:
                return
            number = journal.append(*[line.decode() for line in new])
        for k, (line, record) in enumerate(new.items()):
            lines[line] = _Line(number + k, record)
            self._place(record.workload, line, again)

    def _read_workloads(self, journal: Journal) -> None:
        """What other processes recorded may be of workloads that they added meanwhile."""
        if journal.has_news():
            with self._workload_file.locked():
                self._see_workloads()

    def _own(self, workload: Workload) -> Workload:
        """This database's object for a workload (which may be another's, or made by hand); one to
        be written where there is none."""
        key, found = self._known(workload)
        if found is None:
            found = Workload(workload.mod)
            self._by_hash.setdefault(key, []).append(found)
        return found

    def _known(self, workload: Workload) -> tuple[str, Workload | None]:
        if workload in self._index:
            return "", self._by_index[self._index[workload]] or workload
        return self._find(workload.mod)

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The `top_k` best records of a workload by the median of their times."""
        known = self._known(workload)[1] or workload
        self._read_in(known)
        return self._shelf.ranked(known)[: check_top_k(top_k)]

    def get_records(self, workload: Workload) -> list[TuningRecord]:
        """All readable records of a program, failures included, the oldest first."""
        known = dict.fromkeys([*self._index, *(r.workload for r in self._unwritten)])
        out: list[TuningRecord] = []
        for own in known:
            if own.shash == workload.shash:
                self._read_in(own)
                out += self._shelf.of(own)
        return out

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All readable records, the best first, failures last."""
        for workload in list(self._waiting):
            self._read_in(workload)
        return sorted(self._shelf.records, key=lambda r: r.seconds)

    def entries(self) -> Iterator[TuningRecord]:
        """Every record as it was committed, the amendments (see `finalists`) last."""
        for lines in self._lines:
            for line in list(lines):
                workload = self._workload_at(_index(line))
                assert workload is not None
                try:
                    yield _record(line, workload)
                except RecordError:
                    continue  # reported where it is read

    def prune(self, keep: int = 1, *, unreadable: bool = False) -> Pruned:
        """Keep the best records and drop the others; see `Database.prune`.

        The record file is written anew beside the old one, which it then replaces; other processes
        may go on using the database meanwhile. Lines that cannot be read stay, unless `unreadable`.
        Workloads stay where they are, and so do their numbers.
        """
        self.reload()
        with self._record_file.locked():
            if not self.path_tuning_record.exists():
                return Pruned(0, 0, 0)
            self._read_workloads(self._record_file)
            self._see_records(False)
            kept = {id(r) for r in survivors(self, keep)}
            lines = dict.fromkeys(self.path_tuning_record.read_bytes().split(b"\n"))
            lines.pop(b"", None)
            stay, bad = [], 0
            for line in lines:
                found = self._lines[False].get(line)
                if found is None or found.record is None:
                    bad += 1
                    if not unreadable:
                        stay.append(line)
                elif id(found.record) in kept:
                    stay.append(_canonical(line, found.record.workload))
            self._record_file.rewrite(stay)
            self._start_over()
        dropped = len(lines) - len(stay)
        return Pruned(len(stay) - (0 if unreadable else bad), dropped, bad)

    def __len__(self) -> int:
        return len(self._shelf.records) + self._unread

    def flush(self) -> None:
        """Bring the files to the disk (done once a round of tuning, not once a record)."""
        self._workload_file.sync()
        self._record_file.sync()
        if self._again_file.path.exists():
            self._again_file.sync()

    def __repr__(self) -> str:
        return f"JSONDatabase({str(self.path_workload)!r}, {str(self.path_tuning_record)!r})"


def _index(line: bytes) -> int:
    """The workload index of a line that was accepted."""
    found = record_line.index_of(line)
    return int(record_line.decoded(line)[0]) if found is None else found


def _record(line: bytes, workload: Workload) -> TuningRecord:
    """The record of a line that was accepted, as a new object."""
    if record_line.index_of(line) is None:
        return TuningRecord.from_json(record_line.decoded(line)[1], workload)
    return record_line.read(line, workload)


def _canonical(line: bytes, workload: Workload) -> bytes:
    """A line in the form that is read fastest."""
    if record_line.index_of(line) is not None:
        return line
    return record_line.text_of(_index(line), _record(line, workload)).encode()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; UserError naming it if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"cannot use {folder} as work_dir: {e.strerror or e}",
            hint="choose a folder that can be written",
            code="work-dir",
        ) from None
