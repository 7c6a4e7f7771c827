"""Primitives that move a block to where it is needed: compute_at, reverse_compute_at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir import build
from ..ir.affine import same
from ..ir.arith import Domain, bounds
from ..ir.boxes import covers, domain, intersect_shape, relax, union
from ..ir.build import const_int, is_literal
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    Expr,
    For,
    IntImm,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.regions import solve_iters
from ..ir.walk import free_vars, substitute, uses_var, walk_expr
from .analysis import (
    Loops,
    conjuncts,
    consumers,
    domain_uses_loops,
    fills_domain,
    guard_above,
    is_output,
    kind_of,
    loop_ranges,
    producers,
    region_under,
    runs_whole_domain,
)
from .handles import BlockRV, LoopRV
from .inline import inline_block, reverse_inline_block
from .primitive import primitive
from .sampling import INLINE_MARK, location_mark
from .state import State
from .tree import Link, block_with, graft_two, with_body


def _check_movable(s: State, b: Link, at: Link) -> None:
    """What compute_at and reverse_compute_at ask of the block and the loop."""
    block, loop = b.block(), at.loop()
    if b.up is None:
        s.fail(
            "the root block cannot be moved",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=block,
        )
    if any(x.node is at.node for x in b.above()):
        s.fail(
            f"block {block.name} is already under the loop {loop.var.name}",
            hint="take a loop of another block",
            code="place-under",
            at=[block, loop],
        )
    if b.scope().node is not at.scope().node:
        s.fail(
            f"block {block.name} and the loop {loop.var.name} are in different scopes",
            hint="take a loop of a block in the same scope",
            code="place-scope",
            at=[block, loop],
        )
    fault = s.pipeline_fault(b.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=block,
        )
    if not kind_of(b, s):
        s.fail(
            f"block {block.name} is neither a complete nor a reduction block",
            hint="move it before decompose_reduction",
            code="not-complete",
            at=block,
        )
    if guard_above(b) is not None:
        s.fail(
            f"block {block.name} stands under a condition or let, which moving would lose",
            hint="write the condition into the value with T.if_then_else",
            code="place-guard",
            at=block,
        )
    if domain_uses_loops(b) or not fills_domain(b, reduce_only=True):
        s.fail(
            f"the loops above block {block.name} do not run through the whole domain of its "
            "iterators, and moved loops would",
            hint="move it before its loops are changed so that they leave elements out",
            code="place-domain",
            at=block,
        )
    if not runs_whole_domain(block):
        s.fail(
            f"block {block.name} has the predicate {block.predicate}, which moving would lose",
            hint="move it before splitting with factors that do not divide",
            code="place-predicate",
            at=block,
        )


def _insertion_point(
    s: State, at: Link, index: int, first: int, last: int, count: int, default: int
) -> int:
    """Where among the loop's children: -1 the last legal place, -2 the first one, or a position."""
    if index == -1:
        return default
    if index == -2:
        return first
    if first <= index <= last:
        return index
    s.fail(
        f"index {index} is not a legal place among the {count} children of loop "
        f"{at.loop().var.name}",
        hint=f"legal are {first} to {last}, -1 (last) and -2 (first)",
        code="place-index",
        at=at.node,
    )


def _children(at: Link) -> list[Stmt]:
    body = at.loop().body
    return list(body.items) if type(body) is Seq else [body]


def _holding(items: Sequence[Stmt], at: Link, wanted: Sequence[Link]) -> list[int]:
    """The positions of the children of the loop that hold the blocks."""
    out = []
    for w in wanted:
        chain = [w.node, *(x.node for x in w.above())]
        out.append(next(k for k, item in enumerate(items) if any(item is c for c in chain)))
    return out


