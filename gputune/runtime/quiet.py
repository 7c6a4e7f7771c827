"""Who else works on this machine while something is timed? Nobody of gputune's, where all ask here.

Locks of files in this user's cache folder, which go with the process that holds them. What wants a
resource alone also holds its gate, so that a steady coming and going of others cannot keep it out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gputune.target.host import cache_folder

PROCESSOR = "processor"
"""The name of what builds share and measurements on the processor want alone."""


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Nobody else has `what` meanwhile."""
    folder = cache_folder("locks")
    if folder is None:  # no place for locks that is this user's alone
        yield
        return
    with _held(folder / f"{what}.gate", fcntl.LOCK_EX), _held(folder / what, fcntl.LOCK_EX):
        yield


@contextmanager
def shared(what: str) -> Iterator[None]:
    """Nobody has `what` alone meanwhile."""
    folder = cache_folder("locks")
    if folder is None:
        yield
        return
    with _held(folder / f"{what}.gate", fcntl.LOCK_EX):
        pass  # those who want it alone come first
    with _held(folder / what, fcntl.LOCK_SH):
        yield


@contextmanager
def _held(path: Path, how: int) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
