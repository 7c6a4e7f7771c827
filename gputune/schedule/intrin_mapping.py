"""Which iterators of a block stand for those of a tensor intrinsic?

`get_tensorize_loop_mapping` finds loops that can be tiled to the sizes of an intrinsic;
`get_auto_tensorize_mapping_info` finds groups of iterators that together are one of the
intrinsic's, such as batch, rows and columns of a convolution for the rows of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

from ..errors import ScheduleError
from ..ir import build
from ..ir.build import const_int
from ..ir.equal import find_anchor_block
from ..ir.index_map import IndexMap
from ..ir.nodes import Block, Buffer, Expr, For, IntImm, IterVar, PrimFunc, Stmt, Var
from ..ir.walk import rewrite_exprs, substitute, uses_var, walk_stmt
from ..target.intrin import intrin
from .analysis import is_output, loop_ranges
from .analysis import is_trivial_binding as _is_trivial
from .blockize import fold
from .handles import BlockRV, LoopRV
from .matching import Matcher, body_of, placed
from .schedule import Schedule
from .views import StmtSRef

_V = TypeVar("_V")

__all__ = [
    "AutoTensorizeMappingInfo",
    "ByLoop",
    "TensorizeInfo",
    "find_anchor_block",
    "get_auto_tensorize_mapping_info",
    "get_tensorize_loop_mapping",
    "is_output_block",
    "is_trivial_binding",
    "operands_of",
    "tile_with_tensor_intrin",
]


def is_output_block(sch: Schedule, block: BlockRV) -> bool:
    """Does the block write a buffer that is not allocated inside its scope?

    Raises:
        ScheduleError: the schedule has no such block.

    Example:
        of a matmul `C`: True; after `cache_write` of it: False, as the copy is the output now.
    """
    return is_output(sch.block(block), sch)


def is_trivial_binding(sch: Schedule, block: BlockRV) -> bool:
    """Is every iterator of the block exactly one loop variable?

    Raises:
        ScheduleError: the schedule has no such block.

    Example:
        of a block straight from the script: True; after `split` of one of its loops: False.
    """
    return _is_trivial(sch.block(block))


# ----------------------------------------------------------------------------- one loop for each
class ByLoop(Mapping[Var, _V]):
    """Something for each of some loops, which may be given by their variables, as loops, or as
    references; going through it gives the variables."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Var, _V]) -> None:
        self._items = items

    def __getitem__(self, loop: Var | For | StmtSRef) -> _V:
        v = loop.loop_var if isinstance(loop, StmtSRef) else loop
        v = v.var if isinstance(v, For) else v
        if v is None:
            raise KeyError(loop)
        return self._items[v]

    def __iter__(self) -> Iterator[Var]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"ByLoop({dict(self._items)})"


@dataclass(frozen=True, slots=True)
class TensorizeInfo:
    """How the loops of a block are tiled for an intrinsic.

    Attributes:
        loop_map: loop of the program -> the loop of the description whose extent is the size of its
            tile. A loop is given by its variable, or itself, or as a reference (`sch.get_sref`).
        desc_loop_indexer: loop of the description, or its variable -> its depth.
        block_iter_paddings: to a multiple of what each iterator of the block is to be padded first;
            None where nothing is.
    """

    loop_map: ByLoop[For]
    desc_loop_indexer: ByLoop[int]
    block_iter_paddings: tuple[int, ...] | None = None


def get_tensorize_loop_mapping(
    sch: Schedule, block: BlockRV, desc_func: PrimFunc, allow_padding: bool = False
) -> TensorizeInfo | None:
    """The loops of a block that, tiled to the sizes of a description, make what it describes.

    Of several, the loops that stand last in the block are taken.

    Args:
        sch: a schedule.
        block: a block without blocks inside.
        desc_func: the description of a tensor intrinsic: a nest of loops around one block.
        allow_padding: also take loops whose extents are no multiple of the tile.

    Returns:
        The mapping; None where there is none.
    """
    link = sch.block(block)
    b = link.block()
    nest = _nest(desc_func)
    loops = {f.var: f for f in link.loops()}
    if nest is None or loop_ranges(list(loops.values())) is None:
        return None
    desc_loops, inner = nest
    sizes = [const_int(f.extent) for f in desc_loops]
    for chosen in _choices(b, inner):
        paddings = [1] * len(b.iter_vars)
        found: dict[Var, For] = {}
        for d, p in zip(inner.iter_vars, chosen, strict=True):
            f = desc_loops[_depth(inner, d, desc_loops)]
            value = b.iter_values[p]
            size, extent = const_int(f.extent), const_int(b.iter_vars[p].dom.extent)
            if type(value) is not Var or value not in loops or size is None or extent is None:
                break
            if const_int(loops[value].extent) != extent:
                break
            if extent % size != 0:
                if not allow_padding:
                    break
                paddings[p] = size
            found[value] = f
        else:
            if None not in sizes and _agrees(b, desc_func, inner, chosen):
                padded = any(n != 1 for n in paddings)
                return TensorizeInfo(
                    ByLoop(found),
                    ByLoop({f.var: k for k, f in enumerate(desc_loops)}),
                    tuple(paddings) if padded else None,
                )
    return None


