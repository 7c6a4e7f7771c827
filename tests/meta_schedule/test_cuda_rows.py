"""The rules of GPUs for what memory bounds: rows that are read once, reductions on two levels,
elementwise chains; what their sketches are, what they compute, and when they do not apply."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from space_programs import chain, matmul

import gputune as gt
import gputune.meta_schedule as ms
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import UserError
from gputune.ir.build import const_int
from gputune.ir.nodes import Alloc, Block, BufferLoad, For, IntImm, IRModule, PrimFunc, Stmt
from gputune.ir.walk import all_exprs, stmt_children, substitute, uses_var, walk_stmt
from gputune.kernels import KERNELS
from gputune.kernels.kernel import Shape
from gputune.lower.gpu import lower_gpu
from gputune.meta_schedule.analysis import loop_links
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.schedule_rule import (
    PersistentRows,
    ScheduleRule,
    TwoLevelReduction,
    WideElements,
)
from gputune.meta_schedule.sketch_feature import Machine
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.script import tir as T
from tests.codegen.cuda_programs import needs_nvrtc

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)
SM_80 = gt.Target("cuda -arch=sm_80")


# ----------------------------------------------------------------------------- programs
def parse(text: str) -> PrimFunc:
    out = from_source(text)
    assert isinstance(out, PrimFunc)
    return out


def cross_entropy(m: int, n: int) -> PrimFunc:
    @T.prim_func
    def cross_entropy(
        X: T.Buffer((m, n), "float32"),
        label: T.Buffer((m,), "int32"),
        loss: T.Buffer((m,), "float32"),
    ):
        top = T.alloc_buffer((m,), "float32")
        total = T.alloc_buffer((m,), "float32")
        for i, j in T.grid(m, n):
            with T.block("top"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    top[vi] = T.min_value("float32")
                top[vi] = T.max(top[vi], X[vi, vj])
        for i, j in T.grid(m, n):
            with T.block("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    total[vi] = 0.0
                total[vi] = total[vi] + T.exp(X[vi, vj] - top[vi])
        for i in range(m):
            with T.block("loss"):
                vi = T.axis.spatial(m, i)
                loss[vi] = top[vi] + T.log(total[vi]) - X[vi, label[vi]]

    return cross_entropy


def mean_cross_entropy(m: int, n: int) -> PrimFunc:
    """Its loss is no output: a mean over rows takes it."""
    text = cross_entropy(m, n).script()
    assert isinstance(text, str)
    text = text.replace(f'loss: T.Buffer(({m},), "float32")', 'out: T.Buffer((1,), "float32")')
    text = text.replace("top = T.alloc", f"loss = T.alloc_buffer(({m},))\n    top = T.alloc", 1)
    return parse(f"""{text}
    for i in range({m}):
        with T.block("out"):
            vi = T.axis.reduce({m}, i)
            with T.init():
                out[0] = T.float32(0)
            out[0] = out[0] + loss[vi] * T.float32({1 / m})
