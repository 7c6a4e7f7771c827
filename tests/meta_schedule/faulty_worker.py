"""A real worker process that misbehaves at chosen requests.

`python faulty_worker.py PLAN [--gpu]`: the file PLAN says {operation: {number: what happens}} as
JSON. Requests of an operation are counted in the file PLAN.<operation>, over all processes that
share the plan; "*" is every request. With --gpu its GPU is a FakeGpu on which every kernel is a
matmul of 32 x 32, beside the libnvidia-ml that FAKE_NVML_LIBRARY names.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gputune.runtime import operations, worker

Args = Mapping[str, Any]
Operation = Callable[[Args, tuple[bytes, ...]], Any]


def hoard() -> None:
    """Ask for memory until there is none."""
    kept = []
    while True:
        kept.append(np.empty(1 << 28, np.uint8))


def fail() -> None:
    raise RuntimeError("this candidate does not work")


DEEDS: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(8),
    "hang": lambda: time.sleep(600),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "memory": hoard,
    "error": fail,
}


def other_numbers(args: Args) -> Args:
    """A request to build, of a program that computes something else."""
    script, count = re.subn(r"T\.float32\(0(\.0)?\)", "T.float32(1)", args["script"])
    assert count, args["script"]
    return {**args, "script": script}


def outside(args: Args) -> Args:
    """A request to run a CUDA program, which writes far behind its result."""
    text, count = re.subn(r"\bC\[", "C[1048576 + ", args["cuda"]["text"])
    assert count, args["cuda"]["text"]
    return {**args, "cuda": {**args["cuda"], "text": text}}


CHANGES: dict[str, Callable[[Args], Args]] = {"wrong": other_numbers, "outside": outside}


def misbehaving(name: str, inner: Operation, plan: Path) -> Operation:
    """An operation that does what the plan says at its requests."""

    def run(args: Args, blobs: tuple[bytes, ...]) -> Any:
        fd = os.open(f"{plan}.{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b".")
        number = os.fstat(fd).st_size
        os.close(fd)
        told = json.loads(plan.read_text()).get(name, {})
        what = told.get(str(number), told.get("*", ""))
        if what in CHANGES:
            return inner(CHANGES[what](args), blobs)
        if what:
            DEEDS[what]()
        return inner(args, blobs)

    return run


def fake_gpu() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))
    from fake_gpu import FakeGpu, at

    class Every(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            return True

        def __missing__(self, name: str) -> Any:
            return matmul

    def matmul(gpu: FakeGpu, sizes: Any, table: Any) -> None:
        a, b, c = (at(table, i, 1024).reshape(32, 32) for i in range(3))
        c[...] = a @ b

    ctypes.CDLL(os.environ["FAKE_NVML_LIBRARY"], mode=ctypes.RTLD_GLOBAL)
    gpu = FakeGpu(arch=(8, 0))
    gpu.kernels = Every(gputune_reference=lambda gpu, sizes, table: None)
    gpu.counts["gputune_reference"] = 1
    gpu.install()


def main() -> None:
    plan, more = Path(sys.argv[1]), sys.argv[2:]
    if "--gpu" in more:
        more.remove("--gpu")
        fake_gpu()
    for name, operation in list(operations.OPERATIONS.items()):
        if name != "ping":
            operations.OPERATIONS[name] = misbehaving(name, operation, plan)
    worker.main(more)


if __name__ == "__main__":
    main()
