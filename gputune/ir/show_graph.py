"""What does a graph function look like as script text? See `show.py`, which prints the rest.

Functions of the module are `cls.name` (`cls["any text"]` where the name is no Python name), so that
their order does not matter. A large constant is named at the top of the function, where its bytes
stand in base64; a small one stands as numbers where it is used.
"""

from __future__ import annotations

import base64
from typing import Any, assert_never

import numpy as np

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
    Type,
    Var,
    calls,
    constants_of,
)
from .text import Writer, legal_name, string_literal, tuple_text

_INDENT = "    "
_FEW = 16  # elements of a constant that is printed as numbers


def type_text(t: Type) -> str:
    """`R.Tensor((1, 784), dtype="float32")`, `R.Tuple(...)`."""
    if isinstance(t, TensorType):
        shape = tuple_text([str(n) for n in t.shape])
        return f"R.Tensor({shape}, dtype={string_literal(t.dtype)})"
    return f"R.Tuple({', '.join([type_text(x) for x in t.fields])})"


def graph_lines(func: Function, key: str | None, pad: str, show_data: bool = True) -> list[str]:
    """The lines of a function, each behind `pad`; `key` is its name in the module, or None for a
    function on its own."""
    printer = _GraphPrinter(pad, show_data)
    printer.function(func, key)
    return printer.lines


def draw_graph(func: Function, marked: object, note: str) -> str:
    """The function with the line of `marked` (a binding, a block, a parameter or a result) led by
    "> " and followed by `note`."""
    printer = _GraphPrinter("", show_data=False, marked=marked)
    printer.function(func, None)
    return "\n".join([
        f"> {line}  # {note}" if k == printer.hit else f"  {line}"
        for k, line in enumerate(printer.lines)
    ])  # fmt: skip


