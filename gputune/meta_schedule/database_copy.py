"""How do records get from one database into another? By merging, and by a file that travels."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import RecordError, UserError
from . import record_line
from .database import Database
from .journal import sync_folder, write_all
from .record import TuningRecord, Workload, canonical

FORMAT, VERSION = "gputune database", 1
_Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copied:
    """What copying did.

    Attributes:
        added: records that are new.
        known: records of candidates that the destination knew already.
        workloads: programs that are new.
        unusable: records that were left out because their program cannot be read.
    """

    added: int
    known: int
    workloads: int
    unusable: int = 0


def merge_databases(destination: Database, sources: Sequence[Database]) -> Copied:
    """Add the records of other databases to one, each candidate once.

    A candidate is a program scheduled in one way for one target on one device. Where it was
    measured in several databases, the destination's record stands, and else that of the first
    source; where it only failed, a measurement is added. What says that a record is not to be used
    is always taken. Programs get the destination's own numbers.

    All is written at once: if that fails, nothing was added.

    Args:
        destination: what is added to.
        sources: where from; they are left as they are.

    Raises:
        UserError: a source is the destination. RecordError: the destination cannot be written.
    """
    for source in sources:
        if source is destination:
            raise UserError("merge: a database cannot be merged into itself", code="merge")
    found = (r for source in sources for r in source.entries())
    return add_records(destination, found)


def add_records(destination: Database, records: Iterable[TuningRecord]) -> Copied:
    """Add records, each candidate once; see `merge_databases`."""
    known: set[_Key] = set()
    times: set[_Key] = set()  # of what amendments may be about
    for old in destination.entries():
        known.add(_key(old))
        times.add(_time(old, old.seconds))
    before: dict[str, bool] = {}
    new: list[TuningRecord] = []
    twice = unusable = 0
    readable = _Readable()
    for record in records:
        if not readable(record.workload):
            unusable += 1
            continue
        if record.workload.shash not in before:
            before[record.workload.shash] = destination.has_workload(record.workload.mod)
        key = _key(record)
        if key in known or (key[0] == "failure" and ("time", *key[1:]) in known):
            twice += not record.remeasures
            continue
        if record.remeasures:
            was = record.extras.get("was")
            if not isinstance(was, int | float) or _about(record, float(was)) not in times:
                continue  # about a record that stayed behind
        else:
            times.add(_time(record, record.seconds))
        known.add(key)
        new.append(record)
    destination.commit_tuning_records([r.copy() for r in new])
    destination.flush()
    added = sum(not r.remeasures for r in new)
    return Copied(added, twice, sum(not x for x in before.values()), unusable)


class _Readable:
    """Can the program of a workload be read? Looked at once."""

    def __init__(self) -> None:
        self._known: dict[Workload, bool] = {}

    def __call__(self, workload: Workload) -> bool:
        if workload not in self._known:
            try:
                self._known[workload] = workload.mod is not None
            except RecordError:
                self._known[workload] = False
        return self._known[workload]


def _place(record: TuningRecord) -> tuple[str, ...]:
    device = str(record.extras.get("device"))
    return (record.workload.shash, canonical(record.target_json()), device)


def _key(record: TuningRecord) -> _Key:
    """What is the same for two records of one candidate."""
    place = _place(record)
    if record.withdraws:
        return ("withdraws", *place, record.withdraws)
    if record.remeasures:
        return ("again", *place, record.remeasures, canonical(record.run_secs))
    if record.error is not None and record.error.get("kind") == "wrong_result":
        return ("wrong", *place, record.program or record.key)
    return ("time" if record.is_valid else "failure", *place, record.program or record.key)


def _time(record: TuningRecord, seconds: float) -> _Key:
    return (record.workload.shash, record.key, repr(seconds))


def _about(record: TuningRecord, seconds: float) -> _Key:
    return (record.workload.shash, record.remeasures, repr(seconds))


# ----------------------------------------------------------------------------- a file that travels
def export_database(database: Database, path: str | Path, *, overwrite: bool = False) -> Copied:
    """Write a database to one file: programs and records as JSON lines, with counts and a digest at
    its end, so that a file that is not whole is noticed.

    Args:
        database: of any kind.
        path: the file; it is there whole or not at all.
        overwrite: replace a file that is there.

    Raises:
        UserError: the file is there already, or cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise UserError(
            f"{target} is there already", hint="overwrite=True (--overwrite) replaces it",
            code="exists",
        )  # fmt: skip
    lines = [canonical({"format": FORMAT, "version": VERSION})]
    numbers: dict[str, int] = {}
    count = unusable = 0
    readable = _Readable()
    for record in database.entries():
        workload = record.workload
        if not readable(workload):
            unusable += 1
            continue
        if workload.shash not in numbers:
            numbers[workload.shash] = len(numbers)
            lines.append(canonical({"workload": workload.as_json()}))
        lines.append(record_line.text_of(numbers[workload.shash], record))
        count += 1
    lines.append(canonical({"digest": _digest(lines), "records": count, "workloads": len(numbers)}))
    _write(target, "".join(f"{x}\n" for x in lines).encode())
    return Copied(count, 0, len(numbers), unusable)


