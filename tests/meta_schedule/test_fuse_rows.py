"""FuseRows: all stages of a row under one loop, where that computes nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_spaces import sketches
from space_programs import apply_rule, redrawn, space
from test_population import agree

from gputune import kernels
from gputune.codegen.llvm import compile
from gputune.ir import interp
from gputune.ir.check import check
from gputune.ir.nodes import Block, For, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.meta_schedule.postproc import Postproc, postprocess
from gputune.meta_schedule.schedule_rule import FuseRows
from gputune.schedule import Schedule
from gputune.script import from_source
from tests.codegen.llvm_running import Watched, call, host

SOFTMAX = """\
for i in range(6):
    for ax0, ax1, ax2 in T.grid(1, 16, 2):
        with T.block("top_rf"):
            vi = T.axis.spatial(6, i + ax0)
            vj_1 = T.axis.spatial(16, ax1)
            vj_0 = T.axis.reduce(2, ax2)
            T.reads(A[vi, vj_0 * 16 + vj_1])
            T.writes(top_rf[vi, vj_1])
            with T.init():
                top_rf[vi, vj_1] = T.float32("-inf")
            top_rf[vi, vj_1] = T.max(top_rf[vi, vj_1], A[vi, vj_0 * 16 + vj_1])
    for ax0, ax1 in T.grid(1, 16):
        with T.block("top"):
            vi = T.axis.spatial(6, i + ax0)
            vj_1 = T.axis.reduce(16, ax1)
            T.reads(top_rf[vi, vj_1])
            T.writes(top[vi])
            with T.init():
                top[vi] = T.float32(-3.4028234663852886e+38)
            top[vi] = T.max(top[vi], top_rf[vi, vj_1])
    for ax0, ax1 in T.grid(1, 32):
        with T.block("power"):
            vi = T.axis.spatial(6, i + ax0)
            vj = T.axis.spatial(32, ax1)
            T.reads(A[vi, vj], top[vi])
            T.writes(power[vi, vj])
            power[vi, vj] = T.exp(A[vi, vj] - top[vi])
    for ax0, ax1, ax2 in T.grid(1, 16, 2):
        with T.block("total_rf"):
            vi = T.axis.spatial(6, i + ax0)
            vj_1 = T.axis.spatial(16, ax1)
            vj_0 = T.axis.reduce(2, ax2)
            T.reads(power[vi, vj_0 * 16 + vj_1])
            T.writes(total_rf[vi, vj_1])
            with T.init():
                total_rf[vi, vj_1] = T.float32(0)
            total_rf[vi, vj_1] = total_rf[vi, vj_1] + power[vi, vj_0 * 16 + vj_1]
    for ax0, ax1 in T.grid(1, 16):
        with T.block("total"):
            vi = T.axis.spatial(6, i + ax0)
            vj_1 = T.axis.reduce(16, ax1)
            T.reads(total_rf[vi, vj_1])
            T.writes(total[vi])
            with T.init():
                total[vi] = T.float32(0)
            total[vi] = total[vi] + total_rf[vi, vj_1]
    for j in range(32):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            T.reads(power[vi, vj], total[vi])
            T.writes(B[vi, vj])
            B[vi, vj] = power[vi, vj] / total[vi]"""


def fused(func: PrimFunc, block: str) -> list[Schedule]:
    """What the rule adds for a block."""
    return apply_rule(FuseRows(64), func, block)[1:]


def with_decisions(sch: Schedule, func: PrimFunc, tiles: list[int]) -> Schedule:
    """The sketch, all of its tiles as given."""
    new = Schedule(func, seed=1, debug_mask="all")
    sch.trace.apply_to_schedule(new, decision_provider=lambda i, x, a, d: tiles)
    return new


def noted(sch: Schedule, func: PrimFunc, seed: int = 0) -> Schedule:
    """The sketch with drawn decisions, and vectors wanted."""
    new = redrawn(sch.trace, func, seed)
    new.annotate(new.get_block("root"), "meta_schedule.vectorize", 64)
    return new


def outermost(func: PrimFunc) -> list[For]:
    body = func.body.body
    return [s for s in getattr(body, "items", (body,)) if type(s) is For]


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    assert isinstance(out, PrimFunc)
    return out


# ----------------------------------------------------------------------------- golden
def test_golden_program_of_a_softmax() -> None:
    func = kernels.get("softmax").build(m=6, n=32)
    (sch,) = fused(func, "B")
    text = with_decisions(sch, func, [2, 16]).mod["softmax"].script()
    at = text.index("    for i in range(6):")
    lines = [line.removeprefix("    ") for line in text[at:].rstrip().splitlines()]
    assert "\n".join(lines) == SOFTMAX


@pytest.mark.parametrize("kernel", ["softmax", "log_softmax", "layernorm", "rmsnorm"])
def test_everything_runs_under_one_parallel_loop(kernel: str) -> None:
    func = kernels.get(kernel).build(m=8, n=64)
    found = [s for s in space(func) if "sample_compute_location" not in str(s.trace)]
    (sch,) = [s for s in found if len(outermost(s.mod[kernel])) == 1]
    sch = redrawn(sch.trace, func, 3)
    assert postprocess(sch, Postproc.create("llvm")) is None
    (loop,) = outermost(sch.mod[kernel])
    assert loop.kind == "parallel"


def test_rows_that_no_lanes_divide_are_fused_as_they_are() -> None:
    func = kernels.get("softmax").build(m=4, n=127)
    (sch,) = fused(func, "B")
    assert "rfactor" not in str(sch.trace)
    assert postprocess(noted(sch, func), Postproc.create("llvm")) is None
    same_numbers(func, sch)


def test_rows_may_have_several_loops_and_reduce_over_several() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((2, 3, 4, 8), "float32"), B: T.Buffer((2, 3, 4, 8), "float32")):
    S = T.alloc_buffer((2, 3), "float32")
    for a, b, i, j in T.grid(2, 3, 4, 8):
        with T.block("S"):
            va, vb, vi, vj = T.axis.remap("SSRR", [a, b, i, j])
            with T.init():
                S[va, vb] = T.float32(0)
            S[va, vb] = S[va, vb] + A[va, vb, vi, vj]
    for a, b, i, j in T.grid(2, 3, 4, 8):
        with T.block("B"):
            va, vb, vi, vj = T.axis.remap("SSSS", [a, b, i, j])
            B[va, vb, vi, vj] = A[va, vb, vi, vj] / S[va, vb]
"""
    func = parse(text)
    (sch,) = fused(func, "B")
    (outer,) = outermost(sch.mod["main"])
    assert type(outer.body) is For
    assert type(outer.body.body) is not For  # the third loop is inside the row
    same_numbers(func, sch)


