"""Which operators on whole tensors are there? One table; a line of it says all about an operator.

    >>> from gputune.ir import operators
    >>> operators.find("nn.conv2d").call(x, w, strides=2, padding=1).type

An operator is written `R.<name>(tensors..., attributes...)` in graph functions, and stands there as
`Call(Op(name), ...)`. Arguments have one dtype, which nothing converts silently; shapes of
operators on elements broadcast as NumPy's do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...errors import CheckError, UserError
from ..graph import Call, Constant, Expr, Op, TensorType, tensors_of
from ..nodes import PrimFunc
from . import elementwise, making, products, reductions, rows, shapes, windows
from .emit import Emitter, scalar
from .operator import Operator, closest

FAMILIES = (elementwise, products, windows, rows, reductions, shapes, making)

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {op.name: op for family in FAMILIES for op in family.OPERATORS}
)
"""Every operator by name."""


def find(name: str) -> Operator:
    """The operator of that name; UserError with the closest name if there is none."""
    found = OPERATORS.get(name)
    if found is None:
        raise UserError(
            f"no operator is called {name!r}",
            hint=closest(name, OPERATORS) or f"there are: {', '.join(OPERATORS)}",
            code="operator",
        )
    return found


def call(name: str, *args: Expr, **attrs: Any) -> Call:
    """A call of an operator; CheckError where arguments or attributes do not fit.

    Example:
        >>> call("matmul", x, w).type
    """
    return find(name).call(*args, **attrs)


def is_written(e: Call) -> bool:
    """Is this a call of an operator of the table as `call` makes it, so that its type follows?"""
    if not isinstance(e.callee, Op):
        return False
    op = OPERATORS.get(e.callee.name)
    return op is not None and problem_of(e) is None


def problem_of(e: Call) -> tuple[str, str] | None:
    """(message, hint) of what is wrong with a call of an operator; None if nothing is, or if the
    table does not have it."""
    op = OPERATORS.get(e.callee.name) if isinstance(e.callee, Op) else None
    if op is None:
        return None
    try:
        pairs = op.normal(dict(e.attrs))
        wanted = op.type_of([x.type for x in e.args], pairs)
    except CheckError as error:
        return error.message, error.hint
    if len(pairs) != len(e.attrs) or any(
        a != b or type(a[1]) is not type(b[1]) for a, b in zip(pairs, e.attrs)
    ):
        return (
            f"{op.name}: its attributes {dict(e.attrs)} are not in normal form: {dict(pairs)}",
            "operators.call makes calls in normal form",
        )
    if wanted != e.type:
        from ..show_graph import type_text

        return f"{op.name}: its result is {type_text(wanted)}, not {type_text(e.type)}", ""
    return None


def literals_of(op: Operator, args: Sequence[Expr]) -> list[Constant | None]:
    """The scalar constants among arguments that are written into the tensor function."""
    return [
        x if op.literals and isinstance(x, Constant) and not x.type.shape else None for x in args
    ]


def tensor_function(e: Call, name: str) -> PrimFunc:
    """The tensor function of a call, which takes those arguments that `literals_of` leaves, then
    the results.

    Raises:
        UserError: there is no such operator, or it is made of other operators (`decompose`).
    """
    op = find(e.callee.name)
    if op.emit is None:
        raise UserError(f"{op.name} has no tensor function: it is made of other operators")
    types: list[TensorType] = [t for x in e.args for t in tensors_of(x.type)]
    literals = [
        None if c is None else scalar(c.data.item(), c.type.dtype) for c in literals_of(op, e.args)
    ]
    names = op.arg_names(len(types))
    emitter = Emitter(list(zip(names, types)), tensors_of(e.type), literals)
    op.emit(emitter, *emitter.operands, **op.full(e.attrs))
    return emitter.function(name)


__all__ = [
    "OPERATORS",
    "Operator",
    "call",
    "find",
    "is_written",
    "literals_of",
    "problem_of",
    "tensor_function",
]
