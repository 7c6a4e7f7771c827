"""Which machine code does measuring itself need? A loop around a kernel, and a cache flush.

Both are a few lines of LLVM IR, compiled once a process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gputune.codegen.llvm import jit, load

# Calls the kernel `n` times; stops at the first error code and returns it.
_REPEAT = """
define i32 @gputune_repeat(ptr %fn, ptr %args, ptr %pool, i64 %n) {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %call, label %done
call:
  %i = phi i64 [ 0, %entry ], [ %next, %call ]
  %code = call i32 %fn(ptr %args, ptr %pool)
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  %fine = icmp eq i32 %code, 0
  %again = and i1 %more, %fine
  br i1 %again, label %call, label %done
done:
  %result = phi i32 [ 0, %entry ], [ %code, %call ]
  ret i32 %result
}
"""
_FLUSH = """
declare void @llvm.x86.sse2.clflush(ptr)
declare void @llvm.x86.sse2.mfence()
define i32 @gputune_flush(ptr %start, i64 %bytes) {
entry:
  %some = icmp sgt i64 %bytes, 0
  br i1 %some, label %line, label %done
line:
  %i = phi i64 [ 0, %entry ], [ %next, %line ]
  %p = getelementptr i8, ptr %start, i64 %i
  call void @llvm.x86.sse2.clflush(ptr %p)
  %next = add nuw nsw i64 %i, 64
  %more = icmp slt i64 %next, %bytes
  br i1 %more, label %line, label %done
done:
  call void @llvm.x86.sse2.mfence()
  ret i32 0
}
"""
# Where no instruction evicts a line: reading this much displaces most of what was there.
_SWEEP_BYTES = 64 << 20


def assemble(text: str) -> bytes:
    """Machine code (an object file) for this processor from LLVM IR text."""
    return jit.emit_object(text, *jit.host_features())


@dataclass(frozen=True, slots=True, eq=False)
class Native:
    """`function` and the machine code behind it."""

    function: Callable[..., int]
    keep: object


@cache
def _repeat() -> Native:
    loaded = load(assemble(_REPEAT), "gputune_repeat")
    pointer = ctypes.c_void_p
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, pointer, ctypes.c_int64)
    return Native(kind(loaded.address), loaded)


@cache
def _flush() -> Native | None:
    if not jit.host_triple().startswith("x86_64"):
        return None
    loaded = load(assemble(_FLUSH), "gputune_flush")
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64)
    return Native(kind(loaded.address), loaded)


@cache
def _sweep() -> np.ndarray[Any, Any]:
    return np.ones(_SWEEP_BYTES // 8)


def repeater() -> Callable[[int, bytes, int | None, int], int]:
    """The function (address, slots, pool, n) that calls the kernel at `address` n times in a row
    and returns its first error code, or 0."""
    return _repeat().function


def flush(arrays: list[np.ndarray[Any, Any]]) -> None:
    """Drop the memory of these arrays from every cache; where no instruction does that, displace
    it by reading something else."""
    native = _flush()
    if native is None:
        _sweep().sum()
        return
    for x in arrays:
        lo, hi = np.lib.array_utils.byte_bounds(x)
        native.function(lo, hi - lo)
