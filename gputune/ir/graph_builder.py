"""How is a graph function written by a program? Binding by binding.

>>> b = GraphBuilder()
>>> y = b.op("nn.relu", b.op("linear", x, w))
>>> func = b.function([x, w], y, "main")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import operators
from .graph import (
    Binding,
    Call,
    DataflowBlock,
    Expr,
    Function,
    Tuple,
    TupleGetItem,
    Var,
)
from .nodes import Annotations


class GraphBuilder:
    """The bindings of a function so far."""

    def __init__(self) -> None:
        self.bindings: list[Binding] = []

    def bind(self, value: Expr, name: str = "lv") -> Var:
        """A variable that stands for `value`."""
        var = Var(name, value.type)
        self.bindings.append(Binding(var, value))
        return var

    def op(self, name: str, *args: Expr, **attrs: Any) -> Var:
        """A variable for a call of an operator; CheckError where it does not fit."""
        return self.bind(operators.call(name, *args, **attrs))

    def function(
        self, params: Sequence[Var], result: Expr, name: str, attrs: Annotations = ()
    ) -> Function:
        """A function of all bindings as one dataflow block."""
        if isinstance(result, Call):
            result = self.bind(result, "gv")
        bound = {b.var for b in self.bindings}
        outputs = tuple(dict.fromkeys([v for v in _vars(result) if v in bound]))
        body = (DataflowBlock(tuple(self.bindings), outputs),) if self.bindings else ()
        pairs = (*[kv for kv in attrs if kv[0] != "global_symbol"], ("global_symbol", name))
        return Function(tuple(params), body, result, pairs)


def _vars(e: Expr) -> list[Var]:
    if isinstance(e, Var):
        return [e]
    if isinstance(e, Tuple):
        return [v for x in e.fields for v in _vars(x)]
    if isinstance(e, TupleGetItem):
        return _vars(e.value)
    return []
