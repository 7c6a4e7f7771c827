"""Where in the program is a loop or a block, and how is it replaced?

A `Tree` indexes one function body: every loop variable and block key maps to a `Link`, the node
together with the chain of nodes above it. Trees are made anew after a change, as far as needed.
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

    def down(self, node: Stmt) -> Link:
        """The link of a node directly inside: `Link(node, self)`, at half the price."""
        return _new(Link, (node, self))

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
        x = self.up
        while x is not None:
            if type(x.node) is Block:
                return x
            x = x.up
        return self

    def depth(self) -> int:
        """How many nodes are above?"""
        n, x = 0, self.up
        while x is not None:
            n += 1
            x = x.up
        return n

    def loops(self) -> list[For]:
        """The loops above, up to the scope block, outermost first."""
        out: list[For] = []
        x = self.up
        while x is not None:
            node, x = x
            if type(node) is For:
                out.append(node)
            elif type(node) is Block:
                break
        out.reverse()
        return out


_new = tuple.__new__


class Tree:
    """The index of one function body, made as far as it is asked for."""

    __slots__ = ("_blocks", "_left", "_links", "_names", "root")

    def __init__(self, root: Block) -> None:
        self.root = root
        self._links: dict[Key, Link] = {}
        self._blocks: dict[BlockKey, list[Link]] = {}
        self._names: frozenset[str] | None = None
        self._left: list[tuple[Stmt, Link | None, BlockKey]] = [(root, None, root.key)]

    def find(self, key: Key) -> Link | None:
        """The link of a loop variable or block key; None if it is not in there."""
        link = self._links.get(key)
        if link is None and self._left:
            self._walk(key)
            link = self._links.get(key)
        return link

    @property
    def links(self) -> dict[Key, Link]:
        """All loops and blocks, parents first, in program order."""
        return self.whole()._links

    @property
    def blocks(self) -> dict[BlockKey, list[Link]]:
        """The blocks whose nearest block above has this key, in program order."""
        return self.whole()._blocks

    @property
    def names(self) -> frozenset[str]:
        """The names of all blocks."""
        if self._names is None:
            links = [self.links[key] for key in self.blocks]
            self._names = frozenset([x.block().name for x in links])
        return self._names

    def whole(self) -> Tree:
        """This index, with nothing left to be made: schedules of several threads may share it."""
        if self._left:
            self._walk(None)
        return self

    def _walk(self, wanted: Key | None) -> None:
        """Go on indexing until what is wanted has been met."""
        stack, links, blocks, new = self._left, self._links, self._blocks, tuple.__new__
        while stack:
            node, up, scope = stack.pop()
            while True:  # down a chain of nodes that have one child
                link = new(Link, (node, up))  # Link(node, up), at half the price
                t = type(node)
                key: Key
                if t is For:
                    key = node.var  # type: ignore[union-attr]  # t is the class of node
                    links[key] = link
                    node, up = node.body, link  # type: ignore[union-attr]
                elif t is Block:
                    scope_above, scope = scope, node.key  # type: ignore[union-attr]
                    key = scope
                    links[key] = link
                    blocks[scope] = []
                    if up is not None:
                        blocks[scope_above].append(link)
                    node, up = node.body, link  # type: ignore[union-attr]
                elif t is BufferStore or t is Evaluate:
                    break
                else:
                    for s in reversed(stmt_children(node)):
                        stack.append((s, link, scope))
                    break
                if key is wanted:
                    stack.append((node, up, scope))
                    return


def graft(link: Link, new: Stmt | None) -> Block:
    """The root block with the node of `link` replaced by `new` (None: removed, together with
    loops and branches that are left empty). What is not on the way up is shared."""
    root = graft_below(None, link, new)
    assert type(root) is Block, "the root block stays"
    return root


def graft_below(top: Link | None, link: Link, new: Stmt | None) -> Stmt | None:
    """The node just below `top` on the way to `link` (None: the root block), with the node of
    `link` replaced by `new`; None where nothing is left of it."""
    stop = None if top is None else top.node
    old, up = link
    while up is not None:
        node, up = up
        if node is stop:
            break
        if type(node) is For and new is not None:
            new = with_body(node, new)
        else:
            new = _with_child(node, old, new)
        old = node
    return new


def graft_two(a: Link, new_a: Stmt, b: Link, new_b: Stmt | None) -> Block:
    """`graft` in two places at once, neither of them inside the other."""
    below = {id(a.node): a}
    x = a
    while x.up is not None:
        below[id(x.up.node)] = x
        x = x.up
    y = b
    while y.up is not None and id(y.up.node) not in below:
        y = y.up
    top = y.up
    assert top is not None, "links of one tree have a common ancestor"
    half = _with_child(top.node, below[id(top.node)].node, graft_below(top, a, new_a))
    assert half is not None
    return graft(top, _with_child(half, y.node, graft_below(top, b, new_b)))


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
