"""Does an address mean the right database, and does its password stay out of every message?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ms_fakes import TARGET, matmul

from gputune.errors import GputuneError, UserError
from gputune.meta_schedule import Database, JSONDatabase, open_database, tune_tir
from gputune.meta_schedule.database_address import redacted, secrets, without
from gputune.meta_schedule.sqlite_database import SQLiteDatabase

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:hunter2@host/tuning", "postgresql://me:***@host/tuning"),
        ("postgresql+psycopg://me:hunter2@host:1/t?sslmode=require",
         "postgresql+psycopg://me:***@host:1/t?sslmode=require"),
        ("postgresql://me@host/tuning", "postgresql://me@host/tuning"),
        ("postgresql://host/t?user=me&password=hunter2&x=1",
         "postgresql://host/t?user=me&password=***&x=1"),
        ("postgresql://host/t?sslpassword=hunter2", "postgresql://host/t?sslpassword=***"),
        ("postgresql://me:hunter2/@#?x@host/t", "postgresql://me:***@host/t"),
        ("postgresql//me:hunter2@host", "postgresql//me:***@host"),
        ("sqlite:///tuned.sqlite", "sqlite:///tuned.sqlite"),
        ("x://me:hunter2\x1b@h", "x://me:***@h"),
    ],
)  # fmt: skip
def test_passwords_are_blotted_out(address: str, shown: str) -> None:
    assert redacted(address) == shown
    assert SECRET not in without(f"no luck with {address}", secrets(address))


def test_escaped_passwords_are_blotted_out_as_well() -> None:
    address = "postgresql://me:a%2Fb%25c@host/t"
    assert without("a/b%c and a%2Fb%25c", secrets(address)) == "*** and ***"


def test_addresses_mean_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_database("tuned"), JSONDatabase)
    for address in ("a.sqlite", "b.db", "sqlite:///c", f"sqlite:///{tmp_path}/d/e.sqlite3"):
        found = open_database(address)
        assert isinstance(found, SQLiteDatabase)
        assert found.path.exists()
    assert (tmp_path / "c").exists()
    assert isinstance(Database.create("sqlite:///c"), SQLiteDatabase)
    pytest.importorskip("sqlalchemy")
    assert "SQLDatabase" in repr(open_database("sqlite+pysqlite:///c"))
    for address in ("sqlite://", "sqlite:///", "sqlite://x"):
        with pytest.raises(UserError, match="names no file"):
            open_database(address)
    with pytest.raises(UserError, match="is empty"):
        open_database("")
    with pytest.raises(UserError, match="is a file, found"):
        SQLiteDatabase("")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://me:hunter2@host/t", "mysql is not supported"),
        ("abacus://me:hunter2@host/t", "no address of a database: there is no such engine"),
        ("postgresql://me:hunter2@x@host/t", "an @ in a password is written %40"),
        ("postgresql://me:hunter2@host:port/t", "it cannot be read"),
        ("postgresql+nodriver://me:hunter2@host/t", "no address of a database"),
        ("postgresql://me:hunter2@127.0.0.1:1/t", "cannot read postgresql://me:***@127.0.0.1:1/t"),
        ("sqlite+pysqlite:////dev/null/x/y.sqlite", "/dev/null/x"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, said: str) -> None:
    pytest.importorskip("sqlalchemy")
    if "127.0.0.1" in address:
        pytest.importorskip("psycopg")
    with pytest.raises(GputuneError) as e:
        open_database(address)
    assert said in str(e.value)
    assert SECRET not in str(e.value)
    with pytest.raises(GputuneError) as e:
        Database.create(address)
    assert "me:hunter2" not in str(e.value)


def test_what_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a sql database has an address, found 'tuned'"):
        Database.create("sql", url="tuned")
    with pytest.raises(UserError, match="found NoneType"):
        Database.create("sql", url=None)
    with pytest.raises(UserError) as e:
        tune_tir(matmul(), TARGET, f"postgresql://me:{SECRET}@host/t", 1)
    assert "work_dir is the path of a folder, found the address postgresql://me:***@host" in str(
        e.value
    )
    with pytest.raises(UserError, match='a "sql" database has an address'):
        tune_tir(matmul(), TARGET, tmp_path, 1, database="sql")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(UserError, match="needs SQLAlchemy, which is not installed") as e:
        open_database(f"postgresql://me:{SECRET}@host/t")
    assert "gputune[sql]" in e.value.hint
    assert SECRET not in str(e.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match="its driver is not installed") as e:
        open_database(f"postgresql://me:{SECRET}@host/t")
    assert "psycopg" in e.value.hint
    assert SECRET not in str(e.value)
