"""Where do the constants of the math functions come from? This computes them.

    python ci/math_coefficients.py            writes gputune/codegen/llvm/coefficients.py
    python ci/math_coefficients.py --check    fails where that file is another one

Each table is a minimax polynomial, found by the exchange algorithm of Remez on a grid of Chebyshev
points, with the decimal arithmetic of Python's library at 70 digits; nothing is copied from a
library. float32 coefficients are rounded one after another from the lowest power up, and the rest
is fitted again each time, so that the later ones make good what the earlier ones lost.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Sequence
from decimal import ROUND_FLOOR, Decimal, getcontext
from pathlib import Path

getcontext().prec = 70
D = Decimal
Real = Callable[[Decimal], Decimal]
FILE = Path(__file__).resolve().parent.parent / "gputune" / "codegen" / "llvm" / "coefficients.py"


# ----------------------------------------------------------------------------- exact functions
def arctan_inverse(n: int) -> Decimal:
    """arctan(1 / n), by its series."""
    total, term, k = D(0), D(1) / n, 1
    while abs(term) > D(10) ** -80:
        total += term / k if k % 4 == 1 else -term / k
        term /= n * n
        k += 2
    return total


PI = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))  # Machin
LN2, LN10 = D(2).ln(), D(10).ln()


def erf(x: Decimal) -> Decimal:
    """By the series around 0; good to 50 digits up to 6."""
    term, total, n = x, x, 0
    while abs(term) > D(10) ** -66:
        n += 1
        term *= -x * x / n
        total += term / (2 * n + 1)
    return 2 * total / PI.sqrt()


def sin_series(x: Decimal) -> Decimal:
    """By the series around 0."""
    term, total, n = x, x, 1
    while abs(term) > D(10) ** -68:
        term *= -x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


def cos_series(x: Decimal) -> Decimal:
    """By the series around 0."""
    term, total, n = D(1), D(1), 0
    while abs(term) > D(10) ** -68:
        term *= -x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


# ----------------------------------------------------------------------------- minimax fits
def solve(rows: list[list[Decimal]]) -> list[Decimal]:
    """The solution of linear equations; each row ends with its right-hand side."""
    n = len(rows)
    for k in range(n):
        best = max(range(k, n), key=lambda i: abs(rows[i][k]))
        rows[k], rows[best] = rows[best], rows[k]
        for i in range(k + 1, n):
            by = rows[i][k] / rows[k][k]
            rows[i] = [a - by * b for a, b in zip(rows[i], rows[k], strict=True)]
    out = [D(0)] * n
    for k in reversed(range(n)):
        rest = sum((rows[k][j] * out[j] for j in range(k + 1, n)), D(0))
        out[k] = (rows[k][n] - rest) / rows[k][k]
    return out


def points(lo: float, hi: float, n: int) -> list[Decimal]:
    """Chebyshev points of an interval, 0 not among them, rising."""
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    out = [mid - half * math.cos(math.pi * (k + 0.5) / n) for k in range(n)]
    return [D(x) for x in out if x != 0.0]


def minimax(
    xs: Sequence[Decimal], ys: Sequence[Decimal], ws: Sequence[Decimal], terms: int
) -> tuple[list[Decimal], Decimal]:
    """The polynomial of so many terms whose greatest weighted error on the grid is least, lowest
    power first, and that error."""
    n = terms + 1
    powers = [[x**p for p in range(terms)] for x in xs]
    at = [round((len(xs) - 1) * (1 - math.cos(math.pi * k / (n - 1))) / 2) for k in range(n)]
    coefs, least = [D(0)] * (n - 1), D(0)
    for _ in range(30):
        rows = [[*powers[i], (-1) ** k / ws[i], ys[i]] for k, i in enumerate(at)]
        *coefs, level = solve(rows)
        errors = [
            (sum((c * t for c, t in zip(coefs, row, strict=True)), D(0)) - y) * w
            for row, y, w in zip(powers, ys, ws, strict=True)
        ]
        least = max(map(abs, errors))
        if least <= abs(level) * D("1.0001"):
            break
        at = alternation(errors, n)
    return coefs, least


def alternation(errors: Sequence[Decimal], n: int) -> list[int]:
    """`n` places where the error is extreme, its signs alternating."""
    runs: list[int] = []
    for i, e in enumerate(errors):
        if not runs or (e > 0) != (errors[runs[-1]] > 0):
            runs.append(i)
        elif abs(e) > abs(errors[runs[-1]]):
            runs[-1] = i
    size = [abs(errors[i]) for i in runs]
    while len(runs) > n + 1:  # the least pair of neighbours goes
        k = min(range(len(runs) - 1), key=lambda i: max(size[i], size[i + 1]))
        del runs[k : k + 2], size[k : k + 2]
    if len(runs) > n:
        runs.pop(0 if size[0] < size[-1] else -1)
    if len(runs) < n:
        raise ArithmeticError(f"the error alternates {len(runs)} times, {n} are needed")
    return runs


def single(x: Decimal) -> Decimal:
    """Rounded to float32."""
    return D(struct.unpack("<f", struct.pack("<f", float(x)))[0])


def double(x: Decimal) -> Decimal:
    """Rounded to float64."""
    return D(float(x))


def fit(
    f: Real, lo: float, hi: float, degree: int, bits: int, weight: Real = lambda x: D(1)
) -> tuple[list[float], float]:
    """The polynomial in float32 or float64 nearest to `f`, highest power first; its error as a
    power of two (before the rounding of float64)."""
    xs = points(lo, hi, 24 * (degree + 2))
    ys, ws = [f(x) for x in xs], [abs(weight(x)) for x in xs]
    out, worst = minimax(xs, ys, ws, degree + 1)
    if bits == 32:
        for k in range(degree + 1):
            out[k] = single(out[k])
            if k == degree:
                break
            ys = [(y - out[k]) / x for x, y in zip(xs, ys, strict=True)]
            ws = [w * abs(x) for x, w in zip(xs, ws, strict=True)]
            out[k + 1 :], worst = minimax(xs, ys, ws, degree - k)
    return [float(c) for c in reversed(out)], math.log2(worst)


# ----------------------------------------------------------------------------- the tables
HALF_LN2 = 0.34658  # a little more than ln(2) / 2
LOG_LO, LOG_HI = -0.25, 0.5  # of m - 1, with m in [3/4, 3/2)


def exp_rest(r: Decimal) -> Decimal:
    """(exp(r) - 1 - r) / r^2."""
    return (r.exp() - 1 - r) / (r * r)


def tanh_weight(r: Decimal) -> Decimal:
    """What an error of exp_rest is of exp(r) - 1."""
    return r * r / (r.exp() - 1)


def log_rest(t: Decimal) -> Decimal:
    """(log(1 + t) - t + t^2 / 2) / t^3."""
    return ((1 + t).ln() - t + t * t / 2) / t**3


def log_weight(t: Decimal) -> Decimal:
    """What an error of log_rest is of log(1 + t)."""
    return t**3 / (1 + t).ln()


def erf_near(z: Decimal) -> Decimal:
    """erf(x) / x - 1, of z = x^2."""
    return erf(z.sqrt()) / z.sqrt() - 1


def erfc_log(x: Decimal) -> Decimal:
    """-log(1 - erf(x))."""
    return -(1 - erf(x)).ln()


def atanh_rest(z: Decimal) -> Decimal:
    """(2 atanh(s) / s - 2 - 2/3 z) / z^2 / ln(2), of z = s^2."""
    s = z.sqrt()
    return (((1 + s) / (1 - s)).ln() / s - 2 - 2 * z / 3) / (z * z) / LN2


def sin_rest(z: Decimal) -> Decimal:
    """(sin(r) / r - 1) / z, of z = r^2."""
    r = z.sqrt()
    return (sin_series(r) / r - 1) / z


def cos_rest(z: Decimal) -> Decimal:
    """(cos(r) - 1 + z / 2) / z^2, of z = r^2."""
    return (cos_series(z.sqrt()) - 1 + z / 2) / (z * z)


QUARTER_PI = 0.786

Table = tuple[str, Real, float, float, int, int, Real | None]


def exp2_rest(r: Decimal) -> Decimal:
    """(2^r - 1) / r."""
    return ((r * LN2).exp() - 1) / r


def exp10_rest(r: Decimal) -> Decimal:
    """(10^r - 1) / r."""
    return ((r * LN10).exp() - 1) / r


# name, function, interval, degree, bits, and what an error of it is of the result
TABLES: list[Table] = [
    ("EXP", exp_rest, -HALF_LN2, HALF_LN2, 4, 32, lambda r: r * r),
    ("EXP", exp_rest, -HALF_LN2, HALF_LN2, 9, 64, lambda r: r * r),
    ("TANH", exp_rest, 0.14 - HALF_LN2, 0.14 + HALF_LN2, 5, 32, tanh_weight),
    ("TANH", exp_rest, 0.14 - HALF_LN2, 0.14 + HALF_LN2, 10, 64, tanh_weight),
    ("EXP2", exp2_rest, -0.5, 0.5, 5, 32, lambda r: r),
    ("EXP2", exp2_rest, -0.5, 0.5, 10, 64, lambda r: r),
    ("EXP10", exp10_rest, -0.1506, 0.1506, 5, 32, lambda r: r),
    ("EXP10", exp10_rest, -0.1506, 0.1506, 10, 64, lambda r: r),
    ("LOG", log_rest, LOG_LO, LOG_HI, 7, 32, log_weight),
    ("LOG", log_rest, LOG_LO, LOG_HI, 18, 64, log_weight),
    ("ERF_NEAR", erf_near, 0.0, 0.64, 5, 32, None),
    ("ERF_NEAR", erf_near, 0.0, 1.0, 11, 64, None),
    ("ERF_FAR", erfc_log, 0.8, 3.95, 6, 32, lambda x: 1 - erf(x)),
    ("ERF_FAR", erfc_log, 1.0, 5.95, 17, 64, lambda x: 1 - erf(x)),
    ("POW_LOG2", lambda t: (1 + t).ln() / LN2 / t, LOG_LO, LOG_HI, 12, 64, None),
    ("POW_EXP2", lambda r: (r * LN2).exp(), -0.5, 0.5, 6, 64, None),
    ("POW_ATANH", atanh_rest, 0.0, 0.0408, 7, 64, None),
    ("SIN", sin_rest, 0.0, QUARTER_PI**2, 3, 64, lambda z: z),
    ("COS", cos_rest, 0.0, QUARTER_PI**2, 3, 64, lambda z: z * z),
]


def parts(x: Decimal, *sizes: int) -> list[float]:
    """`x` as numbers of so many significant bits each, and the rest as one float64; none is
    negative."""
    out = []
    for bits in sizes:
        step = D(2) ** (math.frexp(float(x))[1] - bits)
        out.append(float((x / step).to_integral_value(ROUND_FLOOR) * step))
        x -= D(out[-1])
    return [*out, float(x)]


CONSTANTS: list[tuple[str, str, Sequence[float]]] = [
    ("LN2_32", "ln(2) in two parts: the first times an exponent is exact", parts(LN2, 12)),
    ("LN2_64", "likewise for float64", parts(LN2, 38)),
    ("LG2_32", "log10(2), likewise", parts(LN2 / LN10, 12)),
    ("LG2_64", "likewise for float64", parts(LN2 / LN10, 38)),
    ("LOG2E", "1 / ln(2)", parts(1 / LN2)),
    ("LOG2E_32", "in two parts: the first times 12 bits is exact", parts(1 / LN2, 12)),
    ("LOG2E_64", "likewise for float64, 26 bits", parts(1 / LN2, 27)),
    ("LOG10E", "1 / ln(10)", parts(1 / LN10)),
    ("LOG10E_32", "in parts likewise", parts(1 / LN10, 12)),
    ("LOG10E_64", "likewise for float64", parts(1 / LN10, 27)),
    ("LOG2_10", "log2(10)", parts(LN10 / LN2)),
    ("POW_FIRST", "2 / ln(2) in two parts", parts(2 / LN2, 53)),
    ("POW_THIRD", "2 / ln(8) in two parts", parts(2 / (3 * LN2), 53)),
    ("HALF_PI", "pi / 2 in parts: the first two times 20 bits are exact", parts(PI / 2, 33, 33)),
    ("TWO_OVER_PI", "2 / pi", parts(2 / PI)),
]


def text(numbers: Sequence[float], bits: int) -> str:
    """The numbers as lines of a tuple."""
    if bits == 32:
        import numpy as np

        words = [str(np.float32(c)) for c in numbers]
    else:
        words = [repr(c) for c in numbers]
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line])


def main(args: list[str]) -> int:
    """Write or check the file; the exit status."""
    only = [a for a in args if not a.startswith("-")]
    out = ['"""The constants of the math functions. Written by ci/math_coefficients.py."""\n']
    for name, what, numbers in CONSTANTS:
        out.append(f"# {what}\n{name} = (\n{text(numbers, 64)}\n)  # fmt: skip\n")
    for name, f, lo, hi, degree, bits, weight in TABLES:
        if only and name not in only:
            continue
        numbers, error = fit(f, lo, hi, degree, bits, weight or (lambda x: D(1)))
        head = f"# {lo} to {hi}, greatest error 2^{error:.1f}"
        out.append(f"{head}\n{name}_{bits} = (\n{text(numbers, bits)}\n)  # fmt: skip\n")
        print(name, bits, degree, f"2^{error:.1f}", file=sys.stderr)
    if only:
        return 0
    written = "\n".join(out)
    if "--check" in args:
        same = FILE.read_text() == written
        print(
            f"{FILE.name}: {'as computed' if same else 'NOT what ci/math_coefficients.py writes'}"
        )
        return 0 if same else 1
    FILE.write_text(written)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
