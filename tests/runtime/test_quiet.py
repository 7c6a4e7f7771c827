"""Does a measurement have its machine alone, and do many others not keep it waiting for ever?"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gputune.runtime import quiet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gputune" / "locks"


def is_free(path: Path, how: int) -> bool:
    """Could another process have it now?"""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_alone(folder: Path) -> None:
    with quiet.alone("gpu"):
        assert not is_free(folder / "gpu", fcntl.LOCK_SH)
        assert not is_free(folder / "gpu.gate", fcntl.LOCK_EX)
        with quiet.alone("another"):
            pass
    assert is_free(folder / "gpu", fcntl.LOCK_EX)
    assert is_free(folder / "gpu.gate", fcntl.LOCK_EX)


def test_shared(folder: Path) -> None:
    with quiet.shared("cpu"), quiet.shared("cpu"):
        assert is_free(folder / "cpu", fcntl.LOCK_SH)
        assert not is_free(folder / "cpu", fcntl.LOCK_EX)
        assert is_free(folder / "cpu.gate", fcntl.LOCK_EX)  # who wants it alone may queue
    assert is_free(folder / "cpu", fcntl.LOCK_EX)


def test_what_raises_lets_go(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), quiet.alone("gpu"):
        raise ZeroDivisionError
    assert is_free(folder / "gpu", fcntl.LOCK_EX)


KILLED = """
import os, signal
from gputune.runtime import quiet
with quiet.alone("gpu"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_lets_go(folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=env, timeout=60, check=False)
    assert done.returncode == -9
    assert is_free(folder / "gpu", fcntl.LOCK_EX)


def test_without_a_folder_of_ones_own_nobody_waits(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.parent.chmod(0o777)
    with quiet.alone("gpu"), quiet.shared("gpu"):
        assert not (folder / "gpu").exists()
