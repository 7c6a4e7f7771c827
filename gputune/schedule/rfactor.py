"""The primitive rfactor: how do partial results of a reduction come into a buffer of their own?

The partial results are the first block's; it stays in the loops, and the factored one is spatial to
it. For each value of that loop it takes in a part of the elements, in their order. The original
block then combines the partial results in the order of the factored loop. If that is the outermost
loop of the reduction, the elements stay in their order, and a combiner need only be associative;
otherwise it must be commutative too. A choice that prefers the first (or last) of equal keys is
made so by comparing a payload that grows from element to element, such as the index of an argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import build
from ..ir.build import is_literal
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    Expr,
    For,
    IfThenElse,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.regions import access_regions, without_explicit
from ..ir.walk import free_vars, substitute, substitute_stmt, uses_var
from .analysis import binding_is_affine, blocks_below, conjuncts, domain_uses_loops, guard_above
from .combine import any_order, at_once, redirected, reducing_loops, stored
from .handles import BlockRV, LoopRV
from .memory import fresh_name
from .primitive import primitive
from .recognise import Fault, Reduction, reduction_of
from .reduce import check_starts, require_reduction
from .reducers import Combiner, Each, Exprs, Pick
from .state import State
from .tree import Link, block_with, with_body


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is factored.

    chain: the loops above the block, outermost first; combiner: of the partial results; outputs:
    the buffers of the partial results; axis: where they have one dimension more.
    """

    block: Block
    loop: For
    chain: list[For]
    found: Reduction
    combiner: Combiner
    outputs: tuple[Buffer, ...]
    axis: int

    def bound(self, *, reduce: bool) -> list[tuple[IterVar, Expr]]:
        """The reduce iterators, or the others, with their bindings."""
        b = self.block
        pairs = zip(b.iter_vars, b.iter_values, strict=True)
        return [(iv, v) for iv, v in pairs if (iv.kind == "reduce") is reduce]

    @property
    def identity(self) -> Exprs:
        return self.combiner.identity([x.dtype for x in self.outputs])

    def place(self, indices: Sequence[Expr], factor: Expr) -> Exprs:
        """An element of the outputs: that of one partial result."""
        return (*indices[: self.axis], factor, *indices[self.axis :])


@primitive("RFactor", inputs=("loop",))
def rfactor(s: State, loop: LoopRV, factor_axis: int) -> BlockRV:
    """Make one loop of a reduction spatial: partial results go to new buffers with one more axis,
    which a second block then reduces.

    The block may reduce one value or several at once, by any combiner of `reducers`: +, *, min and
    max of each value, argmax and argmin with any payload, Welford's (count, mean, sum of squares),
    the online softmax, and what `register_reducer` was given.

    Args:
        loop: serial, above one reduction block only, and driving only reduce iterators.
        factor_axis: the position of the new axis in the new buffers, in [-ndim - 1, ndim].

    Returns:
        The block of the partial results, named `<name>_rf`. The original block now reduces those.

    Raises:
        ScheduleError: naming which precondition does not hold: of the loops, of the block (see
            `recognise.reduction_of`), or of the order in which elements are combined.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S"); i, k = sch.get_loops(b)
        >>> k0, k1 = sch.split(k, [None, 4]); rf = sch.rfactor(k1, 0)
        >>> sch.get(rf).name, len(sch.get(rf).writes[0].buffer.shape)
        ('S_rf', 2)
    """
    at = s.loop(loop)
    f = at.loop()
    inside = blocks_below(at)
    if len(inside) != 1:
        s.fail(
            f"the loop {f.var.name} is above {len(inside)} blocks, not one",
            hint="rfactor before moving blocks under this loop",
            code="rfactor-blocks",
            at=f,
        )
    link = inside[0]
    b = require_reduction(s, link)
    _check_loops(s, link, f)
    found = reduction_of(b)
    if isinstance(found, Fault):
        s.fail(found.message, hint=found.hint, code=found.code, at=b)
    ndim = len(found.buffers[0].shape)
    if not -ndim - 1 <= factor_axis <= ndim:
        s.fail(
            f"factor_axis {factor_axis} is not in [{-ndim - 1}, {ndim}]",
            hint=f"the new buffers have {ndim + 1} dimensions: count from 0, or from -1 backwards",
            code="rfactor-axis",
            at=b,
        )
    axis = factor_axis if factor_axis >= 0 else factor_axis + ndim + 1
    outputs = tuple([
        Buffer(f"{x.name}_rf", (*x.shape[:axis], f.extent, *x.shape[axis:]), x.dtype, x.scope)
        for x in found.buffers
    ])  # fmt: skip
    chain = link.loops()
    _check_predicate(s, b, chain)
    p = _Plan(b, f, chain, found, _combiner(s, b, f, chain, found), outputs, axis)
    partial = _partial_block(s, p)
    nest = _final_nest(p, _final_block(p))
    scope = link.scope()
    s.replace(link, partial)
    top = _link_of(s, chain[0])
    s.replace(top, build.seq(top.node, nest))
    scope = s.refresh(scope)
    owner = scope.block()
    s.replace(scope, block_with(owner, alloc_buffers=(*owner.alloc_buffers, *outputs)))
    return s.mint_block(partial.key)


