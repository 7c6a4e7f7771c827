"""How does a program become machine code for CPUs? `compile` it with LLVM, `load` the result."""

from __future__ import annotations

from .jit import LoadedKernel, load
from .kernel import LlvmKernel, Param, compile

__all__ = ["LlvmKernel", "LoadedKernel", "Param", "compile", "load"]
