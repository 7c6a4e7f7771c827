"""Do signals end a graceful part in good order, and is everything as before when it is over?"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import pytest

from gputune.runtime import interruption
from gputune.runtime.interruption import (
    at_once,
    checkpoint,
    graceful,
    held,
    interrupted,
    shall_end,
)

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Each test finds and leaves the usual handlers, whatever this process was started with."""
    usual = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]
    before = [signal.signal(n, handler) for n, handler in zip(ALL, usual)]
    yield
    assert [signal.getsignal(n) for n in ALL] == usual
    for n, handler in zip(ALL, before):
        signal.signal(n, handler)
    assert interruption._state.now is None


# ----------------------------------------------------------------------------- signals
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_can_be_caught(number: signal.Signals, code: int) -> None:
    with graceful() as signals:
        assert not interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interrupted()
        assert shall_end() is (number != signal.SIGINT)
        assert not at_once()
    assert not shall_end()
    assert signals.came == [number]
    assert signals.exit_code == code
    assert signals.shall_end is (number != signal.SIGINT)


def test_what_is_held_is_done_to_its_end() -> None:
    done = []
    with graceful():
        with held(), held():
            signal.raise_signal(signal.SIGINT)
            done.append("line")
        done.append("behind it")
        with pytest.raises(KeyboardInterrupt):
            checkpoint()
    assert done == ["line", "behind it"]


def test_a_second_signal_waits_for_nothing() -> None:
    def twice() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            assert not at_once()
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                assert at_once()

    with pytest.raises(KeyboardInterrupt), graceful():
        twice()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_nobody_catches_ends_the_program_as_it_was_asked(
    number: signal.Signals, code: int
) -> None:
    with pytest.raises(SystemExit) as e, graceful():
        signal.raise_signal(number)
    assert e.value.code == code
    with pytest.raises(KeyboardInterrupt), graceful():
        signal.raise_signal(signal.SIGINT)


def test_handlers_of_the_program_stay() -> None:
    seen: list[int] = []

    def mine(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with graceful() as signals:
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert signals.came == []


def test_a_handler_that_was_put_up_meanwhile_stays() -> None:
    def mine(number: int, frame: object) -> None:
        pass

    with graceful():
        signal.signal(signal.SIGTERM, mine)
    assert signal.signal(signal.SIGTERM, signal.SIG_DFL) is mine


def test_parts_in_parts_are_one() -> None:
    with graceful() as outer:
        with contextlib.suppress(KeyboardInterrupt), graceful() as inner:
            assert inner is outer
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError
        assert signal.getsignal(signal.SIGTERM) is interruption._on_signal
        assert interrupted()  # what was to end is the whole


def test_other_threads_have_nothing_to_do_with_it() -> None:
    found: list[object] = []

    def elsewhere() -> None:
        with graceful() as signals, held():
            found.extend([signals.came, interrupted(), at_once()])
            checkpoint()

    with graceful():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(20)
        assert interruption._state.depth == 0
    assert found == [[], False, False]


def test_a_signal_that_was_swallowed_is_not_lost() -> None:
    """Callbacks of C libraries and destructors cannot raise."""
    with graceful():
        with contextlib.suppress(KeyboardInterrupt):  # as such a library does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            checkpoint()
    checkpoint()  # nothing comes outside


def test_it_is_a_decorator() -> None:
    @graceful()
    def work(n: int) -> int:
        assert signal.getsignal(signal.SIGTERM) is interruption._on_signal
        return n + 1

    assert [work(1), work(2)] == [2, 3]
