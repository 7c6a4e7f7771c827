"""How does a parallel loop get onto several cores? A thread pool written in LLVM IR.

Its threads are Python threads that enter `worker` once, through ctypes, and stay there without the
interpreter lock: they spin for a while, then sleep in the kernel. A region is opened by publishing
(function, context, number of chunks) and raising the epoch word; launcher and workers take chunks
from an atomic counter. When the counter has run out the launcher closes the region and waits until
no worker is active in it: workers that never woke up are not waited for. Workers run on other
processors than the launcher (`seats`), whose own affinity nobody touches.

A region whose chunks are over before a worker could help is run by the launching thread alone: how
long chunks take is known from the last region of the same function, wherever there is a counter of
cycles that is cheap to read. Two times count: what opening a region costs while the workers spin,
and what it costs to wake them. Regions that follow each other closely wake them all the same. Short
regions are run both ways while the workers are awake, and from then on as took less time (their
data may lie in the cache of one core); the other way gets a chance now and then.

A launch while the pool is in use (from another thread, or from inside a chunk) runs its chunks in
the calling thread; so does every launch in a forked child, which has no workers.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time
import weakref
from functools import cache

import numpy as np

from ...errors import BuildError
from . import jit, seats

# Byte offsets of the state; what different threads write lies in different cache lines.
_LAUNCH, _WORKERS, _SEATS, _SMALL, _SHORT, _COMPARED = 0, 8, 16, 24, 32, 40
_EPOCH = 64
_FN, _CTX, _N, _OPEN = 128, 136, 144, 152
_NEXT = 192
_ACTIVE = 256
_SLEEPERS = 320
_LOCK = 384
_STOP = 448
_DEBT, _LAST = 512, 520
_TABLE = 576
# of functions: address; ticks that one chunk takes; the same, of a region that one thread ran and
# of one that was opened (0: not known yet); how often these two were compared
_ENTRIES, _ENTRY_BYTES = 64, 64
_STATE_BYTES = _TABLE + _ENTRY_BYTES * _ENTRIES

_SMALL_US = 1.0
"""Regions of less work than this are not worth opening."""
_SHORT_US = 50.0
"""Regions of less work than this are not worth waking anybody for, unless more follow."""
_COMPARED_US = 50.0
"""Regions of less work than this are opened only if that was faster than one thread."""
_AGAIN, _IN_A_ROW = 64, 4
"""Of so many such regions of a function so many are run the other way, in a row: what data is in
which cache shows from the second one on."""
_CALIBRATION_S = 500e-6
"""How long the counter is compared with the clock, once a process."""
_SPINS = 10_000
"""Looks at the epoch word before a worker goes to sleep (a few hundred microseconds)."""
_WAIT_SPINS = 4_000
"""Looks at the active counter before the launcher gives up its time slice."""

_FUTEX = {"x86_64": 202, "aarch64": 98}
_COUNTER = {"x86_64": "declare i64 @llvm.readcyclecounter()"}
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


def _text() -> str:
    """The pool as LLVM IR for this machine."""
    arch = jit.host_triple().split("-")[0]
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(arch, arch)
    pause_decl, pause = _PAUSE.get(arch, ("", ""))
    if sys.platform == "linux" and arch in _FUTEX:
        number = _FUTEX[arch]
        rest_decl = "declare i64 @syscall(i64, ...)"
        sleep = (
            f"%slept = call i64 (i64, ...) @syscall(i64 {number}, ptr %epoch, i64 128, i32 %my, "
            "ptr null, ptr null, i64 0)"
        )
        wake = (
            f"%woken = call i64 (i64, ...) @syscall(i64 {number}, ptr %epoch, i64 129, "
            "i32 2147483647, ptr null, ptr null, i64 0)"
        )
        give_way = "%gone = call i32 @sched_yield()"
        rest_decl += "\ndeclare i32 @sched_yield()"
    elif sys.platform == "win32":
        rest_decl, wake = "declare void @Sleep(i32)", ""
        sleep, give_way = "call void @Sleep(i32 1)", "call void @Sleep(i32 0)"
    else:
        rest_decl, wake = "declare i32 @usleep(i32)\ndeclare i32 @sched_yield()", ""
        sleep = "%slept = call i32 @usleep(i32 200)"
        give_way = "%gone = call i32 @sched_yield()"

    counter_decl = _COUNTER.get(arch, "define internal i64 @counter() {\n  ret i64 0\n}")
    counter = "@llvm.readcyclecounter" if arch in _COUNTER else "@counter"

    def field(name: str, at: int) -> str:
        return f"  %{name} = getelementptr i8, ptr %s, i64 {at}"

    fields = "\n".join([
        field("epoch", _EPOCH), field("pfn", _FN), field("pctx", _CTX), field("pn", _N),
        field("popen", _OPEN), field("pnext", _NEXT), field("pactive", _ACTIVE),
        field("psleep", _SLEEPERS), field("plock", _LOCK), field("pstop", _STOP),
        field("pworkers", _WORKERS), field("pseats", _SEATS), field("psmall", _SMALL),
        field("pshort", _SHORT), field("pcompared", _COMPARED), field("pdebt", _DEBT),
        field("plast", _LAST),
        field("ptable", _TABLE),
    ])  # fmt: skip
    return f"""
{pause_decl}
{rest_decl}
{counter_decl}
{seats.text()}
define void @gputune_pool_worker(ptr %s) {{
entry:
{fields}
  br label %idle
idle:
  %my = phi i32 [ 0, %entry ], [ %now, %leave ], [ %now, %closed ]
  br label %look
look:
  %spins = phi i64 [ 0, %idle ], [ %more, %spin ], [ 0, %sleep ]
  %now = load atomic i32, ptr %epoch acquire, align 4
  %changed = icmp ne i32 %now, %my
  br i1 %changed, label %check, label %wait
wait:
  {pause}
  %more = add i64 %spins, 1
  %tired = icmp sge i64 %more, {_SPINS}
  br i1 %tired, label %sleep, label %spin
spin:
  br label %look
sleep:
  %s1 = atomicrmw add ptr %psleep, i32 1 seq_cst
  {sleep}
  %s2 = atomicrmw sub ptr %psleep, i32 1 seq_cst
  br label %look
check:
  %stop = load atomic i32, ptr %pstop acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %out, label %enter
enter:
  %a1 = atomicrmw add ptr %pactive, i32 1 seq_cst
  %open = load atomic i32, ptr %popen seq_cst, align 4
  %is = icmp ne i32 %open, 0
  br i1 %is, label %join, label %closed
closed:
  %a2 = atomicrmw sub ptr %pactive, i32 1 seq_cst
  br label %idle
join:
  %fn = load ptr, ptr %pfn
  %ctx = load ptr, ptr %pctx
  %n = load i64, ptr %pn
  br label %take
take:
  %i = atomicrmw add ptr %pnext, i64 1 monotonic
  %left = icmp slt i64 %i, %n
  br i1 %left, label %run, label %leave
run:
  call void %fn(i64 %i, ptr %ctx)
  br label %take
leave:
  %a3 = atomicrmw sub ptr %pactive, i32 1 seq_cst
  br label %idle
out:
  ret void
}}

