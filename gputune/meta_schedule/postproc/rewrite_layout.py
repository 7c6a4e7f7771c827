"""In which layout is a constant argument read fastest? RewriteLayout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...ir.nodes import Block, Buffer, BufferLoad, Expr, PrimFunc, Var
from ...ir.walk import all_loads, substitute
from ...lower.layout_preproc import LAYOUT_REWRITE, free_positions
from ...schedule.suggest import suggest_index_map
from ...schedule.tree import Link
from .postproc import Postproc

if TYPE_CHECKING:
    from ...ir.index_map import IndexMap
    from ...schedule import Schedule


class RewriteLayout(Postproc):
    """Packs arguments whose layout is free in the order in which their reader reads them.

    The attribute `layout_free_buffers` of a function lists parameters, by position, that hold the
    same values at every call, such as weights. Such a one that a single block reads, at one place,
    is copied into a buffer laid out as that block's loops run; the copying block is annotated
    `meta_schedule.layout_rewrite_preproc`, and `split_layout_preproc` makes a function of its own
    of it. Other functions, and other arguments, stay as they are.
    """

    def apply(self, sch: Schedule) -> bool:
        """Rewrite every function that has the attribute."""
        for name, func in list(sch.mod.functions.items()):
            for buffer, reader, index_map in _packable(sch, name, func):
                b = reader.block()
                block = sch.get_block(b.name, name)
                at = next(k for k, r in enumerate(b.reads) if r.buffer is buffer)
                pack = sch.cache_read(block, at, "global", [block])
                sch.transform_layout(
                    block, ("read", at), index_map, assume_injective_transform=True
                )
                sch.annotate(pack, LAYOUT_REWRITE, True)
        return True


def will_be_packed(sch: Schedule, name: str) -> list[Buffer]:
    """The arguments of a function that RewriteLayout would pack, as its program is now: they will
    be read straight through, whatever order the loops have."""
    return [buffer for buffer, _, _ in _packable(sch, name, sch.mod[name])]


def _packable(sch: Schedule, name: str, func: PrimFunc) -> Iterator[tuple[Buffer, Link, IndexMap]]:
    """The arguments whose layout is free and can be suited to their reader."""
    table = dict(func.buffer_map)
    for k in free_positions(func):
        buffer = table[func.params[k]]
        reader = _single_reader(sch, name, buffer)
        index_map = None if reader is None else _map(reader, buffer)
        if reader is not None and index_map is not None:
            yield buffer, reader, index_map


def _single_reader(sch: Schedule, func: str, buffer: Buffer) -> Link | None:
    """The block that alone reads the parameter, directly under the root and under a name of its
    own; nobody may write it, and views of it keep their layout."""
    found: list[Link] = []
    tree = sch.tree(func)
    for link in tree.links.values():
        b = link.node
        if type(b) is not Block or link.up is None:
            continue
        if any(w.buffer is buffer for w in b.writes):
            return None
        if any(m.source.buffer is buffer for m in b.match_buffers):
            return None
        if any(r.buffer is buffer for r in b.reads):
            found.append(link)
    if len(found) != 1 or found[0].scope().up is not None:
        return None
    name = found[0].block().name
    same_name = [x for x in tree.links.values() if type(x.node) is Block and x.node.name == name]
    return found[0] if len(same_name) == 1 else None


def _map(reader: Link, buffer: Buffer) -> IndexMap | None:
    """The layout in which the block reads the buffer straight through."""
    b = reader.block()
    places: list[BufferLoad] = [x for x in all_loads(b.body) if x.buffer is buffer]
    distinct = {tuple(map(str, x.indices)): x for x in places}
    if len(distinct) != 1 or len(buffer.shape) < 1:
        return None
    (load,) = distinct.values()
    table: dict[Var, Expr] = {iv.var: v for iv, v in zip(b.iter_vars, b.iter_values, strict=True)}
    indices = [substitute(i, table) for i in load.indices]
    return suggest_index_map(buffer, indices, reader.loops(), b.predicate)
