"""How are times, rates and foreign text written for people to read?"""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """A time with three figures and its unit: "35.1 us", "2.04 ms", "1.20 s"."""
    if not math.isfinite(seconds):
        return "-"
    for limit, scale, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit * 0.9995:
            return f"{three(seconds * scale)} {unit}"
    return f"{three(seconds)} s"


def three(x: float) -> str:
    """A number with three figures and no exponent: "0.0123", "1.20", "35.1", "812", "4096"."""
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else "-"
    digits = 2 - math.floor(math.log10(abs(x)))
    if round(abs(x), max(digits, 0)) >= 10 ** (3 - digits):
        digits -= 1  # 9.999 is 10.0
    return f"{x:.{max(digits, 0)}f}"


def rate(flops: float | None, seconds: float) -> str:
    """Operations a second in 10**9, or "-" where either is not known."""
    if not flops or not math.isfinite(seconds) or seconds <= 0:
        return "-"
    return three(flops / seconds * 1e-9)


def times(ratio: float) -> str:
    """A speed ratio: "1.00x", "54.7x"."""
    return f"{three(ratio)}x" if math.isfinite(ratio) and ratio > 0 else "-"


def plain(text: str, limit: int = 200) -> str:
    """Text of a file as one line that no terminal takes for a command."""
    out = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return out if len(out) <= limit else out[: limit - 3] + "..."
