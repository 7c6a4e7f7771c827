"""One line a case: an operator of the table, the shapes and dtypes of its arguments, attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gputune.ir import dtypes
from gputune.ir.graph import TensorType

Array = np.ndarray[Any, Any]
F = "float32"


@dataclass(frozen=True)
class Case:
    """An operator, its arguments as (shape, dtype), its attributes."""

    name: str
    args: tuple[tuple[tuple[int, ...], str], ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    positive: bool = False

    @property
    def types(self) -> list[TensorType]:
        return [TensorType(shape, dtype) for shape, dtype in self.args]

    def arrays(self, seed: int = 0) -> list[Array]:
        rng = np.random.default_rng(seed)
        return [random_array(rng, shape, dtype, self.positive) for shape, dtype in self.args]

    def __str__(self) -> str:
        args = ",".join(["x".join(map(str, s)) + ("" if d == F else d) for s, d in self.args])
        attrs = ",".join([f"{k}={v}" for k, v in self.attrs.items()])
        return f"{self.name}({args};{attrs})".replace(" ", "")


def random_array(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, positive: bool = False
) -> Array:
    """Normal numbers, small integers (of indices: some out of range), coins."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtypes.is_int(dtype):
        low = 1 if positive else (0 if dtypes.is_unsigned(dtype) else -7)
        return rng.integers(low, 8, shape).astype(dtypes.numpy_dtype(dtype))
    values = rng.standard_normal(shape)
    return (np.abs(values) + 0.25 if positive else values).astype(dtypes.numpy_dtype(dtype))


def case(name: str, *shapes: Any, positive: bool = False, **attrs: Any) -> Case:
    """Arguments are shapes of float32, or (shape, dtype)."""
    args = []
    for s in shapes:
        typed = len(s) == 2 and isinstance(s[1], str)
        args.append((tuple(s[0]), s[1]) if typed else (tuple(s), F))
    return Case(name, tuple(args), attrs, positive)


UNARY = (
    "exp", "sin", "cos", "tanh", "erf", "sigmoid", "floor", "ceil", "round", "negative", "abs",
    "nn.relu", "nn.relu6", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.silu",
    "nn.hardsigmoid", "nn.hardswish",
)  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "equal", "not_equal", "less",
    "less_equal", "greater", "greater_equal",
)  # fmt: skip