def same_numbers(func: PrimFunc, sch: Schedule, seed: int = 0) -> None:
    """The schedule computes, for drawn decisions, what the program does."""
    new = redrawn(sch.trace, func, seed)
    check(new.mod)
    rng = np.random.default_rng(seed)
    args = [rng.integers(1, 5, [int(n.value) for n in b.shape]).astype("float32")  # type: ignore[union-attr]  # constant
            for b in func.buffers]  # fmt: skip
    want, got = [a.copy() for a in args], [a.copy() for a in args]
    interp.run(func, *want)
    interp.run(new.mod, *got, main=func.name, check_regions=True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# ----------------------------------------------------------------------------- not for these
@pytest.mark.parametrize(
    ("kernel", "shape", "block"),
    [
        ("matmul", {"m": 8, "n": 8, "k": 8}, "C"),  # a reduction is its output
        ("norm", {"b": 2, "m": 4, "n": 8}, "D"),  # one element a row
        ("gelu", {"m": 8, "n": 8}, "Y"),  # nothing is reduced
        ("softmax", {"m": 8, "n": 8}, "power"),  # not the end
        ("softmax", {"m": 8, "n": 8}, "root"),
    ],
)
def test_programs_without_such_rows(kernel: str, shape: dict[str, int], block: str) -> None:
    assert fused(kernels.get(kernel).build(**shape), block) == []


SCALED = """
@T.prim_func
def main(A: T.Buffer((6, 8), "float32"), B: T.Buffer((6, 8), "float32")MORE):
    S = T.alloc_buffer((SIZE,), "float32")
    for i, j in T.grid(6, 8):
        with T.block("S"):
            vi, vj = T.axis.remap("KINDS", [i, j])
            with T.init():
                S[AT] = T.float32(0)
            S[AT] = S[AT] + A[vi, vj]
    for i, j in T.grid(6, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] / S[READ]
AFTER
"""


def scaled(size: int, kinds: str, at: str, read: str, more: str = "", after: str = "") -> PrimFunc:
    text = SCALED.replace("SIZE", str(size)).replace("KINDS", kinds).replace("AT]", f"{at}]")
    text = text.replace("READ", read).replace("MORE", more).replace("AFTER", after)
    return parse(text)


def test_the_plain_case_of_what_follows_is_fused() -> None:
    func = scaled(6, "SR", "vi", "vi")
    (sch,) = fused(func, "B")
    same_numbers(func, sch)


def test_a_result_of_columns_is_none_of_rows() -> None:
    assert fused(scaled(8, "RS", "vj", "vj"), "B") == []


def test_a_result_of_the_whole_matrix_is_none_of_rows() -> None:
    assert fused(scaled(1, "RR", "0", "0"), "B") == []


def test_a_row_that_needs_the_results_of_others() -> None:
    assert fused(scaled(6, "SR", "vi", "vi] + S[T.min(vi + 1, 5)"), "B") == []


def test_results_that_others_read_stay() -> None:
    after = """
    for i in range(6):
        with T.block("M"):
            vi = T.axis.spatial(6, i)
            M[vi] = S[vi]
"""
    more = ', M: T.Buffer((6,), "float32")'
    func = scaled(6, "SR", "vi", "vi", more, after)
    assert fused(func, "B") == []


def test_a_combiner_that_is_not_known() -> None:
    func = parse(SCALED.replace("SIZE", "6").replace("KINDS", "SR").replace("READ", "vi")
                 .replace("S[AT] + A[vi, vj]", "S[AT] * S[AT] + A[vi, vj]")
                 .replace("AT]", "vi]").replace("MORE", "").replace("AFTER", ""))  # fmt: skip
    assert fused(func, "B") == []


def test_opaque_blocks_are_left_alone() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((6, 8), "float32"), B: T.Buffer((6, 8), "float32")):
    S = T.alloc_buffer((6,), "float32")
    for i in range(6):
        with T.block("S"):
            vi = T.axis.opaque(6, i)
            S[vi] = T.float32(0)
            for j in range(8):
                S[vi] = S[vi] + A[vi, j]
    for i, j in T.grid(6, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] / S[vi]
