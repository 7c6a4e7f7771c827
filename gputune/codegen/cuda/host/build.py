"""How does the text of a program become a process that runs its kernels on the CPU?

The runtime is compiled once for each compiler; a program's kernels are compiled and linked to it.
Both are kept in the user's cache folder under the digest of everything that made them.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path

from gputune.errors import BuildError
from gputune.target import scratch
from gputune.target.host import cache_folder

from ..program import CudaSource
from .compiler import HostCompiler, host_compiler
from .symbols import Variable, variables
from .text import FILE, cuda_include_folders, headers_of, host_text, is_cuda_header

_RECIPE = "2"  # another number where the same texts are made into something else
_CACHE_BYTES = 256 << 20
_SWEEP_EVERY = 50  # programs built by this process between two looks at the folder's size
_builds = itertools.count()
_MESSAGES = 6  # of the compiler's, in an error


@dataclass(frozen=True, slots=True)
class HostCode:
    """A program compiled for the CPU.

    Attributes:
        source: what it was made of.
        path: the executable.
        variables: its `__shared__` and `__device__` variables.
        checked: is every access of memory checked when it runs?
        compiler: what compiled it.
    """

    source: CudaSource
    path: Path
    variables: tuple[Variable, ...]
    checked: bool
    compiler: str


def host_compile(source: CudaSource, *, checked: bool = True) -> HostCode:
    """Compile the kernels of a program for the CPU (0.2 s; cached).

    Args:
        source: the program. Options that define macros, name include folders or choose the
            standard are obeyed, others are the GPU compiler's affair.
        checked: let races, stray accesses and the rest be found when it runs; without, it runs
            ten times as fast and finds only gross errors: hangs, crashes, strays by whole pages.

    Raises:
        BuildError: the text does not compile, includes what cannot run on the CPU, defines not
            what is launched, or there is no C++ compiler.

    Example:
        >>> code = host_compile(source)                                # doctest: +SKIP
        >>> report = host_run(code, {"a": a, "b": b, "n": 1024})       # doctest: +SKIP
        >>> report.ok, report.outputs["b"]                             # doctest: +SKIP
    """
    compiler = host_compiler()
    options, macros = _options(source.options)
    text = host_text(source, macros)
    headers = headers_of(source.text)
    if any(map(is_cuda_header, headers)):
        options += [f"-isystem{folder}" for folder in cuda_include_folders()]
    flags = (*compiler.kernel_flags(checked), *options)
    how = (*compiler.command, *flags, *compiler.runtime_flags())
    name = _digest(_shim_digest(), compiler.version, *how, text)
    path = _folder() / f"{name}.run"
    about = path.with_suffix(".json")
    found = _known_variables(about) if path.is_file() else None
    if found is None:
        found = _build(source, text, compiler, flags, path)
        _write(about, json.dumps([asdict(v) for v in found]).encode())
        if next(_builds) % _SWEEP_EVERY == 0:
            _sweep(path.parent)
    else:
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used: others go first
    return HostCode(source, path, found, checked, compiler.version.splitlines()[0])


def _known_variables(about: Path) -> tuple[Variable, ...] | None:
    try:
        return tuple([Variable(**row) for row in json.loads(about.read_bytes())])
    except (OSError, ValueError, TypeError):
        return None


# ----------------------------------------------------------------------------- compiling
def _build(
    source: CudaSource, text: str, compiler: HostCompiler, flags: Sequence[str], path: Path
) -> tuple[Variable, ...]:
    runtime = _runtime(compiler)
    with _folder_beside(path) as name:
        folder = Path(name)
        text_file, object_file = folder / FILE, folder / "program.o"
        text_file.write_text(text, encoding="utf-8")
        made = compiler.run([
            *flags, f"-I{_shim()}", "-c", "-x", "c++", str(text_file), "-o", str(object_file),
        ])  # fmt: skip
        if made.returncode:
            raise _refusal(source, made.stderr + made.stdout)
        script = [f"-Wl,-T,{_shim() / 'shared.ld'}"] if compiler.kind == "gcc" else []
        program = folder / "program"
        made = compiler.run([
            str(object_file), str(runtime), *script, "-lm", "-o", str(program),
        ])  # fmt: skip
        if made.returncode:
            raise _unlinked(source, made.stderr + made.stdout)
        found = variables(program.read_bytes())
        program.replace(path)
    return found


def _runtime(compiler: HostCompiler) -> Path:
    """The compiled runtime."""
    flags = compiler.runtime_flags()
    name = _digest(_shim_digest(), compiler.version, *compiler.command, *flags)
    path = _folder() / f"{name}.runtime.o"
    if path.is_file():
        return path
    with _folder_beside(path) as folder:
        out = Path(folder) / "runtime.o"
        made = compiler.run([*flags, "-c", str(_shim() / "runtime.cpp"), "-o", str(out)])
        if made.returncode:
            raise BuildError(
                f"{' '.join(compiler.command)} cannot compile the runtime of host execution:\n"
                + _first_errors(made.stderr + made.stdout),
                code="host-runtime",
            )
        out.replace(path)
    return path


def _options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that the C++ compiler understands, in its own spelling, with the standard (C++17 unless
    another is asked for); and lines that define macros."""
    out: list[str] = []
    macros: list[str] = []
    standard = "c++17"
    words = iter(options)
    for word in words:
        if word in ("-D", "-U", "-I"):
            word += next(words, "")
        if match := re.match(r"(?:-D|--define-macro=)\s*(.+)", word):
            name, equals, value = match[1].partition("=")
            macros.append(f"#define {name} {value if equals else 1}")
        elif match := re.match(r"(?:-U|--undefine-macro=)\s*(.+)", word):
            macros.append(f"#undef {match[1]}")
        elif match := re.match(r"(?:-I|--include-path=)\s*(.+)", word):
            out.append(f"-I{match[1]}")
        elif match := re.match(r"--?std=(.+)", word):
            standard = match[1]
    return [f"-std={standard}", *out], macros


