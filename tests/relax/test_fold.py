"""What do the passes that tidy and fold leave of a graph function, and does it compute the same?"""

# ruff: noqa: F821 (functions of a module are named before they are there)
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gputune import relax
from gputune.errors import UserError
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import (
    Call,
    Constant,
    DataflowBlock,
    Expr,
    Function,
    TensorType,
    Tuple,
    TupleGetItem,
    Var,
    bindings,
    calls,
    constant,
)
from gputune.ir.graph_builder import GraphBuilder
from gputune.ir.nodes import IRModule
from gputune.relax.transform import (
    CanonicalizeBindings,
    DeadCodeElimination,
    DecomposeOpsForInference,
    FoldBatchNorm,
    FoldConstant,
    LegalizeOps,
)
from gputune.runtime.external import register_func, remove_global_func
from gputune.script import ir as I
from gputune.script import relax as R
from gputune.script import tir as T

RNG = np.random.default_rng(7)


def random_constant(*shape: int, positive: bool = False) -> Constant:
    x = RNG.standard_normal(shape)
    return constant(np.abs(x) + 0.5 if positive else x, "float32")


def run(mod: IRModule, *arrays: Any) -> Any:
    out = relax.VirtualMachine(relax.build(LegalizeOps()(mod), "llvm -num-cores=1"))["main"](
        *arrays
    )
    return [x.numpy() for x in out] if isinstance(out, tuple) else out.numpy()


def names(mod: IRModule) -> list[str]:
    return [c.callee.name for c in calls(mod.graphs["main"])]


# ----------------------------------------------------------------------------- constants
@I.ir_module
class Known:
    @T.prim_func
    def double(A: T.Buffer((2, 2), "float32"), B: T.Buffer((2, 2), "float32")):
        for i, j in T.grid(2, 2):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] * T.float32(2)

    @R.function
    def main(x: R.Tensor((2, 2), "float32")):
        with R.dataflow():
            c = R.const([[1.0, 2.0], [3.0, 4.0]], "float32")
            t = R.permute_dims(c)
            d = R.call_tir(double, (t,), R.Tensor((2, 2), "float32"))
            parts = R.split(d, sections=2)
            y = R.add(x, R.concat((parts[1], parts[0])))
            R.output(y, d)
        return (y, d)


