"""Primitives that change reductions: decompose_reduction, rfactor."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import build, dtypes
from ..ir.affine import from_linear, linear, same
from ..ir.arith import simplify
from ..ir.build import const_int, is_literal
from ..ir.iter_map import detect_iter_map
from ..ir.nodes import (
    BinaryOp,
    BinOp,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    FloatImm,
    For,
    IntImm,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.regions import access_regions
from ..ir.walk import (
    all_loads,
    free_vars,
    loads,
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
    domain_uses_loops,
    guard_above,
    kind_of,
    loop_ranges,
    loose_fault,
)
from .handles import BlockRV, LoopRV
from .memory import fresh_name
from .primitive import primitive
from .state import State
from .tree import Link, block_with, graft_below, with_body


def _require_reduction(s: State, link: Link) -> Block:
    b = link.block()
    if b.init is None:
        s.fail(
            f"block {b.name} is not a reduction block: it has no init",
            code="not-reduction",
            at=b,
        )
    if kind_of(link, s) != "reduction":
        s.fail(
            f"block {b.name} is not a reduction block: another block writes its output, or its "
            "iterators or regions are not those of a reduction",
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
        s.fail(loose, code="not-pipeline", at=at.node)


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
                code="reduction-start",
                at=b,
            )
    if b.predicate is build.TRUE:
        return
    reduce_values = [
        v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"
    ]
    driving = {f.var: f.min for f in link.loops() if any(uses_var(v, f.var) for v in reduce_values)}
    for c in conjuncts(b.predicate):
        if not any(uses_var(c, v) for v in driving):
            continue
        if not free_vars(c) <= set(driving):
            continue  # ties spatial and reduction loops: refused, or kept whole, by the caller
        if not is_literal(simplify(substitute(c, driving)), 1):
            s.fail(
                f"the predicate {c} keeps block {b.name} from initialising its reduction",
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
    b = _require_reduction(s, link)
    if not any(f is at.node for f in link.loops()):
        s.fail(
            f"the loop {at.loop().var.name} is not above block {b.name}",
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
                code="reduction-predicate",
                at=b,
            )
    for iv, _ in kept:
        if uses_var(iv.dom.min, gone) or uses_var(iv.dom.extent, gone):
            s.fail(
                f"the domain of iterator {iv.var.name} of block {b.name} depends on a loop that "
                "drives only the reduction",
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
        annotations=b.annotations,
    )
    init = bare
    if all_loads(bare.body):
        reads, _ = access_regions(block_with(bare, writes=()))
        init = block_with(bare, reads=reads)
    body: Stmt = init
    for f in reversed(nest):
        body = with_body(f, body)
    name = fresh_name(s, s.func_of(b.key), f"{b.name}_update")
    update = block_with(b, name=name, init=None, reads=update_reads(b))
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


# ----------------------------------------------------------------------------- rfactor
@dataclass(frozen=True)
class Reducer:
    """A combiner that rfactor knows: `op` with its identity."""

    op: BinaryOp

    def identity(self, dtype: str) -> Expr:
        """The element that changes nothing."""
        if self.op == "+":
            return build.const(0, dtype)
        if self.op == "*":
            return build.const(1, dtype)
        low = self.op == "max"
        if dtypes.is_float(dtype):
            limit = float("-inf") if low else float("inf")
            if dtype.startswith("float8_e4m3"):  # has no infinity
                limit = float(dtypes.min_value(dtype) if low else dtypes.max_value(dtype))
            return FloatImm(limit, dtype)
        return IntImm(int(dtypes.min_value(dtype) if low else dtypes.max_value(dtype)), dtype)


def reducer_of(b: Block) -> tuple[Reducer, Expr] | None:
    """The combiner of a reduction block and what it combines in: `C[i] = C[i] + x`, either side."""
    store = b.body
    if type(store) is not BufferStore or store.predicate is not None:
        return None
    value = store.value
    if type(value) is not BinOp or value.op not in ("+", "*", "min", "max"):
        return None
    for acc, rest in ((value.a, value.b), (value.b, value.a)):
        if type(acc) is BufferLoad and acc.buffer is store.buffer and _same(acc, store):
            if not _reads(rest, store.buffer):
                return Reducer(value.op), rest
    return None


def _same(load: BufferLoad, store: BufferStore) -> bool:
    return load.predicate is None and all(map(same, load.indices, store.indices))


def _reads(e: Expr, buffer: Buffer) -> bool:
    return any(x.buffer is buffer for x in loads(e))


@primitive("RFactor", inputs=("loop",))
def rfactor(s: State, loop: LoopRV, factor_axis: int) -> BlockRV:
    """Make one loop of a reduction spatial: partial results go to a new buffer with one more axis,
    which a second block then reduces.

    Args:
        loop: serial, above one reduction block only, and driving only reduce iterators.
        factor_axis: the position of the new axis in the new buffer, in [-ndim - 1, ndim].

    Returns:
        The block of the partial results, named `<name>_rf`. The original block now reduces those.

    Raises:
        ScheduleError: naming which precondition does not hold; the combiner is not one of +, *,
            min, max of the old value and something that does not read the output.

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
            code="rfactor-blocks",
            at=f,
        )
    link = inside[0]
    b = _require_reduction(s, link)
    if f.kind != "serial" or f.annotations:
        s.fail(
            f"the loop {f.var.name} is {'annotated' if f.annotations else f.kind}, not plain",
            code="rfactor-loop",
            at=f,
        )
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        s.fail(f"the scope is not a stage pipeline: {fault}", code="not-pipeline", at=b)
    _check_loops(s, link, f)
    spatial = [
        (iv, v) for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind != "reduce"
    ]
    reduce = [
        (iv, v) for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"
    ]
    if any(uses_var(v, f.var) for _, v in spatial):
        s.fail(
            f"the loop {f.var.name} drives a spatial iterator of block {b.name}",
            code="rfactor-loop",
            at=[f, b],
        )
    if not any(uses_var(v, f.var) for _, v in reduce):
        s.fail(
            f"the loop {f.var.name} drives no reduce iterator of block {b.name}",
            code="rfactor-loop",
            at=[f, b],
        )
    chain = link.loops()
    mixed = [
        g
        for g in chain
        if any(uses_var(v, g.var) for _, v in spatial)
        and any(uses_var(v, g.var) for _, v in reduce)
    ]
    if mixed:
        s.fail(
            f"the loop {mixed[0].var.name} drives spatial and reduce iterators of block {b.name}",
            hint="rfactor before fusing them",
            code="rfactor-mixed",
            at=[mixed[0], b],
        )
    if len(blocks_below(_link_of(s, chain[0]))) != 1:
        s.fail(
            f"the outermost loop {chain[0].var.name} is above other blocks too",
            hint="rfactor before moving blocks under these loops",
            code="rfactor-chain",
            at=chain[0],
        )
    found = reducer_of(b)
    if found is None:
        s.fail(
            f"the combiner of block {b.name} is not known",
            hint="rfactor knows C[i] = C[i] op x with op one of +, *, T.min, T.max",
            code="rfactor-combiner",
            at=b,
        )
    reducer, rest = found
    store = b.body
    assert type(store) is BufferStore
    out = store.buffer
    ndim = len(out.shape)
    if not -ndim - 1 <= factor_axis <= ndim:
        s.fail(
            f"factor_axis {factor_axis} is not in [{-ndim - 1}, {ndim}]",
            code="rfactor-axis",
            at=b,
        )
    axis = factor_axis if factor_axis >= 0 else factor_axis + ndim + 1
    for c in conjuncts(b.predicate):
        used = free_vars(c)
        if any(used & free_vars(v) for _, v in spatial) and any(
            used & free_vars(v) for _, v in reduce
        ):
            s.fail(
                f"the predicate {c} of block {b.name} ties spatial and reduction loops together",
                code="reduction-predicate",
                at=b,
            )
    rf = Buffer(
        f"{out.name}_rf", (*out.shape[:axis], f.extent, *out.shape[axis:]), out.dtype, out.scope
    )
    partial = _partial_block(s, b, f, chain, spatial, reduce, store, rest, reducer, rf, axis)
    final = _final_block(b, f, spatial, reducer, store, rf, axis)
    final_nest = _final_nest(final, b, f, chain, spatial)
    scope = link.scope()
    s.replace(link, partial)
    top = _link_of(s, chain[0])
    s.replace(top, build.seq(top.node, final_nest))
    scope = s.refresh(scope)
    owner = scope.block()
    s.replace(scope, block_with(owner, alloc_buffers=(*owner.alloc_buffers, rf)))
    return s.mint_block(partial.key)


