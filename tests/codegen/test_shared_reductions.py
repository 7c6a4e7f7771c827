"""Do threads that share reductions combine what they have by shuffles, through shared memory only
where warps make it necessary, and get what NumPy gets? Run on the processor, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest
from cuda_programs import ARCHS, needs_nvrtc
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_reductions import ORDERS, Case, check, findings

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.ir.dtypes import itemsize
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import Alloc, Expr, IfThenElse, LetStmt, PrimFunc, Stmt
from gputune.ir.walk import all_exprs, stmt_children, walk_stmt
from gputune.lower.flat import steps_of
from gputune.lower.gpu import lower_gpu
from gputune.lower.kernels import BLOCK, inner
from gputune.lower.lanes import are_even, exchanged, is_shuffle, runs_of, within_warp
from gputune.lower.touches import Threads
from gputune.lower.touches import evaluate as evaluate_threads
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.schedule.dim import Dim, evaluate, recording
from gputune.script import from_source

BARRIER = "__syncthreads();"


def x(n: int, *rest: int) -> tuple[tuple[int, bool], ...]:
    """Threads along x share, those along y and z are rows."""
    return ((n, True), *[(m, False) for m in rest])


def y(n: int, m: int) -> tuple[tuple[int, bool], ...]:
    """Threads along y share, those along x are rows."""
    return ((n, False), (m, True))


def shared_memory(source: CudaSource) -> int:
    """Arrays in shared memory."""
    return source.text.count("__shared__")


# ----------------------------------------------------------------------------- ways
WITHIN = {
    "a warp": x(32),
    "a part of one": x(8),
    "rows in warps": x(16, 4),
    "rows that leave the last warp short": x(8, 3, 3),
    "columns in a warp": y(4, 8),
    "columns, some warps of them": ((4, False), (8, True), (3, False)),
    "x and z": ((2, True), (4, False), (4, True)),
    "no power of two": x(20),
    "small rows of no power of two": x(5, 6),
    "small columns": y(3, 7),
    "x and z of no power of two": ((3, True), (2, False), (5, True)),
    "one thread": x(1, 33),
}
BETWEEN = {  # with the barriers where the result is stored once, and where every thread needs it
    "two warps": (x(64), 1, 1),
    "three warps": (x(96, 2), 1, 1),
    "a short warp": (x(50), 1, 2),
    "a thousand": (x(1000), 1, 2),
    "as many as there are": (x(1024), 1, 1),
    "columns of parts of warps": (y(8, 32), 1, 2),
    "columns of a few": (y(16, 4), 1, 1),
    "columns of single threads": (y(32, 8), 1, 2),
    "around rows": (((16, True), (2, False), (8, True)), 1, 1),
}
TREE = {"rows cut by warps": x(20, 3), "columns cut by warps": y(6, 10), "many": x(50, 4)}


@pytest.mark.parametrize("everyone", [False, True], ids=["one", "everyone"])
@pytest.mark.parametrize("name", WITHIN)
def test_no_memory_and_no_barrier_within_a_warp(name: str, everyone: bool) -> None:
    source = check(Case(WITHIN[name], 7, 37, everyone=everyone))
    assert shared_memory(source) == 0
    assert BARRIER not in source.text
    assert ("__shfl" in source.text) == (name != "one thread")


@pytest.mark.parametrize("everyone", [False, True], ids=["one", "everyone"])
@pytest.mark.parametrize("name", BETWEEN)
def test_one_exchange_between_warps(name: str, everyone: bool) -> None:
    axes, once, told = BETWEEN[name]
    case = Case(axes, 5, 1033, everyone=everyone)
    source = check(case)
    assert source.text.count(BARRIER) == (told if everyone else once)
    assert shared_memory(source) == 1
    found = re.search(r"__shared__ __align__\(16\) float \w+\[(\d+)\];", source.text)
    assert found is not None
    assert int(found[1]) == exchanged(axes)
    if axes[0][1] and not any(reduces for _, reduces in axes[1:]):  # one for each warp and row
        assert int(found[1]) == -(-case.width // 32) * case.rows_a_block


@pytest.mark.parametrize("everyone", [False, True], ids=["one", "everyone"])
@pytest.mark.parametrize("name", TREE)
def test_rows_that_warps_cut_take_turns(name: str, everyone: bool) -> None:
    case = Case(TREE[name], 5, 61, everyone=everyone)
    source = check(case)
    assert "__shfl" not in source.text
    assert source.text.count(BARRIER) >= (case.width - 1).bit_length() - 1


LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 8, 16, 20, 32, 33, 64])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes: list[tuple[int, bool]] = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(LENGTHS)
        if prod(m for m, _ in axes) * n <= 256:
            axes.append((n, draw(st.booleans())))
    if not any(reduces for _, reduces in axes):
        axes[0] = (axes[0][0], True)
    op = draw(st.sampled_from(["sum", "max", "argmax"]))
    dtype = draw(st.sampled_from(["float32", "float16", "float64", "int32", "int8", "int64"]))
    length = draw(st.sampled_from([1, 7, 33, 97, 1000]))
    return Case(tuple(axes), draw(st.integers(1, 9)), length, dtype, op, draw(st.booleans()))


@settings(max_examples=16, derandomize=True, deadline=None, database=None)
@given(cases())
def test_any_threads_any_rows(case: Case) -> None:
    source = check(case)
    if case.rows_within_warps():
        assert shared_memory(source) == 0
        assert BARRIER not in source.text


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float16", "bfloat16", "float8_e5m2", "int8", "uint8", "int16", "uint16", "uint32",
     "int64", "uint64", "bool"],
)  # fmt: skip
@pytest.mark.parametrize("axes", [x(16, 3), x(40), x(20, 2)], ids=["within", "between", "tree"])
def test_wide_and_narrow_elements(axes: tuple[tuple[int, bool], ...], dtype: str) -> None:
    check(Case(axes, 3, 45, dtype, "max" if dtype in ("bool", "float8_e5m2") else "sum"))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_shuffles_compile(arch: str) -> None:
    for dtype, axes in (
        ("float32", x(256)), ("float64", x(16, 4)), ("bfloat16", x(100)), ("int8", x(16, 4)),
        ("uint16", x(256)), ("int64", x(100)), ("bool", x(256)),
    ):  # fmt: skip
        op = "max" if dtype == "bool" else "argmax"
        source = generate(Case(axes, 4, 500, dtype, op, axes == x(256)).func())
        assert compile_cuda(source, arch, cache=False).cubin[:4] == b"\x7fELF"


# ----------------------------------------------------------------------------- is the check awake?
MUTANTS = [
    Case(axes, 5, 333, everyone=everyone)
    for axes, *_ in (BETWEEN[k] for k in ("two warps", "a short warp", "columns of parts of warps",
                                          "columns of single threads"))
    for everyone in (False, True)
]  # fmt: skip


@pytest.mark.parametrize("case", MUTANTS, ids=str)
def test_every_barrier_is_needed(case: Case) -> None:
    """Dropped, or behind the statement that waits for it, it is missed in some order."""
    source = generate(case.func())
    lines = source.text.splitlines()
    places = [k for k, line in enumerate(lines) if line.strip() == BARRIER]
    assert places
    for k in places:
        end = k + 1
        while lines[end].startswith(" " * (len(lines[k]) - len(lines[k].lstrip()) + 1)):
            end += 1  # (what follows, with all that is inside)
        without = [*lines[:k], *lines[k + 1 :]]
        behind = [*lines[:k], *lines[k + 1 : end + 1], lines[k], *lines[end + 1 :]]
        for text in ("\n".join(without), "\n".join(behind)):
            mutant = CudaSource(text, source.host, source.options, source.prelude)
            assert any(findings(case, mutant, order) for order in ORDERS), text


def test_a_wrong_shuffle_is_found() -> None:
    case = Case(x(16, 4), 5, 333)
    source = generate(case.func())
    (first, *_) = re.findall(r"__shfl_xor_sync\(0xffffffffu, .*, 8\)", source.text)
    for wrong in (first.replace(", 8)", ", 16)"), first.replace("0xffffffffu", "0xffffu")):
        text = source.text.replace(first, wrong)
        mutant = CudaSource(text, source.host, source.options, source.prelude)
        assert any(findings(case, mutant, order) for order in ORDERS), text


# ----------------------------------------------------------------------------- in larger programs
TWO_IN_A_LOOP = """@T.prim_func
def main(A: T.Buffer((6, 100), "float32"), C: T.Buffer((6, 100), "float32")):
    M = T.alloc_buffer((6,), "float32", scope="local")
    S = T.alloc_buffer((6,), "float32", scope="local")
    for b in T.thread_binding(2, thread="blockIdx.x"):
        for i in range(3):
            for t in T.thread_binding({threads}, thread="threadIdx.x"):
                for k in range({steps}):
                    with T.block("M"):
                        v = T.axis.spatial(6, b * 3 + i)
                        w = T.axis.reduce(100, k * {threads} + t)
                        T.where(k * {threads} + t < 100)
                        with T.init():
                            M[v] = T.min_value("float32")
                        M[v] = T.max(M[v], A[v, w])
            for t in T.thread_binding({threads}, thread="threadIdx.x"):
                for k in range({steps}):
                    with T.block("S"):
                        v = T.axis.spatial(6, b * 3 + i)
                        w = T.axis.reduce(100, k * {threads} + t)
                        T.where(k * {threads} + t < 100)
                        with T.init():
                            S[v] = T.float32(0)
                        S[v] = S[v] + (A[v, w] - M[v])
            for t in T.thread_binding({threads}, thread="threadIdx.x"):
                for k in range({steps}):
                    with T.block("C"):
                        v = T.axis.spatial(6, b * 3 + i)
                        w = T.axis.spatial(100, k * {threads} + t)
                        T.where(k * {threads} + t < 100)
                        C[v, w] = A[v, w] * S[v]
