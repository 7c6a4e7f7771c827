"""How far are the math functions of llvm kernels from the truth, in units in the last place?

    python tests/codegen/math_accuracy.py              a table: functions x dtypes x processors
    python tests/codegen/math_accuracy.py --all exp    every float32, and many float64 (minutes)

The truth about float32 is NumPy in float64, about float64 NumPy in the 80-bit numbers of x86 (64
bits of mantissa; `WIDE` is False where there are none).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]

from llvm_running import FakeTarget, host, parse, targets

from gputune.codegen.llvm import compile, load

Array = np.ndarray[Any, Any]
Long = np.longdouble
WIDE = np.finfo(Long).nmant >= 63
DTYPES = ("float32", "float64")
CHUNK = 1 << 14


# ----------------------------------------------------------------------------- the truth
def erf(x: Array) -> Array:
    """By the series whose terms are all positive: no digits cancel."""
    kind = x.dtype.type
    a = np.clip(np.abs(x), 0, kind(7))
    square, term, total = a * a, a, a
    for n in range(1, 220):
        term = term * (2 * square / kind(2 * n + 1))
        total = total + term
    pi = kind("3.14159265358979323846264338327950288") if kind is Long else kind(np.pi)
    out = 2 / np.sqrt(pi) * np.exp(-square) * total
    return np.copysign(np.where(a > 6.5, kind(1), out), x)


TRUTH: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: np.power(x.dtype.type(10), x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh, "erf": erf, "log": np.log,
    "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin, "cos": np.cos, "pow": np.power,
}  # fmt: skip
CASES = [
    (name, dtype)
    for name in TRUTH
    for dtype in DTYPES
    if (name, dtype) not in (("sin", "float64"), ("cos", "float64"))  # the library's
]


def truth(name: str, *xs: Array) -> Array:
    """The value in a wider type."""
    wide = np.float64 if xs[0].dtype == np.float32 else Long
    with np.errstate(all="ignore"):
        out: Array = TRUTH[name](*[x.astype(wide) for x in xs])
    return out


def ulps(got: Array, exact: Array) -> Array:
    """The error in units in the last place of the exact value; infinite where one is NaN, infinite
    or negative (zeros included) and the other is not."""
    info, kind = np.finfo(got.dtype), exact.dtype.type
    with np.errstate(all="ignore"):
        near = exact.astype(got.dtype)
        exponent = np.maximum(np.frexp(np.abs(exact))[1] - 1, info.minexp)
        unit = np.ldexp(kind(1), exponent - info.nmant)
        out = np.abs(got.astype(kind) - exact) / unit
    out[~np.isfinite(exact) | ~np.isfinite(got)] = np.inf
    edge = np.abs(exact) > kind(info.max) * (1 - 2 * kind(info.eps))  # infinity or the greatest
    out[np.isinf(got) & np.isfinite(exact) & edge] = 1
    out[(got == near) & ~np.isfinite(near)] = 0
    out[np.signbit(got) != np.signbit(near)] = np.inf
    out[np.isnan(got) & np.isnan(exact)] = 0
    return out


# ----------------------------------------------------------------------------- the functions
@cache
def kernel(name: str, dtype: str, lanes: int, target: FakeTarget, expr: str = "") -> Any:
    """The function on CHUNK numbers, in vectors of `lanes`."""
    n = CHUNK // lanes
    args = "A[v], B[v]" if name == "pow" else "A[v]"
    text = f"""
@T.prim_func
def main(A: T.Buffer(({CHUNK},), "{dtype}"), B: T.Buffer(({CHUNK},), "{dtype}"),
         Z: T.Buffer(({CHUNK},), "{dtype}")):
    for i in range({n + (CHUNK % lanes > 0)}):
        for j in T.vectorized({lanes}):
            with T.block("Z"):
                v = T.axis.spatial({CHUNK}, i * {lanes} + j)
                T.where(i * {lanes} + j < {CHUNK})
                Z[v] = {expr or f"T.{name}({args})"}
