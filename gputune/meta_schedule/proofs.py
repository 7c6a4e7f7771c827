"""What is known of scheduled programs that were checked, by this process or by an earlier one of
this user on this machine?

What a record's file says of itself proves nothing: anybody can write it. What counts is a digest of
what was checked (the program before and after scheduling, the target, the machine, the code of
gputune and of the compiler). That its numbers were right is kept for later processes as an empty
file of that name in the user's cache folder, where only this user can have put it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
from functools import cache
from hashlib import blake2b
from pathlib import Path

from ..ir.equal import structural_hash
from ..ir.nodes import IRModule
from ..target import Target, host
from .measure_callback import versions
from .verify import Verdict

_FOLDER = "verified"
_MOST_FILES = 20_000
_SWEEP_EVERY = 500  # files written by this process between two looks at how many there are

_RIGHT = Verdict("right")
_known: dict[str, Verdict] = {}
_kept: set[str] = set()
_writes = itertools.count(1)


def key_of(workload: IRModule, scheduled: IRModule, target: Target) -> str:
    """What a verdict is about: a scheduled program of a workload, compiled for a target here."""
    parts = (
        structural_hash(workload),
        structural_hash(scheduled),
        json.dumps(target.export(), sort_keys=True),
        host.device_key(),
        _code(),
    )
    return blake2b("\n".join(parts).encode(), digest_size=20).hexdigest()


def known(key: str) -> Verdict | None:
    """What this process found, or that an earlier one of this user found the numbers right."""
    found = _known.get(key)
    if found is None:
        folder = host.cache_folder(_FOLDER)
        if folder is not None and _own(folder / key):
            found = _known[key] = _RIGHT
            _kept.add(key)
    return found


def note(key: str, verdict: Verdict) -> None:
    """Remember for this process what was found; "unknown" says nothing, and is not remembered."""
    if verdict.outcome != "unknown":
        _known[key] = verdict


def keep(key: str) -> None:
    """Remember for later processes that the numbers are right; where nothing can be written down,
    they check again."""
    found = _known.get(key)
    if found is None or found.outcome != "right" or key in _kept:
        return
    _kept.add(key)
    folder = host.cache_folder(_FOLDER)
    if folder is None:
        return
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(folder / key, flags, 0o600))
        if next(_writes) % _SWEEP_EVERY == 0:
            _sweep(folder)


def forget() -> None:
    """Forget what this process knows (not what is in the user's cache folder)."""
    _known.clear()
    _kept.clear()


def _own(path: Path) -> bool:
    """Is there a plain file that only this user can have made?"""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022


def _sweep(folder: Path) -> None:
    """Where there are too many files, remove the older half."""
    found: list[tuple[int, str]] = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process has removed it
            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    if len(found) > _MOST_FILES:
        for _, path in sorted(found)[: len(found) // 2]:
            with contextlib.suppress(OSError):
                os.unlink(path)


@cache
def _code() -> str:
    """What makes machine code of a program: gputune's own files as they are, and the compiler."""
    root = Path(__file__).resolve().parents[1]
    facts = [json.dumps(versions(), sort_keys=True)]
    for path in sorted(root.rglob("*.py")):
        with contextlib.suppress(OSError):
            found = path.stat()
            facts.append(f"{path.relative_to(root)} {found.st_size} {found.st_mtime_ns}")
    return blake2b("\n".join(facts).encode(), digest_size=16).hexdigest()
