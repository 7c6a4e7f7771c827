"""How is a product tiled around an instruction whose operands do not lie as it takes them?
MultiLevelTilingPacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ScheduleError
from ...ir import build
from ...ir.build import const_int
from ...ir.index_map import IndexMap
from ...ir.nodes import Block, Buffer, Expr, IterVar, Var
from ...ir.walk import uses_var
from ...schedule.intrin_mapping import operands_of, tile_with_tensor_intrin
from ...target.intrin import TensorIntrin, intrin
from ..analysis import AUTO_TENSORIZE, loop_kinds, loop_links
from .multi_level_tiling_with_intrin import MultiLevelTilingWithIntrin

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule

_NEIGHBOURS = 4
"""Vectors of the packed operand that are copied in turn."""
_MOST_PADDING = 2.0
"""Times as much work as there is that an instruction may do, and yet be worth trying."""


@dataclass(frozen=True)
class _Plan:
    """What of a block goes through the instruction `C[i] += sum over k of A[k] * B[i, k]`.

    Attributes:
        lane, depth: positions of the iterators that become i and k.
        lanes, steps: how many of each the instruction takes.
        a, b: the operands.
        depth_of_a, lane_of_b, depth_of_b, lane_of_c: the dimensions of operands and result in which
            i and k are the index.
        padding: for `pad_einsum`.
        waste: how many times the work that there is will be done.
    """

    lane: int
    depth: int
    lanes: int
    steps: int
    a: Buffer
    b: Buffer
    depth_of_a: int
    lane_of_b: int
    depth_of_b: int
    lane_of_c: int
    padding: tuple[int, ...]
    waste: float

    @property
    def order(self) -> tuple[object, ...]:
        """The best plan has the least."""
        return self.waste, self.depth_of_a != len(self.a.shape) - 1, -self.lane, -self.depth


class MultiLevelTilingPacked(MultiLevelTilingWithIntrin):
    """MultiLevelTilingWithIntrin for dot products, with operands packed as the instruction reads.

    The instruction multiplies a few neighbours of one operand with as many of each lane of the
    other: `C[i] += sum over k of A[k] * B[i, k]`. One spatial iterator of the block becomes i, one
    that is summed over k: those of several that need the least padding, and the last ones of those.
    Before the block

    * of two signed factors, where the instruction takes an unsigned one, 128 is added to one
      (`offset_operand`);
    * extents that are no multiples are padded (`pad_einsum`); where they cannot be, because a
      window moves along an operand, the iterators of the sum are joined to one first, and the
      operands copied to lie along it;
    * B is copied so that what one instruction takes lies together, and what the next one along the
      sum takes behind it: `[.., i // lanes, .., k // steps, .., i % lanes, k % steps]`;
    * A is copied with `k % steps` last, unless it lies so;
    * the result is kept with i last, and copied where it belongs, unless it is so.

    What lies as the instruction takes it is tiled as it is. The schedule without the instruction
    stays a candidate. Where a primitive refuses on the way, there is no other.

    Args:
        intrin_name: see MultiLevelTilingWithIntrin.
        sum_intrin: the intrinsic `C[i] += sum over k of B[i, k]` of the same sizes. With it, the
            sums that an offset needs are taken of each few vectors of B right after these are
            packed; without, of B as it was, in a nest of their own.
        max_sum_factor: of the innermost tiles of loops that sum, in place of max_innermost_factor.
            A tile that is the whole sum is never added to in memory.
        args, settings: see MultiLevelTilingWithIntrin.

    Raises:
        UserError: a setting makes no sense; there is no such intrinsic.
    """

    def __init__(
        self,
        intrin_name: str,
        *args: Any,
        sum_intrin: str | None = None,
        max_sum_factor: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(intrin_name, *args, **settings)
        if sum_intrin is not None:
            TensorIntrin.get(sum_intrin)  # refuse a name that does not exist
        self.sum_intrin = sum_intrin
        self.max_sum_factor = max_sum_factor

    def _limit(self, sch: Schedule, block: BlockRV, loop: LoopRV) -> int | None:
        kinds = loop_kinds(loop_links(sch.block(block)))
        if self.max_sum_factor is not None and kinds[sch.get(loop).var] == "reduce":
            return self.max_sum_factor
        return super()._limit(sch, block, loop)

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule as it is, and its tilings with the instruction."""
        if not self.is_there or not self._is_wanted(sch, block):
            return [sch]
        base, plan = sch, _best_plan(sch.block(block).block(), self.intrin_name)
        if plan is None:
            found = _with_offset(sch, block, self.intrin_name)
            if found is None:
                return super().apply(sch, block)
            base, plan = found
        new = self._packed(base, block, plan) or self._joined(base, block, plan)
        if new is None:
            return [sch]
        loop = tile_with_tensor_intrin(new, block, self.intrin_name)
        if loop is None:
            return [sch]
        outer = new.blockize(loop)
        new.annotate(outer, AUTO_TENSORIZE, self.intrin_name)
        return [sch, *self._tilings(new, outer)]

    def _packed(self, sch: Schedule, block: BlockRV, plan: _Plan) -> Schedule | None:
        """A copy of the schedule with the operands packed; None where a primitive refuses, or most
        of the work would be on padding."""
        if plan.waste > _MOST_PADDING:
            return None
        for sum_intrin in dict.fromkeys([self.sum_intrin, None]):
            new = sch.copy()
            try:
                if _pack(new, block, plan, sum_intrin):
                    return new
            except ScheduleError:  # such as padding where a convolution's window moves
                continue
        return None

    def _joined(self, sch: Schedule, block: BlockRV, plan: _Plan) -> Schedule | None:
        """The same, with the iterators of the sum joined to one before; None where there is but
        one."""
        new = sch.copy()
        try:
            if not _join_sums(new, block, plan):
                return None
        except ScheduleError:
            return None
        again = _best_plan(new.block(block).block(), self.intrin_name)
        return None if again is None else self._packed(new, block, again)


