"""How is exp computed? The math intrinsics: own polynomials on float32, library calls otherwise.

LLVM turns `llvm.exp` of a vector into one library call per lane, so exp, exp2, exp10, tanh,
sigmoid, erf and log on float32 are polynomials here; they work on any number of lanes and are
accurate to two units in the last place (erf, tanh and sigmoid: three).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...errors import BuildError
from ...ir import dtypes
from .fn import Fn
from .ops import (
    absolute,
    as_dtype,
    bitcast,
    call,
    choose,
    compare,
    convert,
    f32,
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
_LIBRARY = {
    "exp": "exp", "exp2": "exp2", "log": "log", "log2": "log2", "log10": "log10",
    "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asin": "asin", "acos": "acos", "atan": "atan", "atan2": "atan2", "erf": "erf",
    "pow": "pow", "fmod": "fmod", "hypot": "hypot",
}  # fmt: skip


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
    if op == "rsqrt":
        root = call(f, f"llvm.sqrt.{suffix(type_of(a))}", a.dtype, [a])
        return raw(f, "fdiv", splat(f, float_const(1.0, a.dtype), a.lanes), root)
    if a.dtype == "float32" and op in _OWN:
        return _OWN[op](f, a)
    if op == "sigmoid":
        one = splat(f, float_const(1.0, a.dtype), a.lanes)
        minus = f.op(f"fneg {type_of(a)} {a.ref}", a.dtype, a.lanes, a.depth)
        return raw(f, "fdiv", one, raw(f, "fadd", one, _library(f, "exp", [minus])))
    if op == "exp10":
        return _library(f, "pow", [splat(f, float_const(10.0, a.dtype), a.lanes), a])
    if op in _LIBRARY:
        return _library(f, _LIBRARY[op], args)
    raise BuildError(f"T.{op} has no code on llvm targets")


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


# ----------------------------------------------------------------------------- polynomials
def _c(f: Fn, a: V, value: float) -> V:
    return splat(f, f32(value), a.lanes)


def _mul(f: Fn, a: V, b: V) -> V:
    return raw(f, "fmul contract", a, b)


def _fma(f: Fn, a: V, b: V, c: V) -> V:
    return raw(f, "fadd contract", _mul(f, a, b), c)


def _polynomial(f: Fn, x: V, coefs: Sequence[float]) -> V:
    """Horner's rule; the highest coefficient first."""
    out = _c(f, x, coefs[0])
    for c in coefs[1:]:
        out = _fma(f, out, x, _c(f, x, c))
    return out


# Minimax fits of our own: of (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, then 1 + r.
_EXP = (
    1.9917103988e-4, 1.3947283891e-3, 8.3332670673e-3, 4.1666252642e-2, 1.6666666847e-1,
    5.0000000832e-1, 1.0, 1.0,
)  # fmt: skip
_LN2_HI, _LN2_LO = 0.693359375, -2.12194440054690583e-4  # the first has nine bits: n * hi is exact
_ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds a float to an integer


def _scaled(f: Fn, x: V, n_float: V, r: V) -> V:
    """exp(r) * 2 ** n for |r| <= ln(2) / 2; `n_float` is n + 1.5 * 2^23."""
    p = _polynomial(f, r, _EXP)
    magic = splat(f, int_const(0x4B400000, "int32"), x.lanes)
    n = raw(f, "sub", bitcast(f, n_float, "int32"), magic)
    # Two factors, so that results below and above the normal range come out right.
    half = raw(f, "ashr", n, splat(f, int_const(1, "int32"), x.lanes))
    rest = raw(f, "sub", n, half)
    for part in (half, rest):
        bias = splat(f, int_const(127, "int32"), x.lanes)
        bits = raw(f, "shl", raw(f, "add", part, bias), splat(f, int_const(23, "int32"), x.lanes))
        p = raw(f, "fmul", p, bitcast(f, bits, "float32"))
    return p


def _clamp(f: Fn, x: V, lo: float, hi: float) -> V:
    """`x` within bounds; NaN stays."""
    a, b = _c(f, x, lo), _c(f, x, hi)
    x = choose(f, compare(f, ">", x, b), b, x)
    return choose(f, compare(f, "<", x, a), a, x)


def _exp(f: Fn, x: V) -> V:
    x = _clamp(f, x, -104.0, 89.0)
    n_float = _fma(f, x, _c(f, x, 1.4426950408889634), _c(f, x, _ROUND))
    n = raw(f, "fsub", n_float, _c(f, x, _ROUND))
    r = _fma(f, n, _c(f, x, -_LN2_HI), x)
    r = _fma(f, n, _c(f, x, -_LN2_LO), r)
    return _scaled(f, x, n_float, r)


def _exp2(f: Fn, x: V) -> V:
    x = _clamp(f, x, -151.0, 129.0)
    n_float = raw(f, "fadd", x, _c(f, x, _ROUND))
    n = raw(f, "fsub", n_float, _c(f, x, _ROUND))
    r = raw(f, "fsub", x, n)
    return _scaled(f, x, n_float, _mul(f, r, _c(f, x, math.log(2))))


