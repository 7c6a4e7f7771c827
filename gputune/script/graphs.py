"""What does a graph function of a script mean? Python syntax to `ir.graph.Function`.

Names may stand for values of the graph, for functions of the module, or for Python values (sizes,
dtypes, arrays), as in tensor functions. A call that stands inside another value gets a variable of
its own, so that calls are values of bindings only.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..ir import dtypes, graph
from ..ir.graph import Binding, DataflowBlock, TensorType, TupleType, Type
from ..ir.nodes import FloatImm, IntImm, PrimFunc
from ..ir.operators import OPERATORS, Operator
from . import relax
from .blocks import annotations_of, merged
from .calls import bind_args
from .constants import constant_of
from .context import Context, closest
from .expressions import evaluate
from .operators import operator_args, operator_call, operator_word
from .values import describe, dtype_of, python_int

_MAX_RANK = 64


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """The module around a graph function: the class's name, and the names under which the module
    holds functions whose Python names are others."""

    name: str = "Module"
    functions: Mapping[str, str] = field(default_factory=dict)

    def var(self, name: str) -> graph.GlobalVar:
        """What the Python name of a function stands for."""
        return graph.GlobalVar(self.functions.get(name, name))


@dataclass(frozen=True, slots=True)
class _Local:
    """What a name stands for that belongs to a dataflow block which has ended."""

    name: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an annotation asks for; None is anything."""

    shape: tuple[int, ...] | None
    dtype: str | None
    ndim: int | None


@dataclass(slots=True)
class _Reader:
    """A function while it is read: its bindings so far, those of the innermost block last."""

    ctx: Context
    module: ModuleNames
    items: list[Binding | DataflowBlock] = field(default_factory=list)
    dataflow: list[Binding] | None = None
    attrs: tuple[tuple[str, Any], ...] = ()

    def bind(self, name: str, value: graph.Expr) -> graph.Var:
        var = graph.Var(name, value.type)
        if self.dataflow is None:
            self.items.append(Binding(var, value))
        else:
            self.dataflow.append(Binding(var, value))
        return var


def graph_function(
    ctx: Context, node: ast.FunctionDef, private: bool, name: str | None, module: ModuleNames
) -> graph.Function:
    """The function that `node` describes; `name` is the one in the module, if it is another."""
    a = node.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs or a.defaults:
        ctx.fail(node, f"parameters of {node.name!r} are plain names with annotations")
    r = _Reader(ctx, module)
    ctx.bind(module.name, module)
    params: list[graph.Var] = []
    for arg in a.args:
        if arg.annotation is None:
            hint = 'such as R.Tensor((1, 784), "float32")'
            ctx.fail(arg, f"parameter {arg.arg!r} has no annotation", hint)
        if any(p.name == arg.arg for p in params):
            ctx.fail(arg, f"two parameters are named {arg.arg!r}")
        params.append(graph.Var(arg.arg, type_of(ctx, unquoted(ctx, arg.annotation))))
    for p in params:
        ctx.bind(p.name, p)
    result = _body(r, node)
    if node.returns is not None:
        wanted = unquoted(ctx, node.returns)
        _fits(ctx, wanted, _annotation(ctx, wanted), result.type, "the result")
    attrs = r.attrs
    if not private and "global_symbol" not in dict(attrs):
        attrs = (*attrs, ("global_symbol", name or node.name))
    return graph.Function(tuple(params), tuple(r.items), result, attrs)


