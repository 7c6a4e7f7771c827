"""How is one child process started, fed, listened to, and made to end?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import gputune.errors
from gputune.target import scratch

from . import wire

_READ = 1 << 18
_STDERR_KEPT = 8192
_DYING_S = 0.5  # between the end of stdout and the end of the process
_REAPING_S = 10.0  # between SIGKILL and the end: a process can be stuck in a driver for ever

OVER_MEMORY = 76
"""The exit code of a worker that uses more memory than it may."""


class Process:
    """A running worker process and its three pipes."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.scratch = scratch.make()
        try:
            self.popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=_environment(self.scratch),
                start_new_session=True,  # Ctrl-C does not reach it, and it can be killed as a group
            )
        except BaseException:
            scratch.remove(self.scratch)
            raise
        pipes = (self.popen.stdin, self.popen.stdout, self.popen.stderr)
        self.stdin, self.stdout, self.stderr = (p.fileno() if p else -1 for p in pipes)
        for fd in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(fd, False)
        self.decoder = wire.Decoder()
        self.pending = memoryview(b"")
        self.tail = bytearray()
        self.stderr_open = True
        self.ready = False
        self.stdout_ended = False
        self.served = 0
        self.owner = os.getpid()
        self.status: str | None = None
        self.code: int | None = None  # its exit code, once it has ended by itself

    def alive(self) -> bool:
        """Is it there, and this process's child (not that of the process this was forked from)?"""
        return self.status is None and self.owner == os.getpid() and not self._exited()

    def _exited(self) -> bool:
        """Has it ended? It is not reaped, so that its number stays its own."""
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.popen.pid, flags) is not None
        except ChildProcessError:
            return True  # somebody else has reaped it

    def send(self, frame: bytes) -> None:
        """Queue a frame; `write` sends what is left of it."""
        self.pending = memoryview(bytes(self.pending) + frame)
        self.write()

    def read(self) -> bytes | None:
        """What there is on stdout: b"" at its end, None if there is nothing for now."""
        try:
            data = os.read(self.stdout, _READ)
        except BlockingIOError:
            return None
        self.stdout_ended = not data
        return data

    def write(self) -> None:
        """Send what the pipe takes. A broken pipe shows as the end of stdout soon enough."""
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.stdin, self.pending) :]
        except BlockingIOError:
            pass  # the pipe is full: `_drive` calls again when there is room
        except BrokenPipeError:
            self.pending = memoryview(b"")

    def read_stderr(self) -> None:
        """Keep the last of what there is to read."""
        try:
            while data := os.read(self.stderr, _READ):
                self.tail += data
                del self.tail[:-_STDERR_KEPT]
            self.stderr_open = False
        except BlockingIOError:
            pass  # nothing more for now

    def stderr_text(self) -> str:
        """The end of what was written to stderr."""
        if self.status is None:
            self.read_stderr()
        return self.tail.decode("utf-8", "replace")

    def forget_stderr(self) -> None:
        """What was written so far does not belong to the next request."""
        self.read_stderr()
        self.tail.clear()

    def kill(self) -> None:
        """Kill the process and everything it started, whatever it is at; `end` reaps it. (SIGKILL
        from elsewhere means something else: that the system is short of memory.)"""
        if self.status is None and self.owner == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGQUIT)

    def end(self) -> str:
        """Kill the process and everything it started, reap it, close the pipes; how it ended."""
        if self.status is not None:
            return self.status
        if self.owner == os.getpid():
            self.status = self._kill()
            self.read_stderr()
            scratch.remove(self.scratch)
        else:
            self.status = "the worker of another process"
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()
        return self.status

    def _kill(self) -> str:
        patience = time.monotonic() + _DYING_S
        while self.stdout_ended and not self._exited() and time.monotonic() < patience:
            time.sleep(0.002)  # it is about to end by itself, and to tell us how
        by_itself = self._exited()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self.popen.pid, signal.SIGKILL)
        try:
            code = self.popen.wait(_REAPING_S)
        except subprocess.TimeoutExpired:
            return f"killed, and still there after {_REAPING_S:g} s"
        if not by_itself:
            return "killed"
        self.code = code
        return _in_words(code)

    @property
    def killed_by_others(self) -> bool:
        """Has somebody else killed it: the system for want of memory, a user, a scheduler?"""
        return self.code == -signal.SIGKILL


def _in_words(code: int) -> str:
    if code == OVER_MEMORY:
        return "it used more memory than it may"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"


def end_all(processes: list[Process]) -> None:
    """End each of them and empty the list."""
    while processes:
        processes.pop().end()


def _environment(folder: Path | None) -> dict[str, str]:
    """The child's environment: one thread a library, a temporary folder of its own, and the same
    gputune as here."""
    env = dict(os.environ)
    if folder is not None:
        env["TMPDIR"] = str(folder)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        env[name] = "1"
    root = Path(gputune.errors.__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), env.get("PYTHONPATH", ""))))
    return env
