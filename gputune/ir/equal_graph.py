"""What is the canonical form of a graph function? See `equal.py`, which writes the rest.

What matters: types, what is called and with which attributes, the order of bindings, which of them
form a dataflow block and what it hands out, and the elements of constants (unless they are left
out: see `structural_equal`). What does not: the names of variables.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, assert_never

from .graph import (
    Binding,
    Call,
    Constant,
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
)

if TYPE_CHECKING:
    from .equal import _Writer


def write_graph(w: _Writer, f: Function) -> None:
    """Append the canonical form of a graph function."""
    w.out.append(f"graph{len(f.params)}")
    for p in f.params:
        _bind(w, p)
    w.out.append(str(len(f.body)))
    for item in f.body:
        if isinstance(item, Binding):
            _binding(w, item)
            continue
        w.out.append(f"dataflow{len(item.bindings)}")
        for b in item.bindings:
            _binding(w, b)
        w.out.append(str(len(item.outputs)))
        for v in item.outputs:
            _expr(w, v)
    _expr(w, f.result)
    w.pairs(tuple([kv for kv in f.attrs if kv[0] != "global_symbol"]))


def _binding(w: _Writer, b: Binding) -> None:
    w.out.append("let")
    _expr(w, b.value)
    _bind(w, b.var)


def _bind(w: _Writer, v: Var) -> None:
    _type(w, v.type)
    w.bind(v)


def _type(w: _Writer, t: Type) -> None:
    if isinstance(t, TensorType):
        w.out += (t.dtype, f"{len(t.shape)}[", *[str(int(n)) for n in t.shape])
        return
    w.out.append(f"tuple{len(t.fields)}")
    for x in t.fields:
        _type(w, x)


def _expr(w: _Writer, e: Expr) -> None:
    match e:
        case Var():
            token = w.ids.get(e)
            if token is None:
                _type(w, e.type)
                token = w.meet(e)
            w.out.append(token)
        case Constant():
            w.out.append("constant")
            _type(w, e.type)
            if w.data:
                w.out.append(blake2b(e.data.tobytes(), digest_size=16).hexdigest())
        case Tuple():
            w.out.append(f"{len(e.fields)}(")
            for x in e.fields:
                _expr(w, x)
        case TupleGetItem():
            w.out.append(f"item{int(e.index)}")
            _expr(w, e.value)
        case Call():
            w.out += (_kind(e), w.text(e.callee.name), f"{len(e.args)}(")
            for x in e.args:
                _expr(w, x)
            _type(w, e.type)
            w.pairs(e.attrs)
        case _:
            assert_never(e)


def _kind(e: Call) -> str:
    match e.callee:
        case GlobalVar():
            return "call"
        case ExternFunc():
            return "extern"
        case Op():
            return "op"
        case _:
            assert_never(e.callee)
