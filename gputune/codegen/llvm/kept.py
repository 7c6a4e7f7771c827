"""Where do a kernel's large temporaries come from? Memory that it keeps between calls.

Fresh pages of a megabyte can take ten times as long as the kernel that uses them, and whether the
system's allocator hands out fresh ones depends on what else the process did. So each temporary has
a few seats; a call takes the memory from a seat, or new memory if all are empty (another thread is
at work), and puts it back. `NAME.release` frees what sits there; see `jit.load`.
"""

from __future__ import annotations

from collections.abc import Sequence

SEATS = 8
"""Calls at once that find their memory kept."""

DECLARES = {
    "aligned_alloc": "declare ptr @aligned_alloc(i64, i64)",
    "free": "declare void @free(ptr)",
}

_TEXT = """\
define internal ptr @gputune.take(ptr %seats, i64 %align, i64 %size) nounwind {
entry:
  br label %seat
seat:
  %k = phi i64 [ 0, %entry ], [ %next, %empty ]
  %at = getelementptr ptr, ptr %seats, i64 %k
  %kept = atomicrmw xchg ptr %at, ptr null acquire
  %some = icmp ne ptr %kept, null
  br i1 %some, label %found, label %empty
empty:
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, SEATS
  br i1 %more, label %seat, label %new
new:
  %fresh = call ptr @aligned_alloc(i64 %align, i64 %size)
  ret ptr %fresh
found:
  ret ptr %kept
}

define internal void @gputune.keep(ptr %seats, ptr %memory) nounwind {
entry:
  br label %seat
seat:
  %k = phi i64 [ 0, %entry ], [ %next, %taken ]
  %at = getelementptr ptr, ptr %seats, i64 %k
  %pair = cmpxchg ptr %at, ptr null, ptr %memory release monotonic
  %done = extractvalue { ptr, i1 } %pair, 1
  br i1 %done, label %end, label %taken
taken:
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, SEATS
  br i1 %more, label %seat, label %full
full:
  call void @free(ptr %memory)
  br label %end
end:
  ret void
}

define internal void @gputune.clear(ptr %seats) nounwind {
entry:
  br label %seat
seat:
  %k = phi i64 [ 0, %entry ], [ %next, %seat ]
  %at = getelementptr ptr, ptr %seats, i64 %k
  %kept = atomicrmw xchg ptr %at, ptr null acquire
  call void @free(ptr %kept)
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, SEATS
  br i1 %more, label %seat, label %end
end:
  ret void
}
""".replace("SEATS", str(SEATS))


def release(symbol: str) -> str:
    """The name of the function that frees what a kernel keeps."""
    return f"{symbol}.release"


def take(seats: str, align: int, size: int) -> str:
    """The instruction that gets memory; null where there is none."""
    return f"call ptr @gputune.take(ptr @{seats}, i64 {align}, i64 {size})"


def keep(seats: str, memory: str) -> str:
    """The instruction that puts it back (null does no harm)."""
    return f"call void @gputune.keep(ptr @{seats}, ptr {memory})"


def text(symbol: str, seats: Sequence[str]) -> str:
    """What a kernel with such temporaries needs beside its functions; nothing without."""
    if not seats:
        return ""
    held = [f"@{s} = internal global [{SEATS} x ptr] zeroinitializer" for s in seats]
    calls = [f"  call void @gputune.clear(ptr @{s})" for s in seats]
    lines = [*held, "", _TEXT, f"define void @{release(symbol)}() nounwind {{", *calls]
    return "\n".join([*lines, "  ret void", "}", ""])
