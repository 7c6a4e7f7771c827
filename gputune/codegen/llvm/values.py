"""How does a value of the program stand in LLVM text? Names, types, constants.

Narrow floats (16 and 8 bits) are held as `float`, always at a value of their dtype; in memory they
are integers of their size. bool is `i1`, in memory `i8`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

from ...ir import dtypes

_COMPUTE = {
    "float64": "double", "float32": "float", "float16": "float", "bfloat16": "float",
    "float8_e4m3": "float", "float8_e5m2": "float", "bool": "i1", "handle": "ptr",
}  # fmt: skip
_STORED = {
    "float64": "double", "float32": "float", "float16": "i16", "bfloat16": "i16",
    "float8_e4m3": "i8", "float8_e5m2": "i8", "bool": "i8", "handle": "ptr",
}  # fmt: skip
NARROW = frozenset({"float16", "bfloat16", "float8_e4m3", "float8_e5m2"})


@dataclass(slots=True, eq=False)
class V:
    """An LLVM value: `ref` as text, the scalar `dtype` of the program, how many `lanes`, the
    nesting depth of its definition, and its value if it is a constant integer."""

    ref: str
    dtype: str
    lanes: int = 1
    depth: int = 0
    const: int | None = None


@cache
def scalar_type(dtype: str) -> str:
    """LLVM type in which a scalar dtype is computed."""
    found = _COMPUTE.get(dtype)
    return found if found is not None else f"i{dtypes.bits(dtype)}"


@cache
def llvm_type(dtype: str, lanes: int = 1) -> str:
    """LLVM type in which a value is computed."""
    one = scalar_type(dtype)
    return one if lanes == 1 else f"<{lanes} x {one}>"


@cache
def stored_type(dtype: str, lanes: int = 1) -> str:
    """LLVM type of the value in memory."""
    found = _STORED.get(dtype)
    one = found if found is not None else f"i{dtypes.bits(dtype)}"
    return one if lanes == 1 else f"<{lanes} x {one}>"


def type_of(v: V) -> str:
    """LLVM type of `v`."""
    return llvm_type(v.dtype, v.lanes)


def suffix(llvm: str) -> str:
    """How intrinsic names spell a type: "<16 x float>" -> "v16f32"."""
    if llvm.startswith("<"):
        n, _, one = llvm[1:-1].partition(" x ")
        return f"v{n}{suffix(one)}"
    return {"float": "f32", "double": "f64", "half": "f16", "ptr": "p0"}.get(llvm, llvm)


def int_const(value: int, dtype: str = "int64") -> V:
    """A constant integer or bool, wrapped into its dtype."""
    if dtype == "bool":
        return V("true" if value else "false", dtype, const=int(bool(value)))
    bits = dtypes.bits(dtype)
    value &= (1 << bits) - 1
    if not dtypes.is_unsigned(dtype) and value >> (bits - 1):
        value -= 1 << bits
    return V(str(value), dtype, const=value)


def float_const(value: float, dtype: str) -> V:
    """A constant float, rounded to its dtype."""
    if dtype == "float64":
        exact = value
    else:
        import numpy as np

        with np.errstate(over="ignore"):
            exact = float(np.float64(value).astype(dtypes.numpy_dtype(dtype)))
    return V(float_text(exact), dtype)


def float_text(value: float) -> str:
    """LLVM's exact spelling of a double (also used for floats that it holds exactly)."""
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return f"0x{bits:016X}"


def f32_text(value: float) -> str:
    """LLVM's spelling of `value` rounded to float32."""
    return float_text(struct.unpack("<f", struct.pack("<f", value))[0])


def is_const_text(ref: str) -> bool:
    """Is this the text of a constant?"""
    return not ref.startswith("%")