"""


def parsed(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


@pytest.mark.parametrize(("threads", "barriers"), [(32, 0), (64, 4), (100, 7), (128, 4)])
def test_several_reductions_share_a_block(threads: int, barriers: int) -> None:
    """Rows one after the other, each read three times; what is exchanged gives way to the next."""
    source = generate(parsed(TWO_IN_A_LOOP.format(threads=threads, steps=-(-100 // threads))))
    a = Case(x(32), 6, 100).matrix()
    total = (a - a.max(1, keepdims=True)).sum(1, keepdims=True)
    for order in ORDERS:
        report = host_run(host_compile(source), {"A": a, "C": None}, order=order, seed=1)
        assert not report.findings, f"{report}\n{source.text}"
        np.testing.assert_array_equal(report.outputs["C"].reshape(6, 100), a * total)
    assert source.text.count(BARRIER) <= barriers, source.text
    assert (barriers == 0) == (shared_memory(source) == 0)


SEVERAL_EACH = """@T.prim_func
def main(A: T.Buffer((70, {n}), "float32"), B: T.Buffer(({n},), "float32")):
    for b in T.thread_binding(2, thread="blockIdx.x"):
        for x in T.thread_binding({x}, thread="threadIdx.x"):
            for y in T.thread_binding({y}, thread="threadIdx.y"):
                for k in range({steps}):
                    for j in range({each}):
                        with T.block("B"):
                            v = T.axis.spatial({n}, (b * {x} + x) * {each} + j)
                            w = T.axis.reduce(70, k * {y} + y)
                            T.where(k * {y} + y < 70)
                            with T.init():
                                B[v] = T.float32(0)
                            B[v] = B[v] + A[w, v]
