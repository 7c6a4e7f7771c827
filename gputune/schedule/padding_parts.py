"""How is the padding that a block computes taken out of it? decompose_padding."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ScheduleError
from ..ir import build
from ..ir.affine import linear, same
from ..ir.arith import simplify_stmt
from ..ir.build import const_int, is_literal
from ..ir.nodes import (
    BinOp,
    Block,
    BufferStore,
    Call,
    Expr,
    FloatImm,
    For,
    IntImm,
    IterVar,
    Range,
    Select,
    Stmt,
    Var,
)
from ..ir.regions import access_regions, without_explicit
from ..ir.walk import (
    blocks,
    free_vars,
    loads,
    rename_blocks,
    substitute,
    substitute_stmt,
    uses_var,
)
from .analysis import conjuncts, guard_above, kind_of
from .handles import BlockRV, LoopRV
from .memory import fresh_name
from .primitive import primitive
from .state import State, is_spelled
from .tree import Link, block_with, with_body


@primitive("DecomposePadding", inputs=("block", "loop"))
def decompose_padding(s: State, block: BlockRV | str, loop: LoopRV) -> BlockRV:
    """Split a block that pads into one that fills everything with the constant, placed before a
    loop, and one that copies what is inside.

    Args:
        block: complete; its body stores `T.if_then_else(condition, value, constant)`, the condition
            in terms of the block's iterators.
        loop: a loop above the block; from it on the loops are the block's own.

    Returns:
        The block that fills, named `<block>_pad_const`.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); sch.pad_einsum(b, [5, 1])
        >>> sch.get(sch.decompose_padding("A_pad", sch.get_loops(sch.get_block("A_pad"))[0])).name
        'A_pad_pad_const'
    """
    link, at = s.block(block), s.loop(loop)
    condition, value, constant, below = _padding_parts(s, link, at)
    b = link.block()
    store = b.body
    assert type(store) is BufferStore
    name = fresh_name(s, s.func_of(b.key), f"{b.name}_pad_const")
    fill: Stmt = block_with(
        b,
        name=name,
        body=BufferStore(store.buffer, constant, store.indices),
        reads=(),
        annotations=(),
    )
    for f in reversed(below):
        fill = For(f.var, f.min, f.extent, f.kind, fill, f.thread)
    fill = rename_blocks(fill)
    inner: Stmt = _inside(s, link, condition, value, below)
    s.replace(at, build.seq(fill, inner))
    return s.mint_block(blocks(fill)[0].key)


def can_decompose_padding(s: State, block: BlockRV | str, loop: LoopRV) -> bool:
    """Would `decompose_padding` accept? Asking leaves no mark in the trace.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> sch.can_decompose_padding(b, sch.get_loops(b)[0])
        False
    """
    if isinstance(block, str):
        every = [
            x
            for func in s.mod.functions
            for x in s.tree(func).links.values()
            if type(x.node) is Block
        ]
        named = [x for x in every if x.block().name == block]
        named = named or [x for x in every if is_spelled(x.block().name, block)]
        if not named:
            s.fail(
                f"can_decompose_padding: no block is named {block!r}",
                hint="get_child_blocks lists the blocks",
                code="no-block",
            )
        if len(named) > 1:
            s.fail(
                f"can_decompose_padding: {len(named)} blocks are named {block!r}",
                hint="get_child_blocks lists the blocks; give the handle of one",
                code="block-name",
                at=[x.node for x in named],
            )
        link = named[0]
    else:
        link = s.block(block)
    at = s.loop(loop)
    try:
        _padding_parts(s, link, at)
    except ScheduleError:
        return False
    return True


def _padding_parts(s: State, link: Link, at: Link) -> tuple[Expr, Expr, Expr, list[For]]:
    """Condition, value, constant, and the loops from `at` down to the block."""
    b = link.block()
    if not any(f is at.node for f in link.loops()):
        s.fail(
            f"the loop {at.loop().var.name} is not above block {b.name}",
            hint="take one of get_loops of the block",
            code="padding-loop",
            at=[b, at.node],
        )
    if kind_of(link, s) != "complete":
        s.fail(
            f"block {b.name} is not a complete block",
            hint="a complete block has only spatial iterators, writes each element "
            "once and reads none of what it writes",
            code="not-complete",
            at=b,
        )
    store = b.body
    found = _choice(store.value) if type(store) is BufferStore else None
    if (
        type(store) is not BufferStore
        or store.predicate is not None
        or b.match_buffers
        or b.alloc_buffers
        or found is None
    ):
        s.fail(
            f"the body of block {b.name} is not a store of T.if_then_else(condition, value, "
            "constant)",
            hint="write it so, as pad_einsum does",
            code="padding-body",
            at=b,
        )
    condition, value, constant = found
    mine = {iv.var for iv in b.iter_vars}
    if loads(condition) or not free_vars(condition) <= mine:
        s.fail(
            f"the condition {condition} of block {b.name} is not one on its iterators",
            hint="let it compare the block's iterators with constants",
            code="padding-condition",
            at=b,
        )
    loops = link.loops()
    below = loops[next(k for k, f in enumerate(loops) if f is at.node) :]
    if guard_above(link, at.node) is not None or any(
        type(f.body) is not For and type(f.body) is not Block for f in below
    ):
        s.fail(
            f"block {b.name} is not alone under the loop {at.loop().var.name}",
            hint="give a loop further in",
            code="padding-chain",
            at=[b, at.node],
        )
    return condition, value, constant, below


def _choice(e: Expr) -> tuple[Expr, Expr, Expr] | None:
    """(condition, value, constant) of a choice between a value and a constant."""
    if type(e) is Call and e.op == "if_then_else":
        condition, value, constant = e.args
    elif type(e) is Select:
        condition, value, constant = e.cond, e.a, e.b
    else:
        return None
    if type(constant) not in (IntImm, FloatImm):
        return None
    return condition, value, constant


def _inside(s: State, link: Link, condition: Expr, value: Expr, below: Sequence[For]) -> Stmt:
    """The loops and the block that copy where the condition holds: an iterator that is bound to a
    loop of its own runs over just what the condition leaves; the rest becomes the predicate."""
    b = link.block()
    store = b.body
    assert type(store) is BufferStore
    free = _own_loops(b, below)
    limits: dict[Var, tuple[int, int]] = {}
    rest: list[Expr] = []
    doms: dict[Expr, Range] = {iv.var: iv.dom for iv in b.iter_vars}
    for c in conjuncts(condition):
        limit = _limit(c)
        if limit is None or limit[0] not in free:
            rest.append(c)
            continue
        v, lo, hi = limit
        n = const_int(doms[v].extent)
        assert n is not None, "loops of its own have constant extents"
        old = limits.get(v, (0, n))
        limits[v] = (
            old[0] if lo is None else max(lo, old[0]),
            old[1] if hi is None else min(hi, old[1]),
        )
    shift: dict[Var, Expr] = {}
    extents: dict[Var, IntImm] = {}
    iters: list[IterVar] = []
    for iv in b.iter_vars:
        lo, hi = limits.get(iv.var, (0, 0))
        if iv.var not in limits:
            iters.append(iv)
            continue
        if hi <= lo:
            s.fail(
                f"the condition {condition} of block {b.name} never holds",
                hint="the block writes only the constant: there is nothing to decompose",
                code="padding-condition",
                at=b,
            )
        n_new = IntImm(hi - lo, iv.dom.extent.dtype)
        iters.append(IterVar(iv.var, Range(iv.dom.min, n_new), iv.kind))
        shift[iv.var] = build.add(iv.var, IntImm(lo, iv.var.dtype))
        extents[free[iv.var]] = n_new
    bind: dict[Var, Expr] = dict(zip([iv.var for iv in b.iter_vars], b.iter_values, strict=True))
    conditions = [substitute(substitute(c, shift), bind) for c in rest]
    body = simplify_stmt(
        substitute_stmt(BufferStore(store.buffer, value, store.indices), shift),
        _domain(iters),
        keep_unit_vars=True,
    )
    notes = without_explicit(b.annotations)
    bare = block_with(b, iter_vars=tuple(iters), body=body, reads=(), writes=(), annotations=notes)
    reads, writes = access_regions(bare)
    out: For | Block = block_with(
        bare, reads=reads, writes=writes, predicate=build.logical_and(b.predicate, *conditions)
    )
    for f in reversed(below):
        out = with_body(f, out)
        if f.var in extents:
            out = For(f.var, f.min, extents[f.var], f.kind, out.body, f.thread, f.annotations)
    return out


def _domain(iters: Sequence[IterVar]) -> dict[Var, tuple[int, int]]:
    out = {}
    for iv in iters:
        lo, n = const_int(iv.dom.min), const_int(iv.dom.extent)
        if lo is not None and n is not None:
            out[iv.var] = (lo, lo + n - 1)
    return out


def _own_loops(b: Block, below: Sequence[For]) -> dict[Var, Var]:
    """The iterators that are bound to a loop of their own, as long as their domain, that may become
    shorter; with their loops."""
    out: dict[Var, Var] = {}
    loops = {f.var: f for f in below}
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        f = loops.get(v) if type(v) is Var else None
        if f is None or f.thread is not None or not is_literal(f.min, 0):
            continue
        if not is_literal(iv.dom.min, 0) or not same(f.extent, iv.dom.extent):
            continue
        n = const_int(f.extent)
        others = [*b.iter_values, b.predicate, *(e for g in below for e in (g.min, g.extent))]
        if n is None or type(n) is not int or sum(uses_var(e, f.var) for e in others) != 1:
            continue
        out[iv.var] = f.var
    return out


def _limit(c: Expr) -> tuple[Var, int | None, int | None] | None:
    """A condition `low <= v` or `v < high`, as (v, low, high)."""
    if type(c) is not BinOp or c.op not in ("<", "<=", ">", ">="):
        return None
    a, b = (c.a, c.b) if c.op in ("<", "<=") else (c.b, c.a)
    strict = c.op in ("<", ">")
    terms, const = linear(build.sub(a, b))  # a - b < 0, or <= 0
    if len(terms) != 1 or type(const) is not int:
        return None
    ((v, k),) = terms.items()
    if type(v) is not Var or type(k) is not int:
        return None
    if k == 1:  # v < -const
        return v, None, -const if strict else 1 - const
    if k == -1:  # const < v
        return v, const + 1 if strict else const, None
    return None