def test_what_depends_on_constants_only_is_computed() -> None:
    folded = FoldConstant()(Known)
    check(folded)
    assert names(folded) == ["add"]
    (add,) = calls(folded.graphs["main"])
    assert isinstance(add.args[1], Constant)
    np.testing.assert_array_equal(add.args[1].data, [[4, 8], [2, 6]])
    x = np.ones((2, 2), np.float32)
    for a, b in zip(run(folded, x), run(Known, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_large_is_made() -> None:
    x = Var("x", TensorType((300, 300)))
    b = GraphBuilder()
    large = b.op("broadcast_to", constant(1.0, "float32"), shape=(300, 300))
    small = b.op("full", shape=(3,), value=2.0)
    func = b.function([x], Tuple((b.op("add", x, large), small)), "main")
    assert names(FoldConstant()(IRModule({"main": func}))) == ["broadcast_to", "add"]


def test_an_external_function_is_never_folded() -> None:
    @R.function
    def main():
        return R.call_dps_packed("t.now", (R.const([1.0]),), R.Tensor((1,), "float32"))

    mod = IRModule({"main": main})
    assert structural_equal(FoldConstant()(mod), mod)


# ----------------------------------------------------------------------------- batch norm
def convolution_net(kind: str, bias: bool, twice: bool = False) -> tuple[IRModule, np.ndarray]:
    shapes = {
        "nn.conv1d": ((2, 4, 9), (6, 2, 3), {"groups": 2, "padding": (1,)}),
        "nn.conv2d": ((1, 3, 6, 5), (6, 3, 3, 3), {"strides": (2,)}),
        "linear": ((4, 5), (6, 5), {}),
    }
    data, weight, attrs = shapes[kind]
    x = Var("x", TensorType(data))
    b = GraphBuilder()
    parts = [random_constant(*weight), *([random_constant(6)] if bias else [])]
    y = b.op(kind, x, *parts, **attrs)
    statistics = [random_constant(6), random_constant(6), random_constant(6),
                  random_constant(6, positive=True)]  # fmt: skip
    n = b.op("nn.batch_norm", y, *statistics, epsilon=1e-3)
    result: Expr = b.op("nn.relu", n)
    if twice:
        result = Tuple((result, y))
    return IRModule({"main": b.function([x], result, "main")}), RNG.standard_normal(data).astype(
        "f4"
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["nn.conv1d", "nn.conv2d", "linear"])
def test_a_batch_norm_becomes_part_of_the_weights(kind: str, bias: bool) -> None:
    mod, x = convolution_net(kind, bias)
    for folder in (FoldBatchNorm(), DecomposeOpsForInference()):
        folded = folder(mod)
        check(folded)
        assert names(folded) == [kind, "nn.relu"]
        np.testing.assert_allclose(run(folded, x), run(mod, x), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_that_cannot_be_folded_is_a_product_and_a_sum() -> None:
    mod, x = convolution_net("nn.conv2d", True, twice=True)
    assert structural_equal(FoldBatchNorm()(mod), mod)
    simple = DecomposeOpsForInference("main")(mod)
    assert names(simple) == ["nn.conv2d", "multiply", "add", "nn.relu"]
    for a, b in zip(run(simple, x), run(mod, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert structural_equal(DecomposeOpsForInference("other")(mod), mod)


def test_statistics_that_are_not_known_are_computed() -> None:
    types = [TensorType((2, 3, 4)), *[TensorType((3,))] * 4]
    params = [Var(f"p{k}", t) for k, t in enumerate(types)]
    b = GraphBuilder()
    mod = IRModule({"main": b.function(params, b.op("nn.batch_norm", *params), "main")})
    simple = DecomposeOpsForInference()(mod)
    assert "nn.batch_norm" not in names(simple)
    arrays = [np.abs(RNG.standard_normal(t.shape)).astype("f4") + 0.5 for t in types]
    np.testing.assert_allclose(run(simple, *arrays), run(mod, *arrays), rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------- tidying
def test_other_names_vanish() -> None:
    @R.function
    def main(x: R.Tensor((3,), "float32")):
        with R.dataflow():
            a = x
            pair = (a, R.nn.relu(a))
            b = pair[1]
            c = R.add(b, pair[0])
            d = c
            R.output(d, pair)
        e = d
        return (e, pair[1])

    tidy = CanonicalizeBindings()(IRModule({"main": main}))
    check(tidy)
    func = tidy.graphs["main"]
    assert all(isinstance(b.value, Call) for b in bindings(func))
    assert names(tidy) == ["nn.relu", "add"]
    (block,) = func.body
    assert isinstance(block, DataflowBlock)
    assert {v.name for v in block.outputs} == {"lv", "c"}
    x = np.array([-1, 0, 2], np.float32)
    for a, b in zip(run(tidy, x), (np.maximum(x, 0) + x, np.maximum(x, 0)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def counted() -> Iterator[list[int]]:
    calls: list[int] = []

    def count(x: Any, out: Any) -> None:
        calls.append(1)
        np.asarray(out)[...] = np.asarray(x)

    register_func("t.count", count)
    yield calls
    remove_global_func("t.count")


def test_what_nothing_needs_vanishes(counted: list[int]) -> None:
    @R.function
    def main(x: R.Tensor((3,), "float32")):
        with R.dataflow():
            a = R.nn.relu(x)
            b = R.exp(a)
            _c = R.call_dps_packed("t.count", (x,), R.Tensor((3,), "float32"))
            R.output(a, b)
        d = R.exp(a)
        e = R.call_dps_packed("t.count", (d,), R.Tensor((3,), "float32"))
        _f = R.nn.silu(e)
        return a

    mod = IRModule({"main": main})
    small = DeadCodeElimination()(mod)
    check(small)
    assert names(small) == ["nn.relu", "exp", "t.count"]
    run(small, np.zeros(3, np.float32))
    assert len(counted) == 1


def test_functions_that_nothing_calls_vanish() -> None:
    other = Function((), (), constant(1.0, "float32"), (("global_symbol", "other"),))
    mod = IRModule({**Known.functions, **Known.graphs, "other": other})
    assert set(DeadCodeElimination()(mod)) == {"double", "main", "other"}
    assert set(DeadCodeElimination(["main"])(mod)) == {"double", "main"}
    assert set(DeadCodeElimination(["other"])(mod)) == {"other"}
    with pytest.raises(UserError, match="no graph function named 'mian'"):
        DeadCodeElimination(["mian"])(mod)


def test_items_of_known_tuples_are_taken() -> None:
    x = Var("x", TensorType((3,)))
    b = GraphBuilder()
    y = b.op("nn.relu", TupleGetItem(Tuple((constant([1.0, 2.0], "float32"), x)), 1))
    mod = CanonicalizeBindings()(IRModule({"main": b.function([x], y, "main")}))
    (call,) = calls(mod.graphs["main"])
    assert call.args == (x,)