""")


def column_softmax(m: int, n: int) -> PrimFunc:
    """Over the first axis, of which neighbours lie n elements apart."""

    @T.prim_func
    def column_softmax(A: T.Buffer((m, n), "float32"), B: T.Buffer((m, n), "float32")):
        top = T.alloc_buffer((n,), "float32")
        power = T.alloc_buffer((m, n), "float32")
        total = T.alloc_buffer((n,), "float32")
        for j, i in T.grid(n, m):
            with T.block("top"):
                vj, vi = T.axis.remap("SR", [j, i])
                with T.init():
                    top[vj] = T.min_value("float32")
                top[vj] = T.max(top[vj], A[vi, vj])
        for j, i in T.grid(n, m):
            with T.block("power"):
                vj, vi = T.axis.remap("SS", [j, i])
                power[vi, vj] = T.exp(A[vi, vj] - top[vj])
        for j, i in T.grid(n, m):
            with T.block("total"):
                vj, vi = T.axis.remap("SR", [j, i])
                with T.init():
                    total[vj] = 0.0
                total[vj] = total[vj] + power[vi, vj]
        for j, i in T.grid(n, m):
            with T.block("B"):
                vj, vi = T.axis.remap("SS", [j, i])
                B[vi, vj] = power[vi, vj] / total[vj]

    return column_softmax


def group_norm(g: int, h: int, w: int) -> PrimFunc:
    """Rows of two dimensions."""

    @T.prim_func
    def group_norm(A: T.Buffer((g, h, w), "float32"), B: T.Buffer((g, h, w), "float32")):
        total = T.alloc_buffer((g,), "float32")
        square = T.alloc_buffer((g,), "float32")
        for t, i, j in T.grid(g, h, w):
            with T.block("total"):
                vt, vi, vj = T.axis.remap("SRR", [t, i, j])
                with T.init():
                    total[vt] = 0.0
                total[vt] = total[vt] + A[vt, vi, vj]
        for t, i, j in T.grid(g, h, w):
            with T.block("square"):
                vt, vi, vj = T.axis.remap("SRR", [t, i, j])
                with T.init():
                    square[vt] = 0.0
                square[vt] = square[vt] + A[vt, vi, vj] * A[vt, vi, vj]
        for t, i, j in T.grid(g, h, w):
            with T.block("B"):
                vt, vi, vj = T.axis.remap("SSS", [t, i, j])
                B[vt, vi, vj] = (A[vt, vi, vj] - total[vt] / (h * w)) * T.rsqrt(
                    square[vt] / (h * w) - (total[vt] / (h * w)) * (total[vt] / (h * w)) + 1e-5
                )

    return group_norm


def middle_sum(b: int, m: int, n: int) -> PrimFunc:
    @T.prim_func
    def middle_sum(A: T.Buffer((b, m, n), "float32"), B: T.Buffer((b, n), "float32")):
        for t, j, i in T.grid(b, n, m):
            with T.block("B"):
                vt, vj, vi = T.axis.remap("SSR", [t, j, i])
                with T.init():
                    B[vt, vj] = 0.0
                B[vt, vj] = B[vt, vj] + A[vt, vi, vj]

    return middle_sum


def library(name: str, **shape: int) -> PrimFunc:
    return KERNELS[name].build(shape, "float32")


# ----------------------------------------------------------------------------- spaces
def space_of(func: PrimFunc, rules: Sequence[ScheduleRule] | None = None) -> list[Schedule]:
    """The sketches of some rules, or of all."""
    generator = ms.space_generator.PostOrderApply(
        sch_rules="from-target" if rules is None else list(rules)
    )
    context = ms.TuneContext(func, target=SM_80, rand_state=7, space_generator=generator)
    return list(context.generate_design_space())


def sketched(func: PrimFunc, sch: Schedule) -> Sketch:
    postprocs = ms.Postproc.create("cuda")
    context = ms.TuneContext(func, target=SM_80, space_generator=None)
    for p in postprocs:
        p.initialize_with_tune_context(context)
    return Sketch(IRModule({func.name: func}), sch.trace, postprocs, Machine.of(SM_80))


def made_by(rule: ScheduleRule, func: PrimFunc) -> list[Schedule]:
    """The sketches that a rule alone adds."""
    return space_of(func, [rule])[1:]


def candidates(func: PrimFunc, sch: Schedule, count: int, seed: int = 5) -> list[PrimFunc]:
    """Random programs of a sketch, as many of different structure as there are."""
    sketch = sketched(func, sch)
    rows = sketch.decisions.sample(2048, np.random.default_rng(seed))
    found = sketch.evaluate(rows)
    assert found.valid.any()
    assert not sketch.fallbacks
    good = np.flatnonzero(found.valid)
    _, first = np.unique(found.classes[good], return_index=True)
    picked = [*good[first], *good]
    return [
        next(iter(sketch.materialise(rows[k]).mod.functions.values()))
        for k in dict.fromkeys(picked[:count])
    ]


ORDERS = itertools.cycle(("forward", "reverse", "random"))


def ran(func: PrimFunc, arrays: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """What a program computes on the processor, with no finding."""
    source = generate(func)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values, order=next(ORDERS), seed=1)
    assert not report.findings, f"{report.findings}\n{source.text}"
    names = {b.name: p.name for b, p in zip(func.buffers, params, strict=True)}
    return [
        report.outputs[names[b.name]].reshape([int(n.value) for n in b.shape])
        for b in func.buffers
        if b.name in outputs
    ]


def check_library(name: str, shape: Shape, func: PrimFunc, dtype: str = "float32") -> None:
    kernel = KERNELS[name]
    arrays = kernel.arguments(shape, dtype, 3, exact=kernel.exact)
    expected = kernel.expected([a.copy() for a in arrays], shape, dtype)
    narrow = dtype in ("float16", "bfloat16")
    rtol, atol = (2e-2, 2e-2) if narrow else (2e-5, 2e-4)
    for got, want in zip(ran(func, arrays, kernel.outputs), expected, strict=True):
        np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=rtol, atol=atol)


# ----------------------------------------------------------------------------- rows, by numbers
ROWS = [
    ("softmax", {"m": 7, "n": 13}),
    ("softmax", {"m": 1, "n": 33}),
    ("softmax", {"m": 5, "n": 1000}),
    ("log_softmax", {"m": 3, "n": 1000}),
    ("layernorm", {"m": 33, "n": 64}),
    ("layernorm", {"m": 3, "n": 127}),
    ("rmsnorm", {"m": 13, "n": 17}),
    ("row_sum", {"m": 13, "n": 1000}),
    ("row_mean", {"m": 3, "n": 131}),
    ("argmax", {"m": 13, "n": 17}),
    ("argmax", {"m": 1, "n": 1000}),
]


@needs_compiler
@pytest.mark.parametrize(("name", "shape"), ROWS)
def test_rows_of_the_library(name: str, shape: Shape) -> None:
    func = KERNELS[name].build(shape, "float32")
    found = made_by(PersistentRows(shared_from=1), func)
    several = name not in ("row_sum", "row_mean", "argmax")  # these read a row once
    assert len(found) == (2 if several else 1)
    for sch in found:
        for candidate in candidates(func, sch, 2 if name == "softmax" else 1):
            check_library(name, shape, candidate)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("softmax", "float16"),
        ("rmsnorm", "bfloat16"),
        ("row_sum", "int8"),
        ("layernorm", "float64"),
    ],
)
def test_rows_of_other_dtypes(name: str, dtype: str) -> None:
    """Vectors of narrow inputs, of which sums are float32; of wide ones, two elements."""
    shape = {"m": 5, "n": 144}
    func = KERNELS[name].build(shape, dtype)
    for sch in made_by(PersistentRows(shared_from=1), func):
        for candidate in candidates(func, sch, 1):
            check_library(name, shape, candidate, dtype)


@needs_compiler
@pytest.mark.parametrize(("name", "dtype"), [("total_sum", "float16"), ("column_max", "int32")])
def test_two_kernels_of_other_dtypes(name: str, dtype: str) -> None:
    shape = {"m": 512, "n": 24}
    func = KERNELS[name].build(shape, dtype)
    (sch,) = made_by(TwoLevelReduction(min_elements=1), func)
    for candidate in candidates(func, sch, 2):
        check_library(name, shape, candidate, dtype)


def numpy_cross_entropy(x: Any, label: Any) -> Any:
    top = x.max(axis=1)
    total = np.exp(x - top[:, None]).sum(axis=1)
    return top + np.log(total) - x[np.arange(len(x)), label]


@needs_compiler
@pytest.mark.parametrize(("m", "n"), [(9, 100), (1, 33), (4, 1021)])
def test_cross_entropy(m: int, n: int) -> None:
    """A result for each row, which looks at one element of it besides."""
    func = cross_entropy(m, n)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((m, n)).astype(np.float32)
    label = rng.integers(0, n, m).astype(np.int32)
    for sch in made_by(PersistentRows(shared_from=1), func):
        for candidate in candidates(func, sch, 2):
            (got,) = ran(candidate, [x, label, np.empty(m, np.float32)], ["loss"])
            np.testing.assert_allclose(got, numpy_cross_entropy(x, label), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_chain_that_ends_before_another_reduction() -> None:
    func = mean_cross_entropy(12, 40)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 40)).astype(np.float32)
    label = rng.integers(0, 40, 12).astype(np.int32)
    spaces = [s for s in space_of(func) if "threadIdx.y" in str(s.trace)]
    assert spaces
    for sch in spaces:
        for candidate in candidates(func, sch, 1):
            (got,) = ran(candidate, [x, label, np.empty(1, np.float32)], ["out"])
            np.testing.assert_allclose(got[0], numpy_cross_entropy(x, label).mean(), rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize(("m", "n"), [(100, 40), (13, 7), (33, 33)])
def test_softmax_over_the_first_axis(m: int, n: int) -> None:
    """Threads along x take a row each: neighbours in memory."""
    func = column_softmax(m, n)
    x = np.random.default_rng(1).standard_normal((m, n)).astype(np.float32)
    want = np.exp(x - x.max(axis=0))
    want /= want.sum(axis=0)
    found = made_by(PersistentRows(shared_from=1), func)
    assert len(found) == 2
    for sch in found:
        assert "candidates=[1, " not in str(sch.trace)  # at least a sector's columns side by side
        for candidate in candidates(func, sch, 2):
            reducing = [
                f.thread
                for f, kind in kinds_of_loops(candidate, "top")
                if kind == "reduce" and f.thread is not None
            ]
            assert reducing == ["threadIdx.y"]
            (got,) = ran(candidate, [x, np.empty_like(x)], ["B"])
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def kinds_of_loops(func: PrimFunc, name: str) -> list[tuple[For, str]]:
    """The loops above a block, each with what it drives."""
    sch = Schedule(func)
    link = sch.block(sch.get_block(name))
    block = link.block()
    out = []
    for x in loop_links(link):
        f = x.loop()
        kinds = {
            iv.kind
            for iv, v in zip(block.iter_vars, block.iter_values, strict=True)
            if uses_var(v, f.var)
        }
        out.append((f, "reduce" if "reduce" in kinds else "spatial"))
    return out


@needs_compiler
@pytest.mark.parametrize(("g", "h", "w"), [(3, 8, 12), (2, 5, 7)])
def test_rows_of_two_dimensions(g: int, h: int, w: int) -> None:
    func = group_norm(g, h, w)
    x = np.random.default_rng(1).standard_normal((g, h, w)).astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    want = (x - mean) / np.sqrt((x * x).mean(axis=(1, 2), keepdims=True) - mean * mean + 1e-5)
    found = made_by(PersistentRows(shared_from=1), func)
    assert len(found) == 2
    for sch in found:
        for candidate in candidates(func, sch, 2):
            (got,) = ran(candidate, [x, np.empty_like(x)], ["B"])
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------- rows, read once
def runs(block: Block, loops: Sequence[For]) -> int:
    """How often a block runs: iterations of its loops in which its predicate holds."""
    count = 0
    for at in itertools.product(*[range(const_int(f.extent) or 0) for f in loops]):
        table = {f.var: IntImm(x) for f, x in zip(loops, at, strict=True)}
        values = {
            iv.var: substitute(v, table)
            for iv, v in zip(block.iter_vars, block.iter_values, strict=True)
        }
        count += const_int(substitute(substitute(block.predicate, values), table)) == 1
    return count


def readings(func: PrimFunc, buffer: str) -> list[tuple[str, int]]:
    """The blocks that load from a buffer, and how often they do."""
    out = []

    def go(s: Stmt, loops: tuple[For, ...]) -> None:
        if type(s) is For:
            loops = (*loops, s)
        if type(s) is Block and s.name != "root":
            loads = [
                e for e in all_exprs(s.body) if type(e) is BufferLoad and e.buffer.name == buffer
            ]
            if loads:
                out.append((s.name, len(loads) * runs(s, loops)))
            return
        for x in stmt_children(s):
            go(x, loops)

    go(func.body, ())
    return out


@pytest.mark.parametrize(
    ("func", "buffer", "count"),
    [
        (library("softmax", m=3, n=40), "A", 120),
        (library("log_softmax", m=3, n=37), "A", 111),
        (library("layernorm", m=3, n=40), "X", 120),
        (library("rmsnorm", m=2, n=33), "X", 66),
        (library("row_mean", m=3, n=40), "A", 120),
        (library("row_sum", m=3, n=40), "A", 120),
        (column_softmax(20, 6), "A", 120),
        (group_norm(2, 5, 6), "A", 60),
    ],
    ids=lambda x: x.name if isinstance(x, PrimFunc) else str(x),
)
def test_a_row_is_read_from_global_memory_once(func: PrimFunc, buffer: str, count: int) -> None:
    found = made_by(PersistentRows(shared_from=1), func)
    assert found
    for sch in found:
        for candidate in candidates(func, sch, 2):
            ((_, often),) = readings(candidate, buffer)
            assert often == count


def test_a_cross_entropy_reads_a_row_and_one_element_of_it() -> None:
    func = cross_entropy(3, 40)
    for sch in made_by(PersistentRows(shared_from=1), func):
        for candidate in candidates(func, sch, 2):
            assert sorted(often for _, often in readings(candidate, "X")) == [3, 120]


# ----------------------------------------------------------------------------- rows, the sketches
def test_where_rows_are_kept() -> None:
    def scopes(n: int, **kw: Any) -> list[set[str]]:
        func = library("softmax", m=4, n=n)
        return [
            {b.scope for b in s.mod["softmax"].body.alloc_buffers if len(b.shape) == 2}
            for s in made_by(PersistentRows(**kw), func)
        ]

    assert scopes(512) == [{"local"}]
    assert scopes(4096) == [{"local"}, {"shared"}]
    assert scopes(32768) == [{"local"}]  # shared memory of a block: 256 KiB are too much
    assert scopes(1 << 18) == [{"local"}]  # read again: registers for a vector at a time
    again = made_by(PersistentRows(), library("softmax", m=4, n=1 << 18))
    assert "exp" in str(again[0].mod)
    assert "power" not in [b.name for b in again[0].mod["softmax"].body.alloc_buffers]


def test_what_is_drawn_for_rows() -> None:
    (local, shared) = made_by(PersistentRows(), library("softmax", m=4096, n=4096))
    text = str(local.trace)
    assert "candidates=[1, 2, 4], " in text  # of 16 bytes
    assert "candidates=[64, 128, 256, 512, 1024], " in text  # no more than 64 elements a thread
    assert "candidates=[1, 2, 4, 8], " in text  # rows of a block: registers for 40960 elements
    assert "candidates=[32, 64, 128, 256, 512, 1024], " in str(shared.trace)
    (odd,) = made_by(PersistentRows(), library("softmax", m=1, n=33))
    assert "candidates=[4, 8, 16, 32, 64], " in str(odd.trace)
    assert str(odd.trace).count("sample_categorical") == 1  # one row, of no vectors
    half = KERNELS["softmax"].build({"m": 8, "n": 64}, "float16")
    (sch,) = made_by(PersistentRows(), half)
    assert "candidates=[1, 2, 4, 8], " in str(sch.trace)


def test_what_is_written_out_is_limited() -> None:
    """A loop that fetches vectors is not written out by the hundred; what is in registers is all
    written out. Then nothing is drawn about that for the program as a whole."""
    for func, limits in (
        (library("softmax", m=4, n=1 << 18), "candidates=[16, 64, 256], "),
        (library("total_sum", m=1024, n=1024), "candidates=[16, 64, 256], "),
    ):
        found = [s for s in space_of(func) if limits in str(s.trace)]
        assert len(found) >= 1
        assert not any("meta_schedule.unroll" in str(s.trace) for s in found)
    kept = [s for s in space_of(library("softmax", m=64, n=512)) if "cache_read" in str(s.trace)]
    assert [("meta_schedule.unroll" in str(s.trace)) for s in kept] == [False]
    first, *_ = space_of(library("softmax", m=64, n=512))
    assert "meta_schedule.unroll" in str(first.trace)


def test_cheap_steps_are_inlined_and_dear_ones_kept() -> None:
    """Of `chain`, B is a product by 2 and C an exponential that two blocks read."""
    (sch,) = made_by(PersistentRows(), chain)
    assert {b.name: b.scope for b in sch.mod["chain"].body.alloc_buffers} == {
        "C": "local", "S": "local", "A_local": "local",
    } or {b.name: b.scope for b in sch.mod["chain"].body.alloc_buffers} == {
        "C": "local", "S": "local",
    }  # fmt: skip


def test_a_matrix_of_rows_says_what_plain_replay_says() -> None:
    for func in (library("softmax", m=37, n=1000), cross_entropy(9, 96), column_softmax(70, 33)):
        for sch in made_by(PersistentRows(shared_from=1), func):
            sketch = sketched(func, sch)
            rows = sketch.decisions.sample(1024, np.random.default_rng(3))
            out = sketch.evaluate(rows)
            assert sketch.class_count <= 48
            assert not sketch.fallbacks
            for k in [*np.flatnonzero(out.valid)[:3], *np.flatnonzero(~out.valid)[:3]]:
                _, refusal = sketch.schedule(rows[k])
                assert (refusal is None) == out.valid[k]


def test_a_thread_keeps_what_it_works_on() -> None:
    func = library("softmax", m=5, n=1000)
    for candidate in candidates(func, made_by(PersistentRows(), func)[0], 6):
        (kernel,) = lower_gpu(candidate).kernels
        sizes = {
            s.buffer.name: const_int(s.buffer.shape[-1])
            for s in walk_stmt(kernel.func.body)
            if type(s) is Alloc and s.buffer.name in ("A_local", "power")
        }
        steps = -(-1000 // kernel.block[0])
        assert all(n is not None and steps <= n < steps + 4 for n in sizes.values()), sizes
        assert len(sizes) == 2


def test_mutators_know_what_is_drawn_for_rows() -> None:
    """Widths, numbers of threads or rows, and the limit of unrolling."""
    (sch,) = made_by(PersistentRows(), library("softmax", m=4, n=1 << 18))
    before = sch.trace
    lists: dict[str, list[list[int]]] = {
        "MutateTileSize": [[1, 2, 4]],
        "MutateUnroll": [[16, 64, 256]],
        "MutateThreadBinding": [[32, 64, 128, 256, 512, 1024], [1, 2, 4]],
    }
    for mutator in ms.Mutator.create("cuda"):
        after = mutator.apply(before)
        assert after is not None
        (changed,) = [
            i for i in before.insts if i.kind.samples and before.decisions[i] != after.decisions[i]
        ]
        assert list(changed.attrs[0]) in lists[type(mutator).__name__]


@needs_nvrtc
def test_what_is_kept_in_registers_is_in_registers() -> None:
    """No thread has memory of its own, whatever is drawn, as long as registers are enough."""
    func = library("softmax", m=64, n=2048)
    sch = made_by(PersistentRows(), func)[0]
    for candidate in candidates(func, sch, 4, seed=2):
        source = generate(candidate)
        for fact in compile_cuda(source, "sm_80").facts.values():
            assert fact.stack_bytes == 0, source.text


# ----------------------------------------------------------------------------- rows, refused
def second_output(m: int, n: int) -> PrimFunc:
    """The row sums are results, too: they cannot move to where they are needed."""
    return parse(f"""
