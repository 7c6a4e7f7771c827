"""Has this text been compiled before? Cubins are kept in the user's cache folder.

A file holds one line of JSON (format, key, digest, the compiler's log), then the cubin. It is used
only if it is this user's own, nobody else may write it, and its digest is right. Files appear whole
or not at all. The folder is kept below the size that GPUTUNE_CUBIN_CACHE_MB names: what was not
used for longest goes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from ... import knobs
from ...errors import UserError
from ...target.host import cache_folder

_FORMAT = "gputune cubin 1"
_SWEEP_EVERY = 200  # files written by this process between two looks at the folder's size
_writes = itertools.count()


def key_of(parts: Iterable[str]) -> str:
    """A name for what is compiled from these texts."""
    digest = blake2b(digest_size=20)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def limit_bytes() -> int:
    """How much may be kept; UserError if the environment variable is no number."""
    text = knobs.CUBIN_CACHE_MB.get()
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UserError(
            f"{knobs.CUBIN_CACHE_MB.name} must be a whole number of MiB, found {text!r}"
        )
    return int(text) << 20


def read(key: str) -> tuple[bytes, str] | None:
    """The cubin and the compiler's log, if there is a file for the key that can be trusted."""
    folder = cache_folder("cubins") if limit_bytes() else None
    if folder is None:
        return None
    path = folder / f"{key}.cubin"
    try:
        data = _own(path)
    except OSError:
        return None
    found = _parsed(data, key)
    with contextlib.suppress(OSError):
        if found is None:
            path.unlink()  # torn or changed: it is compiled and written anew
        else:
            os.utime(path)  # it was used: the sweep takes others first
    return found


def _parsed(data: bytes, key: str) -> tuple[bytes, str] | None:
    head, _, cubin = data.partition(b"\n")
    try:
        fields = json.loads(head)
        wanted = (_FORMAT, key, blake2b(cubin).hexdigest())
        if (fields["format"], fields["key"], fields["digest"]) != wanted:
            return None
        return cubin, str(fields["log"])
    except (ValueError, KeyError, TypeError):
        return None


def _own(path: Path) -> bytes:
    """A file's bytes; OSError unless it is a plain file that only this user can have written."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise PermissionError(f"{path} may have been written by others")
        return file.read()


def write(key: str, cubin: bytes, log: str) -> None:
    """Keep a cubin; a full disk or a folder that cannot be written is no error."""
    limit = limit_bytes()
    folder = cache_folder("cubins") if limit else None
    if folder is None:
        return
    digest = blake2b(cubin).hexdigest()
    head = {"format": _FORMAT, "key": key, "digest": digest, "log": log}
    data = json.dumps(head).encode() + b"\n" + cubin
    with contextlib.suppress(OSError):
        handle, part = tempfile.mkstemp(dir=folder, suffix=".part")  # mode 0600
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(part, folder / f"{key}.cubin")
        except OSError:
            os.unlink(part)
            raise
        if next(_writes) % _SWEEP_EVERY == 0:
            _sweep(folder, limit)


def _sweep(folder: Path, limit: int) -> None:
    """Remove the files that were not used for longest, until three quarters of the limit remain."""
    files = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process removed it
            facts = entry.stat(follow_symlinks=False)
            files.append((facts.st_mtime_ns, facts.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= limit:
        return
    for _, size, path in sorted(files):
        if total <= limit * 3 // 4:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size
