"""What is `R`? The names of graph functions: `from gputune.script import relax as R`.

`R.Tensor`, `R.Tuple` and `R.const` make types and constants outside of a script too; all else is
read by the parser and means something only inside a function decorated with `@R.function`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, overload

from ..errors import ScriptError
from ..ir import graph
from ..ir.graph import TensorType, TupleType
from ..ir.operators import OPERATORS
from .context import dtype_problem


class Word:
    """A word of graph functions that means something only inside a script."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: this is not inside a script."""
        raise ScriptError(
            f"R.{self.name} is part of the script language and cannot be called outside a script",
            hint="use it inside a function decorated with @R.function",
            code="script-outside",
        )

    def __repr__(self) -> str:
        return f"R.{self.name}"


Constant = Word("Constant")
call_dps_packed = Word("call_dps_packed")
call_op = Word("call_op")
call_tir = Word("call_tir")
dataflow = Word("dataflow")
func_attr = Word("func_attr")
output = Word("output")
tuple_ = Word("tuple")
nn = SimpleNamespace(**{
    op.short_name: Word(name) for name, op in OPERATORS.items() if name.startswith("nn.")
})  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "tuple":  # as a name of this module it would hide Python's
        return tuple_
    if name in OPERATORS:
        return Word(name)
    raise AttributeError(f"R has no {name!r}")


def Tensor(shape: int | Sequence[int] | None = None, dtype: str = "float32", ndim: int = -1) -> Any:
    """The type of a tensor, as an annotation or for `R.call_tir`. Without a shape it is no whole
    type, and says something only as the annotation of a result.

    Example:
        >>> R.Tensor((1, 784), "float32")
    """
    if shape is None:
        return Word("Tensor")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in sizes):
        raise ScriptError(
            f"R.Tensor has a shape of whole numbers from 0, got {shape!r:.60}", code="script-shape"
        )
    problem = dtype_problem(dtype)
    if problem:
        raise ScriptError(f"R.Tensor: {problem}", code="script-dtype")
    return TensorType(sizes, dtype)


def Tuple(*fields: TensorType | TupleType) -> TupleType:
    """The type of several values."""
    for x in fields:
        if not isinstance(x, (TensorType, TupleType)):
            raise ScriptError(f"R.Tuple holds types such as R.Tensor(...), got {x!r:.60}")
    return TupleType(fields)


def const(value: Any, dtype: str | None = None) -> graph.Constant:
    """A tensor that is part of the program: of an array, a number or nested lists.

    Example:
        >>> R.const([1.0, 2.0], "float32")
    """
    if dtype is None and not hasattr(value, "dtype"):
        dtype = default_dtype(value)
    try:
        return graph.constant(value, dtype)
    except (ValueError, TypeError, OverflowError) as e:
        raise ScriptError(f"R.const: {e}", code="script-constant") from None


def default_dtype(value: Any) -> str:
    """What a number, or the first one in nested lists, becomes: bool, int32 or float32."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, bool):
        return "bool"
    return "int32" if isinstance(value, int) else "float32"


# ----------------------------------------------------------------------------- the decorator
@overload
def function(func: Callable[..., Any], /) -> graph.Function: ...


@overload
def function(
    *,
    private: bool = False,
    pure: bool = True,
    check_well_formed: bool = True,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], graph.Function]: ...


def function(
    func: Callable[..., Any] | None = None,
    /,
    *,
    private: bool = False,
    pure: bool = True,
    check_well_formed: bool = True,
    name: str | None = None,
) -> graph.Function | Callable[[Callable[..., Any]], graph.Function]:
    """Read a Python function as a graph function. Its body is parsed and never run.

    Args:
        func: the function, when used as `@R.function`.
        private: do not add the attribute "global_symbol" with the function's name.
        pure: accepted for compatibility.
        check_well_formed: accepted for compatibility; what is not well formed is always refused.
        name: the name in the module, where it is not that of the Python function.

    Raises:
        ScriptError: the function is not a legal script, or its source cannot be found.

    Example:
        >>> @R.function
        ... def main(x: R.Tensor((1, 128), "float32")):
        ...     with R.dataflow():
        ...         y = R.call_tir("env.relu", (x,), (1, 128), dtype="float32")
        ...         R.output(y)
        ...     return y
    """
    from .parser import parse_graph

    if func is not None:
        return parse_graph(func, private=private, name=name)
    return lambda f: parse_graph(f, private=private, name=name)
