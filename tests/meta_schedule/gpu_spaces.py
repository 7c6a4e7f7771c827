"""Hand-made spaces for a GPU, and what their kernels do, counted out from the lowered program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from gputune.ir import dtypes
from gputune.ir.nodes import (
    Alloc,
    BinOp,
    Buffer,
    BufferLoad,
    BufferStore,
    Cast,
    Expr,
    For,
    IntImm,
    IRModule,
    PrimFunc,
    Stmt,
    Var,
)
from gputune.ir.walk import stmt_children, stmt_exprs, walk_expr, walk_stmt
from gputune.kernels.dense import KERNELS as DENSE
from gputune.kernels.elementwise import KERNELS as ELEMENTWISE
from gputune.kernels.rows import KERNELS as ROWS
from gputune.lower.gpu import GpuProgram, lower_gpu
from gputune.lower.kernels import GpuKernel
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc.rewrite_cooperative_fetch import RewriteCooperativeFetch
from gputune.meta_schedule.sketch_feature import Machine
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.target import Target

TARGET = Target("cuda -arch=sm_90")
MACHINE = Machine.of(TARGET)

Space = Callable[[Schedule], None]


def matmul(n: int = 256) -> PrimFunc:
    return DENSE["matmul"].build(m=n, n=n, k=n)


def softmax(m: int = 64, n: int = 512) -> PrimFunc:
    return ROWS["softmax"].build(m=m, n=n)


def transpose(m: int = 1024, n: int = 512) -> PrimFunc:
    return ELEMENTWISE["transpose"].build(m=m, n=n)


def _tiles(sch: Schedule, loop: LoopRV, n: int, most: int = 64) -> list[LoopRV]:
    return sch.split(loop, sch.sample_perfect_tile(loop, n=n, max_innermost_factor=most))


def matmul_in_tiles(sch: Schedule, align: int = 0) -> None:
    """Tiles as MetaSchedule's, SSSRRSRS: with shared memory, virtual threads, fetches in vectors,
    unrolling."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    local = sch.cache_write(c, 0, "local")
    i0, i1, i2, i3, i4 = _tiles(sch, i, 5)
    j0, j1, j2, j3, j4 = _tiles(sch, j, 5)
    k0, k1, k2 = _tiles(sch, k, 3)
    sch.reorder(i0, j0, i1, j1, i2, j2, k0, k1, i3, j3, k2, i4, j4)
    grid, virtual, thread = sch.fuse(i0, j0), sch.fuse(i1, j1), sch.fuse(i2, j2)
    sch.bind(grid, "blockIdx.x")
    sch.bind(virtual, "vthread.x")
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(local, thread, preserve_unit_loops=True)
    for buffer in ("A", "B"):
        _fetch(sch, sch.cache_read(c, buffer, "shared"), k0, 4, align)
    steps = sch.sample_categorical([0, 16, 64, 512], [0.25] * 4)
    sch.annotate(grid, "pragma_auto_unroll_max_step", steps)


def _fetch(sch: Schedule, copy: BlockRV, at: LoopRV, depth: int, align: int) -> None:
    sch.compute_at(copy, at, preserve_unit_loops=True)
    sch.fuse(*sch.get_loops(copy)[depth:])
    lanes = sch.sample_categorical([1, 2, 3, 4], [0.25] * 4)
    sch.annotate(copy, "meta_schedule.cooperative_fetch", lanes)
    if align:
        sch.storage_align(copy, 0, -2, 32, align)


def matmul_padded(sch: Schedule) -> None:
    matmul_in_tiles(sch, 8)


def matmul_in_rows(sch: Schedule) -> None:
    """No shared memory; threads in two dimensions."""
    i, j, k = sch.get_loops(sch.get_block("C"))
    i0, i1 = _tiles(sch, i, 2, 16)
    j0, j1 = _tiles(sch, j, 2, 64)
    k0, k1 = _tiles(sch, k, 2)
    sch.reorder(i0, j0, i1, j1, k0, k1)
    for loop, axis in ((i0, "blockIdx.y"), (j0, "blockIdx.x"), (i1, "threadIdx.y"),
                       (j1, "threadIdx.x")):  # fmt: skip
        sch.bind(loop, axis)
    sch.unroll(k1)


