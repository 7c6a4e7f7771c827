"""What is an operator on whole tensors? Its signature, its type, its meaning, its tensor function.

An `Operator` is a value that says all of that once. Script and printer, the check of graph
functions, the frontends, constant folding and the pass that makes tensor functions read it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

from ...errors import CheckError
from .. import dtypes
from ..graph import Call, Expr, Op, TensorType, TupleType, Type, tensors_of
from ..nodes import Annotations
from .emit import Emitter

Array: TypeAlias = np.ndarray[Any, Any]
REQUIRED: Any = object()
"""The default of an attribute that has to be given."""


class Refusal(Exception):
    """Arguments or attributes that an operator does not take; `Operator` says which operator."""

    def __init__(self, message: str, hint: str = "", code: str = "operator-argument") -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def refuse(message: str, hint: str = "", code: str = "operator-argument") -> NoReturn:
    """Refuse arguments; the operator's name is put before the message."""
    raise Refusal(message, hint, code)


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute: its name, the kind of its values (see `KINDS`), what it is if not given."""

    name: str
    kind: str
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator.

    Attributes:
        name: what `R.<name>` says, such as "nn.conv2d".
        args: the tensors that it takes, in order: "x", or "bias?" which may be left out (only at
            the end), or "tensors*", one or more, which stands alone.
        attrs: its attributes, in order.
        result: the type rule: takes the types of the arguments (those that are there), and the
            attributes by keyword; calls `refuse` where they do not fit.
        numpy: the meaning: takes arrays and the attributes by keyword, gives an array, or a tuple.
            Floats narrower than float64 are widened before and rounded once, unless `moves`.
        emit: writes the tensor function, see `emit.Emitter`; None where `decompose` says how it is
            made of other operators.
        decompose: takes a function that binds a call of another operator, by its name, and gives
            its value; then the arguments, and the attributes by keyword.
        moves: it only moves elements, or compares them: no arithmetic that could round.
        literals: scalar constants may be written into the tensor function.
    """

    name: str
    args: tuple[str, ...]
    attrs: tuple[Attr, ...]
    result: Callable[..., Type]
    numpy: Callable[..., Any]
    emit: Callable[..., None] | None = None
    decompose: Callable[..., Expr] | None = None
    moves: bool = False
    literals: bool = False

    @property
    def short_name(self) -> str:
        """The last part of the name: "conv2d" of "nn.conv2d"."""
        return self.name.rpartition(".")[2]

    @property
    def takes_many(self) -> bool:
        """Does it take any number of tensors?"""
        return bool(self.args) and self.args[0].endswith("*")

    def arg_names(self, count: int) -> tuple[str, ...]:
        """The names of `count` arguments that are there."""
        if self.takes_many:
            return tuple([f"{self.args[0][:-1]}_{k}" for k in range(count)])
        return tuple([a.rstrip("?") for a in self.args[:count]])

    # ------------------------------------------------------------------ checked
    def normal(self, given: Mapping[str, Any]) -> Annotations:
        """Attributes in the one form that programs hold: in the order of the signature, defaults
        left out, lists as tuples.

        Raises:
            CheckError: an unknown attribute, a missing one, a value of another kind.
        """
        known = {a.name: a for a in self.attrs}
        for key in given:
            if key not in known:
                self._fail(
                    f"has no attribute {key!r}",
                    closest(key, known) or f"it has: {', '.join(known) or 'none'}",
                    "operator-attribute",
                )
        out = []
        for a in self.attrs:
            if a.name not in given:
                if a.default is REQUIRED:
                    self._fail(f"misses the attribute {a.name}", "", "operator-attribute")
                continue
            value = given[a.name]
            if value is None and a.default is None:
                continue
            try:
                value = KINDS[a.kind](value)
            except Refusal as e:
                self._fail(f"attribute {a.name} is {_shown(value)}; {e}", e.hint, e.code)
            if a.default is REQUIRED or not _same(value, a.default):
                out.append((a.name, value))
        return tuple(out)

    def full(self, attrs: Annotations) -> dict[str, Any]:
        """All attributes by name, defaults included."""
        return {**{a.name: a.default for a in self.attrs}, **dict(attrs)}

    def type_of(self, types: Sequence[Type], attrs: Annotations) -> Type:
        """The type of the result.

        Raises:
            CheckError: the arguments do not fit; it names operator, argument and what was found.
        """
        self._count(len(types))
        found: list[TensorType] = []
        for name, t in zip(self.arg_names(len(types)), types):
            if not isinstance(t, TensorType):
                self._fail(
                    f"argument {name} is a tuple of {len(t.fields)}", "pass its items one by one"
                )
            found.append(t)
        try:
            return self.result(*found, **self.full(attrs))
        except Refusal as e:
            self._fail(str(e), e.hint, e.code)

    def _count(self, count: int) -> None:
        if self.takes_many:
            if not count:
                self._fail(f"takes at least one of {self.args[0][:-1]}, got none")
            return
        needed = len([a for a in self.args if not a.endswith("?")])
        if not needed <= count <= len(self.args):
            names = ", ".join(self.args) or "none"
            self._fail(f"takes the tensors ({names}), got {count}", "", "operator-count")

    def _fail(self, message: str, hint: str = "", code: str = "operator-argument") -> NoReturn:
        verb = message.split(" ", 1)[0] in ("has", "misses", "takes")
        raise CheckError(f"{self.name}{' ' if verb else ': '}{message}", hint=hint, code=code)

    # ------------------------------------------------------------------ used
    def call(self, *args: Expr, **attrs: Any) -> Call:
        """A call of it, of the type that follows; CheckError where that does not fit."""
        pairs = self.normal(attrs)
        return Call(Op(self.name), args, self.type_of([x.type for x in args], pairs), pairs)

    def evaluate(self, arrays: Sequence[Array], attrs: Annotations) -> tuple[Array, ...]:
        """The results on given arrays: computed in float64, rounded once."""
        types = [TensorType(a.shape, dtypes.from_numpy(a.dtype)) for a in arrays]
        wanted = tensors_of(self.type_of(types, attrs))
        inputs = list(arrays) if self.moves else [_wide(a) for a in arrays]
        with np.errstate(all="ignore"):
            found = self.numpy(*inputs, **self.full(attrs))
            results = found if isinstance(found, tuple) else (found,)
            return tuple([_narrowed(r, t) for r, t in zip(results, wanted, strict=True)])


