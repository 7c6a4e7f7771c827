"""What is a graph program made of? Every node, on one page.

A graph `Function` stands beside the tensor functions (`PrimFunc`) of an `IRModule` and says which
of them is called on what. Its values are whole tensors of constant shape, and tuples of them. Its
body is a list of bindings, each of which gives a `Var` a value, once; a `DataflowBlock` is a group
of bindings without effects, of which the outside sees only its `outputs`.

What a `Call` calls decides how: a tensor function of the module (`GlobalVar`) and an external
function (`ExternFunc`) get their arguments and then the arrays to fill (destination-passing
style); an operator (`Op`) stands for its value, and has to be replaced by tensor functions before
it can run. A call stands only as the value of a binding: everything that is passed, returned or
put into a tuple is built of variables, constants, tuples and their items.

As with tensor programs, nodes are frozen and compare by identity; `structural_equal` compares
meaning. Types are compared by value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import numpy as np

from . import dtypes
from .nodes import Annotations, _Scripted


# ----------------------------------------------------------------------------- types
@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor: `shape` in elements, `dtype` of an element."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * dtypes.itemsize(self.dtype)


@dataclass(frozen=True, slots=True)
class TupleType:
    """Several values, each with its type."""

    fields: tuple[Type, ...]


Type: TypeAlias = TensorType | TupleType


def tensors_of(t: Type) -> tuple[TensorType, ...]:
    """The tensors in a type, from left to right."""
    if isinstance(t, TensorType):
        return (t,)
    return tuple([x for field in t.fields for x in tensors_of(field)])


# ----------------------------------------------------------------------------- values
@dataclass(frozen=True, slots=True, eq=False)
class Var:
    """A parameter, or what a binding names; two Vars are one only if they are the same object."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor whose elements are part of the program; see `constant`."""

    data: np.ndarray[Any, Any]

    @property
    def type(self) -> TensorType:
        """Its shape and dtype."""
        return TensorType(self.data.shape, dtypes.from_numpy(self.data.dtype))


@dataclass(frozen=True, slots=True, eq=False)
class Tuple:
    """Several values as one."""

    fields: tuple[Expr, ...]

    @property
    def type(self) -> TupleType:
        """The types of the fields."""
        return TupleType(tuple([x.type for x in self.fields]))


@dataclass(frozen=True, slots=True, eq=False)
class TupleGetItem:
    """Field `index` of a tuple."""

    value: Expr
    index: int

    @property
    def type(self) -> Type:
        """The type of that field; TypeError if there is none."""
        whole = self.value.type
        if not isinstance(whole, TupleType) or not 0 <= self.index < len(whole.fields):
            raise TypeError(f"no field {self.index} in {whole}")
        return whole.fields[self.index]


@dataclass(frozen=True, slots=True)
class GlobalVar:
    """A function of the module, by name."""

    name: str

    @property
    def name_hint(self) -> str:
        """The name, as TVM calls it."""
        return self.name


@dataclass(frozen=True, slots=True)
class ExternFunc:
    """A function outside of the program, by the name under which it is registered."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operator on whole tensors, such as "matmul"."""

    name: str


Callee: TypeAlias = GlobalVar | ExternFunc | Op


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """`callee` on `args`; `type` is that of the result, a tuple type where there are several.
    `attrs` says how an operator is to be understood, and is empty for functions."""

    callee: Callee
    args: tuple[Expr, ...]
    type: Type
    attrs: Annotations = ()


Expr: TypeAlias = Var | Constant | Tuple | TupleGetItem | Call
EXPR_CLASSES = (Var, Constant, Tuple, TupleGetItem, Call)


