"""Does what is printed of graph programs parse back, and do equality and hash see what matters?"""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import random_module

from gputune.errors import ScriptError
from gputune.ir import graph
from gputune.ir.check import check
from gputune.ir.equal import structural_equal, structural_hash
from gputune.ir.graph import (
    Binding,
    Call,
    DataflowBlock,
    ExternFunc,
    Function,
    GlobalVar,
    TensorType,
    Tuple,
    TupleGetItem,
    TupleType,
    Var,
    constant,
)
from gputune.ir.nodes import IRModule
from gputune.script import from_source

SEEDS = st.integers(0, 2**32 - 1)
ROW = TensorType((4,))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(SEEDS)
def test_what_is_printed_parses_back(seed: int) -> None:
    mod = random_module(seed)
    check(mod)
    text = mod.script()
    again = from_source(text)
    assert isinstance(again, IRModule)
    assert structural_equal(mod, again), text
    assert structural_hash(mod) == structural_hash(again)
    assert set(again.graphs) == set(mod.graphs)
    assert again.script() == text


@settings(derandomize=True, deadline=None, max_examples=100)
@given(SEEDS)
def test_a_function_on_its_own_parses_back(seed: int) -> None:
    for func in random_module(seed).graphs.values():
        again = from_source(func.script())
        assert isinstance(again, IRModule)
        (found,) = again.graphs.values()
        assert structural_equal(func, found)


OTHERS = ("x", "0", "-1", "None", "[]", "()", "cls", "R", "T", '"f"', "R.tuple()", "1.5", "True")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(SEEDS, st.integers(0, 10_000), st.sampled_from(OTHERS), st.integers(0, 12))
def test_damaged_text_is_read_or_refused(seed: int, at: int, other: str, cut: int) -> None:
    """A word is replaced, or some characters are gone: nothing but ScriptError comes of it."""
    text = random_module(seed).script()
    if cut:
        at %= len(text)
        damaged = text[:at] + text[at + cut :]
    else:
        words = list(re.finditer(r"[\w.]+|\(\)|\[\]", text))
        m = words[at % len(words)]
        damaged = text[: m.start()] + other + text[m.end() :]
    with contextlib.suppress(ScriptError):
        from_source(damaged)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(SEEDS, SEEDS)
def test_equality_and_hash_agree(one: int, two: int) -> None:
    a, b = random_module(one), random_module(two)
    for mode in ("structural", "ignore-tensor"):
        same = structural_equal(a, b, mode)
        assert same == (structural_hash(a, mode) == structural_hash(b, mode))
        assert structural_equal(a, random_module(one), mode)


# ----------------------------------------------------------------------------- what matters
def chain(*, dtype="float32", data=0.0, name="env.f", dataflow=True, item=0, attr=1) -> Function:
    x = Var("x", TensorType((4,), dtype))
    y = Var("y", TupleType((ROW, ROW)))
    z = Var("z", ROW)
    call = Call(ExternFunc(name), (x, constant(np.full(4, data, np.float32))), y.type)
    body = (Binding(y, call), Binding(z, TupleGetItem(y, item)))
    items = (DataflowBlock(body, (z,)),) if dataflow else body
    return Function((x,), items, z, (("num_input", attr),))


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int32"}, {"data": 1.0}, {"name": "env.g"}, {"dataflow": False}, {"item": 1},
     {"attr": 2}],
    ids=str,
)  # fmt: skip
def test_what_matters_makes_functions_differ(change: dict[str, object]) -> None:
    assert not structural_equal(chain(), chain(**change))
    assert structural_hash(chain()) != structural_hash(chain(**change))


def test_names_do_not_matter() -> None:
    x, y = Var("a", ROW), Var("b", ROW)
    call = Call(GlobalVar("f"), (x,), ROW)
    one = Function((x,), (Binding(y, call),), y, (("global_symbol", "one"),))
    u, v = Var("x", ROW), Var("x", ROW)
    two = Function((u,), (Binding(v, Call(GlobalVar("f"), (u,), ROW)),), v)
    assert structural_equal(one, two)
    other = Function((u,), (Binding(v, Call(GlobalVar("f"), (u,), ROW)),), u)
    assert not structural_equal(two, other)


def test_data_of_constants_can_be_left_out() -> None:
    one, two = chain(data=1.0), chain(data=2.0)
    for mode in ("ignore-tensor", "ignore-ndarray", "anchor-block"):
        assert structural_equal(one, two, mode)
        assert structural_hash(one, mode) == structural_hash(two, mode)
        assert not structural_equal(one, chain(data=1.0, dtype="int32"), mode)


def test_a_module_with_a_graph_differs_from_one_without() -> None:
    assert not structural_equal(IRModule(), IRModule({"main": chain()}))
    assert not structural_equal(IRModule({"main": chain()}), IRModule({"f": chain()}))


# ----------------------------------------------------------------------------- the text
def test_the_text() -> None:
    x = Var("x", TensorType((1, 4)))
    w = constant(np.arange(20, dtype=np.float32).reshape(4, 5))
    b = constant(np.array([0.5, -0.0], np.float16))
    y, z = Var("y", TensorType((1, 5))), Var("x", TupleType((ROW, ROW)))
    block = DataflowBlock(
        (Binding(y, Call(GlobalVar("a-b"), (x, w), y.type)),
         Binding(z, Call(ExternFunc("env.g"), (y, b), z.type))),
        (z,),
    )  # fmt: skip
    func = Function((x,), (block,), Tuple((TupleGetItem(z, 1), x)), (("global_symbol", "main"),))
    assert func.script(show_data=False).splitlines() == [
        "@R.function",
        'def main(x: R.Tensor((1, 4), dtype="float32")) -> R.Tuple('
        'R.Tensor((4,), dtype="float32"), R.Tensor((1, 4), dtype="float32")):',
        '    R.func_attr({"global_symbol": "main"})',
        "    cls = Module",
        '    const: R.Constant = R.const(..., R.Tensor((4, 5), dtype="float32"))',
        "    with R.dataflow():",
        '        y = R.call_tir(cls["a-b"], (x, const), '
        'out_sinfo=R.Tensor((1, 5), dtype="float32"))',
        '        x_1 = R.call_dps_packed("env.g", (y, R.const([0.5, -0.0], "float16")), '
        'out_sinfo=[R.Tensor((4,), dtype="float32"), R.Tensor((4,), dtype="float32")])',
        "        R.output(x_1)",
        "    return (x_1[1], x)",
    ]
    with pytest.raises(ScriptError, match="elements of this constant were left out"):
        from_source(func.script(show_data=False))
    assert structural_equal(from_source(func.script())["main"], func)


def test_people_see_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    mod = IRModule({"main": chain()})
    big = graph.bind_params(chain(), {chain().params[0]: constant(np.zeros(4, np.float32))})
    assert structural_equal(big, chain())  # the parameter of another function is none of this one
    x = mod["main"].params[0]
    data = np.arange(100, dtype=np.float32)[:4].repeat(25)
    y = Function((x,), (), constant(data))
    y.show()
    assert "R.const(..., " in capsys.readouterr().out
    assert "R.const(..., " in y._repr_html_()
    assert "R.const(..., " not in str(y)
