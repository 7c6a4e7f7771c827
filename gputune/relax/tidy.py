"""What in a graph function says nothing? Other names for values, and what no result needs."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UserError
from ..ir import operators
from ..ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    Expr,
    ExternFunc,
    Function,
    Op,
    Var,
    call_sites,
    replace,
)
from ..ir.nodes import IRModule
from .rewrite import items_picked, vars_of, with_graphs


class CanonicalizeBindings:
    """A pass: variables that are other names for a value, a constant or a tuple vanish, and items
    are taken of tuples that are written out."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with a binding for each call, and few others."""
        return with_graphs(mod, lambda _, f: canonical(f))


def canonical(func: Function) -> Function:
    """`func` with a binding for each call, and no others."""
    table: dict[Var | Constant, Expr] = {}
    body: list[Binding | DataflowBlock] = []

    def kept(items: Iterable[Binding]) -> list[Binding]:
        out = []
        for b in items:
            value = items_picked(replace(b.value, table))
            if not isinstance(value, Call):
                table[b.var] = value
            elif value is b.value:
                out.append(b)
            else:
                out.append(Binding(Var(b.var.name, value.type), value))
                table[b.var] = out[-1].var
        return out

    for item in func.body:
        if isinstance(item, Binding):
            body += kept([item])
            continue
        inside = kept(item.bindings)
        bound = {b.var for b in inside}
        seen = [v for x in item.outputs for v in vars_of(table.get(x, x)) if v in bound]
        if inside:
            body.append(DataflowBlock(tuple(inside), tuple(dict.fromkeys(seen))))
    result = items_picked(replace(func.result, table))
    return Function(func.params, tuple(body), result, func.attrs)


class DeadCodeElimination:
    """A pass: bindings that no result needs vanish. External functions outside of dataflow blocks
    are called for their effects, and stay.

    Args:
        entry_functions: graph functions that are kept; others, and tensor functions that none of
            them calls, vanish (default: every function is kept).
    """

    def __init__(self, entry_functions: Iterable[str] | None = None) -> None:
        self.entries = None if entry_functions is None else tuple(entry_functions)

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with what is needed.

        Raises:
            UserError: an entry function is no graph function of the module.
        """
        out = with_graphs(mod, lambda _, f: without_dead_code(f))
        if self.entries is None:
            return out
        for name in self.entries:
            if name not in out.graphs:
                known = ", ".join(out.graphs) or "none"
                raise UserError(
                    f"DeadCodeElimination: no graph function named {name!r}",
                    hint=f"the module has: {known}",
                    code="no-function",
                )
        graphs = {k: f for k, f in out.graphs.items() if k in self.entries}
        needed = call_sites(graphs.values())
        functions = {k: f for k, f in out.functions.items() if k in needed}
        return IRModule(functions, out.attrs, graphs)


def without_dead_code(func: Function) -> Function:
    """`func` without bindings that its result does not need."""
    needed = set(vars_of(func.result))

    def kept(items: Iterable[Binding], effects: bool) -> list[Binding]:
        out = []
        for b in reversed(list(items)):
            if b.var in needed or (effects and _has_effects(b.value)):
                needed.update(vars_of(b.value))
                out.append(b)
        return out[::-1]

    body: list[Binding | DataflowBlock] = []
    for item in reversed(func.body):
        if isinstance(item, Binding):
            body += kept([item], True)
            continue
        outputs = tuple([v for v in item.outputs if v in needed])
        inside = kept(item.bindings, False)
        if inside:
            body.append(DataflowBlock(tuple(inside), outputs))
    return Function(func.params, tuple(body[::-1]), func.result, func.attrs)


def _has_effects(e: Expr) -> bool:
    """Might somebody notice that it is not called?"""
    if not isinstance(e, Call):
        return False
    unknown = isinstance(e.callee, Op) and e.callee.name not in operators.OPERATORS
    return unknown or isinstance(e.callee, ExternFunc)
