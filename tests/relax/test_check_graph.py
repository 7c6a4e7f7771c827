"""Is a graph function that is not well formed refused, with the place and the reason?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from random_graphs import tensor_function

from gputune.errors import CheckError
from gputune.ir import build
from gputune.ir.check import check
from gputune.ir.graph import (
    Binding,
    Call,
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
)
from gputune.ir.nodes import Buffer, Evaluate, IntImm, IRModule, PrimFunc
from gputune.ir.nodes import Var as Scalar

ROW, COLUMN = TensorType((4,)), TensorType((4, 1))
PAIR = TupleType((ROW, COLUMN))
x, y, z, t = Var("x", ROW), Var("y", ROW), Var("z", ROW), Var("t", PAIR)


def extern(*args: Expr, out: Type = ROW) -> Call:
    return Call(ExternFunc("env.f"), args, out)


def called(*args: Expr, out: Type = ROW, name: str = "f") -> Call:
    return Call(GlobalVar(name), args, out)


def func(*body: Binding | DataflowBlock, result: Expr = x, params: tuple[Var, ...] = (x, t)):
    return Function(params, body, result)


def symbolic() -> PrimFunc:
    """A kernel from n numbers to n numbers."""
    n, a, b = Scalar("n"), Scalar("a", "handle"), Scalar("b", "handle")
    table = ((a, Buffer("A", (n,))), (b, Buffer("B", (n,))))
    return PrimFunc((a, b), table, build.root_block(Evaluate(IntImm(0))))


def module(main: Function) -> IRModule:
    n = Scalar("n")
    number = PrimFunc((n,), (), build.root_block(Evaluate(IntImm(0))))
    functions = {"f": tensor_function([ROW, ROW]), "number": number, "any": symbolic()}
    return IRModule(functions, (), {"main": main, "other": Function((), (), Tuple(()))})


GOOD = {
    "a parameter": func(),
    "an item": func(result=TupleGetItem(t, 1)),
    "a call": func(Binding(y, called(x)), result=y),
    "an alias": func(Binding(y, x), result=Tuple((y, Tuple(())))),
    "dataflow": func(DataflowBlock((Binding(y, extern(x)), Binding(z, extern(y))), (z,)), result=z),
    "operator": func(Binding(t2 := Var("u", PAIR), Call(Op("f"), (t,), PAIR)), result=t2),
    "symbolic sizes": func(Binding(y, called(x, name="any")), result=y),
    "constant": func(result=constant(np.zeros((), np.int8))),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_well_formed_passes(name: str) -> None:
    check(module(GOOD[name]))
    check(GOOD[name])


BAD: dict[str, tuple[Callable[[], Function], str, str]] = {
    "undefined": (lambda: func(result=y), "undefined", "variable y is used before it is bound"),
    "own value": (lambda: func(Binding(y, extern(y))), "undefined", "y is used before"),
    "bound twice": (
        lambda: func(Binding(y, extern()), Binding(y, extern())), "defined-twice", "bound twice"),
    "parameter twice": (lambda: func(params=(x, x)), "defined-twice", "bound twice"),
    "leak": (
        lambda: func(DataflowBlock((Binding(y, extern()),), ()), result=y),
        "dataflow-leak", "variable y is used outside of its dataflow block"),
    "outputs": (
        lambda: func(DataflowBlock((Binding(y, extern()),), (x,))),
        "dataflow-output", "hands out x, which it does not bind"),
    "outputs twice": (
        lambda: func(DataflowBlock((Binding(y, extern()),), (y, y))),
        "dataflow-output", "out twice"),
    "type": (
        lambda: func(Binding(y, extern(out=COLUMN))),
        "type", 'variable y is R.Tensor((4,), dtype="float32"), its value R.Tensor((4, 1)'),
    "item of a tensor": (lambda: func(result=TupleGetItem(x, 0)), "tuple-item", "taken of R.Tens"),
    "no such item": (lambda: func(result=TupleGetItem(t, 2)), "tuple-item", "a tuple of 2"),
    "call in a tuple": (lambda: func(result=Tuple((extern(),))), "nested-call", "a call of env.f"),
    "call in a call": (
        lambda: func(Binding(y, extern(extern()))), "nested-call", "an argument of env.f holds"),
    "call as result": (lambda: func(result=extern()), "nested-call", "the result holds"),
    "negative size": (
        lambda: func(params=(Var("a", TensorType((-1,))),)), "shape", "has the shape (-1,)"),
    "bool size": (
        lambda: func(Binding(y, extern(out=TupleType((TensorType((True,)),))))),
        "shape", "(True,)"),
    "dtype": (
        lambda: func(params=(Var("a", TensorType((1,), "float31")),)), "dtype", "'float31'"),
    "no name": (lambda: func(Binding(y, Call(Op(""), (), ROW))), "callee", "a call of ''"),
    "unknown": (
        lambda: func(Binding(y, called(x, name="g"))), "callee", "the module has no such function"),
    "graph function": (
        lambda: func(Binding(y, called(x, name="other"))), "callee", "which is a graph function"),
    "number": (
        lambda: func(Binding(y, called(name="number"))), "callee", "parameter n is a number"),
    "attributes": (
        lambda: func(Binding(y, Call(ExternFunc("f"), (), ROW, (("axis", 1),)))),
        "call-attributes", "has attributes: axis"),
    "tuple as argument": (lambda: func(Binding(y, extern(t))), "argument", "argument 0 of env.f"),
    "no result": (
        lambda: func(Binding(Var("u", TupleType(())), extern(out=TupleType(())))),
        "results", "the results of env.f are R.Tuple()"),
    "nested results": (
        lambda: func(Binding(Var("u", TupleType((PAIR,))), extern(out=TupleType((PAIR,))))),
        "results", "the results of env.f are R.Tuple(R.Tuple("),
    "too few": (
        lambda: func(Binding(y, called())), "argument-count",
        "f takes 2 tensors (B0, B1), and is called with 0 arguments and 1 results"),
    "rank": (
        lambda: func(Binding(Var("u", COLUMN), called(x, out=COLUMN))), "argument-shape",
        "result 0 of f has 2 dimensions (4, 1), parameter B1 1: (4)"),
    "shape": (
        lambda: func(Binding(y, called(constant(np.zeros(5, np.float32))))), "argument-shape",
        "argument 0 of f has the shape (5,), parameter B0 is (4)"),
    "symbolic shape": (
        lambda: func(Binding(y, called(constant(np.zeros(5, np.float32)), name="any"))),
        "argument-shape", "result 0 of any has the shape (4,), parameter B is (n)"),
    "argument dtype": (
        lambda: func(Binding(y, called(constant(np.zeros(4, np.int8))))), "argument-dtype",
        "argument 0 of f has dtype int8, parameter B0 float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_is_refused(name: str) -> None:
    make, code, message = BAD[name]
    with pytest.raises(CheckError) as refused:
        check(module(make()))
    assert refused.value.code == code
    assert message in refused.value.message
    assert refused.value.message.startswith("in graph function 'main': ")
    picture = str(refused.value)
    assert "\n> " in picture
    assert "def main" in picture


def test_two_functions_of_one_name() -> None:
    both = IRModule({"main": tensor_function([ROW])}, (), {"main": func()})
    with pytest.raises(CheckError, match="two functions named 'main'"):
        check(both)
