"""Primitives that put one instruction of the machine in the place of a block: tensorize."""

from __future__ import annotations

from ..errors import UserError
from ..ir.nodes import Block, Buffer, Expr, For, MatchBuffer, PrimFunc, Var
from ..ir.walk import rename_blocks, replace_buffers, substitute, substitute_stmt, walk_stmt
from ..target import Target
from ..target.intrin import TensorIntrin, intrin
from .blockize import blockize_loop
from .handles import BlockRV, LoopRV
from .matching import match_block
from .primitive import primitive
from .state import State


@primitive("Tensorize", inputs=("block_or_loop",), renamed={"intrin_name": "tensor_intrin"})
def tensorize(
    s: State,
    block_or_loop: BlockRV | LoopRV | str,
    tensor_intrin: str,
    preserve_unit_iters: bool = True,
) -> None:
    """Compute a block, or what is under a loop, by a tensor intrinsic.

    The block must do what the intrinsic's description does, up to names and up to where the
    operands lie in their buffers. Its loops then give way to the implementation; the block itself,
    its iterators and its regions stay.

    Args:
        block_or_loop: a block that holds the loops to be replaced (see `blockize`), or the
            outermost one of these loops.
        tensor_intrin: see `TensorIntrin.register`.
        preserve_unit_iters: for the block that is made of a loop.

    Raises:
        ScheduleError: no such intrinsic; the current target (`with Target(...):`), if there is one,
            has not got it; the block is not what it describes, with the reasons.

    Example:
        >>> sch = demo_schedule("u8_matmul"); c = sch.get_block("C"); i, j, k = sch.get_loops(c)
        >>> j0, j1 = sch.split(j, [None, 16]); k0, k1 = sch.split(k, [None, 4])
        >>> sch.reorder(k0, j1, k1); _ = sch.decompose_reduction(c, k0)
        >>> sch.tensorize(j1, "dot_16x4_vnni")
        >>> [m.buffer.name for m in sch.get(sch.get_block("C_update_o")).match_buffers]
        ['A_1', 'B_1', 'C_1']
    """
    link = s.block_or_loop(block_or_loop)
    try:
        wanted = intrin(tensor_intrin)
        desc, impl = wanted.desc, wanted.impl
    except UserError as e:
        s.fail(e.message, hint=e.hint, code=e.code, at=link.node)
    _check_target(s, wanted, link.node)
    if type(link.node) is For:
        key = blockize_loop(s, link, preserve_unit_iters)
        found = s.find(key)
        assert found is not None
        link = found[1]
    b = link.block()
    match = match_block(b, desc)
    if isinstance(match, list):
        s.fail(
            f"block {b.name} does not match the tensor intrinsic {tensor_intrin}: {match[0]}",
            hint="; ".join(match[1:]) or (_TAIL if "has the predicate" in match[0] else _TILE),
            code="tensorize-match",
            at=b,
        )
    body, views = _fresh(impl)
    matches = tuple([
        MatchBuffer(view, match.regions[d]) for d, view in zip(desc.buffers, views, strict=True)
    ])  # fmt: skip
    s.replace(
        link,
        Block(
            b.key, b.name, b.iter_vars, b.iter_values, b.predicate, b.reads, b.writes, body.body,
            None, body.alloc_buffers, matches, (*b.annotations, *body.annotations),
        ),
    )  # fmt: skip


_TILE = "tile the loops to the sizes of the description, in its order, and blockize them"
_TAIL = (
    "the sizes of the description do not divide the extents: pad_einsum the block to multiples of "
    "them before it is tiled, or loop_partition the loop, so that its tail is a loop of its own, "
    "and tensorize the rest"
)


def _check_target(s: State, wanted: TensorIntrin, at: object) -> None:
    """Refuse an instruction that the target at hand does not have."""
    target = Target.current()
    missing = "" if target is None else wanted.missing(target)
    if missing:
        s.fail(
            f"tensor_intrin {wanted.name!r} is not for the current target, {target}: {missing}",
            hint="choose an intrinsic for which TensorIntrin.get(name).missing(target) is empty",
            code="tensorize-target",
            at=at,
        )


def _fresh(impl: PrimFunc) -> tuple[Block, list[Buffer]]:
    """The body of an implementation with all that it binds made anew, and its parameters."""
    body = rename_blocks(impl.body)
    assert type(body) is Block
    names: dict[Var, Expr] = {}
    for b in impl.buffers:
        for e in (*(b.strides or ()), *(() if b.elem_offset is None else (b.elem_offset,))):
            if type(e) is Var:
                names.setdefault(e, Var(e.name, e.dtype))

    def again(b: Buffer, name: str) -> Buffer:
        strides = None if b.strides is None else tuple([substitute(e, names) for e in b.strides])
        offset = None if b.elem_offset is None else substitute(b.elem_offset, names)
        return Buffer(name, b.shape, b.dtype, b.scope, strides, offset, b.align)

    table = {b: again(b, f"{b.name}_1") for b in impl.buffers}
    for x in walk_stmt(body):
        if type(x) is Block:
            for a in (*x.alloc_buffers, *[m.buffer for m in x.match_buffers]):
                table[a] = again(a, a.name)
    out = replace_buffers(substitute_stmt(body, names), table)
    assert type(out) is Block
    return out, [table[b] for b in impl.buffers]
