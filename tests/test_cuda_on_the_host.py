"""Does generated CUDA code compile for every architecture, compute what NumPy computes, and keep
the rules of the machine? The same text is compiled by NVRTC and run, checked, on the processor."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc
from gputune.kernels import KERNELS, SUITE, Kernel
from gputune.kernels.kernel import Shape
from gputune.target import Target

from .gpu_schedules import GpuSchedule, gpu_schedules

ARCHS = ("sm_75", "sm_80", "sm_90a", "sm_120")
OPERATORS = [name for name in KERNELS if name not in SUITE]
BY_HAND = [g for name in ("matmul", "softmax", "conv2d") for g in gpu_schedules(name)]
needs_nvrtc = pytest.mark.skipif(nvrtc.load() is None, reason="NVRTC is not installed")


def default(kernel: Kernel, shape: Shape | None, dtype: str = "float32") -> PrimFunc:
    """The default schedule's program."""
    func = kernel.build(shape, dtype)
    return default_gpu_schedule(func, Target("cuda -arch=sm_80")).mod[func.name]


def arguments(
    kernel: Kernel, source: CudaSource, shape: Shape, dtype: str
) -> tuple[dict[str, Any], list[Any]]:
    """Values by parameter (None where it is written: undefined), and the arrays in order."""
    arrays = kernel.arguments(shape, dtype, 3, exact=kernel.exact)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    return values, arrays


def results(kernel: Kernel, func: PrimFunc, source: CudaSource, report: HostReport) -> list[Any]:
    """The arrays that the kernel of the library is about, of those that were written."""
    names = {b.name: p.name for b, p in zip(func.buffers, source.host.params, strict=True)}
    return [
        report.outputs[names[b.name]].reshape([int(n.value) for n in b.shape])
        for b in func.buffers
        if b.name in kernel.outputs
    ]


def check_run(
    kernel: Kernel, func: PrimFunc, shape: Shape, dtype: str = "float32", order: str = "forward"
) -> None:
    """Host execution finds no fault, and NumPy gives the same."""
    source = generate(func)
    values, arrays = arguments(kernel, source, shape, dtype)
    expected = kernel.expected([a.copy() for a in arrays], shape, dtype)
    report = host_run(host_compile(source), values, order=order, seed=1)
    assert not report.findings, source.text
    for want, got in zip(expected, results(kernel, func, source, report), strict=True):
        if kernel.exact and dtypes.itemsize(dtype) >= 4:
            np.testing.assert_array_equal(got, want)
        else:
            rtol = 2e-5 if dtypes.itemsize(dtype) >= 4 else 2e-2
            np.testing.assert_allclose(
                got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol * 8
            )


# ----------------------------------------------------------------------------- the library
@needs_nvrtc
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles(name: str) -> None:
    """At its default sizes, for each generation of GPUs."""
    source = generate(default(KERNELS[name], None))
    for arch in ARCHS:
        facts = compile_cuda(source, arch, cache=False).facts
        assert set(facts) == {x.kernel for x in source.host.launches}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_kernel_runs(name: str) -> None:
    kernel = KERNELS[name]
    orders = ("forward", "reverse", "random")
    for k, shape in enumerate(kernel.check_shapes):
        check_run(kernel, default(kernel, shape), shape, order=orders[k % 3])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "uint8", "int32"])
@pytest.mark.parametrize("name", ["matmul", "conv2d", "softmax", "transpose"])
def test_other_dtypes(name: str, dtype: str) -> None:
    kernel = KERNELS[name]
    if dtype not in kernel.dtypes:
        pytest.skip(f"{name} is not defined for {dtype}")
    shape = kernel.check_shapes[-1]
    check_run(kernel, default(kernel, shape, dtype), shape, dtype)


# ----------------------------------------------------------------------------- schedules by hand
@needs_nvrtc
@pytest.mark.parametrize("case", BY_HAND, ids=lambda g: g.label)
def test_schedules_by_hand_compile(case: GpuSchedule) -> None:
    source = generate(case.func)
    for arch in ARCHS:
        assert compile_cuda(source, arch, cache=False).cubin[:4] == b"\x7fELF"


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", BY_HAND, ids=lambda g: g.label)
def test_schedules_by_hand_run(case: GpuSchedule, order: str) -> None:
    check_run(case.kernel, case.func, case.shape, order=order)


# ----------------------------------------------------------------------------- is the check awake?
def with_barriers() -> list[tuple[str, GpuSchedule, CudaSource]]:
    out = []
    for case in BY_HAND:
        source = generate(case.func)
        if "__syncthreads();" in source.text:
            out.append((case.label, case, source))
    return out


MUTANTS = with_barriers()[:14]


def findings(case: GpuSchedule, source: CudaSource) -> list[str]:
    """What host execution finds, in any order of the threads; or that the numbers are wrong."""
    out: list[str] = []
    code = host_compile(source)
    for order in ("forward", "reverse", "random"):
        values, arrays = arguments(case.kernel, source, case.shape, "float32")
        expected = case.kernel.expected([a.copy() for a in arrays], case.shape)
        report = host_run(code, values, order=order, seed=2)
        out += [f.kind for f in report.findings]
        found = results(case.kernel, case.func, source, report) if report.completed else []
        if not all(np.allclose(r, e, 1e-4, 1e-4) for r, e in zip(found, expected)):
            out.append("wrong-numbers")
        if out:
            break
    return out


@pytest.mark.parametrize(("label", "case", "source"), MUTANTS, ids=[m[0] for m in MUTANTS])
def test_every_barrier_is_needed(label: str, case: GpuSchedule, source: CudaSource) -> None:
    """Without any one of them the check finds a fault: none is superfluous, and none is missed."""
    places = [m.span() for m in re.finditer(r"__syncthreads\(\);", source.text)]
    for a, b in places:
        text = source.text[:a] + source.text[b:]
        mutant = CudaSource(text, source.host, source.options, source.prelude)
        assert findings(case, mutant), f"without the barrier at {a}:\n{source.text}"


@pytest.mark.parametrize(
    ("label", "case", "source"), MUTANTS[:10], ids=[m[0] for m in MUTANTS[:10]]
)
def test_a_shifted_index_is_found(label: str, case: GpuSchedule, source: CudaSource) -> None:
    stores = list(re.finditer(r"\b(\w+)\[([^\[\]]+)\] = ", source.text))
    for m in (stores[0], stores[-1]):
        text = f"{source.text[: m.start(2)]}{m[2]} + 1{source.text[m.end(2) :]}"
        mutant = CudaSource(text, source.host, source.options, source.prelude)
        assert findings(case, mutant), text


def test_a_dropped_predicate_is_found() -> None:
    seen = 0
    for case in BY_HAND:
        source = generate(case.func)
        for m in re.finditer(r"if \(([^()]+ < \d+)\) \{", source.text):
            text = f"{source.text[: m.start(1)]}true{source.text[m.end(1) :]}"
            mutant = CudaSource(text, source.host, source.options, source.prelude)
            assert findings(case, mutant), f"without {m[1]}:\n{source.text}"
            seen += 1
            break  # one of each program
        if seen == 10:
            return
    pytest.fail(f"only {seen} programs have a predicate")
