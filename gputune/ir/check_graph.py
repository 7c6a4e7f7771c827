"""Is a graph function well formed?

* scope: every variable is bound once, before it is used; what a dataflow block does not hand out is
  used only inside it;
* form: a call stands only as the value of a binding, and an item is taken of a tuple that has it;
* types: a variable has the type of its value; shapes are constant and not negative;
* operators: those of the table take what they are given, and their results have the types that
  follow; one that the table does not have means whatever its author says;
* calls: the function exists, is a tensor function, and its parameters are the arguments followed by
  the results, in number, shape and dtype.
"""

from __future__ import annotations

from typing import NoReturn, assert_never

from ..errors import CheckError
from . import dtypes, operators
from .graph import (
    Binding,
    Call,
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
)
from .nodes import Buffer, IntImm, IRModule, PrimFunc
from .nodes import Var as SizeVar
from .show_graph import draw_graph, type_text


def check_graph(func: Function, name: str, mod: IRModule | None) -> None:
    """Check a graph function of `mod` (None: whether what it calls exists is not asked).

    Raises:
        CheckError: the first thing that is wrong, by name; printing the error draws the function
            with the place marked.
    """
    _GraphChecker(func, name, mod).function()


class _GraphChecker:
    """The walk: what is in scope, what was bound before, and where we are."""

    def __init__(self, func: Function, name: str, mod: IRModule | None) -> None:
        self.func = func
        self.name = name
        self.mod = mod
        self.scope: set[Var] = set()
        self.bound: set[Var] = set()
        self.at: object = None

    def fail(self, code: str, message: str, hint: str = "") -> NoReturn:
        func, at = self.func, self.at

        def picture() -> str:
            try:
                return draw_graph(func, at, message)
            except Exception as e:  # what is broken may be broken beyond what can be printed
                return f"(the function cannot be drawn: {type(e).__name__}: {e})"

        message = f"in graph function {self.name!r}: {message}"
        raise CheckError(message, hint=hint, code=code, draw=picture)

    # ------------------------------------------------------------------ structure
    def function(self) -> None:
        for p in self.func.params:
            self.at = p
            self.define(p)
        for item in self.func.body:
            if isinstance(item, Binding):
                self.binding(item)
            else:
                self.dataflow(item)
        self.at = self.func.result
        self.simple(self.func.result, "the result")

    def define(self, v: Var) -> None:
        if v in self.bound:
            self.fail(
                "defined-twice",
                f"variable {v.name} is bound twice",
                "each binding needs a variable of its own",
            )
        self.type(v.type, f"variable {v.name}")
        self.bound.add(v)
        self.scope.add(v)

    def dataflow(self, block: DataflowBlock) -> None:
        outside = set(self.scope)
        inside: set[Var] = set()
        for b in block.bindings:
            self.binding(b)
            inside.add(b.var)
        self.at = block
        if len(set(block.outputs)) != len(block.outputs):
            self.fail("dataflow-output", "a dataflow block hands a variable out twice")
        for v in block.outputs:
            if v not in inside:
                self.fail(
                    "dataflow-output",
                    f"a dataflow block hands out {v.name}, which it does not bind",
                    "R.output names variables that are bound in the block",
                )
        self.scope = outside | set(block.outputs)

    def binding(self, b: Binding) -> None:
        self.at = b
        if isinstance(b.value, Call):
            self.call(b.value)
        else:
            self.simple(b.value, f"the value of {b.var.name}")
        if b.var.type != b.value.type:
            self.fail(
                "type",
                f"variable {b.var.name} is {type_text(b.var.type)}, its value "
                f"{type_text(b.value.type)}",
            )
        self.define(b.var)

    # ------------------------------------------------------------------ values
    def simple(self, e: Expr, what: str) -> None:
        """A value that is no call."""
        match e:
            case Var():
                self.use(e)
            case Constant():
                self.type(e.type, "a constant")
            case Tuple():
                for x in e.fields:
                    self.simple(x, what)
            case TupleGetItem():
                self.simple(e.value, what)
                whole = e.value.type
                if not isinstance(whole, TupleType):
                    self.fail("tuple-item", f"item {e.index} is taken of {type_text(whole)}")
                if not 0 <= e.index < len(whole.fields):
                    self.fail(
                        "tuple-item",
                        f"item {e.index} is taken of a tuple of {len(whole.fields)}",
                    )
            case Call():
                self.fail(
                    "nested-call",
                    f"{what} holds a call of {e.callee.name}",
                    "bind the call to a variable of its own, and use that",
                )
            case _:
                assert_never(e)

    def use(self, v: Var) -> None:
        if v in self.scope:
            return
        if v in self.bound:
            self.fail(
                "dataflow-leak",
                f"variable {v.name} is used outside of its dataflow block",
                f"hand it out: R.output({v.name})",
            )
        self.fail("undefined", f"variable {v.name} is used before it is bound")

    def type(self, t: Type, what: str) -> None:
        if isinstance(t, TupleType):
            for x in t.fields:
                self.type(x, what)
            return
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in t.shape):
            self.fail(
                "shape",
                f"{what} has the shape {t.shape}",
                "sizes are whole numbers from 0",
            )
        if t.dtype not in dtypes.SCALARS:
            known = ", ".join(dtypes.SCALARS)
            self.fail("dtype", f"{what} has the dtype {t.dtype!r}", f"known are: {known}")

    # ------------------------------------------------------------------ calls
    def call(self, e: Call) -> None:
        name = e.callee.name
        if not isinstance(name, str) or not name:
            self.fail("callee", f"a call of {name!r}", "what is called has a name")
        for x in e.args:
            self.simple(x, f"an argument of {name}")
        self.type(e.type, f"the result of {name}")
        if isinstance(e.callee, Op):
            problem = operators.problem_of(e)
            if problem is not None:
                self.fail("operator", *problem)
            return
        if e.attrs:
            keys = ", ".join([k for k, _ in e.attrs])
            self.fail("call-attributes", f"the call of function {name} has attributes: {keys}")
        outs = self.outputs(e)
        ins: list[TensorType] = []
        for k, x in enumerate(e.args):
            if not isinstance(x.type, TensorType):
                self.fail(
                    "argument",
                    f"argument {k} of {name} is a tuple: {type_text(x.type)}",
                    "pass its items one by one",
                )
            ins.append(x.type)
        match e.callee:
            case GlobalVar():
                self.tensor_function(name, ins, outs)
            case ExternFunc():
                pass  # takes what it is given
            case _:
                assert_never(e.callee)

    def outputs(self, e: Call) -> list[TensorType]:
        """The tensors that a function is to fill."""
        fields = e.type.fields if isinstance(e.type, TupleType) else (e.type,)
        outs = [t for t in fields if isinstance(t, TensorType)]
        if len(outs) != len(fields) or not outs:
            self.fail(
                "results",
                f"the results of {e.callee.name} are {type_text(e.type)}",
                "a function fills one tensor, or several side by side",
            )
        return outs

    def tensor_function(self, name: str, ins: list[TensorType], outs: list[TensorType]) -> None:
        if self.mod is None:
            return
        func = self.mod.functions.get(name)
        if func is None:
            if name in self.mod.graphs:
                self.fail(
                    "callee",
                    f"{name} is called, which is a graph function",
                    "R.call_tir calls tensor functions: decorate it with @T.prim_func",
                )
            known = ", ".join(self.mod.functions) or "none"
            self.fail(
                "callee",
                f"tensor function {name!r} is called, and the module has no such function",
                f"its tensor functions: {known}; a function outside of the program is called by "
                f"its name as a string",
            )
        buffers = self.parameters(func, name)
        if len(buffers) != len(ins) + len(outs):
            params = ", ".join([b.name for b in buffers])
            self.fail(
                "argument-count",
                f"{name} takes {len(buffers)} tensors ({params}), and is called with {len(ins)} "
                f"arguments and {len(outs)} results",
            )
        sizes: dict[SizeVar, int] = {}
        for k, (b, t) in enumerate(zip(buffers, (*ins, *outs))):
            what = f"argument {k}" if k < len(ins) else f"result {k - len(ins)}"
            self.fits(f"{what} of {name}", t, b, sizes)

    def parameters(self, func: PrimFunc, name: str) -> list[Buffer]:
        table = dict(func.buffer_map)
        for p in func.params:
            if p not in table:
                self.fail(
                    "callee",
                    f"{name} is called, whose parameter {p.name} is a number",
                    "graph functions pass tensors only",
                )
        return [table[p] for p in func.params]

    def fits(self, what: str, t: TensorType, b: Buffer, sizes: dict[SizeVar, int]) -> None:
        wanted = ", ".join([str(n) for n in b.shape])
        if len(b.shape) != len(t.shape):
            self.fail(
                "argument-shape",
                f"{what} has {len(t.shape)} dimensions {t.shape}, parameter {b.name} "
                f"{len(b.shape)}: ({wanted})",
            )
        for n, e in zip(t.shape, b.shape):
            size: int | None = None
            if isinstance(e, IntImm):
                size = int(e.value)
            elif isinstance(e, SizeVar):
                size = sizes.setdefault(e, n)
            if size is not None and size != n:
                self.fail(
                    "argument-shape",
                    f"{what} has the shape {t.shape}, parameter {b.name} is ({wanted})",
                )
        if b.dtype != t.dtype:
            self.fail("argument-dtype", f"{what} has dtype {t.dtype}, parameter {b.name} {b.dtype}")
