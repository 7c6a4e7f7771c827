"""Which schedules written by hand does the GPU path have to get right? And is a scheduled program
one that a GPU could run at all?

`gpu_schedules("matmul")` gives ten random, seeded schedules of a kernel at small sizes, odd ones
among them. `faults` says what a GPU would refuse; `as_threads_see_it` is the program with memory as
it is on a GPU (registers belong to a thread, shared memory to a block) and with all threads in
reverse order, for the interpreter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gputune import kernels
from gputune.ir import dtypes, interp
from gputune.ir.build import const_int, replace_body, seq
from gputune.ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from gputune.ir.walk import map_expr, map_stmt, stmt_children, substitute, uses_var, walk_stmt
from gputune.kernels import Kernel
from gputune.kernels.kernel import Shape
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.schedule.tree import block_with

AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
LIMITS = {"blockIdx.x": 2**31 - 1, "blockIdx.y": 65535, "blockIdx.z": 65535, "threadIdx.x": 1024,
          "threadIdx.y": 1024, "threadIdx.z": 64}  # fmt: skip
MOST_THREADS = 1024


@dataclass(frozen=True)
class GpuSchedule:
    """A kernel of the library at some sizes, scheduled by hand."""

    kernel: Kernel
    shape: Shape
    label: str
    sch: Schedule

    @property
    def func(self) -> PrimFunc:
        return self.sch.mod[self.kernel.name]


# ----------------------------------------------------------------------------- what a GPU can run
def nests(func: PrimFunc) -> tuple[Stmt, ...]:
    """The outermost statements: each is one kernel."""
    body = func.body.body
    return body.items if type(body) is Seq else (body,)


def faults(func: PrimFunc) -> list[str]:
    """What keeps a program from running on a GPU, as text; [] if nothing does."""
    out: list[str] = []
    for nest in nests(func):
        axes: dict[str, set[int]] = {}
        for s in walk_stmt(nest):
            if type(s) is For and s.thread is not None:
                axes.setdefault(s.thread, set()).add(const_int(s.extent) or -1)
        for axis, extents in axes.items():
            if len(extents) > 1:
                out.append(f"{axis} has the extents {sorted(extents)} in one kernel")
            if not 1 <= min(extents) <= max(extents) <= LIMITS[axis]:
                out.append(f"{axis} has the extent {sorted(extents)}")
        threads = [max(e) for a, e in axes.items() if a.startswith("threadIdx")]
        if int(np.prod(threads)) > MOST_THREADS:
            out.append(f"{threads} threads are more than {MOST_THREADS}")
        _check_places(nest, (), {a for a in axes if a.startswith("threadIdx")}, out)
    return out


def _check_places(s: Stmt, above: tuple[str, ...], threads: set[str], out: list[str]) -> None:
    """Every outermost block is under a grid and under all thread axes of its kernel, once each."""
    if type(s) is Block:
        if not any(a.startswith("blockIdx") for a in above):
            out.append(f"block {s.name} is under no grid")
        if threads - set(above):
            out.append(f"block {s.name} is run by every thread along {threads - set(above)}")
        return
    if type(s) is For and s.thread is not None:
        if s.thread in above:
            out.append(f"{s.thread} is bound twice on the way to a block")
        above = (*above, s.thread)
    if type(s) is BufferStore and not any(a.startswith("blockIdx") for a in above):
        out.append(f"a store to {s.buffer.name} is under no grid")
    for c in stmt_children(s):
        _check_places(c, above, threads, out)


# ----------------------------------------------------------------------------- as threads see it
def as_threads_see_it(func: PrimFunc) -> PrimFunc:
    """`func` with a buffer in registers for each thread, and one in shared memory for each block,
    and with the last thread and block first (loops that drive a reduction keep their order)."""
    copies: dict[Buffer, Buffer] = {}
    items = []
    for nest in nests(func):
        extents = {
            s.thread: s.extent for s in walk_stmt(nest) if type(s) is For and s.thread is not None
        }
        mine = {b for b in _used(nest) if b.scope != "global"}
        for b in mine:
            assert b not in copies, f"{b.name} in {b.scope} memory is used by two kernels"
            lead = [extents[a] for a in _owner(b, extents)]
            copies[b] = Buffer(b.name, (*lead, *b.shape), b.dtype, "global")
        items.append(_reversed(nest, _private(nest, copies, {})))
    root = func.body
    allocs = tuple(b for b in root.alloc_buffers if b not in copies) + tuple(copies.values())
    return replace_body(func, block_with(root, body=seq(*items), alloc_buffers=allocs))


def _owner(b: Buffer, axes: Container[str]) -> list[str]:
    """The axes along which each has a buffer of its own."""
    wanted = ("blockIdx",) if b.scope.startswith("shared") else ("blockIdx", "threadIdx")
    return [a for a in AXES if a in axes and a.startswith(wanted)]


def _used(s: Stmt) -> set[Buffer]:
    return {
        r.buffer for b in walk_stmt(s) if type(b) is Block for r in (*b.reads, *b.writes)
    }  # fmt: skip


def _private(s: Stmt, copies: Mapping[Buffer, Buffer], at: dict[str, Expr]) -> Stmt:
    """Accesses redirected to the buffer of the thread that makes them."""

    def index(b: Buffer) -> tuple[Expr, ...]:
        return tuple(at[a] for a in _owner(b, at))

    def expr(e: Expr) -> Expr:
        out = map_expr(e, expr)
        if type(out) is BufferLoad and out.buffer in copies:
            return BufferLoad(copies[out.buffer], (*index(out.buffer), *out.indices), out.predicate)
        return out

    if type(s) is For and s.thread is not None:
        at = {**at, s.thread: s.var}
        return For(s.var, s.min, s.extent, s.kind, _private(s.body, copies, at), s.thread)
    if type(s) is Block:
        allocs = tuple(b for b in s.alloc_buffers if b not in copies)  # those are the root's
        s = block_with(s, reads=(), writes=(), alloc_buffers=allocs)
    out = map_stmt(s, expr, lambda c: _private(c, copies, at))
    assert out is not None
    if type(out) is BufferStore and out.buffer in copies:
        where = (*index(out.buffer), *out.indices)
        return BufferStore(copies[out.buffer], out.value, where, out.predicate)
    return out


def _reversed(nest: Stmt, s: Stmt) -> Stmt:
    """`s` with thread loops counting down, except those that drive a reduction in `nest`."""
    driving: set[Var] = set()
    for b in walk_stmt(nest):
        if type(b) is Block:
            values = [v for iv, v in zip(b.iter_vars, b.iter_values) if iv.kind != "spatial"]
            for f in walk_stmt(nest):
                if type(f) is For and any(uses_var(v, f.var) for v in values):
                    driving.add(f.var)

    def go(x: Stmt, table: dict[Var, Expr]) -> Stmt:
        if type(x) is For and x.thread is not None and x.var not in driving:
            table = {**table, x.var: x.extent - 1 - x.var}
        out = map_stmt(x, lambda e: substitute(e, table), lambda c: go(c, table))
        assert out is not None
        return out

    return go(s, {})


# ----------------------------------------------------------------------------- right?
def check_equal(
    kernel: Kernel, shape: Shape, func: PrimFunc, dtype: str = "float32", seed: int = 3
) -> None:
    """A program gives what NumPy gives, also as threads see it. AssertionError if not."""
    expected = kernel.expected(
        kernel.arguments(shape, dtype, seed, exact=kernel.exact), shape, dtype
    )
    for program in (func, as_threads_see_it(func)):
        args = kernel.arguments(shape, dtype, seed, exact=kernel.exact)
        interp.run(program, *args)
        results = [a for b, a in zip(func.buffers, args) if b.name in kernel.outputs]
        for want, got in zip(expected, results, strict=True):
            if kernel.exact:
                np.testing.assert_array_equal(got, want)
            else:
                rtol = 2e-5 if dtypes.itemsize(dtype) >= 4 else 2e-2
                np.testing.assert_allclose(
                    got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol * 8
                )


# ----------------------------------------------------------------------------- schedules by hand
def gpu_schedules(name: str, count: int = 10, seed: int = 0) -> list[GpuSchedule]:
    """Random schedules by hand of "matmul", "softmax" or "conv2d"; the same for the same seed."""
    kernel = kernels.get(name)
    out = []
    for k in range(count):
        rng = random.Random(f"{name} {seed} {k}")
        variants = _VARIANTS[name]
        make = variants[k % len(variants)]
        shapes = _SHAPES[name]
        shape = kernel.shape(shapes[(k + k // len(variants)) % len(shapes)])
        sch = Schedule(kernel.build(shape), seed=1, debug_mask="all")
        notes = make(sch, rng, shape)
        out.append(GpuSchedule(kernel, shape, f"{make.__name__.strip('_')}: {notes}", sch))
    return out


Make = Callable[[Schedule, random.Random, dict[str, int]], str]

_SHAPES: dict[str, list[dict[str, int]]] = {
    "matmul": [
        {"m": 16, "n": 16, "k": 16},
        {"m": 24, "n": 32, "k": 20},
        {"m": 13, "n": 17, "k": 19},
        {"m": 33, "n": 8, "k": 31},
    ],
    "softmax": [{"m": 8, "n": 64}, {"m": 5, "n": 33}, {"m": 12, "n": 100}, {"m": 3, "n": 17}],
    "conv2d": [
        {"n": 1, "h": 8, "w": 8, "ci": 4, "co": 8, "kernel": 3, "padding": 1},
        {"n": 2, "h": 7, "w": 9, "ci": 3, "co": 5, "kernel": 3, "stride": 2, "padding": 1},
        {"n": 1, "h": 6, "w": 10, "ci": 4, "co": 6, "kernel": 3, "padding": 2, "dilation": 2},
    ],
}


def _extent(sch: Schedule, loop: LoopRV) -> int:
    return int(const_int(sch.get(loop).extent) or 0)


def _tile(n: int, rng: random.Random, choices: Sequence[int]) -> int:
    """A factor of a loop; that of shared tiles divides, if it can."""
    dividing = [c for c in choices if n % c == 0]
    return rng.choice(dividing or [1])


def _fetch(sch: Schedule, rng: random.Random, copy: BlockRV, depth: int, ty: int, tx: int) -> str:
    """All threads share a copy into shared memory, sometimes in vectors."""
    loops = sch.get_loops(copy)[depth:]
    if not loops:
        loops = [sch.add_unit_loop(copy)]
    last = _extent(sch, loops[-1])
    lanes = rng.choice([c for c in (1, 2, 4) if last % c == 0])
    vector = None
    if lanes > 1:
        loops[-1], vector = sch.split(loops[-1], [None, lanes])
    fused = sch.fuse(*loops)
    _, y, x = sch.split(fused, [None, ty, tx])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    if vector is not None:
        sch.vectorize(vector)
    if rng.random() < 0.5:
        sch.storage_align(copy, 0, -2, 32, rng.choice([1, 4, 8]))
    return f"fetch in {lanes}"


# matmul ------------------------------------------------------------------------------------------
def _matmul_plain(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """A thread for each element, sizes that do not divide, the reduction unrolled."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    ty, tx, u = rng.choice([2, 3, 4, 7]), rng.choice([4, 5, 8, 16]), rng.choice([2, 3, 4])
    i0, i1 = sch.split(i, [None, ty])
    j0, j1 = sch.split(j, [None, tx])
    _k0, k1 = sch.split(k, [None, u])
    sch.reorder(i0, j0, i1, j1)
    for loop, axis in ((i0, "blockIdx.y"), (j0, "blockIdx.x"), (i1, "threadIdx.y"),
                       (j1, "threadIdx.x")):  # fmt: skip
        sch.bind(loop, axis)
    sch.unroll(k1)
    return f"{ty}x{tx} threads, {u} steps unrolled"


