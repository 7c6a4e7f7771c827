"""What is the machine that this process runs on: processor, vector units, cores, GPU stack?

llvmlite is imported only when a question needs it; answers are cached.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """Widest vector register in bytes, and how many vector registers there are."""

    bytes: int
    registers: int


def _llvm() -> Any:
    # llvmlite is not annotated; through Any its calls need no excuses
    return importlib.import_module("llvmlite.binding")


@cache
def triple() -> str:
    """LLVM's name for this process's architecture and system."""
    llvm = _llvm()

    return str(llvm.get_process_triple())


@cache
def cpu_name() -> str:
    """LLVM's name for this processor; virtual machines may mask it, so features count more."""
    llvm = _llvm()

    return str(llvm.get_host_cpu_name())


@cache
def features() -> dict[str, bool]:
    """LLVM feature name -> whether this processor has it."""
    llvm = _llvm()

    return {str(k): bool(v) for k, v in sorted(llvm.get_host_cpu_features().items())}


@cache
def feature_string() -> str:
    """`features()` as LLVM reads it: "+avx2,-avx512f,...", sorted by name."""
    return ",".join(("+" if on else "-") + name for name, on in features().items())


def has_features(mattr: str) -> bool:
    """Has this processor all features that a feature string asks for?"""
    mine = features()
    return all(mine.get(f[1:], False) for f in mattr.split(",") if f.startswith("+"))


@cache
def model_name() -> str:
    """The processor's marketing name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "cpu model") and value.strip():
                return " ".join(value.split())
    except OSError:
        pass  # not Linux: ask the platform module
    return " ".join((platform.processor() or platform.machine() or "unknown").split())


@cache
def device_key() -> str:
    """A string equal on machines of one class: "<model name> <cpu>/<digest of the features>"."""
    digest = hashlib.blake2b(feature_string().encode(), digest_size=4).hexdigest()
    return f"{model_name()} {cpu_name()}/{digest}"


# ----------------------------------------------------------------------------- cores
@cache
def usable_cores() -> int:
    """Physical cores that this process may use: affinity, hyper-threads and cgroup quota count."""
    cores = len(allowed_cores())
    quota = _cgroup_cpus()
    return max(1, min(cores, int(quota) if quota is not None else cores))


def allowed_cores() -> list[frozenset[int]]:
    """The logical processors that the calling thread may use, by physical core."""
    cores: dict[str, set[int]] = {}
    for cpu in sorted(_allowed_cpus()):
        cores.setdefault(_siblings(cpu), set()).add(cpu)
    return [frozenset(cpus) for cpus in cores.values()]


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """What the hyper-threads of one core have in common; the cpu itself where unknown."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _cgroup_cpus() -> float | None:
    """The share of processors that a container is limited to, or None."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError):
        pass  # not cgroup v2; v1 is asked next
    v1 = Path("/sys/fs/cgroup/cpu")
    try:
        limit = float((v1 / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        span = float((v1 / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return limit / span if limit > 0 and span > 0 else None


# ----------------------------------------------------------------------------- folders
def cache_root() -> Path:
    """Where gputune keeps what can be made anew: `gputune` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "gputune"


def cache_folder(*inside: str) -> Path | None:
    """A folder of gputune's cache, made if needed; None unless it is this user's alone.

    Nobody else may have put files there: compiled code is loaded from it.
    """
    root = cache_root()
    folders = [root.joinpath(*inside[:depth]) for depth in range(len(inside) + 1)]
    return folders[-1] if all(map(_private, folders)) else None


