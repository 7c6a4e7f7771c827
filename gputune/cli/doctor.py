"""`gputune doctor`: what does this machine offer, what is missing, and why?"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

import gputune
from gputune import knobs

State = Literal["ok", "note", "missing"]
MARK: dict[State, str] = {"ok": "ok", "note": "note", "missing": "MISSING"}
STYLE: dict[State, str] = {"ok": "green", "note": "yellow", "missing": "red"}

EXAMPLES = """\b
Examples:
  gputune doctor
  gputune doctor --work-dir tuned
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do."""

    what: str
    state: State
    text: str


@click.command(epilog=EXAMPLES)
@click.option(
    "--work-dir", type=click.Path(path_type=Path), default=Path("."), help="Folder to look at too."
)
def doctor(work_dir: Path) -> None:
    """Say what this machine offers for tuning, and what is missing, and why.

    Exits with 1 if something is missing that gputune cannot work without.
    """
    from rich.table import Table
    from rich.text import Text

    from .display import console

    found = list(examine(work_dir))
    out = Table.grid(padding=(0, 2))
    for f in found:
        out.add_row(Text(MARK[f.state], STYLE[f.state]), Text(f.what, "bold"), Text(f.text))
    console().print(out)
    if any(f.state == "missing" for f in found):
        sys.exit(1)


def examine(work_dir: Path) -> Iterator[Finding]:
    """All findings, in the order in which they are shown."""
    yield Finding("gputune", "ok", f"{gputune.__version__} in {Path(gputune.__file__).parent}")
    yield from _python()
    yield from _processor()
    yield from _compiler()
    yield from _packages()
    yield from _gpu()
    yield from _knobs()
    yield _folder("work folder", work_dir)
    yield _cache()


# ----------------------------------------------------------------------------- the machine
def _python() -> Iterator[Finding]:
    version = platform.python_version()
    state: State = "ok" if sys.version_info >= (3, 11) else "missing"
    yield Finding(
        "python",
        state,
        f"{version} ({platform.python_implementation()}); gputune needs 3.11 or later",
    )
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    tried = platform.system() == "Linux"
    yield Finding(
        "system", "ok" if tried else "note", system + ("" if tried else ": tested on Linux only")
    )


def _processor() -> Iterator[Finding]:
    from gputune.target import Target, host

    target = Target("llvm")
    yield Finding("processor", "ok", f"{host.model_name()} (LLVM calls it {host.cpu_name()})")
    yield Finding("cores", "ok", f"{target.num_cores} usable of {os.cpu_count() or 1} logical ones")
    useful = ("avx2", "fma", "avx512f", "avx512vnni", "avx512bf16", "amx-tile", "neon", "sve")
    have = [f for f in useful if host.features().get(f)]
    width = target.vector_bytes * 8
    wide = width >= 256 or platform.machine() not in ("x86_64", "AMD64")
    text = (
        f"{width} bits, {target.num_vector_registers} registers ({', '.join(have) or 'baseline'})"
    )
    yield Finding("vectors", "ok" if wide else "note", text)


def _compiler() -> Iterator[Finding]:
    version = _version("llvmlite")
    if version is None:
        yield Finding("llvm", "missing", "llvmlite is not installed: pip install llvmlite")
        return
    try:
        binding: Any = importlib.import_module("llvmlite.binding")
        llvm = ".".join(map(str, binding.llvm_version_info))
    except (ImportError, OSError) as e:
        yield Finding("llvm", "missing", f"llvmlite {version} does not load: {e}")
        return
    yield Finding("llvm", "ok", f"LLVM {llvm} through llvmlite {version}")


# ----------------------------------------------------------------------------- packages
def _packages() -> Iterator[Finding]:
    yield from map(_needed, ("numpy", "numba", "ml_dtypes", "rich", "click", "filelock"))
    yield _xgboost()
    yield _nvml()
    yield from _gpus()
    yield from _clocks()
    optional = {
        "torch": "torch tensors, models",
        "onnx": "ONNX models",
        "distributed": "builders and runners on other machines",
    }
    for name, what in optional.items():
        version = _version(name)
        text = version or f"not installed (optional: {what})"
        yield Finding(name, "ok" if version else "note", text)


def _needed(name: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(name, "missing", f"not installed: pip install {name}")
    return Finding(name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _xgboost() -> Finding:
    """`xgboost` and `xgboost-cpu` share one folder: whichever comes last overwrites the other."""
    both = {n: v for n in ("xgboost", "xgboost-cpu") if (v := _version(n)) is not None}
    names = " and ".join(f"{n} {v}" for n, v in both.items())
    if not both:
        return Finding("xgboost", "missing", "not installed: pip install xgboost-cpu")
    if len(both) == 2:
        return Finding(
            "xgboost", "note",
            f"{names} are both installed and share the folder xgboost/: uninstall both, then "
            "pip install xgboost-cpu",
        )  # fmt: skip
    try:
        importlib.import_module("xgboost")
    except Exception as e:  # a broken installation may raise anything
        return Finding("xgboost", "missing", f"{names} does not load: {e}")
    return Finding("xgboost", "ok", names)


def _nvml() -> Finding:
    """The module pynvml must be NVIDIA's own: the distribution called pynvml is another one."""
    mine, other = _version("nvidia-ml-py"), _version("pynvml")
    if other is not None:
        return Finding(
            "nvml", "note",
            f"the distribution pynvml {other} is installed, which hides nvidia-ml-py's module: "
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
        )  # fmt: skip
    if mine is None:
        return Finding("nvml", "missing", "nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        driver = nvml.nvmlSystemGetDriverVersion()
        nvml.nvmlShutdown()
    except Exception as e:  # NVMLError has no common base in all versions
        return Finding("nvml", "note", f"nvidia-ml-py {mine}; no GPU to ask ({e})")
    return Finding("nvml", "ok", f"nvidia-ml-py {mine}, driver {driver}, {count} devices")


def _gpus() -> Iterator[Finding]:
    """What NVML says of each GPU: what cannot be read, and settings that bear on times."""
    from gputune.runtime import nvml
    from gputune.runtime.energy import energy_problem

    for pci in nvml.bus_ids():
        found, problem = nvml.open_nvml(pci)
        if found is None:
            yield Finding("gpu", "note", f"{pci}: {problem}")
            continue
        told = list(nvml.notes(found.about))
        others = found.others()
        if others:
            told.append(f"{others} other processes compute on it: times taken now do not rank")
        told += [f"{name} cannot be read ({why})" for name, why in found.read().problems.items()]
        if why := energy_problem(found, ""):
            told.append(f"energy cannot be measured ({why})")
        text = "; ".join(told) or "clocks, power, temperature and energy can be read"
        yield Finding(
            "gpu", "note" if told else "ok", f"{pci} {found.about.get('name', '')}: {text}"
        )


def _clocks() -> Iterator[Finding]:
    """Clocks that a tuning holds, or has left behind."""
    from gputune.runtime.clock_lock import locks

    for x in locks():
        if x.alive:
            text = f"{x.pci_bus_id}: held at {x.clock} by process {x.guard}, for a tuning"
        else:
            text = (
                f"{x.pci_bus_id}: left locked at {x.clock} when process {x.guard} was killed: "
                f"nvidia-smi -i {x.pci_bus_id} --reset-gpu-clocks (it needs privileges), then "
                f"remove {x.path}"
            )
        yield Finding("gpu clock", "note", text)


# ----------------------------------------------------------------------------- CUDA
def _gpu() -> Iterator[Finding]:
    from gputune.target import host

    cupys = [
        (d.metadata["Name"], d.version)
        for d in metadata.distributions()
        if (d.metadata["Name"] or "").lower().startswith("cupy")
    ]
    if len(cupys) > 1:
        names = " and ".join(f"{n} {v}" for n, v in cupys)
        yield Finding("cupy", "note", f"{names} share the folder cupy/: keep one of them")
    elif cupys:
        yield Finding("cupy", "ok", " ".join(cupys[0]))
    else:
        text = 'not installed (optional: for NVIDIA GPUs; pip install "gputune[cuda13]")'
        yield Finding("cupy", "note", text)
    yield _nvrtc()
    yield _nvcc()
    yield _host_compiler()
    yield _driver()
    problem = host.cuda_problem()
    if problem is not None:
        yield Finding("cuda", "note", f"not available: {problem}")
    else:
        yield Finding("cuda", "ok", host.cuda_arch())


def _nvrtc() -> Finding:
    from gputune.codegen.cuda import nvrtc
    from gputune.errors import BuildError

    try:
        found = nvrtc.load()
    except BuildError as e:
        return Finding("nvrtc", "note", str(e))
    if found is None and knobs.NVRTC.get() == "none":
        return Finding("nvrtc", "note", f"not used: {knobs.NVRTC.name} is 'none'")
    if found is None:
        text = 'not found (optional: compiles CUDA kernels; pip install "gputune[cuda13]")'
        return Finding("nvrtc", "note", text)
    oldest, newest = min(found.archs), max(found.archs)
    headers = "" if found.include_dirs else "; without CUDA's headers"
    text = f"{found.name}, sm_{oldest} to sm_{newest}, {found.path}{headers}"
    return Finding("nvrtc", "ok", text)


def _nvcc() -> Finding:
    from gputune.codegen.cuda import nvcc

    found = nvcc.load()
    if found is None:
        text = "not found (optional: compiles CUDA kernels where NVRTC is missing; CUDA toolkit)"
        return Finding("nvcc", "note", text)
    return Finding("nvcc", "ok", f"{found.name}, {found.path}")


def _host_compiler() -> Finding:
    """What runs CUDA kernels on the processor: any one of three will do."""
    for name in ("g++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return Finding("c++", "ok", f"{name}, {path}")
    zig = _version("ziglang")
    if zig is not None:
        return Finding("c++", "ok", f"ziglang {zig}")
    text = 'none found (optional: checks CUDA kernels without a GPU; pip install "gputune[check]")'
    return Finding("c++", "note", text)


def _driver() -> Finding:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        text = "no libcuda.so.1: it comes with NVIDIA's driver, which the system installs"
        return Finding("driver", "note", text)
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return Finding("driver", "note", "libcuda.so.1 does not tell its version")
    major, minor = number.value // 1000, number.value % 1000 // 10
    return Finding("driver", "ok", f"for CUDA {major}.{minor} and earlier")


# ----------------------------------------------------------------------------- settings, folders
def _knobs() -> Iterator[Finding]:
    for knob in knobs.ALL:
        value = knob.get()
        shown = f"{value!r}" if value != knob.default else f"not set ({knob.about})"
        yield Finding(knob.name, "ok" if value == knob.default else "note", shown)


def _folder(what: str, path: Path) -> Finding:
    """Can files be made there?"""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    problem = _attempt(lambda: tempfile.TemporaryFile(dir=there).close())
    if problem:
        return Finding(what, "note", f"{path.resolve()} cannot be written: {problem}")
    made = "" if there == path else " (will be made)"
    return Finding(what, "ok", f"{path.resolve()}{made} can be written")


def _cache() -> Finding:
    from gputune.target import host

    return _folder("cache folder", host.cache_root())


def _attempt(action: Callable[[], None]) -> str:
    try:
        action()
    except OSError as e:
        return e.strerror or str(e)
    return ""
