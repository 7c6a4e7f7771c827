"""Does a loop do something else for other values of a variable outside of it?"""

from __future__ import annotations

from .nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    IfThenElse,
    LetStmt,
    Stmt,
    Var,
)
from .walk import all_exprs, stmt_children, stmt_exprs, uses_var, walk_stmt


def depends_on(inner: For, outer: For) -> bool:
    """Does what `inner`, a loop inside `outer`, does depend on the variable of `outer`?

    It does where it uses the variable, or what stands for it in between: iterators of blocks,
    values given a name, views of buffers; and where a condition or the length of a loop in between
    depends on the variable, so that `inner` does not run alike each time.
    """
    return _depends(outer.body, inner, frozenset([outer.var]), frozenset())


def _depends(s: Stmt, inner: For, names: frozenset[Var], views: frozenset[Buffer]) -> bool:
    """As `depends_on`, of a statement around `inner`; what stands for the variable is given."""
    if s is inner:
        return _uses(s, names, views)
    sometimes = False
    match s:
        case Block():
            pairs = zip(s.iter_vars, s.iter_values, strict=True)
            names = names | {iv.var for iv, e in pairs if uses_var(e, names)}
            sometimes = uses_var(s.predicate, names)
            for m in s.match_buffers:
                source = m.source
                if source.buffer in views or any(
                    uses_var(e, names) for g in source.region for e in (g.min, g.extent)
                ):
                    views = views | {m.buffer}
                    if type(m.buffer.elem_offset) is Var:
                        names = names | {m.buffer.elem_offset}
        case LetStmt() if uses_var(s.value, names):
            names = names | {s.var}
        case For() | IfThenElse():
            sometimes = any(uses_var(e, names) for e in stmt_exprs(s))
        case _:
            pass
    if sometimes:
        return any(x is inner for x in walk_stmt(s))
    return any(_depends(x, inner, names, views) for x in stmt_children(s))


def _uses(s: Stmt, names: frozenset[Var], views: frozenset[Buffer]) -> bool:
    if any(uses_var(e, names) for x in walk_stmt(s) for e in stmt_exprs(x)):
        return True
    return bool(views) and any(b in views for b in _buffers(s))


def _buffers(s: Stmt) -> list[Buffer]:
    """The buffers that a statement names, views included."""
    out = [e.buffer for e in all_exprs(s) if type(e) is BufferLoad]
    for x in walk_stmt(s):
        if type(x) is BufferStore:
            out.append(x.buffer)
        elif type(x) is Block:
            out += [r.buffer for r in (*x.reads, *x.writes)]
            out += [m.source.buffer for m in x.match_buffers]
    return out
