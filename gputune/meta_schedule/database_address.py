"""Which database does "tuned", "tuned.sqlite" or "postgresql://..." mean, and how is it named where
others can read it? Never with its password."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from ..errors import UserError
from .database import Database
from .json_database import JSONDatabase

SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
_STARS = "***"
# Up to the last @: a password that was not escaped may hold one, and a slash, too.
_USER = re.compile(r"(?P<before>//[^:@/?#]*):(?P<secret>.*)@", re.S)
_OPTION = re.compile(
    r"(?P<before>[?&;](?:\w*pass\w*|pwd|\w*secret|\w*token)=)(?P<secret>[^&;]*)", re.I
)


def is_url(address: object) -> bool:
    """Is it the address of a database, and no path?"""
    return isinstance(address, str) and "://" in address


def redacted(address: str) -> str:
    """An address without its password, safe to be printed and kept.

    Example:
        >>> redacted("postgresql://me:secret@host/tuning")
        'postgresql://me:***@host/tuning'
    """
    out = _USER.sub(lambda m: f"{m['before']}:{_STARS}@", address)
    return ascii(_OPTION.sub(lambda m: m["before"] + _STARS, out))[1:-1]


def raw_passwords(address: str) -> list[str]:
    """The passwords of an address as they stand there."""
    return [m["secret"] for p in (_USER, _OPTION) for m in p.finditer(address)]


def secrets(address: str) -> list[str]:
    """What must not be printed of an address: its passwords, as they stand there and decoded."""
    found = {x for s in raw_passwords(address) for x in (s, unquote(s)) if x}
    return sorted(found, key=len, reverse=True)


def without(text: str, hidden: Iterable[str]) -> str:
    """A text, as a driver's message, with secrets blotted out."""
    for secret in hidden:
        text = text.replace(secret, _STARS)
    return text


def open_database(
    address: str | Path, *, allow_missing: bool = True, module_equality: str = "structural"
) -> Database:
    """The database of an address.

    Args:
        address: a folder (two files of JSON lines); a file that ends in .sqlite, .sqlite3 or .db,
            or `sqlite:///FILE`; or an address that SQLAlchemy knows, such as
            `postgresql://user:password@host/name`.
        allow_missing: make it if it is not there.
        module_equality: see `ModuleEquality`.

    Raises:
        UserError: there is none, or it cannot be used; the message has no password in it.

    Example:
        >>> open_database("tuned"), open_database("tuned.sqlite")
        >>> open_database("postgresql://me:secret@host/tuning")
    """
    text = str(address)
    if not text:
        raise UserError("the address of a database is empty", code="address")
    if is_url(address):
        scheme, _, rest = text.partition("://")
        if scheme.lower() != "sqlite":
            from .sql_database import SQLDatabase

            return SQLDatabase(
                url=text, allow_missing=allow_missing, module_equality=module_equality
            )
        if not rest.startswith("/") or rest == "/":
            raise UserError(
                f"{redacted(text)} names no file",
                hint="sqlite:///FILE, or sqlite:////FOLDER/FILE from the root",
                code="address",
            )
        path = Path(rest[1:])
    else:
        path = Path(address)
    if is_url(address) or path.suffix.lower() in SQLITE_SUFFIXES:
        from .sqlite_database import SQLiteDatabase

        return SQLiteDatabase(path, allow_missing=allow_missing, module_equality=module_equality)
    if not allow_missing:
        if not path.is_dir():
            raise UserError(f"there is no folder {path}", code="missing")
        if not any(path.glob("database_*.json")):
            raise UserError(
                f"{path} holds no database", hint="gputune tune ... --work-dir makes one",
                code="missing",
            )  # fmt: skip
    return JSONDatabase(work_dir=path, allow_missing=allow_missing, module_equality=module_equality)
