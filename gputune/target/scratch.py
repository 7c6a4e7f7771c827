"""Where do worker processes put what is not to outlive them, and who removes it when one is killed?

Each worker has a temporary folder of its own, made and removed by its parent; what it puts
elsewhere (into memory, or beside a file that it is going to replace) carries the same token in its
name.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from .host import cache_root

PREFIX = "gputune-worker-"
IN_MEMORY = Path("/dev/shm")


def make() -> Path | None:
    """A folder for a worker process; None where there is no room for one."""
    try:
        return Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
    except OSError:
        return None


def token() -> str:
    """What the names of temporary folders outside of TMPDIR carry: in a worker process something
    by which its parent finds them, in others nothing."""
    name = Path(tempfile.gettempdir()).name
    return f"{name.removeprefix(PREFIX)}-" if name.startswith(PREFIX) else ""


def own() -> Path | None:
    """The folder of this process, if it is a worker that has one."""
    folder = Path(tempfile.gettempdir())
    return folder if folder.name.startswith(PREFIX) else None


def remove(folder: Path | None) -> None:
    """Remove a worker's folder, and what it left elsewhere."""
    if folder is None:
        return
    mark = folder.name.removeprefix(PREFIX)
    for left in (*IN_MEMORY.glob(f"gputune-*-{mark}-*"), *cache_root().glob(f"host/*-{mark}-*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()
    shutil.rmtree(folder, ignore_errors=True)
