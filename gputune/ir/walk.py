"""How does one move through a program? Children, walks, rewrites that share what they keep.

The helpers know where the children of a node are; what a node means is decided with `match` by
whoever asks. `rewrite` functions return the same object when nothing below it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import assert_never

from . import build
from .nodes import (
    Alloc,
    BinOp,
    Block,
    BlockKey,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    Let,
    LetStmt,
    MatchBuffer,
    Not,
    Ramp,
    Range,
    Select,
    Seq,
    Shuffle,
    Stmt,
    StringImm,
    Var,
)

ExprFn = Callable[[Expr], Expr]


# ----------------------------------------------------------------------------- looking
def expr_children(e: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside `e`."""
    t = type(e)
    if t is Var or t is IntImm or t is FloatImm or t is StringImm:
        return ()
    if t is BinOp:
        return (e.a, e.b)  # type: ignore[union-attr]  # t is the class of e, here and below
    match e:
        case BufferLoad():
            return e.indices if e.predicate is None else (*e.indices, e.predicate)
        case Cast() | Broadcast():
            return (e.value,)
        case Not():
            return (e.a,)
        case Select():
            return (e.cond, e.a, e.b)
        case Call():
            return e.args
        case Ramp():
            return (e.base, e.stride)
        case Shuffle():
            return e.vectors
        case Let():
            return (e.value, e.body)
        case Var() | IntImm() | FloatImm() | StringImm() | BinOp():
            return ()
        case _:
            assert_never(e)


def stmt_children(s: Stmt) -> tuple[Stmt, ...]:
    """The statements directly inside `s` (a block's init before its body)."""
    match s:
        case For() | LetStmt() | Alloc():
            return (s.body,)
        case Block():
            return (s.body,) if s.init is None else (s.init, s.body)
        case Seq():
            return s.items
        case IfThenElse():
            return (s.then,) if s.orelse is None else (s.then, s.orelse)
        case BufferStore() | Evaluate():
            return ()
        case _:
            assert_never(s)


def stmt_exprs(s: Stmt) -> tuple[Expr, ...]:
    """The expressions directly inside `s`, in order; of a block: bindings, predicate, regions."""
    match s:
        case BufferStore():
            own = (*s.indices, s.value)
            return own if s.predicate is None else (*own, s.predicate)
        case For():
            return (s.min, s.extent)
        case Block():
            out: list[Expr] = [*s.iter_values, s.predicate]
            for iv in s.iter_vars:
                out += (iv.dom.min, iv.dom.extent)
            for r in (*s.reads, *s.writes, *(m.source for m in s.match_buffers)):
                for g in r.region:
                    out += (g.min, g.extent)
            return tuple(out)
        case IfThenElse():
            return (s.cond,)
        case LetStmt() | Evaluate():
            return (s.value,)
        case Seq() | Alloc():
            return ()
        case _:
            assert_never(s)


def walk_expr(e: Expr) -> Iterator[Expr]:
    """`e` and every expression inside it, parents first."""
    stack = [e]
    while stack:
        x = stack.pop()
        yield x
        stack.extend(reversed(expr_children(x)))


def walk_stmt(s: Stmt) -> Iterator[Stmt]:
    """`s` and every statement inside it, parents first, in program order."""
    stack = [s]
    while stack:
        x = stack.pop()
        yield x
        stack.extend(reversed(stmt_children(x)))


def all_exprs(s: Stmt) -> Iterator[Expr]:
    """Every expression anywhere inside `s`, parents first."""
    for x in walk_stmt(s):
        for e in stmt_exprs(x):
            yield from walk_expr(e)


def loads(e: Expr) -> list[BufferLoad]:
    """Every load in `e`, outer before inner, from left to right."""
    out: list[BufferLoad] = []
    stack = [e]
    while stack:
        x = stack.pop()
        t = type(x)
        if t is BinOp:
            stack.append(x.b)  # type: ignore[union-attr]  # t is the class of x
            stack.append(x.a)  # type: ignore[union-attr]
        elif t is not Var and t is not IntImm:
            if t is BufferLoad:
                out.append(x)  # type: ignore[arg-type]
            stack.extend(reversed(expr_children(x)))
    return out


