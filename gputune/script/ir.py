"""What is `I`? How functions make a module: `from gputune.script import ir as I`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, overload

from ..errors import ScriptError
from ..ir.graph import Function
from ..ir.nodes import IRModule, PrimFunc

_ATTRS = "__gputune_module_attrs__"
NAMES = "__gputune_function_names__"
"""Where a class body keeps names of functions that are no Python names."""


@overload
def ir_module(cls: type, /) -> IRModule: ...


@overload
def ir_module(**options: Any) -> Callable[[type], IRModule]: ...


def ir_module(cls: type | None = None, /, **options: Any) -> IRModule | Callable[[type], IRModule]:
    """Gather the kernels and graph functions of a class into a module.

    Every `@T.prim_func` and every `@R.function` in the class body is a function of the module.

    Raises:
        ScriptError: the class holds something else, such as an undecorated function; or a graph
            function calls what is not there, or does not fit.

    Example:
        >>> @I.ir_module
        ... class Module:
        ...     @T.prim_func
        ...     def main(A: T.Buffer((16,), "float32")):
        ...         for i in range(16):
        ...             A[i] = 0.0
    """
    if cls is None:
        return ir_module
    if not isinstance(cls, type):
        raise ScriptError(
            f"@I.ir_module stands before a class, got {type(cls).__name__}", code="script-module"
        )
    from .parser import well_formed

    functions: dict[str, PrimFunc | Function] = {}
    names = vars(cls).get(NAMES, {})
    for name, value in vars(cls).items():
        if isinstance(value, (PrimFunc, Function)):
            functions[names.get(name, name)] = value
        elif callable(value) and not name.startswith("__"):
            raise ScriptError(
                f"{name!r} in module class {cls.__name__} is not a kernel",
                hint="decorate it with @T.prim_func, or with @R.function",
                code="script-module",
            )
    return well_formed(IRModule(functions, tuple(vars(cls).get(_ATTRS, {}).items())))


def module_attrs(attrs: dict[str, Any]) -> None:
    """Attributes of the module; stands in the class body, before the functions."""
    scope = sys._getframe(1).f_locals
    if "__qualname__" not in scope:
        raise ScriptError(
            "I.module_attrs stands in the body of a class decorated with @I.ir_module",
            code="script-outside",
        )
    scope[_ATTRS] = dict(attrs)
