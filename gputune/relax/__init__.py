"""How does a whole model run? Graph programs, compiled with the tensor functions that they call."""

from __future__ import annotations

from ..ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    ExternFunc,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    Var,
)
from . import transform, vm
from .executable import Executable, build
from .saved import export, load
from .vm import VirtualMachine

__all__ = [
    "Binding",
    "Call",
    "Constant",
    "DataflowBlock",
    "Executable",
    "ExternFunc",
    "Function",
    "GlobalVar",
    "Op",
    "TensorType",
    "Tuple",
    "TupleGetItem",
    "TupleType",
    "Var",
    "VirtualMachine",
    "build",
    "export",
    "load",
    "transform",
    "vm",
]
