"""How does a cluster carry out many requests? A few at a time, and whoever of its workers dies."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from ..errors import GputuneError
from ..runtime import wire
from .cluster import DaskCluster, WorkerSeen, in_a_line
from .cluster_fit import Need
from .failures import INFRASTRUCTURE
from .remote import error_of, lost, unpacked

Answer: TypeAlias = wire.Message | GputuneError

_TICK_S = 0.5  # between two looks at who is there
_DEPTH = 2  # requests a slot has: one under way, one that waits there
_ATTEMPTS = 3  # of a request whose worker was lost
_FETCH_S = 60.0


class Batch:
    """Requests that workers of a cluster carry out; a few for each worker are under way at a time.

    Nothing begins before an answer is asked for, and nothing goes on while none is: so what a
    request says of the best so far is new, and who stops early leaves little behind.

    Args:
        cluster: whose workers.
        need: what all of the requests need.
        frames: make the frames, each when it is about to be sent.
        settle: the first goes alone; how the others are measured follows from it.

    Attributes:
        answers: those that are there.
        on_answer: called with the number of a request and its answer as it arrives.
    """

    def __init__(
        self,
        cluster: DaskCluster,
        need: Need,
        frames: Sequence[Callable[[], bytes]],
        settle: bool = False,
    ) -> None:
        self.cluster = cluster
        self.need = need
        self.answers: list[Answer | None] = [None] * len(frames)
        self.on_answer: Callable[[int, Answer], None] | None = None
        self._frames = frames
        self._settle = settle
        self._waiting = deque(range(len(frames)))
        self._flying: dict[str, tuple[Any, int, frozenset[str]]] = {}
        self._landed: SimpleQueue[str] = SimpleQueue()
        self._attempts = [0] * len(frames)

    def answer(self, k: int) -> Answer:
        """The answer to a request, once it is there; an error for one that was lost."""
        try:
            while (found := self.answers[k]) is None:
                self._step()
        except BaseException:
            self.abandon()
            raise
        return found

    def abandon(self) -> None:
        """Nobody will ask for what is under way."""
        futures = [future for future, _, _ in self._flying.values()]
        self._waiting = deque(sorted({*self._waiting, *(k for _, k, _ in self._flying.values())}))
        self._flying.clear()
        self.cluster.cancel(futures)

    def _step(self) -> None:
        workers = self.cluster.usable(self.need)
        self._call_back({x.address for x in workers})
        if workers:
            self._launch(workers)
        elif self.cluster.gave_up(self.need):
            self._give_up()
            return
        self._land()

    def _call_back(self, there: set[str]) -> None:
        """What was sent to workers of whom none is left waits for others."""
        gone = {key: x for key, x in self._flying.items() if not x[2] & there}
        for key, (_, k, _) in gone.items():
            del self._flying[key]
            self._waiting.appendleft(k)
        self.cluster.cancel([future for future, _, _ in gone.values()])

    def _launch(self, workers: Sequence[WorkerSeen]) -> None:
        window = _DEPTH * sum(x.slots(self.need) for x in workers)
        if self._settle and all(a is None for a in self.answers):
            window = 1
        addresses = frozenset(x.address for x in workers)
        while self._waiting and len(self._flying) < window:
            k = self._waiting.popleft()
            frame = self._frames[k]()
            try:
                future = self.cluster.submit(
                    frame, sorted(addresses), resource=self.need.resource,
                    priority=self.need.priority,
                )  # fmt: skip
            except Exception as e:  # of Dask: the connection has just gone
                self._again(k, in_a_line(e))
                return
            self._flying[future.key] = (future, k, addresses)
            future.add_done_callback(lambda f: self._landed.put(f.key))

    def _land(self) -> None:
        """Wait a moment for answers, and take in those that are there."""
        with contextlib.suppress(Empty):
            self._take(self._landed.get(timeout=_TICK_S))
            while True:
                self._take(self._landed.get_nowait())

    def _take(self, key: str) -> None:
        if key not in self._flying:
            return  # it was called back meanwhile
        future, k, _ = self._flying.pop(key)
        try:
            answer = unpacked(future.result(timeout=_FETCH_S))
        except Exception as e:  # of Dask: the worker died, again and again, or the scheduler went
            self._again(k, in_a_line(e))
            return
        told, by = answer.header.get("error"), answer.header["by"]
        if told is None:
            self.cluster.note(by)
            if self.on_answer is not None:
                self.on_answer(k, answer)
            self.answers[k] = answer
            return
        error = error_of(told)
        if error.details.get("phase") != INFRASTRUCTURE:
            self.cluster.note(by)
            self.answers[k] = error
            return
        self.cluster.note(by, error.message)
        self._again(k, error.message)

    def _again(self, k: int, why: str) -> None:
        """Send a request again that was lost for no fault of its own, unless that is enough."""
        self._attempts[k] += 1
        if self._attempts[k] < _ATTEMPTS:
            self._waiting.appendleft(k)
            return
        text = f"a request to Dask workers was lost {self._attempts[k]} times: {why}"
        self.answers[k] = lost("lost", text)

    def _give_up(self) -> None:
        error = self.cluster.nobody(self.need)
        for k, found in enumerate(self.answers):
            if found is None:
                self.answers[k] = error
        self.abandon()
        self._waiting.clear()