# ----------------------------------------------------------------------------- refusals
def _refusal(source: CudaSource, log: str) -> BuildError:
    name, hint = source.host.name, ""
    for kernel in dict.fromkeys(launch.kernel for launch in source.host.launches):
        named = rf"\b{re.escape(kernel)}\b"
        if re.search(rf"error: .*{named}", log) and not re.search(named, source.text):
            return BuildError(
                f"program {name!r} launches a kernel {kernel!r}, which its text does not define",
                code="no-kernel",
                details={"log": log},
            )
    headers = [h for h in headers_of(source.text) if is_cuda_header(h)]
    if headers:
        which = ", ".join(f"<{h}>" for h in headers)
        hint = f"{which} may need what only a GPU's compiler has"
        if not cuda_include_folders():
            hint = f"{which} was not found: pip install nvidia-cuda-runtime, or set CUDA_HOME"
    elif re.search(r"\basm\b", source.text):
        hint = "inline PTX cannot run on the CPU; use CUDA's functions, or test GT_HOST"
    return BuildError(
        f"program {name!r} does not compile for the CPU:\n{_first_errors(log)}",
        hint=hint,
        code="host-compile",
        details={"log": log},
    )


def _unlinked(source: CudaSource, log: str) -> BuildError:
    missing = list(
        dict.fromkeys(re.findall(r"undefined (?:reference to|symbol:) [`']?([^`'\n]+)", log))
    )
    what = f"it needs {', '.join(missing[:_MESSAGES])}" if missing else _first_errors(log)
    return BuildError(
        f"program {source.host.name!r} cannot be linked for the CPU: {what}",
        hint="host execution has no such function",
        code="host-link",
        details={"log": log},
    )


def _first_errors(log: str) -> str:
    lines = [line for line in log.splitlines() if re.search(r"\b(error|fatal)\b", line)]
    lines = lines or log.strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[:_MESSAGES])


# ----------------------------------------------------------------------------- files
@cache
def _shim() -> Path:
    """The folder of the headers; the package is installed as files."""
    return Path(str(resources.files(__package__).joinpath("shim")))


@cache
def _shim_digest() -> str:
    files = sorted(p for p in _shim().iterdir() if p.suffix in (".h", ".cpp", ".ld"))
    return _digest(*(p.name + p.read_text(encoding="utf-8") for p in files))


def _digest(*parts: str) -> str:
    digest = blake2b(digest_size=20)
    for part in (_RECIPE, *parts):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _folder() -> Path:
    return cache_folder("host") or _own_folder()


@cache
def _own_folder() -> Path:
    """Where the cache folder cannot be used: one that goes with this process."""
    folder = tempfile.mkdtemp(prefix="gputune-host-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder from which a file can be moved to a path."""
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=f"build-{scratch.token()}")


def _write(path: Path, data: bytes) -> None:
    """Appears whole or not at all."""
    file, name = tempfile.mkstemp(dir=path.parent, prefix=f"build-{scratch.token()}")
    with os.fdopen(file, "wb") as out:
        out.write(data)
    os.replace(name, path)


def _sweep(folder: Path) -> None:
    """Remove the programs that were not used for longest, if there are too many."""
    entries = []
    with contextlib.suppress(OSError):
        for path in folder.glob("*.run"):
            with contextlib.suppress(OSError):  # another process removed it
                facts = path.stat()
                entries.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries, key=lambda e: e[0]):
        if total <= _CACHE_BYTES:
            return
        for gone in (path, path.with_suffix(".json")):
            with contextlib.suppress(OSError):
                gone.unlink()
        total -= size
