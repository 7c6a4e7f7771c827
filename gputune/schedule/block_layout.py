"""Over which iterators does a block run? transform_block_layout, reorder_block_iter_var."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..ir import build
from ..ir.arith import simplify_stmt
from ..ir.build import is_literal
from ..ir.index_map import IndexMap
from ..ir.nodes import Block, Expr, For, IntImm, IterKind, IterVar, Range, Stmt, Var
from ..ir.walk import free_vars, substitute, substitute_stmt
from .analysis import reads_own_elsewhere
from .handles import BlockRV
from .loops import order_free
from .nests import bound_map, const_extents, nest_top, plain_nest, read_map
from .primitive import IndexMapLike, primitive
from .state import State
from .tree import block_with


@primitive("TransformBlockLayout", inputs=("block", "index_map"))
def transform_block_layout(s: State, block: BlockRV | str, index_map: IndexMapLike) -> None:
    """Let a block run over other iterators, with new loops for them.

    Args:
        block: its loops are serial, its own, and each bound to one iterator, as long as its domain.
        index_map: the new iterators in terms of the old ones, a bijection such as
            `lambda i, j: (i * 8 + j,)`; it may hold sampled values. Each new one is made of
            iterators of one kind.

    Raises:
        ScheduleError: naming which of these does not hold; a reduction whose result depends on the
            order would run in another one.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> sch.transform_block_layout(b, lambda i, j: (i // 4, j, i % 4))
        >>> [sch.get(x).extent.value for x in sch.get_loops(b)]
        [2, 8, 4]
    """
    link = s.block(block)
    b = link.block()
    m = read_map(s, index_map, len(b.iter_vars), b)
    m = bound_map(s, m, [iv.dom.extent for iv in b.iter_vars])
    loops = plain_nest(s, link)
    for iv in b.iter_vars:
        if iv.kind not in ("spatial", "reduce"):
            s.fail(
                f"block {b.name} has the {iv.kind} iterator {iv.var.name}",
                hint="it works on spatial and reduce iterators (S, R); blocks with scan "
                "or opaque ones stay as they are",
                code="iter-kind",
                at=b,
            )
        if not is_literal(iv.dom.min, 0):
            s.fail(
                f"iterator {iv.var.name} starts at {iv.dom.min}",
                hint="iterators must run from 0: write the domain as (0, n), with the "
                "offset in the indices",
                code="block-layout",
                at=b,
            )
    if reads_own_elsewhere(b.reads, b.writes):
        s.fail(
            f"block {b.name} reads what its other iterations write",
            hint="its iterations have to run in the order in which they stand",
            code="reorder-own",
            at=b,
        )
    shape = const_extents(s, [iv.dom.extent for iv in b.iter_vars], f"block {b.name}", b)
    kinds = _kinds(s, b, m)
    try:
        back = m.inverse(shape)
    except UserError as why:
        s.fail(why.message, hint=why.hint, code="block-layout", at=b)
    _check_order(s, b, m, shape)
    extents = m.map_shape(shape)
    loop_of = {iv.var: f for iv, f in zip(b.iter_vars, _bound_loops(b, loops), strict=True)}
    old_of = dict(zip(m.initial_indices, (iv.var for iv in b.iter_vars), strict=True))
    iters: list[IterVar] = []
    nest: list[For] = []
    taken = {iv.var.name for iv in b.iter_vars}
    for e, n, kind in zip(m.final_indices, extents, kinds, strict=True):
        old = old_of.get(e) if type(e) is Var else None
        if old is not None:  # the same iterator at another place
            iters.append(next(iv for iv in b.iter_vars if iv.var is old))
            nest.append(loop_of[old])
            continue
        v = Var(_fresh(f"v{len(iters)}", taken), e.dtype)
        iters.append(IterVar(v, Range(IntImm(0, v.dtype), IntImm(n, v.dtype)), kind))
        at = Var(f"ax{len(nest)}", v.dtype)
        nest.append(For(at, IntImm(0, at.dtype), IntImm(n, at.dtype), "serial", b))
    where = dict(zip(back.initial_indices, (iv.var for iv in iters), strict=True))
    table: dict[Var, Expr] = {}
    for iv, e in zip(b.iter_vars, back.final_indices, strict=True):
        value = build.cast(iv.var.dtype, substitute(e, where))
        if value is not iv.var:
            table[iv.var] = value
    inner = substitute_stmt(b, table)
    assert type(inner) is Block
    bound = block_with(inner, iter_vars=tuple(iters), iter_values=tuple([f.var for f in nest]))
    body: Stmt = simplify_stmt(bound, keep_unit_vars=True) if table else bound
    for f in reversed(nest):
        body = For(f.var, f.min, f.extent, f.kind, body)
    s.replace(nest_top(link), body)


def _bound_loops(b: Block, loops: Sequence[For]) -> list[For]:
    """The loop of each iterator."""
    table = {f.var: f for f in loops}
    return [table[v] for v in b.iter_values if type(v) is Var]


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _kinds(s: State, b: Block, m: IndexMap) -> list[IterKind]:
    """The kind of each new iterator."""
    old = dict(zip(m.initial_indices, (iv.kind for iv in b.iter_vars), strict=True))
    out: list[IterKind] = []
    for e in m.final_indices:
        found = {old[v] for v in free_vars(e)}
        if len(found) > 1:
            s.fail(
                f"the new iterator {e} would be made of spatial and reduce iterators of block "
                f"{b.name}",
                hint="let each new iterator be made of spatial iterators alone or of "
                "reduce iterators alone",
                code="block-layout-kind",
                at=b,
            )
        out.append(found.pop() if found else "spatial")
    return out


def _check_order(s: State, b: Block, m: IndexMap, shape: Sequence[int]) -> None:
    """The points of a reduction keep their order, or it does not matter."""
    reduce_vars = [
        v for v, iv in zip(m.initial_indices, b.iter_vars, strict=True) if iv.kind == "reduce"
    ]
    if not reduce_vars or order_free(b):
        return
    sums = m.digits(shape)
    assert sums is not None, "it was inverted"
    new: list[tuple[int, int]] = []
    for x in sums:
        for d in x.args:
            v = d.source.source
            if type(v) is not Var:
                break
            if v in reduce_vars:
                new.append((reduce_vars.index(v), -d.lower_factor))
        else:
            continue
        break
    else:
        if new == sorted(new):
            return
    s.fail(
        f"the result of block {b.name} depends on the order of its reduction, which {m} changes",
        hint="keep the reduce iterators in their order",
        code="reorder-order",
        at=b,
    )


@primitive("ReorderBlockIterVar", inputs=("block", "new_order"))
def reorder_block_iter_var(s: State, block: BlockRV | str, new_order: Sequence[int]) -> None:
    """Give the iterators of a block another order; its loops stay as they are.

    Args:
        block: any block.
        new_order: for each place, which of the iterators comes there; each once.

    Raises:
        ScheduleError: it is no permutation.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> sch.reorder_block_iter_var(b, [1, 0])
        >>> [iv.var.name for iv in sch.get(b).iter_vars]
        ['vj', 'vi']
    """
    link = s.block(block)
    b = link.block()
    n = len(b.iter_vars)
    if sorted(new_order) != list(range(n)):
        s.fail(
            f"new_order {list(new_order)} is no permutation of the {n} iterators of block {b.name}",
            hint=f"give each of {list(range(n))} once",
            code="iter-order",
            at=b,
        )
    values = tuple([b.iter_values[k] for k in new_order])
    if b.iter_values in s.affine:
        s.affine[values] = s.affine[b.iter_values]
    s.replace(
        link,
        block_with(b, iter_vars=tuple([b.iter_vars[k] for k in new_order]), iter_values=values),
    )