# ----------------------------------------------------------------------------- what
def _best_plan(b: Block, name: str) -> _Plan | None:
    """How the block is packed for an intrinsic; None where it is not such a product, or lies as the
    intrinsic takes it."""
    plans = list(_plans(b, name))
    if not plans:
        return None
    best = min(
        plans, key=lambda p: (p.waste, p.depth_of_a != len(p.a.shape) - 1, -p.lane, -p.depth)
    )
    shape = [const_int(n) for n in best.b.shape[-2:]]
    return None if shape == [best.lanes, best.steps] else best


def _plans(b: Block, name: str) -> Iterator[_Plan]:
    desc = intrin(name).desc
    found = operands_of(b, desc)
    if found is None or len(desc.buffers) != 3:
        return
    left, right, out = desc.buffers
    if len(left.shape) != 1 or len(right.shape) != 2:
        return
    lanes, steps = (int(const_int(n) or 0) for n in right.shape)
    pairs = [(found[left], found[right])]
    if left.dtype == right.dtype:
        pairs.append((found[right], found[left]))
    _, at_c = found[out]
    for (a, at_a), (other, at_b) in pairs:
        for lane, i in enumerate(b.iter_vars):
            i_of_b, i_of_c = _dimension(at_b, i), _dimension(at_c, i)
            if i.kind != "spatial" or None in (i_of_b, i_of_c) or _uses(at_a, i):
                continue
            for depth, k in enumerate(b.iter_vars):
                k_of_a, k_of_b = _dimension(at_a, k), _dimension(at_b, k)
                if k.kind != "reduce" or k_of_a is None or k_of_b is None:
                    continue
                padding = [1] * len(b.iter_vars)
                padding[lane], padding[depth] = lanes, steps
                waste = _rounding(i, lanes) * _rounding(k, steps)
                assert i_of_b is not None
                assert i_of_c is not None
                yield _Plan(
                    lane, depth, lanes, steps, a, other, k_of_a, i_of_b, k_of_b, i_of_c,
                    tuple(padding), waste,
                )  # fmt: skip


