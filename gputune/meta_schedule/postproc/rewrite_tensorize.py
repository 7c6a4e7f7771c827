"""Which blocks does one instruction compute? RewriteTensorize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.known_annotations import warn_once
from ...ir.nodes import Block, BufferStore
from ...ir.walk import blocks, loads, walk_stmt
from ...target.intrin import TensorIntrin
from ..analysis import AUTO_TENSORIZE, AUTO_TENSORIZE_INIT, annotation, loop_links
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import BlockRV, Schedule


_PLAIN = frozenset({"global", "shared", "shared.dyn", "local"})
"""Memory that any statement can use."""


class RewriteTensorize(Postproc):
    """Tensorizes the blocks that are annotated with the name of an intrinsic.

    A block that initialises one takes the intrinsic that the annotation for inits names; without
    one it stays as it is, or is vectorised. The empty name asks for no intrinsic. A block that an
    intrinsic does not fit stays as it is, too, and a warning says why, once for a block and a
    reason; only where its operands are in memory that nothing but an instruction can read (the
    fragments of tensor cores, tile registers) is the whole schedule refused.

    Args:
        vectorize_init_loop: make vectors of blocks that initialise.
    """

    def __init__(self, vectorize_init_loop: bool = False) -> None:
        self.vectorize_init_loop = vectorize_init_loop

    def apply(self, sch: Schedule) -> bool:
        """Tensorize what is annotated.

        Raises:
            ScheduleError: why a block does not match that cannot do without an instruction.
        """
        for func, block, name, init_name in _found(sch):
            rv = sch.get_block(block.name, func)
            if init_name is not None:
                sch.unannotate(rv, AUTO_TENSORIZE_INIT)
            sch.unannotate(rv, AUTO_TENSORIZE)
            if not name:
                continue
            if not _initialises(block, name):
                _tensorize(sch, rv, block, name)
            elif init_name is not None:
                if init_name:
                    _tensorize(sch, rv, block, init_name)
            elif self.vectorize_init_loop:
                _vectorize(sch, rv)
        return True


def _tensorize(sch: Schedule, rv: BlockRV, block: Block, name: str) -> None:
    """Compute a block by an intrinsic; warn, and leave it as it is, where that cannot be."""
    try:
        sch.tensorize(rv, name)
    except ScheduleError as e:
        if any(r.buffer.scope not in _PLAIN for r in (*block.reads, *block.writes)):
            raise
        warn_once(
            f"tensorize {name} {block.name} {e.code}",
            f"RewriteTensorize: block {block.name} is left without the intrinsic {name!r} that it "
            f"asks for: {e.message}",
        )


def _initialises(block: Block, name: str) -> bool:
    """Does the block set what another one with the same annotation adds to? It reads nothing; or
    not what it writes, of which the intrinsic takes the sum so far, and sums nothing itself."""
    if not block.reads:
        return True
    written = {w.buffer for w in block.writes}
    if any(r.buffer in written for r in block.reads):
        return False
    if any(b.init or any(iv.kind == "reduce" for iv in b.iter_vars) for b in blocks(block)):
        return False
    found = TensorIntrin.get(name, allow_missing=True)
    return found is not None and any(
        type(s) is BufferStore and any(x.buffer is s.buffer for x in loads(s.value))
        for s in walk_stmt(found.desc.body)
    )


def _found(sch: Schedule) -> list[tuple[str, Block, str, str | None]]:
    """Function, block, and its two annotations."""
    out: list[tuple[str, Block, str, str | None]] = []
    for func in sch.mod.functions:
        for link in sch.tree(func).links.values():
            if type(link.node) is Block:
                name = annotation(link.node, AUTO_TENSORIZE)
                if name is not None:
                    other = annotation(link.node, AUTO_TENSORIZE_INIT)
                    out.append((func, link.node, name, other))
    return out


def _vectorize(sch: Schedule, block: BlockRV) -> None:
    """Make a vector of the innermost loop inside a block, if it has one and may."""
    for child in sch.get_child_blocks(block):
        if loop_links(sch.block(child)):
            loop = sch.get_loops(child)[-1]
            try:
                sch.vectorize(loop)
            except ScheduleError as e:
                if e.code not in ("not-pipeline", "not-complete", "not-affine"):
                    raise
