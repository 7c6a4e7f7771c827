"""How are exp, exp2, exp10, sigmoid, tanh and erf computed? By polynomials between powers of two.

The argument is reduced as Cody and Waite do: exp(x) = 2^n exp(r), where n is x / ln(2) rounded to
an integer, and r is x - n ln(2) with ln(2) in two parts. All lanes take one path, without a table.
"""

from __future__ import annotations

from . import coefficients as table
from .num import Num, has_avx512, on_registers, where

_EXP = {"float32": table.EXP_32, "float64": table.EXP_64}
_TANH = {"float32": table.TANH_32, "float64": table.TANH_64}
_EXP2 = {"float32": table.EXP2_32, "float64": table.EXP2_64}
_EXP10 = {"float32": table.EXP10_32, "float64": table.EXP10_64}
_LN2 = {"float32": table.LN2_32, "float64": table.LN2_64}
_LG2 = {"float32": table.LG2_32, "float64": table.LG2_64}
_ERF_NEAR = {"float32": table.ERF_NEAR_32, "float64": table.ERF_NEAR_64}
_ERF_FAR = {"float32": table.ERF_FAR_32, "float64": table.ERF_FAR_64}


# Beyond these arguments the result is 0, or infinity.
_EXP_RANGE = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}
_EXP2_RANGE = {"float32": (-151.0, 128.0), "float64": (-1076.0, 1024.0)}
_EXP10_RANGE = {"float32": (-46.0, 39.0), "float64": (-325.0, 309.0)}
# From here on the result is 1 (or -1).
_TANH_ONE = {"float32": 9.25, "float64": 19.5}
_ERF_ONE = {"float32": 3.95, "float64": 5.95}
_ERF_MIDDLE = {"float32": 0.8, "float64": 1.0}


def power_of_two(p: Num, big: Num) -> Num:
    """p * 2^n for an integer n, given as `big` = n + the number that rounds; what leaves the range
    of normal numbers comes out rounded once more, as 0 or as infinity."""
    kind = p.format
    if has_avx512(p.f):
        return on_registers("scalef", [p, big - kind.round])
    bits = big.bits()  # the bits of the number that rounds vanish in the shifts
    half = bits >> 1
    for part in (half, bits - half):
        p = p * ((part << kind.mantissa) + (kind.bias << kind.mantissa)).floats()
    return p


def near_power_of_two(p: Num, big: Num) -> Num:
    """The same where 2^n is a normal number."""
    if has_avx512(p.f):
        return on_registers("scalef", [p, big - p.format.round])
    return p * normal_power(big)


def normal_power(big: Num) -> Num:
    """2^n, where it is a normal number, for `big` as above."""
    kind = big.format
    return ((big.bits() << kind.mantissa) + (kind.bias << kind.mantissa)).floats()


def _reduced(x: Num, middle: float = 0.0) -> tuple[Num, Num]:
    """(n + the number that rounds, r) with x = n ln(2) + r; r lies around `middle`."""
    kind = x.format
    big = (x - middle if middle else x).fma(table.LOG2E[0], kind.round)
    n = big - kind.round
    hi, lo = _LN2[kind.dtype]
    return big, n.fma(-lo, n.fma(-hi, x))


def _exp_near(r: Num) -> Num:
    """exp(r) for |r| <= ln(2) / 2."""
    return r.poly((*_EXP[r.format.dtype], 1.0, 1.0))


def exp(x: Num) -> Num:
    """e^x."""
    lo, hi = _EXP_RANGE[x.format.dtype]
    big, r = _reduced(x.at_most(hi).at_least(lo))
    return power_of_two(_exp_near(r), big)


def exp2(x: Num) -> Num:
    """2^x."""
    kind = x.format
    lo, hi = _EXP2_RANGE[kind.dtype]
    x = x.at_most(hi).at_least(lo)
    big = x + kind.round
    r = x - (big - kind.round)
    return power_of_two(r.poly((*_EXP2[kind.dtype], 1.0)), big)


def exp10(x: Num) -> Num:
    """10^x."""
    kind = x.format
    lo, hi = _EXP10_RANGE[kind.dtype]
    x = x.at_most(hi).at_least(lo)
    big = x.fma(table.LOG2_10[0], kind.round)
    n = big - kind.round
    first, second = _LG2[kind.dtype]
    r = n.fma(-second, n.fma(-first, x))
    return power_of_two(r.poly((*_EXP10[kind.dtype], 1.0)), big)


def sigmoid(x: Num) -> Num:
    """1 / (1 + e^-x), by way of e^-|x|, which does not overflow."""
    dtype = x.format.dtype
    big, r = _reduced((-abs(x)).at_least(_EXP_RANGE[dtype][0]))
    above = (r * r).fma(r.poly(_EXP[dtype]), r)
    p = above + 1.0
    e = power_of_two(p, big)
    below = e + 1.0
    is_low = x < 0.0
    out = where(is_low, e, x.same(1.0)) / below
    # What rounding did to the two sums, roughly: 1 / p is 2 - p, and 1 / (1 + e) is 1 - e / 2.
    p_lost = ((-p + 1.0) + above) * (-p + 2.0)
    lost = ((below - 1.0) - e) + where(is_low, p_lost, x.same(0.0))
    return out.fma(lost * e.fma(-0.5, 1.0), out)


def tanh(x: Num) -> Num:
    """t / (t + 2) with t = e^(2 |x|) - 1 = 2^n (e^r - 1) + (2^n - 1), accurate near 0 too.

    n is rounded down rather than up, as t has a larger error where n is 1 and r negative.
    """
    kind = x.format
    a = abs(x).at_most(_TANH_ONE[kind.dtype])
    big, r = _reduced(a + a, 0.14)
    rest = (r * r) * r.poly(_TANH[kind.dtype])
    q = r + rest
    s = normal_power(big)
    t = q.fma(s, s - 1.0)
    below = t + 2.0
    out = t / below
    # What rounding did to q, and to the sum where that matters; 1 / (t + 2) is (1 - out) / 2.
    q_lost = ((r - q) + rest) * s
    lost = where(t < 4096.0, (below - 2.0) - t, t.same(0.0)) - q_lost
    out = out.fma(-0.5, 0.5).fma(out.fma(lost, q_lost), out)
    return out.with_sign_of(x)


def erf(x: Num) -> Num:
    """A polynomial near 0; 1 - e^-g with a polynomial g beyond."""
    dtype = x.format.dtype
    a = abs(x)
    near = a.fma((a * a).poly(_ERF_NEAR[dtype]), a)
    big, r = _reduced(-a.at_most(_ERF_ONE[dtype]).poly(_ERF_FAR[dtype]))
    far = -near_power_of_two(_exp_near(r), big) + 1.0
    return where(a < _ERF_MIDDLE[dtype], near, far).with_sign_of(x)
