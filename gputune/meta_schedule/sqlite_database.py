"""How do the processes of one machine share a tuning history in one file? SQLite, of Python's own
library."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RecordError, UserError
from .table_database import Rows, TableDatabase, Tables

_BUSY_SECONDS = 60.0
_OLDEST = (3, 35)  # has RETURNING


class SQLiteDatabase(TableDatabase):
    """A database in one SQLite file, for the processes of one machine.

    Readers never wait, and writers take turns (write-ahead log). The file must not lie on a network
    file system; for several machines there is the kind "sql".

    Args:
        path: the file, made if need be, with its folder.
        allow_missing: make it if it is not there.
        module_equality: see `ModuleEquality`.

    Raises:
        UserError: the file cannot be opened. RecordError: it is no database of gputune's.

    Example:
        >>> db = SQLiteDatabase("tuned.sqlite")
        >>> sch = db.query_schedule(matmul, "llvm")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        allow_missing: bool = True,
        module_equality: str = "structural",
    ) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise UserError(f"a sqlite database is a file, found {path!r:.60}", code="address")
        self.path = Path(path)
        if not allow_missing and not self.path.exists():
            raise UserError(
                f"there is no database {self.path}",
                hint="pass allow_missing=True to start a new one",
                code="missing",
            )
        super().__init__(_SQLite(self.path), module_equality)


class _SQLite(Tables):
    """An open file. One connection serves all threads, one after the other."""

    counting_id = "INTEGER PRIMARY KEY AUTOINCREMENT"  # numbers are never used again

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = threading.RLock()
        if sqlite3.sqlite_version_info < _OLDEST:
            raise UserError(
                f"this Python has SQLite {sqlite3.sqlite_version}, which is too old for a sqlite "
                "database",
                hint='it takes 3.35; the kind "json" needs none',
                code="sqlite",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as e:
            raise UserError(
                f"cannot open {path}: {getattr(e, 'strerror', None) or e}",
                hint="choose a folder that can be written",
                code="not-readable",
            ) from None
        weakref.finalize(self, self._connection.close)
        with contextlib.suppress(RecordError):  # a file that cannot be written can be read as it is
            self.run("PRAGMA journal_mode=WAL")
        self.run("PRAGMA synchronous=NORMAL")

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Rows:
        """Do one statement."""
        with self._lock:
            try:
                return self._connection.execute(statement, values or {}).fetchall()
            except sqlite3.DatabaseError as e:
                if statement.startswith("SELECT") or "not a database" in str(e):
                    raise RecordError(
                        f"cannot read {self.name}: {e}", code="not-readable"
                    ) from None
                raise RecordError(
                    f"cannot record in {self.name}: {e}",
                    hint="what was written before is intact",
                    code="not-recorded",
                ) from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that no other writer comes between."""
        with self._lock:
            self.run("BEGIN IMMEDIATE")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have ended it already
                    self._connection.rollback()
                raise

    def is_made(self) -> bool:
        """Are the tables there?"""
        return bool(
            self.run("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'gputune_schema'")
        )

    def flush(self) -> None:
        """Bring the log into the file, and both to the disk."""
        with contextlib.suppress(RecordError):  # somebody reads: another time
            self.run("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
