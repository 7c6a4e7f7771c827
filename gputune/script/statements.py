"""What does a statement of a script mean? Python syntax to `Stmt`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir import build
from ..ir.nodes import (
    Alloc,
    Block,
    Evaluate,
    Expr,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    LetStmt,
    Range,
    Stmt,
    Var,
)
from . import tir
from .blocks import (
    alloc_buffer,
    annotations_of,
    axis,
    block_attr,
    declares,
    finish_block,
    match_buffer,
    merged,
    regions_word,
    where_word,
)
from .buffers import BUFFER_ARGS, buffer_from
from .calls import bind_args, no_keywords, word_of
from .context import MAX_DEPTH, BlockParts, Context
from .expressions import (
    evaluate,
    expression,
    index_nodes,
)
from .intervals import extent_of
from .loops import LOOPS, loop_bounds
from .stores import augmented, store, vstore
from .tvm_words import STATEMENTS
from .values import (
    condition,
    describe,
    dtype_of,
    is_expr,
)


@dataclass(frozen=True, slots=True)
class Open:
    """A statement whose body is everything after it in its suite."""

    node: ast.AST
    close: Callable[[Stmt], Stmt]


_Item = Stmt | Open | None


def suite(ctx: Context, nodes: Sequence[ast.stmt]) -> Stmt | None:
    """The statements of a suite as one; None if they are declarations only."""
    items: list[Stmt | Open] = []
    collect(ctx, nodes, items)
    return joined(ctx, items)


def joined(ctx: Context, items: Sequence[Stmt | Open]) -> Stmt | None:
    """Collected statements as one; what is open takes all that follows it."""
    out: list[Stmt] = []
    for item in reversed(items):
        if isinstance(item, Open):
            if not out:
                ctx.fail(item.node, "nothing follows in the scope of this statement")
            out = [item.close(build.seq(*reversed(out)))]
        else:
            out.append(item)
    return build.seq(*reversed(out)) if out else None


def body(ctx: Context, nodes: Sequence[ast.stmt], owner: ast.AST, what: str) -> Stmt:
    """The suite inside `owner`, in a scope of its own; refused if it does nothing."""
    mark = len(ctx.undo)
    if ctx.depth >= MAX_DEPTH:
        ctx.fail(owner, f"statements nest deeper than {MAX_DEPTH}")
    ctx.depth += 1
    start, ctx.suite_start = ctx.suite_start, mark
    out = suite(ctx, nodes)
    ctx.suite_start = start
    ctx.depth -= 1
    ctx.release(mark)
    if out is None:
        ctx.fail(owner, f"{what} does nothing", "write `pass` if that is meant")
    return out


def inner(ctx: Context, nodes: Sequence[ast.stmt], owner: ast.AST, what: str) -> Stmt:
    """Like `body`, for loops and branches: block declarations have no place there."""
    ctx.block.nested += 1
    out = body(ctx, nodes, owner, what)
    ctx.block.nested -= 1
    return out


def collect(ctx: Context, nodes: Sequence[ast.stmt], items: list[Stmt | Open]) -> None:
    """Append what the statements stand for; declarations leave nothing."""
    for node in nodes:
        if type(node) is ast.If:
            test = evaluate(ctx, node.test)
            if not is_expr(test):  # decided now: only the chosen branch is part of the program
                collect(ctx, node.body if test else node.orelse, items)
                continue
            items.append(_if(ctx, node, test))
            continue
        handler = _STATEMENTS.get(type(node))
        if handler is None:
            what = type(node).__name__
            hint = _HINTS.get(type(node), "")
            ctx.fail(node, f"{what} is not part of the script language", hint, "script-syntax")
        item = handler(ctx, node)
        if item is not None:
            items.append(item)


_HINTS: dict[type[ast.stmt], str] = {
    ast.While: "loops have extents: use range, T.serial or T.grid",
    ast.Return: "results are written to buffer parameters",
    ast.Assert: "use T.evaluate(T.assume(condition))",
    ast.FunctionDef: "functions do not nest",
    ast.Import: "import outside of the script",
    ast.ImportFrom: "import outside of the script",
}


def _for(ctx: Context, node: ast.For) -> Stmt:
    word = word_of(ctx, node.iter)
    if node.orelse:
        ctx.fail(node, "a loop has no else", code="script-syntax")
    if word != "grid" and word not in LOOPS:
        hint = "use range, T.grid, T.serial, T.parallel, T.vectorized, T.unroll, T.thread_binding"
        ctx.fail(node.iter, "cannot loop over this", hint, "script-syntax")
    call = node.iter
    assert isinstance(call, ast.Call)
    if word == "grid":
        return _grid(ctx, node, call)
    if type(node.target) is not ast.Name:
        ctx.fail(node.target, "this loop has one variable")
    low, extent, options = loop_bounds(ctx, call, word)
    thread = options.get("thread")
    dtype = options.get("dtype", extent.dtype)
    var = Var(node.target.id, dtype)
    return _loop(ctx, node, var, low, extent, LOOPS[word], thread, options.get("annotations", ()))


def _loop(
    ctx: Context, node: ast.For | ast.With, var: Var, low: Expr, extent: Expr, kind: ForKind,
    thread: str | None, annotations: tuple[tuple[str, Any], ...],
) -> For:  # fmt: skip
    mark = len(ctx.undo)
    ctx.bind(var.name, var)
    ctx.loops[var] = Range(low, extent)
    inside = inner(ctx, node.body, node, "the loop")
    ctx.release(mark)
    return For(var, low, extent, kind, inside, thread, annotations)


def _grid(ctx: Context, node: ast.For, call: ast.Call) -> Stmt:
    no_keywords(ctx, call, "T.grid")
    extents: list[Expr] = []
    for a in call.args:
        values = [evaluate(ctx, a)] if type(a) is not ast.Starred else evaluate(ctx, a.value)
        if not isinstance(values, (list, tuple)):
            ctx.fail(a, f"cannot unpack {describe(values)}")
        extents += [extent_of(ctx, v, a) for v in values]
    targets = index_nodes(node.target)
    if len(targets) != len(extents):
        ctx.fail(node.target, f"T.grid has {len(extents)} extents for {len(targets)} variables")
    loops: list[tuple[Var, Expr]] = []
    mark = len(ctx.undo)
    for t, e in zip(targets, extents):
        if type(t) is not ast.Name:
            ctx.fail(t, "a loop variable is a name")
        var = Var(t.id, e.dtype)
        ctx.bind(t.id, var)
        ctx.loops[var] = Range(IntImm(0, e.dtype), e)
        loops.append((var, e))
    out = inner(ctx, node.body, node, "the loop")
    ctx.release(mark)
    for var, e in reversed(loops):
        out = For(var, IntImm(0, e.dtype), e, "serial", out)
    return out


def _with(ctx: Context, node: ast.With) -> Stmt | None:
    if len(node.items) != 1:
        if any(word_of(ctx, i.context_expr) != "launch_thread" for i in node.items):
            ctx.fail(node, "one `with` opens one scope", "nest them")
        rest = ast.With(node.items[1:], node.body)
        ast.copy_location(rest, node)
        node = ast.copy_location(ast.With(node.items[:1], [rest]), node)
    item = node.items[0]
    call, target = item.context_expr, item.optional_vars
    word = word_of(ctx, call)
    if not isinstance(call, ast.Call) or word not in _WITH:
        ctx.fail(
            call,
            "cannot open this with `with`",
            "possible are T.block, T.init, T.launch_thread, T.let, T.decl_buffer",
            "script-syntax",
        )
    return _WITH[word](ctx, node, call, target)


def _name_target(ctx: Context, node: ast.AST, target: ast.AST | None) -> str:
    if type(target) is not ast.Name:
        ctx.fail(target or node, "this needs a name: `with ... as name`")
    return target.id


def _with_block(ctx: Context, node: ast.With, call: ast.Call, target: ast.AST | None) -> Stmt:
    args = bind_args(ctx, call, "T.block", ("name",), 0)
    name = evaluate(ctx, args["name"]) if "name" in args else ""
    if not isinstance(name, str):
        ctx.fail(call, f"a block name is a string, got {describe(name)}")
    if target is not None:
        ctx.fail(target, "a block has no `as`")
    return read_block(ctx, node, BlockParts(name, node.lineno))


def read_block(ctx: Context, node: ast.With, parts: BlockParts) -> Block:
    """The block that `with T.block(...)` opens."""
    outer, ctx.block = ctx.block, parts
    inside = body(ctx, node.body, node, f"block {parts.name!r}")
    ctx.block = outer
    return finish_block(ctx, node, parts, inside)


def _with_init(ctx: Context, node: ast.With, call: ast.Call, target: ast.AST | None) -> None:
    parts = declares(ctx, node, "T.init")
    bind_args(ctx, call, "T.init", (), 0)
    if parts.is_root and parts.name == "":
        ctx.fail(node, "T.init stands in a block")
    if parts.init is not None:
        ctx.fail(node, f"block {parts.name!r} has a second T.init")
    parts.init = inner(ctx, node.body, node, "T.init")


def _with_thread(ctx: Context, node: ast.With, call: ast.Call, target: ast.AST | None) -> Stmt:
    args = bind_args(ctx, call, "T.launch_thread", ("thread", "extent"), 2)
    thread = evaluate(ctx, args["thread"])
    if not isinstance(thread, str):
        ctx.fail(args["thread"], f"a thread is a string, got {describe(thread)}")
    extent = extent_of(ctx, evaluate(ctx, args["extent"]), args["extent"])
    name = thread.replace(".", "_") if target is None else _name_target(ctx, node, target)
    var = Var(name, extent.dtype)
    return _loop(ctx, node, var, IntImm(0, extent.dtype), extent, "thread_binding", thread, ())


def _with_let(ctx: Context, node: ast.With, call: ast.Call, target: ast.AST | None) -> Stmt:
    """`with T.LetStmt(value) as x:` or `with T.let(x, value):` with a declared x."""
    args = bind_args(ctx, call, "T.let", ("a", "b"), 1)
    mark = len(ctx.undo)
    if "b" in args:
        var = evaluate(ctx, args["a"])
        if not isinstance(var, Var):
            ctx.fail(args["a"], f"T.let binds a variable, got {describe(var)}")
        value = expression(ctx, args["b"], var.dtype)
    else:
        name = _name_target(ctx, node, target)
        value = expression(ctx, args["a"])
        var = Var(name, value.dtype)
        ctx.bind(name, var)
    if value.dtype != var.dtype:
        ctx.fail(call, f"{var.name} has dtype {var.dtype}, its value {value.dtype}", "T.cast it")
    out = LetStmt(var, value, inner(ctx, node.body, node, "the let"))
    ctx.release(mark)
    return out


def _with_buffer(ctx: Context, node: ast.With, call: ast.Call, target: ast.AST | None) -> Stmt:
    name = _name_target(ctx, node, target)
    args = bind_args(ctx, call, "T.decl_buffer", BUFFER_ARGS, 1)
    mark = len(ctx.undo)
    buffer = buffer_from(ctx, name, args, call, allocated=True)
    ctx.bind(name, buffer)
    out = Alloc(buffer, inner(ctx, node.body, node, "the allocation"))
    ctx.release(mark)
    return out


_WITH: dict[str, Callable[[Context, ast.With, ast.Call, ast.AST | None], Stmt | None]] = {
    "block": _with_block,
    "sblock": _with_block,
    "init": _with_init,
    "launch_thread": _with_thread,
    "let": _with_let,
    "Let": _with_let,
    "LetStmt": _with_let,
    "decl_buffer": _with_buffer,
}


def _if(ctx: Context, node: ast.If, test: Expr) -> Stmt:
    """`elif` chains are followed without recursion."""
    arms: list[tuple[Expr, Stmt]] = []
    orelse: Stmt | None = None
    while True:
        cond = condition(ctx, test, node.test)
        arms.append((cond, inner(ctx, node.body, node, "the branch")))
        rest = node.orelse
        if len(rest) == 1 and type(rest[0]) is ast.If:
            next_test = evaluate(ctx, rest[0].test)
            if is_expr(next_test):
                node, test = rest[0], next_test
                continue
        if rest:
            orelse = inner(ctx, rest, node, "the else branch")
        break
    for cond, then in reversed(arms):
        orelse = IfThenElse(cond, then, orelse)
    assert orelse is not None
    return orelse


def _assign(ctx: Context, node: ast.Assign) -> _Item:
    if len(node.targets) != 1:
        ctx.fail(node, "one target per assignment")
    target = node.targets[0]
    if type(target) is ast.Subscript:
        return store(ctx, target, node.value)
    word = word_of(ctx, node.value)
    if word.startswith("axis."):
        assert isinstance(node.value, ast.Call)
        axis(ctx, target, node.value, word[5:])
        return None
    if type(target) is not ast.Name:
        ctx.fail(target, "cannot assign to this", "assign to a name or to a buffer element")
    handler = _ASSIGNED.get(word)
    if handler is not None:
        assert isinstance(node.value, ast.Call)
        return handler(ctx, node, target.id, node.value)
    if isinstance(node.value, ast.Call) and not node.value.args and not node.value.keywords:
        dtype = tir.constant_name(word) if word else None
        if isinstance(dtype, str):  # n = T.int32(): a variable that a buffer's layout defines
            ctx.bind(target.id, Var(target.id, dtype))
            return None
    value = evaluate(ctx, node.value)
    if not is_expr(value):
        ctx.assign(target, target.id, value)  # a Python value is a constant with a name
        return None
    return _open_let(ctx, node, target.id, value)


def _open_let(ctx: Context, node: ast.AST, name: str, value: Expr) -> Open:
    var = Var(name, value.dtype)
    ctx.assign(node, name, var)
    return Open(node, lambda rest: LetStmt(var, value, rest))


def _ann_assign(ctx: Context, node: ast.AnnAssign) -> _Item:
    """`x: T.int32 = value`, `x: T.let[T.int32] = value`, `x: T.let = value`."""
    if type(node.target) is not ast.Name:
        ctx.fail(node.target, "only a name can be annotated")
    if node.value is None:
        ctx.fail(node, "this annotation has no value", f"write {node.target.id} = T.int32()")
    dtype = _let_dtype(ctx, node.annotation)
    value = expression(ctx, node.value, dtype)
    if dtype is not None and value.dtype != dtype:
        ctx.fail(
            node.value, f"{node.target.id} has dtype {dtype}, its value {value.dtype}", "T.cast it",
            "script-dtype",
        )  # fmt: skip
    return _open_let(ctx, node, node.target.id, value)


def _let_dtype(ctx: Context, node: ast.expr) -> str | None:
    if type(node) is ast.Call and not node.args and not node.keywords:
        node = node.func
    if type(node) is ast.Subscript and type(node.value) is ast.Attribute:
        if node.value.attr == "let" and ctx_is_tir(ctx, node.value.value):
            node = node.slice
    if type(node) is ast.Attribute and node.attr == "let" and ctx_is_tir(ctx, node.value):
        return None
    return dtype_of(ctx, evaluate(ctx, node), node)


def ctx_is_tir(ctx: Context, node: ast.expr) -> bool:
    """Does `node` stand for the namespace T?"""
    return evaluate(ctx, node) is tir


def _func_attr(ctx: Context, call: ast.Call, word: str) -> None:
    if not ctx.block.is_root or ctx.block.nested:
        ctx.fail(call, "T.func_attr stands at the top of the function")
    args = bind_args(ctx, call, "T.func_attr", ("attrs",), 1)
    ctx.func.attrs = merged(ctx, call, ctx.func.attrs, annotations_of(ctx, args["attrs"]))


def _evaluate(ctx: Context, call: ast.Call, word: str) -> Stmt:
    args = bind_args(ctx, call, "T.evaluate", ("value",), 1)
    inside = args["value"]
    of_tiles = STATEMENTS.get(word_of(ctx, inside))
    if of_tiles is not None and isinstance(inside, ast.Call):
        return of_tiles(ctx, inside)
    return Evaluate(expression(ctx, inside))


_CALLED: dict[str, Callable[[Context, ast.Call, str], Stmt | None]] = {
    "reads": regions_word,
    "writes": regions_word,
    "where": where_word,
    "block_attr": block_attr,
    "sblock_attr": block_attr,
    "func_attr": _func_attr,
    "evaluate": _evaluate,
}

_EFFECTS = frozenset({"assume", "call_extern", "call_pure_extern", "call_intrin"})


def _expr_statement(ctx: Context, node: ast.Expr) -> Stmt | None:
    call = node.value
    if type(call) is ast.Constant and isinstance(call.value, str):
        return None  # a docstring
    word = word_of(ctx, call)
    if type(call) is ast.Call:
        handler = _CALLED.get(word)
        if handler is not None:
            return handler(ctx, call, word)
        if word in STATEMENTS:
            return STATEMENTS[word](ctx, call)
        if word in _EFFECTS:
            return Evaluate(expression(ctx, call))
        if type(call.func) is ast.Attribute and call.func.attr == "vstore":
            return vstore(ctx, call, call.func)
        if word in _ASSIGNED or word.startswith("axis."):
            ctx.fail(call, f"T.{word} must be assigned to a name")
        if word in _WITH:
            ctx.fail(call, f"T.{word} opens a scope", f"write `with T.{word}(...):`")
    evaluate(ctx, call)  # says what is wrong inside, if anything
    ctx.fail(node, "this expression has no effect", "use T.evaluate(...)", "script-syntax")


def _pass(ctx: Context, node: ast.Pass) -> Stmt:
    return Evaluate(IntImm(0))


def _decl(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> _Item:
    args = bind_args(ctx, call, "T.decl_buffer", BUFFER_ARGS, 1)
    buffer = buffer_from(ctx, name, args, call, allocated=True)
    ctx.bind(name, buffer)
    return Open(node, lambda rest: Alloc(buffer, rest))


def _let_value(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> _Item:
    args = bind_args(ctx, call, "T.let", ("value",), 1)
    return _open_let(ctx, node, name, expression(ctx, args["value"]))


def _var(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> None:
    args = bind_args(ctx, call, "T.var", ("dtype", "name"), 1)
    dtype = dtype_of(ctx, evaluate(ctx, args["dtype"]), args["dtype"])
    ctx.bind(name, Var(name, dtype))


def _launch(ctx: Context, node: ast.Assign, name: str, call: ast.Call) -> _Item:
    args = bind_args(ctx, call, "T.launch_thread", ("thread", "extent"), 2)
    thread = evaluate(ctx, args["thread"])
    if not isinstance(thread, str):
        ctx.fail(args["thread"], f"a thread is a string, got {describe(thread)}")
    extent = extent_of(ctx, evaluate(ctx, args["extent"]), args["extent"])
    var, low = Var(name, extent.dtype), IntImm(0, extent.dtype)
    ctx.bind(name, var)
    ctx.loops[var] = Range(low, extent)
    return Open(node, lambda rest: For(var, low, extent, "thread_binding", rest, thread))


_ASSIGNED: dict[str, Callable[[Context, ast.Assign, str, ast.Call], _Item]] = {
    "alloc_buffer": alloc_buffer,
    "sblock_alloc_buffer": alloc_buffer,
    "decl_buffer": _decl,
    "match_buffer": match_buffer,
    "let": _let_value,
    "var": _var,
    "launch_thread": _launch,
}

_STATEMENTS: dict[type[ast.stmt], Callable[[Context, Any], _Item]] = {
    ast.For: _for,
    ast.With: _with,
    ast.Assign: _assign,
    ast.AnnAssign: _ann_assign,
    ast.AugAssign: augmented,
    ast.Expr: _expr_statement,
    ast.Pass: _pass,
}
