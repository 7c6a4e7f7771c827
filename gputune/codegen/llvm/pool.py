"""How does a parallel loop get onto several cores? A thread pool written in LLVM IR.

Its threads are Python threads that enter `worker` once, through ctypes, and stay there without the
interpreter lock: they spin for a while, then sleep in the kernel. A region is opened by publishing
(function, context, number of chunks) and raising the epoch word; launcher and workers take chunks
from an atomic counter. When the counter has run out the launcher closes the region and waits until
no worker is active in it: workers that never woke up are not waited for. Workers run on other
processors than the launcher (`seats`), whose own affinity nobody touches.

A launch while the pool is in use (from another thread, or from inside a chunk) runs its chunks in
the calling thread; so does every launch in a forked child, which has no workers.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import weakref
from functools import cache

import numpy as np

from ...errors import BuildError
from . import jit, seats

# Byte offsets of the state; what different threads write lies in different cache lines.
_LAUNCH, _WORKERS, _SEATS = 0, 8, 16
_EPOCH = 64
_FN, _CTX, _N, _OPEN = 128, 136, 144, 152
_NEXT = 192
_ACTIVE = 256
_SLEEPERS = 320
_LOCK = 384
_STOP = 448
_STATE_BYTES = 512

_SPINS = 10_000
"""Looks at the epoch word before a worker goes to sleep (a few hundred microseconds)."""
_WAIT_SPINS = 4_000
"""Looks at the active counter before the launcher gives up its time slice."""

_FUTEX = {"x86_64": 202, "aarch64": 98}
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

    def field(name: str, at: int) -> str:
        return f"  %{name} = getelementptr i8, ptr %s, i64 {at}"

    fields = "\n".join([
        field("epoch", _EPOCH), field("pfn", _FN), field("pctx", _CTX), field("pn", _N),
        field("popen", _OPEN), field("pnext", _NEXT), field("pactive", _ACTIVE),
        field("psleep", _SLEEPERS), field("plock", _LOCK), field("pstop", _STOP),
        field("pworkers", _WORKERS), field("pseats", _SEATS),
    ])  # fmt: skip
    return f"""
{pause_decl}
{rest_decl}
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
  br i1 %alone, label %serial, label %try
try:
  %got = cmpxchg ptr %plock, i32 0, i32 1 acquire monotonic
  %mine = extractvalue {{ i32, i1 }} %got, 1
  br i1 %mine, label %room, label %serial
room:
  call void @gputune_pool_make_room(ptr %pseats)
  br label %publish
publish:
  store ptr %fn, ptr %pfn
  store ptr %ctx, ptr %pctx
  store i64 %n, ptr %pn
  store atomic i64 0, ptr %pnext monotonic, align 8
  store atomic i32 1, ptr %popen seq_cst, align 4
  %e = atomicrmw add ptr %epoch, i32 1 seq_cst
  %asleep = load atomic i32, ptr %psleep seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %take
wake:
  {wake}
  br label %take
take:
  %i = atomicrmw add ptr %pnext, i64 1 monotonic
  %left = icmp slt i64 %i, %n
  br i1 %left, label %run, label %close
run:
  call void %fn(i64 %i, ptr %ctx)
  br label %take
close:
  store atomic i32 0, ptr %popen seq_cst, align 4
  br label %look
look:
  %spins = phi i64 [ 0, %close ], [ %more, %again ], [ 0, %yield ]
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
    return jit.load(code, "gputune_pool_worker", "gputune_pool_launch", "gputune_pool_stop")


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
