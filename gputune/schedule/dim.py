"""What is an integer that knows how it follows from the sampled decisions?

A `Dim` is an int whose value came from sampling: it carries an expression over *columns* (the
decisions), and every comparison on it is recorded as a guard. One replay of a trace with Dims then
gives loop extents, regions and verdicts as expressions, which NumPy evaluates for every row of a
matrix of decisions whose guards come out the same way.

    >>> with recording() as guards:
    ...     a = Dim(4, "a"); b = a * 8 + 1
    ...     ok = b <= 64
    >>> int(b), ok, len(guards)
    (33, True, 1)
    >>> import numpy as np
    >>> evaluate(b, {"a": np.array([1, 2, 4])})
    array([ 9, 17, 33])

An expression is an int, a column name, or a `Sym`; equal Syms are one object, so comparing and
hashing them is cheap however deep they are.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Column: TypeAlias = npt.NDArray[np.int64]


class Sym:
    """`op` applied to two expressions; made by `sym`, which gives equal ones one object."""

    __slots__ = ("a", "b", "number", "op")

    def __init__(self, op: str, a: DimExpr, b: DimExpr, number: int) -> None:
        self.op = op
        self.a = a
        self.b = b
        self.number = number  # how many there were before it

    def __repr__(self) -> str:
        return f"{self.op}({self.a!r}, {self.b!r})"


DimExpr: TypeAlias = int | str | Sym | tuple[int, ...]  # a tuple is the table of a "take"
Guard: TypeAlias = tuple[str, DimExpr, DimExpr, bool]

_state = threading.local()


def sym(op: str, a: DimExpr, b: DimExpr) -> DimExpr:
    """The expression `op(a, b)`; products of the same factors are one, in whatever order."""
    table: SymTable = _state.__dict__.setdefault("table", {})
    key = (op, a, b)
    found = table.get(key)
    if found is None:
        found = table[key] = _product(table, a, b) if op == "mul" else Sym(op, a, b, len(table))
    return found


SymTable: TypeAlias = dict[tuple[str, DimExpr, DimExpr], DimExpr]


def _product(table: SymTable, a: DimExpr, b: DimExpr) -> DimExpr:
    """The number first, then columns by name, then what else there is."""
    number, names, others = 1, [], []
    stack = [b, a]
    while stack:
        e = stack.pop()
        if type(e) is Sym and e.op == "mul":
            stack += (e.b, e.a)
        elif type(e) is int:
            number *= e
        elif type(e) is str:
            names.append(e)
        else:
            others.append(e)
    factors: list[DimExpr] = [*sorted(names), *sorted(others, key=_number)]
    if number != 1 or not factors:
        factors.insert(0, number)
    out = factors[0]
    for e in factors[1:]:
        key = ("mul", out, e)
        known = table.get(key)
        if known is None:
            known = table[key] = Sym("mul", out, e, len(table))
        out = known
    return out


def _number(e: DimExpr) -> int:
    return e.number if type(e) is Sym else -1


@contextmanager
def recording(table: SymTable | None = None) -> Iterator[list[Guard]]:
    """Collect the comparisons that this thread makes on Dims while the block runs.

    Args:
        table: the expressions of earlier blocks: equal ones become the same objects.
    """
    outer = _state.__dict__.get("guards")
    outer_table = _state.__dict__.get("table", {})
    guards: list[Guard] = []
    _state.guards, _state.table = guards, {} if table is None else table
    try:
        yield guards
    finally:
        _state.guards, _state.table = outer, outer_table


class Dim(int):
    """An int that carries `expr`, the way it follows from the columns."""

    expr: DimExpr

    def __new__(cls, value: int, expr: DimExpr) -> Dim:
        """The integer `value`, which is what `expr` evaluates to for the row being replayed."""
        self = int.__new__(cls, value)
        self.expr = expr
        return self

    __hash__ = int.__hash__

    def __repr__(self) -> str:
        return int.__repr__(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return (int, (int(self),))

    def __neg__(self) -> Dim:
        return Dim(-int(self), sym("sub", 0, self.expr))

    def __bool__(self) -> bool:
        return bool(self != 0)

    def gcd(self, other: int) -> Dim:
        """The greatest common divisor, without recording a guard."""
        return Dim(math.gcd(self, other), sym("gcd", self.expr, expr_of(other)))


def expr_of(x: int) -> DimExpr:
    """The expression of a Dim, or the plain int."""
    return x.expr if type(x) is Dim else int(x)


def minimum(a: int, b: int) -> int:
    """The smaller one, without recording a guard."""
    if type(a) is Dim or type(b) is Dim:
        return Dim(min(int(a), int(b)), sym("minimum", expr_of(a), expr_of(b)))
    return min(a, b)


def maximum(a: int, b: int) -> int:
    """The larger one, without recording a guard."""
    if type(a) is Dim or type(b) is Dim:
        return Dim(max(int(a), int(b)), sym("maximum", expr_of(a), expr_of(b)))
    return max(a, b)


def take(table: tuple[int, ...], index: int) -> int:
    """`table[index]`, as an expression when `index` is a Dim."""
    if type(index) is Dim:
        return Dim(table[int(index)], sym("take", table, index.expr))
    return table[index]


def _arithmetic(name: str, f: Callable[[int, int], int]) -> None:
    def forward(a: Any, b: Any) -> Any:
        if not isinstance(b, int):
            return NotImplemented
        return Dim(f(int(a), int(b)), sym(name, a.expr, expr_of(b)))

    def backward(a: Any, b: Any) -> Any:
        if not isinstance(b, int):
            return NotImplemented
        return Dim(f(int(b), int(a)), sym(name, expr_of(b), a.expr))

    setattr(Dim, f"__{name}__", forward)
    setattr(Dim, f"__r{name}__", backward)


def _comparison(name: str, f: Callable[[int, int], bool]) -> None:
    def compare(a: Any, b: Any) -> Any:
        if not isinstance(b, int):
            return NotImplemented
        outcome = f(int(a), int(b))
        guards = _state.__dict__.get("guards")
        if guards is not None:
            eb = expr_of(b)
            if a.expr != eb:  # the same expression: the same in every row
                guards.append((name, a.expr, eb, outcome))
        return outcome

    setattr(Dim, f"__{name}__", compare)


for _name, _f in (
    ("add", operator.add),
    ("sub", operator.sub),
    ("mul", operator.mul),
    ("floordiv", operator.floordiv),
    ("mod", operator.mod),
):
    _arithmetic(_name, _f)
for _name, _g in (
    ("eq", operator.eq),
    ("ne", operator.ne),
    ("lt", operator.lt),
    ("le", operator.le),
    ("gt", operator.gt),
    ("ge", operator.ge),
):
    _comparison(_name, _g)

_UFUNCS: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "gcd": np.gcd,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


class Evaluator:
    """Evaluates expressions over a matrix of decisions, each shared sub-expression once."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = columns
        self._memo: dict[Sym, Any] = {}

    def value(self, e: DimExpr) -> Any:
        """The value of an expression: an array over the rows, or an int if it is constant."""
        if type(e) is int:
            return e
        if type(e) is str:
            return self.columns[e]
        if type(e) is tuple:
            return np.asarray(e, np.int64)
        assert type(e) is Sym
        found = self._memo.get(e)
        if found is None:
            a, b = self.value(e.a), self.value(e.b)
            found = self._memo[e] = a[b] if e.op == "take" else _UFUNCS[e.op](a, b)
        return found

    def __call__(self, x: int) -> Any:
        """The value of a Dim or int."""
        return self.value(expr_of(x))

    def holds(self, guards: list[Guard], rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which of `rows` (a mask) come out like the replayed row in every guard?"""
        mask = rows.copy()
        for name, a, b, outcome in dict.fromkeys(guards):
            mask &= np.equal(_UFUNCS[name](self.value(a), self.value(b)), outcome)
        return mask


def evaluate(x: int, columns: Mapping[str, Column]) -> Any:
    """The value of a Dim over columns; see `Evaluator` for many at once."""
    return Evaluator(columns)(x)
