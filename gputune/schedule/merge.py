"""How do loop nests beside each other become one? merge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from ..ir import build
from ..ir.affine import from_linear, linear, minus, same
from ..ir.build import TRUE, const_int, is_literal
from ..ir.intervals import sum_bounds
from ..ir.iter_map import detect_iter_map
from ..ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    Evaluate,
    Expr,
    For,
    IntImm,
    MatchBuffer,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.regions import access_regions
from ..ir.walk import free_vars, stmt_children, substitute, walk_expr, walk_stmt
from .handles import LoopRV
from .loops import substitute_loops
from .partition import require_plain
from .primitive import primitive
from .state import State
from .tree import Link


@primitive("Merge", inputs=("loop_rvs",))
def merge(s: State, *loop_rvs: LoopRV) -> LoopRV:
    """Make one loop nest of several that stand beside each other.

    Each of the loops may have loops around it, up to the place where the nests part: all of these
    become one loop each, named `<loop>_m`. The bodies follow each other, in program order.

    Args:
        loop_rvs: the innermost loop to merge of each nest: two or more, in one scope, each (with
            the loops above it, up to where the nests part) serial, from 0, without annotation or
            thread binding, one loop being all that is in the one before; as many loops in each
            nest, of the same extents.

    Returns:
        The innermost new loop. The merged ones are gone.

    Raises:
        ScheduleError: naming which of these does not hold; an iteration of one body would need
            what a later one of another makes; in a stage pipeline, an iteration of one would use
            data of other iterations of another (no loop above could then run in any order); what
            stands between the nests cannot be passed.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_write(b, 0, "global")
        >>> m = sch.merge(sch.get_loops(b)[1], sch.get_loops(c)[1])
        >>> [sch.get(x).name for x in sch.get_child_blocks(m)]
        ['B', 'B_global']
    """
    links = _in_program_order(s, [s.loop(x) for x in loop_rvs])
    top = _parting(s, links)
    nests = [_chain(s, x, top) for x in links]
    new, tables = _merged_loops(s, nests)
    for nest in nests:
        _check_loose(s, nest[-1].body)
        _check_threads(s, nest[-1].body)
    views = _views(top)
    bodies = [
        _Body(nest, substitute_loops(nest[-1].body, table), views)
        for nest, table in zip(nests, tables, strict=True)
    ]
    if s.enable_check:
        around = {f.var: (f.min, f.extent) for f in links[0].loops() if f not in nests[0]}
        for a, b in combinations(bodies, 2):
            _check_apart(s, a, b, new, around, bool(s.pipeline_fault(top.scope())))
    body: Stmt = build.seq(*[x.stmt for x in bodies])
    for f in reversed(new):
        body = For(f.var, f.min, f.extent, "serial", body)
    items = _placed(s, top, [x[0] for x in nests], body)
    s.replace(top, build.seq(*items))
    return s.mint_loop(new[-1].var)


def _in_program_order(s: State, links: Sequence[Link]) -> list[Link]:
    """The loops in program order, all of one scope and none twice or inside another."""
    if len(links) < 2:
        s.fail(
            f"needs at least two loops, got {len(links)}",
            hint="give one loop of each nest, such as merge(i, j)",
            code="merge-few",
        )
    first = links[0]
    for k, x in enumerate(links):
        f = x.loop()
        if any(y.node is f for y in links[:k]):
            s.fail(
                f"the loop {f.var.name} appears multiple times",
                hint="give each loop once, one of each nest",
                code="merge-twice",
                at=f,
            )
        if x.scope().node is not first.scope().node:
            s.fail(
                f"the loops {first.loop().var.name} and {f.var.name} are in different scopes",
                hint="give loops inside the same block",
                code="merge-scope",
                at=[first.node, f],
            )
    for x in links:
        above = {id(y.node) for y in x.above()}
        outer = next((y for y in links if id(y.node) in above), None)
        if outer is not None:
            s.fail(
                f"the loop {x.loop().var.name} is inside the loop {outer.loop().var.name}",
                hint="merge joins loops that stand beside each other; fuse joins nested ones",
                code="merge-nested",
                at=[outer.node, x.node],
            )
    places = {id(y): k for k, y in enumerate(walk_stmt(first.scope().node))}
    return sorted(links, key=lambda x: places[id(x.node)])


def _parting(s: State, links: Sequence[Link]) -> Link:
    """The sequence in which the nests stand."""
    others = [{id(y.node) for y in x.above()} for x in links[1:]]
    top = next(y for y in links[0].above() if all(id(y.node) in above for above in others))
    if type(top.node) is not Seq:
        s.fail(
            "the loops do not stand one after the other: a condition, or an init, parts them",
            hint="give loops of nests that follow each other",
            code="merge-branch",
            at=[x.node for x in links],
        )
    return top


def _chain(s: State, link: Link, top: Link) -> list[For]:
    """The loops from the sequence down to one of the loops, outermost first."""
    chain: list[For] = []
    x: Link | None = link
    while x is not None and x.node is not top.node:
        if type(x.node) is not For:
            s.fail(
                f"the loop {link.loop().var.name} is not all that is inside the loops around it, "
                "up to where the nests part",
                hint="merge the loops further out first, or move what stands beside it",
                code="merge-chain",
                at=link.node,
            )
        chain.append(x.node)
        x = x.up
    chain.reverse()
    for f in chain:
        require_plain(s, f, "merge")
        if not is_literal(f.min, 0):
            s.fail(
                f"the loop {f.var.name} starts at {f.min}, not 0",
                hint="write the program with loops from 0, and add the start in the bindings",
                code="loop-start",
                at=f,
            )
        if any(type(e) is BufferLoad for e in walk_expr(f.extent)):
            s.fail(
                f"the extent {f.extent} of the loop {f.var.name} is read from a buffer",
                hint="merge loops whose extents are constant or parameters",
                code="merge-extent",
                at=f,
            )
    return chain


def _merged_loops(
    s: State, nests: Sequence[Sequence[For]]
) -> tuple[list[For], list[dict[Var, Expr]]]:
    """The new loops (with the body of the first nest), and each nest's variables in their terms."""
    first = nests[0]
    tables: list[dict[Var, Expr]] = [{} for _ in nests]
    for nest in nests[1:]:
        if len(nest) != len(first):
            s.fail(
                f"{_names(first)} has {len(first)} loops and {_names(nest)} has {len(nest)}",
                hint="give loops of the same depth, counted from where the nests part",
                code="merge-depth",
                at=[first[-1], nest[-1]],
            )
    new: list[For] = []
    for level in zip(*nests, strict=True):
        f = level[0]
        dtype = "int64" if any(x.var.dtype == "int64" for x in level) else f.var.dtype
        extents = [
            build.cast(dtype, substitute(x.extent, t)) for x, t in zip(level, tables, strict=True)
        ]
        for x, n in zip(level[1:], extents[1:], strict=True):
            if not _equal(extents[0], n):
                s.fail(
                    f"the loop {f.var.name} has extent {f.extent} and the loop {x.var.name} has "
                    f"{x.extent}",
                    hint="only loops of the same extent can be merged",
                    code="merge-extent",
                    at=[f, x],
                )
        v = Var(f"{f.var.name}_m", dtype)
        for x, t in zip(level, tables, strict=True):
            t[x.var] = build.cast(x.var.dtype, v)
        new.append(For(v, IntImm(0, dtype), extents[0], "serial", f.body))
    return new, tables