def _dimension(indices: Sequence[Expr], iv: IterVar) -> int | None:
    """The dimension whose index is the iterator, if no other index has anything to do with it."""
    at = [k for k, e in enumerate(indices) if uses_var(e, iv.var)]
    return at[0] if len(at) == 1 and indices[at[0]] is iv.var else None


def _uses(indices: Sequence[Expr], iv: IterVar) -> bool:
    return any(uses_var(e, iv.var) for e in indices)


def _rounding(iv: IterVar, to: int) -> float:
    """How much longer it is when it is a multiple of `to`."""
    n = const_int(iv.dom.extent)
    assert n is not None  # the rule wants constant extents
    return -(-n // to) * to / n


def _with_offset(sch: Schedule, block: BlockRV, name: str) -> tuple[Schedule, _Plan] | None:
    """Where the instruction takes unsigned bytes and both factors are signed: a schedule in which
    128 is added to one of them, and its plan."""
    found: list[tuple[Schedule, _Plan]] = []
    left, *_ = intrin(name).desc.buffers
    for k, r in enumerate(sch.get(block).reads):
        if (left.dtype, r.buffer.dtype) != ("uint8", "int8"):
            continue
        new = sch.copy()
        try:
            new.offset_operand(block, k, 128, left.dtype)
        except ScheduleError:  # such as another sum
            continue
        plan = _best_plan(new.block(block).block(), name)
        if plan is not None:
            found.append((new, plan))
    return min(found, key=lambda x: x[1].order) if found else None


# ----------------------------------------------------------------------------- how
def _pack(sch: Schedule, block: BlockRV, plan: _Plan, sum_intrin: str | None) -> bool:
    """Arrange the operands of the block; False where the intrinsic does not fit the sums of B that
    an offset needs."""
    reads = [r.buffer for r in sch.get(block).reads]
    at_a, at_b = reads.index(plan.a), reads.index(plan.b)
    sums = None
    if plan.waste > 1.0:
        sch.pad_einsum(block, list(plan.padding))
    elif sum_intrin is not None:
        sums = _sums_of(sch, block, plan.b)
    # without an instruction, sums of B go along its rows
    copy = sch.cache_read(block, at_b, "global", [block, *([] if sums is None else [sums])])
    outermost, vector = _loops_of_copy(sch, copy, plan)
    if sums is not None:
        sch.reverse_compute_at(sums, outermost, preserve_unit_loops=True)
    sch.transform_layout(block, ("read", at_b), _layout_of_b(plan))
    sch.vectorize(sch.fuse(*vector))
    if sums is not None and not _sum_vectors(sch, sums, sum_intrin, plan):
        return False
    if plan.depth_of_a != len(plan.a.shape) - 1:
        sch.cache_read(block, at_a, "global", [block])
        sch.transform_layout(block, ("read", at_a), _layout_of_a(plan))
    out = sch.get(block).writes[0].buffer
    if plan.lane_of_c != len(out.shape) - 1:
        sch.cache_write(block, 0, "global")
        sch.transform_layout(block, ("write", 0), _layout_of_c(plan, len(out.shape)))
    return True


def _sums_of(sch: Schedule, block: BlockRV, b: Buffer) -> BlockRV | None:
    """The block in which `offset_operand` sums the other operand."""
    for maker in sch.get_producers(block):
        found = sch.get(maker)
        if found.init is not None and [r.buffer for r in found.reads] == [b]:
            return maker
    return None


def _sum_vectors(sch: Schedule, sums: BlockRV, name: str | None, plan: _Plan) -> bool:
    """Sum the packed operand by an instruction, a few chains of sums side by side; False where it
    does not fit. The loops of the block are that of the copy, and one for each of its iterators."""
    _, *loops = sch.get_loops(sums)
    b = sch.get(sums)
    kinds = [iv.kind for iv in b.iter_vars]
    if name is None or len(loops) != len(kinds):
        return False
    used = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "spatial"]
    over = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "reduce"]
    lane, depth = used.pop(), over.pop()
    lane, lanes = sch.split(lane, [None, plan.lanes])
    depth, steps = sch.split(depth, [None, plan.steps])
    sch.reorder(*used, *over, depth, lane, lanes, steps)
    outer = sch.blockize(lanes)
    trial = sch.copy()
    try:
        trial.decompose_reduction(outer, trial.get_loops(outer)[1 + len(used)])
        trial.tensorize(outer, name)
    except ScheduleError:  # such as sums along other dimensions
        return False
    sch.annotate(outer, AUTO_TENSORIZE, name)
    return True


