"""How does a user's class become a part of the tuner? By inheriting; `derived_object` is free.

`left_open` makes MetaSchedule's `Py...` classes: what a subclass leaves out is missed when it is
called, and the error says so. The classes without `Py` miss it when an object is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import UserError

T = TypeVar("T")

_DERIVED = "_gputune_derived"


def derived_object(cls: type[T]) -> type[T]:
    """Accepted for programs written for TVM, where it connects a Python class to a C++ one.

    A class that names its base in `_tvm_metadata` instead of inheriting from it is made to inherit:
    `{"cls": base, "fields": [...], "methods": [...]}`, the last two optional.

    Raises:
        TypeError: it is no class; it derives from a class that was decorated before.
        UserError: `_tvm_metadata` is not what it should be.

    Example:
        >>> from gputune.meta_schedule import PyRunner
        >>> @derived_object
        ... class MyRunner(PyRunner):
        ...     def run(self, runner_inputs):
        ...         return []
        >>> MyRunner().run([])
        []
    """
    if not isinstance(cls, type):
        raise TypeError(f"derived_object decorates a class, not {type(cls).__name__}")
    for base in cls.__mro__:
        if _DERIVED in vars(base):
            raise TypeError(
                f"{cls.__name__} derives from {base.__name__}, which is a derived object already: "
                f"derive from {base.__bases__[0].__name__}, or leave derived_object out"
            )
    found = getattr(cls, "_tvm_metadata", None)
    made: type[Any] = cls
    if found is not None:
        base, methods = _metadata(cls, found)
        if not issubclass(cls, base):
            keep = {"__doc__": cls.__doc__, "__module__": cls.__module__}
            made = type(base)(cls.__name__, (cls, left_open(_empty(base))), keep)
        missing = [m for m in methods if not callable(getattr(made, m, None))]
        if missing:
            raise UserError(
                f"{cls.__name__}: _tvm_metadata names the method {missing[0]!r}, which neither it "
                f"nor {base.__name__} has",
                code="derived-object",
            )
    setattr(made, _DERIVED, True)
    return made


def _metadata(cls: type, found: Any) -> tuple[type, Sequence[str]]:
    """The base class and the methods that `_tvm_metadata` names."""
    good = isinstance(found, dict) and isinstance(found.get("cls"), type)
    lists = [found.get(k, []) for k in ("fields", "methods")] if good else []
    if not good or not all(
        isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        for names in lists
    ):
        raise UserError(
            f"{cls.__name__}: _tvm_metadata is {found!r:.60}",
            hint='it should be {"cls": a class, "fields": [names], "methods": [names]}',
            code="derived-object",
        )
    return found["cls"], lists[1]


def _empty(base: type) -> type[Any]:
    return type(base)(base.__name__, (base,), {"__module__": base.__module__})


def check_part(given: Any, base: type, name: str, kinds: str = "") -> Any:
    """What was given for a part of the tuner: an object of `base`, or one that can do the same.

    Args:
        given: the object.
        base: the class with the methods that it must have.
        name: of the argument, for the message.
        kinds: what else would do, for the message.

    Raises:
        UserError: it is something else, such as the class in place of an object.
    """
    needed = sorted(getattr(base, "__abstractmethods__", ()))
    missing = [m for m in needed if not callable(getattr(given, m, None))]
    if not missing and not isinstance(given, type):
        return given
    what = f"the class {given.__name__}" if isinstance(given, type) else f"{given!r:.60}"
    raise UserError(
        f"{name} is an object of {base.__name__}{kinds}, found {what}",
        hint=f"{given.__name__}(...)" if isinstance(given, type) else f"it has no {missing[0]}",
        code="part",
    )


def left_open(cls: type[T]) -> type[T]:
    """The class with its abstract methods filled in: calling one raises NotImplementedError, which
    names class and method."""
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        setattr(cls, name, _missing(getattr(cls, name)))
    cls.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]  # what ABCMeta looks at
    return cls


def _missing(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def stand_in(self: object, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: {method.__name__} is not implemented")

    stand_in.__isabstractmethod__ = False  # type: ignore[attr-defined]  # `wraps` has copied it
    return stand_in
