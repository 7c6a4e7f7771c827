"""How does the parent drive a worker process? Worker: requests, deadlines, replacement.

A worker starts when it is first needed. One that crashes, hangs or answers nonsense is killed with
its whole process group and replaced at the next request; so is one that ran out of memory, or whose
GPU context is broken. The clock of a request starts when the worker has begun to carry it out: a
cold start is never charged to a candidate, and a worker lost before it began, or killed by others,
is replaced and asked again, once.

All pipes are served by one loop (`drive`) in the calling thread; there are no helper threads.
"""

from __future__ import annotations

import re
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import gputune.errors
from gputune import knobs
from gputune.errors import BuildError, GputuneError, RunError, TimeoutExpired, UserError

from . import wire
from .child import OVER_MEMORY, Process, end_all
from .interruption import held

_ATTEMPTS = 2  # of a request whose worker was lost before it began, or killed by others


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker is asked to do; `timeout_s` counts from when it begins."""

    op: str
    args: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer, and the seconds it took from beginning to answer."""

    data: dict[str, Any]
    blobs: tuple[bytes, ...]
    seconds: float


Outcome = Reply | GputuneError
State = Literal["warming", "sent", "running"]


@dataclass(slots=True)
class _Job:
    request: Request
    frame: bytes
    number: int
    state: State = "warming"
    attempts: int = 1
    deadline: float = 0.0
    began: float = 0.0


def _memory_limit_bytes() -> int | None:
    text = knobs.WORKER_MEMORY_MB.get()
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise UserError(
            f"{knobs.WORKER_MEMORY_MB.name} must be a whole number of MiB, found {text!r}"
        )
    return int(text) << 20


