"""How does a product of two tensors run on a GPU when nothing was tuned? In tiles.

A block of threads computes a tile of the result, a few elements a thread in registers, and fetches
what it needs for a step of the reduction into shared memory first. Every factor divides, so that
there is no remainder to guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ScheduleError
from .gpu_nests import GpuSizes, Nest, cheap_to_inline, extent_of, nest_of, product, with_epilogue
from .ir import dtypes
from .ir.nodes import Block, BufferRegion, Var
from .ir.walk import uses_var
from .schedule import BlockRV, LoopRV, Schedule
from .schedule.analysis import is_trivial_binding
from .schedule.reducers import reducer_of

_TILES = (64, 32, 16)  # sides of a block's tile, greatest first
_STEP = 32  # of the reduction
_ENOUGH_BLOCKS = 128
_LEAST_SIDE = 4
_LEAST_THREADS = 32
_FEW_RESULTS = 4096  # of which long reductions are better shared among threads
_LONG = 256


@dataclass(frozen=True, slots=True)
class _Axis:
    """A tiled spatial loop: `threads * inner` iterations a block."""

    loop: LoopRV
    threads: int
    inner: int


def tile_product(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    """Schedule a reduction of a product of two buffers that each are read again along an axis of
    the other.

    Raises:
        ScheduleError: it is not such a block, or its extents have no suitable divisors.
    """
    nest = nest_of(sch, block)
    sides = _sides(sch, nest)
    down, across = _tiles(sch, nest, *sides, sizes)
    copy = with_epilogue(sch, block)
    fetches = [_fetch(sch, block, region) for region in _operands(nest.node)]
    steps, inner = _reduction(sch, nest)
    i0, i1, it = sch.split(down.loop, [None, down.inner, down.threads])
    j0, j1, jt = sch.split(across.loop, [None, across.inner, across.threads])
    grid = [x for x in nest.spatial if x not in (down.loop, across.loop)]
    sch.reorder(*grid, i0, j0, *steps, it, jt, *inner, i1, j1)
    sch.reverse_compute_at(copy, j0)
    for fetch in fetches:
        sch.compute_at(fetch, steps[-1] if steps else j0)
    _bind_pair(sch, it, jt)
    depth = len(grid) + 2
    _bind_copy(sch, copy, nest.node, sch.get_loops(copy)[depth:], sides, (down, across))
    used = 0
    for fetch in fetches:
        used += _bind_fetch(sch, fetch, depth + len(steps), (down, across))
    if used > sizes.shared_bytes:
        raise ScheduleError(f"the tiles take {used} bytes", code="gpu-shared")
    outer = [*grid, i0, j0]
    sch.bind(sch.fuse(*outer), "blockIdx.x")


# ----------------------------------------------------------------------------- what is tiled
def _operands(b: Block) -> list[BufferRegion]:
    written = {w.buffer for w in b.writes}
    return [r for r in b.reads if r.buffer not in written]


def _sides(sch: Schedule, nest: Nest) -> tuple[Var, Var]:
    """The iterators of the longest axis of each operand that the other does not have, the one that
    is written first first."""
    b = nest.node
    operands = _operands(b)
    if (
        nest.shared
        or nest.other
        or not nest.reduce
        or len(operands) != 2
        or reducer_of(b) is None
        or not is_trivial_binding(sch.block(nest.block))
        or not all(g.extent is not None for g in b.writes[0].region)
    ):
        raise ScheduleError("not a product of two buffers", code="gpu-tile")
    best: list[Var] = []
    for mine, theirs in (operands, operands[::-1]):
        own = [
            iv.var
            for iv in b.iter_vars
            if iv.kind == "spatial" and _reads(mine, iv.var) and not _reads(theirs, iv.var)
        ]
        if not own:
            raise ScheduleError("an operand has no axis of its own", code="gpu-tile")
        best.append(max(own, key=lambda v: extent_of(sch, _loop_of(nest, v)) or 0))
    place = [g.min for g in b.writes[0].region]
    if any(v not in place for v in best):
        raise ScheduleError("the axes are not indices of the result", code="gpu-tile")
    first, second = sorted(best, key=place.index)
    return first, second


def _reads(r: BufferRegion, v: Var) -> bool:
    return any(uses_var(g.min, v) for g in r.region)


def _loop_of(nest: Nest, iterator: Var) -> LoopRV:
    """The loop that an iterator is bound to."""
    value = next(
        v for iv, v in zip(nest.node.iter_vars, nest.node.iter_values) if iv.var is iterator
    )
    return nest.spatial[next(k for k, v in enumerate(nest.spatial_vars) if v is value)]


def _tiles(
    sch: Schedule, nest: Nest, first: Var, second: Var, sizes: GpuSizes
) -> tuple[_Axis, _Axis]:
    """Tiles as large as leave enough blocks, and otherwise the smallest."""
    loops = _loop_of(nest, first), _loop_of(nest, second)
    extents = [extent_of(sch, x) for x in loops]
    results, length = product(sch, nest.spatial), product(sch, nest.reduce)
    if results is None or length is None or length < _LEAST_SIDE:
        raise ScheduleError("the sizes are not constant, or too small", code="gpu-tile")
    if results < _FEW_RESULTS and length >= _LONG:
        raise ScheduleError("few results of long reductions", code="gpu-tile")
    found: tuple[_Axis, _Axis] | None = None
    for most in _TILES:
        down, across = (_axis(x, n or 1, most) for x, n in zip(loops, extents))
        sides = down.threads * down.inner, across.threads * across.inner
        threads = down.threads * across.threads
        if min(sides) < _LEAST_SIDE or not _LEAST_THREADS <= threads <= sizes.threads:
            continue
        found = down, across
        if results // (sides[0] * sides[1]) >= _ENOUGH_BLOCKS:
            break
    if found is None:
        raise ScheduleError("the extents have no suitable divisors", code="gpu-tile")
    return found


def _axis(loop: LoopRV, extent: int, most: int) -> _Axis:
    side = _divisor(extent, most)
    inner = next((k for k in (4, 2) if side % k == 0 and side // k >= 8), 1)
    return _Axis(loop, side // inner, inner)


def _divisor(n: int, most: int) -> int:
    """The greatest divisor of n that is at most `most`."""
    return next(d for d in range(min(n, most), 0, -1) if n % d == 0)


def _reduction(sch: Schedule, nest: Nest) -> tuple[list[LoopRV], list[LoopRV]]:
    """The reduction loops outside a fetch, and those inside; one of them is split for it."""
    room = _STEP
    inner: list[LoopRV] = []
    outer = list(nest.reduce)
    while outer:
        n = extent_of(sch, outer[-1]) or 1
        if n <= room:
            inner.insert(0, outer.pop())
            room //= n
            continue
        step = _divisor(n, room)
        if step > 1:
            far, near = sch.split(outer.pop(), [None, step])
            outer.append(far)
            inner.insert(0, near)
        break
    return outer, inner


# ----------------------------------------------------------------------------- copies
def _fetch(sch: Schedule, block: BlockRV, region: BufferRegion) -> BlockRV:
    """A copy of an operand in shared memory; what makes the operand is computed there if cheap."""
    fetch = sch.cache_read(block, region.buffer, "shared", consumer_blocks=[block])
    while True:
        makers = sch.get_producers(fetch)
        if len(makers) != 1 or len(sch.get_consumers(makers[0])) != 1:
            return fetch
        if not cheap_to_inline(sch, makers[0]):
            return fetch
        try:
            sch.compute_inline(makers[0])
        except ScheduleError:  # a reduction, for one
            return fetch


def _bind_pair(sch: Schedule, down: LoopRV, across: LoopRV) -> None:
    sch.bind(down, "threadIdx.y")
    sch.bind(across, "threadIdx.x")


def _bind_copy(
    sch: Schedule,
    copy: BlockRV,
    product_block: Block,
    loops: Sequence[LoopRV],
    sides: tuple[Var, Var],
    axes: tuple[_Axis, _Axis],
) -> None:
    """Let each thread hand over just what lies in its own registers."""
    if len(loops) != 2:
        raise ScheduleError("the result is not handed over in tiles", code="gpu-tile")
    for loop, axis in zip(loops, axes):
        if extent_of(sch, loop) != axis.threads * axis.inner:
            raise ScheduleError("the result is handed over in other tiles", code="gpu-tile")
    (i1, it), (j1, jt) = (
        sch.split(loop, [axis.inner, axis.threads]) for loop, axis in zip(loops, axes)
    )
    sch.reorder(it, jt, i1, j1)
    _bind_pair(sch, it, jt)


def _bind_fetch(sch: Schedule, fetch: BlockRV, depth: int, axes: tuple[_Axis, _Axis]) -> int:
    """Share a fetch among all threads of the block; how many bytes it takes."""
    loops = sch.get_loops(fetch)[depth:]
    total = product(sch, loops)
    if total is None:
        raise ScheduleError("the size of a tile is not constant", code="gpu-tile")
    if not loops:
        loops = [sch.add_unit_loop(fetch)]
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    down, across = axes
    _, y, x = sch.split(fused, [None, down.threads, across.threads])
    _bind_pair(sch, y, x)
    return total * dtypes.itemsize(sch.block(fetch).block().writes[0].buffer.dtype)