@T.prim_func
def main(A: T.Buffer(({m}, {n}), "float32"), S: T.Buffer(({m},), "float32"),
         B: T.Buffer(({m}, {n}), "float32")):
    for i, j in T.grid({m}, {n}):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + A[vi, vj]
    for i, j in T.grid({m}, {n}):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] / S[vi]
""")


def reversed_rows(m: int, n: int) -> PrimFunc:
    """An element is needed by the thread that has another one."""
    return parse(f"""
@T.prim_func
def main(A: T.Buffer(({m}, {n}), "float32"), B: T.Buffer(({m}, {n}), "float32")):
    C = T.alloc_buffer(({m}, {n}), "float32")
    S = T.alloc_buffer(({m},), "float32")
    for i, j in T.grid({m}, {n}):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = T.exp(A[vi, vj])
    for i, j in T.grid({m}, {n}):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + C[vi, vj]
    for i, j in T.grid({m}, {n}):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = C[vi, {n} - 1 - vj] / S[vi]
""")


def in_order(m: int, n: int) -> PrimFunc:
    """Threads cannot share what depends on the order."""
    return parse(f"""
@T.prim_func
def main(A: T.Buffer(({m}, {n}), "float32"), S: T.Buffer(({m},), "float32")):
    for i, j in T.grid({m}, {n}):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = A[vi, vj] - S[vi]
