"""How does a worker time, check and run a CUDA program on its GPU?

The worker keeps the arguments of the last workload on the device: candidates differ, arguments do
not. What a candidate may have overwritten is restored before the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gputune.codegen.cuda.compile import CudaBinary
from gputune.codegen.cuda.cubin import read_cubin
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import GputuneError, RunError

from . import operations
from .cuda_device import GpuFacts, cuda_errors, gpu, gpu_facts
from .cuda_gauge import yardstick_or_why
from .cuda_program import CudaCall, CudaProgram, Loaded
from .cuda_timer import CudaTimerConfig, Regime, measure_cuda
from .energy import LEAST_S, energy_problem, measure_energy
from .gauge import Yardstick
from .nvml import Nvml, Reading, open_nvml
from .operations import Answer, Blobs, Held
from .timing import TIMES, copies_for

_MARGIN = operations.MARGIN
_H2D, _D2H, _D2D = 1, 2, 3  # directions of a copy
_KEPT_BYTES = 1 << 30  # of a reference's outputs
_RAMP_S = 0.06  # from idle to the clock of a GPU at work
_RAMP_BYTES = 4 << 20


# ----------------------------------------------------------------------------- the GPU
@dataclass(slots=True)
class _Gpu:
    """The GPU that this process uses: the first that CUDA shows it."""

    cupy: Any
    facts: GpuFacts
    nvml: Nvml | None
    nvml_problem: str
    clocks: Reading | None = None
    yardstick: tuple[Yardstick | None, str] | None = None

    def reference_kernel(self) -> Yardstick | None:
        """The reference kernel, compiled when it is first wanted; None where that fails."""
        if self.yardstick is None:
            self.yardstick = yardstick_or_why(self.cupy, self.facts)
        return self.yardstick[0]

    def about(self) -> dict[str, Any]:
        """What records keep of it."""
        told = {} if self.nvml is None else self.nvml.about
        out = {**self.facts.as_json(), **{f"nvml_{k}": v for k, v in told.items()}}
        if self.clocks is not None:
            out["reference_sm_mhz"] = self.clocks.sm_mhz
            out["reference_mem_mhz"] = self.clocks.mem_mhz
        return out

    def find_clocks(self) -> None:
        """See at which clocks the GPU runs when it is busy with little; times taken at other ones
        are brought to these. None if it is slowed just now, or does not tell."""
        self.clocks = None
        if self.nvml is None:
            return
        runtime = self.cupy.cuda.runtime
        memory = self.cupy.cuda.alloc(_RAMP_BYTES)
        ends = time.monotonic() + _RAMP_S
        while time.monotonic() < ends:
            runtime.memsetAsync(memory.ptr, 0, _RAMP_BYTES, 0)
        now = self.nvml.read()
        runtime.deviceSynchronize()
        if not now.slowed and now.sm_mhz:
            self.clocks = now


_opened: list[_Gpu] = []


def _gpu() -> _Gpu:
    if not _opened:
        cupy = gpu("a worker that runs CUDA kernels")
        with cuda_errors("opening the GPU"):
            cupy.cuda.runtime.setDevice(0)
            facts = gpu_facts(cupy, 0)
            cupy.cuda.alloc(1)
        found = _Gpu(cupy, facts, *open_nvml(facts.pci_bus_id))
        with cuda_errors("opening the GPU"):
            found.find_clocks()
        _opened.append(found)
    return _opened[0]


def warm() -> None:
    """Open the GPU, so that no candidate pays for it; RunError if there is none."""
    _gpu()


def _loaded(g: _Gpu, told: Mapping[str, Any], cubin: bytes) -> Loaded:
    """A program that was built (`CudaCode.as_json` and the cubin), on the GPU."""
    try:
        source, arch = CudaSource.from_json(told), str(told["arch"])
    except (KeyError, TypeError, ValueError) as e:
        raise RunError(f"this is no CUDA program: {e}") from None
    binary = CudaBinary(cubin, "", read_cubin(cubin), arch)
    return CudaProgram(source.host, binary).on(g.cupy, 0)


# ----------------------------------------------------------------------------- arguments
class _OnGpu:
    """Arrays on the device, each between margins; numbers as they are.

    Args:
        held: the contents.
    """

    def __init__(self, g: _Gpu, held: Sequence[int | Held]) -> None:
        self.g = g
        self.held = held
        self.memory: list[Any] = [
            None if isinstance(h, int) else g.cupy.cuda.alloc(_slab(h).nbytes) for h in held
        ]

    @property
    def slots(self) -> list[int]:
        """What a program's parameters get."""
        return [
            h if isinstance(h, int) else int(m.ptr) + _MARGIN
            for h, m in zip(self.held, self.memory)
        ]

    def upload(self) -> None:
        """Set contents and margins from the host."""
        for h, m in zip(self.held, self.memory):
            if not isinstance(h, int):
                slab = _slab(h)
                self.g.cupy.cuda.runtime.memcpy(m.ptr, slab.ctypes.data, slab.nbytes, _H2D)

    def copy_from(self, other: _OnGpu) -> None:
        """Set contents and margins from arrays of the same sizes on the device."""
        for h, m, o in zip(self.held, self.memory, other.memory):
            if not isinstance(h, int):
                n = _slab(h).nbytes
                self.g.cupy.cuda.runtime.memcpyAsync(m.ptr, o.ptr, n, _D2D, 0)

    def overruns(self) -> list[str]:
        """Around which arrays something was written, in words; only the margins are read."""
        out = []
        edge = np.empty(_MARGIN, np.uint8)
        for h, m in zip(self.held, self.memory):
            if isinstance(h, int):
                continue
            for at in (0, _slab(h).nbytes - _MARGIN):
                self.g.cupy.cuda.runtime.memcpy(edge.ctypes.data, m.ptr + at, _MARGIN, _D2H)
                if (edge != operations.canary(h.argument)).any():
                    out.append(f"{h.argument.name}: written outside its bounds")
                    break
        return out

    def download(self) -> list[int | Held]:
        """What is there now, in host memory of its own."""
        out: list[int | Held] = []
        for h, m in zip(self.held, self.memory):
            if isinstance(h, int):
                out.append(h)
                continue
            raw = h.raw.copy()
            slab = raw[h.start - _MARGIN : h.stop + _MARGIN]
            self.g.cupy.cuda.runtime.memcpy(slab.ctypes.data, m.ptr, slab.nbytes, _D2H)
            flat = raw[h.start : h.stop].view(h.flat.dtype)
            array = np.lib.stride_tricks.as_strided(flat, h.array.shape, h.array.strides)
            out.append(replace(h, raw=raw, flat=flat, array=array))
        return out


