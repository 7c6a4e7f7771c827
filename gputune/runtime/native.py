"""Which machine code does measuring itself need? Loops around a kernel, a cache flush, and the
reference kernel, which tells how fast the processor is just now.

All are a few lines of LLVM IR, compiled once a process.
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
# Calls the kernel `n` times with one set of arguments after the other, each `step` bytes further,
# beginning with the set `first`.
_ROTATE = """
define i32 @gputune_rotate(
    ptr %fn, ptr %args, ptr %pool, i64 %n, i64 %sets, i64 %step, i64 %first) {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %call, label %done
call:
  %i = phi i64 [ 0, %entry ], [ %next, %call ]
  %set = phi i64 [ %first, %entry ], [ %turn, %call ]
  %at = mul i64 %set, %step
  %own = getelementptr i8, ptr %args, i64 %at
  %code = call i32 %fn(ptr %own, ptr %pool)
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  %fine = icmp eq i32 %code, 0
  %again = and i1 %more, %fine
  %after = add nuw nsw i64 %set, 1
  %last = icmp sge i64 %after, %sets
  %turn = select i1 %last, i64 0, i64 %after
  br i1 %again, label %call, label %done
done:
  %result = phi i32 [ 0, %entry ], [ %code, %call ]
  ret i32 %result
}
"""
# The reference kernel: eight chains of x = x / 2 + a[i] over an array that fits the first cache.
# Its time follows the clock of the core, and what else runs on that core. It must never change:
# times of different days are put on one scale by it.
_CHAINS, _LANES, _FLOATS, _PASSES = 8, 8, 4096, 128


def _reference_ir() -> str:
    vector = f"<{_LANES} x float>"
    half = ", ".join(["float 5.0e-01"] * _LANES)
    chains = range(_CHAINS)
    return "\n".join(
        [
            f"declare {vector} @llvm.fmuladd.v{_LANES}f32({vector}, {vector}, {vector})",
            "define i32 @gputune_reference(ptr %data, ptr %pool) {",
            "entry:",
            "  br label %pass",
            "pass:",
            "  %p = phi i64 [ 0, %entry ], [ %p1, %passed ]",
            *(
                f"  %a{k} = phi {vector} [ zeroinitializer, %entry ], [ %d{k}, %passed ]"
                for k in chains
            ),
            "  br label %step",
            "step:",
            "  %i = phi i64 [ 0, %pass ], [ %i1, %step ]",
            *(f"  %c{k} = phi {vector} [ %a{k}, %pass ], [ %d{k}, %step ]" for k in chains),
            *(
                f"  %o{k} = add i64 %i, {k * _LANES}\n"
                f"  %q{k} = getelementptr float, ptr %data, i64 %o{k}\n"
                f"  %x{k} = load {vector}, ptr %q{k}, align 4\n"
                f"  %d{k} = call {vector} @llvm.fmuladd.v{_LANES}f32("
                f"{vector} %c{k}, {vector} <{half}>, {vector} %x{k})"
                for k in chains
            ),
            f"  %i1 = add i64 %i, {_CHAINS * _LANES}",
            f"  %more = icmp ult i64 %i1, {_FLOATS}",
            "  br i1 %more, label %step, label %passed",
            "passed:",
            "  %p1 = add i64 %p, 1",
            f"  %again = icmp ult i64 %p1, {_PASSES}",
            "  br i1 %again, label %pass, label %done",
            "done:",
            *(
                f"  %s{k} = fadd {vector} %d{k}, {f'%s{k - 1}' if k else 'zeroinitializer'}"
                for k in chains
            ),
            f"  %end = getelementptr float, ptr %data, i64 {_FLOATS}",
            f"  store {vector} %s{_CHAINS - 1}, ptr %end, align 4",
            "  ret i32 0",
            "}",
        ]
    )


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
def _rotate() -> Native:
    loaded = load(assemble(_ROTATE), "gputune_rotate")
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, pointer, *[count] * 4)
    return Native(kind(loaded.address), loaded)


@cache
def _reference() -> Native:
    loaded = load(assemble(_reference_ir()), "gputune_reference")
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
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


def rotator() -> Callable[[int, bytes, int | None, int, int, int, int], int]:
    """The function (address, slots of all sets, pool, n, sets, bytes of a set, first set) that
    calls the kernel at `address` n times, with the sets of arguments in turn; else as `repeater`.
    """
    return _rotate().function


def reference() -> Callable[[], int]:
    """The reference kernel: a call takes some ten microseconds, always for the same work."""
    function, data = _reference().function, np.ones(_FLOATS + _LANES, np.float32)
    address = int(data.ctypes.data)

    def run(keep: object = data) -> int:
        return function(address, None)

    return run


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
