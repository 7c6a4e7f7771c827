from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runtime_kernels import CHATTY, CRASH, FAILS, FOREVER, SCALE, add_code

from gputune.errors import (
    BuildError,
    GputuneError,
    RunError,
    ScriptError,
    TimeoutExpired,
    UserError,
)
from gputune.runtime import operations
from gputune.runtime.native import assemble
from gputune.runtime.pool import WorkerPool
from gputune.runtime.process import Reply, Request, Worker

QUICK = {"number": 5, "repeat": 2, "min_repeat_ms": 0}


def tensor(name="x", *, n=32, written=False, **more):
    return {
        "kind": "tensor", "name": name, "dtype": "float32", "shape": [n], "strides": None,
        "align": 4, "written": written, **more,
    }  # fmt: skip


ARGS = [tensor("A"), tensor("B"), tensor("C", written=True)]


def run_args(symbol="add", arguments=ARGS, **more):
    return {"symbol": symbol, "arguments": arguments, "evaluator": QUICK, "seed": 1, **more}


@pytest.fixture(scope="module")
def worker():
    with Worker() as w:
        yield w


def check(worker, candidate, reference=None, **more):
    args = {"symbol": "add", "reference_symbol": "add", "arguments": ARGS, "seed": 1, **more}
    return worker.request("check", args, (candidate, reference or add_code(32))).data


# ----------------------------------------------------------------------------- operations
def test_ping(worker):
    data = worker.request("ping").data
    assert data["pid"] == worker.pid != os.getpid()


def test_run_times_a_kernel(worker):
    reply = worker.request("run", run_args(), (add_code(32),))
    assert len(reply.data["run_secs"]) == 2
    assert all(0 < t < 1e-3 for t in reply.data["run_secs"])
    assert (reply.data["number"], reply.data["cut"]) == (5, False)
    assert reply.seconds > 0


def test_run_takes_args_info_of_metaschedule(worker):
    info = [["TENSOR", "float32", [4, 8]]] * 3
    assert worker.request("run", run_args(arguments=info), (add_code(32),)).data["run_secs"]


def test_run_is_cut_off(worker):
    reply = worker.request("run", run_args(cutoff_s=0.0), (add_code(32),))
    assert len(reply.data["run_secs"]) == 1
    assert reply.data["cut"] is True
    assert not worker.request("run", run_args(cutoff_s=9.0), (add_code(32),)).data["cut"]


def test_run_flushes_caches(worker):
    args = run_args() | {"evaluator": {"number": 3, "repeat": 1, "enable_cpu_cache_flush": True}}
    assert worker.request("run", args, (add_code(32),)).data["number"] == 3


def test_run_of_an_artifact(worker, tmp_path):
    path = tmp_path / "kernel.o"
    path.write_bytes(add_code(32))
    digest = hashlib.blake2b(path.read_bytes()).hexdigest()
    args = run_args(artifact=str(path), digest=digest)
    assert worker.request("run", args).data["run_secs"]
    path.write_bytes(add_code(31))
    with pytest.raises(RunError, match="is not the artifact that was built"):
        worker.request("run", args)


def test_scalars_and_sizes_are_passed(worker):
    arguments = [
        tensor("A", n=7, written=True),
        {"kind": "scalar", "name": "s", "dtype": "float32", "value": 0.5},
        {"kind": "scalar", "name": "k", "dtype": "int64", "value": -3},
        {"kind": "scalar", "name": "n", "dtype": "int64", "value": 7},
    ]
    code = assemble(SCALE)
    names = {"symbol": "scale", "reference_symbol": "scale"}
    data = check(worker, code, code, arguments=arguments, **names)
    assert data["ok"]
    fewer = [*arguments[:3], arguments[3] | {"value": 6}]  # the last element keeps its first value
    args = names | {"arguments": fewer, "seed": 1}
    assert worker.request("check", args, (code, code)).data["ok"]


