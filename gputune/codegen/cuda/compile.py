"""How does CUDA C++ become a cubin? By NVRTC, or by nvcc where there is none; and once only.

Always for the exact architecture, never PTX: a driver cannot translate the PTX of a compiler newer
than itself.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from ...errors import BuildError
from . import cubin_cache, nvcc, nvrtc
from .cubin import KernelFacts, read_cubin
from .nvrtc import Compiled
from .program import CudaSource

INSTALL = "pip install gputune[cuda13]"
_ERRORS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class CudaBinary:
    """A compiled program.

    Attributes:
        cubin: the device code.
        log: what the compiler said (warnings).
        facts: of each kernel, by name.
        arch: what it runs on, such as "sm_90a".
    """

    cubin: bytes
    log: str
    facts: dict[str, KernelFacts]
    arch: str


class Compiler(Protocol):
    """What NVRTC and nvcc have in common."""

    @property
    def name(self) -> str:
        """As in "NVRTC 13.0"."""

    @property
    def identity(self) -> str:
        """Differs between compilers that may give different code."""

    @property
    def include_dirs(self) -> tuple[str, ...]:
        """Folders of CUDA's headers that it is told of."""

    def targets(self) -> tuple[str, ...]:
        """The architectures that it compiles for."""

    def compile(self, text: str, file_name: str, options: Sequence[str], arch: str) -> Compiled:
        """Compile a program."""


def compile_cuda(source: CudaSource, arch: str, *, cache: bool = True) -> CudaBinary:
    """Compile a program to a cubin.

    No GPU and no driver are needed. A hung compiler is the caller's matter: compile in a worker.

    Args:
        source: the program; where it uses the device prelude, that is put in front of it, and the
            compiler's messages still give lines of `source.text`.
        arch: such as "sm_80" or "sm_90a".
        cache: look in the user's cache folder first, and keep the cubin there.

    Raises:
        BuildError: it does not compile (the message holds the compiler's first errors); the host
            program launches a kernel that the text does not define; no compiler on this machine
            knows the architecture, or there is none.

    Example:
        >>> binary = compile_cuda(source, "sm_90a")          # doctest: +SKIP
        >>> binary.facts["vadd"].registers                   # doctest: +SKIP
        14
    """
    compiler = compiler_for(arch)
    _check_options(source)
    options = list(source.options)
    if not any(re.match(r"--?std=", o) for o in options):
        options.append("-std=c++17")
    file_name = _file_name(source.host.name)
    text = _whole_text(source, file_name)
    key = _key(source, text, file_name, options, arch, compiler) if cache else None
    found = cubin_cache.read(key) if key is not None else None
    if found is None:
        done = compiler.compile(text, file_name, options, arch)
        if done.cubin is None:
            raise _refusal(source, arch, compiler, done.log)
        found = done.cubin, done.log
        if key is not None:
            cubin_cache.write(key, *found)
    cubin, log = found
    facts = read_cubin(cubin)
    _check_launches(source, facts)
    return CudaBinary(cubin, log, facts, arch)


def compiler_for(arch: str) -> Compiler:
    """The compiler of this machine for an architecture: NVRTC, or nvcc where NVRTC does not do.

    Raises:
        BuildError: there is none; says what there is and what would work.
    """
    if not re.fullmatch(r"sm_[0-9]{2,3}[af]?", arch):
        raise BuildError(f"an architecture looks like sm_90 or sm_90a, found {arch!r}", code="arch")
    there: list[Compiler] = []
    for compiler in _compilers():
        if arch in compiler.targets():
            return compiler
        there.append(compiler)
    if not there:
        raise BuildError(
            "there is no compiler for CUDA on this machine: neither NVRTC nor nvcc was found",
            hint=f"{INSTALL} (or gputune[cuda12] for a driver of CUDA 12)",
            code="no-compiler",
        )
    known = "; ".join(f"{c.name} knows {', '.join(c.targets())}" for c in there)
    raise BuildError(
        f"no compiler on this machine knows {arch}: {known}",
        hint=f"choose one of those, or install a CUDA release that has {arch}",
        code="arch",
    )


def _compilers() -> Iterator[Compiler]:
    first = nvrtc.load()
    if first is not None:
        yield first
    second = nvcc.load()
    if second is not None:
        yield second


@functools.cache
def prelude() -> str:
    """The device prelude: the text that stands before every generated program."""
    return _device_file("prelude.cuh")


_MORE = {
    r"gt_wmma_": "wmma.cuh", r"gt_(fragment|mma_|ldmatrix)": "mma.cuh", r"gt_dp4a_": "dp4a.cuh",
    r"gt_(vec<|load|store)": "wide.cuh", r"gt_(copy_async|commit_copies|wait_copies)": "async.cuh",
}  # fmt: skip
"""How functions begin that are in files of their own, which follow the prelude where a program uses
them: products on tensor cores, and of bytes; accesses of several elements."""


