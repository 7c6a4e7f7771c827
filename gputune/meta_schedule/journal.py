"""How do several processes share a file of lines that only grows?

Whoever appends holds the lock, reads what others have appended since, and only then knows the
number of its line. A last line without an end (a writer died, or the disk was full) is left as it
is: the next line starts afresh behind it. A file that was written anew meanwhile (`gputune db
prune` does that, under the lock) is noticed: what was seen of it no longer stands before `offset`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RecordError, UserError
from ..runtime.interruption import held

_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.002  # between two looks at a lock that is held: for one line, as a rule
_MARK = 64  # bytes before `offset` that are remembered: a record ends with its checksum


@dataclass(slots=True)
class Journal:
    """An append-only file of lines, seen by this process up to `offset`.

    Attributes:
        path: of the file.
        lines: how many lines (readable or not) have been seen.
    """

    path: Path
    offset: int = 0
    lines: int = 0
    _lock: FileLock | None = field(default=None, repr=False)
    _inode: int = field(default=0)
    _mark: bytes = field(default=b"")  # what stands before `offset`
    _unended: bool = field(default=False)  # the last line seen has no end
    _dirty: bool = field(default=False)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file against other writers; UserError where the folder cannot be written."""
        if self._lock is None:  # to make one takes longer than to hold it
            self._lock = FileLock(f"{self.path}.lock", mode=0o644)
        lock = self._lock
        try:
            lock.acquire(timeout=_LOCK_SECONDS, poll_interval=_POLL_SECONDS)
        except Timeout:
            raise RecordError(
                f"{self.path}: another process has held the lock for {_LOCK_SECONDS:.0f} s",
                hint="wait for it, or tune in another work_dir",
                code="lock",
            ) from None
        except (OSError, NotImplementedError) as e:
            raise UserError(
                f"cannot write to {self.path}: {_reason(e)}",
                hint="choose a work_dir that can be written",
                code="not-writable",
            ) from None
        try:
            with held():  # no line is left half written, and what was written is known
                yield
        finally:
            lock.release()

    def rewind(self) -> None:
        """Forget what was seen: the next `read_new` begins at the beginning."""
        self.offset = self.lines = self._inode = 0
        self._mark, self._unended, self._dirty = b"", False, False

    def read_new(self) -> list[tuple[int, bytes]]:
        """The lines that appeared since the last call, each with its number from 0.

        Call it under the lock: without it, the last line may be one that is being written.

        Raises:
            UserError: the file cannot be read.
            RecordError: it is not the file any more that was read before (code "replaced"), or it
                is gone or too short for that (code "shortened").
        """
        try:
            data = self._new_bytes()
        except OSError as e:
            raise UserError(f"cannot read {self.path}: {_reason(e)}", code="not-readable") from None
        if not data:
            return []
        self.offset += len(data)
        self._mark = (self._mark + data[-_MARK:])[-_MARK:]
        if self._unended:
            # What follows belongs to a line that was reported already: skip to its end.
            _, end, data = data.partition(b"\n")
            self._unended = not end
            if self._unended:
                return []
        pieces = data.split(b"\n")
        tail = pieces.pop()
        if tail:
            pieces.append(tail)
            self._unended = True
        first = self.lines
        self.lines += len(pieces)
        return list(enumerate(pieces, first))

    def has_news(self) -> bool:
        """Has anybody changed the file since it was read?"""
        try:
            found = self.path.stat()
        except OSError:
            return self.offset > 0
        return (found.st_size, found.st_ino) != (self.offset, self._inode)

    def _new_bytes(self) -> bytes:
        """What stands behind `offset`, if what stands before it is what was there."""
        try:
            with self.path.open("rb") as f:
                found = os.fstat(f.fileno())
                if (found.st_size, found.st_ino) == (self.offset, self._inode):
                    return b""
                if found.st_size < self.offset and found.st_ino == self._inode:
                    raise self._gone()
                begin = self.offset - len(self._mark)
                f.seek(begin)
                data = f.read(max(found.st_size - begin, 0))  # (a device may have no end)
        except FileNotFoundError:
            if self.offset:
                raise self._gone() from None
            return b""
        if not data.startswith(self._mark):
            raise RecordError(
                f"{self.path} was written anew while it was in use",
                hint="open the database anew",
                code="replaced",
            )
        self._inode = found.st_ino
        return data[len(self._mark) :]

    def _gone(self) -> RecordError:
        return RecordError(
            f"{self.path} was removed or shortened while it was in use",
            hint="open the database anew",
            code="shortened",
        )

    def append(self, *texts: str) -> int:
        """Write lines, under the lock and after `read_new`; the number of the first.

        Raises:
            RecordError: they could not be written whole; nothing of them stays in the file.
        """
        first = "\n" if self._unended else ""
        data = (first + "".join(f"{text}\n" for text in texts)).encode()
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as e:
            raise self._failed(e) from None
        try:
            found = os.fstat(fd)
            try:
                write_all(fd, data)
            except OSError as e:
                with contextlib.suppress(OSError):  # a torn line is skipped by every reader
                    os.ftruncate(fd, found.st_size)
                raise self._failed(e) from None
        finally:
            os.close(fd)
        self.offset = found.st_size + len(data)
        self._inode = found.st_ino
        self._mark = (self._mark + data[-_MARK:])[-_MARK:]
        self._unended = False
        self._dirty = True
        self.lines += len(texts)
        return self.lines - len(texts)

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """Put other lines in the place of all, under the lock: whoever looks sees the file as it
        was or as it is then, also after a crash. What was seen is forgotten.

        Raises:
            RecordError: they could not be written; the file is as it was.
        """
        new = self.path.with_name(f".{self.path.name}.new")  # one at a time: we hold the lock
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                write_all(fd, b"".join(line + b"\n" for line in lines))
                if self.path.exists():
                    _take_owner(fd, self.path)
                os.fsync(fd)
            finally:
                os.close(fd)
            new.replace(self.path)
        except OSError as e:
            with contextlib.suppress(OSError):
                new.unlink()
            raise self._failed(e) from None
        sync_folder(self.path.parent)
        self.rewind()

    def sync(self) -> None:
        """Ask the operating system to bring what was appended to the disk."""
        if not self._dirty:
            return
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as e:
            raise self._failed(e) from None
        finally:
            os.close(fd)
        self._dirty = False

    def _failed(self, e: OSError) -> RecordError:
        return RecordError(
            f"cannot record in {self.path}: {_reason(e)}",
            hint="what was written before is intact",
            code="not-recorded",
        )


def _take_owner(fd: int, path: Path) -> None:
    """Who may read and write a file that takes another's place? Whoever might before."""
    before = path.stat()
    with contextlib.suppress(PermissionError):
        os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, before.st_mode & 0o7777)


def sync_folder(folder: Path) -> None:
    """Ask the operating system to bring the names in a folder to the disk."""
    with contextlib.suppress(OSError):  # not every file system can
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write everything; OSError if the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _reason(e: Exception) -> str:
    return (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
