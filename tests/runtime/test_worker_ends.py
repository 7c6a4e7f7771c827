"""Does a worker that ends, however it ends, leave nothing behind, and is a lost one replaced?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_kernels import add_code
from test_worker import HELLO, gone, run_args, scripted

from gputune.errors import RunError, TimeoutExpired
from gputune.runtime import child
from gputune.runtime.process import Worker
from gputune.target import scratch
from tests.codegen.cuda_programs import program

ROOT = Path(__file__).resolve().parents[2]

KILLED = HELLO + (
    "n = ask(); say(id=n, began=True)\n"
    "if WHEN: os.kill(os.getpid(), 9)\n"
    "say(id=n, data={'second': True}); ask()"
)


# ----------------------------------------------------------------------------- lost workers
def test_a_request_whose_worker_is_killed_by_others_is_asked_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = f"not os.path.exists({str(mark)!r}) and not open({str(mark)!r}, 'w').close()"
    with Worker(scripted(KILLED.replace("WHEN", first))) as w:
        assert w.request("run").data == {"second": True}
        assert w.starts == 2


def test_a_request_that_gets_two_workers_killed_has_failed() -> None:
    with Worker(scripted(KILLED.replace("WHEN", "True"))) as w:
        with pytest.raises(RunError, match=r"SIGKILL.*is memory short\?") as e:
            w.request("run")
        assert (w.starts, e.value.code, e.value.details["phase"]) == (2, "run-killed", "run")


def test_a_worker_that_ran_out_of_memory_is_replaced() -> None:
    with Worker(memory_limit_bytes=2 << 30) as w:
        with pytest.raises(RunError, match="MemoryError") as e:
            w.request("run", run_args(arguments=[["TENSOR", "float32", [1 << 30]]]), (add_code(1),))
        assert e.value.details["kind"] == "MemoryError"
        assert w.pid is None
        assert w.request("run", run_args(), (add_code(32),)).data["run_secs"]
        assert w.starts == 2


HOARDER = """
import sys, time
import numpy as np
from gputune.runtime import operations, worker
def hoard(args, blobs):
    kept = np.ones(args["bytes"], np.uint8)
    time.sleep(args["seconds"])
    return {"sum": int(kept[::4096].sum())}, ()
operations.OPERATIONS["hoard"] = hoard
operations.OPERATIONS["ping"] = lambda args, blobs: ({}, ())
worker.main(sys.argv[1:])
"""


def test_a_worker_with_a_gpu_may_use_so_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUTUNE_WORKER_MEMORY_MB", "600")
    with Worker([sys.executable, "-c", HOARDER], gpu=True) as w:
        assert w.argv[-2:] == ("--resident-limit", str(600 << 20))
        few = {"bytes": 1 << 20, "seconds": 0}
        assert w.request("hoard", few).data["sum"] == 256
        with pytest.raises(RunError, match="used more memory than it may") as e:
            w.request("hoard", {"bytes": 700 << 20, "seconds": 60})
        assert (e.value.details["kind"], e.value.details["phase"]) == ("memory", "hoard")
        assert w.request("hoard", few).data["sum"] == 256
        assert w.starts == 2


def test_sigterm_to_a_worker_is_the_parents_affair() -> None:
    with Worker() as w:
        pid = w.request("ping").data["pid"]
        os.kill(pid, signal.SIGTERM)
        assert w.request("ping").data["pid"] == pid


def test_a_process_that_does_not_go_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is stuck in a driver."""
    monkeypatch.setattr(child, "_REAPING_S", 0.0)
    process = child.Process(["sleep", "60"])
    monkeypatch.setattr(child.os, "killpg", lambda group, number: None)
    assert "still there after 0 s" in process.end()
    monkeypatch.undo()
    process.popen.kill()
    process.popen.wait(10)


# ----------------------------------------------------------------------------- leftovers
def folder_of(w: Worker) -> Path:
    """The temporary folder of a worker."""
    process = w._process
    assert process is not None
    assert process.scratch is not None
    return process.scratch


def test_a_worker_has_a_temporary_folder_that_goes_with_it() -> None:
    body = HELLO + (
        "import tempfile\n"
        "n = ask(); say(id=n, began=True); say(id=n, data={'here': tempfile.mkdtemp()}); ask()"
    )
    with Worker(scripted(body)) as w:
        here = Path(w.request("run").data["here"])
        assert here.parent == folder_of(w)
        mark = here.parent.name.removeprefix(scratch.PREFIX)
        elsewhere = scratch.IN_MEMORY / f"gputune-host-{mark}-x"
        elsewhere.mkdir()
        assert here.is_dir()
    assert not here.parent.exists()
    assert not elsewhere.exists()


def test_a_worker_that_cannot_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    with Worker(["/nonexistent/python"]) as w, pytest.raises(RunError, match="cannot be started"):
        w.request("ping")
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_folder_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", full)
    body = HELLO + "n = ask(); say(id=n, began=True); say(id=n, data={}); ask()"
    with Worker(scripted(body)) as w:
        assert w.request("run").data == {}
        process = w._process
        assert process is not None
        assert process.scratch is None


def test_the_token_names_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", "/tmp/gputune-worker-abc")
    assert scratch.token() == "abc-"
    monkeypatch.setattr(scratch.tempfile, "tempdir", "/tmp")
    assert scratch.token() == ""
    assert scratch.own() is None


ENDLESS = 'extern "C" __global__ void k() { volatile int v = 1; while (v) {} }'


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="needs a C++ compiler for host execution",
)
def test_a_simulation_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a process of its own, with a folder in memory."""
    monkeypatch.setenv("MARK_OF_A_TEST", str(os.getpid()))
    mark = f"MARK_OF_A_TEST={os.getpid()}".encode()

    def simulations() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (folder / "environ").read_bytes()
                if ours and b"/job" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it has just ended
        return found

    source = program(ENDLESS, "k")
    args = {"cuda": source.as_json(), "arguments": [], "outputs": False}
    with Worker() as w:
        with pytest.raises(RunError, match="time limit"):
            w.request("run_host", {**args, "limit_s": 0.1}, timeout_s=120)  # compiles it
        token = folder_of(w).name.removeprefix(scratch.PREFIX)
        with pytest.raises(TimeoutExpired):
            w.request("run_host", {**args, "limit_s": 600}, timeout_s=1.0)
        assert all(gone(pid) for pid in simulations())
        assert list(scratch.IN_MEMORY.glob(f"gputune-host-{token}-*")) == []


PARENT = """
import os, sys
sys.path.insert(0, "tests/runtime")
from runtime_kernels import FOREVER
from gputune.runtime.native import assemble
from gputune.runtime.process import Worker
worker = '''
import subprocess, sys
from gputune.runtime import operations, worker
def child(args, blobs):
    return {"child": subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL).pid}, ()
operations.OPERATIONS["child"] = child
worker.main(sys.argv[1:])
'''
w = Worker([sys.executable, "-c", worker])
print(w.request("child").data["child"], w._process.scratch, w.pid, flush=True)
w.request("run", {"symbol": "forever", "arguments": [], "evaluator": {}}, (assemble(FOREVER),))
"""


def test_a_killed_parent_takes_all_along() -> None:
    """Also what the worker started, and its folder: nobody else can remove it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    started, folder, pid = parent.stdout.readline().split()
    assert Path(folder).is_dir()
    parent.kill()
    parent.communicate(timeout=20)
    assert gone(int(pid))
    assert gone(int(started))
    assert not Path(folder).exists()
