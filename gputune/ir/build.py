"""How are expressions and statements put together? Constructors that convert, promote and fold.

Folding is local and cheap; `arith.simplify` is the thorough one. A constant steers folding only if
`type(value) is int` (see nodes.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from . import dtypes
from .nodes import (
    COMPARISONS,
    EXPR_CLASSES,
    BinaryOp,
    BinOp,
    Block,
    BlockKey,
    Broadcast,
    Buffer,
    BufferLoad,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Seq,
    Stmt,
    StringImm,
    Var,
)

TRUE = IntImm(1, "bool")
FALSE = IntImm(0, "bool")


def const(value: Any, dtype: str | None = None) -> Expr:
    """A constant of `dtype` (default: bool, int32 or int64 by size, float32, handle for str)."""
    if isinstance(value, str):
        return StringImm(value)
    if dtype is None:
        if isinstance(value, bool):
            dtype = "bool"
        elif isinstance(value, int):
            dtype = "int32" if -(2**31) <= value < 2**31 else "int64"
        elif isinstance(value, float):
            dtype = "float32"
        else:  # a NumPy scalar
            dtype = dtypes.from_numpy(value.dtype)
    base, n = dtypes.split(dtype)
    if dtypes.is_float(base):
        imm: Expr = FloatImm(float(value), base)
    elif isinstance(value, int) and not isinstance(value, bool):
        imm = IntImm(value, base)  # keeps a Dim
    else:
        imm = IntImm(int(value), base)
    return imm if n == 1 else Broadcast(imm, n)


def expr(value: Any, dtype: str | None = None) -> Expr:
    """`value` as an expression: an Expr stays itself, a number becomes a constant."""
    if isinstance(value, EXPR_CLASSES):
        return value
    return const(value, dtype)


def const_int(e: Any) -> int | None:
    """The value of an integer constant (int or IntImm), else None."""
    if type(e) is IntImm:
        return e.value
    if isinstance(e, int):
        return e
    return None


def is_literal(e: Expr, value: int) -> bool:
    """Is `e` the constant `value` in every candidate? (False for sampled values.)"""
    return type(e) is IntImm and type(e.value) is int and e.value == value


def unify(a: Any, b: Any) -> tuple[Expr, Expr]:
    """Both sides in one dtype; a Python number takes the dtype of the other side if it can."""
    a_is, b_is = isinstance(a, EXPR_CLASSES), isinstance(b, EXPR_CLASSES)
    if not a_is and not b_is:
        a, b = const(a), const(b)
    elif not a_is:
        a = _like(a, b)
    elif not b_is:
        b = _like(b, a)
    da, db = a.dtype, b.dtype
    if da == db:
        return a, b
    to = dtypes.promote(da, db)
    return cast(to, a), cast(to, b)


def _like(value: Any, other: Expr) -> Expr:
    dtype = other.dtype
    if isinstance(value, float) and not dtypes.is_float(dtype):
        return const(value)
    if dtype in ("bool", "handle") and not isinstance(value, bool):
        return const(value)
    return const(value, dtype)


def _trunc_div(a: int, b: int) -> int:
    return a // b if (a >= 0) == (b >= 0) else -(-a // b)


_INT_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "/": _trunc_div,
    "truncmod": lambda a, b: a - b * _trunc_div(a, b),
    "min": min,
    "max": max,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EXPRS = frozenset(EXPR_CLASSES)
_DIVISIONS = frozenset({"//", "%", "/", "truncmod"})
_SHIFTS = frozenset({"<<", ">>"})


def binary(op: BinaryOp, left: Any, right: Any) -> Expr:
    """`left op right`, operands converted to one dtype, folded where both are integer constants."""
    if type(left) is IntImm and type(right) is IntImm and left.dtype == right.dtype:
        return _int_binary(op, left, right, left.dtype)
    a: Expr = left
    b: Expr = right
    if type(a) not in _EXPRS or type(b) not in _EXPRS or a.dtype != b.dtype:
        a, b = unify(left, right)
    dtype = a.dtype
    if op in ("and", "or"):
        if dtypes.scalar(dtype) != "bool":
            raise TypeError(f"{op!r} needs bool operands, got {dtype}")
        return _logic(op, a, b)
    if dtype == "handle":
        raise TypeError(f"{op!r} is not defined on handles")
    if op in ("//", "%") and dtypes.is_float(dtype):
        raise TypeError(f"{op!r} is integer division; got {dtype}: use / or T.floor")
    if type(a) is IntImm and type(b) is IntImm:
        return _int_binary(op, a, b, dtype)
    if op in COMPARISONS:
        return BinOp(op, a, b, dtypes.with_lanes("bool", dtypes.lanes(dtype)))
    if type(b) is IntImm and type(b.value) is int:
        v = b.value
        if v == 0 and op in ("+", "-", "|", "^", "<<", ">>"):
            return a
        if v == 1 and op in ("*", "//", "/"):
            return a
        if v == 0 and op in ("*", "&"):
            return b
        if v == 1 and op in ("%", "truncmod"):
            return IntImm(0, dtype)
    elif type(a) is IntImm and type(a.value) is int:
        v = a.value
        if v == 0 and op in ("+", "|", "^"):
            return b
        if v == 1 and op == "*":
            return b
        if v == 0 and op in ("*", "&"):
            return a
    return BinOp(op, a, b, dtype)


def _int_binary(op: BinaryOp, a: IntImm, b: IntImm, dtype: str) -> Expr:
    result = "bool" if op in COMPARISONS else dtype
    if op in ("and", "or"):
        return _logic(op, a, b)
    if (op in _DIVISIONS and b.value == 0) or (op in _SHIFTS and not 0 <= b.value < 64):
        return BinOp(op, a, b, result)  # undefined: left for the interpreter to report
    value = _INT_FOLD[op](a.value, b.value)
    if op in COMPARISONS:
        return TRUE if value else FALSE
    if dtypes.is_int(dtype) and type(value) is int:
        lo, hi = dtypes.min_value(dtype), dtypes.max_value(dtype)
        if not lo <= value <= hi:
            return BinOp(op, a, b, result)  # overflow: not folded, so that it stays visible
    return IntImm(value, dtype)


def _logic(op: BinaryOp, a: Expr, b: Expr) -> Expr:
    for x, y in ((a, b), (b, a)):
        if is_literal(x, 1):
            return y if op == "and" else x
        if is_literal(x, 0):
            return x if op == "and" else y
    return BinOp(op, a, b, a.dtype)


def add(a: Any, b: Any) -> Expr:
    return binary("+", a, b)


def sub(a: Any, b: Any) -> Expr:
    return binary("-", a, b)


def mul(a: Any, b: Any) -> Expr:
    return binary("*", a, b)


def div(a: Any, b: Any) -> Expr:
    """Division: floating, or truncating toward zero on integers, as in TVMScript."""
    return binary("/", a, b)


def floordiv(a: Any, b: Any) -> Expr:
    return binary("//", a, b)


def floormod(a: Any, b: Any) -> Expr:
    return binary("%", a, b)


def minimum(a: Any, b: Any) -> Expr:
    return binary("min", a, b)


def maximum(a: Any, b: Any) -> Expr:
    return binary("max", a, b)


def bitand(a: Any, b: Any) -> Expr:
    """`&`; on bool it is "and"."""
    x, y = unify(a, b)
    return binary("and" if dtypes.is_bool(x.dtype) else "&", x, y)


def bitor(a: Any, b: Any) -> Expr:
    """`|`; on bool it is "or"."""
    x, y = unify(a, b)
    return binary("or" if dtypes.is_bool(x.dtype) else "|", x, y)


def bitxor(a: Any, b: Any) -> Expr:
    return binary("^", a, b)


def shl(a: Any, b: Any) -> Expr:
    return binary("<<", a, b)


def shr(a: Any, b: Any) -> Expr:
    return binary(">>", a, b)


def eq(a: Any, b: Any) -> Expr:
    return binary("==", a, b)


def ne(a: Any, b: Any) -> Expr:
    return binary("!=", a, b)


def lt(a: Any, b: Any) -> Expr:
    return binary("<", a, b)


def le(a: Any, b: Any) -> Expr:
    return binary("<=", a, b)


def gt(a: Any, b: Any) -> Expr:
    return binary(">", a, b)


def ge(a: Any, b: Any) -> Expr:
    return binary(">=", a, b)


def logical_and(*conds: Any) -> Expr:
    """All of `conds`; TRUE for none."""
    out: Expr = TRUE
    for c in conds:
        out = binary("and", out, c)
    return out


def logical_or(*conds: Any) -> Expr:
    """Any of `conds`; FALSE for none."""
    out: Expr = FALSE
    for c in conds:
        out = binary("or", out, c)
    return out


def neg(a: Any) -> Expr:
    a = expr(a)
    if type(a) is FloatImm:
        return FloatImm(-a.value, a.dtype)
    return binary("-", const(0, a.dtype), a)


def invert(a: Any) -> Expr:
    """`~`: logical not on bool, all bits flipped on integers."""
    a = expr(a)
    if dtypes.is_bool(a.dtype):
        return logical_not(a)
    if dtypes.is_unsigned(a.dtype):
        return binary("^", a, const(dtypes.max_value(a.dtype), a.dtype))
    return binary("^", a, const(-1, a.dtype))


def logical_not(a: Any) -> Expr:
    a = expr(a)
    if type(a) is IntImm and type(a.value) is int:
        return FALSE if a.value else TRUE
    if type(a) is Not:
        return a.a
    return Not(a)


def cast(dtype: str, x: Any) -> Expr:
    """`x` converted to `dtype`; constants are converted here, and no-ops vanish."""
    value = expr(x)
    if value.dtype == dtype:
        return value
    base, n = dtypes.split(dtype)
    if n > 1 and dtypes.lanes(value.dtype) == 1:
        return Broadcast(cast(base, value), n)
    if type(value) is IntImm and dtypes.is_int(base):
        v = value.value
        if type(v) is not int or dtypes.min_value(base) <= v <= dtypes.max_value(base):
            return IntImm(v, base)
    if type(value) is IntImm and dtypes.is_float(base):
        return FloatImm(float(value.value), base)
    if type(value) is FloatImm and dtypes.is_float(base):
        return FloatImm(value.value, base)
    return Cast(dtype, value)


def select(cond: Any, a: Any, b: Any) -> Expr:
    a, b = unify(a, b)
    return Select(expr(cond), a, b)


def if_then_else(cond: Any, a: Any, b: Any) -> Expr:
    """Like `select`, but only the chosen side is evaluated."""
    a, b = unify(a, b)
    return Call("if_then_else", (expr(cond), a, b), a.dtype)


def broadcast(value: Any, n: int) -> Expr:
    value = expr(value)
    return value if n == 1 else Broadcast(value, n)


def load(buffer: Buffer, indices: Any) -> Expr:
    """`buffer[indices]`; IndexError when the number of indices is wrong."""
    return BufferLoad(buffer, index_tuple(buffer, indices))


def index_tuple(buffer: Buffer, indices: Any) -> tuple[Expr, ...]:
    items: Sequence[Any] = indices if isinstance(indices, (tuple, list)) else (indices,)
    if len(items) != len(buffer.shape):
        raise IndexError(
            f"buffer {buffer.name} has {len(buffer.shape)} dimensions, got {len(items)} indices"
        )
    out = []
    for k, i in enumerate(items):
        if isinstance(i, slice):
            if i.start is None or i.stop is None or not isinstance(i.step or 1, int):
                raise IndexError(f"a slice of buffer {buffer.name} needs start and stop")
            step = i.step or 1
            n = const_int(binary("-", i.stop, i.start))
            if n is None or n % step:
                raise IndexError(f"slice {k} of buffer {buffer.name} has no constant length")
            start = expr(i.start, "int32")
            out.append(
                start if n // step == 1 else Ramp(start, const(step, start.dtype), n // step)
            )
        else:
            e = expr(i, "int32" if isinstance(i, int) and -(2**31) <= i < 2**31 else None)
            if not dtypes.is_int(e.dtype) and e.dtype != "bool":
                raise IndexError(f"index {k} of buffer {buffer.name} has dtype {e.dtype}")
            out.append(e)
    return tuple(out)


def seq(*items: Stmt | None) -> Stmt:
    """One statement after the other; nested sequences are flattened, None is dropped."""
    flat: list[Stmt] = []
    for s in items:
        if s is None:
            continue
        if type(s) is Seq:
            flat.extend(s.items)
        else:
            flat.append(s)
    if len(flat) == 1:
        return flat[0]
    return Seq(tuple(flat))


def root_block(body: Stmt, alloc_buffers: Sequence[Buffer] = ()) -> Block:
    """The outermost block of a function."""
    return Block(BlockKey(), "root", (), (), TRUE, (), (), body, alloc_buffers=tuple(alloc_buffers))


def buffer_param(name: str, shape: Sequence[Any], dtype: str = "float32") -> tuple[Var, Buffer]:
    """A handle variable and the buffer it carries, for hand-built functions."""
    return Var(name, "handle"), Buffer(name, tuple(expr(s) for s in shape), dtype)


def replace_body(func: PrimFunc, body: Block) -> PrimFunc:
    """`func` with another root block."""
    return func if body is func.body else PrimFunc(func.params, func.buffer_map, body, func.attrs)
