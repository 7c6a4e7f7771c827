"""When does a reduction start from its initial value? Block `init` becomes statements of its own.

Where it is legal, the initial values get loops of their own in front of the outermost reduction
loop, as `decompose_reduction` would place them. Otherwise the block starts with
`if every reduce iterator is at its minimum: init`.
"""

from __future__ import annotations

from ..ir import build, walk
from ..ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from . import linear as lin
from .limits import CpuLimits
from .prepare import as_block


def lower_init(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` without block inits."""
    if all(b.init is None for b in walk.blocks(func.body)):
        return func
    return as_block(func, _go(func.body, frozenset()))


def _go(s: Stmt, outer: frozenset[Var]) -> Stmt:
    """`outer`: the loop variables around `s`."""
    match s:
        case For():
            first: list[Stmt] = []
            body = s.body
            for path, block in _chains(s):
                nest = _init_nest(path, block, outer, s)
                if nest is not None:
                    first.append(nest)
                    body = _drop_init(body, block.key)
            new = For(
                s.var, s.min, s.extent, s.kind, _go(body, outer | {s.var}), s.thread, s.annotations
            )
            return build.seq(*first, new)
        case Block() if s.init is not None:
            return _with_body(s, build.seq(_guarded(s), _go(s.body, outer)))
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, outer))
            assert out is not None  # _go never deletes
            return out


def _with_body(b: Block, body: Stmt) -> Block:
    return Block(
        b.key, b.name, b.iter_vars, b.iter_values, b.predicate, b.reads, b.writes, body, None,
        b.alloc_buffers, b.match_buffers, b.annotations,
    )  # fmt: skip


def _guarded(b: Block) -> Stmt:
    assert b.init is not None
    at_start = [
        build.eq(iv.var, iv.dom.min) for iv in b.iter_vars if iv.kind == "reduce"
    ]  # fmt: skip
    cond = build.logical_and(*at_start)
    return b.init if build.is_literal(cond, 1) else IfThenElse(cond, b.init)


def _chains(loop: For) -> list[tuple[list[For], Block]]:
    """Blocks with an init under `loop`, not inside another block, with the loops to them; None of
    those behind an `if` or `let`."""
    out: list[tuple[list[For], Block]] = []

    def go(s: Stmt, path: list[For]) -> None:
        match s:
            case For():
                go(s.body, [*path, s])
            case Seq():
                for x in s.items:
                    go(x, path)
            case Alloc():
                go(s.body, path)
            case Block() if s.init is not None:
                out.append((path, s))
            case _:
                pass

    go(loop, [])
    return out


def _init_nest(path: list[For], b: Block, outer: frozenset[Var], top: For) -> Stmt | None:
    """The loops that fill the initial values of `b` in front of `path[0]`; None if not legal."""
    assert b.init is not None
    reduce = [(iv, v) for iv, v in zip(b.iter_vars, b.iter_values) if iv.kind == "reduce"]
    others = [v for iv, v in zip(b.iter_vars, b.iter_values) if iv.kind != "reduce"]
    if any(walk.uses_var(v, outer) for _, v in reduce) or not any(
        walk.uses_var(v, top.var) for _, v in reduce
    ):
        return None  # not the outermost reduction loop
    inside = [loop for loop in path if any(walk.uses_var(v, loop.var) for _, v in reduce)]
    spatial = [loop for loop in path if any(walk.uses_var(v, loop.var) for v in others)]
    if any(x is y for x in inside for y in spatial):
        return None
    idle = [x for x in path if not any(x is y for y in (*inside, *spatial))]
    if any(not build.is_literal(x.extent, 1) for x in idle):
        return None
    if not _starts_once(reduce, inside) or not _alone(top, b):
        return None
    gone = {loop.var for loop in inside}
    if any(walk.uses_var(e, gone) for loop in spatial for e in (loop.min, loop.extent)):
        return None
    start: dict[Var, Expr] = {loop.var: loop.min for loop in (*inside, *idle)}
    return _nest(b, spatial, start)


def _starts_once(reduce: list[tuple[IterVar, Expr]], loops: list[For]) -> bool:
    """Are all reduce iterators at their minimum exactly when all `loops` are at theirs?"""
    seen: set[Var] = set()
    by_var = {loop.var: loop for loop in loops}
    for iv, value in reduce:
        form = lin.linear(value, {})
        at = form.const
        for atom, c in form.terms.values():
            if type(atom) is not Var or atom not in by_var or c <= 0 or atom in seen:
                return False
            lo = by_var[atom].min
            if type(lo) is not IntImm:
                return False
            seen.add(atom)
            at += c * int(lo.value)
        low = iv.dom.min
        if type(low) is not IntImm or int(low.value) != at:
            return False
    return seen == set(by_var)


def _alone(top: For, b: Block) -> bool:
    """Does nothing else under `top` touch what `b` writes, and does init read nothing?"""
    assert b.init is not None
    written = {x.buffer for x in walk.walk_stmt(b.init) if type(x) is BufferStore}
    written |= {m.source.buffer for m in b.match_buffers}
    if b.match_buffers or any(type(e) is BufferLoad for e in walk.all_exprs(b.init)):
        return False

    def clean(s: Stmt) -> bool:
        if s is b:
            return True
        if type(s) is BufferStore and s.buffer in written:
            return False
        if type(s) is Block and any(m.source.buffer in written for m in s.match_buffers):
            return False
        own = (s.iter_values, (s.predicate,)) if type(s) is Block else (walk.stmt_exprs(s),)
        for group in own:
            for e in group:
                if any(type(y) is BufferLoad and y.buffer in written for y in walk.walk_expr(e)):
                    return False
        return all(clean(x) for x in walk.stmt_children(s))

    return clean(top.body)


def _nest(b: Block, spatial: list[For], start: dict[Var, Expr]) -> Stmt:
    assert b.init is not None
    keep = [k for k, iv in enumerate(b.iter_vars) if iv.kind != "reduce"]
    block = Block(
        BlockKey(), f"{b.name}_init",
        tuple(b.iter_vars[k] for k in keep), tuple(b.iter_values[k] for k in keep),
        walk.substitute(b.predicate, start), (), b.writes, b.init,
    )  # fmt: skip
    nest: Stmt = block
    for loop in reversed(spatial):
        nest = For(loop.var, loop.min, loop.extent, loop.kind, nest, loop.thread, loop.annotations)
    return walk.rename_blocks(nest)


def _drop_init(s: Stmt, key: BlockKey) -> Stmt:
    if type(s) is Block and s.key is key:
        return _with_body(s, s.body)
    out = walk.map_stmt(s, lambda e: e, lambda x: _drop_init(x, key))
    assert out is not None  # nothing is deleted
    return out
