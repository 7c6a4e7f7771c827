"""Primitives that change loops: split, fuse, reorder, add_unit_loop, parallel, vectorize, unroll,
bind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

from ..errors import ScheduleError
from ..ir import build
from ..ir.affine import linear, same
from ..ir.build import const_int, is_literal
from ..ir.depends import depends_on
from ..ir.nodes import (
    BinOp,
    Block,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    IterVar,
    LetStmt,
    Range,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import (
    map_stmt,
    mentioned,
    stmt_exprs,
    substitute,
    substitute_stmt,
    uses_var,
    walk_expr,
    walk_stmt,
)
from .analysis import (
    binding_is_affine,
    blocks_below,
    is_plainly_whole,
    kind_of,
    loose_fault,
    reads_own_elsewhere,
)
from .handles import BlockRV, ExprRV, LoopRV
from .primitive import primitive
from .recognise import takes_any_order
from .sampling import MOST_FACTORS
from .state import State
from .tree import Link, block_with, with_body

THREAD_AXES = (
    "blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z",
    "vthread", "vthread.x", "vthread.y", "vthread.z",
)  # fmt: skip


def substitute_loops(
    s: Stmt,
    table: Mapping[Var, Expr],
    predicate: Expr | None = None,
    affine: dict[tuple[Expr, ...], bool] | None = None,
) -> Stmt:
    """`s` with loop variables replaced where they may stand: loop bounds, conditions, and the
    bindings of the outermost blocks, which also get `predicate` (what no block holds, and what
    could fail where the predicate is false, comes under a condition). With `affine`, new bindings
    of blocks whose old ones are in it are added to it."""
    t = type(s)
    if predicate is not None and _needs_condition(s):
        return IfThenElse(predicate, substitute_loops(s, table))
    if t is For:
        body = substitute_loops(s.body, table, predicate, affine)  # type: ignore[union-attr]  # t is the
        lo, ext = s.min, s.extent  # type: ignore[union-attr]  # class of s, here and below
        if type(lo) is not IntImm or type(ext) is not IntImm:
            lo, ext = substitute(lo, table), substitute(ext, table)
        if body is s.body and lo is s.min and ext is s.extent:  # type: ignore[union-attr]
            return s
        return For(s.var, lo, ext, s.kind, body, s.thread, s.annotations)  # type: ignore[union-attr]
    if t is Seq:
        return Seq(tuple([substitute_loops(c, table, predicate, affine) for c in s.items]))  # type: ignore[union-attr]
    if t is Block:
        return _substitute_binding(s, table, predicate, affine)  # type: ignore[arg-type]
    out = map_stmt(
        s, lambda e: substitute(e, table), lambda c: substitute_loops(c, table, predicate, affine)
    )
    assert out is not None  # substitution deletes nothing
    return out


def _affine_below(s: State, link: Link) -> dict[tuple[Expr, ...], bool]:
    """The known affine bindings, with those of the blocks below a loop that is to be rewritten by a
    bijection."""
    for b in blocks_below(link):
        values = b.block().iter_values
        if values and values not in s.affine and _uses_all(b) and binding_is_affine(b, s):
            s.affine[values] = is_plainly_whole(b)
    return s.affine


def _uses_all(b: Link) -> bool:
    """Does every loop above a block drive an iterator? (Where one does not, the binding is affine
    only if it runs once, and whether a sampled extent is 1 is not asked without need.)"""
    used: set[Var] = set().union(*map(mentioned, b.block().iter_values))
    if not all(f.var in used or is_literal(f.extent, 1) for f in b.loops()):
        return False
    parts: dict[Expr, set[str]] = {}
    for value in b.block().iter_values:
        for atom in linear(value)[0]:
            if type(atom) is BinOp and type(atom.b) is IntImm and type(atom.b.value) is not int:
                parts.setdefault(atom.a, set()).add(atom.op)
    return all(len(ops) > 1 for ops in parts.values())  # quotient and remainder


def _needs_condition(s: Stmt) -> bool:
    t = type(s)
    if t is For or t is IfThenElse or t is LetStmt:
        return any(map(_may_fail, stmt_exprs(s)))
    if t is Block:
        return any(map(_may_fail, (*s.iter_values, s.predicate)))  # type: ignore[union-attr]
    return t is not Seq


def _may_fail(e: Expr) -> bool:
    """Could evaluating it be an error at an iteration that does not exist?"""
    if type(e) is Var or type(e) is IntImm:
        return False
    return any(
        type(x) is BufferLoad
        or (type(x) is BinOp and x.op in _DIVISIONS and type(x.b) is not IntImm)
        for x in walk_expr(e)
    )


_DIVISIONS = frozenset({"/", "//", "%", "truncmod"})


def _substitute_binding(
    b: Block,
    table: Mapping[Var, Expr],
    predicate: Expr | None,
    affine: dict[tuple[Expr, ...], bool] | None,
) -> Block:
    if not b.iter_vars and b.name != "root":  # an opaque block may use the loops directly
        b = substitute_stmt(b, table)  # type: ignore[assignment]  # a block stays a block
    values = tuple([substitute(v, table) for v in b.iter_values])
    if affine is not None and b.iter_values in affine:
        affine[values] = affine[b.iter_values]
    pred = substitute(b.predicate, table)
    if predicate is not None:
        pred = build.logical_and(pred, predicate)
    return block_with(b, iter_vars=_domains(b.iter_vars, table), iter_values=values, predicate=pred)


def _domains(iters: tuple[IterVar, ...], table: Mapping[Var, Expr]) -> tuple[IterVar, ...]:
    """The iterators with loop variables replaced in their domains."""
    for iv in iters:
        if type(iv.dom.min) is not IntImm or type(iv.dom.extent) is not IntImm:
            return tuple([IterVar(x.var, _range(x.dom, table), x.kind) for x in iters])
    return iters


def _range(r: Range, table: Mapping[Var, Expr]) -> Range:
    return Range(substitute(r.min, table), substitute(r.extent, table))


def _plain(s: State, link: Link, what: str) -> For:
    """The loop, which must be serial, start at 0, and carry no annotation."""
    f = link.loop()
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
    if not is_literal(f.min, 0):
        s.fail(
            f"the loop {f.var.name} starts at {f.min}, not 0",
            hint="write the loop as range(n), with the offset in the indices",
            code="loop-start",
            at=f,
        )
    return f


@primitive("Split", inputs=("loop", "factors"), flat="factors", quiet=("disable_predication",))
def split(
    s: State,
    loop: LoopRV,
    factors: Sequence[ExprRV | int | None],
    preserve_unit_iters: bool = True,
    disable_predication: bool = False,
) -> list[LoopRV]:
    """Replace one loop by a nest of loops.

    Args:
        loop: serial, from 0, without annotation or thread binding.
        factors: extents of the new loops, outermost first; one may be None, which is inferred.
            If the product is larger than the extent, the blocks inside get a predicate.
        preserve_unit_iters: keep loops of extent 1 in the block bindings.
        disable_predication: leave that predicate out, which is refused where it is needed: where
            the product is not known to be the extent. A schedule with `enable_check=False` takes
            the caller's word for it; what replays its trace does not.

    Returns:
        The new loops.

    Raises:
        ScheduleError: the loop is not plain; more than one None; a factor is not positive; the
            product is smaller than the extent; `disable_predication` where the product may be
            larger.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> i0, i1 = sch.split(i, [None, 4])
        >>> sch.get(i1).extent.value
        4
    """
    link = s.loop(loop)
    f = _plain(s, link, "split")
    if not factors:
        s.fail(
            "no factors given",
            hint="give one factor for each new loop, such as [None, 4]",
            code="split-factors",
            at=f,
        )
    if len(factors) > MOST_FACTORS:
        s.fail(
            f"{len(factors)} factors given, at most {MOST_FACTORS} are taken",
            hint="split in several steps, or into fewer loops",
            code="split-factors",
            at=f,
        )
    sizes = [None if x is None else s.integer(x) for x in factors]
    holes = [k for k, x in enumerate(sizes) if x is None]
    if len(holes) > 1:
        s.fail(
            f"only one factor can be None, got {len(holes)} in {_show(sizes)}",
            hint="give all but one as integers",
            code="split-none",
            at=f,
        )
    known = 1
    for x in sizes:
        if x is not None:
            if x <= 0:
                s.fail(
                    f"factors must be positive, got {_show(sizes)}",
                    hint="use None for the factor to infer",
                    code="split-positive",
                    at=f,
                )
            known = x * known
    total = const_int(f.extent)
    extents: list[Expr] = []
    dtype = f.var.dtype
    if total is None:
        if not holes:
            s.fail(
                f"the extent {f.extent} is not constant",
                hint="leave one factor as None",
                code="split-dynamic",
                at=f,
            )
        inferred = build.floordiv(
            build.add(f.extent, IntImm(known - 1, dtype)), IntImm(known, dtype)
        )
        extents = [inferred if x is None else IntImm(x, dtype) for x in sizes]
        perfect = False
    else:
        if holes:
            sizes[holes[0]] = -(-total // known)
            known = known * (-(-total // known))
        if known < total:
            s.fail(
                f"the product of factors {_show(sizes)} is {int(known)}, smaller than the extent "
                f"{int(total)}",
                hint="leave one factor as None, or use larger factors",
                code="split-product",
                at=f,
            )
        perfect = bool(known == total)
        extents = [IntImm(x, dtype) for x in sizes if x is not None]
    new = [Var(f"{f.var.name}_{k}", dtype) for k in range(len(extents))]
    value = _positional(new, extents, preserve_unit_iters)
    predicate = None
    if not perfect and not disable_predication:
        predicate = build.lt(value, f.extent)
    elif not perfect and s.enable_check:
        _check_exact(s, f, sizes, known)
    affine = _affine_below(s, link) if perfect and preserve_unit_iters else None
    body = substitute_loops(f.body, {f.var: value}, predicate, affine)
    for v, e in zip(reversed(new), reversed(extents), strict=True):
        body = For(v, IntImm(0, dtype), e, "serial", body)
    s.replace(link, body)
    return [s.mint_loop(v) for v in new]


def _check_exact(s: State, f: For, sizes: Sequence[int | None], known: int) -> None:
    """Refuses to leave out the predicate of a split that may run past the extent."""
    total = const_int(f.extent)
    if total is None and is_literal(build.floormod(f.extent, IntImm(known, f.var.dtype)), 0):
        return
    what = (
        f"the factors {_show(sizes)} may not divide the extent {f.extent}"
        if total is None
        else f"the product of factors {_show(sizes)} is {int(known)}, the extent {int(total)}"
    )
    s.fail(
        f"{what}: without a predicate the loop {f.var.name} would run past its end",
        hint="leave disable_predication out, or use factors whose product is the extent",
        code="split-predicate",
        at=f,
    )


def _positional(digits: Sequence[Var], extents: Sequence[Expr], preserve: bool) -> Expr:
    """The number with these digits: `d0*(e1*e2) + d1*e2 + d2`."""
    dtype = digits[0].dtype
    weight: Expr = IntImm(1, dtype)
    terms: list[Expr] = []
    for d, e in zip(reversed(digits), reversed(extents), strict=True):
        if preserve and type(weight) is IntImm and not is_literal(weight, 1):
            terms.append(BinOp("*", d, weight, dtype))  # there is nothing to fold
        else:
            terms.append(build.mul(_unit(d, e, preserve), weight))
        if len(terms) < len(digits):
            weight = _product(e, weight)
    value = terms.pop()
    if preserve:
        while terms:
            value = BinOp("+", value, terms.pop(), dtype)
        return value
    while terms:
        value = build.add(value, terms.pop())
    return value


def _product(a: Expr, b: Expr) -> Expr:
    """`build.mul` of two extents."""
    if type(a) is IntImm and type(b) is IntImm and a.dtype == b.dtype == "int32":
        n = a.value * b.value
        if type(n) is not int or n < 2**31:
            return IntImm(n, "int32")
    return build.mul(a, b)


def _unit(v: Var, extent: Expr, preserve: bool) -> Expr:
    if not preserve:
        n = const_int(extent)
        if n is not None and n == 1:
            return IntImm(0, v.dtype)
    return v


def _show(sizes: Sequence[int | None]) -> str:
    return "[" + ", ".join("None" if x is None else str(int(x)) for x in sizes) + "]"


@primitive("Fuse", inputs=("loop_rvs",))
def fuse(s: State, *loop_rvs: LoopRV, preserve_unit_iters: bool = True) -> LoopRV:
    """Replace consecutive loops by one.

    Args:
        loop_rvs: outermost first; each the only child of the one before; serial, from 0, without
            annotation or thread binding, and with extents that do not depend on each other.
        preserve_unit_iters: keep loops of extent 1 in the block bindings.

    Returns:
        The fused loop.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.get(sch.fuse(i, j)).extent.value
        64
    """
    if not loop_rvs:
        s.fail(
            "needs at least one loop",
            hint="give the loops from the outside in, such as fuse(i, j)",
            code="fuse-none",
        )
    links = [s.loop(x) for x in loop_rvs]
    loops = [_plain(s, x, "fuse") for x in links]
    for outer, inner in pairwise(loops):
        if outer.body is not inner:
            _explain_gap(s, links, outer, inner)
        if type(inner.extent) is not IntImm and uses_var(inner.extent, {x.var for x in loops}):
            s.fail(
                f"the extent {inner.extent} of loop {inner.var.name} depends on another loop",
                hint="only loops whose extents are the same in every iteration can be fused",
                code="fuse-dependent",
                at=inner,
            )
    dtype = loops[0].var.dtype
    for x in loops[1:]:
        dtype = x.var.dtype if x.var.dtype == "int64" else dtype
    fused = Var("_".join(x.var.name for x in loops) + "_fused", dtype)
    table: dict[Var, Expr] = {}
    total: Expr = IntImm(1, dtype)
    for k in range(len(loops) - 1, -1, -1):
        x = loops[k]
        extent = build.cast(dtype, x.extent)
        value = build.floordiv(fused, total)
        if k > 0:
            value = build.floormod(value, extent)
        if not preserve_unit_iters:
            n = const_int(x.extent)
            if n is not None and n == 1:
                value = IntImm(0, dtype)
        table[x.var] = build.cast(x.var.dtype, value)
        total = _product(extent, total)
    affine = _affine_below(s, links[0]) if preserve_unit_iters else None
    body = substitute_loops(loops[-1].body, table, affine=affine)
    s.replace(links[0], For(fused, IntImm(0, dtype), total, "serial", body))
    return s.mint_loop(fused)


def _explain_gap(s: State, links: Sequence[Link], outer: For, inner: For) -> None:
    below = next((x for x in links if x.node is inner), None)
    assert below is not None
    if any(x.node is outer for x in below.above()):
        s.fail(
            f"the loop {inner.var.name} is not the only child of {outer.var.name}",
            hint="reorder the loops so that they are next to each other",
            code="fuse-only-child",
            at=[outer, inner],
        )
    s.fail(
        f"the loop {outer.var.name} is not the parent of {inner.var.name}",
        hint="give the loops outermost first",
        code="fuse-parent",
        at=[outer, inner],
    )


@primitive("Reorder", inputs=("loop_rvs",))
def reorder(s: State, *loop_rvs: LoopRV) -> None:
    """Put loops of one chain into the given order; other loops of the chain stay where they are.

    Args:
        loop_rvs: on one chain (each node between them has one child), each once.

    Raises:
        ScheduleError: the loops are not on one chain or one appears twice; the bounds of an outer
            loop would depend on an inner one; a block below has bindings that are not affine or
            iterators that are neither spatial nor reduce, or reads what its other iterations
            write; a reduction whose result depends on the order would run in another one.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.reorder(j, i)
        >>> [sch.get(x).var.name for x in sch.get_loops(sch.get_block("B"))]
        ['j', 'i']
    """
    if not loop_rvs:
        s.fail(
            "needs at least one loop",
            hint="give the loops in the order wanted, such as reorder(j, i)",
            code="reorder-none",
        )
    links = [s.loop(x) for x in loop_rvs]
    wanted = [x.loop() for x in links]
    names = {x.var for x in wanted}
    if len(names) != len(wanted):
        twice = next(x for k, x in enumerate(wanted) if x in wanted[:k])
        s.fail(
            f"the loop {twice.var.name} appears multiple times",
            hint="name each loop once",
            code="reorder-twice",
            at=twice,
        )
    deepest = max(links, key=Link.depth)
    chain: list[Link] = []
    left = set(names)
    link: Link | None = deepest
    while link is not None and left:
        if type(link.node) is not For:
            break
        chain.append(link)
        left.discard(link.loop().var)
        link = link.up
    if left:
        lost = next(x for x in wanted if x.var in left)
        s.fail(
            f"the loops are not in a chain: {lost.var.name} is not on the single path to "
            f"{deepest.loop().var.name}",
            hint="take loops of one block: get_loops gives them, from the outside in",
            code="reorder-chain",
            at=[lost, deepest.node],
        )
    chain.reverse()
    order = iter(wanted)
    nest = [next(order) if x.loop().var in names else x.loop() for x in chain]
    moved = {x.var for x in nest}
    seen: set[Var] = set()
    for x in nest:
        for e in (x.min, x.extent):
            if type(e) is not IntImm and uses_var(e, moved - seen):
                s.fail(
                    f"the bounds of loop {x.var.name} depend on a loop that would be inside it",
                    hint="keep it inside the loop that it depends on",
                    code="reorder-dependent",
                    at=x,
                )
        seen.add(x.var)
    below = blocks_below(deepest)
    loose = loose_fault(deepest.node, {w.buffer for b in below for w in b.block().writes})
    if loose:
        s.fail(
            loose,
            hint="put the statement into a block, or take a loop that does not hold it",
            code="not-pipeline",
            at=deepest.node,
        )
    for b in below:
        _check_movable(s, b, alone=len(below) == 1)
        _check_order(s, b, [x.loop().var for x in chain], [x.var for x in nest])
    if len(below) > 1 and s.enable_check:
        fault = s.pipeline_fault(deepest.scope())
        if fault:
            s.fail(
                f"several blocks below, and {fault}",
                hint="each block of the scope must write its buffers alone and whole, in"
                " front of those that read them",
                code="not-pipeline",
                at=deepest.node,
            )
    body = deepest.loop().body
    for x in reversed(nest):
        body = with_body(x, body)
    s.replace(chain[0], body)


def _check_movable(s: State, b: Link, alone: bool) -> None:
    block = b.block()
    for iv in block.iter_vars:
        if iv.kind not in ("spatial", "reduce"):
            s.fail(
                f"block {block.name} has the {iv.kind} iterator {iv.var.name}",
                hint="it works on spatial and reduce iterators (S, R); blocks with scan "
                "or opaque ones stay as they are",
                code="iter-kind",
                at=block,
            )
    # a complete block does the same each time that its iterators have the same values
    repeats = alone and kind_of(b, s) == "complete"
    if not repeats and not binding_is_affine(b, s):
        s.fail(
            f"the bindings of block {block.name} are not an affine map of its loops",
            hint="the bindings must be sums, quotients and remainders of the loops, "
            "as T.axis.remap, split and fuse make them",
            code="not-affine",
            at=block,
        )


def _check_order(s: State, b: Link, old: Sequence[Var], new: Sequence[Var]) -> None:
    """The loops that drive a reduction keep their order, or the order does not matter."""
    block = b.block()
    if reads_own_elsewhere(block.reads, block.writes):
        s.fail(
            f"block {block.name} reads what its other iterations write",
            hint="its iterations have to run in the order in which they stand",
            code="reorder-own",
            at=block,
        )
    values = [
        v for iv, v in zip(block.iter_vars, block.iter_values, strict=True) if iv.kind != "spatial"
    ]
    if not values:
        return
    drive = frozenset().union(*map(mentioned, values)).intersection(old)
    if [v for v in old if v in drive] == [v for v in new if v in drive]:
        return
    spatial = [
        v for iv, v in zip(block.iter_vars, block.iter_values, strict=True) if iv.kind == "spatial"
    ]
    mixed = next((v for v in old if v in drive and any(uses_var(e, v) for e in spatial)), None)
    if block.init is not None and mixed is not None:
        s.fail(
            f"the loop {mixed.name} drives spatial and reduce iterators of block {block.name}, "
            "which would not start with its init in another order",
            hint="keep the loops that drive the reduction in their order",
            code="reorder-order",
            at=block,
        )
    if not order_free(block):
        s.fail(
            f"the result of block {block.name} depends on the order of its reduction loops",
            hint="keep the loops that drive the reduction in their order; sums, products, minima "
            "and maxima of one value each may run in any",
            code="reorder-order",
            at=block,
        )


def order_free(block: Block) -> bool:
    """Does the block only combine values into places by operators that take any order? A block made
    by blockize does if the one inside it does."""
    body = block.body
    while type(body) is For or type(body) is Block:
        if type(body) is Block and (body.init or body.alloc_buffers or body.match_buffers):
            return False
        body = body.body
    stores = body.items if type(body) is Seq else (body,)
    written = {w.buffer for w in block.writes}
    for x in stores:
        if type(x) is not BufferStore or x.predicate is not None or type(x.value) is not BinOp:
            return takes_any_order(block)
        op, a, b = x.value.op, x.value.a, x.value.b
        sides = ((a, b), (b, a)) if op in _COMMUTATIVE else ((a, b),) if op == "-" else ()
        if not any(
            type(acc) is BufferLoad
            and acc.buffer is x.buffer
            and all(map(same, acc.indices, x.indices))
            and not any(type(y) is BufferLoad and y.buffer in written for y in walk_expr(rest))
            for acc, rest in sides
        ):
            return takes_any_order(block)
    return True


_COMMUTATIVE = frozenset({"+", "*", "min", "max", "&", "|", "^", "and", "or"})


@primitive("AddUnitLoop", inputs=("block_or_loop",))
def add_unit_loop(s: State, block_or_loop: BlockRV | LoopRV) -> LoopRV:
    """Put a loop of extent 1 around a block or loop.

    Raises:
        ScheduleError: the block is the root block, or there are many loops around it already.

    Example:
        >>> sch = demo_schedule()
        >>> sch.get(sch.add_unit_loop(sch.get_block("B"))).extent.value
        1
    """
    link = s.block_or_loop(block_or_loop)
    if link.up is None:
        s.fail(
            "the root block has no loop around it",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=link.node,
        )
    depth = sum(type(x.node) is For for x in link.above())
    if depth >= MOST_FACTORS:
        s.fail(
            f"{depth} loops are around it already, at most {MOST_FACTORS} are taken",
            hint="fuse some of them first",
            code="too-deep",
            at=link.node,
        )
    u = Var("u")
    s.replace(link, For(u, IntImm(0), IntImm(1), "serial", link.node))
    return s.mint_loop(u)


def _mark(s: State, link: Link, kind: ForKind, thread: str | None = None) -> None:
    """Change the kind of a loop, once it is known to be legal."""
    f = link.loop()
    s.replace(link, For(f.var, f.min, f.extent, kind, f.body, thread, f.annotations))


_Takes: TypeAlias = Callable[[Block, For], bool]
"""May a loop drive the reduction of a block?"""


def _no_reduction(b: Block, f: For) -> bool:
    return False


def _any_reduction(b: Block, f: For) -> bool:
    return True


def _lanes_of_one(b: Block, f: For) -> bool:
    """Do all iterations of the loop combine into one element, in any order?"""
    places = [v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind != "reduce"]
    return takes_any_order(b) and not any(uses_var(v, f.var) for v in places)


def _check_independent(s: State, link: Link, what: str, reductions: _Takes = _no_reduction) -> None:
    """May the iterations of the loop run in any order, at once?"""
    f = link.loop()
    if f.kind not in ("serial", what):
        s.fail(
            f"the loop {f.var.name} is already {f.thread or f.kind}",
            hint="a loop runs in one way; split it to use both",
            code="loop-kind",
            at=f,
        )
    if not s.enable_check:
        return
    try:
        _check_blocks(s, link, reductions)
    except ScheduleError:
        n = const_int(f.extent)
        if n is None or n != 1:
            raise  # a loop that runs once may run anywhere


def _check_blocks(s: State, link: Link, reductions: _Takes) -> None:
    """May the blocks below a loop run for its iterations in any order, at once?"""
    f = link.loop()
    fault = s.pipeline_fault(link.scope())
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=f,
        )
    for b in blocks_below(link):
        block = b.block()
        kind = kind_of(b, s)
        if not kind:
            s.fail(
                f"block {block.name} is neither a complete nor a reduction block",
                hint="schedule the loop before decompose_reduction",
                code="not-complete",
                at=[f, block],
            )
        # a complete block that computes a point twice (the halo of a moved producer) stores the
        # same value twice; a reduction would add to it from two iterations at once
        if kind == "reduction" and not binding_is_affine(b, s):
            s.fail(
                f"the bindings of block {block.name} are not an affine map of its loops",
                hint="the bindings must be sums, quotients and remainders of the loops, "
                "as T.axis.remap, split and fuse make them",
                code="not-affine",
                at=[f, block],
            )
        for iv, value in zip(block.iter_vars, block.iter_values, strict=True):
            if iv.kind == "spatial" or not uses_var(value, f.var):
                continue
            if iv.kind != "reduce" or not reductions(block, f):
                s.fail(
                    f"the loop {f.var.name} feeds the {iv.kind} iterator {iv.var.name} of block "
                    f"{block.name}",
                    hint="use rfactor to make a reduction parallel"
                    if iv.kind == "reduce"
                    else "only spatial iterators run in any order",
                    code="feeds-reduce",
                    at=[f, block],
                )


@primitive("Parallel", inputs=("loop",))
def parallel(s: State, loop: LoopRV) -> None:
    """Run the iterations of a loop on the threads of the CPU.

    Raises:
        ScheduleError: the scope is not a stage pipeline; a block below is neither complete nor a
            reduction; a reduction has bindings that are not affine; the loop feeds an iterator that
            is not spatial; the loop is already bound or of another kind.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.parallel(i); sch.get(i).kind
        'parallel'
    """
    link = s.loop(loop)
    _check_independent(s, link, "parallel")
    _mark(s, link, "parallel")


@primitive("Vectorize", inputs=("loop",))
def vectorize(s: State, loop: LoopRV) -> None:
    """Run the iterations of a loop in the lanes of vector instructions.

    A loop may drive a reduction, if its elements may be combined in any order: lanes are combined
    with lanes until one is left. (To keep lanes apart over many iterations, use `rfactor` first.)

    Raises:
        ScheduleError: as `parallel`, but for such reductions; the extent is not constant.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.vectorize(j); sch.get(j).kind
        'vectorized'
    """
    link = s.loop(loop)
    _check_independent(s, link, "vectorized", _lanes_of_one)
    if const_int(link.loop().extent) is None:
        s.fail(
            f"the extent {link.loop().extent} of the loop is not constant",
            hint="split it by a constant factor first",
            code="vectorize-dynamic",
            at=link.node,
        )
    _mark(s, link, "vectorized")


@primitive("Unroll", inputs=("loop",))
def unroll(s: State, loop: LoopRV) -> None:
    """Write the iterations of a loop out one by one.

    Raises:
        ScheduleError: the loop is already parallel, vectorized or bound to threads.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.unroll(j); sch.get(j).kind
        'unrolled'
    """
    link = s.loop(loop)
    f = link.loop()
    if f.kind not in ("serial", "unrolled"):
        s.fail(
            f"the loop {f.var.name} is already {f.thread or f.kind}",
            hint="split it first",
            code="loop-kind",
            at=f,
        )
    _mark(s, link, "unrolled")


@primitive("Bind", inputs=("loop",))
def bind(s: State, loop: LoopRV, thread_axis: str) -> None:
    """Spread the iterations of a loop over the threads of a GPU.

    Args:
        loop: the loop.
        thread_axis: "blockIdx.x", "threadIdx.x" (or .y, .z), "vthread.x" (.y, .z) or "vthread".

    Raises:
        ScheduleError: the axis is unknown, or as `parallel`; a loop bound to threadIdx may feed
            reduce iterators (a cross-thread reduction). A loop inside (or around) it is bound to
            the same axis, with another extent or used together with this one; two such loops of
            threadIdx, of one extent, are the way in which threads fetch together what each of
            them needs. Loops beside each other may have different extents: the launch has the
            largest, and the threads past the end of a shorter loop sit it out.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.bind(i, "threadIdx.x"); sch.get(i).thread
        'threadIdx.x'
    """
    link = s.loop(loop)
    if thread_axis not in THREAD_AXES:
        s.fail(
            f"unknown thread axis {thread_axis!r}",
            hint=f"known: {', '.join(THREAD_AXES)}",
            code="thread-axis",
            at=link.node,
        )
    f = link.loop()
    if f.thread is not None and f.thread != thread_axis:
        s.fail(
            f"the loop {f.var.name} is already bound to {f.thread}",
            hint="split it and bind a part, or bind another loop",
            code="loop-kind",
            at=f,
        )
    takes = _any_reduction if thread_axis.startswith("threadIdx") else _no_reduction
    _check_independent(s, link, "thread_binding", takes)
    if s.enable_check and not thread_axis.startswith("vthread"):
        for x in link.above():
            if type(x.node) is For and x.node.thread == thread_axis:
                _check_one_axis(s, x.node, f, thread_axis)
        for y in walk_stmt(f.body):
            if type(y) is For and y.thread == thread_axis:
                _check_one_axis(s, f, y, thread_axis)
    _mark(s, link, "thread_binding", thread_axis)


def _check_one_axis(s: State, outer: For, inner: For, axis: str) -> None:
    """May two loops, one inside the other, run on one axis? A thread has one place on it, so it
    does the steps of both with that number alone."""
    loops = f"the loops {outer.var.name} and {inner.var.name}, one inside the other, on {axis}"
    m, n = const_int(outer.extent), const_int(inner.extent)
    if axis.startswith("blockIdx"):
        why = f"{loops}, which blocks of threads do not share"
    elif m is None or n is None or m != n:
        why = f"{loops} need one constant extent, they have {outer.extent} and {inner.extent}"
    elif depends_on(inner, outer):
        why = f"{loops} are used together, so that most of their iterations would run nowhere"
    else:
        return
    s.fail(why, hint="bind one of them to another axis", code="axis-twice", at=[outer, inner])