def _check_loops(s: State, link: Link, f: For) -> None:
    """What rfactor asks of the loops above the block."""
    b = link.block()
    if guard_above(link) is not None:
        s.fail(
            f"block {b.name} stands under a condition or let, which the new loops would lose",
            code="rfactor-guard",
            at=b,
        )
    if not is_literal(f.min, 0):
        s.fail(
            f"the loop {f.var.name} starts at {f.min}, not 0",
            code="rfactor-loop",
            at=f,
        )
    loops = link.loops()
    own = {g.var for g in loops}
    uneven = next((g for g in loops if uses_var(g.min, own) or uses_var(g.extent, own)), None)
    if uneven is not None or domain_uses_loops(link):
        s.fail(
            f"the bounds of the loops above block {b.name} depend on each other",
            code="rfactor-loop",
            at=b if uneven is None else uneven,
        )
    if not binding_is_affine(link, s):
        s.fail(
            f"the bindings of block {b.name} are not an affine map of its loops",
            code="not-affine",
            at=b,
        )
    check_starts(s, link)


def _link_of(s: State, f: For) -> Link:
    found = s.find(f.var)
    assert found is not None
    return found[1]


def _partial_block(
    s: State,
    b: Block,
    f: For,
    chain: list[For],
    spatial: list[tuple[IterVar, Expr]],
    reduce: list[tuple[IterVar, Expr]],
    store: BufferStore,
    rest: Expr,
    reducer: Reducer,
    rf: Buffer,
    axis: int,
) -> Block:
    """The block of partial results: a new spatial iterator for the loop, and one reduce iterator
    for each other loop that drives the reduction."""
    iters: list[IterVar] = []
    values: list[Expr] = []
    rename: dict[Var, Expr] = {}
    for iv, v in spatial:
        new = Var(iv.var.name, iv.var.dtype)
        rename[iv.var] = new
        iters.append(IterVar(new, iv.dom, iv.kind))
        values.append(v)
    factor = Var(f"v{f.var.name}", f.var.dtype)
    iters.append(IterVar(factor, Range(f.min, f.extent), "spatial"))
    values.append(f.var)
    by_loop: dict[Var, Expr] = {f.var: factor}
    for g in chain:
        if g is not f and any(uses_var(v, g.var) for _, v in reduce):
            new = Var(f"v{g.var.name}", g.var.dtype)
            by_loop[g.var] = new
            iters.append(IterVar(new, Range(g.min, g.extent), "reduce"))
            values.append(g.var)
    for iv, v in reduce:
        rename[iv.var] = substitute(v, by_loop)
    where = tuple([substitute(i, rename) for i in store.indices])
    index = (*where[:axis], factor, *where[axis:])
    # a slice that the predicate leaves empty must still hold the identity, so a condition on the
    # factored loop guards the value, not the block
    kept: Expr = build.TRUE
    value = substitute(rest, rename)
    for c in conjuncts(b.predicate):
        if uses_var(c, f.var):
            value = build.if_then_else(substitute(c, by_loop), value, reducer.identity(rf.dtype))
        else:
            kept = build.logical_and(kept, c)
    combined = build.binary(reducer.op, BufferLoad(rf, index), value)
    init = BufferStore(rf, reducer.identity(rf.dtype), index)
    bare = Block(
        BlockKey(),
        fresh_name(s, s.func_of(b.key), f"{b.name}_rf"),
        tuple(iters),
        tuple(values),
        kept,
        (),
        (),
        BufferStore(rf, combined, index),
        init if any(iv.kind == "reduce" for iv in iters) else None,
        annotations=b.annotations,
    )
    if bare.init is None:  # nothing is left to reduce: the partial result is the value itself
        bare = block_with(bare, body=BufferStore(rf, value, index))
    reads, writes = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


