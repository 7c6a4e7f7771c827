"""Which operator of torch becomes what? One table, by the names of ATen.

A translation takes `Values`, and then the arguments as the node has them: graph values for tensors,
lists of them, Python values for the rest. A name without overload ("aten.add") stands for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import dtypes
from ...ir.graph import EXPR_CLASSES, Constant, Expr, TensorType, TupleGetItem, constant
from ...ir.graph_builder import GraphBuilder


class Unsupported(Exception):
    """A form of an operator that has no translation."""


class Values:
    """Makes the values of one node: `outs` are the types of its results, as torch has them."""

    def __init__(self, builder: GraphBuilder, outs: Sequence[TensorType]) -> None:
        self.builder = builder
        self.outs = outs

    @property
    def out(self) -> TensorType:
        """The type of the one result."""
        return self.outs[0]

    def op(self, name: str, *args: Expr, **attrs: Any) -> Expr:
        """A call of an operator."""
        return self.builder.op(name, *args, **attrs)

    def cast(self, x: Expr, dtype: str) -> Expr:
        """`x` with elements of a dtype."""
        if of(x).dtype == dtype:
            return x
        if isinstance(x, Constant) and not x.type.shape:
            return constant(x.data.astype(dtypes.numpy_dtype(dtype)))
        return self.op("astype", x, dtype=dtype)

    def tensor(self, x: Any, dtype: str) -> Expr:
        """A tensor, or a Python number, as a tensor of a dtype."""
        return self.cast(x, dtype) if isinstance(x, EXPR_CLASSES) else constant(x, dtype)


def of(x: Expr) -> TensorType:
    """The type of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type


def _plain_float(x: Any) -> Any:
    """inf and nan, which torch's graphs may hold as text."""
    return float(x) if isinstance(x, str) else x


# ----------------------------------------------------------------------------- elements
def _unary(name: str, **attrs: Any) -> Callable[..., Expr]:
    return lambda v, x: v.op(name, v.cast(x, v.out.dtype), **attrs)


def _binary(name: str) -> Callable[..., Expr]:
    """In the dtype of the result; of a sum or difference, `alpha` times the second."""

    def translate(v: Values, a: Any, b: Any, alpha: Any = 1) -> Expr:
        a, b = v.tensor(a, v.out.dtype), v.tensor(b, v.out.dtype)
        if alpha != 1:
            b = v.op("multiply", b, constant(alpha, v.out.dtype))
        return v.op(name, a, b)

    return translate


def _promoted(a: Any, b: Any) -> str:
    """The dtype in which torch compares: tensors with dimensions decide before those without, and
    both before numbers; of equals the wider one."""
    ranked = []
    for x in (a, b):
        if isinstance(x, EXPR_CLASSES):
            t = of(x)
            ranked.append((_category(t.dtype), 2 if t.shape else 1, t.dtype))
        else:
            kind = "bool" if isinstance(x, bool) else "int64" if isinstance(x, int) else "float32"
            ranked.append((_category(kind), 0, kind))
    (ka, ra, da), (kb, rb, db) = ranked
    if ra != rb:
        (ka, ra, da), (kb, rb, db) = sorted(ranked, key=lambda r: -r[1])
        return db if kb > ka else da
    if ka != kb:
        return da if ka > kb else db
    if {da, db} == {"float16", "bfloat16"}:
        return "float32"
    return dtypes.promote(da, db)


def _category(dtype: str) -> int:
    return 0 if dtypes.is_bool(dtype) else 1 if dtypes.is_int(dtype) else 2


def _compare(name: str) -> Callable[..., Expr]:
    def translate(v: Values, a: Any, b: Any) -> Expr:
        dtype = _promoted(a, b)
        if name not in ("equal", "not_equal") and dtypes.is_bool(dtype):
            dtype = "uint8"
        return v.op(name, v.tensor(a, dtype), v.tensor(b, dtype))

    return translate


