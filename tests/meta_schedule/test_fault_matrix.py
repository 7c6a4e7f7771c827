"""What can go wrong while tuning, case by case: nothing is lost, the run finishes, nothing is left.

Each fault happens to a real tuning with real worker processes (`faulty_worker.py`) or to a tuning
in a process of its own (`fault_driver.py`). `ci/faults` repeats it all with other seeds. Two
writers of one database are in the tests of the database, a lost Dask worker in those of Dask.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, matmul
from search_spaces import two_tiles

from gputune import meta_schedule as ms
from gputune.codegen.cuda import nvrtc
from gputune.errors import RecordError, UserError
from gputune.meta_schedule import artifact
from gputune.meta_schedule import builder as builder_module
from gputune.meta_schedule.cuda_runner import CudaRunner
from gputune.meta_schedule.host_runner import HostExecutionRunner
from gputune.runtime.pool import WorkerPool
from gputune.runtime.process import Worker
from gputune.schedule import Schedule

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEED = int(os.environ.get("FAULTS_SEED", "1"))  # see ci/faults
BARE: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}
CAP = 4 << 30
MARK = "FAULTS_MARK"

needs_nvrtc = pytest.mark.skipif(nvrtc.load() is None, reason="needs NVRTC")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="needs a C++ compiler for host execution",
)


# ----------------------------------------------------------------------------- nothing is left
def artifacts() -> set[Path]:
    """What this process keeps of candidates that it built."""
    own = artifact._folders.get(os.getpid())
    return set(own.iterdir()) if own is not None and own.exists() else set()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """When all tests of this file are over, there is no process, file or temporary folder of
    theirs: neither of this process, nor of those that it started."""
    mark = uuid.uuid4().hex
    temporary = tmp_path_factory.mktemp("tmp")
    before = artifacts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield
        assert processes(mark) == []
        assert list(temporary.iterdir()) == []
    assert artifacts() <= before


def processes(mark: str) -> list[str]:
    """The command lines of the processes that have the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended, or is not ours
    return found