def _nest(desc: PrimFunc) -> tuple[list[For], Block] | None:
    """The loops and the block of a description that is one nest, each iterator one loop."""
    s: Stmt = body_of(desc)
    loops: list[For] = []
    while type(s) is For:
        loops.append(s)
        s = s.body
    if type(s) is not Block or {f.var for f in loops} != set(s.iter_values):
        return None
    return loops, s


def _depth(inner: Block, iv: IterVar, loops: Sequence[For]) -> int:
    value = inner.iter_values[inner.iter_vars.index(iv)]
    return next(k for k, f in enumerate(loops) if f.var is value)


def _choices(b: Block, inner: Block) -> Iterator[tuple[int, ...]]:
    """Positions of iterators of the block for those of the description, the last ones first."""
    order = range(len(b.iter_vars) - 1, -1, -1)
    for picked in permutations(order, len(inner.iter_vars)):
        if all(b.iter_vars[p].kind == d.kind for p, d in zip(picked, inner.iter_vars, strict=True)):
            yield picked


def _agrees(b: Block, desc: PrimFunc, inner: Block, chosen: Sequence[int]) -> bool:
    """Would the block, tiled so, be what is described?"""
    table: dict[Var, Expr] = {}
    dom: dict[Var, tuple[int, int]] = {}
    m = Matcher()
    for d, p in zip(inner.iter_vars, chosen, strict=True):
        v, size = b.iter_vars[p].var, const_int(d.dom.extent)
        if size is None:
            return False
        high, low = Var(f"{v.name}_o", v.dtype), Var(f"{v.name}_i", v.dtype)
        dom[low] = (0, size - 1)
        table[v] = build.add(build.mul(high, IntImm(size, v.dtype)), low)
        m.vars[d.var] = low
    body = rewrite_exprs(b.body, lambda e: fold(substitute(e, table), dom))
    return m.stmt(inner.body, body) and not isinstance(placed(m, desc), list)


def tile_with_tensor_intrin(
    sch: Schedule, block: BlockRV, intrin_name: str, allow_padding: bool = False
) -> LoopRV | None:
    """Split and reorder the loops of a block so that the innermost are those of an intrinsic.

    Args:
        sch: a schedule; unchanged where None is returned.
        block: the block.
        intrin_name: see `TensorIntrin.register`.
        allow_padding: pad the block first (`pad_einsum`) where extents are no multiples.

    Returns:
        The outermost of the intrinsic's loops, to be given to `blockize`; None where the block is
        not what the intrinsic computes.

    Raises:
        UserError: no such intrinsic.
    """
    desc = intrin(intrin_name).desc
    if get_tensorize_loop_mapping(sch, block, desc, allow_padding) is None:
        return None
    try:
        if _tile(sch.copy(), block, desc, allow_padding) is None:
            return None
    except ScheduleError:  # such as loops that hold other blocks too
        return None
    return _tile(sch, block, desc, allow_padding)


def _tile(sch: Schedule, block: BlockRV, desc: PrimFunc, allow_padding: bool) -> LoopRV | None:
    info = get_tensorize_loop_mapping(sch, block, desc, allow_padding)
    if info is not None and info.block_iter_paddings is not None:
        sch.pad_einsum(block, list(info.block_iter_paddings))
        info = get_tensorize_loop_mapping(sch, block, desc)
    if info is None:
        return None
    loops = sch.get_loops(block)
    outermost = len(loops)
    names = {sch.get(rv).var: k for k, rv in enumerate(loops)}
    inner: list[tuple[int, LoopRV]] = []
    for v, f in info.loop_map.items():
        at = names[v]
        loops[at], low = sch.split(loops[at], [None, const_int(f.extent)])
        inner.append((info.desc_loop_indexer[f.var], low))
        outermost = min(outermost, at)
    inner.sort(key=lambda x: x[0])
    order = [rv for _, rv in inner]
    sch.reorder(*loops[outermost:], *order)
    return order[0]


# ----------------------------------------------------------------------------- groups of iterators
@dataclass(frozen=True, slots=True)
class AutoTensorizeMappingInfo:
    """How the iterators of a block are joined to those of a description.

    Attributes:
        mappings: from the iterators of the block to (what indexes all operands..., one index for
            each iterator of the description); the best first.
        lhs_buffer_map: buffer of the program -> that of the description.
        rhs_buffer_indices: buffer of the description -> its indices there, in terms of rhs_iters.
        lhs_iters: the iterators of the block.
        rhs_iters: those of the description, in the order of the mapping's last indices.
        groups: for each of these, which iterators of the block it is, slowest first.
        batch: the iterators of the block that index all operands.
    """

    mappings: tuple[IndexMap, ...]
    lhs_buffer_map: Mapping[Buffer, Buffer]
    rhs_buffer_indices: Mapping[Buffer, tuple[Expr, ...]]
    lhs_iters: tuple[IterVar, ...]
    rhs_iters: tuple[IterVar, ...]
    groups: tuple[tuple[IterVar, ...], ...]
    batch: tuple[IterVar, ...]