def unquoted(ctx: Context, node: ast.expr) -> ast.expr:
    """An annotation; one in quotes is parsed, as Python would."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            inner = ast.parse(node.value, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            ctx.fail(node, f"annotation {node.value!r} is not an expression")
        for x in ast.walk(inner):
            if isinstance(x, ast.expr):
                ast.copy_location(x, node)
        return inner
    return node


# ----------------------------------------------------------------------------- statements
def _body(r: _Reader, node: ast.FunctionDef) -> graph.Expr:
    """Read the statements; the result."""
    last = node.body[-1]
    if not isinstance(last, ast.Return) or last.value is None:
        r.ctx.fail(last, f"graph function {node.name!r} ends without a result", "end with return")
    for s in node.body[:-1]:
        _statement(r, s)
    return _simple(r, last.value)


def _statement(r: _Reader, s: ast.stmt) -> None:
    ctx = r.ctx
    match s:
        case ast.Assign(targets=[ast.Name(name)], value=value):
            _assign(r, name, value, None)
        case ast.AnnAssign(target=ast.Name(name), annotation=annotation, value=ast.expr() as value):
            _assign(r, name, value, unquoted(ctx, annotation))
        case ast.With(items=[ast.withitem(ast.Call() as call, None)], body=body) if (
            _word(ctx, call) == "dataflow"
        ):
            if r.dataflow is not None:
                ctx.fail(s, "a dataflow block stands in another")
            bind_args(ctx, call, "R.dataflow", (), 0)
            _dataflow(r, s, body)
        case ast.Expr(ast.Constant()) | ast.Pass():
            pass
        case ast.Expr(ast.Call() as call) if _word(ctx, call) == "func_attr":
            args = bind_args(ctx, call, "R.func_attr", ("attrs",), 1)
            r.attrs = merged(ctx, call, r.attrs, _attrs(ctx, args["attrs"]))
        case ast.Expr(ast.Call() as call) if _word(ctx, call) == "output":
            ctx.fail(s, "R.output stands at the end of a `with R.dataflow():`")
        case ast.Return():
            ctx.fail(s, "return stands at the end of the function")
        case _:
            ctx.fail(
                s, f"{type(s).__name__} is not part of graph functions",
                "they hold `name = value`, `with R.dataflow():` and a return",
                code="script-syntax",
            )  # fmt: skip


def _assign(r: _Reader, name: str, node: ast.expr, annotation: ast.expr | None) -> None:
    """`name = value`: a binding, or a name for a Python value."""
    ctx = r.ctx
    value = _value(r, node)
    if annotation is not None and _is_word(ctx, annotation, "Constant"):
        if not isinstance(value, graph.Constant):
            ctx.fail(node, f"{name!r} is to be a constant, got {_what(value)}", "use R.const(...)")
        ctx.bind(name, value)
        return
    if not isinstance(value, graph.EXPR_CLASSES):
        if annotation is not None:
            ctx.fail(node, f"{name!r} has the type of a tensor, got {_what(value)}")
        ctx.bind(name, value)
        return
    if annotation is not None:
        _fits(ctx, annotation, _annotation(ctx, annotation), value.type, name)
    ctx.bind(name, r.bind(name, value))


def _dataflow(r: _Reader, node: ast.With, body: Sequence[ast.stmt]) -> None:
    ctx, mark = r.ctx, len(r.ctx.undo)
    last = body[-1]
    if not (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and _word(ctx, last.value) == "output"
    ):
        ctx.fail(last, "a dataflow block ends without R.output", "name there what is used outside")
    r.dataflow = []
    for s in body[:-1]:
        _statement(r, s)
    found, r.dataflow = r.dataflow, None
    mine = {b.var for b in found}
    if last.value.keywords:
        ctx.fail(last, "R.output takes variables only")
    outputs: dict[str, graph.Var] = {}
    for arg in last.value.args:
        var = ctx.lookup(arg) if isinstance(arg, ast.Name) else None
        if not isinstance(arg, ast.Name) or not isinstance(var, graph.Var) or var not in mine:
            ctx.fail(arg, "R.output names variables that are bound in its block")
        if arg.id in outputs:
            ctx.fail(arg, f"R.output names {arg.id!r} twice")
        outputs[arg.id] = var
    names = {n for n, _ in ctx.undo[mark:] if isinstance(ctx.names.get(n), graph.Var)}
    ctx.release(mark)
    for n in sorted(names):
        ctx.bind(n, outputs.get(n) or _Local(n))
    r.items.append(DataflowBlock(tuple(found), tuple(outputs.values())))


# ----------------------------------------------------------------------------- values
def _value(r: _Reader, node: ast.expr) -> Any:
    """What `node` stands for: a value of the graph, a function of the module, a Python value."""
    ctx = r.ctx
    match node:
        case ast.Name():
            found = ctx.lookup(node)
            if isinstance(found, _Local):
                ctx.fail(
                    node, f"{found.name!r} belongs to its dataflow block",
                    f"to use it outside: R.output({found.name})",
                )  # fmt: skip
            return found
        case ast.Call():
            operator = operator_word(ctx, node)
            if operator:
                return _call_operator(r, node, operator)
            word = _word(ctx, node)
            handler = _CALLS.get(word)
            if handler is not None:
                return handler(r, node)
            if _is_type(ctx, node):
                return type_of(ctx, node)
            if word:
                near = closest(word, (*_CALLS, *OPERATORS))
                hint = f"did you mean {near}?" if near else f"here it offers {', '.join(_CALLS)}"
                ctx.fail(node, f"R.{word} is no value", hint, "script-name")
            return evaluate(ctx, node)
        case ast.Tuple(elts=elts) if elts:
            fields = [_value(r, x) for x in elts]
            if not any(isinstance(x, graph.EXPR_CLASSES) for x in fields):
                return tuple(fields)
            return _tuple_of(r, elts, fields)
        case ast.Subscript():
            return _item(r, node)
        case ast.Attribute(value=ast.Name() as base) if isinstance(ctx.lookup(base), ModuleNames):
            return ctx.lookup(base).var(node.attr)
        case _:
            return evaluate(ctx, node)


def _expr(r: _Reader, node: ast.expr) -> graph.Expr:
    """A value of the graph."""
    return _as_expr(r, _value(r, node), node)


def _as_expr(r: _Reader, value: Any, node: ast.expr) -> graph.Expr:
    if isinstance(value, graph.EXPR_CLASSES):
        return value
    hint = ""
    if isinstance(value, (bool, int, float)) or hasattr(value, "__array__"):
        hint = "R.const(value, dtype) makes a tensor of it"
    r.ctx.fail(node, f"expected a tensor or a tuple of them, got {_what(value)}", hint)


def _simple(r: _Reader, node: ast.expr) -> graph.Expr:
    """A value of the graph that is no call: a call gets a variable."""
    return _named(r, _expr(r, node))


def _named(r: _Reader, e: graph.Expr) -> graph.Expr:
    return r.bind("lv", e) if isinstance(e, graph.Call) else e


def _tuple_of(r: _Reader, nodes: Sequence[ast.expr], fields: Sequence[Any]) -> graph.Tuple:
    return graph.Tuple(tuple([_named(r, _as_expr(r, v, n)) for v, n in zip(fields, nodes)]))


def _item(r: _Reader, node: ast.Subscript) -> Any:
    ctx = r.ctx
    base = _value(r, node.value)
    if isinstance(base, ModuleNames):  # cls["a name that is none in Python"]
        key = evaluate(ctx, node.slice)
        if not isinstance(key, str):
            ctx.fail(node.slice, f"a function is named by a string, got {describe(key)}")
        return graph.GlobalVar(key)
    if not isinstance(base, graph.EXPR_CLASSES):
        return evaluate(ctx, node)
    whole = base.type
    if not isinstance(whole, TupleType):
        ctx.fail(node, "items are taken of tuples; this is one tensor")
    index = python_int(ctx, evaluate(ctx, node.slice), node.slice, "an index of a tuple")
    if not -len(whole.fields) <= index < len(whole.fields):
        ctx.fail(node, f"a tuple of {len(whole.fields)} has no item {index}", code="script-range")
    return graph.TupleGetItem(_named(r, base), index % len(whole.fields))


def _what(value: Any) -> str:
    if isinstance(value, graph.GlobalVar):
        return f"function {value.name!r} of the module"
    return describe(value)


# ----------------------------------------------------------------------------- calls
def _call_function(r: _Reader, node: ast.Call, word: str) -> graph.Call:
    args = _call_args(r, node, word, ("func", "args", "out_sinfo", "dtype"))
    callee = _callee(r, args["func"])
    if word == "call_dps_packed" and not isinstance(callee, graph.ExternFunc):
        r.ctx.fail(args["func"], "R.call_dps_packed calls an external function by its name",
                   "R.call_tir calls functions of the module")  # fmt: skip
    values = _arguments(r, args["args"])
    return graph.Call(callee, values, _out_type(r.ctx, args, node, word))


def _call_op(r: _Reader, node: ast.Call) -> graph.Call:
    args = _call_args(r, node, "call_op", ("name", "args", "out_sinfo", "attrs", "dtype"))
    name = evaluate(r.ctx, args["name"])
    if not isinstance(name, str) or not name:
        r.ctx.fail(args["name"], f"an operator is named by a string, got {describe(name)}")
    values = _arguments(r, args["args"])
    attrs = _attrs(r.ctx, args["attrs"]) if "attrs" in args else ()
    return graph.Call(graph.Op(name), values, _out_type(r.ctx, args, node, "call_op"), attrs)


def _attrs(ctx: Context, node: ast.expr) -> tuple[tuple[str, Any], ...]:
    """Attributes: numbers, texts, None, and lists and dicts of such."""
    attrs = annotations_of(ctx, node)
    items = [v for _, v in attrs]
    while items:
        x = items.pop()
        if isinstance(x, (list, tuple)):
            items.extend(x)
        elif isinstance(x, dict):
            items.extend([*x, *x.values()])
        elif x is not None and not isinstance(x, (bool, int, float, str, IntImm, FloatImm)):
            ctx.fail(node, f"an attribute is a number, a text or None, got {describe(x)}")
    return attrs


def _call_operator(r: _Reader, node: ast.Call, op: Operator) -> graph.Call:
    given = operator_args(r.ctx, node, op)
    if op.takes_many:
        values = _arguments(r, given.pop(op.args[0][:-1]))
    else:
        there = [a.rstrip("?") for a in op.args if a.rstrip("?") in given]
        values = tuple([_simple(r, given.pop(name)) for name in there])
    return operator_call(r.ctx, node, op, values, given)


def _call_args(
    r: _Reader, node: ast.Call, word: str, names: tuple[str, ...]
) -> dict[str, ast.expr]:
    """The arguments by name; `shape` and `out_ty` are other names of `out_sinfo`."""
    if any(k.arg in ("shape", "out_ty") for k in node.keywords):
        keywords = [
            ast.keyword(arg="out_sinfo", value=k.value) if k.arg in ("shape", "out_ty") else k
            for k in node.keywords
        ]
        node = ast.copy_location(ast.Call(node.func, node.args, keywords), node)
    return bind_args(r.ctx, node, f"R.{word}", names, 3)


def _callee(r: _Reader, node: ast.expr) -> graph.GlobalVar | graph.ExternFunc:
    ctx = r.ctx
    if isinstance(node, ast.Name) and node.id not in ctx.names and ctx.captured is not None:
        try:
            ctx.captured(node.id)
        except KeyError:
            ctx.fail(
                node, f"no function {node.id!r} stands above this one",
                f"of one that stands below, write cls.{node.id} after `cls = {r.module.name}`; an "
                f"external function is named by a string",
                "script-name",
            )  # fmt: skip
    value = _value(r, node)
    if isinstance(value, graph.GlobalVar):
        return value
    if isinstance(value, str) and value:
        return graph.ExternFunc(value)
    if isinstance(value, (PrimFunc, graph.Function)) and isinstance(node, ast.Name):
        return r.module.var(node.id)
    ctx.fail(
        node, f"what is called is a function of the module, or a string; got {_what(value)}"
    )  # fmt: skip


def _arguments(r: _Reader, node: ast.expr) -> tuple[graph.Expr, ...]:
    """The arguments: a tuple of values, one value, or a variable that holds a tuple."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple([_simple(r, x) for x in node.elts])
    value = _value(r, node)
    if isinstance(value, tuple) and not value:
        return ()
    e = _named(r, _as_expr(r, value, node))
    if isinstance(e, graph.Tuple):
        return e.fields
    whole = e.type
    if isinstance(whole, TupleType):
        return tuple([graph.TupleGetItem(e, k) for k in range(len(whole.fields))])
    return (e,)


