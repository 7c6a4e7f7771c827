"""What does a reduction whose loop is bound to threads come down to? Each thread's share, and the
store of what the shares add up to.

For features only: how threads put their shares together is the backend's affair.
"""

from __future__ import annotations

from ...ir import build, walk
from ...ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IntImm,
    Stmt,
)
from ...schedule.reducers import reducer_of
from ...schedule.tree import Link, Tree, block_with, graft, with_body


def share_out(root: Block) -> Block:
    """`root` with each such reduction in two statements. One that is no sum, product, minimum or
    maximum into one element stays as it is."""
    done: set[BlockKey] = set()
    while True:
        link = _next(root, done)
        if link is None:
            return root
        done.add(link.block().key)
        root = _shared_out(link)


def _reduce_values(b: Block) -> list[Expr]:
    return [v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"]


def _drives(f: For, values: list[Expr]) -> bool:
    return any(walk.uses_var(v, f.var) for v in values)


def _next(root: Block, done: set[BlockKey]) -> Link | None:
    for link in Tree(root).links.values():
        b = link.node
        if type(b) is not Block or b.key in done or reducer_of(b) is None:
            continue
        values = _reduce_values(b)
        if any(
            (f.thread or "").startswith("threadIdx") and _drives(f, values) for f in link.loops()
        ):
            return link
    return None


def _shared_out(link: Link) -> Block:
    b = link.block()
    found = reducer_of(b)
    store = b.body
    assert found is not None
    assert type(store) is BufferStore
    reducer, rest = found
    values = _reduce_values(b)
    loops = link.loops()
    first = next(k for k, f in enumerate(loops) if _drives(f, values))
    inside = loops[first:]
    top = next(x for x in link.above() if x.node is loops[first])
    spatial = [f for f in inside if not _drives(f, values) and f.thread is None]
    axes = [f for f in inside if f.thread is not None]
    name, dtype = store.buffer.name, store.buffer.dtype
    total = Buffer(f"cross_thread_{name}", (IntImm(1),), dtype, "local")
    value: Expr = BufferLoad(total, (IntImm(0),))
    end = _nest(_result(b, store, value), spatial, axes)
    if all(f.thread is not None for f in inside if _drives(f, values)):
        return graft(top, Alloc(total, end))
    share = Buffer(f"in_thread_{name}", (IntImm(1),), dtype, "local")
    zero = (IntImm(0),)
    mine = BufferStore(share, build.binary(reducer.op, BufferLoad(share, zero), rest), zero)
    start = _replaced(top.node, b, block_with(b, body=mine, init=None, writes=()))
    return graft(top, Alloc(total, Alloc(share, build.seq(start, end))))


def _result(b: Block, store: BufferStore, value: Expr) -> Block:
    """The store of the result, over the spatial iterators."""
    keep = [k for k, iv in enumerate(b.iter_vars) if iv.kind != "reduce"]
    return Block(
        BlockKey(), f"{b.name}_result",
        tuple([b.iter_vars[k] for k in keep]), tuple([b.iter_values[k] for k in keep]),
        build.TRUE, (), b.writes, BufferStore(store.buffer, value, store.indices),
    )  # fmt: skip


def _nest(block: Block, spatial: list[For], axes: list[For]) -> Stmt:
    out: Stmt = block
    for f in reversed([*axes, *spatial]):
        out = with_body(f, out)
    return walk.rename_blocks(out)


def _replaced(s: Stmt, old: Block, new: Block) -> Stmt:
    if s is old:
        return new
    out = walk.map_stmt(s, lambda e: e, lambda x: _replaced(x, old, new))
    assert out is not None  # nothing is deleted
    return out
