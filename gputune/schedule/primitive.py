"""How is a primitive declared, so that everything else follows from the declaration?

A primitive is a function whose first parameter is the state. `@primitive(kind, inputs=..., ...)`
names its instruction kind and which parameters are inputs (handles and values, which may stand for
earlier results); the others are attributes. From this follow: the method on `Schedule` (a class
attribute), the recorded instruction, the Python line in a printed trace, the JSON form, replay, the
reference page, and the random-test strategy.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from ..errors import ScheduleError, UserError
from ..ir.index_map import IndexMap
from ..ir.nodes import Buffer
from .graph_map import is_graph, text_of_graph
from .handles import BlockRV, LoopRV, shown

if TYPE_CHECKING:
    from .state import State

P = ParamSpec("P")
R = TypeVar("R")


class Access(NamedTuple):
    """Which buffer of a block: `("read", 0)` is the first one that it reads. In the JSON form of an
    instruction it stands as two attributes, the index before 0 for "read" or 1 for "write"."""

    kind: str
    position: int


BufferAccess: TypeAlias = tuple[str, int] | str | Buffer
"""An `Access`, the name of a buffer, or the buffer."""
AccessWord: TypeAlias = str
""""read" or "write"; 0 or 1 in the JSON form of an instruction."""
IndexMapLike: TypeAlias = IndexMap | Callable[..., Any]
RangesLike: TypeAlias = IndexMap | Callable[..., Any]
"""A function of indices to indices and pairs (begin, end), or a map to begin, end, begin, end."""
PadValue: TypeAlias = int | float | IndexMap | Callable[..., Any] | None
"""A number, or a map of one final index: the value in terms of the new indices."""


@dataclass(frozen=True, eq=False)
class InstructionKind:
    """What there is to know about a kind of instruction.

    Attributes:
        name: the name in JSON, such as "Split".
        method: the name of the method on Schedule, such as "split".
        params: parameter names in order, without the state.
        inputs: which parameters are inputs, in the order of the JSON form.
        blocks: the inputs that are blocks (or lists of them), for which names may be given.
        attrs: which are attributes, in the order of the JSON form.
        defaults: default values by parameter.
        quiet: parameters that are printed only where they differ from the default.
        positional: is the line printed without keywords (reorder, fuse, get_child_blocks)?
        variadic: the parameter that takes any number of loops, or "".
        flat: the input whose items stand in the JSON list one by one (factors, loops), or "".
        is_pure: may an instruction whose results are unused be dropped (getters, sampling)?
        samples: does it take a decision?
        forms: the annotations of parameters whose values are checked, the decision among them.
        fn: the implementation; `fn(state, **arguments)`.
        renamed: earlier names of parameters that calls and printed traces may still use.
    """

    name: str
    method: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    blocks: tuple[str, ...]
    attrs: tuple[str, ...]
    defaults: Mapping[str, Any]
    quiet: frozenset[str]
    positional: bool
    variadic: str
    flat: str
    is_pure: bool
    samples: bool
    forms: Mapping[str, str]
    fn: Callable[..., Any]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments with numbers of other kinds (NumPy's, 1 for True) made plain.

        Raises:
            ScheduleError: an argument is not of the kind that its parameter takes.
        """
        for name, form in self.forms.items():
            value = values.get(name)
            if value is None and name not in values:
                continue
            try:
                values[name] = _FORMS[form][0](value)
            except (TypeError, ValueError, KeyError, UserError):
                found = shown(value)
                raise ScheduleError(
                    f"{self.method}: {name} must be {_FORMS[form][1]}, got "
                    f"{found if len(found) < 60 else found[:56] + ' ...'}",
                    hint=f"it is {self.method}({', '.join(self.params)})",
                    code="argument",
                ) from None
        return values

    @staticmethod
    def get(name: str) -> InstructionKind:
        """The kind named `name` (old and new spellings); ScheduleError if there is none."""
        name = _OLD_NAMES.get(name, name)
        kind = KINDS.get(name)
        if kind is None:
            from difflib import get_close_matches

            from .extensions import PRIMITIVES, extensions

            failures = extensions(PRIMITIVES).failures()  # another package may bring it
            if name in KINDS:
                return KINDS[name]
            near = get_close_matches(name, KINDS, 3)
            known = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(KINDS)}"
            raise ScheduleError(
                f"unknown instruction kind {name!r}",
                hint=f"{failures}; {known}" if failures else known,
                code="unknown-kind",
            )
        return kind

    def __repr__(self) -> str:
        return f"InstructionKind({self.name!r})"


def _int(x: Any) -> int:
    if isinstance(x, bool):
        raise TypeError
    return x if isinstance(x, int) else operator.index(x)


