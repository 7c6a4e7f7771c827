"""Which requests can a worker carry out? ping, build, run, check, run_host, check_host, and on a
GPU run_cuda, check_cuda and outputs_cuda (see `operations_cuda`).

Kernels come as object code; arguments as JSON descriptions (`signature.concrete_arguments`), or in
the short form of MetaSchedule's args_info, ["TENSOR", dtype, shape].
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gputune.codegen import llvm
from gputune.errors import BuildError, RunError
from gputune.ir import dtypes
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.lower.layout_preproc import packings_of, split_layout_preproc, without_packings
from gputune.lower.pipeline import too_deep
from gputune.target import Target
from gputune.target.host import cache_bytes

from .compare import SLIGHT, compare, tolerance
from .evaluator import TimerConfig, measure
from .function import BoundCall, thread_pool
from .timing import copies_for

Blobs = tuple[bytes, ...]
Answer = tuple[dict[str, Any], Blobs]

# Bytes before and after each array, and what they hold: around inputs NaN to every float, so that a
# kernel which reads there shows it; around outputs something that no NaN can be mistaken for.
MARGIN = 256
_CANARY, _CANARY_OUT = 0xFF, 0xA5
_PAGE = 4096
_COPIED_BYTES = 1 << 29  # of copies of the arguments that take turns
# Long random arrays repeat a block of this many elements; prime, so that no stride hides it.
_BLOCK = 1_000_003


def run(op: str, args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Carry out one request; raises what went wrong."""
    if op in ON_GPU:
        from .operations_cuda import OPERATIONS as on_gpu

        return on_gpu[op](args, blobs)
    if op not in OPERATIONS:
        raise RunError(f"a worker cannot {op!r}; it knows {', '.join(OPERATIONS)}")
    return OPERATIONS[op](args, blobs)


