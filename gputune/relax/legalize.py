"""Which tensor functions compute a graph function? Each operator becomes a call of one.

Operators that are made of others (attention) are taken apart first. Equal calls share a function,
and a function that the module has already is used again. Scalar constants of operators on elements
are written into the function.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import BuildError, CheckError
from ..ir import operators
from ..ir.equal import structural_hash
from ..ir.graph import Call, Constant, Expr, Function, GlobalVar, Op, Var, calls, replace
from ..ir.graph_builder import GraphBuilder
from ..ir.nodes import IRModule, PrimFunc
from .rewrite import rewrite_calls


class LegalizeOps:
    """A pass: calls of operators become calls of tensor functions, which are added to the module.

    Args:
        only: operators to replace, by name (default: all).

    Raises (when called):
        BuildError: operators that the table does not have; all of them are named.

    Example:
        >>> relax.build(relax.transform.LegalizeOps()(mod), "llvm")
    """

    def __init__(self, only: Iterable[str] | None = None) -> None:
        self.only = None if only is None else frozenset(only)
        for name in self.only or ():
            operators.find(name)

    def __call__(self, mod: IRModule) -> IRModule:
        """The module without these operators; the one that is given does not change."""
        self._refuse_unknown(mod)
        maker = _Maker(mod, self.only)
        graphs = {name: rewrite_calls(f, maker.replace) for name, f in mod.graphs.items()}
        return IRModule({**mod.functions, **maker.made}, mod.attrs, graphs)

    def _refuse_unknown(self, mod: IRModule) -> None:
        unknown: dict[str, list[str]] = {}
        for name, func in mod.graphs.items():
            for at, op in _unknown(func):
                unknown.setdefault(op, []).append(f"{name} ({at})")
        if unknown and self.only is None:
            listed = "; ".join([f"{op!r} in {', '.join(at)}" for op, at in unknown.items()])
            raise BuildError(
                f"LegalizeOps: no tensor function computes {listed}",
                hint="call a tensor function (R.call_tir) or an external one in its place",
                code="operator",
            )


def _unknown(func: Function) -> list[tuple[str, str]]:
    """(which call, operator) of all operators that the table does not have."""
    return [
        (f"call {k}", c.callee.name)
        for k, c in enumerate(calls(func))
        if isinstance(c.callee, Op) and c.callee.name not in operators.OPERATORS
    ]


class _Maker:
    """The functions that were made so far."""

    def __init__(self, mod: IRModule, only: frozenset[str] | None) -> None:
        self.only = only
        self.made: dict[str, PrimFunc] = {}
        self.taken = set(mod)
        self.known = {structural_hash(f): name for name, f in mod.functions.items()}

    def replace(self, b: GraphBuilder, e: Call) -> Expr:
        """What a call becomes."""
        if not isinstance(e.callee, Op):
            return e
        if self.only is not None and e.callee.name not in self.only:
            return e
        problem = operators.problem_of(e)
        if problem is not None:
            raise CheckError(f"LegalizeOps: {problem[0]}", hint=problem[1], code="operator")
        op = operators.find(e.callee.name)
        if op.emit is None:
            assert op.decompose is not None
            inner = GraphBuilder()
            value = op.decompose(inner.op, *e.args, **op.full(e.attrs))
            return self._inlined(b, inner, value)
        args = tuple([
            x for x, c in zip(e.args, operators.literals_of(op, e.args)) if c is None
        ])  # fmt: skip
        return Call(GlobalVar(self.function(e, op)), args, e.type)

    def _inlined(self, b: GraphBuilder, inner: GraphBuilder, value: Expr) -> Expr:
        """The bindings of a decomposition, replaced in turn."""
        table: dict[Var | Constant, Expr] = {}
        for x in inner.bindings:
            new = replace(x.value, table)
            table[x.var] = b.bind(
                self.replace(b, new) if isinstance(new, Call) else new, x.var.name
            )
        return replace(value, table)

    def function(self, e: Call, op: operators.Operator) -> str:
        """The name of the function that computes a call."""
        func = operators.tensor_function(e, op.short_name)
        digest = structural_hash(func)
        name = self.known.get(digest)
        if name is None:
            name, k = op.short_name, 1
            while name in self.taken:
                name = f"{op.short_name}{k}"
                k += 1
            self.taken.add(name)
            self.known[digest] = name
            self.made[name] = func.with_attr("global_symbol", name)
        return name
