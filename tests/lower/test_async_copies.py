"""Copies of a pipeline in the background: which they are, who waits for them, and that nobody reads
one under way."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.ir.nodes import PrimFunc
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source
from tests.codegen.cuda_programs import needs_nvrtc
from tests.properties.on_the_host import check_on_the_host

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)

STEPS = """
@T.prim_func
def main(A: T.Buffer((1024,), "{dtype}"), B: T.Buffer((1024,), "{dtype}")):
    S = T.alloc_buffer((1024,), "{dtype}", scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in T.serial({n}{notes}):
            for t in T.thread_binding(32, thread="threadIdx.x"):
                for x in {inner}(4):
                    with T.block("S"):
                        v = T.axis.spatial(1024, k * 128 + t * 4 + x)
                        S[v] = {value}
            for t in T.thread_binding(32, thread="threadIdx.x"):
                for x in range(4):
                    with T.block("B"):
                        v = T.axis.spatial(1024, k * 128 + x * 32 + t)
                        B[v] = S[k * 128 + 127 - x * 32 - t] + T.{dtype}(1)
"""


def steps(
    n: int, stages: list[int] | None = None, inner: str = "T.vectorized", dtype: str = "float32",
    value: str = "A[v]", **notes: Any,
) -> PrimFunc:  # fmt: skip
    """A loop of n steps, in which each thread takes what others have copied."""
    given = {f"software_pipeline_{k}": v for k, v in notes.items()}
    if stages is not None:
        given |= {"software_pipeline_stage": stages}
        given.setdefault("software_pipeline_async_stages", [stages[0]])
    said = f", annotations={given}" if given else ""
    out = from_source(STEPS.format(n=n, notes=said, inner=inner, dtype=dtype, value=value))
    assert isinstance(out, PrimFunc)
    return out


def waits(text: str) -> list[int]:
    return [int(x) for x in re.findall(r"gt_wait_copies<(\d+)>", text)]


# ----------------------------------------------------------------------------- what it becomes
@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_one_wait_and_one_barrier_a_step(ahead: int) -> None:
    text = generate(steps(8, [0, ahead])).text
    assert waits(text) == [ahead - 1]
    assert text.count("__syncthreads();") == 1
    assert text.count("gt_commit_copies();") == ahead + 1
    assert text.count("gt_copy_async<float, 4, 16>(") == ahead + 1
    assert f"float S[{128 * (ahead + 1)}]" in text
    assert "S_next" not in text  # no registers
    body = text[text.index("gt_wait_copies") :]
    order = ["gt_wait_copies", "__syncthreads", "gt_copy_async", "gt_commit_copies", "B["]
    assert sorted(order, key=body.index) == order


def test_without_the_annotation_they_go_through_registers() -> None:
    text = generate(steps(8, [0, 1], async_stages=[])).text
    assert "S_next" in text
    assert "gt_copy_async" not in text


@pytest.mark.parametrize(
    ("inner", "dtype", "copy"),
    [
        ("T.vectorized", "float32", "gt_copy_async<float, 4, 16>"),
        ("range", "float32", "gt_copy_async<float, 1, 4>"),
        ("T.vectorized", "float16", "gt_copy_async<gt_half, 4, 8>"),
        ("T.vectorized", "int8", "gt_copy_async<signed char, 4, 4>"),
        ("T.vectorized", "float64", "gt_copy_async<double, 2, 16>"),
        ("range", "float64", "gt_copy_async<double, 1, 8>"),
    ],
)
def test_copies_are_as_wide_as_they_can_be(inner: str, dtype: str, copy: str) -> None:
    assert copy in generate(steps(8, [0, 1], inner, dtype)).text


@pytest.mark.parametrize(("inner", "dtype"), [("range", "float16"), ("range", "int8")])
def test_what_is_too_narrow_is_copied_at_once(inner: str, dtype: str) -> None:
    func = steps(8, [0, 1], inner, dtype)
    assert "gt_copy_async" not in generate(func).text
    check_on_the_host(steps(8, dtype=dtype), func, seed=1)


def test_what_is_computed_is_no_copy() -> None:
    text = generate(steps(8, [0, 1], value="A[v] * T.float32(2)")).text
    assert "gt_copy_async" not in text
    assert "gt_wait_copies" not in text  # nothing is under way
    assert "S_next" in text


# ----------------------------------------------------------------------------- results
@needs_compiler
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_they_compute_the_same(n: int, ahead: int) -> None:
    check_on_the_host(steps(n), steps(n, [0, ahead]), seed=n)


EDGE = "T.if_then_else(v < {last}, A[v], T.float32(0))"


@needs_compiler
@pytest.mark.parametrize("last", [1000, 1001])
def test_zeros_come_where_nothing_is_to_be_read(last: int) -> None:
    """Of a word that lies on both sides of the edge, elements come one by one."""
    value = EDGE.format(last=last)
    func = steps(8, [0, 2], value=value)
    text = generate(func).text
    assert "gt_copy_async<float, 4, 16>(" in text
    check_on_the_host(steps(8, value=value), func, seed=last)


@needs_compiler
def test_a_pipeline_that_runs_several_times() -> None:
    """The first copies of a turn of an outer loop overwrite what the last turn computed with."""
    head, loop, body = STEPS.partition("        for k in")
    inside = "\n".join("    " + line if line else "" for line in (loop + body).split("\n"))
    text = f"{head}        for r in range(3):\n{inside}".replace(
        "+ T.{dtype}(1)", "+ T.Cast('float32', r)"
    )

    def made(notes: str) -> PrimFunc:
        values = {"n": 8, "inner": "T.vectorized", "dtype": "float32", "value": "A[v]"}
        out = from_source(text.format(notes=notes, **values))
        assert isinstance(out, PrimFunc)
        return out

    said = {"software_pipeline_stage": [0, 2], "software_pipeline_async_stages": [0]}
    check_on_the_host(made(""), made(f", annotations={said}"), seed=1)


# ----------------------------------------------------------------------------- planted faults
def findings(source: CudaSource, order: str = "forward") -> HostReport:
    a = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    return host_run(host_compile(source), {"A": a, "B": None}, order=order)


@needs_compiler
def test_a_copy_that_nobody_waits_for_is_found() -> None:
    source = generate(steps(8, [0, 2]))
    assert not findings(source).findings
    for old, new in (("gt_wait_copies<1>", "gt_wait_copies<2>"), ("gt_wait_copies<1>();", ";")):
        broken = replace(source, text=source.text.replace(old, new))
        assert broken.text != source.text
        assert "in-flight" in {f.kind for f in findings(broken).findings}


@needs_compiler
def test_the_barrier_is_needed() -> None:
    source = generate(steps(8, [0, 2]))
    broken = replace(source, text=source.text.replace("__syncthreads();", ""))
    kinds = {f.kind for order in ("forward", "reverse") for f in findings(broken, order).findings}
    assert kinds & {"shared-race", "in-flight", "uninitialised-read"}


# ----------------------------------------------------------------------------- refusals, machines
def test_stages_that_there_are_not() -> None:
    with pytest.raises(LowerError, match=r"asynchronous stages \[3\]") as caught:
        lower_gpu(steps(8, [0, 1], async_stages=[3]))
    assert caught.value.code == "pipeline"
    assert caught.value.hint


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120"])
def test_machine_code(arch: str) -> None:
    for value in ("A[v]", EDGE.format(last=1000)):
        facts = compile_cuda(generate(steps(8, [0, 2], value=value)), arch).facts["main_kernel"]
        assert (facts.mix.get("LDGSTS", 0) >= 3) == (arch != "sm_75")
