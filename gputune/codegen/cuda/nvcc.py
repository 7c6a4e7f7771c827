"""What does a machine compile CUDA with that has no NVRTC? nvcc, if a CUDA toolkit is installed.

It takes about three times as long as NVRTC, and needs a C++ compiler of the host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import BuildError
from .nvrtc import Compiled

_OPTIONS = (
    "-D", "-U", "-I", "-std=", "-use_fast_math", "-ftz=", "-prec-div=", "-prec-sqrt=", "-fmad=",
    "-maxrregcount=", "-lineinfo", "-Xptxas=", "-ptxas-options=", "-w", "-diag-suppress=",
    "-diag-warn=", "-diag-error=", "-restrict", "-extra-device-vectorization", "-include-path=",
    "-expt-relaxed-constexpr", "-define-macro=", "-undefine-macro=", "-G", "-device-debug",
    "-generate-line-info", "-Werror=",
)  # fmt: skip
"""What may be asked of nvcc, written with one dash: the rest would make it run other programs or
write other files."""


@dataclass(frozen=True, slots=True)
class Nvcc:
    """An nvcc program.

    Attributes:
        path: of the program.
        release: its version, as in "13.0.88".
        archs: the architectures it knows, such as ("sm_80", "sm_90").
    """

    path: str
    release: str
    archs: tuple[str, ...]

    @property
    def name(self) -> str:
        """What people call it: "nvcc 13.0.88"."""
        return f"nvcc {self.release}"

    @property
    def identity(self) -> str:
        """Differs between versions of nvcc."""
        return self.name

    @property
    def include_dirs(self) -> tuple[str, ...]:
        """None to be named: nvcc knows where its headers are."""
        return ()

    def targets(self) -> tuple[str, ...]:
        """The architectures that `compile` takes."""
        numbers = [int(a.removeprefix("sm_")) for a in self.archs]
        names = [*self.archs, *(f"sm_{n}a" for n in numbers if n >= 90)]
        return tuple(sorted(names, key=lambda s: (int(re.sub(r"\D", "", s)), s)))

    def compile(self, text: str, file_name: str, options: Sequence[str], arch: str) -> Compiled:
        """Compile CUDA C++ to a cubin for exactly this architecture; see `Nvrtc.compile`.

        Raises:
            BuildError: an option that changes what nvcc does; nvcc cannot be started.
        """
        for word in options:
            if not _allowed(word):
                raise BuildError(
                    f"option {word!r} is not passed to nvcc",
                    hint="nvcc is given options of the language and of code generation only; NVRTC "
                    "takes its own: pip install gputune[cuda13]",
                    code="option",
                )
        with tempfile.TemporaryDirectory(prefix="gputune-nvcc-") as folder:  # mode 0700
            Path(folder, file_name).write_text(text, encoding="utf-8")
            out = Path(folder, "out.cubin")
            words = [self.path, "-cubin", f"-arch={arch}", "-o", out.name, *options, file_name]
            done = _run(words, folder)
            log = (done.stdout + done.stderr).strip()
            if done.returncode != 0 or not out.exists():
                return Compiled(None, log or f"nvcc ended with status {done.returncode}")
            return Compiled(out.read_bytes(), log)


def _allowed(word: str) -> bool:
    # Whole words are compared whole: "-w" is no beginning of anything.
    word = word.replace("--", "-", 1) if word.startswith("--") else word
    return any(
        word == o or (word.startswith(o) and (o.endswith("=") or o in ("-D", "-U", "-I")))
        for o in _OPTIONS
    )


def load() -> Nvcc | None:
    """The nvcc of this machine: on the PATH, in CUDA_HOME or CUDA_PATH, in NVIDIA's wheels or in
    /usr/local/cuda; None if there is none that works."""
    for path in _candidates():
        if os.access(path, os.X_OK):
            found = _ask(path)
            if found is not None:
                return found
    return None


def _candidates() -> Iterator[str]:
    on_path = shutil.which("nvcc")
    if on_path is not None:
        yield on_path
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield str(Path(home, "bin", "nvcc"))
    for place in sys.path:
        yield from map(str, sorted((Path(place) / "nvidia").glob("*/bin/nvcc"), reverse=True))
    yield "/usr/local/cuda/bin/nvcc"


@cache
def _ask(path: str) -> Nvcc | None:
    """What an nvcc says of itself; None if it does not."""
    try:
        version = _run([path, "--version"], None)
        archs = _run([path, "--list-gpu-code"], None)
    except BuildError:
        return None
    release = re.search(r"\bV(\d+\.\d+\.\d+)", version.stdout)
    names = re.findall(r"\bsm_\d+\b", archs.stdout)
    if release is None or not names:
        return None
    return Nvcc(path, release[1], tuple(sorted(set(names), key=lambda s: int(s[3:]))))


def _run(words: list[str], folder: str | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, cwd=folder, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as e:
        raise BuildError(f"cannot run {words[0]}: {e.strerror or e}", code="nvcc") from None
