"""Which intrinsic functions exist? One table that script, interpreter and backends share.

A math intrinsic is written `T.exp(x)` and stands in the program as `Call("exp", (x,), dtype)`. The
result has the dtype of the first argument, or bool where `to_bool`. The NumPy function computes it
on scalars and arrays (in float32 for narrower floats) and is the meaning of the intrinsic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MathOp:
    """One math intrinsic: number of arguments, NumPy meaning, result kind, integer operands."""

    arity: int
    numpy: Callable[..., Any]
    to_bool: bool = False
    on_ints: bool = False


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _popcount(x: Any) -> Any:
    return np.bitwise_count(x)


def _round(x: Any) -> Any:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)  # half away from zero, like C's round


MATH: dict[str, MathOp] = {
    "exp": MathOp(1, np.exp),
    "exp2": MathOp(1, np.exp2),
    "exp10": MathOp(1, lambda x: np.power(10.0, x)),
    "log": MathOp(1, np.log),
    "log2": MathOp(1, np.log2),
    "log10": MathOp(1, np.log10),
    "log1p": MathOp(1, np.log1p),
    "sqrt": MathOp(1, np.sqrt),
    "rsqrt": MathOp(1, lambda x: 1.0 / np.sqrt(x)),
    "sin": MathOp(1, np.sin),
    "cos": MathOp(1, np.cos),
    "tan": MathOp(1, np.tan),
    "sinh": MathOp(1, np.sinh),
    "cosh": MathOp(1, np.cosh),
    "tanh": MathOp(1, np.tanh),
    "asin": MathOp(1, np.arcsin),
    "acos": MathOp(1, np.arccos),
    "atan": MathOp(1, np.arctan),
    "atan2": MathOp(2, np.arctan2),
    "sigmoid": MathOp(1, lambda x: 1.0 / (1.0 + np.exp(-x))),
    "erf": MathOp(1, _erf),
    "pow": MathOp(2, np.power),
    "fmod": MathOp(2, np.fmod),
    "copysign": MathOp(2, np.copysign),
    "hypot": MathOp(2, np.hypot),
    "floor": MathOp(1, np.floor),
    "ceil": MathOp(1, np.ceil),
    "trunc": MathOp(1, np.trunc),
    "round": MathOp(1, _round),
    "nearbyint": MathOp(1, np.rint),
    "abs": MathOp(1, np.abs, on_ints=True),
    "isnan": MathOp(1, np.isnan, to_bool=True),
    "isinf": MathOp(1, np.isinf, to_bool=True),
    "isfinite": MathOp(1, np.isfinite, to_bool=True),
    "popcount": MathOp(1, _popcount, on_ints=True),
}

STRUCTURAL = ("if_then_else", "likely", "assume", "call_extern", "reinterpret")
"""Intrinsics with a meaning of their own: `if_then_else(c, a, b)` evaluates one side; `likely(c)`
is c; `assume(c)` promises c; `call_extern(name, ...)` calls a C function of the process;
`reinterpret(x)` keeps the bits and changes the dtype (of equal size)."""