"""


@pytest.mark.parametrize(
    ("x", "y", "each", "barriers"),
    [(32, 8, 3, 1), (8, 16, 4, 1), (8, 16, 5, 2), (4, 8, 3, 0), (1, 50, 2, 1), (6, 10, 3, 4)],
)
def test_results_of_a_thread_wait_for_one_barrier(x: int, y: int, each: int, barriers: int) -> None:
    """Sums of columns, of which each thread has several; of many, one at a time."""
    n = 2 * x * each
    func = parsed(SEVERAL_EACH.format(n=n, x=x, y=y, each=each, steps=-(-70 // y)))
    source = generate(func)
    a = Case(((32, True),), 70, n).matrix()
    for order in ORDERS:
        report = host_run(host_compile(source), {"A": a, "B": None}, order=order, seed=1)
        assert not report.findings, f"{report}\n{source.text}"
        np.testing.assert_array_equal(report.outputs["B"], a.sum(0))
    assert source.text.count(BARRIER) == barriers, source.text
    (usage,) = kernels_of(func)
    assert usage.shared_bytes == lowered_bytes(func)


def run_rows(func: PrimFunc, rows: int, length: int) -> CudaSource:
    """The source, after it summed rows in three orders."""
    source = generate(func)
    a = Case(x(32), rows, length).matrix()
    for order in ORDERS:
        report = host_run(host_compile(source), {"A": a, "B": None}, order=order, seed=1)
        assert not report.findings, f"{report}\n{source.text}"
        np.testing.assert_array_equal(report.outputs["B"], a.sum(1))
    return source


def test_virtual_threads_take_turns_at_the_shuffles() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((12, 100), "float32"), B: T.Buffer((12,), "float32")):
    for b in T.thread_binding(2, thread="blockIdx.x"):
        for o in T.thread_binding(3, thread="vthread.x"):
            for y in T.thread_binding(2, thread="threadIdx.y"):
                for t in T.thread_binding({threads}, thread="threadIdx.x"):
                    for k in range({steps}):
                        with T.block("B"):
                            v = T.axis.spatial(12, b * 6 + o * 2 + y)
                            w = T.axis.reduce(100, k * {threads} + t)
                            T.where(k * {threads} + t < 100)
                            with T.init():
                                B[v] = T.float32(0)
                            B[v] = B[v] + A[v, w]
"""
    for threads in (32, 64):
        func = parsed(text.format(threads=threads, steps=-(-100 // threads)))
        source = run_rows(func, 12, 100)
        (usage,) = kernels_of(func)
        assert usage.shared_bytes == lowered_bytes(func) == (16 if threads > 32 else 0)
        assert "__shfl" in source.text


def test_inside_of_another_block_threads_take_turns() -> None:
    """Its condition might keep some of them away."""
    text = """@T.prim_func
def main(A: T.Buffer((6, 32), "float32"), B: T.Buffer((6,), "float32")):
    for b in T.thread_binding(6, thread="blockIdx.x"):
        with T.block("O"):
            o = T.axis.spatial(6, b)
            T.reads(A[o, 0:32])
            T.writes(B[o])
            for t in T.thread_binding(32, thread="threadIdx.x"):
                with T.block("B"):
                    w = T.axis.reduce(32, t)
                    with T.init():
                        B[o] = T.float32(0)
                    B[o] = B[o] + A[o, w]
"""
    func = parsed(text)
    source = run_rows(func, 6, 32)
    (usage,) = kernels_of(func)
    assert usage.shared_bytes == lowered_bytes(func) == 128
    assert "__shfl" not in source.text


def test_threads_that_do_not_all_come_take_turns() -> None:
    """Shuffles need the whole warp: under a condition of threads they are no way to combine."""
    text = """@T.prim_func
def main(A: T.Buffer((4, 32), "float32"), B: T.Buffer((4,), "float32")):
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for r in T.thread_binding(4, thread="threadIdx.y"):
            for j in range(r + 1):
                for t in T.thread_binding(32, thread="threadIdx.x"):
                    with T.block("B"):
                        v = T.axis.spatial(4, r)
                        w = T.axis.reduce(32, t)
                        with T.init():
                            B[v] = T.float32(0)
                        B[v] = B[v] + A[v, w]
"""
    with pytest.raises(LowerError) as e:
        generate(parsed(text))
    assert e.value.code == "divergent-barrier"


# ----------------------------------------------------------------------------- what it asks for
def lowered_bytes(func: PrimFunc) -> int:
    (kernel,) = lower_gpu(func).kernels
    total = 0
    for s in walk_stmt(kernel.func.body):
        if type(s) is Alloc and s.buffer.scope == "shared":
            count = 1 + sum(
                (int(n.value) - 1) * int(k.value)  # type: ignore[union-attr]  # constant
                for n, k in zip(s.buffer.shape, steps_of(s.buffer), strict=True)
            )
            total += -(-count * itemsize(s.buffer.dtype) // 16) * 16
    return total


def shuffles_of(s: Stmt, conds: tuple[Expr, ...] = ()) -> Iterator[tuple[LetStmt, Any]]:
    """The statements that are named by a shuffle, each with the conditions around it."""
    if type(s) is LetStmt and is_shuffle(s.value):
        yield s, conds
    if type(s) is IfThenElse:
        yield from shuffles_of(s.then, (*conds, s.cond))
        if s.orelse is not None:
            assert not list(shuffles_of(s.orelse))
        return
    for part in stmt_children(s):
        yield from shuffles_of(part, conds)


def lanes_that_come(func: PrimFunc) -> int:
    """How many shuffles there are; AssertionError if one does not see whole warps, or stands
    inside an expression."""
    (kernel,) = lower_gpu(func).kernels
    axes, body = inner(kernel.func)
    threads = Threads(axes)
    axis = {a.thread: a.var for a in axes}
    env = dict(zip(threads.lengths, threads.at, strict=True))
    number, size = np.zeros(threads.count, np.int64), 1
    for name in BLOCK:
        if name in axis:
            number, size = number + env[axis[name]] * size, size * threads.lengths[axis[name]]
    found = list(shuffles_of(body))
    for _, conds in found:
        for cond in conds:
            holds = evaluate_threads(cond, env)
            assert holds is not None
            for warp in np.unique(number // 32):
                assert (
                    len(np.unique(np.broadcast_to(holds, number.shape)[number // 32 == warp])) == 1
                )
    assert sum(map(is_shuffle, all_exprs(body))) == len(found)
    return len(found)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(cases())
def test_what_is_exchanged_is_counted(case: Case) -> None:
    """The numbers that the search sees before lowering are those of the kernel; and all lanes of a
    warp come to each of its shuffles."""
    func = case.func()
    (usage,) = kernels_of(func)
    assert usage.shared_bytes == lowered_bytes(func)
    lanes_that_come(func)


def test_a_shuffle_is_printed() -> None:
    func = Case(x(64), 4, 100).func()
    assert lanes_that_come(func) == 6  # five in each warp, one between the two
    (kernel,) = lower_gpu(func).kernels
    text = str(kernel.func)
    assert 'T.call_intrin("float32", "warp_shuffle_xor", R_thread[0], 16)' in text
    assert structural_equal(parsed(text), kernel.func)


SHUFFLED = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    for x in T.thread_binding(16, thread="threadIdx.x"):
        for y in T.thread_binding(4, thread="threadIdx.y"):
            with T.block("B"):
                v, w = T.axis.remap("SS", [x, y])
                T.reads(A[w * 16 + v])
                T.writes(B[w * 16 + v])
                {statement}
"""
AWAKE = 'with T.LetStmt(T.call_intrin("float32", "warp_shuffle_xor", A[w * 16 + v], 16)) as o:'


def test_shuffles_of_ones_own() -> None:
    """In a program they are what they are in lowered code, where all threads of a warp come."""
    for where in ("True", "w < 2", "w // 2 == 0 and A[0] == A[0]"):
        lines = [f"if {where}:", f"    {AWAKE}", "        B[w * 16 + v] = o"]
        func = parsed(SHUFFLED.format(statement=("\n" + " " * 16).join(lines)))
        if "A[0]" in where:
            with pytest.raises(LowerError) as e:
                generate(func)
            assert e.value.code == "warp-divergent"
            continue
        a = np.arange(64, dtype=np.float32)
        for order in ORDERS:
            report = host_run(host_compile(generate(func)), {"A": a, "B": a}, order=order, seed=1)
            assert not report.findings, str(report)
            want = a.reshape(2, 2, 16)[:, ::-1].ravel()
            np.testing.assert_array_equal(report.outputs["B"][:32], want[:32])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["if w < 1:", f"    {AWAKE}", "        B[w * 16 + v] = o"], "the condition thread_y < 1"),
        (["for j in range(v):", f"    {AWAKE}", "        B[w * 16 + v] = o"], "loop j"),
        (['B[w * 16 + v] = T.call_intrin("float32", "warp_shuffle_xor", A[w * 16 + v], 16)'],
         "inside an expression"),
    ],
)  # fmt: skip
def test_shuffles_to_which_not_all_come(lines: list[str], words: str) -> None:
    func = parsed(SHUFFLED.format(statement=("\n" + " " * 16).join(lines)))
    with pytest.raises(LowerError) as e:
        generate(func)
    assert e.value.code == "warp-divergent"
    assert words in e.value.message


def test_sampled_sizes_leave_no_guard() -> None:
    columns = {"x": np.array([32, 5, 20, 64, 8]), "y": np.array([4, 6, 3, 2, 3])}
    for flags in ((True, False), (False, True), (True, True)):
        with recording() as guards:
            axes = [(Dim(32, "x"), flags[0]), (Dim(4, "y"), flags[1])]
            out = exchanged(axes)
        assert not guards
        want = [
            exchanged([(int(a), flags[0]), (int(b), flags[1])])
            for a, b in zip(columns["x"], columns["y"], strict=True)
        ]
        assert np.broadcast_to(evaluate(out, columns), 5).tolist() == want


def test_runs() -> None:
    assert runs_of([(4, True), (8, True), (3, False)]) == [(32, True), (3, False)]
    assert are_even([(32, True), (3, False)])
    assert are_even([(8, False), (12, True)])  # parts of three warps
    assert not are_even([(20, True), (3, False)])
    assert within_warp([(8, False), (12, True)]) == [8, 4]
    assert [exchanged(x(n)) for n in (1, 20, 32, 33, 64, 1000)] == [0, 0, 0, 2, 2, 32]
    assert exchanged(x(20, 3)) == 60
    assert exchanged(y(8, 32)) == 64
