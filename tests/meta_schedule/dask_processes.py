"""A Dask cluster on this machine, of processes of its own, for the tests; it goes as a whole.

Workers may be given a `part` to play: a program that Dask loads when they start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "GPUTUNE_TEST_CLUSTER"
_PATIENCE_S = 60.0

PARTS = {
    # killed in the midst of its second measurement
    "dies": """
import os, signal
from gputune.meta_schedule import remote
def measure(header, artifact, whole=remote._measure, begun=[]):
    begun.append(1)
    if len(begun) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(header, artifact)
if remote._measure.__name__ == "_measure":  # Dask may load this twice
    remote._measure = measure
""",
    # has another version of gputune
    "other_version": """
import gputune
gputune.__version__ = "0.0.9"
""",
    # has a processor that lacks nearly everything
    "old_processor": """
from gputune.meta_schedule import remote
def old(whole=remote.describe):
    return {**whole(), "features": ["sse2"], "cpu": "An old one"}
remote.describe = old
""",
    # has two GPUs, which are made of host memory
    "gpus": f"""
import sys
from gputune.meta_schedule import remote
from gputune.runtime import gpus
THERE = tuple(gpus.LocalGpu(k, "Fake H100", "sm_90", f"0000:0{{k}}:00.0", str(k)) for k in (0, 1))
remote.local_gpus = lambda: THERE
gpus._COMMAND = (sys.executable, {str(ROOT / "tests" / "runtime" / "fake_gpu_worker.py")!r})
""",
}  # fmt: skip


class Processes:
    """A scheduler and workers.

    Args:
        folder: for their files.
        tls: options that all of them get, such as --tls-ca-file.
    """

    def __init__(self, folder: Path, *tls: str) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tls = tls
        self._told = folder / "scheduler.json"
        protocol = ("--protocol", "tls") if tls else ()
        self._start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file",
            str(self._told), "--no-show", *protocol, *tls,
        )  # fmt: skip

    def _start(self, name: str, *words: str) -> None:
        env = {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        command = [sys.executable, "-m", "dask", *words]
        command += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def worker(self, name: str, resources: str = "", part: str = "", threads: int = 1) -> None:
        """Start a worker; it joins when it is ready."""
        words = [
            "worker", "--scheduler-file", str(self._told), "--host", "127.0.0.1", "--no-nanny",
            "--nthreads", str(threads), "--name", name, "--memory-limit", "0", "--death-timeout",
            "60", "--local-directory", str(self.folder / name), *self._tls,
        ]  # fmt: skip
        if self._tls:
            words += ["--protocol", "tls"]
        if resources:
            words += ["--resources", resources]
        if part:
            path = self.folder / f"{part}.py"
            path.write_text(PARTS[part], encoding="utf-8")
            words += ["--preload", str(path)]
        self._start(name, *words)

    @property
    def address(self) -> str:
        """Of the scheduler."""
        self._until(lambda: bool(self._address()), "scheduler")
        return self._address()

    def _address(self) -> str:
        try:
            return str(json.loads(self._told.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError):
            return ""  # not there yet, or not whole

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def joined(self, *names: str) -> None:
        """Wait until these workers have joined the cluster."""
        for name in names:
            self._until(lambda name=name: "Registered to" in self.log(name), name)  # type: ignore[misc]  # bound now

    def _until(self, true: Callable[[], bool], name: str) -> None:
        ends = time.monotonic() + _PATIENCE_S
        while not true():
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < ends, self.log(name)
            time.sleep(0.02)

    def left(self) -> list[str]:
        """The processes of the cluster that are there, those of the workers' own included."""
        out = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    out.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has just gone, or is not ours
        return [words for words in out if words]  # not those that only wait to be reaped

    def end(self) -> None:
        """End everything, and see that nothing is left."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        ends = time.monotonic() + 5
        for process in self.processes.values():
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        ends = time.monotonic() + 20
        while (left := self.left()) and time.monotonic() < ends:
            time.sleep(0.05)
        assert left == []
