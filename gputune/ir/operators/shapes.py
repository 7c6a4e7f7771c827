"""Operators that move elements: other shapes, orders, parts, and several tensors as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import build
from ..graph import TensorType, TupleType
from ..nodes import Expr
from .emit import Emitter, Operand
from .operator import (
    Array,
    Attr,
    Operator,
    axes_in,
    axis_in,
    refuse,
    same_dtype,
    several,
    signature,
)


# ----------------------------------------------------------------------------- same order
def _filled_in(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """`shape` with its -1, if there is one, as what is left of `size` elements."""
    if any(n < -1 for n in shape) or list(shape).count(-1) > 1:
        refuse(f"shape is {tuple(shape)}", "sizes are whole numbers from 0, one may be -1",
               "operator-attribute")  # fmt: skip
    known = math.prod([n for n in shape if n != -1])
    if -1 not in shape:
        out = tuple(shape)
    elif known and size % known == 0:
        out = tuple([size // known if n == -1 else n for n in shape])
    else:
        out = ()
    if math.prod(out) != size or (-1 in shape and not out):
        refuse(f"shape is {tuple(shape)}, and x has {size} elements")
    return out


def _reshape_type(x: TensorType, shape: Sequence[int]) -> TensorType:
    return TensorType(_filled_in(shape, math.prod(x.shape)), x.dtype)


def _flat_shape(shape: Sequence[int], start: int, end: int) -> tuple[int, ...]:
    if not shape:
        return (1,)
    a = axis_in(start, len(shape), "start_dim")
    b = axis_in(end, len(shape), "end_dim")
    if a > b:
        refuse(f"start_dim is {start}, which comes after end_dim {end}")
    return (*shape[:a], math.prod(shape[a : b + 1]), *shape[b + 1 :])


def _squeezed(shape: Sequence[int], axis: Sequence[int] | None) -> tuple[int, ...]:
    if axis is None:
        return tuple([n for n in shape if n != 1])
    axes = axes_in(axis, len(shape))
    for a in axes:
        if shape[a] != 1:
            refuse(f"x has the shape {tuple(shape)}: axis {a} has the size {shape[a]}, not 1")
    return tuple([n for k, n in enumerate(shape) if k not in axes])


def _expanded(shape: Sequence[int], axis: Sequence[int]) -> tuple[int, ...]:
    rank = len(shape) + len(axis)
    axes = axes_in(axis, rank)
    rest = iter(shape)
    return tuple([1 if k in axes else next(rest) for k in range(rank)])


def groups_of(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Dimensions of two shapes with equal elements in all: the least groups, from left to right,
    that hold equally many. Dimensions of size 1 stand in none."""
    a = [k for k, n in enumerate(old) if n != 1]
    b = [k for k, n in enumerate(new) if n != 1]
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        left, right = [a[i]], [b[j]]
        m, n = old[a[i]], new[b[j]]
        i, j = i + 1, j + 1
        while m != n:
            if m < n:
                m *= old[a[i]]
                left.append(a[i])
                i += 1
            else:
                n *= new[b[j]]
                right.append(b[j])
                j += 1
        out.append((left, right))
    return out


def _emit_reshape(e: Emitter, x: Operand, **_: Any) -> None:
    """The element at the same place in row-major order."""
    new = [build.const_int(n) or 0 for n in e.outs[0].shape]
    if 0 in new:
        e.fill(e.outs[0], lambda *i: build.const(0, x.dtype))
        return
    groups = groups_of(x.shape, new)

    def element(*i: Any) -> Expr:
        at: list[Any] = [0] * len(x.shape)
        for left, right in groups:
            flat: Any = 0
            for k in right:
                flat = build.add(build.mul(flat, new[k]), i[k])
            behind = math.prod([x.shape[k] for k in left])
            for pos, k in enumerate(left):
                behind //= x.shape[k]
                index = build.floordiv(flat, behind) if behind > 1 else flat
                at[k] = index if pos == 0 else build.floormod(index, x.shape[k])
        return x[tuple(at)]

    e.fill(e.outs[0], element)


def _same_order(name: str, result: Any, *attrs: Attr) -> Operator:
    """An operator that gives another shape to the same elements in the same order."""

    def type_rule(x: TensorType, **given: Any) -> TensorType:
        return TensorType(result(x.shape, **given), x.dtype)

    def meaning(x: Array, **given: Any) -> Array:
        return x.reshape(result(x.shape, **given))

    return Operator(name, *signature("x", *attrs), type_rule, meaning, _emit_reshape, moves=True)


