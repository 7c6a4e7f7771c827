"""How long does a kernel take? One timer, used by tuning, benchmarks and `time_evaluator`.

A repeat is a batch of calls in a loop of machine code between two readings of the clock. A
repeat in which the operating system took the processor away (wall clock ahead of this thread's
processor time) is measured again, a bounded number of times.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

from gputune.errors import RunError

from . import native
from .function import BoundCall, Function, failed

# A repeat counts as undisturbed if the wall clock is at most this far ahead of processor time.
_AHEAD_SHARE, _AHEAD_SECONDS = 0.02, 20e-6
_MAX_NUMBER = 1 << 40
# A first call has cold caches, and pays once for pages and threads: it may take this much longer,
# and three times as long, without being slow.
_COLD_SECONDS, _COLD_FACTOR = 200e-6, 3.0


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Measured times of a kernel.

    Attributes:
        results: seconds a call, one for each repeat.
        number: calls in a repeat.
        disturbed: repeats in `results` during which the thread was held up all the same.
        cut: it was slower than the cutoff, and was not timed further.
    """

    results: tuple[float, ...]
    number: int = 1
    disturbed: int = 0
    cut: bool = False

    @property
    def mean(self) -> float:
        """Seconds a call."""
        return statistics.fmean(self.results)

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.results)

    @property
    def min(self) -> float:
        """Seconds a call."""
        return min(self.results)

    @property
    def max(self) -> float:
        """Seconds a call."""
        return max(self.results)

    @property
    def std(self) -> float:
        """Standard deviation of the repeats, seconds."""
        return statistics.pstdev(self.results)

    def __str__(self) -> str:
        scale, unit = _unit(self.median)
        names = ("mean", "median", "min", "max", "std")
        figures = ", ".join(f"{n} {getattr(self, n) * scale:.4g}" for n in names)
        note = f", {self.disturbed} disturbed" if self.disturbed else ""
        return f"{figures} {unit} ({len(self.results)} x {self.number} calls{note})"


def _unit(seconds: float) -> tuple[float, str]:
    for limit, scale, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return scale, unit
    return 1.0, "s"


@dataclass(frozen=True, slots=True)
class TimerConfig:
    """How to measure.

    Attributes:
        number: calls in a repeat, to begin with.
        repeat: how many repeats, each giving one result.
        min_repeat_ms: `number` is raised until a repeat lasts this long.
        flush_cache: drop the arguments from the caches before every call (each call is then timed
            alone, and `number` is not raised).
        cooldown_ms: pause between repeats.
        retries: how often, in all, a disturbed repeat is measured again.
        cutoff_s: a kernel that takes longer is not timed further: what was measured by then is the
            only result. The first call decides where it is far above (first calls are slow in any
            case), else a second one, or the first repeat.
    """

    number: int = 10
    repeat: int = 1
    min_repeat_ms: float = 0
    flush_cache: bool = False
    cooldown_ms: float = 0
    retries: int = 8
    cutoff_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("number", "repeat"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RunError(
                    f"time evaluator: {name} must be a whole number from 1, found {value!r}"
                )
        for name in ("min_repeat_ms", "cooldown_ms", "retries"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise RunError(f"time evaluator: {name} must be from 0 upwards, found {value!r}")


def measure(call: BoundCall, config: TimerConfig) -> BenchmarkResult:
    """Time a bound call; RunError if the kernel reports an error."""
    cutoff = math.inf if config.cutoff_s is None else config.cutoff_s
    first = _first(call, cutoff)
    if first > cutoff + _COLD_SECONDS:
        return BenchmarkResult((first,), cut=True)
    if config.flush_cache:
        return _measure_cold(call, config)
    number = _enough(call, config)
    retries = int(config.retries)
    results, disturbed = [], 0
    for i in range(config.repeat):
        if i and config.cooldown_ms:
            time.sleep(config.cooldown_ms * 1e-3)
        seconds, held_up = _batch(call, number)
        while held_up and retries > 0:
            retries -= 1
            again, held_up = _batch(call, number)
            seconds = min(seconds, again) if held_up else again
        results.append(seconds / number)
        disturbed += held_up
        if i == 0 and results[0] > cutoff and not held_up:
            return BenchmarkResult(tuple(results), number, cut=True)
    return BenchmarkResult(tuple(results), number, disturbed)


def _first(call: BoundCall, cutoff: float) -> float:
    """Seconds of the first call; of the better of two, if the first is slow and may have been so
    for being the first."""
    found = math.inf
    for _ in range(2):
        start = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - start)
        if not cutoff < found - _COLD_SECONDS < _COLD_FACTOR * cutoff:
            break
    return found


def _enough(call: BoundCall, config: TimerConfig) -> int:
    """The number of calls with which a repeat lasts `min_repeat_ms`; warms up on the way."""
    wanted = config.min_repeat_ms * 1e-3
    number = config.number
    while wanted > 0 and number < _MAX_NUMBER:
        seconds, _ = _batch(call, number)
        if seconds >= wanted:
            break
        # A little more than the estimate, so that one more step is usually the last.
        estimate = math.ceil(number * 1.05 * wanted / max(seconds, 1e-9))
        number = min(max(number + 1, estimate), number * 1000)
    return number


def _batch(call: BoundCall, number: int) -> tuple[float, bool]:
    """Seconds for `number` calls, and whether the thread was held up meanwhile."""
    repeat = native.repeater()
    address, memory, pool = call.address, call.memory, call.pool_address
    cpu = time.thread_time()
    start = time.perf_counter()
    code = repeat(address, memory, pool, number)
    wall = time.perf_counter() - start
    cpu = time.thread_time() - cpu
    if code:
        raise failed(call.name, code)
    # The caller of a parallel kernel may wait for other threads: nothing can be told then.
    held_up = not call.parallel and wall - cpu > _AHEAD_SHARE * wall + _AHEAD_SECONDS
    return wall, held_up


def _measure_cold(call: BoundCall, config: TimerConfig) -> BenchmarkResult:
    results = []
    for i in range(config.repeat):
        if i and config.cooldown_ms:
            time.sleep(config.cooldown_ms * 1e-3)
        total = 0.0
        for _ in range(config.number):
            native.flush(call.arrays)
            total += _batch(call, 1)[0]
        results.append(total / config.number)
        if i == 0 and config.cutoff_s is not None and results[0] > config.cutoff_s:
            return BenchmarkResult(tuple(results), config.number, cut=True)
    return BenchmarkResult(tuple(results), config.number)


class TimeEvaluator:
    """Times a function of a module on the arguments it is called with; see
    `Module.time_evaluator`."""

    __slots__ = ("config", "function")

    def __init__(self, function: Function, config: TimerConfig) -> None:
        self.function = function
        self.config = config

    def __call__(self, *args: Any) -> BenchmarkResult:
        """Measure; RunError if the arguments do not fit."""
        return measure(self.function.bind(*args), self.config)
