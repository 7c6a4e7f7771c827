"""What is an expression in CUDA C++? Text with as few parentheses as C needs.

Values have the meaning of the interpreter: narrow floats are rounded after each operation, integer
arithmetic wraps around, division of integers rounds down where the program says `//`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ...errors import BuildError
from ...ir import dtypes, walk
from ...ir.nodes import (
    COMPARISONS,
    BinOp,
    Buffer,
    BufferLoad,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Let,
    Not,
    Select,
    Var,
)
from ...ir.ops import MATH, VECTOR
from ...lower import linear as lin
from ...lower.cache_hints import load_hint
from ...lower.flat import LANE, by_lane, place
from ...lower.lanes import SHUFFLE, is_shuffle
from .indices import address, compared, fits
from .names import NARROW, Names, compute_type, stored_type

_LEVEL = {
    "*": 12, "/": 12, "%": 12, "+": 11, "-": 11, "<<": 10, ">>": 10, "<": 9, "<=": 9, ">": 9,
    ">=": 9, "==": 8, "!=": 8, "&": 7, "^": 6, "|": 5, "and": 4, "or": 3,
}  # fmt: skip
_C_OP = {"and": "&&", "or": "||", "truncmod": "%"}
_ATOM, _UNARY, _CHOICE = 20, 14, 1

HELPERS = {
    "gt_floordiv": (
        "template <typename T> static __device__ __forceinline__ T gt_floordiv(T a, T b) {\n"
        "  T q = a / b;\n  return q - (T)(a % b != 0 && (a < 0) != (b < 0));\n}\n"
    ),
    "gt_floormod": (
        "template <typename T> static __device__ __forceinline__ T gt_floormod(T a, T b) {\n"
        "  T r = a % b;\n  return r != 0 && (r < 0) != (b < 0) ? r + b : r;\n}\n"
    ),
    "gt_min": (
        "template <typename T> static __device__ __forceinline__ T gt_min(T a, T b) {\n"
        "  return a < b || a != a ? a : b;\n}\n"
    ),
    "gt_max": (
        "template <typename T> static __device__ __forceinline__ T gt_max(T a, T b) {\n"
        "  return a > b || a != a ? a : b;\n}\n"
    ),
    "gt_odd": (  # rounding it again to fewer bits is rounding once
        "static __device__ __forceinline__ float gt_odd(double a) {\n"
        "  float r = __double2float_rz(a);\n"
        "  return (double)r == a || a != a ? r : __int_as_float(__float_as_int(r) | 1);\n}\n"
    ),
    "gt_swizzle": (  # of element i, of SIZE bytes, in rows of SPAN bytes
        "template <int SPAN, int SIZE> static __device__ __forceinline__ unsigned gt_swizzle("
        "unsigned i) {\n"
        "  const unsigned at = i * SIZE;\n  return (at ^ (at >> 3 & (SPAN - 16))) / SIZE;\n}\n"
    ),
    "gt_word": (
        "static __device__ __forceinline__ int gt_word(int a, int b, int c, int d) {\n"
        "  return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (int)((unsigned)d << 24);\n}\n"
    ),
}  # fmt: skip
"""Small functions of which generated text begins with those it uses."""


@dataclass(slots=True)
class Scope:
    """What names mean at the present place of a kernel.

    names: of variables and buffers; dom: ranges of loop variables and axes; helpers: those used so
    far; fetched: elements that a vector access has brought, by buffer and address; pending:
    declarations that have to stand before the statement; aligned: the alignment in bytes that
    accesses need of a buffer; lets: variables that hold values of the program; alias: arguments may
    lie in the same memory; inputs: arguments that no kernel of the program writes;
    outside: arguments and workspaces of the kernel.
    """

    names: Names
    dom: dict[Var, lin.Bounds]
    helpers: set[str] = field(default_factory=set)
    fetched: dict[tuple[Buffer, object], str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    aligned: dict[Buffer, int] = field(default_factory=dict)
    lets: set[Var] = field(default_factory=set)
    alias: bool = False
    inputs: frozenset[Buffer] = frozenset()
    outside: frozenset[Buffer] = frozenset()

    def needs(self, b: Buffer, align: int) -> None:
        """Let a buffer begin at a multiple of so many bytes."""
        self.aligned[b] = max(self.aligned.get(b, 1), align)

    def use(self, helper: str) -> str:
        """The name of a helper, which the text then defines."""
        self.helpers.add(helper)
        return helper


def text(e: Expr, s: Scope) -> str:
    """The expression, in the type in which it is computed."""
    return _emit(e, s)[0]


def stored(e: Expr, s: Scope) -> str:
    """The expression, as it is put into memory."""
    dtype = e.dtype
    if dtype not in NARROW:
        return text(e, s)
    load, hint = load_hint(e) or (e, "")
    if type(load) is BufferLoad:
        return _fetched(load, s, hint)
    return f"{NARROW[dtype]}({_unrounded(e, s)})"


def element(b: Buffer, indices: tuple[Expr, ...], s: Scope) -> str:
    """`A[address]`."""
    at = text(address(b, indices, s.dom), s)
    if b.swizzle:
        at = f"{s.use('gt_swizzle')}<{b.swizzle}, {dtypes.itemsize(b.dtype)}>({at})"
    return f"{s.names.of(b, b.name)}[{at}]"


# ----------------------------------------------------------------------------- by kind
def _emit(e: Expr, s: Scope) -> tuple[str, int]:
    """(text, how tightly it binds)."""
    match e:
        case Var():
            if not s.names.knows(e):
                raise BuildError(f"variable {e.name} has no value here")
            return s.names.of(e, e.name), _ATOM
        case IntImm():
            return _integer(int(e.value), e.dtype)
        case FloatImm():
            return _float(e.value, e.dtype)
        case BinOp():
            return _binary(e, s)
        case BufferLoad():
            return _load(e, s)
        case Cast():
            return _cast(e, s)
        case Not():
            return f"!{_tight(e.a, s, _UNARY)}", _UNARY
        case Select():
            return _choice(e.cond, e.a, e.b, s)
        case Let():
            value = text(e.value, s)
            name = s.names.fresh(e.var.name)  # (a `let` may be written more than once)
            s.names.rename(e.var, name)
            s.pending.append(f"const {compute_type(e.var.dtype)} {name} = {value};")
            return _emit(e.body, s)
        case Call():
            return _call(e, s)
        case _:
            raise BuildError(f"{type(e).__name__} has no code on CUDA")


def _tight(e: Expr, s: Scope, level: int) -> str:
    inside, own = _emit(e, s)
    return inside if own >= level else f"({inside})"


def _integer(value: int, dtype: str) -> tuple[str, int]:
    if dtype == "bool":
        return ("true" if value else "false"), _ATOM
    if dtype == "int64":
        if value == -(2**63):
            return "(-9223372036854775807LL - 1)", _ATOM
        out = f"{value}LL"
    elif dtype == "uint64":
        out = f"{value}ULL"
    elif dtype == "uint32":
        out = f"{value}U"
    elif value == -(2**31):
        return "(-2147483647 - 1)", _ATOM
    else:
        out = str(value)
    return out, _UNARY if value < 0 else _ATOM


def _float(value: float, dtype: str) -> tuple[str, int]:
    with np.errstate(over="ignore"):
        exact = np.float64(value).astype(dtypes.numpy_dtype(dtype))
    wide = float(exact)
    double = dtype == "float64"
    if math.isinf(wide) or math.isnan(wide):
        if double:
            bits = int(np.float64(wide).view(np.uint64))
            return f"__longlong_as_double(0x{bits:x}LL)", _ATOM
        return f"__int_as_float(0x{int(np.float32(wide).view(np.uint32)):x})", _ATOM
    out = repr(wide) if double else str(np.float32(wide))
    if "e" not in out and "." not in out:
        out += ".0"
    if not double:
        out += "f"
    return out, _UNARY if out.startswith("-") else _ATOM


def _load(e: BufferLoad, s: Scope, hint: str = "") -> tuple[str, int]:
    out = _fetched(e, s, hint)
    return (f"gt_to_float({out})" if e.dtype in NARROW else out), _ATOM


def _fetched(e: BufferLoad, s: Scope, hint: str = "") -> str:
    """The element as it lies in memory, or in what a vector access has brought of it."""
    if e.predicate is not None:
        raise BuildError(f"a masked load of {e.buffer.name} has no code on CUDA")
    found = s.fetched.get((e.buffer, lin.key(address(e.buffer, e.indices, s.dom))))
    if found is not None:
        return found
    place = element(e.buffer, e.indices, s)
    return f"gt_load_{hint}(&{place})" if hint else place


def _cast(e: Cast, s: Scope) -> tuple[str, int]:
    src, dst = e.value.dtype, e.dtype
    if dst == src:
        return _emit(e.value, s)
    if dtypes.is_bool(dst):
        return f"{_tight(e.value, s, 9)} != 0", 8
    if dst in NARROW:
        return f"gt_to_float({NARROW[dst]}({_unrounded(e, s)}))", _ATOM
    if src in NARROW and dst == "float32":
        return _emit(e.value, s)
    return f"({compute_type(dst)}){_tight(e.value, s, _UNARY)}", _UNARY


def _unrounded(e: Expr, s: Scope) -> str:
    """The `float` that rounds to a narrow value."""
    if type(e) is BinOp and e.op not in ("min", "max"):
        return _plain(e, s)[0]
    if type(e) is Cast:
        inner = e.value
        if inner.dtype in ("float32", *NARROW):
            return text(inner, s)
        if inner.dtype == "float64":
            return f"{s.use('gt_odd')}({text(inner, s)})"
        return f"(float){_tight(inner, s, _UNARY)}"
    if type(e) is Call and e.op in MATH:
        return _math(e, s)
    return text(e, s)


def _choice(c: Expr, a: Expr, b: Expr, s: Scope) -> tuple[str, int]:
    return f"{_tight(c, s, 2)} ? {_tight(a, s, 2)} : {_tight(b, s, 2)}", _CHOICE


def _without_lets(e: Expr) -> Expr:
    """The expression with values in place of names: declarations would be evaluated before it, also
    where it is not (and then its loads may be out of bounds)."""
    if type(e) is Let:
        return _without_lets(walk.substitute(e.body, {e.var: e.value}))
    return walk.map_expr(e, _without_lets)


# ----------------------------------------------------------------------------- arithmetic
def _binary(e: BinOp, s: Scope) -> tuple[str, int]:
    operand = e.a.dtype
    if e.op in ("min", "max"):
        name = s.use(f"gt_{e.op}")
        kind = compute_type(operand)
        return f"{name}<{kind}>({text(e.a, s)}, {text(e.b, s)})", _ATOM
    if e.op in COMPARISONS and operand in ("int32", "int64"):
        return _plain(compared(e, s.dom, s.lets), s)
    if e.op in COMPARISONS or e.op in ("and", "or"):
        return _plain(e, s)
    if operand in NARROW:
        return f"gt_to_float({NARROW[operand]}({_plain(e, s)[0]}))", _ATOM
    if dtypes.is_float(operand) or dtypes.is_bool(operand):
        return _plain(e, s)
    return _integer_op(e, s)


def _plain(e: BinOp, s: Scope) -> tuple[str, int]:
    level = _LEVEL["%" if e.op == "truncmod" else e.op]
    op = _C_OP.get(e.op, e.op)
    # the right side of an operator that is not associative binds tighter; so does every operand of
    # operators that readers (and compilers' warnings) want parenthesised
    careful = e.op in ("&", "|", "^", "<<", ">>", "or")
    left = _tight(e.a, s, max(level, 12) if careful else level)
    right = _tight(e.b, s, max(level + 1, 12) if careful else level + 1)
    return f"{left} {op} {right}", level


def _integer_op(e: BinOp, s: Scope) -> tuple[str, int]:
    dtype, kind = e.dtype, compute_type(e.dtype)
    if e.op in ("//", "%"):
        if dtypes.is_unsigned(dtype) or (_nonneg(e.a, s) and _nonneg(e.b, s)):
            plain = BinOp("/" if e.op == "//" else "truncmod", e.a, e.b, dtype)
            return _narrowed(_plain(plain, s), dtype)
        name = s.use("gt_floordiv" if e.op == "//" else "gt_floormod")
        return f"{name}<{kind}>({text(e.a, s)}, {text(e.b, s)})", _ATOM
    if e.op in ("+", "-", "*", "<<") and dtype in ("int32", "int64") and not fits(e, s.dom):
        unsigned = f"unsigned {'int' if dtype == 'int32' else 'long long'}"
        level = _LEVEL[e.op]
        left, right = (f"({unsigned}){_tight(x, s, _UNARY)}" for x in (e.a, e.b))
        return f"({kind})({left} {e.op} {right})", max(_UNARY, level)
    return _narrowed(_plain(e, s), dtype)


def _narrowed(found: tuple[str, int], dtype: str) -> tuple[str, int]:
    """C computes small integers as int: bring the result back."""
    if dtypes.bits(dtype) >= 32:
        return found
    return f"({compute_type(dtype)})({found[0]})", _UNARY


def _nonneg(e: Expr, s: Scope) -> bool:
    return lin.interval(e, s.dom)[0] >= 0 and fits(e, s.dom)


# ----------------------------------------------------------------------------- functions
_MATH = {
    "exp": "exp", "exp2": "exp2", "exp10": "exp10", "log": "log", "log2": "log2", "log10": "log10",
    "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tan": "tan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asin": "asin", "acos": "acos", "atan": "atan",
    "atan2": "atan2", "erf": "erf", "pow": "pow", "fmod": "fmod", "copysign": "copysign",
    "hypot": "hypot", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "round",
    "nearbyint": "rint", "abs": "fabs",
}  # fmt: skip


def _call(e: Call, s: Scope) -> tuple[str, int]:
    hinted = load_hint(e)
    if hinted is not None:
        return _load(hinted[0], s, hinted[1])
    match e.op:
        case "if_then_else":
            c, a, b = e.args
            return _choice(c, _without_lets(a), _without_lets(b), s)
        case "likely":
            return _emit(e.args[0], s)
        case "assume":
            return "0", _ATOM
        case "reinterpret":
            return _reinterpret(e, s)
        case _ if is_shuffle(e):
            return _shuffle(e, s)
        case op if op in MATH:
            out = _math(e, s)
            if e.dtype in NARROW:
                return f"gt_to_float({NARROW[e.dtype]}({out}))", _ATOM
            return out, _ATOM
        case op if op in VECTOR and VECTOR[op].cuda and not VECTOR[op].tiles:
            return f"{VECTOR[op].cuda}({', '.join([text(x, s) for x in e.args])})", _ATOM
        case _:
            raise BuildError(
                f"T.{e.op} has no code on CUDA", hint=f"known are: {', '.join(sorted(MATH))}"
            )


def _math(e: Call, s: Scope) -> str:
    dtype = e.args[0].dtype
    args = [text(x, s) for x in e.args]
    suffix = "" if dtype == "float64" else "f"
    if e.op in ("isnan", "isinf", "isfinite"):
        return f"{e.op}({args[0]})"
    if e.op == "popcount":
        wide = dtypes.bits(dtype) == 64
        kind = {8: "unsigned char", 16: "unsigned short", 32: "unsigned int"}.get(
            dtypes.bits(dtype), "unsigned long long"
        )
        return f"({compute_type(e.dtype)})__popc{'ll' if wide else ''}(({kind})({args[0]}))"
    if e.op == "abs" and not dtypes.is_float(dtype):
        if dtypes.is_unsigned(dtype):
            return args[0]
        kind = compute_type(dtype)
        name = s.use("gt_max")
        return f"{name}<{kind}>({args[0]}, ({kind})(-({args[0]})))"
    if not dtypes.is_float(dtype):
        raise BuildError(f"T.{e.op} of {dtype} has no code on CUDA", hint="cast it to a float")
    if e.op == "sigmoid":
        one = "1.0" if dtype == "float64" else "1.0f"
        return f"({one} / ({one} + exp{suffix}(-({args[0]}))))"
    return f"{_MATH[e.op]}{suffix}({', '.join(args)})"


def _shuffle(e: Call, s: Scope) -> tuple[str, int]:
    """All lanes of the warp take part (a shorter warp lacks some). Lanes exchange 32 or 64 bits:
    narrow values as those in which they are computed."""
    dtype = e.dtype
    value, lane = text(e.args[0], s), text(e.args[1], s)
    name = "__shfl_sync" if e.op == SHUFFLE else "__shfl_xor_sync"
    if dtypes.is_float(dtype) or dtypes.bits(dtype) >= 32:
        return f"{name}(0xffffffffu, {value}, {lane})", _ATOM
    out = f"{name}(0xffffffffu, (int)({value}), {lane})"
    if dtypes.is_bool(dtype):
        return f"{out} != 0", _LEVEL["!="]
    return f"({compute_type(dtype)}){out}", _UNARY


_BITS = {
    ("float32", "int32"): "__float_as_int", ("float32", "uint32"): "__float_as_uint",
    ("int32", "float32"): "__int_as_float", ("uint32", "float32"): "__uint_as_float",
    ("float64", "int64"): "__double_as_longlong", ("int64", "float64"): "__longlong_as_double",
}  # fmt: skip


def _reinterpret(e: Call, s: Scope) -> tuple[str, int]:
    src, dst = e.args[0].dtype, e.dtype
    if src in ("int8x4", "uint8x4") and dst in ("int32", "uint32"):
        return _word(e.args[0], dst, s)
    if dtypes.bits(src) != dtypes.bits(dst):
        raise BuildError(f"reinterpret of {src} as {dst}: the sizes differ")
    name = _BITS.get((src, dst))
    if name is not None:
        return f"{name}({text(e.args[0], s)})", _ATOM
    if dst in NARROW and not dtypes.is_float(src):
        bits = compute_type("uint16" if dtypes.bits(src) == 16 else "uint8")
        return f"gt_to_float({stored_type(dst)}{{({bits})({text(e.args[0], s)})}})", _ATOM
    if src in NARROW and not dtypes.is_float(dst):
        return f"({compute_type(dst)})({stored(e.args[0], s)}).x", _UNARY
    if dtypes.is_int(src) and dtypes.is_int(dst):
        return f"({compute_type(dst)}){_tight(e.args[0], s, _UNARY)}", _UNARY
    raise BuildError(f"reinterpret of {src} as {dst} has no code on CUDA")


def _word(e: Expr, dtype: str, s: Scope) -> tuple[str, int]:
    """Four bytes in memory as one number: one access where they begin at a multiple of four."""
    found = place(e.buffer, e.indices, s.dom) if type(e) is BufferLoad else None
    if type(e) is not BufferLoad or found is None or e.predicate is not None:
        raise BuildError(f"four bytes of {e} as a number have no code on CUDA")
    single = [by_lane(i) for i in e.indices]
    bytes_ = [
        element(e.buffer, tuple([walk.substitute(i, {LANE: IntImm(k)}) for i in single]), s)
        for k in range(4)
    ]
    steps = [found.form.const, *[c for _, c in found.form.terms.values()]]
    kind = compute_type(dtype)
    if found.step == 1 and all(c % 4 == 0 for c in steps):
        s.needs(e.buffer, 4)
        return f"*(const {kind}*)&{bytes_[0]}", _UNARY
    return f"({kind}){s.use('gt_word')}({', '.join(bytes_)})", _UNARY