def _logical(name: str) -> Callable[..., Expr]:
    return lambda v, a, b: v.op(name, v.tensor(a, "bool"), v.tensor(b, "bool"))


def _bitwise(name: str) -> Callable[..., Expr]:
    def translate(v: Values, *args: Any) -> Expr:
        if not dtypes.is_bool(v.out.dtype):
            raise Unsupported(f"of {v.out.dtype}; of bool there is one")
        return v.op(name, *[v.tensor(x, "bool") for x in args])

    return translate


def _div(v: Values, a: Any, b: Any, rounding_mode: str | None = None) -> Expr:
    dtype = v.out.dtype
    if rounding_mode is not None and not dtypes.is_float(dtype):
        if rounding_mode != "floor":
            raise Unsupported(f"rounding_mode={rounding_mode!r} of {dtype}")
        return v.op("floor_divide", v.tensor(a, dtype), v.tensor(b, dtype))
    y = v.op("divide", v.tensor(a, dtype), v.tensor(b, dtype))
    if rounding_mode == "trunc":
        raise Unsupported("rounding_mode='trunc'")
    return y if rounding_mode is None else v.op("floor", y)


def _remainder(v: Values, a: Any, b: Any) -> Expr:
    if not dtypes.is_int(v.out.dtype):
        raise Unsupported(f"of {v.out.dtype}; of integers there is one")
    return v.op("floor_mod", v.tensor(a, v.out.dtype), v.tensor(b, v.out.dtype))


def _pow(v: Values, x: Any, power: Any) -> Expr:
    dtype = v.out.dtype
    if isinstance(power, (int, float)) and isinstance(x, EXPR_CLASSES):
        base = v.cast(x, dtype)
        if power in (1, 2, 3):
            y = base
            for _ in range(int(power) - 1):
                y = v.op("multiply", y, base)
            return y
        if power in (0.5, -0.5) and dtypes.is_float(dtype):
            return v.op("sqrt" if power > 0 else "rsqrt", base)
    if not dtypes.is_float(dtype):
        raise Unsupported(f"a power of {dtype}")
    return v.op("power", v.tensor(x, dtype), v.tensor(power, dtype))


def _gelu(v: Values, x: Expr, approximate: str = "none") -> Expr:
    return v.op("nn.gelu_tanh" if approximate == "tanh" else "nn.gelu", x)


