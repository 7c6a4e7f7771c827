"""Where is NVRTC on this machine, and how is it asked for a cubin? No driver and no CuPy needed.

NVRTC may be used from several threads at once: ctypes gives the GIL away during a compile. Its
front end holds a lock of its own, though, so that compiling in parallel takes several processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import knobs
from ...errors import BuildError

_COMPILATION, _INVALID_INPUT, _INVALID_OPTION = 6, 3, 5
"""The answers of nvrtcCompileProgram that are the text's or the options' fault."""

_SIZES = ctypes.POINTER(ctypes.c_size_t)
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "nvrtcVersion": (ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)),
    "nvrtcGetNumSupportedArchs": (ctypes.POINTER(ctypes.c_int),),
    "nvrtcGetSupportedArchs": (ctypes.POINTER(ctypes.c_int),),
    "nvrtcCreateProgram": (
        ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_char_p),
    ),
    "nvrtcDestroyProgram": (ctypes.POINTER(ctypes.c_void_p),),
    "nvrtcCompileProgram": (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "nvrtcGetProgramLogSize": (ctypes.c_void_p, _SIZES),
    "nvrtcGetProgramLog": (ctypes.c_void_p, ctypes.c_char_p),
    "nvrtcGetCUBINSize": (ctypes.c_void_p, _SIZES),
    "nvrtcGetCUBIN": (ctypes.c_void_p, ctypes.c_char_p),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler answered: the cubin, or None where it refused; and all that it said."""

    cubin: bytes | None
    log: str


@dataclass(frozen=True, slots=True)
class Nvrtc:
    """A loaded NVRTC library.

    Attributes:
        path: of the library file; the bare name where the system does not tell.
        version: major and minor, as in (13, 0).
        archs: compute capabilities it compiles for, such as (75, 80, 90).
        include_dirs: folders of the CUDA headers of the same major version, so that kernels may
            include cuda_fp16.h; empty where no headers are installed.
    """

    path: str
    version: tuple[int, int]
    archs: tuple[int, ...]
    include_dirs: tuple[str, ...]
    _library: ctypes.CDLL

    @property
    def name(self) -> str:
        """What people call it: "NVRTC 13.0"."""
        return "NVRTC {}.{}".format(*self.version)

    @property
    def identity(self) -> str:
        """Differs between builds of NVRTC, which the version does not always."""
        try:
            facts = os.stat(self.path)
        except OSError:
            return self.name
        return f"{self.name} {facts.st_size} {facts.st_mtime_ns}"

    def targets(self) -> tuple[str, ...]:
        """The architectures that `compile` takes."""
        names = [f"sm_{n}" for n in self.archs]
        names += [f"sm_{n}a" for n in self.archs if n >= 90]
        # "f": all of a family from this member on; CUDA 12.9 brought it
        names += [f"sm_{n}f" for n in self.archs if n >= 100 and self.version >= (12, 9)]
        return tuple(sorted(names, key=lambda s: (int(re.sub(r"\D", "", s)), s)))

    def compile(self, text: str, file_name: str, options: Sequence[str], arch: str) -> Compiled:
        """Compile CUDA C++ to a cubin for exactly this architecture.

        Args:
            text: the program; kernels should be `extern "C"`.
            file_name: the name that messages give the text.
            options: NVRTC's own, without -arch.
            arch: "sm_90a" and the like.

        Raises:
            BuildError: NVRTC itself failed (out of memory, internal error); a program that does not
                compile is no error here: its `cubin` is None.
        """
        words = [f"--gpu-architecture={arch}", "-default-device"]
        words += [f"--include-path={folder}" for folder in self.include_dirs]
        words += options
        program = ctypes.c_void_p()
        lib = self._library
        status = lib.nvrtcCreateProgram(
            ctypes.byref(program), _c_text(text), _c_text(file_name), 0, None, None
        )
        self._demand(status, "begin")
        try:
            array = (ctypes.c_char_p * len(words))(*map(_c_text, words))
            status = lib.nvrtcCompileProgram(program, len(words), array)
            log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            if status in (_COMPILATION, _INVALID_INPUT, _INVALID_OPTION):
                return Compiled(None, log or self._reason(status))
            self._demand(status, "compile", log)
            return Compiled(self._bytes(program, "CUBIN"), log)
        finally:
            lib.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._demand(
            getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what
        )
        buffer = ctypes.create_string_buffer(size.value)
        self._demand(getattr(self._library, f"nvrtcGet{what}")(program, buffer), what)
        return buffer.raw

    def _reason(self, status: int) -> str:
        return bytes(self._library.nvrtcGetErrorString(status)).decode(errors="replace")

    def _demand(self, status: int, step: str, log: str = "") -> None:
        if status != 0:
            said = f": {log}" if log else ""
            raise BuildError(
                f"{self.name} failed at the step {step!r} with {self._reason(status)}{said}",
                code="nvrtc",
            )


def _c_text(text: str) -> bytes:
    if "\0" in text:
        raise BuildError("CUDA source and compiler options cannot contain a NUL character")
    return text.encode()


# ----------------------------------------------------------------------------- finding it
_lock = threading.Lock()
_loaded: dict[str, Nvrtc] = {}


