"""How long does a kernel take on a processor? One timer, used by tuning, benchmarks and
`time_evaluator`.

A repeat is a batch of calls in a loop of machine code between two readings of the clock. A
repeat in which the operating system took the processor away (wall clock ahead of this thread's
processor time) is measured again, a bounded number of times. `timing` explains the choices.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gputune.errors import RunError

from . import native
from .function import BoundCall, Function, failed
from .gauge import Gauge, Place
from .timing import Regime, check_regime, readings_told, spread

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
        regime: what the caches held; see `timing`.
        readings: seconds of the reference kernel meanwhile, where it was asked.
        nominal_s: what that usually takes.
    """

    results: tuple[float, ...]
    number: int = 1
    disturbed: int = 0
    cut: bool = False
    regime: Regime = "warm"
    readings: tuple[float, ...] = ()
    nominal_s: float = 0.0

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

    @property
    def spread(self) -> float:
        """The middle half of the repeats (interquartile range) as a share of the median."""
        return spread(self.results)

    def as_json(self) -> dict[str, Any]:
        """All but the results, as a record holds it."""
        return {
            "regime": self.regime,
            "calls": self.number,
            "batches": len(self.results),
            "spread": round(self.spread, 5),
            **readings_told(self.readings, self.nominal_s, self.results),
        }

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
            alone, and `number` is not raised): the regime "flush".
        cooldown_ms: pause between repeats.
        retries: how often, in all, a disturbed repeat is measured again.
        cutoff_s: a kernel that takes longer is not timed further: what was measured by then is the
            only result. The first call decides where it is far above (first calls are slow in any
            case), else a second one, or the first repeat.
        regime: what the caches hold, see `timing`; None: as `flush_cache` says, else "warm". For
            "rotate" the timer is given copies of the arguments.
        reference: time the reference kernel too, between the repeats.
        pin: keep the thread on one processor; not that of a kernel with threads of its own.
    """

    number: int = 10
    repeat: int = 1
    min_repeat_ms: float = 0
    flush_cache: bool = False
    cooldown_ms: float = 0
    retries: int = 8
    cutoff_s: float | None = None
    regime: Regime | None = None
    reference: bool = False
    pin: bool = False

    def __post_init__(self) -> None:
        if self.regime is not None:
            check_regime(self.regime, "time evaluator")
            if self.flush_cache and self.regime != "flush":
                raise RunError(
                    f"time evaluator: flush_cache is the regime flush, found {self.regime!r} too"
                )
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

    @property
    def caches(self) -> Regime:
        """The regime."""
        return self.regime or ("flush" if self.flush_cache else "warm")


def measure(
    call: BoundCall, config: TimerConfig, copies: Sequence[BoundCall] = ()
) -> BenchmarkResult:
    """Time a bound call.

    Args:
        call: the kernel with its arguments.
        config: how to measure.
        copies: for the regime "rotate": the same kernel with copies of the arguments, which take
            turns with the first ones.

    Raises:
        RunError: the kernel reports an error.
    """
    regime = config.caches
    cutoff = math.inf if config.cutoff_s is None else config.cutoff_s
    gauge = Gauge(config.reference, call.parallel)
    with Place(config.pin and not call.parallel) as place:
        gauge.read()
        first = _first(call, cutoff)
        if first > cutoff + _COLD_SECONDS:
            results, number, disturbed, cut = [first], 1, 0, True
        elif regime == "flush":
            results, number, disturbed, cut = _measure_cold(call, config, gauge)
        else:
            batch = _Batch(call, copies if regime == "rotate" else ())
            results, number, disturbed, cut = _measure_batches(batch, config, cutoff, gauge, place)
    return BenchmarkResult(
        tuple(results), number, disturbed, cut, regime, tuple(gauge.readings), gauge.nominal_s
    )


_Found = tuple[list[float], int, int, bool]
"""Seconds a call of each repeat, calls of a repeat, disturbed repeats, and whether it was cut."""


def _measure_batches(
    batch: _Batch, config: TimerConfig, cutoff: float, gauge: Gauge, place: Place
) -> _Found:
    number = _enough(batch, config)
    retries = int(config.retries)
    results: list[float] = []
    disturbed = 0
    for i in range(config.repeat):
        if i and config.cooldown_ms:
            time.sleep(config.cooldown_ms * 1e-3)
        seconds, held_up = batch(number)
        while held_up and retries > 0:
            retries -= 1
            place.move()
            again, held_up = batch(number)
            seconds = min(seconds, again) if held_up else again
        gauge.read()
        results.append(seconds / number)
        disturbed += held_up
        if i == 0 and results[0] > cutoff and not held_up:
            return results, number, 0, True
    return results, number, disturbed, False


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


class _Batch:
    """A number of calls in a row, timed: gives the seconds, and whether the thread was held up.

    Args:
        call: the kernel with its arguments.
        copies: more sets of arguments, which take turns with those.
    """

    def __init__(self, call: BoundCall, copies: Sequence[BoundCall] = ()) -> None:
        self.call = call
        self.sets = 1 + len(copies)
        self.copies = copies  # alive as long as this
        self.memory = b"".join([call.memory, *(c.memory for c in copies)])
        self.step = len(call.memory)
        self.turn = 1 % self.sets  # the first set has just been used

    def __call__(self, number: int) -> tuple[float, bool]:
        if self.sets == 1:
            return _batch(self.call, number)
        call, rotate, turn = self.call, native.rotator(), self.turn
        address, pool = call.address, call.pool_address
        self.turn = (turn + number) % self.sets
        return _timed(
            call, lambda: rotate(address, self.memory, pool, number, self.sets, self.step, turn)
        )


def _enough(batch: _Batch, config: TimerConfig) -> int:
    """The number of calls with which a repeat lasts `min_repeat_ms`; warms up on the way."""
    wanted = config.min_repeat_ms * 1e-3
    number = config.number
    while wanted > 0 and number < _MAX_NUMBER:
        seconds, _ = batch(number)
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
    return _timed(call, lambda: repeat(address, memory, pool, number))


def _timed(call: BoundCall, run: Callable[[], int]) -> tuple[float, bool]:
    cpu = time.thread_time()
    start = time.perf_counter()
    code = run()
    wall = time.perf_counter() - start
    cpu = time.thread_time() - cpu
    if code:
        raise failed(call.name, code)
    # The caller of a parallel kernel may wait for other threads: nothing can be told then.
    held_up = not call.parallel and wall - cpu > _AHEAD_SHARE * wall + _AHEAD_SECONDS
    return wall, held_up


def _measure_cold(call: BoundCall, config: TimerConfig, gauge: Gauge) -> _Found:
    results: list[float] = []
    disturbed = 0
    for i in range(config.repeat):
        if i and config.cooldown_ms:
            time.sleep(config.cooldown_ms * 1e-3)
        total, held_up = 0.0, False
        for _ in range(config.number):
            native.flush(call.arrays)
            seconds, away = _batch(call, 1)
            total += seconds
            held_up |= away
        gauge.read()
        results.append(total / config.number)
        disturbed += held_up
        if i == 0 and config.cutoff_s is not None and results[0] > config.cutoff_s:
            return results, config.number, disturbed, True
    return results, config.number, disturbed, False


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