def _join_sums(sch: Schedule, block: BlockRV, plan: _Plan) -> bool:
    """Make one of the iterators that both operands are summed over, and let the operands lie along
    it; False, and nothing is done, where there is one."""
    b = sch.get(block)
    reads = {r.buffer: r for r in b.reads}
    iters = [iv.var for iv in b.iter_vars]
    used = {
        x: [v for v in iters if any(uses_var(g.min, v) for g in reads[x].region)]
        for x in (plan.a, plan.b)
    }
    joined = [
        iv
        for iv in b.iter_vars
        if iv.kind == "reduce" and iv.var in used[plan.a] and iv.var in used[plan.b]
    ]
    if len(joined) < 2:
        return False
    order = [r.buffer for r in b.reads]
    for x in (plan.a, plan.b):
        at = order.index(x)
        sch.reindex(block, ("read", at))
        sch.transform_layout(block, ("read", at), _joining(used[x], joined))
    sch.transform_block_layout(block, _joining(iters, joined))
    return True


def _joining(given: Sequence[Var], joined: Sequence[IterVar]) -> IndexMap:
    """From some iterators to those that are not joined, and the joined ones as one number."""
    fresh = {v: Var(v.name, v.dtype) for v in given}
    last: Expr = fresh[joined[0].var]
    for iv in joined[1:]:
        last = build.add(build.mul(last, iv.dom.extent), fresh[iv.var])
    inside = {iv.var for iv in joined}
    return IndexMap(
        tuple(fresh.values()), (*[x for v, x in fresh.items() if v not in inside], last)
    )


def _loops_of_copy(
    sch: Schedule, copy: BlockRV, plan: _Plan
) -> tuple[LoopRV, tuple[LoopRV, LoopRV]]:
    """Put the loops of the copy of B in the order of its new layout, a few neighbours of i
    together, so that whole cache lines are read where i is the last dimension; the outermost one,
    and those of what one instruction takes."""
    loops = sch.get_loops(copy)
    i, k = loops[plan.lane_of_b], loops[plan.depth_of_b]
    rest = [x for x in loops if x is not i]
    i, lanes = sch.split(i, [None, plan.lanes])
    at = rest.index(k)
    rest[at], steps = sch.split(k, [None, plan.steps])
    count = const_int(sch.get(i).extent)
    if count is not None and count % _NEIGHBOURS == 0:
        i, together = sch.split(i, [None, _NEIGHBOURS])
        rest.append(together)
    sch.reorder(i, *rest, lanes, steps)
    return i, (lanes, steps)


def _layout_of_b(plan: _Plan) -> IndexMap:
    def layout(*x: Expr) -> list[Expr]:
        i, k = x[plan.lane_of_b], x[plan.depth_of_b]
        rest = [
            e // plan.steps if d == plan.depth_of_b else e
            for d, e in enumerate(x)
            if d != plan.lane_of_b
        ]
        return [i // plan.lanes, *rest, i % plan.lanes, k % plan.steps]

    return IndexMap.from_func(layout, len(plan.b.shape))


def _layout_of_a(plan: _Plan) -> IndexMap:
    def layout(*x: Expr) -> list[Expr]:
        k = x[plan.depth_of_a]
        rest = [e // plan.steps if d == plan.depth_of_a else e for d, e in enumerate(x)]
        return [*rest, k % plan.steps]

    return IndexMap.from_func(layout, len(plan.a.shape))


def _layout_of_c(plan: _Plan, dimensions: int) -> IndexMap:
    def layout(*x: Expr) -> list[Expr]:
        rest = [e for d, e in enumerate(x) if d != plan.lane_of_c]
        return [*rest, x[plan.lane_of_c]]

    return IndexMap.from_func(layout, dimensions)
