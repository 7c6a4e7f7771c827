"""What does a block read and write, and which iterations make a given part of a buffer?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from . import build
from .affine import from_linear, linear, minus, same
from .boxes import (
    Ranges,
    anything,
    clip,
    covers,
    domain,
    intersect_shape,
    relax,
    relax_exact,
    union,
)
from .intervals import bounds
from .iter_map import inverse_affine
from .known_annotations import listed
from .nodes import (
    Alloc,
    Annotations,
    Block,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    Let,
    LetStmt,
    MatchBuffer,
    Ramp,
    Range,
    Seq,
    Stmt,
    Var,
)
from .walk import (
    expr_children,
    free_vars,
    stmt_exprs,
    substitute,
    walk_expr,
    walk_stmt,
)

__all__ = [
    "EXPLICIT",
    "HIDDEN",
    "Ranges",
    "access_regions",
    "covers",
    "explicit_again",
    "explicit_reads_at",
    "intersect_shape",
    "relax",
    "relax_exact",
    "solve_iters",
    "union",
    "without_explicit",
]

EXPLICIT = {"read": "explicit_read_region", "write": "explicit_write_region"}
"""Annotations of blocks: the positions of regions that were stated, not found."""
HIDDEN = "hidden_buffer_access"
"""Annotation of blocks: of "read" and "write" those of which not all regions are stated."""


# ----------------------------------------------------------------------------- what a block touches
def access_regions(
    block: Block,
) -> tuple[tuple[BufferRegion, ...], tuple[BufferRegion, ...]]:
    """(reads, writes) of the body and init of a block, in terms of its iterators and what is
    outside.

    Loops and blocks inside are relaxed over their ranges; a nested block that states its regions is
    taken at its word. Several accesses of a buffer become one box. Buffers that live inside the
    block are left out, and views count as what they are views of. In a block with an init, reading
    what is written, where it is written, is the reduction itself and is left out. Guards are not
    looked at: the regions hold at least what is touched of each buffer, and are cut to the buffer
    where they are constant. Regions of the block that annotations call explicit stay as they are.
    """
    seen = _Touched(_iter_domain(block))
    seen.open_block(block)
    seen.stmt(block.body, {}, {})
    writes = dict(seen.writes)
    if block.init is not None:
        for buffer, regions in list(seen.reads.items()):
            kept = [r for r in regions if not any(_same(r, w) for w in writes.get(buffer, ()))]
            if kept:
                seen.reads[buffer] = kept
            else:
                del seen.reads[buffer]
        seen.stmt(block.init, {}, {})
    found = seen.merged(seen.reads), seen.merged(seen.writes)
    if not block.annotations:
        return found
    return _stated(block, block.reads, found[0], "read"), _stated(
        block, block.writes, found[1], "write"
    )


def _stated(
    block: Block, own: Sequence[BufferRegion], found: tuple[BufferRegion, ...], kind: str
) -> tuple[BufferRegion, ...]:
    """What was found, with the block's own explicit regions."""
    at = listed(block.annotations, EXPLICIT[kind], f"block {block.name}")
    table = {own[k].buffer: own[k] for k in at if k < len(own)}
    return tuple([table.get(r.buffer, r) for r in found]) if table else found


def explicit_again(old: Block, new: Block) -> Block:
    """A block over the same iterators as an old one, its regions found anew, with the explicit
    regions of the old one where it touches those buffers as before; its annotations say which."""
    said = dict(old.annotations)
    if not any(key in said for key in EXPLICIT.values()):
        return new
    notes = dict(new.annotations)
    stated: dict[str, tuple[BufferRegion, ...]] = {}
    for kind, key in EXPLICIT.items():
        own = old.reads if kind == "read" else old.writes
        regions = list(new.reads if kind == "read" else new.writes)
        notes.pop(key, None)
        kept = []
        for r in [
            own[k] for k in listed(old.annotations, key, f"block {old.name}") if k < len(own)
        ]:
            at = next((i for i, x in enumerate(regions) if x.buffer is r.buffer), None)
            if at is not None and _same_accesses(old, new, r.buffer):
                regions[at] = r
                kept.append(at)
        if kept:
            notes[key] = tuple(sorted(kept))
        stated[kind] = tuple(regions)
    return Block(
        new.key, new.name, new.iter_vars, new.iter_values, new.predicate, stated["read"],
        stated["write"], new.body, new.init, new.alloc_buffers, new.match_buffers,
        tuple(notes.items()),
    )  # fmt: skip


