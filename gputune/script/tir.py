"""What is `T`? The names of the tensor language: `from gputune.script import tir as T`.

Inside a script these names are read by the parser and never run. Outside, dtypes and expression
functions build constants and expressions (`T.int64(4)`, `T.exp(x)`), and everything that only means
something inside a script raises a ScriptError that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from ..errors import ScriptError
from ..ir import build, dtypes, ops
from ..ir.nodes import Buffer as _Buffer
from ..ir.nodes import Call, Expr, PrimFunc, StringImm, Var


class DType:
    """An element type: an annotation (`n: T.int32`), a typed constant (`T.int64(4)`), a cast
    (`T.float32(x)`), or a new variable (`T.int32()`)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: Any = None) -> Any:
        """A constant, a cast, or a new variable."""
        if value is None or self.name == "handle":
            return Var("v", self.name)
        if isinstance(value, str):
            value = float(value)
        return build.cast(self.name, build.expr(value, self.name))

    def __getitem__(self, item: Any) -> DType:
        return self

    def __repr__(self) -> str:
        return f"T.{self.name}"


class Keyword:
    """A word of the language that means something only inside a script."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self) -> ScriptError:
        return ScriptError(
            f"T.{self.name} is part of the script language and cannot be called outside a script",
            hint="use it inside a function decorated with @T.prim_func",
            code="script-outside",
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: this is not inside a script."""
        raise self._refuse()

    def __getitem__(self, item: Any) -> Any:
        raise self._refuse()

    def __repr__(self) -> str:
        return f"T.{self.name}"


class Function:
    """A function on expressions: works inside a script and outside."""

    __slots__ = ("name", "run")

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self.name = name
        self.run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The expression that the function makes of its arguments."""
        return self.run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"T.{self.name}"


BUFFER_ARGS = (
    "shape", "dtype", "data", "strides", "elem_offset", "scope", "align", "offset_factor",
    "buffer_type", "axis_separators",
)  # fmt: skip
"""What T.Buffer, T.match_buffer, T.alloc_buffer and T.decl_buffer are told, in this order."""

BUFFER_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "data": (
        (None,),
        "leave it out: a buffer owns its elements; a part of another one is viewed with "
        "T.match_buffer(A[i:j, ...], shape) in a block",
    ),
    "buffer_type": (
        (None, "", "default"),
        "leave it out: a dimension that is broadcast has extent 1 and is read at index 0",
    ),
    "axis_separators": (
        (None, [], ()),
        "leave it out: a buffer becomes one axis; dimensions can be joined or split in its shape",
    ),
}
"""What can be told, but only in the way of the values given here; and what to do instead."""


class BufferType:
    """`T.Buffer((m, n), "float32")`, or the older `T.Buffer[(m, n), "float32"]`; outside a script
    it is a buffer named "buffer"."""

    __slots__ = ()
    name = "Buffer"

    def __call__(self, *args: Any, **options: Any) -> _Buffer:
        """A buffer; the arguments are those of `BUFFER_ARGS`. ScriptError if they make none."""
        if len(args) > len(BUFFER_ARGS):
            raise _no_buffer(f"takes at most {len(BUFFER_ARGS)} arguments, got {len(args)}")
        told = dict(zip(BUFFER_ARGS, args, strict=False))
        for key, value in options.items():
            if key not in BUFFER_ARGS:
                raise _no_buffer(f"has no argument {key!r}", f"it takes {', '.join(BUFFER_ARGS)}")
            if key in told:
                raise _no_buffer(f"got argument {key!r} twice")
            told[key] = value
        if "shape" not in told:
            raise _no_buffer("misses argument 'shape'")
        for key, (plain, hint) in BUFFER_REFUSED.items():
            if not is_one_of(told.get(key), plain):
                raise _no_buffer(f"has the argument {key!r}", hint)
        return _buffer(told)

    def __getitem__(self, item: Any) -> _Buffer:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], (str, DType)):
            return self(item[0], item[1])
        return self(item)

    def __repr__(self) -> str:
        return "T.Buffer"


def is_one_of(value: Any, plain: tuple[Any, ...]) -> bool:
    """Is it one of these values? Expressions are not compared: `==` would build one."""
    return any(type(value) is type(p) and value == p for p in plain)


def _no_buffer(message: str, hint: str = "") -> ScriptError:
    return ScriptError(f"T.Buffer {message}", hint=hint, code="script-buffer")


def _buffer(told: dict[str, Any]) -> _Buffer:
    """The buffer named "buffer" of arguments by name."""
    dtype, scope = told.get("dtype"), told.get("scope")
    dtype = _dtype_name(dtype)
    if scope is not None and (not isinstance(scope, str) or not scope):
        raise _no_buffer(f"has a scope that is a string, got {scope!r}")
    numbers = {k: told.get(k) for k in ("align", "offset_factor")}
    for key, value in numbers.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise _no_buffer(f"has an {key} that is a whole number, got {value!r}")
    strides = told.get("strides") or None
    if strides is not None:
        strides = _integers("strides", strides)
    shape = told["shape"]
    dims = _integers("shape", shape if isinstance(shape, (tuple, list)) else (shape,))
    if strides is not None and len(strides) != len(dims):
        raise _no_buffer(f"has {len(dims)} dimensions and {len(strides)} strides")
    offset = told.get("elem_offset")
    if offset is not None:
        (offset,) = _integers("elem_offset", (offset,))
    elif numbers["offset_factor"]:
        offset = Var("buffer_elem_offset")
    return _Buffer(
        "buffer", dims, dtype, scope or "global", strides, offset, max(0, numbers["align"] or 0)
    )


def _dtype_name(dtype: Any) -> str:
    if dtype is None:
        return "float32"
    if isinstance(dtype, DType):
        return dtype.name
    if isinstance(dtype, (type, np.dtype)):
        try:
            return dtypes.from_numpy(np.dtype(dtype))
        except (TypeError, ValueError):
            pass  # no element type: said below
    base, lanes = dtypes.split(str(dtype))
    if (base not in dtypes.SCALARS or lanes < 1) and dtype != "handle":
        raise _no_buffer(f"has a dtype such as 'float32', got {dtype!r:.60}")
    return str(dtype)


def _integers(what: str, items: Any) -> tuple[Expr, ...]:
    """Integers and integer expressions, as expressions; a name stands for a variable."""
    out = []
    for item in items if isinstance(items, (tuple, list)) else [None]:
        if isinstance(item, str) and item.isidentifier():
            item = Var(item)
        is_index = isinstance(item, (int, np.integer)) and not isinstance(item, bool)
        if not is_index and not dtypes.is_int(str(getattr(item, "dtype", ""))):
            raise _no_buffer(f"has {what} made of integers, got {items!r:.60}")
        out.append(build.expr(int(item) if isinstance(item, np.integer) else item))
    return tuple(out)


class _Axis:
    """`T.axis`: how a block's iterators are declared."""

    __slots__ = ()
    spatial = S = Keyword("axis.spatial")
    reduce = R = Keyword("axis.reduce")
    scan = Keyword("axis.scan")
    opaque = Keyword("axis.opaque")
    remap = Keyword("axis.remap")

    def __repr__(self) -> str:
        return "T.axis"


