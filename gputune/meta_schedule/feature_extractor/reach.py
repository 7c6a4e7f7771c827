"""Which values does an index take while some loops run? As MetaSchedule's features see it.

Terms of a sum count each for itself. A remainder stays what it is in the first iteration: what
loops add to it is left out. Both may be far from the truth, but are what the features mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ir.intervals import Interval
from ...ir.nodes import BinOp, Call, Cast, Expr, IntImm, Select, Var

_ANY: Interval = (None, None)


def reach(e: Expr, dom: Mapping[Var, Interval]) -> Interval:
    """The least and the greatest value of an index; None where it is not known.

    Args:
        e: the index.
        dom: the values of each loop variable.
    """
    match e:
        case IntImm():
            return int(e.value), int(e.value)
        case Var():
            return dom.get(e, _ANY)
        case Cast():
            return reach(e.value, dom)
        case BinOp(op="%"):
            return _remainder(e, dom)
        case BinOp(op="+"):
            (a, b), (c, d) = reach(e.a, dom), reach(e.b, dom)
            return _both(a, c, int.__add__), _both(b, d, int.__add__)
        case BinOp(op="-"):
            (a, b), (c, d) = reach(e.a, dom), reach(e.b, dom)
            return _both(a, d, int.__sub__), _both(b, c, int.__sub__)
        case BinOp(op="*"):
            return _corners(e, dom, int.__mul__)
        case BinOp(op="//"):
            low = reach(e.b, dom)[0]
            return _corners(e, dom, int.__floordiv__) if low is not None and low > 0 else _ANY
        case BinOp(op="min"):
            return _monotone(e, dom, min)
        case BinOp(op="max"):
            return _monotone(e, dom, max)
        case Select(a=x, b=y) | Call(op="if_then_else", args=(_, x, y)):
            (a, b), (c, d) = reach(x, dom), reach(y, dom)
            return _both(a, c, min), _both(b, d, max)
        case Call(op="likely", args=(x,)):
            return reach(x, dom)
        case _:
            return _ANY


def _both(a: int | None, b: int | None, f: Callable[[int, int], int]) -> int | None:
    return None if a is None or b is None else f(a, b)


def _corners(e: BinOp, dom: Mapping[Var, Interval], f: Callable[[int, int], int]) -> Interval:
    (a, b), (c, d) = reach(e.a, dom), reach(e.b, dom)
    if a is None or b is None or c is None or d is None:
        return _ANY
    points = [f(x, y) for x in (a, b) for y in (c, d)]
    return min(points), max(points)


def _monotone(e: BinOp, dom: Mapping[Var, Interval], f: Callable[[int, int], int]) -> Interval:
    (a, b), (c, d) = reach(e.a, dom), reach(e.b, dom)
    return _both(a, c, f), _both(b, d, f)


def _remainder(e: BinOp, dom: Mapping[Var, Interval]) -> Interval:
    (_, _), (c, d) = reach(e.a, dom), reach(e.b, dom)
    if c is None or c != d or c <= 0:
        return _ANY
    first = {v: (low, low) for v, (low, _) in dom.items()}
    a, b = reach(e.a, first)
    if a is None or a != b:
        return 0, c - 1
    return a % c, a % c
