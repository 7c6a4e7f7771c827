"""What does a worker process do? Read requests from stdin, carry them out, answer on stdout.

Run as `python -m gputune.runtime.worker`. The protocol keeps private copies of stdin and stdout;
file descriptor 1 then leads to stderr, so that whatever a library or a kernel prints cannot end up
between two frames. A request is acknowledged ("began") before it is carried out: what goes wrong
earlier is not the candidate's fault. The process ends when its parent's end of the pipe closes,
even in the midst of a kernel, and takes along what it has started and its temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import resource
import select
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from gputune.errors import GputuneError
from gputune.target import scratch

from . import wire
from .child import OVER_MEMORY
from .cuda_device import LOST, VISIBLE

_CHUNK = 1 << 20
_LOOK_MS = 100  # between two looks at the memory in use, where that is limited


def main(argv: list[str] | None = None) -> None:
    """Serve until the parent goes away."""
    parser = argparse.ArgumentParser(prog="python -m gputune.runtime.worker", description=__doc__)
    parser.add_argument(
        "--memory-limit", type=int, default=0, help="bytes of address space; 0: none"
    )
    parser.add_argument(
        "--resident-limit", type=int, default=0, help="bytes of memory in use; 0: no limit"
    )
    parser.add_argument("--visible-device", default="", help="the only GPU that CUDA shows it")
    parser.add_argument("--cpus", default="", help="the processors that it runs on: 0,1,2")
    options = parser.parse_args(argv)
    requests, replies = _claim_pipes()
    if options.visible_device:
        os.environ[VISIBLE] = options.visible_device  # CUDA reads it when it is first used
    if options.cpus:
        _stay_on(options.cpus)
    # Both are the parent's affair: clusters send SIGTERM to all processes of a job. It is caught,
    # not ignored, so that compilers started from here have it as usual.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with contextlib.suppress(OSError):  # where memory is short, this goes first, not the parent
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    faulthandler.enable()  # a crash leaves its stack on stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options.memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (options.memory_limit, options.memory_limit))
    args = (requests, options.resident_limit)
    threading.Thread(target=_leave_with_parent, args=args, daemon=True).start()
    _serve(requests, replies)
    _leave()


def _claim_pipes() -> tuple[int, int]:
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return requests, replies


def _stay_on(cpus: str) -> None:
    """Run on these processors, as far as this process may use them."""
    may = os.sched_getaffinity(0)
    if wanted := {int(x) for x in cpus.split(",")} & may:
        os.sched_setaffinity(0, wanted)


def _leave_with_parent(requests: int, resident_limit: int) -> None:
    """Ends the process when the other end of the pipe closes, or when it uses more memory than it
    may; kernels run without the GIL."""
    hangup = select.poll()
    hangup.register(requests, 0)  # POLLHUP and POLLERR are always reported
    while not hangup.poll(_LOOK_MS if resident_limit else None):
        if _resident() > resident_limit:
            os._exit(OVER_MEMORY)  # the parent ends what was started from here
    _leave()


def _resident() -> int:
    """Bytes of memory in use."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def _leave() -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        sys.stderr.flush()
    scratch.remove(scratch.own())
    if os.getsid(0) == os.getpid():  # as the parent started it: nobody else is in the group
        os.killpg(0, signal.SIGKILL)
    os._exit(0)  # no waiting for threads that run a kernel


def _serve(requests: int, replies: int) -> None:
    decoder = wire.Decoder()
    while data := os.read(requests, _CHUNK):
        for message in decoder.feed(data):
            number = message.header["id"]
            _send(replies, {"id": number, "began": True})
            header, blobs = carry_out(message)
            _send(replies, {"id": number, **header}, blobs)


def _send(fd: int, header: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
    rest = memoryview(wire.encode(header, blobs))
    while rest:
        rest = rest[os.write(fd, rest) :]


def carry_out(message: wire.Message) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """The answer to a request: its result, or a description of what went wrong."""
    op = str(message.header.get("op"))
    try:
        from . import operations

        data, blobs = operations.run(op, message.header.get("args", {}), message.blobs)
        answer = {"data": data}
        wire.encode(answer)  # an answer that is no JSON is this operation's failure
        return answer, blobs
    except Exception as e:
        # Everything is reported to the parent, which raises it again under its own name.
        return {"error": _describe(e)}, ()


def _describe(e: Exception) -> dict[str, str]:
    trace = "".join(traceback.format_exception(e))
    if isinstance(e, GputuneError):
        return {
            "type": type(e).__name__,
            "message": e.message,
            "hint": e.hint,
            "code": e.code,
            "trace": trace,
            "picture": e.draw() if e.draw is not None else "",
            "lost": e.details.get(LOST, ""),
        }
    return {
        "type": "",
        "message": f"{type(e).__name__}: {e}" if str(e) else type(e).__name__,
        "hint": "",
        "code": "MemoryError" if isinstance(e, MemoryError) else type(e).__name__,
        "trace": trace,
        "lost": "memory" if isinstance(e, MemoryError) else "",  # a fresh process has all of it
    }


if __name__ == "__main__":
    main()
