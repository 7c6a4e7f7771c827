"""How do threads agree on which of equal elements a reduction takes?

An argmax as it is written takes the first of equals, so it depends on the order of its elements,
and threads that share it keep none. Before loops become threads the order can still be seen: if the
index of an element grows from each element to the next, comparing indices makes the same choice in
any order.
"""

from __future__ import annotations

from ..errors import LowerError
from ..ir import build
from ..ir.nodes import Block, BufferLoad, IfThenElse, PrimFunc, Stmt
from ..ir.walk import uses_var
from ..schedule.combine import any_order, at_once
from ..schedule.recognise import Reduction, reduction_of
from ..schedule.tree import Link, Tree, block_with, graft
from .kernels import BLOCK
from .limits import CpuLimits


def free_shared_orders(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The function where each reduction that threads share may run in any order.

    Raises:
        LowerError: the result of one depends on the order of its elements.
    """
    root: Block = func.body
    for link in list(Tree(root).links.values()):
        new = _freed(link)
        if new is not None:
            found = Tree(root).find(link.block().key)
            assert found is not None
            root = graft(found, new)
    return build.replace_body(func, root)


def _freed(link: Link) -> Block | None:
    """The block with a combiner that takes any order; None if it stays as it is."""
    b = link.node
    if type(b) is not Block:
        return None
    threads = {f.var for f in link.loops() if f.thread in BLOCK}
    if not threads or not any(
        iv.kind == "reduce" and uses_var(v, threads)
        for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
    ):
        return None
    found = reduction_of(b)
    if not isinstance(found, Reduction) or found.reducer.commutative:
        return None
    combiner = any_order(b, link.loops(), found)
    if combiner is None:
        raise LowerError(
            f"the reduction of block {b.name} is bound to threads, but its result depends on the "
            "order of its elements",
            hint="bind its spatial loops to threads instead",
            code="cross-thread",
        )
    at = found.stores[0].indices
    old = tuple([BufferLoad(x, at) for x in found.buffers])
    body: Stmt = at_once(combiner, found.buffers, at, combiner.combine(old, found.combined))
    return block_with(b, body=body if found.where is build.TRUE else IfThenElse(found.where, body))
