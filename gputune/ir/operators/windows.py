"""Operators on windows of images and signals: convolution and pooling, channels first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import build, dtypes
from ..graph import TensorType
from ..nodes import Buffer, Expr
from .emit import Emitter, Operand, wide
from .operator import (
    Array,
    Attr,
    Operator,
    needs_float,
    needs_rank,
    per_axis,
    refuse,
    same_dtype,
    signature,
)
from .products import add_bias, check_bias, product
from .reductions import lowest

_LAYOUT = {1: "(n, channels, width)", 2: "(n, channels, height, width)"}
Pads = tuple[tuple[int, int], ...]


def pads_of(padding: Sequence[int], n: int) -> Pads:
    """Elements before and after each axis: one number for all, one for each axis, or first all
    before and then all after."""
    if len(padding) == 2 * n and n > 0 and len(padding) != 1:
        values = tuple(padding)
    else:
        values = per_axis(padding, n, "padding", 0) * 2
    if any(p < 0 for p in values):
        refuse(f"padding is {tuple(padding)}; it is at least 0", code="operator-attribute")
    return tuple(zip(values[:n], values[n:]))


def _windows(size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int,
             ceil: bool = False) -> int:  # fmt: skip
    """How many windows fit; with `ceil`, one more that begins inside and sticks out."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if room < 0:
        return 0
    count = room // stride + 1
    if ceil and room % stride and count * stride < size + pads[0]:
        count += 1
    return count


def _padded(e: Emitter, x: Operand, pads: Sequence[tuple[int, int]], value: Any) -> Any:
    """`x` with `value` around its last axes: a buffer of its own, or `x` if nothing is added."""
    lead = len(x.shape) - len(pads)
    if not any(p for pair in pads for p in pair):
        return lambda *i: x[i]
    shape = [*x.shape[:lead], *[n + lo + hi for n, (lo, hi) in zip(x.shape[lead:], pads)]]

    def element(*i: Any) -> Expr:
        conditions: list[Expr] = []
        at = list(i[:lead])
        for k, (lo, hi) in enumerate(pads):
            v = i[lead + k]
            if lo:
                conditions.append(build.ge(v, lo))
            if hi:
                conditions.append(build.lt(v, lo + x.shape[lead + k]))
            at.append(build.sub(v, lo))
        return build.if_then_else(
            build.logical_and(*conditions), x[tuple(at)], build.const(value, x.dtype)
        )

    padded = e.fill(e.temporary("padded", shape, x.dtype), element)
    return lambda *i: build.load(padded, i)