def test_check_accepts_what_is_equal(worker):
    data = check(worker, add_code(32))
    assert data["ok"]
    assert data["reason"] == ""
    assert data["max_error"] == 0
    assert [o["name"] for o in data["outputs"]] == ["C"]


def test_check_finds_wrong_numbers(worker):
    data = check(worker, add_code(32, "sub"))
    assert not data["ok"]
    assert data["reason"].startswith("C: 32 elements differ, worst at [")
    assert data["outputs"][0]["mismatches"] == 32


def test_check_finds_what_was_not_written(worker):
    data = check(worker, add_code(31))
    assert data["outputs"][0]["where"] == [31]
    assert data["outputs"][0]["mismatches"] == 1


def test_check_finds_writes_out_of_bounds(worker):
    assert check(worker, add_code(33))["reason"] == "C: written outside its bounds"


def test_check_finds_changed_inputs(worker):
    swapped = [tensor("A"), tensor("B", written=True), tensor("C")]
    data = check(worker, add_code(32), arguments=swapped)
    assert "C: an input was changed" in data["reason"]


def test_check_takes_tolerances(worker):
    assert check(worker, add_code(32, "sub"), atol=10.0)["ok"]


def test_build_reports_a_bad_script_under_its_own_name(worker):
    with pytest.raises(ScriptError) as e:
        worker.request("build", {"script": "import os", "target": {"kind": "llvm"}})
    assert e.value.details["phase"] == "build"
    assert e.value.details["kind"] == "ScriptError"
    assert "Traceback" in e.value.details["trace"]


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("dance", {}, "a worker cannot 'dance'; it knows ping, build, run, check"),
        ("run", run_args(arguments=[["TENSOR", "flot32", [3]]]), "unknown dtype 'flot32'"),
        ("run", run_args(arguments=[["TENSOR", "float32", [-3]]]), "extents are whole numbers"),
        ("run", run_args(arguments=[["TENSER", "float32", [3]]]), "unknown kind 'TENSER'"),
        ("run", run_args(arguments=[7]), "argument 0 is described by 7"),
        ("run", run_args() | {"evaluator": {"nummer": 1}}, "evaluator config: unknown nummer"),
        ("run", run_args() | {"evaluator": {"number": 0}}, "number must be a whole number"),
        ("run", run_args(symbol="sub"), "cannot be linked: .*sub"),
        ("run", {}, "KeyError: 'symbol'|KeyError: 'arguments'"),
    ],
)
def test_bad_requests_are_answered(worker, op, args, message):
    worker.request("ping")  # whatever the test before has left
    starts = worker.starts
    with pytest.raises(GputuneError, match=message):
        worker.request(op, args, (add_code(32),))
    with pytest.raises(RunError, match="neither object code nor the path"):
        worker.request("run", run_args())
    assert worker.starts == starts


def test_requests_that_cannot_be_sent(worker):
    with pytest.raises(RunError, match="request 'run' cannot be sent"):
        worker.request("run", {"x": object()})
    assert worker.request("ping").data


# ----------------------------------------------------------------------------- failures
def test_a_kernel_that_never_ends_is_killed():
    with Worker() as w:
        pid = w.request("ping").data["pid"]
        with pytest.raises(TimeoutExpired, match=r"run took longer than its limit of 0.3 s") as e:
            w.request("run", run_args("forever", []), (assemble(FOREVER),), timeout_s=0.3)
        assert (e.value.code, e.value.details["kind"]) == ("run-timeout", "timeout")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert w.request("run", run_args(), (add_code(32),)).data["run_secs"]
        assert w.starts == 2


def test_a_crash_costs_one_request():
    with Worker() as w:
        with pytest.raises(RunError, match="ended by SIGSEGV") as e:
            w.request("run", run_args("crash", []), (assemble(CRASH),))
        assert e.value.details["phase"] == "run"
        assert e.value.details["kind"] == "crash"
        assert "Segmentation fault" in e.value.details["stderr"]
        assert w.request("run", run_args(), (add_code(32),)).data["run_secs"]
        assert w.starts == 2


