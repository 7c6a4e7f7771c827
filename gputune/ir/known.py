"""What is known at a place in a program: bounds of variables, and conditions that hold?

Only plain constants are used: what involves a sampled value (see nodes.py) is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .affine import Terms, collect, same
from .intervals import INDEX, NOTHING, Domain, Interval, bounds, sum_bounds
from .nodes import (
    COMPARISONS,
    BinaryOp,
    BinOp,
    Call,
    Expr,
    IntImm,
    Not,
    Var,
)
from .walk import expr_children

FLIPPED: dict[str, BinaryOp] = {
    "<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "==",
}  # fmt: skip


@dataclass(slots=True)
class Known:
    """What is known at a place in a program: bounds of variables, and sums that are negative."""

    dom: Domain
    negative: tuple[tuple[Terms, int], ...] = ()
    keep_unit_vars: bool = False
    memo: dict[int, tuple[Expr, Expr]] = field(default_factory=dict)

    def within(self, dom: Domain) -> Known:
        """The same with other bounds."""
        return Known(dom, self.negative, self.keep_unit_vars)

    def bounds(self, e: Expr) -> Interval:
        """Bounds of an expression; none if a sampled value takes part."""
        return bounds(e, self.dom) if is_plain(e) else (None, None)

    def span(self, terms: Terms, const: int) -> Interval:
        """Bounds of a sum; none if a sampled value takes part."""
        if type(const) is not int:
            return None, None
        for x, c in terms.items():
            if type(c) is not int or not (type(x) is Var or is_plain(x)):
                return None, None
        return sum_bounds(terms, const, self.dom)


def _is_plain_interval(b: Interval) -> bool:
    return (b[0] is None or type(b[0]) is int) and (b[1] is None or type(b[1]) is int)


def is_plain(e: Expr) -> bool:
    """Is every integer constant in `e` the same in all candidates?"""
    stack = [e]
    while stack:
        x = stack.pop()
        if type(x) is IntImm:
            if type(x.value) is not int:
                return False
        elif type(x) is BinOp:
            stack += (x.a, x.b)
        elif type(x) is not Var:
            stack += expr_children(x)
    return True


def knowing(dom: Domain | None, keep_unit_vars: bool = False) -> Known:
    """What is known from bounds alone. Bounds that are sampled values are not used."""
    if not dom:
        return Known(NOTHING, (), keep_unit_vars)
    plain = {v: b for v, b in dom.items() if _is_plain_interval(b)}
    return Known(plain, (), keep_unit_vars)


def with_value(known: Known, v: Var, value: Expr) -> Known:
    """What is known once `v` has been given the value."""
    return known.within({**known.dom, v: known.bounds(value)})


# ----------------------------------------------------------------------------- what is known
def is_negative(terms: Terms, const: int, known: Known) -> bool | None:
    """Is a sum negative (or surely not), judging by the conditions that hold here?"""
    for other, k in known.negative:
        if len(other) != len(terms):
            continue
        if const <= k and _matches(terms, other, 1):
            return True
        if const + k + 1 >= 0 and _matches(terms, other, -1):
            return False
    return None


def _matches(a: Terms, b: Terms, sign: int) -> bool:
    for x, c in a.items():
        f = b.get(x)
        if f is None:
            f = next((v for y, v in b.items() if same(x, y)), None)
        if f is None or f * sign != c:
            return False
    return True


def assume(cond: Expr, known: Known, *, holds: bool = True) -> Known:
    """What is known where `cond` holds (or does not)."""
    dom: dict[Var, Interval] = dict(known.dom)
    negative = list(known.negative)
    _learn(cond, holds, dom, negative)
    return Known(dom, tuple(negative), known.keep_unit_vars)


def _learn(
    cond: Expr, holds: bool, dom: dict[Var, Interval], negative: list[tuple[Terms, int]]
) -> None:
    match cond:
        case BinOp(op="and") if holds:
            _learn(cond.a, True, dom, negative)
            _learn(cond.b, True, dom, negative)
        case BinOp(op="or") if not holds:
            _learn(cond.a, False, dom, negative)
            _learn(cond.b, False, dom, negative)
        case Not():
            _learn(cond.a, not holds, dom, negative)
        case Call(op="likely", args=(inner,)):
            _learn(inner, holds, dom, negative)
        case BinOp() if cond.op in COMPARISONS and cond.a.dtype in INDEX:
            op = cond.op if holds else FLIPPED[cond.op]
            terms: Terms = {}
            const = collect(cond.a, 1, terms) + collect(cond.b, -1, terms)
            if type(const) is not int or not all(type(c) is int for c in terms.values()):
                return
            if op == "==":
                _learn_negative(terms, const - 1, dom, negative)
                _learn_negative(*negated(terms, const + 1), dom, negative)
            elif op != "!=":
                terms, const, opposite = as_negative(op, terms, const)
                if opposite:  # not negative: minus the sum, less one, is
                    terms, const = negated(terms, const + 1)
                _learn_negative(terms, const, dom, negative)
        case _:
            return


def _learn_negative(
    terms: Terms, const: int, dom: dict[Var, Interval], negative: list[tuple[Terms, int]]
) -> None:
    """The sum is negative: so are the bounds of its variables narrower."""
    negative.append((terms, const))
    for v, c in terms.items():
        if type(v) is not Var:
            continue
        others = {x: f for x, f in terms.items() if x is not v}
        least, _ = sum_bounds(others, const + 1, dom)
        if least is None:
            continue
        lo, hi = dom.get(v, (None, None))
        if c > 0:
            top = -least // c
            hi = top if hi is None or top < hi else hi
        else:
            low = -(-least // -c)
            lo = low if lo is None or low > lo else lo
        if lo is None or hi is None or lo <= hi:  # else the place is never reached
            dom[v] = (lo, hi)


def as_negative(op: str, terms: Terms, const: int) -> tuple[Terms, int, bool]:
    """`sum op 0` as "other sum < 0", or as its opposite."""
    if op in (">", "<="):
        return {x: -c for x, c in terms.items()}, -const, op == "<="
    return terms, const, op == ">="


def negated(terms: Terms, const: int) -> tuple[Terms, int]:
    """Minus a sum."""
    return {x: -c for x, c in terms.items()}, -const
