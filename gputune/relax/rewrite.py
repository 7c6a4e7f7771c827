"""How does a pass change graph functions? Binding by binding, with what became of those before.

A pass says what becomes of one call. The rest is here: variables keep their names, values that are
no calls are put where they are used, and a dataflow block hands out what it handed out before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, assert_never

from ..ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    Expr,
    Function,
    Tuple,
    TupleGetItem,
    Var,
    replace,
)
from ..ir.graph_builder import GraphBuilder
from ..ir.nodes import IRModule

Rewrite: TypeAlias = Callable[[GraphBuilder, Call], Expr]
"""Gives the value that a call (its arguments rewritten already) is replaced by; bindings that it
needs before go into the builder. The call itself leaves it as it is."""


def rewrite_calls(func: Function, rewrite: Rewrite) -> Function:
    """`func` with every call replaced by what `rewrite` gives for it."""
    table: dict[Var | Constant, Expr] = {}
    body: list[Binding | DataflowBlock] = []
    for item in func.body:
        if isinstance(item, Binding):
            body += _rewritten([item], rewrite, table, {})
            continue
        outputs = dict(zip(item.outputs, item.outputs))
        bindings = _rewritten(item.bindings, rewrite, table, outputs)
        body.append(DataflowBlock(tuple(bindings), tuple(outputs.values())))
    result = items_picked(replace(func.result, table))
    return Function(func.params, tuple(body), result, func.attrs)


def _rewritten(
    items: Iterable[Binding],
    rewrite: Rewrite,
    table: dict[Var | Constant, Expr],
    outputs: dict[Var, Var],
) -> list[Binding]:
    """The bindings that come of these; `table` learns what stands for variables, and `outputs` by
    which variables the same values are handed out."""
    out: list[Binding] = []
    for b in items:
        value = items_picked(replace(b.value, table))
        if isinstance(value, Call):
            builder = GraphBuilder()
            value = rewrite(builder, value)
            out += builder.bindings
            if builder.bindings and builder.bindings[-1].var is value:
                value = out.pop().value  # what the rewrite bound last takes the name
        if value is b.value:
            out.append(b)
            continue
        table[b.var] = value
        if isinstance(value, Call) or b.var in outputs:
            out.append(Binding(Var(b.var.name, value.type), value))
            if isinstance(value, Call) or vars_of(value):  # variables of the block stay inside
                table[b.var] = out[-1].var
            if b.var in outputs:
                outputs[b.var] = out[-1].var
    return out


def items_picked(e: Expr) -> Expr:
    """`e` with items of tuples that are written out replaced by these items."""
    match e:
        case TupleGetItem():
            whole = items_picked(e.value)
            if isinstance(whole, Tuple):
                return whole.fields[e.index]
            return e if whole is e.value else TupleGetItem(whole, e.index)
        case Tuple():
            fields = _all_picked(e.fields)
            return e if fields is e.fields else Tuple(fields)
        case Call():
            args = _all_picked(e.args)
            return e if args is e.args else Call(e.callee, args, e.type, e.attrs)
        case Var() | Constant():
            return e
        case _:
            assert_never(e)


def _all_picked(items: tuple[Expr, ...]) -> tuple[Expr, ...]:
    new = tuple([items_picked(x) for x in items])
    return items if all(a is b for a, b in zip(new, items)) else new


def with_graphs(mod: IRModule, change: Callable[[str, Function], Function]) -> IRModule:
    """The module with every graph function changed."""
    return IRModule(mod.functions, mod.attrs, {k: change(k, f) for k, f in mod.graphs.items()})


def vars_of(e: Expr) -> list[Var]:
    """The variables in a value, as often as they are there."""
    match e:
        case Var():
            return [e]
        case Tuple():
            return [v for x in e.fields for v in vars_of(x)]
        case TupleGetItem():
            return vars_of(e.value)
        case Call():
            return [v for x in e.args for v in vars_of(x)]
        case _:
            return []
