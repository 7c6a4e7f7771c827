"""Is a locked clock given back on every way out? Against a libnvidia-ml built here."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nvml_library import Answers

from gputune.errors import UserError
from gputune.runtime.clock_lock import check_lock, locked_clocks, locks

PCI = "0000:3B:00.0"
TDP = 0xFFFFFF01
ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from gputune.runtime.clock_lock import locked_clocks
with locked_clocks("0000:3B:00.0", 1200) as lock:
    print(lock.problem or "locked", flush=True)
    if sys.argv[1] == "raise":
        raise ZeroDivisionError
    sys.stdin.readline()
"""


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    answers = Answers(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answers.set(may_lock=1)
    return answers


class Log:
    """The library's log as a pipe, so that a test can wait for what is written."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR)
        self.text = b""

    def line(self) -> str:
        while b"\n" not in self.text:
            there, _, _ = select.select([self.fd], [], [], 60)
            assert there, "nothing was changed"
            self.text += os.read(self.fd, 4096)
        found, _, self.text = self.text.partition(b"\n")
        return found.decode()


@pytest.fixture
def log(nvml: Answers) -> Iterator[Log]:
    found = Log(nvml.log)
    yield found
    os.close(found.fd)


def test_locked_and_given_back(nvml: Answers) -> None:
    with locked_clocks(PCI, 1200) as lock:
        assert lock.problem == ""
        assert str(lock) == "1200 MHz"
        assert nvml.changes() == ["lock 1200 1200"]
        (left,) = locks()
        assert (left.pci_bus_id, left.clock, left.alive) == (PCI, "1200 MHz", True)
        with locked_clocks(PCI, 900) as second:
            assert second.problem == f"process {left.guard} holds it at 1200 MHz already"
        assert nvml.changes() == ["lock 1200 1200"]  # the second changed nothing, back neither
    assert nvml.changes() == ["lock 1200 1200", "reset 0 0"]
    assert lock.restored == ""
    assert locks() == []


def test_given_back_after_an_error(nvml: Answers) -> None:
    def fail() -> None:
        with locked_clocks(PCI, 0) as lock:
            assert str(lock) == "base clock"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert nvml.changes() == [f"lock {TDP} {TDP}", "reset 0 0"]


def test_where_it_cannot_be_locked(nvml: Answers) -> None:
    nvml.set(may_lock=1, lock_rc=4)
    with locked_clocks(PCI, 1200) as lock:
        assert lock.problem == "Insufficient Permissions"
        assert locks() == []
    nvml.set(may_lock=1, init_rc=15)
    with locked_clocks(PCI, 1200) as lock:
        assert lock.problem == "GPU is lost"
    nvml.set(may_lock=1)
    with locked_clocks("0000:00:00.0", 1200) as lock:
        assert lock.problem == "Not Found"
    assert nvml.changes() == []


def test_where_it_cannot_be_given_back(nvml: Answers) -> None:
    with locked_clocks(PCI, 1200) as lock:
        nvml.set(may_lock=1, reset_rc=15)
    assert lock.restored == "GPU is lost"
    (left,) = locks()
    assert not left.alive
    nvml.set(may_lock=1)
    with locked_clocks(PCI, 900) as lock:  # the next one sees to it
        assert lock.problem == ""
    assert locks() == []


def holder(how: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=env,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["return", "raise", "SIGINT", "SIGTERM", "SIGKILL"])
def test_every_way_out(log: Log, way: str) -> None:
    with holder(way) as process:
        assert process.stdout is not None
        assert log.line() == "lock 1200 1200"
        assert process.stdout.readline() == "locked\n"
        if way.startswith("SIG"):
            process.send_signal(getattr(signal, way))
        elif way == "return":
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert log.line() == "reset 0 0"
        process.wait(60)


def test_a_guard_that_is_killed_leaves_word(nvml: Answers, tmp_path: Path) -> None:
    from gputune.cli import doctor

    with locked_clocks(PCI, 1200) as lock:
        (held,) = locks()
        (found,) = doctor._clocks()
        assert "held at 1200 MHz by process" in found.text
        os.kill(held.guard, signal.SIGKILL)
        os.killpg(held.guard, 0)  # it led a group of its own
    assert lock.restored == "the guard of the clock ended"
    assert nvml.changes() == ["lock 1200 1200"]
    (found,) = doctor._clocks()
    assert found.state == "note"
    assert f"left locked at 1200 MHz when process {held.guard} was killed" in found.text
    assert f"nvidia-smi -i {PCI} --reset-gpu-clocks" in found.text
    assert str(held.path) in found.text
    held.path.write_text("torn {")
    assert locks() == []


def test_it_ignores_what_is_sent_to_it(nvml: Answers) -> None:
    with locked_clocks(PCI, 1200):
        (held,) = locks()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with suppress(ProcessLookupError):
                os.kill(held.guard, number)
        assert locks()[0].alive
    assert nvml.changes()[-1] == "reset 0 0"


@pytest.mark.parametrize(
    ("given", "asked"), [(None, None), (False, None), (True, 0), (1200, 1200)]
)  # fmt: skip
def test_what_can_be_asked_for(given: Any, asked: int | None) -> None:
    assert check_lock(given) == asked


@pytest.mark.parametrize("bad", [0, -5, 20_000, 1.5, "base"])
def test_what_cannot(bad: Any) -> None:
    with pytest.raises(UserError, match="lock_clocks is True"):
        check_lock(bad)