def _exp10(f: Fn, x: V) -> V:
    x = _clamp(f, x, -46.0, 39.0)
    n_float = _fma(f, x, _c(f, x, math.log2(10)), _c(f, x, _ROUND))
    n = raw(f, "fsub", n_float, _c(f, x, _ROUND))
    hi = 0.30078125  # log10(2) to nine bits
    r = _fma(f, n, _c(f, x, -hi), x)
    r = _fma(f, n, _c(f, x, -(math.log10(2) - hi)), r)
    return _scaled(f, x, n_float, _mul(f, r, _c(f, x, math.log(10))))


def _sigmoid(f: Fn, x: V) -> V:
    one = _c(f, x, 1.0)
    minus = f.op(f"fneg {type_of(x)} {x.ref}", x.dtype, x.lanes, x.depth)
    return raw(f, "fdiv", one, raw(f, "fadd", one, _exp(f, minus)))


def _with_sign(f: Fn, magnitude: V, x: V) -> V:
    return call(f, f"llvm.copysign.{suffix(type_of(x))}", x.dtype, [magnitude, x])


_TANH = (
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1
)  # fmt: skip


def _tanh(f: Fn, x: V) -> V:
    a = absolute(f, x)
    z = _mul(f, x, x)
    near = _fma(f, _mul(f, _polynomial(f, z, _TANH), z), a, a)
    e = _exp(f, raw(f, "fadd", a, a))
    one, two = _c(f, x, 1.0), _c(f, x, 2.0)
    far = raw(f, "fsub", one, raw(f, "fdiv", two, raw(f, "fadd", e, one)))
    return _with_sign(f, choose(f, compare(f, "<", a, _c(f, x, 0.625)), near, far), x)


_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


def _log(f: Fn, x: V) -> V:
    """log(x) = log(m) + e ln 2 with m in [sqrt(1/2), sqrt(2))."""

    def c(value: int) -> V:
        return splat(f, int_const(value, "int32"), x.lanes)

    tiny = compare(f, "<", x, _c(f, x, 1.17549435e-38))
    scaled = choose(f, tiny, raw(f, "fmul", x, _c(f, x, 2.0**25)), x)
    shift = choose(f, tiny, _c(f, x, -25.0), _c(f, x, 0.0))
    bits = raw(f, "sub", bitcast(f, scaled, "int32"), c(0x3F3504F3))
    e_int = raw(f, "ashr", bits, c(23))
    m_bits = raw(f, "add", raw(f, "and", bits, c(0x007FFFFF)), c(0x3F3504F3))
    e = raw(f, "fadd", convert(f, "sitofp", e_int, "float32"), shift)
    m = raw(f, "fsub", bitcast(f, m_bits, "float32"), _c(f, x, 1.0))
    z = _mul(f, m, m)
    y = _mul(f, _mul(f, _polynomial(f, m, _LOG), m), z)
    y = _fma(f, e, _c(f, x, _LN2_LO), y)
    y = _fma(f, z, _c(f, x, -0.5), y)
    out = _fma(f, e, _c(f, x, _LN2_HI), raw(f, "fadd", m, y))
    inf, zero = _c(f, x, math.inf), _c(f, x, 0.0)
    out = choose(f, compare(f, "==", x, inf), inf, out)
    out = choose(f, compare(f, "==", x, zero), _c(f, x, -math.inf), out)
    valid = compare(f, ">=", x, zero)
    return choose(f, valid, out, splat(f, V("0x7FF8000000000000", "float32"), x.lanes))


# erf(x) / x - 1 in x^2 for |x| <= 0.93, and -log(erfc(x)) for 0.9 <= x <= 4.05.
_ERF_NEAR = (
    8.3452164242e-5, -8.1374353721e-4, 5.2006340934e-3, -2.6859270689e-2, 1.1283693940e-1,
    -3.7612633697e-1, 1.2837916664e-1,
)  # fmt: skip
_ERF_FAR = (
    7.3731613698e-7, 1.1313232901e-5, -3.7886046064e-4, 3.9941354828e-3, -2.4774579378e-2,
    1.0785829409e-1, 6.3366325217e-1, 1.1293818355, -1.5061819837e-4,
)  # fmt: skip


def _erf(f: Fn, x: V) -> V:
    a = absolute(f, x)
    near = _fma(f, _polynomial(f, _mul(f, a, a), _ERF_NEAR), a, a)
    limit = _c(f, x, 4.05)
    inner = choose(f, compare(f, ">", a, limit), limit, a)
    g = _polynomial(f, inner, _ERF_FAR)
    minus = f.op(f"fneg {type_of(g)} {g.ref}", g.dtype, g.lanes, g.depth)
    far = raw(f, "fsub", _c(f, x, 1.0), _exp(f, minus))
    return _with_sign(f, choose(f, compare(f, "<", a, _c(f, x, 0.92)), near, far), x)


_OWN: dict[str, Callable[[Fn, V], V]] = {
    "exp": _exp,
    "exp2": _exp2,
    "exp10": _exp10,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "log": _log,
    "erf": _erf,
}