def without_explicit(notes: Annotations, *kinds: str) -> Annotations:
    """Annotations of a block of which regions were stated, for one whose regions were found anew.

    Args:
        kinds: "read", "write"; none: both.
    """
    gone = {EXPLICIT[k] for k in kinds or EXPLICIT}
    return tuple([kv for kv in notes if kv[0] not in gone])


def explicit_reads_at(
    notes: Annotations, old: Sequence[BufferRegion], new: Sequence[BufferRegion]
) -> Annotations:
    """Annotations that name stated read regions, where these stand at other positions now."""
    at = listed(notes, EXPLICIT["read"], "the block")
    if not at:
        return notes
    stated = {old[k].buffer for k in at if k < len(old)}
    now = tuple([k for k, r in enumerate(new) if r.buffer in stated])
    return tuple([(key, now if key == EXPLICIT["read"] else x) for key, x in notes])


def _same_accesses(a: Block, b: Block, buffer: Buffer) -> bool:
    """Does a block touch a buffer as often as the one that it was made of, so just as that did?"""
    counts = _count(a, buffer)
    return counts is not None and counts == _count(b, buffer)


def _count(b: Block, buffer: Buffer) -> tuple[int, int] | None:
    """How many loads and stores of a buffer are in a block; None where it has views of it."""
    loads = stores = 0
    for part in (b.body, b.init):
        for s in () if part is None else walk_stmt(part):
            own = stmt_exprs(s)
            if type(s) is Block:
                own = (*s.iter_values, s.predicate)
                if any(m.source.buffer is buffer for m in s.match_buffers):
                    return None
            stores += type(s) is BufferStore and s.buffer is buffer
            loads += sum(
                type(x) is BufferLoad and x.buffer is buffer for e in own for x in walk_expr(e)
            )
    if any(m.source.buffer is buffer for m in b.match_buffers):
        return None
    return loads, stores


def _iter_domain(block: Block) -> dict[Var, tuple[int, int]]:
    dom: dict[Var, tuple[int, int]] = {}
    for iv in block.iter_vars:
        lo, n = iv.dom.min, iv.dom.extent
        if type(lo) is IntImm and type(n) is IntImm:
            dom[iv.var] = (lo.value, lo.value + n.value - 1)
    return dom


def _same(a: Ranges, b: Ranges) -> bool:
    return all(same(x.min, y.min) and same(x.extent, y.extent) for x, y in zip(a, b))


