"""Do products on tensor cores come out right, from the schedule to CUDA's text and cubins?"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from cuda_programs import ARCHS, needs_nvrtc
from wmma_programs import FILL, KINDS, Product, load, mma, program, store

from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source

ORDERS = ("forward", "reverse", "random")


def on_host(p: Product, source: CudaSource, order: str = "forward") -> tuple[HostReport, bool]:
    """The report, and whether the numbers are right."""
    a, b, want = p.values()
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None}, order=order)
    return report, np.array_equal(np.reshape(report.outputs["C"], want.shape), want)


@pytest.mark.parametrize(("ab", "c", "trans"), KINDS)
def test_product_is_right_wherever_it_runs(ab: str, c: str, trans: bool) -> None:
    p = Product(ab, c, trans)
    func = p.tensorized()
    a, b, want = p.values()
    out = np.zeros(want.shape, want.dtype)
    run(func, a, b, out)
    np.testing.assert_array_equal(out, want)
    source = generate(func)
    (launch,) = source.host.launches
    assert (launch.grid, launch.block) == ((2, 1, 1), (32, 4, 1))
    for order in ORDERS:
        report, right = on_host(p, source, order)
        assert (right, report.findings) == (True, ()), str(report)


@needs_nvrtc
@pytest.mark.parametrize(("ab", "c", "trans"), KINDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_gets_its_tensor_cores(ab: str, c: str, trans: bool, arch: str) -> None:
    facts = compile_cuda(generate(Product(ab, c, trans).tensorized()), arch).facts["main_kernel"]
    assert facts.mix["IMMA" if ab == "int8" else "HMMA"] >= 16
    assert facts.stack_bytes == 0  # tiles are in registers


@pytest.mark.parametrize(("ab", "c", "trans"), KINDS)
def test_rows_that_lie_as_columns(ab: str, c: str, trans: bool) -> None:
    """Named for a bug: the loads of an A that lies as A[k, m] were not there."""
    p = Product(ab, c, trans, trans_a=True)
    func = p.tensorized()
    a, b, want = p.values()
    out = np.zeros(want.shape, want.dtype)
    run(func, a, b, out)
    np.testing.assert_array_equal(out, want)
    source = generate(func)
    assert "gt_wmma_load_a_trans_shared(" in source.text
    report, right = on_host(p, source)
    assert (right, report.findings) == (True, ()), str(report)
    if nvrtc.load() is not None:
        for arch in ARCHS:
            facts = compile_cuda(source, arch).facts["main_kernel"]
            assert facts.mix["IMMA" if ab == "int8" else "HMMA"] >= 16


def test_a_product_takes_what_its_loads_laid_out() -> None:
    p = Product(trans_a=True)
    func = p.tensorized(load_a="wmma_load_16x16x16_f16_a_shared_dyn")
    with pytest.raises(LowerError, match=r"by (rows|columns)"):
        generate(func)


def test_text_reads_well() -> None:
    text = generate(Product().tensorized()).text
    calls = re.findall(r"gt_wmma_\w+\(.*\);", text)
    assert calls == [
        "gt_wmma_fill(C_shared_dyn_wmma_accumulator[j_0_1_init], 0.0f);",
        "gt_wmma_load_a_shared(A_shared_dyn_wmma_matrix_a[0], "
        "&A_shared_dyn[thread_y / 2 * 640 + k_0_1 * 16], 40);",
        "gt_wmma_load_b_shared(B_shared_dyn_wmma_matrix_b[ax1_0], "
        "&B_shared_dyn[k_0_1 * 1152 + thread_y % 2 * 32 + ax1_0 * 16], 72);",
        "gt_wmma_mma(C_shared_dyn_wmma_accumulator[j_0_1], C_shared_dyn_wmma_accumulator[j_0_1], "
        "A_shared_dyn_wmma_matrix_a[0], B_shared_dyn_wmma_matrix_b[j_0_1]);",
        "gt_wmma_store_shared(&C_shared_dyn[thread_y / 2 * 1024 + thread_y % 2 * 32 "
        "+ ax1_0_1 * 16], C_shared_dyn_wmma_accumulator[ax1_0_1], 64);",
    ]
    assert "gt_wmma_acc<float> C_shared_dyn_wmma_accumulator[2];" in text


def test_lowered_program_names_tiles_plainly() -> None:
    (kernel,) = lower_gpu(Product().tensorized()).kernels
    text = kernel.func.script()
    assert (
        "T.Broadcast(thread_y // 2 * 16, 256) + T.Ramp(0, 1, 256) // T.Broadcast(16, 256)" in text
    )
    assert text.count("sync_threads") == 4  # one where C takes the memory of A and B


def test_shared_memory_of_fixed_size_and_a_store_past_it() -> None:
    for p in (Product(scope="shared"), Product(through_shared=False)):
        source = generate(p.tensorized())
        report, right = on_host(p, source)
        assert (right, report.findings) == (True, ()), str(report)
    assert "gt_wmma_store(&C[" in source.text
    by_name = {x.name: x for x in source.host.params}
    assert by_name["C"].align == 16


def test_threads_of_a_warp_need_no_loop() -> None:
    p = Product(lanes=1, through_shared=False)
    source = generate(p.tensorized())
    assert source.host.launches[0].block == (32, 4, 1)
    assert "if (thread_x == 0) {" in source.text  # copies to shared memory are made once
    report, right = on_host(p, source, "random")
    assert (right, report.findings) == (True, ()), str(report)


def test_fewer_threads_than_a_warp_may_copy() -> None:
    p = Product(lanes=16)
    source = generate(p.tensorized())
    assert source.host.launches[0].block == (32, 4, 1)
    assert "if (thread_x < 16) {" in source.text
    report, right = on_host(p, source)
    assert (right, report.findings) == (True, ()), str(report)


def test_operands_from_global_memory() -> None:
    """Four warps, each with sixteen rows of A times the first sixteen of A, or their transpose."""
    for trans in ("", "_trans"):
        steps = [load(), FILL, load("", op=f"load_b{trans}", to="G"), mma(f"mma{trans}"), store()]
        func = from_source(program("\n".join(steps)))
        assert isinstance(func, PrimFunc)
        source = generate(func)
        assert f"gt_wmma_load_b{trans}(G[0], &A[0], 64);" in source.text
        a = np.random.default_rng(2).integers(-3, 4, (64, 64)).astype("float16")
        want = np.zeros((64, 64), "float32")
        first = a[:16, :16].astype("float32")
        want[:, :16] = a[:, :16].astype("float32") @ (first.T if trans else first)
        values = {"A": a, "C": np.zeros_like(want), "N": np.zeros(4, "int32")}
        report = host_run(host_compile(source), values)
        assert not report.findings, str(report)
        np.testing.assert_array_equal(np.reshape(report.outputs["C"], (64, 64)), want)
        if nvrtc.load() is not None:
            for arch in ARCHS:
                assert compile_cuda(source, arch).facts["main_kernel"].mix["HMMA"] >= 2


# ----------------------------------------------------------------------------- planted faults
def changed(source: CudaSource, old: str, new: str) -> CudaSource:
    assert source.text.count(old) == 1, old
    return replace(source, text=source.text.replace(old, new))


def divergent_lanes(report: HostReport) -> set[int]:
    found = [f.thread for f in report.findings if f.kind == "warp-divergence"]
    return {t[0] for t in found if t is not None}


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_is_found(which: int, order: str) -> None:
    p = Product()
    source = generate(p.tensorized())
    parts = source.text.split("__syncthreads();")
    assert len(parts) == 5
    text = "__syncthreads();".join(
        [*parts[:which], parts[which] + ";" + parts[which + 1], *parts[which + 2 :]]
    )
    report, _ = on_host(p, replace(source, text=text), order)
    kinds = {f.kind for f in report.findings}
    assert "shared-race" in kinds or "uninitialised-read" in kinds, str(report)
    assert any(f.line is not None for f in report.findings)


def test_lanes_that_do_not_come_are_found() -> None:
    p = Product()
    source = generate(p.tensorized())
    call = "gt_wmma_fill("
    report, _ = on_host(p, changed(source, call, f"if (thread_x != 5) {call}"))
    assert {f.kind for f in report.findings} & {"deadlock", "warp-divergence"}, str(report)
    call = "gt_wmma_store_shared("
    only = changed(source, call, f"if (thread_x == 7) return; {call}")
    report, _ = on_host(p, only)
    assert divergent_lanes(report) == {7}, str(report)


def test_lanes_with_other_tiles_are_found() -> None:
    p = Product()
    source = generate(p.tensorized())
    moved = changed(source, "+ k_0_1 * 16], 40)", "+ k_0_1 * 16 + (thread_x == 9) * 8], 40)")
    report, _ = on_host(p, moved)
    assert divergent_lanes(report) == {9}, str(report)


def test_lanes_at_other_calls_are_found() -> None:
    p = Product()
    source = generate(p.tensorized())
    text = source.text
    fill = re.search(r"gt_wmma_fill\(.*\);", text)
    assert fill is not None
    report, _ = on_host(
        p, changed(source, fill[0], f"if (thread_x < 3)\n{fill[0]}\nelse\n{fill[0]}")
    )
    assert any(f.kind == "warp-divergence" for f in report.findings), str(report)


def test_tiles_that_nothing_filled_are_found() -> None:
    p = Product()
    source = generate(p.tensorized())
    report, _ = on_host(p, changed(source, "gt_wmma_fill(", "(void)("))
    assert any(f.kind == "uninitialised-read" for f in report.findings), str(report)


def test_rows_of_tiles_out_of_alignment_are_found() -> None:
    p = Product()
    source = generate(p.tensorized())
    report, _ = on_host(p, changed(source, "+ k_0_1 * 16], 40)", "+ k_0_1 * 16], 36)"))
    assert any(f.kind == "misaligned" for f in report.findings), str(report)


def test_tiles_outside_of_their_buffer_are_found() -> None:
    p = Product(through_shared=False)
    source = generate(p.tensorized())
    report, _ = on_host(p, changed(source, "gt_wmma_store(&C[", "gt_wmma_store(&C[3072 + "))
    assert any(f.kind == "out-of-bounds" for f in report.findings), str(report)