def _out_type(ctx: Context, args: dict[str, ast.expr], node: ast.AST, word: str) -> Type:
    """The type of the result: types, or a shape and a dtype; several results in a list."""
    out = args["out_sinfo"]
    dtype = evaluate(ctx, args["dtype"]) if "dtype" in args else None
    if _is_type(ctx, out):
        found: Type = type_of(ctx, out)
    elif isinstance(out, (ast.Tuple, ast.List)) and out.elts and (
        all(_is_type(ctx, x) for x in out.elts)
    ):  # fmt: skip
        found = TupleType(tuple([type_of(ctx, x) for x in out.elts]))
    else:
        shapes = evaluate(ctx, out)
        if isinstance(shapes, (TensorType, TupleType)):
            found = shapes
        else:
            if dtype is None:
                ctx.fail(node, f"R.{word} says the shape of its result and no dtype",
                         'add dtype="float32", or write R.Tensor(shape, dtype)')  # fmt: skip
            return _from_shapes(ctx, shapes, dtype, out)
    if dtype is not None:
        ctx.fail(args["dtype"], f"R.{word} has a type for its result, and a dtype beside it")
    return found


def _from_shapes(ctx: Context, shapes: Any, dtype: Any, node: ast.AST) -> Type:
    if isinstance(shapes, (tuple, list)) and shapes and (
        all(isinstance(x, (tuple, list)) for x in shapes)
    ):  # fmt: skip
        many = dtype if isinstance(dtype, (tuple, list)) else [dtype] * len(shapes)
        if len(many) != len(shapes):
            ctx.fail(node, f"{len(shapes)} shapes and {len(many)} dtypes")
        return TupleType(tuple([
            TensorType(_shape(ctx, s, node), _dtype(ctx, d, node)) for s, d in zip(shapes, many)
        ]))  # fmt: skip
    return TensorType(_shape(ctx, shapes, node), _dtype(ctx, dtype, node))