def transpose_direct(sch: Schedule) -> None:
    """Threads of sampled tiles, by rows or by columns."""
    i, j = sch.get_loops(sch.get_block("B"))
    i0, i1, i2 = _tiles(sch, i, 3, 8)
    j0, j1, j2 = _tiles(sch, j, 3, 4)
    sch.reorder(i0, j0, i1, j1, i2, j2)
    sch.bind(sch.fuse(i0, j0), "blockIdx.x")
    sch.bind(i1, "threadIdx.y")
    sch.bind(j1, "threadIdx.x")
    sch.vectorize(j2)


def transpose_shared(sch: Schedule, align: int = 0) -> None:
    """Through a tile in shared memory."""
    b = sch.get_block("B")
    i, j = sch.get_loops(b)
    copy = sch.cache_read(b, "A", "shared")
    i0, i1 = _tiles(sch, i, 2, 32)
    j0, j1 = _tiles(sch, j, 2, 32)
    sch.reorder(i0, j0, i1, j1)
    grid = sch.fuse(i0, j0)
    sch.bind(grid, "blockIdx.x")
    _fetch(sch, copy, grid, 1, align)
    tile = sch.fuse(i1, j1)
    parts = sch.sample_perfect_tile(tile, n=2, max_innermost_factor=256)
    _, thread = sch.split(tile, parts)
    sch.bind(thread, "threadIdx.x")
    (fused,) = sch.get_loops(copy)[1:]
    sch.unannotate(copy, "meta_schedule.cooperative_fetch")
    _, thread = sch.split(fused, [None, parts[1]])
    sch.bind(thread, "threadIdx.x")


def transpose_padded(sch: Schedule) -> None:
    transpose_shared(sch, 1)


def softmax_in_blocks(sch: Schedule) -> None:
    """A block of threads for each row, which share the reductions."""
    threads = sch.sample_categorical([8, 32, 64, 256], [0.25] * 4)
    steps = sch.sample_categorical([0, 16, 64], [0.3, 0.3, 0.4])
    i, _j = sch.get_loops(sch.get_block("B"))
    for name in ("total", "power", "top"):
        block = sch.get_block(name)
        sch.set_scope(block, 0, "shared")
        sch.compute_at(block, i, preserve_unit_loops=True)
    for name in ("top", "power", "total", "B"):
        along = sch.get_loops(sch.get_block(name))[-1]
        _, thread = sch.split(along, [None, threads])
        sch.bind(thread, "threadIdx.x")
    sch.bind(i, "blockIdx.x")
    sch.annotate(i, "pragma_auto_unroll_max_step", steps)


