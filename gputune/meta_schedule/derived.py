"""How does a user's class become a part of the tuner? By subclassing; `derived_object` is free."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def derived_object(cls: type[T]) -> type[T]:
    """Accepted for programs written for TVM, where it connects a Python class to a C++ one.

    Example:
        >>> @derived_object
        ... class MyRunner(PyRunner): ...
    """
    if not isinstance(cls, type):
        raise TypeError(f"derived_object decorates a class, not {type(cls).__name__}")
    return cls