def _final_block(
    b: Block,
    f: For,
    spatial: list[tuple[IterVar, Expr]],
    reducer: Reducer,
    store: BufferStore,
    rf: Buffer,
    axis: int,
) -> Block:
    """The original block, now reducing the partial results over the new axis."""
    factor = Var(f"v{f.var.name}", f.var.dtype)
    index = (*store.indices[:axis], factor, *store.indices[axis:])
    value = build.binary(reducer.op, BufferLoad(store.buffer, store.indices), BufferLoad(rf, index))
    bare = Block(
        b.key,
        b.name,
        (*(iv for iv, _ in spatial), IterVar(factor, Range(f.min, f.extent), "reduce")),
        (*(v for _, v in spatial), f.var),
        b.predicate,
        (),
        (),
        BufferStore(store.buffer, value, store.indices),
        b.init,
        b.alloc_buffers,
        annotations=b.annotations,
    )
    reads, writes = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


def _final_nest(
    final: Block, b: Block, f: For, chain: list[For], spatial: list[tuple[IterVar, Expr]]
) -> Stmt:
    """New loops for the original block: the spatial ones, then the factored one."""
    table: dict[Var, Expr] = {}
    loops: list[For] = []
    for g in chain:
        if g is f or any(uses_var(v, g.var) for _, v in spatial):
            new = Var(g.var.name, g.var.dtype)
            loops.append(
                For(new, substitute(g.min, table), substitute(g.extent, table), "serial", g)
            )
            table[g.var] = new
    loops.sort(key=lambda x: table[f.var] is x.var)  # the factored loop goes innermost
    predicate: Expr = build.TRUE
    for c in conjuncts(b.predicate):
        if free_vars(c) <= set(table):
            if not uses_var(c, f.var):
                predicate = build.logical_and(predicate, substitute(c, table))
    body: Stmt = block_with(
        final,
        iter_values=tuple([substitute(v, table) for v in final.iter_values]),
        predicate=predicate,
    )
    for g in reversed(loops):
        body = with_body(g, body)
    return body
