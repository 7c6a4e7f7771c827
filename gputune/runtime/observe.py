"""What else is to be learned while a kernel is timed? Observers: before, during, after, results.

An observer is a small class. gputune's own (`nvml_observer`) runs in the worker process, around and
during each batch; those of a user run in the user's process, around and during the measurement of
each candidate, since workers are given data and never code. Both are driven by `Watch`. What an
observer raises is written down, and costs nothing but the rest of what it had to say of that
candidate.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from gputune.errors import UserError

_PATIENCE_S = 2.0  # for a `during` that does not return


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being timed.

    Attributes:
        name: of the function.
        device_type: "cpu" or "cuda".
        args_info: descriptions of its arguments, as JSON-able values.
        program: digest of the scheduled program, as the record will have it; "" where not known.
    """

    name: str
    device_type: str
    args_info: Sequence[Any] = ()
    program: str = ""


class Observer:
    """Base class of observers; override what you need.

    Everything is called in the process that asked for tuning: `before`, `after` and `results` in
    the thread that tunes, `during` in one of its own, again and again while the kernel is timed.

    Attributes:
        name: key of its results in a record's extras["observed"]; default: the name of the class.
        period_s: pause between two calls of `during`.

    Example:
        >>> class Load(Observer):
        ...     def before(self, subject):
        ...         self.seen = []
        ...     def during(self):
        ...         self.seen.append(os.getloadavg()[0])
        ...     def results(self):
        ...         return {"load": max(self.seen, default=None)}
        >>> gputune.tune(matmul, observers=[Load()])  # doctest: +SKIP
    """

    name: str = ""
    period_s: ClassVar[float] = 0.02

    def before(self, subject: Subject) -> None:
        """A kernel is about to be timed."""

    def during(self) -> None:
        """It is being timed."""

    def after(self, seconds: Sequence[float]) -> None:
        """It was timed: seconds of each repeat, () if it failed."""

    def results(self) -> Mapping[str, Any]:
        """What was learned, as JSON-able values; {} for nothing."""
        return {}


def check_observers(observers: Any) -> tuple[Observer, ...]:
    """Observers, or UserError."""
    given = (observers,) if isinstance(observers, Observer) else observers
    if not isinstance(given, Sequence) or isinstance(given, str):
        given = (given,)
    for x in given:
        if not isinstance(x, Observer):
            raise UserError(
                f"observers is a list of observers, found {x!r:.60}",
                hint="inherit from gputune.Observer, and give objects, not classes",
                code="observer",
            )
    return tuple(given)


class Watch:
    """Drives some observers through one measurement.

    Attributes:
        problems: by observer, what it raised.

    Example:
        >>> watch = Watch([Load()])
        >>> watch.before(Subject("matmul", "cpu"))
        >>> with watch.sampling():
        ...     seconds = measure()  # doctest: +SKIP
        >>> watch.after(seconds)
        >>> watch.results()  # doctest: +SKIP
        {'Load': {'load': 1.2}}
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = [(x.name or type(x).__name__, x) for x in observers]
        self.problems: dict[str, str] = {}

    def before(self, subject: Subject) -> None:
        """The measurement begins."""
        for name, x in self._observers:
            self._ask(name, "before", partial(x.before, subject))

    def during(self) -> None:
        """Ask each once, in this thread."""
        for name, x in self._observers:
            self._ask(name, "during", x.during)

    def after(self, seconds: Sequence[float]) -> None:
        """The measurement is over."""
        for name, x in self._observers:
            self._ask(name, "after", partial(x.after, tuple(seconds)))

    def results(self) -> dict[str, dict[str, Any]]:
        """What each has to say, by its name; those with nothing are left out."""
        out: dict[str, dict[str, Any]] = {}
        for name, x in self._observers:
            found = self._ask(name, "results", partial(_results_of, x))
            if found:
                out[name] = found
        return out

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Ask those that have a `during` again and again meanwhile, in a thread of its own."""
        there = [
            (name, x) for name, x in self._observers
            if type(x).during is not Observer.during and name not in self.problems
        ]  # fmt: skip
        if not there:
            yield
            return
        over = threading.Event()
        asked: list[str] = []

        def ask() -> None:
            period = min(x.period_s for _, x in there)
            while not over.is_set():
                for name, x in there:
                    asked[:] = [name]
                    self._ask(name, "during", x.during)
                over.wait(period)

        thread = threading.Thread(target=ask, daemon=True, name="gputune-observers")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_PATIENCE_S)
            if thread.is_alive():
                self.problems.setdefault(asked[0], "during: it did not return")

    def _ask(self, name: str, what: str, f: Callable[[], Any]) -> Any:
        """Call a part of an observer's, unless an earlier one went wrong."""
        if name in self.problems:
            return None
        try:
            return f()
        except Exception as e:  # a user's, anything
            self.problems.setdefault(name, f"{what}: {type(e).__name__}: {e}"[:500])
            return None


def _results_of(x: Observer) -> dict[str, Any]:
    """Its results, which a record can hold."""
    found: Any = x.results()
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(f"results are a dict, found {found!r:.60}")
    values = {str(k): v for k, v in found.items()}
    copied: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return copied
