"""How does a reduction keep its sums in one dtype and hand its result over in another?"""

from __future__ import annotations

from dataclasses import replace

from gputune.ir import build
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    BufferStore,
    For,
    IterVar,
    PrimFunc,
    Range,
    Stmt,
    Var,
)
from gputune.ir.walk import replace_buffers


def narrow(func: PrimFunc, name: str, dtype: str) -> PrimFunc:
    """`func` with parameter `name` of `dtype`.

    Where that is not the dtype it has, the old parameter becomes a temporary, and one more
    elementwise block, `<name>_cast`, converts it at the end.
    """
    param, old = next((p, b) for p, b in func.buffer_map if b.name == name)
    if old.dtype == dtype:
        return func
    new = replace(old, dtype=dtype)
    temporary = replace(old, name=f"{name}_{old.dtype}")
    root = func.body
    root = replace(
        root,
        body=build.seq(replace_buffers(root.body, {old: temporary}), _cast(temporary, new)),
        alloc_buffers=(*root.alloc_buffers, temporary),
    )
    buffer_map = tuple((p, new if p is param else b) for p, b in func.buffer_map)
    return PrimFunc(func.params, buffer_map, root, func.attrs)


def _cast(source: Buffer, target: Buffer) -> Stmt:
    """A loop nest that copies `source` to `target`, converting each element."""
    axes = [f"{i}" for i in range(len(target.shape))]
    loops = [Var(f"c{i}") for i in axes]
    inside = tuple(Var(f"vc{i}") for i in axes)
    zero = build.const(0)
    element = tuple(Range(v, build.const(1)) for v in inside)
    stmt: Stmt = Block(
        BlockKey(),
        f"{target.name}_cast",
        iter_vars=tuple(
            IterVar(v, Range(zero, n), "spatial") for v, n in zip(inside, target.shape)
        ),
        iter_values=tuple(loops),
        predicate=build.TRUE,
        reads=(BufferRegion(source, element),),
        writes=(BufferRegion(target, element),),
        body=BufferStore(target, build.cast(target.dtype, build.load(source, inside)), inside),
    )
    for var, extent in zip(reversed(loops), reversed(target.shape)):
        stmt = For(var, zero, extent, "serial", stmt)
    return stmt
