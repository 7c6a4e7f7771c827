"""How long do several implementations of one operator take on the GPU? Measured in turns.

A round times each once, in an order that rotates and turns around from round to round, so that what
drifts falls on all alike; the median over rounds counts. One turn is a batch of some milliseconds:
calls that take turns on copies of the arguments, which together exceed the L2 cache twice over.
Short calls are replayed from a CUDA graph, so that the time is the kernels' and not Python's; where
a library cannot be captured it is launched call by call, and the record says so. NVML is read in
every turn. Where the clocks of two implementations differ by more than 3 %, all are timed again,
once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gpu_device import Device, NoGraph

from gputune.runtime.nvml import Reading
from gputune.runtime.nvml_observer import NvmlFacts

ROUNDS = 9
LEAST_ROUNDS = 5
SLOW, SLOW_ROUNDS = 0.1, 3
"""What takes longer than this for one call is so far behind that fewer rounds show it."""
BATCH_SECONDS = 5e-3
WARM_SECONDS = 0.2
GRAPH_BELOW = 100e-6  # seconds of a call: longer ones leave the host time to launch the next
NODES = 2000  # of a graph
CLOCKS_DIFFER = 0.03

Call = Callable[[int], Any]
"""Runs an implementation on the copy of the arguments that has this number."""


@dataclass(slots=True)
class Timed:
    """The times of one implementation.

    Attributes:
        rounds: seconds a call, one for each round.
        calls: of a batch.
        graph: was a graph replayed?
        note: why not, where one was wanted.
        readings: of NVML.
    """

    rounds: list[float] = field(default_factory=list)
    calls: int = 0
    graph: bool = False
    note: str = ""
    readings: list[Reading] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of a call: the median over rounds."""
        return median(self.rounds)

    @property
    def mhz(self) -> float | None:
        """The multiprocessors' clock meanwhile."""
        told = [r.sm_mhz for r in self.readings if r.sm_mhz is not None]
        return median(told) if told else None

    def as_json(self) -> dict[str, Any]:
        """As a record holds it; without NVML "nvml" is null."""
        told = NvmlFacts.of(self.readings).as_json() if self.readings else None
        out = {"rounds": self.rounds, "calls": self.calls, "graph": self.graph, "nvml": told}
        return out | ({"no_graph": self.note} if self.note else {})


@dataclass(slots=True)
class Turns:
    """The outcome.

    Attributes:
        timed: by implementation.
        failed: why the others have no times.
        clocks_differed: were all timed again, since clocks differed?
    """

    timed: dict[str, Timed] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    clocks_differed: bool = False


def copies_for(l2_bytes: int, argument_bytes: int) -> int:
    """How many copies of the arguments calls take turns on: two, or as many as exceed the L2 cache
    twice over. What is far larger than the cache has one copy: each call finds the cache full of
    what the last one touched last, and touches it last itself."""
    if argument_bytes >= 8 * l2_bytes:
        return 1
    return max(2, min(1024, math.ceil(2 * l2_bytes / max(1, argument_bytes))))


def in_turns(
    device: Device,
    calls: Mapping[str, Call],
    copies: int,
    *,
    seconds: float = 10.0,
    say: Callable[[str], None] = lambda stage: None,
) -> Turns:
    """Time implementations on a device.

    Args:
        calls: by name; they have run before.
        copies: of the arguments, from `copies_for`.
        seconds: after this no further round begins, once there are `LEAST_ROUNDS`.
        say: is told whose turn it is when something runs for the first time.
    """
    out = Turns()
    ready: dict[str, _Entry] = {}
    for name, call in calls.items():
        say(name)
        try:
            ready[name] = _Entry(device, call, copies)
        except Exception as e:  # whatever a library raises, the others are timed
            out.failed[name] = f"{type(e).__name__}: {str(e).strip().splitlines()[:1]}"
    say("turns")
    _warm(ready, WARM_SECONDS)
    out.timed = _rounds(ready, seconds)
    if _apart(out.timed):
        out.clocks_differed = True
        out.timed = _rounds(ready, seconds)
    return out


class _Entry:
    """An implementation, ready to be timed."""

    def __init__(self, device: Device, call: Call, copies: int) -> None:
        self.device, self.call, self.copies = device, call, copies
        self.turn, self.replays = 0, 1
        self.graph: Callable[[], Any] | None = None
        self.note = ""
        for _ in range(min(copies, 3)):
            self._launch(1)
        probe = max(2, min(copies, 8))
        each = min(device.batch(lambda: self._launch(probe))[0] for _ in range(2)) / probe
        self.number = max(1, math.ceil(BATCH_SECONDS / max(each, 1e-7)))
        if each < GRAPH_BELOW:
            self._record(each)

    def _record(self, each: float) -> None:
        """Put whole turns through all copies in a graph, if this can be."""
        wanted = max(1, min(self.number, NODES) // self.copies) * self.copies
        self.turn = 0
        try:
            self.graph = self.device.record(lambda: self._launch(wanted))
        except NoGraph as e:
            self.note = str(e)
            return
        self.device.batch(self.graph)
        took = self.device.batch(self.graph)[0]
        self.replays = max(1, math.ceil(BATCH_SECONDS / max(took, 1e-7)))
        self.number = wanted * self.replays

    def _launch(self, number: int) -> None:
        for _ in range(number):
            self.call(self.turn)
            self.turn = (self.turn + 1) % self.copies

    def _work(self) -> None:
        if self.graph is None:
            self._launch(self.number)
            return
        for _ in range(self.replays):
            self.graph()

    def time(self, read: bool) -> tuple[float, Reading | None]:
        """Seconds of a call in one batch."""
        took, reading = self.device.batch(self._work, read)
        return took / self.number, reading


def _warm(ready: Mapping[str, _Entry], seconds: float) -> None:
    """All in turns, untimed, until clocks and power are those of the work."""
    start = time.perf_counter()
    while ready and time.perf_counter() - start < seconds:
        for entry in ready.values():
            entry.time(False)


def order(names: list[str], round_: int) -> list[str]:
    """Whose turn it is in a round: every other one begins at the other end, and each begins with
    another than the one before."""
    at = round_ // 2 % max(1, len(names))
    rotated = names[at:] + names[:at]
    return rotated[::-1] if round_ % 2 else rotated


def _rounds(ready: Mapping[str, _Entry], seconds: float) -> dict[str, Timed]:
    timed = {n: Timed([], e.number, e.graph is not None, e.note) for n, e in ready.items()}
    start = time.perf_counter()
    for round_ in range(ROUNDS):
        if round_ >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in order(list(ready), round_):
            if round_ >= SLOW_ROUNDS and timed[name].seconds > SLOW:
                continue
            each, reading = ready[name].time(True)
            timed[name].rounds.append(each)
            if reading is not None:
                timed[name].readings.append(reading)
    return timed


def _apart(timed: Mapping[str, Timed]) -> bool:
    """Did some run at another clock than others?"""
    told = [mhz for t in timed.values() if (mhz := t.mhz) is not None]
    return bool(told) and max(told) - min(told) > CLOCKS_DIFFER * max(told)