# ----------------------------------------------------------------------------- convolution
def _conv(n: int) -> Operator:
    """Convolution over `n` axes, as torch has it: x (batch, in, ...), weight (out, in / groups,
    ...)."""

    def result(
        x: TensorType, weight: TensorType, bias: TensorType | None = None, *,
        strides: Any, padding: Any, dilation: Any, groups: int,
    ) -> TensorType:  # fmt: skip
        dtype = same_dtype(x=x, weight=weight)
        if dtypes.is_bool(dtype):
            refuse("the arguments have dtype bool, and it is defined for numbers")
        needs_rank(x, "x", n + 2, _LAYOUT[n])
        needs_rank(weight, "weight", n + 2, _LAYOUT[n].replace("n, channels", "out, in / groups"))
        stride, dilate = per_axis(strides, n, "strides", 1), per_axis(dilation, n, "dilation", 1)
        pads = pads_of(padding, n)
        channels, (outputs, inside) = x.shape[1], weight.shape[:2]
        if groups < 1 or channels % groups or outputs % groups:
            refuse(f"groups is {groups}; x has {channels} channels and weight {outputs} outputs",
                   "it divides both")  # fmt: skip
        if inside * groups != channels:
            refuse(f"x has {channels} channels, weight takes {inside} in each of {groups} groups")
        check_bias(bias, outputs, dtype)
        if 0 in weight.shape[2:]:
            refuse(f"weight has the shape {weight.shape}: windows of nothing")
        sizes = [_windows(*a) for a in zip(x.shape[2:], weight.shape[2:], stride, pads, dilate)]
        if 0 in sizes:
            refuse(f"x has the shape {x.shape}, and with padding {tuple(padding)} no window of "
                   f"{weight.shape[2:]} fits")  # fmt: skip
        return TensorType((x.shape[0], outputs, *sizes), dtype)

    def emit(
        e: Emitter, x: Operand, weight: Operand, bias: Operand | None = None, *,
        strides: Any, padding: Any, dilation: Any, groups: int,
    ) -> None:  # fmt: skip
        (y,) = e.outs
        stride, dilate = per_axis(strides, n, "strides", 1), per_axis(dilation, n, "dilation", 1)
        data = _padded(e, x, pads_of(padding, n), 0)
        inside, kernel = weight.shape[1], weight.shape[2:]
        each = weight.shape[0] // groups  # outputs of a group
        out = y
        if bias is not None:
            shape = [build.const_int(s) or 0 for s in y.shape]
            out = e.temporary("convolved", shape, wide(y.dtype))

        def value(b: Any, f: Any, *i: Any) -> Expr:
            at, c, inner = i[:n], i[n], i[n + 1 :]
            places = [a * s + r * d for a, s, r, d in zip(at, stride, inner, dilate)]
            channel = c
            if groups > 1:
                group = build.floordiv(f, each)
                channel = group if inside == 1 else build.add(build.mul(group, inside), c)
            return product(y.dtype, data(b, channel, *places), weight[(f, c, *inner)])

        e.reduce(out, (inside, *kernel), value)
        add_bias(e, out, bias, 1)

    def meaning(
        x: Array, weight: Array, bias: Array | None = None, *,
        strides: Any, padding: Any, dilation: Any, groups: int,
    ) -> Array:  # fmt: skip
        stride, dilate = per_axis(strides, n, "strides", 1), per_axis(dilation, n, "dilation", 1)
        view = _cut(x, pads_of(padding, n), weight.shape[2:], stride, dilate, 0)
        outputs, inside = weight.shape[:2]
        each = outputs // groups
        parts = []
        for g in range(groups):
            data = view[:, g * inside : (g + 1) * inside]
            w = weight[g * each : (g + 1) * each]
            axes = [1, *range(2 + n, 2 + 2 * n)]
            parts.append(np.tensordot(data, w, (axes, [1, *range(2, 2 + n)])))
        y = np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)
        return y if bias is None else y + bias.reshape(-1, *[1] * n)

    attrs = (Attr("strides", "ints", (1,)), Attr("padding", "ints", (0,)),
             Attr("dilation", "ints", (1,)), Attr("groups", "int", 1))  # fmt: skip
    return Operator(f"nn.conv{n}d", *signature("x, weight, bias?", *attrs), result, meaning, emit)


def _cut(
    x: Array, pads: Pads, kernel: Sequence[int], stride: Sequence[int], dilate: Sequence[int],
    value: Any, extra: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """All windows: (n, channels, places..., elements of a window...)."""
    n = len(pads)
    more = extra or (0,) * n
    x = np.pad(x, ((0, 0), (0, 0), *[(lo, hi + m) for (lo, hi), m in zip(pads, more)]),
               constant_values=value)  # fmt: skip
    spans = tuple([(k - 1) * d + 1 for k, d in zip(kernel, dilate)])
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + n)))
    places = [slice(None, None, s) for s in stride]
    inner = [slice(None, None, d) for d in dilate]
    return np.asarray(view[(slice(None), slice(None), *places, *inner)])


# ----------------------------------------------------------------------------- pooling
_POOL = (
    Attr("pool_size", "ints"),
    Attr("strides", "ints", None),
    Attr("padding", "ints", (0,)),
    Attr("dilation", "ints", (1,)),
    Attr("ceil_mode", "bool", False),
)


