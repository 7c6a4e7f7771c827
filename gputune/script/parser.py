"""How does script text become a program? From a decorated function, or from text alone.

Neither way runs any of it. `parse_function` sees the Python values around the function as
constants; `from_source` sees only `T`, `I`, `R` and literals, and treats the text as hostile.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import CheckError, ScriptError
from ..ir.check_graph import check_graph
from ..ir.graph import Function, GlobalVar
from ..ir.nodes import Block, Buffer, IRModule, PrimFunc, Stmt, Var
from . import relax, tir
from .blocks import annotations_of, finish_block
from .buffers import BUFFER_ARGS, buffer_from
from .calls import bind_args, word_of
from .context import BlockParts, Context, FuncParts, Source, closest
from .expressions import evaluate
from .graphs import ModuleNames, graph_function, unquoted
from .ir import NAMES
from .statements import Open, collect, joined, read_block
from .values import dtype_of, python_value

MAX_TEXT = 16_000_000
"""Characters of text that `from_source` reads."""


# ----------------------------------------------------------------------------- from text
def from_source(text: str, name: str | None = None) -> PrimFunc | IRModule:
    """The program that `text` describes; runs nothing and looks up nothing outside of it.

    Args:
        text: script text as `script()` prints it: functions decorated with `@T.prim_func` or
            `@R.function`, or a class decorated with `@I.ir_module`. Import lines are skipped.
        name: which function or class, where the text holds several.

    Returns:
        A function or a module; a graph function on its own comes as a module of it.

    Raises:
        ScriptError: the text is not a script, with line and column; or its graph functions are not
            well formed.

    Example:
        >>> from_source(func.script())  # structurally equal to func
    """
    if not isinstance(text, str):
        raise ScriptError(f"a script is text, got {type(text).__name__}", code="script-source")
    if len(text) > MAX_TEXT:
        raise ScriptError(
            f"script of {len(text)} characters is too long",
            hint=f"{MAX_TEXT} are the most",
            code="script-size",
        )
    source = Source("<script>", text.split("\n"))
    tree = _parse(text, source)
    try:
        return _from_tree(tree, source, name)
    except RecursionError:
        raise ScriptError("script nests too deeply", code="script-size") from None


def _from_tree(tree: ast.Module, source: Source, name: str | None) -> PrimFunc | IRModule:
    found: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found[node.name] = node
            case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant()):
                continue
            case _:
                what = type(node).__name__
                raise source.error(
                    node.lineno, node.col_offset + 1,
                    f"{what} has no place beside functions and modules", code="script-syntax",
                )  # fmt: skip
    if not found:
        hint = "it starts with @T.prim_func, @R.function or @I.ir_module"
        raise source.error(1, 1, "no program in this text", hint, "script-source")
    if name is None:
        if len(found) > 1:
            names = ", ".join(found)
            raise source.error(1, 1, f"the text holds {names}", "choose one with name=")
        (chosen,) = found.values()
    elif name in found:
        chosen = found[name]
    else:
        near = closest(name, found)
        hint = f"did you mean {near}?" if near else f"it holds {', '.join(found)}"
        raise source.error(1, 1, f"no function or module named {name!r} in the text", hint)
    if isinstance(chosen, ast.ClassDef):
        return _text_module(chosen, source)
    key, func = _text_function(chosen, source, ModuleNames())
    if isinstance(func, PrimFunc):
        return func
    _well_formed(func, key, None)
    return IRModule({key: func})


def _text_module(node: ast.ClassDef, source: Source) -> IRModule:
    ctx = _context(source, node.name)
    _decorator(ctx, node, ("ir_module",))
    names: dict[str, str] = {}
    for x in node.body:
        if isinstance(x, ast.FunctionDef) and names.get(x.name) != x.name:
            names[x.name] = _key(ctx, x)  # of two, the one that is called so in the module
    functions: dict[str, PrimFunc | Function] = {}
    attrs: tuple[tuple[str, Any], ...] = ()
    for item in node.body:
        match item:
            case ast.FunctionDef():
                key, func = _text_function(item, source, ModuleNames(node.name, names))
                if key in functions:
                    ctx.fail(item, f"the module has two functions named {key!r}")
                functions[key] = func
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("I"), "module_attrs"), [arg])):
                attrs = annotations_of(ctx, arg)
            case ast.Expr(ast.Constant()) | ast.Pass():
                continue
            case _:
                ctx.fail(item, f"{type(item).__name__} has no place in a module")
    return well_formed(IRModule(functions, attrs))


def well_formed(mod: IRModule) -> IRModule:
    """`mod`; ScriptError if one of its graph functions is not well formed, or calls a function that
    is not there or does not fit."""
    for name, func in mod.graphs.items():
        _well_formed(func, name, mod)
    return mod


def _well_formed(func: Function, name: str, mod: IRModule | None) -> None:
    try:
        check_graph(func, name, mod)
    except CheckError as e:
        raise ScriptError(e.message, hint=e.hint, code=f"script-{e.code}", draw=e.draw) from None


_OPTIONS = {
    "prim_func": ("private", "name", "check_well_formed", "s_tir"),
    "function": ("private", "name", "check_well_formed", "pure"),
}
"""What the decorators of functions are told."""


def _text_function(
    node: ast.FunctionDef, source: Source, module: ModuleNames
) -> tuple[str, PrimFunc | Function]:
    """The function and its name in a module."""
    ctx = _context(source, node.name)
    word, call = _decorator(ctx, node, ("prim_func", "function"))
    key, private = _key(ctx, node), False
    if call is not None:
        what = f"{'T' if word == 'prim_func' else 'R'}.{word}"
        args = bind_args(ctx, call, what, _OPTIONS[word], 0)
        private = "private" in args and bool(evaluate(ctx, args["private"]))
        if call.args:
            ctx.fail(call.args[0], f"{what} takes its options by name")
    if word == "prim_func":
        return key, _function(ctx, node, private, key)
    ctx.names.update({name: GlobalVar(key) for name, key in module.functions.items()})
    return key, graph_function(ctx, node, private, key, module)


def _key(ctx: Context, node: ast.FunctionDef) -> str:
    """The name in the module: the Python name, or what the decorator says."""
    for d in node.decorator_list:
        for k in d.keywords if isinstance(d, ast.Call) else ():
            if k.arg == "name":
                key = evaluate(ctx, k.value)
                if not isinstance(key, str):
                    ctx.fail(k.value, "a function name is a string")
                return key
    return node.name


def _decorator(
    ctx: Context, node: ast.FunctionDef | ast.ClassDef, words: tuple[str, ...]
) -> tuple[str, ast.Call | None]:
    """Which of the words decorates, and the call in `@T.prim_func(...)` (None for a bare
    `@T.prim_func`); any other decorator is refused."""
    rooms = {"prim_func": "T", "function": "R", "ir_module": "I"}
    short = " or ".join(f"@{rooms[w]}.{w}" for w in words)
    if len(node.decorator_list) != 1:
        hint = f"put {short} in front of it"
        ctx.fail(node, f"{node.name!r} has {len(node.decorator_list)} decorators", hint)
    d = node.decorator_list[0]
    call = d if isinstance(d, ast.Call) else None
    func = d.func if isinstance(d, ast.Call) else d
    if not isinstance(func, ast.Attribute) or func.attr not in words or not _is_dotted(func.value):
        ctx.fail(d, f"this decorator is not {short}", code="script-syntax")
    return func.attr, call


def _is_dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _context(source: Source, name: str) -> Context:
    from . import ir

    ctx = Context(source, FuncParts(name), BlockParts("", is_root=True))
    ctx.names.update({"T": tir, "I": ir, "R": relax})
    return ctx


def _parse(text: str, source: Source) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as e:
        message = f"not Python: {e.msg}"
        raise source.error(e.lineno or 0, e.offset or 0, message, code="script-syntax") from None
    except (RecursionError, MemoryError):
        raise source.error(0, 0, "script nests too deeply", code="script-size") from None
    except ValueError as e:  # null bytes, lone surrogates
        raise source.error(0, 0, f"not Python: {e}", code="script-syntax") from None


# ----------------------------------------------------------------------------- from a function
def parse_function(
    func: Callable[..., Any], *, private: bool = False, name: str | None = None
) -> PrimFunc:
    """The kernel that a Python function describes; what `@T.prim_func` calls.

    Names that the function does not bind are looked up where Python would: enclosing functions,
    the module, builtins.
    """
    if isinstance(func, PrimFunc):
        return func
    ctx, node = _of_python(func, "@T.prim_func", name)
    try:
        return _function(ctx, node, private, name)
    except RecursionError:
        raise _too_deep(func) from None


def parse_graph(
    func: Callable[..., Any], *, private: bool = False, name: str | None = None
) -> Function:
    """The graph function that a Python function describes; what `@R.function` calls.

    Names are looked up as by `parse_function`; a tensor function that the class body around it
    defines is that function of the module.
    """
    if isinstance(func, Function):
        return func
    ctx, node = _of_python(func, "@R.function", name)
    around = func.__qualname__.split(".")[-2:-1]
    names: Mapping[str, str] = {}
    if ctx.captured is not None:
        with contextlib.suppress(KeyError):
            names = ctx.captured(NAMES)
    module = ModuleNames("Module" if around in ([], ["<locals>"]) else around[0], names)
    try:
        return graph_function(ctx, node, private, name, module)
    except RecursionError:
        raise _too_deep(func) from None


def _of_python(
    func: Callable[..., Any], decorator: str, name: str | None
) -> tuple[Context, ast.FunctionDef]:
    """Where to parse a Python function, and its syntax."""
    if not isinstance(func, types.FunctionType):
        raise ScriptError(
            f"{decorator} stands before a function, got {type(func).__name__}",
            code="script-source",
        )
    node, source = _function_source(func)
    captured, names = _captured(func)
    if name is not None:
        _name_in_class(func.__name__, name)
    parts = BlockParts("", is_root=True)
    return Context(source, FuncParts(node.name), parts, captured, names), node


def _too_deep(func: Callable[..., Any]) -> ScriptError:
    return ScriptError(f"script {func.__name__!r} nests too deeply", code="script-size")


def _function_source(func: types.FunctionType) -> tuple[ast.FunctionDef, Source]:
    filename = func.__code__.co_filename
    try:
        lines, first = inspect.getsourcelines(func)
    except (OSError, TypeError, SyntaxError, IndexError):
        raise ScriptError(
            f"no source text for function {func.__name__!r} (file {filename!r})",
            hint="define it in a file or notebook, or pass the text to gputune.script.from_source",
            code="script-source",
        ) from None
    text = "".join(lines)
    offset = max(first, 1) - 1
    if text[:1].isspace():  # nested in a function or class: give it a legal home
        lines = ["if True:\n", *lines]
        text = "".join(lines)
        offset -= 1
    source = Source(filename, lines, offset)
    body = _parse(text, source).body
    found = body[0].body[0] if isinstance(body[0], ast.If) else body[0]
    if not isinstance(found, ast.FunctionDef):
        raise source.error(1, 1, f"{func.__name__!r} is not defined by `def`", code="script-source")
    return found, source


def _captured(
    func: types.FunctionType,
) -> tuple[Callable[[str], Any], Callable[[], Iterable[str]]]:
    """How names outside the function are looked up.

    Annotations belong to the enclosing scope, and a name used only there is in no closure: hence
    the frames of the enclosing function and class, which are running while the decorator is.
    """
    scopes: list[Mapping[str, Any]] = [_closure(func)]
    frame = _caller()
    while frame is not None:
        scopes.append(frame.f_locals)
        if "__qualname__" not in frame.f_locals:  # a class body sees the function around it
            break
        frame = frame.f_back
    scopes += [func.__globals__, vars(builtins)]

    def look(name: str) -> Any:
        for scope in scopes:
            if name in scope:
                return python_value(scope[name])
        raise KeyError(name)

    def names() -> Iterable[str]:
        return [n for s in scopes[:-1] for n in s if isinstance(n, str)]

    return look, names


def _name_in_class(python_name: str, name: str) -> None:
    """Tell the class body around the function under which name the module is to hold it."""
    frame = _caller()
    if frame is not None and "__qualname__" in frame.f_locals:
        frame.f_locals.setdefault(NAMES, {})[python_name] = name


def _closure(func: types.FunctionType) -> dict[str, Any]:
    out = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or ()):
        try:
            out[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return out


def _caller() -> types.FrameType | None:
    """The frame in which the decorator is applied: the first outside of this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("gputune.script"):
        frame = frame.f_back
    return frame