@dataclass(slots=True)
class _Touched:
    """The accesses found so far, in order of first appearance."""

    dom: Mapping[Var, tuple[int, int]]
    reads: dict[Buffer, list[Ranges]] = field(default_factory=dict)
    writes: dict[Buffer, list[Ranges]] = field(default_factory=dict)
    inside: set[Buffer] = field(default_factory=set)
    views: dict[Buffer, MatchBuffer] = field(default_factory=dict)

    def open_block(self, b: Block) -> None:
        self.inside.update(b.alloc_buffers)
        for m in b.match_buffers:
            self.views[m.buffer] = m

    def stmt(
        self, s: Stmt, loops: dict[Var, tuple[int, int]], lets: dict[Var, Expr]
    ) -> None:  # fmt: skip
        match s:
            case BufferStore():
                region = self.point(s.indices, loops, lets)
                self.expr(s.value, loops, lets)
                for e in s.indices:
                    self.expr(e, loops, lets)
                if s.predicate is not None:
                    self.expr(s.predicate, loops, lets)
                self.note(self.writes, s.buffer, region, loops, lets)
            case For():
                self.expr(s.min, loops, lets)
                self.expr(s.extent, loops, lets)
                self.stmt(s.body, {**loops, s.var: self.loop_range(s, loops, lets)}, lets)
            case Block():
                self.nested(s, loops, lets)
            case Seq():
                for x in s.items:
                    self.stmt(x, loops, lets)
            case IfThenElse():
                self.expr(s.cond, loops, lets)
                self.stmt(s.then, loops, lets)
                if s.orelse is not None:
                    self.stmt(s.orelse, loops, lets)
            case LetStmt():
                self.expr(s.value, loops, lets)
                self.stmt(s.body, loops, {**lets, s.var: substitute(s.value, lets)})
            case Evaluate():
                self.expr(s.value, loops, lets)
            case Alloc():
                self.inside.add(s.buffer)
                self.stmt(s.body, loops, lets)
            case _:
                assert_never(s)

    def expr(self, e: Expr, loops: dict[Var, tuple[int, int]], lets: dict[Var, Expr]) -> None:
        t = type(e)
        if t is Var or t is IntImm:
            return
        if type(e) is BufferLoad:
            self.note(self.reads, e.buffer, self.point(e.indices, loops, lets), loops, lets)
        elif type(e) is Let:
            self.expr(e.value, loops, lets)
            self.expr(e.body, loops, {**lets, e.var: substitute(e.value, lets)})
            return
        for x in expr_children(e):
            self.expr(x, loops, lets)

    def point(
        self, indices: Sequence[Expr], loops: dict[Var, tuple[int, int]], lets: dict[Var, Expr]
    ) -> Ranges:
        """The box of one access as the loops run."""
        if lets:
            indices = [substitute(i, lets) for i in indices]
        ranges = tuple([_index_range(i) for i in indices])
        return relax(ranges, loops) if loops else ranges

    def note(
        self,
        where: dict[Buffer, list[Ranges]],
        buffer: Buffer,
        region: Ranges,
        loops: dict[Var, tuple[int, int]],
        lets: dict[Var, Expr],
    ) -> None:
        while buffer in self.views:
            m = self.views[buffer]
            source = m.source.region
            if lets:
                source = tuple(
                    [Range(substitute(g.min, lets), substitute(g.extent, lets)) for g in source]
                )
            region = relax(_through(region, m.buffer, source), loops)
            buffer = m.source.buffer
        if buffer in self.inside:
            return
        known = where.get(buffer)
        if known is None:
            where[buffer] = [region]
        elif not any(_same(region, r) for r in known):
            known.append(region)

    def nested(
        self, b: Block, loops: dict[Var, tuple[int, int]], lets: dict[Var, Expr]
    ) -> None:  # fmt: skip
        for e in b.iter_values:
            self.expr(e, loops, lets)
        self.expr(b.predicate, loops, lets)
        reads, writes = b.reads, b.writes
        if not reads and not writes:
            reads, writes = access_regions(b)
        self.inside.update(b.alloc_buffers)
        table = dict(lets)
        for iv, v in zip(b.iter_vars, b.iter_values):
            table[iv.var] = substitute(v, lets) if lets else v
        for where, regions in ((self.reads, reads), (self.writes, writes)):
            for r in regions:
                ranges = tuple(
                    [Range(substitute(g.min, table), substitute(g.extent, table)) for g in r.region]
                )
                self.note(where, r.buffer, relax(ranges, loops), loops, lets)

    def loop_range(
        self, s: For, loops: dict[Var, tuple[int, int]], lets: dict[Var, Expr]
    ) -> tuple[int, int]:
        """(minimum, extent) of a loop inside the block; a superset where they are not constant."""
        if type(s.min) is IntImm and type(s.extent) is IntImm:
            return s.min.value, s.extent.value
        dom = {**self.dom, **domain(loops)}
        first = substitute(s.min, lets)
        lo, _ = bounds(first, dom)
        _, end = bounds(build.add(first, substitute(s.extent, lets)), dom)
        if lo is None or end is None:
            everything = anything(s.var.dtype)
            low, n = everything.min, everything.extent
            assert type(low) is IntImm
            assert type(n) is IntImm
            return low.value, n.value
        return lo, max(end - lo, 1)

    def merged(self, found: dict[Buffer, list[Ranges]]) -> tuple[BufferRegion, ...]:
        out = []
        for buffer, regions in found.items():
            total = regions[0]
            for r in regions[1:]:
                total = union(total, r, self.dom, buffer.shape)
            out.append(BufferRegion(buffer, intersect_shape(total, buffer)))
        return tuple(out)


def _index_range(i: Expr) -> Range:
    """The range of one index; that of a vector holds all lanes."""
    if type(i) is Ramp:
        if type(i.stride) is not IntImm:
            return anything(i.base.dtype)
        dtype = i.base.dtype
        reach = i.stride.value * (i.lanes - 1)
        if reach >= 0:
            return Range(i.base, IntImm(reach + 1, dtype))
        return Range(build.add(i.base, reach), IntImm(1 - reach, dtype))
    if type(i) is Broadcast:
        return _index_range(i.value)
    return Range(i, IntImm(1, i.dtype)) if "x" not in i.dtype else anything("int32")


def _through(region: Ranges, view: Buffer, source: Ranges) -> Ranges:
    """A box of a view as a box of its source. Leading dimensions of the source that the view lacks
    stay whole; so does everything if the view has another shape."""
    extra = len(source) - len(view.shape)
    if extra < 0 or not all(same(n, g.extent) for n, g in zip(view.shape, source[extra:])):
        return source
    inner = [
        Range(build.add(g.min, build.cast(g.min.dtype, r.min)), r.extent)
        for r, g in zip(region, source[extra:])
    ]
    return (*source[:extra], *inner)


