"""How does CUDA C++ run, and get checked, on a machine without a GPU?"""

from .build import HostCode, host_compile
from .compiler import HostCompiler, host_compiler
from .execution import host_run
from .report import Finding, HostReport, KernelFigures, Traffic

__all__ = [
    "Finding",
    "HostCode",
    "HostCompiler",
    "HostReport",
    "KernelFigures",
    "Traffic",
    "host_compile",
    "host_compiler",
    "host_run",
]
