"""How is a batch measured on several devices of this machine at once? Each takes what comes next.

Nothing is measured until a future is asked. Then a few candidates a device are, while the caller
waits; between two such helpings no device is busy, so that the caller may check a new best on one
of them, or stop. A device that is lost leaves its candidates to the others.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..errors import GputuneError
from ..runtime.process import Worker
from .failures import INFRASTRUCTURE, Failure
from .logging import console
from .runner import RunnerFuture, RunnerInput, RunnerResult

_EACH = 4
"""Candidates a device in one helping."""
_ATTEMPTS = 2  # of a candidate that was lost for no fault of its own
_PING_S = 30.0


@dataclass(slots=True, eq=False)
class Lane:
    """One device.

    Attributes:
        name: such as "cuda:1 (NVIDIA H100)".
        measure: times a candidate there.
        worker: the process that does it.
        lost: why nothing is measured there any more, or "".
    """

    name: str
    measure: Callable[[RunnerInput], RunnerResult]
    worker: Worker
    lost: str = ""

    def lives(self) -> bool:
        """Is its process there, or can it be started again?"""
        if self.worker.pid is not None:
            return True
        try:
            self.worker.request("ping", timeout_s=_PING_S)
        except GputuneError as e:
            self.lost = e.message
            console().warning("%s is lost; the other devices go on: %s", self.name, e.message)
        return not self.lost


def spread(lanes: Sequence[Lane], inputs: Sequence[RunnerInput]) -> list[RunnerFuture]:
    """Futures of candidates that some devices measure together."""
    batch = _Batch(lanes, inputs)
    numbers = range(len(inputs))
    return [RunnerFuture(partial(batch.done, k), partial(batch.result, k)) for k in numbers]


class _Batch:
    def __init__(self, lanes: Sequence[Lane], inputs: Sequence[RunnerInput]) -> None:
        self._lanes = lanes
        self._inputs = list(inputs)
        self._results: list[RunnerResult | None] = [None] * len(inputs)
        self._attempts = [0] * len(inputs)
        self._stopped = False

    def done(self, k: int) -> bool:
        self.result(k)
        return True

    def result(self, k: int) -> RunnerResult:
        while (found := self._results[k]) is None:
            self._helping(k)
        return found

    def _helping(self, first: int) -> None:
        """Measure some candidates, from the one that was asked for on."""
        left = [k for k in range(first, len(self._inputs)) if self._results[k] is None]
        best = self._inputs[first].best
        # The first of a task goes alone: how the others are measured follows from it.
        alone = best is not None and best.seconds == math.inf and len(left) == len(self._inputs)
        todo = deque(left[: 1 if alone else _EACH * max(1, len(self._alive()))])
        while todo:
            lanes = self._alive()
            if not lanes:
                why = "; ".join(f"{x.name}: {x.lost}" for x in self._lanes)
                failure = Failure(INFRASTRUCTURE, "lost", f"all devices are lost ({why})")
                for k in todo:
                    self._results[k] = RunnerResult.failed(failure)
                return
            self._together(lanes, todo)

    def _alive(self) -> list[Lane]:
        return [x for x in self._lanes if not x.lost]

    def _together(self, lanes: Sequence[Lane], todo: deque[int]) -> None:
        """Let the devices empty the list, a thread each; if this one is interrupted, the kernels
        under way are killed."""
        problems: list[BaseException] = []
        threads = [
            threading.Thread(target=self._serve, args=(lane, todo, problems), daemon=True)
            for lane in lanes
        ]
        self._stopped = False
        try:
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        except BaseException:
            self._stopped = True
            todo.clear()
            for lane in lanes:
                lane.worker.kill()
            for t in threads:
                if t.ident is not None:
                    t.join()
            raise
        if problems:
            raise problems[0]

    def _serve(self, lane: Lane, todo: deque[int], problems: list[BaseException]) -> None:
        try:
            while todo and not problems:
                try:
                    k = todo.popleft()
                except IndexError:
                    return  # another device was quicker
                found = lane.measure(self._inputs[k])
                if self._stopped:
                    return
                self._attempts[k] += 1
                # What breaks a device may look like a candidate's fault: is the device still there?
                if found.problem is not None and not lane.lives():
                    todo.append(k)
                    return
                if found.is_lost and self._attempts[k] < _ATTEMPTS:
                    todo.append(k)
                    continue
                self._results[k] = found
        except BaseException as e:
            problems.append(e)