def _equal(a: Expr, b: Expr) -> bool:
    m, n = const_int(a), const_int(b)
    if m is not None and n is not None:
        return m is n or bool(m == n)
    return same(a, b)


def _names(nest: Sequence[For]) -> str:
    return f"the nest {', '.join(f.var.name for f in nest)}"


# ----------------------------------------------------------------------------- what they touch
class _Body:
    """The body of a nest, in terms of the new loops, and what it touches at one iteration."""

    def __init__(self, nest: Sequence[For], stmt: Stmt, views: _Views) -> None:
        self.nest = nest
        self.stmt = stmt
        self.reads, self.writes = _touched(stmt, views)

    @property
    def name(self) -> str:
        """What messages call it: its first block, or its loop."""
        b = next((x for x in walk_stmt(self.stmt) if type(x) is Block), None)
        return f"the loop {self.nest[-1].var.name}" if b is None else f"block {b.name}"


_Regions: TypeAlias = Mapping[Buffer, tuple[Range, ...]]
_Views: TypeAlias = tuple[MatchBuffer, ...]


def _views(top: Link) -> _Views:
    """The views that blocks around open: what is touched through them, their sources are."""
    return tuple([
        m for x in top.above() if type(x.node) is Block for m in x.node.match_buffers
    ])  # fmt: skip