def _const(r: _Reader, node: ast.Call) -> graph.Constant:
    args = bind_args(r.ctx, node, "R.const", ("value", "dtype"), 1)
    value: Any = ...
    if not (isinstance(args["value"], ast.Constant) and args["value"].value is ...):
        value = evaluate(r.ctx, args["value"])
    kind: Any = None
    if "dtype" in args:
        is_type = _is_type(r.ctx, args["dtype"])
        kind = (type_of if is_type else evaluate)(r.ctx, args["dtype"])
    if kind is not None and not isinstance(kind, TensorType):
        kind = _dtype(r.ctx, kind, args["dtype"])
    return constant_of(r.ctx, node, value, kind)


def _make_tuple(r: _Reader, node: ast.Call) -> graph.Tuple:
    if node.keywords:
        r.ctx.fail(node, "R.tuple takes values only")
    return _tuple_of(r, node.args, [_value(r, x) for x in node.args])


_CALLS: dict[str, Callable[[_Reader, ast.Call], Any]] = {
    "call_tir": lambda r, node: _call_function(r, node, "call_tir"),
    "call_dps_packed": lambda r, node: _call_function(r, node, "call_dps_packed"),
    "call_op": _call_op,
    "const": _const,
    "tuple": _make_tuple,
}


# ----------------------------------------------------------------------------- words and types
def _word(ctx: Context, node: ast.Call) -> str:
    """The name if `node` is `R.name(...)`, or of a word that was captured on its own, else ""."""
    return _name_of(ctx, node.func)