# ----------------------------------------------------------------------------- words
def _math(name: str) -> Function:
    op = ops.MATH[name]

    def run(*args: Any) -> Expr:
        if len(args) != op.arity:
            raise TypeError(f"T.{name} takes {op.arity} arguments, got {len(args)}")
        first = next((a for a in args if hasattr(a, "dtype")), None)
        dtype = first.dtype if first is not None else (None if op.on_ints else "float32")
        items = tuple([build.expr(a, dtype) for a in args])
        lanes = dtypes.lanes(items[0].dtype)
        return Call(name, items, dtypes.with_lanes("bool", lanes) if op.to_bool else items[0].dtype)

    return Function(name, run)


def _cast(a: Any, b: Any) -> Expr:
    """The dtype may stand first (T.Cast) or last (T.cast)."""
    dtype, value = (a, b) if isinstance(a, (str, DType)) else (b, a)
    return build.cast(dtype.name if isinstance(dtype, DType) else dtype, value)


def _intrinsic(name: str) -> Function:
    def run(value: Any) -> Expr:
        return Call(name, (build.expr(value),), build.expr(value).dtype)

    return Function(name, run)


def _reinterpret(a: Any, b: Any = None, *, dtype: Any = None, value: Any = None) -> Expr:
    """The dtype may stand first, last, or have its name."""
    named = b if value is None else value
    first, second = (a, named) if dtype is None else (dtype, a)
    if not isinstance(first, (str, DType)):
        first, second = second, first
    name = first.name if isinstance(first, DType) else first
    return Call("reinterpret", (build.expr(second),), name)


def _if_then_else(cond: Any, t: Any, f: Any, dtype: str | None = None) -> Expr:
    """The dtype that some scripts name is that of the alternatives."""
    e = build.if_then_else(cond, t, f)
    if dtype is not None and e.dtype != dtype:
        raise ScriptError(
            f"the alternatives of T.if_then_else have dtype {e.dtype}, dtype= says {dtype}",
            hint="T.cast them, or leave dtype= out",
            code="script-dtype",
        )
    return e


def _call_extern(name: str, *args: Any, dtype: str = "int32") -> Expr:
    return Call("call_extern", (StringImm(name), *[build.expr(a) for a in args]), dtype)


BINARY: dict[str, str] = {
    "min": "min", "Min": "min", "max": "max", "Max": "max",
    "floordiv": "//", "FloorDiv": "//", "indexdiv": "//", "floormod": "%", "FloorMod": "%",
    "indexmod": "%", "truncdiv": "/", "truncmod": "truncmod", "Div": "/", "Mod": "truncmod",
    "Add": "+", "Sub": "-", "Mul": "*", "And": "and", "Or": "or", "EQ": "==", "NE": "!=",
    "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^", "shift_left": "<<", "shift_right": ">>",
}  # fmt: skip
"""Functions of two arguments that stand for a binary node."""

MATH_ALIASES = {"fabs": "abs", "power": "pow"}


