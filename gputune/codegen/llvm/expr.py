"""What is the value of an expression? From program expressions to LLVM values."""

from __future__ import annotations

import re

from ...errors import BuildError
from ...ir import dtypes, walk
from ...ir.nodes import (
    BinOp,
    Broadcast,
    BufferLoad,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Let,
    Not,
    Ramp,
    Select,
    Shuffle,
    StringImm,
    Var,
)
from ...ir.ops import MATH, VECTOR
from ...lower import flat
from ...lower import linear as lin
from . import memory, ops
from .fn import Fn
from .mathfn import intrinsic
from .values import (
    NARROW,
    V,
    float_const,
    int_const,
    llvm_type,
    type_of,
)
from .vector_ops import as_bits, call_vector_op, from_bits

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def value(f: Fn, e: Expr) -> V:
    """The value of `e`, in its dtype."""
    match e:
        case Var():
            return _variable(f, e)
        case IntImm():
            return int_const(int(e.value), e.dtype)
        case FloatImm():
            return float_const(e.value, e.dtype)
        case BinOp():
            return _binary(f, e)
        case BufferLoad():
            return memory.load(f, e, index, value)
        case Cast():
            return ops.cast(f, dtypes.scalar(e.dtype), value(f, e.value))
        case Broadcast():
            return ops.splat(f, value(f, e.value), e.lanes)
        case Ramp():
            return _ramp(f, e)
        case Not():
            return ops.negate(f, value(f, e.a))
        case Select():
            cond, a, b = value(f, e.cond), value(f, e.a), value(f, e.b)
            if a.lanes > 1 and cond.lanes > 1:
                cond = ops.splat(f, cond, a.lanes)
            return ops.choose(f, cond, a, b)
        case Call():
            return _call(f, e)
        case Let():
            f.env[e.var] = value(f, e.value)
            return value(f, e.body)
        case Shuffle():
            return _shuffle(f, e)
        case StringImm():
            raise BuildError(f"the string {e.value!r} is not a value")


def _variable(f: Fn, e: Var) -> V:
    v = f.env.get(e)
    if v is None:
        raise BuildError(f"variable {e.name} has no value here")
    want = dtypes.scalar(e.dtype)
    return v if v.dtype == want else ops.cast(f, want, v)


def _binary(f: Fn, e: BinOp) -> V:
    a, b = value(f, e.a), value(f, e.b)
    if a.lanes != b.lanes:
        n = max(a.lanes, b.lanes)
        a, b = ops.splat(f, a, n), ops.splat(f, b, n)
    if e.op in ("//", "%", "/", "truncmod") and not dtypes.is_float(a.dtype):
        nonneg = a.lanes == 1 and _nonneg(f, e.a) and _nonneg(f, e.b)
        return ops.divide(f, e.op, a, b, nonneg=nonneg)
    return ops.binary(f, e.op, a, b)


def _nonneg(f: Fn, e: Expr) -> bool:
    """Is `e` provably not negative? Only sums that cannot wrap around count."""
    if e.dtype not in ("int32", "int64"):
        return dtypes.is_unsigned(e.dtype)
    lo, hi = lin.interval(e, f.dom)
    return lo >= 0 and hi <= int(dtypes.max_value(e.dtype)) and _bounded(f, e)


def _bounded(f: Fn, e: Expr) -> bool:
    """Do all operations inside `e` stay within their dtype?"""
    if type(e) is not BinOp:
        return True
    lo, hi = lin.interval(e, f.dom)
    fits = dtypes.min_value(e.dtype) <= lo and hi <= dtypes.max_value(e.dtype)
    return fits and all(_bounded(f, x) for x in walk.expr_children(e))


