"""A GPU made of host memory: a stand-in for CuPy in which kernels are Python functions.

`FakeGpu().cupy` is what `import cupy` gives. Time is simulated: each stream has a clock, which
kernels and memsets advance, and events read it. Errors of CUDA can be planted.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Kernel = Callable[["FakeGpu", tuple[int, ...], list[int]], None]


class CudaError(RuntimeError):
    """As CuPy's CUDADriverError and CUDARuntimeError."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text or f"CUDA_ERROR_{status}: planted")
        self.status = status


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory.OutOfMemoryError."""


class Memory:
    """As cupy.cuda.MemoryPointer: begins at a multiple of 512 bytes."""

    def __init__(self, size: int) -> None:
        self.raw = np.full(size + 512, 0x5C, np.uint8)
        self.ptr = -(-self.raw.ctypes.data // 512) * 512


class NdArray:
    """As cupy.ndarray."""

    def __init__(self, gpu: FakeGpu, values: np.ndarray, owner: Any = None, at: int = 0) -> None:
        self.gpu = gpu
        self.memory = owner or gpu.alloc(max(1, values.nbytes))
        raw = (ctypes.c_uint8 * max(1, values.nbytes)).from_address(self.memory.ptr + at)
        self.host = np.frombuffer(raw, np.uint8)[: values.nbytes].view(values.dtype)
        self.host = self.host.reshape(values.shape)
        self.host[...] = values
        self.data = SimpleNamespace(ptr=self.memory.ptr + at)
        self.device = SimpleNamespace(id=gpu.device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # it is no array in host memory
            raise AttributeError(name)
        return getattr(self.host, name)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id


class Stream:
    """As cupy.cuda.Stream, with a clock of its own."""

    def __init__(self, gpu: FakeGpu, ptr: int) -> None:
        self.gpu, self.ptr, self.now = gpu, ptr, 0.0
        self.captured: list[Callable[[int], None]] | None = None

    def begin_capture(self, mode: int | None = None) -> None:
        assert self.ptr, "the default stream cannot be captured"
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured is not None
        done, self.captured = self.captured, None
        return Graph(self.gpu, done)

    def is_capturing(self) -> bool:
        return self.captured is not None

    def synchronize(self) -> None:
        self.gpu.check()

    def __enter__(self) -> Stream:
        self.gpu.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.gpu.current.pop()


class Graph:
    """As cupy.cuda.Graph."""

    def __init__(self, gpu: FakeGpu, steps: list[Callable[[int], None]]) -> None:
        self.gpu, self.steps, self.launches = gpu, steps, 0

    def upload(self, stream: Stream) -> None:
        pass

    def launch(self, stream: Stream | None = None) -> None:
        self.launches += 1
        self.gpu.graphs.append(self)
        for step in self.steps:
            step((stream or self.gpu.current[-1]).ptr)


class Event:
    """As cupy.cuda.Event."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.time = gpu, 0.0
        gpu.events.append(self)
        self.ptr = -len(gpu.events)

    def record(self, stream: Stream | None = None) -> None:
        self.time = (stream or self.gpu.current[-1]).now

    def synchronize(self) -> None:
        self.gpu.check()


