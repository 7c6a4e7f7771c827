"""How fast can one core of this machine be at most? Loops of nothing but FMAs, or loads and stores.

Both are machine code that is timed as kernels are, so that they can take turns with them.
"""

from __future__ import annotations

import numpy as np

from gputune.codegen.llvm import jit
from gputune.runtime.function import BoundCall
from gputune.runtime.ndarray import aligned
from gputune.target import host

FMA_ROUNDS = 2000
_UNROLLED = 8  # vectors of a step of the stream


def _bytes() -> tuple[int, int]:
    unit = host.vector_unit(*jit.host_features())
    return unit.bytes, unit.registers


def _load(text: str, name: str, arrays: tuple[np.ndarray, ...]) -> BoundCall:
    loaded = jit.load(jit.emit_object(text, *jit.host_features()), name)
    slots = [a.ctypes.data for a in arrays]
    return BoundCall(name, loaded.address, slots, (loaded, *arrays))


def fma() -> tuple[BoundCall, float]:
    """A loop of independent float32 FMAs in registers, and the operations of a call."""
    size, registers = _bytes()
    lanes, chains = size // 4, 12 if registers <= 16 else 24
    v = f"<{lanes} x float>"
    values = aligned((chains, lanes), np.dtype(np.float32))
    values[:] = np.linspace(0.25, 0.5, chains)[:, None]
    first = [f"  %x{i} = load {v}, ptr %p{i}, align {size}" for i in range(chains)]
    at = [f"  %p{i} = getelementptr {v}, ptr %d, i64 {i}" for i in range(chains)]
    phis = [f"  %a{i} = phi {v} [ %x{i}, %entry ], [ %b{i}, %loop ]" for i in range(chains)]
    fmas = [
        f"  %b{i} = call {v} @llvm.fma.v{lanes}f32({v} %a{i}, {v} %x0, {v} %x0)"
        for i in range(chains)
    ]
    stores = [f"  store {v} %b{i}, ptr %p{i}, align {size}" for i in range(1, chains)]
    text = "\n".join(
        [
            f"declare {v} @llvm.fma.v{lanes}f32({v}, {v}, {v})",
            "define i32 @bench_fma(ptr %slots, ptr %pool) {", "entry:",
            "  %d = load ptr, ptr %slots", *at, *first, "  br label %loop", "loop:",
            "  %i = phi i64 [ 0, %entry ], [ %j, %loop ]", *phis, *fmas,
            "  %j = add i64 %i, 1", f"  %c = icmp ult i64 %j, {FMA_ROUNDS}",
            "  br i1 %c, label %loop, label %end", "end:", *stores, "  ret i32 0", "}",
        ]
    )  # fmt: skip
    return _load(text, "bench_fma", (values,)), 2.0 * lanes * chains * FMA_ROUNDS


def stream(read: int, written: int) -> BoundCall:
    """A loop that loads `read` bytes and stores `written` bytes, each once, both at a time as far
    as it goes; bytes are rounded down to whole steps."""
    size, _ = _bytes()
    step = size * _UNROLLED
    loads, stores = max(1, read // step), max(1, written // step)
    both = min(loads, stores)
    source = aligned((loads * step,), np.dtype(np.uint8))
    target = aligned((stores * step,), np.dtype(np.uint8))
    source[:], target[:] = 1, 0
    lines = [
        "define i32 @bench_stream(ptr %slots, ptr %pool) {", "entry:",
        "  %s = load ptr, ptr %slots", "  %q = getelementptr ptr, ptr %slots, i64 1",
        "  %t = load ptr, ptr %q", "  br label %both",
        *_pass("both", "entry", 0, both, size, True, True),
    ]  # fmt: skip
    after = "both"
    if loads > both or stores > both:
        name = "rest"
        lines += [*_pass(name, after, both, max(loads, stores), size, loads > both, stores > both)]
        after = name
    lines += [f"end_{after}:", f"  store <{size} x i8> %sum_{after}, ptr %t, align {size}"]
    lines += ["  ret i32 0", "}"]
    return _load("\n".join(lines), "bench_stream", (source, target))


def _pass(
    name: str, before: str, start: int, end: int, size: int, loads: bool, stores: bool
) -> list[str]:
    """A loop over steps; `%sum_name` is what was loaded, so that no load is left out."""
    v = f"<{size} x i8>"
    entry = "entry" if before == "entry" else f"end_{before}"
    kept = "zeroinitializer" if before == "entry" else f"%sum_{before}"
    out = [] if before == "entry" else [f"{entry}:", f"  br label %{name}"]
    out += [f"{name}:", f"  %i_{name} = phi i64 [ {start}, %{entry} ], [ %j_{name}, %{name} ]"]
    out += [
        f"  %a{u}_{name} = phi {v} [ {kept if not u else 'zeroinitializer'}, %{entry} ], "
        f"[ %b{u}_{name}, %{name} ]"
        for u in range(_UNROLLED)
    ]
    out += [f"  %o_{name} = mul i64 %i_{name}, {size * _UNROLLED}"]
    for u in range(_UNROLLED):
        out += [f"  %o{u}_{name} = add i64 %o_{name}, {u * size}"]
        value = f"%a{u}_{name}"
        if loads:
            value = f"%x{u}_{name}"
            out += [
                f"  %s{u}_{name} = getelementptr i8, ptr %s, i64 %o{u}_{name}",
                f"  {value} = load {v}, ptr %s{u}_{name}, align {size}",
            ]
        if stores:
            out += [
                f"  %t{u}_{name} = getelementptr i8, ptr %t, i64 %o{u}_{name}",
                f"  store {v} {value}, ptr %t{u}_{name}, align {size}",
            ]
        out += [f"  %b{u}_{name} = xor {v} %a{u}_{name}, {value if loads else 'zeroinitializer'}"]
    out += [f"  %j_{name} = add i64 %i_{name}, 1", f"  %c_{name} = icmp ult i64 %j_{name}, {end}"]
    out += [f"  br i1 %c_{name}, label %{name}, label %sum_of_{name}", f"sum_of_{name}:"]
    total = f"%b0_{name}"
    for u in range(1, _UNROLLED):
        made = f"%sum_{name}" if u == _UNROLLED - 1 else f"%m{u}_{name}"
        out += [f"  {made} = xor {v} {total}, %b{u}_{name}"]
        total = made
    return [*out, f"  br label %end_{name}"]