def _matmul_shared(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """Tiles in shared memory and in registers."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    ti, tj = _tile(shape["m"], rng, [2, 4, 8]), _tile(shape["n"], rng, [4, 8])
    ii = _tile(shape["m"] // ti, rng, [1, 2])
    jj = _tile(shape["n"] // tj, rng, [1, 2, 4])
    kk = _tile(shape["k"], rng, [2, 4, 5, 8])
    local = sch.cache_write(c, 0, "local")
    a = sch.cache_read(c, "A", "shared")
    b = sch.cache_read(c, "B", "shared")
    i0, i1, i2 = sch.split(i, [None, ti, ii])
    j0, j1, j2 = sch.split(j, [None, tj, jj])
    k0, k1 = sch.split(k, [None, kk])
    sch.reorder(i0, j0, k0, i1, j1, k1, i2, j2)
    sch.reverse_compute_at(local, j0, preserve_unit_loops=True)
    sch.compute_at(a, k0)
    sch.compute_at(b, k0)
    sch.bind(i1, "threadIdx.y")
    sch.bind(j1, "threadIdx.x")
    back_i, back_j = sch.get_loops(local)[2:]
    bi, bii = sch.split(back_i, [ti, ii])
    bj, bjj = sch.split(back_j, [tj, jj])
    sch.reorder(bi, bj, bii, bjj)
    sch.bind(bi, "threadIdx.y")
    sch.bind(bj, "threadIdx.x")
    if jj > 1 and rng.random() < 0.7:
        sch.vectorize(bjj)
    notes = [_fetch(sch, rng, x, 3, ti, tj) for x in (a, b)]
    if rng.random() < 0.7:
        sch.unroll(rng.choice([k1, i2]))
    if rng.random() < 0.5:
        sch.annotate(k0, "pragma_auto_unroll_max_step", 16)
    sch.bind(sch.fuse(i0, j0), "blockIdx.x")
    return f"{ti}x{tj} threads of {ii}x{jj}, steps of {kk}, {notes}"


def _matmul_guarded(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """Shared tiles that do not divide: every access needs its predicate."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    ty, tx, kk = rng.choice([2, 4, 5]), rng.choice([4, 6, 8]), rng.choice([3, 4, 8])
    a = sch.cache_read(c, "A", "shared")
    b = sch.cache_read(c, "B", "shared")
    i0, i1 = sch.split(i, [None, ty])
    j0, j1 = sch.split(j, [None, tx])
    k0, k1 = sch.split(k, [None, kk])
    sch.reorder(i0, j0, k0, i1, j1, k1)
    sch.compute_at(a, k0)
    sch.compute_at(b, k0)
    sch.bind(i0, "blockIdx.y")
    sch.bind(j0, "blockIdx.x")
    sch.bind(i1, "threadIdx.y")
    sch.bind(j1, "threadIdx.x")
    notes = [_fetch(sch, rng, x, 3, ty, tx) for x in (a, b)]
    return f"{ty}x{tx} threads, steps of {kk}, {notes}"


def _matmul_across(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """The threads of a block share each sum."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    threads = rng.choice([8, 16, 32, 64])
    rows = _tile(shape["n"], rng, [1, 2, 4])
    j0, j1 = sch.split(j, [None, rows])
    _k0, k1 = sch.split(k, [None, threads])
    sch.bind(sch.fuse(i, j0), "blockIdx.x")
    sch.bind(j1, "threadIdx.y")
    sch.bind(k1, "threadIdx.x")
    return f"{rows} sums of {threads} threads"


def _matmul_vector(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """Sums in registers, handed over in vectors."""
    c = sch.get_block("C")
    i, j, k = sch.get_loops(c)
    local = sch.cache_write(c, 0, "local")
    jj = _tile(shape["n"], rng, [2, 4])
    threads = rng.choice([8, 24, 32])
    j0, j1 = sch.split(j, [None, jj])
    sch.reorder(i, j0, k, j1)
    fused = sch.fuse(i, j0)
    sch.reverse_compute_at(local, fused, preserve_unit_loops=True)
    if jj > 1:
        sch.vectorize(sch.get_loops(local)[-1])
        sch.vectorize(j1)
    grid, thread = sch.split(fused, [None, threads])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return f"{threads} threads of {jj}"


# softmax -----------------------------------------------------------------------------------------
def _softmax_block(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """One kernel: a block of threads for each row, all between in shared memory or registers."""
    threads = rng.choice([8, 16, 32, 64])
    power_scope = rng.choice(["shared", "local"])
    i, _j = sch.get_loops(sch.get_block("B"))
    for name, scope in (("total", "shared"), ("power", power_scope), ("top", "shared")):
        block = sch.get_block(name)
        sch.set_scope(block, 0, scope)
        sch.compute_at(block, i, preserve_unit_loops=True)
    for name in ("top", "power", "total", "B"):
        along = sch.get_loops(sch.get_block(name))[-1]
        rest, thread = sch.split(along, [None, threads])
        sch.bind(thread, "threadIdx.x")
        if rng.random() < 0.3:
            sch.unroll(rest)
    sch.bind(i, "blockIdx.x")
    return f"{threads} threads a row, powers in {power_scope} memory"


def _softmax_rows(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """One kernel: several rows a block, threads in two dimensions."""
    threads = rng.choice([8, 16, 32])
    rows = _tile(shape["m"], rng, [2, 3, 4, 5])
    i, _j = sch.get_loops(sch.get_block("B"))
    for name in ("total", "power", "top"):
        block = sch.get_block(name)
        sch.set_scope(block, 0, "shared")
        sch.compute_at(block, i, preserve_unit_loops=True)
    for name in ("top", "power", "total", "B"):
        _, thread = sch.split(sch.get_loops(sch.get_block(name))[-1], [None, threads])
        sch.bind(thread, "threadIdx.x")
    grid, row = sch.split(i, [None, rows])
    sch.bind(grid, "blockIdx.x")
    sch.bind(row, "threadIdx.y")
    return f"{rows} rows of {threads} threads"


def _softmax_thread(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """One kernel: a thread for each row, everything in registers."""
    threads = rng.choice([2, 4, 32])
    i, _j = sch.get_loops(sch.get_block("B"))
    for name in ("total", "power", "top"):
        block = sch.get_block(name)
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, i, preserve_unit_loops=rng.random() < 0.5)
    along = sch.get_loops(sch.get_block("B"))[-1]
    lanes = _tile(shape["n"], rng, [2, 4])
    if lanes > 1:
        _, vector = sch.split(along, [None, lanes])
        sch.vectorize(vector)
    grid, thread = sch.split(i, [None, threads])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return f"{threads} rows a block, stored in {lanes}"


def _softmax_stages(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """A kernel for each stage; the powers computed twice instead of kept."""
    inlined = rng.random() < 0.5
    if inlined:
        sch.compute_inline(sch.get_block("power"))
    notes = []
    for name in ("top", "total"):
        i, j = sch.get_loops(sch.get_block(name))
        threads = rng.choice([16, 32, 64])
        _, thread = sch.split(j, [None, threads])
        sch.bind(i, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        notes.append(threads)
    for name in ("B",) if inlined else ("power", "B"):
        fused = sch.fuse(*sch.get_loops(sch.get_block(name)))
        threads = rng.choice([24, 32, 100])
        grid, thread = sch.split(fused, [None, threads])
        sch.bind(grid, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        notes.append(threads)
    return f"threads {notes}{', powers inlined' if inlined else ''}"


# conv2d ------------------------------------------------------------------------------------------
def _conv_plain(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """A thread for each output, columns and channels in tiles that need not divide, padding inlined
    or a kernel of its own."""
    inlined = rng.random() < 0.5
    tw, tf = rng.choice([2, 3, 4]), rng.choice([2, 4, 5])
    pad = sch.get_block("P")
    if inlined:
        sch.compute_inline(pad)
    else:
        grid, thread = sch.split(sch.fuse(*sch.get_loops(pad)), [None, rng.choice([24, 32, 100])])
        sch.bind(grid, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
    b, h, w, f, _ry, rx, _rc = sch.get_loops(sch.get_block("Y"))
    w0, w1 = sch.split(w, [None, tw])
    f0, f1 = sch.split(f, [None, tf])
    sch.reorder(b, h, w0, f0, w1, f1)
    for loop, axis in ((b, "blockIdx.z"), (h, "blockIdx.y"), (w1, "threadIdx.y"),
                       (f1, "threadIdx.x")):  # fmt: skip
        sch.bind(loop, axis)
    sch.bind(sch.fuse(w0, f0), "blockIdx.x")
    sch.unroll(rx)
    return f"{tw}x{tf} threads, padding {'inlined' if inlined else 'apart'}"


def _conv_shared(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """Tiles of columns and channels, both operands in shared memory, sums in registers."""
    y = sch.get_block("Y")
    b, h, w, f, ry, rx, rc = sch.get_loops(y)
    tw = _tile(_extent(sch, w), rng, [2, 4, 5])
    tf, ff = _tile(_extent(sch, f), rng, [2, 3, 4, 5]), 1
    ff = _tile(_extent(sch, f) // tf, rng, [1, 2])
    local = sch.cache_write(y, 0, "local")
    p = sch.cache_read(y, "P", "shared")
    weight = sch.cache_read(y, "W", "shared")
    sch.compute_inline(sch.get_block("P"))
    w0, w1 = sch.split(w, [None, tw])
    f0, f1, f2 = sch.split(f, [None, tf, ff])
    at = rng.choice([ry, rx])
    order = [b, h, w0, f0, ry, w1, f1, rx, rc, f2]
    if at is rx:
        order = [b, h, w0, f0, ry, rx, w1, f1, rc, f2]
    sch.reorder(*order)
    sch.reverse_compute_at(local, f0, preserve_unit_loops=True)
    sch.compute_at(p, at)
    sch.compute_at(weight, at)
    sch.bind(w1, "threadIdx.y")
    sch.bind(f1, "threadIdx.x")
    _b, _h, back_w, back_f = sch.get_loops(local)[4:]
    bf, bff = sch.split(back_f, [tf, ff])
    sch.bind(back_w, "threadIdx.y")
    sch.bind(bf, "threadIdx.x")
    if ff > 1:
        sch.vectorize(bff)
        sch.unroll(f2)
    depth = order.index(w1)
    notes = [_fetch(sch, rng, x, depth, tw, tf) for x in (p, weight)]
    sch.bind(sch.fuse(b, h), "blockIdx.y")
    sch.bind(sch.fuse(w0, f0), "blockIdx.x")
    return f"{tw}x{tf} threads of {ff} channels, {notes}"


def _conv_across(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """The threads of a block share each window."""
    sch.compute_inline(sch.get_block("P"))
    loops = sch.get_loops(sch.get_block("Y"))
    threads = rng.choice([2, 4, 8])
    out = sch.fuse(*loops[:4])
    _, thread = sch.split(loops[6], [None, threads])  # channels, which it need not divide
    rows = _tile(_extent(sch, out), rng, [1, 2, 4])
    grid, row = sch.split(out, [None, rows])
    sch.bind(grid, "blockIdx.x")
    sch.bind(row, "threadIdx.y")
    sch.bind(thread, "threadIdx.x")
    return f"{rows} windows of {threads} threads"


def _conv_guarded(sch: Schedule, rng: random.Random, shape: dict[str, int]) -> str:
    """Two-dimensional tiles that do not divide, with the padded window in shared memory."""
    y = sch.get_block("Y")
    b, h, w, f, _ry, _rx, rc = sch.get_loops(y)
    th, tw = rng.choice([2, 3]), rng.choice([2, 4])
    tf = rng.choice([2, 3, 4])
    p = sch.get_block("P")
    sch.set_scope(p, 0, "shared")
    h0, h1 = sch.split(h, [None, th])
    w0, w1 = sch.split(w, [None, tw])
    f0, f1 = sch.split(f, [None, tf])
    sch.reorder(b, h0, w0, f0, h1, w1, f1)
    sch.compute_at(p, f0)
    grid = sch.fuse(b, h0, w0, f0)
    sch.bind(h1, "threadIdx.z")
    sch.bind(w1, "threadIdx.y")
    sch.bind(f1, "threadIdx.x")
    fused = sch.fuse(*sch.get_loops(p)[1:])
    _, z, t, x = sch.split(fused, [None, th, tw, tf])
    sch.bind(z, "threadIdx.z")
    sch.bind(t, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    sch.bind(grid, "blockIdx.x")
    sch.unroll(rc)
    return f"{th}x{tw}x{tf} threads"


_VARIANTS: dict[str, tuple[Make, ...]] = {
    "matmul": (_matmul_plain, _matmul_shared, _matmul_guarded, _matmul_across, _matmul_vector),
    "softmax": (_softmax_block, _softmax_rows, _softmax_thread, _softmax_stages),
    "conv2d": (_conv_plain, _conv_shared, _conv_across, _conv_guarded),
}