def _new_domain(
    block: Block, needed: Mapping[Var, Range], outer: Loops | None, just: bool = False
) -> tuple[list[Var], list[Expr], list[Expr], list[Expr]]:
    """New loops (variables and extents), bindings, and conditions for the block's iterators; None
    for the loops above if they are not constant. With `just`, what is not needed is left out even
    where a loop through the whole domain would be shorter."""
    around = None if outer is None else domain(outer)
    names: list[Var] = []
    extents: list[Expr] = []
    values: list[Expr] = []
    conditions: list[Expr] = []
    for k, iv in enumerate(block.iter_vars):
        want = needed.get(iv.var, iv.dom)
        dom_lo, dom_n = const_int(iv.dom.min), const_int(iv.dom.extent)
        n = const_int(want.extent)
        lo, extent = want.min, want.extent
        if dom_lo is not None and dom_n is not None and n is not None and want is not iv.dom:
            inside_lo, inside_hi = is_inside(lo, n, dom_lo, dom_n, around)
            if (
                not (inside_lo and inside_hi)
                and n >= dom_n
                and not (just and not _holds(lo, n, dom_lo, dom_n, around))
            ):
                lo, extent = iv.dom.min, iv.dom.extent  # more than all of it: all of it
                inside_lo = inside_hi = True
        else:
            inside_lo = inside_hi = want is iv.dom
        v = Var(f"ax{k}", iv.var.dtype)
        extent = build.cast(iv.var.dtype, extent)
        value = build.add(build.cast(iv.var.dtype, lo), v)
        names.append(v)
        extents.append(extent)
        values.append(value)
        if not inside_lo:
            conditions.append(build.ge(value, iv.dom.min))
        if not inside_hi:
            conditions.append(build.lt(value, build.add(iv.dom.min, iv.dom.extent)))
    return names, extents, values, conditions


def is_inside(
    lo: Expr, n: int, dom_lo: int, dom_n: int, around: Domain | None
) -> tuple[bool, bool]:
    """Is lo, ..., lo + n - 1 within the domain for all values of the outer loops?"""
    if around is None:
        return False, False
    least, most = bounds(lo, around)
    return (
        least is not None and bool(least >= dom_lo),
        most is not None and bool(most + n <= dom_lo + dom_n),
    )


def _holds(lo: Expr, n: int, dom_lo: int, dom_n: int, around: Domain | None) -> bool:
    """Does lo, ..., lo + n - 1 hold the whole domain for all values of the outer loops?"""
    least, most = (None, None) if around is None else bounds(lo, around)
    return (
        least is not None
        and most is not None
        and bool(most <= dom_lo)
        and bool(least + n >= dom_lo + dom_n)
    )


def _nest(
    block: Block,
    names: Sequence[Var],
    extents: Sequence[Expr],
    values: Sequence[Expr],
    conditions: Sequence[Expr],
    preserve_unit_loops: bool,
) -> Stmt:
    """The block under its new loops."""
    table: dict[Var, Expr] = {}
    kept: list[tuple[Var, Expr]] = []
    for v, e in zip(names, extents, strict=True):
        n = const_int(e)
        if not preserve_unit_loops and n is not None and n == 1:
            table[v] = IntImm(0, v.dtype)
        else:
            kept.append((v, e))
    bound = tuple([substitute(x, table) for x in values]) if table else tuple(values)
    predicate = build.logical_and(*[substitute(c, table) for c in conditions])
    body: Stmt = block_with(block, iter_values=bound, predicate=predicate)
    for v, e in reversed(kept):
        body = For(v, IntImm(0, v.dtype), e, "serial", body)
    return body


def _move(s: State, b: Link, at: Link, nest: Stmt, place: int) -> None:
    """Take the block away from where it is, and put the nest among the loop's children."""
    func = s.func_of(b.block().key)
    items = _children(at)
    items.insert(place, nest)
    s.set_root(func, graft_two(at, with_body(at.loop(), build.seq(*items)), b, None))


def _indices(s: State, block: Block, region: BufferRegion, what: str) -> tuple[Expr, ...]:
    for g in region.region:
        n = const_int(g.extent)
        if n is None or n != 1:
            s.fail(
                f"block {block.name} {what} several elements of {region.buffer.name} at a time",
                hint="only accesses of single elements can be followed; blockize after moving",
                code="place-region",
                at=block,
            )
    return tuple([g.min for g in region.region])


def _needed_union(
    s: State, regions: Sequence[tuple[Range, ...] | None], buffer: Buffer, at: Link, outer: Loops
) -> tuple[Range, ...]:
    total: tuple[Range, ...] | None = None
    for r in regions:
        if r is None:
            s.fail(
                f"the region of {buffer.name} under loop {at.loop().var.name} is not constant",
                hint="take a loop farther out, or pad and split so that each iteration "
                "needs equally much",
                code="place-region",
                at=at.node,
            )
        total = r if total is None else union(total, r, domain(outer))
    assert total is not None
    return total