def _touched(x: Stmt, views: _Views) -> tuple[_Regions, _Regions]:
    """What a statement reads and writes, a box each buffer."""
    reads, writes = access_regions(
        Block(BlockKey(), "", (), (), TRUE, (), (), x, match_buffers=views)
    )
    return _boxes(reads), _boxes(writes)


def _boxes(regions: Sequence[BufferRegion]) -> _Regions:
    return {r.buffer: r.region for r in regions}


def _check_loose(s: State, top: Stmt) -> None:
    """Refuses statements of which nothing says what they touch."""
    stack: list[Stmt] = [top]
    while stack:
        x = stack.pop()
        if type(x) is Evaluate:
            s.fail(
                f"a statement stands outside any block: {x.value}",
                hint="put it into a block that says what it reads and writes",
                code="merge-loose",
                at=x,
            )
        if type(x) is not Block:
            stack += stmt_children(x)


def _check_threads(s: State, top: Stmt) -> None:
    """Refuses loops over blocks of threads, which would need to wait for each other."""
    for x in walk_stmt(top):
        if type(x) is For and x.thread is not None and x.thread.startswith("blockIdx"):
            s.fail(
                f"the loop {x.var.name} inside is bound to {x.thread}, and blocks of threads do "
                "not wait for each other between the bodies",
                hint="merge before binding",
                code="merge-thread",
                at=x,
            )


# ----------------------------------------------------------------------------- dependences
_Around: TypeAlias = Mapping[Var, tuple[Expr, Expr]]
_MANY = 2**40  # more than any loop runs


@dataclass(frozen=True, slots=True, eq=False)
class _Iterations:
    """Two iterations of the new loops that part at one of them: what the variables are in the
    earlier and in the later one, and the bounds of what they are made of."""

    earlier: Mapping[Var, Expr]
    later: Mapping[Var, Expr]
    bounds: Mapping[Var, tuple[int, int]]


def _check_apart(
    s: State, a: _Body, b: _Body, new: Sequence[For], around: _Around, loose: bool
) -> None:
    """`a` ran whole before `b`: iterations of `b` that now run before one of `a` must not touch
    its data; in a stage pipeline (not `loose`) those after it must not either."""
    for buffer, x, y, (does, may) in _conflicts(a, b):
        if _one_place_each(x, y, new):
            continue
        for level, f in enumerate(new):
            # the iterations of the one and of the other part at this loop
            pair = _iterations(new, level, around)
            before = _disjoint(x, y, pair.later, pair.earlier, pair.bounds)
            after = loose or _disjoint(x, y, pair.earlier, pair.later, pair.bounds)
            n = const_int(f.extent)
            if (before and after) or (n is not None and n == 1):
                continue
            place = f"{b.name} {does} {buffer.name} where {a.name} may {may} it"
            if not before:
                s.fail(
                    f"{place} in later iterations of the loop {f.var.name}: it would come first",
                    hint="merge loops further out only, or use compute_at, which moves what is "
                    "needed along",
                    code="merge-order",
                    at=[a.nest[-1], b.nest[-1]],
                )
            s.fail(
                f"{place} in earlier iterations of the loop {f.var.name}: its iterations would "
                "depend on each other",
                hint="merge loops further out only, or use compute_at, which computes again what "
                "several iterations need",
                code="merge-carried",
                at=[a.nest[-1], b.nest[-1]],
            )


_Conflict: TypeAlias = tuple[Buffer, tuple[Range, ...], tuple[Range, ...], tuple[str, str]]


def _conflicts(a: _Body, b: _Body) -> list[_Conflict]:
    """The buffers that both touch and one writes: where `a` does and where `b`, and what `b` does
    there and `a`."""
    out: list[_Conflict] = []
    for buffer, x in a.writes.items():
        if buffer in b.reads:
            out.append((buffer, x, b.reads[buffer], ("reads", "write")))
        if buffer in b.writes:
            out.append((buffer, x, b.writes[buffer], ("writes", "write")))
    for buffer, x in a.reads.items():
        if buffer in b.writes:
            out.append((buffer, x, b.writes[buffer], ("writes", "read")))
    return out


