"""Is everything in a database what it should be? Each line is read again, each trace replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import GputuneError, RecordError, UserError
from . import record_line
from .database import Database, replay
from .json_database import JSONDatabase
from .record import TuningRecord, Workload
from .table_database import TableDatabase, read_body


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a database that is not as it should be.

    Attributes:
        file: where it stands: a file, or a table of a database.
        line: its number: of a line from 1, or of a row.
        reason: what is wrong, as text that is safe to print.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(slots=True)
class Checked:
    """What was found.

    Attributes:
        workloads, records: how many were looked at, those with problems included.
        problems: in the order of the lines.
    """

    workloads: int = 0
    records: int = 0
    problems: list[Problem] = field(default_factory=list)


def verify_database(
    database: Database, *, replays: bool = True, on_record: Callable[[int], None] | None = None
) -> Checked:
    """Read everything in a database again, and say what is wrong with it.

    Looked at are: is each line whole, JSON, and what its checksum says; does it stand there once;
    is each program the one that its digest names; is each record about a program that is there, its
    target a machine; and does its trace apply. Nothing is compiled or run.

    Args:
        database: of files or tables.
        replays: apply the traces, too: most of the time goes there.
        on_record: called with the number of records that were looked at.

    Raises:
        UserError: the database is of a kind that nobody else can spoil, such as "memory".

    Example:
        >>> for problem in verify_database(open_database("tuned")).problems:
        ...     print(problem)
    """
    if isinstance(database, JSONDatabase):
        lines = _of_files(database)
    elif isinstance(database, TableDatabase):
        lines = _of_tables(database)
    else:
        raise UserError(
            f"a {type(database).__name__} has nothing that could be verified", code="verify"
        )
    out = Checked()
    workloads: dict[int, Workload | None] = {}
    seen: dict[tuple[bool, bytes], int] = {}
    withdrawn: set[tuple[str, str]] = set()
    unfit: list[tuple[int, tuple[str, str]]] = []  # problems that a withdrawal has dealt with
    for line in lines:
        record: TuningRecord | None = None
        try:
            first = seen.setdefault((line.is_workload, line.text), line.number)
            if line.is_workload:
                out.workloads += 1
                workloads[line.index] = None
                workloads[line.index] = _workload(line)
            else:
                out.records += 1
                if on_record is not None:
                    on_record(out.records)
            if first != line.number:
                raise RecordError(f"the same as {first}")
            if not line.is_workload:
                record = _record(line, workloads)
                if record.withdraws:
                    withdrawn.add((record.workload.shash, record.withdraws))
                _check(record, replays)
        except (GputuneError, RecursionError) as e:
            reason = ascii(e.message)[1:-1] if isinstance(e, GputuneError) else "nested too deeply"
            if record is not None:
                unfit.append((len(out.problems), (record.workload.shash, record.key)))
            out.problems.append(Problem(line.file, line.number, reason))
    settled = {k for k, key in unfit if key in withdrawn}
    out.problems = [p for k, p in enumerate(out.problems) if k not in settled]
    return out


@dataclass(frozen=True, slots=True)
class _Line:
    file: str
    number: int
    is_workload: bool
    text: bytes
    index: int
    """Of a workload: its number. Of a record: its workload's, or -1 where the text says it."""


def _of_files(database: JSONDatabase) -> Iterator[_Line]:
    for path, is_workload in (
        (database.path_workload, True),
        (database.path_tuning_record, False),
        (database.path_remeasured, False),
    ):
        for k, text in enumerate(_lines(path)):
            yield _Line(str(path), k + 1, is_workload, text, k if is_workload else -1)


def _lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}", code="not-readable") from None
    return lines[:-1] if lines[-1] == b"" else lines


def _of_tables(database: TableDatabase) -> Iterator[_Line]:
    for is_workload, where, number, index, body in database.rows():
        yield _Line(where, number, is_workload, body.encode("utf-8", "surrogatepass"), index)


def _workload(line: _Line) -> Workload:
    found = Workload.from_json(record_line.decoded(line.text))
    _ = found.mod
    return found


def _check(record: TuningRecord, replays: bool) -> None:
    _ = record.target, record.args_info
    if record.withdraws:
        return  # it is about another record, which may be one that does not apply
    trace = record.trace
    if replays and trace.insts:
        replay(record)


def _record(line: _Line, workloads: dict[int, Workload | None]) -> TuningRecord:
    if line.index >= 0:
        return read_body(line.text.decode("utf-8", "surrogatepass"), _at(workloads, line.index))
    index = record_line.index_of(line.text)
    if index is not None:
        return record_line.read(line.text, _at(workloads, index))
    match record_line.decoded(line.text):
        case [int() as number, value]:
            return TuningRecord.from_json(value, _at(workloads, number))
        case found:
            raise RecordError(f"expected [workload index, record], found {found!r:.80}")


def _at(workloads: dict[int, Workload | None], index: int) -> Workload:
    if index not in workloads:
        raise RecordError(f"there is no workload {index}")
    found = workloads[index]
    if found is None:
        raise RecordError(f"its workload {index} cannot be read")
    return found