class _GraphPrinter:
    """Lines so far, and the names in use."""

    __slots__ = ("constants", "hit", "lines", "marked", "names", "pad", "show_data", "taken")

    def __init__(self, pad: str, show_data: bool, marked: object = None) -> None:
        self.lines: list[str] = []
        self.pad = pad
        self.show_data = show_data
        self.names: dict[Var, str] = {}
        self.constants: dict[Constant, str] = {}
        self.taken = {"cls", "Module"}
        self.marked = marked
        self.hit = -1  # the line of what is marked

    def line(self, text: str, node: object = None) -> None:
        if node is not None and node is self.marked:
            self.hit = len(self.lines)
        self.lines.append(self.pad + text)

    def fresh(self, wanted: str) -> str:
        name = base = legal_name(wanted)
        k = 1
        while name in self.taken:
            name = f"{base}_{k}"
            k += 1
        self.taken.add(name)
        return name

    def bind(self, v: Var) -> str:
        self.names[v] = name = self.fresh(v.name)
        return name

    # -- functions
    def function(self, f: Function, key: str | None) -> None:
        pad = self.pad
        wanted = f.name if key is None else key
        name = legal_name(wanted)
        options = []
        if "global_symbol" not in dict(f.attrs):
            options.append("private=True")
        if key is not None and name != key:
            options.append(f"name={string_literal(key)}")
        self.line(f"@R.function({', '.join(options)})" if options else "@R.function")
        if any(p is self.marked for p in f.params):
            self.hit = len(self.lines)
        params = ", ".join([f"{self.bind(p)}: {type_text(p.type)}" for p in f.params])
        self.line(f"def {name}({params}) -> {self.result_type(f)}:")
        self.pad = pad + _INDENT
        if f.attrs:
            self.line(f"R.func_attr({Writer().annotations(f.attrs)})")
        if any(isinstance(c.callee, GlobalVar) for c in calls(f)):
            self.line("cls = Module")
        for c in constants_of(f):
            if not _is_short(c):
                self.constants[c] = self.fresh("const")
                self.line(f"{self.constants[c]}: R.Constant = {self.const_text(c)}")
        for item in f.body:
            if isinstance(item, Binding):
                self.binding(item)
            else:
                self.dataflow(item)
        self.line(f"return {self.expr(f.result)}", f.result)
        self.pad = pad

    def result_type(self, f: Function) -> str:
        try:
            return type_text(f.ret_type)
        except TypeError:  # what is broken is drawn as far as it goes
            return "R.Tuple()"

    def dataflow(self, b: DataflowBlock) -> None:
        pad = self.pad
        self.line("with R.dataflow():", b)
        self.pad = pad + _INDENT
        for x in b.bindings:
            self.binding(x)
        self.line(f"R.output({', '.join([self.expr(v) for v in b.outputs])})")
        self.pad = pad

    def binding(self, b: Binding) -> None:
        value = self.expr(b.value)
        self.line(f"{self.bind(b.var)} = {value}", b)

    # -- values
    def expr(self, e: Expr) -> str:
        match e:
            case Var():
                return self.names.get(e) or self.bind(e)  # unbound: only in pictures of errors
            case Constant():
                return self.constants.get(e) or self.const_text(e)
            case Tuple():
                items = [self.expr(x) for x in e.fields]
                return tuple_text(items) if items else "R.tuple()"
            case TupleGetItem():
                return f"{self.expr(e.value)}[{e.index}]"
            case Call():
                return self.call(e)
            case _:
                assert_never(e)

    def call(self, e: Call) -> str:
        args = tuple_text([self.expr(x) for x in e.args])
        out = f"out_sinfo={self.out_type(e.type)}"
        match e.callee:
            case GlobalVar(name):
                plain = name == legal_name(name)
                callee = f"cls.{name}" if plain else f"cls[{string_literal(name)}]"
                return f"R.call_tir({callee}, {args}, {out})"
            case ExternFunc(name):
                return f"R.call_dps_packed({string_literal(name)}, {args}, {out})"
            case Op(name) if operators.is_written(e):
                return f"R.{name}({self.operands(e)})"
            case Op(name):
                attrs = f", attrs={Writer().annotations(e.attrs)}" if e.attrs else ""
                return f"R.call_op({string_literal(name)}, {args}, {out}{attrs})"
            case _:
                assert_never(e.callee)

    def operands(self, e: Call) -> str:
        """What an operator of the table is called with: its type follows from that."""
        args = [self.expr(x) for x in e.args]
        if operators.OPERATORS[e.callee.name].takes_many:
            args = [tuple_text(args)]
        writer = Writer()
        return ", ".join([*args, *[f"{k}={writer.value(v, k)}" for k, v in e.attrs]])

    def out_type(self, t: Type) -> str:
        """Several results as a list, as R.call_tir wants them."""
        if isinstance(t, TensorType) or not t.fields:
            return type_text(t)
        if all(isinstance(x, TensorType) for x in t.fields):
            return f"[{', '.join([type_text(x) for x in t.fields])}]"
        return type_text(t)

    def const_text(self, c: Constant) -> str:
        if _is_short(c):
            dtype = string_literal(c.type.dtype)
            return f"R.const({_numbers(_plain(c.data))}, {dtype})"
        data = string_literal(base64.b64encode(c.data.tobytes()).decode("ascii"))
        return f"R.const({data if self.show_data else '...'}, {type_text(c.type)})"


def _is_short(c: Constant) -> bool:
    if not 0 < c.data.size <= _FEW:
        return False
    return not dtypes.is_float(c.type.dtype) or bool(np.isfinite(c.data.astype(np.float64)).all())


def _plain(data: np.ndarray[Any, Any]) -> Any:
    """The elements as Python numbers, in nested lists; every dtype's floats fit into Python's."""
    return (data if data.dtype.kind in "iub" else data.astype(np.float64)).tolist()


def _numbers(x: Any) -> str:
    return f"[{', '.join([_numbers(v) for v in x])}]" if isinstance(x, list) else repr(x)
