"""What does a kernel want to be called with, and do these arguments fit?

A kernel's machine function takes one array of 8-byte slots: for each parameter a data pointer or
the bits of a scalar, then one i64 for each symbolic size.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gputune.errors import BuildError, RunError
from gputune.ir import dtypes
from gputune.ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferStore,
    Cast,
    Expr,
    IntImm,
    PrimFunc,
    Var,
)
from gputune.ir.walk import walk_stmt

from .ndarray import host_view

Env: TypeAlias = dict[Var, int]


@dataclass(frozen=True, slots=True, eq=False)
class TensorParam:
    """A buffer parameter. `shape` and `strides` are ints where known, else expressions;
    `strides` (in elements) is None for row-major; `align` is in bytes."""

    name: str
    dtype: str
    shape: tuple[int | Expr, ...]
    strides: tuple[int | Expr, ...] | None
    offset: int | Expr
    align: int
    written: bool

    @property
    def static(self) -> bool:
        """Are all extents known, with a row-major layout?"""
        return self.strides is None and self.offset == 0 and _all_known(self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, eq=False)
class ScalarParam:
    """A number, passed by value."""

    name: str
    dtype: str
    var: Var

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}"


Param: TypeAlias = TensorParam | ScalarParam


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The parameters of a function; `shape_vars` are the symbolic sizes, in the order of their
    slots. `may_alias`: the function promises to cope with overlapping arguments."""

    name: str
    params: tuple[Param, ...]
    shape_vars: tuple[Var, ...] = ()
    may_alias: bool = False

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.params))})"


def signature(func: PrimFunc, name: str, shape_vars: Sequence[Var] = ()) -> Signature:
    """Read the signature off a function; walks its body once, to see which buffers it writes."""
    written = written_buffers(func)
    table = dict(func.buffer_map)
    params: list[Param] = []
    for p in func.params:
        if p not in table:
            params.append(ScalarParam(p.name, p.dtype, p))
            continue
        b = table[p]
        params.append(
            TensorParam(
                b.name,
                b.dtype,
                tuple(map(_known, b.shape)),
                None if b.strides is None else tuple(map(_known, b.strides)),
                0 if b.elem_offset is None else _known(b.elem_offset),
                max(b.align, dtypes.itemsize(b.dtype)),
                b in written,
            )
        )
    attrs = dict(func.attrs)
    noalias = next((attrs[k] for k in ("tir.noalias", "tirx.noalias") if k in attrs), True)
    return Signature(name, tuple(params), tuple(shape_vars), not noalias)


def written_buffers(func: PrimFunc) -> set[Buffer]:
    """The parameter buffers that the function stores to or declares as written in a block."""
    stored: set[Buffer] = set()
    source: dict[Buffer, Buffer] = {}
    for s in walk_stmt(func.body):
        if type(s) is BufferStore:
            stored.add(s.buffer)
        elif type(s) is Block:
            stored.update(r.buffer for r in s.writes)
            source.update((m.buffer, m.source.buffer) for m in s.match_buffers)
    for b in list(stored):  # a store to a view is a store to what it views
        while b in source:
            b = source[b]
            stored.add(b)
    return stored & set(func.buffers)


def _known(e: Expr) -> int | Expr:
    return int(e.value) if type(e) is IntImm else e


def _all_known(values: Sequence[int | Expr]) -> bool:
    return all(type(v) is int for v in values)


# ----------------------------------------------------------------------------- checking a call
def slots_of(sig: Signature, args: Sequence[Any]) -> tuple[list[int], list[Any]]:
    """Check the arguments one by one; the slots to pass, and the arrays whose memory they name.

    Raises:
        RunError: naming function, parameter, what was expected and what was found.
    """
    check_count(sig, args)
    env: Env = {}
    slots: list[int] = []
    arrays: list[tuple[TensorParam, np.ndarray[Any, Any]]] = []
    for at, (p, arg) in enumerate(zip(sig.params, args)):
        if isinstance(p, ScalarParam):
            bits, value = scalar_bits(sig, p, arg)
            slots.append(bits)
            if isinstance(value, int):
                env[p.var] = value
            continue
        array = host_view(arg, label(sig, p))
        _check_array(sig, p, array)
        slots.append(int(array.__array_interface__["data"][0]))
        _check_alignment(sig, p, array, slots[at])
        arrays.append((p, array))
    _bind_sizes(arrays, env)
    for p, array in arrays:
        _check_layout(sig, p, array, env)
    if not sig.may_alias:
        _check_overlap(sig, arrays)
    for v in sig.shape_vars:
        if v not in env:
            raise RunError(f"{sig.name}: no argument tells the size {v.name!r}", code="shape")
        if env[v] > dtypes.max_value(v.dtype):
            raise RunError(
                f"{sig.name}: the size {v.name} = {env[v]} does not fit its dtype {v.dtype}",
                code="shape",
            )
        slots.append(env[v])
    return slots, [array for _, array in arrays]


