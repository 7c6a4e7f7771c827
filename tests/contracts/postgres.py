"""A PostgreSQL server of the tests' own: in a temporary folder, on a loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

USER = "tuner"
PASSWORD = "s3cret/:%pass"


def _program(name: str) -> Path:
    """One of the server's programs, from PATH or from where Debian puts them."""
    found = shutil.which(name)
    if found is not None:
        return Path(found).resolve()
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not installed:
        pytest.skip(f"no PostgreSQL here: {name} is not installed (apt install postgresql)")
    return installed[-1]


def _owner() -> dict[str, object]:
    """As whom it runs: the server refuses to be root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def server() -> Iterator[str]:
    """The address of a running server; it is stopped and removed at the end."""
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    owner = _owner()
    folder = Path(tempfile.mkdtemp(prefix="gputune-postgres-"))
    data = folder / "data"
    password = folder / "password"
    password.write_text(PASSWORD + "\n")
    if owner:
        for path in (folder, password):
            os.chown(path, owner["user"], owner["group"])  # type: ignore[arg-type]  # numbers

    def run(program: Path, *words: str) -> None:
        done = subprocess.run(
            [program, "-D", data, *words], cwd=folder, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder)}, check=False,
            timeout=120, **owner,  # type: ignore[call-overload]  # user, group
        )  # fmt: skip
        log = (folder / "log").read_text() if (folder / "log").exists() else ""
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}{log}"

    try:
        run(
            initdb, "-U", USER, "--pwfile", str(password), "--auth=scram-sha-256", "--no-sync",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip
        port = _free_port()
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=20"
        # What it writes goes to a file: the server would keep a pipe of ours open.
        run(pg_ctl, "-l", str(folder / "log"), "-o", options, "-w", "-s", "start")
        try:
            secret = quote(PASSWORD, safe="")
            yield f"postgresql://{USER}:{secret}@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-m", "immediate", "-w", "-s", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