# ----------------------------------------------------------------------------- other orders
def _order(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(rank))[::-1]
    found = tuple([axis_in(a, rank, "axes") for a in axes])
    if sorted(found) != list(range(rank)):
        refuse(f"axes is {tuple(axes)}, of a tensor of {rank} dimensions", "each is there once")
    return found


def _permute_type(x: TensorType, axes: Sequence[int] | None) -> TensorType:
    return TensorType(tuple([x.shape[a] for a in _order(axes, len(x.shape))]), x.dtype)


def _emit_permute(e: Emitter, x: Operand, axes: Sequence[int] | None) -> None:
    order = _order(axes, len(x.shape))
    e.fill(e.outs[0], lambda *i: x[tuple([i[order.index(k)] for k in range(len(order))])])


def _broadcast_type(x: TensorType, shape: Sequence[int]) -> TensorType:
    lead = len(shape) - len(x.shape)
    fits = lead >= 0 and all(n in (1, m) for n, m in zip(x.shape, shape[lead:]))
    if not fits or any(n < 0 for n in shape):
        refuse(f"x has the shape {x.shape}, which does not become {tuple(shape)}",
               "sizes are kept or were 1, counted from the last dimension")  # fmt: skip
    return TensorType(tuple(shape), x.dtype)


def _emit_broadcast(e: Emitter, x: Operand, shape: Sequence[int]) -> None:
    e.fill(e.outs[0], lambda *i: x.at(i))


# ----------------------------------------------------------------------------- parts
def _concat_type(*tensors: TensorType, axis: int) -> TensorType:
    first = tensors[0]
    at = axis_in(axis, len(first.shape))
    dtype = same_dtype(**{f"tensors_{k}": t for k, t in enumerate(tensors)})
    for k, t in enumerate(tensors):
        if len(t.shape) != len(first.shape) or any(
            a != b for j, (a, b) in enumerate(zip(t.shape, first.shape)) if j != at
        ):
            refuse(f"tensors_0 has the shape {first.shape}, tensors_{k} {t.shape}: they differ "
                   f"beside axis {at}")  # fmt: skip
    total = sum([t.shape[at] for t in tensors])
    return TensorType((*first.shape[:at], total, *first.shape[at + 1 :]), dtype)


def _emit_concat(e: Emitter, *tensors: Operand, axis: int) -> None:
    at = axis % len(tensors[0].shape)
    there = [t for t in tensors if t.shape[at]]
    if not there:
        e.fill(e.outs[0], lambda *i: build.const(0, e.outs[0].dtype))
        return

    def element(*i: Any) -> Expr:
        end = sum([t.shape[at] for t in there])
        value: Expr | None = None
        for t in reversed(there):
            end -= t.shape[at]
            own = t[(*i[:at], build.sub(i[at], end), *i[at + 1 :])]
            if value is None:
                value = own
            else:
                value = build.if_then_else(build.lt(i[at], end + t.shape[at]), own, value)
        assert value is not None
        return value

    e.fill(e.outs[0], element)


