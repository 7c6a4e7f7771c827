"""Do the dot products of four bytes mean what their descriptions say, from NumPy to cubins?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import BuildError, UserError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin

NAMES = ("dp4a_s8s8s32", "dp4a_u8s8s32", "dp4a_s8u8s32", "dp4a_u8u8u32")
LONG = {"s8": "int8", "u8": "uint8", "s32": "int32", "u32": "uint32"}
EDGES = (-128, -127, -1, 0, 1, 127, 128, 254, 255)


def dtypes_of(name: str) -> tuple[str, str, str]:
    short = name.removeprefix("dp4a_")
    return LONG[short[:2]], LONG[short[2:4]], LONG[short[4:]]


def test_names_are_metaschedules() -> None:
    assert {n for n in TensorIntrin.names() if n.startswith("dp4a")} == set(NAMES)
    for name in NAMES:
        assert [(b.dtype, b.scope) for b in intrin(name).impl.buffers] == [
            *[(x, "shared") for x in dtypes_of(name)[:2]], (dtypes_of(name)[2], "local"),
        ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_implementation_does_what_the_description_says(name: str) -> None:
    a, b, c = dtypes_of(name)
    rng = np.random.default_rng(5)
    for k in range(40):
        x, y = [
            rng.choice([v for v in EDGES if np.iinfo(t).min <= v <= np.iinfo(t).max], 4).astype(t)
            for t in (a, b)
        ]
        start = np.array([np.iinfo(c).max if k % 4 == 0 else 7], c)  # sums wrap around
        want, got = start.copy(), start.copy()
        run(intrin(name).desc, x, y, want)
        run(intrin(name).impl, x, y, got)
        exact = int(start[0]) + int(x.astype(np.int64) @ y.astype(np.int64))
        assert got[0] == want[0] == np.array([exact % 2**32], np.uint64).astype(c)[0]


def product(name: str, rows: int = 16, odd: int = 0) -> PrimFunc:
    """C = A @ B.T of bytes, each thread one element, four products at a time."""
    a, b, c = dtypes_of(name)
    func = from_source(f"""
@T.prim_func
def main(A: T.Buffer(({rows}, 32), "{a}"), B: T.Buffer(({rows}, 32), "{b}"),
         C: T.Buffer(({rows}, {rows}), "{c}")):
    for i, j, k in T.grid({rows}, {rows}, 32):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.{c}(0)
            C[vi, vj] = C[vi, vj] + T.Cast("{c}", A[vi, vk]) * T.Cast("{c}", B[vj, vk])
""")
    sch = Schedule(func)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    out = sch.cache_write(block, 0, "local")
    k0, k1 = sch.split(k, [None, 4])
    sch.bind(i, "blockIdx.x")
    sch.bind(j, "threadIdx.x")
    sch.reverse_compute_at(out, j)
    for which in (0, 1):
        copy = sch.cache_read(block, which, "shared")
        sch.compute_at(copy, i)
        fused = sch.fuse(*sch.get_loops(copy)[1:])
        _, x = sch.split(fused, [None, rows])
        sch.bind(x, "threadIdx.x")
        if odd:
            sch.storage_align(copy, 0, -2, 4, odd)
    sch.decompose_reduction(block, k0)
    sch.tensorize(k1, name)
    got = sch.mod["main"]
    assert isinstance(got, PrimFunc)
    return got


def values(name: str, rows: int = 16) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(9)
    a, b, c = dtypes_of(name)
    x, y = [
        rng.integers(np.iinfo(t).min, np.iinfo(t).max, (rows, 32), endpoint=True).astype(t)
        for t in (a, b)
    ]
    return x, y, (x.astype(np.int64) @ y.T.astype(np.int64)).astype(c)


@pytest.mark.parametrize("name", NAMES)
def test_a_product_from_the_schedule_to_cubins(name: str) -> None:
    func = product(name)
    a, b, want = values(name)
    out = np.zeros_like(want)
    run(func, a, b, out)
    np.testing.assert_array_equal(out, want)
    source = generate(func)
    kind = "unsigned int" if name.endswith("u32") else "int"
    assert f"gt_dp4a_{name[5:9]}(" in source.text
    assert source.text.count(f"*(const {kind}*)&") == 2
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None}, order="random")
    assert not report.findings, str(report)
    np.testing.assert_array_equal(np.reshape(report.outputs["C"], want.shape), want)
    if nvrtc.load() is not None:
        for arch in ("sm_75", "sm_90a"):
            mix = compile_cuda(source, arch).facts["main_kernel"].mix
            assert sum(n for op, n in mix.items() if op.startswith("IDP")) >= 1, mix


def test_rows_that_do_not_begin_at_multiples_of_four() -> None:
    func = product("dp4a_u8s8s32", odd=1)
    a, b, want = values("dp4a_u8s8s32")
    source = generate(func)
    assert "gt_word(" in source.text
    report = host_run(host_compile(source), {"A": a, "B": b, "C": None})
    assert not report.findings, str(report)
    np.testing.assert_array_equal(np.reshape(report.outputs["C"], want.shape), want)


def test_which_targets_have_them() -> None:
    found = intrin("dp4a_s8s8s32")
    assert found.kind == "cuda"
    assert not found.missing(Target("cuda -arch=sm_61"))
    assert "sm_60 has no instruction" in found.missing(Target("cuda -arch=sm_60"))
    with pytest.raises(BuildError, match="dp4a"):
        gt.build(found.impl, target="llvm")


def test_four_bytes_must_be_those_of_a_load() -> None:
    func = from_source("""
@T.prim_func
def main(A: T.Buffer((32, 4), "int8"), C: T.Buffer((32,), "int32")):
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("C"):
            v = T.axis.spatial(32, t)
            C[v] = T.reinterpret("int32", A[v, 0:4] + A[v, 0:4])
""")
    assert isinstance(func, PrimFunc)
    with pytest.raises(BuildError, match="four bytes of"):
        generate(func)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wmma_sync_8x8x32_s4s4s32_trans", "int4"),
        ("wmma_load_8x8x32_s4_a_shared", "int4"),
        ("mma_sync_m16n8k8_f16f16f32", "tiles of 16 x 16"),
        ("rocm_mfma_f16f16f32", "ROCm"),
        ("ROCM_mfma_fill_16x16_f32", "ROCm"),
        ("simdgroup_load", "Metal"),
        ("sme_init", "SME"),
        ("rvv_dot_4u8_4i8_i32", "RISC-V"),
        ("dot_32x4_i8i8i32_vrmpy", "Hexagon"),
    ],
)
def test_what_is_not_there_says_why(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"no tensor intrinsic '{name}'") as caught:
        intrin(name)
    assert why in caught.value.hint
    assert TensorIntrin.get(name, allow_missing=True) is None
