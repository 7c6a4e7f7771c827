"""How are the elements of a buffer arranged? transform_layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..ir import build, dtypes
from ..ir.arith import simplify
from ..ir.boxes import intersect_shape
from ..ir.build import const_int, is_literal
from ..ir.canonical import negation
from ..ir.index_map import IndexMap
from ..ir.nodes import (
    BinOp,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IntImm,
    IterKind,
    LetStmt,
    PrimFunc,
    Stmt,
    Var,
)
from ..ir.ops import MATH
from ..ir.walk import (
    all_exprs,
    map_expr,
    map_range,
    map_region,
    map_stmt,
    substitute,
    walk_stmt,
)
from .analysis import guard_above, is_plainly_whole, kind_of
from .handles import BlockRV
from .memory import fresh_name
from .nests import (
    access_region,
    bound_map,
    const_extents,
    grid_block,
    nest_top,
    pick_access,
    put_beside,
    read_map,
    refuse_aligned,
)
from .primitive import BufferAccess, IndexMapLike, PadValue, primitive
from .state import State
from .tree import Link, block_with

_Known = dict[Var, tuple[int | None, int | None]]
_BY_VALUE = frozenset(MATH) | {"if_then_else", "likely", "assume", "reinterpret", "call_extern"}


# ----------------------------------------------------------------------------- the primitive
@primitive("TransformLayout", inputs=("block", "index_map"))
def transform_layout(
    s: State,
    block: BlockRV | str,
    buffer: BufferAccess,
    index_map: IndexMapLike,
    pad_value: PadValue = None,
    *,
    assume_injective_transform: bool = False,
) -> None:
    """Rearrange a buffer, and rewrite every access to it.

    A parameter of the function is rearranged too: the caller then passes it in the new layout.
    Where the new shape has elements that the old one had not, they are padding.

    Args:
        block: a block that accesses the buffer.
        buffer: which one: `("read", 0)`, `("write", 0)`, its name or the buffer.
        index_map: from old indices to new ones, such as `lambda i, j: (i // 16, j, i % 16)`; it may
            hold sampled values.
        pad_value: what the padding holds: a number, or a map of one final index that gives it in
            terms of the new indices. Only a caller can see it, in a parameter; a parameter that is
            only read is assumed to hold it. None: there may be no padding.
        assume_injective_transform: take maps that the analysis does not understand, if they are
            found to be injective by looking at all elements (a schedule with `enable_check=False`
            takes the caller's word), and leave padding undefined.

    Raises:
        ScheduleError: the map is not injective, or pads without a pad value; the buffer has
            strides, a constant shape it has not, a view, or an alignment from storage_align.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); c = sch.cache_read(b, 0, "global")
        >>> sch.transform_layout(b, ("read", 0), lambda i, j: (j // 4, i, j % 4))
        >>> [e.value for e in sch.get(c).writes[0].buffer.shape]
        [2, 8, 4]
    """
    link = s.block(block)
    b = link.block()
    access = pick_access(s, b, buffer)
    old = access_region(b, access).buffer
    owner = _owner(s, link, old)
    func = s.func_of(b.key)
    m = bound_map(s, read_map(s, index_map, len(old.shape), b))
    plan = _plan(s, b, old, m, pad_value, assume_injective_transform)
    if all(x is y for x, y in zip(m.final_indices, m.initial_indices, strict=False)) and len(
        m.final_indices
    ) == len(m.initial_indices):
        return
    root = s.mod[func].body
    _check_accesses(s, root, old)
    base = root if owner is None else owner.block()
    padded = plan.pad is not None and not plan.surjective
    writer = _plain_writer(s, base, plan) if padded else None
    new_base = _Rewrite(s, plan).block(base, {}, outermost=True)
    if owner is None:
        f = s.mod[func]
        table = tuple([(p, plan.new if x is old else x) for p, x in f.buffer_map])
        s.set_func(func, PrimFunc(f.params, table, new_base, f.attrs))
    else:
        s.replace(owner, new_base)
    if writer is not None:
        found = s.find(writer[0])
        assert found is not None
        s.replace(nest_top(found[1]), _widened(found[1], writer[1], plan))
    elif padded:
        found = s.find(new_base.key)
        assert found is not None
        _fill_padding(s, found[1], plan, func)


@dataclass(frozen=True)
class _Plan:
    """A layout change that was found legal.

    Attributes:
        map: with its sampled values.
        pad: the value of the padding in terms of new indices; None: undefined.
        surjective: is there no padding?
    """

    old: Buffer
    new: Buffer
    map: IndexMap
    shape: list[int]
    pad: Callable[[Sequence[Expr]], Expr] | None
    surjective: bool


def _plan(
    s: State, b: Block, old: Buffer, m: IndexMap, pad_value: PadValue, assumed: bool
) -> _Plan:
    if old.strides is not None or old.elem_offset is not None:
        s.fail(
            f"buffer {old.name} has strides or an offset of its own",
            hint="cache it, and transform the cache",
            code="layout-strides",
            at=b,
        )
    shape = const_extents(s, old.shape, f"buffer {old.name}", b)
    try:
        known = m.digits(shape) is not None
        if not known:
            _check_injective(s, b, old, m, shape, assumed)
        new_shape = m.map_shape(shape)
        surjective = m.is_surjective(shape)
    except UserError as e:
        s.fail(e.message, hint=e.hint, code="index-map", at=b)
    if not surjective and pad_value is None and not assumed:
        s.fail(
            f"{m} makes {_list(new_shape)} of {_list(shape)}, which needs padding",
            hint="give a pad_value, or a map that fits the shape",
            code="layout-padding",
            at=b,
        )
    if not surjective and pad_value is not None and not known:
        s.fail(
            f"where {m} leaves padding is not known, because the map cannot be inverted",
            hint="leave out pad_value",
            code="layout-padding",
            at=b,
        )
    dtype = "int64" if any(e.dtype == "int64" for e in old.shape) else "int32"
    extents = tuple([IntImm(n, dtype) for n in new_shape])
    new = Buffer(old.name, extents, old.dtype, old.scope, align=old.align)
    return _Plan(old, new, m, shape, _pad_function(s, b, new, pad_value), surjective)


def _check_injective(
    s: State, b: Block, old: Buffer, m: IndexMap, shape: list[int], assumed: bool
) -> None:
    message = f"{m} is not seen to be injective on {old.name} of shape {_list(shape)}"
    if not assumed:
        s.fail(
            message,
            hint="assume_injective_transform=True takes maps that the analysis does not follow",
            code="layout-injective",
            at=b,
        )
    if not s.enable_check:
        return
    found = m.is_injective(shape)
    if found is None:
        s.fail(
            f"{message}, and there are too many elements, or sampled values, to look at all",
            hint="write it with // and % by constants that divide the shape",
            code="layout-injective",
            at=b,
        )
    if not found:
        s.fail(
            f"{m} gives two elements of {old.name} the same indices",
            hint="let the indices tell each element apart, such as lambda i, j: (j // 4, i, j % 4)",
            code="layout-injective",
            at=b,
        )


def _list(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(n)) for n in shape) + "]"


def _pad_function(
    s: State, b: Block, new: Buffer, pad_value: PadValue
) -> Callable[[Sequence[Expr]], Expr] | None:
    if pad_value is None:
        return None
    if isinstance(pad_value, IndexMap) or callable(pad_value):
        m = read_map(s, pad_value, len(new.shape), b, "pad_value")
        if m.free_vars() or len(m.final_indices) != 1:
            s.fail(
                f"a pad value must be one value in terms of the new indices: {m}",
                hint="give a number, or a function such as lambda i, j: 0.0",
                code="layout-pad-value",
                at=b,
            )
        value = build.cast(new.dtype, m.final_indices[0])
        if dtypes.is_int(new.dtype) and dtypes.is_float(m.final_indices[0].dtype):
            s.fail(
                f"{m} is no {new.dtype}",
                hint="give an integer, or cast in the function",
                code="layout-pad-value",
                at=b,
            )
        return lambda at: substitute(value, dict(zip(m.initial_indices, at, strict=True)))
    number = float(pad_value)
    if not dtypes.is_float(new.dtype):
        low, high = dtypes.min_value(new.dtype), dtypes.max_value(new.dtype)
        if not (number == number and low <= pad_value <= high and number == int(number)):
            s.fail(
                f"the pad value {pad_value} is no {new.dtype}",
                hint="give a number that the buffer's type holds exactly",
                code="layout-pad-value",
                at=b,
            )
        constant = build.const(int(pad_value), new.dtype)
    else:
        if number != number:
            s.fail(
                "the pad value is not a number",
                hint="give a number; 0.0 is the usual one",
                code="layout-pad-value",
                at=b,
            )
        constant = build.const(number, new.dtype)
    return lambda at: constant


def _owner(s: State, link: Link, buffer: Buffer) -> Link | None:
    """The block that allocates a buffer; None for a parameter."""
    for x in (link, *link.above()):
        if type(x.node) is Block and buffer in x.node.alloc_buffers:
            return x
    if buffer in s.mod[s.func_of(link.block().key)].buffers:
        return None
    s.fail(
        f"buffer {buffer.name} is a view of another one",
        hint="transform the buffer that it is a view of",
        code="layout-view",
        at=link.node,
    )


def _check_accesses(s: State, root: Block, old: Buffer) -> None:
    """Every access must be one whose indices can be rewritten."""
    for x in walk_stmt(root):
        if type(x) is Block:
            if any(v.source.buffer is old for v in x.match_buffers):
                s.fail(
                    f"block {x.name} has a view of {old.name}, which a layout cannot be given",
                    hint="transform the layout before tensorize",
                    code="layout-view",
                    at=x,
                )
            refuse_aligned(s, x, old)
        elif type(x) is BufferStore and x.buffer is old:
            _check_scalar(s, x.indices, old, x)
    for e in all_exprs(root):
        if type(e) is BufferLoad and e.buffer is old:
            _check_scalar(s, e.indices, old, root)
        elif type(e) is Call and e.op not in _BY_VALUE:
            if any(type(a) is BufferLoad and a.buffer is old for a in e.args):
                s.fail(
                    f"{e.op} gets {old.name} by its address",
                    hint="what looks at memory itself fixes the layout; cache the buffer and"
                    " transform the copy",
                    code="layout-opaque",
                    at=root,
                )


def _check_scalar(s: State, indices: Sequence[Expr], old: Buffer, at: Stmt) -> None:
    if any(dtypes.lanes(i.dtype) > 1 for i in indices):
        s.fail(
            f"{old.name} is accessed by vectors",
            hint="transform the layout before loops are vectorized or tensorized by hand",
            code="layout-opaque",
            at=at,
        )


# ----------------------------------------------------------------------------- rewriting
class _Rewrite:
    """Lets a program access the new buffer where it accessed the old one."""

    def __init__(self, s: State, plan: _Plan) -> None:
        self.s = s
        self.old, self.new, self.map = plan.old, plan.new, plan.map

    def indices(self, indices: Sequence[Expr], known: _Known) -> tuple[Expr, ...]:
        new = self.map.map_indices(indices)
        return tuple([simplify(e, known, keep_unit_vars=True) for e in new])

    def expr(self, e: Expr, known: _Known) -> Expr:
        t = type(e)
        if t is Var or t is IntImm:
            return e
        out = map_expr(e, lambda x: self.expr(x, known))
        if type(out) is BufferLoad and out.buffer is self.old:
            return BufferLoad(self.new, self.indices(out.indices, known), out.predicate)
        return out

    def region(self, b: Block, r: BufferRegion, known: _Known, writes: bool) -> BufferRegion:
        r = map_region(r, lambda e: self.expr(e, known))  # data may say where the region is
        if r.buffer is not self.old:
            return r
        box = self.map.map_ranges(r.region, exact=writes)
        if box is None:
            self.s.fail(
                f"what block {b.name} {'writes' if writes else 'reads'} of {self.old.name} is no "
                f"box after {self.map}",
                hint="use a map whose tiles divide the region",
                code="layout-region",
                at=b,
            )
        tidy = [map_range(g, lambda e: simplify(e, known, keep_unit_vars=True)) for g in box]
        return BufferRegion(self.new, intersect_shape(tidy, self.new))

    def stmt(self, x: Stmt, known: _Known) -> Stmt:
        t = type(x)
        if t is Block:
            return self.block(x, known)  # type: ignore[arg-type]  # t is the class of x
        if t is For:
            inner = {**known, **_range_of(x.var, x.min, x.extent)}  # type: ignore[union-attr]
            out = map_stmt(x, lambda e: self.expr(e, known), lambda y: self.stmt(y, inner))
        elif t is LetStmt:
            inner = {v: r for v, r in known.items() if v is not x.var}  # type: ignore[union-attr]
            out = map_stmt(x, lambda e: self.expr(e, known), lambda y: self.stmt(y, inner))
        else:
            out = map_stmt(x, lambda e: self.expr(e, known), lambda y: self.stmt(y, known))
        assert out is not None  # nothing is deleted
        if type(out) is BufferStore and out.buffer is self.old:
            at = self.indices(out.indices, known)
            return BufferStore(self.new, out.value, at, out.predicate)
        return out

    def block(self, b: Block, known: _Known, outermost: bool = False) -> Block:
        inner = dict(known)
        for iv in b.iter_vars:
            inner.update(_range_of(iv.var, iv.dom.min, iv.dom.extent))
        values = b.iter_values
        predicate = b.predicate
        if not outermost:
            values = tuple([self.expr(v, known) for v in values])
            predicate = self.expr(predicate, known)
        return block_with(
            b,
            iter_values=values,
            predicate=predicate,
            reads=tuple([self.region(b, r, inner, False) for r in b.reads]),
            writes=tuple([self.region(b, r, inner, True) for r in b.writes]),
            body=self.stmt(b.body, inner),
            init=None if b.init is None else self.stmt(b.init, inner),
            alloc_buffers=tuple([self.new if x is self.old else x for x in b.alloc_buffers]),
        )


def _range_of(v: Var, lo: Expr, n: Expr) -> _Known:
    a, count = const_int(lo), const_int(n)
    return {} if a is None or count is None else {v: (a, a + count - 1)}


# ----------------------------------------------------------------------------- padding
def _fill_padding(s: State, owner: Link, plan: _Plan, func: str) -> None:
    """Give the padding its value by a block after the writers of the buffer, or assume it of what
    is only read."""
    writers = [
        x
        for x in s.tree(func).whole().links.values()
        if type(x.node) is Block
        and x.up is not None
        and any(w.buffer is plan.new for w in x.node.writes)
    ]
    base = owner.block()
    back, padding = plan.map.non_surjective_inverse(plan.shape)
    iters = [Var(f"v{k}", e.dtype) for k, e in enumerate(plan.new.shape)]
    spatial: list[tuple[Var, Expr, IterKind]] = [
        (v, e, "spatial") for v, e in zip(iters, plan.new.shape, strict=True)
    ]
    assert plan.pad is not None
    value = plan.pad(iters)
    if writers:
        nest, _ = grid_block(
            fresh_name(s, func, f"{plan.new.name}_pad"),
            spatial,
            BufferStore(plan.new, value, tuple(iters)),
            predicate=lambda at: _at(back, padding, at),
        )
        s.replace(
            owner, block_with(base, body=put_beside(base, writers[-1].node, [nest], after=True))
        )
        return
    holds = build.logical_or(
        _elements(_at(back, padding, iters)),
        build.eq(BufferLoad(plan.new, tuple(iters)), value),
    )
    nest, _ = grid_block(
        fresh_name(s, func, f"{plan.new.name}_assume"),
        spatial,
        Evaluate(Call("assume", (holds,), "bool")),
    )
    s.replace(owner, block_with(base, body=build.seq(nest, base.body)))


def _at(m: IndexMap, e: Expr, indices: Sequence[Expr]) -> Expr:
    """A condition of the inverse, at other indices."""
    return substitute(e, dict(zip(m.initial_indices, indices, strict=True)))


def _elements(padding: Expr) -> Expr:
    """Where it is not padding."""
    if type(padding) is BinOp and padding.op == "or":
        return build.logical_and(_elements(padding.a), _elements(padding.b))
    return negation(padding)


def _plain_writer(s: State, root: Block, plan: _Plan) -> tuple[BlockKey, list[Var]] | None:
    """The block that plainly stores each element of the old buffer once, and its iterators in the
    order of the indices; None if there is no such block."""
    writers = [
        x
        for x in walk_stmt(root)
        if type(x) is Block and x is not root and any(w.buffer is plan.old for w in x.writes)
    ]
    if len(writers) != 1:
        return None
    found = s.find(writers[0].key)
    assert found is not None
    link = found[1]
    b, loops = link.block(), link.loops()
    store = b.body
    if (
        type(store) is not BufferStore
        or b.init is not None
        or b.match_buffers
        or len(b.writes) != 1
        or store.predicate is not None
        or kind_of(link, s) != "complete"
        or not is_literal(b.predicate, 1)
        or guard_above(link) is not None
        or len(loops) != len(b.iter_vars)
        or not is_plainly_whole(link)
        or any(f.kind != "serial" or f.annotations for f in loops)
        or any(type(f.body) not in (For, Block) for f in loops)
    ):
        return None
    left = {iv.var: iv.dom for iv in b.iter_vars}
    order: list[Var] = []
    for e, n in zip(store.indices, plan.shape, strict=True):
        dom = left.pop(e, None) if type(e) is Var else None
        if dom is None or not is_literal(dom.min, 0) or const_int(dom.extent) != n:
            return None
        assert type(e) is Var
        order.append(e)
    return None if left else (b.key, order)


def _widened(link: Link, order: Sequence[Var], plan: _Plan) -> Stmt:
    """The nest of a plain writer, made to run over the new shape."""
    b = link.block()
    store = b.body
    assert type(store) is BufferStore
    assert plan.pad is not None
    back, padding = plan.map.non_surjective_inverse(plan.shape)
    at = [Var(f"v{k}", e.dtype) for k, e in enumerate(plan.new.shape)]
    table: dict[Var, Expr] = {}
    for v, e in zip(order, back.final_indices, strict=True):
        table[v] = build.cast(v.dtype, _at(back, e, at))
    value = build.if_then_else(
        _elements(_at(back, padding, at)), substitute(store.value, table), plan.pad(at)
    )
    nest, _ = grid_block(
        b.name,
        [(v, e, "spatial") for v, e in zip(at, plan.new.shape, strict=True)],
        BufferStore(plan.new, value, tuple(at)),
        key=b.key,
        keep=b,
    )
    return nest
