"""How do several processes share a file of lines that only grows?

Whoever appends holds the lock, reads what others have appended since, and only then knows the
number of its line. A last line without an end (a writer died, or the disk was full) is left as it
is: the next line starts afresh behind it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import RecordError, UserError

_LOCK_SECONDS = 60.0


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
    _unended: bool = field(default=False)  # the last line seen has no end
    _dirty: bool = field(default=False)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file against other writers; UserError where the folder cannot be written."""
        lock = FileLock(f"{self.path}.lock", mode=0o644)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
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
            yield
        finally:
            lock.release()

    def read_new(self) -> list[tuple[int, bytes]]:
        """The lines that appeared since the last call, each with its number from 0.

        Call it under the lock: without it, the last line may be one that is being written.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size == self.offset:
                return []
            if size < self.offset:
                raise RecordError(
                    f"{self.path} was removed or shortened while it was in use",
                    hint="open the database anew",
                    code="shortened",
                )
            with self.path.open("rb") as f:
                f.seek(self.offset)
                data = f.read()
        except OSError as e:
            raise UserError(f"cannot read {self.path}: {_reason(e)}", code="not-readable") from None
        self.offset += len(data)
        if self._unended and data:
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

    def append(self, text: str) -> int:
        """Write one line, under the lock and after `read_new`; its number.

        Raises:
            RecordError: it could not be written whole; nothing of it stays in the file.
        """
        line = ("\n" if self._unended else "").encode() + text.encode() + b"\n"
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as e:
            raise self._failed(e) from None
        try:
            start = os.fstat(fd).st_size
            try:
                write_all(fd, line)
            except OSError as e:
                with contextlib.suppress(OSError):  # a torn line is skipped by every reader
                    os.ftruncate(fd, start)
                raise self._failed(e) from None
        finally:
            os.close(fd)
        self.offset = start + len(line)
        self._unended = False
        self._dirty = True
        self.lines += 1
        return self.lines - 1

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


def write_all(fd: int, data: bytes) -> None:
    """Write everything; OSError if the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _reason(e: Exception) -> str:
    return (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
