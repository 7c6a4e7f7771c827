"""How are sin and cos of float32 computed? In float64, from a multiple of pi / 2.

x = n pi / 2 + r, with pi / 2 in three parts of which the first two times n are exact (Cody and
Waite). That holds up to 2^20; beyond, it is the C library's turn.
"""

from __future__ import annotations

import math

from . import coefficients as table
from . import ops
from .num import FORMATS, Num, where

FARTHEST = 2.0**20
"""Up to here the reduction is exact enough."""


def is_far(x: Num) -> Num:
    """Which lanes hold finite numbers beyond FARTHEST?"""
    a = abs(x)
    return (a > FARTHEST) & (a < math.inf)


def sin(x: Num) -> Num:
    """The sine of numbers that are not far."""
    return _wave(x, 0)


def cos(x: Num) -> Num:
    """The cosine of numbers that are not far."""
    return _wave(x, 1)


def _wave(x: Num, quarter: int) -> Num:
    """sin(x + quarter pi / 2)."""
    wide = x.to("float64")
    magic = FORMATS["float64"].round
    big = wide.fma(table.TWO_OVER_PI[0], magic)
    n = big - magic
    r = wide
    for part in table.HALF_PI:
        r = n.fma(-part, r)
    z = r * r
    sine = r * z.fma(z.poly(table.SIN_64), 1.0)
    cosine = z.fma(z.fma(z.poly(table.COS_64), -0.5), 1.0)
    turns = big.bits() + quarter
    odd = Num(x.f, ops.cast(x.f, "bool", (turns & 1).v))
    down = (turns & 2) << 62
    return (where(odd, cosine, sine).bits() ^ down).floats().to("float32")
