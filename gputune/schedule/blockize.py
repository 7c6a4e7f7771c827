"""Primitives that make a block of several iterations or of several blocks: blockize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..ir import build
from ..ir.affine import from_linear, linear, same
from ..ir.arith import bounds
from ..ir.boxes import domain, intersect_shape, relax
from ..ir.build import const_int, is_literal
from ..ir.canonical import simplify
from ..ir.iter_map import detect_iter_map
from ..ir.nodes import (
    BinOp,
    Block,
    BlockKey,
    BufferRegion,
    Expr,
    For,
    IntImm,
    IterKind,
    IterVar,
    MatchBuffer,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.regions import access_regions, explicit_reads_at
from ..ir.walk import (
    all_exprs,
    all_loads,
    free_vars,
    map_expr,
    map_region,
    rewrite_exprs,
    substitute,
    substitute_stmt,
    uses_var,
)
from .analysis import (
    Loops,
    binding_is_affine,
    blocks_below,
    common_ancestor,
    conjuncts,
    domain_uses_loops,
    guard_above,
    kind_of,
    loop_ranges,
    loose_fault,
    uses_loops,
)
from .handles import BlockRV, LoopRV
from .memory import fresh_name
from .primitive import primitive
from .reduce import check_starts, update_reads
from .state import State
from .tree import Link, block_with, graft_below, with_body


@primitive("Blockize", inputs=("target",))
def blockize(
    s: State, target: LoopRV | Sequence[BlockRV | str], preserve_unit_iters: bool = True
) -> BlockRV:
    """Make one block of a loop with all that is inside it, or of neighbouring blocks.

    Of a loop: the block inside is cut in two. The new block around it has the iterations of the
    loops outside, the old one inside keeps those of the loop and of the loops in it. Of blocks: the
    new one goes around them, at their lowest common place.

    Args:
        target: a loop above one block, whose bindings divide into what the loops outside and those
            inside contribute; or a list of blocks that stand next to each other under the same
            loops.
        preserve_unit_iters: keep iterators that take one value only.

    Returns:
        The new block: `<name>_o`, or the names of the blocks, joined.

    Raises:
        ScheduleError: naming what does not hold.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> j0, j1 = sch.split(j, [None, 4]); b = sch.blockize(j1)
        >>> sch.get(b).name, [str(v.dom.extent) for v in sch.get(b).iter_vars]
        ('B_o', ['8', '2'])
    """
    if isinstance(target, LoopRV):
        return s.mint_block(blockize_loop(s, s.loop(target), preserve_unit_iters))
    if not isinstance(target, (list, tuple)) or not target:
        s.fail(
            "blockize takes a loop, or a list of blocks",
            hint="get_loops and get_block give the handles",
            code="blockize-target",
        )
    return s.mint_block(_blockize_blocks(s, [s.block(b) for b in target], preserve_unit_iters))


# ----------------------------------------------------------------------------- of a loop
@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One iterator of the block, cut in two.

    `outer` takes what the loops outside contribute, `inner` what those inside do (None: left out,
    because it takes one value only); `value` is what the iterator was, in terms of both, and
    `inside` the same with the loops inside in place of `inner`.
    """

    kind: IterKind
    outer: IterVar | None
    outer_value: Expr
    inner: IterVar | None
    inner_value: Expr
    value: Expr
    inside: Expr
    tiles: int | None = None  # how many values the outer iterator takes, if it was cut


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A block, cut along one of its loops."""

    block: Block
    parts: tuple[_Part, ...]
    below: tuple[For, ...]  # the loops inside
    within: tuple[tuple[_Part, Expr], ...]  # conjuncts that stay inside, each of one iterator

    def moved(self, e: Expr) -> Expr:
        """An expression of the block in terms of the outer and inner iterators."""
        table = {iv.var: p.value for iv, p in zip(self.block.iter_vars, self.parts, strict=True)}
        return fold(substitute(e, table), self._domain())

    def moved_stmt(self, s: Stmt) -> Stmt:
        """A statement of the block, likewise."""
        return rewrite_exprs(s, self.moved)

    def _domain(self) -> dict[Var, tuple[int, int]]:
        out = {}
        for p in self.parts:
            for iv in (p.outer, p.inner):
                n = None if iv is None else const_int(iv.dom.extent)
                lo = None if iv is None else const_int(iv.dom.min)
                if iv is not None and type(n) is int and type(lo) is int:
                    out[iv.var] = (lo, lo + n - 1)
        return out

    def region_inside(self, r: BufferRegion) -> BufferRegion:
        """A region of the block, as the inner block has it."""
        return map_region(r, self.moved)

    def region_outside(self, r: BufferRegion) -> BufferRegion:
        """A region of the block, as the outer block has it: with all that is inside."""
        ranges = {}
        for p in self.parts:
            n = None if p.inner is None else const_int(p.inner.dom.extent)
            if p.inner is not None and n is not None:
                ranges[p.inner.var] = (0, n)
        box = relax(self.region_inside(r).region, ranges)
        return BufferRegion(r.buffer, intersect_shape(box, r.buffer))


def fold(e: Expr, dom: Mapping[Var, tuple[int, int]]) -> Expr:
    """The expression with its quotients and remainders simplified."""
    if type(e) is BinOp and e.op in ("//", "%"):
        return simplify(e, dom, keep_unit_vars=True)
    return map_expr(e, lambda x: fold(x, dom))


def blockize_loop(s: State, at: Link, preserve_unit_iters: bool) -> BlockKey:
    """Cut the block under a loop in two; the key of the new, outer one."""
    link, below, ranges = _what_is_cut(s, at)
    b = link.block()
    parts = tuple([
        _part(s, b, iv, v, ranges, preserve_unit_iters)
        for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
    ])  # fmt: skip
    if detect_iter_map([p.inner_value for p in parts], ranges) is None:
        s.fail(
            f"the loops from {at.loop().var.name} on do not each drive one iterator of block "
            f"{b.name}",
            hint="blockize at a loop such that each loop from there on, and each "
            "outside it, drives one iterator or a part of it (as split makes)",
            code="blockize-binding",
            at=[at.node, b],
        )
    outside, within = _split_predicate(s, b, parts, frozenset(ranges))
    outside = build.logical_and(outside, *_in_domain(b, parts, at))
    cut = _Cut(b, parts, tuple(below), within)
    inner = [(p.inner, p.inner_value) for p in parts if p.inner is not None]
    outer = [(p.outer, p.outer_value) for p in parts if p.outer is not None]
    reads = update_reads(b) if b.init else b.reads
    bare = block_with(
        b,
        iter_vars=tuple([iv for iv, _ in inner]),
        iter_values=tuple([v for _, v in inner]),
        predicate=build.logical_and(*[c for _, c in within]),
        reads=tuple([cut.region_inside(r) for r in reads]),
        writes=tuple([cut.region_inside(w) for w in b.writes]),
        body=cut.moved_stmt(b.body),
        init=None,
        annotations=explicit_reads_at(b.annotations, b.reads, reads),
    )
    mine = Block(
        bare.key, bare.name, bare.iter_vars, bare.iter_values, bare.predicate, bare.reads,
        bare.writes, bare.body, None, bare.alloc_buffers,
        tuple([MatchBuffer(m.buffer, cut.region_inside(m.source)) for m in b.match_buffers]),
        bare.annotations,
    )  # fmt: skip
    body = graft_below(at.up, link, mine)
    assert body is not None  # it holds the block
    init = None if b.init is None else _outer_init(s, cut, b.init)
    if init is not None and not any(iv.kind == "reduce" for iv, _ in outer):
        body, init = build.seq(init, body), None  # all of the reduction is inside
    around = Block(
        BlockKey(),
        fresh_name(s, s.func_of(b.key), f"{b.name}_o"),
        tuple([iv for iv, _ in outer]),
        tuple([v for _, v in outer]),
        outside,
        tuple([cut.region_outside(r) for r in b.reads]),
        tuple([cut.region_outside(w) for w in b.writes]),
        body,
        init,
    )
    s.replace(at, around)
    return around.key


def _what_is_cut(s: State, at: Link) -> tuple[Link, list[For], Loops]:
    """The block under a loop, and the loops from there on, if it may be cut at all."""
    f = at.loop()
    inside = blocks_below(at)
    if len(inside) != 1:
        s.fail(
            f"the loop {f.var.name} is above {len(inside)} blocks, not one",
            hint="blockize a list of blocks, or a loop further in",
            code="blockize-blocks",
            at=f,
        )
    link = inside[0]
    b = link.block()
    if guard_above(link, f) is not None:
        s.fail(
            f"block {b.name} stands under a condition or let inside the loop {f.var.name}",
            hint="blockize at a loop below the condition",
            code="blockize-guard",
            at=[b, f],
        )
    loose = loose_fault(f, {r.buffer for r in (*b.reads, *b.writes)})
    if loose:
        s.fail(
            loose,
            hint="put the statement into a block, or take a loop that does not hold it",
            code="blockize-loose",
            at=f,
        )
    if domain_uses_loops(link):
        s.fail(
            f"the domain of an iterator of block {b.name} depends on the loops above",
            hint="the domains of the iterators must be the same in every iteration "
            "of the loops outside",
            code="blockize-domain",
            at=b,
        )
    if kind_of(link, s) != "complete" and not binding_is_affine(link, s):
        s.fail(
            f"the bindings of block {b.name} are not a bijective quasi-affine map of its loops",
            hint="the bindings must be sums, quotients and remainders of the loops, "
            "as T.axis.remap, split and fuse make them",
            code="not-affine",
            at=b,
        )
    if b.init is not None:
        check_starts(s, link)  # else the init, which goes outside, would run where it did not
    loops = link.loops()
    below = loops[next(k for k, x in enumerate(loops) if x is f) :]
    ranges = loop_ranges(below)
    if ranges is None:
        s.fail(
            f"a loop from {f.var.name} on has no constant extent",
            hint="blockize at a loop inside it, or split it by a constant first",
            code="blockize-extent",
            at=f,
        )
    if uses_loops(link) and any(uses_var(e, set(ranges)) for e in all_exprs(b)):
        s.fail(
            f"block {b.name} has no iterators, and looks at the loops from {f.var.name} on itself",
            hint="write the block with an iterator for each loop that it uses (T.axis.spatial)",
            code="blockize-binding",
            at=[b, f],
        )
    return link, below, ranges


def _part(
    s: State, b: Block, iv: IterVar, value: Expr, ranges: Loops, preserve_unit_iters: bool
) -> _Part:
    """Divide a binding into `outer * n + inner`, where the loops inside take n values."""
    dtype = iv.var.dtype
    zero = IntImm(0, dtype)
    inside = set(ranges)
    terms, const = linear(value)
    moving = {a: c for a, c in terms.items() if uses_var(a, inside)}
    if not moving:
        if not preserve_unit_iters and const_int(iv.dom.extent) == 1:
            return _Part(iv.kind, None, value, None, zero, iv.dom.min, iv.dom.min)
        return _Part(iv.kind, iv, value, None, zero, iv.var, iv.var)

    def refuse(why: str) -> NoReturn:
        s.fail(
            f"the binding {iv.var.name} = {value} of block {b.name} does not divide into what the "
            f"loops outside and those inside contribute: {why}",
            hint="split so that the loops inside are the low digits of the iterator",
            code="blockize-binding",
            at=b,
        )

    for a in moving:
        if not free_vars(a) <= inside:
            refuse(f"{a} depends on both")
    first, count = const_int(iv.dom.min), const_int(iv.dom.extent)
    if first is None or count is None:
        refuse("its domain is not constant")
    found = detect_iter_map([from_linear(moving, 0, dtype)], ranges, bijective=False)
    digits = None if found is None else found[0]
    if digits is None:
        refuse("the loops inside make no number without gaps")
    n = 1
    for d in reversed(digits.args):
        if d.scale is not n and d.scale != n:
            refuse("the loops inside make no number without gaps")
        n = d.extent if type(n) is int and n == 1 else n * d.extent
    inner_value = from_linear(moving, -digits.base, dtype)
    over: dict[Expr, int] = {}
    for a, c in terms.items():
        if a not in moving:
            q = _quotient(c, n)
            if q is None:
                refuse(f"{c} * {a} is no multiple of the {int(n)} values that the inside takes")
            over[a] = q
    base = _quotient(const + digits.base - first, n)
    if base is None:
        refuse(f"it begins at {int(const + digits.base)} in between two tiles")
    only = not over and type(base) is int and base == 0
    extent = 1 if only else -(-count // n)
    outer: IterVar | None = IterVar(
        Var(f"{iv.var.name}_o", dtype), Range(zero, IntImm(extent, dtype)), iv.kind
    )
    inner: IterVar | None = IterVar(
        Var(f"{iv.var.name}_i", dtype), Range(zero, IntImm(n, dtype)), iv.kind
    )
    if not preserve_unit_iters and extent == 1:
        outer = None
    if not preserve_unit_iters and n == 1:
        inner = None
    high = zero if outer is None else build.mul(outer.var, IntImm(n, dtype))

    def whole(low: Expr) -> Expr:
        return build.add(build.add(high, low), IntImm(first, dtype))

    return _Part(
        iv.kind, outer, from_linear(over, base, dtype), inner, inner_value,
        whole(zero if inner is None else inner.var), whole(inner_value), extent,
    )  # fmt: skip


def _quotient(c: int, n: int) -> int | None:
    """c / n where that is a whole number."""
    if type(n) is int and n == 1:
        return c
    if c is n:
        return 1
    if type(c) is int and c == 0:
        return 0
    return c // n if c % n == 0 else None


def _split_predicate(
    s: State, b: Block, parts: Sequence[_Part], inside: frozenset[Var]
) -> tuple[Expr, tuple[tuple[_Part, Expr], ...]]:
    """The predicate: what the loops outside decide, and bounds of single iterators."""
    outside: list[Expr] = []
    within: list[tuple[_Part, Expr]] = []
    bound = {iv.var: v for iv, v in zip(b.iter_vars, b.iter_values, strict=True)}
    for conjunct in conjuncts(b.predicate):
        c = substitute(conjunct, bound)
        if not uses_var(c, inside):
            outside.append(c)
            continue
        part = None
        if type(c) is BinOp and c.op in ("<", "<=", ">=", ">") and not uses_var(c.b, inside):
            part = next(
                (p for p, v in zip(parts, b.iter_values, strict=True) if same(c.a, v)), None
            )
        if part is None or type(c) is not BinOp or free_vars(c.b):
            s.fail(
                f"the predicate {conjunct} of block {b.name} is no bound of one iterator",
                hint="blockize before splitting with factors that do not divide",
                code="blockize-predicate",
                at=b,
            )
        within.append((part, BinOp(c.op, part.inside, c.b, c.dtype)))
    return build.logical_and(*outside), tuple(within)


def _in_domain(b: Block, parts: Sequence[_Part], at: Link) -> list[Expr]:
    """What keeps the outer iterators in their domains where the predicate did: loops outside that
    run on past the last tile."""
    if is_literal(b.predicate, 1):
        return []
    dom = domain(loop_ranges(at.loops()) or {})
    out: list[Expr] = []
    for p in parts:
        hi = bounds(p.outer_value, dom)[1]
        if p.tiles is not None and (hi is None or hi >= p.tiles):
            out.append(build.lt(p.outer_value, IntImm(p.tiles, p.outer_value.dtype)))
    return out


def _outer_init(s: State, cut: _Cut, init: Stmt) -> Stmt:
    """What initialises all points of the outer block: the init in loops over the inside."""
    b = cut.block
    kept = [p for p in cut.parts if p.kind != "reduce"]
    loops: dict[Var, Expr] = {}
    nest: list[For] = []
    for f in cut.below:
        if any(uses_var(p.inner_value, f.var) for p in kept):
            loops[f.var] = new = Var(f"{f.var.name}_init", f.var.dtype)
            nest.append(For(new, f.min, f.extent, f.kind, init, f.thread))
    iters: dict[Var, Expr] = {}
    fresh: list[IterVar] = []
    values: list[Expr] = []
    for p in kept:
        if p.inner is not None:
            v = Var(p.inner.var.name, p.inner.var.dtype)
            iters[p.inner.var] = v
            fresh.append(IterVar(v, p.inner.dom, p.kind))
            values.append(substitute(p.inner_value, loops))

    def moved(e: Expr) -> Expr:
        return substitute(cut.moved(e), iters)

    own = [substitute(c, loops) for p, c in cut.within if p.kind != "reduce"]
    block = Block(
        BlockKey(),
        fresh_name(s, s.func_of(b.key), f"{b.name}_init"),
        tuple(fresh),
        tuple(values),
        build.logical_and(*own),
        (),
        tuple([map_region(w, moved) for w in b.writes]),
        rewrite_exprs(init, moved),
    )
    if all_loads(block.body):
        reads, _ = access_regions(block_with(block, writes=()))
        block = block_with(block, reads=reads)
    out: Stmt = block
    for f in reversed(nest):
        out = with_body(f, out)
    return out


# ----------------------------------------------------------------------------- of blocks
def _blockize_blocks(s: State, links: Sequence[Link], preserve_unit_iters: bool) -> BlockKey:
    """Put a block around neighbouring blocks; its key."""
    top, first, last = _neighbours(s, links)
    items = list(top.node.items[first : last + 1]) if type(top.node) is Seq else [top.node]
    body = build.seq(*items)
    above = [f for f in top.loops() if any(uses_var(e, f.var) for e in all_exprs(body))]
    table: dict[Var, Expr] = {}
    iters: list[IterVar] = []
    values: list[Expr] = []
    for f in above:
        if not preserve_unit_iters and const_int(f.extent) == 1:
            table[f.var] = f.min
            continue
        v = Var(f"v_{f.var.name}", f.var.dtype)
        table[f.var] = v
        iters.append(IterVar(v, Range(f.min, f.extent), _kind_over(f.var, links)))
        values.append(f.var)
    names = "_".join([x.block().name for x in links])
    bare = Block(
        BlockKey(),
        fresh_name(s, s.func_of(links[0].block().key), f"{names}_o"),
        tuple(iters),
        tuple(values),
        build.TRUE,
        (),
        (),
        substitute_stmt(body, table),
    )
    reads, writes = access_regions(bare)
    around = block_with(bare, reads=reads, writes=writes)
    if type(top.node) is Seq:
        rest = [*top.node.items[:first], around, *top.node.items[last + 1 :]]
        s.replace(top, build.seq(*rest))
    else:
        s.replace(top, around)
    return around.key


def _neighbours(s: State, links: Sequence[Link]) -> tuple[Link, int, int]:
    """The sequence (or the one statement) that holds the blocks, and their places in it."""
    found = {x.block().key for x in links}
    for x in links:
        if x.up is None:
            s.fail(
                "the root block cannot be part of a block",
                hint="name a block inside it; get_child_blocks lists them",
                code="root-block",
                at=x.node,
            )
        if x.scope().node is not links[0].scope().node:
            s.fail(
                f"block {x.block().name} and block {links[0].block().name} are in different scopes",
                hint="take blocks of one scope: get_child_blocks lists those of a block",
                code="blockize-scope",
                at=[x.node, links[0].node],
            )
    if len(found) != len(links):
        s.fail(
            "a block is named twice",
            hint="name each block once",
            code="blockize-target",
            at=links[0].node,
        )
    if len(links) == 1:
        return links[0], 0, 0
    top = common_ancestor(links[0], links[1])
    for x in links[2:]:  # `top` itself may be above x: common_ancestor looks above both only
        if not any(y.node is top.node for y in x.above()):
            top = common_ancestor(top, x)
    if type(top.node) is not Seq:
        s.fail(
            "the blocks do not stand one after the other: a condition, or an init, parts them",
            hint="only blocks that follow each other directly in one scope make a block together",
            code="blockize-between",
            at=[x.node for x in links],
        )
    items = top.node.items
    places = sorted(
        k for k, item in enumerate(items)
        if any(b.key in found for b in _outermost(item, top))
    )  # fmt: skip
    first, last = places[0], places[-1]
    for k in range(first, last + 1):
        inside = _outermost(items[k], top)
        extra = [b for b in inside if b.key not in found]
        if extra or not inside:
            what = f"block {extra[0].name}" if extra else "a statement outside any block"
            s.fail(
                f"{what} stands between the blocks",
                hint="name all neighbours, or reorder the program first",
                code="blockize-between",
                at=extra or [b.node for b in links],
            )
    return top, first, last


def _outermost(item: Stmt, up: Link) -> list[Block]:
    if type(item) is Block:
        return [item]
    return [x.block() for x in blocks_below(up.down(item))]


def _kind_over(v: Var, links: Sequence[Link]) -> IterKind:
    """What a loop above is to all of the blocks: spatial if it is to each of them."""
    kinds: set[IterKind] = set()
    for x in links:
        b = x.block()
        mine = {
            iv.kind for iv, value in zip(b.iter_vars, b.iter_values, strict=True)
            if uses_var(value, v)
        }  # fmt: skip
        kinds |= mine or {"opaque"}
    return kinds.pop() if len(kinds) == 1 else "opaque"
