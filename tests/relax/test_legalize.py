"""What does LegalizeOps make of a graph function?"""

# ruff: noqa: F821 (functions of a module are named before they are there)
from __future__ import annotations

import numpy as np
import pytest

from gputune import relax
from gputune.errors import BuildError, CheckError, UserError
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import (
    Call,
    ExternFunc,
    Function,
    GlobalVar,
    Op,
    TensorType,
    Tuple,
    Var,
    bindings,
    calls,
    constant,
)
from gputune.ir.graph_builder import GraphBuilder
from gputune.ir.nodes import IRModule
from gputune.relax.transform import LegalizeOps
from gputune.script import from_source
from gputune.script import ir as I
from gputune.script import relax as R
from gputune.script import tir as T

TARGET = "llvm -num-cores=1"


@I.ir_module
class Net:
    @T.prim_func
    def relu(A: T.Buffer((4, 6), "float32"), B: T.Buffer((4, 6), "float32")):
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = T.max(A[vi, vj], T.float32(0)) * T.float32(2)

    @R.function
    def main(x: R.Tensor((4, 5), "float32"), w: R.Tensor((6, 5), "float32"),
             v: R.Tensor((6, 6), "float32")):  # fmt: skip
        with R.dataflow():
            a = R.linear(x, w)
            b = R.nn.relu(a)
            c = R.call_tir(relu, (b,), R.Tensor((4, 6), "float32"))
            d = R.nn.relu(R.linear(c, v))
            parts = R.split(d, sections=2, axis=1)
            R.output(d, parts)
        s = R.sum(parts[1])
        return (s, (parts[0], d))


def main_of(mod: IRModule) -> Function:
    return mod.graphs["main"]


def test_every_operator_becomes_a_tensor_function() -> None:
    legal = LegalizeOps()(Net)
    check(legal)
    assert [c.callee.name for c in calls(main_of(legal))] == [
        "linear", "relu1", "relu", "linear1", "relu1", "split", "sum",
    ]  # fmt: skip
    assert not any(isinstance(c.callee, Op) for c in calls(main_of(legal)))
    assert [b.var.name for b in bindings(main_of(legal))][:3] == ["a", "b", "c"]
    assert legal["relu1"].name == "relu1"
    assert list(Net.functions) == ["relu"]
    assert structural_equal(from_source(legal.script()), legal)

    rng = np.random.default_rng(0)
    x, w, v = (rng.standard_normal(s).astype("float32") for s in ((4, 5), (6, 5), (6, 6)))
    s, (left, d) = relax.VirtualMachine(relax.build(legal, TARGET))["main"](x, w, v)
    wanted = np.maximum(2 * np.maximum(x @ w.T, 0) @ v.T, 0)
    np.testing.assert_allclose(d.numpy(), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(left.numpy(), wanted[:, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(s.numpy(), wanted[:, 3:].sum(), rtol=1e-4)


def test_again_it_changes_nothing_and_finds_the_functions_that_are_there() -> None:
    legal = LegalizeOps()(Net)
    assert structural_equal(LegalizeOps()(legal), legal)
    more = IRModule({**legal.functions, "main": Net.graphs["main"]})
    assert list(LegalizeOps()(more).functions) == list(legal.functions)


def test_some_operators_only() -> None:
    legal = LegalizeOps(only=["sum"])(Net)
    kinds = [type(c.callee) for c in calls(main_of(legal))]
    assert kinds == [Op, Op, GlobalVar, Op, Op, Op, GlobalVar]
    with pytest.raises(UserError, match="no operator is called 'som'"):
        LegalizeOps(only=["som"])


def test_attention_is_taken_apart() -> None:
    q, k, v = (Var(n, TensorType((2, 3, 5, 4))) for n in "qkv")
    b = GraphBuilder()
    y = b.op("nn.scaled_dot_product_attention", q, k, v, is_causal=True)
    legal = LegalizeOps()(IRModule({"main": b.function([q, k, v], y, "main")}))
    names = [c.callee.name for c in calls(main_of(legal))]
    assert names == ["permute_dims", "matmul", "multiply", "where", "softmax", "matmul1"]


def test_operators_that_nobody_knows_are_all_named() -> None:
    x = Var("x", TensorType((3,)))
    b = GraphBuilder()
    y = b.bind(Call(Op("my.first"), (x,), x.type))
    y = b.bind(Call(ExternFunc("env.f"), (y,), x.type))
    y = b.bind(Call(Op("my.other"), (y,), x.type))
    mod = IRModule({"main": b.function([x], y, "main")})
    with pytest.raises(BuildError, match=r"'my.first' in main .*'my.other' in main"):
        LegalizeOps()(mod)
    assert LegalizeOps(only=["sum"])(mod).graphs.keys() == {"main"}


def test_a_call_that_does_not_fit_is_refused() -> None:
    x = Var("x", TensorType((3,)))
    b = GraphBuilder()
    y = b.bind(Call(Op("nn.relu"), (x,), TensorType((4,))))
    with pytest.raises(CheckError, match=r"LegalizeOps: nn.relu: its result"):
        LegalizeOps()(IRModule({"main": b.function([x], y, "main")}))


def test_constants_and_values_that_are_used_twice() -> None:
    x = Var("x", TensorType((2, 2)))
    b = GraphBuilder()
    w = constant([[1, 2], [3, 4]], "float32")
    y = b.op("add", b.op("matmul", x, w), b.op("matmul", x, w))
    mod = IRModule({"main": b.function([x], Tuple((y, x, w)), "main")})
    legal = LegalizeOps()(mod)
    assert list(legal.functions) == ["matmul", "add"]
    data = np.eye(2, dtype=np.float32)
    found, same, const = relax.VirtualMachine(relax.build(legal, TARGET))["main"](data)
    np.testing.assert_array_equal(found.numpy(), 2 * w.data)
    np.testing.assert_array_equal(same.numpy(), data)
    np.testing.assert_array_equal(const.numpy(), w.data)