def _name_of(ctx: Context, node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        base = node.value
        if isinstance(base, ast.Name):
            return node.attr if ctx.lookup(base) is relax else ""
        inner = evaluate(ctx, base) if isinstance(base, ast.Attribute) else None
        return node.attr if inner is relax else ""
    if isinstance(node, ast.Name):
        if node.id in ("Tensor", "Tuple"):  # postponed annotations: nobody needs to import them
            return node.id
        value = ctx.names.get(node.id)
        if value is None and ctx.captured is not None:
            try:
                value = ctx.captured(node.id)
            except KeyError:
                return ""
        if isinstance(value, relax.Word):
            return value.name
        return "const" if value is relax.const else ""
    return ""


def _is_word(ctx: Context, node: ast.expr, word: str) -> bool:
    return isinstance(node, (ast.Attribute, ast.Name)) and _name_of(ctx, node) == word


def _is_type(ctx: Context, node: ast.expr) -> bool:
    """Does the text spell out a type, or name a captured one?"""
    if isinstance(node, ast.Call):
        return _word(ctx, node) in ("Tensor", "Tuple")
    if isinstance(node, (ast.Name, ast.Attribute)):
        return isinstance(evaluate(ctx, node), (TensorType, TupleType))
    return False


def type_of(ctx: Context, node: ast.expr) -> Type:
    """The whole type that an annotation gives."""
    return _whole(ctx, node, _annotation(ctx, node))


def _whole(ctx: Context, node: ast.expr, found: Any) -> Type:
    if isinstance(found, _Wanted):
        if found.shape is None:
            ctx.fail(node, "a tensor without a shape", 'write R.Tensor((1, 784), "float32")')
        return TensorType(found.shape, found.dtype or "float32")
    return TupleType(tuple([_whole(ctx, node, x) for x in found]))


def _annotation(ctx: Context, node: ast.expr) -> Any:
    """What an annotation asks for: `_Wanted`, or a tuple of these."""
    word = _word(ctx, node) if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and word == "Tuple":
        return tuple([_annotation(ctx, x) for x in node.args])
    if isinstance(node, ast.Call) and word == "Tensor":
        args = bind_args(ctx, node, "R.Tensor", ("shape", "dtype", "ndim"), 0)
        given = evaluate(ctx, args["shape"]) if "shape" in args else None
        dtype = evaluate(ctx, args["dtype"]) if "dtype" in args else None
        if isinstance(given, str):  # R.Tensor("float32")
            given, dtype = None, given
        shape = None if given is None else _shape(ctx, given, args["shape"])
        ndim = None
        if "ndim" in args:
            ndim = python_int(ctx, evaluate(ctx, args["ndim"]), args["ndim"], "ndim")
            ndim = None if ndim < 0 else ndim
        if shape is not None and ndim not in (None, len(shape)):
            ctx.fail(args["ndim"], f"a shape of {len(shape)} sizes, and ndim={ndim}")
        return _Wanted(shape, None if dtype is None else _dtype(ctx, dtype, node), ndim)
    value = None if isinstance(node, ast.Call) else evaluate(ctx, node)
    if isinstance(value, (TensorType, TupleType)):
        return _of_type(value)
    ctx.fail(node, "expected the type of a tensor or a tuple", 'R.Tensor((1, 784), "float32")')


def _of_type(t: Type) -> Any:
    if isinstance(t, TupleType):
        return tuple([_of_type(x) for x in t.fields])
    return _Wanted(t.shape, t.dtype, None)


def _fits(ctx: Context, node: ast.expr, wanted: Any, t: Type, what: str) -> None:
    """Refuse a value whose type is not what the annotation asks for."""
    if isinstance(wanted, _Wanted) and isinstance(t, TensorType):
        if (
            wanted.shape in (None, t.shape)
            and wanted.dtype in (None, t.dtype)
            and wanted.ndim in (None, len(t.shape))
        ):
            return
    elif isinstance(wanted, tuple) and isinstance(t, TupleType) and len(wanted) == len(t.fields):
        for w, x in zip(wanted, t.fields):
            _fits(ctx, node, w, x, what)
        return
    from ..ir.show_graph import type_text

    ctx.fail(node, f"{what} has another type: {type_text(t)}", code="script-type")


def _shape(ctx: Context, value: Any, node: ast.AST) -> tuple[int, ...]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    if len(items) > _MAX_RANK:
        ctx.fail(node, f"{len(items)} dimensions; {_MAX_RANK} are the most")
    out = []
    for k, item in enumerate(items):
        n = python_int(ctx, item, node, f"size {k} of a tensor")
        if n < 0:
            ctx.fail(node, f"size {k} of a tensor is negative: {n}", code="script-range")
        out.append(n)
    return tuple(out)


def _dtype(ctx: Context, value: Any, node: ast.AST) -> str:
    dtype = dtype_of(ctx, value, node)
    if dtype == "handle" or dtypes.lanes(dtype) > 1:
        ctx.fail(node, f"a tensor has elements of a scalar dtype, got {dtype!r}")
    return dtype