""")


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (matmul, "tiles suit it"),
        (library("gelu", m=8, n=8), "nothing is reduced"),
        (in_order(4, 64), "threads cannot share it"),
        (library("row_sum", m=33, n=1), "rows of one element"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_has_no_rows(func: PrimFunc, why: str) -> None:
    assert not made_by(PersistentRows(), func), why


@needs_compiler
@pytest.mark.parametrize("build", [second_output, reversed_rows])
def test_rows_that_threads_cannot_keep(build: Callable[[int, int], PrimFunc]) -> None:
    """What the rule offers for them all the same is right."""
    func = build(5, 40)
    x = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    for sch in made_by(PersistentRows(shared_from=1), func):
        for candidate in candidates(func, sch, 1):
            assert readings(candidate, "A")
            out = {p.name: None for p in candidate.buffers}
            assert out
            ran(candidate, [x, *(np.empty([int(n.value) for n in b.shape], np.float32)  # type: ignore[union-attr]  # constant
                                 for b in candidate.buffers[1:])], ["B"])  # fmt: skip


@pytest.mark.parametrize("rule", [PersistentRows(), TwoLevelReduction(), WideElements()])
def test_only_for_gpus(rule: ScheduleRule) -> None:
    func = library("softmax", m=8, n=4096)
    rule.initialize_with_tune_context(ms.TuneContext(func, target="llvm", space_generator=None))
    sch = Schedule(func)
    assert rule.apply(sch, sch.get_block("B")) == [sch]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PersistentRows(thread_extents=[]), "no threads, rows or widths"),
        (lambda: PersistentRows(row_extents=[0]), "positive integers"),
        (lambda: TwoLevelReduction(part_counts=[]), "no parts, threads or widths"),
        (lambda: TwoLevelReduction(vector_lens=[True]), "positive integers"),
        (lambda: WideElements(item_extents=[]), "no threads, items or widths"),
        (lambda: WideElements(thread_extents=[-1]), "positive integers"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as e:
        make()
    assert e.value.code == "thread-extents"


# ----------------------------------------------------------------------------- two levels
LONG = [
    ("total_sum", {"m": 64, "n": 100}),
    ("total_max", {"m": 1, "n": 4099}),
    ("total_mean", {"m": 37, "n": 111}),
    ("row_sum", {"m": 2, "n": 4096}),
    ("row_max", {"m": 3, "n": 1000}),
    ("argmax", {"m": 2, "n": 1030}),
    ("column_sum", {"m": 1000, "n": 33}),
    ("column_max", {"m": 1021, "n": 5}),
    ("column_mean", {"m": 512, "n": 70}),
    ("norm", {"b": 2, "m": 33, "n": 64}),
]


@needs_compiler
@pytest.mark.parametrize(("name", "shape"), LONG, ids=[n for n, _ in LONG])
def test_reductions_in_two_kernels(name: str, shape: Shape) -> None:
    func = KERNELS[name].build(shape, "float32")
    found = made_by(TwoLevelReduction(min_elements=1), func)
    assert len(found) == 1
    for candidate in candidates(func, found[0], 2):
        assert len(generate(candidate).host.launches) == 2
        check_library(name, shape, candidate)


@needs_compiler
def test_a_reduction_over_the_middle_axis_in_two_kernels() -> None:
    func = middle_sum(3, 500, 20)
    x = np.random.default_rng(1).integers(-3, 4, (3, 500, 20)).astype(np.float32)
    (sch,) = made_by(TwoLevelReduction(min_elements=1), func)
    for candidate in candidates(func, sch, 3):
        threads = [f.thread for f, kind in kinds_of_loops(candidate, "B_rf") if kind == "reduce"]
        assert "threadIdx.y" in threads
        (got,) = ran(candidate, [x, np.empty((3, 20), np.float32)], ["B"])
        np.testing.assert_array_equal(got, x.sum(axis=1))


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (library("row_sum", m=4096, n=4096), "a block a row keeps the GPU busy"),
        (library("row_sum", m=8, n=100), "short rows"),
        (library("column_sum", m=1000, n=100_000), "blocks of columns keep it busy"),
        (library("total_sum", m=64, n=64), "one block does so few at once"),
        (library("softmax", m=4, n=1 << 16), "another reduction takes the results"),
        (matmul, "tiles suit it"),
        (in_order(4, 1 << 16), "it has to be done in order"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_where_one_level_is_enough(func: PrimFunc, why: str) -> None:
    assert not made_by(TwoLevelReduction(), func), why


def test_parts_of_vectors_divide() -> None:
    (sch,) = made_by(TwoLevelReduction(), library("total_sum", m=1024, n=1024))
    assert "candidates=[1, 2, 4], " in str(sch.trace)
    (sch,) = made_by(TwoLevelReduction(), library("total_sum", m=1009, n=1009))  # no vectors
    assert "candidates=[1, 2, 4], " not in str(sch.trace)


# ----------------------------------------------------------------------------- elementwise
@needs_compiler
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gelu", {"m": 33, "n": 40}),
        ("bias_relu", {"m": 7, "n": 12}),
        ("add_mul", {"m": 5, "n": 13}),
    ],
)
def test_wide_elements(name: str, shape: Shape) -> None:
    func = KERNELS[name].build(shape, "float32")
    wide = [s for s in space_of(func) if "vectorize" in str(s.trace)]
    assert len(wide) == 1
    for candidate in candidates(func, wide[0], 3):
        check_library(name, shape, candidate)


def test_vectors_of_the_whole_where_it_lies_in_one_piece() -> None:
    def widths(name: str, m: int, n: int) -> str:
        (sch,) = [s for s in space_of(library(name, m=m, n=n)) if "vectorize" in str(s.trace)]
        return str(sch.trace)

    assert "candidates=[1, 2, 4], " in widths("gelu", 100, 33)
    assert "candidates=[1, 2, 4], " not in widths("bias_relu", 100, 33)  # the bias begins anew
    assert "candidates=[1, 2, 4], " in widths("bias_relu", 100, 32)


def test_wide_accesses_are_16_bytes() -> None:
    func = library("add_mul", m=64, n=64)
    (wide,) = [s for s in space_of(func) if "vectorize" in str(s.trace)]
    found = candidates(func, wide, 12)
    assert any("gt_vec<float, 4>" in generate(c).text for c in found)


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (library("transpose", m=64, n=64), "neighbours are not read together"),
        (library("softmax", m=8, n=8), "it reduces"),
        (matmul, "it reduces"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_has_no_wide_elements(func: PrimFunc, why: str) -> None:
    assert not made_by(WideElements(), func), why


# ----------------------------------------------------------------------------- all of the space
@pytest.mark.parametrize(
    ("func", "most"),
    [
        (library("softmax", m=4096, n=4096), 6),
        (library("log_softmax", m=4096, n=4096), 6),
        (library("layernorm", m=4096, n=4096), 6),
        (library("rmsnorm", m=4096, n=4096), 4),
        (library("row_sum", m=64, n=100_000), 4),
        (library("argmax", m=4096, n=4096), 3),
        (library("column_sum", m=4096, n=4096), 4),
        (library("total_mean", m=4096, n=4096), 4),
        (library("gelu", m=4096, n=4096), 2),
        (cross_entropy(4096, 4096), 6),
        (mean_cross_entropy(4096, 4096), 12),  # eight of them from CrossThreadReduction alone
        (column_softmax(4096, 4096), 6),
    ],
    ids=lambda x: x.name if isinstance(x, PrimFunc) else str(x),
)
def test_sketches_stay_few(func: PrimFunc, most: int) -> None:
    assert len(space_of(func)) <= most


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("softmax", "cache_read"),
        ("log_softmax", "cache_read"),
        ("layernorm", "cache_read"),
        ("rmsnorm", "cache_read"),
        ("total_sum", "rfactor"),
        ("gelu", "vectorize"),
    ],
)
def test_what_is_chosen_without_a_trial(name: str, wanted: str) -> None:
    """The model prefers rows that are read once, all multiprocessors at work, wide accesses."""
    func = library(name, m=8192, n=4096)
    best = []
    for sch in space_of(func):
        sketch = sketched(func, sch)
        rows = sketch.decisions.sample(2048, np.random.default_rng(1))
        best.append((sketch.evaluate(rows).score.max(), str(sch.trace)))
    assert wanted in max(best)[1]
