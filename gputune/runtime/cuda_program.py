"""How does a compiled CUDA program run on a device? Loaded once, launched on the caller's stream.

Nothing of it waits for the device. Workspaces are allocated at the first call on a stream and kept,
so that a later call can be captured in a CUDA graph; such a graph uses the workspaces of the stream
on which it was captured, as long as the program lives.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gputune.codegen.cuda.compile import CudaBinary
from gputune.codegen.cuda.program import HostProgram, Launch, Memset, Param, Workspace
from gputune.errors import RunError
from gputune.ir import dtypes

from .cuda_device import GpuFacts, check_arch, cuda_errors, gpu_facts, translated

_WORD = 8  # bytes of a slot: an address or the bits of a number
GUARD = 256
"""Bytes before and behind each piece of the program's own memory in which nothing is written; as
many as its alignment, which thereby stays."""
_POISON = 0xFF  # NaN to every float
_D2H = 2  # the direction of a copy


class CudaProgram:
    """A compiled program, loaded on each device on which it is called.

    Args:
        host: the steps of a call.
        binary: the compiled kernels.

    Raises:
        RunError: it launches clusters, which this version does not.
    """

    def __init__(self, host: HostProgram, binary: CudaBinary) -> None:
        for launch in host.launches:
            if launch.cluster is not None:
                raise RunError(
                    f"{host.name}: kernel {launch.kernel} is launched in clusters, which is not "
                    "part of this version",
                    code="cluster",
                )
        self.host = host
        self.binary = binary
        self._lock = threading.Lock()
        self._devices: dict[int, Loaded] = {}

    def on(self, cupy: Any, device: int) -> Loaded:
        """The program on a device, which is the current one.

        Raises:
            RunError: it does not run there, or there is no memory for it.
        """
        found = self._devices.get(device)
        if found is None:
            with self._lock:
                found = self._devices.get(device)
                if found is None:
                    found = _load(cupy, device, self.host, self.binary)
                    self._devices[device] = found
        return found

    def __repr__(self) -> str:
        kernels = ", ".join(x.kernel for x in self.host.launches)
        return f"CudaProgram({self.host.name}: {kernels}; {self.binary.arch})"


@dataclass(slots=True, eq=False)
class Loaded:
    """A program on one device.

    Attributes:
        cupy: the module.
        device: its index.
        facts: of the device.
        host: the steps of a call.
    """

    cupy: Any
    device: int
    facts: GpuFacts
    host: HostProgram
    _module: Any  # keeps the code loaded
    _functions: Mapping[str, int]
    _workspaces: dict[int, list[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, slots: Sequence[int], stream: int, keep: object = None) -> CudaCall:
        """The program with its arguments; see `CudaCall`.

        Args:
            slots: for each parameter its address, or the bits of a number.
            stream: whose workspaces it uses.
            keep: what must live as long as the call: the arrays.
        """
        memory = self.workspaces(stream)
        own = [int(m.ptr) + GUARD for m in memory]
        return CudaCall(self, [*slots, *own], stream, (keep, memory))

    def guard(self, stream: int) -> Callable[[], list[str]]:
        """Fill the program's own memory with what nothing computes, and the zones around it.

        Returns:
            What says, after a call, around which of it something was written, in words.
        """
        runtime = self.cupy.cuda.runtime
        memory = self.workspaces(stream)
        sizes = [w.elements * dtypes.itemsize(w.dtype) for w in self.host.workspaces]
        for m, size in zip(memory, sizes):
            runtime.memsetAsync(m.ptr, _POISON, size + 2 * GUARD, stream)
        runtime.deviceSynchronize()

        def broken() -> list[str]:
            out = []
            edge = np.empty(GUARD, np.uint8)
            for w, m, size in zip(self.host.workspaces, memory, sizes):
                for at in (0, GUARD + size):
                    runtime.memcpy(edge.ctypes.data, m.ptr + at, GUARD, _D2H)
                    if (edge != _POISON).any():
                        out.append(f"{w.name}: written outside its bounds")
                        break
            return out

        return broken

    def workspaces(self, stream: int) -> list[Any]:
        """The program's own memory for calls on a stream; allocated the first time.

        Raises:
            RunError: there is no memory; or it is the first call, and the stream is captured.
        """
        if not self.host.workspaces:
            return []
        found = self._workspaces.get(stream)
        if found is not None:
            return found
        with self._lock:
            found = self._workspaces.get(stream)
            if found is None:
                found = self._workspaces[stream] = self._allocate(stream)
        return found

    def _allocate(self, stream: int) -> list[Any]:
        cuda, name = self.cupy.cuda, self.host.name
        with cuda_errors(name):
            if stream and cuda.runtime.streamIsCapturing(stream):
                raise RunError(
                    f"{name} needs memory of its own, which cannot be allocated while a graph is "
                    "captured",
                    hint="call it once on this stream before the capture begins",
                    code="capture",
                )
            sizes = [w.elements * dtypes.itemsize(w.dtype) for w in self.host.workspaces]
            # CuPy's pool hands memory out again in the order of a stream: of this one.
            with _on_stream(self.cupy, stream):
                return [cuda.alloc(n + 2 * GUARD) for n in sizes]


@contextmanager
def _on_stream(cupy: Any, stream: int) -> Iterator[None]:
    current = cupy.cuda.get_current_stream()
    if int(current.ptr) == stream:
        yield
        return
    cuda = cupy.cuda
    with cuda.Stream.null if not stream else external_stream(cupy, stream):
        yield


def external_stream(cupy: Any, stream: int) -> Any:
    """CuPy's object for another library's stream."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(stream))
    return cupy.cuda.ExternalStream(stream)  # before CuPy 14


