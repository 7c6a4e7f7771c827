"""Where is an element, and in how many bits is that computed? In 32, unless they are too few.

What is made of the variables of loops and axes never wraps around: such an index has 64 bits where
it, or a part of it on the way, does not fit 32, whatever dtype the program gives it.
"""

from __future__ import annotations

import math
from collections.abc import Set

from ...errors import BuildError
from ...ir import build, dtypes, walk
from ...ir.nodes import BinOp, Buffer, Cast, Expr, IntImm, Var
from ...lower import linear as lin
from ...lower.flat import steps_of

_INDEX = ("+", "-", "*", "//", "%", "min", "max")
_INT32 = (-(2**31), 2**31 - 1)


def address(b: Buffer, indices: tuple[Expr, ...], dom: dict[Var, lin.Bounds]) -> Expr:
    """Where an element is, counted in elements from the start of the buffer."""
    total = lin.Linear({}, 0)
    for i, step in zip(indices, steps_of(b), strict=True):
        size = lin.linear(step, dom)
        if size.terms:
            raise BuildError(f"the shape of {b.name} is not constant, which CUDA code needs")
        total = lin.plus(total, lin.times(lin.linear(i, dom), size.const))
    if b.elem_offset is not None:
        total = lin.plus(total, lin.linear(b.elem_offset, dom))
    lo, hi = lin.interval_of(total, dom)
    wide = hi > 2**31 - 1 or lo < -(2**31)
    if wide and math.prod(_size(n) for n in b.shape) < 2**31 and not _strided(b):
        wide = False  # it is within the buffer, whatever is known of its parts
    terms = {k: (sized(x, dom), c) for k, (x, c) in total.terms.items()}
    return lin.to_expr(lin.Linear(terms, total.const), "int64" if wide else "int32")


def _strided(b: Buffer) -> bool:
    return b.strides is not None or b.elem_offset is not None


def _size(e: Expr) -> int:
    return int(e.value) if type(e) is IntImm else 2**31


def sized(e: Expr, dom: dict[Var, lin.Bounds]) -> Expr:
    """A part of an index in 64 bits if it needs them on the way to its value, else in 32; what is
    not made of loops and axes alone stays as it is."""
    if type(e) is Var or type(e) is IntImm or not _is_index(e, dom):
        return e
    return _in(e, "int32" if _within(e, dom) else "int64")


def _is_index(e: Expr, dom: dict[Var, lin.Bounds]) -> bool:
    """Is it arithmetic on the variables of loops and axes, which never wraps around?"""
    match e:
        case Var():
            return e in dom and dtypes.is_int(e.dtype)
        case IntImm():
            return dtypes.is_int(e.dtype)
        case Cast() if e.dtype in ("int32", "int64"):
            return _is_index(e.value, dom)
        case BinOp() if e.dtype in ("int32", "int64") and e.op in _INDEX:
            return _is_index(e.a, dom) and _is_index(e.b, dom)
        case _:
            return False


def _within(e: Expr, dom: dict[Var, lin.Bounds]) -> bool:
    """Do an index and all its parts fit 32 bits?"""
    lo, hi = lin.interval(e, dom)
    own = _INT32[0] <= lo and hi <= _INT32[1]
    return own and all(_within(x, dom) for x in walk.expr_children(e))


def _in(e: Expr, dtype: str) -> Expr:
    """An index, computed in another dtype."""
    match e:
        case IntImm():
            return IntImm(e.value, dtype)
        case Cast():
            return _in(e.value, dtype)
        case BinOp():
            return BinOp(e.op, _in(e.a, dtype), _in(e.b, dtype), dtype)
        case _:
            return build.cast(dtype, e)


def compared(e: BinOp, dom: dict[Var, lin.Bounds], lets: Set[Var]) -> BinOp:
    """A comparison of indices in as many bits as they need; `lets` may hold any values."""
    if e.a.dtype == "int32" and fits(e.a, dom) and fits(e.b, dom):
        return e
    if not _is_index(e.a, dom) or not _is_index(e.b, dom):
        return e
    if e.a.dtype == "int32" and not walk.free_vars(e).isdisjoint(lets):
        return e  # which may wrap around
    dtype = "int32" if _within(e.a, dom) and _within(e.b, dom) else "int64"
    return BinOp(e.op, _in(e.a, dtype), _in(e.b, dtype), e.dtype)


def fits(e: Expr, dom: dict[Var, lin.Bounds]) -> bool:
    """Do all operations inside `e` stay within their dtype?"""
    if type(e) is not BinOp:
        return True
    lo, hi = lin.interval(e, dom)
    own = dtypes.min_value(e.dtype) <= lo and hi <= dtypes.max_value(e.dtype)
    return own and all(fits(x, dom) for x in walk.expr_children(e))
