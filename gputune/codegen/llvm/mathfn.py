"""Which code computes a math intrinsic? Own vector functions, instructions, or library calls.

LLVM turns `llvm.exp` of a vector into one library call per lane. So there are own functions, of
float32 and float64: exp, exp2, exp10, sigmoid, tanh, erf (math_exp.py), log, log2, log10, log1p
(math_log.py), pow, rsqrt (math_pow.py). They take any number of lanes, and their results are within
two units in the last place everywhere, numbers below the least normal one included; infinities, NaN
and zeros with their signs are those of the C standard. Narrower floats are computed in float32 and
rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import BuildError
from ...ir import dtypes
from . import math_angle, math_exp, math_log, math_pow
from .fn import Fn
from .num import Num
from .ops import (
    absolute,
    as_dtype,
    call,
    choose,
    compare,
    gather_lanes,
    lane,
    raw,
    rounded,
    splat,
)
from .values import NARROW, V, float_const, int_const, suffix, type_of

# LLVM has these for vectors, in few instructions.
_NATIVE = {
    "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "nearbyint": "rint",
    "round": "round", "copysign": "copysign",
}  # fmt: skip
# These are functions of the C library, called lane by lane.
_LIBRARY = frozenset({
    "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "atan2", "fmod", "hypot",
})  # fmt: skip
_OWN: dict[str, Callable[..., Num]] = {
    "exp": math_exp.exp,
    "exp2": math_exp.exp2,
    "exp10": math_exp.exp10,
    "sigmoid": math_exp.sigmoid,
    "tanh": math_exp.tanh,
    "erf": math_exp.erf,
    "log": math_log.log,
    "log2": math_log.log2,
    "log10": math_log.log10,
    "log1p": math_log.log1p,
    "pow": math_pow.power,
    "rsqrt": math_pow.rsqrt,
}
_ANGLES = {"sin": math_angle.sin, "cos": math_angle.cos}


def intrinsic(f: Fn, op: str, dtype: str, args: list[V]) -> V:
    """The math intrinsic `op` on values of one lane count; the result has the scalar `dtype`."""
    a = args[0]
    if not dtypes.is_float(a.dtype):
        return _on_ints(f, op, a)
    if op in ("isnan", "isinf", "isfinite"):
        return _classify(f, op, a)
    if a.dtype in NARROW:
        wide = [as_dtype(x, "float32") for x in args]
        out = intrinsic(f, op, "float32", wide)
        return rounded(f, as_dtype(out, a.dtype))
    if op == "abs":
        return absolute(f, a)
    if op in _NATIVE:
        return call(f, f"llvm.{_NATIVE[op]}.{suffix(type_of(a))}", a.dtype, args)
    if op in _OWN:
        return _OWN[op](*[Num(f, x) for x in args]).v
    if op in _ANGLES and a.dtype == "float32":
        return _angle(f, op, a)
    if op in _LIBRARY:
        return _library(f, op, args)
    raise BuildError(f"T.{op} has no code on llvm targets")


def _angle(f: Fn, op: str, a: V) -> V:
    """sin or cos of float32: the library's in lanes that are far from 0."""
    near = _ANGLES[op](Num(f, a)).v
    far = math_angle.is_far(Num(f, a)).v
    any_far = far if a.lanes == 1 else call(f, f"llvm.vector.reduce.or.v{a.lanes}i1", "bool", [far])
    out = f.branch(any_far, lambda: choose(f, far, _library(f, op, [a]), near), lambda: near)
    assert out is not None  # both sides have a value
    return out


def _library(f: Fn, name: str, args: list[V]) -> V:
    """A pure function of the C math library, lane by lane."""
    dtype, lanes = args[0].dtype, args[0].lanes
    if lanes > 1:
        parts = [_library(f, name, [lane(f, x, k) for x in args]) for k in range(lanes)]
        return gather_lanes(f, parts)
    return call(f, name if dtype == "float64" else f"{name}f", dtype, args)


def _on_ints(f: Fn, op: str, a: V) -> V:
    if op == "popcount" and dtypes.is_int(a.dtype):
        return call(f, f"llvm.ctpop.{suffix(type_of(a))}", a.dtype, [a])
    if op == "abs" and dtypes.is_int(a.dtype):
        if dtypes.is_unsigned(a.dtype):
            return a
        zero = splat(f, int_const(0, a.dtype), a.lanes)
        return choose(f, compare(f, "<", a, zero), raw(f, "sub", zero, a), a)
    raise BuildError(f"T.{op} is not defined on {a.dtype}")


def _classify(f: Fn, op: str, a: V) -> V:
    if op == "isnan":
        return f.op(f"fcmp uno {type_of(a)} {a.ref}, {a.ref}", "bool", a.lanes, a.depth)
    kind = a.dtype if a.dtype == "float64" else "float32"
    inf = splat(f, float_const(math.inf, kind), a.lanes)
    return compare(f, "==" if op == "isinf" else "<", absolute(f, as_dtype(a, kind)), inf)
