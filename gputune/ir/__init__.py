"""What is a program? Nodes, how to build, print, compare, check and run them."""

from __future__ import annotations

from typing import Any

from ..aliases import inside
from .equal import structural_equal, structural_hash
from .nodes import Buffer, IRModule, PrimFunc, Var

__all__ = ["Buffer", "IRModule", "PrimFunc", "Var", "structural_equal", "structural_hash"]


def __getattr__(name: str) -> Any:
    return inside("ir", name)
