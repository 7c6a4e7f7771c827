"""Does the thread pool run every chunk once, whoever launches, and come back from everything?"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from llvm_programs import SOFTMAX, tiled_matmul
from llvm_running import call, compiled, host, interpreted, parse

from gputune.codegen.llvm import compile, load, seats
from gputune.codegen.llvm import pool as pool_room
from gputune.codegen.llvm.jit import emit_object, host_features, host_triple
from gputune.codegen.llvm.pool import Pool
from gputune.codegen.llvm.pool import _code as pool_code
from gputune.errors import BuildError
from gputune.target import host as machine

COUNT = """
define void @count(i64 %i, ptr %ctx) {
  %p = getelementptr i32, ptr %ctx, i64 %i
  %old = atomicrmw add ptr %p, i32 1 monotonic
  ret void
}
define i32 @run(ptr %pool, ptr %ctx, i64 %n, i64 %times) {
entry:
  %launch = load ptr, ptr %pool
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
  call void %launch(ptr %pool, ptr @count, ptr %ctx, i64 %n)
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %times
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
define void @nest(i64 %i, ptr %ctx) {
  %pool = load ptr, ptr %ctx
  %launch = load ptr, ptr %pool
  %pc = getelementptr ptr, ptr %ctx, i64 1
  %counts = load ptr, ptr %pc
  call void %launch(ptr %pool, ptr @count, ptr %counts, i64 8)
  ret void
}
define i32 @run_nested(ptr %pool, ptr %ctx, i64 %n, i64 %times) {
  %launch = load ptr, ptr %pool
  call void %launch(ptr %pool, ptr @nest, ptr %ctx, i64 %n)
  ret i32 0
}
"""
Run = Callable[[int, int, int, int], int]


@pytest.fixture(autouse=True)
def _every_region_is_opened(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks here are so short that workers would never be asked."""
    if request.cls is not TestEstimates:
        monkeypatch.setattr(pool_room, "_SMALL_US", 0.0)
        monkeypatch.setattr(pool_room, "_SHORT_US", 0.0)
    monkeypatch.setattr(pool_room, "_COMPARED_US", 0.0)


@pytest.fixture(scope="module")
def code() -> Iterator[tuple[Run, Run]]:
    loaded = load(emit_object(COUNT, *host_features()), "run", "run_nested")
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )
    yield kind(loaded.address), kind(loaded.lookup("run_nested"))
    assert loaded.address  # keeps the code


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 64])
def test_every_chunk_runs_once(code: tuple[Run, Run], threads: int, n: int) -> None:
    counts = np.zeros(n + 1, np.int32)
    with Pool(threads) as pool:
        code[0](pool.address, counts.ctypes.data, n, 300)
    np.testing.assert_array_equal(counts[:n], 300)
    assert counts[n] == 0


def test_launches_after_the_workers_went_to_sleep(code: tuple[Run, Run]) -> None:
    counts = np.zeros(16, np.int32)
    with Pool(3) as pool:
        for _ in range(5):
            time.sleep(0.02)
            code[0](pool.address, counts.ctypes.data, 16, 2)
    np.testing.assert_array_equal(counts, 10)