def load() -> Nvrtc | None:
    """The NVRTC library of this machine; None if there is none that works.

    Looked for in this order: the file that the environment variable GPUTUNE_NVRTC names, what
    cuda-pathfinder finds, NVIDIA's wheels in site-packages, CUDA_HOME and CUDA_PATH, the system's
    loader, /usr/local/cuda. GPUTUNE_NVRTC=none does without. Where there is a driver, the first one
    is taken that is not of a later major version than the driver, which would not load its cubins.

    Raises:
        BuildError: the file that GPUTUNE_NVRTC names is not an NVRTC library.
    """
    chosen = knobs.NVRTC.get()
    if chosen == "none":
        return None
    with _lock:
        if chosen not in _loaded:
            found = _open(chosen) if chosen else _first(_candidates())
            if found is None and chosen:
                raise BuildError(
                    f"{knobs.NVRTC.name} is {chosen!r}, which does not load as an NVRTC library",
                    hint="unset it, or give the full path of libnvrtc.so.13",
                    code="nvrtc",
                )
            if found is None:
                return None  # not remembered: it may be installed while a notebook runs
            _loaded[chosen] = found
        return _loaded[chosen]


def _first(paths: Iterator[str]) -> Nvrtc | None:
    """The first that suits the driver; the first of all if none does."""
    driver = _driver_major()
    best = None
    for path in paths:
        found = _open(path)
        if found is not None and (driver is None or found.version[0] <= driver):
            return found
        best = best or found
    return best


def _driver_major() -> int | None:
    """The CUDA major version that this machine's driver is for; None without a driver."""
    number = ctypes.c_int()
    with contextlib.suppress(OSError):
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0:
            return number.value // 1000
    return None


def _candidates() -> Iterator[str]:
    """Paths and bare names under which NVRTC may lie, the best guess first."""
    if (found := _path_finder()) is not None:
        yield found
    for place in sys.path:
        yield from _in_folders(Path(place) / "nvidia", "*/lib")
    for home in _homes():
        yield from _in_folders(home, "lib64", "lib", "targets/*/lib")
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
    yield from _in_folders(Path("/usr/local/cuda"), "lib64", "lib", "targets/*/lib")


def _path_finder() -> str | None:
    """What NVIDIA's own package for finding libraries finds; it is not needed."""
    # its errors are classes of its own below RuntimeError
    with contextlib.suppress(ImportError, RuntimeError, OSError, ValueError):
        finder: Any = importlib.import_module("cuda.pathfinder")
        return str(finder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    return None


def _homes() -> list[Path]:
    return [Path(home) for v in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(v))]


def _in_folders(root: Path, *patterns: str) -> Iterator[str]:
    """NVRTC libraries in folders below a root, the newest first."""
    found = [lib for p in patterns for lib in root.glob(f"{p}/libnvrtc.so*") if lib.is_file()]
    yield from map(str, sorted(found, key=lambda lib: (_soname_version(lib), lib), reverse=True))


def _soname_version(library: Path) -> int:
    number = re.search(r"\.so\.(\d+)", library.name)
    return int(number[1]) if number else 0


def _open(path: str) -> Nvrtc | None:
    """Load a library with what it needs; None if it does not load or is no NVRTC."""
    with contextlib.suppress(OSError, AttributeError):
        _open_builtins(Path(path))
        library = ctypes.CDLL(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = ctypes.c_int
        library.nvrtcGetErrorString.argtypes = (ctypes.c_int,)
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        full = path if os.path.isabs(path) else _mapped(path)
        version, archs = _version(library), _archs(library)
        return Nvrtc(full, version, archs, _include_dirs(Path(full), version[0]), library)
    return None


def _open_builtins(library: Path) -> None:
    """NVRTC opens its second half by bare name when it first compiles. In a wheel's folder the
    system does not find that, unless the library of this name is in the process already."""
    if library.is_absolute():
        for half in sorted(library.resolve().parent.glob("libnvrtc-builtins.so*")):
            ctypes.CDLL(str(half))


def _mapped(name: str) -> str:
    """The full path of a library that the system's loader found by its name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            path = line.partition("/")[2]
            if Path(path).name.startswith(name):
                return "/" + path
    return name


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) != 0:
        raise OSError("NVRTC does not tell its version")
    return major.value, minor.value


def _archs(library: ctypes.CDLL) -> tuple[int, ...]:
    count = ctypes.c_int()
    if library.nvrtcGetNumSupportedArchs(ctypes.byref(count)) != 0:
        raise OSError("NVRTC does not tell its architectures")
    numbers = (ctypes.c_int * count.value)()
    if library.nvrtcGetSupportedArchs(numbers) != 0:
        raise OSError("NVRTC does not tell its architectures")
    return tuple(numbers)


# ----------------------------------------------------------------------------- CUDA's headers
def _include_dirs(library: Path, major: int) -> tuple[str, ...]:
    """The folders with CUDA's headers beside a library; else those of an installed toolkit."""
    root = library.resolve().parent.parent  # .../nvidia/cu13, or a toolkit, or .../targets/...
    wheels = root.parent  # up to CUDA 12 each wheel has a folder of its own
    groups = [
        [root / "include"],
        [wheels / part / "include" for part in ("cuda_runtime", "cuda_cccl", "cuda_crt")],
        *([home / "include"] for home in (*_homes(), Path("/usr/local/cuda"))),
    ]
    for group in groups:
        if _header_major(group[0]) == major:
            folders = [f for g in group for f in (g, g / "cccl") if f.is_dir()]
            return tuple(map(str, folders))
    return ()


def _header_major(folder: Path) -> int | None:
    """The major version of the CUDA headers in a folder: headers of another are of no use."""
    try:
        text = (folder / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    number = re.search(r"^#define\s+CUDART_VERSION\s+(\d+)", text, re.M)
    return int(number[1]) // 1000 if number else None