def _slab(h: Held) -> np.ndarray[Any, Any]:
    """An array and its margins, as bytes."""
    return h.raw[h.start - _MARGIN : h.stop + _MARGIN]


class _Workload:
    """The arguments of the candidates of one workload: a master, and copies to take turns on.

    Attributes:
        regime: what a timer finds in the caches.
    """

    def __init__(self, g: _Gpu, args: Mapping[str, Any], regime: Regime | None) -> None:
        held = operations.arguments(args, int(args.get("seed", 0)))
        total = sum(_slab(h).nbytes for h in held if not isinstance(h, int))
        free = int(g.cupy.cuda.runtime.memGetInfo()[0])
        copies = 1
        if regime in (None, "rotate"):  # and one more, the master
            copies = copies_for(total, g.facts.l2_bytes, free // 2 - total)
        if regime is None:
            large = total >= TIMES * g.facts.l2_bytes
            regime = "rotate" if copies > 1 or large else "warm"
        self.regime: Regime = regime
        self.size = sum(h.stop - h.start for h in held if not isinstance(h, int))
        self.in_cache = regime == "warm" and self.size <= g.facts.l2_bytes
        self.copies = [_OnGpu(g, held) for _ in range(copies)]
        self.master: _OnGpu | None = None
        if (copies + 1) * total <= free // 2:
            self.master = _OnGpu(g, held)
            self.master.upload()

    def restore(self) -> None:
        """Undo whatever a candidate did to the arguments."""
        for c in self.copies:
            if self.master is None:
                c.upload()
            else:
                c.copy_from(self.master)


_last: dict[str, _Workload] = {}


def _workload(g: _Gpu, args: Mapping[str, Any], regime: Regime | None) -> _Workload:
    key = _key(args, regime)
    if key not in _last:
        _forget()
        _last[key] = _Workload(g, args, regime)
    found = _last[key]
    found.restore()
    return found


def _key(args: Mapping[str, Any], *more: object) -> str:
    """What equal arguments have in common; files count with their time."""
    files = []
    for spec in args["arguments"]:
        if isinstance(spec, Mapping) and spec.get("path"):
            facts = os.stat(str(spec["path"]))
            files.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return json.dumps([args["arguments"], args.get("seed", 0), files, [str(m) for m in more]])


def _forget() -> None:
    """Give the memory of the last workload back."""
    _last.clear()
    if _opened:
        _opened[0].cupy.get_default_memory_pool().free_all_blocks()


# ----------------------------------------------------------------------------- run_cuda
def run_cuda(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Time a CUDA program on random arguments.

    Args: "cuda" (`CudaCode.as_json`; the blob is the cubin), "arguments", "seed", "evaluator"
    (fields of `CudaTimerConfig`; regime None: as fits the arguments), "cutoff_s". Answer:
    "run_secs", "number", "disturbed", "cut", "timing" (`CudaTiming.as_json`, with "copies", "size"
    and "in_cache" of the arguments), "nvml" (or None, and "nvml_problem"), "gpu". With "reference"
    in "evaluator" off, the reference kernel is not timed.

    Raises:
        RunError: among others, the program wrote outside its arrays (code "out_of_bounds").
    """
    g = _gpu()
    options = dict(args.get("evaluator") or {})
    regime = options.pop("regime", None)
    reference = g.reference_kernel() if options.pop("reference", True) else None
    try:
        with cuda_errors("run"):
            loaded = _loaded(g, args["cuda"], blobs[0])
            work = _workload(g, args, regime)
            config = _config(work.regime, options, args.get("cutoff_s"))
            calls = [loaded.call(c.slots, 0, c) for c in work.copies]
            timing = measure_cuda(calls, config, g.nvml, g.nvml_problem, reference)
            reasons = work.copies[0].overruns()
    except RunError as e:
        if e.code == "out-of-memory":
            _forget()
        raise
    if not all(0 < t < float("inf") for t in timing.results):
        raise RunError(f"the clock gave {timing.results} seconds for {loaded.host.name}")
    if reasons:
        raise RunError("; ".join(reasons), code="out_of_bounds")
    told = {"copies": len(work.copies), "size": work.size, "in_cache": work.in_cache}
    data = {
        "run_secs": list(timing.results),
        "number": timing.number,
        "disturbed": timing.disturbed,
        "cut": timing.cut,
        "timing": {**timing.as_json(), **told},
        "nvml": timing.nvml,
        "nvml_problem": timing.nvml_problem,
        "gpu": g.about(),
    }
    return data, ()


def gpu_cuda(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """What the GPU is.

    Args: "again": see anew at which clocks it runs, as after they were locked. Answer: "gpu",
    "energy_problem": why its energy cannot be measured, or "".
    """
    g = _gpu()
    if args.get("again"):
        with cuda_errors("reading the GPU's clocks"):
            g.find_clocks()
    return {"gpu": g.about(), "energy_problem": energy_problem(g.nvml, g.nvml_problem)}, ()


def energy_cuda(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Run a CUDA program for a while, and count its energy.

    Args: as of `run_cuda`; "seconds": how long at least. Answer: "energy" (`Energy.as_json`).
    """
    g = _gpu()
    with cuda_errors("run"):
        loaded = _loaded(g, args["cuda"], blobs[0])
        work = _workload(g, args, None)
        calls = [loaded.call(c.slots, 0, c) for c in work.copies]
        seconds = float(args.get("seconds", LEAST_S))
        found = measure_energy(calls, CudaTimerConfig(), g.nvml, g.nvml_problem, seconds)
    return {"energy": found.as_json()}, ()


def _config(regime: Regime, options: Mapping[str, Any], cutoff_s: float | None) -> CudaTimerConfig:
    try:
        return CudaTimerConfig(regime=regime, cutoff_s=cutoff_s, **options)
    except TypeError as e:
        raise RunError(f"evaluator config: {e}") from None


# ----------------------------------------------------------------------------- check_cuda
def check_cuda(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Run a CUDA program and a reference on equal fresh arguments and compare.

    Args: as `run_cuda` and `operations._check`; "reference" is {"symbol"} of object code for this
    machine's processor, or {"cuda"} of another CUDA program. Blobs: the cubin and the reference's
    code; or "expected" and what is expected. Answer: as `operations._check`.
    """
    g = _gpu()
    before = operations.arguments(args, int(args.get("seed", 0)))
    if (told := args.get("expected")) is None:
        wanted = _expected(g, args, blobs[1])
    else:
        wanted = operations.arguments(args, int(args.get("seed", 0)))
        operations.put_expected(wanted, told, blobs[1:])
    with cuda_errors("check"):
        _forget()
        found = _once(g, _loaded(g, args["cuda"], blobs[0]), before)
    return operations.compared(found, wanted, before, args.get("rtol"), args.get("atol")), ()


def outputs_cuda(args: Mapping[str, Any], blobs: Blobs) -> Answer:
    """Run a CUDA program once and give what it writes.

    Args: "cuda", "arguments", "seed"; the blob is the cubin. Answer: "outputs" (name, dtype and
    shape of each written array; the blobs are their contents).

    Raises:
        RunError: it wrote outside its arrays, or changed an input.
    """
    g = _gpu()
    before = operations.arguments(args, int(args.get("seed", 0)))
    with cuda_errors("run"):
        _forget()
        found = _once(g, _loaded(g, args["cuda"], blobs[0]), before)
    if reasons := operations.damage(found, before):
        raise RunError("; ".join(reasons), code="out_of_bounds")
    written = [h for h in found if isinstance(h, Held) and h.argument.written]
    told = [
        {"name": h.argument.name, "dtype": h.argument.dtype, "shape": list(h.array.shape)}
        for h in written
    ]
    return {"outputs": told}, tuple([h.array.tobytes() for h in written])


def _once(g: _Gpu, loaded: Loaded, held: Sequence[int | Held]) -> list[int | Held]:
    """What the arguments hold after one call."""
    on_gpu = _OnGpu(g, held)
    on_gpu.upload()
    call: CudaCall = loaded.call(on_gpu.slots, 0, on_gpu)
    guards = loaded.guard(0)
    call()
    g.cupy.cuda.runtime.deviceSynchronize()
    if reasons := guards():
        raise RunError("; ".join(reasons), code="out_of_bounds")
    return on_gpu.download()


_expectations: dict[str, list[int | Held]] = {}


def _expected(g: _Gpu, args: Mapping[str, Any], code: bytes) -> list[int | Held]:
    """The arguments after the reference; kept, since the next candidate may need the same."""
    key = _key(args, hashlib.blake2b(code).hexdigest())
    found = _expectations.get(key)
    if found is None:
        held = operations.arguments(args, int(args.get("seed", 0)))
        reference = args["reference"]
        if reference.get("cuda"):
            try:
                with cuda_errors("the reference"):
                    _forget()
                    held = _once(g, _loaded(g, reference["cuda"], code), held)
            except GputuneError as e:
                e.details["reference"] = "failed"
                raise
        else:
            operations.bound(code, reference["symbol"], held, 1)()
        size = sum(h.raw.nbytes for h in held if isinstance(h, Held))
        kept = sum(h.raw.nbytes for x in _expectations.values() for h in x if isinstance(h, Held))
        if kept + size > _KEPT_BYTES:
            _expectations.clear()
        found = _expectations[key] = held
    return found


OPERATIONS = {
    "run_cuda": run_cuda, "check_cuda": check_cuda, "outputs_cuda": outputs_cuda,
    "gpu_cuda": gpu_cuda, "energy_cuda": energy_cuda,
}  # fmt: skip
