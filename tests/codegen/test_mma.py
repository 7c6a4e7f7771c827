"""Do products with mma.sync come out right, from the schedule to CUDA's text and cubins?"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import needs_nvrtc
from mma_programs import ALL, MORE, MmaProduct

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.gpu_resources import count_gpu_resources
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source

ORDERS = ("forward", "reverse", "random")


def on_host(p: MmaProduct, source: CudaSource, order: str = "forward") -> tuple[HostReport, bool]:
    """The report, and whether the numbers are right."""
    values, name, want = p.values()
    report = host_run(host_compile(source), {**values, name: None}, order=order)
    return report, np.array_equal(np.reshape(report.outputs[name], want.shape), want)


def interpreted(p: MmaProduct, func: PrimFunc) -> bool:
    values, _, want = p.values()
    out = np.zeros(want.shape, want.dtype)
    run(func, *values.values(), out)
    return np.array_equal(out, want)


@pytest.mark.parametrize(("ab", "c", "trans_a", "trans_b"), ALL + MORE)
def test_product_is_right_wherever_it_runs(ab: str, c: str, trans_a: bool, trans_b: bool) -> None:
    p = MmaProduct(ab, c, trans_a, trans_b)
    func = p.tensorized()
    assert interpreted(p, func)
    source = generate(func)
    (launch,) = source.host.launches
    assert (launch.grid, launch.block) == ((2, 1, 1), (32, 4, 1))
    assert f"gt_mma_{ab}{ab}{c}(" in source.text
    report, right = on_host(p, source)
    assert (right, report.findings) == (True, ()), str(report)


@pytest.mark.parametrize("order", ORDERS)
def test_an_epilogue_runs_where_the_sums_are(order: str) -> None:
    p = MmaProduct(epilogue=True)
    func = p.tensorized()
    assert interpreted(p, func)
    source = generate(func)
    assert source.text.count("__syncthreads") == 2  # around the fetches of a step
    assert "*(gt_vec<gt_half, 2>*)&D[" in source.text  # neighbours leave together
    report, right = on_host(p, source, order)
    assert (right, report.findings) == (True, ()), str(report)


@pytest.mark.parametrize("which", ["load_a", "load_b", "fill", "store"])
def test_a_block_that_was_not_tensorized(which: str) -> None:
    """Lanes then move their elements one by one."""
    for trans_b in (False, True):
        p = MmaProduct(trans_b=trans_b)
        source = generate(p.tensorized(**{which: None}))
        assert source.text.count("gt_ldmatrix") == 2 - which.startswith("load")
        report, right = on_host(p, source)
        assert (right, report.findings) == (True, ()), str(report)


def test_rows_that_are_padded_meet_in_no_bank() -> None:
    conflicts = []
    for padded in (True, False):
        p = MmaProduct(trans_b=True, padded=padded)
        report, right = on_host(p, generate(p.tensorized()))
        assert (right, report.findings) == (True, ()), str(report)
        conflicts.append(report.kernels["main_kernel"].bank_conflicts)
    assert conflicts[0] < conflicts[1]


@needs_nvrtc
@pytest.mark.parametrize(("ab", "c", "trans_a", "trans_b"), ALL[2:5])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_every_architecture_gets_its_tensor_cores(
    ab: str, c: str, trans_a: bool, trans_b: bool, arch: str
) -> None:
    p = MmaProduct(ab, c, trans_a, trans_b, epilogue=(ab, c) == ("bf16", "f32"))
    facts = compile_cuda(generate(p.tensorized()), arch).facts["main_kernel"]
    assert facts.mix["IMMA" if c == "i32" else "HMMA"] >= 4
    assert facts.mix["LDSM"] >= 2
    assert facts.stack_bytes <= 8  # tiles are in registers; ptxas spills two of what tf32 takes


def test_text_reads_well() -> None:
    text = generate(MmaProduct(trans_b=True).tensorized()).text
    assert "gt_fragment<float, 16> C_mma_accumulator;" in text
    calls = re.findall(r"gt_(?:mma|ldmatrix)\w*\(.*\);", text)
    assert len(calls) == 3
    assert calls[2] == (
        "gt_mma_f16f16f32(C_mma_accumulator, j_0_1 * 8, A_shared_dyn_mma_matrix_a, 0, "
        "B_shared_dyn_mma_matrix_b, j_0_1 * 8);"
    )
    assert "gt_wmma" not in text


def test_registers_are_counted() -> None:
    (found,) = count_gpu_resources(MmaProduct(trans_b=True).tensorized())
    assert found.local_bytes == 4 * 16 + 2 * 8 + 2 * 16


# ----------------------------------------------------------------------------- planted faults
def changed(source: CudaSource, old: str, new: str) -> CudaSource:
    assert source.text.count(old) == 1, old
    return replace(source, text=source.text.replace(old, new))


def kinds(report: HostReport) -> set[str]:
    return {f.kind for f in report.findings}


def test_a_missing_barrier_is_found() -> None:
    p = MmaProduct(trans_b=True)
    source = generate(p.tensorized())
    parts = source.text.split("__syncthreads();")
    assert len(parts) == 3
    for which in range(2):
        text = "__syncthreads();".join(
            [*parts[:which], parts[which] + ";" + parts[which + 1], *parts[which + 2 :]]
        )
        report, _ = on_host(p, replace(source, text=text))
        assert kinds(report) & {"shared-race", "uninitialised-read"}, str(report)


@pytest.mark.parametrize("call", ["gt_mma_f16f16f32(", "gt_ldmatrix_x4(A"])
def test_lanes_that_do_not_come_are_found(call: str) -> None:
    p = MmaProduct(trans_b=True)
    source = generate(p.tensorized())
    report, _ = on_host(p, changed(source, call, f"if (thread_x != 5) {call}"))
    assert kinds(report) & {"deadlock", "warp-divergence"}, str(report)


def test_registers_that_nothing_filled_are_found() -> None:
    p = MmaProduct(trans_b=True)
    source = generate(p.tensorized())
    for call in ("gt_ldmatrix_x4(A", "gt_ldmatrix_x4(B"):
        report, _ = on_host(p, changed(source, call, f"if (blockIdx.x == 7) {call}"))
        assert kinds(report) == {"uninitialised-read"}, str(report)
    fill = re.search(r"C_mma_accumulator\[.*\] = 0\.0f;", source.text)
    assert fill is not None
    report, _ = on_host(p, changed(source, fill[0], ";"))
    assert kinds(report) == {"uninitialised-read"}, str(report)


def test_rows_out_of_alignment_are_found() -> None:
    p = MmaProduct(trans_b=True)
    source = generate(p.tensorized())
    report, _ = on_host(p, changed(source, "_mma_matrix_a, 0, &A", "_mma_matrix_a, 0, 1 + &A"))
    assert kinds(report) == {"misaligned"}, str(report)


# ----------------------------------------------------------------------------- refusals
def program(body: str, held: str = "(32, 32)") -> PrimFunc:
    """One warp along threadIdx.x, with tiles to work on."""
    lines = "\n".join("            " + line for line in body.strip("\n").split("\n"))
    out = from_source(f"""