class _Pool:
    """The windows of a pooling over the last two axes."""

    def __init__(
        self, shape: Sequence[int], pool_size: Any, strides: Any, padding: Any, dilation: Any,
        ceil_mode: bool,
    ) -> None:  # fmt: skip
        self.size = tuple(shape[2:])
        self.kernel = per_axis(pool_size, 2, "pool_size", 1)
        self.stride = self.kernel if strides is None else per_axis(strides, 2, "strides", 1)
        self.dilate = per_axis(dilation, 2, "dilation", 1)
        self.pads = pads_of(padding, 2)
        spans = [(k - 1) * d for k, d in zip(self.kernel, self.dilate)]
        if any(p > span for pair, span in zip(self.pads, spans) for p in pair):
            refuse(f"padding is {tuple(padding)}; it is less than the window {self.kernel}",
                   code="operator-attribute")  # fmt: skip
        self.out = tuple([
            _windows(*a, ceil_mode)
            for a in zip(self.size, self.kernel, self.stride, self.pads, self.dilate)
        ])  # fmt: skip
        # what windows that stick out need behind the padding
        self.extra = tuple([
            max(0, (o - 1) * s + (k - 1) * d + 1 - (n + sum(p)))
            for o, s, k, d, n, p in zip(
                self.out, self.stride, self.kernel, self.dilate, self.size, self.pads
            )
        ])  # fmt: skip

    @property
    def around(self) -> Pads:
        """The padding, and what lies behind it."""
        return tuple([(lo, hi + m) for (lo, hi), m in zip(self.pads, self.extra)])


def _pool_type(x: TensorType, **attrs: Any) -> TensorType:
    needs_rank(x, "x", 4, _LAYOUT[2])
    if dtypes.is_bool(x.dtype):
        refuse("x has dtype bool, and it is defined for numbers")
    count = attrs.pop("count_include_pad", None)
    if count is not None:
        needs_float(x, "x")
    pool = _Pool(x.shape, **attrs)
    if 0 in pool.out:
        refuse(f"x has the shape {x.shape}: no window of {pool.kernel} fits")
    return TensorType((*x.shape[:2], *pool.out), x.dtype)


def _pooled(
    e: Emitter, target: Buffer, x: Operand, pool: _Pool, value: Any, combine: Any, start: Any
) -> None:
    data = _padded(e, x, pool.around, value)

    def element(b: Any, c: Any, *i: Any) -> Expr:
        places = [a * s + r * d for a, s, r, d in zip(i[:2], pool.stride, i[2:], pool.dilate)]
        return data(b, c, *places)  # type: ignore[no-any-return]  # an element of x

    e.reduce(target, pool.kernel, element, combine, start)


def _emit_max_pool(e: Emitter, x: Operand, **attrs: Any) -> None:
    pool = _Pool(x.shape, **attrs)
    _pooled(e, e.outs[0], x, pool, lowest(x.dtype), build.maximum, lowest(x.dtype))


def _max_pool_numpy(x: Array, **attrs: Any) -> Array:
    pool = _Pool(x.shape, **attrs)
    low = lowest(dtypes.from_numpy(x.dtype))
    view = _cut(x, pool.pads, pool.kernel, pool.stride, pool.dilate, low, pool.extra)
    return np.asarray(view.max(axis=(-2, -1)))


def _counts(pool: _Pool, axis: int, inside: bool) -> list[int]:
    """How many elements of each window along an axis are counted: those of x, or the padding too
    (never what lies behind it)."""
    lo, hi = pool.pads[axis]
    n, k = pool.size[axis], pool.kernel[axis]
    first, last = (lo, lo + n) if inside else (0, lo + n + hi)
    return [
        max(0, min(o * pool.stride[axis] + k, last) - max(o * pool.stride[axis], first))
        for o in range(pool.out[axis])
    ]


