"""Does the compiled tensor function of every operator compute what NumPy says?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import CASES, Array, Case, case

from gputune import relax
from gputune.errors import CheckError, ScriptError, UserError
from gputune.ir import dtypes, operators
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import Call, Function, Op, TensorType, Var, bindings, constant, tensors_of
from gputune.ir.graph_builder import GraphBuilder
from gputune.ir.nodes import IRModule
from gputune.relax.transform import LegalizeOps
from gputune.script import from_source
from gputune.script import relax as R

TARGET = "llvm -num-cores=1"
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def module(c: Case) -> IRModule:
    """A module of one call."""
    params = [Var(f"p{k}", t) for k, t in enumerate(c.types)]
    b = GraphBuilder()
    return IRModule({"main": b.function(params, b.op(c.name, *params, **c.attrs), "main")})


def run(mod: IRModule, arrays: list[Array]) -> tuple[Array, ...]:
    """The results of a module, compiled."""
    legal = LegalizeOps()(mod)
    check(legal)
    out = relax.VirtualMachine(relax.build(legal, TARGET))["main"](*arrays)
    return tuple([x.numpy() for x in (out if isinstance(out, tuple) else (out,))])


def assert_as_numpy(c: Case, seed: int = 0) -> None:
    arrays = c.arrays(seed)
    mod = module(c)
    (call,) = [b.value for b in bindings(mod.graphs["main"])]
    assert isinstance(call, Call)
    wanted = operators.find(c.name).evaluate(arrays, call.attrs)
    found = run(mod, arrays)
    for a, b, t in zip(found, wanted, tensors_of(call.type), strict=True):
        assert a.shape == b.shape == t.shape
        assert a.dtype == b.dtype == dtypes.numpy_dtype(t.dtype)
        tolerance = TOLERANCE.get(t.dtype)
        if tolerance is None:
            np.testing.assert_array_equal(a, b)
        else:
            a, b = a.astype(np.float64), b.astype(np.float64)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("c", CASES, ids=str)
def test_compiled_is_numpy(c: Case) -> None:
    assert_as_numpy(c)


def test_every_operator_has_a_case() -> None:
    assert {c.name for c in CASES} == set(operators.OPERATORS)


@pytest.mark.parametrize("c", CASES, ids=str)
def test_script_gives_the_call_back(c: Case) -> None:
    mod = module(c)
    text = mod.script()
    assert f"R.{c.name}(" in text
    assert structural_equal(from_source(text), mod)


# ----------------------------------------------------------------------------- random shapes
SIZES = st.integers(1, 6)
SHAPES = st.lists(SIZES, min_size=0, max_size=4).map(tuple)


@given(st.data())
@settings(max_examples=12, derandomize=True, deadline=None)
def test_any_broadcast(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    parts = []
    for _ in range(2):
        lead = data.draw(st.integers(0, len(shape)))
        parts.append(tuple([n if data.draw(st.booleans()) else 1 for n in shape[lead:]]))
    assert_as_numpy(case("subtract", *parts))


@given(st.data())
@settings(max_examples=15, derandomize=True, deadline=None)
def test_any_reshape(data: st.DataObject) -> None:
    factors = data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=5))

    def grouped() -> tuple[int, ...]:
        order = data.draw(st.permutations(factors))
        out = [1]
        for f in order:
            if data.draw(st.booleans()):
                out.append(1)
            out[-1] *= f
        return tuple(out)

    assert_as_numpy(case("reshape", grouped(), shape=grouped()))


@given(st.data())
@settings(max_examples=12, derandomize=True, deadline=None)
def test_any_reduction(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1))) if shape else set()
    name = data.draw(st.sampled_from(["sum", "mean", "variance", "max", "min"]))
    assert_as_numpy(case(name, shape, axis=tuple(axes), keepdims=data.draw(st.booleans())))


@given(st.data())
@settings(max_examples=12, derandomize=True, deadline=None)
def test_any_convolution(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    inside, each = data.draw(SIZES), data.draw(SIZES)
    kernel = [data.draw(st.integers(1, 3)) for _ in range(2)]
    dilation = [data.draw(st.integers(1, 2)) for _ in range(2)]
    padding = [data.draw(st.integers(0, 2)) for _ in range(4)]
    size = [(k - 1) * d + data.draw(st.integers(1, 6)) for k, d in zip(kernel, dilation)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
    assert_as_numpy(
        case("nn.conv2d", (data.draw(st.integers(1, 2)), inside * groups, *size),
             (each * groups, inside, *kernel), strides=strides, padding=padding,
             dilation=dilation, groups=groups)
    )  # fmt: skip


@given(st.data())
@settings(max_examples=15, derandomize=True, deadline=None)
def test_any_pooling(data: st.DataObject) -> None:
    kernel = [data.draw(st.integers(1, 4)) for _ in range(2)]
    padding = [data.draw(st.integers(0, (k - 1) // 2)) for k in kernel]
    size = [k + data.draw(st.integers(0, 6)) for k in kernel]
    attrs: dict[str, Any] = {
        "pool_size": kernel,
        "strides": [data.draw(st.integers(1, 4)) for _ in range(2)],
        "padding": padding,
        "ceil_mode": data.draw(st.booleans()),
    }
    name = data.draw(st.sampled_from(["nn.max_pool2d", "nn.avg_pool2d"]))
    if name == "nn.avg_pool2d":
        attrs["count_include_pad"] = data.draw(st.booleans())
    assert_as_numpy(case(name, (1, 2, *size), **attrs))


@given(st.data())
@settings(max_examples=12, derandomize=True, deadline=None)
def test_any_slice(data: st.DataObject) -> None:
    shape = (data.draw(SIZES), data.draw(SIZES))
    ends = st.integers(-8, 8)
    step = st.sampled_from([-3, -1, 1, 2])
    attrs = {k: [data.draw(s) for _ in range(2)] for k, s in
             (("begin", ends), ("end", ends), ("strides", step))}  # fmt: skip
    parts = [len(range(n)[slice(b, z, s)]) for n, b, z, s in zip(shape, *attrs.values())]
    if all(parts):
        assert_as_numpy(case("strided_slice", shape, axes=(0, 1), **attrs))


# ----------------------------------------------------------------------------- refusals
REFUSED: dict[str, tuple[Case, str]] = {
    "dtype": (case("add", (3,), ((3,), "int32")), "add: a has dtype float32, b int32"),
    "shapes": (case("add", (3,), (4,)), r"do not fit together: a \(3,\), b \(4,\)"),
    "floats": (case("exp", ((3,), "int32")), "exp: x has dtype int32"),
    "bools": (case("logical_not", (3,)), "logical_not: x has dtype float32"),
    "ints": (case("floor_mod", (3,), (3,)), "defined for ints"),
    "condition": (case("where", (3,), (3,), (3,)), "condition has dtype float32"),
    "limit": (case("clip", ((3,), "int8"), max=1000), "max is 1000, which int8 cannot hold"),
    "count": (case("add", (3,)), r"add takes the tensors \(a, b\), got 1"),
    "none": (case("concat"), "takes at least one of tensors"),
    "unknown attribute": (case("sum", (3,), axes=0), "sum has no attribute 'axes'"),
    "missing attribute": (case("reshape", (3,)), "reshape misses the attribute shape"),
    "kind": (case("sum", (3,), keepdims=1), "attribute keepdims is 1; it is True or False"),
    "not whole": (case("sum", (3,), axis=0.5), "attribute axis is 0.5"),
    "unknown dtype": (case("astype", (3,), dtype="float31"), "known dtypes"),
    "axis": (case("sum", (3, 4), axis=2), "axis is 2, of a tensor of 2 dimensions"),
    "axis twice": (case("sum", (3, 4), axis=(1, -1)), "one axis is there twice"),
    "nothing": (case("max", (3, 0), axis=1), "nothing along axis"),
    "matmul": (case("matmul", (3, 4), (5, 6)), "rows of 4, columns of 5"),
    "scalar": (case("matmul", (), (5, 6)), "neither is a scalar"),
    "out dtype": (case("matmul", (3, 4), (4, 6), out_dtype="int32"), "out_dtype is int32"),
    "linear": (case("linear", (3, 4), (6, 5)), "the last dimension of x"),
    "bias": (case("linear", (3, 4), (6, 4), (5,)), r"bias has the shape \(5,\)"),
    "attention": (case("nn.scaled_dot_product_attention", (3, 4), (3, 5), (3, 4)), "rows of 4, k"),
    "mask": (case("nn.scaled_dot_product_attention", (3, 4), (3, 4), (3, 4), (2, 3, 3)),
             "mask has the shape"),
    "both masks": (case("nn.scaled_dot_product_attention", (3, 4), (3, 4), (3, 4), (3, 3),
                        is_causal=True), "is_causal"),
    "rank": (case("nn.conv2d", (3, 4, 5), (3, 4, 1, 1)), r"x has the shape \(3, 4, 5\)"),
    "groups": (case("nn.conv2d", (1, 4, 5, 5), (6, 2, 1, 1), groups=3), "groups is 3"),
    "channels": (case("nn.conv2d", (1, 4, 5, 5), (6, 3, 1, 1)), "weight takes 3"),
    "no window": (case("nn.conv2d", (1, 4, 2, 2), (6, 4, 3, 3)), "no window"),
    "strides": (case("nn.conv2d", (1, 4, 5, 5), (6, 4, 3, 3), strides=0), "at least 1"),
    "padding": (case("nn.conv2d", (1, 4, 5, 5), (6, 4, 3, 3), padding=(1, 2, 3)), "padding is"),
    "pool padding": (case("nn.max_pool2d", (1, 4, 5, 5), pool_size=2, padding=2), "less than"),
    "norm": (case("nn.layer_norm", (3, 4), (3,)), r"weight has the shape \(3,\)"),
    "batch norm": (case("nn.batch_norm", (3, 4), (4,), (4,), (4,), (3,)), "variance has the shape"),
    "elements": (case("reshape", (3, 4), shape=(5, -1)), r"shape is \(5, -1\), and x has 12"),
    "order": (case("permute_dims", (3, 4), axes=(0, 0)), "each is there once"),
    "not one": (case("squeeze", (3, 4), axis=0), "axis 0 has the size 3, not 1"),
    "broadcast": (case("broadcast_to", (3, 4), shape=(4, 3)), "does not become"),
    "concat": (case("concat", (3, 4), (4, 4), axis=1), "they differ beside axis 1"),
    "sections": (case("split", (7,), sections=2), "does not divide the size 7"),
    "slices": (case("strided_slice", (7,), axes=(0,), begin=(0, 1), end=(2,)), "one number for"),
    "indices": (case("take", (7,), (3,)), "indices has dtype float32"),
    "triangle": (case("tril", (7,)), "at least 2 dimensions"),
    "step": (case("arange", start=0, stop=3, step=0), "step is 0"),
    "value": (case("full", shape=(2,), value=0.5, dtype="int32"), "int32 cannot hold"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    c, message = REFUSED[what]
    args = [Var(f"p{k}", t) for k, t in enumerate(c.types)]
    with pytest.raises(CheckError, match=message) as e:
        operators.call(c.name, *args, **c.attrs)
    assert str(e.value).startswith(c.name)


def test_an_operator_that_is_none() -> None:
    with pytest.raises(UserError, match=r"did you mean 'nn\.conv2d'"):
        operators.find("nn.conv2")


# ----------------------------------------------------------------------------- in script
def test_operators_in_script() -> None:
    n = 4

    @R.function
    def main(x: R.Tensor((2, 8), "float32"), w: R.Tensor((3, 8), "float32")):
        with R.dataflow():
            y = R.nn.relu(R.linear(x, w))
            both = R.split(R.reshape(y, (-1,)), sections=2)
            z = R.concat((both[0], both[1], R.full([n], 0.5)), axis=-1)
            t = R.concat(both)
            u = R.add(R.astype(z, "float64"), R.const(1.0, "float64"))
            R.output(u, t)
        return (u, t)

    assert isinstance(main, Function)
    assert main.ret_type.fields == (TensorType((10,), "float64"), TensorType((6,)))
    assert structural_equal(from_source(main.script())["main"], main)


BAD_SCRIPTS = {
    "R.nn.rellu(x)": "R.nn.rellu is no operator",
    "R.addd(x, x)": "did you mean .*add",
    "R.add(x)": "misses argument 'b'",
    "R.add(x, 1.0)": "expected a tensor",
    "R.sum(x, dim=0)": "has no argument 'dim'",
    "R.matmul(x, x)": "rows of 8, columns of 2",
    "R.nn.layer_norm(x, bias=x)": "misses argument 'weight', and gets one behind it",
    "R.astype(x, 'float31')": "float31",
}


@pytest.mark.parametrize("text", BAD_SCRIPTS)
def test_script_points_at_a_wrong_operator(text: str) -> None:
    lines = ["@R.function", 'def main(x: R.Tensor((2, 8), "float32")):', f"    return {text}", ""]
    with pytest.raises(ScriptError, match=BAD_SCRIPTS[text]):
        from_source("\n".join(lines))


def test_a_call_of_another_type_or_form_is_not_well_formed() -> None:
    x = Var("x", TensorType((2, 3)))
    good = operators.call("sum", x, axis=(0,))
    for bad, message in (
        (Call(Op("sum"), (x,), TensorType((2,)), good.attrs), r"its result is R.Tensor\(\(3,\)"),
        (Call(Op("sum"), (x,), good.type, (("axis", [0]),)), "not in normal form"),
        (
            Call(Op("sum"), (x,), good.type, (*good.attrs, ("keepdims", False))),
            "not in normal form",
        ),
        (Call(Op("sum"), (x, x), good.type, good.attrs), "takes the tensors"),
    ):
        b = GraphBuilder()
        func = b.function([x], b.bind(bad), "main")
        assert "R.call_op" in func.script()
        with pytest.raises(CheckError, match=message):
            check(func)


def test_outside_of_a_script_operators_are_words() -> None:
    for word in (lambda: R.add(1, 2), lambda: R.nn.relu(1)):
        with pytest.raises(ScriptError, match="cannot be called outside a script"):
            word()


def test_meaning_is_computed_wide_and_rounded_once() -> None:
    x = np.full(4096, 0.1, np.float16)
    (total,) = operators.find("sum").evaluate([x], ())
    assert total.dtype == np.float16
    assert total == np.float16(x.astype(np.float64).sum())


def test_scalar_constants_are_part_of_the_function() -> None:
    x = Var("x", TensorType((5,)))
    b = GraphBuilder()
    func = b.function([x], b.op("multiply", x, constant(2.5, "float32")), "main")
    legal = LegalizeOps()(IRModule({"main": func}))
    (call,) = [b.value for b in bindings(legal.graphs["main"])]
    assert isinstance(call, Call)
    assert call.args == (x,)
    assert len(legal["multiply"].params) == 2
    data = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(run(IRModule({"main": func}), [data])[0], data * 2.5)
