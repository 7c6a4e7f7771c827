"""Where does a temporary live, judging by who uses it? At the innermost loop around all its uses.

What a reduction writes is used by all iterations of its reduction loops, so it lives outside of
them; what lies in global memory outlasts a kernel.
"""

from __future__ import annotations

from typing import TypeAlias

from ...ir import walk
from ...ir.nodes import Alloc, Block, Buffer, BufferStore, Expr, For, Stmt, Var
from ...schedule.tree import block_with, with_body

_Path: TypeAlias = tuple[Stmt, ...]
"""The loops and blocks around a place, outermost first."""


def give_homes(root: Block) -> Block:
    """`root` with its temporaries allocated where they are used: an `Alloc` inside the loop, or one
    of the buffers of the block."""
    found = _Homes()
    found.visit(root, ())
    homes: dict[int, list[Buffer]] = {}
    for b in found.temporaries:
        path = found.common.get(b)
        if path is not None:
            homes.setdefault(id(path[-1]), []).append(b)
    out = _rebuilt(root, homes)
    assert type(out) is Block
    return out


class _Homes:
    """What all uses of each temporary have in common."""

    def __init__(self) -> None:
        self.temporaries: list[Buffer] = []
        self.common: dict[Buffer, _Path] = {}
        self._grids: list[_Path] = []

    def visit(self, root: Block, path: _Path) -> None:
        """Look at a function body."""
        self._go(root, path)
        for b in self.temporaries:
            if b.scope == "global" and b in self.common:
                for grid in self._grids:
                    self.common[b] = _shared(self.common[b], grid)

    def _use(self, b: Buffer, path: _Path) -> None:
        old = self.common.get(b)
        self.common[b] = path if old is None else _shared(old, path)

    def _read(self, e: Expr, path: _Path) -> None:
        for load in walk.loads(e):
            self._use(load.buffer, path)

    def _go(self, s: Stmt, path: _Path) -> None:
        if type(s) is For:
            if s.thread is not None and s.thread.startswith("blockIdx"):
                self._grids.append(path)
            path = (*path, s)
        elif type(s) is Block:
            self.temporaries += s.alloc_buffers
            self._carried(s, path)
            path = (*path, s)
            for m in s.match_buffers:
                self._use(m.source.buffer, path)
        elif type(s) is BufferStore:
            self._use(s.buffer, path)
        for e in walk.stmt_exprs(s):
            self._read(e, path)
        for x in walk.stmt_children(s):
            self._go(x, path)

    def _carried(self, b: Block, path: _Path) -> None:
        """What passes from one iteration of a loop to the next lives outside of the loop."""
        depth = {x.var: k for k, x in enumerate(path) if type(x) is For}
        reduced = _outermost(b, ("reduce",), depth)
        if reduced is not None:
            for w in b.writes:
                self._use(w.buffer, path[:reduced])
        ordered = _outermost(b, ("scan", "opaque"), depth)
        if ordered is not None:
            for r in (*b.reads, *b.writes):
                self._use(r.buffer, path[:ordered])


def _outermost(b: Block, kinds: tuple[str, ...], depth: dict[Var, int]) -> int | None:
    """The depth of the outermost loop that drives an iterator of these kinds."""
    found = [
        depth[v]
        for iv, value in zip(b.iter_vars, b.iter_values, strict=True)
        if iv.kind in kinds
        for v in walk.free_vars(value)
        if v in depth
    ]
    return min(found, default=None)


def _shared(a: _Path, b: _Path) -> _Path:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x is not y:
            break
        n += 1
    return a[:n]


def _rebuilt(s: Stmt, homes: dict[int, list[Buffer]]) -> Stmt:
    out = walk.map_stmt(s, lambda e: e, lambda x: _rebuilt(x, homes))
    assert out is not None  # nothing is deleted
    mine = homes.get(id(s), [])
    if type(out) is Block:
        return block_with(out, alloc_buffers=tuple(mine)) if mine or out.alloc_buffers else out
    if type(out) is For and mine:
        body = out.body
        for b in reversed(mine):
            body = Alloc(b, body)
        return with_body(out, body)
    return out
