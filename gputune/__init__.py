"""gputune tunes tensor programs from Python.

Write a kernel as a small Python function; gputune explores its schedules, compiles them, times them
on this machine, remembers the best, and hands it back as a callable.

    import gputune as gt
    f = gt.tune(matmul, seconds=60)
    c = f(a, b)

Names are imported when they are first used, so `import gputune` is quick and needs no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .aliases import install as _install_aliases

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import ir as ir
    from . import kernels as kernels
    from . import meta_schedule as meta_schedule
    from . import relax as relax
    from . import runtime as runtime
    from . import script as script
    from . import target as target
    from .benchmark import Bench as Bench
    from .benchmark import bench as bench
    from .errors import BuildError as BuildError
    from .errors import CheckError as CheckError
    from .errors import GputuneError as GputuneError
    from .errors import LowerError as LowerError
    from .errors import RecordError as RecordError
    from .errors import RunError as RunError
    from .errors import ScheduleError as ScheduleError
    from .errors import ScriptError as ScriptError
    from .errors import TargetError as TargetError
    from .errors import TimeoutExpired as TimeoutExpired
    from .errors import UserError as UserError
    from .errors import WrongResult as WrongResult
    from .explaining import explain as explain
    from .ir.equal import structural_equal as structural_equal
    from .ir.equal import structural_hash as structural_hash
    from .ir.nodes import IRModule as IRModule
    from .ir.nodes import PrimFunc as PrimFunc
    from .jitted import jit as jit
    from .packing import PackedArray as PackedArray
    from .raw_kernel import CudaKernel as CudaKernel
    from .raw_kernel import cdiv as cdiv
    from .raw_kernel import cuda_kernel as cuda_kernel
    from .raw_tuning import tune_kernel as tune_kernel
    from .runtime.external import register_func as register_func
    from .runtime.module import Module as Module
    from .runtime.module import build as build
    from .runtime.observe import Observer as Observer
    from .saved_kernel import load as load
    from .schedule import Schedule as Schedule
    from .schedule import Trace as Trace
    from .target import Target as Target
    from .tuned_kernel import TunedKernel as TunedKernel
    from .tuning import tune as tune

_PUBLIC = {
    "IRModule": "ir.nodes",
    "PrimFunc": "ir.nodes",
    "structural_equal": "ir.equal",
    "structural_hash": "ir.equal",
    "Schedule": "schedule",
    "Trace": "schedule",
    "Target": "target",
    "Module": "runtime.module",
    "build": "runtime.module",
    "Observer": "runtime.observe",
    "register_func": "runtime.external",
    "tune": "tuning",
    "explain": "explaining",
    "CudaKernel": "raw_kernel",
    "cdiv": "raw_kernel",
    "cuda_kernel": "raw_kernel",
    "tune_kernel": "raw_tuning",
    "TunedKernel": "tuned_kernel",
    "PackedArray": "packing",
    "load": "saved_kernel",
    "jit": "jitted",
    "bench": "benchmark",
    "Bench": "benchmark",
    **dict.fromkeys(
        (
            "GputuneError", "ScriptError", "CheckError", "ScheduleError", "LowerError",
            "BuildError", "RunError", "WrongResult", "TimeoutExpired", "TargetError",
            "RecordError", "UserError",
        ),
        "errors",
    ),
}  # fmt: skip
_ROOMS = ("analysis", "ir", "kernels", "meta_schedule", "relax", "runtime", "script", "target")


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    elif name in _ROOMS:
        value = importlib.import_module(f".{name}", __name__)
    else:
        from .aliases import ALIASES, resolve

        if name not in ALIASES:
            raise AttributeError(f"module 'gputune' has no attribute {name!r}")
        value = resolve(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_ROOMS})


_install_aliases()