def _wide(a: Array) -> Array:
    is_float = dtypes.is_float(dtypes.from_numpy(a.dtype))
    return a.astype(np.float64) if is_float else a


def _narrowed(value: Any, t: TensorType) -> Array:
    array = np.ascontiguousarray(np.asarray(value).astype(dtypes.numpy_dtype(t.dtype), copy=False))
    array = array.reshape(np.shape(value))  # ascontiguousarray gives scalars a dimension
    if array.shape != t.shape:
        raise AssertionError(f"the reference gives {array.shape}, the type rule {t.shape}")
    return array


# ----------------------------------------------------------------------------- attributes
def _int(v: Any) -> int:
    if isinstance(v, bool) or not isinstance(v, (int, np.integer)):
        refuse("it is a whole number", code="operator-attribute")
    return int(v)


def _ints(v: Any) -> tuple[int, ...]:
    if isinstance(v, (int, np.integer)):
        return (_int(v),)
    if not isinstance(v, (tuple, list)):
        refuse("it is a whole number, or several", code="operator-attribute")
    return tuple([_int(x) for x in v])


def _float(v: Any) -> float:
    if isinstance(v, bool) or not isinstance(v, (int, float, np.number)):
        refuse("it is a number", code="operator-attribute")
    return float(v)


def _number(v: Any) -> bool | int | float:
    if isinstance(v, (bool, np.bool_)):
        return bool(v)
    if isinstance(v, (int, np.integer)):
        return int(v)
    return _float(v)


def _bool(v: Any) -> bool:
    if not isinstance(v, (bool, np.bool_)):
        refuse("it is True or False", code="operator-attribute")
    return bool(v)


