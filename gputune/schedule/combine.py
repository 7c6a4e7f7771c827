"""How are partial results put together: in which order, and stored how?

What rfactor and the lowering of reductions that threads share have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..ir import build
from ..ir.affine import from_linear, linear, recombine, same
from ..ir.arith import simplify
from ..ir.build import const_int, is_literal
from ..ir.intervals import Domain, bounds
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IterVar,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import free_vars, map_expr, map_stmt, substitute, uses_var
from .recognise import Reduction
from .reducers import Combiner, Each, Exprs, Pick, Tie


# ----------------------------------------------------------------------------- the order
def reducing_loops(b: Block, chain: Sequence[For]) -> list[For]:
    """The loops above a block that take its reduction on, outermost first."""
    values = [v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"]
    return [
        g for g in chain if any(uses_var(v, g.var) for v in values) and not is_literal(g.extent, 1)
    ]


def any_order(b: Block, chain: Sequence[For], found: Reduction) -> Combiner | None:
    """A combiner with the same results that may take the elements in any order: the block's own if
    it is commutative, or one that decides between equal keys by a payload that tells which element
    came first. None if there is none."""
    own = found.reducer
    if own.commutative:
        return own
    if type(own) is not Pick:
        return None
    if own.by >= 0:
        return own if _tells_apart(b, chain, found, own.by) else None
    for k, e in enumerate(found.combined):
        if k != own.key and _tells_order(b, chain, own, found, k, e):
            tie: Tie = "smaller" if own.tie == "first" else "larger"
            return Pick(own.size, own.key, own.sign, tie, k)
    return None


def _tells_apart(b: Block, chain: Sequence[For], found: Reduction, k: int) -> bool:
    """Is a payload another one for each element, and for the initial value?"""
    e = found.combined[k]
    if not _ascends_over_loops(b, chain, e) and not _ascends_over_iterators(b, chain, e):
        return False
    begin = next((x.value for x in init_stores(b) if x.buffer is found.buffers[k]), None)
    start = None if begin is None else const_int(begin)
    least, most = bounds(_over_loops(b, e), {g.var: _interval(g) for g in chain})
    if start is None or least is None or most is None:
        return False
    return start < least or start > most


def _tells_order(
    b: Block, chain: Sequence[For], own: Pick, found: Reduction, k: int, e: Expr
) -> bool:
    """Does a payload grow from each element to the next, from the initial value on?"""
    if not _ascends_over_loops(b, chain, e) and not _ascends_over_iterators(b, chain, e):
        return False
    begin = {x.buffer: x.value for x in init_stores(b)}
    if found.buffers[k] not in begin:
        return False
    if own.tie == "first":  # what loses to everything ties only with parts of its like
        worst = own.identity([x.dtype for x in found.buffers])[own.key]
        if same(begin[found.buffers[own.key]], worst):
            return True
    start = const_int(begin[found.buffers[k]])
    dom: Domain = {g.var: _interval(g) for g in chain}
    least, _ = bounds(_over_loops(b, e), dom)
    return start is not None and least is not None and start <= least


def _over_loops(b: Block, e: Expr) -> Expr:
    """An expression over iterators as one over the loops."""
    bindings = dict(zip([iv.var for iv in b.iter_vars], b.iter_values, strict=True))
    terms, const = linear(substitute(e, bindings))
    const = recombine(terms, const)  # of a fused loop: its quotients and remainders
    return simplify(from_linear(terms, const, e.dtype))


def _ascends_over_loops(b: Block, chain: Sequence[For], e: Expr) -> bool:
    """Does it grow with every step of the reduction's loops, one inside the other?"""
    return _ascends(_over_loops(b, e), [(g.var, g.extent) for g in reducing_loops(b, chain)])


def _ascends_over_iterators(b: Block, chain: Sequence[For], e: Expr) -> bool:
    """Does it grow with every step of the reduce iterators, each of which grows with loops of its
    own? (That holds where loops overrun the iterators, by factors that do not divide.)"""
    loops = reducing_loops(b, chain)
    order: list[tuple[list[int], IterVar]] = []
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        own = [n for n, g in enumerate(loops) if uses_var(v, g.var)]
        if iv.kind == "reduce" and own:
            if not _ascends(v, [(loops[n].var, loops[n].extent) for n in own]):
                return False
            order.append((own, iv))
    order.sort(key=lambda x: x[0][0])
    if any(a[0][-1] >= b[0][0] for a, b in pairwise(order)):
        return False
    return _ascends(e, [(iv.var, iv.dom.extent) for _, iv in order])


def _ascends(e: Expr, order: Sequence[tuple[Var, Expr]]) -> bool:
    """Is it a sum that grows with every step of variables, the last of which moves fastest?"""
    terms, _ = linear(e)
    moving = {v for v, _ in order}
    if any(type(a) is not Var and not free_vars(a).isdisjoint(moving) for a in terms):
        return False
    below: int = 0  # how far the faster ones take it
    for v, extent in reversed(order):
        step, n = terms.get(v), const_int(extent)
        if step is None or n is None or step <= below:
            return False
        below = below + step * (n - 1)
    return True


def _interval(g: For) -> tuple[int | None, int | None]:
    lo, n = const_int(g.min), const_int(g.extent)
    return lo, None if lo is None or n is None else lo + n - 1


# ----------------------------------------------------------------------------- stores
def init_stores(b: Block) -> list[BufferStore]:
    """The stores of the init."""
    items = b.init.items if type(b.init) is Seq else (b.init,)
    return [x for x in items if type(x) is BufferStore]


def stored(buffers: Sequence[Buffer], index: Exprs, values: Sequence[Expr]) -> list[Stmt]:
    """The stores of values, one a buffer."""
    return [BufferStore(x, v, index) for x, v in zip(buffers, values, strict=True)]


def at_once(combiner: Combiner, buffers: Sequence[Buffer], index: Exprs, values: Exprs) -> Stmt:
    """Store what a combiner makes of the buffers; where its values read what other stores change,
    they are computed before all of them."""
    if len(buffers) == 1 or type(combiner) is Each:
        return build.seq(*stored(buffers, index, values))
    held = [Var(f"v_{x.name}", x.dtype) for x in buffers]
    body: Stmt = build.seq(*stored(buffers, index, held))
    for v, e in zip(reversed(held), reversed(values), strict=True):
        body = LetStmt(v, e, body)
    return body


def redirected(body: Stmt, found: Reduction, outputs: Sequence[Buffer], index: Exprs) -> Stmt:
    """The body of a reduction with other buffers, at `index`, for its results."""
    table = dict(zip(found.buffers, outputs, strict=True))

    def on_expr(e: Expr) -> Expr:
        if type(e) is BufferLoad and e.buffer in table:
            return BufferLoad(table[e.buffer], index)
        return map_expr(e, on_expr)

    def on_stmt(x: Stmt) -> Stmt:
        if type(x) is BufferStore:
            return BufferStore(table[x.buffer], on_expr(x.value), index)
        out = map_stmt(x, on_expr, on_stmt)
        assert out is not None  # nothing is deleted
        return out

    return on_stmt(body)
