"""Where is a reduction initialised, once instead of in every iteration? RewriteReductionBlock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.nodes import Block
from ...schedule.tree import Link
from ..analysis import loop_kinds, loop_links
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule


_NOT_LEGAL = frozenset({"not-reduction", "reduction-predicate"})


class RewriteReductionBlock(Postproc):
    """Decomposes every reduction block at its outermost loop that is not spatial.

    Reductions that a GPU's threads share (a loop bound to a thread axis drives them) keep their
    init, which lowering turns into a cross-thread reduction; so do those that another block shares
    its output with, which lowering initialises in place.
    """

    def apply(self, sch: Schedule) -> bool:
        """Decompose until nothing is left to decompose."""
        done = False
        while not done:
            done = True
            for func, block, at in _found(sch):
                rv = sch.get_block(block.name, func)
                try:
                    sch.decompose_reduction(rv, sch.get_loops(rv)[at])
                except ScheduleError as e:
                    if e.code not in _NOT_LEGAL:
                        raise
                else:
                    done = False
        return True


def _found(sch: Schedule) -> list[tuple[str, Block, int]]:
    """Function, block and number of the loop of every reduction that can be decomposed."""
    out: list[tuple[str, Block, int]] = []
    for name in sch.mod.functions:
        for link in sch.tree(name).links.values():
            if type(link.node) is Block and link.node.init is not None:
                at = _decompose_point(link)
                if at is not None:
                    out.append((name, link.node, at))
    return out


def _decompose_point(link: Link) -> int | None:
    """The position of the outermost loop that drives the reduction (loops that mean nothing to this
    block run it again: it must be initialised inside them); None where there is none, or where
    threads share the reduction."""
    at: int | None = None
    nest = loop_links(link)
    kinds = loop_kinds(nest, [link])
    for k, loop in enumerate(nest):
        if kinds[loop.loop().var] == "spatial":
            continue
        if loop.loop().kind == "thread_binding":
            return None
        if at is None:
            at = k
    return at