# ----------------------------------------------------------------------------- one function
def _function(
    ctx: Context, node: ast.FunctionDef, private: bool, name: str | None = None
) -> PrimFunc:
    a = node.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.posonlyargs or a.defaults:
        ctx.fail(node, f"parameters of {node.name!r} are plain names with annotations")
    seen: set[str] = set()
    for arg in a.args:
        if arg.annotation is None:
            hint = 'such as T.Buffer((128,), "float32"), T.handle or T.int32'
            ctx.fail(arg, f"parameter {arg.arg!r} has no annotation", hint)
        if arg.arg in seen:
            ctx.fail(arg, f"two parameters are named {arg.arg!r}")
        seen.add(arg.arg)
    # scalars first, so that the shape of an earlier buffer may mention a later scalar
    slots: list[Var | None] = [None] * len(a.args)
    for k, arg in enumerate(a.args):
        if not _is_buffer(ctx, _annotation(ctx, arg)):
            slots[k] = var = Var(arg.arg, _scalar(ctx, _annotation(ctx, arg)))
            ctx.bind(arg.arg, var)
    for k, arg in enumerate(a.args):
        if slots[k] is None:
            slots[k] = var = Var(arg.arg, "handle")
            buffer = _param_buffer(ctx, arg.arg, _annotation(ctx, arg))
            ctx.func.buffers[var] = buffer
            ctx.bind(arg.arg, buffer)
    params = tuple([v for v in slots if v is not None])
    ctx.func.params.extend(params)
    root = _root(ctx, node)
    attrs = ctx.func.attrs or ()
    if not private and "global_symbol" not in dict(attrs):
        attrs = (*attrs, ("global_symbol", name or node.name))
    buffers = ctx.func.buffers
    return PrimFunc(params, tuple([(p, buffers[p]) for p in params if p in buffers]), root, attrs)