def softmax_in_kernels(sch: Schedule) -> None:
    """A kernel for each stage."""
    for name in ("top", "total"):
        i, j = sch.get_loops(sch.get_block(name))
        _, thread = _tiles(sch, j, 2)
        sch.bind(i, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
    for name in ("power", "B"):
        grid, thread = _tiles(sch, sch.fuse(*sch.get_loops(sch.get_block(name))), 2, 256)
        sch.bind(grid, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")


SPACES: dict[str, tuple[Callable[[], PrimFunc], Space]] = {
    "matmul_in_tiles": (matmul, matmul_in_tiles),
    "matmul_padded": (matmul, matmul_padded),
    "matmul_in_rows": (matmul, matmul_in_rows),
    "transpose_direct": (transpose, transpose_direct),
    "transpose_shared": (transpose, transpose_shared),
    "transpose_padded": (transpose, transpose_padded),
    "softmax_in_blocks": (softmax, softmax_in_blocks),
    "softmax_in_kernels": (softmax, softmax_in_kernels),
}


def sketch_of(name: str) -> Sketch:
    build, space = SPACES[name]
    func = build()
    sch = Schedule(func, seed=1)
    space(sch)
    fetch = RewriteCooperativeFetch()
    fetch._initialize_with_tune_context(TuneContext(func, target=TARGET))
    return Sketch(IRModule.from_expr(func), sch.trace, [fetch], MACHINE)


# ----------------------------------------------------------------------------- counting out
@dataclass(frozen=True)
class Counted:
    """An access of a lowered kernel.

    Attributes:
        buffer: the buffer's name.
        scope: "global" or "shared".
        writes: is it a store?
        lanes: iterations of the vectorized loop around it.
        bytes: of an element.
        places: for each thread of the first warp, the byte at which it begins.
    """

    buffer: str
    scope: str
    writes: bool
    lanes: int
    bytes: int
    places: tuple[int, ...]


def lowered(mod: IRModule) -> GpuProgram:
    (func,) = mod.functions.values()
    return lower_gpu(func)


def accesses(kernel: GpuKernel) -> list[Counted]:
    """What the first warp of the first block accesses while all loops stand at their beginning."""
    out: list[Counted] = []
    threads = list(product(*(range(n) for n in reversed(kernel.block))))[:32]
    axes = [{"thread_z": z, "thread_y": y, "thread_x": x} for z, y, x in threads]
    for s, lanes in _simple(kernel.func.body.body, 1):
        found = [(s.buffer, s.indices, True)] if type(s) is BufferStore else []
        for e in stmt_exprs(s):
            found += [(x.buffer, x.indices, False) for x in walk_expr(e) if type(x) is BufferLoad]
        for buffer, indices, writes in found:
            if buffer.scope == "local":
                continue
            steps = _steps(buffer)
            size = dtypes.itemsize(buffer.dtype)
            places = [size * sum(_value(i, at) * n for i, n in zip(indices, steps)) for at in axes]
            scope = "shared" if buffer.scope.startswith("shared") else "global"
            out.append(Counted(buffer.name, scope, writes, lanes, size, tuple(places)))
    return out


def _simple(s: Stmt, lanes: int) -> Iterator[tuple[Stmt, int]]:
    """The statements that hold no others, with the vector around them."""
    if type(s) is For and s.kind == "vectorized":
        assert type(s.extent) is IntImm
        lanes = s.extent.value
    below = stmt_children(s)
    if not below:
        yield s, lanes
    for x in below:
        yield from _simple(x, lanes)


def _steps(b: Buffer) -> list[int]:
    if b.strides is not None:
        return [_value(n, {}) for n in b.strides]
    out = [1]
    for n in reversed(b.shape[1:]):
        out.insert(0, out[0] * _value(n, {}))
    return out


def _value(e: Expr, at: dict[str, int]) -> int:
    match e:
        case IntImm():
            return int(e.value)
        case Var():
            return at.get(e.name, 0)
        case Cast():
            return _value(e.value, at)
        case BinOp():
            a, b = _value(e.a, at), _value(e.b, at)
            match e.op:
                case "+":
                    return a + b
                case "-":
                    return a - b
                case "*":
                    return a * b
                case "//":
                    return a // b
                case "%":
                    return a % b
                case "<":
                    return a < b
    raise AssertionError(f"{e} is no index")


def shared_bytes(kernel: GpuKernel) -> int:
    """Of a block, arrays beginning at multiples of 16 bytes."""
    total = 0
    for s in walk_stmt(kernel.func.body):
        if type(s) is Alloc and s.buffer.scope.startswith("shared"):
            sizes = [_value(n, {}) for n in s.buffer.shape]
            elements = 1 + sum((n - 1) * k for n, k in zip(sizes, _steps(s.buffer)))
            total += -(-elements * dtypes.itemsize(s.buffer.dtype) // 16) * 16
    return total


def sectors(places: tuple[int, ...], size: int) -> int:
    return len({b // 32 for p in places for b in range(p, p + size)})


def passes(places: tuple[int, ...], size: int) -> int:
    """How often the banks are asked: 8 and 16 bytes a thread go in halves and quarters."""
    groups = max(1, size // 4)
    each = 32 // groups
    full = list(places) + [places[-1]] * (32 - len(places))
    total = 0
    for g in range(groups):
        words = {b // 4 for p in full[g * each : (g + 1) * each] for b in range(p, p + size)}
        banks = [w % 32 for w in words]
        total += max(banks.count(k) for k in set(banks))
    return total
