"""How does the packing of constant arguments get out of a kernel? split_layout_preproc."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ir import build
from ..ir.nodes import Block, Buffer, For, PrimFunc, Seq, Stmt, Var
from ..ir.walk import blocks, rename_blocks, walk_stmt
from .arg_info import LAYOUT_REWRITE

LAYOUT_FREE = "layout_free_buffers"
"""The function attribute that lists which parameters may be packed anew, by position."""


def split_layout_preproc(func: PrimFunc) -> tuple[PrimFunc | None, PrimFunc]:
    """The blocks that RewriteLayout made as a function of their own, and the rest.

    As it is scheduled, a kernel packs its constant arguments at every call. Whoever knows that they
    stay the same calls the first function once, and then only the second.

    Args:
        func: a scheduled function.

    Returns:
        `<name>_weight_prepack`, which takes the arguments and then the packed buffers that it
        fills, and `<name>_prepacked`, in which each packed buffer stands in the place of the
        argument. None and the function itself if there is nothing to take out: no block is
        annotated `meta_schedule.layout_rewrite_preproc`, or what it packs is used otherwise too.
    """
    items = list(func.body.body.items) if type(func.body.body) is Seq else [func.body.body]
    packs: list[tuple[Stmt, Buffer, Buffer]] = []
    for x in items:
        found = _pack(func, x)
        if found is not None and not any(_uses(y, found[0]) for y in items if y is not x):
            packs.append((x, *found))
    if not packs or len(packs) == len(items):
        return None, func
    handle = {b: p for p, b in func.buffer_map}
    into = {given: packed for _, given, packed in packs}
    outputs = [Var(f"{packed.name}_handle", "handle") for packed in into.values()]
    prepack = PrimFunc(
        (*[handle[b] for b in into], *outputs),
        (*[(handle[b], b) for b in into], *zip(outputs, into.values(), strict=True)),
        build.root_block(build.seq(*[rename_blocks(x) for x, _, _ in packs])),
    ).with_attr("global_symbol", f"{func.name}_weight_prepack")
    rest = build.seq(*[x for x in items if not any(x is p for p, _, _ in packs)])
    root = func.body
    body = Block(
        root.key,
        root.name,
        (),
        (),
        root.predicate,
        root.reads,
        root.writes,
        rest,
        root.init,
        tuple([b for b in root.alloc_buffers if b not in into.values()]),
        root.match_buffers,
        root.annotations,
    )
    table = tuple([(p, into.get(b, b)) for p, b in func.buffer_map])
    fixed = {k for k, p in enumerate(func.params) if dict(func.buffer_map).get(p) in into}
    attrs = tuple([(k, _without(v, fixed) if k == LAYOUT_FREE else v) for k, v in func.attrs])
    main = PrimFunc(func.params, table, body, attrs)
    return prepack, main.with_attr("global_symbol", f"{func.name}_prepacked")


def _without(positions: Iterable[Any], fixed: set[int]) -> tuple[int, ...]:
    """The parameters whose layout is still free."""
    return tuple(
        [int(x) for x in (getattr(p, "value", p) for p in positions) if int(x) not in fixed]
    )


def _pack(func: PrimFunc, x: Stmt) -> tuple[Buffer, Buffer] | None:
    """What a nest packs, and into what, if it does just that."""
    inside = blocks(x)
    if len(inside) != 1 or not any(k == LAYOUT_REWRITE for k, _ in inside[0].annotations):
        return None
    b = inside[0]
    if len(b.reads) != 1 or len(b.writes) != 1:
        return None
    given, packed = b.reads[0].buffer, b.writes[0].buffer
    if given not in func.buffers or packed not in func.body.alloc_buffers:
        return None
    return (given, packed) if any(type(y) is For for y in walk_stmt(x)) else None


def _uses(x: Stmt, buffer: Buffer) -> bool:
    """Does a statement touch a buffer, by what its blocks say?"""
    return any(r.buffer is buffer for b in blocks(x) for r in (*b.reads, *b.writes))
