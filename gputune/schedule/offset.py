"""How is a factor of a sum of products moved into another range? offset_operand."""

from __future__ import annotations

from ..ir import build, dtypes
from ..ir.affine import all_same
from ..ir.build import const_int
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
    Range,
    Var,
)
from ..ir.walk import replace_buffers, substitute, uses_var
from .analysis import blocks_below, kind_of
from .handles import BlockRV
from .memory import fresh_name
from .nests import grid_block, plain_nest, put_beside
from .primitive import primitive
from .state import State
from .tree import Link, block_with


@primitive("OffsetOperand", inputs=("block",))
def offset_operand(
    s: State, block: BlockRV | str, read_buffer_index: int, offset: int, dtype: str
) -> None:
    """Let a sum of products of integers read one factor with a number added, in another element
    type; what that adds to the sum is taken off where the sum begins.

    `C += A * B` from 0 becomes `C += A_offset * B` from `-offset * B_sum`, where `A_offset` is A
    with `offset` added to each element and `B_sum` the sums of B, both made by new blocks. Integers
    wrap around, so the result is the same to the bit. (Instructions that multiply unsigned by
    signed bytes take signed ones so: with 128, as uint8.)

    Args:
        block: a reduction `C = C + A * B` whose factors are converted to the type of C; its loops
            are its own, one an iterator.
        read_buffer_index: which of the buffers that it reads is A.
        offset: what is added.
        dtype: the element type of the new buffer, which holds every element of A with the offset.

    Raises:
        ScheduleError: the block is something else; values do not fit.

    Example:
        >>> sch = demo_schedule("u8_matmul"); c = sch.get_block("C")
        >>> sch.offset_operand(c, 0, -128, "int8"); print(sch.get(c).init.value)
        B_sum[vj] * 128
    """
    link = s.block(block)
    b = link.block()
    plain_nest(s, link)
    found = _product(link, s)
    if isinstance(found, str):
        s.fail(
            f"block {b.name} is no sum of products of two integers: {found}",
            hint="it is C[..] = C[..] + cast(A[..]) * cast(B[..]), with an init",
            code="offset-body",
            at=b,
        )
    if not 0 <= read_buffer_index < len(b.reads):
        s.fail(
            f"read_buffer_index {read_buffer_index} of block {b.name}, which reads "
            f"{len(b.reads)} buffers",
            hint="give the position of the factor among the block's reads, from 0",
            code="buffer-index",
            at=b,
        )
    buffer = b.reads[read_buffer_index].buffer
    sides = [x for x in found if x.buffer is buffer]
    if len(sides) != 1:
        s.fail(
            f"{buffer.name} is not one of the two factors of block {b.name}",
            hint="the factors are " + " and ".join(x.buffer.name for x in found),
            code="offset-operand",
            at=b,
        )
    _check_range(s, b, buffer, offset, dtype)
    (other,) = [x for x in found if x is not sides[0]]
    _apply(s, link, buffer, other, offset, dtype)


def _product(link: Link, s: State) -> tuple[BufferLoad, BufferLoad] | str:
    """The two factors; or why it has no two."""
    b = link.block()
    if kind_of(link, s) != "reduction" or type(b.init) is not BufferStore:
        return "it is no reduction with an init of one store"
    store = b.body
    if type(store) is not BufferStore or store.predicate is not None or b.match_buffers:
        return "its body is not a single store"
    if not dtypes.is_int(store.buffer.dtype) or dtypes.is_bool(store.buffer.dtype):
        return f"{store.buffer.name} is {store.buffer.dtype}"
    value = store.value
    if type(value) is not BinOp or value.op != "+":
        return f"it stores {value}"
    for acc, term in ((value.a, value.b), (value.b, value.a)):
        if (
            type(acc) is BufferLoad
            and acc.buffer is store.buffer
            and all_same(acc.indices, store.indices)
            and type(term) is BinOp
            and term.op == "*"
        ):
            x, y = _converted(term.a), _converted(term.b)
            if x is not None and y is not None and store.buffer not in (x.buffer, y.buffer):
                return x, y
            return f"{term} is no product of what is converted to {store.buffer.dtype}"
    return f"{value} is no sum of {store.buffer.name} and a product"


def _converted(e: Expr) -> BufferLoad | None:
    """What is loaded and converted to a wider integer."""
    if type(e) is not Cast or type(e.value) is not BufferLoad or e.value.predicate is not None:
        return None
    dtype = e.value.dtype
    return e.value if dtypes.is_int(dtype) and not dtypes.is_bool(dtype) else None