def _bool(x: Any) -> bool:
    if isinstance(x, bool):
        return x
    if isinstance(x, int) and (x == 0 or x == 1):  # how TVM's files write it
        return bool(x)
    raise TypeError


def _str(x: Any) -> str:
    if not isinstance(x, str):
        raise TypeError
    return x


def _buffer(x: Any) -> Any:
    return x if isinstance(x, (str, Buffer)) else _int(x)


def _access(x: Any) -> Any:
    if isinstance(x, (str, Buffer)):
        return x
    kind, index = x  # anything but a pair is a TypeError or ValueError
    if kind not in ("read", "write"):
        raise TypeError
    return Access(str(kind), _int(index))


def _access_word(x: Any) -> str:
    if isinstance(x, str):
        return x
    return ACCESS_WORDS[_int(x)]


def _map(x: Any) -> Any:
    if not isinstance(x, IndexMap) and not callable(x):
        raise TypeError
    return x


def _pad_value(x: Any) -> Any:
    if x is None or isinstance(x, IndexMap) or callable(x):
        return x
    if isinstance(x, str):  # how a trace holds a map
        return IndexMap.from_text(text_of_graph(x) if is_graph(x) else x)
    return _float(x) if not isinstance(x, int) else _int(x)


def _items(x: Any) -> Any:
    if not isinstance(x, (list, tuple)):
        raise TypeError
    return x


def _float(x: Any) -> float:
    if isinstance(x, (bool, str)):
        raise TypeError
    try:
        return float(x)
    except (ValueError, OverflowError):
        raise TypeError from None


def _factor(x: Any) -> Any:
    return operator.index(x) if hasattr(x, "__index__") and not isinstance(x, int) else x


_FORMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "int": (_int, "an integer"),
    "int | None": (lambda x: None if x is None else _int(x), "an integer"),
    "bool": (_bool, "True or False"),
    "str": (_str, "a string"),
    "str | None": (lambda x: None if x is None else _str(x), "a string"),
    "BufferIndex": (_buffer, "the index, name or object of a buffer"),
    "BufferAccess": (
        _access,
        'a pair such as ("read", 0), the name of a buffer or the buffer',
    ),
    "AccessWord": (_access_word, '"read" or "write"'),
    "IndexMapLike": (_map, "an IndexMap or a function of indices"),
    "RangesLike": (_map, "an IndexMap or a function of indices"),
    "PadValue": (_pad_value, "None, a number, an IndexMap or a function of the new indices"),
    "Sequence[int]": (lambda x: [_int(y) for y in _items(x)], "a list of integers"),
    "Sequence[int] | None": (
        lambda x: None if x is None else [_int(y) for y in _items(x)],
        "a list of integers",
    ),
    "Sequence[float]": (lambda x: [_float(y) for y in _items(x)], "a list of numbers"),
    "Sequence[ExprRV | int | None]": (
        lambda x: [_factor(y) for y in _items(x)],
        "a list of integers, sampled values and None",
    ),
    "Sequence[BlockRV | str] | None": (
        lambda x: None if x is None else _items(x),
        "a list of blocks",
    ),
}

# Inputs that are blocks, for which a name may be given.
_BLOCK_PARAMS = frozenset({
    "block", "block_rv", "block_or_loop", "reduction_block", "epilogue_block", "scope_block",
    "consumer_blocks", "target",
})  # fmt: skip
KINDS: dict[str, InstructionKind] = {}
ACCESS_WORDS: Mapping[int, str] = {0: "read", 1: "write"}
"""What stands in the JSON form of an instruction for the words."""
_OLD_NAMES = {"GetBlock": "GetSBlock"}