def _ramp(f: Fn, e: Ramp) -> V:
    base, step = value(f, e.base), value(f, e.stride)
    one = llvm_type(base.dtype)
    if step.const is not None:
        parts = ", ".join(
            f"{one} {int_const(k * step.const, base.dtype).ref}" for k in range(e.lanes)
        )
        offsets = V(f"<{parts}>", base.dtype, e.lanes)
    else:
        parts = ", ".join(f"{one} {k}" for k in range(e.lanes))
        counts = V(f"<{parts}>", base.dtype, e.lanes)
        offsets = ops.raw(f, "mul", counts, ops.splat(f, step, e.lanes))
    if base.const == 0:
        return offsets
    return ops.raw(f, "add", ops.splat(f, base, e.lanes), offsets)


def _shuffle(f: Fn, e: Shuffle) -> V:
    vectors = [value(f, x) for x in e.vectors]
    lengths = {v.lanes for v in vectors}
    if len(vectors) <= 2 and len(lengths) == 1 and min(lengths) > 1 and len(e.indices) > 1:
        return ops.pick(f, vectors, e.indices)
    lanes = [ops.lane(f, v, k) for v in vectors for k in range(v.lanes)]
    picked = [lanes[k] for k in e.indices]
    return picked[0] if len(picked) == 1 else ops.gather_lanes(f, picked)


# ----------------------------------------------------------------------------- calls
def _call(f: Fn, e: Call) -> V:
    match e.op:
        case "if_then_else":
            return _if_then_else(f, e)
        case "likely":
            return value(f, e.args[0])
        case "assume":
            return int_const(0, "int32")
        case "call_extern":
            return _extern(f, e)
        case "reinterpret":
            return _reinterpret(f, e, value(f, e.args[0]))
        case op if op in MATH:
            args = [value(f, x) for x in e.args]
            n = max(x.lanes for x in args)
            return intrinsic(f, op, dtypes.scalar(e.dtype), [ops.splat(f, x, n) for x in args])
        case op if op in VECTOR:
            return call_vector_op(f, op, VECTOR[op], [value(f, x) for x in e.args])
        case _:
            raise BuildError(
                f"T.{e.op} has no code on llvm targets",
                hint=f"known are: {', '.join(sorted(MATH))}",
            )


def stored_value(f: Fn, e: Expr) -> V:
    """The value of `e`, of which nothing is computed before it is stored: what a choice does not
    want is skipped by a branch, which the processor foresees, and not masked (measured: a third
    slower in a copy)."""
    if type(e) is Call and e.op == "if_then_else":
        return _if_then_else(f, e, masks=False)
    return value(f, e)


def _if_then_else(f: Fn, e: Call, masks: bool = True) -> V:
    c, a, b = e.args
    cond = value(f, c)
    if cond.const is not None:
        return value(f, a if cond.const else b)
    n = dtypes.lanes(e.dtype)
    if cond.lanes > 1 or (_harmless(f, a) and _harmless(f, b)):
        return ops.choose(f, cond, ops.splat(f, value(f, a), n), ops.splat(f, value(f, b), n))
    free = masks and type(a) is BufferLoad and all(_harmless(f, i) for i in a.indices)
    if free and type(a) is BufferLoad and _harmless(f, b):
        loaded = memory.load_where(f, a, cond, index)
        if loaded is not None:
            mask = ops.splat(f, cond, loaded.lanes)
            whole = ops.choose(f, mask, loaded, ops.splat(f, value(f, b), loaded.lanes))
            return ops.splat(f, whole, n)
    out = f.branch(
        cond,
        lambda: ops.splat(f, value(f, a), n),
        lambda: ops.splat(f, value(f, b), n),
    )
    assert out is not None  # both sides have a value
    return out


def _harmless(f: Fn, e: Expr) -> bool:
    """May `e` be computed although its value is not wanted, and is that cheap?"""
    for x in walk.walk_expr(e):
        if type(x) is BufferLoad:
            if x.predicate is not None or not flat.inside(x.buffer, x.indices, f.dom):
                return False
        elif type(x) is Call:
            return False
    return True