def test_an_error_code_leaves_the_worker_alive(worker):
    pid = worker.request("ping").data["pid"]
    with pytest.raises(RunError, match="fails: the kernel reported error code 7"):
        worker.request("run", run_args("fails", []), (assemble(FAILS),))
    assert worker.request("ping").data["pid"] == pid


def test_prints_of_kernels_do_not_disturb(worker):
    args = run_args("chatty", [])
    assert worker.request("run", args, (assemble(CHATTY),)).data["run_secs"]
    with pytest.raises(BuildError) as e:
        worker.request("run", run_args("missing", []), (assemble(CHATTY),))
    assert "noise" not in e.value.details["stderr"]  # each request has its own stderr
    start = "define i32 @chatty"
    failing = CHATTY.replace("ret i32 0", "ret i32 3")
    assert start in failing
    with pytest.raises(RunError) as e:
        worker.request("run", args, (assemble(failing),))
    assert "noise on stdout" in e.value.details["stderr"]


def scripted(body):
    """A stand-in for the worker program: python code with the protocol's functions at hand."""
    return [sys.executable, "-c", "import os, sys, time\nfrom gputune.runtime import wire\n" + body]


HELLO = """
def say(**header): os.write(1, wire.encode(header))
say(id=0, began=True); say(id=0, data={})
decoder = wire.Decoder()
def ask():
    while True:
        for m in decoder.feed(os.read(0, 1 << 20)):
            if m.header["id"]: return m.header["id"]
"""


def test_garbage_before_it_began_is_retried_once():
    with Worker(scripted("print('hello there', flush=True); time.sleep(60)")) as w:
        with pytest.raises(RunError, match=r"cannot be read: .*hello there") as e:
            w.request("ping")
        assert (w.starts, e.value.code) == (2, "start-garbage")


def test_garbage_instead_of_an_answer_is_the_requests_fault():
    body = HELLO + "n = ask(); say(id=n, began=True); print('oops', flush=True); time.sleep(60)"
    with Worker(scripted(body)) as w:
        with pytest.raises(RunError, match=r"cannot be read: .*oops") as e:
            w.request("run")
        assert (w.starts, e.value.code) == (1, "run-garbage")


def test_an_answer_to_another_request_is_garbage():
    body = HELLO + "n = ask(); say(id=n, began=True); say(id=n + 1, data={}); time.sleep(60)"
    with Worker(scripted(body)) as w, pytest.raises(RunError, match="unexpected frame"):
        w.request("run")


def test_a_worker_lost_before_it_began_is_replaced(tmp_path):
    mark = tmp_path / "mark"
    body = HELLO + (
        f"first = not os.path.exists({str(mark)!r}); open({str(mark)!r}, 'w').close()\n"
        "n = ask()\n"
        "if first: sys.exit(3)\n"
        "say(id=n, began=True); say(id=n, data={'second': True}); time.sleep(60)"
    )
    with Worker(scripted(body)) as w:
        assert w.request("run").data == {"second": True}
        assert w.starts == 2


def test_a_worker_that_cannot_start():
    with Worker(scripted("print('no luck', file=sys.stderr); sys.exit(3)")) as w:
        with pytest.raises(RunError, match="exit code 3") as e:
            w.request("ping")
        assert e.value.code == "start-crash"
        assert "no luck" in e.value.details["stderr"]
    with Worker(["/nonexistent/python"]) as w, pytest.raises(RunError, match="cannot be started"):
        w.request("ping")
    slow = Worker(scripted("time.sleep(60)"), start_timeout_s=0.2)
    with slow as w, pytest.raises(RunError, match=r"was not ready after 0.2 s"):
        w.request("ping")


def test_a_cold_start_is_not_charged():
    body = (
        "time.sleep(0.6)\n"
        + HELLO
        + "n = ask(); say(id=n, began=True); say(id=n, data={'a': 1}); ask()"
    )
    with Worker(scripted(body)) as w:
        assert w.request("run", timeout_s=0.3).data == {"a": 1}