# ----------------------------------------------------------------------------- what is asked
def _check_loops(s: State, link: Link, f: For) -> None:
    """What rfactor asks of the loops above the block."""
    b = link.block()
    if f.kind != "serial" or f.annotations:
        s.fail(
            f"the loop {f.var.name} is {'annotated' if f.annotations else f.kind}, not plain",
            hint="rfactor first, then annotate and bind the loops",
            code="rfactor-loop",
            at=f,
        )
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in front of "
            "those that read them",
            code="not-pipeline",
            at=b,
        )
    if guard_above(link) is not None:
        s.fail(
            f"block {b.name} stands under a condition or let, which the new loops would lose",
            hint="write the condition as T.where in the block, or inside its body",
            code="rfactor-guard",
            at=b,
        )
    if not is_literal(f.min, 0):
        s.fail(
            f"the loop {f.var.name} starts at {f.min}, not 0",
            hint="write the loop as range(n), with the offset in the indices",
            code="rfactor-loop",
            at=f,
        )
    loops = link.loops()
    own = {g.var for g in loops}
    uneven = next((g for g in loops if uses_var(g.min, own) or uses_var(g.extent, own)), None)
    if uneven is not None or domain_uses_loops(link):
        s.fail(
            f"the bounds of the loops above block {b.name} depend on each other",
            hint="only loops and domains whose extents are the same in every iteration can be "
            "factored",
            code="rfactor-loop",
            at=b if uneven is None else uneven,
        )
    if not binding_is_affine(link, s):
        s.fail(
            f"the bindings of block {b.name} are not an affine map of its loops",
            hint="the bindings must be sums, quotients and remainders of the loops, as "
            "T.axis.remap, split and fuse make them",
            code="not-affine",
            at=b,
        )
    check_starts(s, link)
    _check_drives(s, b, f, loops)