def import_database(database: Database, path: str | Path) -> Copied:
    """Add what `export_database` wrote, each candidate once (see `merge_databases`).

    Raises:
        RecordError: the file is no such file, or not as it was written; names the line. Nothing
            was added.
    """
    return add_records(database, exported(path))


def exported(path: str | Path) -> list[TuningRecord]:
    """The records that `export_database` wrote.

    Raises:
        RecordError: the file is no such file, or not as it was written; names the line.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}", code="not-readable") from None
    return list(_exported(Path(path), data))


def _exported(path: Path, data: bytes) -> Iterator[TuningRecord]:
    lines = data.split(b"\n")
    head = _value(path, 1, lines[0])
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise RecordError(
            f"{path}:1: no file of `gputune db export`",
            hint="a folder of tuning results is merged: gputune db merge", code="import",
        )  # fmt: skip
    if head.get("version") != VERSION:
        raise RecordError(
            f"{path}:1: version {head.get('version')!r:.20} is not known to this gputune",
            hint=f"it reads version {VERSION}", code="import",
        )  # fmt: skip
    if len(lines) < 3 or lines[-1] != b"":
        raise RecordError(f"{path}: its end is missing", hint=_AGAIN, code="import")
    end = _value(path, len(lines) - 1, lines[-2])
    body = [line.decode("utf-8", "replace") for line in lines[:-2]]
    if not isinstance(end, dict) or "digest" not in end:
        raise RecordError(f"{path}: its end is missing", hint=_AGAIN, code="import")
    workloads: list[Workload] = []
    records: list[TuningRecord] = []
    for number, line in enumerate(lines[1:-2], 2):
        try:
            index = record_line.index_of(line)
            if index is not None:
                if index >= len(workloads):
                    raise RecordError(f"there is no workload {index} before it")
                records.append(record_line.read(line, workloads[index]))
                continue
            match record_line.decoded(line):
                case {"workload": found}:
                    workloads.append(Workload.from_json(found))
                    _ = workloads[-1].mod
                case _:
                    raise RecordError("neither a workload nor a record with its checksum")
        except RecordError as e:
            said = ascii(e.message)[1:-1]
            raise RecordError(f"{path}:{number}: {said}", hint=_AGAIN, code="import") from None
    if end["digest"] != _digest(body):
        raise RecordError(f"{path}: it was changed: its digest differs", hint=_AGAIN, code="import")
    yield from records


_AGAIN = "export it anew; nothing was added"


def _value(path: Path, number: int, line: bytes) -> Any:
    try:
        return record_line.decoded(line)
    except RecordError as e:
        raise RecordError(
            f"{path}:{number}: {ascii(e.message)[1:-1]}", hint=_AGAIN, code="import"
        ) from None


def _digest(lines: Sequence[str]) -> str:
    return blake2b("\n".join(lines).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    name = ""
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            write_all(fd, data)
            os.fchmod(fd, 0o644 & ~_umask())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(name, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            if name:
                os.unlink(name)
        raise UserError(f"cannot write {path}: {e.strerror or e}", code="not-writable") from None
    sync_folder(path.parent)


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now
