"""What are the element types, and how do they map to NumPy?

A dtype is a string: a scalar name such as "float32", optionally followed by "x<lanes>" for a
vector, such as "float32x16". "handle" is a pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
SCALARS = (*FLOATS, *SIGNED, *UNSIGNED, "bool")

_ML_DTYPES = {
    "bfloat16": "bfloat16",
    "float8_e4m3": "float8_e4m3fn",  # the OCP format that GPUs implement: finite, one NaN
    "float8_e5m2": "float8_e5m2",
}


@cache
def split(dtype: str) -> tuple[str, int]:
    """The scalar name and the number of lanes: "float32x4" -> ("float32", 4)."""
    head, x, tail = dtype.rpartition("x")
    if x and tail.isdigit():
        return head, int(tail)
    return dtype, 1


def scalar(dtype: str) -> str:
    """The scalar name: "float32x4" -> "float32"."""
    return split(dtype)[0]


def lanes(dtype: str) -> int:
    """The number of lanes: 1 for a scalar."""
    return split(dtype)[1]


def with_lanes(dtype: str, n: int) -> str:
    """The dtype with another number of lanes."""
    base = split(dtype)[0]
    return base if n == 1 else f"{base}x{n}"


def is_float(dtype: str) -> bool:
    """Is it a floating type, scalar or vector?"""
    return split(dtype)[0] in FLOATS


def is_int(dtype: str) -> bool:
    """Signed or unsigned integer; bool is neither."""
    base = split(dtype)[0]
    return base in SIGNED or base in UNSIGNED


def is_unsigned(dtype: str) -> bool:
    """Is it an unsigned integer, scalar or vector?"""
    return split(dtype)[0] in UNSIGNED


def is_bool(dtype: str) -> bool:
    """Is it bool, scalar or vector?"""
    return split(dtype)[0] == "bool"


def bits(dtype: str) -> int:
    """Bits of one element in memory (bool: 8)."""
    return int(numpy_dtype(split(dtype)[0]).itemsize) * 8


def itemsize(dtype: str) -> int:
    """Bytes of one element in memory."""
    return int(numpy_dtype(split(dtype)[0]).itemsize)


@cache
def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of a scalar dtype; ValueError on a name that is not one of SCALARS."""
    if dtype in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))
        return found
    if dtype not in SCALARS:
        raise ValueError(f"unknown dtype {dtype!r}; known are: {', '.join(SCALARS)}")
    return np.dtype(dtype)


@cache
def from_numpy(dtype: np.dtype[Any]) -> str:
    """The dtype name of a NumPy dtype."""
    name = dtype.name
    for ours, theirs in _ML_DTYPES.items():
        if name == theirs:
            return ours
    if name in SCALARS:
        return name
    raise ValueError(f"NumPy dtype {name!r} has no gputune dtype; known are: {', '.join(SCALARS)}")


@cache
def min_value(dtype: str) -> float | int:
    """The least finite value."""
    if is_bool(dtype):
        return 0
    if is_int(dtype):
        return int(np.iinfo(numpy_dtype(scalar(dtype))).min)
    import ml_dtypes

    return float(ml_dtypes.finfo(numpy_dtype(scalar(dtype))).min)  # type: ignore[no-untyped-call]  # untyped


@cache
def max_value(dtype: str) -> float | int:
    """The greatest finite value."""
    if is_bool(dtype):
        return 1
    if is_int(dtype):
        return int(np.iinfo(numpy_dtype(scalar(dtype))).max)
    import ml_dtypes

    return float(ml_dtypes.finfo(numpy_dtype(scalar(dtype))).max)  # type: ignore[no-untyped-call]  # untyped


def promote(a: str, b: str) -> str:
    """The dtype in which `a op b` is computed when no cast is written: the wider of two of a kind;
    a float wins over an integer. Lanes: those of the vector side."""
    (sa, la), (sb, lb) = split(a), split(b)
    n = max(la, lb)
    if sa == sb:
        return with_lanes(sa, n)
    if is_float(sa) != is_float(sb):
        return with_lanes(sa if is_float(sa) else sb, n)
    if sa == "bool" or sb == "bool":
        return with_lanes(sb if sa == "bool" else sa, n)
    wider = sa if bits(sa) >= bits(sb) else sb
    if is_int(sa) and bits(sa) == bits(sb):  # int32 with uint32: signed, as indices are
        wider = sa if sa in SIGNED else sb
    return with_lanes(wider, n)


def access_dtype(buffer_dtype: str, indices: Sequence[Any]) -> str:
    """The dtype of an access: a vector when an index is one."""
    n = 1
    for i in indices:
        n = max(n, split(i.dtype)[1])
    return buffer_dtype if n == 1 else with_lanes(buffer_dtype, n)
