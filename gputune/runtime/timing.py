"""How is time measured, and why so? The choices that all timers here share.

There are two clocks, one for processors (`evaluator`) and one for GPUs (`cuda_timer`). Tuning,
`gputune.bench` and `Module.time_evaluator` use them alike; only what is done between two readings
of the clock differs. The choices, each with its reason:

* **A batch is timed, not a call.** On a processor a loop of machine code calls the kernel, so that
  Python is not in it. On a GPU two events enclose the launches; the device is kept busy until the
  host is ahead, and calls too short to be launched one by one are replayed from a CUDA graph.
* **What the caches hold is settled, written down, and never mixed.** The regimes: "warm", the same
  arguments every call; "rotate", calls take turns on copies of the arguments which together exceed
  the last cache; "flush", the arguments are driven out of the caches before every call, each of
  which is timed alone. A time of one regime says nothing about another, so times of different
  regimes are nowhere compared: not by a database, not by the search, not by the finalists, not in
  the table of a bench.
* **The median counts, and the spread is kept.** A batch can only be made longer by what else the
  machine does; the middle one of several is the kernel's.
* **On a processor a thread stays where it is,** as long as nobody else wants that place. A batch
  during which the system took the processor away (the wall clock is ahead of the thread's own) is
  taken again, elsewhere if there is an elsewhere, a bounded number of times.
* **Losers are cut.** What takes several times as long as the best is called once, and recorded so.
* **Drift is corrected by a reference kernel.** Clocks rise and fall, neighbours come and go, and
  candidates of one tuning are minutes apart. So before, between and after the batches of every
  candidate a kernel that never changes is timed, for some microseconds: arithmetic on registers and
  the first cache, whose time is the machine's speed at that moment. It is stored with the record.
  Where it differs from the usual one *significantly* (see `Drift`), the candidate's times are
  divided by the quotient: records hold times on one scale, that of the first record of their task.
  Times of kernels that wait for memory do not follow the clock; they are left as they are (see
  `follows_clock`), and so are all where the quotient is beyond belief.
* **Who is compared closely is measured in turns.** What is left of drift then falls on all alike:
  so do `bench`, the finalists of a tuning (in fresh processes, with other places in memory), and
  post-optimization. Only figures of finalists are reported where there are several.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeGuard

from gputune.errors import RunError

Regime: TypeAlias = Literal["rotate", "flush", "warm"]

REGIMES: tuple[Regime, ...] = ("rotate", "flush", "warm")
"""What the caches hold when a call begins."""

TIMES = 3
"""Copies of the arguments together exceed the last cache so many times."""
_MOST_COPIES = 64
# Drift is corrected where it is more than this, and more than so many standard errors.
_SIGNIFICANT, _ERRORS = 0.03, 3.0
# Readings of the reference kernel are calm that are no longer than so many times the shortest; they
# decide where there are so many, and such a share.
_CALM, _ENOUGH, _ENOUGH_SHARE = 1.02, 3, 0.2
# A machine whose speed has changed by more than this factor is not to be corrected for.
_BELIEVED = 3.0
# Operations for each byte of the arguments: beyond, a kernel computes more than it waits.
_INTENSE = {"cpu": 8.0, "cuda": 32.0}


def check_regime(value: object, who: str) -> None:
    """RunError unless `value` is the name of a regime; `who` begins the message."""
    if value not in REGIMES:
        raise RunError(f"{who}: the regime is {', '.join(REGIMES)}, found {value!r}", code="regime")


def spread(results: Sequence[float]) -> float:
    """The middle half of some times (the interquartile range) as a share of their median.

    Example:
        >>> spread([1.0, 1.0, 2.0, 3.0, 3.0])
        1.0
    """
    if len(results) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(results, n=4, method="inclusive")
    return (high - low) / middle if middle > 0 else 0.0


def copies_for(total: int, cache: int, room: int) -> int:
    """How many copies of the arguments take turns, so that no call finds them in the cache.

    Args:
        total: bytes of the arguments.
        cache: bytes of the last cache.
        room: bytes that the copies may have in all.

    Returns:
        1 where the arguments exceed the cache by themselves, or where so many copies as would do it
        cannot be had.

    Example:
        >>> copies_for(1 << 20, 10 << 20, 1 << 30)
        30
        >>> copies_for(1 << 10, 10 << 20, 1 << 30)
        1
    """
    enough = TIMES * cache
    if not 0 < total < enough:
        return 1
    copies = -(-enough // total)
    return copies if copies <= _MOST_COPIES and copies * total <= room else 1


# ----------------------------------------------------------------------------- drift
@dataclass(frozen=True, slots=True)
class Drift:
    """How fast was the machine while a kernel was timed?

    Attributes:
        reference_s: what the reference kernel took meanwhile, the median of some readings.
        nominal_s: what it takes on the scale that times are to be on.
        error: the standard error of `reference_s`, as a share of it.

    Example:
        >>> drift = Drift(11e-6, 10e-6, 0.001)
        >>> drift.factor > 1.09, drift.significant
        (True, True)
        >>> Drift(10.1e-6, 10e-6).significant
        False
    """

    reference_s: float
    nominal_s: float
    error: float = 0.0

    @property
    def factor(self) -> float:
        """How many times as long as on the scale everything took."""
        return self.reference_s / self.nominal_s

    @property
    def significant(self) -> bool:
        """Is it more than noise, and less than what no machine does?"""
        if not 1 / _BELIEVED <= self.factor <= _BELIEVED:
            return False
        return abs(self.factor - 1) > max(_SIGNIFICANT, _ERRORS * self.error)

    @staticmethod
    def told(timing: Mapping[str, Any], nominal_s: float = 0.0) -> Drift | None:
        """What a worker's answer or a record says, on a scale of its own where that is given; None
        where no reference kernel was timed."""
        reference, own = (_seconds(timing.get(k)) for k in ("reference_s", "nominal_s"))
        if not reference or not own:
            return None
        if not (nominal_s and own / _BELIEVED <= nominal_s <= own * _BELIEVED):
            nominal_s = own  # of another machine, whatever the record says
        error = timing.get("reference_error")
        return Drift(reference, nominal_s, float(error) if _is_number(error) else 0.0)


def readings_told(
    readings: Sequence[float], nominal_s: float, results: Sequence[float] = ()
) -> dict[str, Any]:
    """What records keep of the readings of a reference kernel.

    Args:
        readings: seconds.
        nominal_s: what it usually takes.
        results: where there was a reading before, between and after these: what they say is weighed
            by their readings, for speed changes within milliseconds. "reference_s" is then the
            median of the results, divided by the median of what each is beside the readings next to
            it; where enough of them are among calm readings (nearly as short as the shortest), by
            that of those, for what disturbs does not disturb all kernels alike.

    Example:
        >>> readings_told([1.0, 1.0, 2.0], 1.0, [5.0, 7.5])["reference_s"]
        1.25
    """
    if not readings or not nominal_s:
        return {}
    error = spread(readings) / math.sqrt(len(readings))
    reference = statistics.median(readings)
    if results and len(readings) == len(results) + 1:
        beside = [(2 * s / (a + b), max(a, b)) for s, (a, b) in zip(results, pairwise(readings))]
        calm = [x for x, slower in beside if slower <= _CALM * min(readings)]
        enough = len(calm) >= max(_ENOUGH, _ENOUGH_SHARE * len(beside))
        reference = statistics.median(results) / statistics.median(
            calm if enough else [x for x, _ in beside]
        )
    return {
        "reference_s": reference,
        "reference_error": round(error, 5),
        "nominal_s": nominal_s,
    }


def follows_clock(device_type: str, in_cache: bool, size: int, flop: float) -> bool:
    """Does a kernel take longer just when the reference kernel does? Not if it waits for memory.

    Args:
        device_type: "cpu" or "cuda".
        in_cache: the arguments are in a cache when a call begins.
        size: bytes of the arguments.
        flop: operations of a call; 0 where they are not known.
    """
    return in_cache or flop >= _INTENSE.get(device_type, math.inf) * max(1, size)


def _seconds(x: object) -> float:
    return float(x) if _is_number(x) and 0 < x < math.inf else 0.0


def _is_number(x: object) -> TypeGuard[int | float]:
    return isinstance(x, int | float) and not isinstance(x, bool)
