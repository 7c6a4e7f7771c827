"""How does a program run on a GPU when nothing was tuned? Each loop nest as a kernel of its own.

Cheap producers are inlined; products get a shared-memory tiling (default_gpu_tiles.py); long
reductions to few results are spread over the threads of a block; everything else gets one thread
for each result. What may not run in parallel runs in one thread. Each step works on a copy of the
schedule, which is dropped where the program does not allow the step, so every program comes out
right, and as fast as these few rules make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

from .default_gpu_tiles import tile_product
from .errors import ScheduleError, TargetError
from .gpu_nests import (
    GpuSizes,
    Nest,
    cheap_to_inline,
    extent_of,
    independent,
    make_local,
    nest_of,
    product,
    spatial_prefix,
    vector_legal,
)
from .ir.build import replace_body, seq
from .ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    IntImm,
    IRModule,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from .ir.scheduled import SCHEDULED, is_scheduled
from .ir.walk import all_exprs, blocks, replace_buffers, stmt_children, walk_stmt
from .schedule import BlockRV, LoopRV, Schedule
from .schedule.reducers import reducer_of
from .schedule.tree import block_with
from .target import Target
from .target.target import TargetLike

Step: TypeAlias = Callable[[Schedule, BlockRV, GpuSizes], None]
"""Changes the schedule so that a block runs on the device; ScheduleError if it cannot."""

_MAX_GRID = 2**31 - 1  # blocks along x
_MAX_INDEX = 2**31 - 1024  # of a fused int32 loop, with room for the last, partial block
_ENOUGH_BLOCKS = 128  # that each processor of a device has one
_ENOUGH_RESULTS = 65536  # one thread for each of so many fills a device
_VECTOR_FROM = 131072  # elements from which vectors do not leave threads without work
_LONG = 32  # a reduction that a warp can share


def default_gpu_schedule(func: PrimFunc | IRModule, target: Target) -> Schedule:
    """A schedule made in milliseconds without a search, after which every block of every function
    is under loops bound to `blockIdx`. Statements outside any block run in one thread. Functions
    that say that they are scheduled already (`tir.is_scheduled`) stay as they are, and so do loops
    that are bound. As a pass from modules to modules this is `DefaultGPUSchedule`.

    Raises:
        TargetError: the target is not cuda.

    Example:
        >>> sch = default_gpu_schedule(matmul, Target("cuda -arch=sm_90"))
        >>> build(sch.mod, "cuda -arch=sm_90")
    """
    sizes = GpuSizes.of(_cuda(target))
    sch = Schedule(_prepared(func), seed=1, error_render_level="none")
    for name, f in sch.mod.functions.items():
        if not is_scheduled(f):
            sch = _schedule_function(sch, name, f.body.name, sizes)
    return sch


class DefaultGPUSchedule:
    """A pass: the module with every function made to run on a GPU that is not yet.

    Functions that it has scheduled are marked `tir.is_scheduled`, so that neither a second run nor
    tuning changes them. Those that are marked, or whose statements are all in a grid, are the same
    objects afterwards.

    Args:
        target: a cuda target; None: that of the innermost `with Target(...)`.

    Raises:
        TargetError: there is no target, or it is not cuda.

    Example:
        >>> mod = DefaultGPUSchedule("cuda -arch=sm_80")(mod)
    """

    def __init__(self, target: TargetLike | None = None) -> None:
        chosen = Target.current(allow_none=False) if target is None else Target(target)
        assert chosen is not None  # current has raised
        self.target = _cuda(chosen)

    def __call__(self, mod: IRModule) -> IRModule:
        """The scheduled module."""
        done = default_gpu_schedule(mod, self.target).mod
        functions = {
            name: f if is_scheduled(f) or done[name] is f else done[name].with_attr(SCHEDULED, True)
            for name, f in mod.functions.items()
        }
        return IRModule(functions, mod.attrs, mod.graphs)


def _cuda(target: Target) -> Target:
    if target.kind != "cuda":
        raise TargetError(
            f"a GPU schedule needs a cuda target, not {target}", hint="use default_schedule"
        )
    return target


def _schedule_function(sch: Schedule, func: str, root: str, sizes: GpuSizes) -> Schedule:
    """Products first: their tiles decide where what they read is computed."""
    scope = sch.get_block(root, func)
    for block in sch.get_child_blocks(scope):
        sch = _tried(sch, block, sizes, (tile_product,))
    for block in sch.get_child_blocks(scope):
        if _waits(sch, block) and cheap_to_inline(sch, block):
            sch = _tried(sch, block, sizes, (_inline,))
    for block in sch.get_child_blocks(scope):
        sch = _tried(sch, block, sizes, _STEPS)
    return sch


def _waits(sch: Schedule, block: BlockRV) -> bool:
    """Is the block still there, and not on the device yet?"""
    try:
        link = sch.block(block)
    except ScheduleError:  # inlined
        return False
    return not any(type(x.node) is For and _is_grid(x.node) for x in link.above())


def _is_grid(loop: For) -> bool:
    return loop.thread is not None and loop.thread.startswith("blockIdx")


def _tried(sch: Schedule, block: BlockRV, sizes: GpuSizes, steps: Sequence[Step]) -> Schedule:
    """The schedule after the first of the steps that the block allows."""
    if not _waits(sch, block):
        return sch
    if any(b.alloc_buffers for b in blocks(sch.get(block))):
        steps = (_one_thread,)  # each run of the block has buffers of its own
    for step in steps:
        attempt = sch.copy()
        try:
            step(attempt, block, sizes)
        except ScheduleError:
            continue
        return attempt
    return sch


def _inline(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    sch.compute_inline(block)


# ----------------------------------------------------------------------------- long reductions
def _across_threads(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    """Few results of long reductions: the threads of a block share each reduction."""
    nest = nest_of(sch, block)
    results, length = product(sch, nest.spatial), product(sch, nest.reduce)
    if (
        nest.shared
        or nest.other
        or results is None
        or length is None
        or results >= _ENOUGH_RESULTS
        or length < _LONG
        or reducer_of(nest.node) is None  # of other combiners, the order of the parts may matter
    ):
        raise ScheduleError("not a long reduction to few results", code="gpu-across")
    if not nest.spatial:
        nest.spatial.append(sch.add_unit_loop(nest.loops[0]))
    proven = independent(sch, block)
    _reorder(sch, nest, [*nest.spatial, *nest.reduce])
    out = _fused(sch, nest.spatial)
    along = _fused(sch, nest.reduce)
    threads = _power_of_two(min(sizes.threads, max(_LONG, length // 8)))
    _, thread = sch.split(along, [None, threads])  # neighbours read neighbours
    rows = 1
    if threads == _LONG:  # a warp a reduction: several warps in a block, if they fit evenly
        most = min(8, sizes.threads // threads)
        while 2 * rows <= most and results % (2 * rows) == 0 and results // rows > _ENOUGH_BLOCKS:
            rows *= 2
    out, row = sch.split(out, [None, rows]) if rows > 1 else (out, None)
    with _checks(sch, not proven):
        sch.bind(out, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        if row is not None:
            sch.bind(row, "threadIdx.y")


def _power_of_two(n: int) -> int:
    """The greatest power of two that is not above n (1 for 0)."""
    return 1 << max(0, n.bit_length() - 1)


# ----------------------------------------------------------------------------- one thread a result
def _a_thread_each(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    """All spatial loops of a block that has its nest for itself: a thread for each iteration."""
    nest = nest_of(sch, block)
    if nest.shared or not nest.spatial:
        raise ScheduleError("nothing to spread", code="gpu-spread")
    proven = independent(sch, block)
    spatial = _in_order_of_writes(nest)
    vector = None
    lanes = _lanes(sch, nest, spatial)
    if lanes > 1:
        last, vector = sch.split(spatial[-1], [None, lanes])
        spatial = [*spatial[:-1], last]
    grid = _within_index(sch, spatial)
    rest = [x for x in spatial if x not in grid]
    tail = [] if vector is None else [vector]
    _reorder(sch, nest, [*grid, *rest, *nest.reduce, *nest.other, *tail])
    fused = _fused(sch, grid)
    if nest.reduce and not rest and not nest.other:
        make_local(sch, block, fused)
    _spread(sch, fused, rest, sizes, proven)
    if vector is not None:
        with _checks(sch, not proven):
            sch.vectorize(vector)


def _shared_loops(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    """Blocks that share outer loops: a thread for each iteration of those that are spatial to all
    of them, as many as can be fused."""
    prefix = spatial_prefix(sch, block)
    proven = independent(sch, block)
    for n in range(len(prefix), 0, -1):
        attempt = sch.copy()
        try:
            _spread(attempt, _fused(attempt, prefix[:n]), [], sizes, proven)
        except ScheduleError:
            continue
        _spread(sch, _fused(sch, prefix[:n]), [], sizes, proven)
        return
    raise ScheduleError("no loop can be spread", code="gpu-spread")


def _one_thread(sch: Schedule, block: BlockRV, sizes: GpuSizes) -> None:
    """What must run in order, as it is: a grid and a block of one."""
    loops = sch.get_loops(block)
    top: BlockRV | LoopRV = loops[0] if loops else block
    nest = [x for x in walk_stmt(sch.get(top)) if type(x) is For]
    if any(_is_grid(x) for x in nest):
        raise ScheduleError("the nest has a grid, but not outermost", code="gpu-grid")
    with _checks(sch, False):  # a loop that runs once may run anywhere
        if not any(x.thread is not None for x in nest):
            thread = sch.add_unit_loop(top)
            sch.bind(thread, "threadIdx.x")
            top = thread
        sch.bind(sch.add_unit_loop(top), "blockIdx.x")


_STEPS: tuple[Step, ...] = (_across_threads, _a_thread_each, _shared_loops, _one_thread)


@contextmanager
def _checks(sch: Schedule, on: bool) -> Iterator[None]:
    """Leave out the checks of primitives for what was proven here; the order of the nests, which
    those checks are about, is kept by running them one after the other."""
    before = sch.enable_check
    sch.enable_check = before and on
    try:
        yield
    finally:
        sch.enable_check = before


def _spread(
    sch: Schedule, loop: LoopRV, inner: Sequence[LoopRV], sizes: GpuSizes, proven: bool
) -> None:
    """Bind a loop to blocks and threads; of more iterations than there can be, each thread takes
    several."""
    n = extent_of(sch, loop)
    threads = sizes.threads
    if n is not None:
        while threads > _LONG and -(-n // threads) < _ENOUGH_BLOCKS:
            threads //= 2
        threads = min(threads, n)
    if n is not None and -(-n // threads) > _MAX_GRID:
        again, grid, thread = sch.split(loop, [None, _MAX_GRID, threads])
        sch.reorder(grid, thread, again, *inner)
    else:
        grid, thread = sch.split(loop, [None, threads])
    with _checks(sch, not proven):
        sch.bind(grid, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")


def _within_index(sch: Schedule, loops: Sequence[LoopRV]) -> list[LoopRV]:
    """The innermost of the loops that one loop variable can stand for."""
    if any(sch.get(x).var.dtype == "int64" for x in loops):
        return list(loops)
    total = 1
    for k in range(len(loops) - 1, -1, -1):
        total *= extent_of(sch, loops[k]) or 1
        if total > _MAX_INDEX and k < len(loops) - 1:
            return list(loops[k + 1 :])
    return list(loops)


def _reorder(sch: Schedule, nest: Nest, order: Sequence[LoopRV]) -> None:
    if list(order) != nest.loops:
        sch.reorder(*order)


def _fused(sch: Schedule, loops: Sequence[LoopRV]) -> LoopRV:
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def _in_order_of_writes(nest: Nest) -> list[LoopRV]:
    """The spatial loops, those of the last dimensions written innermost, if every one of them is
    an iterator that is an index of what the block writes: neighbours then write neighbours."""
    at = {g.min: k for k, g in enumerate(nest.node.writes[0].region)} if nest.node.writes else {}
    values = {v: iv.var for iv, v in zip(nest.node.iter_vars, nest.node.iter_values)}
    places = [at.get(values[v]) if v in values else None for v in nest.spatial_vars]
    if any(p is None for p in places):
        return nest.spatial
    order = sorted(range(len(places)), key=lambda k: places[k] or 0)
    return [nest.spatial[k] for k in order]


def _lanes(sch: Schedule, nest: Nest, spatial: Sequence[LoopRV]) -> int:
    """Elements of a vector access for a large elementwise block, 1 if it is not clearly legal."""
    if nest.reduce or nest.other or (product(sch, spatial) or 0) < _VECTOR_FROM:
        return 1
    var = sch.get(spatial[-1]).var
    mine = next(
        (iv.var for iv, v in zip(nest.node.iter_vars, nest.node.iter_values) if v is var), None
    )
    return 4 if mine is not None and vector_legal(nest.node, mine) else 1


# ----------------------------------------------------------------------------- what handles miss
def _prepared(func: PrimFunc | IRModule) -> IRModule:
    """The program as its nests can become kernels. Statements outside any block, to which no handle
    leads, get a grid and a block of one; buffers that several kernels use, or that no grid was
    written for, move to global memory."""
    mod = IRModule.from_expr(func) if isinstance(func, PrimFunc) else func
    functions = {
        name: f if is_scheduled(f) else _prepared_function(f) for name, f in mod.functions.items()
    }
    if all(functions[name] is f for name, f in mod.functions.items()):
        return mod
    return IRModule(functions, mod.attrs, mod.graphs)


def _prepared_function(func: PrimFunc) -> PrimFunc:
    root = func.body
    items = root.body.items if type(root.body) is Seq else (root.body,)
    table = _moved(root, items)
    framed = [x if _is_nest(x) else _frame(x) for x in items]
    if not table and all(a is b for a, b in zip(items, framed)):
        return func
    body = replace_buffers(block_with(root, body=seq(*framed)), table)
    assert type(body) is Block
    return replace_body(func, body)


def _moved(root: Block, items: Sequence[Stmt]) -> dict[Buffer, Buffer]:
    """The buffers of a block or thread, and views of them, that are to be global."""
    users: dict[Buffer, list[bool]] = {}
    for x in items:
        grid = any(type(s) is For and _is_grid(s) for s in walk_stmt(x))
        for buffer in _touched(x):
            users.setdefault(buffer, []).append(grid)
    gone = {
        b
        for b in root.alloc_buffers
        if b.scope in ("shared", "shared.dyn", "local") and users.get(b) != [True]
    }
    views = {m.buffer for x in blocks(root) for m in x.match_buffers if m.source.buffer in gone}
    return {b: replace(b, scope="global") for b in gone | views}


def _touched(s: Stmt) -> set[Buffer]:
    """The buffers that are accessed in a statement, or viewed."""
    out = {e.buffer for e in all_exprs(s) if type(e) is BufferLoad}
    for x in walk_stmt(s):
        if type(x) is BufferStore:
            out.add(x.buffer)
        elif type(x) is Block:
            out |= {m.source.buffer for m in x.match_buffers}
    return out


def _is_nest(s: Stmt) -> bool:
    """A block, or a loop in which everything that is done is done by blocks?"""
    if type(s) is Block:
        return True
    if type(s) is not For:
        return False
    stack: list[Stmt] = [s]
    while stack:
        x = stack.pop()
        if type(x) is Block:
            continue
        below = stmt_children(x)
        if not below:
            return False
        stack += below
    return True


def _frame(s: Stmt) -> Stmt:
    bound = {x.thread for x in walk_stmt(s) if type(x) is For and x.thread is not None}
    if any(x.startswith("blockIdx") for x in bound):
        return s
    if not bound:
        s = For(Var("u"), IntImm(0), IntImm(1), "thread_binding", s, "threadIdx.x")
    return For(Var("u"), IntImm(0), IntImm(1), "thread_binding", s, "blockIdx.x")