def test_a_process_that_is_left_is_found() -> None:
    """The fixture's own test."""
    child = subprocess.Popen(["cat"], env={**os.environ, MARK: "another"},
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"there\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"there\n"  # it is what it will be
    try:
        assert processes("another") == ["cat "]
    finally:
        child.kill()
        child.wait(20)
    assert processes("another") == []


# ----------------------------------------------------------------------------- a tuning
class Parts:
    """One build worker and one that measures, which do what they are told to."""

    def __init__(self, folder: Path) -> None:
        self.plans = {who: folder / who for who in ("builder", "runner", "host", "gpu")}
        self.pool = WorkerPool(1, self._argv("builder"), memory_limit_bytes=CAP)
        self.worker = Worker(self._argv("runner"), memory_limit_bytes=CAP)
        self.plan()

    def _argv(self, who: str, *more: str) -> list[str]:
        return [sys.executable, str(HERE / "faulty_worker.py"), str(self.plans[who]), *more]

    def plan(self, who: str = "", **faults: dict[str, str]) -> None:
        """Who does what at which request of an operation; all others behave."""
        for name, path in self.plans.items():
            for count in path.parent.glob(f"{name}.*"):
                count.unlink()
            path.write_text(json.dumps(faults if name == who else {}))

    def host(self) -> Worker:
        """A worker for host execution, whose checks need all of the address space."""
        return Worker(self._argv("host"))

    def gpu(self) -> Worker:
        """A worker with a GPU that is a fake."""
        return Worker(self._argv("gpu", "--gpu"), gpu=True)


@pytest.fixture(scope="module")
def all_parts(nothing_is_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    parts = Parts(tmp_path_factory.mktemp("plans"))
    with pytest.MonkeyPatch.context() as patch, parts.pool, parts.worker:
        patch.setattr(builder_module, "shared_pool", lambda n: parts.pool)
        yield parts


@pytest.fixture
def parts(all_parts: Parts) -> Parts:
    all_parts.plan()
    return all_parts


class OneWorker(ms.LocalRunner):
    """Measures in one worker process, which the test has made; there are no finalists."""

    def __init__(self, worker: Worker, timeout_sec: float = 30.0) -> None:
        super().__init__(timeout_sec)
        self._own = worker

    @property
    def worker(self) -> Worker:
        return self._own

    def fresh(self) -> None:
        return None


@dataclass
class Tuned:
    """A tuning and what it left."""

    folder: Path
    result: ms.TuneResult
    progress: ms.Progress

    @property
    def failures(self) -> list[dict[str, Any]]:
        return lines_of(self.folder / "failures.jsonl")


def tune(folder: Path, parts: Parts, trials: int = 8, **options: Any) -> Tuned:
    seen: list[ms.Progress] = []
    watch = options.pop("watch", None)

    def note(now: ms.Progress) -> None:
        seen.append(now)
        if watch is not None:
            watch(now)

    options = {
        "builder": ms.LocalBuilder(1, timeout_sec=options.pop("build_s", 30)),
        "runner": OneWorker(parts.worker, options.pop("run_s", 30)),
        "space": ms.ScheduleFn(two_tiles, **BARE), "strategy": "replay-trace", "seed": 5,
        "cost_model": "random", "num_trials_per_iter": 4, "on_progress": note, **options,
    }  # fmt: skip
    mod, target = options.pop("mod", matmul(32)), options.pop("target", TARGET)
    result = ms.tune_tir(mod, target, folder, trials, **options)
    return Tuned(folder, result, seen[-1])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A log; each line of it must be whole."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def kept(folder: Path, torn: int = 0) -> list[ms.TuningRecord]:
    """The records of a folder, no candidate twice, with so many torn lines."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        database = ms.JSONDatabase(work_dir=folder)
    assert (len(database.skipped), len(said)) == (torn, torn)
    records = database.get_all_tuning_records()
    assert len({r.program for r in records}) == len(records)
    lines_of(folder / "rounds.jsonl")
    return records


# ----------------------------------------------------------------------------- workers
RUNNER = [
    ("segfault", "crash", {}),
    ("exit", "crash", {}),
    ("memory", "MemoryError", {}),
    ("error", "RuntimeError", {}),
    ("hang", "timeout", {"run_s": 1.5}),
]
BUILDER = [
    ("segfault", "crash", {}),
    ("memory", "MemoryError", {}),
    ("hang", "timeout", {"build_s": 4.0}),
]
CASES = [
    *(pytest.param("runner", "run", *c, id=f"runner-{c[0]}") for c in RUNNER),
    *(pytest.param("builder", "build", *c, id=f"builder-{c[0]}") for c in BUILDER),
]


@pytest.mark.parametrize(("who", "phase", "fault", "kind", "options"), CASES)
def test_a_candidate_that_fails_costs_itself_only(
    who: str,
    phase: str,
    fault: str,
    kind: str,
    options: dict[str, Any],
    parts: Parts,
    tmp_path: Path,
) -> None:
    parts.plan(who, **{phase: {"5": fault}})
    done = tune(tmp_path, parts, **options)
    records = kept(tmp_path)
    assert len(records) == 8
    (failed,) = [r for r in records if not r.is_valid]
    (line,) = done.failures
    assert failed.error == {k: line[k] for k in ("phase", "kind", "message")}
    assert (line["phase"], line["kind"]) == (phase, kind)
    assert line["program"] == failed.program
    assert line["device"] == failed.extras["device"]
    assert line["trace"]
    assert dict(done.progress.failures) == {f"{phase} {kind}": 1}
    assert f"{phase} {kind}" in str(done.result.why())
    check_best(done, records)


def check_best(done: Tuned, records: Sequence[ms.TuningRecord]) -> None:
    """The best of all that was measured is the result, and its numbers are known to be right."""
    assert done.progress.phase == "done"
    assert done.result.seconds == min(r.seconds for r in records)
    best = done.result.record
    assert best is not None
    assert best.verified


@pytest.mark.parametrize(("who", "phase"), [("runner", "run"), ("builder", "build")])
def test_a_worker_that_others_kill_costs_nothing(
    who: str, phase: str, parts: Parts, tmp_path: Path
) -> None:
    parts.plan(who, **{phase: {"5": "killed"}})
    done = tune(tmp_path, parts)
    records = kept(tmp_path)
    assert len(records) == 8
    assert all(r.is_valid for r in records)
    assert done.failures == []
    check_best(done, records)


def test_a_worker_that_is_killed_from_outside_costs_nothing(parts: Parts, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(now: ms.Progress) -> None:
        if now.phase == "measure" and now.trials == 2 and not killed:
            pid = parts.worker.pid
            assert pid is not None
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    done = tune(tmp_path, parts, watch=kill)
    records = kept(tmp_path)
    assert killed
    assert len(records) == 8
    assert all(r.is_valid for r in records)
    check_best(done, records)


def test_a_candidate_that_gets_two_workers_killed_has_failed(parts: Parts, tmp_path: Path) -> None:
    parts.plan("runner", run={"5": "killed", "6": "killed"})
    done = tune(tmp_path, parts)
    assert len(kept(tmp_path)) == 8
    assert [(x["phase"], x["kind"]) for x in done.failures] == [("run", "killed")]


def test_wrong_numbers_never_win(parts: Parts, tmp_path: Path) -> None:
    parts.plan("builder", build={"1": "wrong", "6": "wrong"})
    done = tune(tmp_path, parts)
    records = kept(tmp_path)
    assert len(records) == 8
    wrong = {x["program"] for x in done.failures}
    assert {(x["phase"], x["kind"]) for x in done.failures} == {("check", "wrong_result")}
    assert wrong == {r.program for r in records if not r.is_valid}
    check_best(done, records)
    best = done.result.record
    assert best is not None
    assert best.program not in wrong


def bound(sch: Schedule) -> None:
    i, j, _ = sch.get_loops(sch.get_block("C"))
    i0, i1 = sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=8))
    j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2, max_innermost_factor=8))
    sch.reorder(i0, j0, i1, j1)
    sch.bind(sch.fuse(i0, j0), "blockIdx.x")
    sch.bind(sch.fuse(i1, j1), "threadIdx.x")


@needs_nvrtc
@needs_compiler
def test_an_illegal_address_costs_one_candidate(parts: Parts, tmp_path: Path) -> None:
    """A CUDA kernel, by host execution."""

    class OneHost(HostExecutionRunner):
        @property
        def worker(self) -> Worker:
            return worker

    parts.plan("host", run_host={"2": "outside"})
    with parts.host() as worker:
        done = tune(
            tmp_path, parts, 3, mod=matmul(16), target="cuda -arch=sm_80", runner=OneHost(),
            space=ms.ScheduleFn(bound, **BARE), verify=False,
        )  # fmt: skip
    records = kept(tmp_path)
    assert len(records) == 3
    found = [x for x in done.failures if x["phase"] == "run"]
    assert [x["kind"] for x in found] == ["out-of-bounds"]
    assert found[0]["runner"] == "HostExecutionRunner"


# ----------------------------------------------------------------------------- the disk
def driver(folder: Path, *words: object) -> list[dict[str, Any]]:
    """Run `fault_driver.py`; what it says. It leaves nothing in its own temporary and cache
    folders."""
    temporary, cache = folder / "tmp", folder / "cache"
    for f in (temporary, cache, folder / "work"):
        f.mkdir()
    path = os.pathsep.join([str(ROOT), str(HERE)])
    done = subprocess.run(
        [sys.executable, str(HERE / "fault_driver.py"), words[0], str(folder / "work"),
         *map(str, words[1:])],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(temporary),
             "XDG_CACHE_HOME": str(cache)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(temporary.iterdir()) == []
    assert list(cache.glob("gputune/build-*")) == []
    return [json.loads(x) for x in done.stdout.splitlines()]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """What was written is whole, what was measured is in the error's result, and later it goes on
    where it was."""
    (said,) = driver(tmp_path, "disk")
    assert "cannot record in" in said["message"]
    assert "File too large" in said["message"]
    assert said["before"] == 18
    assert said["in_memory"] == 20
    assert said["best"] > 0
    assert said["after"] == 21


class ReadOnly:
    """A folder on a file system that becomes read-only; root may write whatever the modes say."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.now = False
        true = os.open

        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if self.now and writes and str(path).startswith(str(folder)):
                raise OSError(30, "Read-only file system", str(path))
            return true(path, flags, *more, **named)

        patch.setattr(os, "open", opened)


def test_a_database_that_becomes_read_only_loses_nothing(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ReadOnly(tmp_path, monkeypatch)

    def watch(now: ms.Progress) -> None:
        disk.now |= now.phase == "search" and now.trials >= 4

    with pytest.raises(RecordError, match="Read-only file system") as e:
        tune(tmp_path, parts, watch=watch)
    disk.now = False
    assert isinstance(e.value.result, ms.TuneResult)
    measured = e.value.result.get_all_tuning_records()
    assert len(measured) > 4
    assert e.value.result.seconds == min(r.seconds for r in measured)
    before = {r.program for r in kept(tmp_path)}
    assert len(before) == 4
    tune(tmp_path, parts, 2)
    assert len(kept(tmp_path)) == 6


def test_a_read_only_database_is_said_before_anything_is_measured(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ReadOnly(tmp_path, monkeypatch)
    disk.now = True
    with pytest.raises(UserError, match=r"cannot write .*Read-only file system"):
        tune(tmp_path, parts)
    assert not list(tmp_path.glob("database_tuning_record.json"))


def test_a_torn_last_line_costs_that_line(parts: Parts, tmp_path: Path) -> None:
    tune(tmp_path, parts, 6)
    path = tmp_path / "database_tuning_record.json"
    whole = path.read_bytes()
    cut = whole.rstrip(b"\n").rindex(b"\n") + 1
    path.write_bytes(whole[: cut + (len(whole) - cut) // 2])
    with pytest.warns(UserWarning, match=r"skipped a line that cannot be read"):
        done = tune(tmp_path, parts, 6, seed=6)
    records = kept(tmp_path, torn=1)
    assert len(records) == 11
    assert done.result.seconds == min(r.seconds for r in records)


# ----------------------------------------------------------------------------- the clock
def test_a_clock_that_jumps_changes_nothing(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Years back and hours on, as when a machine finds a time server in the midst of it."""
    start, jumps = time.time(), itertools.cycle([-1e8, 3600.0, 0.0, 86400.0, -7200.0])
    monkeypatch.setattr(time, "time", lambda: start + next(jumps))
    begun = time.monotonic()
    done = tune(tmp_path, parts, seconds=300)
    spent = time.monotonic() - begun
    records = kept(tmp_path)
    assert len(records) == 8
    assert all(r.is_valid for r in records)
    assert 0 < done.progress.elapsed_s <= spent
    check_best(done, records)


def test_only_stamps_come_from_the_wall_clock() -> None:
    """`time.time` stands in no sum: it is rounded and written down."""
    wrong = []
    for path in sorted((ROOT / "gputune").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        stamps = {
            node.args[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "round" and node.args
        }
        for node in ast.walk(tree):
            call = isinstance(node, ast.Call) and ast.unparse(node.func) == "time.time"
            if call and node not in stamps:
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


# ----------------------------------------------------------------------------- NVML
@needs_nvrtc
def test_nvml_that_fails_in_the_middle_costs_its_figures_only(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library, answers = tmp_path / "libnvidia-ml.so.1", tmp_path / "answers"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{library.name}", "-o", str(library),
         str(HERE.parent / "runtime" / "fake_nvml.c")],
        check=True, timeout=60,
    )  # fmt: skip
    answers.write_text("")
    monkeypatch.setenv("FAKE_NVML", str(answers))
    monkeypatch.setenv("FAKE_NVML_LIBRARY", str(library))

    class OneGpu(CudaRunner):
        @property
        def worker(self) -> Worker:
            return worker

    def watch(now: ms.Progress) -> None:
        if now.trials >= 3:
            answers.write_text("sm_rc 15\npower_rc 15\nreasons_rc 15\nmem_rc 15\ntemp_rc 15\n")

    with parts.gpu() as worker:
        done = tune(
            tmp_path / "work", parts, 6, target="cuda -arch=sm_80", runner=OneGpu(),
            space=ms.ScheduleFn(bound, **BARE), verify=False, num_trials_per_iter=3, watch=watch,
        )  # fmt: skip
    records = kept(tmp_path / "work")
    assert len(records) == 6
    assert [x for x in done.failures if x["phase"] != "refuse"] == []
    told = [json.dumps(r.extras) for r in records if r.is_valid]
    lost = ["GPU is lost" in x for x in told]
    assert any(lost)
    assert not all(lost)


# ----------------------------------------------------------------------------- signals
@pytest.mark.parametrize(
    ("number", "count"), [(signal.SIGINT, 20), (signal.SIGTERM, 5)], ids=["sigint", "sigterm"]
)
def test_signals_at_random_moments(number: signal.Signals, count: int, tmp_path: Path) -> None:
    """Files are valid, and what was measured is not measured again."""
    said = driver(tmp_path, "moments", SEED, count, int(number))
    left, said = said[-1], said[:-1]
    assert all(x["after"] == x["before"] + 3 for x in said), said
    outcomes = Counter(x["outcome"] for x in said)
    assert sum(outcomes.values()) - outcomes["not interrupted"] == count, said
    assert outcomes["returned"] >= count // 2, said
    # before the search has begun there is nothing to return
    assert all(x["before"] == 0 for x in said if x["outcome"] == "raised"), said
    assert left == {"left": 0}  # artifacts


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["sigint", "sigterm", "sigkill"],
)
def test_the_command_ends_in_good_order(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """A signal from outside, while it measures."""
    work, temporary, cache = (tmp_path / name for name in ("work", "tmp", "cache"))
    temporary.mkdir()
    mark = uuid.uuid4().hex
    command = subprocess.Popen(
        [sys.executable, "-c",
         "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
         "from gputune.cli.main import main; main()",
         "tune", "matmul", "--shape", "32,32,32", "--trials", "100000", "--work-dir", str(work),
         "--seed", "3", "--target", "llvm -num-cores=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), MARK: mark,
             "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    records = work / "database_tuning_record.json"
    wait_for(lambda: records.exists() and records.stat().st_size > 0)
    time.sleep(random.Random(SEED).uniform(0, 0.5))
    command.send_signal(number)
    out, err = command.communicate(timeout=120)
    assert command.returncode == code, err
    assert "Traceback" not in err
    wait_for(lambda: processes(mark) == [])
    assert list(temporary.iterdir()) == []
    if number == signal.SIGKILL:
        artifact._sweep(cache / "gputune")  # as the next process does
        assert kept_by_a_killed(work)
    else:
        assert "interrupted" in out
        assert "Best schedule:" in out
        assert len(kept(work)) >= 64
    assert list(cache.glob("gputune/build-*")) == []


def wait_for(true: Callable[[], bool]) -> None:
    """Until another process has come so far; it does not say when."""
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def kept_by_a_killed(work: Path) -> int:
    """How many records there are, of which the last may be torn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        database = ms.JSONDatabase(work_dir=work)
    assert len(database.skipped) <= 1
    return len(database)


def test_a_second_signal_ends_it_at_once(parts: Parts, tmp_path: Path) -> None:
    """In the midst of recording, which waits for a first one."""
    seen: list[str] = []

    class Slow(ms.MeasureCallback):
        def apply(self, *args: Any) -> None:
            seen.append("first")
            signal.raise_signal(signal.SIGINT)
            seen.append("went on")
            signal.raise_signal(signal.SIGINT)
            seen.append("not reached")

    callbacks = [*ms.MeasureCallback.create(), Slow()]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(tmp_path, parts, measure_callbacks=callbacks)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["first", "went on"]
    assert len(kept(tmp_path)) == 4


def test_a_signal_while_recording_waits_for_it(parts: Parts, tmp_path: Path) -> None:
    class Interrupts(ms.MeasureCallback):
        def apply(self, *args: Any) -> None:
            signal.raise_signal(signal.SIGINT)

    callbacks = [Interrupts(), *ms.MeasureCallback.create()]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = tune(tmp_path, parts, measure_callbacks=callbacks)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.progress.phase == "interrupted"
    assert len(kept(tmp_path)) == 4
    assert done.result.seconds is not None
