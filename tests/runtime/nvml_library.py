"""A libnvidia-ml for tests (`fake_nvml.c`), and worker processes that find it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gputune.runtime.process import Worker

HERE = Path(__file__).parent


def library(tmp_path: Path, *options: str) -> Path:
    """The library, built."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path / "libnvidia-ml.so.1"
    source = HERE / "fake_nvml.c"
    words = [compiler, "-shared", "-fPIC", "-w", *options, "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*words, "-o", str(path), str(source)], check=True, timeout=60)
    return path


class Answers:
    """What the library answers in processes that are started from now on."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        library(folder)
        self.path = folder / "answers"
        self.log = folder / "log"
        self.set()
        patch.setenv("LD_LIBRARY_PATH", str(folder))
        patch.setenv("FAKE_NVML", str(self.path))
        patch.setenv("FAKE_NVML_LOG", str(self.log))

    def set(self, **told: int) -> None:
        """Answer this, and otherwise as usual."""
        text = "".join(f"{name} {value}\n" for name, value in told.items())
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)  # who reads it meanwhile sees one or the other

    def changes(self) -> list[str]:
        """What was changed of the GPU's settings."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@contextmanager
def gpu_worker() -> Iterator[Worker]:
    """A worker with a FakeGpu."""
    argv = (sys.executable, str(HERE / "fake_gpu_worker.py"))
    with Worker(argv, gpu=True) as w:
        yield w