CASES = (
    *[case(n, (3, 5)) for n in UNARY],
    *[case(n, (7, 3), positive=True) for n in ("log", "sqrt", "rsqrt")],
    case("exp", ()),
    case("exp", (1, 17)),
    case("exp", ((33,), "float64")),
    case("nn.relu", ((9,), "int32")),
    case("negative", ((9,), "int8")),
    case("nn.leakyrelu", (11,), alpha=0.3),
    case("nn.gelu", ((13,), "float16")),
    case("logical_not", ((5,), "bool")),
    case("clip", (4, 9), min=-0.5, max=0.5),
    case("clip", (7,), max=0),
    case("clip", ((7,), "int32"), min=-1, max=2),
    case("astype", (7,), dtype="float16"),
    case("astype", (7,), dtype="int32"),
    case("astype", (7,), dtype="bool"),
    case("astype", ((7,), "bool"), dtype="float32"),
    case("astype", ((7,), "int64"), dtype="float32"),
    case("astype", ((7,), "bool"), dtype="int64"),
    *[case(n, (3, 5), (3, 5), positive=True) for n in BINARY],
    *[case(n, (2, 1, 5), (3, 1), positive=True) for n in BINARY],
    case("add", (), (3, 2)),
    case("add", ((4, 1), "int64"), ((1, 5), "int64")),
    case("power", (3, 5), (5,), positive=True),
    case("floor_divide", ((9,), "int32"), ((9,), "int32"), positive=True),
    case("floor_mod", ((9,), "int64"), ((), "int64"), positive=True),
    case("equal", ((5,), "bool"), ((5,), "bool")),
    case("logical_and", ((3, 1), "bool"), ((4,), "bool")),
    case("logical_or", ((3, 1), "bool"), ((4,), "bool")),
    case("where", ((3, 1), "bool"), (2, 1, 5), ()),
    case("where", ((3, 4), "bool"), ((3, 4), "int64"), ((4,), "int64")),
    # products
    case("matmul", (3, 5), (5, 7)),
    case("matmul", (1, 9), (9, 1)),
    case("matmul", (5,), (5,)),
    case("matmul", (5,), (3, 5, 2)),
    case("matmul", (2, 3, 5), (5,)),
    case("matmul", (2, 1, 3, 5), (4, 5, 2)),
    case("matmul", ((3, 8), "int8"), ((8, 5), "int8"), out_dtype="int32"),
    case("matmul", ((3, 33), "float16"), ((33, 5), "float16")),
    case("matmul", ((3, 4), "float16"), ((4, 5), "float16"), out_dtype="float32"),
    case("linear", (3, 5), (7, 5)),
    case("linear", (2, 3, 5), (7, 5), (7,)),
    case("linear", (5,), (1, 5), (1,)),
    case("linear", ((3, 5), "bfloat16"), ((7, 5), "bfloat16"), ((7,), "bfloat16")),
    case("nn.scaled_dot_product_attention", (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)),
    case("nn.scaled_dot_product_attention", (5, 4), (5, 4), (5, 3), is_causal=True, scale=0.3),
    case("nn.scaled_dot_product_attention", (2, 5, 4), (1, 7, 4), (2, 7, 4), (5, 7)),
    # windows
    case("nn.conv1d", (2, 3, 11), (4, 3, 3)),
    case("nn.conv1d", (1, 4, 12), (6, 2, 3), (6,), strides=2, padding=2, dilation=2, groups=2),
    case("nn.conv1d", (1, 1, 5), (1, 1, 2), padding=(1, 0)),
    case("nn.conv2d", (2, 3, 9, 7), (4, 3, 3, 2)),
    case("nn.conv2d", (1, 3, 8, 8), (5, 3, 3, 3), (5,), strides=2, padding=1),
    case("nn.conv2d", (1, 6, 7, 9), (6, 1, 3, 3), padding=1, groups=6),
    case("nn.conv2d", (1, 4, 9, 9), (6, 2, 3, 3), (6,), padding=(2, 1), dilation=(2, 1), groups=2),
    case("nn.conv2d", (1, 2, 5, 5), (3, 2, 2, 2), padding=(0, 1, 1, 0), strides=(1, 2)),
    case("nn.conv2d", (1, 8, 5, 5), (8, 8, 1, 1)),
    case("nn.conv2d", ((1, 3, 6, 6), "float16"), ((4, 3, 3, 3), "float16"), ((4,), "float16")),
    case("nn.max_pool2d", (2, 3, 9, 7), pool_size=3, strides=2, padding=1),
    case("nn.max_pool2d", (1, 2, 8, 8), pool_size=2),
    case("nn.max_pool2d", (1, 2, 9, 9), pool_size=(3, 2), dilation=2, strides=1),
    case("nn.max_pool2d", (1, 2, 8, 9), pool_size=3, strides=2, padding=1, ceil_mode=True),
    case("nn.max_pool2d", ((1, 1, 4, 4), "int8"), pool_size=2, padding=1),
    case("nn.avg_pool2d", (2, 3, 8, 6), pool_size=2),
    case("nn.avg_pool2d", (1, 2, 9, 7), pool_size=3, strides=2, padding=1),
    case("nn.avg_pool2d", (1, 2, 9, 7), pool_size=3, strides=2, padding=1, count_include_pad=False),
    case("nn.avg_pool2d", (1, 2, 8, 9), pool_size=3, strides=2, padding=1, ceil_mode=True),
    case("nn.avg_pool2d", (1, 1, 8, 6), pool_size=3, strides=2, ceil_mode=True,
         count_include_pad=False),
    case("nn.adaptive_avg_pool2d", (2, 3, 8, 6), output_size=1),
    case("nn.adaptive_avg_pool2d", (2, 3, 8, 6), output_size=(4, 2)),
    case("nn.adaptive_avg_pool2d", (1, 2, 7, 5), output_size=(3, 2)),
    case("nn.adaptive_avg_pool2d", (1, 2, 3, 3), output_size=(7, 3)),
    case("nn.pad", (3, 5), pad_width=(1, 0, 2, 3), value=-1.5),
    case("nn.pad", ((4,), "int32"), pad_width=(0, 0)),
    # rows
    case("nn.softmax", (3, 7)),
    case("nn.softmax", (2, 5, 3), axis=1),
    case("nn.softmax", (9,)),
    case("nn.softmax", ((3, 17), "float16")),
    case("nn.log_softmax", (3, 7)),
    case("nn.log_softmax", (4, 3, 2), axis=0),
    case("nn.layer_norm", (3, 7), (7,), (7,)),
    case("nn.layer_norm", (2, 3, 5), axes=(1, -1)),
    case("nn.layer_norm", (2, 3, 5), (3, 5), axes=(-2, -1), epsilon=1e-3),
    case("nn.layer_norm", ((3, 9), "bfloat16"), ((9,), "bfloat16"), ((9,), "bfloat16")),
    case("nn.rms_norm", (3, 7), (7,)),
    case("nn.rms_norm", (2, 4, 5), axes=1),
    case("nn.batch_norm", (2, 3, 5, 4), (3,), (3,), (3,), (3,), positive=True),
    case("nn.batch_norm", (5, 7), (7,), (7,), (7,), (7,), positive=True, axis=-1, epsilon=1e-3),
    # reductions
    case("sum", (3, 5, 7)),
    case("sum", (3, 5, 7), axis=(0, -1)),
    case("sum", (3, 5, 7), axis=1, keepdims=True),
    case("sum", ((33,), "float16")),
    case("sum", ((4, 5), "int64"), axis=0),
    case("sum", ()),
    case("mean", (3, 5, 7), axis=(1, 2)),
    case("mean", (4, 1), axis=0, keepdims=True),
    case("mean", ((3, 65), "bfloat16"), axis=-1),
    case("variance", (3, 5, 7), axis=(0, 2), keepdims=True),
    case("variance", (9,)),
    case("max", (3, 5, 7), axis=-1),
    case("max", ((3, 5), "int8")),
    case("min", (3, 5, 7), axis=(0, 1), keepdims=True),
    case("min", ((3, 5), "uint8"), axis=0),
    case("argmax", (3, 5, 7), axis=1),
    case("argmax", ((40,), "int32"), axis=0),
    case("argmin", (3, 9), axis=-1, keepdims=True, dtype="int32"),
    # shapes
    case("reshape", (3, 4, 5), shape=(5, -1)),
    case("reshape", (3, 4, 5), shape=(3, 20)),
    case("reshape", (6, 20), shape=(2, 3, 4, 5)),
    case("reshape", (1, 7, 1), shape=(7,)),
    case("reshape", (1, 1), shape=()),
    case("reshape", ((4, 6), "int64"), shape=(3, 8)),
    case("flatten", (2, 3, 4)),
    case("flatten", (2, 3, 4, 5), start_dim=1, end_dim=2),
    case("flatten", ()),
    case("squeeze", (1, 3, 1, 2)),
    case("squeeze", (1, 3, 1, 2), axis=-2),
    case("expand_dims", (3, 2), axis=(0, -1)),
    case("permute_dims", (2, 3, 4)),
    case("permute_dims", (2, 3, 4, 5), axes=(0, -2, -1, 1)),
    case("permute_dims", ((5, 7), "bool")),
    case("broadcast_to", (3, 1), shape=(2, 3, 5)),
    case("broadcast_to", (), shape=(4,)),
    case("concat", (2, 3), (2, 5), (2, 1), axis=1),
    case("concat", (2, 3), axis=0),
    case("concat", ((1, 2), "int64"), ((3, 2), "int64")),
    case("split", (7, 3), indices=(2, 5)),
    case("split", (4, 9), sections=3, axis=-1),
    case("strided_slice", (7, 9), axes=(0, 1), begin=(1, -4), end=(6, 99), strides=(2, 1)),
    case("strided_slice", (8, 5), axes=-1, begin=(1,), end=(4,)),
    case("strided_slice", (8,), axes=0, begin=7, end=-9, strides=-3),
    # looking up, triangles, of nothing
    case("take", (7, 3), ((2, 5), "int64"), axis=0),
    case("take", (3, 8), ((4,), "int32"), axis=-1),
    case("take", (9,), ((), "int8")),
    case("take", (1000, 2), ((3,), "uint8"), axis=0),
    case("tril", (2, 5, 4)),
    case("tril", (5, 4), k=-1),
    case("triu", ((4, 6), "bool"), k=2),
    case("arange", start=0, stop=7),
    case("arange", start=5, stop=-6, step=-3, dtype="int32"),
    case("arange", start=0.5, stop=2.0, step=0.25, dtype="float32"),
    case("full", shape=(2, 3), value=1.5),
    case("full", shape=(), value=7, dtype="int64"),
    case("full", shape=(4,), value=True, dtype="bool"),
)  # fmt: skip
