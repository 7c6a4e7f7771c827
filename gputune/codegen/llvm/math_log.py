"""How are log, log2, log10 and log1p computed? By one polynomial of the mantissa.

x = m 2^e with m in [3/4, 3/2), so that log(x) = e ln(2) + log(1 + t) with t = m - 1, exact. There
is no table, and no division: log(1 + t) is t - t^2 / 2 + t^3 P(t), its parts added smallest first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import coefficients as table
from .num import Num, has_avx512, on_registers, where

_LOG = {"float32": table.LOG_32, "float64": table.LOG_64}
_LN2 = {"float32": table.LN2_32, "float64": table.LN2_64}
_LG2 = {"float32": table.LG2_32, "float64": table.LG2_64}
_LOG2E = {"float32": table.LOG2E_32, "float64": table.LOG2E_64}
_LOG10E = {"float32": table.LOG10E_32, "float64": table.LOG10E_64}
_MANTISSA = 0b1011  # vgetmant: to [3/4, 3/2); NaN where the number is negative


@dataclass(frozen=True, slots=True)
class Split:
    """x = m 2^e; `e` as a float."""

    m: Num
    e: Num


def split(x: Num, *, tiny: bool = True) -> Split:
    """Mantissa in [3/4, 3/2) and exponent of a positive number. `tiny`: also of those below the
    least normal one. With AVX-512, e of 0 and infinity is -infinity and infinity, m is 1; a
    negative number gives NaN."""
    kind = x.format
    if has_avx512(x.f):
        m = on_registers("getmant", [x], _MANTISSA)
        return Split(m, on_registers("getexp", [x]) - on_registers("getexp", [m]))
    shift = x.same(0.0)
    if tiny:
        small = x < kind.least
        by = kind.mantissa + 1
        x, shift = where(small, x * 2.0**by, x), where(small, shift.same(-by), shift)
    # The bits of 3/4; and the sign's, so that a plain shift serves for the exponent. (AVX2 has
    # neither the signed shift nor the conversion to float for 64 bits.)
    start = ((kind.bias - 1) << kind.mantissa) + (1 << (kind.mantissa - 1))
    top = 1 << (kind.width - 1)
    above = x.bits() - (start - top)
    m = ((above & ((1 << kind.mantissa) - 1)) + start).floats()
    big = (above >> kind.mantissa) + (kind.round_bits - (top >> kind.mantissa))
    return Split(m, (big.floats() - kind.round) + shift)


def _rest(t: Num) -> Num:
    """log(1 + t) - t."""
    return (t * t) * t.fma(t.poly(_LOG[t.format.dtype]), -0.5)


def _special(x: Num, out: Num) -> Num:
    """`out`, with log's values at 0 and infinity, and NaN for negative numbers and NaN."""
    if has_avx512(x.f):
        return out
    out = where(x < math.inf, out, x)
    out = where(x > 0.0, out, x.same(math.nan))
    return where(x.compare("==", 0.0), -math.inf, out)


def _natural(m: Num, e: Num, t: Num) -> Num:
    hi, lo = _LN2[t.format.dtype]
    return e.fma(hi, t + e.fma(lo, _rest(t)))


def log(x: Num) -> Num:
    """The natural logarithm."""
    p = split(x)
    return _special(x, _natural(p.m, p.e, p.m - 1.0))


def log2(x: Num) -> Num:
    """The logarithm to base 2."""
    p = split(x)
    hi, lo = _times(p.m - 1.0, table.LOG2E[0], _LOG2E[x.format.dtype])
    return _special(x, (p.e + hi) + lo)


def log10(x: Num) -> Num:
    """The logarithm to base 10."""
    p = split(x)
    hi, lo = _times(p.m - 1.0, table.LOG10E[0], _LOG10E[x.format.dtype])
    first, second = _LG2[x.format.dtype]
    return _special(x, p.e.fma(first, hi) + p.e.fma(second, lo))


def _times(t: Num, c: float, parts: tuple[float, float]) -> tuple[Num, Num]:
    """log(1 + t) * c as a sum; its first number is exact, the second small beside it."""
    kind = t.format
    first, second = parts
    upper = (t.bits() & -(1 << (kind.mantissa + 2) // 2)).floats()
    return upper * first, (t - upper).fma(first, t.fma(second, _rest(t) * c))


def log1p(x: Num) -> Num:
    """log(1 + x): of the rounded sum, corrected by what rounding took away."""
    kind = x.format
    u = x + 1.0
    p = split(u, tiny=False)
    lost = x - (u - 1.0)
    if has_avx512(x.f):
        scaled = on_registers("scalef", [lost, -p.e])
    else:
        scaled = lost * ((-p.e + (kind.round + kind.bias)).bits() << kind.mantissa).floats()
    usual = (x > -1.0) & (x < 2.0 ** (kind.mantissa + 2))
    t = (p.m - 1.0) + where(usual, scaled, x.same(0.0))
    out = _special(u, _natural(p.m, p.e, t))
    return where(x.compare("==", 0.0), x, out)