"""
    made = compile(parse(text), target)
    return made, load(made.object_code, made.symbol)


def values(
    name: str, *xs: Array, lanes: int = 0, target: FakeTarget | None = None, expr: str = ""
) -> Array:
    """What the machine code gives for arrays of any length."""
    dtype = str(xs[0].dtype)
    _, run = kernel(name, dtype, lanes or 64 // xs[0].itemsize, target or host(), expr)
    a, b, z = (np.ones(CHUNK, dtype) for _ in range(3))
    slots = np.array([x.ctypes.data for x in (a, b, z)], np.int64)
    out = np.empty_like(xs[0])
    for start in range(0, len(out), CHUNK):
        n = min(CHUNK, len(out) - start)
        a[:n] = xs[0][start : start + n]
        b[:n] = xs[-1][start : start + n]
        assert run(slots.ctypes.data) == 0
        out[start : start + n] = z[:n]
    return out


# ----------------------------------------------------------------------------- where to look
def specials(dtype: str) -> Array:
    """Zeros, infinities, NaN, the ends of the ranges, and numbers where functions turn."""
    t = np.finfo(dtype)
    some = [
        0, np.inf, 1, 2, 3, 0.5, 1.5, 0.75, 10, 0.8, 3.95, 5.95, t.max, t.tiny, t.tiny / 2,
        t.smallest_subnormal, 3 * t.smallest_subnormal, 1 + t.eps, 1 - t.epsneg, 1 / t.eps, 2.0**20,
        np.log(float(t.max)), -np.log(float(t.smallest_subnormal)), -t.minexp, t.maxexp, t.nmant,
    ]  # fmt: skip
    x = np.array(some).astype(dtype)
    with np.errstate(over="ignore"):
        up, down = (np.nextafter(x, x.dtype.type(to)) for to in (np.inf, 0))
    x = np.concatenate([x, up, down])
    return np.concatenate([x, -x, [np.array(np.nan, dtype)]])


def sample(dtype: str, n: int, seed: int) -> Array:
    """`specials`, and some `n` each of all bits, of several ranges around 0, and around 1."""
    rng = np.random.default_rng(seed)
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    every = rng.integers(0, np.iinfo(bits).max, n, bits, endpoint=True).view(dtype)
    ranges = [rng.uniform(-r, r, n) for r in (0.5, 2.0, 12.0, 110.0)]
    if dtype == "float64":
        ranges.append(rng.uniform(-760, 760, n))
    ones = [1 + rng.uniform(-r, r, n) for r in (0.6, 0.01)]
    return np.concatenate([specials(dtype), every, *(x.astype(dtype) for x in (*ranges, *ones))])


def pairs(dtype: str, n: int, seed: int) -> tuple[Array, Array]:
    """Arguments of pow: all pairs of specials, and some `n` each of several kinds."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).type
    top = float(np.log(np.finfo(dtype).max))
    more = np.array([-2, -3, 2.5, -2.5, 2.0**23 + 1, 2.0**24, 2.0**52 + 1, 2.0**53, -1e10], kind)
    some = np.concatenate([specials(dtype), more])
    a, b = (m.ravel() for m in np.meshgrid(some, some))
    kinds = [
        (np.exp(rng.uniform(-top, top, n) * 0.999), rng.uniform(-1.1, 1.1, n)),
        (rng.uniform(0.5, 2, n), rng.uniform(-1.5 * top, 1.5 * top, n)),
        (1 + rng.uniform(-1e-3, 1e-3, n), rng.uniform(-1e5, 1e5, n)),
        (rng.uniform(-20, 20, n), np.rint(rng.uniform(-30, 30, n))),
        (rng.uniform(0, 100, n), rng.uniform(-5, 5, n)),
    ]
    return (
        np.concatenate([a, *(x.astype(dtype) for x, _ in kinds)]),
        np.concatenate([b, *(y.astype(dtype) for _, y in kinds)]),
    )


def worst(name: str, xs: tuple[Array, ...], target: FakeTarget | None = None) -> tuple[float, str]:
    """The greatest error on these arguments, and where it is."""
    got, exact = values(name, *xs, target=target), truth(name, *xs)
    error = ulps(got, exact)
    k = int(error.argmax())
    where = ", ".join(repr(x[k]) for x in xs)
    return float(error[k]), f"{name}({where}) = {got[k]!r}, not {exact[k]!r}"


def arguments(name: str, dtype: str, n: int, seed: int = 0) -> tuple[Array, ...]:
    """What to look at: some `n` numbers each of several kinds."""
    return pairs(dtype, n, seed) if name == "pow" else (sample(dtype, n, seed),)


def _everything(name: str, dtype: str) -> Iterator[tuple[Array, ...]]:
    if dtype == "float32" and name != "pow":
        for start in range(0, 1 << 32, 1 << 24):
            yield (np.arange(start, start + (1 << 24), dtype=np.uint32).view(np.float32),)
        return
    for seed in range(20):
        yield arguments(name, dtype, 200_000, seed)


def main(args: list[str]) -> None:
    """Print the greatest error of each function."""
    names = [a for a in args if not a.startswith("-")]
    for name, dtype in CASES:
        if (names and not {name, dtype} & set(names)) or (dtype == "float64" and not WIDE):
            continue
        if "--all" in args:
            found = max(worst(name, xs) for xs in _everything(name, dtype))
            print(f"{name:8} {dtype}  {found[0]:.3f}  {found[1]}", flush=True)
            continue
        for target in targets():
            error, where = worst(name, arguments(name, dtype, 20_000), target)
            print(f"{name:8} {dtype} {target.mcpu:12} {error:.3f}  {where}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
