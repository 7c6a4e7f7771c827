"""What of a graph function is known before it runs? Constants are computed, batch norms vanish.

Operators are computed with NumPy in float64 and rounded once, tensor functions are compiled and
run. What would only make the program larger (a tensor of zeros, a broadcast) stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import dtypes, operators
from ..ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    Expr,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    Var,
    bindings,
    constant,
    tensors_of,
)
from ..ir.graph_builder import GraphBuilder
from ..ir.nodes import IRModule
from .executable import build
from .rewrite import rewrite_calls, vars_of, with_graphs
from .tidy import canonical, without_dead_code
from .vm import VirtualMachine

SMALL = 1 << 16
"""Bytes up to which a constant is made even if it is larger than what it is made of."""

Array = np.ndarray[Any, Any]


class FoldConstant:
    """A pass: calls of which all arguments are constants become constants.

    Example:
        >>> mod = FoldConstant()(BindParams("main", params)(mod))
    """

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its constants computed."""
        return with_graphs(mod, lambda _, f: rewrite_calls(canonical(f), _Folder(mod).fold))


class _Folder:
    """Computes calls of one module."""

    def __init__(self, mod: IRModule) -> None:
        self.mod = mod

    def fold(self, _: GraphBuilder, e: Call) -> Expr:
        """The value of a call, or the call."""
        known = [x.data for x in e.args if isinstance(x, Constant)]
        outs = tensors_of(e.type)
        if len(known) < len(e.args) or not _worth_it(known, outs):
            return e
        results = self.results(e, known)
        if results is None:
            return e
        values = [constant(r) for r in results]
        return values[0] if isinstance(e.type, TensorType) else Tuple(tuple(values))

    def results(self, e: Call, known: Sequence[Array]) -> Sequence[Array] | None:
        """The arrays that a call gives; None where that is not known."""
        if isinstance(e.callee, Op) and operators.is_written(e):
            return operators.find(e.callee.name).evaluate(known, e.attrs)
        if isinstance(e.callee, GlobalVar):
            return self.run(e, known)
        return None

    def run(self, e: Call, known: Sequence[Array]) -> Sequence[Array]:
        """The results of a tensor function, compiled."""
        name = e.callee.name
        params = [Var("x", x.type) for x in e.args]
        b = GraphBuilder()
        main = b.function(params, b.bind(Call(e.callee, tuple(params), e.type)), "main")
        alone = IRModule({name: self.mod.functions[name]}, (), {_other_than(name): main})
        found = VirtualMachine(build(alone))[_other_than(name)](*known)
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]


def _other_than(name: str) -> str:
    return "main_1" if name == "main" else "main"


def _worth_it(known: Sequence[Array], outs: Sequence[TensorType]) -> bool:
    return sum([t.nbytes for t in outs]) <= max(SMALL, sum([a.nbytes for a in known]))


# ----------------------------------------------------------------------------- batch norm
_CHANNELS = {"nn.conv1d": 1, "nn.conv2d": 1, "linear": -1}
"""Operators whose weights a batch norm can be multiplied into: the axis of their channels."""


class FoldBatchNorm:
    """A pass: a batch norm of a convolution (or linear), both with constant weights, becomes part
    of the weights, where nothing else needs the convolution's own result."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with fewer batch norms."""
        return with_graphs(mod, lambda _, f: _fold_norms(f))


def _fold_norms(func: Function) -> Function:
    func = canonical(func)
    body: list[Binding | DataflowBlock] = []
    made: dict[Var, Expr] = {}  # what bindings give that are seen here, with all that they use
    used = _uses(func)

    def changed(b: Binding, seen: dict[Var, Expr]) -> Binding:
        found = _folded(b.value, seen, used) if isinstance(b.value, Call) else None
        seen[b.var] = b.value
        return b if found is None else Binding(b.var, found)

    for item in func.body:
        if isinstance(item, Binding):
            body.append(changed(item, made))
            continue
        inside = dict(made)
        bindings = tuple([changed(b, inside) for b in item.bindings])
        body.append(DataflowBlock(bindings, item.outputs))
    # the convolutions that are left without use go with the dead code
    return without_dead_code(Function(func.params, tuple(body), func.result, func.attrs))


def _uses(func: Function) -> Counter[Var]:
    """How often each variable is used."""
    used: Counter[Var] = Counter()
    for b in bindings(func):
        used.update(vars_of(b.value))
    used.update(vars_of(func.result))
    return used


def _folded(e: Call, made: dict[Var, Expr], used: Counter[Var]) -> Call | None:
    """A batch norm of a convolution as a convolution of other weights, if it is one."""
    if e.callee != Op("nn.batch_norm") or not operators.is_written(e):
        return None
    x, *statistics = e.args
    conv = made.get(x) if isinstance(x, Var) else None
    if not isinstance(x, Var) or used[x] != 1 or not isinstance(conv, Call):
        return None
    if not isinstance(conv.callee, Op) or not operators.is_written(conv):
        return None
    attrs = operators.find("nn.batch_norm").full(e.attrs)
    axis = _CHANNELS.get(conv.callee.name)
    if axis is None or (attrs["axis"] - axis) % len(_shape(x)):
        return None
    parts = [p.data for p in statistics if isinstance(p, Constant)]
    weights = [w.data for w in conv.args[1:] if isinstance(w, Constant)]
    if len(parts) < 4 or len(weights) < len(conv.args) - 1:
        return None
    scale, shift, mean, variance = [p.astype(np.float64) for p in parts]
    factor = scale / np.sqrt(variance + attrs["epsilon"])
    weight = weights[0]
    before = weights[1].astype(np.float64) if len(weights) > 1 else 0.0
    dtype = dtypes.from_numpy(weight.dtype)
    wide = weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))
    bias = (before - mean) * factor + shift
    args = (conv.args[0], constant(wide, dtype), constant(bias, dtype))
    return operators.call(conv.callee.name, *args, **dict(conv.attrs))


def _shape(x: Var) -> tuple[int, ...]:
    assert isinstance(x.type, TensorType)
    return x.type.shape


class DecomposeOpsForInference:
    """A pass: operators that mean more in training than they do here become simpler ones.

    A batch norm is folded into the convolution before it where that is possible, and is a product
    and a sum otherwise, of constants where its statistics are constants.

    Args:
        func_name: the graph function to change (default: all).
    """

    def __init__(self, func_name: str | None = None) -> None:
        self.func_name = func_name

    def __call__(self, mod: IRModule) -> IRModule:
        """The module without batch norms."""
        whole = IRModule(mod.functions, mod.attrs, mod.graphs)

        def change(name: str, f: Function) -> Function:
            if self.func_name not in (None, name):
                return f
            simple = rewrite_calls(_fold_norms(f), _apart)
            return rewrite_calls(simple, _Folder(whole).fold)

        return with_graphs(mod, change)


def _apart(b: GraphBuilder, e: Call) -> Expr:
    if e.callee != Op("nn.batch_norm") or not operators.is_written(e):
        return e
    op = operators.find("nn.batch_norm")
    assert op.decompose is not None
    return op.decompose(b.op, *e.args, **op.full(e.attrs))
