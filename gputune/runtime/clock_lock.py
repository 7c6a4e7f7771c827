"""How is a GPU's clock held at one rate, and given back whatever happens?

A guard process does it: it locks the clock, says so, and waits on its stdin. When that ends (which
the system sees to, in whatever way the process that holds the other end goes: an exception, a
signal, kill -9) it gives the clock back. Meanwhile a file in the cache folder says what is locked,
so that `gputune doctor` can tell of a lock whose guard was killed. Locking needs privileges; where
they are missing nothing is locked, and `Lock.problem` says so.

This is the one place of gputune that changes a setting of a GPU, and only where it was asked for.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gputune.errors import UserError
from gputune.target.host import cache_folder, cache_root

from .child import _environment
from .nvml import nvidia_module

_FOLDER = "locked_clocks"
_PATIENCE_S = 30.0  # for the guard to lock, and to give back
_MODULE = "gputune.runtime.clock_lock"


@dataclass(slots=True)
class Lock:
    """What became of a lock.

    Attributes:
        mhz: the clock; 0: the rate that the GPU can hold for ever (its base clock).
        problem: why nothing is locked, else "".
        restored: why the clock could not be given back, else ""; known at the end.
    """

    mhz: int
    problem: str = ""
    restored: str = ""

    def __str__(self) -> str:
        return f"{self.mhz} MHz" if self.mhz else "base clock"


def check_lock(lock_clocks: Any) -> int | None:
    """What `lock_clocks` asks for: MHz, 0 for the base clock, None for nothing; or UserError."""
    if lock_clocks is None or lock_clocks is False:
        return None
    if lock_clocks is True:
        return 0
    if isinstance(lock_clocks, int) and 0 < lock_clocks < 10_000:
        return lock_clocks
    raise UserError(
        f"lock_clocks is True (the base clock) or a clock in MHz, found {lock_clocks!r:.40}",
        code="lock-clocks",
    )


@contextmanager
def locked_clocks(pci_bus_id: str, mhz: int) -> Iterator[Lock]:
    """Hold the clock of a GPU's multiprocessors meanwhile.

    Args:
        pci_bus_id: such as "0000:3B:00.0".
        mhz: the clock; 0: the base clock.

    Yields:
        What became of it: nothing is raised where it cannot be locked.

    Example:
        >>> with locked_clocks("0000:3B:00.0", 1200) as lock:  # doctest: +SKIP
        ...     print(lock.problem or "locked")
    """
    lock = Lock(mhz)
    argv = [sys.executable, "-P", "-m", _MODULE, pci_bus_id, str(mhz)]
    try:
        guard = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env=_environment(None),
        )  # fmt: skip
    except OSError as e:
        lock.problem = f"the guard of the clock cannot be started: {e}"
        yield lock
        return
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        lock.problem = _said(guard.stdout.fileno())
        yield lock
    finally:
        with suppress(OSError):  # it has ended
            guard.stdin.write(b"give back\n")
            guard.stdin.flush()
        with suppress(OSError):
            guard.stdin.close()
        if not lock.problem:
            lock.restored = _said(guard.stdout.fileno())
        guard.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            guard.wait(_PATIENCE_S)


def _said(fd: int) -> str:
    """What the guard's next line complains of, or ""."""
    line = b""
    ends = time.monotonic() + _PATIENCE_S
    while not line.endswith(b"\n"):
        there, _, _ = select.select([fd], [], [], max(0.0, ends - time.monotonic()))
        data = os.read(fd, 4096) if there else b""
        if not data:
            return "the guard of the clock ended" if there else "the guard of the clock is silent"
        line += data
    try:
        return str(json.loads(line.splitlines()[0])["problem"])
    except (ValueError, KeyError, TypeError):
        return f"the guard of the clock said {line[:80]!r}"


# ----------------------------------------------------------------------------- locks left behind
@dataclass(frozen=True, slots=True)
class Left:
    """A lock that a file tells of.

    Attributes:
        pci_bus_id: of the GPU.
        clock: "1200 MHz" or "base clock".
        guard: process number of the guard.
        alive: is that guard still there? Then it will give the clock back.
        path: the file.
    """

    pci_bus_id: str
    clock: str
    guard: int
    alive: bool
    path: Path


def locks() -> list[Left]:
    """The locks that files in the cache folder tell of."""
    out = []
    for path in sorted((cache_root() / _FOLDER).glob("*.json")):
        try:
            told = json.loads(path.read_text("utf-8"))
            pci, mhz, guard = str(told["pci_bus_id"]), int(told["mhz"]), int(told["guard"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or removed
        if re.fullmatch(r"[0-9A-Fa-f:.]{1,32}", pci):
            out.append(Left(pci, str(Lock(mhz)), guard, _guards(guard), path))
    return out


def _guards(pid: int) -> bool:
    """Is that process a guard of a clock?"""
    try:
        return _MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# ----------------------------------------------------------------------------- the guard
def main(argv: list[str]) -> None:
    """Lock, wait for the end of stdin, give back."""
    pci_bus_id, mhz = argv[0], int(argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the clock is given back when its user goes
    folder = cache_folder(_FOLDER)
    marker = None if folder is None else folder / f"{re.sub(r'[^0-9A-Za-z]', '-', pci_bus_id)}.json"
    busy = [x for x in locks() if x.alive and x.path == marker]
    if busy:
        _say(f"process {busy[0].guard} holds it at {busy[0].clock} already")
        return
    pynvml, problem = nvidia_module()
    if pynvml is None:
        _say(problem)
        return
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
        if marker is not None:
            told = {"pci_bus_id": pci_bus_id, "mhz": mhz, "guard": os.getpid()}
            marker.write_text(json.dumps(told), "utf-8")
        rate = mhz or pynvml.NVML_CLOCK_LIMIT_ID_TDP
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, rate, rate)
    except (pynvml.NVMLError, OSError) as e:
        if marker is not None:
            marker.unlink(missing_ok=True)
        _say(str(e) or type(e).__name__)
        return
    _say("")
    sys.stdin.buffer.readline()
    try:
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    except pynvml.NVMLError as e:
        _say(str(e))  # the file stays, for the doctor
        return
    if marker is not None:
        marker.unlink(missing_ok=True)
    _say("")


def _say(problem: str) -> None:
    with suppress(OSError):  # nobody may be listening any more
        sys.stdout.write(json.dumps({"problem": problem}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
