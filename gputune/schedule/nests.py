"""What do primitives that make blocks anew share? Their arguments, and plain loop nests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError
from ..ir import build
from ..ir.build import TRUE, const_int, is_literal
from ..ir.index_map import IndexMap
from ..ir.known_annotations import listed
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    Expr,
    For,
    IntImm,
    IterKind,
    IterVar,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.regions import access_regions
from ..ir.walk import (
    walk_stmt,
)
from .analysis import guard_above, is_plainly_whole
from .primitive import Access, BufferAccess, IndexMapLike
from .state import State, buffer_at, is_spelled
from .tree import Link, block_with


def pick_access(s: State, b: Block, given: BufferAccess) -> Access:
    """Which buffer of a block is meant, by position or by name; recorded by position."""
    if isinstance(given, (str, Buffer)):
        every = [*(("read", k, r) for k, r in enumerate(b.reads))]
        every += [("write", k, r) for k, r in enumerate(b.writes)]
        found = [x for x in every if x[2].buffer is given or x[2].buffer.name == given]
        if not found and isinstance(given, str):  # as the program is printed
            found = [x for x in every if is_spelled(x[2].buffer.name, given)]
        buffers = {x[2].buffer for x in found}
        name = given if isinstance(given, str) else given.name
        if not found:
            names = ", ".join(dict.fromkeys(x[2].buffer.name for x in every)) or "none"
            s.fail(
                f"block {b.name} neither reads nor writes a buffer {name!r}",
                hint=f"its buffers are: {names}",
                code="buffer-index",
                at=b,
            )
        if len(buffers) > 1:
            s.fail(
                f"block {b.name} has {len(buffers)} buffers named {name!r}",
                hint='say which by position, such as ("read", 0)',
                code="buffer-index",
                at=b,
            )
        access = Access(found[0][0], found[0][1])
    else:
        access = Access(*given)
        regions = b.reads if access.kind == "read" else b.writes
        buffer_at(regions, access.position, access.kind, s, b)
    s.resolved["buffer"] = access
    return access


def access_region(b: Block, access: Access) -> BufferRegion:
    """The region that an access means."""
    return (b.reads if access.kind == "read" else b.writes)[access.position]


def read_map(
    s: State, given: IndexMapLike, ndim: int, at: object, name: str = "index_map"
) -> IndexMap:
    """The map of an argument, which is recorded as such."""
    try:
        m = given if isinstance(given, IndexMap) else _map_of(given, ndim)
    except UserError as e:
        s.fail(e.message, hint=e.hint, code="index-map", at=at)
    s.resolved[name] = m
    if len(m.initial_indices) != ndim:
        s.fail(
            f"{name} takes {len(m.initial_indices)} indices, and there are {ndim}",
            hint=f"let the map take {ndim} indices",
            code="index-map",
            at=at,
        )
    if m.axis_separators:
        s.fail(
            f"{name} has an AXIS_SEPARATOR, which gives memory several dimensions of its own (as "
            "textures have), and memory has one here",
            hint="leave it out: the indices stay, and the elements lie one after the other",
            code="axis-separator",
            at=at,
        )
    return m


def _map_of(given: Callable[..., Any], ndim: int) -> IndexMap:
    """The map of a function, be it one of another number of indices: what is wrong with it is said
    as it is of a map that a trace holds."""
    try:
        return IndexMap.from_func(given, ndim)
    except UserError as e:
        try:
            return IndexMap.from_func(given)
        except UserError:
            raise e from None


def bound_map(s: State, m: IndexMap, extents: Sequence[Expr] = ()) -> IndexMap:
    """The map with its sampled values, for old indices that run over the extents."""
    free = m.free_vars()
    if free:
        m = m.bind({v: IntImm(s.integer(v), v.dtype) for v in free})
    return m.settled([const_int(n) for n in extents]) if extents else m


def const_extents(s: State, extents: Sequence[Expr], what: str, at: object) -> list[int]:
    """The extents, which must be constant."""
    out = []
    for e in extents:
        n = const_int(e)
        if n is None:
            s.fail(
                f"the extent {e} of {what} is not constant",
                hint="only constant extents can be laid out anew",
                code="layout-dynamic",
                at=at,
            )
        out.append(n)
    return out


def plain_nest(s: State, link: Link) -> list[For]:
    """The loops above a block, each the only child of the one before, serial and without notes, up
    to the scope; one iterator each. These are the loops that can be made anew."""
    b = link.block()
    if guard_above(link) is not None or not is_literal(b.predicate, 1):
        s.fail(
            f"block {b.name} has a predicate or stands under a condition or let",
            hint="do this before splitting with factors that do not divide",
            code="nest-guard",
            at=b,
        )
    if not is_plainly_whole(link) or len(link.loops()) != len(b.iter_vars):
        s.fail(
            f"the iterators of block {b.name} are not bound to one loop each, as long as their "
            "domains",
            hint="do this before splitting, fusing and moving the block",
            code="nest-binding",
            at=b,
        )
    x: Link = link
    for f in reversed(link.loops()):
        up = x.up
        if up is None or up.node is not f:
            s.fail(
                f"block {b.name} shares the loop {f.var.name} with another block",
                hint="give the block loops of its own, with compute_at or decompose_reduction",
                code="nest-shared",
                at=[f, b],
            )
        if f.kind != "serial" or f.annotations:
            s.fail(
                f"the loop {f.var.name} above block {b.name} is {f.kind} or has annotations, which "
                "would be lost",
                hint="do this before marking loops",
                code="nest-marked",
                at=f,
            )
        x = up
    return link.loops()


def nest_top(link: Link) -> Link:
    """The outermost loop above a block whose loops are a chain (the block itself without loops)."""
    x = link
    while x.up is not None and type(x.up.node) is For:
        x = x.up
    return x


def grid(loops: Sequence[Var], extents: Sequence[Expr], body: Stmt) -> Stmt:
    """Serial loops from 0 around a statement."""
    for v, e in zip(reversed(loops), reversed(extents), strict=True):
        body = For(v, IntImm(0, v.dtype), e, "serial", body)
    return body


def grid_block(
    name: str,
    iters: Sequence[tuple[Var, Expr, IterKind]],
    body: Stmt,
    *,
    init: Stmt | None = None,
    predicate: Callable[[Sequence[Var]], Expr] | None = None,
    key: BlockKey | None = None,
    regions: tuple[Sequence[BufferRegion], Sequence[BufferRegion]] | None = None,
    loop_names: Sequence[str] | None = None,
    keep: Block | None = None,
) -> tuple[Stmt, BlockKey]:
    """Loops and a block with one iterator (variable, extent, kind) a loop.

    Args:
        predicate: of the loop variables; None: always.
        regions: reads and writes; None: what the body touches.
        loop_names: of the loops; None: ax0, ax1, ...
        keep: the block of which allocations, views and annotations are kept.
    """
    names = loop_names or [f"ax{k}" for k in range(len(iters))]
    loops = [Var(n, v.dtype) for n, (v, _, _) in zip(names, iters, strict=True)]
    key = key or BlockKey()
    b = Block(
        key,
        name,
        tuple([IterVar(v, Range(IntImm(0, v.dtype), e), kind) for v, e, kind in iters]),
        tuple(loops),
        TRUE if predicate is None else predicate(loops),
        (),
        (),
        body,
        init,
        () if keep is None else keep.alloc_buffers,
        () if keep is None else keep.match_buffers,
        () if keep is None else keep.annotations,
    )
    reads, writes = access_regions(b) if regions is None else regions
    b = block_with(b, reads=tuple(reads), writes=tuple(writes))
    return grid(loops, [e for _, e, _ in iters], b), key


def top_statement(link: Link, scope: Link) -> Stmt:
    """The statement directly in the scope block that holds the node of a link."""
    out = link.node
    for x in link.above():
        if x.node is scope.node:
            break
        if type(x.node) is not Seq or x.up is None or x.up.node is not scope.node:
            out = x.node
    return out


def put_beside(scope: Block, item: Stmt, nests: Sequence[Stmt], *, after: bool) -> Stmt:
    """The body of the scope with statements before or after the top statement that holds `item`."""
    items = list(scope.body.items) if type(scope.body) is Seq else [scope.body]
    at = next(k for k, x in enumerate(items) if any(y is item for y in walk_stmt(x)))
    items[at + after : at + after] = nests
    return build.seq(*items)


def refuse_aligned(s: State, b: Block, buffer: Buffer) -> None:
    """Refuses where storage_align has spoken of the axes of a buffer."""
    for note in listed(b.annotations, "buffer_dim_align", f"block {b.name}"):
        if 0 <= note[0] < len(b.writes) and b.writes[note[0]].buffer is buffer:
            s.fail(
                f"storage_align has aligned an axis of {buffer.name}",
                hint="call storage_align afterwards",
                code="layout-align",
                at=b,
            )
