"""Does shared memory change hands between arrays that do not live at once, with a barrier between,
and is it counted alike by lowering, by the search and by `count_gpu_resources`?"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune import analysis
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.ir import interp, walk
from gputune.ir.nodes import PrimFunc
from gputune.lower.barriers import is_barrier
from gputune.lower.gpu import lower_gpu
from gputune.lower.shared_memory import SharedLayout, shared_layout, together
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.schedule import Schedule
from gputune.script import from_source


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def stages(*steps: tuple[str, str, int], scope: str = "shared.dyn", n: int = 64) -> str:
    """A kernel of steps (what is stored, what is loaded, elements): each thread stores what another
    one has stored before."""
    names = dict.fromkeys(x for x, _, _ in steps if x != "C")
    sizes = {x: k for x, _, k in steps}
    text = f"""@T.prim_func
def main(A: T.Buffer(({n},), "float32"), C: T.Buffer(({n},), "float32")):
"""
    for x in names:
        text += f'    {x} = T.alloc_buffer(({sizes[x]},), "float32", scope="{scope}")\n'
    text += '    for b in T.thread_binding(1, thread="blockIdx.x"):\n'
    for k, (to, source, size) in enumerate(steps):
        other = "v" if source == "A" else f"{size - 1} - v"
        text += f"""        for t in T.thread_binding({n}, thread="threadIdx.x"):
            with T.block("{to}{k}"):
                v = T.axis.spatial({size}, t)
                {to}[v] = {source}[{other}]
"""
    return text


def layout_of(func: PrimFunc) -> SharedLayout:
    (kernel,) = lower_gpu(func).kernels
    return shared_layout(kernel.func)


def counts(func: PrimFunc) -> list[int]:
    """Bytes of shared memory: by lowering, by the search, by the analysis, of the launch."""
    (usage,) = kernels_of(func)
    (resources,) = analysis.count_gpu_resources(func)
    source = generate(func)
    declared = sum(
        -(-4 * int(n) // 16) * 16
        for n in re.findall(r"__shared__ __align__\(\d+\) float \w+\[(\d+)\]", source.text)
    )
    (launch,) = source.host.launches
    return [
        layout_of(func).bytes, int(usage.shared_bytes), resources.shared_bytes,
        launch.shared_bytes + declared,
    ]  # fmt: skip


def barriers(func: PrimFunc) -> int:
    (kernel,) = lower_gpu(func).kernels
    return sum(map(is_barrier, walk.walk_stmt(kernel.func.body)))


def findings(source: CudaSource, n: int = 64) -> list[str]:
    a = np.arange(n, dtype=np.float32)
    code = host_compile(source)
    out: list[str] = []
    for order in ("forward", "reverse", "random"):
        report = host_run(code, {"A": a, "C": None}, order=order, seed=1)
        out += [f.kind for f in report.findings]
    return out


TWO = stages(("S", "A", 64), ("C", "S", 64), ("R", "A", 64), ("C", "R", 64))


def test_arrays_that_do_not_live_at_once_share() -> None:
    func = parse(TWO)
    assert counts(func) == [256] * 4
    assert set(layout_of(func).at.values()) == {0}
    assert not findings(generate(func))
    plain = parse(TWO.replace("shared.dyn", "shared"))
    assert counts(plain) == [512] * 4
    assert barriers(func) == barriers(plain) + 1  # where the memory changes hands


def test_every_barrier_is_needed() -> None:
    source = generate(parse(TWO))
    places = [m.span() for m in re.finditer(r"__syncthreads\(\);", source.text)]
    assert len(places) == 3
    for a, b in places:
        mutant = replace(source, text=source.text[:a] + source.text[b:])
        assert findings(mutant), f"without the barrier at {a}:\n{mutant.text}"


def test_arrays_whose_turns_overlap_live_together() -> None:
    func = parse(stages(("S", "A", 64), ("R", "S", 64), ("Q", "R", 64), ("C", "Q", 64)))
    assert counts(func) == [3 * 256] * 4
    assert not findings(generate(func))


def test_in_a_loop_the_last_array_gives_way_to_the_first() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), C: T.Buffer((64,), "float32")):
    S = T.alloc_buffer((16,), "float32", scope="shared.dyn")
    R = T.alloc_buffer((16,), "float32", scope="shared.dyn")
    D = T.alloc_buffer((64,), "float32")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in range(4):
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("S"):
                    u = T.axis.spatial(4, k)
                    v = T.axis.spatial(16, t)
                    S[v] = A[u * 16 + v]
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("D"):
                    u = T.axis.spatial(4, k)
                    v = T.axis.spatial(16, t)
                    C[u * 16 + v] = S[15 - v]
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("R"):
                    u = T.axis.spatial(4, k)
                    v = T.axis.spatial(16, t)
                    R[v] = A[u * 16 + v] + T.float32(1)
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("C"):
                    u = T.axis.spatial(4, k)
                    v = T.axis.spatial(16, t)
                    C[u * 16 + v] = C[u * 16 + v] + R[15 - v]
    """.replace('    D = T.alloc_buffer((64,), "float32")\n', "")
    func = parse(text)
    assert counts(func) == [64] * 4
    source = generate(func)
    assert not findings(source)
    for m in re.finditer(r"__syncthreads\(\);", source.text):
        mutant = replace(source, text=source.text[: m.start()] + source.text[m.end() :])
        assert findings(mutant), mutant.text


