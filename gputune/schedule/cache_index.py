"""How are the indices of a block computed once, before it runs? cache_index."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from ..ir.affine import same
from ..ir.build import is_literal
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Cast,
    Expr,
    IntImm,
    IterKind,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.walk import (
    all_loads,
    expr_children,
    free_vars,
    map_expr,
    rewrite_exprs,
    substitute,
    uses_var,
    walk_stmt,
)
from .handles import BlockRV
from .memory import check_scope
from .nests import grid_block, put_beside
from .primitive import primitive
from .state import State
from .tree import block_with

_OPS = frozenset({"+", "-", "*", "//", "%", "min", "max"})


@primitive("CacheIndex", inputs=("block",))
def cache_index(
    s: State, block: BlockRV | str, storage_scope: str, cse_thresh: int = 0
) -> list[BlockRV]:
    """Compute indices at which a block loads once, before it runs, and let it look them up.

    `A[vi // 4 + vj // 4]` becomes `A[index_var_0[vi, vj]]`, after a block that stores
    `v0 // 4 + v1 // 4` for all `v0` and `v1`. What is cached is integer arithmetic over iterators
    of the block, the largest expressions first, and of those only what occurs often enough where no
    larger one was taken.

    Args:
        block: has no blocks inside.
        storage_scope: where the computed indices live, such as "global".
        cse_thresh: how often an expression must occur in the indices; 0 and 1 take all of them.

    Returns:
        The computing blocks, named `index_0`, `index_1`, ..., right before the nest of the block.
        There are none, and nothing changes, if there is no index arithmetic, or none that occurs
        often enough.

    Raises:
        ScheduleError: the block has blocks inside, or iterators that do not start at 0 or whose
            domains depend on loops; `cse_thresh` is negative; no such memory scope.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); i, j = sch.get_loops(b)
        >>> c = sch.cache_read(b, 0, "global")
        >>> sch.transform_layout(b, ("read", 0), lambda i, j: (i // 4, j, i % 4))
        >>> [str(sch.get(x).body.value) for x in sch.cache_index(b, "global")]
        ['v0 // 4', 'v0 % 4']
    """
    link = s.block(block)
    b = link.block()
    check_scope(s, storage_scope, b)
    if cse_thresh < 0:
        s.fail(
            f"cse_thresh must be at least 0, got {cse_thresh}",
            hint="0 takes all index arithmetic, 2 what occurs twice",
            code="cache-index-thresh",
            at=b,
        )
    if link.up is None or any(type(x) is Block for x in walk_stmt(b) if x is not b):
        s.fail(
            f"block {b.name} has blocks inside, each with indices of its own",
            hint="give one of those",
            code="cache-index-inner",
            at=b,
        )
    chosen = _chosen(b, cse_thresh)
    if not chosen:
        return []
    loops = frozenset([f.var for f in link.loops()])
    for iv in _used(b, chosen):
        if not is_literal(iv.dom.min, 0) or uses_var(iv.dom.extent, loops):
            s.fail(
                f"iterator {iv.var.name} of block {b.name} does not run from 0 to a fixed end, and "
                "a computed index would have to",
                hint="transform_block_layout gives a block other iterators",
                code="cache-index-domain",
                at=b,
            )
    scope = link.scope()
    taken = set(s.tree(s.func_of(b.key)).names)
    nests: list[Stmt] = []
    made: list[Buffer] = []
    table: list[tuple[Expr, BufferLoad]] = []
    handles: list[BlockRV] = []
    for e in chosen:
        number = next(k for k in count() if f"index_{k}" not in taken)
        taken.add(f"index_{number}")
        used = _used(b, [e])
        new = Buffer(
            f"index_var_{number}", tuple([iv.dom.extent for iv in used]), e.dtype, storage_scope
        )
        iters: list[tuple[Var, Expr, IterKind]] = [
            (Var(f"v{k}", iv.var.dtype), iv.dom.extent, "spatial") for k, iv in enumerate(used)
        ]
        at = tuple([v for v, _, _ in iters])
        value = substitute(e, {iv.var: v for iv, v in zip(used, at, strict=True)})
        nest, key = grid_block(f"index_{number}", iters, BufferStore(new, value, at))
        nests.append(nest)
        made.append(new)
        table.append((e, BufferLoad(new, tuple([iv.var for iv in used]))))
        handles.append(s.mint_block(key))
    changed = _with_lookups(b, table)
    s.replace(link, changed)
    owner = s.refresh(scope)
    base = owner.block()
    s.replace(
        owner,
        block_with(
            base,
            body=put_beside(base, changed, nests, after=False),
            alloc_buffers=(*base.alloc_buffers, *made),
        ),
    )
    return handles


def _used(b: Block, of: list[Expr]) -> list[IterVar]:
    """The iterators that expressions mention, in the order of the block."""
    return [iv for iv in b.iter_vars if any(uses_var(e, iv.var) for e in of)]


# ----------------------------------------------------------------------------- what is cached
def _chosen(b: Block, thresh: int) -> list[Expr]:
    """The expressions to be computed beforehand, in order of first appearance."""
    iters = frozenset([iv.var for iv in b.iter_vars])
    roots = [
        i for part in (b.init, b.body) if part is not None for x in all_loads(part)
        for i in x.indices
    ]  # fmt: skip
    chosen: list[Expr] = []
    while True:
        found: list[tuple[Expr, int]] = []
        for root in roots:
            for e in _left(root, chosen, iters):
                at = next((k for k, (x, _) in enumerate(found) if same(x, e)), None)
                if at is None:
                    found.append((e, 1))
                else:
                    found[at] = (found[at][0], found[at][1] + 1)
        often = [e for e, n in found if n >= thresh]
        if not often:
            break
        chosen.append(max(often, key=_size))  # the first of the largest
    order = [e for root in roots for e in _taken(root, chosen)]
    return [e for k, e in enumerate(order) if not any(e is x for x in order[:k])]


def _left(e: Expr, chosen: list[Expr], iters: frozenset[Var]) -> Iterator[Expr]:
    """What could be cached in an index, outside what was chosen already. Loads in it have indices
    of their own, which are looked at as such."""
    if type(e) is BufferLoad or any(same(e, x) for x in chosen):
        return
    if _is_computation(e, iters):
        yield e
    for x in expr_children(e):
        yield from _left(x, chosen, iters)


def _taken(e: Expr, chosen: list[Expr]) -> Iterator[Expr]:
    if type(e) is BufferLoad:
        return
    for x in chosen:
        if same(e, x):
            yield x
            return
    for y in expr_children(e):
        yield from _taken(y, chosen)


def _is_computation(e: Expr, iters: frozenset[Var]) -> bool:
    """Is it arithmetic that may be done anywhere, for any values of the iterators it mentions?"""
    if type(e) is not BinOp and type(e) is not Cast:
        return False
    mentioned = free_vars(e)
    return mentioned <= iters and bool(mentioned) and _is_harmless(e)


def _is_harmless(e: Expr) -> bool:
    if e.dtype not in ("int32", "int64"):
        return False
    if type(e) is Var or type(e) is IntImm:
        return True
    if type(e) is Cast:
        return _is_harmless(e.value)
    if type(e) is not BinOp or e.op not in _OPS:
        return False
    if e.op in ("//", "%") and not _is_positive(e.b):
        return False
    return _is_harmless(e.a) and _is_harmless(e.b)


def _is_positive(e: Expr) -> bool:
    """Is it a constant above 0? (Sampled ones are.)"""
    return type(e) is IntImm and (type(e.value) is not int or e.value > 0)


def _size(e: Expr) -> int:
    return 1 + sum(map(_size, expr_children(e)))


# ----------------------------------------------------------------------------- looking it up
def _with_lookups(b: Block, table: list[tuple[Expr, BufferLoad]]) -> Block:
    """The block with loads of the computed indices for the expressions; what it reads of other
    buffers is the same."""

    def index(e: Expr) -> Expr:
        if type(e) is Var or type(e) is IntImm:
            return e
        if type(e) is BufferLoad:
            return value(e)
        for x, lookup in table:
            if same(e, x):
                return lookup
        return map_expr(e, index)

    def value(e: Expr) -> Expr:
        if type(e) is BufferLoad:
            at = tuple([index(i) for i in e.indices])
            predicate = None if e.predicate is None else value(e.predicate)
            return BufferLoad(e.buffer, at, predicate)
        return map_expr(e, value)

    looked_up = [
        BufferRegion(x.buffer, tuple([Range(i, IntImm(1, i.dtype)) for i in x.indices]))
        for _, x in table
    ]
    return block_with(
        b,
        reads=(*b.reads, *looked_up),
        body=rewrite_exprs(b.body, value),
        init=None if b.init is None else rewrite_exprs(b.init, value),
    )
