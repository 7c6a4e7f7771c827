"""What does `T.name(...)` mean inside an expression?"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

from ..ir import build, dtypes, ops
from ..ir.nodes import (
    BinaryOp,
    Broadcast,
    Buffer,
    BufferLoad,
    Call,
    Cast,
    Expr,
    Let,
    Not,
    Ramp,
    Range,
    Select,
    Shuffle,
    StringImm,
    Var,
)
from . import tir
from .context import MAX_LANES, Context, closest
from .expressions import evaluate, expression, fold_left
from .values import (
    binary,
    branches,
    combine,
    condition,
    constant,
    describe,
    dtype_of,
    is_expr,
    python_int,
    to_expr,
)

Handler = Callable[[Context, ast.Call], Any]


def bind_args(
    ctx: Context, node: ast.Call, what: str, names: tuple[str, ...], required: int
) -> dict[str, ast.expr]:
    """The argument nodes of a call by name; refused where they do not fit the signature."""
    if len(node.args) > len(names):
        ctx.fail(node, f"{what} takes at most {len(names)} arguments, got {len(node.args)}")
    out: dict[str, ast.expr] = {}
    for name, arg in zip(names, node.args):
        if type(arg) is ast.Starred:
            ctx.fail(arg, f"{what} cannot take unpacked arguments")
        out[name] = arg
    for k in node.keywords:
        if k.arg is None or k.arg not in names:
            near = closest(k.arg or "**", names)
            hint = f"did you mean {near}?" if near else f"it takes {', '.join(names)}"
            ctx.fail(k.value, f"{what} has no argument {k.arg!r}", hint)
        if k.arg in out:
            ctx.fail(k.value, f"{what} got argument {k.arg!r} twice")
        out[k.arg] = k.value
    for name in names[:required]:
        if name not in out:
            ctx.fail(node, f"{what} misses argument {name!r}")
    return out


def word_of(ctx: Context, node: ast.AST) -> str:
    """The name if `node` is a call `T.name(...)`, `T.axis.name(...)` or `range(...)`, else ""."""
    if type(node) is not ast.Call:
        return ""
    func = node.func
    if type(func) is ast.Name:
        if func.id == "range":
            return "range"
        value = ctx.names.get(func.id)
        if value is None and ctx.captured is not None:
            try:
                value = ctx.captured(func.id)
            except KeyError:
                return ""
        return tir.name_of(value)
    if type(func) is ast.Attribute:
        if type(func.value) is ast.Name:
            return func.attr if ctx.lookup(func.value) is tir else ""
        if type(func.value) is ast.Attribute:
            base = evaluate(ctx, func.value)
            if base is tir:
                return func.attr
            if base is tir.axis:
                return "axis." + func.attr
    return ""


def no_keywords(ctx: Context, node: ast.Call, what: str) -> None:
    """Refuse keywords on a call that takes none."""
    if node.keywords:
        k = node.keywords[0]
        ctx.fail(k.value, f"{what} has no argument {k.arg!r}")


def call_tir(ctx: Context, node: ast.Call, name: str) -> Any:
    """The value of `T.name(...)`."""
    from .tvm_words import FUNCTIONS, INSTEAD

    handler = _FUNCTIONS.get(name) or FUNCTIONS.get(name)
    if handler is not None:
        return handler(ctx, node)
    if name in ops.MATH:
        return stated(ctx, node, lambda ctx, node: _math(ctx, node, name))
    op = tir.BINARY.get(name)
    if op is not None:
        binary_op: Any = op  # every value of BINARY is an op
        return stated(ctx, node, lambda ctx, node: _binary(ctx, node, name, binary_op))
    if name in INSTEAD:
        ctx.fail(node, f"T.{name} is not part of this language", INSTEAD[name], "script-name")
    word = tir.constant_name(name)
    if isinstance(word, str):
        return _typed(ctx, node, word)
    if word is None:
        near = closest(name, tir.__dir__())
        ctx.fail(node, f"T has no {name!r}", f"did you mean {near}?" if near else "", "script-name")
    ctx.fail(node, f"T.{name} is a statement, not a value", code="script-syntax")


def stated(ctx: Context, node: ast.Call, handler: Handler) -> Any:
    """The value of a call in which a script may say the dtype of the result: `dtype=` must agree
    with what the arguments give, and converts nothing."""
    said = next((k for k in node.keywords if k.arg == "dtype"), None)
    if said is None:
        return handler(ctx, node)
    dtype = dtype_of(ctx, evaluate(ctx, said.value), said.value)
    rest = ast.Call(node.func, node.args, [k for k in node.keywords if k is not said])
    value = handler(ctx, ast.copy_location(rest, node))
    if not is_expr(value):
        return constant(ctx, value, node, dtype)
    if value.dtype != dtype:
        ctx.fail(
            said.value, f"the result has dtype {value.dtype}, dtype= says {dtype}",
            "T.cast the arguments, or leave dtype= out", "script-dtype",
        )  # fmt: skip
    return value


# ----------------------------------------------------------------------------- by kind
def _math(ctx: Context, node: ast.Call, name: str) -> Expr:
    op = ops.MATH[name]
    no_keywords(ctx, node, f"T.{name}")
    if len(node.args) != op.arity:
        s = "" if op.arity == 1 else "s"
        ctx.fail(node, f"T.{name} takes {op.arity} argument{s}, got {len(node.args)}")
    values = [evaluate(ctx, a) for a in node.args]
    dtype = next((v.dtype for v in values if is_expr(v)), None)
    if dtype is None and not op.on_ints:
        dtype = "float32"
    args = tuple([to_expr(ctx, v, n, dtype) for v, n in zip(values, node.args)])
    first = args[0].dtype
    if not (dtypes.is_float(first) or (op.on_ints and dtypes.is_int(first))):
        hint = f'use T.{name}(T.cast(x, "float32"))'
        ctx.fail(node, f"T.{name} needs a float, got {first}", hint, "script-dtype")
    for a in args[1:]:
        if a.dtype != first:
            ctx.fail(node, f"T.{name} on {first} and {a.dtype}", "T.cast one of them")
    result = dtypes.with_lanes("bool", dtypes.lanes(first)) if op.to_bool else first
    return Call(name, args, result)


def _binary(ctx: Context, node: ast.Call, name: str, op: BinaryOp) -> Any:
    no_keywords(ctx, node, f"T.{name}")
    if op in ("min", "max"):
        return fold_left(ctx, op, [evaluate(ctx, a) for a in node.args], node)
    if len(node.args) != 2:
        ctx.fail(node, f"T.{name} takes 2 arguments, got {len(node.args)}")
    a, b = [evaluate(ctx, x) for x in node.args]
    if not is_expr(a) and not is_expr(b):
        a = to_expr(ctx, a, node.args[0])
        b = to_expr(ctx, b, node.args[1], a.dtype)
        return build.binary(op, a, b)
    return binary(ctx, op, a, b, node, node.args[0], node.args[1])


def _typed(ctx: Context, node: ast.Call, dtype: str) -> Any:
    """`T.int64(4)`, `T.float32(x)`, `T.float32("inf")`."""
    no_keywords(ctx, node, f"T.{dtype}")
    if not node.args:
        hint = f"declare a variable with n = T.{dtype}()"
        ctx.fail(node, f"T.{dtype}() without a value is a declaration", hint)
    if len(node.args) != 1:
        ctx.fail(node, f"T.{dtype} takes one argument, got {len(node.args)}")
    value = evaluate(ctx, node.args[0])
    if is_expr(value):
        if (value.dtype == "handle") != (dtype == "handle"):
            ctx.fail(node, f"cannot cast {value.dtype} to {dtype}", "use T.reinterpret")
        return build.cast(dtype, value)
    if dtype == "handle":
        ctx.fail(node, f"T.handle cannot hold {describe(value)}")
    if isinstance(value, str):
        if value not in ("inf", "-inf", "nan") or not dtypes.is_float(dtype):
            ctx.fail(node, f"T.{dtype} cannot hold {value!r}", 'strings are "inf", "-inf", "nan"')
        value = float(value)
    if not isinstance(value, (bool, int, float)):
        ctx.fail(node, f"T.{dtype} cannot hold {describe(value)}")
    return constant(ctx, value, node, dtype)


# ----------------------------------------------------------------------------- one by one
def _select(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Select", ("condition", "true_value", "false_value"), 3)
    cond, a, b = [evaluate(ctx, x) for x in args.values()]
    x, y = branches(ctx, node, a, b)
    return Select(condition(ctx, cond, node.args[0] if node.args else node), x, y)


def _if_then_else(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.if_then_else", ("cond", "t", "f", "dtype"), 3)
    cond, a, b = [evaluate(ctx, args[k]) for k in ("cond", "t", "f")]
    dtype = None
    if "dtype" in args:
        dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
        a, b = [
            v if is_expr(v) else to_expr(ctx, v, args[k], dtype) for v, k in ((a, "t"), (b, "f"))
        ]
    x, y = branches(ctx, node, a, b)
    if dtype not in (None, x.dtype):
        ctx.fail(
            args["dtype"], f"the alternatives have dtype {x.dtype}, dtype= says {dtype}",
            "T.cast them, or leave dtype= out", "script-dtype",
        )  # fmt: skip
    return Call("if_then_else", (condition(ctx, cond, args["cond"]), x, y), x.dtype)


def _cast(ctx: Context, node: ast.Call, exact: bool) -> Expr:
    args = bind_args(ctx, node, "a cast", ("dtype", "value"), 2)
    first, second = evaluate(ctx, args["dtype"]), evaluate(ctx, args["value"])
    dtype_node, value_node = args["dtype"], args["value"]
    if is_expr(first) or not isinstance(first, str):
        first, second, dtype_node, value_node = second, first, value_node, dtype_node
    dtype = dtype_of(ctx, first, dtype_node)
    value = to_expr(ctx, second, value_node)
    if "handle" in (dtype, value.dtype) and dtype != value.dtype:
        ctx.fail(node, f"cannot cast {value.dtype} to {dtype}", "use T.reinterpret")
    if exact and type(dtype_node) is ast.Constant:
        return Cast(dtype, value)
    return build.cast(dtype, value)


def _let(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Let", ("expr", "where"), 2)
    where = args["where"]
    if type(where) is not ast.Dict or not where.keys:
        ctx.fail(where, "T.Let needs where={name: value}")
    mark, bound = len(ctx.undo), []
    for key, value_node in zip(where.keys, where.values):
        if type(key) is not ast.Name:
            ctx.fail(where, "T.Let binds names: where={x: value}")
        value = expression(ctx, value_node)
        var = Var(key.id, value.dtype)
        ctx.bind(key.id, var)
        bound.append((var, value))
    body = expression(ctx, args["expr"])
    ctx.release(mark)
    for var, value in reversed(bound):
        body = Let(var, value, body)
    return body


def _ramp(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Ramp", ("base", "stride", "lanes"), 3)
    base, stride = branches(ctx, node, evaluate(ctx, args["base"]), evaluate(ctx, args["stride"]))
    if not dtypes.is_int(base.dtype):
        ctx.fail(node, f"T.Ramp needs integers, got {base.dtype}")
    return Ramp(base, stride, _lanes(ctx, args["lanes"]))


def _lanes(ctx: Context, node: ast.expr) -> int:
    n = python_int(ctx, evaluate(ctx, node), node, "the number of lanes")
    if not 1 <= n <= MAX_LANES:
        ctx.fail(node, f"{n} lanes; 1 to {MAX_LANES} are possible", code="script-range")
    return n


def _broadcast(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Broadcast", ("value", "lanes"), 2)
    value = expression(ctx, args["value"])
    if value.dtype == "handle" or dtypes.lanes(value.dtype) > 1:
        ctx.fail(node, f"T.Broadcast repeats a number, got {value.dtype}")
    return Broadcast(value, _lanes(ctx, args["lanes"]))


def _shuffle(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Shuffle", ("vectors", "indices"), 2)
    vectors, indices = evaluate(ctx, args["vectors"]), evaluate(ctx, args["indices"])
    if not isinstance(vectors, (list, tuple)) or not isinstance(indices, (list, tuple)):
        ctx.fail(node, "T.Shuffle takes a list of vectors and a list of indices")
    if not vectors or not indices:
        ctx.fail(node, "T.Shuffle needs at least one vector and one index")
    exprs = tuple([to_expr(ctx, v, node) for v in vectors])
    chosen = tuple([python_int(ctx, i, node, "a shuffle index") for i in indices])
    bases = {dtypes.scalar(e.dtype) for e in exprs}
    total = sum(dtypes.lanes(e.dtype) for e in exprs)
    if len(bases) > 1:
        ctx.fail(node, f"T.Shuffle mixes {' and '.join(sorted(bases))}")
    if not all(0 <= i < total for i in chosen):
        ctx.fail(node, f"shuffle indices {list(chosen)} leave the {total} elements given")
    return Shuffle(exprs, chosen)


def _call_extern(ctx: Context, node: ast.Call) -> Expr:
    dtype, args = None, [evaluate(ctx, a) for a in node.args]
    for k in node.keywords:
        if k.arg != "dtype":
            ctx.fail(k.value, f"T.call_extern has no argument {k.arg!r}")
        dtype = dtype_of(ctx, evaluate(ctx, k.value), k.value)
    if dtype is None and args:  # the dtype may stand first, as in TVM
        dtype = dtype_of(ctx, args[0], node)
        args = args[1:]
    if not args or not isinstance(args[0], str) or dtype is None:
        ctx.fail(node, 'expected T.call_extern("name", ..., dtype="float32")')
    from .tvm_words import pure_extern

    return pure_extern(
        ctx, node, Call("call_extern", tuple([to_expr(ctx, a, node) for a in args]), dtype)
    )


def _call_intrin(ctx: Context, node: ast.Call) -> Expr:
    no_keywords(ctx, node, "T.call_intrin")
    args = [evaluate(ctx, a) for a in node.args]
    if len(args) < 2 or not isinstance(args[1], str):
        ctx.fail(node, 'expected T.call_intrin("dtype", "name", ...)')
    dtype = dtype_of(ctx, args[0], node.args[0])
    return Call(args[1], tuple([to_expr(ctx, a, node) for a in args[2:]]), dtype)


def _reinterpret(ctx: Context, node: ast.Call) -> Expr:
    """The dtype stands first, or last, or has its name."""
    named = any(k.arg == "dtype" for k in node.keywords)
    names = ("value", "dtype") if named else ("dtype", "value")
    args = bind_args(ctx, node, "T.reinterpret", names, 2)
    first, second = evaluate(ctx, args["dtype"]), evaluate(ctx, args["value"])
    if is_expr(first) and not is_expr(second):
        first, second = second, first
    dtype = dtype_of(ctx, first, args["dtype"])
    return Call("reinterpret", (to_expr(ctx, second, args["value"]),), dtype)


def _promise(name: str) -> Handler:
    def handler(ctx: Context, node: ast.Call) -> Expr:
        args = bind_args(ctx, node, f"T.{name}", ("cond",), 1)
        cond = condition(ctx, evaluate(ctx, args["cond"]), args["cond"])
        return Call(name, (cond,), cond.dtype)

    return lambda ctx, node: stated(ctx, node, handler)


def _not(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.Not", ("a",), 1)
    return Not(condition(ctx, evaluate(ctx, args["a"]), args["a"]))


def _bitwise_not(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.bitwise_not", ("x",), 1)
    e = expression(ctx, args["x"])
    if not dtypes.is_int(e.dtype):
        ctx.fail(node, f"T.bitwise_not needs an integer, got {e.dtype}")
    return build.invert(e)


def _ceildiv(ctx: Context, node: ast.Call) -> Any:
    args = bind_args(ctx, node, "T.ceildiv", ("lhs", "rhs"), 2)
    a, b = evaluate(ctx, args["lhs"]), evaluate(ctx, args["rhs"])
    if not is_expr(a) and not is_expr(b):
        if not isinstance(a, int) or not isinstance(b, int) or b == 0:
            ctx.fail(node, f"T.ceildiv of {describe(a)} and {describe(b)}")
        return -(-a // b)
    x, y = branches(ctx, node, a, b)
    if not dtypes.is_int(x.dtype):
        ctx.fail(node, f"T.ceildiv needs integers, got {x.dtype}")
    return build.floordiv(build.sub(build.add(x, y), 1), y)


def _limit(name: str) -> Handler:
    def handler(ctx: Context, node: ast.Call) -> Expr:
        args = bind_args(ctx, node, f"T.{name}", ("dtype",), 1)
        dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
        if dtype == "handle":
            ctx.fail(node, f"a handle has no {name}")
        value: float
        if name == "min_value":
            value = dtypes.min_value(dtype)
        elif name == "max_value":
            value = dtypes.max_value(dtype)
        elif not dtypes.is_float(dtype):
            ctx.fail(node, f"{dtype} has no {name}", "use T.min_value or T.max_value")
        else:
            value = math.inf if name == "infinity" else math.nan
        return build.const(value, dtype)

    return handler


def _range(ctx: Context, node: ast.Call) -> Range:
    args = bind_args(ctx, node, "T.Range", ("min", "extent"), 2)
    return Range(expression(ctx, args["min"]), expression(ctx, args["extent"]))


def _string(ctx: Context, node: ast.Call) -> Expr:
    args = bind_args(ctx, node, "T.StringImm", ("value",), 1)
    value = evaluate(ctx, args["value"])
    if not isinstance(value, str):
        ctx.fail(node, f"T.StringImm holds a string, got {describe(value)}")
    return StringImm(value)


def _alias(name: str) -> Handler:
    return lambda ctx, node: _math(ctx, node, name)


_FUNCTIONS: dict[str, Handler] = {
    "Select": _select,
    "if_then_else": _if_then_else,
    "Cast": lambda ctx, node: _cast(ctx, node, exact=True),
    "cast": lambda ctx, node: _cast(ctx, node, exact=False),
    "Let": _let,
    "Ramp": _ramp,
    "Broadcast": _broadcast,
    "Shuffle": _shuffle,
    "ramp": _ramp,
    "broadcast": _broadcast,
    "call_extern": _call_extern,
    "call_pure_extern": _call_extern,
    "call_intrin": _call_intrin,
    "reinterpret": _reinterpret,
    "likely": _promise("likely"),
    "assume": _promise("assume"),
    "Not": _not,
    "bitwise_not": _bitwise_not,
    "ceildiv": _ceildiv,
    "min_value": _limit("min_value"),
    "max_value": _limit("max_value"),
    "infinity": _limit("infinity"),
    "nan": _limit("nan"),
    "Range": _range,
    "StringImm": _string,
    **{alias: _alias(name) for alias, name in tir.MATH_ALIASES.items()},
}


# ----------------------------------------------------------------------------- methods
def call_buffer(ctx: Context, node: ast.Call, b: Buffer, attr: str) -> Any:
    """`A.vload([i], predicate=mask)`, `A.scope()`."""
    if attr == "scope" and not node.args and not node.keywords:
        return b.scope
    if attr == "vstore":
        ctx.fail(node, f"{b.name}.vstore is a statement, not a value")
    if attr == "access_ptr":
        from .tvm_words import no_pointer

        no_pointer(ctx, node, f"{b.name}.access_ptr")
    if attr != "vload":
        ctx.fail(node, f"a buffer has no method {attr!r}", "it has vload, vstore and scope")
    args = bind_args(ctx, node, f"{b.name}.vload", ("begin", "dtype", "predicate"), 1)
    indices = vector_indices(ctx, b, args["begin"])
    if "dtype" in args:
        dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
        indices = _lanes_from(ctx, node, b, indices, dtype)
    predicate = expression(ctx, args["predicate"]) if "predicate" in args else None
    return BufferLoad(b, indices, predicate)


def _lanes_from(
    ctx: Context, node: ast.AST, b: Buffer, indices: tuple[Expr, ...], dtype: str
) -> tuple[Expr, ...]:
    """Where the lanes of a vector of `dtype` lie that begins at `indices`: one after another along
    the last dimension, and on in the next row where the row ends."""
    base, n = dtypes.split(dtype)
    have = dtypes.access_dtype(b.dtype, indices)
    if have == dtype:
        return indices
    if base != b.dtype or n == 1 or have != b.dtype:
        ctx.fail(
            node, f"a load of {have} from buffer {b.name} is not one of {dtype}",
            f"T.reinterpret what is loaded as {have}", "script-dtype",
        )  # fmt: skip
    row = build.const_int(b.shape[-1])
    if row is None or row % n == 0 or row > n:
        last = indices[-1]
        return (*indices[:-1], Ramp(last, build.const(1, last.dtype), n))
    out: list[Expr] = []
    flat: Any = indices[-1]
    sizes = [build.const_int(s) for s in b.shape]
    step = 1
    for index, size in zip(reversed(indices[:-1]), reversed(sizes[1:])):
        if size is None:
            ctx.fail(node, f"a load of {dtype} crosses rows of {b.name}, whose sizes are not known")
        step *= size
        flat = build.add(build.mul(index, step), flat)
    lanes: Any = Ramp(flat, build.const(1, flat.dtype), n)
    for size in reversed(sizes[1:]):
        out.append(combine(ctx, "%", lanes, _many(size, lanes), node, fold=False))
        lanes = combine(ctx, "//", lanes, _many(size, lanes), node, fold=False)
    return (lanes, *reversed(out))


def _many(value: Any, beside: Expr) -> Expr:
    return build.broadcast(
        build.const(value, dtypes.scalar(beside.dtype)), dtypes.lanes(beside.dtype)
    )


def vector_indices(ctx: Context, b: Buffer, node: ast.expr) -> tuple[Expr, ...]:
    """The index list of vload and vstore."""
    items = evaluate(ctx, node)
    if not isinstance(items, (list, tuple)):
        items = [items]
    if len(items) != len(b.shape):
        ctx.fail(
            node, f"buffer {b.name} has {len(b.shape)} dimensions, got {len(items)} indices",
            code="script-rank",
        )  # fmt: skip
    out = tuple([to_expr(ctx, i, node) for i in items])
    for k, e in enumerate(out):
        if not dtypes.is_int(e.dtype) and e.dtype != "bool":
            ctx.fail(node, f"index {k} of buffer {b.name} has dtype {e.dtype}", "use T.cast")
    return out


def call_expr(ctx: Context, node: ast.Call, e: Expr, attr: str) -> Expr:
    """`x.astype("float32")`."""
    if attr != "astype":
        ctx.fail(node, f"an expression has no method {attr!r}", "it has astype")
    args = bind_args(ctx, node, "astype", ("dtype",), 1)
    return build.cast(dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"]), e)