def check_count(sig: Signature, args: Sequence[Any]) -> None:
    """RunError unless there is one argument for each parameter."""
    if len(args) != len(sig.params):
        names = ", ".join(p.name for p in sig.params)
        raise RunError(
            f"{sig.name} takes {len(sig.params)} arguments ({names}), found {len(args)}",
            code="argument-count",
        )


def label(sig: Signature, p: Param) -> str:
    """What an error about an argument begins with."""
    return f"{sig.name}: argument {p.name!r} ({sig.params.index(p) + 1} of {len(sig.params)})"


def scalar_bits(sig: Signature, p: ScalarParam, arg: Any) -> tuple[int, int | float]:
    """The 8-byte slot of a number, and the number; RunError if it is none, or does not fit."""
    value = arg.item() if isinstance(arg, np.generic | np.ndarray) and arg.size == 1 else arg
    wanted = f"{label(sig, p)}: expected a {p.dtype} number, found"
    if not isinstance(value, bool | int | float):
        raise RunError(f"{wanted} {type(arg).__name__}", code="scalar")
    if dtypes.is_float(p.dtype):
        raw = np.array(float(value)).astype(dtypes.numpy_dtype(p.dtype)).tobytes()
        return int.from_bytes(raw, "little"), float(value)
    if isinstance(value, float):
        raise RunError(f"{wanted} {value!r}", code="scalar")
    if not dtypes.min_value(p.dtype) <= value <= dtypes.max_value(p.dtype):
        raise RunError(f"{wanted} {value}, which it cannot hold", code="scalar")
    return int(value) & (2**64 - 1), int(value)


def _check_array(sig: Signature, p: TensorParam, array: np.ndarray[Any, Any]) -> None:
    if array.dtype != dtypes.numpy_dtype(p.dtype):
        raise RunError(
            f"{label(sig, p)}: expected dtype {p.dtype}, found {array.dtype}",
            hint=f"x.astype({p.dtype!r}) makes a copy of that dtype",
            code="dtype",
        )
    if array.ndim != len(p.shape):
        shape = ", ".join(map(str, p.shape))
        raise RunError(
            f"{label(sig, p)}: expected shape ({shape}), found {array.shape}", code="shape"
        )
    if p.written and not array.flags.writeable:
        raise RunError(
            f"{label(sig, p)} is written by the kernel: expected a writable array, "
            "found a read-only one",
            code="read-only",
        )


def _check_alignment(
    sig: Signature, p: TensorParam, array: np.ndarray[Any, Any], pointer: int
) -> None:
    if pointer % p.align and array.size:
        found = pointer & -pointer
        raise RunError(
            f"{label(sig, p)}: expected memory aligned to {p.align} bytes, found {found}",
            hint="gputune.runtime.ndarray.array(x) makes an aligned copy",
            code="alignment",
        )


