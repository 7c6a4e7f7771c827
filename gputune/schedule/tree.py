"""Where in the program is a loop or a block, and how is it replaced?

A `Tree` indexes one function body: every loop variable and block key maps to a `Link`, the node
together with the chain of nodes above it. Trees are made anew after a change, in one walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from ..ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    BufferStore,
    Evaluate,
    For,
    IfThenElse,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import stmt_children

Key: TypeAlias = Var | BlockKey


class Link(NamedTuple):
    """A node and the link of the node above it (None for the root block)."""

    node: Stmt
    up: Link | None

    def above(self) -> Iterator[Link]:
        """The links above, innermost first."""
        x = self.up
        while x is not None:
            yield x
            x = x.up

    def block(self) -> Block:
        """The node, which is a block."""
        assert type(self.node) is Block
        return self.node

    def loop(self) -> For:
        """The node, which is a loop."""
        assert type(self.node) is For
        return self.node

    def scope(self) -> Link:
        """The link of the nearest block above (of the root block: itself)."""
        for x in self.above():
            if type(x.node) is Block:
                return x
        return self

    def loops(self) -> list[For]:
        """The loops above, up to the scope block, outermost first."""
        out: list[For] = []
        for x in self.above():
            if type(x.node) is For:
                out.append(x.node)
            elif type(x.node) is Block:
                break
        out.reverse()
        return out


class Tree:
    """The index of one function body."""

    __slots__ = ("blocks", "links", "root")

    def __init__(self, root: Block) -> None:
        self.root = root
        self.links: dict[Key, Link] = {}
        self.blocks: dict[BlockKey, list[Link]] = {}
        """The blocks whose nearest block above has this key, in program order."""
        stack: list[tuple[Stmt, Link | None, BlockKey]] = [(root, None, root.key)]
        links, blocks, new = self.links, self.blocks, tuple.__new__
        while stack:
            node, up, scope = stack.pop()
            while True:  # down a chain of nodes that have one child
                link = new(Link, (node, up))  # Link(node, up), at half the price
                t = type(node)
                if t is For:
                    links[node.var] = link  # type: ignore[union-attr]  # t is the class of node
                    node, up = node.body, link  # type: ignore[union-attr]
                elif t is Block:
                    key = node.key  # type: ignore[union-attr]
                    links[key] = link
                    blocks[key] = []
                    if up is not None:
                        blocks[scope].append(link)
                    node, up, scope = node.body, link, key  # type: ignore[union-attr]
                elif t is BufferStore or t is Evaluate:
                    break
                else:
                    for s in reversed(stmt_children(node)):
                        stack.append((s, link, scope))
                    break


def graft(link: Link, new: Stmt | None) -> Block:
    """The root block with the node of `link` replaced by `new` (None: removed, together with
    loops and branches that are left empty). What is not on the way up is shared."""
    old = link.node
    up = link.up
    while up is not None:
        node = up.node
        new = _with_child(node, old, new)
        old, up = node, up.up
    assert type(new) is Block, "the root block stays"
    return new


def _with_child(p: Stmt, old: Stmt, new: Stmt | None) -> Stmt | None:
    t = type(p)
    if t is Seq:
        items: list[Stmt] = []
        for c in p.items:  # type: ignore[union-attr]  # t is the class of p
            if c is not old:
                items.append(c)
            elif new is None:
                continue
            elif type(new) is Seq:
                items.extend(new.items)
            else:
                items.append(new)
        return items[0] if len(items) == 1 else Seq(tuple(items))
    match p:
        case For():
            return None if new is None else with_body(p, new)
        case Block():
            if p.init is old:
                return block_with(p, init=new)
            if new is None:
                raise AssertionError("a block cannot lose its body")
            return block_with(p, body=new)
        case IfThenElse():
            if p.then is old:
                if new is None:
                    raise AssertionError("a branch cannot lose its body")
                return IfThenElse(p.cond, new, p.orelse)
            return IfThenElse(p.cond, p.then, new)
        case LetStmt():
            return None if new is None else LetStmt(p.var, p.value, new)
        case Alloc():
            return None if new is None else Alloc(p.buffer, new)
    raise AssertionError(f"{t.__name__} has no children")


def with_body(f: For, body: Stmt) -> For:
    """The loop with another body."""
    return For(f.var, f.min, f.extent, f.kind, body, f.thread, f.annotations)


_KEEP = object()


def block_with(
    b: Block,
    *,
    key: object = _KEEP,
    name: object = _KEEP,
    iter_vars: object = _KEEP,
    iter_values: object = _KEEP,
    predicate: object = _KEEP,
    reads: object = _KEEP,
    writes: object = _KEEP,
    body: object = _KEEP,
    init: object = _KEEP,
    alloc_buffers: object = _KEEP,
    annotations: object = _KEEP,
) -> Block:
    """The block with some fields replaced (dataclasses.replace, at a third of its cost)."""
    return Block(
        b.key if key is _KEEP else key,  # type: ignore[arg-type]  # fields keep their types,
        b.name if name is _KEEP else name,  # type: ignore[arg-type]  # here and below
        b.iter_vars if iter_vars is _KEEP else iter_vars,  # type: ignore[arg-type]
        b.iter_values if iter_values is _KEEP else iter_values,  # type: ignore[arg-type]
        b.predicate if predicate is _KEEP else predicate,  # type: ignore[arg-type]
        b.reads if reads is _KEEP else reads,  # type: ignore[arg-type]
        b.writes if writes is _KEEP else writes,  # type: ignore[arg-type]
        b.body if body is _KEEP else body,  # type: ignore[arg-type]
        b.init if init is _KEEP else init,  # type: ignore[arg-type]
        b.alloc_buffers if alloc_buffers is _KEEP else alloc_buffers,  # type: ignore[arg-type]
        b.match_buffers,
        b.annotations if annotations is _KEEP else annotations,  # type: ignore[arg-type]
    )