class Worker:
    """One worker process.

    Args:
        argv: the command; default: `python -m gputune.runtime.worker`.
        memory_limit_bytes: address space of the process, or where it has a GPU the memory in use
            (CUDA reserves address space for all memory of the machine); None: what
            GPUTUNE_WORKER_MEMORY_MB says, or no limit.
        start_timeout_s: how long a cold start may take.
        recycle_after: requests after which the process is replaced by a fresh one.
        gpu: it runs kernels on a GPU, and is ready when it has opened that.

    Use as a context manager, or call `close()`; workers left over are killed at exit.

    Example:
        >>> with Worker() as w:
        ...     w.request("ping", timeout_s=5).data["pid"]
    """

    def __init__(
        self,
        argv: Sequence[str] | None = None,
        *,
        memory_limit_bytes: int | None = None,
        start_timeout_s: float = 60.0,
        recycle_after: int = 1000,
        gpu: bool = False,
    ) -> None:
        command = list(argv or (sys.executable, "-P", "-m", "gputune.runtime.worker"))
        if memory_limit_bytes is None:
            memory_limit_bytes = _memory_limit_bytes()
        if memory_limit_bytes is not None:
            which = "--resident-limit" if gpu else "--memory-limit"
            command += [which, str(memory_limit_bytes)]
        self.argv = tuple(command)
        self.start_timeout_s = start_timeout_s
        self.recycle_after = recycle_after
        self.gpu = gpu
        self.starts = 0
        self._busy = threading.RLock()
        self._live: list[Process] = []  # the process, if there is one; also the finalizer's
        self._job: _Job | None = None
        self._outcome: Outcome | None = None
        self._numbers = 0
        weakref.finalize(self, end_all, self._live)

    def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        blobs: tuple[bytes, ...] = (),
        timeout_s: float = 30.0,
    ) -> Reply:
        """Send a request and wait for the answer.

        Raises:
            TimeoutExpired: it took longer than `timeout_s`.
            GputuneError: what the worker reported, under its own class (BuildError, ...).
            RunError: the worker crashed, was lost, or answered nonsense.

        `details` of the error hold "phase" (the op, or "start"), "kind" ("timeout", "crash",
        "killed", "memory", "garbage", "lost", or the name of what was raised), "trace" and "stderr"
        (its end).
        """
        with self._busy:
            outcomes: list[Outcome] = []
            try:
                self._begin(Request(op, args or {}, blobs, timeout_s))
                drive([self], lambda _, outcome: outcomes.append(outcome))
            except (KeyboardInterrupt, SystemExit):
                self.close()  # wherever it came: half a request may be in the pipe
                raise
        if isinstance(outcomes[0], GputuneError):
            raise outcomes[0]
        return outcomes[0]

    def start(self) -> None:
        """Start the process now, without waiting for it to be ready."""
        with self._busy:
            if self._process is None or not self._process.alive():
                self._spawn()

    def close(self) -> None:
        """End the process. The worker may be used again: it then starts afresh."""
        with self._busy:
            self._discard()
            self._job = None

    def kill(self) -> None:
        """Kill the process from another thread: a request under way fails as of a crash."""
        if (process := self._process) is not None:
            process.kill()

    @property
    def _process(self) -> Process | None:
        return self._live[0] if self._live else None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.popen.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------- one request
    def _begin(self, request: Request) -> None:
        """Take up a request; `drive` brings it to its end."""
        self._numbers += 1
        number, args = self._numbers, dict(request.args)
        try:
            frame = wire.encode({"id": number, "op": request.op, "args": args}, request.blobs)
        except (TypeError, ValueError) as e:
            raise RunError(f"request {request.op!r} cannot be sent to a worker: {e}") from None
        self._outcome = None
        self._job = _Job(request, frame, number)
        self._launch()

    def _launch(self) -> None:
        """Hand the job to the process; first start one if there is none."""
        job = self._job
        assert job is not None
        process = self._process
        if process is not None and (process.served >= self.recycle_after or not process.alive()):
            self._discard()
        try:
            if self._process is None:
                self._spawn()
        except OSError as e:
            self._finish(self._error(RunError, "start", "lost", f"a worker cannot be started: {e}"))
            return
        assert self._process is not None
        if self._process.ready:
            self._send(job)
        else:
            job.state = "warming"
            job.deadline = time.monotonic() + self.start_timeout_s

    def _spawn(self) -> None:
        self._discard()
        with held():  # a process that nobody knows would stay for a while
            process = Process(self.argv)
            self._live.append(process)
        self.starts += 1
        process.send(wire.encode({"id": 0, "op": "ping", "args": {"gpu": self.gpu}}))

    def _send(self, job: _Job) -> None:
        assert self._process is not None
        job.state = "sent"
        job.deadline = time.monotonic() + self.start_timeout_s
        self._process.served += 1
        self._process.forget_stderr()
        self._process.send(job.frame)

    # ------------------------------------------------------------------------- what happens to it
    def _on_message(self, message: wire.Message) -> None:
        job, process = self._job, self._process
        assert job is not None
        assert process is not None
        header = message.header
        number = header.get("id")
        if job.state == "warming" and number == 0:
            if "error" in header:
                self._finish(self._reported(header["error"], "start"))
                self._discard()
            elif "data" in header:
                process.ready = True
                self._send(job)
        elif job.state == "sent" and number == job.number and header.get("began") is True:
            job.state = "running"
            job.began = time.monotonic()
            job.deadline = job.began + job.request.timeout_s
        elif (
            job.state == "running" and number == job.number and isinstance(header.get("data"), dict)
        ):
            seconds = time.monotonic() - job.began
            self._finish(Reply(header["data"], message.blobs, seconds))
        elif (
            job.state == "running"
            and number == job.number
            and isinstance(header.get("error"), dict)
        ):
            self._finish(self._reported(header["error"], job.request.op))
            if header["error"].get("lost"):
                self._discard()  # its GPU context, or its memory, is of no use any more
        else:
            raise wire.Garbage(f"an unexpected frame: {str(header)[:200]}")

    def _on_loss(self, kind: str, message: str) -> None:
        """The process crashed, hung, or spoke garbage; it is killed, and the job ends or, if it
        had not begun or others killed the process, starts again."""
        job, process = self._job, self._process
        assert job is not None
        assert process is not None
        phase = job.request.op if job.state == "running" else "start"
        status = process.end()
        if kind == "crash":
            message = f"{message} ({status})"
            if process.killed_by_others:
                kind = "killed"
                message += ", not by gputune: is memory short?"
            elif process.code == OVER_MEMORY:
                kind = "memory"
        error = TimeoutExpired if kind == "timeout" and job.state == "running" else RunError
        failure = self._error(error, phase, kind, message)
        self._discard()
        if (job.state != "running" or kind == "killed") and job.attempts < _ATTEMPTS:
            job.attempts += 1
            self._launch()
        else:
            self._finish(failure)

    def _on_deadline(self) -> None:
        job = self._job
        assert job is not None
        if job.state == "running":
            limit = f"{job.request.timeout_s:g} s"
            self._on_loss("timeout", f"{job.request.op} took longer than its limit of {limit}")
        else:
            self._on_loss("timeout", f"a worker was not ready after {self.start_timeout_s:g} s")

    def _finish(self, outcome: Outcome) -> None:
        self._job = None
        self._outcome = outcome

    def _error(
        self, kind: type[GputuneError], phase: str, name: str, message: str, **more: str
    ) -> GputuneError:
        stderr = "" if self._process is None else self._process.stderr_text()
        details = {"phase": phase, "kind": name, "trace": more.pop("trace", ""), "stderr": stderr}
        code = more.pop("code", "") or f"{phase}-{name}"
        return kind(message, hint=more.pop("hint", ""), code=code, details=details)

    def _reported(self, error: Mapping[str, Any], phase: str) -> GputuneError:
        """The error that a worker described, as an object of the class it names."""
        text = {k: str(error.get(k, "")) for k in ("message", "hint", "code", "trace")}
        name, picture = str(error.get("type", "")), str(error.get("picture", ""))
        found = getattr(gputune.errors, name, None)
        if not (isinstance(found, type) and issubclass(found, GputuneError)):
            found = BuildError if phase == "build" else RunError
            name = text["code"]
        out = self._error(found, phase, name, **text)
        if picture:
            out.draw = lambda: picture
        return out

    def _discard(self) -> None:
        end_all(self._live)