@functools.cache
def _device_file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------- text and options
def _whole_text(source: CudaSource, file_name: str) -> str:
    if not source.prelude:
        return f"{source.text}\n"
    parts = [("prelude.cuh", prelude())]
    parts += [
        (name, _device_file(name)) for word, name in _MORE.items() if re.search(word, source.text)
    ]
    parts.append((file_name, source.text))
    return "".join([f'#line 1 "{name}"\n{text}\n' for name, text in parts])


def _file_name(program: str) -> str:
    """The name that messages give the text, made of the program's own."""
    return (re.sub(r"[^A-Za-z0-9_.]+", "_", program)[:100].lstrip(".") or "program") + ".cu"


def _check_options(source: CudaSource) -> None:
    for word in source.options:
        if not word.startswith("-"):
            raise BuildError(
                f"compiler option {word!r} of {source.host.name} does not start with a dash",
                hint="write an option and its value as one string, such as -DN=4",
                code="option",
            )
        if re.match(r"--?(arch|gpu-architecture|gpu-code|code|gencode|generate-code)\b", word):
            raise BuildError(
                f"compiler option {word!r} of {source.host.name} names an architecture",
                hint="the target says which: -arch=sm_90a in its string",
                code="option",
            )


def _check_launches(source: CudaSource, facts: dict[str, KernelFacts]) -> None:
    for launch in source.host.launches:
        if launch.kernel in facts:
            continue
        defined = ", ".join(facts) or "no kernel"
        mangled = any(f.startswith(f"_Z{len(launch.kernel)}{launch.kernel}") for f in facts)
        raise BuildError(
            f"{source.host.name} launches the kernel {launch.kernel!r}, and its source defines "
            f"{defined}",
            hint='declare it extern "C" __global__' if mangled else "",
            code="no-kernel",
        )


# ----------------------------------------------------------------------------- the cache's key
def _key(
    source: CudaSource, text: str, file_name: str, options: list[str], arch: str, c: Compiler
) -> str | None:
    """The cache's name for a compilation; None if it depends on files that are not looked at."""
    headers = _headers(source.text, options, c.include_dirs)
    if headers is None:
        return None
    return cubin_cache.key_of([c.identity, arch, file_name, *options, "", *headers, "", text])


def _headers(text: str, options: list[str], folders: tuple[str, ...]) -> list[str] | None:
    """What identifies the CUDA headers that a text includes; None if it includes others."""
    if any(re.match(r"--?(I|include|pre-include|dlto)", o) for o in options):
        return None
    if "__has_include" in text:
        return None
    out = []
    for line in re.findall(r"#[ \t]*include(.*)", text):
        named = re.match(r"\s*<([\w./+-]+)>", line)
        facts = _header_facts(named[1], folders) if named else None
        if facts is None:
            return None
        out.append(facts)
    return out


def _header_facts(name: str, folders: tuple[str, ...]) -> str | None:
    for folder in folders:
        path = Path(folder, name)
        if path.is_file():
            facts = os.stat(path)
            return f"{path} {facts.st_size} {facts.st_mtime_ns}"
    return None


# ----------------------------------------------------------------------------- what went wrong
_HINTS = (
    (r"cannot open source file|No such file or directory",
     "CUDA's own headers come with pip install gputune[cuda13]; a folder of yours is named by the "
     "option -IFOLDER"),
    (r"uses too much shared data",
     "static shared memory is limited to 48 KiB; beyond it, use dynamic shared memory: "
     "extern __shared__, and the launch's shared_bytes"),
    (r"requires \.target sm_|not supported on \.target|requires .*sm_\d+ or higher",
     "the kernel uses instructions that this architecture does not have"),
    (r"unrecognized option|[Uu]nknown option",
     "the program's options are passed to the compiler as they are"),
)  # fmt: skip


def _refusal(source: CudaSource, arch: str, compiler: Compiler, log: str) -> BuildError:
    """The error for a program that does not compile, with the first things its compiler said."""
    errors = first_errors(log)
    text = "\n  ".join(errors) if errors else "the compiler does not say why"
    hint = next((h for pattern, h in _HINTS if re.search(pattern, text)), "")
    return BuildError(
        f"{source.host.name} does not compile for {arch} ({compiler.name}): {text}",
        hint=hint,
        code="compile",
        details={"stderr": log},
    )


def first_errors(log: str) -> list[str]:
    """The first errors of a compiler's log, each as one line with its source line; the last says
    how many were left out."""
    lines = log.splitlines()
    out = []
    for at, line in enumerate(lines):
        if not re.search(r"\b(error|fatal)\s*:|\berror #|catastrophic error", line):
            continue
        line = " ".join(line.split())
        below = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if re.match(r"\S+\(\d+\)", line) and lines[at + 1 : at + 2] != [below] and below:
            line += f" in `{below}`"
        out.append(line)
    # some only sum up the lines before them
    telling = [e for e in out if not re.search("aborted due to|errors? detected in", e)]
    telling = telling or out or lines[:1]
    if len(telling) > _ERRORS_SHOWN:
        rest = len(telling) - _ERRORS_SHOWN
        telling = [*telling[:_ERRORS_SHOWN], f"and {rest} more error{'s' * (rest > 1)}"]
    return telling