def test_killed_between_requests():
    with Worker() as w:
        pid = w.request("ping").data["pid"]
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        assert w.request("ping").data["pid"] != pid


def test_large_payloads_cross_both_ways():
    body = HELLO + (
        "n = ask(); say(id=n, began=True)\n"
        "os.set_blocking(1, True)\n"
        "out = memoryview(wire.encode({'id': n, 'data': {}}, [b'x' * 5_000_000]))\n"
        "while out: out = out[os.write(1, out):]\n"
        "ask()"
    )
    with Worker(scripted(body)) as w:
        reply = w.request("run", {}, (b"y" * 5_000_000,))
        assert reply.blobs == (b"x" * 5_000_000,)


def test_memory_limit_by_knob(monkeypatch):
    monkeypatch.setenv("GPUTUNE_WORKER_MEMORY_MB", "2048")
    assert Worker().argv[-2:] == ("--memory-limit", str(2048 << 20))
    monkeypatch.setenv("GPUTUNE_WORKER_MEMORY_MB", "2 GB")
    with pytest.raises(UserError, match="GPUTUNE_WORKER_MEMORY_MB must be a whole number"):
        Worker()


def test_recycling():
    with Worker(recycle_after=2) as w:
        pids = [w.request("ping").data["pid"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


# ----------------------------------------------------------------------------- leftovers
def open_files():
    return len(os.listdir("/proc/self/fd"))


def children():
    """The processes whose parent this is, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[1]) == os.getpid():
            found.add(stat.parent.name)
    return found


def test_restarts_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    body = HELLO + "n = ask(); say(id=n, began=True); os.abort()"
    with Worker(scripted(body)) as w:
        before, families = open_files(), children()
        for _ in range(12):
            with pytest.raises(RunError, match="SIGABRT"):
                w.request("run")
        assert w.starts == 12
        assert open_files() == before
        assert children() == families
    assert list(tmp_path.iterdir()) == []


def test_children_of_the_worker_die_with_it():
    body = HELLO + (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "n = ask(); say(id=n, began=True); say(id=n, data={'child': child.pid}); ask()"
    )
    with Worker(scripted(body)) as w:
        child = w.request("run").data["child"]
        os.kill(child, 0)
    assert gone(child)


def gone(pid, seconds=5.0):
    """Has the process ended (or is it only waiting to be reaped by init)?"""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
            )
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


PARENT = """
import os, sys
sys.path.insert(0, "tests/runtime")
from runtime_kernels import FOREVER
from gputune.runtime.native import assemble
from gputune.runtime.process import Worker
w = Worker()
print(w.request("ping").data["pid"], flush=True)
code = assemble(FOREVER)
print("go", flush=True)
args = {"symbol": "forever", "arguments": [], "evaluator": {}}
try:
    w.request("run", args, (code,))
except KeyboardInterrupt:
    print("interrupted", w.pid, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_even_inside_a_kernel(how):
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "go\n"
    time.sleep(0.3)
    assert not gone(pid, 0.05)
    os.kill(parent.pid, how)
    out, _ = parent.communicate(timeout=20)
    assert gone(pid)
    if how == signal.SIGINT:
        assert out == "interrupted None\n"


# ----------------------------------------------------------------------------- pools
def test_map_keeps_the_order_and_survives_failures():
    requests = [
        Request("run", run_args(), (add_code(32),)),
        Request("run", run_args("crash", []), (assemble(CRASH),)),
        Request("run", run_args("forever", []), (assemble(FOREVER),), timeout_s=0.4),
        Request("run", {"x": object()}),
        Request("ping"),
        Request("build", {"script": "x = (", "target": {"kind": "llvm"}}),
        Request("run", run_args(), (add_code(32),)),
    ]
    seen = []
    with WorkerPool(2) as pool:
        pool.start()
        replies = pool.map(requests, on_done=lambda i, _: seen.append(i))
        assert pool.map([]) == []
    assert sorted(seen) == list(range(7))
    kinds = [type(r) for r in replies]
    assert kinds[0] is kinds[4] is kinds[6] is Reply
    assert (kinds[1], kinds[2], kinds[3]) == (RunError, TimeoutExpired, RunError)
    assert issubclass(kinds[5], ScriptError | BuildError)
    assert "pid" in replies[4].data


def test_map_runs_at_the_same_time(tmp_path):
    """Each worker answers when all three have been asked: one after the other none would."""
    body = HELLO + (
        f"here = {str(tmp_path)!r}\n"
        "while True:\n"
        "    n = ask(); say(id=n, began=True); open(f'{here}/{os.getpid()}', 'w').close()\n"
        "    while len(os.listdir(here)) < 3: time.sleep(0.01)\n"
        "    say(id=n, data={})\n"
    )
    with WorkerPool(3, scripted(body)) as pool:
        replies = pool.map([Request("run", timeout_s=60)] * 3)
    assert [type(r) for r in replies] == [Reply] * 3


def test_an_interrupted_map_leaves_no_workers():
    def stop(index, outcome):
        raise KeyboardInterrupt

    pool = WorkerPool(2)
    with pytest.raises(KeyboardInterrupt):
        pool.map(
            [Request("ping"), Request("run", run_args("forever", []), (assemble(FOREVER),))], stop
        )
    assert [w.pid for w in pool.workers] == [None, None]
    assert isinstance(pool.map([Request("ping")])[0], Reply)
    pool.close()


def test_a_pool_has_workers():
    with pytest.raises(RunError, match="at least one worker"):
        WorkerPool(0)


# ----------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float32", -1, 1), ("bfloat16", -1, 1), ("float64", -1, 1), ("int8", -8, 8),
        ("int32", 0, 8), ("uint8", 0, 16), ("bool", 0, 2),
    ],
)  # fmt: skip
def test_random_values_suit_the_dtype(dtype, low, high):
    a = operations.parse_argument(["TENSOR", dtype, [1000]], 0)
    x = operations.random_values(np.random.default_rng(3), a, 1000).astype("float64")
    assert x.min() >= low
    assert x.max() <= high
    assert x.min() < x.max()
    again = operations.random_values(np.random.default_rng(3), a, 1000).astype("float64")
    assert np.array_equal(x, again)


def test_ranges_can_be_given():
    a = operations.parse_argument(tensor(low=5, high=6) | {"dtype": "int32"}, 0)
    assert (operations.random_values(np.random.default_rng(0), a, 10) == 5).all()


def test_outputs_start_with_what_no_result_has():
    a = operations.parse_argument(tensor(written=True), 0)
    assert (operations.random_values(np.random.default_rng(0), a, 10) >= 2).all()


def test_strided_arguments_are_allocated():
    spec = tensor() | {"shape": [3, 4], "strides": [8, 1]}
    held = operations.fill(np.random.default_rng(0), operations.parse_argument(spec, 0))
    assert held.array.shape == (3, 4)
    assert held.array.strides == (32, 4)
    assert held.flat.size == 20
    assert held.margins_intact()
    held.raw[held.start - 1] ^= 1
    assert not held.margins_intact()


def test_placements_move_arguments_within_their_pages():
    args = {"arguments": [tensor(), tensor(align=256), {"kind": "scalar", "dtype": "int32"}]}

    def starts(placement: int) -> list[int]:
        held = operations.arguments(args | {"placement": placement}, 7)[:2]
        assert all(h.margins_intact() for h in held)
        assert [int(h.raw.ctypes.data + h.start) % a for h, a in zip(held, (64, 256))] == [0, 0]
        return [h.start + h.raw.ctypes.data % 64 for h in held]

    usual, *others = [starts(k) for k in range(7)]
    assert all(x >= usual[0] for x, _ in others)
    assert len({tuple(x) for x in others}) > 3
    assert starts(5) == others[4]  # the same again
    contents = [operations.arguments(args | {"placement": k}, 7) for k in (0, 3)]
    for a, b in zip(*contents):
        assert np.array_equal(a.array, b.array) if hasattr(a, "array") else a == b
