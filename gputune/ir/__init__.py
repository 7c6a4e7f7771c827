"""What is a program? Nodes, how to build, print, compare, check and run them."""

from .equal import structural_equal, structural_hash
from .nodes import Buffer, IRModule, PrimFunc, Var

__all__ = ["Buffer", "IRModule", "PrimFunc", "Var", "structural_equal", "structural_hash"]