def test_two_threads_launch_at_once(code: tuple[Run, Run]) -> None:
    counts = [np.zeros(32, np.int32) for _ in range(4)]
    with Pool(2) as pool:
        threads = [
            threading.Thread(target=code[0], args=(pool.address, c.ctypes.data, 32, 2000))
            for c in counts
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for c in counts:
        np.testing.assert_array_equal(c, 2000)


def test_a_launch_inside_a_chunk_runs_serially(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    with Pool(2) as pool:
        ctx = np.array([pool.address, counts.ctypes.data], np.uint64)
        code[1](pool.address, ctx.ctypes.data, 50, 1)
    np.testing.assert_array_equal(counts, 50)


def test_a_closed_pool_still_runs(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    pool = Pool(2)
    pool.close()
    pool.close()
    code[0](pool.address, counts.ctypes.data, 8, 3)
    np.testing.assert_array_equal(counts, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_runs_serially(code: tuple[Run, Run]) -> None:
    counts = np.zeros(8, np.int32)
    with Pool(2) as pool:
        code[0](pool.address, counts.ctypes.data, 8, 10)
        pid = os.fork()
        if pid == 0:
            code[0](pool.address, counts.ctypes.data, 8, 10)
            os._exit(0 if (counts == 20).all() else 1)
        deadline = time.monotonic() + 20
        done, status = 0, 1
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        if not done:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        assert done, "the child hangs"
        assert status == 0


# ----------------------------------------------------------------------------- affinity
affine = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not place threads"
)


def allowed() -> set[int]:
    return os.sched_getaffinity(0)


def workers(pool: Pool) -> list[set[int]]:
    """Where each worker may run."""
    return [os.sched_getaffinity(t.native_id or -1) for t in pool._threads]


@contextlib.contextmanager
def only_on(cpus: set[int]) -> Iterator[None]:
    """This thread is confined to some processors meanwhile."""
    before = allowed()
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@affine
@pytest.mark.parametrize("threads", [2, 3, 4])
def test_seats_are_apart_and_within_the_mask(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    cores = [frozenset({3, 7}), frozenset({4, 8}), frozenset({5, 9}), frozenset({6, 10})]
    monkeypatch.setattr(machine, "allowed_cores", lambda: cores)
    found = seats.deal(threads)
    assert len(found) == threads
    assert set().union(*found) == set(range(3, 11))
    assert sum(map(len, found)) == 8
    assert all(core <= seat or not core & seat for core in cores for seat in found)


@affine
def test_more_threads_than_cores_share_them_and_more_than_processors_roam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "allowed_cores", lambda: [frozenset({0, 2}), frozenset({1, 3})])
    assert sorted(map(sorted, seats.deal(4))) == [[0], [1], [2], [3]]
    assert seats.deal(5) == []
    monkeypatch.setattr(machine, "allowed_cores", lambda: [frozenset({0}), frozenset({5000})])
    assert seats.deal(2) == []


@affine
@pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors",
)
class TestAffinity:
    """Of real threads."""

    def test_workers_make_room_for_the_launcher(self, code: tuple[Run, Run]) -> None:
        counts = np.zeros(4, np.int32)
        before, times = allowed(), 0
        with Pool(2) as pool:
            for cpu in sorted(before)[:2] * 3:
                with only_on({cpu}):
                    code[0](pool.address, counts.ctypes.data, 4, 5)
                    times += 5
                    assert allowed() == {cpu}
                    (where,) = workers(pool)
                    assert cpu not in where
                    assert where < before
            assert allowed() == before
        np.testing.assert_array_equal(counts, times)

    def test_every_worker_keeps_a_seat(self, code: tuple[Run, Run]) -> None:
        """However the launcher moves, seats change hands and none is held twice."""
        cpus, counts = sorted(allowed()), np.zeros(4, np.int32)
        with Pool(len(cpus)) as pool:
            for cpu in [*cpus, *reversed(cpus)]:
                with only_on({cpu}):
                    code[0](pool.address, counts.ctypes.data, 4, 1)
                held = workers(pool)
                assert sum(map(len, held)) == len(set().union(*held))
                assert cpu not in set().union(*held)

    def test_a_mask_of_one_processor_is_respected(self, code: tuple[Run, Run]) -> None:
        cpu, counts = min(allowed()), np.zeros(4, np.int32)
        with only_on({cpu}), Pool(3) as pool:
            code[0](pool.address, counts.ctypes.data, 4, 5)
            assert workers(pool) == [{cpu}] * 2
        np.testing.assert_array_equal(counts, 5)

    def test_workers_that_somebody_else_placed_stay_there(self, code: tuple[Run, Run]) -> None:
        cpus, counts = sorted(allowed())[:2], np.zeros(4, np.int32)
        with Pool(2) as pool:
            os.sched_setaffinity(pool._threads[0].native_id or -1, cpus)
            for cpu in cpus * 2:
                with only_on({cpu}):
                    code[0](pool.address, counts.ctypes.data, 4, 5)
                assert workers(pool) == [set(cpus)]
        np.testing.assert_array_equal(counts, 20)

    def test_a_system_that_refuses(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(tid: int, mask: object) -> None:
            raise PermissionError(tid)

        counts, before = np.zeros(4, np.int32), allowed()
        with monkeypatch.context() as patched:
            patched.setattr(os, "sched_setaffinity", refuse)
            pool = Pool(2)
        with pool:
            code[0](pool.address, counts.ctypes.data, 4, 5)
            assert workers(pool) == [before]
        np.testing.assert_array_equal(counts, 5)

    def test_a_child_places_its_own(self, code: tuple[Run, Run]) -> None:
        """The launcher's mask, and so that of a forked child and its pool, is the user's."""
        counts = np.zeros(4, np.int32)
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 4, 1)
            before = workers(pool), allowed()
            pid = os.fork()
            if pid == 0:
                code[0](pool.address, counts.ctypes.data, 4, 1)
                same = allowed() == before[1]
                with Pool(2) as mine:
                    code[0](mine.address, counts.ctypes.data, 4, 1)
                    apart = len(workers(mine)[0]) < len(before[1])
                os._exit(0 if same and apart and (counts == 3).all() else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert (workers(pool), allowed()) == before


def test_a_system_that_places_no_threads(
    code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "_KNOWN", False)
    pool_code.cache_clear()
    counts = np.zeros(4, np.int32)
    try:
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 4, 5)
            assert pool._seats is None
    finally:
        pool_code.cache_clear()
    np.testing.assert_array_equal(counts, 5)


def test_closing_waits_for_a_region_of_another_thread(code: tuple[Run, Run]) -> None:
    counts = np.zeros(64, np.int32)
    pool = Pool(2)
    t = threading.Thread(target=code[0], args=(pool.address, counts.ctypes.data, 64, 20_000))
    t.start()
    time.sleep(2e-3)
    pool.close()
    t.join(60)
    assert not t.is_alive()
    np.testing.assert_array_equal(counts, 20_000)


def test_the_interpreter_exits_with_threads_asleep_and_awake() -> None:
    program = (
        "from gputune.codegen.llvm.pool import Pool\n"
        "import time\n"
        "a = Pool(3); time.sleep(0.05); b = Pool(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0


def test_no_pool_of_zero_threads() -> None:
    with pytest.raises(BuildError, match="0 threads"):
        Pool(0)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parallel_kernels_on_a_pool(threads: int) -> None:
    rng = np.random.default_rng(0)
    f = parse(tiled_matmul(64, [4, 1, 4, 4], [2, 2, 1, 16], [4, 16]))
    a, b = (rng.integers(-4, 5, (64, 64)).astype(np.float32) for _ in range(2))
    with Pool(threads) as pool:
        out = compiled(f, [a, b, np.zeros((64, 64), np.float32)], pool=pool.address)
        np.testing.assert_array_equal(out[2], a @ b)
        x = rng.standard_normal((5, 37)).astype(np.float32)
        y = np.zeros_like(x)
        got = compiled(parse(SOFTMAX), [x, y], pool=pool.address)
        np.testing.assert_allclose(got[1], interpreted(parse(SOFTMAX), [x, y])[1], rtol=1e-5)


def test_failure_to_allocate_is_an_error_code() -> None:
    text = """
@T.prim_func
def main(Z: T.Buffer((4,), "float32")):
    for i in T.parallel(4):
        W = T.alloc_buffer((1099511627776, 64), "float32")
        for j, k in T.grid(T.int64(1099511627776), 64):
            with T.block("W"):
                vj, vk = T.axis.remap("SS", [j, k])
                W[vj, vk] = T.float32(0)
        Z[i] = W[T.int64(5), 7]
"""
    kernel = compile(parse(text), host())
    z = np.zeros(4, np.float32)
    with Pool(2) as pool:
        for _ in range(20):  # the pool is as good as before
            assert call(kernel, [z], pool=pool.address) == 1
    assert call(kernel, [z]) == 1


# ----------------------------------------------------------------------------- worth a region?
def epoch(pool: Pool) -> int:
    """How many regions were opened."""
    at = pool_room._EPOCH
    return int(pool._state[at : at + 4].view(np.int32)[0])


def asleep(pool: Pool) -> int:
    at = pool_room._SLEEPERS
    return int(pool._state[at : at + 4].view(np.int32)[0])


def table(pool: Pool) -> np.ndarray:
    """What is known of functions, a row each."""
    size = pool_room._ENTRIES * pool_room._ENTRY_BYTES
    at = pool_room._TABLE
    return pool._state[at : at + size].view(np.int64).reshape(pool_room._ENTRIES, -1)


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(1e-3)


@pytest.mark.skipif(
    host_triple().split("-")[0] not in pool_room._COUNTER, reason="no counter that is cheap to read"
)
class TestEstimates:
    """What opening a region would cost more than it gives is not opened."""

    def test_small_regions_are_run_alone(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_SMALL_US", 1e6)
        counts = np.zeros(8, np.int32)
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 8, 1)
            assert epoch(pool) == 1  # nothing was known of it
            code[0](pool.address, counts.ctypes.data, 8, 99)
            assert epoch(pool) == 1
        np.testing.assert_array_equal(counts, 100)

    def test_large_regions_are_opened(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_SMALL_US", 1e-3)
        monkeypatch.setattr(pool_room, "_SHORT_US", 1e-3)
        counts = np.zeros(64, np.int32)
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 64, 50)
            assert epoch(pool) == 50
        np.testing.assert_array_equal(counts, 50)

    def test_short_regions_wake_nobody_unless_they_follow_each_other(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_SMALL_US", 1e-3)
        counts, done = np.zeros(64, np.int32), 0
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 64, 1)
            wait_until(lambda: asleep(pool) == 1)
            before = epoch(pool)
            for _ in range(5):
                time.sleep(5e-3)
                code[0](pool.address, counts.ctypes.data, 64, 1)
            assert (epoch(pool), asleep(pool)) == (before, 1)
            code[0](pool.address, counts.ctypes.data, 64, 20_000)
            assert epoch(pool) > before
            done = 1 + 5 + 20_000
        np.testing.assert_array_equal(counts, done)

    @pytest.mark.parametrize("together", [1, 1 << 40])
    def test_short_regions_are_run_as_took_less_time(
        self, together: int, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_SMALL_US", 1e-3)
        monkeypatch.setattr(pool_room, "_SHORT_US", 1e-3)
        monkeypatch.setattr(pool_room, "_COMPARED_US", 1e6)
        counts = np.zeros(8, np.int32)
        launches = 0

        def launch(pool: Pool, times: int) -> int:
            nonlocal launches
            before = epoch(pool)
            code[0](pool.address, counts.ctypes.data, 8, times)
            launches += times
            return epoch(pool) - before

        with Pool(2) as pool:
            row = pool_room._IN_A_ROW
            assert launch(pool, 1 + row) == 1 + row  # opened, to see how long it takes
            assert launch(pool, 1) == 0  # and once not
            entry = table(pool)
            assert np.count_nonzero(entry[:, 0]) == 1
            (k,) = np.flatnonzero(entry[:, 0])
            assert (entry[k, 1:5] > 0).all()
            opened = 0
            for _ in range(pool_room._AGAIN):
                entry[k, 2:4] = 1 << 20, together << 10  # alone, together
                opened += launch(pool, 1)
            other = pool_room._AGAIN - row
            assert opened == (other if together == 1 else row)
        np.testing.assert_array_equal(counts, launches)

    def test_long_regions_are_not_compared(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_SMALL_US", 1e-3)
        monkeypatch.setattr(pool_room, "_SHORT_US", 1e-3)
        monkeypatch.setattr(pool_room, "_COMPARED_US", 1e-3)
        counts = np.zeros(8, np.int32)
        with Pool(2) as pool:
            code[0](pool.address, counts.ctypes.data, 8, 200)
            assert epoch(pool) == 200

    def test_many_functions_share_the_table(self) -> None:
        """More functions than entries: each runs every chunk once, whatever is known of it."""
        text = "".join(
            COUNT.replace("@count", f"@count{k}").replace("@run(", f"@run{k}(")
            .replace("@nest", f"@nest{k}").replace("@run_nested", f"@run_nested{k}")
            for k in range(150)
        )  # fmt: skip
        names = [f"run{k}" for k in range(150)]
        loaded = load(emit_object(text, *host_features()), *names)
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )
        counts = np.zeros(8, np.int32)
        with Pool(2) as pool:
            for _ in range(3):
                for name in names:
                    kind(loaded.lookup(name))(pool.address, counts.ctypes.data, 8, 2)
        np.testing.assert_array_equal(counts, 3 * 150 * 2)

    def test_without_a_counter_every_region_is_opened(
        self, code: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_room, "_COUNTER", {})
        with rebuilt():
            counts = np.zeros(8, np.int32)
            with Pool(2) as pool:
                code[0](pool.address, counts.ctypes.data, 8, 30)
                assert epoch(pool) == 30
        np.testing.assert_array_equal(counts, 30)


@contextlib.contextmanager
def rebuilt() -> Iterator[None]:
    """The pool's code is written anew meanwhile."""
    pool_code.cache_clear()
    pool_room._ticks_per_us.cache_clear()
    try:
        yield
    finally:
        pool_code.cache_clear()
        pool_room._ticks_per_us.cache_clear()


# ----------------------------------------------------------------------------- other systems
@pytest.mark.skipif(sys.platform == "win32", reason="has no usleep")
@pytest.mark.parametrize("threads", [2, 3])
def test_without_a_futex(
    code: tuple[Run, Run], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: idle workers look five thousand times a second."""
    monkeypatch.setattr(pool_room, "_FUTEX", {})
    assert "@usleep" in pool_room._text()
    counts = np.zeros(16, np.int32)
    with rebuilt():
        with Pool(threads) as pool:
            code[0](pool.address, counts.ctypes.data, 16, 500)
            wait_until(lambda: asleep(pool) == threads - 1)
            for _ in range(5):
                time.sleep(0.01)
                code[0](pool.address, counts.ctypes.data, 16, 100)
        launchers = [
            threading.Thread(target=code[0], args=(pool.address, counts.ctypes.data, 16, 100))
            for _ in range(3)
        ]
        for t in launchers:
            t.start()
        for t in launchers:
            t.join(60)
    np.testing.assert_array_equal(counts, 500 + 5 * 100 + 3 * 100)


def test_the_code_for_windows_assembles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(seats, "_KNOWN", False)
    text = pool_room._text()
    assert "@Sleep" in text
    assert "syscall" not in text
    assert emit_object(text, *host_features())


# ----------------------------------------------------------------------------- processes
PROGRAM = """
import os, sys, threading
import numpy as np
import gputune as gt

n, mode = 96, sys.argv[1]
sch = gt.Schedule(gt.kernels.get("matmul").build(m=n, n=n, k=n))
i, j, k = sch.get_loops(sch.get_block("C"))
sch.reorder(i, k, j)
sch.parallel(i)
f = gt.build(sch, "llvm -num-cores=2")["main"]
rng = np.random.default_rng(0)
a, b = rng.integers(-4, 5, (2, n, n)).astype(np.float32)
want = a @ b


def work(times):
    for _ in range(times):
        c = np.full_like(want, np.nan)
        f(a, b, c)
        assert np.array_equal(c, want)


work(20)
if mode == "threads":
    failed = []
    threading.excepthook = failed.append
    threads = [threading.Thread(target=work, args=(50,)) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    sys.exit(len(failed))
if mode == "fork":
    # forked while other threads are inside regions, again and again; children leave as Python does
    stop = threading.Event()
    busy = [threading.Thread(target=lambda: [work(1) for _ in iter(stop.is_set, True)])
            for _ in range(2)]
    [t.start() for t in busy]
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            work(3)
            g = gt.build(sch, "llvm -num-cores=2")["main"]  # with a pool of its own
            c = np.zeros_like(want)
            g(a, b, c)
            assert np.array_equal(c, want)
            os._exit(0) if len(children) % 2 else sys.exit(0)
        children.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    stop.set()
    [t.join() for t in busy]
    work(5)
    sys.exit(1 if any(codes) else 0)
"""


def started(mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROGRAM, mode])


def ended(processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        assert [p.wait(timeout=120) for p in processes] == [0] * len(processes)
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()


def test_several_python_threads_call_a_kernel() -> None:
    ended([started("threads")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forks_from_the_midst_of_regions() -> None:
    ended([started("fork")])


def test_many_processes_at_once() -> None:
    """More workers than processors, and nobody waits for one that is not running."""
    ended([started("once") for _ in range(4)])