@primitive("ComputeAt", inputs=("block", "loop"), quiet=("index",))
def compute_at(
    s: State,
    block: BlockRV | str,
    loop: LoopRV,
    preserve_unit_loops: bool = False,
    index: int = -1,
) -> None:
    """Move a producer under a loop of its consumers, computing there just what they need.

    Args:
        block: the producer; complete or reduction, not an output of the scope.
        loop: a loop that all of its consumers are under (or a sampled location).
        preserve_unit_loops: keep new loops of extent 1.
        index: where among the loop's children: -1 the last legal place, -2 the first.

    Raises:
        ScheduleError: naming which of these does not hold, or that the scope is no stage pipeline.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_read(b, 0, "local")
        >>> sch.compute_at(c, sch.get_loops(b)[0])
        >>> [sch.get(x).extent.value for x in sch.get_loops(c)]
        [8, 8]
    """
    mark = location_mark(s, loop)
    if mark is not None:
        if mark is INLINE_MARK:
            inline_block(s, s.block(block))
        return
    b, at = s.block(block), s.loop(loop)
    _check_movable(s, b, at)
    me = b.block()
    if is_output(b, s):
        s.fail(
            f"block {me.name} is an output block",
            hint="use reverse_compute_at",
            code="place-output",
            at=me,
        )
    users = consumers(b, s)
    _all_under(s, users, at, me, "consumer")
    ranges = loop_ranges([*at.loops(), at.loop()])
    outer = ranges or {}
    needed: dict[Var, Range] = {}
    for w in me.writes:
        shared = w.buffer.scope.startswith("shared")  # one copy for all threads of a block
        lanes = w.buffer.scope == "warp"  # one copy for all threads of a warp
        regions = [
            region_under(u, at, r, threads=shared, lanes=lanes)
            for u in users
            for r in u.block().reads
            if r.buffer is w.buffer
        ]
        if not regions:
            continue
        want = intersect_shape(_needed_union(s, regions, w.buffer, at, outer), w.buffer)
        solved = solve_iters(_indices(s, me, w, "writes"), me.iter_vars, want)
        if solved is None:
            s.fail(
                f"the indices at which block {me.name} writes {w.buffer.name} cannot be inverted",
                hint="the block must write at indices that tell its iterators, such as "
                "[i, j] or [i // 4, i % 4]",
                code="place-invert",
                at=me,
            )
        for v, r in solved.items():
            needed[v] = r if v not in needed else union((needed[v],), (r,), domain(outer))[0]
    for iv in me.iter_vars:
        if iv.kind != "spatial":
            needed.pop(iv.var, None)
    items = _children(at)
    first = max([k + 1 for k in _holding(items, at, _under(producers(b, s), at))], default=0)
    last = min(_holding(items, at, users))
    place = _insertion_point(s, at, index, first, last, len(items), last)
    names, extents, values, conditions = _new_domain(me, needed, ranges)
    check_looked_up(s, users, at, values)
    conditions += _wanted(s, b, users, at)
    _move(s, b, at, _nest(me, names, extents, values, conditions, preserve_unit_loops), place)


def _wanted(s: State, b: Link, users: Sequence[Link], at: Link) -> list[Expr]:
    """What must hold of the loops down to `at` for any consumer to run, if what the block reads is
    made under one of them: where none runs, that may not have been made yet."""
    outer = [*at.loops(), at.loop()]
    nodes = {id(f) for f in outer}
    if not any(id(x.node) in nodes for m in producers(b, s) for x in m.above()):
        return []
    if any(w.buffer.scope.startswith("shared") for w in b.block().writes):
        return []  # made for all threads together, whichever of them need it
    loops = {f.var for f in outer}
    first, *others = [list(conjuncts(u.block().predicate)) for u in users]
    return [
        c
        for c in first
        if free_vars(c) <= loops and all(any(same(c, d) for d in other) for other in others)
    ]


def check_looked_up(s: State, users: Sequence[Link], at: Link, places: Sequence[Expr]) -> None:
    """Where data says which places are needed, it must be there in every iteration of the loops:
    a user that does not run in some of them did not look at it there."""
    if not any(type(y) is BufferLoad for e in places for y in walk_expr(e)):
        return
    for u in users:
        b = u.block()
        if not is_literal(b.predicate, 1) or guard_above(u, at.node) is not None:
            s.fail(
                f"data says what block {b.name} needs, and the block has the predicate "
                f"{b.predicate} or stands under a condition: where that does not hold, there may "
                "be no such data",
                hint="do this before splitting with factors that do not divide",
                code="place-region",
                at=[b, at.node],
            )


def _under(links: Sequence[Link], at: Link) -> list[Link]:
    return [x for x in links if any(y.node is at.node for y in x.above())]