def _iterations(new: Sequence[For], level: int, around: _Around) -> _Iterations:
    """All pairs of iterations that agree in the loops before `level`."""
    earlier: dict[Var, Expr] = {}
    later: dict[Var, Expr] = {}
    bounds = {v: _inclusive(lo, n) for v, (lo, n) in around.items()}
    for k, f in enumerate(new):
        lo, hi = _inclusive(f.min, f.extent)
        if k <= level:
            bounds[f.var] = (lo, hi)
        if k == level:
            step = Var("step", f.var.dtype)
            bounds[step] = (1, hi)
            later[f.var] = build.add(f.var, step)
        elif k > level:
            for table in (earlier, later):
                table[f.var] = v = Var(f.var.name, f.var.dtype)
                bounds[v] = (lo, hi)
    return _Iterations(earlier, later, bounds)


def _inclusive(first: Expr, extent: Expr) -> tuple[int, int]:
    lo, n = const_int(first), const_int(extent)
    return (-_MANY if lo is None else lo, _MANY if lo is None or n is None else lo + n - 1)


def _disjoint(
    x: Sequence[Range],
    y: Sequence[Range],
    at_x: Mapping[Var, Expr],
    at_y: Mapping[Var, Expr],
    bounds: Mapping[Var, tuple[int, int]],
) -> bool:
    """Do two boxes, each at an iteration of its own, have no element in common? In one dimension,
    the one must end where the other begins, or before."""
    for p, q in zip(x, y, strict=True):
        first, end = substitute(p.min, at_x), substitute(build.add(p.min, p.extent), at_x)
        other, stop = substitute(q.min, at_y), substitute(build.add(q.min, q.extent), at_y)
        for low, high in ((stop, first), (end, other)):
            least, _ = sum_bounds(*minus(high, low), bounds)
            if least is not None and least >= 0:
                return True
    return False


def _one_place_each(x: Sequence[Range], y: Sequence[Range], new: Sequence[For]) -> bool:
    """Are the two boxes the same one, and those of different iterations apart? They are where they
    begin at multiples of a number, for which different iterations have different factors, and
    have no more elements than that number."""
    ranges = {}
    for f in new:
        n = const_int(f.extent)
        if n is None:
            return False
        ranges[f.var] = (0, n)
    own = set(ranges)
    places: list[Expr] = []
    for p, q in zip(x, y, strict=True):
        if not (same(p.min, q.min) and same(p.extent, q.extent)):
            continue
        terms, _ = linear(p.min)
        moving = {e: c for e, c in terms.items() if free_vars(e) & own}
        n = const_int(p.extent)
        if not moving or n is None or any(free_vars(e) - own for e in moving):
            continue
        unit = _unit(list(moving.values()))
        if unit is not None and (n is unit or n <= unit):
            parts = {e: 1 if c is unit else c // unit for e, c in moving.items()}
            places.append(from_linear(parts, 0, p.min.dtype))
    return bool(places) and detect_iter_map(places, ranges) is not None


def _unit(factors: Sequence[int]) -> int | None:
    """A number that divides all factors."""
    if len(factors) == 1:
        return factors[0] if factors[0] > 0 else None
    if all(type(c) is int for c in factors):
        return math.gcd(*factors)
    return None


# ----------------------------------------------------------------------------- where it goes
def _placed(s: State, top: Link, nests: Sequence[For], merged: Stmt) -> list[Stmt]:
    """The statements of the sequence with the merged nest where the first one was, or the last,
    if what stands between lets the others pass."""
    assert type(top.node) is Seq
    items, views = top.node.items, _views(top)
    at = [next(k for k, x in enumerate(items) if x is f) for f in nests]
    between = [k for k in range(at[0], at[-1]) if k not in at]
    for k in between:
        _check_loose(s, items[k])
    up = next(
        ((k, n) for k in between for n in at if n > k and _clash(items[k], items[n], views)), None
    )
    down = next(
        ((k, n) for k in between for n in at if n < k and _clash(items[k], items[n], views)), None
    )
    if up is not None and down is not None:
        s.fail(
            "what stands between the nests uses the data of both, and can be passed by neither",
            hint="merge with it too, or move it with compute_at or reverse_compute_at",
            code="merge-between",
            at=[items[up[0]], *nests],
        )
    place = at[0] if up is None else at[-1]
    return [merged if k == place else x for k, x in enumerate(items) if k == place or k not in at]


def _clash(a: Stmt, b: Stmt, views: _Views) -> bool:
    """Does one of the two statements write what the other touches?"""
    (reads, writes), (others, theirs) = _touched(a, views), _touched(b, views)
    return any(x in theirs or x in others for x in writes) or any(x in theirs for x in reads)