def _cuts(n: int, indices: Sequence[int], sections: int | None) -> list[int]:
    """Where the parts of `n` elements begin and, last, where the last one ends."""
    if sections is not None:
        if indices:
            refuse("there are both sections and indices", "give one of them", "operator-attribute")
        if sections < 1 or n % sections:
            refuse(f"sections is {sections}, which does not divide the size {n}")
        return [k * (n // sections) for k in range(sections + 1)]
    cuts = [0, *indices, n]
    if any(a > b for a, b in pairwise(cuts)):
        refuse(f"indices is {tuple(indices)}, of {n} elements", "they do not go down, from 0",
               "operator-attribute")  # fmt: skip
    return cuts


def _split_type(
    x: TensorType, indices: Sequence[int], sections: int | None, axis: int
) -> TupleType:
    at = axis_in(axis, len(x.shape))
    cuts = _cuts(x.shape[at], indices, sections)
    return several(*[
        TensorType((*x.shape[:at], b - a, *x.shape[at + 1 :]), x.dtype)
        for a, b in pairwise(cuts)
    ])  # fmt: skip


def _emit_split(
    e: Emitter, x: Operand, indices: Sequence[int], sections: int | None, axis: int
) -> None:
    at = axis % len(x.shape)
    cuts = _cuts(x.shape[at], indices, sections)
    for y, begin in zip(e.outs, cuts):
        _emit_part(e, y, x, at, begin)


def _emit_part(e: Emitter, y: Any, x: Operand, at: int, begin: int) -> None:
    e.fill(y, lambda *i: x[(*i[:at], build.add(i[at], begin), *i[at + 1 :])])


def _split_numpy(
    x: Array, indices: Sequence[int], sections: int | None, axis: int
) -> tuple[Array, ...]:
    cuts = _cuts(x.shape[axis], indices, sections)
    return tuple(np.split(x, cuts[1:-1], axis=axis))


def _slices(
    shape: Sequence[int], axes: Sequence[int], begin: Sequence[int], end: Sequence[int],
    strides: Sequence[int] | None,
) -> dict[int, range]:  # fmt: skip
    """The places that are taken along each axis that is named, as Python slices take them."""
    steps = tuple([1] * len(axes)) if strides is None else tuple(strides)
    if not len(axes) == len(begin) == len(end) == len(steps):
        refuse(f"axes is {tuple(axes)}, begin {tuple(begin)}, end {tuple(end)}, strides {steps}",
               "they have one number for each axis", "operator-attribute")  # fmt: skip
    if 0 in steps:
        refuse(f"strides is {steps}; they are not 0", code="operator-attribute")
    found = [axis_in(a, len(shape), "axes") for a in axes]
    if len(set(found)) != len(found):
        refuse(f"axes is {tuple(axes)}: one axis is there twice")
    return {a: range(shape[a])[slice(b, z, s)] for a, b, z, s in zip(found, begin, end, steps)}


def _slice_type(x: TensorType, **attrs: Any) -> TensorType:
    taken = _slices(x.shape, **attrs)
    return TensorType(
        tuple([len(taken[k]) if k in taken else n for k, n in enumerate(x.shape)]), x.dtype
    )


def _emit_slice(e: Emitter, x: Operand, **attrs: Any) -> None:
    taken = _slices(x.shape, **attrs)

    def place(k: int, i: Any) -> Any:
        if k not in taken:
            return i
        return build.add(build.mul(i, taken[k].step), taken[k].start)

    if any(len(r) == 0 for r in taken.values()):
        e.fill(e.outs[0], lambda *i: build.const(0, x.dtype))
        return
    e.fill(e.outs[0], lambda *i: x[tuple([place(k, v) for k, v in enumerate(i)])])


def _slice_numpy(x: Array, **attrs: Any) -> Array:
    taken = _slices(x.shape, **attrs)
    for k, r in taken.items():
        x = np.take(x, list(r), axis=k)
    return x


_ENDS = (
    Attr("axes", "ints"),
    Attr("begin", "ints"),
    Attr("end", "ints"),
    Attr("strides", "ints", None),
)
OPERATORS = (
    Operator("reshape", *signature("x", Attr("shape", "ints")), _reshape_type,
             lambda x, shape: x.reshape(shape), _emit_reshape, moves=True),
    _same_order("flatten", lambda shape, start_dim, end_dim: _flat_shape(shape, start_dim, end_dim),
                Attr("start_dim", "int", 0), Attr("end_dim", "int", -1)),
    _same_order("squeeze", _squeezed, Attr("axis", "ints", None)),
    _same_order("expand_dims", _expanded, Attr("axis", "ints")),
    Operator("permute_dims", *signature("x", Attr("axes", "ints", None)), _permute_type,
             lambda x, axes: np.transpose(x, axes), _emit_permute, moves=True),
    Operator("broadcast_to", *signature("x", Attr("shape", "ints")), _broadcast_type,
             lambda x, shape: np.broadcast_to(x, shape), _emit_broadcast, moves=True,
             literals=True),
    Operator("concat", *signature("tensors*", Attr("axis", "int", 0)), _concat_type,
             lambda *tensors, axis: np.concatenate(tensors, axis=axis), _emit_concat, moves=True),
    Operator("split",
             *signature("x", Attr("indices", "ints", ()), Attr("sections", "int", None),
                        Attr("axis", "int", 0)),
             _split_type, _split_numpy, _emit_split, moves=True),
    Operator("strided_slice", *signature("x", *_ENDS), _slice_type, _slice_numpy, _emit_slice,
             moves=True),
)  # fmt: skip
