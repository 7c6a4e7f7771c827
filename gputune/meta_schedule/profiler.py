"""Where does tuning spend its time?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ..errors import UserError

_local = threading.local()


def _stack() -> list[Profiler]:
    found: list[Profiler] | None = getattr(_local, "stack", None)
    if found is None:
        found = _local.stack = []
    return found


class Profiler:
    """Adds up seconds by scope while it is active.

    Example:
        >>> with Profiler() as profiler:
        ...     with Profiler.timeit("Build"):
        ...         pass
        >>> sorted(profiler.get())
        ['Build', 'Total']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start: float | None = None

    def get(self) -> dict[str, float]:
        """Seconds by scope; after the `with`, "Total" too."""
        return dict(self._seconds)

    def table(self) -> str:
        """The scopes with their minutes and share, the largest first; row one is the total.

        Raises:
            ValueError: nothing was profiled, or the profiler is still active.
        """
        if self._start is not None:
            raise ValueError("the profiler is still active: leave its `with` block first")
        if not self._seconds:
            raise ValueError("nothing was profiled: use `with Profiler() as p:` around the work")
        total = self._seconds.get("Total", 0.0)
        rest = sorted(
            ((k, v) for k, v in self._seconds.items() if k != "Total"), key=lambda kv: -kv[1]
        )
        rows: list[tuple[str, ...]] = [("ID", "Name", "Time (min)", "Percentage")]
        for number, (name, seconds) in enumerate([("Total", total), *rest]):
            share = 100 * seconds / total if total else 0.0
            rows.append((str(number or ""), name, f"{seconds / 60:.4f}", f"{share:.4f}"))
        return align(rows)

    def __enter__(self) -> Profiler:
        if self._start is not None:
            raise UserError("the profiler is active already: make another one to nest them")
        _stack().append(self)
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._start is not None
        self._add("Total", time.perf_counter() - self._start)
        self._start = None
        _stack().remove(self)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @staticmethod
    def current() -> Profiler | None:
        """The innermost active profiler of this thread."""
        stack = _stack()
        return stack[-1] if stack else None

    @staticmethod
    @contextmanager
    def timeit(name: str) -> Iterator[None]:
        """Count what happens inside under `name`; does nothing without an active profiler."""
        profiler = Profiler.current()
        if profiler is None:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            profiler._add(name, time.perf_counter() - start)


def align(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as a right-aligned table with a line under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [(" " + " | ".join(c.rjust(w) for c, w in zip(row, widths))).rstrip() for row in rows]
    rule = "-" * (sum(widths) + 3 * len(widths) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])
