"""Do all kinds of databases keep to what is asked of any of them?"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ms_fakes import matmul

from gputune.errors import RecordError
from gputune.meta_schedule import Database, JSONDatabase, MemoryDatabase
from gputune.meta_schedule.sqlite_database import SQLiteDatabase
from tests.contracts import postgres as own_postgres
from tests.contracts.database import DatabaseContract, LastingDatabaseContract


class TestMemory(DatabaseContract):
    def open(self, place: Path, **options: Any) -> Database:
        return MemoryDatabase(**options)


class TestJSON(LastingDatabaseContract):
    appends = 10_000

    def address(self, place: Path) -> str:
        return str(place / "tuned")

    def test_it_is_this_kind(self, db: Database) -> None:
        assert isinstance(db, JSONDatabase)


class TestSQLite(LastingDatabaseContract):
    appends = 10_000

    def address(self, place: Path) -> str:
        return str(place / "tuned.sqlite")

    def test_it_is_this_kind(self, db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)


class TestSQLOfSQLite(LastingDatabaseContract):
    def address(self, place: Path) -> str:
        pytest.importorskip("sqlalchemy")
        return f"sqlite+pysqlite:///{place}/tuned.sqlite"

    def test_the_sqlite_kind_reads_it(self, db: Database, tmp_path: Path) -> None:
        db.commit_workload(matmul())
        same = Database.create("sqlite", path=tmp_path / "tuned.sqlite", allow_missing=False)
        assert same.has_workload(matmul())


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with own_postgres.server() as url:
        yield url


class TestPostgreSQL(LastingDatabaseContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: str) -> None:
        self.url = postgres
        self.schemas: set[str] = set()

    def address(self, place: Path) -> str:
        """A schema of its own for each place."""
        import psycopg

        name = "t" + blake2b(place.as_posix().encode(), digest_size=8).hexdigest()
        if name not in self.schemas:
            self.schemas.add(name)
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")  # type: ignore[arg-type]  # hex
        return f"{self.url}?options=-csearch_path%3D{name}"

    def test_a_server_that_refuses_says_so_without_the_password(
        self, db: Database, tmp_path: Path
    ) -> None:
        secret = quote(own_postgres.PASSWORD, safe="")
        assert own_postgres.PASSWORD not in repr(db)
        assert secret not in repr(db)
        assert "tuner:***@127.0.0.1" in repr(db)
        wrong = self.address(tmp_path).replace(secret, "wr0ng%2Fpass")
        with pytest.raises(RecordError, match="password authentication") as e:
            Database.create("sql", url=wrong)
        assert "tuner:***@127.0.0.1" in str(e.value)
        assert "wr0ng" not in str(e.value)
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        nobody = self.address(tmp_path).replace(f":{port}/", ":1/")
        with pytest.raises(RecordError, match="cannot read postgresql") as e:
            Database.create("sql", url=nobody)
        assert secret not in str(e.value)
        assert own_postgres.PASSWORD not in str(e.value)