def _emit_avg_pool(e: Emitter, x: Operand, count_include_pad: bool, **attrs: Any) -> None:
    pool = _Pool(x.shape, **attrs)
    (y,) = e.outs
    shape = [build.const_int(s) or 0 for s in y.shape]
    total = e.temporary("total", shape, wide(x.dtype))
    _pooled(e, total, x, pool, 0, build.add, 0)
    counts = [_counts(pool, a, not count_include_pad) for a in (0, 1)]
    if all(len(set(c)) == 1 for c in counts):
        each = 1.0 / (counts[0][0] * counts[1][0])
        e.fill(y, lambda *i: build.mul(build.load(total, i), each))
        return

    def along(axis: int, o: Any) -> Expr:
        """The count as an expression of the place."""
        (lo, hi), k = pool.pads[axis], pool.kernel[axis]
        first, last = (
            (0, lo + pool.size[axis] + hi) if count_include_pad else (lo, lo + pool.size[axis])
        )
        begin = build.mul(o, pool.stride[axis])
        return build.sub(build.minimum(build.add(begin, k), last), build.maximum(begin, first))

    def mean(b: Any, c: Any, i: Any, j: Any) -> Expr:
        count = build.cast(total.dtype, build.mul(along(0, i), along(1, j)))
        return build.div(build.load(total, (b, c, i, j)), count)

    e.fill(y, mean)


def _avg_pool_numpy(x: Array, count_include_pad: bool, **attrs: Any) -> Array:
    pool = _Pool(x.shape, **attrs)
    view = _cut(x, pool.pads, pool.kernel, pool.stride, pool.dilate, 0, pool.extra)
    counts = [np.asarray(_counts(pool, a, not count_include_pad)) for a in (0, 1)]
    return np.asarray(view.sum(axis=(-2, -1)) / np.outer(*counts))


# ----------------------------------------------------------------------------- adaptive pooling
def _adaptive_type(x: TensorType, output_size: Sequence[int]) -> TensorType:
    needs_rank(x, "x", 4, _LAYOUT[2])
    needs_float(x, "x")
    if 0 in x.shape[2:]:
        refuse(f"x has the shape {x.shape}: there is nothing to take means of")
    return TensorType((*x.shape[:2], *per_axis(output_size, 2, "output_size", 1)), x.dtype)


def _begin(o: Any, n: int, out: int) -> Any:
    """Where window `o` begins: an expression, or a number."""
    if isinstance(o, int):
        return o * n // out
    return build.floordiv(build.mul(o, n), out)


