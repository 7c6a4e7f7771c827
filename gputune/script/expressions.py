"""What does an expression of a script mean? Python syntax to `Expr`, or to a Python constant."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..ir import build, dtypes
from ..ir.nodes import (
    BinaryOp,
    Buffer,
    BufferLoad,
    BufferRegion,
    Call,
    Expr,
    IntImm,
    IRModule,
    Not,
    PrimFunc,
    Ramp,
    Range,
)
from . import tir
from .context import MAX_DEPTH, MAX_LANES, Context, closest
from .intervals import distance, interval
from .values import (
    binary,
    branches,
    combine,
    condition,
    describe,
    is_expr,
    limited,
    python_compare,
    python_int,
    python_value,
    to_expr,
)

BINOPS: dict[type[ast.operator], BinaryOp] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip

_COMPARE: dict[type[ast.cmpop], BinaryOp] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip

_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "min": min, "max": max, "abs": abs, "sum": sum, "int": int, "float": float,
    "bool": bool, "round": round, "tuple": tuple, "list": list,
}  # fmt: skip


# ----------------------------------------------------------------------------- evaluation
def evaluate(ctx: Context, node: ast.AST) -> Any:
    """What `node` stands for: an Expr, a Buffer, a namespace, or a Python value."""
    handler = _HANDLERS.get(type(node))
    if handler is None:
        what = type(node).__name__
        ctx.fail(node, f"{what} is not part of the script language", code="script-syntax")
    if ctx.depth >= MAX_DEPTH:
        ctx.fail(node, f"expression nests deeper than {MAX_DEPTH}", "name a part with T.let")
    ctx.depth += 1
    value = handler(ctx, node)
    ctx.depth -= 1
    return value


def expression(ctx: Context, node: ast.AST, dtype: str | None = None) -> Expr:
    """The expression that `node` stands for."""
    return to_expr(ctx, evaluate(ctx, node), node, dtype)


def _constant(ctx: Context, node: ast.Constant) -> Any:
    value = node.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return limited(ctx, value, node)
    ctx.fail(node, f"constant {value!r} is not part of the script language", code="script-syntax")


def _joined(ctx: Context, node: ast.JoinedStr) -> str:
    """An f-string of constants."""
    out = []
    for part in node.values:
        if not isinstance(part, ast.FormattedValue):
            out.append(str(evaluate(ctx, part)))
            continue
        if part.format_spec is not None or part.conversion != -1:
            ctx.fail(node, "an f-string in a script has no format", "write {value} alone")
        value = evaluate(ctx, part.value)
        if not isinstance(value, (bool, int, float, str)):
            ctx.fail(node, f"an f-string holds constants, got {describe(value)}")
        out.append(str(value))
    return "".join(out)


def _name(ctx: Context, node: ast.Name) -> Any:
    found = ctx.names.get(node.id)
    return ctx.lookup(node) if found is None else found


def _binop(ctx: Context, node: ast.BinOp) -> Any:
    spine = []
    x: ast.expr = node
    while type(x) is ast.BinOp:  # a long sum leans left: no recursion along it
        spine.append(x)
        x = x.left
    value, value_node = evaluate(ctx, x), x
    for step in reversed(spine):
        right = evaluate(ctx, step.right)
        op = BINOPS.get(type(step.op))
        if op is None:
            value = _power_or_fail(ctx, step, value, right)
        else:
            value = _arith(ctx, op, value, right, step, value_node)
        value_node = step
    return value


def _arith(
    ctx: Context, op: BinaryOp, a: Any, b: Any, step: ast.BinOp, a_node: ast.expr
) -> Any:  # fmt: skip
    if op in ("&", "|") and is_expr(a) and is_expr(b):
        if dtypes.is_bool(a.dtype) and dtypes.is_bool(b.dtype):
            op = "and" if op == "&" else "or"
    out = binary(ctx, op, a, b, step, a_node, step.right)
    if op == "/" and is_expr(out) and not dtypes.is_float(out.dtype):
        ctx.fail(
            step,
            f"operator '/' on {out.dtype} is ambiguous",
            "use // (floor), T.truncdiv (toward zero), or T.cast to a float first",
        )
    return out


def _power_or_fail(ctx: Context, node: ast.BinOp, a: Any, b: Any) -> Any:
    if type(node.op) is not ast.Pow:
        what = type(node.op).__name__
        ctx.fail(node, f"operator {what} is not part of the script language", code="script-syntax")
    if is_expr(a) or is_expr(b):
        ctx.fail(node, "operator '**' is not defined on expressions", "use T.pow")
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        ctx.fail(node, f"operator '**' is not defined on {describe(a)} and {describe(b)}")
    if isinstance(b, int) and abs(b) > 64:
        ctx.fail(node, f"exponent {b} is too large")
    try:
        return limited(ctx, a**b, node)
    except (ZeroDivisionError, OverflowError) as e:
        ctx.fail(node, f"cannot compute {a!r} ** {b!r}: {e}")


def _unary(ctx: Context, node: ast.UnaryOp) -> Any:
    value = evaluate(ctx, node.operand)
    op = node.op
    if not is_expr(value):
        if isinstance(op, ast.Not):
            return not value
        if not isinstance(value, (int, float)):
            ctx.fail(node, f"{describe(value)} has no sign")
        if isinstance(op, ast.USub):
            return -value
        if isinstance(op, ast.UAdd):
            return +value
        if isinstance(value, int):
            return (not value) if isinstance(value, bool) else ~value
        ctx.fail(node, "operator '~' needs an integer")
    dtype = value.dtype
    if isinstance(op, ast.Not) or (isinstance(op, ast.Invert) and dtypes.is_bool(dtype)):
        if not dtypes.is_bool(dtype):
            ctx.fail(node, f"'not' needs a bool, got {dtype}", "compare first, as in x != 0")
        return Not(value)
    if dtype == "handle" or (dtypes.is_float(dtype) and isinstance(op, ast.Invert)):
        ctx.fail(node, f"operator {type(op).__name__} is not defined on {dtype}")
    if isinstance(op, ast.USub):
        return build.neg(value)
    return build.invert(value) if isinstance(op, ast.Invert) else value


def _compare(ctx: Context, node: ast.Compare) -> Any:
    out: Any = None
    left, left_node = evaluate(ctx, node.left), node.left
    for k, (cmp, right_node) in enumerate(zip(node.ops, node.comparators)):
        right = evaluate(ctx, right_node)
        op = _COMPARE.get(type(cmp))
        if op is None:
            out = python_compare(ctx, cmp, left, right, node)
        else:
            link = binary(ctx, op, left, right, node, left_node, right_node)
            out = link if k == 0 else binary(ctx, "and", out, link, node, node, node)
        left, left_node = right, right_node
    return out


def _boolop(ctx: Context, node: ast.BoolOp) -> Any:
    op: BinaryOp = "and" if isinstance(node.op, ast.And) else "or"
    value = evaluate(ctx, node.values[0])
    for x in node.values[1:]:
        if not is_expr(value):  # a Python value decides here, as in Python
            if bool(value) == (op == "or"):
                return value
            value = evaluate(ctx, x)
            continue
        right = evaluate(ctx, x)
        if is_expr(right):
            value = combine(ctx, op, value, right, node, fold=False)
        elif bool(right) == (op == "or"):  # `x or True`, `x and False`
            value = build.const(bool(right))
    return value


def _ifexp(ctx: Context, node: ast.IfExp) -> Any:
    cond = evaluate(ctx, node.test)
    if not is_expr(cond):
        return evaluate(ctx, node.body if cond else node.orelse)
    a, b = branches(ctx, node, evaluate(ctx, node.body), evaluate(ctx, node.orelse))
    return Call("if_then_else", (condition(ctx, cond, node.test), a, b), a.dtype)


def _sequence(ctx: Context, node: ast.Tuple | ast.List) -> Any:
    items: list[Any] = []
    for x in node.elts:
        if type(x) is ast.Starred:
            more = evaluate(ctx, x.value)
            if not isinstance(more, (tuple, list)):
                ctx.fail(x, f"cannot unpack {describe(more)}")
            items.extend(more)
        else:
            items.append(evaluate(ctx, x))
    return tuple(items) if type(node) is ast.Tuple else items


def _dict(ctx: Context, node: ast.Dict) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for k, v in zip(node.keys, node.values):
        if k is None:
            more = evaluate(ctx, v)
            if not isinstance(more, dict):
                ctx.fail(v, f"cannot unpack {describe(more)}")
            out.update(more)
            continue
        key = evaluate(ctx, k)
        try:
            out[key] = evaluate(ctx, v)
        except TypeError:
            ctx.fail(k, f"{describe(key)} cannot be a dictionary key")
    return out


def _subscript(ctx: Context, node: ast.Subscript) -> Any:
    base = evaluate(ctx, node.value)
    if isinstance(base, Buffer):
        return BufferLoad(base, access_indices(ctx, base, node))
    if isinstance(base, (tuple, list, dict, str)):
        return _python_item(ctx, base, node)
    ctx.fail(node, f"{describe(base)} cannot be indexed")


def _python_item(ctx: Context, base: Any, node: ast.Subscript) -> Any:
    if type(node.slice) is ast.Slice:
        s = node.slice
        parts = [None if x is None else evaluate(ctx, x) for x in (s.lower, s.upper, s.step)]
        key: Any = slice(*parts)
    else:
        key = evaluate(ctx, node.slice)
        if type(key) is IntImm:
            key = int(key.value)
    try:
        return _known(base[key])
    except (IndexError, KeyError, TypeError, ValueError) as e:
        ctx.fail(node, f"cannot take item {describe(key)} of {describe(base)}: {e}")


def _known(value: Any) -> Any:
    """An int32 constant from a shape is as good as a Python int."""
    if type(value) is IntImm and value.dtype == "int32":
        return value.value
    return python_value(value)


def _attribute(ctx: Context, node: ast.Attribute) -> Any:
    base = evaluate(ctx, node.value)
    attr = node.attr
    if base is tir:
        value = tir.constant_name(attr)
        if value is not None:
            return value
        _unknown(ctx, node, attr)
    if isinstance(base, Buffer):
        return _buffer_attribute(ctx, base, node)
    if is_expr(base):
        if attr == "dtype":
            return base.dtype
        ctx.fail(node, f"an expression has no attribute {attr!r}", "it has dtype and astype")
    if ctx.captured is None or attr.startswith("_") or isinstance(base, (PrimFunc, IRModule)):
        ctx.fail(node, f"{describe(base)} has no attribute {attr!r} in a script")
    try:
        return python_value(getattr(base, attr))
    except AttributeError as e:
        ctx.fail(node, str(e))


def _buffer_attribute(ctx: Context, b: Buffer, node: ast.Attribute) -> Any:
    match node.attr:
        case "shape":
            return tuple([_known(s) for s in b.shape])
        case "dtype" | "name":
            return b.dtype if node.attr == "dtype" else b.name
        case "scope":
            return b.scope
        case "align" | "data_alignment":
            return b.align
        case "strides":
            return () if b.strides is None else tuple([_known(s) for s in b.strides])
        case "elem_offset":
            return 0 if b.elem_offset is None else _known(b.elem_offset)
        case "data":
            from .tvm_words import no_pointer

            no_pointer(ctx, node, f"{b.name}.data")
        case attr:
            hint = "it has shape, dtype, name, scope, align, strides, elem_offset, vload, vstore"
            ctx.fail(node, f"a buffer has no attribute {attr!r}", hint)


def _call(ctx: Context, node: ast.Call) -> Any:
    from .calls import call_buffer, call_expr, call_tir

    func = node.func
    if type(func) is ast.Attribute:
        base = evaluate(ctx, func.value)
        if base is tir:
            return call_tir(ctx, node, func.attr)
        if isinstance(base, Buffer):
            return call_buffer(ctx, node, base, func.attr)
        if is_expr(base):
            return call_expr(ctx, node, base, func.attr)
        if base is tir.axis:
            ctx.fail(node, f"T.axis.{func.attr} must be assigned: vi = T.axis.{func.attr}(...)")
        what = describe(base)
        if isinstance(base, ModuleType):
            what = f"module {base.__name__}"
        ctx.fail(node, f"{what} has nothing to call in a script", code="script-call")
    if type(func) is ast.Name:
        if func.id not in ctx.names and _is_builtin(ctx, func.id):
            return _builtin(ctx, node, func.id)
        value = ctx.lookup(func)
        name = tir.name_of(value)
        if name:
            return call_tir(ctx, node, name)
        if isinstance(value, Buffer):
            ctx.fail(node, f"buffer {value.name} is called", f"index it: {value.name}[...]")
        hint = "scripts are read, never run: only T functions and len, min, max, ... can be called"
        ctx.fail(node, f"cannot call {func.id!r} in a script", hint, "script-call")
    ctx.fail(node, "this is not a function that a script can call", code="script-call")


def _is_builtin(ctx: Context, name: str) -> bool:
    if name not in _BUILTINS:
        return False
    if ctx.captured is None:
        return True
    try:
        return ctx.captured(name) is getattr(builtins, name)
    except KeyError:
        return True


def _builtin(ctx: Context, node: ast.Call, name: str) -> Any:
    if node.keywords:
        ctx.fail(node, f"{name} takes no keywords in a script")
    args = [evaluate(ctx, a) for a in node.args]
    if name in ("min", "max") and any(is_expr(a) for a in args):
        return fold_left(ctx, "min" if name == "min" else "max", args, node)
    if any(is_expr(a) or isinstance(a, Buffer) for a in args):
        hint = "use T.cast, T.abs, ... on expressions"
        ctx.fail(node, f"{name} works on constants only", hint, "script-call")
    if name in ("int", "float") and args and isinstance(args[0], str) and len(args[0]) > 64:
        ctx.fail(node, "number is too long")
    try:
        return limited(ctx, _BUILTINS[name](*args), node)
    except (TypeError, ValueError, OverflowError) as e:
        ctx.fail(node, f"{name}: {e}")


def fold_left(ctx: Context, op: BinaryOp, args: list[Any], node: ast.Call) -> Any:
    """`op` over two or more arguments, from the left."""
    if len(args) < 2:
        ctx.fail(node, f"{op} needs at least two arguments, got {len(args)}")
    value, value_node = args[0], node.args[0]
    for x, x_node in zip(args[1:], node.args[1:]):
        value = binary(ctx, op, value, x, node, value_node, x_node)
        value_node = node
    return value


def _unknown(ctx: Context, node: ast.AST, attr: str) -> Any:
    near = closest(attr, tir.__dir__())
    ctx.fail(node, f"T has no {attr!r}", f"did you mean {near}?" if near else "", "script-name")


def _starred(ctx: Context, node: ast.Starred) -> Any:
    ctx.fail(node, "unpacking with * is possible inside tuples, lists and T.grid only")


def _slice(ctx: Context, node: ast.Slice) -> Any:
    ctx.fail(node, "a slice is possible in buffer accesses and regions only")


def _lambda(ctx: Context, node: ast.Lambda) -> Any:
    ctx.fail(node, "lambda is not part of the script language", code="script-syntax")


# ----------------------------------------------------------------------------- accesses
def access_indices(ctx: Context, b: Buffer, node: ast.Subscript) -> tuple[Expr, ...]:
    """The indices of a load or store; a slice is a vector of consecutive elements."""
    items = index_nodes(node.slice)
    _check_rank(ctx, b, len(items), node)
    out = []
    for k, item in enumerate(items):
        if type(item) is ast.Slice:
            out.append(_vector_index(ctx, b, k, item))
            continue
        e = to_expr(ctx, evaluate(ctx, item), item)
        if not dtypes.is_int(e.dtype) and e.dtype != "bool":
            ctx.fail(item, f"index {k} of buffer {b.name} has dtype {e.dtype}", "use T.cast")
        out.append(e)
    return tuple(out)


def index_nodes(node: ast.expr) -> list[ast.expr]:
    """`A[i, j]` holds a tuple, `A[i]` one index, `A[()]` none."""
    return list(node.elts) if type(node) is ast.Tuple else [node]


def _check_rank(ctx: Context, b: Buffer, got: int, node: ast.AST) -> None:
    if got != len(b.shape):
        dims = f"{len(b.shape)} dimension{'s' if len(b.shape) != 1 else ''}"
        ctx.fail(
            node,
            f"buffer {b.name} has {dims}, got {got} {'index' if got == 1 else 'indices'}",
            f"its shape is ({', '.join(str(s) for s in b.shape)})",
            "script-rank",
        )


def _vector_index(ctx: Context, b: Buffer, k: int, node: ast.Slice) -> Expr:
    if node.lower is None or node.upper is None:
        ctx.fail(node, f"slice {k} of buffer {b.name} needs begin and end to be an access")
    lo, hi = evaluate(ctx, node.lower), evaluate(ctx, node.upper)
    step = 1 if node.step is None else python_int(ctx, evaluate(ctx, node.step), node, "a step")
    extent = build.const_int(distance(ctx, lo, hi, node))
    if extent is None or step == 0 or extent % step or extent // step < 1:
        ctx.fail(node, f"slice {k} of buffer {b.name} has no constant positive length")
    if extent // step > MAX_LANES:
        ctx.fail(node, f"a vector of {extent // step} lanes; {MAX_LANES} are the most")
    start = to_expr(ctx, lo, node)
    n = extent // step
    return start if n == 1 else Ramp(start, build.const(step, start.dtype), n)


def region_of(ctx: Context, node: ast.AST) -> BufferRegion:
    """A region such as `A[vi, 0:4]`, or the whole buffer."""
    if type(node) is not ast.Subscript:
        value = evaluate(ctx, node)
        if isinstance(value, Buffer):
            ranges = tuple([Range(IntImm(0, s.dtype), s) for s in value.shape])
            return BufferRegion(value, ranges)
        ctx.fail(node, f"expected a buffer region such as A[i, 0:4], got {describe(value)}")
    b = evaluate(ctx, node.value)
    if not isinstance(b, Buffer):
        ctx.fail(node, f"expected a buffer before [...], got {describe(b)}")
    items = index_nodes(node.slice)
    _check_rank(ctx, b, len(items), node)
    return BufferRegion(b, tuple([_range(ctx, b, k, item) for k, item in enumerate(items)]))


def _range(ctx: Context, b: Buffer, k: int, node: ast.expr) -> Range:
    if type(node) is not ast.Slice:
        value = evaluate(ctx, node)
        if isinstance(value, Range):
            return value
        lo = to_expr(ctx, value, node)
        if not dtypes.is_int(lo.dtype):
            ctx.fail(node, f"index {k} of buffer {b.name} has dtype {lo.dtype}", "use T.cast")
        return Range(lo, IntImm(1, lo.dtype))
    if node.step is not None:
        ctx.fail(node.step, "a region has no step")
    shape = b.shape[k]
    lo_value: Any = 0 if node.lower is None else evaluate(ctx, node.lower)
    hi_value: Any = shape if node.upper is None else evaluate(ctx, node.upper)
    return interval(ctx, lo_value, hi_value, node)


_HANDLERS: dict[type[ast.AST], Callable[[Context, Any], Any]] = {
    ast.Constant: _constant,
    ast.JoinedStr: _joined,
    ast.Name: _name,
    ast.BinOp: _binop,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.BoolOp: _boolop,
    ast.IfExp: _ifexp,
    ast.Tuple: _sequence,
    ast.List: _sequence,
    ast.Dict: _dict,
    ast.Subscript: _subscript,
    ast.Attribute: _attribute,
    ast.Call: _call,
    ast.Starred: _starred,
    ast.Slice: _slice,
    ast.Lambda: _lambda,
}
