"""On which processors do the threads of a pool run? On others than the launching thread.

Left to itself, a system may wake a worker on the processor of the thread that woke it (Linux in a
virtual machine does so after some idle milliseconds) and leave both there for tens of milliseconds:
a region is then slower than without the worker. So the processors that the pool may use are dealt
out as seats, one for each thread. A worker is confined to its seat; the launching thread is never
confined: if it is found in the seat of a worker, that worker takes the seat it came from.

Only Linux says where a thread runs and lets it be moved. Elsewhere, with fewer processors than
threads, or where the system refuses, nothing is confined. Workers whose affinity somebody else has
changed (`taskset`, a smaller cpuset) are left alone from then on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np

from ...target import host

Seat = frozenset[int]

_KNOWN = sys.platform == "linux" and hasattr(os, "sched_setaffinity")
_CPUS = 1024
"""Processors a mask can name; as many as the C library's."""
_MASK_BYTES = _CPUS // 8

# Byte offsets: the launcher's seat, the seat of every processor, then a record for each seat.
_SEAT_OF = 64
_RECORDS = _SEAT_OF + 4 * _CPUS
_RECORD_BYTES = _MASK_BYTES + 64
_TID = _MASK_BYTES


def deal(num_threads: int) -> list[Seat]:
    """Processors for each thread, of those the calling thread may use; empty: confine nobody.

    The logical processors of a core stay together where there are enough cores.
    """
    if not _KNOWN:
        return []
    units = host.allowed_cores()
    if len(units) < num_threads:
        units = [Seat({cpu}) for unit in units for cpu in sorted(unit)]
    if len(units) < num_threads or any(cpu >= _CPUS for unit in units for cpu in unit):
        return []
    return [Seat().union(*units[k::num_threads]) for k in range(num_threads)]


def confine(seats: Sequence[Seat], workers: Sequence[int]) -> np.ndarray | None:
    """Confine each worker (a thread id) to a seat, the first one being left to the launcher.

    Returns the table that `gputune_pool_make_room` reads, or None if the system refuses.
    """
    try:
        for tid, seat in zip(workers, seats[1:], strict=True):
            os.sched_setaffinity(tid, seat)
    except OSError:
        return None  # such as a sandbox: they run where the system puts them
    table = np.zeros(_RECORDS + _RECORD_BYTES * len(seats), np.uint8)
    seat_of = table[_SEAT_OF:_RECORDS].view(np.int32)
    seat_of[:] = -1
    for at, (tid, seat) in enumerate(zip((0, *workers), seats)):
        seat_of[list(seat)] = at
        record = table[_RECORDS + _RECORD_BYTES * at :]
        mask = sum(1 << cpu for cpu in seat)
        record[:_MASK_BYTES] = np.frombuffer(mask.to_bytes(_MASK_BYTES, sys.byteorder), np.uint8)
        record[_TID : _TID + 4].view(np.int32)[0] = tid
    return table


def text() -> str:
    """LLVM IR of `gputune_pool_make_room(ptr where)`, called by whoever holds the pool's lock.

    `where` holds the address of the table, or null.
    """
    if not _KNOWN:
        return "define internal void @gputune_pool_make_room(ptr %where) {\n  ret void\n}\n"
    return f"""
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @memcmp(ptr, ptr, i64)

define internal void @gputune_pool_make_room(ptr %where) {{
entry:
  %t = load ptr, ptr %where
  %none = icmp eq ptr %t, null
  br i1 %none, label %out, label %ask
ask:
  %cpu = call i32 @sched_getcpu()
  %named = icmp ult i32 %cpu, {_CPUS}
  br i1 %named, label %find, label %out
find:
  %seats = getelementptr i8, ptr %t, i64 {_SEAT_OF}
  %pseat = getelementptr i32, ptr %seats, i32 %cpu
  %seat = load i32, ptr %pseat
  %mine = load i32, ptr %t
  %same = icmp eq i32 %seat, %mine
  %outside = icmp slt i32 %seat, 0
  %fine = or i1 %same, %outside
  br i1 %fine, label %out, label %taken
taken:
  %records = getelementptr i8, ptr %t, i64 {_RECORDS}
  %here = mul i32 %seat, {_RECORD_BYTES}
  %there = mul i32 %mine, {_RECORD_BYTES}
  %old = getelementptr i8, ptr %records, i32 %here
  %new = getelementptr i8, ptr %records, i32 %there
  %ptid = getelementptr i8, ptr %old, i64 {_TID}
  %tid = load i32, ptr %ptid
  %now = alloca [{_MASK_BYTES} x i8], align 8
  %asked = call i32 @sched_getaffinity(i32 %tid, i64 {_MASK_BYTES}, ptr %now)
  %known = icmp sge i32 %asked, 0
  br i1 %known, label %compare, label %give_up
compare:
  %differ = call i32 @memcmp(ptr %now, ptr %old, i64 {_MASK_BYTES})
  %ours = icmp eq i32 %differ, 0
  br i1 %ours, label %move, label %give_up
move:
  %moved = call i32 @sched_setaffinity(i32 %tid, i64 {_MASK_BYTES}, ptr %new)
  %done = icmp eq i32 %moved, 0
  br i1 %done, label %note, label %give_up
note:
  %pnew = getelementptr i8, ptr %new, i64 {_TID}
  store i32 %tid, ptr %pnew
  store i32 %seat, ptr %t
  br label %out
give_up:
  store ptr null, ptr %where
  br label %out
out:
  ret void
}}
"""
