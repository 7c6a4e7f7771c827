"""Which calls become one, and do they compute the same?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from gputune import relax
from gputune.ir import operators
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import Call, Expr, Op, TensorType, Tuple, Type, Var, calls, constant
from gputune.ir.graph_builder import GraphBuilder
from gputune.ir.nodes import IRModule
from gputune.relax.pattern import Pattern, kind_of
from gputune.relax.transform import FuseOps, LegalizeOps
from gputune.schedule import Schedule
from gputune.script import from_source

TARGET = "llvm -num-cores=1"
E, B, N, R, O, X = (Pattern(k) for k in (0, 1, 2, 3, 4, 8))  # noqa: E741 (as short as the table)


def legal(build: Callable[..., Expr], *types: TensorType) -> IRModule:
    params = [Var(f"p{k}", t) for k, t in enumerate(types)]
    b = GraphBuilder()
    result = build(b.op, *params)
    return LegalizeOps()(IRModule({"main": b.function(params, result, "main")}))


def run(mod: IRModule, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(_shape(p.type)).astype("f4") for p in mod.graphs["main"].params]
    out = relax.VirtualMachine(relax.build(mod, TARGET))["main"](*arrays)
    return [x.numpy() for x in (out if isinstance(out, tuple) else (out,))]


def _shape(t: Type) -> tuple[int, ...]:
    assert isinstance(t, TensorType)
    return t.shape


def names(mod: IRModule) -> list[str]:
    return [c.callee.name for c in calls(mod.graphs["main"])]


# ----------------------------------------------------------------------------- patterns
T34, T4, T43 = TensorType((3, 4)), TensorType((4,)), TensorType((4, 3))
IMAGE = TensorType((1, 4, 6, 6))
PATTERNS: dict[str, tuple[tuple[TensorType, ...], dict[str, Any], Pattern, tuple[Pattern, ...]]] = {
    "exp": ((T34,), {}, E, (E,)),
    "add": ((T34, T4), {}, B, (E, B)),
    "where": ((TensorType((3, 1), "bool"), T34, T34), {}, B, (B, E, E)),
    "permute_dims": ((T34,), {}, N, (N,)),
    "reshape": ((T34,), {"shape": (12,)}, N, (N,)),
    "concat": ((T34, T34), {}, N, (N, N)),
    "take": ((T34, TensorType((2,), "int64")), {"axis": 0}, N, (N, B)),
    "sum": ((T34,), {"axis": (1,)}, R, (R,)),
    "mean": ((T34,), {}, R, (R,)),
    "matmul": ((T34, T43), {}, O, (O, O)),
    "linear": ((T34, T34, TensorType((3,))), {}, O, (O, O, B)),
    "nn.conv2d": ((IMAGE, TensorType((2, 4, 3, 3))), {"padding": (1,)}, O, (O, O)),
    "nn.max_pool2d": ((IMAGE,), {"pool_size": (2,)}, O, (O,)),
    "nn.batch_norm": ((IMAGE, T4, T4, T4, T4), {}, B, (E, B, B, B, B)),
    "nn.softmax": ((T34,), {}, X, (X,)),
    "nn.layer_norm": ((T34,), {}, X, (X,)),
    "argmax": ((T34,), {"axis": 1}, X, (X,)),
    "split": ((T34,), {"sections": 2, "axis": 1}, X, (X, X)),
    "full": ((), {"shape": (2,), "value": 1.0}, E, ()),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pattern_of_a_function(name: str) -> None:
    types, attrs, pattern, arguments = PATTERNS[name]
    call = operators.call(name, *[Var("x", t) for t in types], **attrs)
    kind = kind_of(operators.tensor_function(call, "f"))
    assert kind.pattern == pattern
    assert kind.arguments == arguments


def test_a_scheduled_function_is_opaque() -> None:
    func = operators.tensor_function(operators.call("exp", Var("x", T34)), "f")
    sch = Schedule(func)
    sch.vectorize(sch.get_loops(sch.get_block("y"))[-1])
    assert kind_of(sch.mod["f" if "f" in sch.mod else "main"]).pattern == X


# ----------------------------------------------------------------------------- groups
def _residual(op: Any, x: Any, w: Any, b: Any) -> Expr:
    """Two convolutions into one sum: only one of them can take it in."""
    y = op("nn.relu", op("add", op("nn.conv2d", x, w, padding=1), b))
    left, right = op("nn.conv2d", y, w, padding=1), op("nn.conv2d", x, w, padding=1)
    return op("nn.relu", op("add", left, right))


def _shared(op: Any, x: Any) -> Expr:
    y = op("exp", x)
    return Tuple((op("sqrt", op("negative", y)), y))


IMAGES = (IMAGE, TensorType((4, 4, 3, 3)), TensorType((4, 1, 1)))
GROUPS: dict[str, tuple[Callable[..., Expr], Sequence[TensorType], list[str]]] = {
    "elementwise": (lambda op, x: op("tanh", op("exp", op("negative", x))), [T34],
                    ["fused_negative_exp_tanh"]),
    "diamond": (lambda op, x: op("add", op("exp", op("abs", x)), op("sin", op("abs", x))), [T34],
                ["fused_abs_exp_abs_sin_add"]),
    "epilogue": (lambda op, x, w, b: op("nn.relu", op("add", op("matmul", x, w), b)),
                 [T34, T43, TensorType((3,))], ["fused_matmul_add_relu"]),
    "residual": (_residual, IMAGES, ["fused_conv2d_add_relu", "conv2d", "fused_conv2d_add1_relu"]),
    "prologue of a sum": (lambda op, x: op("exp", op("sum", op("multiply", x, x), axis=1)), [T34],
                          ["fused_multiply_sum", "exp"]),
    "no prologue of a matmul": (lambda op, x, w: op("matmul", op("exp", x), w), [T34, T43],
                                ["exp", "matmul"]),
    "two products": (lambda op, x, w: op("exp", op("matmul", op("matmul", x, w), x)), [T34, T43],
                     ["matmul", "fused_matmul1_exp"]),
    "injective": (lambda op, x: op("reshape", op("permute_dims", op("reshape", x, shape=(2, 2, 3))),
                                   shape=(12,)), [T34], ["fused_reshape_permute_dims_reshape1"]),
    "elementwise and injective": (lambda op, x: op("permute_dims", op("exp", x)), [T34],
                                  ["fused_exp_permute_dims"]),
    "injective is no epilogue": (lambda op, x, w: op("permute_dims", op("matmul", x, w)),
                                 [T34, T43], ["matmul", "permute_dims"]),
    "opaque": (lambda op, x: op("exp", op("nn.softmax", op("exp", x))), [T34],
               ["exp", "softmax", "exp"]),
    "a result that is needed": (_shared, [T34], ["exp", "fused_negative_sqrt"]),
    "one input twice": (lambda op, x: op("exp", op("add", x, x)), [T34], ["fused_add_exp"]),
    "constants": (lambda op, x: op("exp", op("add", x, constant([1, 2, 3, 4], "float32"))), [T34],
                  ["fused_add_exp"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_fused(name: str) -> None:
    build, types, wanted = GROUPS[name]
    mod = legal(build, *types)
    fused = FuseOps()(mod)
    check(fused)
    assert names(fused) == wanted
    assert set(fused.functions) == set(wanted)
    assert structural_equal(from_source(fused.script()), fused)
    assert structural_equal(FuseOps()(fused), fused)
    for a, b in zip(run(fused), run(mod), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_equal_groups_share_a_function() -> None:
    def twice(op: Any, x: Any) -> Expr:
        y = op("nn.softmax", op("exp", op("negative", x)))
        return op("nn.softmax", op("exp", op("negative", y)))

    mod = FuseOps()(legal(twice, T34))
    assert names(mod) == ["fused_negative_exp", "softmax"] * 2
    assert set(mod.functions) == {"fused_negative_exp", "softmax"}


def test_groups_have_a_limit() -> None:
    def chain(op: Any, x: Any) -> Expr:
        for _ in range(7):
            x = op("exp", x)
        return x

    mod = FuseOps(max_depth=3)(legal(chain, T34))
    assert max(n.count("exp") for n in names(mod)) == 3
    assert sum(n.count("exp") for n in names(mod)) == 7


def test_what_is_no_tensor_function_stays() -> None:
    x = Var("x", T34)
    b = GraphBuilder()
    y = b.bind(Call(Op("my.op"), (b.op("exp", x),), T34))
    mod = IRModule({"main": b.function([x], b.op("exp", y), "main")})
    some = LegalizeOps(only=["exp"])(mod)
    assert structural_equal(FuseOps()(some), some)


# ----------------------------------------------------------------------------- random graphs
def random_graph(rng: Random) -> IRModule:
    """A graph of calls of every pattern on squares."""
    square = TensorType((4, 4))

    def build(op: Any, *params: Any) -> Expr:
        values = list(params)
        for _ in range(rng.randint(3, 9)):
            a, b = rng.choice(values[-4:]), rng.choice(values)
            kind = rng.randrange(7)
            if kind <= 1:
                y = op(rng.choice(["tanh", "negative", "nn.relu"]), a)
            elif kind <= 3:
                y = op(rng.choice(["add", "multiply", "maximum"]), a, b)
            elif kind == 4:
                y = op("permute_dims", a)
            elif kind == 5:
                y = op("tanh", op("matmul", a, b))
            else:
                y = op("add", op(rng.choice(["mean", "max"]), a, axis=(1,), keepdims=True), b)
            values.append(y)
        some = rng.sample(values[2:], min(2, len(values) - 2))
        return Tuple((*some, values[-1]))

    return legal(build, square, square)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_compute_the_same(seed: int) -> None:
    mod = random_graph(Random(seed))
    fused = FuseOps()(mod)
    check(fused)
    for a, b in zip(run(fused, seed), run(mod, seed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