def _extern(f: Fn, e: Call) -> V:
    head = e.args[0] if e.args else None
    if type(head) is not StringImm or not _NAME.fullmatch(head.value):
        raise BuildError("call_extern needs the name of a C function as its first argument")
    if f.tiles.held:
        names = ", ".join(b.name for b in f.tiles.held)
        raise BuildError(
            f"call_extern of {head.value}: a C function does not keep the tiles {names}"
        )
    args = [value(f, x) for x in e.args[1:]]
    for x in args:
        if x.lanes > 1 or x.dtype in NARROW or x.dtype == "bool":
            raise BuildError(
                f"call_extern of {head.value}: {x.dtype} x {x.lanes} has no C type",
                hint="cast it to float32, float64 or an integer",
            )
    result = "void" if e.dtype in ("void", "handle") else llvm_type(e.dtype)
    fn = f.module.declare(head.value, result, ", ".join(type_of(x) for x in args))
    text = f"call {result} {fn}({', '.join(f'{type_of(x)} {x.ref}' for x in args)})"
    if result == "void":
        f.do(text)
        return int_const(0, "int32")
    return f.here(text, e.dtype)


def _reinterpret(f: Fn, e: Call, v: V) -> V:
    dtype, lanes = dtypes.scalar(e.dtype), dtypes.lanes(e.dtype)
    if dtypes.bits(dtype) * lanes != dtypes.bits(v.dtype) * v.lanes:
        raise BuildError(f"reinterpret of {v.dtype} x {v.lanes} as {e.dtype}: the sizes differ")
    if lanes != v.lanes:
        return from_bits(f, as_bits(f, v), dtype, lanes)
    bits = ops.encode(f, v) if v.dtype in NARROW else v
    if v.dtype == "bool":
        bits = ops.convert(f, "zext", v, "uint8")
    if dtype in NARROW:
        to = "uint16" if dtypes.bits(dtype) == 16 else "uint8"
        return ops.decode(f, ops.as_dtype(bits, to), dtype)
    if dtypes.is_bool(dtype):
        return ops.cast(f, "bool", bits)
    if llvm_type(bits.dtype) == llvm_type(dtype):
        return ops.as_dtype(bits, dtype)
    return ops.bitcast(f, V(bits.ref, bits.dtype, bits.lanes, bits.depth), dtype)


# ----------------------------------------------------------------------------- indices
def index(f: Fn, e: Expr) -> V:
    """The scalar integer `e` as an int64; sums of loop variables are computed in 64 bits."""
    match e:
        case IntImm():
            return int_const(int(e.value))
        case Var():
            v = f.env.get(e)
            if v is None:
                raise BuildError(f"variable {e.name} has no value here")
            return _wide(f, v)
        case BinOp() if e.dtype in ("int32", "int64") and _bounded(f, e):
            return _index_binary(f, e)
        case Cast() if e.dtype == "int64" and e.value.dtype in ("int32", "int64"):
            return index(f, e.value)
        case _:
            return _wide(f, value(f, e))


def _wide(f: Fn, v: V) -> V:
    return v if v.dtype == "int64" else ops.cast(f, "int64", v)


def _index_binary(f: Fn, e: BinOp) -> V:
    a, b = index(f, e.a), index(f, e.b)
    if a.const is not None and b.const is not None:
        folded = _fold(e.op, a.const, b.const)
        if folded is not None:
            return int_const(folded)
    if e.op in ("//", "%", "/", "truncmod"):
        nonneg = lin.interval(e.a, f.dom)[0] >= 0 and lin.interval(e.b, f.dom)[0] >= 0
        return ops.divide(f, e.op, a, b, nonneg=nonneg)
    if e.op in ("+", "-", "*"):
        if (e.op != "*" and b.const == 0) or (e.op == "*" and b.const == 1):
            return a
        opcode = {"+": "add", "-": "sub", "*": "mul"}[e.op]
        return ops.raw(f, f"{opcode} nsw", a, b)
    return ops.binary(f, e.op, a, b)


def _fold(op: str, a: int, b: int) -> int | None:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//" if b:
            return a // b
        case "%" if b:
            return a % b
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case _:
            return None