# ----------------------------------------------------------------------------- functions
@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """`var = value`."""

    var: Var
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class DataflowBlock:
    """Bindings without effects; only `outputs`, which it binds, are seen outside."""

    bindings: tuple[Binding, ...]
    outputs: tuple[Var, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Function(_Scripted):
    """A graph function: `params`, what it binds one after the other, and its `result`."""

    params: tuple[Var, ...]
    body: tuple[Binding | DataflowBlock, ...]
    result: Expr
    attrs: Annotations = ()

    @property
    def name(self) -> str:
        """The global symbol, or "main"."""
        return str(dict(self.attrs).get("global_symbol", "main"))

    @property
    def ret_type(self) -> Type:
        """The type of the result."""
        return self.result.type

    def with_attr(self, key: str, value: Any) -> Function:
        """A copy with one attribute set."""
        attrs = (*((k, v) for k, v in self.attrs if k != key), (key, value))
        return Function(self.params, self.body, self.result, attrs)


def bindings(func: Function) -> Iterator[Binding]:
    """All bindings of a function, in order."""
    for item in func.body:
        if isinstance(item, Binding):
            yield item
        else:
            yield from item.bindings


def calls(func: Function) -> Iterator[Call]:
    """All calls of a function, in order."""
    for b in bindings(func):
        if isinstance(b.value, Call):
            yield b.value


def call_sites(graphs: Iterable[Function]) -> Counter[str]:
    """How often each function of the module is called, by name."""
    return Counter(
        c.callee.name for f in graphs for c in calls(f) if isinstance(c.callee, GlobalVar)
    )


def constants_of(func: Function) -> list[Constant]:
    """The constants of a function, each once, in the order in which they are used first."""
    found: dict[Constant, None] = {}
    for b in bindings(func):
        _collect(b.value, found)
    _collect(func.result, found)
    return list(found)


def _collect(e: Expr, found: dict[Constant, None]) -> None:
    match e:
        case Constant():
            found.setdefault(e)
        case Tuple():
            for x in e.fields:
                _collect(x, found)
        case TupleGetItem():
            _collect(e.value, found)
        case Call():
            for x in e.args:
                _collect(x, found)
        case Var():
            pass
        case _:
            assert_never(e)


def constant(value: Any, dtype: str | None = None) -> Constant:
    """A constant with a copy of `value`: an array, or nested lists of numbers.

    Raises:
        ValueError: no array, or of elements that gputune does not have.
        OverflowError: a number that the dtype cannot hold.
    """
    wanted = None if dtype is None else dtypes.numpy_dtype(dtype)
    data = np.array(value, dtype=wanted, order="C", copy=True)
    dtypes.from_numpy(data.dtype)
    data.setflags(write=False)
    return Constant(data)


def replace(e: Expr, table: Mapping[Var | Constant, Expr]) -> Expr:
    """`e` with the variables and constants of `table` replaced; what does not change is shared."""
    match e:
        case Var() | Constant():
            return table.get(e, e)
        case Tuple():
            fields = _each(e.fields, table)
            return e if fields is e.fields else Tuple(fields)
        case TupleGetItem():
            value = replace(e.value, table)
            return e if value is e.value else TupleGetItem(value, e.index)
        case Call():
            args = _each(e.args, table)
            return e if args is e.args else Call(e.callee, args, e.type, e.attrs)
        case _:
            assert_never(e)


def _each(items: tuple[Expr, ...], table: Mapping[Var | Constant, Expr]) -> tuple[Expr, ...]:
    new = tuple([replace(x, table) for x in items])
    return items if all(a is b for a, b in zip(new, items)) else new


def bind_params(func: Function, values: Mapping[Var, Expr]) -> Function:
    """`func` without the parameters in `values`, each replaced by its value where it is used."""
    params = tuple([p for p in func.params if p not in values])
    return _rewritten(func, params, dict(values))


def lift_constants(func: Function, constants: Sequence[Constant]) -> Function:
    """`func` with more parameters behind its own, one for each of the constants, in their place."""
    new = [Var(f"constant_{k}", c.type) for k, c in enumerate(constants)]
    return _rewritten(func, (*func.params, *new), dict(zip(constants, new)))


def _rewritten(
    func: Function, params: tuple[Var, ...], table: Mapping[Any, Expr]
) -> Function:  # fmt: skip
    def bound(b: Binding) -> Binding:
        value = replace(b.value, table)
        return b if value is b.value else Binding(b.var, value)

    def replaced(item: Binding | DataflowBlock) -> Binding | DataflowBlock:
        if isinstance(item, Binding):
            return bound(item)
        return DataflowBlock(tuple([bound(b) for b in item.bindings]), item.outputs)

    body = tuple([replaced(item) for item in func.body])
    return Function(params, body, replace(func.result, table), func.attrs)
