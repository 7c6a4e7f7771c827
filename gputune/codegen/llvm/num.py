"""How is a computation on floats written down here? Values with operators: `a * b + 1.0`.

A `Num` is a value of the function being generated, of any number of lanes; every operator appends
one instruction, and Python's numbers stand for constants of the same type. Sums and products are
rounded one by one; `fma` is where a product may go into a sum unrounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ops
from .fn import Fn
from .values import V, float_const, int_const, suffix, type_of


@dataclass(frozen=True, slots=True)
class Format:
    """float32 or float64: the integer of its size, the bits of its mantissa, the bias of its
    exponent, what to add so that the sum is rounded to an integer, the least normal number, and
    how AVX-512 names it."""

    dtype: str
    bits: str
    mantissa: int
    bias: int
    round: float
    least: float
    ps: str

    @property
    def round_bits(self) -> int:
        """The bits of `round`."""
        return ((self.bias + self.mantissa) << self.mantissa) + (1 << (self.mantissa - 1))

    @property
    def width(self) -> int:
        """Bits of a number."""
        return 32 if self.mantissa == 23 else 64


FORMATS = {
    "float32": Format("float32", "int32", 23, 127, 1.5 * 2.0**23, 2.0**-126, "ps"),
    "float64": Format("float64", "int64", 52, 1023, 1.5 * 2.0**52, 2.0**-1022, "pd"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Num:
    """A float, integer or bool value of `f`, with operators."""

    f: Fn
    v: V

    @property
    def format(self) -> Format:
        """What kind of float it is."""
        return FORMATS[self.v.dtype]

    def same(self, x: Num | float) -> Num:
        """`x`, or the constant `x` in the type of this value."""
        if isinstance(x, Num):
            return x
        is_float = self.v.dtype in FORMATS
        one = float_const(x, self.v.dtype) if is_float else int_const(int(x), self.v.dtype)
        return Num(self.f, ops.splat(self.f, one, self.v.lanes))

    def _raw(self, opcode: str, a: V, b: V) -> Num:
        return Num(self.f, ops.raw(self.f, opcode, a, b))

    def _arith(self, op: str, other: Num | float) -> Num:
        opcode = op if self.v.dtype not in FORMATS else f"f{op}"
        return self._raw(opcode, self.v, self.same(other).v)

    def __add__(self, other: Num | float) -> Num:
        return self._arith("add", other)

    def __sub__(self, other: Num | float) -> Num:
        return self._arith("sub", other)

    def __mul__(self, other: Num | float) -> Num:
        return self._arith("mul", other)

    def __truediv__(self, other: Num | float) -> Num:
        return self._arith("div", other)

    def __neg__(self) -> Num:
        text = f"fneg {type_of(self.v)} {self.v.ref}"
        return Num(self.f, self.f.op(text, self.v.dtype, self.v.lanes, self.v.depth))

    def __abs__(self) -> Num:
        return Num(self.f, ops.absolute(self.f, self.v))

    def __and__(self, other: Num | float) -> Num:
        return self._raw("and", self.v, self.same(other).v)

    def __or__(self, other: Num | float) -> Num:
        return self._raw("or", self.v, self.same(other).v)

    def __xor__(self, other: Num | float) -> Num:
        return self._raw("xor", self.v, self.same(other).v)

    def __lshift__(self, other: Num | float) -> Num:
        return self._raw("shl", self.v, self.same(other).v)

    def __rshift__(self, other: Num | float) -> Num:
        """Zeros come in from above."""
        return self._raw("lshr", self.v, self.same(other).v)

    def __lt__(self, other: Num | float) -> Num:
        return self.compare("<", other)

    def __gt__(self, other: Num | float) -> Num:
        return self.compare(">", other)

    def compare(self, op: str, other: Num | float) -> Num:
        """The bools of a comparison; false where a side is NaN, but for "!="."""
        return Num(self.f, ops.compare(self.f, op, self.v, self.same(other).v))

    def fma(self, by: Num | float, plus: Num | float) -> Num:
        """self * by + plus, in one operation where the processor has it."""
        args = [self.v, self.same(by).v, self.same(plus).v]
        return self._call("fmuladd", args)

    def exact_fma(self, by: Num, plus: Num) -> Num:
        """self * by + plus, rounded once (only where `fuses`)."""
        return self._call("fma", [self.v, by.v, plus.v])

    def _call(self, name: str, args: list[V]) -> Num:
        full = f"llvm.{name}.{suffix(type_of(self.v))}"
        return Num(self.f, ops.call(self.f, full, self.v.dtype, args))

    def sqrt(self) -> Num:
        """The square root."""
        return self._call("sqrt", [self.v])

    def trunc(self) -> Num:
        """Rounded to an integer, toward zero."""
        return self._call("trunc", [self.v])

    def with_sign_of(self, x: Num) -> Num:
        """The magnitude of this value with the sign of `x`."""
        return self._call("copysign", [self.v, x.v])

    def poly(self, coefs: Sequence[float]) -> Num:
        """The polynomial of this value, by Horner's rule; highest power first."""
        out = self.same(coefs[0])
        for c in coefs[1:]:
            out = out.fma(self, c)
        return out

    def at_least(self, lo: float) -> Num:
        """The greater of it and `lo`; NaN stays."""
        return where(self < lo, self.same(lo), self)

    def at_most(self, hi: float) -> Num:
        """The lesser of it and `hi`; NaN stays."""
        return where(self > hi, self.same(hi), self)

    def bits(self) -> Num:
        """The bits as integers."""
        return Num(self.f, ops.bitcast(self.f, self.v, self.format.bits))

    def floats(self) -> Num:
        """The floats with these bits."""
        dtype = "float32" if self.v.dtype == "int32" else "float64"
        return Num(self.f, ops.bitcast(self.f, self.v, dtype))

    def to(self, dtype: str) -> Num:
        """As float32 or float64."""
        opcode = "fpext" if dtype == "float64" else "fptrunc"
        return Num(self.f, ops.convert(self.f, opcode, self.v, dtype))