def _check_range(s: State, b: Block, buffer: Buffer, offset: int, dtype: str) -> None:
    held = dtype in dtypes.SCALARS and dtypes.is_int(dtype) and not dtypes.is_bool(dtype)
    low, high = (int(f(buffer.dtype)) + offset for f in (dtypes.min_value, dtypes.max_value))
    if not held or low < dtypes.min_value(dtype) or high > dtypes.max_value(dtype):
        s.fail(
            f"elements of {buffer.name} with {offset} added go from {low} to {high}, which "
            f"{dtype!r} does not hold",
            hint="int8 with 128 is uint8",
            code="offset-range",
            at=b,
        )


def _apply(
    s: State, link: Link, buffer: Buffer, other: BufferLoad, offset: int, dtype: str
) -> None:
    b, scope = link.block(), link.scope()
    store, init = b.body, b.init
    assert type(store) is BufferStore  # _product has looked
    assert type(init) is BufferStore
    wide = store.buffer.dtype
    func = s.func_of(b.key)
    for x in {buffer, other.buffer}:
        writers = [y for y in blocks_below(scope) if any(w.buffer is x for w in y.block().writes)]
        if len(writers) > 1:
            s.fail(
                f"buffer {x.name} has {len(writers)} writers in the scope",
                hint="do this before decompose_reduction",
                code="cache-writers",
                at=[y.node for y in writers],
            )
    # A with the offset, element by element
    moved = Buffer(fresh_name(s, func, f"{buffer.name}_offset"), buffer.shape, dtype, buffer.scope)
    at = tuple([Var(f"v{k}", n.dtype) for k, n in enumerate(buffer.shape)])
    copy, _ = grid_block(
        moved.name,
        [(v, n, "spatial") for v, n in zip(at, buffer.shape, strict=True)],
        BufferStore(moved, _shifted(build.load(buffer, at), offset, dtype, wide), at),
    )
    # the sums of B, for each value of the spatial iterators that it depends on
    fresh = {iv.var: Var(iv.var.name, iv.var.dtype) for iv in b.iter_vars}
    used = [
        iv
        for iv in b.iter_vars
        if iv.kind == "reduce" or any(uses_var(i, iv.var) for i in other.indices)
    ]
    kept = [iv for iv in used if iv.kind == "spatial"] or [
        iv for iv in b.iter_vars[:1] if iv.kind == "spatial"
    ]
    used = [*kept, *[iv for iv in used if iv.kind == "reduce"]]
    sums = Buffer(
        fresh_name(s, func, f"{other.buffer.name}_sum", [moved.name]),
        tuple([iv.dom.extent for iv in kept]) or (IntImm(1, "int32"),),
        wide,
    )
    only: tuple[Expr, ...] = () if kept else (IntImm(0, "int32"),)  # one sum for all
    here = tuple([fresh[iv.var] for iv in kept]) or only
    term = build.cast(wide, substitute(other, dict(fresh)))
    add, _ = grid_block(
        sums.name,
        [(fresh[iv.var], iv.dom.extent, iv.kind) for iv in used],
        BufferStore(sums, build.add(build.load(sums, here), term), here),
        init=BufferStore(sums, build.const(0, wide), here),
    )
    # the sum of products itself
    places = tuple([iv.var for iv in kept]) or only
    less = build.mul(build.load(sums, places), build.const(-offset, wide))
    begin = less if _is_zero(init.value) else build.add(init.value, less)
    body = replace_buffers(store, {buffer: moved})
    reads = [BufferRegion(moved, r.region) if r.buffer is buffer else r for r in b.reads]
    one = tuple([Range(x, IntImm(1, x.dtype)) for x in places])
    reads.append(BufferRegion(sums, one))
    changed = block_with(
        b, body=body, init=BufferStore(init.buffer, begin, init.indices), reads=tuple(reads)
    )
    s.replace(link, changed)
    owner = s.refresh(scope)
    base = owner.block()
    s.replace(
        owner,
        block_with(
            base,
            body=put_beside(base, changed, [copy, add], after=False),
            alloc_buffers=(*base.alloc_buffers, moved, sums),
        ),
    )


def _shifted(e: Expr, offset: int, dtype: str, wide: str) -> Expr:
    """`e + offset`, as `dtype`. Unsigned numbers of the same size wrap around to it, a vector of
    them in one instruction."""
    if dtypes.is_unsigned(dtype) and dtypes.bits(dtype) == dtypes.bits(e.dtype):
        return build.add(build.cast(dtype, e), build.const(offset % 2 ** dtypes.bits(dtype), dtype))
    return build.cast(dtype, build.add(build.cast(wide, e), build.const(offset, wide)))


def _is_zero(e: Expr) -> bool:
    return const_int(e) == 0 or (type(e) is Cast and type(e.value) is IntImm and e.value.value == 0)