def _check_drives(s: State, b: Block, f: For, chain: list[For]) -> None:
    """The loop drives the reduction only, as others drive one of both, and no other block shares
    them."""
    spatial = [v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind != "reduce"]
    reduce = [v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"]
    if any(uses_var(v, f.var) for v in spatial):
        s.fail(
            f"the loop {f.var.name} drives a spatial iterator of block {b.name}",
            hint="factor a loop of the reduction",
            code="rfactor-loop",
            at=[f, b],
        )
    if not any(uses_var(v, f.var) for v in reduce):
        s.fail(
            f"the loop {f.var.name} drives no reduce iterator of block {b.name}",
            hint="factor a loop of the reduction",
            code="rfactor-loop",
            at=[f, b],
        )
    for g in chain:
        if any(uses_var(v, g.var) for v in spatial) and any(uses_var(v, g.var) for v in reduce):
            s.fail(
                f"the loop {g.var.name} drives spatial and reduce iterators of block {b.name}",
                hint="rfactor before fusing them",
                code="rfactor-mixed",
                at=[g, b],
            )
    if len(blocks_below(_link_of(s, chain[0]))) != 1:
        s.fail(
            f"the outermost loop {chain[0].var.name} is above other blocks too",
            hint="rfactor before moving blocks under these loops",
            code="rfactor-chain",
            at=chain[0],
        )


def _check_predicate(s: State, b: Block, chain: list[For]) -> None:
    """Each condition is of the reduction's loops alone, or of others: of both, it may hold back the
    beginning at some places, which the block that combines would not know."""
    own = {g.var for g in chain}
    reduce: set[Var] = set()
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind == "reduce":
            reduce |= free_vars(v) & own
    for c in conjuncts(b.predicate):
        used = free_vars(c)
        if not used & reduce or used <= reduce:
            continue
        outer = sorted(v.name for v in used - own)
        if outer:  # iterators of a block around, such as loop_partition and blockize make
            s.fail(
                f"the predicate {c} of block {b.name} ties its reduction loops to "
                f"{', '.join(outer)} of the blocks outside",
                hint="rfactor where each condition of T.where is of the reduction loops alone or "
                "of the others alone, as factors that divide leave it",
                code="reduction-predicate",
                at=b,
            )
        s.fail(
            f"the predicate {c} of block {b.name} ties spatial and reduction loops together",
            hint="split the spatial and the reduction loops by factors that divide",
            code="reduction-predicate",
            at=b,
        )


def _link_of(s: State, f: For) -> Link:
    found = s.find(f.var)
    assert found is not None
    return found[1]


# ----------------------------------------------------------------------------- the order
def _combiner(s: State, b: Block, f: For, chain: list[For], found: Reduction) -> Combiner:
    """The combiner of the partial results: the block's own, if it may take them in the order of the
    loop; else one that makes the same choice in any order."""
    own = found.reducer
    if not own.commutative:
        reducing = reducing_loops(b, chain)
        outermost = not reducing or reducing[0] is f
        # an empty part (its loop is guarded) holds the identity, which the last of equals may be
        may_be_empty = found.where is not build.TRUE or any(
            uses_var(c, f.var) for c in conjuncts(b.predicate)
        )
        if outermost and (type(own) is not Pick or own.tie == "first" or not may_be_empty):
            return own
    free = any_order(b, chain, found)
    if free is None:
        s.fail(
            f"the result of block {b.name} depends on the order of its elements, which the loop "
            f"{f.var.name} would change",
            hint="factor the outermost loop of the reduction; or let the block decide between "
            "equal keys by the payload, as in `k > K[i] or (k == K[i] and p < P[i])`",
            code="rfactor-order",
            at=[f, b],
        )
    return free


# ----------------------------------------------------------------------------- what is made
def _partial_block(s: State, p: _Plan) -> Block:
    """The block of partial results: a new spatial iterator for the loop, and one reduce iterator
    for each other loop that drives the reduction."""
    b, f = p.block, p.loop
    iters: list[IterVar] = []
    values: list[Expr] = []
    rename: dict[Var, Expr] = {}
    for iv, v in p.bound(reduce=False):
        new = Var(iv.var.name, iv.var.dtype)
        rename[iv.var] = new
        iters.append(IterVar(new, iv.dom, iv.kind))
        values.append(v)
    factor = Var(f"v{f.var.name}", f.var.dtype)
    iters.append(IterVar(factor, Range(f.min, f.extent), "spatial"))
    values.append(f.var)
    by_loop: dict[Var, Expr] = {f.var: factor}
    reduce = p.bound(reduce=True)
    for g in p.chain:
        if g is not f and any(uses_var(v, g.var) for _, v in reduce):
            new = Var(f"v{g.var.name}", g.var.dtype)
            by_loop[g.var] = new
            iters.append(IterVar(new, Range(g.min, g.extent), "reduce"))
            values.append(g.var)
    for iv, v in reduce:
        rename[iv.var] = substitute(v, by_loop)
    # a part that the predicate leaves empty must still hold the identity, so a condition on the
    # factored loop guards what is combined, not the block
    kept: Expr = build.TRUE
    where: Expr = build.TRUE
    for c in conjuncts(b.predicate):
        if uses_var(c, f.var):
            where = build.logical_and(where, substitute(c, by_loop))
        else:
            kept = build.logical_and(kept, c)
    index = p.place([substitute(i, rename) for i in p.found.stores[0].indices], factor)
    begins = any(iv.kind == "reduce" for iv in iters)
    bare = Block(
        BlockKey(),
        fresh_name(s, s.func_of(b.key), f"{b.name}_rf"),
        tuple(iters),
        tuple(values),
        kept,
        (),
        (),
        _partial_body(p, rename, index, where, begins),
        build.seq(*stored(p.outputs, index, p.identity)) if begins else None,
        annotations=without_explicit(b.annotations),
    )
    reads, writes = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


def _partial_body(
    p: _Plan, rename: dict[Var, Expr], index: Exprs, where: Expr, begins: bool
) -> Stmt:
    """Take in an element where `where` holds. If nothing is left to reduce, that is the result."""
    found = p.found
    if begins and type(found.reducer) is not Each:
        body = redirected(substitute_stmt(p.block.body, rename), p.found, p.outputs, index)
        return body if where is build.TRUE else IfThenElse(where, body)
    where = build.logical_and(where, substitute(found.where, rename))
    values: list[Expr] = [substitute(e, rename) for e in found.combined]
    if where is not build.TRUE:
        values = [build.if_then_else(where, v, e) for v, e in zip(values, p.identity, strict=True)]
    if begins:
        olds = tuple([BufferLoad(x, index) for x in p.outputs])
        return build.seq(*stored(p.outputs, index, found.reducer.combine(olds, tuple(values))))
    return build.seq(*stored(p.outputs, index, values))


def _final_block(p: _Plan) -> Block:
    """The original block, now reducing the partial results over the new axis."""
    b, f = p.block, p.loop
    factor = Var(f"v{f.var.name}", f.var.dtype)
    at = p.found.stores[0].indices
    lhs = tuple([BufferLoad(x, at) for x in p.found.buffers])
    rhs = tuple([BufferLoad(x, p.place(at, factor)) for x in p.outputs])
    spatial = p.bound(reduce=False)
    bare = Block(
        b.key,
        b.name,
        (*(iv for iv, _ in spatial), IterVar(factor, Range(f.min, f.extent), "reduce")),
        (*(v for _, v in spatial), f.var),
        b.predicate,
        (),
        (),
        at_once(p.combiner, p.found.buffers, at, p.combiner.combine(lhs, rhs)),
        b.init,
        b.alloc_buffers,
        annotations=without_explicit(b.annotations),
    )
    reads, writes = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


def _final_nest(p: _Plan, final: Block) -> Stmt:
    """New loops for the original block: the spatial ones, then the factored one."""
    f, spatial = p.loop, p.bound(reduce=False)
    table: dict[Var, Expr] = {}
    loops: list[For] = []
    for g in p.chain:
        if g is f or any(uses_var(v, g.var) for _, v in spatial):
            new = Var(g.var.name, g.var.dtype)
            loops.append(
                For(new, substitute(g.min, table), substitute(g.extent, table), "serial", g)
            )
            table[g.var] = new
    loops.sort(key=lambda x: table[f.var] is x.var)  # the factored loop goes innermost
    reduce = p.bound(reduce=True)
    driving = {g.var for g in p.chain if any(uses_var(v, g.var) for _, v in reduce)}
    # the other loops that are left out run once; what is of no loop holds here as it did there
    where = {**{g.var: g.min for g in p.chain if g.var not in driving}, **table}
    predicate: Expr = build.TRUE
    for c in conjuncts(p.block.predicate):
        if not uses_var(c, driving):
            predicate = build.logical_and(predicate, substitute(c, where))
    body: Stmt = block_with(
        final,
        iter_values=tuple([substitute(v, table) for v in final.iter_values]),
        predicate=predicate,
    )
    for g in reversed(loops):
        body = with_body(g, body)
    return body
