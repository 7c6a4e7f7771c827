"""How wide is an index expression, and where do the threads of a warp go with it?

Two forms of an index, in which numbers are places in a list of *facts* (see sketch_layout.py):

* a `Span` knows how many values the index takes while some loops run;
* a `Form` is what the index is for each thread: the other loops stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

from ..ir.build import const_int
from ..ir.nodes import BinOp, Cast, Expr, IntImm, Var
from ..ir.walk import expr_children

Fact: TypeAlias = Callable[[int], int]
"""Adds an integer, which may be a `Dim`, to the facts; its place."""

# ----------------------------------------------------------------------------- spans
Span: TypeAlias = (
    tuple[Literal["point"]]
    | tuple[Literal["loop"], int]
    | tuple[Literal["sum"], "tuple[Span, ...]"]
    | tuple[Literal["scale", "div", "mod"], "Span", int]
    | tuple[Literal["all"]]
)
POINT: Span = ("point",)
ALL: Span = ("all",)


def span_of(e: Expr, env: Mapping[Var, Span], fact: Fact) -> Span:
    """The span of an index, given those of the variables in it."""
    t = type(e)
    if t is Var:
        return env.get(e, POINT)  # type: ignore[arg-type]  # t is the class of e
    if t is IntImm:
        return POINT
    if isinstance(e, Cast):
        return span_of(e.value, env, fact)
    if t is not BinOp:
        return ALL
    assert isinstance(e, BinOp)
    a, b = span_of(e.a, env, fact), span_of(e.b, env, fact)
    if e.op in ("+", "-"):
        parts = [
            y
            for x in (a, b)
            if x is not POINT
            for y in (x[1] if x[0] == "sum" else (x,))
        ]  # fmt: skip
        if ALL in parts:
            return ALL
        return POINT if not parts else parts[0] if len(parts) == 1 else ("sum", tuple(parts))
    if a is POINT and b is POINT:
        return POINT
    if a is ALL or b is ALL:
        return ALL
    if e.op == "*":
        for x, y in ((a, e.b), (b, e.a)):
            c = const_int(y)
            if c is not None:
                return ("scale", x, fact(c))
    c = const_int(e.b)
    if c is not None and e.op == "//":
        return ("div", a, fact(c))
    if c is not None and e.op in ("%", "truncmod"):
        return ("mod", a, fact(c))
    return ALL


# ----------------------------------------------------------------------------- forms
Number: TypeAlias = tuple[Literal["is", "fact"], int]
"""An integer, or the place of one among the facts."""

Form: TypeAlias = (
    tuple[Literal["zero"]]
    | tuple[Literal["lane"], str]
    | tuple[Literal["const"], Number]
    | tuple[Literal["add", "sub"], "Form", "Form"]
    | tuple[Literal["mul", "div", "mod"], "Form", Number]
    | tuple[Literal["far"]]
)
"""Leaves are thread axes ("x", "y", "z") and "v", the lanes of a vector."""

ZERO: Form = ("zero",)
FAR: Form = ("far",)
"""What differs from thread to thread in a way that is not known."""


def form_of(e: Expr, env: Mapping[Var, Form], fact: Fact) -> Form:
    """The form of an index, given those of the variables in it (loops that stand still: none)."""
    if type(e) is Var:
        return env.get(e, ZERO)
    if type(e) is IntImm:
        return ("const", number_of(e.value, fact)) if _matters(e.value) else ZERO
    if type(e) is Cast:
        return form_of(e.value, env, fact)
    if type(e) is not BinOp:
        known = [form_of(x, env, fact) for x in expr_children(e)]
        return FAR if any(map(moves, known)) else ZERO
    a, b = form_of(e.a, env, fact), form_of(e.b, env, fact)
    if e.op in ("+", "-"):
        return plus(a, b, minus=e.op == "-")
    if e.op == "*":
        for x, y in ((a, e.b), (b, e.a)):
            c = const_int(y)
            if c is not None:
                return times(x, c, fact)
    c = const_int(e.b)
    if c is not None and e.op in ("//", "%", "truncmod"):
        if a is ZERO:
            return ZERO
        return ("div" if e.op == "//" else "mod", a, number_of(c, fact))
    return FAR if moves(a) or moves(b) else ZERO


def plus(a: Form, b: Form, *, minus: bool = False) -> Form:
    """The sum, or difference, of two forms."""
    if FAR in (a, b):
        return FAR
    if b is ZERO:
        return a
    if a is ZERO and not minus:
        return b
    return ("sub" if minus else "add", a, b)


def times(a: Form, c: int, fact: Fact) -> Form:
    """A form times an integer."""
    if a in (ZERO, FAR) or (type(c) is int and c == 1):
        return a
    return ("mul", a, number_of(c, fact))


def number_of(c: int, fact: Fact) -> Number:
    """An integer as forms hold it."""
    return ("is", c) if type(c) is int else ("fact", fact(c))


def _matters(c: int) -> bool:
    return type(c) is not int or c != 0


def moves(f: Form) -> bool:
    """Does it depend on the thread, or on the lane of a vector?"""
    return f[0] in ("lane", "far") or any(map(moves, _parts(f)))


def facts_in(f: Form) -> Iterator[int]:
    """The places of the facts in a form."""
    for x in _parts(f):
        yield from facts_in(x)
    n = f[1] if f[0] == "const" else f[2] if f[0] in ("mul", "div", "mod") else None
    if n is not None and n[0] == "fact":
        yield n[1]


def renumbered(f: Form, places: Mapping[int, int]) -> Form:
    """The form with other places for its facts."""

    def number(n: Number) -> Number:
        return ("fact", places[n[1]]) if n[0] == "fact" else n

    match f:
        case ("const", n):
            return ("const", number(n))
        case ("add" | "sub" as op, a, b):
            return (op, renumbered(a, places), renumbered(b, places))
        case ("mul" | "div" | "mod" as op, a, n):
            return (op, renumbered(a, places), number(n))
        case _:
            return f


def _parts(f: Form) -> tuple[Form, ...]:
    match f:
        case ("add" | "sub", a, b):
            return (a, b)
        case ("mul" | "div" | "mod", a, _):
            return (a,)
        case _:
            return ()