def _all_under(s: State, links: Sequence[Link], at: Link, me: Block, what: str) -> None:
    if not links:
        s.fail(
            f"block {me.name} has no {what} in its scope",
            hint="compute_at moves a producer to its consumers, reverse_compute_at a"
            " consumer to its producers",
            code="place-consumer" if what == "consumer" else "place-producer",
            at=me,
        )
    outside = [x for x in links if not any(y.node is at.node for y in x.above())]
    if outside:
        names = ", ".join(x.block().name for x in outside)
        s.fail(
            f"not all {what}s of block {me.name} are under the loop {at.loop().var.name}: {names} "
            f"{'is' if len(outside) == 1 else 'are'} not",
            hint="take a loop that is around all of them, or inline the others first",
            code="place-consumer" if what == "consumer" else "place-producer",
            at=[me, at.node, *(x.node for x in outside)],
        )


@primitive("ReverseComputeAt", inputs=("block", "loop"), quiet=("index",))
def reverse_compute_at(
    s: State,
    block: BlockRV | str,
    loop: LoopRV,
    preserve_unit_loops: bool = False,
    index: int = -1,
) -> None:
    """Move a consumer under a loop of its producers, consuming there what has just been produced.

    Args:
        block: the consumer; complete or reduction.
        loop: a loop that all of its producers are under, and that does not drive their reductions
            (or a sampled location: the root mark leaves the block where it is, the inline mark
            makes it `reverse_compute_inline`).
        preserve_unit_loops: keep new loops of extent 1.
        index: where among the loop's children: -1 the last legal place, -2 the first.

    Raises:
        ScheduleError: naming which of these does not hold; the consumer needs more than what has
            been produced when the loop's body ends.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_write(b, 0, "local")
        >>> sch.reverse_compute_at(c, sch.get_loops(b)[0])
        >>> [sch.get(x).extent.value for x in sch.get_loops(c)]
        [8, 8]
    """
    mark = location_mark(s, loop)
    if mark is not None:
        if mark is INLINE_MARK:
            reverse_inline_block(s, s.block(block))
        return
    b, at = s.block(block), s.loop(loop)
    _check_movable(s, b, at)
    me = b.block()
    makers = producers(b, s)
    _all_under(s, makers, at, me, "producer")
    above = [*at.loops(), at.loop()]
    if is_output(b, s) and not fills_domain(b):
        s.fail(
            f"the loops above block {me.name} do not run through the whole domain of its "
            "iterators, and moved loops would write more than they do",
            hint="move it before its loops are changed so that they leave elements out",
            code="place-domain",
            at=me,
        )
    for m in makers:
        if not runs_whole_domain(m.block()):
            s.fail(
                f"the producer {m.block().name} has the predicate {m.block().predicate}",
                hint="move the block before splitting with factors that do not divide",
                code="place-predicate",
                at=m.node,
            )
        for iv, value in zip(m.block().iter_vars, m.block().iter_values, strict=True):
            if iv.kind != "spatial" and uses_var(value, {f.var for f in above}):
                s.fail(
                    f"the loop {at.loop().var.name} or one above it drives the {iv.kind} iterator "
                    f"{iv.var.name} of producer {m.block().name}: its result is not complete there",
                    hint="take a loop outside those of the reduction",
                    code="place-partial",
                    at=[at.node, m.node],
                )
    outer = loop_ranges(above)
    if outer is None:
        s.fail(
            "the loops above are not constant",
            hint="move it to a loop whose outer loops have constant bounds",
            code="place-region",
            at=at.node,
        )
    made: dict[Buffer, tuple[Range, ...]] = {}
    for m in makers:
        for w in m.block().writes:
            region = region_under(m, at, w, exact=True)
            if any(r.buffer is w.buffer for r in me.reads):
                made[w.buffer] = _needed_union(s, [region], w.buffer, at, outer)
    needed: dict[Var, Range] = {}
    spatial = {iv.var for iv in me.iter_vars if iv.kind == "spatial"}
    for r in me.reads:
        if r.buffer not in made:
            continue
        indices = _indices(s, me, r, "reads")
        solved = solve_iters(indices, me.iter_vars, made[r.buffer])
        if solved is None:
            s.fail(
                f"the indices at which block {me.name} reads {r.buffer.name} cannot be inverted",
                hint="the block must read at indices that tell its iterators, such as "
                "[i, j] or [i // 4, i % 4]",
                code="place-invert",
                at=me,
            )
        for e, tile in zip(indices, made[r.buffer], strict=True):
            if type(e) is Var and e in spatial and const_int(tile.min) is None:
                solved[e] = tile  # where a tile is longer than the domain, this tile of it
        for v, g in solved.items():
            needed.setdefault(v, g)
    _check_reductions(s, me, needed, above, at)
    _check_whole_domain(s, me, needed, outer, at)
    names, extents, values, conditions = _new_domain(me, needed, outer, just=True)
    _check_covered(s, me, made, needed, names, extents, values, outer, at)
    items = _children(at)
    first = max(_holding(items, at, makers)) + 1
    users = _under(consumers(b, s), at)
    last = min(_holding(items, at, users), default=len(items))
    place = _insertion_point(s, at, index, first, last, len(items), last)
    _move(s, b, at, _nest(me, names, extents, values, conditions, preserve_unit_loops), place)


