"""Random modules of graph functions that use every node, odd ones included: names that clash or are
no names, empty tensors, constants of every dtype, NaNs, tuples of tuples."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from gputune.ir import build, dtypes
from gputune.ir.graph import (
    Binding,
    Call,
    Callee,
    Constant,
    DataflowBlock,
    Expr,
    ExternFunc,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    Type,
    Var,
    constant,
    tensors_of,
)
from gputune.ir.nodes import Buffer, Evaluate, IntImm, IRModule, PrimFunc
from gputune.ir.nodes import Var as Scalar

NAMES = (
    "x", "lv", "lv", "gv", "cls", "Module", "R", "T", "Tensor", "const", "x y", "9", "", "é",
    "None", "main", "f_g",
)  # fmt: skip
FUNCTIONS = ("main", "f_g", "f g", "a-b", "class", "é", "cls", "Module", "9", 'q"q', "linear0")
SHAPES = ((), (1,), (2, 3), (4,), (0,), (3, 0, 2), (5, 7), (1, 1, 1, 1))
ATTRS = (1, -3, 0.5, "text", None, True, [1, 2], (1, "a"), {"k": [1.5]})


def tensor_function(types: list[TensorType]) -> PrimFunc:
    """A kernel that does nothing, with parameters of these types."""
    params = [Scalar(f"p{k}", "handle") for k in range(len(types))]
    buffers = [
        Buffer(f"B{k}", tuple(IntImm(n) for n in t.shape), t.dtype) for k, t in enumerate(types)
    ]
    body = build.root_block(Evaluate(IntImm(0)))
    return PrimFunc(tuple(params), tuple(zip(params, buffers)), body)


class Graphs:
    """Makes one random module."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.functions: dict[str, PrimFunc] = {}
        self.kinds: dict[tuple[TensorType, ...], str] = {}
        self.names = [n for n in FUNCTIONS if rng.random() < 0.7] or ["main"]
        rng.shuffle(self.names)

    def pick(self, items: Any) -> Any:
        return self.rng.choice(list(items))

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    # -- types and values
    def tensor(self) -> TensorType:
        return TensorType(self.pick(SHAPES), self.pick((*dtypes.SCALARS, "float32", "float32")))

    def type(self, depth: int = 2) -> Type:
        if depth and self.chance(0.2):
            fields = [self.type(depth - 1) for _ in range(self.rng.randint(0, 3))]
            return TupleType(tuple(fields))
        return self.tensor()

    def constant(self) -> Constant:
        t = self.tensor()
        dtype = dtypes.numpy_dtype(t.dtype)
        count = int(np.prod(t.shape, dtype=np.int64))
        if t.dtype == "bool":
            data = np.array([self.chance(0.5) for _ in range(count)], dtype)
        elif self.chance(0.5):
            data = np.array([self.pick((0, 1, 2, 5)) for _ in range(count)]).astype(dtype)
        else:
            data = np.array(bytearray(self.rng.randbytes(count * dtype.itemsize)), np.uint8)
            data = data.view(dtype) if count else np.empty(0, dtype)
        return constant(data.reshape(t.shape))

    def simple(self, scope: list[Expr], depth: int = 2) -> Expr:
        if depth and self.chance(0.15):
            fields = [self.simple(scope, depth - 1) for _ in range(self.rng.randint(0, 3))]
            return Tuple(tuple(fields))
        if not scope or self.chance(0.2):
            return self.constant()
        found: Expr = self.pick(scope)
        if isinstance(found.type, TupleType) and found.type.fields and self.chance(0.7):
            return TupleGetItem(found, self.rng.randrange(len(found.type.fields)))
        return found

    def argument(self, scope: list[Expr]) -> Expr:
        """A value that is one tensor."""
        for _ in range(5):
            e = self.simple(scope, 0)
            if isinstance(e.type, TensorType):
                return e
        return self.constant()

    # -- calls
    def call(self, scope: list[Expr]) -> Call:
        args = tuple(self.argument(scope) for _ in range(self.rng.randint(0, 3)))
        outs = tuple(self.tensor() for _ in range(self.rng.randint(1, 3)))
        out: Type = outs[0] if len(outs) == 1 and self.chance(0.8) else TupleType(outs)
        kind = self.rng.randint(0, 2)
        if kind == 0:
            attrs = tuple((f"k{i}", self.pick(ATTRS)) for i in range(self.rng.randint(0, 2)))
            fields = tuple(self.simple(scope) for _ in range(self.rng.randint(0, 2)))
            return Call(Op(self.pick(("my.add", "x.y", 'q"'))), fields, self.type(), attrs)
        if kind == 1:
            return Call(ExternFunc(self.pick(("env.relu", "main", "é"))), args, out)
        return Call(self.function([x.type for x in args], out), args, out)

    def function(self, ins: list[Any], out: Type) -> Callee:
        types = (*ins, *tensors_of(out))
        if types not in self.kinds:
            if not self.names:
                return ExternFunc("full")
            self.kinds[types] = name = self.names.pop()
            self.functions[name] = tensor_function(list(types))
        return GlobalVar(self.kinds[types])

    # -- functions
    def bindings(self, scope: list[Expr], most: int) -> list[Binding]:
        out = []
        for _ in range(self.rng.randint(0, most)):
            value = self.call(scope) if self.chance(0.6) else self.simple(scope)
            out.append(Binding(Var(self.pick(NAMES), value.type), value))
            scope.append(out[-1].var)
        return out

    def graph(self) -> Function:
        params = tuple(Var(self.pick(NAMES), self.type()) for _ in range(self.rng.randint(0, 3)))
        scope: list[Expr] = list(params)
        body: list[Binding | DataflowBlock] = []
        for _ in range(self.rng.randint(0, 3)):
            if self.chance(0.5):
                body += self.bindings(scope, 3)
                continue
            inside = list(scope)
            found = self.bindings(inside, 4)
            outputs = tuple(b.var for b in found if self.chance(0.5))
            body.append(DataflowBlock(tuple(found), outputs))
            scope += outputs
        attrs = (("num_input", 1),) if self.chance(0.3) else ()
        if self.chance(0.6):
            attrs = (*attrs, ("global_symbol", "any name"))
        return Function(params, tuple(body), self.simple(scope), attrs)

    def module(self) -> IRModule:
        graphs = {}
        for _ in range(self.rng.randint(1, 2)):
            graphs[self.names.pop() if self.names else f"g{len(graphs)}"] = self.graph()
        return IRModule(self.functions, (("k", 1),) if self.chance(0.2) else (), graphs)


def random_module(seed: int) -> IRModule:
    return Graphs(Random(seed)).module()