class FakeGpu:
    """The GPU.

    Attributes:
        kernels: what each does, by name: takes the GPU, its grid and block, and the addresses of
            its arguments.
        seconds: how long each takes, or a function of grid, block and shared memory; default 10 us.
        log: what was done: ("launch", name, stream), ("memset", ...), ("wait", stream, other), ...
        lost: the status of a sticky error: every call raises it from then on.
        free: bytes of memory left.
    """

    def __init__(self, arch: tuple[int, int] = (9, 0), device: int = 0, shared: int = 232448):
        self.kernels: dict[str, Kernel] = {}
        self.seconds: dict[str, float | Callable[[tuple[int, ...]], float]] = {}
        self.counts: dict[str, int] = {}  # of arguments, where there are not three
        self.noise: Callable[[], float] = lambda: 1.0
        self.log: list[tuple[Any, ...]] = []
        self.lost: int | None = None
        self.free = 1 << 30
        self.device = device
        self.events: list[Event] = []
        self.graphs: list[Graph] = []
        self.loaded: list[bytes] = []
        self.attributes: dict[int, int] = {}
        self.names: list[str] = []
        self.null = Stream(self, 0)
        self.streams: dict[int, Stream] = {0: self.null}
        self.current = [self.null]
        self.memset_rate = 3e12
        self.l2 = 1 << 20
        self.properties = {
            "name": b"Fake H100", "major": arch[0], "minor": arch[1], "multiProcessorCount": 132,
            "l2CacheSize": self.l2, "totalGlobalMem": 80 << 30, "sharedMemPerBlock": 49152,
            "sharedMemPerBlockOptin": shared,
        }  # fmt: skip
        self.cupy = self._module()

    # ------------------------------------------------------------------ as the driver
    def check(self) -> None:
        if self.lost is not None:
            raise CudaError(self.lost)

    def alloc(self, size: int) -> Memory:
        self.check()
        if size > self.free:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        return Memory(size)

    def new_stream(self, null: bool = False, non_blocking: bool = False) -> Stream:
        stream = Stream(self, 0x1000 + len(self.streams))
        self.streams[stream.ptr] = stream
        return stream

    def _enqueue(self, stream: int, seconds: float, do: Callable[[int], None]) -> None:
        self.check()
        s = self.streams[stream]
        if s.captured is not None:
            s.captured.append(lambda ptr: self._enqueue(ptr, seconds, do))
            return
        s.now += seconds * self.noise()
        do(stream)

    def launch(
        self, f: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int,
        stream: int, params: int, extra: int,
    ) -> None:  # fmt: skip
        name = self.names[f]
        if shared > 49152 and shared > self.attributes.get(f, 0):
            raise CudaError(1, "CUDA_ERROR_INVALID_VALUE: shared memory was not asked for")
        # The arguments are copied at the launch, as the driver does.
        count = self.counts.get(name, 3)
        given = (ctypes.c_void_p * count).from_address(params)
        values = (ctypes.c_uint64 * count)(
            *[ctypes.c_uint64.from_address(given[i] or 0).value for i in range(count)]
        )
        table = [ctypes.addressof(values) + 8 * i for i in range(count)]

        def do(on: int) -> None:
            self.log.append(("launch", name, on))
            kernel = self.kernels[name]
            kernel(self, (gx, gy, gz, bx, by, bz, shared), table)
            assert len(values) == count  # alive until here

        seconds = self.seconds.get(name, 10e-6)
        if callable(seconds):
            seconds = seconds((gx, gy, gz, bx, by, bz, shared))
        self._enqueue(stream, seconds, do)

    def memset(self, ptr: int, value: int, size: int, stream: int) -> None:
        def do(on: int) -> None:
            self.log.append(("memset", size, on))
            ctypes.memset(ptr, value, size)

        self._enqueue(stream, size / self.memset_rate, do)

    def copy(self, to: int, source: int, size: int, kind: int, stream: int = 0) -> None:
        self.check()
        ctypes.memmove(to, source, size)

    def function(self, name: str) -> SimpleNamespace:
        if name not in self.kernels:
            raise CudaError(500, "CUDA_ERROR_NOT_FOUND: named symbol not found")
        self.names.append(name)
        return SimpleNamespace(ptr=len(self.names) - 1)

    # ------------------------------------------------------------------ as CuPy
    def array(self, values: Any, order: str = "K") -> NdArray:
        if isinstance(values, NdArray):
            return values
        return NdArray(self, np.ascontiguousarray(values))

    def _module(self) -> Any:
        gpu = self

        class Module:
            def load(self, cubin: bytes) -> None:
                gpu.check()
                gpu.loaded.append(cubin)

            def get_function(self, name: str) -> Any:
                return gpu.function(name)

        def stream(*a: Any, **k: Any) -> Stream:
            return gpu.new_stream(*a, **k)

        stream.null = self.null  # type: ignore[attr-defined]  # as a class attribute
        stream.from_external = lambda x: gpu.streams[x.__cuda_stream__()[1]]  # type: ignore[attr-defined]  # likewise
        current = {"device": 0}
        runtime = SimpleNamespace(
            getDevice=lambda: current["device"],
            setDevice=lambda k: current.update(device=k),
            getDeviceProperties=lambda k: gpu.properties,
            driverGetVersion=lambda: 13000,
            deviceGetPCIBusId=lambda k: "0000:3B:00.0",
            deviceSynchronize=gpu.check,
            memcpy=gpu.copy,
            memcpyAsync=gpu.copy,
            memsetAsync=gpu.memset,
            memGetInfo=lambda: (gpu.free, 80 << 30),
            streamIsCapturing=lambda p: gpu.streams[p].is_capturing(),
            eventRecord=lambda e, s: gpu.log.append(("record", e, s)),
            streamWaitEvent=lambda s, e: gpu.log.append(("wait", s, e)),
        )
        driver = SimpleNamespace(
            launchKernel=gpu.launch,
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
            funcSetAttribute=lambda f, a, v: gpu.attributes.update({f: v}),
        )
        cuda = SimpleNamespace(
            runtime=runtime,
            driver=driver,
            function=SimpleNamespace(Module=Module),
            alloc=gpu.alloc,
            Stream=stream,
            Event=lambda **k: Event(gpu),
            get_elapsed_time=lambda a, b: (b.time - a.time) * 1e3,
            get_current_stream=lambda *a: gpu.current[-1],
        )
        module: Any = ModuleType("cupy")
        module.cuda = cuda
        module.ndarray = NdArray
        module.asarray = self.array
        module.asnumpy = lambda x: x.host.copy()
        module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        return module

    def install(self, monkeypatch: Any = None) -> None:
        """Make it this process's CuPy, and CUDA usable."""
        from gputune.runtime import cuda_device

        if monkeypatch is None:
            sys.modules["cupy"] = self.cupy
            cuda_device.cuda_problem = lambda: None  # type: ignore[assignment]  # a stand-in
        else:
            monkeypatch.setitem(sys.modules, "cupy", self.cupy)
            monkeypatch.setattr(cuda_device, "cuda_problem", lambda: None)


def at(table: Any, position: int, count: int, dtype: str = "float32") -> np.ndarray:
    """The array that the argument at a position points to."""
    pointer = ctypes.c_uint64.from_address(table[position]).value
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype)


def number(table: Any, position: int, dtype: str) -> Any:
    """The number at a position."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(table[position]), dtype)[0]
