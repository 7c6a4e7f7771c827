"""How fast is this processor just now, and does the thread that asks keep its place on it?

The answers are short: a reading takes some twenty microseconds. See `timing` for why they are
asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import cache
from types import TracebackType

from . import native
from .timing import spread

_CALLS = 2  # of the reference kernel in a reading; the faster one counts
_READINGS = 5  # at once, where there can be none between batches
# The usual time is taken when so many readings in a row agree, or after so long.
_CALM, _AGREE, _LONGEST_S = 16, 0.01, 30e-3
_APART_S = 5e-4  # a thread that wakes up is put where nobody else is


class Yardstick:
    """A reference kernel: one that never changes.

    Args:
        reading: gives the seconds that it takes now.
        longest_s: how long finding out what it usually takes may last.
        clock: by which that is measured.
    """

    def __init__(
        self,
        reading: Callable[[], float],
        longest_s: float = _LONGEST_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.reading = reading
        self._longest_s = longest_s
        self._clock = clock
        self._nominal_s = 0.0

    @property
    def nominal_s(self) -> float:
        """Seconds that it usually takes: found once, when the device has come up to speed."""
        if not self._nominal_s:
            found: list[float] = []
            ends = self._clock() + self._longest_s
            while True:
                found.append(self.reading())
                last = found[-_CALM:]
                calm = len(last) == _CALM and spread(last) <= _AGREE
                if calm and statistics.median(last) <= min(found) * (1 + 2 * _AGREE):
                    break
                if self._clock() >= ends:
                    break
            self._nominal_s = statistics.median(last)
        return self._nominal_s


@cache
def yardstick() -> Yardstick:
    """That of this process, for the processor."""
    run, clock = native.reference(), time.perf_counter

    def reading() -> float:
        found = []
        for _ in range(_CALLS):
            start = clock()
            run()
            found.append(clock() - start)
        return min(found)

    return Yardstick(reading)


class Gauge:
    """The readings around the batches of one kernel.

    Args:
        on: are there to be any; or the reference kernel, where it is not the processor's.
        parallel: the kernel has threads, which go on spinning for a while after a call and take the
            processor's speed with them: then all readings come before the first one.
    """

    def __init__(self, on: bool | Yardstick | None, parallel: bool = False) -> None:
        self.yardstick = on if isinstance(on, Yardstick) else yardstick() if on else None
        self.nominal_s = 0.0 if self.yardstick is None else self.yardstick.nominal_s
        self.readings: list[float] = []
        self._first_only = parallel
        if self.yardstick is not None and parallel:
            self.readings = [self.yardstick.reading() for _ in range(_READINGS)]

    def read(self, times: int = 1) -> None:
        """Take readings, where there may be any now."""
        if self.yardstick is not None and not self._first_only:
            self.readings += [self.yardstick.reading() for _ in range(times)]


# ----------------------------------------------------------------------------- one's place
@cache
def _current_cpu() -> Callable[[], int] | None:
    found: Callable[[], int] | None = None
    with contextlib.suppress(OSError, AttributeError):
        found = ctypes.CDLL(None).sched_getcpu
    return found


class Place:
    """Keeps the calling thread on the processor where the system has put it, inside `with`.

    Nothing happens where the system has no such thing, or leaves no choice.

    Args:
        on: is it to be kept?
    """

    def __init__(self, on: bool = True) -> None:
        self._allowed: set[int] = set()
        if on and hasattr(os, "sched_getaffinity") and _current_cpu() is not None:
            self._allowed = set(os.sched_getaffinity(0))
        if len(self._allowed) < 2:
            self._allowed = set()

    def __enter__(self) -> Place:
        self._settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._let_go()

    def move(self) -> None:
        """Somebody else wants this place: let the system choose another."""
        if self._allowed:
            self._let_go()
            time.sleep(_APART_S)
            self._settle()

    def _settle(self) -> None:
        where = _current_cpu()
        if self._allowed and where is not None:
            cpu = where()
            if cpu in self._allowed:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, {cpu})

    def _let_go(self) -> None:
        if self._allowed:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._allowed)