def test_declared_arrays_beside_parts_of_one_piece() -> None:
    text = stages(("S", "A", 64), ("R", "S", 64), ("C", "R", 64))
    func = parse(text.replace('R = T.alloc_buffer((64,), "float32", scope="shared.dyn")',
                              'R = T.alloc_buffer((64,), "float32", scope="shared")'))  # fmt: skip
    assert counts(func) == [512] * 4
    source = generate(func)
    assert source.host.launches[0].shared_bytes == 256
    assert "__shared__ __align__(16) float R[64];" in source.text
    assert "float* S = (float*)(gt_shared + 0);" in source.text
    assert not findings(source)


@pytest.mark.parametrize("scope", ["shared", "shared.dyn"])
def test_more_than_may_be_declared(scope: str) -> None:
    n = 5000
    text = stages(("S", "A", n), ("R", "S", n), ("Q", "R", n), ("C", "Q", n), scope=scope, n=n)
    text = text.replace(f"T.thread_binding({n}, thread", "T.thread_binding(1000, thread")
    text = re.sub(r"T.axis.spatial\(5000, t\)", "T.axis.spatial(5000, u * 1000 + t)", text)
    lines = []
    for line in text.splitlines():
        if "T.block" in line:
            lines.append("            for u in range(5):")
        inside = line.startswith("            ") and "thread_binding" not in line
        lines.append("    " + line if inside else line)
    func = parse("\n".join(lines))
    assert counts(func) == [60000] * 4
    source = generate(func)
    assert source.host.launches[0].shared_bytes == 60000
    assert not findings(source, n)


def test_where_a_buffer_asks_to_begin() -> None:
    text = stages(("S", "A", 64), ("R", "S", 64), ("C", "R", 64))
    old = 'R = T.alloc_buffer((64,), "float32", scope="shared.dyn")'
    assert old in text
    text = text.replace(old, f"{old[:-1]}, align=128)")
    text = text.replace("S = T.alloc_buffer((64,)", "S = T.alloc_buffer((65,)")
    source = generate(parse(text))
    at = dict(re.findall(r"float\* (\w) = \(float\*\)\(gt_shared \+ (\d+)\);", source.text))
    assert int(at["R"]) % 128 == 0
    assert "__shared__ __align__(128) unsigned char gt_shared[];" in source.text
    assert not findings(source)


def test_tiles_and_results_of_a_product_take_turns() -> None:
    """A tile of results goes through the memory in which the operands' tiles were."""
    text = """@T.prim_func
def main(A: T.Buffer((64, 64), "float32"), B: T.Buffer((64, 64), "float32"),
         C: T.Buffer((64, 64), "float32")):
    for i, j, k in T.grid(64, 64, 64):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
    """
    sch = Schedule(parse(text))
    block = sch.get_block("C")
    staged = sch.cache_write(block, 0, "shared.dyn")
    kept = sch.cache_write(block, 0, "local")
    i, j, k = sch.get_loops(block)
    i0, i1 = sch.split(i, [None, 16])
    j0, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 8])
    sch.reorder(i0, j0, i1, j1, k0, k1)
    sch.reorder(i0, j0, k0, i1, j1, k1)
    del i1, j1, k1
    sch.bind(i0, "blockIdx.y")
    sch.bind(j0, "blockIdx.x")
    sch.reverse_compute_at(kept, j0)
    sch.reverse_compute_at(staged, j0)
    for at in (0, 1):
        copy = sch.cache_read(block, at, "shared.dyn")
        sch.compute_at(copy, k0)
        threads = sch.split(sch.fuse(*sch.get_loops(copy)[-2:]), [None, 16, 16])
        sch.bind(threads[1], "threadIdx.y")
        sch.bind(threads[2], "threadIdx.x")
    for x in (block, kept, staged):
        loops = sch.get_loops(x)
        inner = loops[3:5] if x is block else loops[2:4]
        sch.bind(inner[0], "threadIdx.y")
        sch.bind(inner[1], "threadIdx.x")
    func = sch.mod["main"]
    assert counts(func) == [1024] * 4  # 16 x 16 results, or 2 tiles of 16 x 8
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-4, 5, (64, 64)).astype(np.float32) for _ in range(2))
    source = generate(func)
    code = host_compile(source)
    for order in ("forward", "reverse", "random"):
        report = host_run(code, {"A": a, "B": b, "C": None}, order=order, seed=1)
        assert not report.findings, source.text
        np.testing.assert_array_equal(report.outputs["C"].reshape(64, 64), a @ b)


@settings(max_examples=12, derandomize=True, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from("SRQP"), st.integers(0, 9)), min_size=2, max_size=7))
def test_any_order_of_use(steps: list[tuple[str, int]]) -> None:
    """Each step fills an array from A or one that was filled before; C gets the last."""
    made: list[str] = []
    plan: list[tuple[str, str, int]] = []
    for to, which in steps:
        sources = ["A", *[x for x in made if x != to]]
        plan.append((to, sources[which % len(sources)], 64))
        if to not in made:
            made.append(to)
    func = parse(stages(*plan, ("C", plan[-1][0], 64)))
    a, want = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    interp.run(func, a, want)
    got = counts(func)
    assert len(set(got)) == 1
    assert got[0] <= 256 * len(made)
    source = generate(func)
    code = host_compile(source)
    for order in ("forward", "reverse", "random"):
        report = host_run(code, {"A": a, "C": None}, order=order, seed=1)
        assert not report.findings, f"{report}\n{source.text}"
        np.testing.assert_array_equal(report.outputs["C"], want)


def test_spans_that_overlap_are_joined() -> None:
    spans = [(4, 5, ["c"]), (0, 1, ["a"]), (1, 2, ["b"]), (5, 5, ["d"]), (7, 7, ["e"])]
    assert together(spans) == [(0, 2, ["a", "b"]), (4, 5, ["c", "d"]), (7, 7, ["e"])]
    assert together([]) == []
