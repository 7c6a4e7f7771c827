"""The analyses that users call, each against counting everything out on small programs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gputune as gt
from gputune import analysis
from gputune.errors import CheckError, LowerError, RunError, ScheduleError, UserError
from gputune.ir import build as b
from gputune.ir.feasible import UNKNOWN, AnyOf, Between, Problem
from gputune.ir.interp import run
from gputune.ir.nodes import (
    Block,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    PrimFunc,
    Ramp,
    Seq,
    Stmt,
    Var,
)
from gputune.ir.walk import blocks, walk_stmt
from gputune.kernels.conv import KERNELS as CONV
from gputune.kernels.dense import KERNELS as DENSE
from gputune.kernels.rows import KERNELS as ROWS
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.schedule import Schedule
from gputune.schedule.dim import Dim
from gputune.script import tir as T
from tests.codegen.cuda_programs import needs_nvrtc
from tests.gpu_schedules import gpu_schedules
from tests.ir.points import affine_expr, condition, index_expr, value
from tests.schedule import tensor_programs

FAST = settings(derandomize=True, deadline=None, max_examples=150, database=None)
MATMUL = DENSE["matmul"].build(m=6, n=10, k=4)


def test_all_are_there() -> None:
    for name in analysis.__all__:
        assert getattr(analysis, name) is not None
    assert gt.analysis is analysis
    assert gt.tir.analysis.verify_gpu_code is analysis.verify_gpu_code
    assert gt.tir.schedule.analysis.suggest_index_map is analysis.suggest_index_map


def test_every_analysis_says_what_it_gives() -> None:
    for name in analysis.__all__:
        thing = getattr(analysis, name)
        if callable(thing):
            assert len((thing.__doc__ or "").split()) > 8, name


# ----------------------------------------------------------------------------- no integer point?
@given(st.data())
@FAST
def test_feasible_is_what_trying_all_points_says(data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 6)), min_size=1, max_size=4)
    )
    p = Problem()
    ranges = [range(lo, lo + n + 1) for lo, n in sizes]
    names = [p.variable(r[0], r[-1]) for r in ranges]
    factor = st.sampled_from([-6, -3, -2, -1, 0, 1, 1, 2, 4, 6])
    end = st.one_of(st.none(), st.integers(-20, 20))
    row = st.builds(
        lambda cs, lo, hi: Between(dict(zip(names, cs)), lo, hi),
        st.lists(factor, min_size=len(names), max_size=len(names)), end, end,
    )  # fmt: skip
    p.constraints += data.draw(st.lists(row, max_size=4))
    p.constraints += [
        AnyOf(tuple((r,) for r in rows))
        for rows in data.draw(st.lists(st.lists(row, min_size=1, max_size=3), max_size=2))
    ]

    def holds(c: Between | AnyOf, point: tuple[int, ...]) -> bool:
        if isinstance(c, AnyOf):
            return any(all(holds(x, point) for x in choice) for choice in c.choices)
        total = sum(c.form[v] * point[v] for v in c.form)
        return (c.lo is None or total >= c.lo) and (c.hi is None or total <= c.hi)

    good = [x for x in itertools.product(*ranges) if all(holds(c, x) for c in p.constraints)]
    found = p.solve()
    assert found != UNKNOWN
    if found is None:
        assert not good
    else:
        assert tuple(found) in good


def test_feasible_gives_up_and_says_so() -> None:
    p = Problem()
    x, y, z = (p.variable(0, 10**6) for _ in range(3))
    p.constraints.append(Between({x: 6, y: 10, z: 15}, 10**6 + 1, 10**6 + 1))
    assert p.solve(budget=1) == UNKNOWN
    found = p.solve()
    assert isinstance(found, list)
    assert 6 * found[0] + 10 * found[1] + 15 * found[2] == 10**6 + 1
    free = Problem()
    a, c = free.variable(), free.variable()
    free.constraints.append(Between({a: 2, c: -2}, 1, 1))
    assert free.solve() is None  # an even number is not 1


# ----------------------------------------------------------------------------- out of bounds
def program(loops: list[tuple[Var, Expr, Expr]], guards: list[Expr], body: Stmt) -> Stmt:
    for g in reversed(guards):
        body = IfThenElse(g, body)
    for v, lo, n in reversed(loops):
        body = For(v, lo, n, "serial", body)
    return body


def iterations(
    loops: list[tuple[Var, Expr, Expr]], env: dict[Var, int]
) -> Iterator[dict[Var, int]]:
    if not loops:
        yield dict(env)
        return
    v, lo, n = loops[0]
    first = value(lo, env)
    for x in range(first, first + value(n, env)):
        yield from iterations(loops[1:], {**env, v: x})


VI, VJ = Var("i"), Var("j")


@st.composite
def nests(draw: st.DrawFn) -> list[tuple[Var, Expr, Expr]]:
    first = (VI, b.const(draw(st.integers(-3, 3))), b.const(draw(st.integers(1, 7))))
    lo = draw(st.sampled_from([b.const(0), b.const(-2), VI]))
    n = draw(st.sampled_from([b.const(5), b.const(1), VI + 4, b.const(7) - VI, b.maximum(VI, 1)]))
    return [first, (VJ, lo, n)]


def judged(loops: list[Any], guards: list[Expr], index: Expr, size: int) -> tuple[Any, list[int]]:
    """What is found of a store, and the indices that it surely has outside."""
    buffer = Buffer("A", (IntImm(size),), "float32")
    store = BufferStore(buffer, b.const(1.0), (index,))
    handle = Var("a", "handle")
    func = PrimFunc((handle,), ((handle, buffer),), b.root_block(program(loops, guards, store)))
    wrong = []
    for env in iterations(loops, {}):
        if all(value(g, env) for g in guards) and not 0 <= value(index, env) < size:
            wrong.append(value(index, env))
    found = [f for f in analysis.find_out_of_bounds(func) if f.buffer is buffer]
    return found, wrong


@given(nests(), st.lists(condition_of := st.deferred(lambda: affine_conditions()), max_size=2),
       affine_expr([VI, VJ]), st.integers(1, 20))  # fmt: skip
@FAST
def test_verdicts_on_quasi_affine_programs_are_exact(
    loops: list[Any], guards: list[Expr], index: Expr, size: int
) -> None:
    found, wrong = judged(loops, guards, index, size)
    if not wrong:
        assert not found
        return
    (one,) = found
    assert one.verdict == "outside"
    assert one.value in wrong
    named = {v: one.iteration[v.name] for v in (VI, VJ) if v.name in one.iteration}
    rest = {v: 0 for v in (VI, VJ)} | named
    assert value(index, rest) == one.value


def affine_conditions() -> st.SearchStrategy[Expr]:
    side = affine_expr([VI, VJ])
    plain = st.builds(
        lambda op, x, y: b.binary(op, x, y), st.sampled_from(["<", "<=", ">=", "==", "!="]),
        side, side,
    )  # fmt: skip
    return st.one_of(plain, st.builds(b.logical_or, plain, plain), plain.map(b.logical_not))


@given(
    nests(), st.lists(condition([VI, VJ], 1), max_size=2), index_expr([VI, VJ]), st.integers(1, 20)
)
@FAST
def test_verdicts_are_never_wrong(
    loops: list[Any], guards: list[Expr], index: Expr, size: int
) -> None:
    from tests.ir.points import Undefined

    try:
        found, wrong = judged(loops, guards, index, size)
    except Undefined:
        return  # a division by zero
    if not found:
        assert not wrong
    elif found[0].verdict == "outside":
        assert found[0].value in wrong


@pytest.mark.parametrize("name", ["matmul", "conv2d", "softmax"])
def test_programs_of_the_library_stay_inside(name: str) -> None:
    func = {
        "matmul": MATMUL,
        "conv2d": CONV["conv2d"].build(
            n=1, h=5, w=4, ci=2, co=3, kernel=3, stride=2, dilation=1, groups=1, padding=1
        ),
        "softmax": ROWS["softmax"].build(m=5, n=7),
    }[name]
    assert analysis.find_out_of_bounds(func) == []
    assert analysis.find_out_of_bounds(IRModule({"a": func, "b": func})) == []
    lowered = lower(func, CpuLimits())
    assert analysis.find_out_of_bounds(lowered) == []


def test_scheduled_and_lowered_programs_with_tiles_that_do_not_divide_stay_inside() -> None:
    sch = Schedule(DENSE["matmul"].build(m=13, n=37, k=11), seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [None, 6])
    j0, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(i0, j0, k0, k1, i1, j1)
    cache = sch.cache_write(block, 0, "global")
    sch.reverse_compute_at(cache, j0)
    sch.cache_read(block, 0, "global")
    sch.vectorize(j1)
    func = sch.mod["matmul"]
    assert analysis.find_out_of_bounds(func) == []
    assert analysis.find_out_of_bounds(lower(func, CpuLimits())) == []  # masks are looked at


@T.prim_func
def by_data(A: T.Buffer((4,)), N: T.Buffer((8,), "int32"), M: T.Buffer((8,), "int32")):
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            A[T.min(T.max(N[vi], 0), 3)] = 1.0  # whatever the data
            A[N[vi]] = T.float32(2)
            if N[vi] >= 0 and N[vi] < 4:
                A[N[vi]] = T.float32(3)
            A[M[vi] % 5] = T.float32(4)
            M[vi] = 0


def test_what_data_decides_is_unknown() -> None:
    found = analysis.find_out_of_bounds(by_data)
    assert [(f.verdict, str(f.indices[0])) for f in found] == [
        ("unknown", "N[vi]"), ("unknown", "M[vi] % 5"),
    ]  # fmt: skip
    first = found[0]
    assert first.verb == "writes"
    assert first.block == "C"
    assert first.buffer.name == "A"
    assert first.value is None
    assert first.reason == "it depends on N[i]"
    assert "block C of by_data writes A[N[vi]]: whether index 0 stays inside is not known" in (
        first.message
    )
    (marked,) = [x for x in first.draw().splitlines() if x.startswith(">")]
    assert "A[N[vi]] = T.float32(2)" in marked
    assert marked.endswith("# A, index 0: unknown")


@T.prim_func
def changed_between(A: T.Buffer((4,)), N: T.Buffer((1,), "int32")):
    for _i in range(8):
        if N[0] >= 0 and N[0] < 4:
            N[0] = N[0] * 2
            A[N[0]] = T.float32(3)


def test_what_is_written_meanwhile_is_not_known() -> None:
    assert [f.verdict for f in analysis.find_out_of_bounds(changed_between)] == ["unknown"]


@T.prim_func
def sizes(a: T.handle, c: T.handle, k: T.int32):
    n = T.int32()
    m = T.int32()
    A = T.match_buffer(a, (n,), "float32")
    C = T.match_buffer(c, (m,), "float32")
    for i in range(n):
        with T.block("C"):
            vi = T.axis.spatial(n, i)
            T.where(i < m)
            C[vi] = A[vi]
    for i in range(n):
        with T.block("D"):
            vi = T.axis.spatial(n, i)
            A[vi] = C[vi]
    A[k] = 0.0


def test_sizes_that_are_open() -> None:
    found = analysis.find_out_of_bounds(sizes)
    assert [(f.block, f.verb, f.buffer.name) for f in found] == [
        ("D", "reads", "C"), ("", "writes", "A"),
    ]  # fmt: skip
    assert all(f.verdict == "unknown" for f in found)
    assert found[0].reason.startswith("it depends on")
    assert "(it is 1 at i = 1, " in found[0].reason
    assert "m = 1" in found[0].reason


@T.prim_func
def viewed(A: T.Buffer((10, 4)), B: T.Buffer((12, 4))):
    for i in range(3):
        with T.block("V"):
            vi = T.axis.spatial(3, i)
            T.reads(A[vi * 4 : vi * 4 + 4, 0:4])
            T.writes(B[vi * 4 : vi * 4 + 4, 0:4])
            src = T.match_buffer(A[vi * 4 : vi * 4 + 4, 0:4], (4, 4))
            dst = T.match_buffer(B[vi * 4 : vi * 4 + 4, 0:4], (4, 4))
            for x, y in T.grid(4, 5):
                dst[x, y % 4] = src[x, y]


def test_views_are_looked_at() -> None:
    found = analysis.find_out_of_bounds(viewed)
    assert [(f.verb, f.buffer.name, f.dim, f.value) for f in found] == [
        ("views", "A", 0, 11), ("reads", "src", 1, 4),
    ]  # fmt: skip


def vector(mask: Expr | None, index: Expr) -> PrimFunc:
    buffer = Buffer("A", (IntImm(20),), "float32")
    at = Ramp(index, IntImm(1), 8)
    handle = Var("a", "handle")
    store = BufferStore(buffer, Broadcast(b.const(1.0), 8), (at,), mask)
    loop = For(VI, IntImm(0), IntImm(3), "serial", store)
    return PrimFunc((handle,), ((handle, buffer),), b.root_block(loop))


def test_lanes_of_vectors_count() -> None:
    (found,) = analysis.find_out_of_bounds(vector(None, VI * 8))
    assert found.verdict == "outside"
    assert found.value is not None
    assert found.value >= 20
    assert found.iteration["i"] == 2
    lanes = Ramp(VI * 8, IntImm(1), 8)
    good = b.binary("<", lanes, Broadcast(IntImm(20), 8))
    assert analysis.find_out_of_bounds(vector(good, VI * 8)) == []
    late = b.binary("<", lanes, Broadcast(IntImm(21), 8))
    (found,) = analysis.find_out_of_bounds(vector(late, VI * 8))
    assert (found.value, found.iteration) == (20, {"i": 2, "lane": 4})


def test_the_interpreter_agrees() -> None:
    @T.prim_func
    def shifted(A: T.Buffer((8,)), B: T.Buffer((8,))):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi + 1]

    (found,) = analysis.find_out_of_bounds(shifted)
    assert (found.verdict, found.value, found.iteration) == ("outside", 8, {"i": 7})
    with pytest.raises(RunError):
        run(shifted, np.zeros(8, "float32"), np.zeros(8, "float32"))
    with pytest.raises(UserError, match="index 0 is 8 at i = 7"):
        analysis.check_in_bounds(shifted)
    with pytest.raises(CheckError, match="index 0 is 8 at i = 7") as caught:
        analysis.OOBChecker()(gt.IRModule({"main": shifted}))
    assert caught.value.code == "out-of-bounds"
    assert "> " in str(caught.value)  # drawn
    assert analysis.OOBChecker()(MATMUL) is MATMUL


# ----------------------------------------------------------------------------- operations
def executed(s: Stmt, env: dict[Var, int]) -> int:
    """Operations in stored values, every iteration run."""
    from gputune.ir.nodes import COMPARISONS, LOGIC, BinOp
    from gputune.ir.walk import expr_children

    def of(e: Expr) -> int:
        if isinstance(e, BufferLoad) or (isinstance(e, BinOp) and e.op in COMPARISONS):
            return 0
        own = isinstance(e, BinOp) and e.op not in LOGIC
        return own + sum(map(of, expr_children(e)))

    match s:
        case BufferStore():
            return of(s.value)
        case For():
            lo, n = value(s.min, env), value(s.extent, env)
            return sum(executed(s.body, {**env, s.var: x}) for x in range(lo, lo + n))
        case Seq():
            return sum(executed(x, env) for x in s.items)
        case Block():
            inner = env | {iv.var: value(v, env) for iv, v in zip(s.iter_vars, s.iter_values)}
            return executed(s.body, inner)
        case _:
            raise AssertionError(type(s))


@pytest.mark.parametrize("name", ["matmul", "softmax"])
def test_flops_are_the_operations_that_run(name: str) -> None:
    func = MATMUL if name == "matmul" else ROWS["softmax"].build(m=3, n=5)
    assert analysis.estimate_tir_flops(func) == executed(func.body, {})
    assert analysis.estimate_tir_flops(IRModule({"a": func, "b": func})) == (
        2 * executed(func.body, {})
    )


def test_flops_need_bounds() -> None:
    @T.prim_func
    def open_size(a: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        for i in range(n):
            A[i] = A[i] + T.float32(1)

    with pytest.raises(CheckError) as e:
        analysis.estimate_tir_flops(open_size)
    assert e.value.code == "flops-extent"
    assert analysis.estimate_tir_flops(open_size.with_attr("estimated_flops", 12)) == 12


def test_the_anchor_is_the_reduction_with_the_most_operations() -> None:
    softmax = ROWS["softmax"].build(m=3, n=5)
    found = analysis.find_anchor_sblock(IRModule({"a": softmax, "b": MATMUL}))
    assert found is not None
    assert found.name == "C"
    assert executed(MATMUL.body, {}) > executed(softmax.body, {})
    assert analysis.find_anchor_sblock(by_data) is None


# ----------------------------------------------------------------------------- accesses of a block
def touched(block: Block) -> tuple[dict[Buffer, set[Any]], dict[Buffer, set[Any]]]:
    """Every element that a block without blocks inside reads and writes, with all its points run
    (the result of a reduction counts as written)."""
    from gputune.ir.walk import loads, stmt_exprs

    reads: dict[Buffer, set[Any]] = {}
    writes: dict[Buffer, set[Any]] = {}

    def go(s: Stmt, env: dict[Var, int]) -> None:
        match s:
            case For():
                for x in range(value(s.min, env), value(s.min, env) + value(s.extent, env)):
                    go(s.body, {**env, s.var: x})
            case Seq():
                for item in s.items:
                    go(item, env)
            case IfThenElse():
                go(s.then if value(s.cond, env) else s.orelse or Evaluate(IntImm(0)), env)
            case BufferStore() | Evaluate():
                for e in stmt_exprs(s):
                    for x in loads(e):
                        at = tuple(value(i, env) for i in x.indices)
                        reads.setdefault(x.buffer, set()).add(at)
                if type(s) is BufferStore:
                    at = tuple(value(i, env) for i in s.indices)
                    writes.setdefault(s.buffer, set()).add(at)
            case _:
                raise AssertionError(type(s))

    spans = [
        range(int(iv.dom.min.value), int(iv.dom.min.value) + int(iv.dom.extent.value))
        for iv in block.iter_vars
    ]
    for point in itertools.product(*spans):
        go(block.body, {iv.var: x for iv, x in zip(block.iter_vars, point)})
    return reads, writes


def elements(regions: tuple[BufferRegion, ...], block: Block) -> dict[Buffer, set[Any]]:
    """All elements of some regions, over all points of a block."""
    out: dict[Buffer, set[Any]] = {}
    spans = [range(int(iv.dom.extent.value)) for iv in block.iter_vars]
    for point in itertools.product(*spans):
        env = {iv.var: x for iv, x in zip(block.iter_vars, point)}
        for r in regions:
            box = [
                range(value(g.min, env), value(g.min, env) + value(g.extent, env)) for g in r.region
            ]
            out.setdefault(r.buffer, set()).update(itertools.product(*box))
    return out


@T.prim_func
def windows(A: T.Buffer((10, 12)), B: T.Buffer((4, 6)), C: T.Buffer((4, 6))):
    for i, j in T.grid(4, 6):
        with T.block("W"):
            vi, vj = T.axis.remap("SS", [i, j])
            for x in range(3):
                B[vi, vj] = A[vi * 2 + x, vj] + A[vi, vj * 2]
            C[vi, 5 - vj] = B[vi, vj] * 2.0


@pytest.mark.parametrize("which", ["windows", "matmul", "softmax"])
def test_access_regions_hold_what_is_touched(which: str) -> None:
    func = {"windows": windows, "matmul": MATMUL, "softmax": ROWS["softmax"].build(m=3, n=5)}[which]
    for block in blocks(func.body):
        if block.name == "root":
            continue
        reads, writes, opaque = analysis.get_sblock_access_region(block)
        assert opaque == ()
        real_reads, real_writes = touched(block)
        if block.init is not None:
            for x in real_writes:
                real_reads.pop(x, None)
        told_reads, told_writes = elements(reads, block), elements(writes, block)
        assert set(told_reads) == set(real_reads)
        assert told_writes == real_writes  # single points: exact
        for buffer, real in real_reads.items():
            assert real <= told_reads[buffer]
        if which != "windows":
            assert told_reads == real_reads


def test_access_regions_are_of_blocks() -> None:
    sch = Schedule(MATMUL, seed=1)
    block = sch.get(sch.get_block("C"))
    assert analysis.get_sblock_access_region(block, {})[0][0].buffer.name == "A"
    with pytest.raises(CheckError) as e:
        analysis.get_sblock_access_region(sch.get_block("C"))
    assert e.value.code == "not-a-block"


# ----------------------------------------------------------------------------- memory
@T.prim_func
def nested_buffers(A: T.Buffer((16, 16)), C: T.Buffer((16, 16))):
    t = T.alloc_buffer((16, 16), "float32")
    u = T.alloc_buffer((8,), "int8", scope="shared")
    for i in range(16):
        with T.block("one"):
            vi = T.axis.spatial(16, i)
            w = T.alloc_buffer((16,), "float64", scope="shared")
            for j in range(16):
                w[j] = T.cast(A[vi, j], "float64")
            for j in range(16):
                t[vi, j] = T.cast(w[j], "float32")
    for i in range(16):
        with T.block("two"):
            vi = T.axis.spatial(16, i)
            w = T.alloc_buffer((24,), "float64", scope="shared")
            for j in range(16):
                w[j] = T.cast(t[vi, j], "float64")
            for j in range(16):
                C[vi, j] = T.cast(w[j], "float32")
    u[0] = T.int8(0)


def alive(s: Stmt, now: Mapping[str, int], seen: dict[str, int]) -> None:
    """Run through a program and note the most bytes that live at once."""
    from gputune.ir import dtypes
    from gputune.ir.walk import stmt_children

    own = dict(now)
    if type(s) is Block:
        for x in s.alloc_buffers:
            size = dtypes.itemsize(x.dtype) * int(np.prod([int(n.value) for n in x.shape]))
            own[x.scope] = own.get(x.scope, 0) + size
    for scope, n in own.items():
        seen[scope] = max(seen.get(scope, 0), n)
    for child in stmt_children(s):
        alive(child, own, seen)


def test_allocated_bytes() -> None:
    seen: dict[str, int] = {}
    alive(nested_buffers.body, {}, seen)
    assert seen == {"global": 1024, "shared": 8 + 24 * 8}
    assert analysis.calculate_allocated_bytes(nested_buffers) == {"main": seen}
    both = IRModule({"a": nested_buffers, "b": MATMUL})
    assert analysis.calculate_allocated_bytes(both) == {"a": seen, "b": {}}


def test_allocated_bytes_of_lowered_and_sampled_programs() -> None:
    sch = Schedule(MATMUL, seed=1)
    block = sch.get_block("C")
    cache = sch.cache_write(block, 0, "local")
    assert analysis.calculate_allocated_bytes(sch.mod) == {"matmul": {"local": 6 * 10 * 4}}
    sch.reverse_compute_at(cache, sch.get_loops(block)[0])
    assert analysis.calculate_allocated_bytes(lower(sch.mod["matmul"], CpuLimits())) == {
        "main": {"register": 4, "local": 10 * 4}
    }
    padded = Buffer("p", (IntImm(4), IntImm(6)), "float32", "local", (IntImm(8), IntImm(1)))
    root = b.root_block(BufferStore(padded, b.const(0.0), (IntImm(0), IntImm(0))), [padded])
    func = PrimFunc((), (), root)
    assert analysis.calculate_allocated_bytes(func) == {"main": {"local": (3 * 8 + 5 + 1) * 4}}
    sampled = Buffer("s", (IntImm(Dim(5, "d0")),), "float32", "local")
    root = b.root_block(BufferStore(sampled, b.const(0.0), (IntImm(0),)), [sampled])
    (scopes,) = analysis.calculate_allocated_bytes(PrimFunc((), (), root)).values()
    assert type(scopes["local"]) is Dim  # nothing was asked of it
    assert scopes["local"] == 20


def test_allocated_bytes_need_sizes() -> None:
    @T.prim_func
    def open_size(a: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        t = T.alloc_buffer((n,), "float32")
        for i in range(n):
            t[i] = A[i]

    with pytest.raises(CheckError) as e:
        analysis.calculate_allocated_bytes(open_size)
    assert e.value.code == "dynamic-buffer"
    assert "buffer t has no constant size: its shape is (n)" in e.value.message


# ----------------------------------------------------------------------------- blocks
def test_conditions_are_found_wherever_they_stand() -> None:
    @T.prim_func
    def where(A: T.Buffer((8,))):
        for i in range(9):
            with T.block("C"):
                vi = T.axis.spatial(8, i)
                T.where(i < 8)
                A[vi] = T.float32(1)

    @T.prim_func
    def chosen(A: T.Buffer((8,))):
        for i in range(8):
            A[i] = T.if_then_else(i < 4, T.float32(1), T.float32(2))

    @T.prim_func
    def selected(A: T.Buffer((8,))):
        for i in range(8):
            A[i] = T.Select(i < 4, T.float32(1), T.float32(2))

    @T.prim_func
    def branch(A: T.Buffer((8,))):
        for i in range(8):
            if i < 4:
                A[i] = T.float32(1)

    for func in (where, chosen, selected, branch):
        assert analysis.has_if_then_else(func.body), func.name
    assert not analysis.has_if_then_else(MATMUL.body)
    sch = Schedule(MATMUL, seed=1)
    sch.split(sch.get_loops(sch.get_block("C"))[0], [None, 4])  # 6 = 2 * 4 - 2: a predicate
    assert analysis.has_if_then_else(sch.mod["matmul"].body)


def test_output_blocks_and_trivial_bindings() -> None:
    sch = Schedule(MATMUL, seed=1)
    block = sch.get_block("C")
    assert analysis.is_output_block(sch, block)
    assert analysis.is_trivial_binding(sch, block)
    cache = sch.cache_write(block, 0, "global")
    assert not analysis.is_output_block(sch, block)
    assert analysis.is_output_block(sch, cache)
    sch.split(sch.get_loops(block)[1], [None, 5])
    assert not analysis.is_trivial_binding(sch, block)
    other = Schedule(MATMUL, seed=1)
    with pytest.raises(ScheduleError):
        analysis.is_output_block(other, cache)
    with pytest.raises(ScheduleError):
        analysis.is_trivial_binding(other, cache)


# ----------------------------------------------------------------------------- layouts
@given(
    st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 5, 10]), st.permutations(range(4))
)
@settings(derandomize=True, deadline=None, max_examples=60, database=None)
def test_suggested_layouts_are_read_straight_through(a: int, c: int, order: list[int]) -> None:
    """With the loops in any order, the new indices go up one after the other."""
    n, m = 12, 10
    names = [Var(x) for x in ("x0", "x1", "y0", "y1")]
    extents = [n // a, a, m // c, c]
    loops: list[For] = []
    body: Stmt = Evaluate(IntImm(0))
    for k in reversed(order):
        body = For(names[k], IntImm(0), IntImm(extents[k]), "serial", body)
        loops.insert(0, body)
    buffer = Buffer("W", (IntImm(n), IntImm(m)), "float32")
    indices = [names[0] * a + names[1], names[2] * c + names[3]]
    found = analysis.suggest_index_map(buffer, indices, loops)
    assert found is not None
    seen = []
    for point in itertools.product(*[range(extents[k]) for k in order]):
        env = {names[k]: x for k, x in zip(order, point)}
        old = [value(i, env) for i in indices]
        seen.append(tuple(int(str(x)) for x in found.map_indices([IntImm(x) for x in old])))
    assert seen == sorted(seen)
    assert len(set(seen)) == n * m


def test_no_layout_where_indices_are_not_digits() -> None:
    loop = For(VI, IntImm(0), IntImm(8), "serial", Evaluate(IntImm(0)))
    buffer = Buffer("W", (IntImm(16),), "float32")
    assert analysis.suggest_index_map(buffer, [VI * 2], [loop]) is None
    assert analysis.suggest_index_map(buffer, [VI], [loop]) is None  # half of it
    assert analysis.suggest_index_map(buffer, [VI, VI], [loop]) is None


# ----------------------------------------------------------------------------- tensor intrinsics
@T.prim_func
def product(
    A: T.Buffer((16, 4), "uint8"), B: T.Buffer((16, 4), "int8"), C: T.Buffer((16, 16), "int32")
):
    for i, j, k in T.grid(16, 16, 4):
        with T.block("update"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")


def test_loops_for_an_intrinsic() -> None:
    sch = Schedule(tensor_programs.u8_matmul(32, 48, 8), seed=1)
    block = sch.get_block("C")
    info = analysis.get_tensorize_loop_mapping(sch, block, product)
    assert info is not None
    sizes = {v.name: int(f.extent.value) for v, f in info.loop_map.items()}
    assert sizes == {"i": 16, "j": 16, "q": 4}
    assert sorted(info.desc_loop_indexer.values()) == [0, 1, 2]
    assert info.block_iter_paddings is None
    for rv, f in zip(sch.get_loops(block), info.loop_map.values()):
        loop = sch.get(rv)
        for key in (loop, loop.var, sch.get_sref(rv)):  # the last as TVM has it
            assert info.loop_map[key] is f
        assert info.desc_loop_indexer[f] == info.desc_loop_indexer[f.var]
    assert sch.get_sref(block) not in info.loop_map
    odd = Schedule(tensor_programs.u8_matmul(30, 48, 6), seed=1)
    assert analysis.get_tensorize_loop_mapping(odd, odd.get_block("C"), product) is None
    padded = analysis.get_tensorize_loop_mapping(odd, odd.get_block("C"), product, True)
    assert padded is not None
    assert padded.block_iter_paddings == (16, 1, 4)


def test_joined_iterators_compute_the_same_product() -> None:
    """Every point of a convolution is one of the product it is mapped to, and the operands that it
    uses are those of that point."""
    func = tensor_programs.u8_conv()
    sch = Schedule(func, seed=1)
    block = sch.get(sch.get_block("Y"))
    info = analysis.get_auto_tensorize_mapping_info(sch, sch.get_block("Y"), product)
    assert info is not None
    (index_map,) = info.mappings
    extents = [int(iv.dom.extent.value) for iv in info.lhs_iters]
    sides = {d.name: buffer for buffer, d in info.lhs_buffer_map.items()}
    (store,) = [s for s in walk_stmt(block.body) if type(s) is BufferStore]
    from gputune.ir.walk import loads

    at: dict[str, tuple[Expr, ...]] = {"C": store.indices}
    for x in loads(store.value):
        at[next(k for k, v in sides.items() if v is x.buffer)] = x.indices
    uses = {"A": (0, 2), "B": (1, 2), "C": (0, 1)}
    found: dict[tuple[str, Any], set[Any]] = {}
    seen = set()
    for point in itertools.islice(itertools.product(*map(range, extents)), 0, None, 7):
        new = tuple(int(str(x)) for x in index_map.map_indices([IntImm(x) for x in point]))
        seen.add(new)
        env = {iv.var: x for iv, x in zip(block.iter_vars, point)}
        for name, which in uses.items():
            element = tuple(value(i, env) for i in at[name])
            found.setdefault((name, tuple(new[k] for k in which)), set()).add(element)
    assert all(len(v) == 1 for v in found.values())  # an operand's place says which element it is
    assert len(seen) == len(range(0, int(np.prod(extents)), 7))  # no two points are one


def test_no_mapping_for_something_else() -> None:
    sch = Schedule(MATMUL, seed=1)  # of floats
    assert analysis.get_auto_tensorize_mapping_info(sch, sch.get_block("C"), product) is None
    assert analysis.get_tensorize_loop_mapping(sch, sch.get_block("C"), product) is None


# ----------------------------------------------------------------------------- resources of a GPU
def on_gpu(threads: int = 32, virtual: int = 1, wide: int = 1, shared: bool = True) -> PrimFunc:
    sch = Schedule(DENSE["matmul"].build(m=64, n=64, k=32), seed=1)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, iv, i1 = sch.split(i, [None, virtual, 4])
    j0, j1 = sch.split(j, [None, threads])
    k0, k1 = sch.split(k, [None, 8])
    sch.reorder(i0, j0, iv, j1, k0, k1, i1)
    sch.bind(i0, "blockIdx.y")
    sch.bind(j0, "blockIdx.x")
    if virtual > 1:
        sch.bind(iv, "vthread.x")
    sch.bind(j1, "threadIdx.x")
    local = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(local, j1)
    if shared:
        copy = sch.cache_read(block, 0, "shared")
        sch.compute_at(copy, k0)
        fused = sch.fuse(*sch.get_loops(copy)[-2:])
        _, f1, f2 = sch.split(fused, [None, threads, wide])
        sch.bind(f1, "threadIdx.x")
        if wide > 1:
            sch.vectorize(f2)
    return sch.mod["matmul"]


def test_resources_of_a_kernel() -> None:
    (r,) = analysis.count_gpu_resources(on_gpu(32, virtual=2, wide=2))
    assert (r.grid, r.block, r.threads) == ((2, 8, 1), (32, 1, 1), 32)
    assert r.shared_bytes == 8 * 8 * 4  # 8 rows of 8 columns of A
    assert r.local_bytes == 8 * 4  # 4 rows for each of 2 virtual threads
    assert r.vthreads == (2,)
    assert r.vector_bytes == 8
    (plain,) = analysis.count_gpu_resources(on_gpu(16, shared=False))
    assert (plain.shared_bytes, plain.local_bytes, plain.vthreads) == (0, 16, ())
    assert r.registers > plain.registers > 16
    with pytest.raises(LowerError):
        analysis.count_gpu_resources(MATMUL)


@pytest.mark.parametrize("name", ["matmul", "softmax", "conv2d"])
def test_shared_memory_is_what_the_source_declares(name: str) -> None:
    from gputune.codegen.cuda.kernel import generate

    for s in gpu_schedules(name, 6):
        (func,) = s.sch.mod.functions.values()
        source = generate(func)
        counted = analysis.count_gpu_resources(s.sch.mod)
        assert len(counted) == len(source.host.launches)
        for r, launch in zip(counted, source.host.launches, strict=True):
            assert r.grid == launch.grid
            assert r.block == launch.block
        assert sum(r.shared_bytes for r in counted) == declared(source.text), s.label


def declared(text: str) -> int:
    """Bytes of all arrays in shared memory of a text."""
    import re

    size = {"float": 4, "int": 4, "double": 8, "__half": 2, "half": 2}
    total = 0
    for kind, count in re.findall(r"__shared__ __align__\(16\) (\w+) \w+\[(\d+)\]", text):
        total += -(-size[kind] * int(count) // 16) * 16
    return total


@needs_nvrtc
def test_registers_are_about_what_the_compiler_takes() -> None:
    ratios = []
    for func in (
        *(on_gpu(32, virtual=v) for v in (1, 4, 8)),
        *(s.sch.mod[s.kernel.name] for s in gpu_schedules("matmul", 5)),
    ):
        facts = gt.build(func, "cuda -arch=sm_80").facts
        for r in analysis.count_gpu_resources(func):
            assert 0 <= r.shared_bytes - facts[r.kernel].shared_bytes < 16  # the last one aligned
            ratios.append(r.registers / facts[r.kernel].registers)
    assert np.abs(np.log2(ratios)).mean() < 0.7, ratios
    assert max(ratios) < 4
    assert min(ratios) > 1 / 4


@pytest.mark.parametrize(
    ("key", "used", "said"),
    [
        ("max_threads_per_block", 32, "32 threads"),
        ("max_thread_x", 32, "32 threads along x"),
        ("max_vthread", 2, "2 virtual threads"),
        ("max_vector_bytes", 8, "8 bytes at once"),
        ("max_shared_memory_per_block", 256, "256 bytes of shared memory"),
        ("max_local_memory_per_block", 32 * 32, "1024 bytes of local memory"),
        ("max_kernels", 1, "1 kernels"),
    ],
)
def test_each_limit_is_kept_or_named(key: str, used: int, said: str) -> None:
    func = on_gpu(32, virtual=2, wide=2)
    assert analysis.verify_gpu_code(func, {key: used})
    assert analysis.verify_gpu_code(IRModule({"a": func}), {key: used})
    assert not analysis.verify_gpu_code(func, {key: used - 1})
    for fault in (faults := analysis.gpu_code_faults(func, {key: used - 1})):
        assert said in fault
        assert fault.endswith(f"the most is {used - 1} ({key})")
    assert faults


def test_limits_that_are_none() -> None:
    func = on_gpu()
    assert analysis.verify_gpu_code(func, {})
    assert analysis.verify_gpu_code(func, {"max_thread_y": 1, "max_thread_z": 1})
    with pytest.raises(UserError) as e:
        analysis.verify_gpu_code(func, {"max_thread": 1})
    assert e.value.code == "gpu-constraint"
    assert "max_threads_per_block" in str(e.value)
    with pytest.raises(UserError, match="must be a number"):
        analysis.verify_gpu_code(func, {"max_vthread": "8"})