def all_loads(s: Stmt) -> list[BufferLoad]:
    """Every load anywhere inside `s`, in the order of `all_exprs`."""
    return [x for y in walk_stmt(s) for e in stmt_exprs(y) for x in loads(e)]


def blocks(s: Stmt) -> list[Block]:
    """Every block in `s`, outer before inner, in program order."""
    return [x for x in walk_stmt(s) if type(x) is Block]


def uses_var(e: Expr, wanted: Var | set[Var] | frozenset[Var]) -> bool:
    """Does `e` mention the variable (or one of the variables)?"""
    t = type(e)
    if t is IntImm:
        return False
    if t is Var:
        return e is wanted or (type(wanted) is not Var and e in wanted)  # type: ignore[operator]  # a set of variables
    found = mentioned(e)
    return wanted in found if type(wanted) is Var else not found.isdisjoint(wanted)  # type: ignore[arg-type]  # likewise


@lru_cache(maxsize=4096)
def mentioned(e: Expr) -> frozenset[Var]:
    """The variables that `e` mentions, bound inside it or not; asked often of the same node."""
    out: list[Var] = []
    stack = [e]
    while stack:
        x = stack.pop()
        t = type(x)
        if t is Var:
            out.append(x)  # type: ignore[arg-type]  # t is the class of x, here and below
        elif t is BinOp:
            stack.append(x.a)  # type: ignore[union-attr]
            stack.append(x.b)  # type: ignore[union-attr]
        elif t is not IntImm:
            stack.extend(expr_children(x))
    return frozenset(out)


def free_vars(e: Expr) -> set[Var]:
    """The variables that `e` mentions and does not bind itself."""
    out: set[Var] = set()
    bound: set[Var] = set()
    for x in walk_expr(e):
        if type(x) is Var:
            out.add(x)
        elif type(x) is Let:
            bound.add(x.var)
    return out - bound


# ----------------------------------------------------------------------------- rewriting
def map_expr(e: Expr, f: ExprFn) -> Expr:
    """`e` with `f` applied to each direct child; the same object if none changed. Binary nodes are
    rebuilt through `build.binary`, so constants fold."""
    t = type(e)
    if t is Var or t is IntImm or t is FloatImm or t is StringImm:
        return e
    match e:
        case BinOp():
            a, b = f(e.a), f(e.b)
            return e if a is e.a and b is e.b else build.binary(e.op, a, b)
        case BufferLoad():
            idx = tuple([f(i) for i in e.indices])
            pred = None if e.predicate is None else f(e.predicate)
            if pred is e.predicate and all(map(_is, idx, e.indices)):
                return e
            return BufferLoad(e.buffer, idx, pred)
        case Cast():
            v = f(e.value)
            return e if v is e.value else build.cast(e.dtype, v)
        case Not():
            a = f(e.a)
            return e if a is e.a else build.logical_not(a)
        case Select():
            c, a, b = f(e.cond), f(e.a), f(e.b)
            return e if c is e.cond and a is e.a and b is e.b else Select(c, a, b)
        case Call():
            args = tuple([f(x) for x in e.args])
            return e if all(map(_is, args, e.args)) else Call(e.op, args, e.dtype)
        case Ramp():
            a, b = f(e.base), f(e.stride)
            return e if a is e.base and b is e.stride else Ramp(a, b, e.lanes)
        case Broadcast():
            v = f(e.value)
            return e if v is e.value else Broadcast(v, e.lanes)
        case Shuffle():
            vs = tuple([f(x) for x in e.vectors])
            return e if all(map(_is, vs, e.vectors)) else Shuffle(vs, e.indices)
        case Let():
            v, b = f(e.value), f(e.body)
            return e if v is e.value and b is e.body else Let(e.var, v, b)
        case Var() | IntImm() | FloatImm() | StringImm():
            return e
        case _:
            assert_never(e)


def _is(a: object, b: object) -> bool:
    return a is b