class _Anywhere(Matcher):
    """A comparison that lets indices be anything, and notes them."""

    __slots__ = ("indices",)

    def __init__(self) -> None:
        super().__init__()
        self.indices: dict[Buffer, tuple[Sequence[Expr], Sequence[Expr]]] = {}

    def access(self, b: Buffer, indices: Sequence[Expr], of: Buffer, there: Sequence[Expr]) -> bool:
        if b.dtype != of.dtype:
            return self.no(f"buffer {of.name} has dtype {of.dtype}, {b.name} {b.dtype}")
        known = self.windows.get(b)
        if known is not None and known[0] is not of:
            return self.no(f"{b.name} of the description is both {known[0].name} and {of.name}")
        self.windows[b] = (of, ())
        self.indices[b] = (indices, there)
        return True


def operands_of(
    block: Block, desc_func: PrimFunc
) -> dict[Buffer, tuple[Buffer, tuple[Expr, ...]]] | None:
    """What stands in a block for the buffers of a description, wherever it lies.

    Returns:
        Buffer of the description -> buffer of the program and its indices there; None where the
        block does something else, or is more than one statement.
    """
    nest = _nest(desc_func)
    if nest is None or any(type(s) is Block for s in walk_stmt(block.body)):
        return None
    m = _Anywhere()
    if not m.stmt(nest[1].body, block.body):
        return None
    return {b: (of, tuple(m.indices[b][1])) for b, (of, _) in m.windows.items()}


def get_auto_tensorize_mapping_info(
    sch: Schedule, block: BlockRV, desc_func: PrimFunc
) -> AutoTensorizeMappingInfo | None:
    """Which iterators of a block are, joined, those of a description.

    Iterators belong together if they index the same operands: in `C[m, n] += A[m, k] * B[k, n]`
    those of C and A are rows, those of C and B columns, those of A and B are summed over. A
    convolution is such a product too, with the window in the sum.

    Returns:
        The mapping; None where the block computes something else.
    """
    b = sch.block(block).block()
    nest = _nest(desc_func)
    if nest is None or any(type(s) is Block for s in walk_stmt(b.body)):
        return None
    _, inner = nest
    m = _Anywhere()
    if not m.stmt(inner.body, b.body):
        return None
    extents = {iv.var: const_int(iv.dom.extent) for iv in b.iter_vars}
    if any(n is None for n in extents.values()):
        return None
    wanted = {}
    for d in inner.iter_vars:
        wanted[frozenset(k for k, (i, _) in m.indices.items() if _uses(i, d.var)), d.kind] = d
    if len(wanted) != len(inner.iter_vars):
        return None
    everywhere = frozenset(m.indices)
    groups: dict[Var, list[IterVar]] = {d.var: [] for d in inner.iter_vars}
    batch: list[IterVar] = []
    for iv in b.iter_vars:
        signature = frozenset(k for k, (_, i) in m.indices.items() if _uses(i, iv.var))
        found = wanted.get((signature, iv.kind))
        if found is not None:
            groups[found.var].append(iv)
        elif signature == everywhere and iv.kind == "spatial":
            batch.append(iv)
        else:
            return None
    if not all(groups.values()):
        return None
    joined: list[Expr] = [iv.var for iv in batch]
    for d in inner.iter_vars:
        joined.append(_joined(groups[d.var]))
    fresh = {iv.var: Var(iv.var.name) for iv in b.iter_vars}
    table: dict[Var, Expr] = dict(fresh)
    index_map = IndexMap(
        tuple([fresh[iv.var] for iv in b.iter_vars]), tuple([substitute(e, table) for e in joined])
    )
    return AutoTensorizeMappingInfo(
        (index_map,),
        {of: d for d, (of, _) in m.windows.items()},
        {d: tuple(m.indices[d][0]) for d in m.windows},
        b.iter_vars,
        inner.iter_vars,
        tuple([tuple(groups[d.var]) for d in inner.iter_vars]),
        tuple(batch),
    )


def _uses(indices: Sequence[Expr], v: Var) -> bool:
    return any(uses_var(e, v) for e in indices)


def _joined(iters: Sequence[IterVar]) -> Expr:
    """The iterators as one number, the last one fastest."""
    out: Expr = iters[0].var
    for iv in iters[1:]:
        out = build.add(build.mul(out, iv.dom.extent), iv.var)
    return out