def _end(o: Any, n: int, out: int) -> Any:
    if isinstance(o, int):
        return -(-(o + 1) * n // out)
    return build.floordiv(build.add(build.mul(o, n), n + out - 1), out)


def _emit_adaptive(e: Emitter, x: Operand, output_size: Sequence[int]) -> None:
    (y,) = e.outs
    sizes, outs = x.shape[2:], per_axis(output_size, 2, "output_size", 1)
    to = wide(x.dtype)
    shape = [*x.shape[:2], *outs]
    total = e.temporary("total", shape, to)
    if all(n % o == 0 for n, o in zip(sizes, outs)):
        kernel = [n // o for n, o in zip(sizes, outs)]
        e.reduce(total, kernel, lambda b, c, i, j, r, s: build.cast(
            to, x[(b, c, _inside(i, r, kernel[0], outs[0]), _inside(j, s, kernel[1], outs[1]))]
        ))  # fmt: skip
        each = 1.0 / math.prod(kernel)
        e.fill(y, lambda *i: build.mul(build.load(total, i), each))
        return
    widest = [
        max(_end(o, n, out) - _begin(o, n, out) for o in range(out)) for n, out in zip(sizes, outs)
    ]

    def element(b: Any, c: Any, *i: Any) -> Expr:
        at = [build.add(_begin(o, n, k), r) for o, n, k, r in zip(i[:2], sizes, outs, i[2:])]
        ends = [_end(o, n, k) for o, n, k in zip(i[:2], sizes, outs)]
        within = build.logical_and(*[build.lt(a, z) for a, z in zip(at, ends)])
        value = build.cast(to, x[(b, c, *at)])
        return build.if_then_else(within, value, build.const(0, to))

    e.reduce(total, widest, element)

    def mean(*i: Any) -> Expr:
        spans = [build.sub(_end(o, n, k), _begin(o, n, k)) for o, n, k in zip(i[2:], sizes, outs)]
        return build.div(build.load(total, i), build.cast(to, build.mul(*spans)))

    e.fill(y, mean)


def _inside(o: Any, r: Any, kernel: int, out: int) -> Any:
    """Element `r` of window `o` where all windows are equal."""
    return r if out == 1 else build.add(build.mul(o, kernel), r)


def _adaptive_numpy(x: Array, output_size: Sequence[int]) -> Array:
    outs = per_axis(output_size, 2, "output_size", 1)
    spans = [
        [(_begin(o, n, out), _end(o, n, out)) for o in range(out)]
        for n, out in zip(x.shape[2:], outs)
    ]
    rows = [
        np.stack([x[:, :, a:b, c:d].mean(axis=(-2, -1)) for c, d in spans[1]], -1)
        for a, b in spans[0]
    ]
    return np.stack(rows, -2)


# ----------------------------------------------------------------------------- padding
def _pad_type(x: TensorType, pad_width: Sequence[int], value: Any) -> TensorType:
    if len(pad_width) != 2 * len(x.shape) or any(p < 0 for p in pad_width):
        refuse(
            f"pad_width is {tuple(pad_width)}, of a tensor of {len(x.shape)} dimensions",
            "it has two numbers from 0 for each dimension, before and after",
            "operator-attribute",
        )
    if isinstance(value, float) and not dtypes.is_float(x.dtype):
        refuse(f"value is {value}, x has dtype {x.dtype}", code="operator-attribute")
    pairs = zip(pad_width[::2], pad_width[1::2])
    return TensorType(tuple([n + lo + hi for n, (lo, hi) in zip(x.shape, pairs)]), x.dtype)


def _emit_pad(e: Emitter, x: Operand, pad_width: Sequence[int], value: Any) -> None:
    pairs = list(zip(pad_width[::2], pad_width[1::2]))

    def element(*i: Any) -> Expr:
        conditions = [
            c
            for v, (lo, hi), n in zip(i, pairs, x.shape)
            for c in ([build.ge(v, lo)] if lo else []) + ([build.lt(v, lo + n)] if hi else [])
        ]
        at = tuple([build.sub(v, lo) for v, (lo, _) in zip(i, pairs)])
        if not conditions:
            return x[at]
        fill = build.const(float(value) if dtypes.is_float(x.dtype) else int(value), x.dtype)
        return build.if_then_else(build.logical_and(*conditions), x[at], fill)

    e.fill(e.outs[0], element)


def _pad_numpy(x: Array, pad_width: Sequence[int], value: Any) -> Array:
    return np.pad(x, list(zip(pad_width[::2], pad_width[1::2])), constant_values=value)


OPERATORS = (
    _conv(1),
    _conv(2),
    Operator("nn.max_pool2d", *signature("x", *_POOL), _pool_type, _max_pool_numpy,
             _emit_max_pool, moves=True),
    Operator("nn.avg_pool2d",
             *signature("x", *[a for a in _POOL if a.name != "dilation"],
                        Attr("count_include_pad", "bool", True)),
             lambda x, **attrs: _pool_type(x, dilation=(1,), **attrs),
             lambda x, **attrs: _avg_pool_numpy(x, dilation=(1,), **attrs),
             lambda e, x, **attrs: _emit_avg_pool(e, x, dilation=(1,), **attrs)),
    Operator("nn.adaptive_avg_pool2d", *signature("x", Attr("output_size", "ints")),
             _adaptive_type, _adaptive_numpy, _emit_adaptive),
    Operator("nn.pad", *signature("x", Attr("pad_width", "ints"), Attr("value", "number", 0)),
             _pad_type, _pad_numpy, _emit_pad, moves=True),
)  # fmt: skip