def _dtype(v: Any) -> str:
    if not isinstance(v, str) or v not in dtypes.SCALARS:
        refuse(f"known dtypes are {', '.join(dtypes.SCALARS)}", code="operator-attribute")
    return v


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "int": _int,
    "ints": _ints,
    "float": _float,
    "number": _number,
    "bool": _bool,
    "dtype": _dtype,
}
"""What an attribute may be: a function that brings a value to its one form, or refuses it. Where
the default is None, None is a value of any kind."""


def _same(a: Any, b: Any) -> bool:
    """Equal, and of one kind: 1, 1.0 and True are three values (and a NaN equals nothing)."""
    return type(a) is type(b) and bool(a == b)


def _shown(v: Any) -> str:
    return f"{v!r:.60}"


def closest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or "" if nothing is close."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


# ----------------------------------------------------------------------------- for type rules
def axis_in(axis: int, rank: int, what: str = "axis") -> int:
    """An axis counted from the front; refused if there is none."""
    if not -rank <= axis < rank:
        refuse(f"{what} is {axis}, of a tensor of {rank} dimensions")
    return axis % rank


def axes_in(axes: Sequence[int] | None, rank: int, what: str = "axis") -> tuple[int, ...]:
    """Axes counted from the front, in order of the tensor (None: all); refused if one is there
    twice."""
    if axes is None:
        return tuple(range(rank))
    found = [axis_in(a, rank, what) for a in axes]
    if len(set(found)) != len(found):
        refuse(f"{what} is {tuple(axes)}: one axis is there twice")
    return tuple(sorted(found))


def same_dtype(**types: TensorType) -> str:
    """The one dtype of arguments; refused if they have several."""
    (first, t), *rest = types.items()
    for name, other in rest:
        if other.dtype != t.dtype:
            refuse(
                f"{first} has dtype {t.dtype}, {name} {other.dtype}",
                f'convert one of them: R.astype({name}, "{t.dtype}")',
            )
    return t.dtype


def needs_float(t: TensorType, name: str) -> None:
    """Refuse what has no floating elements."""
    if not dtypes.is_float(t.dtype):
        refuse(
            f"{name} has dtype {t.dtype}, and it is defined for floating dtypes",
            f'convert it: R.astype({name}, "float32")',
        )


def needs_rank(t: TensorType, name: str, rank: int, layout: str) -> None:
    """Refuse a tensor of another number of dimensions."""
    if len(t.shape) != rank:
        refuse(f"{name} has the shape {t.shape}; it has {rank} dimensions, {layout}")


def broadcast(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arguments have together; refused where sizes differ and none is 1."""
    rank = max(len(s) for s in shapes.values())
    out = [1] * rank
    for shape in shapes.values():
        for k, n in enumerate(shape, rank - len(shape)):
            if n != 1:
                if out[k] not in (1, n):
                    found = ", ".join([f"{name} {s}" for name, s in shapes.items()])
                    refuse(
                        f"the shapes do not fit together: {found}",
                        "sizes are equal or 1, counted from the last dimension",
                    )
                out[k] = n
    return tuple(out)


def per_axis(value: Sequence[int], n: int, name: str, least: int) -> tuple[int, ...]:
    """`n` numbers of an attribute of which one may stand for all."""
    out = tuple(value) * n if len(value) == 1 else tuple(value)
    if len(out) != n:
        refuse(f"{name} is {tuple(value)}; it has one number, or {n}", code="operator-attribute")
    if any(x < least for x in out):
        refuse(f"{name} is {tuple(value)}; it is at least {least}", code="operator-attribute")
    return out


def several(*types: TensorType) -> TupleType:
    """The type of an operator with several results."""
    return TupleType(tuple(types))


Signature: TypeAlias = tuple[tuple[str, ...], tuple[Attr, ...]]


def signature(text: str, *attrs: Attr) -> Signature:
    """Arguments by a text such as "x, weight, bias?", and attributes."""
    return tuple([a.strip() for a in text.split(",") if a.strip()]), attrs


__all__ = [
    "Array",
    "Attr",
    "Emitter",
    "Operator",
    "Refusal",
    "axes_in",
    "axis_in",
    "broadcast",
    "needs_float",
    "needs_rank",
    "per_axis",
    "refuse",
    "same_dtype",
    "several",
    "signature",
]
