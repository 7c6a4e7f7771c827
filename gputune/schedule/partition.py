"""How does a loop become several loops, one after the other? loop_partition."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import build
from ..ir.affine import from_linear, linear
from ..ir.boxes import domain
from ..ir.build import const_int
from ..ir.canonical import simplify
from ..ir.intervals import bounds
from ..ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    Buffer,
    Expr,
    For,
    IntImm,
    IterKind,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.regions import access_regions
from ..ir.walk import (
    all_exprs,
    free_vars,
    map_stmt,
    mentioned,
    rename_blocks,
    replace_buffers,
    substitute,
    substitute_stmt,
    uses_var,
    walk_stmt,
)
from .analysis import Loops, as_long, blocks_below, loop_ranges, loose_fault
from .handles import ExprRV, LoopRV
from .primitive import primitive
from .reduce import check_starts, update_reads
from .sampling import MOST_FACTORS
from .state import State
from .tree import Link, block_with


@primitive("LoopPartition", inputs=("loop", "factors"), flat="factors")
def loop_partition(
    s: State,
    loop: LoopRV,
    factors: Sequence[ExprRV | int | None],
    preserve_unit_iters: bool = True,
) -> list[LoopRV]:
    """Replace one loop by several, one after the other, each with a copy of the body.

    All of it goes into a block `<block>_<loop>_common`, which holds a block
    `<block>_<loop><k>_partition` around each new loop `<loop><k>`; a block inside becomes
    `<name>_<loop><k>`. The new loops begin at 0, so that they can be split and fused; where each of
    them is, is added in the bindings. The loops outside go on as iterators of the common block. A
    loop that drives a reduction initialises in the first copy, and the others only update.

    Args:
        loop: serial, of constant extent, without annotation or thread binding.
        factors: how many iterations the new loops have, in order; one may be None: the rest. With
            no None, a last loop gets the rest. There is always a rest: the sum is smaller than the
            extent.
        preserve_unit_iters: keep loops of extent 1 in the block bindings.

    Returns:
        The new loops. The old loop, and the blocks and loops inside, are gone.

    Raises:
        ScheduleError: the loop is not plain, or its extent not constant; more than one None; a
            factor is not positive; the sum of the factors is not smaller than the extent; nothing
            inside is a block, or a statement stands outside of any; a reduction inside would lose
            its beginning: a loop further out drives it too, this one drives its place as well, or
            comes back to its beginning.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> i0, i1 = sch.loop_partition(i, [5])
        >>> b = sch.get(sch.get_block("B_i1")); sch.get(i1).extent.value, str(b.iter_values[0])
        (3, 'i1 + 5')
    """
    link = s.loop(loop)
    f = link.loop()
    require_plain(s, f, "partition")
    sizes = _sizes(s, f, factors)
    inside = blocks_below(link)
    if not inside:
        s.fail(
            f"the loop {f.var.name} is above no block",
            hint="partition a loop that has a block inside",
            code="partition-blocks",
            at=f,
        )
    loose = loose_fault(f, {w.buffer for x in inside for w in x.block().writes})
    if loose:
        s.fail(loose, hint="partition loops above blocks only", code="partition-loose", at=f)
    cut = {x.block().key for x in inside if _is_cut(s, x, link, sizes[0])}
    func = s.func_of(inside[0].block().key)
    taken = set(s.tree(func).names)
    iters, table = _outside(link, inside)
    whole = substitute_stmt(f, table)
    inner = _freed(whole, {iv.var for iv in iters}, {})
    assert type(whole) is For
    assert type(inner) is For
    prefix = f"{inside[0].block().name}_{f.var.name}"
    common = _named(f"{prefix}_common", taken)
    fixed = _bound_outside(s, func, link)
    start, new, parts = whole.min, [], []
    for k, n in enumerate(sizes):
        v = Var(f"{f.var.name}{k}", f.var.dtype)
        count = IntImm(n, f.var.dtype)
        own = _named(f"{prefix}{k}_partition", taken)
        body = _narrowed(inner, inner.body, start, count, cut if k else set(), k, taken)
        value = build.add(v, start) if preserve_unit_iters or n != 1 else start
        body = _copied(substitute_stmt(body, {f.var: value}), fixed)
        zero = IntImm(0, f.var.dtype)
        parts.append(_wrapped(own, (), (), For(v, zero, count, "serial", body)))
        new.append(v)
        start = build.add(start, count)
    around = _wrapped(common, iters, tuple(table), whole)  # touches what the loop touched
    s.replace(link, block_with(around, body=build.seq(*parts)))
    return [s.mint_loop(v) for v in new]


def require_plain(s: State, f: For, what: str) -> None:
    """Refuses a loop that is not serial, or carries an annotation or a thread binding."""
    if f.annotations or f.thread is not None:
        s.fail(
            f"the loop {f.var.name} has annotation or thread binding",
            hint=f"{what} before annotating or binding, or unannotate it first",
            code="loop-annotated",
            at=f,
        )
    if f.kind != "serial":
        s.fail(
            f"the loop {f.var.name} is {f.kind}, which {what} would lose",
            hint=f"{what} first, then make the new loops {f.kind}",
            code="loop-kind",
            at=f,
        )


def _sizes(s: State, f: For, factors: Sequence[ExprRV | int | None]) -> list[int]:
    """How many iterations each new loop has."""
    if not factors:
        s.fail(
            "no factors given",
            hint="give how many iterations each new loop has, such as [4]",
            code="partition-factors",
            at=f,
        )
    if len(factors) > MOST_FACTORS:
        s.fail(
            f"{len(factors)} factors given, at most {MOST_FACTORS} are taken",
            hint="partition one of the new loops again",
            code="partition-factors",
            at=f,
        )
    given = [None if x is None else s.integer(x) for x in factors]
    shown = "[" + ", ".join("None" if x is None else str(int(x)) for x in given) + "]"
    holes = [k for k, x in enumerate(given) if x is None]
    if len(holes) > 1:
        s.fail(
            f"only one factor can be None, got {len(holes)} in {shown}",
            hint="give all factors but one",
            code="partition-none",
            at=f,
        )
    total = const_int(f.extent)
    if total is None:
        s.fail(
            f"the extent {f.extent} of the loop {f.var.name} is not constant",
            hint="split it first, and partition a loop of constant extent",
            code="partition-dynamic",
            at=f,
        )
    known = 0
    for x in given:
        if x is not None:
            if x <= 0:
                s.fail(
                    f"factors must be positive, got {shown}",
                    hint="use None for what is left",
                    code="partition-positive",
                    at=f,
                )
            known = x + known
    if known >= total:
        s.fail(
            f"the sum of factors {shown} is {int(known)}, larger than or equal to the extent "
            f"{int(total)}",
            hint="the last loop gets what is left: give factors that leave something",
            code="partition-sum",
            at=f,
        )
    rest = total - known
    sizes = [rest if x is None else x for x in given]
    return sizes if holes else [*sizes, rest]


def _is_cut(s: State, x: Link, at: Link, first: int) -> bool:
    """Is the block a reduction that the loop cuts in pieces? Only the first one then begins it."""
    b, f = x.block(), at.loop()
    if b.init is None:
        return False
    dom = domain(loop_ranges([y for y in x.loops() if _is_constant(y)]) or {})
    bound = [
        (iv, simplify(v, dom, keep_unit_vars=True))
        for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
    ]
    reduce = [(iv, v) for iv, v in bound if iv.kind == "reduce"]
    drives = frozenset().union(*[mentioned(v) for _, v in reduce])
    outer = next((y for y in at.loops() if y.var in drives), None)
    if outer is not None:
        s.fail(
            f"the loop {outer.var.name} outside drives the reduction of block {b.name}, which "
            f"would go on in blocks that do not see its beginning",
            hint=f"decompose_reduction at {outer.var.name} first, or partition {outer.var.name}",
            code="partition-reduction",
            at=[outer, f, b],
        )
    if f.var not in drives:
        return False
    if any(uses_var(v, f.var) for iv, v in bound if iv.kind != "reduce"):
        s.fail(
            f"the loop {f.var.name} drives spatial and reduce iterators of block {b.name}: a new "
            "loop could begin in the middle of a reduction",
            hint="split it, so that a loop drives the one or the other",
            code="partition-mixed",
            at=[f, b],
        )
    check_starts(s, x)
    if not any(_is_past(iv, v, x, f, first) for iv, v in reduce):
        s.fail(
            f"the loop {f.var.name} comes back to the beginning of the reduction of block {b.name}",
            hint="decompose_reduction first",
            code="partition-restart",
            at=[f, b],
        )
    return True


def _is_constant(f: For) -> bool:
    return const_int(f.min) is not None and const_int(f.extent) is not None


def _is_past(iv: IterVar, value: Expr, x: Link, f: For, first: int) -> bool:
    """Is an iterator past its beginning from the second new loop on?"""
    if value is f.var:
        return as_long(iv.dom.min, f.min)  # `first` is positive
    ranges = loop_ranges([y for y in x.loops() if _is_constant(y)]) or {}
    if f.var in ranges:
        lo, n = ranges[f.var]
        ranges[f.var] = (lo + first, n - first)
    least, _ = bounds(value, domain(ranges))
    begin = const_int(iv.dom.min)
    return least is not None and begin is not None and bool(least > begin)


def _outside(link: Link, inside: Sequence[Link]) -> tuple[tuple[IterVar, ...], dict[Var, Expr]]:
    """Iterators of the common block for the loops outside that are used inside, by loop."""
    used: set[Var] = set()
    for e in all_exprs(link.node):
        used |= mentioned(e)
    iters: list[IterVar] = []
    table: dict[Var, Expr] = {}
    for f in link.loops():
        if f.var in used:
            table[f.var] = v = Var(f"v{f.var.name}", f.var.dtype)
            iters.append(IterVar(v, Range(f.min, f.extent), _kind_over(f.var, inside)))
    return tuple(iters), table


def _kind_over(v: Var, inside: Sequence[Link]) -> IterKind:
    """What a loop outside is to all of the blocks: spatial if it is to each of them."""
    kinds: set[IterKind] = set()
    for x in inside:
        b = x.block()
        mine = {
            iv.kind
            for iv, value in zip(b.iter_vars, b.iter_values, strict=True)
            if uses_var(value, v)
        }
        kinds |= mine or {"opaque"}
    return kinds.pop() if len(kinds) == 1 else "opaque"


def _freed(x: Stmt, outer: set[Var], loops: Loops) -> Stmt:
    """The statement with what the iterators of the common block contribute to those of a block
    inside added where they are used: an iterator then is of the loops around it alone."""
    if not outer:
        return x
    if type(x) is For and _is_constant(x):
        loops = {**loops, **(loop_ranges([x]) or {})}
    if type(x) is not Block:
        out = map_stmt(x, lambda e: e, lambda y: _freed(y, outer, loops))
        assert out is not None  # nothing is deleted
        return out
    iters: list[IterVar] = []
    values: list[Expr] = []
    table: dict[Var, Expr] = {}
    for iv, v in zip(x.iter_vars, x.iter_values, strict=True):
        own, rest = _divided(v, outer)
        lo, hi = bounds(rest, domain(loops))
        if own is None or lo is None or hi is None:
            iters.append(iv)
            values.append(v)
        elif type(rest) is IntImm:
            table[iv.var] = v
        else:
            new = Var(iv.var.name, iv.var.dtype)
            dom = Range(IntImm(lo, new.dtype), IntImm(hi - lo + 1, new.dtype))
            iters.append(IterVar(new, dom, iv.kind))
            values.append(rest)
            table[iv.var] = build.add(own, new)
    if not table:
        return x
    inside = substitute_stmt(block_with(x, iter_vars=(), iter_values=()), table)
    assert type(inside) is Block
    return block_with(inside, iter_vars=tuple(iters), iter_values=tuple(values))


def _divided(e: Expr, outer: set[Var]) -> tuple[Expr | None, Expr]:
    """What `outer` contributes to a sum (None: nothing, or not as a term of its own), and the
    rest."""
    terms, const = linear(e)
    mine = {a: c for a, c in terms.items() if free_vars(a) & outer}
    if not mine or any(free_vars(a) - outer for a in mine):
        return None, e
    rest = {a: c for a, c in terms.items() if a not in mine}
    return from_linear(mine, 0, e.dtype), from_linear(rest, const, e.dtype)


def _wrapped(name: str, iters: tuple[IterVar, ...], values: tuple[Expr, ...], body: Stmt) -> Block:
    """A block around a statement, with what it touches."""
    bare = Block(BlockKey(), name, iters, values, build.TRUE, (), (), body)
    reads, writes = access_regions(bare)
    return block_with(bare, reads=reads, writes=writes)


def _named(name: str, taken: set[str]) -> str:
    """A block name that is not taken; it then is."""
    found = name
    k = 0
    while found in taken:
        k += 1
        found = f"{name}_{k}"
    taken.add(found)
    return found


def _narrowed(
    f: For, x: Stmt, start: Expr, count: IntImm, cut: set[BlockKey], k: int, taken: set[str]
) -> Stmt:
    """The body for the iterations from `start` on: iterators that are the loop run through them
    only, and the blocks in `cut` no longer begin their reduction."""
    if type(x) is Block:
        b = x
        if b.key in cut:
            b = block_with(b, init=None, reads=update_reads(b))
        doms = [
            IterVar(iv.var, Range(start, count), iv.kind)
            if v is f.var and as_long(iv.dom.min, f.min) and as_long(iv.dom.extent, f.extent)
            else iv
            for iv, v in zip(b.iter_vars, b.iter_values, strict=True)
        ]
        return _renamed(block_with(b, iter_vars=tuple(doms)), f"{f.var.name}{k}", taken)
    out = map_stmt(x, lambda e: e, lambda y: _narrowed(f, y, start, count, cut, k, taken))
    assert out is not None  # nothing is deleted
    return out


def _renamed(x: Stmt, suffix: str, taken: set[str]) -> Stmt:
    """The statement with the suffix on the names of all blocks."""
    if type(x) is Block:
        x = block_with(x, name=_named(f"{x.name}_{suffix}", taken))
    out = map_stmt(x, lambda e: e, lambda y: _renamed(y, suffix, taken))
    assert out is not None  # nothing is deleted
    return out


# ----------------------------------------------------------------------------- copies
def _bound_outside(s: State, func: str, link: Link) -> set[Var]:
    """The variables that buffers outside the loop have in their shapes and layouts."""
    buffers = list(s.mod.functions[func].buffers)
    for up in link.above():
        if type(up.node) is Block:
            buffers += [*up.node.alloc_buffers, *(m.buffer for m in up.node.match_buffers)]
    return {v for b in buffers for e in _layout(b) for v in free_vars(e)}


def _layout(b: Buffer) -> tuple[Expr, ...]:
    return (*b.shape, *(b.strides or ()), *(() if b.elem_offset is None else (b.elem_offset,)))


def _copied(x: Stmt, fixed: set[Var]) -> Stmt:
    """The statement with all that it defines made anew: loops, blocks, iterators, buffers, and the
    variables that its views bind (those that are not in `fixed`)."""
    x = rename_blocks(x)
    buffers: list[Buffer] = []
    names: dict[Var, Expr] = {}
    for y in walk_stmt(x):
        if type(y) is Alloc:
            buffers.append(y.buffer)
        elif type(y) is Block:
            buffers += y.alloc_buffers
            for m in y.match_buffers:
                buffers.append(m.buffer)
                for e in _layout(m.buffer):
                    if type(e) is Var and e not in fixed:
                        names.setdefault(e, Var(e.name, e.dtype))
    if not buffers:
        return x

    def again(b: Buffer) -> Buffer:
        shape = tuple([substitute(e, names) for e in b.shape])
        strides = None if b.strides is None else tuple([substitute(e, names) for e in b.strides])
        offset = None if b.elem_offset is None else substitute(b.elem_offset, names)
        return Buffer(b.name, shape, b.dtype, b.scope, strides, offset, b.align)

    return replace_buffers(substitute_stmt(x, names), {b: again(b) for b in buffers})
