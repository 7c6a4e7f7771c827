"""What changes a module of graph functions? Passes: each takes a module and gives another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..ir.graph import Expr, Function, TensorType, Var, bind_params, constant
from ..ir.nodes import IRModule
from ..ir.show_graph import type_text
from ..runtime.ndarray import host_view
from .fold import DecomposeOpsForInference, FoldBatchNorm, FoldConstant
from .fuse import FuseOps
from .legalize import LegalizeOps
from .tidy import CanonicalizeBindings, DeadCodeElimination

__all__ = [
    "BindParams",
    "CanonicalizeBindings",
    "DeadCodeElimination",
    "DecomposeOpsForInference",
    "FoldBatchNorm",
    "FoldConstant",
    "FuseOps",
    "LegalizeOps",
]


class BindParams:
    """Makes constants of parameters of a graph function, which then no longer takes them.

    Args:
        func_name: the graph function.
        params: values by parameter name, or by `Var`: arrays of NumPy, torch, DLPack, NDArrays.

    Example:
        >>> with_weights = relax.transform.BindParams("main", {"w0": w0, "b0": b0})(mod)
    """

    def __init__(self, func_name: str, params: Mapping[str | Var, Any]) -> None:
        self.func_name = func_name
        self.params = dict(params)

    def __call__(self, mod: IRModule) -> IRModule:
        """A module with the function changed.

        Raises:
            UserError: no such graph function or parameter; an array of another shape or dtype.
        """
        func = mod.graphs.get(self.func_name)
        if func is None:
            known = ", ".join(mod.graphs) or "none"
            raise UserError(
                f"BindParams: no graph function named {self.func_name!r}",
                hint=f"the module has: {known}",
                code="no-function",
            )
        values: dict[Var, Expr] = {}
        for key, value in self.params.items():
            var = self._param(func, key)
            if var in values:
                raise UserError(f"BindParams: parameter {var.name!r} is given twice")
            values[var] = self._constant(var, value)
        bound = bind_params(func, values)
        return IRModule(mod.functions, mod.attrs, {**mod.graphs, self.func_name: bound})

    def _param(self, func: Function, key: str | Var) -> Var:
        found = [p for p in func.params if p is key or p.name == key]
        if len(found) == 1:
            return found[0]
        name = key if isinstance(key, str) else getattr(key, "name", key)
        names = [p.name for p in func.params]
        if found:
            raise UserError(
                f"BindParams: {len(found)} parameters of {self.func_name!r} are named {name!r}",
                hint="give the Var instead of its name",
                code="params",
            )
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names) or 'none'}"
        raise UserError(
            f"BindParams: {self.func_name!r} has no parameter {name!r}", hint=hint, code="params"
        )

    def _constant(self, var: Var, value: Any) -> Expr:
        what = f"BindParams: parameter {var.name!r}"
        array = host_view(value, what)
        try:
            made = constant(array)
        except ValueError as e:
            raise UserError(f"{what}: {e}", code="params") from None
        if not isinstance(var.type, TensorType) or made.type != var.type:
            raise UserError(
                f"{what} is {type_text(var.type)}, its value {type_text(made.type)}",
                hint="convert the array, or bind another parameter",
                code="params",
            )
        return made