"""
    assert fused(parse(text), "B") == []


def test_a_matrix_product_before_the_rows_stays_what_it_is() -> None:
    text = """
@T.prim_func
def main(
    X: T.Buffer((16, 16), "float32"), W: T.Buffer((16, 16), "float32"),
    B: T.Buffer((16, 16), "float32"),
):
    C = T.alloc_buffer((16, 16), "float32")
    S = T.alloc_buffer((16,), "float32")
    for i, j, k in T.grid(16, 16, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + X[vi, vk] * W[vk, vj]
    for i, j in T.grid(16, 16):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + C[vi, vj]
    for i, j in T.grid(16, 16):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = C[vi, vj] / S[vi]
"""
    func = parse(text)
    (sch,) = fused(func, "B")
    product, rows = outermost(sch.mod["main"])
    assert [b.name for b in walk_stmt(product) if type(b) is Block] == ["C"]
    assert [b.name for b in walk_stmt(rows) if type(b) is Block] == ["S_rf", "S", "B"]
    same_numbers(func, sch)


# ----------------------------------------------------------------------------- numbers
ODD = [("softmax", 5, 333), ("layernorm", 3, 127), ("log_softmax", 4, 40), ("rmsnorm", 2, 1)]


@pytest.mark.parametrize(("kernel", "m", "n"), ODD)
def test_odd_rows_on_the_processor(kernel: str, m: int, n: int) -> None:
    """Against NumPy, outputs poisoned, canaries around all arrays."""
    k = kernels.get(kernel)
    shape = {"m": m, "n": n}
    func = k.build(shape)
    end = [b.name for b in walk_stmt(func.body) if type(b) is Block][-1]
    found = fused(func, end)
    assert len(found) == (n > 1)
    args = k.arguments(shape, seed=2)
    expected = k.expected(args, shape)
    names = [b.name for b in func.buffers]
    for sch in found:
        for seed in range(3):
            new = noted(sch, func, seed)
            assert postprocess(new, Postproc.create("llvm")) is None
            watched = [Watched(a) for a in args]
            for w, name in zip(watched, names, strict=True):
                if name in k.outputs:
                    w.array[...] = np.nan
            code = compile(new.mod[kernel], host())
            assert call(code, [w.array for w in watched]) == 0
            for w, name in zip(watched, names, strict=True):
                w.check()
                if name in k.outputs:
                    want = expected[k.outputs.index(name)]
                    np.testing.assert_allclose(w.array, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", ["softmax", "layernorm"])
@pytest.mark.parametrize("n", [96, 50])
def test_matrices_of_decisions_agree_with_replay(kernel: str, n: int) -> None:
    func = kernels.get(kernel).build(m=24, n=n)
    rng = np.random.default_rng(4)
    found = [s for s in sketches(func) if "sample_compute_location" not in str(s.trace)]
    mine = [s for s in found if str(s.trace).count("rfactor") == 2]
    assert mine
    for sketch in mine:
        assert agree(sketch, sketch.decisions.sample(30, rng)) > 0
        assert not sketch.fallbacks


_VALUES = [
    "{x} * T.float32(2)", "T.max({x}, T.float32(2))", "{x} + T.float32(1)",
    "{x} + {r}", "{x} - {r}", "T.max({x}, {r})",
]  # fmt: skip


@st.composite
def row_programs(draw: st.DrawFn) -> PrimFunc:
    """Stages over the rows of a matrix: of elements, and reductions that later stages look at."""
    m, n = draw(st.integers(1, 4)), draw(st.integers(2, 40))
    allocs: list[str] = []
    stages: list[str] = []
    whole, rows = ["A"], list[str]()
    for k in range(draw(st.integers(1, 4))):
        source = draw(st.sampled_from(whole))
        name = f"T{k}"
        if draw(st.booleans()) or k == 0:
            op, start = draw(st.sampled_from([("+", "T.float32(0)"), ("max", "T.float32(-100)")]))
            old, new = f"{name}[vi]", f"{source}[vi, vj]"
            value = f"{old} + {new}" if op == "+" else f"T.max({old}, {new})"
            allocs.append(f"{name} = T.alloc_buffer(({m},), 'float32')")
            stages.append(f"""
    for i, j in T.grid({m}, {n}):
        with T.block("{name}"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                {old} = {start}
            {old} = {value}""")
            rows.append(name)
        else:
            value = draw(st.sampled_from(_VALUES)).format(
                x=f"{source}[vi, vj]", r=f"{draw(st.sampled_from(rows))}[vi]"
            )
            stages.append(f"""
    for i, j in T.grid({m}, {n}):
        with T.block("{name}"):
            vi, vj = T.axis.remap("SS", [i, j])
            {name}[vi, vj] = {value}""")
            allocs.append(f"{name} = T.alloc_buffer(({m}, {n}), 'float32')")
            whole.append(name)
    parts = " + ".join([f"{w}[vi, vj]" for w in whole] + [f"{r}[vi]" for r in rows])
    newline = "\n    "
    return parse(f"""
@T.prim_func
def main(A: T.Buffer(({m}, {n}), "float32"), B: T.Buffer(({m}, {n}), "float32")):
    {newline.join(allocs)}{"".join(stages)}
    for i, j in T.grid({m}, {n}):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = {parts}
""")


@given(func=row_programs(), seed=st.integers(0, 1000))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_random_rows_keep_their_meaning(func: PrimFunc, seed: int) -> None:
    (sch,) = fused(func, "B")
    same_numbers(func, sch, seed)
