"""Which C++ compiler is there for host execution, and how is it asked?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from gputune import knobs
from gputune.errors import BuildError

Kind = Literal["gcc", "clang", "zig"]

_LIMIT_S = 300.0  # zig builds its own runtime parts on first use

LANGUAGE = (
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-strict-aliasing",  # kernels read floats as float4
    "-fwrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-delete-null-pointer-checks",
    "-fno-threadsafe-statics",
    "-fstack-clash-protection",  # large local arrays meet the page below the stack
    "-w",  # kernels are judged by what they do
)


@dataclass(frozen=True, slots=True)
class HostCompiler:
    """A C++ compiler.

    Attributes:
        kind: whose options it understands.
        command: how it is called.
        version: what it says about itself.
    """

    kind: Kind
    command: tuple[str, ...]
    version: str

    def kernel_flags(self, checked: bool) -> tuple[str, ...]:
        """For the text of kernels; `checked` has every access of memory marked."""
        out = ["-O1" if checked else "-O2", "-g1", *LANGUAGE]
        if self.kind == "zig":
            out.append("-fno-sanitize=undefined")
        if self.kind == "gcc":
            # The accesses that are checked shall be those of the source: vectors whole, none moved
            out += ["-fdata-sections", "-fno-tree-sra", "-fno-tree-loop-im"]
        if checked:
            bounds = "bounds" if self.kind == "gcc" else "array-bounds"
            out += ["-fsanitize=thread", f"-fsanitize={bounds}"]
            if self.kind != "gcc":  # reads are checked where the same place is written next, too
                out += ["-mllvm", "-tsan-instrument-read-before-write=1"]
        return tuple(out)

    def runtime_flags(self) -> tuple[str, ...]:
        """For the runtime, which is compiled once."""
        more = ("-fno-sanitize=undefined",) if self.kind == "zig" else ()
        return ("-std=c++17", "-O2", *LANGUAGE, *more)

    def run(self, arguments: Iterable[str]) -> subprocess.CompletedProcess[str]:
        """Call it; TimeoutExpired of `subprocess` becomes a BuildError."""
        try:
            return subprocess.run(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"{self.command[0]} took longer than {_LIMIT_S:g} s", code="host-compiler-timeout"
            ) from None
        except OSError as e:
            raise BuildError(
                f"{self.command[0]} cannot be run: {e}", code="no-host-compiler"
            ) from None


def host_compiler() -> HostCompiler:
    """The compiler that GPUTUNE_HOST_CXX names, or the first of g++, clang++, the ziglang wheel.

    Raises:
        BuildError: there is none, or the one that is named does not work.
    """
    return _found(knobs.HOST_CXX.get(), os.environ.get("PATH", ""))


@cache
def _found(wanted: str, path: str) -> HostCompiler:
    if wanted == "zig":
        command = _zig()
        if command is None:
            raise BuildError(
                f"{knobs.HOST_CXX.name} is 'zig', but the ziglang wheel is not installed",
                hint="pip install ziglang",
                code="no-host-compiler",
            )
        return _asked(command)
    if wanted:
        named = shutil.which(wanted, path=path)
        if named is None:
            raise BuildError(
                f"{knobs.HOST_CXX.name} is {wanted!r}, which is no program", code="no-host-compiler"
            )
        return _asked((named,))
    for name in ("g++", "clang++"):
        place = shutil.which(name, path=path)
        if place is not None:
            return _asked((place,))
    command = _zig()
    if command is None:
        raise BuildError(
            "there is no C++ compiler to run CUDA kernels on the CPU: no g++, no clang++, and no "
            "ziglang wheel",
            hint='pip install "gputune[check]", or name one in ' + knobs.HOST_CXX.name,
            code="no-host-compiler",
        )
    return _asked(command)


def _zig() -> tuple[str, ...] | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    return (sys.executable, "-m", "ziglang", "c++")


def _asked(command: Sequence[str]) -> HostCompiler:
    probe = HostCompiler("gcc", tuple(command), "")
    answer = probe.run(["--version"])
    text = answer.stdout.strip()
    if answer.returncode or not text:
        said = (answer.stderr.strip() or text or "nothing").splitlines()[-1]
        raise BuildError(
            f"{' '.join(command)} does not work as a C++ compiler: {said}", code="no-host-compiler"
        )
    kind: Kind = "clang" if "clang" in text.lower() else "gcc"
    if "ziglang" in command:
        kind = "zig"
        text += _zig_version()
    return HostCompiler(kind, tuple(command), text)


def _zig_version() -> str:
    from importlib import metadata

    try:
        return " ziglang " + metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        return ""