@dataclass(frozen=True, slots=True)
class _Handle:
    """A stream as the CUDA stream protocol has it."""

    stream: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream


def _load(cupy: Any, device: int, host: HostProgram, binary: CudaBinary) -> Loaded:
    with cuda_errors(host.name):
        facts = gpu_facts(cupy, device)
        check_arch(host.name, binary.arch, facts)
        module = cupy.cuda.function.Module()
        module.load(binary.cubin)
        functions: dict[str, int] = {}
        for launch in host.launches:
            if launch.kernel not in functions:
                functions[launch.kernel] = int(module.get_function(launch.kernel).ptr)
        shared: dict[str, int] = {}
        for launch in host.launches:
            shared[launch.kernel] = max(shared.get(launch.kernel, 0), launch.shared_bytes)
        for kernel, dynamic in shared.items():
            static = binary.facts[kernel].shared_bytes if kernel in binary.facts else 0
            _allow_shared(cupy, kernel, functions[kernel], static, dynamic, facts)
    return Loaded(cupy, device, facts, host, module, functions)


_DEFAULT_SHARED = 48 << 10  # more than this is asked for, since Volta


def _allow_shared(
    cupy: Any, kernel: str, function: int, static: int, dynamic: int, facts: GpuFacts
) -> None:
    if static + dynamic > facts.shared_per_block:
        raise RunError(
            f"{kernel} uses {static + dynamic} bytes of shared memory a block, and an "
            f"{facts.name} has {facts.shared_per_block}",
            hint="smaller tiles",
            code="shared-memory",
        )
    if dynamic and static + dynamic > _DEFAULT_SHARED:
        driver = cupy.cuda.driver
        driver.funcSetAttribute(
            function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, dynamic
        )


# ----------------------------------------------------------------------------- a call
class CudaCall:
    """A program with its arguments, ready to be launched again and again.

    Args:
        loaded: the program on the device.
        values: for each parameter, then each workspace, its address or the bits of a number.
        stream: on which `f()` runs it.
        keep: what must live as long as this.
    """

    __slots__ = ("_launches", "_memory", "_steps", "keep", "loaded", "stream")

    def __init__(self, loaded: Loaded, values: Sequence[int], stream: int, keep: object) -> None:
        self.loaded = loaded
        self.stream = stream
        self.keep = keep
        host = loaded.host
        names = [*(p.name for p in host.params), *(w.name for w in host.workspaces)]
        named: list[Param | Workspace] = [*host.params, *host.workspaces]
        sizes = {x.name: (x.elements or 0) * dtypes.itemsize(x.dtype) for x in named}
        # The driver copies arguments when it is called: one memory of slots serves all launches.
        self._memory = (ctypes.c_uint64 * max(1, len(values)))(*values)
        base = ctypes.addressof(self._memory)
        at = {n: base + _WORD * i for i, n in enumerate(names)}
        where = dict(zip(names, values))
        self._launches: list[Any] = []  # keeps the tables of pointers
        self._steps: list[tuple[Any, ...]] = []
        for step in host.steps:
            match step:
                case Memset():
                    if sizes[step.name]:
                        self._steps.append((None, where[step.name], step.byte, sizes[step.name]))
                case Launch():
                    if 0 in step.grid or 0 in step.block:
                        continue  # there is nothing to do
                    table = (ctypes.c_void_p * max(1, len(step.args)))(*(at[n] for n in step.args))
                    self._launches.append(table)
                    function = loaded._functions[step.kernel]
                    sizes_ = (*step.grid, *step.block, step.shared_bytes)
                    self._steps.append((function, sizes_, ctypes.addressof(table), 0))

    def __call__(self) -> None:
        """Run it on its stream, without waiting; RunError if the launch is refused."""
        runtime, device = self.loaded.cupy.cuda.runtime, self.loaded.device
        before = int(runtime.getDevice())
        runtime.setDevice(device)  # makes its context this thread's, too
        try:
            self.launch(self.stream)
        finally:
            if before != device:
                runtime.setDevice(before)

    def launch(self, stream: int) -> None:
        """Run it on a stream, without waiting. The device must be the current one."""
        driver, runtime = self.loaded.cupy.cuda.driver, self.loaded.cupy.cuda.runtime
        try:
            for function, first, second, third in self._steps:
                if function is None:
                    runtime.memsetAsync(first, second, third, stream)
                else:
                    driver.launchKernel(function, *first, stream, second, 0)
        except (RuntimeError, MemoryError) as e:
            raise translated(e, self.loaded.host.name) from None


@contextmanager
def current_device(cupy: Any, device: int) -> Iterator[None]:
    """Make a device (and its context, in this thread) the current one."""
    runtime = cupy.cuda.runtime
    before = int(runtime.getDevice())
    runtime.setDevice(device)
    try:
        yield
    finally:
        if before != device:
            runtime.setDevice(before)
