"""What do Ctrl-C and SIGTERM do to work that is worth keeping? `graceful`, `held`, `checkpoint`.

While a `graceful` part runs, the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt in it:
whoever measures catches that, records what there is, and returns. What must not be left half done
(a line of a database) is `held`: the signal then counts afterwards. A second signal does not wait
for anything: it raises KeyboardInterrupt wherever the program is, and nobody in gputune catches
that one.

Handlers are put up in the main thread only, and only in place of Python's and the system's own: a
program with handlers of its own keeps them. Afterwards the handlers from before are back.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any


@dataclass(slots=True)
class Signals:
    """What has come while a graceful part ran.

    Attributes:
        came: numbers of signals, in their order.
    """

    came: list[int] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """That of a program that ends for it: 130 for Ctrl-C, 143 for SIGTERM; 0 if none came."""
        return 128 + self.came[-1] if self.came else 0

    @property
    def shall_end(self) -> bool:
        """Did somebody ask the whole program to end, rather than what it is doing?"""
        return any(number != signal.SIGINT for number in self.came)


@dataclass(slots=True)
class _State:
    now: Signals | None = None
    depth: int = 0  # of `held`


_state = _State()


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = _state.now
    if now is None:  # it came while the handlers were put back
        raise KeyboardInterrupt
    now.came.append(number)
    if len(now.came) > 1 or _state.depth == 0:
        raise KeyboardInterrupt


@contextlib.contextmanager
def graceful() -> Iterator[Signals]:
    """Let signals end what runs here in good order; also a decorator. Inside of another such part,
    and in other threads, it does nothing.

    Raises:
        SystemExit: instead of a KeyboardInterrupt that nobody caught, where the signal was not
            Ctrl-C: so the program ends as it was asked to, and cleans up.

    Example:
        >>> with graceful() as signals:
        ...     work = sum(range(10))
        >>> signals.came
        []
    """
    if not _in_main() or _state.now is not None:
        inner = _state.now if _in_main() else None
        yield inner or Signals()
        return
    signals = Signals()
    before: dict[int, Any] = {}
    try:
        _state.now, _state.depth = signals, 0
        for number, usual in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
            (signal.SIGHUP, signal.SIG_DFL),
        ):
            if signal.getsignal(number) is usual:
                before[number] = usual
                signal.signal(number, _on_signal)
        yield signals
    except KeyboardInterrupt:
        if signals.shall_end:
            raise SystemExit(signals.exit_code) from None
        raise
    finally:
        for n, handler in before.items():
            if signal.getsignal(n) is _on_signal:  # else somebody has put up another meanwhile
                signal.signal(n, handler)
        _state.now = None


@contextlib.contextmanager
def held() -> Iterator[None]:
    """What is done here is done to its end, unless a second signal comes."""
    if not _in_main():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1


def interrupted() -> bool:
    """Has a signal come in this graceful part?"""
    return _in_main() and _state.now is not None and bool(_state.now.came)


def shall_end() -> bool:
    """Has somebody asked in this graceful part that the program ends?"""
    return _in_main() and _state.now is not None and _state.now.shall_end


def at_once() -> bool:
    """Has a second one come? Then nothing is to be finished."""
    return _in_main() and _state.now is not None and len(_state.now.came) > 1


def checkpoint() -> None:
    """KeyboardInterrupt if a signal has come that was held back, or that a library swallowed."""
    if interrupted():
        raise KeyboardInterrupt
