"""Is there a GPU that this process can use, what is it, and what does an error of it mean?

CuPy is the way to the driver; it is imported when it is first needed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from gputune.errors import RunError
from gputune.target.host import cuda_problem

LOST = "context"
"""Key of an error's details that says: no further CUDA call of this process will work."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees."""

_DENY = "every further CUDA call of this process fails: start a new process"

# What CUDA's error numbers mean: those of the driver and of the runtime are the same since 10.1.
_NO_MEMORY = (2,)
_NO_IMAGE = (98, 200, 209, 218, 222)
_TOO_LARGE = (1, 9, 701, 720)
_LOST = {
    214: "memory of the GPU is faulty (uncorrectable ECC error)",
    220: "a link between GPUs failed",
    700: "the kernel accessed memory that is not there",
    702: "the kernel ran longer than the system allows",
    710: "an assertion in the kernel failed",
    714: "the hardware's stack of the kernel is damaged",
    715: "the kernel executed an illegal instruction (__trap, perhaps)",
    716: "the kernel accessed memory at an address that is not a multiple of the access's size",
    717: "the kernel used an address of another memory space",
    718: "the kernel jumped to an address that is no code",
    719: "the kernel failed (an access out of bounds, most often)",
    999: "the driver does not say what failed",
}


def gpu(what: str) -> Any:
    """CuPy, on a machine with a GPU that works.

    Args:
        what: begins the error's message: what needs it.

    Raises:
        RunError: as of `need_gpu`.
    """
    need_gpu(what)
    return importlib.import_module("cupy")


def need_gpu(what: str) -> None:
    """Nothing, on a machine with a GPU that works.

    Raises:
        RunError: there is no GPU, no driver or no CuPy; says which.
    """
    problem = cuda_problem()
    if problem is not None:
        raise RunError(
            f"{what} needs an NVIDIA GPU, and there is none to use: {problem}",
            hint="gputune doctor says what is missing; GPU programs run without a GPU by host "
            "execution: gputune check",
            code="no-gpu",
        )


# ----------------------------------------------------------------------------- errors
@contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Errors of CUDA raised inside come out as RunError; `what` begins the message."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        raise translated(e, what) from None


def translated(e: RuntimeError | MemoryError, what: str) -> RuntimeError | RunError:
    """The RunError for an error that CuPy raised; any other RuntimeError as it is.

    `code` is "out-of-memory", "wrong-arch", "launch" or "cuda-700" and the like. Where the error
    has made the process's context useless, `details` hold the key `LOST`.
    """
    text = str(e).splitlines()[0] if str(e) else type(e).__name__
    if isinstance(e, MemoryError):
        return RunError(f"{what}: the GPU is out of memory: {text}", code="out-of-memory")
    status = getattr(e, "status", None)
    if type(status) is not int:
        return e
    if status in _NO_MEMORY:
        return RunError(f"{what}: the GPU is out of memory: {text}", code="out-of-memory")
    if status in _NO_IMAGE:
        return RunError(
            f"{what}: its code does not run on this GPU: {text}",
            hint='build for this GPU: target "cuda" without -arch',
            code="wrong-arch",
        )
    if status in _TOO_LARGE:
        return RunError(f"{what}: the GPU refuses the launch: {text}", code="launch")
    if status in _LOST:
        return RunError(
            f"{what}: {_LOST[status]} ({text})", hint=_DENY, code=f"cuda-{status}",
            details={LOST: "lost"},
        )  # fmt: skip
    return RunError(f"{what}: {text}", code=f"cuda-{status}")


# ----------------------------------------------------------------------------- what it is
@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU of this machine.

    Attributes:
        name: as the driver gives it, such as "NVIDIA H100 80GB HBM3".
        arch: such as "sm_90".
        sms: multiprocessors.
        l2_bytes: of the cache that all multiprocessors share.
        memory_bytes: of its memory.
        shared_per_block: the most shared memory of a block, asked for at the launch.
        pci_bus_id: such as "0000:3B:00.0".
        driver: the CUDA version that the driver is for, such as "13.0".
    """

    name: str
    arch: str
    sms: int
    l2_bytes: int
    memory_bytes: int
    shared_per_block: int
    pci_bus_id: str
    driver: str

    def as_json(self) -> dict[str, Any]:
        """The fields, as records hold them."""
        return asdict(self)


_known: dict[tuple[Any, int], GpuFacts] = {}  # by CuPy module and device


def gpu_facts(cupy: Any, device: int) -> GpuFacts:
    """What the driver says of a device; asked once."""
    key = (cupy, device)
    if key not in _known:
        runtime = cupy.cuda.runtime
        told = runtime.getDeviceProperties(device)
        name = told["name"]
        version = int(runtime.driverGetVersion())
        _known[key] = GpuFacts(
            name.decode(errors="replace") if isinstance(name, bytes) else str(name),
            f"sm_{told['major']}{told['minor']}",
            int(told["multiProcessorCount"]),
            int(told["l2CacheSize"]),
            int(told["totalGlobalMem"]),
            int(told.get("sharedMemPerBlockOptin", told["sharedMemPerBlock"])),
            str(runtime.deviceGetPCIBusId(device)),
            f"{version // 1000}.{version % 1000 // 10}",
        )
    return _known[key]


def runs_on(built: str, device: str) -> bool:
    """Does a cubin for one architecture run on a device of another?

    Within a major version, older code runs on newer devices; code for "sm_90a" and the like runs on
    exactly that one.

    Example:
        >>> runs_on("sm_80", "sm_86"), runs_on("sm_90a", "sm_90"), runs_on("sm_80", "sm_90")
        (True, True, False)
    """
    wanted, have = re.fullmatch(r"sm_(\d+)(\d)([af]?)", built), re.fullmatch(
        r"sm_(\d+)(\d)[af]?", device
    )  # fmt: skip
    if wanted is None or have is None:
        return False
    if wanted[3] == "a":
        return wanted.group(1, 2) == have.group(1, 2)
    return wanted[1] == have[1] and int(wanted[2]) <= int(have[2])


def check_arch(what: str, built: str, facts: GpuFacts) -> None:
    """RunError unless code for `built` runs on this GPU."""
    if not runs_on(built, facts.arch):
        raise RunError(
            f"{what} was built for {built}, and this GPU is an {facts.name} ({facts.arch})",
            hint=f'build for it: target "cuda -arch={facts.arch}", or "cuda"',
            code="wrong-arch",
        )
