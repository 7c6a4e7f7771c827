"""Where does a cell run? On the GPU; or, to rehearse everything but the GPU, on the processor.

Both offer the same few things: tensors of torch in their memory, gputune's functions bound to them,
batches of calls between two readings of a clock, a batch recorded to be replayed, and what NVML
says meanwhile. On the GPU all of a cell, torch's and CuPy's work too, runs on one stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpu_ceilings import Ceilings, Rate

from gputune.runtime.nvml import Reading, open_nvml
from gputune.target import Target

Work = Callable[[], Any]
_PLUG_BYTES = 64 << 20  # written before a batch: some 20 us during which the host gets ahead


class NoGraph(Exception):
    """A batch cannot be recorded here."""


class Cuda:
    """The first GPU, through torch and CuPy.

    Attributes:
        place: torch's name of it.
        target: what gputune builds for.
        l2_bytes: of its cache; the rotation of arguments goes by it.
    """

    place = "cuda"

    def __init__(self, torch: Any, cupy: Any) -> None:
        from gputune.runtime.cuda_device import gpu_facts
        from gputune.runtime.cuda_program import external_stream

        self.torch, self.cupy = torch, cupy
        self.target = Target("cuda")
        self.facts = gpu_facts(cupy, 0)
        self.name = self.facts.name
        self.l2_bytes = self.facts.l2_bytes
        self.nvml, self.nvml_problem = open_nvml(self.facts.pci_bus_id)
        self.stream = torch.cuda.Stream()
        self._cupy_stream = external_stream(cupy, int(self.stream.cuda_stream))
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)
        self._plug = torch.empty(_PLUG_BYTES, dtype=torch.uint8, device=self.place)
        self.ceilings = Ceilings(self.target.arch, self.facts.sms)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Everything inside runs on the one stream."""
        with self.torch.cuda.stream(self.stream), self._cupy_stream:
            yield

    def bind(self, function: Any, tensors: Sequence[Any]) -> Work:
        """A function of gputune with its arguments."""
        call = function.bind(*tensors)
        pointer = int(self.stream.cuda_stream)
        return lambda: call.launch(pointer)

    def synchronize(self) -> None:
        self.torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what no tensor holds any more."""
        self.torch.cuda.empty_cache()
        self.cupy.get_default_memory_pool().free_all_blocks()

    def batch(self, work: Work, read: bool = False) -> tuple[float, Reading | None]:
        """Seconds between the events before and after some work, and NVML's reading meanwhile."""
        self._plug.fill_(0)
        self._start.record()
        work()
        self._stop.record()
        found = self.nvml.read() if read and self.nvml is not None else None
        self._stop.synchronize()
        return float(self._start.elapsed_time(self._stop)) * 1e-3, found

    def record(self, work: Work) -> Work:
        """Work as a CUDA graph; calling the result replays it.

        Raises:
            NoGraph: it does something that no graph can hold.
        """
        graph = self.torch.cuda.CUDAGraph()
        self.torch.cuda.synchronize()
        try:
            graph.capture_begin(capture_error_mode="relaxed")
            try:
                work()
            finally:
                graph.capture_end()
        except Exception as e:  # whatever a library says to it, its calls can be timed one by one
            raise NoGraph(f"{type(e).__name__}: {str(e).strip().splitlines()[:1]}") from None
        return lambda: graph.replay()

    def read(self) -> Reading | None:
        """What NVML says now."""
        return self.nvml.read() if self.nvml is not None else None

    def floor(self, rate: Rate) -> list[Work]:
        """The loops of a ceiling, on memory of their own: one for each turn of the rotation."""
        return self.ceilings.works(self.torch, self.cupy, self.stream, rate)


class Host:
    """This machine's processor, in the place of a GPU: whether everything works, not how fast."""

    place = "cpu"
    name = "rehearsal"
    l2_bytes = 1 << 12
    nvml_problem = "there is no GPU"
    nvml = None

    def __init__(self, torch: Any) -> None:
        self.torch, self.cupy = torch, None
        self.target = Target("llvm --num-cores=1")

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def bind(self, function: Any, tensors: Sequence[Any]) -> Work:
        call: Work = function.bind(*map(self._array, tensors))
        return call

    def _array(self, tensor: Any) -> Any:
        """NumPy's view of a tensor's memory."""
        if tensor.dtype is not self.torch.bfloat16:
            return tensor.numpy()
        import ml_dtypes

        return tensor.view(self.torch.int16).numpy().view(ml_dtypes.bfloat16)

    def synchronize(self) -> None:
        pass

    def free(self) -> None:
        pass

    def batch(self, work: Work, read: bool = False) -> tuple[float, Reading | None]:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start, None

    def record(self, work: Work) -> Work:
        raise NoGraph("the processor has none")

    def read(self) -> Reading | None:
        return None

    def floor(self, rate: Rate) -> list[Work]:
        size = max(rate.read, rate.written, 16) // 4
        source, target = (self.torch.zeros(size, dtype=self.torch.int32) for _ in range(2))
        return [lambda: target.copy_(source)]


Device = Cuda | Host
