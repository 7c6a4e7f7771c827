"""How are pow and rsqrt computed? pow is 2^(y log2 |x|), with enough bits of the logarithm.

float32: in float64, whose 53 bits are plenty. float64: the logarithm as a pair of floats, from the
series of 2 atanh((m - 1) / (m + 1)), whose first two terms are pairs too. The special cases are
those of the C standard (annex F).
"""

from __future__ import annotations

import math

from . import coefficients as table
from .math_exp import normal_power, power_of_two
from .math_log import split
from .num import Num, Pair, has_avx512, on_registers, pair_sum, product, where


def power(x: Num, y: Num) -> Num:
    """x^y."""
    size = _narrow(abs(x), y) if x.v.dtype == "float32" else _wide(abs(x), y)
    half = y * 0.5
    whole = y.trunc().compare("==", y)
    odd = whole & half.trunc().compare("!=", half)
    sign = where(odd, x, x.same(1.0))
    out = size.with_sign_of(sign)
    refused = (x < 0.0) & (x > -math.inf) & y.trunc().compare("!=", y)
    out = where(refused, math.nan, out)
    return where(x.compare("==", 1.0) | y.compare("==", 0.0), 1.0, out)


def _at_the_ends(a: Num, y: Num, out: Num) -> Num:
    """`out`, but the power of 0 and infinity where the magnitude is one of these."""
    zero = a.compare("==", 0.0)
    ends = zero | a.compare("==", math.inf)
    up = zero ^ (y > 0.0)
    usual = ends ^ y.compare("==", y)  # a NaN stays
    ended = where(up, math.inf, out.same(0.0))
    return where(usual, out, where(y.compare("==", y), ended, y))


def _narrow(a: Num, y: Num) -> Num:
    """|x|^y of float32."""
    wide, by = a.to("float64"), y.to("float64").at_most(1e300).at_least(-1e300)
    p = split(wide, tiny=False)
    t = p.m - 1.0
    z = (by * t.fma(t.poly(table.POW_LOG2_64), p.e)).at_most(200.0).at_least(-200.0)
    big = z + z.format.round
    r = z - (big - z.format.round)
    out = (r.poly(table.POW_EXP2_64) * normal_power(big)).to("float32")
    return _at_the_ends(a, y, where(a.compare("==", a), out, a))


def _wide(a: Num, y: Num) -> Num:
    """|x|^y of float64."""
    by = y.at_most(2.0**66).at_least(-(2.0**66))  # more makes no difference
    log = _log2(a)
    z = product(by, log.hi)
    rest = by.fma(log.lo, z.lo)
    near = z.hi.at_most(1030.0).at_least(-1080.0)
    rest = where(near.compare("==", z.hi), rest, rest.same(0.0))
    big = near + near.format.round
    r = (near - (big - near.format.round)) + rest
    out = power_of_two(r.poly((*table.EXP2_64, 1.0)), big)
    return _at_the_ends(a, y, where(a.compare("==", a), out, a))


def _log2(a: Num) -> Pair:
    """log2 of a positive float64 to some 64 bits."""
    p = split(a)
    above, below = p.m - 1.0, p.m + 1.0
    lost = p.m - (below - 1.0)
    inverse = below.same(1.0) / below
    s = above * inverse
    back = product(s, below)
    s_rest = (((above - back.hi) - back.lo) - s * lost) * inverse
    ratio = Pair(s, s_rest)
    z = ratio.times(ratio)
    third, third_rest = table.POW_THIRD
    first, first_rest = table.POW_FIRST
    tail = pair_sum(s.same(third), z.hi * z.hi.poly(table.POW_ATANH_64), s.same(third_rest))
    w = z.times(tail)
    log = ratio.times(pair_sum(s.same(first), w.hi, w.lo + first_rest))
    return pair_sum(p.e, log.hi, log.lo)


def rsqrt(x: Num) -> Num:
    """1 / sqrt(x). With AVX-512: an estimate of 14 bits, made better by Newton and Halley."""
    if not has_avx512(x.f):
        return x.same(1.0) / x.sqrt()
    first = on_registers("rsqrt14", [x])
    y = first
    for _ in range(1 if x.v.dtype == "float32" else 2):
        off = -(x * y).fma(y, -1.0)
        y = (y * off).fma(off.fma(0.375, 0.5), y)
    return where(y.compare("==", y), y, first)  # infinity of 0, and 0 of infinity, stay