def _annotation(ctx: Context, arg: ast.arg) -> ast.expr:
    """The annotation; one in quotes is parsed, as Python would."""
    assert arg.annotation is not None
    return unquoted(ctx, arg.annotation)


def _is_buffer(ctx: Context, node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return evaluate(ctx, node.value) is tir.Buffer
    return word_of(ctx, node) == "Buffer"


def _scalar(ctx: Context, node: ast.expr) -> str:
    if isinstance(node, ast.Call):  # T.handle("float32"), T.int32()
        node = node.func
    value = evaluate(ctx, node)
    if isinstance(value, Buffer):
        ctx.fail(node, "a captured buffer cannot be a parameter type", "write T.Buffer(...)")
    return dtype_of(ctx, value, node)


def _param_buffer(ctx: Context, name: str, node: ast.expr) -> Buffer:
    if isinstance(node, ast.Call):
        return buffer_from(ctx, name, bind_args(ctx, node, "T.Buffer", BUFFER_ARGS, 1), node)
    assert isinstance(node, ast.Subscript)  # T.Buffer[(m, n), "float32"]
    items: Any = node.slice
    if isinstance(items, ast.Tuple) and len(items.elts) == 2 and not _is_extent(ctx, items.elts[1]):
        args = {"shape": items.elts[0], "dtype": items.elts[1]}
    else:
        args = {"shape": items}
    return buffer_from(ctx, name, args, node)


def _is_extent(ctx: Context, node: ast.expr) -> bool:
    return not isinstance(evaluate(ctx, node), (str, tir.DType))


def _root(ctx: Context, node: ast.FunctionDef) -> Block:
    """The body in its root block: the script's own `with T.block("root")`, or one around it."""
    last, parts = node.body[-1], ctx.block
    items: list[Stmt | Open] = []
    collect(ctx, node.body[:-1], items)
    declared = items or parts.allocs or parts.attrs is not None
    if isinstance(last, ast.With) and not declared and _is_root(ctx, last):
        return read_block(ctx, last, BlockParts("root", last.lineno, is_root=True))
    collect(ctx, [last], items)
    inside = joined(ctx, items)
    if inside is None:
        ctx.fail(node, f"function {node.name!r} does nothing", "write `pass` if that is meant")
    parts.name = "root"
    return finish_block(ctx, node, parts, inside)


def _is_root(ctx: Context, node: ast.With) -> bool:
    if len(node.items) != 1 or word_of(ctx, node.items[0].context_expr) not in ("block", "sblock"):
        return False
    call = node.items[0].context_expr
    assert isinstance(call, ast.Call)
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and (
        call.args[0].value == "root"
    )  # fmt: skip
