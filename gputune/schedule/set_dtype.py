"""Of which type are the elements of a buffer? unsafe_set_dtype."""

from __future__ import annotations

from ..ir import build, dtypes
from ..ir.nodes import Block, Buffer, BufferLoad, BufferStore, Cast, Expr, Stmt
from ..ir.walk import blocks, map_expr, map_stmt, replace_buffers
from .handles import BlockRV
from .memory import BufferIndex, allocator, pick_buffer, record_index
from .primitive import primitive
from .state import State


@primitive("UnsafeSetDType", inputs=("block",))
def unsafe_set_dtype(s: State, block: BlockRV | str, buffer_index: BufferIndex, dtype: str) -> None:
    """Hold what a block writes in another element type; values are converted where they are stored,
    and back where they are loaded.

    What is computed keeps its type: only memory changes. A type that holds every value of the old
    one (float32 in float64, int8 in int32 or float32) gives the same result, to the bit; any other
    one rounds, wraps or cuts off values that it cannot hold, which nothing checks: that is what is
    unsafe. A running result of a reduction is converted at every step, so `rfactor` and reductions
    that threads share no longer know its combiner: call them before.

    Args:
        block: the writer.
        buffer_index: which of its written buffers (position, name or object).
        dtype: the new element type, such as "float16".

    Raises:
        ScheduleError: the buffer is a parameter of the function, or a view made by match_buffer; no
            such buffer or element type.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); _ = sch.cache_write(b, 0, "global")
        >>> sch.unsafe_set_dtype(b, 0, "float16"); print(sch.get(b).body.value)
        T.Cast("float16", A[vi, vj] * T.float32(2))
    """
    link = s.block(block)
    b = link.block()
    if dtype not in dtypes.SCALARS:
        s.fail(
            f"dtype {dtype!r} is not an element type",
            hint=f"known: {', '.join(dtypes.SCALARS)}",
            code="dtype",
            at=b,
        )
    index = pick_buffer(s, b.writes, buffer_index, "write", b)
    record_index(s, "buffer_index", buffer_index, index)
    buffer = b.writes[index].buffer
    for x in link.above():
        if type(x.node) is Block and any(m.buffer is buffer for m in x.node.match_buffers):
            s.fail(
                f"buffer {buffer.name} is a view made by block {x.node.name}",
                hint="set the dtype of the buffer that it is a view of",
                code="buffer-view",
                at=[b, x.node],
            )
    owner = allocator(s, link, buffer)
    if buffer.dtype != dtype:
        s.replace(owner, _retyped(owner.block(), buffer, dtype))


def _retyped(owner: Block, buffer: Buffer, dtype: str) -> Stmt:
    """The block with another element type for a buffer and for the views of it."""
    table = {buffer: _with_dtype(buffer, dtype)}
    for b in blocks(owner):
        for m in b.match_buffers:
            if m.source.buffer in table:
                table[m.buffer] = _with_dtype(m.buffer, dtype)

    def on_expr(e: Expr) -> Expr:
        out = map_expr(e, on_expr)
        if type(out) is BufferLoad and out.buffer in table:
            return Cast(out.dtype, out)  # from what the buffer will hold
        return out

    def on_stmt(x: Stmt) -> Stmt:
        out = map_stmt(x, on_expr, on_stmt)
        assert out is not None  # on_stmt never deletes
        if type(out) is BufferStore and out.buffer in table:
            held = dtypes.with_lanes(dtype, dtypes.lanes(out.value.dtype))
            return BufferStore(out.buffer, build.cast(held, out.value), out.indices, out.predicate)
        return out

    return replace_buffers(on_stmt(owner), table)


def _with_dtype(b: Buffer, dtype: str) -> Buffer:
    return Buffer(b.name, b.shape, dtype, b.scope, b.strides, b.elem_offset, b.align)
