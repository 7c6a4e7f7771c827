"""Do parameters become constants, and is what does not fit refused?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune import relax
from gputune.errors import GputuneError, UserError
from gputune.ir.check import check
from gputune.ir.graph import (
    Binding,
    Call,
    Constant,
    DataflowBlock,
    ExternFunc,
    Function,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    Var,
)
from gputune.ir.nodes import IRModule

ROW = TensorType((4,))
x, w, v = Var("x", ROW), Var("w", ROW), Var("w", ROW)
t = Var("t", TupleType((ROW, ROW)))
y, z = Var("y", ROW), Var("z", ROW)
MAIN = Function(
    (x, w, v, t),
    (
        Binding(y, Call(ExternFunc("env.f"), (x, w, TupleGetItem(t, 0)), ROW)),
        DataflowBlock((Binding(z, Call(ExternFunc("env.g"), (y, v), ROW)),), (z,)),
    ),
    Tuple((z, w, x)),
    (("num_input", 1),),
)
MOD = IRModule({"main": MAIN}, (("k", 1),))
ONES = np.ones(4, np.float32)


def bound(**params: Any) -> Function:
    mod = relax.transform.BindParams("main", params)(MOD)
    check(mod)
    assert mod.attrs == MOD.attrs
    found = mod["main"]
    assert isinstance(found, Function)
    return found


def test_a_parameter_becomes_a_constant_wherever_it_is_used() -> None:
    func = bound(x=ONES)
    assert [p.name for p in func.params] == ["w", "w", "t"]
    assert func.attrs == MAIN.attrs
    first = func.body[0]
    assert isinstance(first, Binding)
    assert isinstance(first.value, Call)
    made = first.value.args[0]
    assert isinstance(made, Constant)
    assert isinstance(func.result, Tuple)
    assert func.result.fields[2] is made
    assert func.body[1] is not MAIN.body[1]
    assert first.value.args[1] is w
    assert MOD["main"] is MAIN


def test_the_data_is_copied_and_cannot_be_written() -> None:
    data = ONES.copy()
    func = bound(x=data)
    assert isinstance(func.result, Tuple)
    made = func.result.fields[2]
    assert isinstance(made, Constant)
    data[:] = 5
    np.testing.assert_array_equal(made.data, ONES)
    assert not made.data.flags.writeable


def test_parameters_by_their_variable_and_arrays_of_any_kind() -> None:
    mod = relax.transform.BindParams("main", {w: gt.nd.array(ONES), v: ONES[::-1]})(MOD)
    assert [p.name for p in mod["main"].params] == ["x", "t"]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("f", {}, "no graph function named 'f'\n  hint: the module has: main"),
        ("main", {"xx": ONES}, "has no parameter 'xx'\n  hint: did you mean 'x'?"),
        ("main", {y: ONES}, "has no parameter 'y'"),
        ("main", {"w": ONES}, "2 parameters of 'main' are named 'w'"),
        ("main", {"x": ONES, x: ONES}, "parameter 'x' is given twice"),
        ("main", {"x": np.ones(5, np.float32)}, "parameter 'x' is R.Tensor((4,)"),
        ("main", {"x": np.ones(4)}, 'its value R.Tensor((4,), dtype="float64")'),
        ("main", {"t": ONES}, "parameter 't' is R.Tuple("),
        ("main", {"x": np.ones(4, np.complex64)}, "parameter 'x'"),
        ("main", {"x": 3}, "parameter 'x': expected an array, found int"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, params: Any, message: str) -> None:
    with pytest.raises(GputuneError, match=re.escape(message)):
        relax.transform.BindParams(name, params)(MOD)


def test_the_refusals_are_the_users() -> None:
    with pytest.raises(UserError):
        relax.transform.BindParams("main", {"xx": ONES})(MOD)