@T.prim_func
def main(A: T.Buffer((64, 64), "float16"), C: T.Buffer((64, 64), "float32")):
    S = T.alloc_buffer((64, 64), "float16", scope="shared")
    F = T.alloc_buffer({held}, "float16", scope="mma.matrix_a")
    G = T.alloc_buffer((32, 32), "float16", scope="mma.matrix_b")
    H = T.alloc_buffer({held}, scope="mma.accumulator")
    L = T.alloc_buffer((64, 64), scope="local")
    for b in T.thread_binding(2, thread="blockIdx.x"):
        with T.block("work"):
            w = T.axis.spatial(2, b)
{lines}
""")
    assert isinstance(out, PrimFunc)
    return out


FILL = "for i, j in T.grid(32, 32):\n    H[i, j] = T.float32(1)"
STORE = "for i, j in T.grid(32, 32):\n    C[w * 32 + i, j] = H[i, j]"


def test_plain_loops_are_accepted() -> None:
    source = generate(program(f"{FILL}\n{STORE}"))
    assert source.host.launches[0].block == (32, 1, 1)
    report = host_run(host_compile(source), {"A": np.zeros((64, 64), "float16"), "C": None})
    assert not report.findings, str(report)
    want = np.zeros((64, 64), np.float32)
    want[:, :32] = 1
    got = np.reshape(report.outputs["C"], (64, 64))
    np.testing.assert_array_equal(got[:, :32], want[:, :32])


def test_transposed_and_conditional_loops_are_accepted() -> None:
    body = f"""
{FILL}
for j in range(32):
    for i in range(32):
        H[i, j] = H[i, j] * T.Cast("float32", w * 32 + i) + T.Cast("float32", j)