# ----------------------------------------------------------------------------- the loop
def drive(workers: Sequence[Worker], on_done: Callable[[Worker, Outcome], None]) -> None:
    """Serve the pipes of these workers until none has a job. `on_done` gets every outcome and may
    give the worker another job. If it is interrupted, busy workers are killed."""
    try:
        while True:
            for w in workers:
                while (outcome := w._outcome) is not None:
                    w._outcome = None
                    on_done(w, outcome)
            busy = [w for w in workers if w._job is not None]
            if not busy:
                return
            _wait(busy)
    except BaseException:
        for w in workers:
            if w._job is not None:
                w._job = None
                w._discard()
        raise


def _wait(busy: Sequence[Worker]) -> None:
    """Wait for something to happen on the pipes, or for a deadline, and deal with it."""
    poller = select.poll()
    owners: dict[int, tuple[Worker, Process]] = {}
    for w in busy:
        process = w._process
        assert process is not None
        poller.register(process.stdout, select.POLLIN)
        owners[process.stdout] = (w, process)
        if process.stderr_open:
            poller.register(process.stderr, select.POLLIN)
            owners[process.stderr] = (w, process)
        if process.pending:
            poller.register(process.stdin, select.POLLOUT)
            owners[process.stdin] = (w, process)
    first = min(w._job.deadline for w in busy if w._job is not None)
    for fd, _ in poller.poll(max(0.0, first - time.monotonic()) * 1000 + 1):
        w, process = owners[fd]
        if w._process is not process:
            continue  # it was replaced a moment ago
        if fd == process.stderr:
            process.read_stderr()
        elif fd == process.stdin:
            process.write()
        else:
            _read(w, process)
    now = time.monotonic()
    for w in busy:
        if w._job is not None and now >= w._job.deadline:
            w._on_deadline()


def _read(w: Worker, process: Process) -> None:
    data = process.read()
    if data is None:
        return  # poll spoke too soon
    if not data:
        w._on_loss("crash", "the worker process ended")
        return
    try:
        for message in process.decoder.feed(data):
            if w._job is None or w._process is not process:
                raise wire.Garbage("a frame that nobody asked for")
            w._on_message(message)
    except wire.Garbage as e:
        if w._job is None:
            w._discard()  # its answer stands; the process is not to be trusted any more
        else:
            w._on_loss("garbage", f"the worker's answer cannot be read: {e}")
