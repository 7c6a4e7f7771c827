"""Do swizzled rows of shared memory keep lanes off the same banks, and every result as it is?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_nvrtc
from mma_programs import ALL, MmaProduct

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import LowerError
from gputune.ir.nodes import PrimFunc
from gputune.lower.gpu import lower_gpu
from gputune.lower.shared_memory import shared_layout
from gputune.script import from_source

Ints = np.ndarray[Any, np.dtype[np.int64]]


def swizzled(at: Ints, span: int) -> Ints:
    """Byte addresses, as swizzles of so many bytes put them."""
    return np.asarray(at ^ (at >> 3 & (span - 16)))


@pytest.mark.parametrize("span", [32, 64, 128])
def test_pieces_stay_in_their_row_and_whole(span: int) -> None:
    at = np.arange(4096)
    to = swizzled(at, span)
    assert len(set(to.tolist())) == 4096
    assert (to // span == at // span).all()
    assert (to % 16 == at % 16).all()
    rows = np.arange(8) * span  # eight rows of a tile: 16 bytes of each in banks of their own
    for piece in range(0, span, 16):
        assert len({int(x) for x in swizzled(rows + piece, span) // 16 % 8}) == 8


def run(p: MmaProduct) -> HostReport:
    values, name, want = p.values()
    report = host_run(host_compile(generate(p.tensorized())), {**values, name: None})
    assert not report.findings, str(report)
    np.testing.assert_array_equal(np.reshape(report.outputs[name], want.shape), want)
    return report


@pytest.mark.parametrize(("ab", "c", "trans_a", "trans_b"), ALL)
def test_products_are_right(ab: str, c: str, trans_a: bool, trans_b: bool) -> None:
    run(MmaProduct(ab, c, trans_a, trans_b, swizzled=True))


def test_no_lanes_meet_in_a_bank() -> None:
    """Of ldmatrix: eight rows at a time; of float16, in rows of 64 and of 128 bytes."""
    for trans_b in (True, False):
        found = {}
        for how in (True, False):
            report = run(MmaProduct(trans_b=trans_b, scope="shared", padded=False, swizzled=how))
            traffic = report.kernels["main_kernel"].traffic
            found[how] = {
                t.buffer: t.units / t.requests for t in traffic if t.shared and not t.writes
            }
        assert all(x == 4 for x in found[True].values()), found  # 512 bytes, 128 at a time
        assert all(x > 4 for x in found[False].values()), found


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_machine_code(arch: str) -> None:
    facts = compile_cuda(generate(MmaProduct(swizzled=True).tensorized()), arch).facts[
        "main_kernel"
    ]
    assert facts.mix["LDSM"] >= 2
    assert facts.stack_bytes == 0


# ----------------------------------------------------------------------------- plain programs
COPY = """
@T.prim_func
def main(A: T.Buffer((24, 24), "{dtype}"), B: T.Buffer((24, 24), "{dtype}")):
    S = T.alloc_buffer((24, 24), "{dtype}", scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for i in T.thread_binding(24, thread="threadIdx.x"):
            for j in T.vectorized(24):
                with T.block("S"):
                    v, w = T.axis.remap("SS", [i, j])
                    T.block_attr({{"shared_swizzle": {span}}})
                    S[v, w] = A[v, w]
        for i in T.thread_binding(24, thread="threadIdx.x"):
            for j in T.vectorized(24):
                with T.block("B"):
                    v, w = T.axis.remap("SS", [i, j])
                    B[v, w] = S[w, v]
"""


def copy(dtype: str, span: int, scope: str = "shared") -> PrimFunc:
    text = COPY.format(dtype=dtype, span=span).replace('"shared")', f'"{scope}")')
    out = from_source(text)
    assert isinstance(out, PrimFunc)
    return out


@pytest.mark.parametrize("span", [32, 64, 128])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "float64"])
def test_any_access_finds_its_element(dtype: str, span: int) -> None:
    """Sizes and rows that are no multiples of the swizzle's; vectors of up to 16 bytes."""
    func = copy(dtype, span)
    source = generate(func)
    assert f"S[gt_swizzle<{span}, {np.dtype(dtype).itemsize}>(" in source.text
    words = re.findall(r"gt_(?:store|load)\w*<[^<>]*>\(&S\[", source.text)
    assert not any(", 32" in w for w in words)
    a = np.random.default_rng(1).integers(-9, 9, (24, 24)).astype(dtype)
    report = host_run(host_compile(source), {"A": a, "B": None})
    assert not report.findings, f"{report}\n{source.text}"
    np.testing.assert_array_equal(np.reshape(report.outputs["B"], (24, 24)), a.T)


def test_the_rest_of_a_row_belongs_to_it() -> None:
    (kernel,) = lower_gpu(copy("int8", 128)).kernels
    assert shared_layout(kernel.func).bytes == 640  # of 576


# ----------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("span", "scope", "code", "reason"),
    [
        (48, "shared", "annotation-value", "expected 32, 64 or 128, found 48"),
        (64, "global", "swizzle", "writes no buffer in shared memory"),
    ],
)
def test_refused(span: int, scope: str, code: str, reason: str) -> None:
    with pytest.raises(LowerError, match=reason) as caught:
        lower_gpu(copy("float32", span, scope))
    assert caught.value.code == code


def test_wmma_knows_rows_only() -> None:
    from wmma_programs import Product

    p = Product()
    for block in p.fetches:
        p.sch.annotate(block, "shared_swizzle", 64)
    with pytest.raises(LowerError, match="change places") as caught:
        lower_gpu(p.tensorized())
    assert caught.value.code == "warp-tile"