for j, i in T.grid(32, 32):
    if w * 32 + i < 50:
        C[j, w * 32 + i] = H[i, j]
"""
    report = host_run(
        host_compile(generate(program(body))),
        {"A": np.zeros((64, 64), "float16"), "C": np.full((64, 64), -1, "float32")},
    )
    assert not report.findings, str(report)
    got = np.reshape(report.outputs["C"], (64, 64))
    i, j = np.arange(64)[None, :], np.arange(64)[:, None]
    want = np.where((i < 50) & (j < 32), i + j, -1)
    np.testing.assert_array_equal(got, want)


def test_sums_become_an_operand_in_registers() -> None:
    """Lanes hold the same elements of sums and of an A of two bytes an element."""
    body = f"""
{FILL}
for i, j in T.grid(32, 32):
    F[i, j] = T.Cast("float16", H[i, j] + T.Cast("float32", i - j))
for i, j in T.grid(32, 32):
    C[w * 32 + i, j] = T.Cast("float32", F[i, j])
"""
    source = generate(program(body))
    assert "__syncthreads" not in source.text
    report = host_run(host_compile(source), {"A": np.zeros((64, 64), "float16"), "C": None})
    assert not report.findings, str(report)
    got = np.reshape(report.outputs["C"], (64, 64))[:32, :32]
    np.testing.assert_array_equal(got, 1 + np.arange(32)[:, None] - np.arange(32)[None, :])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{FILL}\nH[0, 0] = T.float32(1)", "not in two loops over rows and columns"),
        (f"{FILL}\nfor i in range(32):\n    H[i, 3] = T.float32(1)", "not in two loops"),
        (f"{FILL}\nif H[0, 0] > T.float32(0):\n    C[w, 0] = T.float32(1)", "not in two loops"),
        (f"{FILL}\n{FILL.replace('32, 32', '32, 24')}", "not over tiles of 16"),
        (
            f"{FILL}\n{FILL.replace('32, 32', '16, 16').replace('H[i', 'H[i + 8')}",
            "no multiple of 16",
        ),
        (f"{FILL}\nfor i, j in T.grid(32, 32):\n    H[i, j] = H[j, i]", "no element of a tile"),
        (
            f'{FILL}\nfor i, j in T.grid(32, 32):\n    G[i, j] = T.Cast("float16", H[i, j])',
            "holds different elements",
        ),
        (f"{FILL}\nfor i, j in T.grid(32, 32):\n    L[i, j] = H[i, j]", "stores to L in local"),
        (
            f"{FILL}\nfor f in range(1024):\n    C[w, f % 64] = H[f // 32, f % 32]",
            "not in two loops",
        ),
    ],
)
def test_what_no_loop_over_registers_can_do(body: str, reason: str) -> None:
    with pytest.raises(LowerError, match=re.escape(reason)) as caught:
        lower_gpu(program(body))
    assert caught.value.code == "warp-fragment"
    assert caught.value.hint


def test_buffers_that_are_no_tiles() -> None:
    with pytest.raises(LowerError, match="24, not multiples of 16 and 16") as caught:
        lower_gpu(program(FILL.replace("32, 32", "32, 24"), held="(32, 24)"))
    assert caught.value.code == "warp-fragment"


def test_sums_of_one_row_have_no_order() -> None:
    """Several lanes would add to one element."""
    text = f"{FILL}\nfor i, j in T.grid(32, 32):\n    C[w, i] = C[w, i] + H[i, j]"
    with pytest.raises(LowerError) as caught:
        lower_gpu(program(text))
    assert caught.value.code == "thread-race"


def test_lanes_along_the_loop_around_it() -> None:
    script = program(FILL).script().replace("blockIdx.x", "threadIdx.x")
    with pytest.raises(LowerError) as caught:
        lower_gpu(from_source(script))  # type: ignore[arg-type]  # a function
    assert caught.value.code == "warp-divergent"


def test_ldmatrix_takes_shared_memory() -> None:
    tile = "T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16"
    load = f'F[{tile}] = T.call_intrin("float16x256", "mma.load_a.f16", A[{tile}])'
    with pytest.raises(LowerError, match="takes tiles in shared memory") as caught:
        lower_gpu(program(load))
    assert caught.value.code == "warp-scope"