# ----------------------------------------------------------------------------- ping
def _ping(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Import what building and running needs, so that no candidate pays for it; with "gpu", open
    the GPU too."""
    from gputune.script import from_source

    from . import native

    native.repeater()
    if args.get("gpu"):
        from .operations_cuda import warm

        warm()
    return {"pid": os.getpid(), "python": sys.version, "parser": from_source.__name__}, ()


# ----------------------------------------------------------------------------- build
def _build(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Script text and target to object code.

    Args: "script", "target" (an export of a checked Target), "name" (of the function; default: the
    only one). Answer: "symbol", "arguments" (None if sizes are symbolic), "parallel", "seconds".

    A kernel that packs constant arguments is built as it runs once they are packed; then "packing"
    and a second blob are the kernel that packs them (see `packing_code`).
    """
    from gputune.script import from_source

    from .module import check_buildable, is_parallel
    from .signature import concrete_arguments, signature

    start = time.perf_counter()
    target = Target(args["target"], trusted=True)
    check_buildable(target)
    func = _pick(from_source(args["script"]), args.get("name"))
    if target.kind == "cuda":
        from .cuda_build import build_cuda

        return build_cuda(func, target)
    try:
        packing, packer = packing_code(func, target)
        func = without_packings(func)
        kernel = llvm.compile(func, target, func.name)
    except RecursionError:
        raise too_deep(func.name) from None
    sig = signature(func, func.name, kernel.shape_vars)
    data = {
        "symbol": kernel.symbol,
        "arguments": None if kernel.shape_vars else concrete_arguments(sig),
        "parallel": is_parallel(func) and target.num_cores > 1,
        "num_threads": target.num_cores,
        "seconds": time.perf_counter() - start,
    }
    if not packing:
        return data, (kernel.object_code,)
    return {**data, "packing": packing}, (kernel.object_code, packer)


def packing_code(func: PrimFunc, target: Target) -> tuple[dict[str, Any], bytes]:
    """The kernel that packs the constant arguments of a scheduled function: "symbol", "positions"
    (of arguments) and "arguments" (these, then what it fills), and its object code; {} and nothing
    where none is packed."""
    from .signature import concrete_arguments, signature

    pack, _ = split_layout_preproc(func)
    if pack is None:
        return {}, b""
    kernel = llvm.compile(pack, target, pack.name)
    described = concrete_arguments(signature(pack, pack.name, kernel.shape_vars))
    positions = [p.position for p in packings_of(func)]
    told = {"symbol": kernel.symbol, "positions": positions, "arguments": described}
    return told, kernel.object_code


def _pick(program: PrimFunc | IRModule, name: str | None) -> PrimFunc:
    if isinstance(program, PrimFunc):
        return program
    if name is not None and name in program.functions:
        return program.functions[name]
    if len(program.functions) != 1:
        names = ", ".join(program.functions) or "none"
        raise BuildError(f"build: expected one function, or the name of one; found {names}")
    return next(iter(program.functions.values()))


# ----------------------------------------------------------------------------- arguments
@dataclass(frozen=True, slots=True)
class Argument:
    """One concrete argument of a kernel."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None  # None: a number
    strides: tuple[int, ...] | None = None
    align: int = 64
    written: bool = False
    value: float | None = None
    low: float | None = None
    high: float | None = None
    path: str | None = None  # a file that holds the contents, from `offset` on
    offset: int = 0


def parse_argument(spec: Any, at: int) -> Argument:
    """Read an argument's description; RunError if it is none."""
    try:
        if isinstance(spec, Sequence) and not isinstance(spec, str):
            kind, dtype, shape = spec
            if kind != "TENSOR":
                raise ValueError(f"unknown kind {kind!r}")
            spec = {"kind": "tensor", "dtype": dtype, "shape": shape}
        dtypes.numpy_dtype(spec["dtype"])
        common = {
            "name": str(spec.get("name", f"arg{at}")),
            "dtype": spec["dtype"],
            "low": spec.get("low"),
            "high": spec.get("high"),
        }
        if spec["kind"] == "scalar":
            return Argument(shape=None, value=spec.get("value"), **common)
        strides = spec.get("strides")
        return Argument(
            shape=_sizes(spec["shape"]),
            strides=None if strides is None else _sizes(strides),
            align=max(int(spec.get("align", 0)), 64),
            written=bool(spec.get("written", False)),
            path=spec.get("path"),
            offset=int(spec.get("offset", 0)),
            **common,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as e:
        raise RunError(f"argument {at} is described by {spec!r}: {e}") from None


def _sizes(values: Sequence[Any]) -> tuple[int, ...]:
    if any(type(n) is not int or n < 0 for n in values):
        raise ValueError(f"extents are whole numbers from 0, found {values!r}")
    return tuple(values)


@dataclass(frozen=True, slots=True)
class Held:
    """An array inside a larger piece of memory whose margins must stay as they are."""

    argument: Argument
    array: np.ndarray[Any, Any]
    flat: np.ndarray[Any, Any]  # every element between the margins, gaps of strides included
    raw: np.ndarray[Any, Any]
    start: int
    stop: int

    def margins_intact(self) -> bool:
        """Is nothing written before or behind the array?"""
        filled = canary(self.argument)
        margins = (self.raw[: self.start], self.raw[self.stop :])
        return all(bool((m == filled).all()) for m in margins)


def canary(a: Argument) -> int:
    """What every byte around an array holds."""
    return _CANARY_OUT if a.written else _CANARY


def allocate(a: Argument, shift: int = 0) -> Held:
    """Memory for an array argument, between margins, `shift` bytes further than it would be; its
    contents are not set."""
    assert a.shape is not None
    dtype = dtypes.numpy_dtype(a.dtype)
    count = math.prod(a.shape)
    if a.strides is not None and count:
        count = 1 + sum((n - 1) * s for n, s in zip(a.shape, a.strides))
    size = count * dtype.itemsize
    raw = np.empty(size + 2 * MARGIN + a.align + shift, np.uint8)
    start = MARGIN + -(raw.ctypes.data + MARGIN) % a.align + shift
    raw[:start] = canary(a)
    raw[start + size :] = canary(a)
    flat = raw[start : start + size].view(dtype)
    if a.strides is None:
        array = flat.reshape(a.shape)
    else:
        steps = tuple(s * dtype.itemsize for s in a.strides)
        array = np.lib.stride_tricks.as_strided(flat, a.shape, steps)
    return Held(a, array, flat, raw, start, start + size)


def random_values(rng: np.random.Generator, a: Argument, size: int) -> np.ndarray[Any, Any]:
    """`size` fresh elements for an argument.

    Floats are uniform in [-1, 1); for an output, which must not look like a result, in [2, 4).
    Signed integers of 8 and 16 bits lie in [-8, 8); wider ones in [0, 8), since they may be
    indices; unsigned ones in [0, 16); outputs in the upper half of their range. "low" and "high" of
    the description override that.
    """
    dtype = dtypes.numpy_dtype(a.dtype)
    n = min(size, _BLOCK)
    if dtypes.is_bool(a.dtype):
        block = rng.integers(0, 2, n).astype(dtype)
    elif dtypes.is_float(a.dtype):
        low, high = (2.0, 4.0) if a.written else (-1.0, 1.0)
        low, high = _or(a.low, low), _or(a.high, high)
        kind: Any = np.float64 if a.dtype == "float64" else np.float32
        block = (rng.random(n, dtype=kind) * kind(high - low) + kind(low)).astype(dtype)
    else:
        ilow, ihigh = _int_range(a)
        block = rng.integers(int(_or(a.low, ilow)), int(_or(a.high, ihigh)), n).astype(dtype)
    return block if n == size else np.resize(block, size)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _int_range(a: Argument) -> tuple[int, int]:
    if a.written:
        top = int(dtypes.max_value(a.dtype)) if dtypes.bits(a.dtype) < 32 else 1 << 30
        return top // 2, top
    if dtypes.is_unsigned(a.dtype):
        return 0, 16
    return (-8, 8) if dtypes.bits(a.dtype) < 32 else (0, 8)


def fill(rng: np.random.Generator, a: Argument, shift: int = 0) -> int | Held:
    """The slot of a number, or an array with random contents (see `allocate`)."""
    if a.shape is not None:
        held = allocate(a, shift)
        if a.path is None:
            held.flat[...] = random_values(rng, a, held.flat.size)
        else:
            held.flat[...] = _stored(a, held.flat.size)
        return held
    value: Any = a.value
    if value is None:
        value = random_values(rng, a, 1)[0]
    raw = np.array(value).astype(dtypes.numpy_dtype(a.dtype)).tobytes()
    return int.from_bytes(raw, "little")


def _stored(a: Argument, size: int) -> np.ndarray[Any, Any]:
    """The contents that a file of the parent's holds."""
    found = np.fromfile(str(a.path), dtypes.numpy_dtype(a.dtype), size, offset=a.offset)
    if found.size != size:
        raise RunError(f"argument {a.name}: {a.path} holds {found.size} of {size} elements")
    return found


def arguments(args: Mapping[str, Any], seed: int) -> list[int | Held]:
    """Fresh memory for each argument of a request, equal for equal seeds.

    Each "placement" lets the arrays lie otherwise to each other: they begin somewhere in a page. (0
    leaves that to the allocator.)
    """
    rng = np.random.default_rng(seed)
    wanted = [parse_argument(s, i) for i, s in enumerate(args["arguments"])]
    placement = int(args.get("placement", 0))
    if placement == 0:
        return [fill(rng, a) for a in wanted]
    places = np.random.default_rng(placement)
    return [fill(rng, a, a.align * int(places.integers(max(1, _PAGE // a.align)))) for a in wanted]


def slots(held: Sequence[int | Held]) -> list[int]:
    """What a kernel's slots hold for these arguments."""
    return [h if isinstance(h, int) else int(h.raw.ctypes.data) + h.start for h in held]


# ----------------------------------------------------------------------------- run
def _run(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Time a kernel on random arguments.

    Args: "symbol", "arguments", "seed", "evaluator" (number, repeat, min_repeat_ms,
    enable_cpu_cache_flush, regime, retries, reference), "cutoff_s", "num_threads" (for parallel
    loops; 1: none), and "artifact" with "digest" (path and blake2b of an object file) unless the
    object code is the blob. Answer: "run_secs", "number", "disturbed", "cut" (over the cutoff, and
    not timed further), "timing" (`BenchmarkResult.as_json`, with "copies", "size" and "in_cache" of
    the arguments).

    Raises:
        RunError: among others, the kernel wrote outside its arrays (code "out_of_bounds").
    """
    code = _object_code(args, blobs)
    held = arguments(args, int(args.get("seed", 0)))
    config = _timer(args.get("evaluator") or {}, args.get("cutoff_s"))
    threads = int(args.get("num_threads", 1))
    size = _size(held)
    sets = _sets(held, size) if config.caches == "rotate" else [held]
    call, *copies = [bound(code, args["symbol"], x, threads) for x in sets]
    result = measure(call, config, copies)
    if not all(0 < t < math.inf for t in result.results):
        raise RunError(f"the clock gave {result.results} seconds for {args['symbol']}")
    if reasons := overruns(held):
        raise RunError("; ".join(reasons), code="out_of_bounds")
    last = cache_bytes()[2]
    in_cache = result.regime == "warm" and size <= last
    data = {
        "run_secs": list(result.results),
        "number": result.number,
        "disturbed": result.disturbed,
        "cut": result.cut,
        "timing": {**result.as_json(), "copies": len(sets), "size": size, "in_cache": in_cache},
    }
    return data, ()


def _size(held: Sequence[int | Held]) -> int:
    """Bytes of the arrays among some arguments."""
    return sum(h.stop - h.start for h in held if isinstance(h, Held))


def _sets(held: list[int | Held], size: int) -> list[list[int | Held]]:
    """The arguments, and so many copies of them as no cache holds."""
    more = copies_for(size, cache_bytes()[2], _COPIED_BYTES) - 1
    out = [held]
    for _ in range(more):
        out.append([_duplicate(h, h.argument) if isinstance(h, Held) else h for h in held])
    return out


def _object_code(args: Mapping[str, Any], blobs: Blobs) -> bytes:
    if blobs:
        return blobs[0]
    path = args.get("artifact")
    if not path:
        raise RunError("run: there is neither object code nor the path of an artifact")
    code = Path(path).read_bytes()
    if hashlib.blake2b(code).hexdigest() != args.get("digest"):
        raise RunError(f"run: {path} is not the artifact that was built (its digest differs)")
    return code


def _timer(config: Mapping[str, Any], cutoff_s: float | None) -> TimerConfig:
    known = {
        "number", "repeat", "min_repeat_ms", "enable_cpu_cache_flush", "regime", "retries",
        "reference",
    }  # fmt: skip
    if unknown := set(config) - known:
        raise RunError(f"evaluator config: unknown {', '.join(sorted(unknown))}")
    return TimerConfig(
        number=config.get("number", 3),
        repeat=config.get("repeat", 1),
        min_repeat_ms=config.get("min_repeat_ms", 100),
        flush_cache=bool(config.get("enable_cpu_cache_flush", False)),
        retries=config.get("retries", 8),
        cutoff_s=cutoff_s,
        regime=config.get("regime"),
        reference=bool(config.get("reference", False)),
        pin=True,
    )


def bound(code: bytes, symbol: str, held: Sequence[int | Held], num_threads: int) -> BoundCall:
    """A kernel of object code with its arguments."""
    loaded = llvm.load(code, symbol)
    memory = [h.array for h in held if isinstance(h, Held)]
    pool = thread_pool(num_threads)
    return BoundCall(symbol, loaded.address, slots(held), (loaded, *memory), pool)


# ----------------------------------------------------------------------------- check
def _check(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Run a kernel and a reference kernel on equal fresh arguments and compare.

    Blobs: object code of the kernel and of the reference. Args: "symbol", "reference_symbol",
    "arguments" (with "written"), "seed", "rtol", "atol", "num_threads". Outputs start out with
    values that no result has, equal in both, so that kernels which update in place are compared
    too. Answer: "ok", "reason" (first thing found wrong), "slight" (no more than errors that other
    inputs may not have), "max_error", "outputs" (for each written array its name and `Difference`).

    With "expected" (positions of arguments) nothing is run for a reference: the blobs in its place
    are what these arguments must hold afterwards.

    With "packing" (as `_build` answers, its kernel being a third blob) the kernel is given its
    constant arguments packed; "reference_packed": so is the reference.
    """
    code, more = blobs[0], blobs[1:]
    seed = int(args.get("seed", 0))
    wanted = arguments(args, seed)
    before = arguments(args, seed)  # what read-only arguments must still hold afterwards
    found = arguments(args, seed)
    told = args.get("expected")
    if packing := args.get("packing"):
        packer = more[1 if told is None else len(told)]
        reasons = _packed(packing, packer, found)
        if reasons:
            return {"ok": False, "reason": "; ".join(reasons), "max_error": None, "outputs": []}, ()
        _packed(packing, packer, before)
        if args.get("reference_packed"):
            _packed(packing, packer, wanted)
    if told is None:
        bound(more[0], args["reference_symbol"], wanted, 1)()
    else:
        put_expected(wanted, told, more)
    bound(code, args["symbol"], found, int(args.get("num_threads", 1)))()
    return compared(found, wanted, before, args.get("rtol"), args.get("atol")), ()


def put_expected(
    wanted: Sequence[int | Held], positions: Sequence[int], blobs: Sequence[bytes]
) -> None:
    """Write into arguments what they must hold; RunError where a blob is not of its size."""
    for k, blob in zip(positions, blobs):
        h = wanted[k]
        if not isinstance(h, Held) or h.array.nbytes != len(blob):
            raise RunError(f"check: argument {k} is no array of {len(blob)} bytes")
        h.array[...] = np.frombuffer(blob, h.array.dtype).reshape(h.array.shape)


def _packed(packing: Mapping[str, Any], code: bytes, held: list[int | Held]) -> list[str]:
    """Put packed arguments in the place of those that `packing` packs; what it wrote where it must
    not, in words. What it does not fill holds random numbers, which no result may depend on.

    Args:
        packing: "symbol", "positions" (of arguments), "arguments" (these, then what it fills).
        code: of the kernel that packs.
        held: all arguments; changed.
    """
    positions = [int(k) for k in packing["positions"]]
    specs = [parse_argument(s, i) for i, s in enumerate(packing["arguments"])]
    rng = np.random.default_rng(len(held))
    given = [held[k] for k in positions]
    filled = [fill(rng, a) for a in specs[len(positions) :]]
    before = [_duplicate(h, h.argument) if isinstance(h, Held) else h for h in given]
    bound(code, packing["symbol"], [*given, *filled], 1)()
    reasons = damage([*given, *filled], [*before, *filled])
    for k, f in zip(positions, filled):
        assert isinstance(f, Held)
        held[k] = _duplicate(f, replace(f.argument, written=False))
    return reasons


def _duplicate(h: Held, a: Argument) -> Held:
    """Memory of its own with the same contents."""
    out = allocate(a)
    out.flat[...] = h.flat
    return out


def compared(
    found: Sequence[int | Held],
    wanted: Sequence[int | Held],
    before: Sequence[int | Held],
    rtol: float | None,
    atol: float | None,
) -> dict[str, Any]:
    """The answer of a check: arguments after the kernel, after the reference, and before both."""
    reasons = damage(found, before)
    slight = not reasons
    outputs: list[dict[str, Any]] = []
    if rtol is None:
        rtol = tolerance(h.argument.dtype for h in found if isinstance(h, Held))
    for f, w in zip(found, wanted):
        if not isinstance(f, Held) or not isinstance(w, Held) or not f.argument.written:
            continue
        difference = compare(f.array, w.array, rtol, atol)
        if not difference.ok:
            reasons.append(f"{f.argument.name}: {difference}")
            slight = slight and difference.excess <= SLIGHT
        outputs.append({"name": f.argument.name, **difference.as_json()})
    errors = [o["max_error"] for o in outputs]
    return {
        "ok": not reasons,
        "reason": "; ".join(reasons),
        "slight": bool(reasons) and slight,
        "max_error": None if None in errors else max(errors, default=0.0),
        "outputs": outputs,
    }


def overruns(held: Sequence[int | Held]) -> list[str]:
    """Around which arrays a kernel wrote, in words."""
    return [
        f"{h.argument.name}: written outside its bounds"
        for h in held
        if isinstance(h, Held) and not h.margins_intact()
    ]


def damage(found: Sequence[int | Held], before: Sequence[int | Held]) -> list[str]:
    """What a kernel wrote where it must not, in words: outside its arrays, into inputs."""
    reasons: list[str] = []
    for f, b in zip(found, before):
        if not isinstance(f, Held) or not isinstance(b, Held):
            continue
        name = f.argument.name
        reasons += overruns([f])
        if not f.argument.written and not np.array_equal(
            f.flat.view(np.uint8), b.flat.view(np.uint8)
        ):
            reasons.append(f"{name}: an input was changed")
    return reasons


# ----------------------------------------------------------------------------- run_host
def _run_host(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Run a CUDA program on the processor; see `host_execution.run_host`."""
    from .host_execution import run_host

    return run_host(args)


def _check_host(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Compare a CUDA program on the processor with a reference; see `host_execution.check_host`."""
    from .host_execution import check_host

    return check_host(args, blobs)


ON_GPU = ("run_cuda", "check_cuda", "outputs_cuda", "gpu_cuda", "energy_cuda")
"""What `operations_cuda` does."""

OPERATIONS: dict[str, Callable[[Mapping[str, Any], Blobs], Answer]] = {
    "ping": _ping,
    "build": _build,
    "run": _run,
    "check": _check,
    "run_host": _run_host,
    "check_host": _check_host,
}
