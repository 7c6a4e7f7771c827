"""Which Python functions can a graph program call by name?

An external function is called in destination-passing style: with the arrays of its arguments, then
the arrays that it is to fill. All are `NDArray`s in host memory, C-contiguous and writable, which
`np.asarray` and `torch.from_dlpack` see without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from gputune.errors import UserError

External = Callable[..., Any]
_functions: dict[str, External] = {}


@overload
def register_func(name: External, /) -> External: ...


@overload
def register_func(
    name: str, func: None = None, override: bool = False
) -> Callable[[External], External]: ...


@overload
def register_func(name: str, func: External, override: bool = False) -> External: ...


def register_func(
    name: str | External, func: External | None = None, override: bool = False
) -> External | Callable[[External], External]:
    """Register a Python function under a name, as a decorator or at once.

    Args:
        name: what graph programs call it by; a function alone goes by its own name.
        func: the function; without it, a decorator is returned.
        override: replace what is registered under the name.

    Raises:
        UserError: the name is taken, or is none; it is no function.

    Example:
        >>> @gputune.register_func("env.relu", override=True)
        ... def relu(x, out):
        ...     np.maximum(x, 0, out=np.asarray(out))
    """
    if not isinstance(name, str):
        return _register(getattr(name, "__name__", ""), name, override)
    if func is not None:
        return _register(name, func, override)

    def decorate(f: External) -> External:
        return _register(name, f, override)

    return decorate


def _register(name: str, func: Any, override: bool) -> External:
    if not name or not callable(func):
        raise UserError(
            f"register_func: expected a name and a function, got {name!r} and {func!r:.60}",
            code="external",
        )
    if name in _functions and not override:
        raise UserError(
            f"an external function {name!r} is registered already",
            hint="override=True replaces it",
            code="external",
        )
    _functions[name] = func
    found: External = func
    return found


def get_global_func(name: str, allow_missing: bool = False) -> External | None:
    """The function registered under a name.

    Raises:
        UserError: there is none, and `allow_missing` does not say that None will do.
    """
    found = _functions.get(name)
    if found is None and not allow_missing:
        known = ", ".join(sorted(_functions)) or "none"
        raise UserError(
            f"no external function is registered under {name!r}",
            hint=f"@gputune.register_func({name!r}) does it; registered: {known}",
            code="external",
        )
    return found


def remove_global_func(name: str) -> None:
    """Forget the function registered under a name; UserError if there is none."""
    get_global_func(name)
    del _functions[name]