def _element_strides(array: np.ndarray[Any, Any]) -> tuple[int, ...]:
    return tuple(s // array.itemsize for s in array.strides)


def _bind_sizes(arrays: Sequence[tuple[TensorParam, np.ndarray[Any, Any]]], env: Env) -> None:
    """Sizes that stand alone, `n` in (n, n * 2), take their values from the arrays."""
    for p, array in arrays:
        facts = list(zip(p.shape, array.shape))
        if p.strides is not None:
            facts += zip(p.strides, _element_strides(array))
        facts.append((p.offset, 0))
        for e, value in facts:
            if isinstance(e, Var):
                env.setdefault(e, int(value))


def _check_layout(sig: Signature, p: TensorParam, array: np.ndarray[Any, Any], env: Env) -> None:
    shape = tuple(evaluate(e, env, sig.name) for e in p.shape)
    if array.shape != shape:
        names = "" if p.shape == shape else f" = ({', '.join(map(str, p.shape))})"
        raise RunError(
            f"{label(sig, p)}: expected shape {shape}{names}, found {array.shape}", code="shape"
        )
    if p.strides is None:
        if not array.flags.c_contiguous:
            raise RunError(
                f"{label(sig, p)}: expected C-contiguous memory, found strides "
                f"{array.strides} bytes for shape {array.shape}",
                hint="np.ascontiguousarray(x) makes a contiguous copy",
                code="strides",
            )
    elif array.size:
        strides = tuple(evaluate(e, env, sig.name) for e in p.strides)
        exact = not any(s % array.itemsize for s in array.strides)
        found = _element_strides(array)
        if not exact or any(n > 1 and s != f for n, s, f in zip(shape, strides, found)):
            raise RunError(
                f"{label(sig, p)}: expected strides {strides} elements, found "
                f"{array.strides} bytes",
                code="strides",
            )
    if evaluate(p.offset, env, sig.name) != 0:
        raise RunError(
            f"{label(sig, p)} declares the element offset {p.offset}, which an array cannot have",
            code="offset",
        )


def _check_overlap(
    sig: Signature, arrays: Sequence[tuple[TensorParam, np.ndarray[Any, Any]]]
) -> None:
    for i, (p, array) in enumerate(arrays):
        for q, other in arrays[i + 1 :]:
            if not (p.written or q.written) or not np.may_share_memory(array, other):
                continue
            if (p.strides is None and q.strides is None) or np.shares_memory(array, other):
                one, two = (p, q) if p.written else (q, p)
                raise overlap_error(sig, one, two.name)


def overlap_error(sig: Signature, p: TensorParam, other: str) -> RunError:
    """The error for a written argument `p` whose memory is also that of argument `other`."""
    return RunError(
        f"{label(sig, p)} is written by the kernel: expected memory of its own, found that of "
        f"argument {other!r}",
        hint='the attribute {"tir.noalias": False} allows it',
        code="overlap",
    )


def evaluate(e: int | Expr, env: Env, name: str) -> int:
    """The value of a size expression over bound variables; RunError (for function `name`) where a
    variable is not bound or the operation is not one of index arithmetic."""
    if isinstance(e, int):
        return e
    match e:
        case IntImm():
            return int(e.value)
        case Var():
            if e not in env:
                raise RunError(f"{name}: no argument tells the size {e.name!r}", code="shape")
            return env[e]
        case Cast():
            return evaluate(e.value, env, name)
        case BinOp():
            a, b = evaluate(e.a, env, name), evaluate(e.b, env, name)
            match e.op:
                case "+":
                    return a + b
                case "-":
                    return a - b
                case "*":
                    return a * b
                case "//" | "%" if b != 0:
                    return a // b if e.op == "//" else a % b
                case "min":
                    return min(a, b)
                case "max":
                    return max(a, b)
                case _:
                    pass
        case _:
            pass
    raise RunError(f"{name}: the size expression {e} cannot be computed", code="shape")


# ----------------------------------------------------------------------------- for workers
def concrete_arguments(sig: Signature, sizes: Env | None = None) -> list[dict[str, Any]]:
    """The arguments as JSON-able descriptions with every size known, as worker requests carry them.

    Args:
        sizes: values of the symbolic sizes.

    Returns:
        For a buffer `{"kind": "tensor", "name", "dtype", "shape", "strides", "align", "written"}`,
        for a number `{"kind": "scalar", "name", "dtype", "value": None}` (None: a worker picks
        one), for each symbolic size a scalar of int64 with its value.

    Raises:
        BuildError: a size is not known.
    """
    env = dict(sizes or {})
    out: list[dict[str, Any]] = []
    try:
        for p in sig.params:
            if isinstance(p, ScalarParam):
                value = env.get(p.var)
                out.append({"kind": "scalar", "name": p.name, "dtype": p.dtype, "value": value})
                continue
            strides = p.strides
            out.append(
                {
                    "kind": "tensor",
                    "name": p.name,
                    "dtype": p.dtype,
                    "shape": [evaluate(e, env, sig.name) for e in p.shape],
                    "strides": strides and [evaluate(e, env, sig.name) for e in strides],
                    "align": p.align,
                    "written": p.written,
                }
            )
        for v in sig.shape_vars:
            value = evaluate(v, env, sig.name)
            out.append({"kind": "scalar", "name": v.name, "dtype": "int64", "value": value})
    except RunError as e:
        raise BuildError(f"{e.message}; give its value in sizes") from None
    return out


def pack(slots: Sequence[int]) -> bytes:
    """The slots as the memory that a kernel reads."""
    return struct.pack(f"={len(slots)}Q", *(s & (2**64 - 1) for s in slots))