def where(cond: Num, a: Num | float, b: Num) -> Num:
    """`a` where `cond`, else `b`."""
    return Num(b.f, ops.choose(b.f, cond.v, b.same(a).v, b.v))


def fuses(f: Fn) -> bool:
    """Does the processor compute a * b + c with one rounding?"""
    return not f.module.x86 or "fma" in f.module.features


# ----------------------------------------------------------------------------- AVX-512
def has_avx512(f: Fn) -> bool:
    """Are there AVX-512's instructions on exponents?"""
    return f.module.x86 and "avx512f" in f.module.features


def on_registers(name: str, args: Sequence[Num], immediate: int | None = None) -> Num:
    """The AVX-512 instruction `name` (scalef, getexp, getmant, rsqrt14) on values of any lane
    count: cut into registers, the last of them as short as there is one."""
    f, lanes, kind = args[0].f, args[0].v.lanes, args[0].format
    most = 512 // kind.width
    out: list[V] = []
    for start in range(0, lanes, most):
        n = min(most, lanes - start)
        wide = _register_lanes(f, n, kind)
        parts = [_cut(f, x.v, start, n, wide) for x in args]
        out.append(_cut(f, _masked(f, name, parts, wide, kind, immediate), 0, wide, n))
    return Num(f, _joined(f, out))


def _register_lanes(f: Fn, n: int, kind: Format) -> int:
    sizes = (128, 256, 512) if "avx512vl" in f.module.features else (512,)
    return next(size // kind.width for size in sizes if size // kind.width >= n)


def _masked(
    f: Fn, name: str, args: list[V], wide: int, kind: Format, immediate: int | None
) -> V:  # fmt: skip
    size = wide * kind.width
    mask = V("-1", "int16" if wide == 16 else "int8")
    if name == "rsqrt14":
        full, rest = f"llvm.x86.avx512.rsqrt14.{kind.ps}.{size}", []
    else:
        full = f"llvm.x86.avx512.mask.{name}.{kind.ps}.{size}"
        rest = [int_const(4, "int32")] if size == 512 else []  # round as the processor is set
    given = [] if immediate is None else [int_const(immediate, "int32")]
    before = V("zeroinitializer", kind.dtype, wide)
    return ops.call(f, full, kind.dtype, [*args, *given, before, mask, *rest])


def _cut(f: Fn, v: V, start: int, n: int, wide: int) -> V:
    """Lanes `start` to `start + n` in a vector of `wide` lanes (a scalar is of one lane); where
    `wide` is less than `n`, its first ones."""
    if (start, n, wide) == (0, v.lanes, v.lanes):
        return v
    if wide == 1:
        return ops.lane(f, v, start)
    if v.ref.startswith("splat ("):
        return ops.splat(f, ops.lane(f, v, 0), wide)
    if v.lanes == 1:
        text = f"insertelement <{wide} x {type_of(v)}> zeroinitializer, {type_of(v)} {v.ref}, i64 0"
        return f.op(text, v.dtype, wide, v.depth)
    picks = ", ".join(f"i32 {start + k if k < n else v.lanes}" for k in range(wide))
    text = f"shufflevector {type_of(v)} {v.ref}, {type_of(v)} zeroinitializer, <{wide} x i32> "
    return f.op(f"{text}<{picks}>", v.dtype, wide, v.depth)


def _joined(f: Fn, parts: list[V]) -> V:
    """One vector of all the lanes; all parts but the last are of one length."""
    out = parts[0]
    for v in parts[1:]:
        n = out.lanes + v.lanes
        a, b = _cut(f, out, 0, out.lanes, n), _cut(f, v, 0, v.lanes, n)
        picks = ", ".join(f"i32 {k if k < out.lanes else n + k - out.lanes}" for k in range(n))
        text = f"shufflevector {type_of(a)} {a.ref}, {type_of(b)} {b.ref}, <{n} x i32> <{picks}>"
        out = f.op(text, v.dtype, n, max(a.depth, b.depth))
    return out


# ----------------------------------------------------------------------------- pairs
@dataclass(frozen=True, slots=True)
class Pair:
    """An unevaluated sum of two floats, the second small beside the first."""

    hi: Num
    lo: Num

    def times(self, other: Pair) -> Pair:
        """The product, but for what is as small as lo * lo."""
        p = product(self.hi, other.hi)
        return Pair(p.hi, self.hi.fma(other.lo, self.lo.fma(other.hi, p.lo)))


def pair_sum(a: Num, b: Num, rest: Num) -> Pair:
    """a + b + rest, with |a| > |b| (or a = 0): Dekker's fast sum."""
    hi = a + b
    return Pair(hi, ((a - hi) + b) + rest)


def product(a: Num, b: Num) -> Pair:
    """a * b exactly: by a fused operation, or by Veltkamp's halves and Dekker's product."""
    hi = a * b
    if fuses(a.f):
        return Pair(hi, a.exact_fma(b, -hi))
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return Pair(hi, ((a1 * b1 - hi) + a1 * b2 + a2 * b1) + a2 * b2)


def _halves(a: Num) -> tuple[Num, Num]:
    c = a * (2.0 ** ((a.format.mantissa + 2) // 2) + 1.0)
    hi = c - (c - a)
    return hi, a - hi
