"""What does a worker process do? Read requests from stdin, carry them out, answer on stdout.

Run as `python -m gputune.runtime.worker`. The protocol keeps private copies of stdin and stdout;
file descriptor 1 then leads to stderr, so that whatever a library or a kernel prints cannot end up
between two frames. A request is acknowledged ("began") before it is carried out: what goes wrong
earlier is not the candidate's fault. The process ends when its parent's end of the pipe closes,
even in the midst of a kernel.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import select
import signal
import sys
import threading
import traceback
from typing import Any

from gputune.errors import GputuneError

from . import wire
from .cuda_device import LOST

_CHUNK = 1 << 20


def main(argv: list[str] | None = None) -> None:
    """Serve until the parent goes away."""
    parser = argparse.ArgumentParser(prog="python -m gputune.runtime.worker", description=__doc__)
    parser.add_argument(
        "--memory-limit", type=int, default=0, help="bytes of address space; 0: none"
    )
    options = parser.parse_args(argv)
    requests, replies = _claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    faulthandler.enable()  # a crash leaves its stack on stderr
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options.memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (options.memory_limit, options.memory_limit))
    threading.Thread(target=_leave_with_parent, args=(requests,), daemon=True).start()
    _serve(requests, replies)
    _leave()


def _claim_pipes() -> tuple[int, int]:
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    return requests, replies


def _leave_with_parent(requests: int) -> None:
    """Ends the process when the other end of the pipe closes; kernels run without the GIL."""
    hangup = select.poll()
    hangup.register(requests, 0)  # POLLHUP and POLLERR are always reported
    hangup.poll()
    _leave()


def _leave() -> None:
    sys.stderr.flush()
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
        "code": type(e).__name__,
        "trace": trace,
    }


if __name__ == "__main__":
    main()