def substitute(e: Expr, table: Mapping[Var, Expr]) -> Expr:
    """`e` with variables replaced; shares what does not change."""
    t = type(e)
    if t is Var:
        return table.get(e, e)  # type: ignore[arg-type]  # t is the class of e
    if t is IntImm or t is FloatImm:
        return e
    if t is BinOp:
        a = substitute(e.a, table)  # type: ignore[union-attr]  # t is the class of e
        b = substitute(e.b, table)  # type: ignore[union-attr]
        if a is e.a and b is e.b:  # type: ignore[union-attr]
            return e
        return _rebuilt(e, a, b)  # type: ignore[arg-type]
    return map_expr(e, lambda x: substitute(x, table))


def _rebuilt(e: BinOp, a: Expr, b: Expr) -> Expr:
    """`e` with other operands: `build.binary`, where most often nothing folds."""
    dtype = a.dtype
    if type(a) is not IntImm and dtype == e.a.dtype and dtype == b.dtype:
        if type(b) is not IntImm or type(b.value) is not int or b.value > 1:
            return BinOp(e.op, a, b, e.dtype)
    return build.binary(e.op, a, b)


def map_range(r: Range, f: ExprFn) -> Range:
    """`r` with `f` applied to both ends; the same object if nothing changed."""
    lo, ext = f(r.min), f(r.extent)
    return r if lo is r.min and ext is r.extent else Range(lo, ext)


def map_region(r: BufferRegion, f: ExprFn) -> BufferRegion:
    """`r` with `f` applied to its ranges; the same object if nothing changed."""
    ranges = tuple([map_range(x, f) for x in r.region])
    return r if all(map(_is, ranges, r.region)) else BufferRegion(r.buffer, ranges)


def map_stmt(s: Stmt, f: ExprFn, g: Callable[[Stmt], Stmt | None]) -> Stmt | None:
    """`s` with `f` applied to each expression and `g` to each statement directly inside it; the
    same object if nothing changed. `g` may return None to delete a statement; what holds only
    deleted statements is deleted too. Bound variables and buffers are left alone."""
    match s:
        case For():
            lo, ext, body = f(s.min), f(s.extent), g(s.body)
            if lo is s.min and ext is s.extent and body is s.body:
                return s
            return None if body is None else For(
                s.var, lo, ext, s.kind, body, s.thread, s.annotations
            )  # fmt: skip
        case Block():
            return _map_block(s, f, g)
        case BufferStore():
            idx = tuple([f(i) for i in s.indices])
            value = f(s.value)
            pred = None if s.predicate is None else f(s.predicate)
            if value is s.value and pred is s.predicate and all(map(_is, idx, s.indices)):
                return s
            return BufferStore(s.buffer, value, idx, pred)
        case Seq():
            items = [g(x) for x in s.items]
            if all(map(_is, items, s.items)):
                return s
            kept = [x for x in items if x is not None]
            return build.seq(*kept) if kept else None
        case IfThenElse():
            cond, then = f(s.cond), g(s.then)
            orelse = None if s.orelse is None else g(s.orelse)
            if cond is s.cond and then is s.then and orelse is s.orelse:
                return s
            if then is None:
                return None if orelse is None else IfThenElse(build.logical_not(cond), orelse)
            return IfThenElse(cond, then, orelse)
        case LetStmt():
            v, body = f(s.value), g(s.body)
            if v is s.value and body is s.body:
                return s
            return None if body is None else LetStmt(s.var, v, body)
        case Evaluate():
            v = f(s.value)
            return s if v is s.value else Evaluate(v)
        case Alloc():
            body = g(s.body)
            if body is s.body:
                return s
            return None if body is None else Alloc(s.buffer, body)
        case _:
            assert_never(s)


def _map_block(s: Block, f: ExprFn, g: Callable[[Stmt], Stmt | None]) -> Block | None:
    values = tuple([f(v) for v in s.iter_values])
    pred = f(s.predicate)
    iters = tuple([_map_iter(iv, f) for iv in s.iter_vars])
    reads = tuple([map_region(r, f) for r in s.reads])
    writes = tuple([map_region(r, f) for r in s.writes])
    matches = tuple([_map_match(m, f) for m in s.match_buffers])
    init = None if s.init is None else g(s.init)
    body = g(s.body)
    if body is None:
        return None
    old = (*s.iter_values, s.predicate, *s.iter_vars, *s.reads, *s.writes, *s.match_buffers)
    new = (*values, pred, *iters, *reads, *writes, *matches)
    if init is s.init and body is s.body and all(map(_is, new, old)):
        return s
    return Block(
        s.key, s.name, iters, values, pred, reads, writes, body, init, s.alloc_buffers, matches,
        s.annotations,
    )  # fmt: skip


