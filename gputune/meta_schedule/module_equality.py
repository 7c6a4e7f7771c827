"""When are two programs the same workload?"""

from __future__ import annotations

from ..errors import UserError
from ..ir.equal import MODES, structural_equal, structural_hash
from ..ir.nodes import IRModule, PrimFunc


class ModuleEquality:
    """Equality and hash of programs under one of MetaSchedule's notions.

    Args:
        mode: "structural"; "ignore-tensor" (also "ignore-ndarray"): the data of constant tensors
            does not matter; "anchor-block": only the block that does most of the work matters.

    Raises:
        UserError: another mode.
    """

    __slots__ = ("mode",)

    def __init__(self, mode: str = "structural") -> None:
        if mode not in MODES:
            raise UserError(
                f"unknown module equality {mode!r}",
                hint=f"known are: {', '.join(MODES)}",
                code="module-equality",
            )
        self.mode = mode

    def hash(self, mod: IRModule) -> str:
        """A digest; equal programs have equal ones, in every process."""
        return structural_hash(mod, self.mode)

    def equal(self, a: IRModule, b: IRModule) -> bool:
        """Are the two the same workload?"""
        return structural_equal(a, b, self.mode)

    @property
    def is_structural(self) -> bool:
        """Is the digest that of the whole program, as database files hold it?"""
        return self.mode != "anchor-block"

    def __repr__(self) -> str:
        return f"ModuleEquality({self.mode!r})"


def as_module(mod: IRModule | PrimFunc) -> IRModule:
    """A module; a function becomes a module of one. UserError for anything else."""
    if isinstance(mod, IRModule):
        return mod
    if isinstance(mod, PrimFunc):
        return IRModule.from_expr(mod)
    raise UserError(
        f"expected a PrimFunc or an IRModule, found {type(mod).__name__}",
        hint="decorate the kernel with @T.prim_func",
        code="not-a-program",
    )
