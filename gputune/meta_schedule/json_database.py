"""How is a tuning history kept in files? Two files of one JSON value a line, shared by processes.

Line i of `database_workload.json` is workload i; a line of `database_tuning_record.json` is
`[workload index, record]`. Times that were measured again (see `finalists`) stand as records of the
same kind in a third file beside it, so that the second has a line a trial. A line that cannot be
read (torn, foreign, changed) is skipped and
reported, and never rewritten. Everything in the files is data: nothing in them is run.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GputuneError, RecordError, UserError
from ..ir.nodes import IRModule
from .database import Database, Shelf, check_record, check_top_k
from .journal import Journal
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
        self._again_file = Journal(self.path_tuning_record.with_suffix(AGAIN_SUFFIX))
        self._by_index: list[Workload | None] = []
        self._index: dict[Workload, int] = {}
        self._by_hash: dict[str, list[Workload]] = {}
        self._unhashed: list[Workload] = []  # read from the file, not yet under their digest
        self._broken: set[Workload] = set()
        self._shelf = Shelf()
        self.reload()

    # ------------------------------------------------------------------ reading
    def reload(self) -> None:
        """Read what other processes have appended since."""
        before = len(self.skipped)
        for journal, take in (
            (self._workload_file, self._take_workload),
            (self._record_file, self._take_record),
            (self._again_file, self._take_again),
        ):
            if not journal.path.exists():
                continue
            try:
                with journal.locked():
                    lines = journal.read_new()
            except UserError:  # a folder that cannot be written can be read all the same
                lines = journal.read_new()
            self._take(journal, lines, take)
        self._warn(before)

    def _take(self, journal: Journal, lines: list[tuple[int, bytes]], take: Any) -> None:
        for number, line in lines:
            try:
                take(number, _decoded(line))
            except RecordError as e:
                self._skip(journal.path, number, e)

    def _skip(self, path: Path, number: int, e: RecordError) -> None:
        self.skipped.append(Skipped(str(path), number + 1, ascii(e.message)[1:-1]))

    def _warn(self, before: int) -> None:
        new = self.skipped[before:]
        if new:
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            warnings.warn(f"skipped a line that cannot be read: {new[0]}{more}", stacklevel=3)

    def _take_workload(self, number: int, value: Any) -> None:
        while len(self._by_index) <= number:
            self._by_index.append(None)
        workload = Workload.from_json(value)
        self._by_index[number] = workload
        self._index[workload] = number
        if self.equality.is_structural:
            self._by_hash.setdefault(workload.shash, []).append(workload)
        else:
            self._unhashed.append(workload)

    def _take_record(self, number: int, value: Any) -> None:
        if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is int):
            raise RecordError(f"expected [workload index, record], found {value!r:.80}")
        index = value[0]
        workload = self._by_index[index] if 0 <= index < len(self._by_index) else None
        if workload is None:
            raise RecordError(f"there is no readable workload {index} in {self.path_workload}")
        self._shelf.add(TuningRecord.from_json(value[1], workload))

    def _take_again(self, number: int, value: Any) -> None:
        match value:
            case [int() as index, _] if not 0 <= index < len(self._by_index):
                return  # left over: somebody has removed the other two files
        self._take_record(number, value)

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
            self._take(self._workload_file, self._workload_file.read_new(), self._take_workload)
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
            number = self._workload_file.append(json.dumps(workload.as_json(), allow_nan=False))
        while len(self._by_index) <= number:
            self._by_index.append(None)
        self._by_index[number] = workload
        self._index[workload] = number

    # ------------------------------------------------------------------ records
    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Append a record. If it cannot be written it is kept in memory all the same.

        Raises:
            RecordError, UserError: it could not be written; names the file.
        """
        own = record.workload = self._own(check_record(record).workload)
        if own not in self._index:
            try:
                self._append_workload(own)
            except GputuneError:
                self._shelf.add(record)
                raise
            own = record.workload = self._own(own)
        self._shelf.add(record)
        text = json.dumps([self._index[own], record.as_json()], allow_nan=False)
        journal = self._again_file if record.remeasures else self._record_file
        with journal.locked():
            before = len(self.skipped)
            lines = journal.read_new()
            if lines:
                self._read_workloads()
            again = journal is self._again_file
            self._take(journal, lines, self._take_again if again else self._take_record)
            self._warn(before)
            journal.append(text)

    def _read_workloads(self) -> None:
        """What other processes recorded may be of workloads that they added meanwhile."""
        with self._workload_file.locked():
            lines = self._workload_file.read_new()
        self._take(self._workload_file, lines, self._take_workload)

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
        return self._shelf.ranked(known)[: check_top_k(top_k)]

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All readable records, the best first, failures last."""
        return sorted(self._shelf.records, key=lambda r: r.seconds)

    def __len__(self) -> int:
        return len(self._shelf.records)

    def flush(self) -> None:
        """Bring the files to the disk (done once a round of tuning, not once a record)."""
        self._workload_file.sync()
        self._record_file.sync()
        if self._again_file.path.exists():
            self._again_file.sync()

    def __repr__(self) -> str:
        return f"JSONDatabase({str(self.path_workload)!r}, {str(self.path_tuning_record)!r})"


def _decoded(line: bytes) -> Any:
    """The JSON value of a line; RecordError if it is none."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as e:
        raise RecordError(f"not UTF-8 text: {e.reason} at byte {e.start}") from None
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except ValueError as e:
        what = "an empty line" if not line.strip() else f"not JSON ({e}): {line[:60]!r}"
        raise RecordError(what) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


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
