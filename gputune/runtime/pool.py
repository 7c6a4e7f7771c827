"""How are many requests shared among several worker processes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from gputune.errors import RunError

from .process import Outcome, Request, Worker, drive


class WorkerPool:
    """`n` workers that share lists of requests.

    Args:
        n: how many processes.
        options: of each `Worker`.

    Example:
        >>> with WorkerPool(2) as pool:
        ...     replies = pool.map([Request("build", {...}), ...])
    """

    def __init__(
        self,
        n: int,
        argv: Sequence[str] | None = None,
        *,
        memory_limit_bytes: int | None = None,
        start_timeout_s: float = 60.0,
        recycle_after: int = 1000,
    ) -> None:
        if n < 1:
            raise RunError(f"a worker pool has at least one worker, not {n}")
        self.workers = tuple(
            Worker(
                argv,
                memory_limit_bytes=memory_limit_bytes,
                start_timeout_s=start_timeout_s,
                recycle_after=recycle_after,
            )
            for _ in range(n)
        )

    def start(self) -> None:
        """Start all processes now, without waiting for them to be ready."""
        for w in self.workers:
            w.start()

    def map(
        self,
        requests: Sequence[Request],
        on_done: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Carry out the requests, as many at a time as there are workers.

        Args:
            on_done: called with the index and outcome of each as it finishes.

        Returns:
            For each request, in their order, its Reply, or the error that `Worker.request` would
            have raised.
        """
        outcomes: list[Outcome | None] = [None] * len(requests)
        waiting = iter(range(len(requests)))
        running: dict[Worker, int] = {}

        def settle(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if on_done is not None:
                on_done(index, outcome)

        def feed(w: Worker) -> None:
            for index in waiting:
                try:
                    w._begin(requests[index])
                except RunError as e:
                    settle(index, e)
                    continue
                running[w] = index
                return

        def finished(w: Worker, outcome: Outcome) -> None:
            settle(running.pop(w), outcome)
            feed(w)

        with ExitStack() as stack:
            for w in self.workers:
                stack.enter_context(w._busy)
            try:
                for w in self.workers:
                    feed(w)
                drive(self.workers, finished)
            except BaseException:
                self.close()
                raise
        return [o for o in outcomes if o is not None]

    def close(self) -> None:
        """End all processes."""
        for w in self.workers:
            w.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