def _private(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
        own = facts.st_uid == os.getuid() and not facts.st_mode & 0o022
        return own and not folder.is_symlink() and os.access(folder, os.W_OK)
    return False


# ----------------------------------------------------------------------------- what LLVM knows
@cache
def llvm_names() -> tuple[frozenset[str], frozenset[str]]:
    """The processor names and feature names that LLVM knows for this architecture.

    LLVM has no call for it, only a help text on stderr; a short-lived process prints it.
    """
    program = (
        "import llvmlite.binding as b\n"
        "b.initialize_native_target()\n"
        "b.Target.from_triple(b.get_process_triple()).create_target_machine(cpu='help')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    cpus: set[str] = set()
    feats: set[str] = set()
    into = cpus
    for line in done.stderr.splitlines():
        if line.startswith("Available features"):
            into = feats
        elif line.startswith("  ") and " - " in line:
            into.add(line.split()[0])
    return frozenset(cpus), frozenset(feats)


@cache
def vector_unit(cpu: str, mattr: str) -> VectorUnit:
    """The vector registers of a processor: LLVM is asked by compiling an addition of 64 bytes."""
    llvm = _llvm()

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(triple()).create_target_machine(cpu=cpu, features=mattr)
    text = (
        "define void @f(ptr %p) {\n  %a = load <16 x float>, ptr %p\n"
        "  %b = fadd <16 x float> %a, %a\n  store <16 x float> %b, ptr %p\n  ret void\n}\n"
    )
    asm = machine.emit_assembly(llvm.parse_assembly(text, llvm.create_context()))
    if not triple().startswith(("x86_64", "i386", "i686")):
        return VectorUnit(16, 32)  # NEON and its like: fixed vectors of 16 bytes, 32 registers
    if "%zmm" in asm:
        return VectorUnit(64, 32)
    return VectorUnit(32 if "%ymm" in asm else 16, 16)


@cache
def cache_bytes() -> tuple[int, int, int]:
    """Bytes of this machine's first (data), second and third cache, as Linux tells them; what a
    common processor has where it tells nothing."""
    found = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-9]*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        match = re.fullmatch(r"([0-9]+)([KMG]?)", size)
        if kind in ("Data", "Unified") and level in found and match and int(match[1]):
            found[level] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return found[1], found[2], found[3]


_IMPLIES: dict[str, tuple[str, ...]] = {
    "avx2": ("avx",),
    "avxvnni": ("avx2",),
    "f16c": ("avx",),
    "fma": ("avx",),
    "avx512f": ("avx2", "f16c", "fma"),
    "avx512bf16": ("avx512bw",),
    "avx512bitalg": ("avx512bw",),
    "avx512fp16": ("avx512bw", "avx512dq", "avx512vl"),
    "avx512vbmi": ("avx512bw",),
    "avx512vbmi2": ("avx512bw",),
    **{f"avx512{x}": ("avx512f",) for x in ("bw", "cd", "dq", "ifma", "vl", "vnni", "vpopcntdq")},
    "amx-int8": ("amx-tile",),
    "amx-bf16": ("amx-tile",),
    "dotprod": ("neon",),
}
"""What LLVM turns on together with a feature; turning one of these off turns the feature off."""

_SERVER = "avx512bw", "avx512cd", "avx512dq", "avx512vl"
_VNNI = (*_SERVER, "avx512vnni")
_WITHOUT_AVX512 = (
    "alderlake", "raptorlake", "meteorlake", "gracemont", "sierraforest", "grandridge", "arrowlake",
    "arrowlake-s", "lunarlake", "pantherlake", "clearwaterforest",
)  # fmt: skip
_ARM_DOT = (
    "cortex-a55", "cortex-a76", "cortex-a78", "neoverse-n1", "neoverse-n2", "neoverse-v1",
    "neoverse-v2", "apple-m1", "apple-m2", "apple-m3", "apple-m4",
)  # fmt: skip
_BY_NAME: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("skylake-avx512", "skx", "cannonlake"), _SERVER),
    **dict.fromkeys(
        ("cascadelake", "icelake-client", "icelake-server", "tigerlake", "rocketlake"), _VNNI
    ),
    **dict.fromkeys(("cooperlake", "znver4"), (*_VNNI, "avx512bf16")),
    "znver5": (*_VNNI, "avx512bf16", "avxvnni"),
    **dict.fromkeys(_WITHOUT_AVX512, ("avxvnni",)),
    **dict.fromkeys(
        ("sapphirerapids", "emeraldrapids", "graniterapids"),
        (*_VNNI, "avx512bf16", "avx512fp16", "avxvnni", "amx-int8", "amx-bf16"),
    ),
    **dict.fromkeys(("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a73"), ("neon",)),
    **dict.fromkeys(_ARM_DOT, ("dotprod",)),
}
"""What tensor intrinsics ask of processors that are named in a target, not present."""


@cache
def enabled(cpu: str, mattr: str) -> frozenset[str]:
    """The features that a target has: those of the processor of this name (what tensor intrinsics
    ask for, for the names that are known), changed by `mattr` from left to right as LLVM does it.

    Example:
        >>> sorted(enabled("", "+avx512vnni,+avx512bf16,-avx512bw"))
        ['avx', 'avx2', 'avx512f', 'avx512vnni', 'f16c', 'fma']
    """
    on: set[str] = set()
    for word in (*[f"+{x}" for x in _BY_NAME.get(cpu, ())], *filter(None, mattr.split(","))):
        name = word[1:]
        if word[0] == "+":
            _turn_on(on, name)
        else:
            _turn_off(on, name)
    return frozenset(on)


def _turn_on(on: set[str], name: str) -> None:
    on.add(name)
    for needed in _IMPLIES.get(name, ()):
        _turn_on(on, needed)


def _turn_off(on: set[str], name: str) -> None:
    on.discard(name)
    for other in [x for x in on if name in _IMPLIES.get(x, ())]:
        _turn_off(on, other)


# ----------------------------------------------------------------------------- GPU
@cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used on this machine, or None if driver, CuPy and NVRTC all work."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 not found)"
    count = ctypes.c_int(0)
    code = driver.cuInit(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        return f"the NVIDIA driver answers with error {code}"
    if count.value == 0:
        return "the NVIDIA driver sees no device"
    try:
        cupy_cuda: Any = importlib.import_module("cupy.cuda")
    except ImportError as e:
        return f"CuPy cannot be imported ({e})"
    try:
        cupy_cuda.nvrtc.getVersion()
    except (RuntimeError, ImportError, OSError) as e:
        return f"NVRTC does not load ({e})"
    return None


@cache
def cuda_arch() -> str:
    """The architecture of the first GPU, such as "sm_90a"; "sm_80" where there is none to ask."""
    if cuda_problem() is not None:
        return "sm_80"
    driver = ctypes.CDLL("libcuda.so.1")
    part = ctypes.c_int(0)
    numbers = []
    for attribute in (75, 76):  # compute capability major, minor
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, 0)
        numbers.append(part.value)
    major, minor = numbers
    # From sm_90 on, the "a" variants hold the features (wgmma, TMA) that fast kernels need.
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"
