"""How do the loops of a block come to run on the threads of a GPU? For AutoBind and
RewriteUnboundBlock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ir.build import const_int, is_literal
from ..ir.nodes import Block, For
from ..schedule.dim import minimum
from ..schedule.tree import Link
from .analysis import loop_kinds, loop_links

if TYPE_CHECKING:
    from ..schedule import BlockRV, LoopRV, Schedule
    from ..schedule.handles import ExprRV


def threads_above(link: Link) -> list[str]:
    """The axes of the grid and of blocks to which loops above a block are bound, outermost
    first."""
    found = [x.node.thread for x in link.above() if type(x.node) is For and x.node.thread]
    return [a for a in reversed(found) if not a.startswith("vthread")]


def is_bound(link: Link) -> bool:
    """Is the block part of a kernel: under a loop over blockIdx?"""
    return any(a.startswith("blockIdx") for a in threads_above(link))


def bind_to_threads(
    sch: Schedule,
    block: BlockRV,
    most_blocks: int,
    most_threads: int,
    choose_threads: Callable[[int], ExprRV | int],
) -> None:
    """Bind the outermost spatial loops of a block, fused, to blockIdx.x, and the inner part of them
    to threadIdx.x. A block that is bound stays as it is; one whose inner loops are bound to threads
    gets a grid around them.

    Args:
        sch, block: a block below the root block, with its loops.
        most_blocks: where the loops have more iterations than `most_blocks` times `most_threads`,
            a grid of that size takes them in several rounds.
        most_threads: of a block of the grid.
        choose_threads: how many threads a block of the grid gets, given the most that make sense.
    """
    link = sch.block(block)
    bound = threads_above(link)
    if any(a.startswith("blockIdx") for a in bound):
        return
    outer = _spatial_prefix(link)
    loops = sch.get_loops(block)
    if not outer:
        # nothing to spread: a grid of one block
        unit = sch.add_unit_loop(loops[0] if loops else block)
        sch.bind(unit, "blockIdx.x")
        return
    fused = sch.fuse(*loops[: len(outer)])
    if bound:
        sch.bind(fused, "blockIdx.x")
        return
    _spread(sch, fused, most_blocks, most_threads, choose_threads)


def _spread(
    sch: Schedule,
    loop: LoopRV,
    most_blocks: int,
    most_threads: int,
    choose_threads: Callable[[int], ExprRV | int],
) -> None:
    extent = const_int(sch.loop(loop).loop().extent)
    if extent is not None and extent > most_blocks * most_threads:
        rounds, blocks, threads = sch.split(loop, [None, most_blocks, most_threads])
        sch.reorder(blocks, threads, rounds)
    else:
        most = most_threads if extent is None else minimum(extent, most_threads)
        blocks, threads = sch.split(loop, [None, choose_threads(most)])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")


def _spatial_prefix(link: Link) -> list[For]:
    """The outermost loops above a block that can be fused into one that runs in parallel: plain,
    each the only child of the one before, and spatial to all blocks below."""
    nest = loop_links(link)
    kinds = loop_kinds(nest)
    out: list[For] = []
    for x in nest:
        f = x.loop()
        if out and out[-1].body is not f:
            break
        plain = f.kind == "serial" and not f.annotations and is_literal(f.min, 0)
        if not plain or kinds[f.var] != "spatial":
            break
        out.append(f)
    return out


def unbound_blocks(sch: Schedule, func: str) -> list[Block]:
    """The blocks right below the root block of a function that no kernel holds, in program
    order."""
    root = sch.mod[func].body
    return [x.block() for x in sch.tree(func).blocks[root.key] if not is_bound(x)]
