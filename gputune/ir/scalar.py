"""What does one operation compute on one element?

Elements are Python numbers: bool, int (always within the dtype), float (always a value of the
dtype). The functions here make functions on them; the interpreter strings those together.

Where hardware and languages differ, this is what a program means:

* Integers wrap around in the width of their dtype. Division by zero and shifts by less than zero
  or by the width and more are errors.
* float64 and float32 round once after each operation; narrower floats are computed in float32 and
  then rounded to the dtype (as ml_dtypes rounds: an overflowing float8_e4m3 becomes NaN).
* `min(a, b)` is `a if a < b else b`, and `max(a, b)` is `a if a > b else b`, which is what LLVM's
  compare and select give: where either side is NaN the result is b.
* float -> int truncates; what is out of range becomes the nearest integer of the dtype and NaN
  becomes 0 (hardware differs here: portable programs stay within the range).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..errors import RunError
from . import dtypes
from .ops import MATH, VectorOp

Unary: TypeAlias = Callable[[Any], Any]
Binary: TypeAlias = Callable[[Any, Any], Any]

COMPARE: dict[str, Binary] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def poison(dtype: str) -> Any:
    """What memory holds before it is written: NaN, or the bytes 0x5A, or True."""
    if dtypes.is_float(dtype):
        return math.nan
    if dtypes.is_bool(dtype):
        return True
    return int.from_bytes(b"\x5a" * dtypes.itemsize(dtype), "little")


def wrap(dtype: str) -> Unary:
    """int -> the integer of `dtype` that is equal to it modulo 2 ** bits."""
    modulus = 1 << dtypes.bits(dtype)
    if dtypes.is_unsigned(dtype):
        mask = modulus - 1
        return lambda x: x & mask
    half = modulus >> 1
    return lambda x: ((x + half) & (modulus - 1)) - half


def rounded(dtype: str) -> Unary:
    """float -> the value of `dtype` that an operation with this exact result gives."""
    if dtype == "float64":
        return float
    if dtype == "float32":
        return lambda x: float(np.float32(x))
    narrow = dtypes.numpy_dtype(dtype)
    return lambda x: float(np.float32(x).astype(narrow))


def cast(src: str, dst: str) -> Unary:
    """An element of `src` -> that of `dst`."""
    src, dst = dtypes.scalar(src), dtypes.scalar(dst)
    if "handle" in (src, dst):
        raise RunError(f"the interpreter cannot convert {src} to {dst}")
    if dtypes.is_bool(dst):
        return bool
    if dtypes.is_int(dst):
        return _saturate(dst) if dtypes.is_float(src) else wrap_int(dst)
    target = dtypes.numpy_dtype(dst)
    if dtypes.is_float(src):  # one rounding, from the source value to the target
        return lambda x: float(np.float64(x).astype(target))
    if dst == "float64":
        return float
    if dst == "float32":
        kind = np.uint64 if dtypes.is_unsigned(src) else np.int64
        return lambda x: float(kind(x).astype(np.float32))
    return lambda x: float(np.float32(x).astype(target))


def wrap_int(dtype: str) -> Unary:
    """bool or int -> int of `dtype`."""
    fit = wrap(dtype)
    return lambda x: fit(int(x))


def _saturate(dtype: str) -> Unary:
    lo, hi = int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))

    def convert(x: float) -> int:
        if x != x:
            return 0
        if math.isinf(x):
            return hi if x > 0 else lo
        return min(max(int(x), lo), hi)

    return convert


def binary(op: str, dtype: str, where: str) -> Binary:
    """`a op b` on two elements of `dtype`; `where` goes into error messages."""
    if op in COMPARE:
        return COMPARE[op]
    if op == "min":
        return lambda a, b: a if a < b else b
    if op == "max":
        return lambda a, b: a if a > b else b
    if dtypes.is_float(dtype) and op in _FLOAT:
        exact, fit = _FLOAT[op], rounded(dtype)
        return lambda a, b: fit(exact(a, b))
    if dtypes.is_int(dtype):
        return _int_binary(op, dtype, where)
    if dtypes.is_bool(dtype) and op in _BITS:
        return _BITS[op]
    raise RunError(f"{op!r} is not defined on {dtype}, in {where}", code="undefined-op")


def float_divide(a: float, b: float) -> float:
    """IEEE division, which has no exceptions."""
    try:
        return a / b
    except ZeroDivisionError:
        if a == 0 or a != a:
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _float_remainder(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.fmod(a, b))


_FLOAT: dict[str, Binary] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": float_divide,
    "truncmod": _float_remainder,
}
_BITS: dict[str, Binary] = {"&": operator.and_, "|": operator.or_, "^": operator.xor}
_RING: dict[str, Binary] = {"+": operator.add, "-": operator.sub, "*": operator.mul, **_BITS}


def _truncated(a: int, b: int) -> int:
    return a // b if (a >= 0) == (b >= 0) else -(-a // b)


_DIVISION: dict[str, Binary] = {
    "//": operator.floordiv,
    "%": operator.mod,
    "/": _truncated,
    "truncmod": lambda a, b: a - b * _truncated(a, b),
}


def _int_binary(op: str, dtype: str, where: str) -> Binary:
    fit, bits = wrap(dtype), dtypes.bits(dtype)
    if op in _RING:
        exact = _RING[op]
        return lambda a, b: fit(exact(a, b))
    if op in _DIVISION:
        divide = _DIVISION[op]

        def division(a: int, b: int) -> Any:
            if b == 0:
                raise RunError(f"{a} {op} 0: division by zero, in {where}", code="division")
            return fit(divide(a, b))

        return division
    if op in ("<<", ">>"):

        def shift(a: int, b: int) -> Any:
            if not 0 <= b < bits:
                raise RunError(
                    f"{a} {op} {b}: a {dtype} can be shifted by 0 to {bits - 1}, in {where}",
                    code="shift",
                )
            return fit(a << b) if op == "<<" else a >> b

        return shift
    raise RunError(f"{op!r} is not defined on {dtype}, in {where}", code="undefined-op")


def math_function(op: str, dtype: str, where: str) -> Callable[..., Any]:
    """The intrinsic `op` (see `ops.MATH`) on elements of `dtype`."""
    entry = MATH[op]
    fn = entry.numpy
    if dtypes.is_float(dtype):
        kind = np.float64 if dtype == "float64" else np.float32
        if entry.to_bool:
            return lambda *xs: bool(fn(*map(kind, xs)))
        fit = rounded(dtype)
        return lambda *xs: fit(float(fn(*map(kind, xs))))
    if not (entry.on_ints and dtypes.is_int(dtype)):
        raise RunError(f"T.{op} is not defined on {dtype}, in {where}", code="undefined-op")
    number = dtypes.numpy_dtype(dtype).type
    if op == "popcount":  # of the bits; NumPy counts those of the absolute value
        mask = (1 << dtypes.bits(dtype)) - 1
        return lambda x: (x & mask).bit_count()
    return lambda x: int(fn(number(x)))


_EXTERN: dict[str, tuple[int, Callable[..., Any]]] = {
    "fmin": (2, np.fmin),
    "fmax": (2, np.fmax),
    "cbrt": (1, np.cbrt),
    "expm1": (1, np.expm1),
    "asinh": (1, np.arcsinh),
    "acosh": (1, np.arccosh),
    "atanh": (1, np.arctanh),
}


def extern(name: str, arity: int, dtype: str) -> Callable[..., Any] | None:
    """The C math function `name` (double, or float with a final f), or None where `name` is not one
    of `arity` arguments. The result is an element of `dtype`."""
    for base, kind in ((name, np.float64), (name.removesuffix("f"), np.float32)):
        found = _c_function(base)
        if found is not None and found[0] == arity:
            fn, to = found[1], cast("float64", dtype)
            return lambda *xs, kind=kind: to(float(fn(*map(kind, xs))))
    return None


def _c_function(name: str) -> tuple[int, Callable[..., Any]] | None:
    if name in _EXTERN:
        return _EXTERN[name]
    entry = MATH.get({"fabs": "abs", "rint": "nearbyint"}.get(name, name))
    known = entry is not None and not entry.to_bool and name not in _NOT_IN_C
    return (entry.arity, entry.numpy) if entry is not None and known else None


_NOT_IN_C = frozenset({"rsqrt", "sigmoid", "popcount", "abs"})


def reinterpret(src: str, dst: str, where: str) -> Unary:
    """An element of `src` -> the element of `dst` with the same bits."""
    src, dst = dtypes.scalar(src), dtypes.scalar(dst)
    if dtypes.bits(src) != dtypes.bits(dst):
        raise RunError(
            f"reinterpret of {src} as {dst}: the sizes differ, in {where}", code="reinterpret"
        )
    a, b = dtypes.numpy_dtype(src), dtypes.numpy_dtype(dst)
    kind: Unary = float if dtypes.is_float(dst) else bool if dtypes.is_bool(dst) else int
    return lambda x: kind(np.array(x).astype(a).view(b)[()])


def on_arrays(op: VectorOp) -> Callable[..., list[Any]]:
    """A vector intrinsic as a function of sequences of elements."""
    kinds = [dtypes.numpy_dtype(dtypes.scalar(a)) for a in op.args]
    result = dtypes.numpy_dtype(dtypes.scalar(op.result))

    def run(*args: Any) -> list[Any]:
        arrays = [np.atleast_1d(np.array(a)).astype(k) for a, k in zip(args, kinds)]
        return _as_elements(op.numpy(*arrays).astype(result), op.result)

    return run


def _as_elements(values: Any, dtype: str) -> list[Any]:
    if dtypes.is_float(dtype):
        values = values.astype(np.float64)
    out: list[Any] = values.tolist()
    return out


def reinterpret_lanes(src: str, dst: str, where: str) -> Callable[[Any], list[Any]]:
    """The elements of `src` -> those of `dst` with the same bits in memory, lowest lane first."""
    if dtypes.bits(src) * dtypes.lanes(src) != dtypes.bits(dst) * dtypes.lanes(dst):
        raise RunError(
            f"reinterpret of {src} as {dst}: the sizes differ, in {where}", code="reinterpret"
        )
    a, b = dtypes.numpy_dtype(dtypes.scalar(src)), dtypes.numpy_dtype(dtypes.scalar(dst))
    return lambda xs: _as_elements(np.atleast_1d(np.array(xs)).astype(a).view(b), dst)
