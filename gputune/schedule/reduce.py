"""The primitive decompose_reduction, and what it shares with rfactor: what is a reduction block?"""

from __future__ import annotations

from ..ir import build
from ..ir.affine import from_linear, linear, same
from ..ir.arith import simplify
from ..ir.build import const_int, is_literal
from ..ir.iter_map import detect_iter_map
from ..ir.nodes import (
    Block,
    BlockKey,
    BufferRegion,
    Expr,
    For,
    IntImm,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.regions import access_regions, explicit_again, without_explicit
from ..ir.walk import (
    all_loads,
    free_vars,
    map_region,
    mentioned,
    substitute,
    substitute_stmt,
    uses_var,
)
from .analysis import (
    binding_is_affine,
    blocks_below,
    conjuncts,
    guard_above,
    kind_of,
    loop_ranges,
    loose_fault,
)
from .handles import BlockRV, LoopRV
from .memory import fresh_name
from .primitive import primitive
from .reducers import reducer_of
from .state import State
from .tree import Link, block_with, graft_below, with_body


def require_reduction(s: State, link: Link) -> Block:
    """The block, which must be a reduction."""
    b = link.block()
    if b.init is None:
        s.fail(
            f"block {b.name} is not a reduction block: it has no init",
            hint="give a block with T.init() that no decompose_reduction has taken apart",
            code="not-reduction",
            at=b,
        )
    if kind_of(link, s) != "reduction":
        s.fail(
            f"block {b.name} is not a reduction block: another block writes its output, or its "
            "iterators or regions are not those of a reduction",
            hint="it must be the only writer of its outputs, at places that only S iterators drive",
            code="not-reduction",
            at=b,
        )
    return b


def _outermost_loops(link: Link, loop: Link) -> tuple[list[For], list[For]]:
    """The loops strictly above `loop`, and `loop` with those below it, down to the block."""
    loops = link.loops()
    at = next(k for k, f in enumerate(loops) if f is loop.node)
    return loops[:at], loops[at:]


def _check_init_movable(s: State, link: Link, at: Link, below: list[For]) -> None:
    """Nothing between the loop and the block may see or make what the init touches."""
    b = link.block()
    guard = guard_above(link, at.node)
    if guard is not None:
        s.fail(
            f"block {b.name} stands under a condition or let inside the loop {at.loop().var.name}",
            hint="decompose at a loop inside it",
            code="reduction-guard",
            at=[b, at.node],
        )
    others = blocks_below(at)
    if len(others) == 1 and all(type(f.body) in (For, Block) for f in below):
        return
    written = {w.buffer for w in b.writes}
    assert b.init is not None
    used = {x.buffer for x in all_loads(b.init)}
    before = True
    for x in others:
        o = x.block()
        if o is b:
            before = False
            continue
        if any(w.buffer in used for w in o.writes) or (
            before and any(r.buffer in written for r in o.reads)
        ):
            s.fail(
                f"block {o.name} under the loop {at.loop().var.name} needs or feeds the init of "
                f"block {b.name}",
                hint="decompose at a loop inside it",
                code="reduction-place",
                at=[b, o],
            )
    loose = loose_fault(at.node, written | used)
    if loose:
        s.fail(
            loose,
            hint="put the statement into a block, or decompose at a loop that does not hold it",
            code="not-pipeline",
            at=at.node,
        )


def check_starts(s: State, link: Link) -> None:
    """The first run of the reduction must be the one that initialises: all reduce iterators at
    their minimum, and the predicate true."""
    b = link.block()
    first: dict[Var, Expr] | None = None
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind != "reduce" or (type(v) is IntImm and same(v, iv.dom.min)):
            continue
        if first is None:
            first = {f.var: f.min for f in link.loops()}
        start = const_int(substitute(v, first))
        if start is None or start != const_int(iv.dom.min):  # a Dim is compared by value
            s.fail(
                f"iterator {iv.var.name} of block {b.name} starts at {substitute(v, first)}, not "
                f"at the beginning {iv.dom.min} of its domain: the reduction is never initialised",
                hint="write the loop and the domain so that both start at the same value",
                code="reduction-start",
                at=b,
            )
    if b.predicate is build.TRUE:
        return
    reduce_values = [
        v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"
    ]
    values = frozenset().union(*[mentioned(v) for v in b.iter_values])
    driving = {
        f.var: f.min
        for f in link.loops()
        if any(uses_var(v, f.var) for v in reduce_values)
        or (f.var not in values and is_literal(f.extent, 1))
    }
    for c in conjuncts(b.predicate):
        if not any(uses_var(c, v) for v in driving):
            continue
        if not free_vars(c) <= set(driving):
            continue  # ties spatial and reduction loops: refused, or kept whole, by the caller
        if not is_literal(simplify(substitute(c, driving)), 1):
            s.fail(
                f"the predicate {c} keeps block {b.name} from initialising its reduction",
                hint="let the reduction start at its first element: the predicate must hold there",
                code="reduction-predicate",
                at=b,
            )


def _visits_once(b: Block, below: list[For]) -> bool:
    """With the loops further out standing still, do these visit different points?"""
    ranges = loop_ranges(below)
    if ranges is None:
        return False
    moving: list[Expr] = []
    for v in b.iter_values:
        terms, _ = linear(v)
        inner = {a: c for a, c in terms.items() if any(uses_var(a, f) for f in ranges)}
        if any(not free_vars(a) <= set(ranges) for a in inner):
            return False
        moving.append(from_linear(inner, 0, v.dtype))
    return detect_iter_map(moving, ranges) is not None


@primitive("DecomposeReduction", inputs=("block", "loop"))
def decompose_reduction(s: State, block: BlockRV | str, loop: LoopRV) -> BlockRV:
    """Split a reduction into a block that initialises, placed before a loop, and one that updates.

    Args:
        block: a reduction block; it becomes `<name>_update`.
        loop: an ancestor of the block; no loop above it may drive the reduction.

    Returns:
        The initialising block, named `<name>_init`.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S"); i, k = sch.get_loops(b)
        >>> sch.get(sch.decompose_reduction(b, k)).name
        'S_init'
    """
    link, at = s.block(block), s.loop(loop)
    b = require_reduction(s, link)
    if not any(f is at.node for f in link.loops()):
        s.fail(
            f"the loop {at.loop().var.name} is not above block {b.name}",
            hint="take a loop of get_loops(block)",
            code="reduction-ancestor",
            at=[b, at.node],
        )
    above, below = _outermost_loops(link, at)
    _check_init_movable(s, link, at, below)
    driving: set[Var] = set()  # the reduction
    placing: set[Var] = set()  # what is initialised
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        (driving if iv.kind == "reduce" else placing).update(mentioned(v))
    for f in above:
        if f.var in driving:
            s.fail(
                f"the loop {f.var.name} above {at.loop().var.name} drives the reduction",
                hint=f"decompose at {f.var.name} or above it",
                code="reduction-loop",
                at=[b, at.node],
            )
    for f in below:
        if f.var in driving or f.var in placing:
            continue
        n = const_int(f.extent)
        if n is None or n != 1:
            s.fail(
                f"the loop {f.var.name} repeats the whole reduction: it would be initialised once "
                "and updated many times",
                hint=f"decompose at a loop inside {f.var.name}",
                code="reduction-repeat",
                at=[f, b],
            )
    check_starts(s, link)
    if not binding_is_affine(link, s) and not _visits_once(b, below):
        s.fail(
            f"the loops from {at.loop().var.name} on reach the same point of block {b.name} more "
            "than once: it would be initialised once and updated many times",
            hint="decompose at a loop further in",
            code="reduction-repeat",
            at=[at.node, b],
        )
    kept = [
        (iv, v) for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind != "reduce"
    ]
    loops: dict[Var, Expr] = {}
    nest: list[For] = []
    for f in below:
        if f.var in placing:
            new = Var(f"{f.var.name}_init", f.var.dtype)
            nest.append(
                For(new, substitute(f.min, loops), substitute(f.extent, loops), f.kind, f, f.thread)
            )
            loops[f.var] = new
    predicate: Expr = build.TRUE
    gone = {f.var for f in below} - set(loops)
    for c in conjuncts(b.predicate):
        used = free_vars(c)
        if not used & gone:
            predicate = build.logical_and(predicate, substitute(c, loops))
        elif used - gone:
            s.fail(
                f"the predicate {c} of block {b.name} ties spatial and reduction loops together",
                hint="split the spatial and the reduction loops by factors that divide",
                code="reduction-predicate",
                at=b,
            )
    for iv, _ in kept:
        if uses_var(iv.dom.min, gone) or uses_var(iv.dom.extent, gone):
            s.fail(
                f"the domain of iterator {iv.var.name} of block {b.name} depends on a loop that "
                "drives only the reduction",
                hint="decompose at a loop inside that one",
                code="reduction-domain",
                at=b,
            )
    iters: dict[Var, Expr] = {iv.var: Var(iv.var.name, iv.var.dtype) for iv, _ in kept}
    assert b.init is not None
    init_iters = tuple([_renamed(iv, iters, loops) for iv, _ in kept])
    bare = Block(
        BlockKey(),
        fresh_name(s, s.func_of(b.key), f"{b.name}_init"),
        init_iters,
        tuple([substitute(v, loops) for _, v in kept]),
        predicate,
        (),
        tuple([map_region(w, lambda e: substitute(e, iters)) for w in b.writes]),
        substitute_stmt(b.init, iters),
        annotations=without_explicit(b.annotations, "read"),
    )
    init = bare
    if all_loads(bare.body):
        reads, _ = access_regions(block_with(bare, writes=()))
        init = block_with(bare, reads=reads)
    body: Stmt = init
    for f in reversed(nest):
        body = with_body(f, body)
    name = fresh_name(s, s.func_of(b.key), f"{b.name}_update")
    update = explicit_again(b, block_with(b, name=name, init=None, reads=update_reads(b)))
    s.replace(at, build.seq(body, graft_below(at.up, link, update)))
    return s.mint_block(init.key)


def update_reads(b: Block) -> tuple[BufferRegion, ...]:
    """The reads of a reduction once its init is gone: what it read, and what it updates, in the
    order in which the body meets them."""
    if reducer_of(b) is not None:  # it reads its output just where it writes it
        known = {r.buffer: r for r in (*b.writes, *b.reads)}
        met = dict.fromkeys([x.buffer for x in all_loads(b.body)])
        if all(buffer in known for buffer in met):
            return _merge(tuple([known[buffer] for buffer in met]), b.reads)
    reads, _ = access_regions(block_with(b, init=None, reads=(), writes=()))
    return _merge(reads, b.reads)


def _merge(
    found: tuple[BufferRegion, ...], old: tuple[BufferRegion, ...]
) -> tuple[BufferRegion, ...]:
    known = {r.buffer: r for r in old}
    extra = tuple([r for r in old if r.buffer not in {f.buffer for f in found}])
    return tuple([known.get(r.buffer, r) for r in found]) + extra


def _renamed(iv: IterVar, table: dict[Var, Expr], loops: dict[Var, Expr]) -> IterVar:
    new = table[iv.var]
    assert type(new) is Var
    dom = Range(substitute(iv.dom.min, loops), substitute(iv.dom.extent, loops))
    return IterVar(new, dom, iv.kind)