def _elu(v: Values, x: Expr, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Expr:
    def times(y: Expr, factor: float) -> Expr:
        return y if factor == 1 else v.op("multiply", y, constant(factor, v.out.dtype))

    below = v.op("exp", times(x, input_scale))
    below = times(v.op("subtract", below, constant(1, v.out.dtype)), alpha * scale)
    positive = v.op("greater", x, constant(0, v.out.dtype))
    return v.op("where", positive, times(x, scale), below)


def _log1p(v: Values, x: Expr) -> Expr:
    return v.op("log", v.op("add", v.cast(x, v.out.dtype), constant(1, v.out.dtype)))


def _sign(v: Values, x: Expr) -> Expr:
    zero = constant(0, v.out.dtype)
    above, below = v.op("greater", x, zero), v.op("less", x, zero)
    return v.op("subtract", v.cast(above, v.out.dtype), v.cast(below, v.out.dtype))


def _clamp(v: Values, x: Expr, min: Any = None, max: Any = None) -> Expr:
    x = v.cast(x, v.out.dtype)
    for name, limit in (("maximum", min), ("minimum", max)):
        if isinstance(limit, EXPR_CLASSES):
            x = v.op(name, x, v.cast(limit, v.out.dtype))
        elif limit is not None:
            x = v.op("clip", x, **{"min" if name == "maximum" else "max": _plain_float(limit)})
    return x


def _where(v: Values, condition: Expr, a: Any, b: Any) -> Expr:
    dtype = v.out.dtype
    return v.op("where", v.cast(condition, "bool"), v.tensor(a, dtype), v.tensor(b, dtype))


def _masked_fill(v: Values, x: Expr, mask: Expr, value: Any) -> Expr:
    return v.op("where", mask, v.tensor(_plain_float(value), v.out.dtype), x)


def _to(v: Values, x: Expr, *_: Any, **__: Any) -> Expr:
    return v.cast(x, v.out.dtype)


def _same(v: Values, x: Expr, *_: Any, **__: Any) -> Expr:
    return x


def _training(*_: Any, **__: Any) -> Any:
    raise Unsupported("in training mode; export model.eval()")


def _dropout(v: Values, x: Expr, p: float, train: bool) -> Expr:
    if train and p:
        raise Unsupported("in training mode; export model.eval()")
    return x


# ----------------------------------------------------------------------------- products
def _matmul(v: Values, a: Expr, b: Expr) -> Expr:
    return v.op("matmul", a, b)


def _linear(v: Values, x: Expr, weight: Expr, bias: Expr | None = None) -> Expr:
    return v.op("linear", x, weight, *([] if bias is None else [bias]))


def _addmm(v: Values, c: Expr, a: Expr, b: Expr, beta: Any = 1, alpha: Any = 1) -> Expr:
    y = v.op("matmul", a, b)
    if alpha != 1:
        y = v.op("multiply", y, constant(alpha, v.out.dtype))
    if beta == 0:
        return y
    if beta != 1:
        c = v.op("multiply", c, constant(beta, v.out.dtype))
    return v.op("add", y, c)


def _attention(
    v: Values, q: Expr, k: Expr, x: Expr, attn_mask: Expr | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Expr:  # fmt: skip
    if dropout_p:
        raise Unsupported("dropout_p is not 0; export model.eval()")
    if enable_gqa:
        times = of(q).shape[-3] // of(k).shape[-3]
        k, x = _each_again(v, k, times, -3), _each_again(v, x, times, -3)
    mask = [] if attn_mask is None else [attn_mask]
    return v.op("nn.scaled_dot_product_attention", q, k, x, *mask, is_causal=is_causal, scale=scale)


def _each_again(v: Values, x: Expr, times: int, axis: int) -> Expr:
    """Every element along an axis `times` times, one after the other."""
    if times == 1:
        return x
    shape = of(x).shape
    at = axis % len(shape)
    wide = v.op("expand_dims", x, axis=at + 1)
    wide = v.op("broadcast_to", wide, shape=(*shape[: at + 1], times, *shape[at + 1 :]))
    return v.op("reshape", wide, shape=(*shape[:at], shape[at] * times, *shape[at + 1 :]))


# ----------------------------------------------------------------------------- windows
def _conv(n: int) -> Callable[..., Expr]:
    def translate(
        v: Values, x: Expr, weight: Expr, bias: Expr | None = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Expr:  # fmt: skip
        if isinstance(padding, str):
            padding = _padding(padding, of(weight).shape[2:], dilation)
        args = [x, weight] if bias is None else [x, weight, bias]
        single = len(of(x).shape) == n + 1  # without a batch
        if single:
            args[0] = v.op("expand_dims", x, axis=0)
        y = v.op(f"nn.conv{n}d", *args, strides=stride, padding=padding, dilation=dilation,
                 groups=groups)  # fmt: skip
        return v.op("squeeze", y, axis=0) if single else y

    return translate


def _padding(word: str, kernel: Sequence[int], dilation: Any) -> Sequence[int]:
    if word == "valid":
        return (0,)
    each = [dilation] * len(kernel) if isinstance(dilation, int) else list(dilation)
    if len(each) == 1:
        each *= len(kernel)
    total = [(k - 1) * d for k, d in zip(kernel, each)]
    return [*[t // 2 for t in total], *[t - t // 2 for t in total]]


def _convolution(
    v: Values, x: Expr, weight: Expr, bias: Expr | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Expr:  # fmt: skip
    n = len(of(weight).shape) - 2
    if transposed or n not in (1, 2):
        raise Unsupported("transposed" if transposed else f"over {n} axes")
    return _conv(n)(v, x, weight, bias, stride, padding, dilation, groups)


def _pool_args(v: Values, x: Expr, kernel_size: Any, stride: Any) -> tuple[Expr, Any]:
    if len(of(x).shape) == 3:
        x = v.op("expand_dims", x, axis=0)
    return x, stride if stride not in (None, []) else kernel_size


def _max_pool2d(
    v: Values, x: Expr, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Expr:  # fmt: skip
    data, stride = _pool_args(v, x, kernel_size, stride)
    y = v.op("nn.max_pool2d", data, pool_size=kernel_size, strides=stride, padding=padding,
             dilation=dilation, ceil_mode=ceil_mode)  # fmt: skip
    return y if data is x else v.op("squeeze", y, axis=0)


def _avg_pool2d(
    v: Values, x: Expr, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
) -> Expr:  # fmt: skip
    if divisor_override is not None:
        raise Unsupported("divisor_override")
    data, stride = _pool_args(v, x, kernel_size, stride)
    y = v.op("nn.avg_pool2d", data, pool_size=kernel_size, strides=stride, padding=padding,
             ceil_mode=ceil_mode, count_include_pad=count_include_pad)  # fmt: skip
    return y if data is x else v.op("squeeze", y, axis=0)


def _adaptive(v: Values, x: Expr, output_size: Any) -> Expr:
    single = len(of(x).shape) == 3
    data = v.op("expand_dims", x, axis=0) if single else x
    sizes = [n or old for n, old in zip(output_size, of(data).shape[2:])]
    y = v.op("nn.adaptive_avg_pool2d", data, output_size=sizes)
    return v.op("squeeze", y, axis=0) if single else y


# ----------------------------------------------------------------------------- norms
def _batch_norm(
    v: Values, x: Expr, weight: Expr | None, bias: Expr | None, mean: Expr | None,
    variance: Expr | None, training: bool, momentum: float, eps: float, cudnn: bool = True,
) -> Expr:  # fmt: skip
    if training or mean is None or variance is None:
        raise Unsupported("with statistics of the batch; export model.eval()")
    t = of(x)
    n = t.shape[1]
    ones, zeros = constant(np.ones(n), t.dtype), constant(np.zeros(n), t.dtype)
    parts = [weight or ones, bias or zeros, mean, variance]
    return v.op("nn.batch_norm", x, *[v.cast(p, t.dtype) for p in parts], epsilon=eps)


def _frozen_batch_norm(
    v: Values, x: Expr, weight: Expr | None, bias: Expr | None, mean: Expr, variance: Expr,
    momentum: float, eps: float,
) -> list[Expr]:  # fmt: skip
    return [_batch_norm(v, x, weight, bias, mean, variance, False, momentum, eps)]


def _native_batch_norm(
    v: Values, x: Expr, weight: Expr | None, bias: Expr | None, mean: Expr | None,
    variance: Expr | None, training: bool, momentum: float, eps: float,
) -> list[Expr]:  # fmt: skip
    return [_batch_norm(v, x, weight, bias, mean, variance, training, momentum, eps)]


def _layer_norm(
    v: Values, x: Expr, shape: Sequence[int], weight: Expr | None = None, bias: Expr | None = None,
    eps: float = 1e-5, cudnn: bool = True,
) -> Expr:  # fmt: skip
    axes = tuple(range(-len(shape), 0))
    if weight is None and bias is not None:
        weight = constant(np.ones(tuple(shape)), of(x).dtype)
    parts = [p for p in (weight, bias) if p is not None]
    return v.op("nn.layer_norm", x, *parts, axes=axes, epsilon=eps)


def _rms_norm(
    v: Values, x: Expr, shape: Sequence[int], weight: Expr | None = None, eps: float | None = None
) -> Expr:
    t = of(x)
    if eps is None:
        eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[
            t.dtype
        ]
    axes = tuple(range(-len(shape), 0))
    return v.op("nn.rms_norm", x, *([] if weight is None else [weight]), axes=axes, epsilon=eps)


def _group_norm(
    v: Values, x: Expr, groups: int, weight: Expr | None = None, bias: Expr | None = None,
    eps: float = 1e-5, cudnn: bool = True,
) -> Expr:  # fmt: skip
    t = of(x)
    y = v.op("reshape", x, shape=(t.shape[0], groups, -1))
    y = v.op("nn.layer_norm", y, axes=(-1,), epsilon=eps)
    y = v.op("reshape", y, shape=t.shape)
    channels = (t.shape[1], *[1] * (len(t.shape) - 2))
    for name, part in (("multiply", weight), ("add", bias)):
        if part is not None:
            y = v.op(name, y, v.op("reshape", part, shape=channels))
    return y


def _instance_norm(
    v: Values, x: Expr, weight: Expr | None, bias: Expr | None, mean: Expr | None,
    variance: Expr | None, use_input_stats: bool, momentum: float, eps: float, cudnn: bool = True,
) -> Expr:  # fmt: skip
    if not use_input_stats:
        return _batch_norm(v, x, weight, bias, mean, variance, False, momentum, eps)
    return _group_norm(v, x, of(x).shape[1], weight, bias, eps)


def _softmax(name: str) -> Callable[..., Expr]:
    return lambda v, x, dim, dtype=None: v.op(name, v.cast(x, v.out.dtype), axis=dim)


# ----------------------------------------------------------------------------- reductions
def _axes(dim: Any) -> Any:
    """None and [] are all axes."""
    if dim is None or dim == []:
        return None
    return dim


def _reduce(name: str) -> Callable[..., Expr]:
    def translate(
        v: Values, x: Expr, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Expr:
        return v.op(name, v.cast(x, v.out.dtype), axis=_axes(dim), keepdims=keepdim)

    return translate


def _vector_norm(
    v: Values, x: Expr, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Expr:
    x = v.cast(x, v.out.dtype)
    if ord == 1:
        return v.op("sum", v.op("abs", x), axis=_axes(dim), keepdims=keepdim)
    if ord != 2:
        raise Unsupported(f"ord={ord}; of 1 and 2 there is one")
    squares = v.op("multiply", x, x)
    return v.op("sqrt", v.op("sum", squares, axis=_axes(dim), keepdims=keepdim))


def _variance(
    v: Values, x: Expr, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *,
    correction: Any = None,
) -> Expr:  # fmt: skip
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased else 0
    shape = of(x).shape
    axes = range(len(shape)) if _axes(dim) is None else [dim] if isinstance(dim, int) else dim
    count = math.prod([shape[a] for a in axes])
    if count <= correction:
        raise Unsupported(f"of {count} elements with correction {correction}")
    y = v.op("variance", x, axis=_axes(dim), keepdims=keepdim)
    if correction == 0:
        return y
    return v.op("multiply", y, constant(count / (count - correction), v.out.dtype))


def _arg(name: str) -> Callable[..., Expr]:
    def translate(v: Values, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
        if dim is None:
            y = v.op(name, v.op("reshape", x, shape=(-1,)), axis=0)
            return v.op("reshape", y, shape=v.out.shape) if v.out.shape else y
        return v.op(name, x, axis=dim, keepdims=keepdim)

    return translate


def _extreme_of_axis(name: str) -> Callable[..., list[Expr]]:
    """The greatest (or least) elements along one axis, and where they are."""

    def translate(v: Values, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
        return [
            v.op(name, x, axis=dim, keepdims=keepdim),
            v.op(f"arg{name}", x, axis=dim, keepdims=keepdim),
        ]

    return translate


# ----------------------------------------------------------------------------- shapes
def _shaped(v: Values, x: Expr, *_: Any, **__: Any) -> Expr:
    """The same elements in the shape of the result."""
    return x if of(x).shape == v.out.shape else v.op("reshape", x, shape=v.out.shape)


def _transpose(v: Values, x: Expr, a: int, b: int) -> Expr:
    rank = len(of(x).shape)
    order = list(range(rank))
    if rank:
        order[a], order[b] = order[b], order[a]
    return v.op("permute_dims", x, axes=order)


def _t(v: Values, x: Expr) -> Expr:
    return x if len(of(x).shape) < 2 else _transpose(v, x, 0, 1)


def _permute(v: Values, x: Expr, dims: Sequence[int]) -> Expr:
    return v.op("permute_dims", x, axes=dims)


def _expand(v: Values, x: Expr, *_: Any, **__: Any) -> Expr:
    return x if of(x).shape == v.out.shape else v.op("broadcast_to", x, shape=v.out.shape)


def _repeat(v: Values, x: Expr, times: Sequence[int]) -> Expr:
    shape = (*[1] * (len(times) - len(of(x).shape)), *of(x).shape)
    apart = v.op("reshape", x, shape=[k for n in shape for k in (1, n)])
    wide = v.op("broadcast_to", apart, shape=[k for r, n in zip(times, shape) for k in (r, n)])
    return v.op("reshape", wide, shape=v.out.shape)


def _cat(v: Values, tensors: Sequence[Expr], dim: int = 0) -> Expr:
    dtype = v.out.dtype
    there = [v.cast(x, dtype) for x in tensors if of(x).shape != (0,) or v.out.shape == (0,)]
    return there[0] if len(there) == 1 else v.op("concat", *there, axis=dim)


def _stack(v: Values, tensors: Sequence[Expr], dim: int = 0) -> Expr:
    rank = len(v.out.shape)
    parts = [v.op("expand_dims", v.cast(x, v.out.dtype), axis=dim % rank) for x in tensors]
    return v.op("concat", *parts, axis=dim)


def _parts(v: Values, x: Expr, sizes: Sequence[int], axis: int) -> list[Expr]:
    """Parts of these sizes along an axis."""
    ends = [int(n) for n in np.cumsum(sizes)[:-1]]
    whole = v.op("split", x, indices=ends, axis=axis)
    return [v.builder.bind(TupleGetItem(whole, k)) for k in range(len(sizes))]


def _split(v: Values, x: Expr, size: Any, dim: int = 0) -> list[Expr]:
    if isinstance(size, (list, tuple)):
        return _parts(v, x, size, dim)
    n = of(x).shape[dim]
    return _parts(v, x, [min(size, n - a) for a in range(0, max(n, 1), size)], dim)


def _chunk(v: Values, x: Expr, chunks: int, dim: int = 0) -> list[Expr]:
    return _split(v, x, max(1, -(-of(x).shape[dim] // chunks)), dim)


def _unbind(v: Values, x: Expr, dim: int = 0) -> list[Expr]:
    n = of(x).shape[dim]
    return [v.op("squeeze", y, axis=dim) for y in _parts(v, x, [1] * n, dim)]


def _slice(
    v: Values, x: Expr, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Expr:  # fmt: skip
    n = of(x).shape[dim]
    begin, stop, _ = slice(start, end, step).indices(n)
    if (begin, stop, step) == (0, n, 1):
        return x
    return v.op("strided_slice", x, axes=dim, begin=begin, end=max(begin, stop), strides=step)


def _select(v: Values, x: Expr, dim: int, index: int) -> Expr:
    at = index % of(x).shape[dim]
    return v.op("squeeze", v.op("strided_slice", x, axes=dim, begin=at, end=at + 1), axis=dim)


def _narrow(v: Values, x: Expr, dim: int, start: int, length: int) -> Expr:
    return _slice(v, x, dim, start, start + length)


def _pad(v: Values, x: Expr, pad: Sequence[int], mode: Any = "constant", value: Any = None) -> Expr:
    if not isinstance(mode, str):  # constant_pad_nd has no mode
        mode, value = "constant", mode
    if mode != "constant":
        raise Unsupported(f"mode={mode!r}")
    pairs = [tuple(pad[k : k + 2]) for k in range(0, len(pad), 2)][::-1]
    t = of(x)
    pairs = [(0, 0)] * (len(t.shape) - len(pairs)) + pairs
    cut = [(max(0, -lo), n - max(0, -hi)) for (lo, hi), n in zip(pairs, t.shape)]
    for axis, ((begin, end), n) in enumerate(zip(cut, t.shape)):
        if (begin, end) != (0, n):
            x = v.op("strided_slice", x, axes=axis, begin=begin, end=end)
    widths = [max(0, p) for pair in pairs for p in pair]
    fill = float(value or 0) if dtypes.is_float(t.dtype) else int(value or 0)
    return v.op("nn.pad", x, pad_width=widths, value=fill) if any(widths) else x


# ----------------------------------------------------------------------------- looking up
def _embedding(v: Values, weight: Expr, indices: Expr, *_: Any, **__: Any) -> Expr:
    return v.op("take", weight, indices, axis=0)


def _index_select(v: Values, x: Expr, dim: int, index: Expr) -> Expr:
    return v.op("take", x, index, axis=dim)


def _index(v: Values, x: Expr, indices: Sequence[Any]) -> Expr:
    there = [k for k, i in enumerate(indices) if i is not None]
    if len(there) != 1 or not dtypes.is_int(of(indices[there[0]]).dtype):
        raise Unsupported("with several indices, or a mask; one tensor of whole numbers is taken")
    return v.op("take", x, indices[there[0]], axis=there[0])


# ----------------------------------------------------------------------------- of nothing
def _full(v: Values, _: Any, value: Any, **__: Any) -> Expr:
    value = _plain_float(value)
    number = bool(value) if dtypes.is_bool(v.out.dtype) else value
    return v.op("full", shape=v.out.shape, value=number, dtype=v.out.dtype)


def _filled(value: int) -> Callable[..., Expr]:
    return lambda v, *_, **__: _full(v, None, value)


def _arange(v: Values, *args: Any, **_: Any) -> Expr:
    start, stop, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    return v.op("arange", start=start, stop=stop, step=step, dtype=v.out.dtype)


def _triangle(name: str) -> Callable[..., Expr]:
    return lambda v, x, diagonal=0: v.op(name, x, k=diagonal)


def _nothing(v: Values, *_: Any, **__: Any) -> None:
    """A check that was true when the model was exported."""


_UNARY = {
    **{n: n for n in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "sigmoid",
                      "floor", "ceil", "round", "abs", "logical_not")},
    **{n: f"nn.{n}" for n in ("relu", "relu6", "silu", "hardswish", "hardsigmoid")},
    "neg": "negative",
}  # fmt: skip
_BINARY = {"add": "add", "sub": "subtract", "mul": "multiply", "maximum": "maximum",
           "minimum": "minimum"}  # fmt: skip
_COMPARE = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater",
            "ge": "greater_equal"}  # fmt: skip

_NAMES: dict[str, Callable[..., Any]] = {
    **{n: _unary(ours) for n, ours in _UNARY.items()},
    **{n: _binary(ours) for n, ours in _BINARY.items()},
    **{n: _compare(ours) for n, ours in _COMPARE.items()},
    "leaky_relu": lambda v, x, slope=0.01: v.op("nn.leakyrelu", x, alpha=float(slope)),
    "hardtanh": lambda v, x, low=-1, high=1: v.op("clip", x, min=low, max=high),
    "gelu": _gelu,
    "elu": _elu,
    "log1p": _log1p,
    "sign": _sign,
    "reciprocal": lambda v, x: v.op("divide", constant(1, v.out.dtype), v.cast(x, v.out.dtype)),
    "square": lambda v, x: v.op("multiply", x, x),
    "rsub": lambda v, a, b, alpha=1: _binary("subtract")(v, b, a, alpha=alpha),
    "div": _div,
    "floor_divide": lambda v, a, b: _div(v, a, b, "floor"),
    "remainder": _remainder,
    "pow": _pow,
    "clamp": _clamp,
    "clamp_min": lambda v, x, low: _clamp(v, x, min=low),
    "clamp_max": lambda v, x, high: _clamp(v, x, max=high),
    "where": _where,
    "masked_fill": _masked_fill,
    "logical_and": _logical("logical_and"),
    "logical_or": _logical("logical_or"),
    "bitwise_and": _bitwise("logical_and"),
    "bitwise_or": _bitwise("logical_or"),
    "bitwise_not": _bitwise("logical_not"),
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
    **{n: _same for n in ("clone", "detach", "contiguous", "alias", "lift_fresh_copy",
                          "lift_fresh")},
    "dropout": _dropout,
    **{n: _training for n in ("native_dropout", "_native_batch_norm_legit_functional",
                              "_native_batch_norm_legit", "rrelu_with_noise")},
    # products
    **{n: _matmul for n in ("matmul", "mm", "bmm", "mv", "dot")},
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "scaled_dot_product_attention": _attention,
    # windows
    "conv1d": _conv(1),
    "conv2d": _conv(2),
    "convolution": _convolution,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive,
    "_adaptive_avg_pool2d": _adaptive,
    # norms
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _frozen_batch_norm,
    "native_batch_norm": _native_batch_norm,
    "layer_norm": _layer_norm,
    "native_layer_norm": lambda v, *args: [_layer_norm(v, *args)],
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "softmax": _softmax("nn.softmax"),
    "_softmax": _softmax("nn.softmax"),
    "log_softmax": _softmax("nn.log_softmax"),
    "_log_softmax": _softmax("nn.log_softmax"),
    # reductions
    "sum": _reduce("sum"),
    "mean": _reduce("mean"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "max.default": _reduce("max"),
    "min.default": _reduce("min"),
    "max.dim": _extreme_of_axis("max"),
    "min.dim": _extreme_of_axis("min"),
    "max.other": _binary("maximum"),
    "min.other": _binary("minimum"),
    "var": _variance,
    "linalg_vector_norm": _vector_norm,
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    # shapes
    **{n: _shaped for n in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze",
                            "unsqueeze", "view_as", "reshape_as")},
    "transpose": _transpose,
    "t": _t,
    "numpy_T": lambda v, x: v.op("permute_dims", x),
    "permute": _permute,
    "expand": _expand,
    "expand_as": _expand,
    "broadcast_to": _expand,
    "repeat": _repeat,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind": _unbind,
    "slice": _slice,
    "select": _select,
    "narrow": _narrow,
    "pad": _pad,
    "constant_pad_nd": _pad,
    # looking up
    "embedding": _embedding,
    "index_select": _index_select,
    "index": _index,
    "tril": _triangle("tril"),
    "triu": _triangle("triu"),
    # of nothing
    "full": _full,
    "full_like": _full,
    "new_full": lambda v, x, size, value, **_: _full(v, None, value),
    "scalar_tensor": lambda v, value, **_: _full(v, None, value),
    **{n: _filled(0) for n in ("zeros", "zeros_like", "new_zeros")},
    **{n: _filled(1) for n in ("ones", "ones_like", "new_ones")},
    "arange": _arange,
    **{n: _nothing for n in ("_assert_tensor_metadata", "_assert_scalar", "_assert_async",
                             "sym_constrain_range_for_size", "sym_constrain_range")},
}  # fmt: skip

ATEN: dict[str, Callable[..., Any]] = {f"aten.{name}": f for name, f in _NAMES.items()}
"""Translations by "aten.<name>", or "aten.<name>.<overload>" where overloads differ."""
