"""How long does a CUDA program take on the device? One timer, for tuning, benches and
`time_evaluator`; `timing` explains the choices.

A batch is a number of calls between two events. Before it the device is kept busy for some tens of
microseconds, so that the host is ahead when the first event passes: no gap between launches counts.
Calls too short for the host to keep up with are captured in a CUDA graph, which is replayed. What
is in the caches is settled by the regime:

    rotate  calls take turns on copies of the arguments that together exceed the L2 cache
    flush   the L2 cache is overwritten before every call, and each call is timed alone
    warm    the same arguments every time

Times of different regimes are not compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gputune.errors import RunError

from .cuda_device import cuda_errors
from .cuda_gauge import READINGS
from .cuda_program import CudaCall, current_device
from .evaluator import BenchmarkResult, TimerConfig
from .gauge import Gauge, Yardstick
from .nvml import Nvml, open_nvml
from .nvml_observer import NvmlObserver
from .observe import Subject, Watch
from .timing import Regime as Regime
from .timing import readings_told
from .timing import spread as _spread

if TYPE_CHECKING:
    from .cuda_function import CudaFunction

_GRAPH_BELOW = 20e-6  # seconds of a step: shorter ones end before the host has launched the next
_MOST_NODES = 2000  # of a graph
_SETTLED = 2e-3  # the standard error of the median, as a share of it, that is good enough
_FLUSH_BYTES = 128 << 20  # at least; and twice the L2 cache
_PLUG_BYTES = 64 << 20  # written before a batch: some 20 us even on the fastest memory
_SLOW_FIRST = 20e-3  # a first call includes loading the code, which takes less than this
_LONG_S = 3 * NvmlObserver.period_s  # a batch that is read by a thread of its own, not once only


@dataclass(frozen=True, slots=True)
class CudaTimerConfig:
    """How to measure.

    Attributes:
        regime: what the caches hold; see above. With "rotate" there is one call object for each
            copy of the arguments.
        number: calls in a batch, to begin with.
        repeat: batches at least; each gives one result.
        most: batches at most: after `repeat`, more are taken until the median is settled.
        min_repeat_ms: the number of calls is raised until a batch lasts this long.
        budget_s: no further batch once the batches took this long in all.
        cooldown_ms: pause between batches.
        retries: how often, in all, a batch during which the GPU slowed down is taken again.
        cutoff_s: if the first call takes longer than this, its time is the only result.
        graph: use a CUDA graph; None: where a call is too short to be launched one by one.
    """

    regime: Regime = "rotate"
    number: int = 1
    repeat: int = 5
    most: int = 40
    min_repeat_ms: float = 1.0
    budget_s: float = 0.05
    cooldown_ms: float = 0.0
    retries: int = 5
    cutoff_s: float | None = None
    graph: bool | None = None

    def __post_init__(self) -> None:
        if self.regime not in ("rotate", "flush", "warm"):
            raise RunError(
                f"CUDA timer: the regime is rotate, flush or warm, found {self.regime!r}"
            )
        for name in ("number", "repeat", "most", "retries"):
            value = getattr(self, name)
            least = 0 if name == "retries" else 1
            if type(value) is not int or value < least:
                raise RunError(f"CUDA timer: {name} is a count from {least}, found {value!r}")
        for name in ("min_repeat_ms", "budget_s", "cooldown_ms"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise RunError(f"CUDA timer: {name} must be from 0 upwards, found {value!r}")


@dataclass(frozen=True, slots=True)
class CudaTiming(BenchmarkResult):
    """Measured times of a CUDA program.

    Attributes:
        regime: what the caches held.
        graph: was a CUDA graph replayed?
        nvml: clocks, power, temperature during the batches (`NvmlFacts`); None without NVML.
        nvml_problem: why it is None.
    """

    regime: Regime = "warm"
    graph: bool = False
    nvml: dict[str, Any] | None = field(default=None, compare=False)
    nvml_problem: str = ""

    @property
    def spread(self) -> float:
        """The middle half of the results (interquartile range) as a share of the median."""
        return _spread(self.results)

    def as_json(self) -> dict[str, Any]:
        """All but the results, as a record holds it."""
        return {
            "regime": self.regime, "graph": self.graph, "calls": self.number,
            "batches": len(self.results), "spread": self.spread,
            **readings_told(self.readings, self.nominal_s),
        }  # fmt: skip


def measure_cuda(
    calls: Sequence[CudaCall],
    config: CudaTimerConfig,
    nvml: Nvml | None = None,
    nvml_problem: str = "",
    reference: Yardstick | None = None,
) -> CudaTiming:
    """Time a program.

    Args:
        calls: the program with its arguments; for the regime "rotate" one with each copy of them.
        nvml: is read around and during each batch; None: it is not, because of `nvml_problem`.
        reference: is timed before and after; None: nothing is.

    Raises:
        RunError: the program fails on the device, or there is no memory to keep it busy.
    """
    loaded = calls[0].loaded
    with cuda_errors(loaded.host.name), current_device(loaded.cupy, loaded.device):
        run = CudaRun(loaded.cupy, calls, config, nvml)
        gauge = Gauge(reference)
        gauge.read(READINGS)
        run.watch.before(Subject(loaded.host.name, "cuda"))
        first = run.first()
        if config.cutoff_s is not None and first > config.cutoff_s:
            return CudaTiming(
                (first,), regime=config.regime, cut=True, nvml=run.told((first,)),
                nvml_problem=nvml_problem, readings=tuple(gauge.readings),
                nominal_s=gauge.nominal_s,
            )  # fmt: skip
        results, number, disturbed = run.batches(first)
        gauge.read(READINGS)
        return CudaTiming(
            tuple(results), number, disturbed, regime=config.regime, graph=run.graph is not None,
            nvml=run.told(results), nvml_problem=nvml_problem,
            readings=tuple(gauge.readings), nominal_s=gauge.nominal_s,
        )  # fmt: skip


class CudaRun:
    """A measurement under way, on a stream of its own."""

    def __init__(
        self, cupy: Any, calls: Sequence[CudaCall], config: CudaTimerConfig, nvml: Nvml | None
    ) -> None:
        cuda = cupy.cuda
        self.cuda = cuda
        self.calls = calls
        self.config = config
        self.nvml = None if nvml is None else NvmlObserver(nvml)
        self.watch = Watch([] if self.nvml is None else [self.nvml])
        self.graph: Any = None
        self.turn = 0
        cuda.runtime.deviceSynchronize()  # what the arguments come from is done
        self.stream = cuda.Stream(non_blocking=True)
        self.start, self.stop = cuda.Event(), cuda.Event()
        facts = calls[0].loaded.facts
        flush = config.regime == "flush"
        self.plug_bytes = max(_FLUSH_BYTES, 2 * facts.l2_bytes) if flush else _PLUG_BYTES
        self.plug = cuda.alloc(self.plug_bytes)

    # ------------------------------------------------------------------ pieces
    def _next(self) -> None:
        self.calls[self.turn].launch(self.stream.ptr)
        self.turn = (self.turn + 1) % len(self.calls)

    def _busy(self) -> None:
        """Work for the device while the host gets ahead; it also clears the L2 cache."""
        self.cuda.runtime.memsetAsync(self.plug.ptr, 0, self.plug_bytes, self.stream.ptr)

    def _elapsed(self) -> float:
        self.stop.synchronize()
        return float(self.cuda.get_elapsed_time(self.start, self.stop)) * 1e-3

    def _timed(self, number: int) -> float:
        """Seconds of `number` calls, launched one by one."""
        self._busy()
        if self.config.regime == "warm":
            self._next()
        self.start.record(self.stream)
        for _ in range(number):
            self._next()
        self.stop.record(self.stream)
        return self._elapsed()

    def first(self) -> float:
        """Seconds of the first call, without loading the code, if it is not hopeless anyway."""
        seconds = self._timed(1)
        cutoff = self.config.cutoff_s
        if cutoff is not None and seconds > cutoff + _SLOW_FIRST:
            return seconds
        return min(seconds, self._timed(1))

    # ------------------------------------------------------------------ batches
    def batches(self, first: float) -> tuple[list[float], int, int]:
        """Seconds a call for each batch, calls of a batch, and batches while the GPU was slow."""
        config = self.config
        number = self.prepare(first)
        results: list[float] = []
        disturbed, spent, retries = 0, 0.0, config.retries
        while len(results) < max(config.repeat, config.most):
            if len(results) >= config.repeat and (
                spent >= config.budget_s or self._settled(results)
            ):
                break
            if results and config.cooldown_ms:
                time.sleep(config.cooldown_ms * 1e-3)
            seconds, calls = self.batch(number)
            slowed = self.nvml is not None and self.nvml.is_slowed
            again = slowed and retries > 0
            if self.nvml is not None:
                self.nvml.end_batch(counts=not again)
            spent += seconds
            if again:
                retries -= 1
                continue
            results.append(seconds / calls)
            disturbed += slowed
        return results, self._calls(number), disturbed

    def prepare(self, first: float) -> int:
        """What `batch` takes, for a program whose first call took so long."""
        number = 1 if self.config.regime == "flush" else self._number(first)
        self.took = number * first
        return number

    def batch(self, number: int) -> tuple[float, int]:
        """Run a batch: its seconds, and its calls."""
        return self._batch(number), self._calls(number)

    def _calls(self, number: int) -> int:
        return self.config.number if self.config.regime == "flush" else number

    def _settled(self, results: Sequence[float]) -> bool:
        return _spread(results) / math.sqrt(len(results)) < _SETTLED

    def _number(self, first: float) -> int:
        """How many calls a batch has; prepares the graph where there is to be one."""
        config, copies = self.config, len(self.calls)
        steps = max(1, len(self.calls[0].loaded.host.steps))
        probe = max(3, min(copies, 8))
        estimate = min(first, self._timed(probe) / probe)
        wanted = max(config.number, math.ceil(config.min_repeat_ms * 1e-3 / max(estimate, 1e-7)))
        use = config.graph if config.graph is not None else estimate / steps < _GRAPH_BELOW
        if not use:
            return wanted
        # whole turns: every batch finds the caches alike
        number = max(1, min(wanted, _MOST_NODES // steps))
        number = max(copies, number // copies * copies)
        self.graph = self._capture(number)
        took = self._batch(number)
        if self.nvml is not None:
            self.nvml.end_batch(counts=False)
        # a graph replayed in a row, where one replay is short still
        self.replays = max(1, math.ceil(config.min_repeat_ms * 1e-3 / max(took, 1e-7)))
        return number * self.replays

    replays = 1

    def _capture(self, number: int) -> Any:
        self.turn = 0
        self.stream.begin_capture()
        try:
            for _ in range(number):
                self._next()
        finally:
            graph = self.stream.end_capture()
        graph.upload(self.stream)
        return graph

    def _batch(self, number: int) -> float:
        """Seconds of a batch; NVML is read meanwhile."""
        if self.config.regime == "flush":
            return self._flushed()
        self._busy()
        if self.graph is None:
            if self.config.regime == "warm":
                self._next()
            self.start.record(self.stream)
            for _ in range(number):
                self._next()
        else:
            if self.config.regime == "warm":
                self.graph.launch(self.stream)
            self.start.record(self.stream)
            for _ in range(self.replays):
                self.graph.launch(self.stream)
        self.stop.record(self.stream)
        return self._observed()

    def _flushed(self) -> float:
        total = 0.0
        for at in range(self.config.number):
            self._busy()
            self.start.record(self.stream)
            self._next()
            self.stop.record(self.stream)
            total += self._observed() if at == 0 else self._elapsed()
        return total

    # ------------------------------------------------------------------ what the GPU is doing
    def _observed(self) -> float:
        """Wait for the batch that was launched, reading NVML: once, and again and again where it
        lasts."""
        self.watch.during()
        if self.took < _LONG_S:
            self.took = self._elapsed()
            return self.took
        with self.watch.sampling():
            self.took = self._elapsed()
        return self.took

    took = 0.0  # the last batch

    def told(self, results: Sequence[float]) -> dict[str, Any] | None:
        """What NVML said; the measurement is over."""
        if self.nvml is None:
            return None
        self.watch.after(results)
        found = self.watch.results().get(self.nvml.name)
        return {"problems": dict(self.watch.problems)} if found is None else found


# ----------------------------------------------------------------------------- time_evaluator
class CudaTimeEvaluator:
    """Times a function of a module on the arguments it is called with; see
    `Module.time_evaluator`. The arguments stay where they are: what the caches hold of them, they
    hold ("warm"), unless `flush_cache` is asked for."""

    __slots__ = ("config", "function")

    def __init__(self, function: CudaFunction, config: TimerConfig) -> None:
        self.function = function
        self.config = config

    def __call__(self, *args: Any) -> CudaTiming:
        """Measure; RunError if the arguments do not fit."""
        call = self.function.bind(*args)
        c = self.config
        config = CudaTimerConfig(
            regime="flush" if c.flush_cache else "warm",
            number=c.number,
            repeat=c.repeat,
            most=c.repeat,
            min_repeat_ms=c.min_repeat_ms,
            budget_s=0.0,
            cooldown_ms=c.cooldown_ms,
            cutoff_s=c.cutoff_s,
        )
        nvml, problem = open_nvml(call.loaded.facts.pci_bus_id)
        return measure_cuda([call], config, nvml, problem)