def primitive(
    kind: str,
    *,
    inputs: Sequence[str] = (),
    quiet: Sequence[str] = (),
    positional: bool = False,
    pure: bool = False,
    samples: bool = False,
    flat: str = "",
    method: str = "",
    renamed: Mapping[str, str] | None = None,
) -> Callable[[Callable[Concatenate[State, P], R]], Callable[Concatenate[State, P], R]]:
    """Declare a primitive.

    Args:
        kind: the name of the instruction kind, as in MetaSchedule's JSON.
        inputs: the parameters that are inputs, in the order of the JSON form.
        quiet: parameters printed only where they differ from their default.
        positional: print arguments without keywords.
        pure: results that nobody uses may be dropped from a trace.
        samples: the function has a parameter `decision` and leaves the decision taken in
            `state.decision`.
        flat: the (last) input whose items stand in the JSON form one by one.
        method: the method name, where it is not the function's.
        renamed: earlier names of parameters, each with the one of today.
    """

    def declare(
        fn: Callable[Concatenate[State, P], R],
    ) -> Callable[Concatenate[State, P], R]:
        spec = list(inspect.signature(fn).parameters.values())[1:]
        variadic = next((p.name for p in spec if p.kind is p.VAR_POSITIONAL), "")
        params = tuple(p.name for p in spec if p.name != "decision")
        record = InstructionKind(
            name=kind,
            method=method or fn.__name__,
            params=params,
            inputs=tuple(inputs),
            blocks=tuple([p for p in inputs if p in _BLOCK_PARAMS]),
            attrs=tuple(p for p in params if p not in inputs),
            defaults={p.name: p.default for p in spec if p.default is not p.empty},
            quiet=frozenset(quiet),
            positional=positional,
            variadic=variadic,
            flat=variadic or flat,
            is_pure=pure or samples,
            samples=samples,
            forms={p.name: form for p in spec if (form := _form(p.annotation)) in _FORMS},
            fn=fn,
            renamed=dict(renamed or {}),
        )
        names = tuple(p.name for p in spec)

        @functools.wraps(fn)
        def method_(self: State, *args: P.args, **kwargs: P.kwargs) -> R:
            values = _bind(record, names, args, kwargs)
            try:
                values = record.checked(values)
            except ScheduleError as e:
                self.explain_refusal(e, record, values, self.mod)
                raise
            return self.run(record, values)  # type: ignore[no-any-return]  # what fn returns: R

        method_.kind = record  # type: ignore[attr-defined]  # for the contents page and tests
        if not fn.__module__.startswith(f"{__package__}."):
            _join(record, method_)
        KINDS[kind] = record
        return cast("Callable[Concatenate[State, P], R]", method_)

    return declare


def _form(annotation: Any) -> str:
    """An annotation as text; it is a type where a module has no postponed annotations."""
    if isinstance(annotation, str):
        return annotation
    text = inspect.formatannotation(annotation)
    return text.replace("collections.abc.", "").replace("typing.", "")


def _join(kind: InstructionKind, method: Callable[..., Any]) -> None:
    """Make a primitive of another package a method of Schedule.

    Raises:
        UserError: the declaration is not whole, or there is such a kind or method already.
    """
    from .schedule import Schedule

    wrong = [p for p in kind.inputs if p not in kind.params]
    if wrong:
        raise UserError(
            f"primitive {kind.method}: it has no parameter {wrong[0]!r} to be an input",
            hint=f"its parameters are {', '.join(kind.params) or 'none'}",
            code="primitive-inputs",
        )
    old = KINDS.get(kind.name)
    there = getattr(Schedule, kind.method, None)
    if old is not None and not _same_place(old, kind):
        raise UserError(
            f"primitive {kind.method}: {old.fn.__module__} has declared the instruction kind "
            f"{kind.name!r} already",
            hint="give it another kind, such as one with the name of the package in front",
            code="primitive-exists",
        )
    if there is not None and (old is None or getattr(there, "kind", None) is not old):
        raise UserError(
            f"primitive {kind.method}: a schedule has a {kind.method!r} already",
            hint='choose another name for the function, or say method="..."',
            code="primitive-exists",
        )
    setattr(Schedule, kind.method, method)


def _same_place(a: InstructionKind, b: InstructionKind) -> bool:
    """Is one the other, declared anew (a module that is loaded again, a cell of a notebook)?"""
    return (a.fn.__module__, a.fn.__qualname__) == (b.fn.__module__, b.fn.__qualname__)


def _bind(
    kind: InstructionKind, names: tuple[str, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by parameter name, defaults filled in (inspect's bind takes ten times as long)."""
    if kind.variadic:
        values: dict[str, Any] = {kind.variadic: tuple(args)}
    else:
        if len(args) > len(names):
            raise TypeError(
                f"{kind.method}() takes {len(names)} arguments, got {len(args)}: "
                f"it is {kind.method}({', '.join(names)})"
            )
        values = dict(zip(names, args, strict=False))
    for given, v in kwargs.items():
        k = kind.renamed.get(given, given)
        if k not in names or k in values:
            what = "got two values for" if k in values else "has no argument"
            raise TypeError(
                f"{kind.method}() {what} {given!r}; it is {kind.method}({', '.join(names)})"
            )
        values[k] = v
    if len(values) == len(names):
        return values
    for k in names:
        if k not in values:
            if k not in kind.defaults:
                raise TypeError(
                    f"{kind.method}() needs {k!r}; it is {kind.method}({', '.join(names)})"
                )
            values[k] = kind.defaults[k]
    return values


def is_handle(x: object) -> bool:
    """Is it a block or loop handle?"""
    return type(x) is BlockRV or type(x) is LoopRV