def _map_iter(iv: IterVar, f: ExprFn) -> IterVar:
    dom = map_range(iv.dom, f)
    return iv if dom is iv.dom else IterVar(iv.var, dom, iv.kind)


def _map_match(m: MatchBuffer, f: ExprFn) -> MatchBuffer:
    source = map_region(m.source, f)
    return m if source is m.source else MatchBuffer(m.buffer, source)


def rewrite_exprs(s: Stmt, f: ExprFn) -> Stmt:
    """`s` with `f` applied to every outermost expression anywhere inside it."""

    def go(x: Stmt) -> Stmt:
        out = map_stmt(x, f, go)
        assert out is not None  # go never deletes
        return out

    return go(s)


def substitute_stmt(s: Stmt, table: Mapping[Var, Expr]) -> Stmt:
    """`s` with variables replaced in every expression inside it."""
    return rewrite_exprs(s, lambda e: substitute(e, table)) if table else s


def replace_buffers(s: Stmt, table: Mapping[Buffer, Buffer]) -> Stmt:
    """`s` with accesses, regions, allocations and views of buffers redirected (same indices)."""

    def on_expr(e: Expr) -> Expr:
        if type(e) is Var or type(e) is IntImm:
            return e
        out = map_expr(e, on_expr)
        if type(out) is BufferLoad and out.buffer in table:
            return BufferLoad(table[out.buffer], out.indices, out.predicate)
        return out

    def region(r: BufferRegion) -> BufferRegion:
        return BufferRegion(table[r.buffer], r.region) if r.buffer in table else r

    def on_stmt(x: Stmt) -> Stmt:
        out = map_stmt(x, on_expr, on_stmt)
        assert out is not None  # on_stmt never deletes
        if type(out) is BufferStore and out.buffer in table:
            return BufferStore(table[out.buffer], out.value, out.indices, out.predicate)
        if type(out) is Alloc and out.buffer in table:
            return Alloc(table[out.buffer], out.body)
        if type(out) is Block:
            return Block(
                out.key, out.name, out.iter_vars, out.iter_values, out.predicate,
                tuple([region(r) for r in out.reads]), tuple([region(r) for r in out.writes]),
                out.body, out.init, tuple([table.get(b, b) for b in out.alloc_buffers]),
                tuple([MatchBuffer(table.get(m.buffer, m.buffer), region(m.source))
                       for m in out.match_buffers]),
                out.annotations,
            )  # fmt: skip
        return out

    return on_stmt(s)


def rename_blocks(s: Stmt) -> Stmt:
    """A copy of `s` in which every loop variable, block and iterator is a fresh object, as code
    that is duplicated needs."""
    table: dict[Var, Expr] = {}

    def fresh(v: Var) -> Var:
        table[v] = new = Var(v.name, v.dtype)
        return new

    def on_expr(e: Expr) -> Expr:
        return substitute(e, table)

    def go(x: Stmt) -> Stmt:
        if type(x) is For:
            lo, ext = on_expr(x.min), on_expr(x.extent)
            return For(fresh(x.var), lo, ext, x.kind, go(x.body), x.thread, x.annotations)
        if type(x) is LetStmt:
            value = on_expr(x.value)
            return LetStmt(fresh(x.var), value, go(x.body))
        if type(x) is Block:
            values = tuple([on_expr(v) for v in x.iter_values])
            pred = on_expr(x.predicate)
            iters = tuple([
                IterVar(fresh(iv.var), map_range(iv.dom, on_expr), iv.kind) for iv in x.iter_vars
            ])  # fmt: skip
            bare = Block(
                BlockKey(), x.name, iters, values, pred, x.reads, x.writes, x.body, x.init,
                x.alloc_buffers, x.match_buffers, x.annotations,
            )  # fmt: skip
            out = map_stmt(bare, on_expr, go)
        else:
            out = map_stmt(x, on_expr, go)
        assert out is not None  # go never deletes
        return out

    return go(s)