def _check_reductions(
    s: State, me: Block, needed: Mapping[Var, Range], above: Sequence[For], at: Link
) -> None:
    """A reduction must find its whole domain in one place."""
    for iv in me.iter_vars:
        got = needed.get(iv.var)
        if iv.kind == "spatial" or got is None:
            continue
        if uses_var(got.min, {f.var for f in above}) or const_int(got.extent) != const_int(
            iv.dom.extent
        ):
            s.fail(
                f"block {me.name} reduces over {iv.var.name}, of which the loop "
                f"{at.loop().var.name} holds only a part",
                hint="take a loop under which the whole reduction finds its input",
                code="place-partial",
                at=[me, at.node],
            )


def _check_whole_domain(
    s: State, me: Block, needed: Mapping[Var, Range], outer: Loops, at: Link
) -> None:
    """All runs of the loop together must reach every point of the block's domain."""
    for iv in me.iter_vars:
        got = needed.get(iv.var)
        if got is None:
            continue
        (whole,) = relax((got,), outer)
        lo, n = const_int(whole.min), const_int(whole.extent)
        dom_lo, dom_n = const_int(iv.dom.min), const_int(iv.dom.extent)
        if lo is None or n is None or dom_lo is None or dom_n is None:
            s.fail(
                f"the range of {iv.var.name} under the loops is not constant",
                hint="take a loop farther out",
                code="place-region",
                at=[me, at.node],
            )
        if lo > dom_lo or lo + n < dom_lo + dom_n:
            s.fail(
                f"block {me.name} runs for {iv.var.name} from {dom_lo} to {dom_lo + dom_n - 1}, "
                f"but under the loop {at.loop().var.name} only {lo} to {lo + n - 1} is reached",
                hint="take a loop farther out, under which the whole domain is reached",
                code="place-domain",
                at=[me, at.node],
            )


def _check_covered(
    s: State,
    me: Block,
    made: Mapping[Buffer, tuple[Range, ...]],
    needed: Mapping[Var, Range],
    names: Sequence[Var],
    extents: Sequence[Expr],
    values: Sequence[Expr],
    outer: Loops,
    at: Link,
) -> None:
    """All that the block will read under the loop must have been made under it."""
    inner: Loops = {}
    for v, e in zip(names, extents, strict=True):
        n = const_int(e)
        if n is None:
            s.fail(
                f"the extent {e} of a new loop is not constant",
                hint="take a loop farther out, or pad so that each iteration needs equally much",
                code="place-region",
                at=me,
            )
        inner[v] = (0, n)
    table = {iv.var: x for iv, x in zip(me.iter_vars, values, strict=True)}
    just = {iv.var: needed.get(iv.var) for iv in me.iter_vars}  # what the new loops run through
    for iv, e in zip(me.iter_vars, extents, strict=True):
        want = just[iv.var]
        if want is not None and want.extent is not e:
            just[iv.var] = None
    for r in me.reads:
        if r.buffer not in made:
            continue
        if all(
            type(g.min) is Var and is_literal(g.extent, 1) and just.get(g.min) is m
            for g, m in zip(r.region, made[r.buffer], strict=True)
        ):
            continue  # the loops run through what was made
        need = relax(
            tuple([Range(substitute(g.min, table), substitute(g.extent, table)) for g in r.region]),
            inner,
        )
        if not covers(made[r.buffer], need, domain(outer)):
            s.fail(
                f"block {me.name} reads more of {r.buffer.name} under the loop "
                f"{at.loop().var.name} than is made there",
                hint="take a loop farther out, or move the producer there by compute_at",
                code="place-cover",
                at=[me, at.node],
            )
