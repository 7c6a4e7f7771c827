"""Which instructions compute an operation? Arithmetic, comparison, conversion, on every dtype.

The meaning is that of `gputune.ir.scalar`; functions take and give `V`s.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import BuildError
from ...ir import dtypes
from .fn import Fn
from .values import (
    NARROW,
    V,
    f32_text,
    float_const,
    float_text,
    int_const,
    is_const_text,
    llvm_type,
    suffix,
    type_of,
)

_FLOAT_OPS = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv", "truncmod": "frem"}
_INT_OPS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}
_FLOAT_COMPARE = {"==": "oeq", "!=": "une", "<": "olt", "<=": "ole", ">": "ogt", ">=": "oge"}
_INT_COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def binary(f: Fn, op: str, a: V, b: V) -> V:
    """`a op b` on two values of one dtype and lane count."""
    if op in _INT_COMPARE:
        return compare(f, op, a, b)
    if op in ("min", "max"):
        return choose(f, compare(f, "<" if op == "min" else ">", a, b), a, b)
    if op in ("and", "or"):
        op = "&" if op == "and" else "|"
    if dtypes.is_float(a.dtype):
        if op not in _FLOAT_OPS:
            raise BuildError(f"{op!r} is not defined on {a.dtype}")
        return _float_binary(f, op, a, b)
    if a.const is not None and b.const is not None and op in _FOLD and a.lanes == 1:
        return int_const(_FOLD[op](a.const, b.const), a.dtype)
    if op in _INT_OPS:
        return raw(f, _INT_OPS[op], a, b)
    if op in ("<<", ">>"):
        return _shift(f, op, a, b)
    return divide(f, op, a, b, nonneg=dtypes.is_unsigned(a.dtype))


_FOLD = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
}


def raw(f: Fn, opcode: str, a: V, b: V) -> V:
    """One LLVM instruction on two values of one type."""
    return f.op(f"{opcode} {type_of(a)} {a.ref}, {b.ref}", a.dtype, a.lanes, max(a.depth, b.depth))


def _float_binary(f: Fn, op: str, a: V, b: V) -> V:
    opcode = _FLOAT_OPS[op]
    if a.dtype in NARROW:
        return rounded(f, raw(f, opcode, a, b))
    if op in ("+", "-", "*"):
        opcode += " contract"  # a product and a sum may become one fused operation
    return raw(f, opcode, a, b)


def compare(f: Fn, op: str, a: V, b: V) -> V:
    """The bool value(s) of a comparison."""
    if a.const is not None and b.const is not None:
        lo = (a.const > b.const) - (a.const < b.const)
        truth = {
            "==": lo == 0, "!=": lo != 0, "<": lo < 0, "<=": lo <= 0, ">": lo > 0, ">=": lo >= 0
        }[op]  # fmt: skip
        return int_const(truth, "bool")
    if dtypes.is_float(a.dtype):
        how = f"fcmp {_FLOAT_COMPARE[op]}"
    else:
        unsigned = dtypes.is_unsigned(a.dtype) or dtypes.is_bool(a.dtype)
        sign = "" if op in ("==", "!=") else "u" if unsigned else "s"
        how = f"icmp {sign}{_INT_COMPARE[op]}"
    text = f"{how} {type_of(a)} {a.ref}, {b.ref}"
    return f.op(text, "bool", a.lanes, max(a.depth, b.depth))


def choose(f: Fn, cond: V, a: V, b: V) -> V:
    """`a` where `cond`, else `b`."""
    if cond.const is not None:
        return a if cond.const else b
    if a.ref == b.ref:
        return a
    text = f"select {type_of(cond)} {cond.ref}, {type_of(a)} {a.ref}, {type_of(b)} {b.ref}"
    return f.op(text, a.dtype, a.lanes, max(a.depth, b.depth, cond.depth))


def negate(f: Fn, a: V) -> V:
    """Logical not."""
    if a.const is not None:
        return int_const(not a.const, "bool")
    return raw(f, "xor", a, splat(f, int_const(1, "bool"), a.lanes))


def splat(f: Fn, a: V, lanes: int) -> V:
    """The vector with `a` in every lane."""
    if lanes == 1 or a.lanes > 1:
        return a
    if is_const_text(a.ref):
        return V(f"splat ({type_of(a)} {a.ref})", a.dtype, lanes)
    one, many = type_of(a), llvm_type(a.dtype, lanes)
    t = f.op(f"insertelement {many} poison, {one} {a.ref}, i64 0", a.dtype, lanes, a.depth)
    text = f"shufflevector {many} {t.ref}, {many} poison, <{lanes} x i32> zeroinitializer"
    return f.op(text, a.dtype, lanes, a.depth)


def lane(f: Fn, a: V, k: int) -> V:
    """Lane `k` of a vector."""
    if a.lanes == 1:
        return a
    if a.ref.startswith("splat ("):
        return V(a.ref[len("splat (") : -1].split(" ", 1)[1], a.dtype)
    return f.op(f"extractelement {type_of(a)} {a.ref}, i64 {k}", a.dtype, 1, a.depth)


def pick(f: Fn, vectors: Sequence[V], lanes: Sequence[int]) -> V:
    """The vector of these lanes of a vector, or of two of one length, one after the other."""
    first, last = vectors[0], vectors[-1]
    kind, picks = type_of(first), ", ".join(f"i32 {k}" for k in lanes)
    other = f"{kind} {last.ref}" if len(vectors) > 1 else f"{kind} poison"
    text = f"shufflevector {kind} {first.ref}, {other}, <{len(lanes)} x i32> <{picks}>"
    return f.op(text, first.dtype, len(lanes), max(first.depth, last.depth))


def gather_lanes(f: Fn, parts: list[V]) -> V:
    """The vector whose lanes are the scalars `parts`."""
    n, dtype = len(parts), parts[0].dtype
    out = V("poison", dtype, n)
    for k, v in enumerate(parts):
        text = f"insertelement {llvm_type(dtype, n)} {out.ref}, {type_of(v)} {v.ref}, i64 {k}"
        out = f.op(text, dtype, n, max(out.depth, v.depth))
    return out


# ----------------------------------------------------------------------------- integers
def _shift(f: Fn, op: str, a: V, b: V) -> V:
    bits = dtypes.bits(a.dtype)
    if b.const is not None and 0 <= b.const < bits:
        by = b
    else:  # out of range is an error of the program; the result is some number, not poison
        by = raw(f, "and", b, splat(f, int_const(bits - 1, b.dtype), b.lanes))
    opcode = "shl" if op == "<<" else "lshr" if dtypes.is_unsigned(a.dtype) else "ashr"
    return raw(f, opcode, a, by)


def divide(f: Fn, op: str, a: V, b: V, *, nonneg: bool) -> V:
    """`//`, `%` (toward minus infinity), `/`, `truncmod` (toward zero) on integers.

    nonneg: neither side is negative (also where the dtype is unsigned). Never traps: x / 0 is x.
    """
    if op not in ("//", "%", "/", "truncmod"):
        raise BuildError(f"{op!r} is not defined on {a.dtype}")
    quotient = op in ("//", "/")
    divisor = b.const if b.const is not None else _splat_const(b)
    if divisor is None:
        b = _safe_divisor(f, a, b, nonneg)
    elif divisor == 0:
        return a
    elif divisor == 1:
        return a if quotient else splat(f, int_const(0, a.dtype), a.lanes)
    elif divisor == -1:
        zero = splat(f, int_const(0, a.dtype), a.lanes)
        return raw(f, "sub", zero, a) if quotient else zero
    if nonneg or dtypes.is_unsigned(a.dtype):
        return raw(f, "udiv" if quotient else "urem", a, b)
    if op in ("/", "truncmod"):
        return raw(f, "sdiv" if quotient else "srem", a, b)
    if divisor is not None and divisor & (divisor - 1) == 0 and divisor > 0:
        if quotient:
            shift = splat(f, int_const(divisor.bit_length() - 1, a.dtype), a.lanes)
            return raw(f, "ashr", a, shift)
        return raw(f, "and", a, splat(f, int_const(divisor - 1, a.dtype), a.lanes))
    zero = splat(f, int_const(0, a.dtype), a.lanes)
    rem = raw(f, "srem", a, b)
    signs = raw(f, "xor", rem, b)
    wrong = binary(f, "and", compare(f, "!=", rem, zero), compare(f, "<", signs, zero))
    if quotient:
        q = raw(f, "sdiv", a, b)
        return choose(f, wrong, raw(f, "sub", q, splat(f, int_const(1, a.dtype), a.lanes)), q)
    return choose(f, wrong, raw(f, "add", rem, b), rem)


def _splat_const(b: V) -> int | None:
    if b.ref.startswith("splat ("):
        text = b.ref[len("splat (") : -1].split(" ", 1)[1]
        return int(text) if text.lstrip("-").isdigit() else None
    return None


def _safe_divisor(f: Fn, a: V, b: V, nonneg: bool) -> V:
    """`b`, or 1 where dividing by it would trap."""
    zero, one = (splat(f, int_const(x, b.dtype), b.lanes) for x in (0, 1))
    bad = compare(f, "==", b, zero)
    if not nonneg and not dtypes.is_unsigned(b.dtype):
        least = splat(f, int_const(int(dtypes.min_value(a.dtype)), a.dtype), a.lanes)
        minus = splat(f, int_const(-1, b.dtype), b.lanes)
        over = binary(f, "and", compare(f, "==", a, least), compare(f, "==", b, minus))
        bad = binary(f, "or", bad, over)
    return choose(f, bad, one, b)


# ----------------------------------------------------------------------------- conversion
def cast(f: Fn, dtype: str, a: V) -> V:
    """`a` converted to the scalar dtype `dtype`."""
    src = a.dtype
    if src == dtype:
        return a
    if a.const is not None and a.lanes == 1:
        if dtypes.is_float(dtype):
            return float_const(float(a.const), dtype)
        return int_const(a.const, dtype)
    if dtypes.is_bool(dtype):
        zero = float_const(0.0, src) if dtypes.is_float(src) else int_const(0, src)
        return compare(f, "!=", a, splat(f, zero, a.lanes))
    if dtypes.is_float(src):
        return _from_float(f, dtype, a)
    if dtypes.is_float(dtype):
        opcode = "uitofp" if dtypes.is_unsigned(src) or dtypes.is_bool(src) else "sitofp"
        wide = dtype if dtype == "float64" else "float32"
        v = convert(f, opcode, a, wide)
        return v if dtype in ("float64", "float32") else rounded(f, as_dtype(v, dtype))
    return _int_cast(f, dtype, a)


def convert(f: Fn, opcode: str, a: V, dtype: str) -> V:
    """One LLVM conversion instruction."""
    text = f"{opcode} {type_of(a)} {a.ref} to {llvm_type(dtype, a.lanes)}"
    return f.op(text, dtype, a.lanes, a.depth)


def as_dtype(a: V, dtype: str) -> V:
    """The same LLVM value, seen as another dtype of the same LLVM type."""
    return V(a.ref, dtype, a.lanes, a.depth, a.const)


def _int_cast(f: Fn, dtype: str, a: V) -> V:
    have = 1 if dtypes.is_bool(a.dtype) else dtypes.bits(a.dtype)
    want = dtypes.bits(dtype)
    if have == want:
        return as_dtype(a, dtype)
    if have > want:
        return convert(f, "trunc", a, dtype)
    unsigned = dtypes.is_unsigned(a.dtype) or dtypes.is_bool(a.dtype)
    return convert(f, "zext" if unsigned else "sext", a, dtype)


def _from_float(f: Fn, dtype: str, a: V) -> V:
    if dtypes.is_int(dtype):
        kind = "fptoui" if dtypes.is_unsigned(dtype) else "fptosi"
        to = llvm_type(dtype, a.lanes)
        name = f"llvm.{kind}.sat.{suffix(to)}.{suffix(type_of(a))}"
        return call(f, name, dtype, [a])
    if a.dtype == "float64":
        if dtype == "float32":
            return convert(f, "fptrunc", a, dtype)
        # NumPy rounds to half once; ml_dtypes rounds to the others by way of float.
        single = _to_odd(f, a) if dtype == "float16" else convert(f, "fptrunc", a, "float32")
        return rounded(f, as_dtype(single, dtype))
    if dtype == "float64":
        return convert(f, "fpext", a, dtype)
    if dtype == "float32":
        return as_dtype(a, dtype)
    return rounded(f, as_dtype(a, dtype))


def _to_odd(f: Fn, a: V) -> V:
    """A double as a float rounded to odd: rounding that once more to fewer bits is exact."""
    y = convert(f, "fptrunc", a, "float32")
    back = convert(f, "fpext", y, "float64")
    bits = bitcast(f, y, "int32")
    one, zero = (splat(f, int_const(x, "int32"), a.lanes) for x in (1, 0))
    even = compare(f, "==", raw(f, "and", bits, one), zero)
    inexact = f.op(
        f"fcmp one {type_of(a)} {a.ref}, {back.ref}", "bool", a.lanes, max(a.depth, back.depth)
    )
    more = compare(f, ">", absolute(f, a), absolute(f, back))
    moved = choose(f, more, raw(f, "add", bits, one), raw(f, "sub", bits, one))
    out = choose(f, binary(f, "and", even, inexact), moved, bits)
    return bitcast(f, out, "float32")


def bitcast(f: Fn, a: V, dtype: str) -> V:
    """The same bits as another dtype of the same size as computed."""
    return convert(f, "bitcast", a, dtype)


def call(f: Fn, name: str, dtype: str, args: list[V]) -> V:
    """A pure intrinsic with arguments of their own types; the result has the lanes of the first, or
    one if it is a reduction."""
    lanes = 1 if ".reduce." in name else args[0].lanes
    fn = f.module.declare(name, llvm_type(dtype, lanes), ", ".join(type_of(x) for x in args))
    text = (
        f"call {llvm_type(dtype, lanes)} {fn}({', '.join(f'{type_of(x)} {x.ref}' for x in args)})"
    )
    return f.op(text, dtype, lanes, max(x.depth for x in args))


def absolute(f: Fn, a: V) -> V:
    """The magnitude of a float."""
    return call(f, f"llvm.fabs.{suffix(type_of(a))}", a.dtype, [a])


# ----------------------------------------------------------------------------- narrow floats
# dtype -> exponent bits, mantissa bits, has infinities
_FORMATS = {
    "float16": (5, 10, True),
    "float8_e5m2": (5, 2, True),
    "float8_e4m3": (4, 3, False),
}


def rounded(f: Fn, a: V) -> V:
    """A float of narrow dtype, rounded to a value of that dtype."""
    return decode(f, encode(f, a), a.dtype)


def encode(f: Fn, a: V) -> V:
    """The bits in memory of a narrow float (held as float), rounding to nearest even."""
    known = f.codes.get((a.ref, a.dtype))
    if known is not None:
        return known
    to = "uint16" if dtypes.bits(a.dtype) == 16 else "uint8"
    if a.dtype == "float16" and _native_half(f):
        half = f"<{a.lanes} x half>" if a.lanes > 1 else "half"
        h = f.op(f"fptrunc {type_of(a)} {a.ref} to {half}", a.dtype, a.lanes, a.depth)
        text = f"bitcast {half} {h.ref} to {llvm_type(to, a.lanes)}"
        return f.op(text, to, a.lanes, h.depth)
    if a.dtype == "bfloat16":
        return _upper_half(f, a)
    exponent, mantissa, infinities = _FORMATS[a.dtype]
    bias, drop = (1 << (exponent - 1)) - 1, 23 - mantissa

    def c(x: int) -> V:
        return splat(f, int_const(x, "int32"), a.lanes)

    bits = bitcast(f, a, "int32")
    mag = raw(f, "and", bits, c(0x7FFFFFFF))
    sign = raw(f, "shl", raw(f, "lshr", bits, c(31)), c(exponent + mantissa))
    odd = raw(f, "and", raw(f, "lshr", mag, c(drop)), c(1))
    up = raw(f, "add", raw(f, "add", mag, c((1 << (drop - 1)) - 1)), odd)
    normal = raw(f, "sub", raw(f, "lshr", up, c(drop)), c((127 - bias) << mantissa))
    if bias != 127:
        # Adding 2^(23 + least exponent) leaves the rounded multiple in the low bits.
        magic = float_text(2.0 ** (1 - bias - mantissa + 23))
        m = splat(f, V(magic, "float32"), a.lanes)
        small_sum = raw(f, "fadd", as_dtype(bitcast(f, mag, "float32"), "float32"), m)
        magic_bits = (23 + 1 - bias - mantissa + 127) << 23
        small = raw(f, "sub", bitcast(f, small_sum, "int32"), c(magic_bits))
        normal = choose(f, compare(f, "<", mag, c((127 - bias + 1) << 23)), small, normal)
    if infinities:
        top = ((1 << exponent) - 1) << mantissa
        over, nan = top, top | (1 << (mantissa - 1))
        normal = choose(f, compare(f, ">", normal, c(top)), c(over), normal)
    else:
        nan = (1 << (exponent + mantissa)) - 1
        normal = choose(f, compare(f, ">", normal, c(nan - 1)), c(nan), normal)
    is_nan = compare(f, ">", mag, c(0x7F800000))
    code = raw(f, "or", choose(f, is_nan, c(nan), normal), sign)
    return convert(f, "trunc", code, to)


def _upper_half(f: Fn, a: V) -> V:
    """The upper 16 bits of a float, rounded to nearest even: bfloat16. (AVX-512's instruction for
    it is not used: it makes zeros of the numbers below the least normal one.)"""

    def c(x: int) -> V:
        return splat(f, int_const(x, "int32"), a.lanes)

    bits = bitcast(f, a, "int32")
    upper = raw(f, "lshr", bits, c(16))
    carry = raw(f, "add", raw(f, "and", upper, c(1)), c(0x7FFF))
    code = raw(f, "lshr", raw(f, "add", bits, carry), c(16))
    is_nan = f.op(f"fcmp uno {type_of(a)} {a.ref}, {a.ref}", "bool", a.lanes, a.depth)
    code = choose(f, is_nan, raw(f, "or", upper, c(0x40)), code)  # it stays one
    return convert(f, "trunc", code, "uint16")


def decode(f: Fn, bits: V, dtype: str) -> V:
    """The narrow float (held as float) with these bits."""
    out = _decode(f, bits, dtype)
    f.codes[out.ref, dtype] = bits
    return out


def _decode(f: Fn, bits: V, dtype: str) -> V:
    lanes = bits.lanes
    if dtype == "float16" and _native_half(f):
        half = f"<{lanes} x half>" if lanes > 1 else "half"
        h = f.op(f"bitcast {type_of(bits)} {bits.ref} to {half}", dtype, lanes, bits.depth)
        return f.op(f"fpext {half} {h.ref} to {llvm_type(dtype, lanes)}", dtype, lanes, h.depth)

    def c(x: int) -> V:
        return splat(f, int_const(x, "int32"), lanes)

    code = convert(f, "zext", bits, "int32")
    if dtype == "bfloat16":
        return as_dtype(bitcast(f, raw(f, "shl", code, c(16)), "float32"), dtype)
    exponent, mantissa, infinities = _FORMATS[dtype]
    width = exponent + mantissa
    mag = raw(f, "and", code, c((1 << width) - 1))
    sign = raw(f, "shl", raw(f, "lshr", code, c(width)), c(31))
    shifted = raw(f, "shl", mag, c(23 - mantissa))
    bias = (1 << (exponent - 1)) - 1
    scale = splat(f, V(float_text(2.0 ** (127 - bias)), "float32"), lanes)
    number = bitcast(f, raw(f, "fmul", bitcast(f, shifted, "float32"), scale), "int32")
    if infinities:
        top = c(((1 << exponent) - 1) << mantissa)
        special = raw(f, "or", shifted, c(0x7F800000))
        number = choose(f, compare(f, ">=", mag, top), special, number)
    else:
        number = choose(f, compare(f, "==", mag, c((1 << width) - 1)), c(0x7FC00000), number)
    return as_dtype(bitcast(f, raw(f, "or", number, sign), "float32"), dtype)


def _native_half(f: Fn) -> bool:
    """Does the processor convert between half and float (so that no library is called)?"""
    return not f.module.x86 or "f16c" in f.module.features


def f32(value: float) -> V:
    """A float32 constant."""
    return V(f32_text(value), "float32")