def _binary(name: str, op: str) -> Function:
    def run(a: Any, b: Any) -> Expr:
        return build.binary(op, a, b)  # type: ignore[arg-type]  # every value of BINARY is an op

    return Function(name, run)


_WORDS = (
    "grid", "serial", "parallel", "vectorized", "unroll", "thread_binding", "launch_thread",
    "block", "sblock", "init", "reads", "writes", "where", "alloc_buffer", "sblock_alloc_buffer",
    "decl_buffer", "match_buffer", "block_attr", "sblock_attr", "func_attr", "let", "Let",
    "LetStmt", "evaluate", "var", "Range", "call_intrin", "call_llvm_pure_intrin",
    "call_llvm_intrin", "llvm_lookup_intrinsic_id", "vectorlow", "vectorhigh", "vectorcombine",
    "tvm_fill_fragment", "tvm_load_matrix_sync", "tvm_mma_sync", "tvm_store_matrix_sync",
)  # fmt: skip

_NAMES: dict[str, Any] = {
    **{w: Keyword(w) for w in _WORDS},
    **{n: _math(n) for n in ops.MATH},
    **{n: _math(m) for n, m in MATH_ALIASES.items()},
    **{n: _binary(n, op) for n, op in BINARY.items()},
    **{n: DType(n) for n in (*dtypes.SCALARS, "handle")},
    "boolean": DType("bool"),
    "Buffer": BufferType(),
    "axis": _Axis(),
    "Select": Function("Select", build.select),
    "if_then_else": Function("if_then_else", _if_then_else),
    "Cast": Function("Cast", _cast),
    "cast": Function("cast", _cast),
    "Not": Function("Not", build.logical_not),
    "bitwise_not": Function("bitwise_not", build.invert),
    "likely": _intrinsic("likely"),
    "assume": _intrinsic("assume"),
    "reinterpret": Function("reinterpret", _reinterpret),
    "call_extern": Function("call_extern", _call_extern),
    "call_pure_extern": Function("call_pure_extern", _call_extern),
    "ceildiv": Function("ceildiv", lambda a, b: build.floordiv(build.sub(build.add(a, b), 1), b)),
    "min_value": Function("min_value", lambda d: build.const(dtypes.min_value(d), d)),
    "max_value": Function("max_value", lambda d: build.const(dtypes.max_value(d), d)),
    "infinity": Function("infinity", lambda d="float32": build.const(math.inf, d)),
    "nan": Function("nan", lambda d="float32": build.const(math.nan, d)),
    "Ramp": Keyword("Ramp"),
    "ramp": Keyword("ramp"),
    "Broadcast": Function("Broadcast", build.broadcast),
    "broadcast": Function("broadcast", build.broadcast),
    "Shuffle": Keyword("Shuffle"),
    "StringImm": Function("StringImm", StringImm),
}

axis: _Axis = _NAMES["axis"]
Buffer: BufferType = _NAMES["Buffer"]


def __getattr__(name: str) -> Any:
    value = _NAMES.get(name)
    if value is None:
        value = _vector(name)
    if value is None:
        raise AttributeError(f"T has no {name!r}")
    return value


def __dir__() -> list[str]:
    return sorted([*_NAMES, "prim_func"])


def _vector(name: str) -> DType | None:
    base, lanes = dtypes.split(name)
    return DType(name) if lanes > 1 and base in dtypes.SCALARS else None


def constant_name(attr: str) -> Any:
    """What `T.attr` is where it is not called: a dtype name, `T.axis`, a function; or None."""
    value = _NAMES.get(attr) or _vector(attr)
    return value.name if isinstance(value, DType) else value


def name_of(value: Any) -> str:
    """The name of a word of the language that was captured on its own, or ""."""
    if isinstance(value, (DType, Keyword, Function, BufferType)):
        return value.name
    return ""


# ----------------------------------------------------------------------------- the decorator
@overload
def prim_func(func: Callable[..., Any], /) -> PrimFunc: ...


@overload
def prim_func(
    *,
    private: bool = False,
    check_well_formed: bool = True,
    s_tir: bool = True,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], PrimFunc]: ...


def prim_func(
    func: Callable[..., Any] | None = None,
    /,
    *,
    private: bool = False,
    check_well_formed: bool = True,
    s_tir: bool = True,
    name: str | None = None,
) -> PrimFunc | Callable[[Callable[..., Any]], PrimFunc]:
    """Read a Python function as a kernel. Its body is parsed and never run.

    Args:
        func: the function, when used as `@T.prim_func`.
        private: do not add the attribute "global_symbol" with the function's name.
        check_well_formed: accepted for compatibility; what is not well formed is always refused.
        s_tir: accepted for compatibility.
        name: the name in the module, where it is not that of the Python function.

    Raises:
        ScriptError: the function is not a legal script, or its source cannot be found.

    Example:
        >>> @T.prim_func
        ... def double(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
        ...     for i in range(16):
        ...         with T.block("B"):
        ...             vi = T.axis.spatial(16, i)
        ...             B[vi] = A[vi] * 2.0
    """
    from .parser import parse_function

    if func is not None:
        return parse_function(func, private=private, name=name)
    return lambda f: parse_function(f, private=private, name=name)
