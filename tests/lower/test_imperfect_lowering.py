"""What becomes of tiles that do not divide? On the CPU one branch between the full tile and the
remainder at the register tile, and masks along the vector; on a GPU conditions around what threads
do. And never an access outside a buffer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.analysis import find_out_of_bounds
from gputune.ir import interp, walk
from gputune.ir.build import const_int
from gputune.ir.nodes import (
    Alloc,
    Broadcast,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    IfThenElse,
    PrimFunc,
    Ramp,
    Stmt,
)
from gputune.kernels.dense import KERNELS as DENSE
from gputune.lower.gpu import lower_gpu
from gputune.lower.limits import CpuLimits
from gputune.lower.partition import REST
from gputune.lower.pipeline import LLVM, lower
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

AVX512, AVX2, SSE = CpuLimits(64, 32, 2), CpuLimits(32, 16, 2), CpuLimits(16, 16, 2)


def matmul(
    m: int, n: int, k: int, rows: int, columns: int, depth: int, cached: bool = True
) -> PrimFunc:
    """A matmul with a register tile of rows x columns, whose reduction is cut too."""
    sch = Schedule(DENSE["matmul"].build(m=m, n=n, k=k), seed=1)
    block = sch.get_block("C")
    i, j, r = sch.get_loops(block)
    i0, i1 = sch.split(i, sch.sample_tile(i, 2, rows, decision=[-(-m // rows), rows]))
    j0, j1 = sch.split(j, sch.sample_tile(j, 2, columns, decision=[-(-n // columns), columns]))
    r0, r1 = sch.split(r, [None, depth])
    sch.reorder(i0, j0, r0, r1, i1, j1)
    if cached:
        cache = sch.cache_write(block, 0, "global")
        sch.reverse_compute_at(cache, j0)
        sch.vectorize(sch.get_loops(cache)[-1])
    sch.unroll(i1)
    sch.vectorize(j1)
    sch.parallel(i0)
    sch.decompose_reduction(block, r0)
    return sch.mod["matmul"]


def of(s: Stmt, kind: type) -> list[Stmt]:
    return [x for x in walk.walk_stmt(s) if type(x) is kind]


def masks(s: Stmt) -> list[tuple[str, Expr]]:
    """The name of what is accessed, and the mask, of each masked access."""
    out: list[tuple[str, Expr]] = []
    for x in walk.walk_stmt(s):
        if type(x) is BufferStore and x.predicate is not None:
            out.append((x.buffer.name, x.predicate))
        for e in walk.stmt_exprs(x):
            for y in walk.walk_expr(e):
                if type(y) is BufferLoad and y.predicate is not None:
                    out.append((y.buffer.name, y.predicate))
    return out


def lanes_of(s: Stmt) -> set[int]:
    return {
        i.lanes
        for x in walk.walk_stmt(s)
        if type(x) is BufferStore
        for i in x.indices
        if type(i) is Ramp
    }


def before_vectors(func: PrimFunc, limits: CpuLimits = AVX512) -> PrimFunc:
    for step in LLVM:
        if step.__name__ == "vectorize":
            break
        func = step(func, limits)
    return func


# ----------------------------------------------------------------------------- one branch
def test_one_branch_at_the_loop_around_the_register_tile() -> None:
    func = before_vectors(matmul(128, 96, 8, 6, 16, 4))
    (branch,) = of(func.body, IfThenElse)
    assert type(branch) is IfThenElse
    assert str(branch.cond) == "i_0 * 6 <= 122"
    (outer,) = [x for x in of(func.body, For) if x.body is branch]
    assert outer.var.name == "i_0"
    assert branch.orelse is not None
    for side, rows in ((branch.then, 6), (branch.orelse, 2)):
        assert not of(side, IfThenElse)  # nothing is asked inside
        extents = {x.var.name: const_int(x.extent) for x in of(side, For)}
        assert extents["i_1"] == extents["i_1_init"] == extents["ax0"] == rows
        assert extents["j_1"] == 16


def test_two_cut_dimensions_make_four_micro_kernels() -> None:
    func = before_vectors(matmul(13, 39, 8, 5, 16, 4))
    assert len(of(func.body, IfThenElse)) == 3
    assert len(of(func.body, Alloc)) == 4  # an accumulator tile each
    tiles = {
        tuple(const_int(x.extent) for x in of(a, For) if x.var.name in ("i_1", "j_1"))
        for a in of(func.body, Alloc)
    }
    assert tiles == {(5, 16), (5, 7), (3, 16), (3, 7)}


def test_tiles_that_divide_need_no_branch() -> None:
    func = lower(matmul(12, 32, 8, 6, 16, 4), AVX512)
    assert not of(func.body, IfThenElse)
    assert not masks(func.body)


def test_a_condition_that_no_tile_resolves_stays() -> None:
    """Eight copies are made of any piece of code, not more; the numbers are right all the same."""

    @T.prim_func
    def four(A: T.Buffer((5, 5, 5, 5)), B: T.Buffer((5, 5, 5, 5))):
        for a, b, c, d in T.grid(5, 5, 5, 5):
            with T.block("B"):
                va, vb, vc, vd = T.axis.remap("SSSS", [a, b, c, d])
                B[va, vb, vc, vd] = A[va, vb, vc, vd] + 1.0

    sch = Schedule(four, seed=1)
    parts = [sch.split(x, [None, 3]) for x in sch.get_loops("B")]
    sch.reorder(*[p[0] for p in parts], *[p[1] for p in parts])
    sch.vectorize(parts[-1][1])
    func = lower(sch.mod["four"], AVX512)
    assert len([x for x in of(func.body, BufferStore)]) <= 16
    assert find_out_of_bounds(func) == []
    a, b = np.random.default_rng(0).random((2, 5, 5, 5, 5), dtype=np.float32)
    interp.run(func, a, b)
    np.testing.assert_array_equal(b, a + 1)


# ----------------------------------------------------------------------------- masks
@pytest.mark.parametrize("cached", [True, False])
def test_the_last_vector_has_a_mask(cached: bool) -> None:
    func = lower(matmul(12, 39, 8, 6, 16, 4, cached), AVX512)
    branch = next(x for x in of(func.body, IfThenElse) if type(x) is IfThenElse)
    assert branch.orelse is not None
    assert not masks(branch.then)
    assert lanes_of(branch.then) == {16}
    # 39 = 2 * 16 + 7: eight lanes, of which seven are there; not 4 + 2 + 1
    assert lanes_of(branch.orelse) == {8}
    found = masks(branch.orelse)
    assert {name for name, _ in found} == {"B", "C"}  # registers hold whole vectors
    for _, mask in found:
        assert str(mask) == "T.Ramp(0, 1, 8) < T.Broadcast(7, 8)"
    registers = [x for x in of(branch.orelse, Alloc) if x.buffer.scope == "register"]
    assert len(registers) == 1
    # the accumulators are set, not read from memory, and what all lanes share is one load
    loads = [
        y
        for x in of(branch.orelse, BufferStore)
        for e in walk.stmt_exprs(x)
        for y in walk.walk_expr(e)
        if type(y) is BufferLoad
    ]
    assert not [y for y in loads if y.buffer.name == "C"]
    assert all(type(i) is not Broadcast for y in loads if y.buffer.name == "A" for i in y.indices)


def test_whole_vectors_before_the_mask() -> None:
    func = lower(matmul(12, 77, 8, 3, 48, 4), AVX512)  # the rest is 29: 16, and 13 of 16
    (branch,) = of(func.body, IfThenElse)
    assert type(branch) is IfThenElse
    assert branch.orelse is not None
    assert lanes_of(branch.orelse) == {16}
    assert {str(m) for _, m in masks(branch.orelse)} == {"T.Ramp(0, 1, 16) < T.Broadcast(13, 16)"}


def test_no_mask_where_a_smaller_vector_does() -> None:
    func = lower(matmul(12, 72, 8, 6, 16, 4), AVX512)  # the rest is 8
    assert not masks(func.body)
    assert lanes_of(func.body) == {16, 8}


def test_masks_only_where_the_processor_has_them() -> None:
    func = matmul(12, 39, 8, 6, 16, 4)
    assert {str(m) for _, m in masks(lower(func, AVX2).body)} == {
        "T.Ramp(0, 1, 8) < T.Broadcast(7, 8)"
    }
    plain = lower(func, SSE)
    assert not masks(plain.body)
    assert lanes_of(plain.body) == {4, 2}


def add(dtype: str) -> PrimFunc:
    @T.prim_func
    def bytes_(A: T.Buffer((39,), dtype), B: T.Buffer((39,), dtype)):
        for i in range(39):
            with T.block("B"):
                vi = T.axis.spatial(39, i)
                B[vi] = A[vi] + T.cast(1, dtype)

    sch = Schedule(bytes_, seed=1)
    (i,) = sch.get_loops("B")
    sch.vectorize(sch.split(i, [None, 32])[1])
    return sch.mod["bytes_"]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float64", "float16"])
def test_masks_of_narrow_elements(dtype: str) -> None:
    """Bytes have masks from AVX-512 on only."""
    func = add(dtype)
    assert masks(lower(func, AVX512).body)
    assert bool(masks(lower(func, AVX2).body)) == (dtype in ("int32", "float64"))
    a = np.arange(39).astype(dtype)
    for limits in (AVX512, AVX2, SSE):
        b = np.zeros(39, dtype)
        interp.run(lower(func, limits), a, b)
        np.testing.assert_array_equal(b, a + 1)
    b = np.zeros(39, dtype)
    build(func, "llvm")["bytes_"](a, b)
    np.testing.assert_array_equal(b, a + 1)


def test_nothing_is_divided_by_a_lane_that_is_not_there() -> None:
    @T.prim_func
    def divide(
        A: T.Buffer((39,), "int32"), B: T.Buffer((39,), "int32"), C: T.Buffer((39,), "int32")
    ):
        for i in range(39):
            with T.block("C"):
                vi = T.axis.spatial(39, i)
                C[vi] = A[vi] // B[vi]

    sch = Schedule(divide, seed=1)
    (i,) = sch.get_loops("C")
    sch.vectorize(sch.split(i, [None, 16])[1])
    assert not masks(lower(sch.mod["divide"], AVX512).body)
    a, b = np.arange(39, dtype=np.int32) * 7, np.arange(1, 40, dtype=np.int32)
    c = np.zeros(39, np.int32)
    build(sch.mod, "llvm")["divide"](a, b, c)
    np.testing.assert_array_equal(c, a // b)


def test_a_temporary_that_is_read_beyond_keeps_its_end() -> None:
    """The last vector would write into what another loop has set and reads: no mask is left out."""

    @T.prim_func
    def both(A: T.Buffer((39,)), B: T.Buffer((48,))):
        t = T.alloc_buffer((48,), "float32")
        for i in range(48):
            with T.block("all"):
                vi = T.axis.spatial(48, i)
                t[vi] = 5.0
        for i in range(39):
            with T.block("some"):
                vi = T.axis.spatial(39, i)
                t[vi] = A[vi]
        for i in range(48):
            with T.block("B"):
                vi = T.axis.spatial(48, i)
                B[vi] = t[vi]

    sch = Schedule(both, seed=1, enable_check=False)
    (i,) = sch.get_loops("some")
    _, inner = sch.split(i, [None, 16])
    func = sch.mod["both"]
    body = _vectorized(func, sch.get(inner))
    out = lower(body, AVX512)
    a, b = np.random.default_rng(0).random(39, dtype=np.float32), np.zeros(48, np.float32)
    interp.run(out, a, b)
    np.testing.assert_array_equal(b[:39], a)
    np.testing.assert_array_equal(b[39:], np.full(9, 5, np.float32))
    b[:] = 0
    build(body, "llvm")["both"](a, b)
    np.testing.assert_array_equal(b[39:], np.full(9, 5, np.float32))


def _vectorized(func: PrimFunc, loop: For) -> PrimFunc:
    """The function with one loop vectorized, whatever a schedule says to it."""
    from gputune.ir.build import replace_body

    def go(s: Stmt) -> Stmt:
        out = walk.map_stmt(s, lambda e: e, go)
        assert out is not None
        if type(out) is For and out.var is loop.var:
            return For(out.var, out.min, out.extent, "vectorized", out.body)
        return out

    body = go(func.body)
    assert type(body) is type(func.body)
    return replace_body(func, body)


def test_registers_of_a_mask_do_not_serve_who_reads_all_lanes() -> None:
    """Once wrong: C was kept in registers with five lanes of eight, and D read all of them."""

    @T.prim_func
    def f(A: T.Buffer((6, 8)), C: T.Buffer((8,)), D: T.Buffer((6, 8))):
        for r in range(6):
            for j in T.vectorized(8):
                if j < 5:
                    C[j] = C[j] + A[r, j]
            for j in T.vectorized(8):
                D[r, j] = C[j]

    rng = np.random.default_rng(2)
    arrays = [rng.integers(1, 9, s).astype(np.float32) for s in ((6, 8), (8,), (6, 8))]
    wanted, mine, machine = ([a.copy() for a in arrays] for _ in range(3))
    interp.run(f, *wanted)
    interp.run(lower(f, AVX512), *mine)
    build(f, "llvm")["f"](*machine)
    for w, a, b in zip(wanted, mine, machine, strict=True):
        np.testing.assert_array_equal(a, w)
        np.testing.assert_array_equal(b, w)


# ----------------------------------------------------------------------------- all sizes
sizes = st.integers(1, 40)


TILES = st.sampled_from([1, 3, 4, 8, 12, 16, 24, 32])


@given(sizes, sizes, st.integers(1, 9), st.integers(1, 7), TILES, st.integers(1, 5), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=40, database=None)
def test_every_size_and_tile_computes_the_same_and_stays_inside(
    m: int, n: int, k: int, rows: int, columns: int, depth: int, cached: bool
) -> None:
    rows, columns, depth = min(rows, m), min(columns, n), min(depth, k)
    if any(-(-x // y) * y * 4 > x * 5 for x, y in ((m, rows), (n, columns))):
        rows, columns = m, n  # no tile that sample_tile draws
    func = matmul(m, n, k, rows, columns, depth, cached)
    rng = np.random.default_rng(m * 41 + n)
    a = rng.integers(-4, 5, (m, k)).astype(np.float32)
    b = rng.integers(-4, 5, (k, n)).astype(np.float32)
    for limits in (AVX512, AVX2, SSE):
        out = lower(func, limits)
        c = np.full((m, n), np.nan, np.float32)
        interp.run(out, a, b, c)
        np.testing.assert_array_equal(c, a @ b, err_msg=out.script())
        assert find_out_of_bounds(out) == []
        assert REST not in out.script() or limits is SSE
    c = np.full((m, n), np.nan, np.float32)
    build(func, "llvm --num-cores=2")["matmul"](a, b, c)
    np.testing.assert_array_equal(c, a @ b)


# ----------------------------------------------------------------------------- GPU
def on_gpu(m: int, n: int, k: int, ty: int, tx: int, depth: int) -> PrimFunc:
    sch = Schedule(DENSE["matmul"].build(m=m, n=n, k=k), seed=1)
    block = sch.get_block("C")
    i, j, r = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, [None, ty, 2])
    j0, j1 = sch.split(j, [None, tx])
    r0, r1 = sch.split(r, [None, depth])
    sch.reorder(i0, j0, i1, j1, r0, r1, i2)
    for loop, axis in zip(
        (i0, j0, i1, j1), ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
    ):
        sch.bind(loop, axis)
    local = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(local, j1)
    return sch.mod["matmul"]


def test_threads_of_a_gpu_have_predicates() -> None:
    (kernel,) = lower_gpu(on_gpu(13, 37, 10, 2, 8, 4)).kernels
    conditions = [str(x.cond) for x in of(kernel.func.body, IfThenElse)]
    for size in ("37", "13", "10"):
        assert any(f"< {size}" in c for c in conditions), conditions
    assert find_out_of_bounds(kernel.func) == []
    # a condition on threads alone stands outside of the loops of each thread
    serial = [x for x in of(kernel.func.body, For) if x.kind != "thread_binding"]
    for loop in serial:
        for branch in of(loop, IfThenElse):
            assert type(branch) is IfThenElse
            assert walk.uses_var(
                branch.cond,
                {x.var for x in serial},
            )


@given(*(st.integers(*x) for x in ((6, 20), (1, 20), (1, 9), (1, 3), (1, 8), (1, 4))))
@settings(derandomize=True, deadline=None, max_examples=15, database=None)
def test_kernels_of_every_size_stay_inside(
    m: int, n: int, k: int, ty: int, tx: int, depth: int
) -> None:
    func = on_gpu(m, n, k, ty, min(tx, n), depth)
    rng = np.random.default_rng(m + n)
    a = rng.integers(-4, 5, (m, k)).astype(np.float32)
    b = rng.integers(-4, 5, (k, n)).astype(np.float32)
    c = np.full((m, n), np.nan, np.float32)
    (kernel,) = lower_gpu(func).kernels
    assert find_out_of_bounds(kernel.func) == []
    arguments = {"A": a, "B": b, "C": c}
    interp.run(kernel.func, *[arguments[x.name] for x in kernel.func.buffers])
    np.testing.assert_array_equal(c, a @ b)