# ----------------------------------------------------------------------------- which iterations
def solve_iters(
    write_indices: Sequence[Expr], iter_vars: Sequence[IterVar], required: Sequence[Range]
) -> dict[Var, Range] | None:
    """The range of each iterator that reaches the required part of a buffer, at the least.

    `write_indices[k]` is the index in dimension k in terms of the iterators (and of what is outside
    the block); `required[k]` is what is needed of that dimension. Iterators that no index mentions
    keep their whole domain. Ranges with a symbolic minimum may stick out of the domain. None if the
    indices cannot be inverted.

    Example: `[v0*4 + v1]` with v1 in 0..3, of which [i*8, 8) is needed: v0 in [i*2, 2), v1 in
    [0, 4).
    """
    doms = {iv.var: iv.dom for iv in iter_vars}
    out: dict[Var, Range] = {}
    hard: list[tuple[Expr, Range]] = []
    for e, need in zip(write_indices, required):
        if type(e) is Var:
            if e in doms:
                out.setdefault(e, need)
            continue
        terms, const = linear(e)
        ours = [v for v in terms if type(v) is Var and v in doms]
        mixed = [a for a in terms if type(a) is not Var and not free_vars(a).isdisjoint(doms)]
        if len(ours) == 1 and not mixed:
            v = ours[0]
            c = terms.pop(v)
            out.setdefault(v, _solve_one(need, c, from_linear(terms, const, e.dtype)))
        elif ours or mixed:
            outer = {a: c for a, c in terms.items() if a not in ours and a not in mixed}
            moved = {a: c for a, c in terms.items() if a not in outer}
            shift = from_linear(outer, const, e.dtype)
            rest = Range(_less(need.min, shift), need.extent)
            hard.append((from_linear(moved, 0, e.dtype), rest))
    if hard:
        solved = _solve_together(hard, doms)
        if solved is None:
            return None
        for v, r in solved.items():
            out.setdefault(v, r)
    return {v: clip(out[v], dom.min, dom.extent) if v in out else dom for v, dom in doms.items()}


def _less(a: Expr, b: Expr) -> Expr:
    """a - b, as a sum."""
    terms, const = minus(a, b)
    return from_linear(terms, const, a.dtype)


def _solve_one(need: Range, c: int, offset: Expr) -> Range:
    """The v with c*v + offset in `need`."""
    lo = _less(need.min, offset)
    n = need.extent
    if c < 0:  # -c * v is in [-lo - n + 1, -lo]
        lo = _less(_less(build.const(1, lo.dtype), lo), n)
        c = -c
    if type(c) is int and c == 1:
        return Range(lo, n)
    first = build.add(lo, IntImm(c - 1, lo.dtype))
    terms, const = linear(first)
    if all(k % c == 0 for k in terms.values()):
        first = from_linear({a: k // c for a, k in terms.items()}, const // c, lo.dtype)
    else:
        first = build.floordiv(first, IntImm(c, lo.dtype))
    if type(n) is IntImm:
        return Range(first, IntImm(-(-n.value // c), n.dtype))
    return Range(first, build.floordiv(build.add(n, c - 1), IntImm(c, n.dtype)))


def _solve_together(
    hard: list[tuple[Expr, Range]], doms: Mapping[Var, Range]
) -> dict[Var, Range] | None:
    """Iterators that share an index, or of which an index takes a digit: through the inverse."""
    involved: set[Var] = set()
    for e, _ in hard:
        involved |= free_vars(e)
    if not involved <= doms.keys():
        return None
    extents: dict[Var, int] = {}
    shifted: dict[Var, Expr] = {}
    for v in doms:
        if v in involved:
            lo, n = doms[v].min, doms[v].extent
            if type(lo) is not IntImm or type(n) is not IntImm:
                return None
            extents[v] = n.value
            if type(lo.value) is not int or lo.value != 0:
                shifted[v] = build.add(v, lo)
    at = [Var(f"o{k}", e.dtype) for k, (e, _) in enumerate(hard)]
    inverse = inverse_affine([substitute(e, shifted) for e, _ in hard], extents, at)
    if inverse is None:
        return None
    table: dict[Var, Expr] = {}
    steps: dict[Var, tuple[int, int]] = {}
    for o, (_, need) in zip(at, hard):
        if type(need.extent) is not IntImm:
            return {v: doms[v] for v in extents}
        t = Var("t", o.dtype)
        steps[t] = (0, need.extent.value)
        table[o] = build.add(need.min, t)
    out: dict[Var, Range] = {}
    for v, e in inverse.items():
        value = substitute(e, table)
        if v in shifted:
            value = build.add(value, doms[v].min)
        (out[v],) = relax([Range(value, IntImm(1, v.dtype))], steps)
    return out