define void @gputune_pool_launch(ptr %s, ptr %fn, ptr %ctx, i64 %n) {{
entry:
{fields}
  %workers = load i32, ptr %pworkers
  %none = icmp eq i32 %workers, 0
  %few = icmp sle i64 %n, 1
  %alone = or i1 %none, %few
  br i1 %alone, label %serial, label %estimate
estimate:
  %address = ptrtoint ptr %fn to i64
  %shifted = lshr i64 %address, 4
  %slot = and i64 %shifted, {_ENTRIES - 1}
  %pkey = getelementptr [{_ENTRY_BYTES // 8} x i64], ptr %ptable, i64 %slot
  %pcost = getelementptr i64, ptr %pkey, i64 1
  %palone = getelementptr i64, ptr %pkey, i64 2
  %ptogether = getelementptr i64, ptr %pkey, i64 3
  %pchoices = getelementptr i64, ptr %pkey, i64 4
  %key = load atomic i64, ptr %pkey monotonic, align 8
  %last_cost = load atomic i64, ptr %pcost monotonic, align 8
  %known = icmp eq i64 %key, %address
  br i1 %known, label %weigh, label %fresh
fresh:
  store atomic i64 %address, ptr %pkey monotonic, align 8
  store atomic i64 0, ptr %palone monotonic, align 8
  store atomic i64 0, ptr %ptogether monotonic, align 8
  br label %weigh
weigh:
  %product = mul i64 %last_cost, %n
  %work = select i1 %known, i64 %product, i64 9223372036854775807
  %small = load i64, ptr %psmall
  %is_small = icmp slt i64 %work, %small
  br i1 %is_small, label %timed, label %sleepers
sleepers:
  %together = load atomic i64, ptr %ptogether monotonic, align 8
  %alone_took = load atomic i64, ptr %palone monotonic, align 8
  %untried = icmp eq i64 %together, 0
  %gains = icmp slt i64 %together, %alone_took
  %asleep = load atomic i32, ptr %psleep seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  %short = load i64, ptr %pshort
  %is_short = icmp slt i64 %work, %short
  %doubt = and i1 %any, %is_short
  br i1 %doubt, label %drowsy, label %compare
drowsy:
  %now = call i64 {counter}()
  %then = load atomic i64, ptr %plast monotonic, align 8
  store atomic i64 %now, ptr %plast monotonic, align 8
  %gap = sub i64 %now, %then
  %forgiven = ashr i64 %gap, 3
  %owed = load atomic i64, ptr %pdebt monotonic, align 8
  %left_over = sub i64 %owed, %forgiven
  %paid = icmp slt i64 %left_over, 0
  %still_owed = select i1 %paid, i64 0, i64 %left_over
  %unmeasured = icmp eq i64 %alone_took, 0
  %may_gain0 = or i1 %untried, %unmeasured
  %may_gain = or i1 %may_gain0, %gains
  %part = ashr i64 %work, 2
  %counts = select i1 %may_gain, i64 %work, i64 %part
  %debt = add i64 %still_owed, %counts
  %twice = shl i64 %short, 1
  %enough = icmp sge i64 %debt, %twice
  %new_debt = select i1 %enough, i64 0, i64 %debt
  store atomic i64 %new_debt, ptr %pdebt monotonic, align 8
  %nobody = icmp uge i32 %asleep, %workers
  %not_now = xor i1 %enough, true
  %by_myself = and i1 %nobody, %not_now
  br i1 %by_myself, label %timed, label %try
compare:
  %compared = load i64, ptr %pcompared
  %is_long = icmp sge i64 %work, %compared
  %open_it = or i1 %is_long, %untried
  br i1 %open_it, label %try, label %both
both:
  %choices = load atomic i64, ptr %pchoices monotonic, align 8
  %choices1 = add i64 %choices, 1
  store atomic i64 %choices1, ptr %pchoices monotonic, align 8
  %phase = urem i64 %choices, {_AGAIN}
  %other_way = icmp ult i64 %phase, {_IN_A_ROW}
  %opens = xor i1 %gains, %other_way
  br i1 %opens, label %try, label %timed
try:
  %worth = phi i1 [ true, %compare ], [ true, %both ], [ %enough, %drowsy ]
  %awake = phi i1 [ true, %compare ], [ true, %both ], [ false, %drowsy ]
  %got = cmpxchg ptr %plock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue {{ i32, i1 }} %got, 1
  br i1 %mine, label %room, label %serial
room:
  %started = call i64 {counter}()
  call void @gputune_pool_make_room(ptr %pseats)
  br label %publish
publish:
  store ptr %fn, ptr %pfn
  store ptr %ctx, ptr %pctx
  store i64 %n, ptr %pn
  store atomic i64 0, ptr %pnext monotonic, align 8
  store atomic i32 1, ptr %popen seq_cst, align 4
  %e = atomicrmw add ptr %epoch, i32 1 seq_cst
  %sleeping = load atomic i32, ptr %psleep seq_cst, align 4
  %someone = icmp ne i32 %sleeping, 0
  %do_wake = and i1 %someone, %worth
  br i1 %do_wake, label %wake, label %begin
wake:
  {wake}
  br label %begin
begin:
  %begun = call i64 {counter}()
  br label %take
take:
  %own = phi i64 [ 0, %begin ], [ %own1, %run ]
  %i = atomicrmw add ptr %pnext, i64 1 monotonic
  %left = icmp slt i64 %i, %n
  br i1 %left, label %run, label %close
run:
  call void %fn(i64 %i, ptr %ctx)
  %own1 = add i64 %own, 1
  br label %take
close:
  store atomic i32 0, ptr %popen seq_cst, align 4
  %ended = call i64 {counter}()
  %idle = icmp eq i64 %own, 0
  br i1 %idle, label %wait_for, label %learn
learn:
  %ticks = sub i64 %ended, %begun
  %each = sdiv i64 %ticks, %own
  %least = icmp slt i64 %each, 1
  %cost = select i1 %least, i64 1, i64 %each
  store atomic i64 %address, ptr %pkey monotonic, align 8
  store atomic i64 %cost, ptr %pcost monotonic, align 8
  br label %wait_for
wait_for:
  br label %look
look:
  %spins = phi i64 [ 0, %wait_for ], [ %more, %again ], [ 0, %yield ]
  %busy = load atomic i32, ptr %pactive seq_cst, align 4
  %quiet = icmp eq i32 %busy, 0
  br i1 %quiet, label %done, label %wait
wait:
  {pause}
  %more = add i64 %spins, 1
  %tired = icmp sge i64 %more, {_WAIT_SPINS}
  br i1 %tired, label %yield, label %again
again:
  br label %look
yield:
  {give_way}
  br label %look
done:
  store atomic i32 0, ptr %plock release, align 4
  %over = call i64 {counter}()
  %whole = sub i64 %over, %started
  %share = sdiv i64 %whole, %n
  %too_little = icmp slt i64 %share, 1
  %region = select i1 %too_little, i64 1, i64 %share
  br i1 %awake, label %keep, label %end
keep:
  store atomic i64 %region, ptr %ptogether monotonic, align 8
  ret void
timed:
  %t0 = call i64 {counter}()
  br label %each_chunk
each_chunk:
  %j = phi i64 [ 0, %timed ], [ %j1, %chunk ]
  %more_chunks = icmp slt i64 %j, %n
  br i1 %more_chunks, label %chunk, label %note
chunk:
  call void %fn(i64 %j, ptr %ctx)
  %j1 = add i64 %j, 1
  br label %each_chunk
note:
  %t1 = call i64 {counter}()
  %took = sub i64 %t1, %t0
  %per = sdiv i64 %took, %n
  %under = icmp slt i64 %per, 1
  %new_cost = select i1 %under, i64 1, i64 %per
  store atomic i64 %new_cost, ptr %pcost monotonic, align 8
  store atomic i64 %new_cost, ptr %palone monotonic, align 8
  ret void
serial:
  br label %next
next:
  %k = phi i64 [ 0, %serial ], [ %k1, %step ]
  %rest = icmp slt i64 %k, %n
  br i1 %rest, label %step, label %end
step:
  call void %fn(i64 %k, ptr %ctx)
  %k1 = add i64 %k, 1
  br label %next
end:
  ret void
}}

define i64 @gputune_pool_ticks() {{
  %t = call i64 {counter}()
  ret i64 %t
}}

define void @gputune_pool_stop(ptr %s) {{
entry:
{fields}
  br label %try
try:
  %got = cmpxchg ptr %plock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue {{ i32, i1 }} %got, 1
  br i1 %mine, label %stop, label %wait
wait:
  {give_way}
  br label %try
stop:
  store i32 0, ptr %pworkers
  store ptr null, ptr %pseats
  store atomic i32 1, ptr %pstop seq_cst, align 4
  %e = atomicrmw add ptr %epoch, i32 1 seq_cst
  {wake}
  store atomic i32 0, ptr %plock release, align 4
  ret void
}}
"""


@cache
def _code() -> jit.LoadedKernel:
    cpu, features = jit.host_features()
    code = jit.emit_object(_text(), cpu, features)
    names = ("worker", "launch", "stop", "ticks")
    return jit.load(code, *[f"gputune_pool_{name}" for name in names])


@cache
def _ticks_per_us() -> float:
    """How fast the counter runs that times regions; 0 where there is none."""
    ticks = ctypes.CFUNCTYPE(ctypes.c_int64)(_code().lookup("gputune_pool_ticks"))
    first, start = ticks(), time.perf_counter()
    while (seconds := time.perf_counter() - start) < _CALIBRATION_S:
        pass
    return float(ticks() - first) / (seconds * 1e6)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Threads for parallel loops.

    Args:
        num_threads: threads that work on a region, the calling one included; at least 1.

    Attributes:
        address: what a kernel takes as its `pool` argument; valid until `close`.

    Raises BuildError on a number of threads below 1.

    Example:
        >>> with Pool(4) as pool:
        ...     loaded(slots_address, pool.address)
    """

    def __init__(self, num_threads: int) -> None:
        if num_threads < 1:
            raise BuildError(f"a pool of {num_threads} threads cannot run anything")
        self._code = code = _code()  # machine code lives as long as its loader
        raw = np.zeros(_STATE_BYTES + 64, np.uint8)
        at = -raw.ctypes.data % 64
        self._state = raw[at : at + _STATE_BYTES]
        self.num_threads = num_threads
        self.address: int = self._state.ctypes.data
        self._state[_LAUNCH : _LAUNCH + 8].view(np.uint64)[0] = code.lookup("gputune_pool_launch")
        limits = self._state[_SMALL : _SMALL + 24].view(np.int64)
        limits[:] = [int(us * _ticks_per_us()) for us in (_SMALL_US, _SHORT_US, _COMPARED_US)]
        self._workers = self._state[_WORKERS : _WORKERS + 4].view(np.int32)
        self._stop = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.lookup("gputune_pool_stop"))
        enter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address)
        self._threads = [
            threading.Thread(
                target=enter, args=(self.address,), name=f"gputune-{k}", daemon=True
            )
            for k in range(1, num_threads)
        ]  # fmt: skip
        for t in self._threads:
            t.start()
        self._seats = self._confine()
        if self._seats is not None:
            self._state[_SEATS : _SEATS + 8].view(np.uint64)[0] = self._seats.ctypes.data
        self._workers[0] = len(self._threads)
        self._pid = os.getpid()
        _pools.add(self)

    def _confine(self) -> np.ndarray | None:
        """Give each worker its processors, if there are enough for all."""
        found = seats.deal(self.num_threads) if self._threads else []
        ids = [t.native_id for t in self._threads]
        known = [i for i in ids if i is not None]
        return seats.confine(found, known) if found and len(known) == len(ids) else None

    def close(self) -> None:
        """Stop the threads and wait for them, and for a region that another thread is in;
        launches after this run in the calling thread."""
        self._workers[0] = 0
        if self._threads and self._pid == os.getpid():
            self._stop(self.address)
            for t in self._threads:
                t.join()
        self._threads = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_threads", None):
            self.close()


@atexit.register
def _close_all() -> None:
    """No thread may be inside the code when the interpreter takes it down."""
    for pool in list(_pools):
        pool.close()


def _forget_threads() -> None:
    """In a forked child there are no workers."""
    for pool in list(_pools):
        pool._workers[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
