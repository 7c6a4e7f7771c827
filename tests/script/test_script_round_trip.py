"""Does what is printed parse back to the same program?"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import random_func

from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.script import from_source

HEADER = """
@tvm.script.ir_module
class Module:
    @T.prim_func
    def main(A: T.Buffer[(128, 128), "float32"], B: T.Buffer[(128, 128), "float32"], \
C: T.Buffer[(128, 128), "float32"]) -> None:
        # function attr dict
        T.func_attr({"global_symbol": "main", "tir.noalias": True})
        # body
        # with T.block("root")
"""

PLAIN = (
    HEADER
    + """
        for i, j, k in T.grid(128, 128, 128):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                T.reads(A[vi, vk], B[vk, vj])
                T.writes(C[vi, vj])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
"""
)

DECOMPOSED = (
    HEADER
    + """
        for i, j_0 in T.grid(128, 128):
            for j_1_init in T.serial(1):
                with T.block("C_init"):
                    vi = T.axis.spatial(128, i)
                    vj = T.axis.spatial(128, j_1_init + j_0)
                    T.reads()
                    T.writes(C[vi, vj])
                    C[vi, vj] = T.float32(0)
            for k, j_1 in T.grid(128, 1):
                with T.block("C_update"):
                    vi = T.axis.spatial(128, i)
                    vj = T.axis.spatial(128, j_1 + j_0)
                    vk = T.axis.reduce(128, k)
                    T.reads(C[vi, vj], A[vi, vk], B[vk, vj])
                    T.writes(C[vi, vj])
                    C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
"""
)

TUNED = (
    HEADER
    + """
        C_global = T.alloc_buffer([128, 128], dtype="float32")
        for i_0_j_0_fused in T.parallel(16, annotations={"pragma_auto_unroll_max_step":16, \
"pragma_unroll_explicit":1}):
            for i_2_init, j_2_init, i_3_init in T.grid(32, 8, 1):
                for j_3_fused_init in T.vectorized(4):
                    with T.block("C_init"):
                        vi = T.axis.spatial(128, i_3_init + i_0_j_0_fused // 4 * 32 + i_2_init)
                        vj = T.axis.spatial(128, i_0_j_0_fused % 4 * 32 + j_2_init * 4 + \
j_3_fused_init)
                        T.reads()
                        T.writes(C_global[vi, vj])
                        T.block_attr({"meta_schedule.tiling_structure":"SSRSRS"})
                        C_global[vi, vj] = T.float32(0)
            for ax0 in T.serial(32):
                for ax1_fused in T.vectorized(32):
                    with T.block("C_global"):
                        v0 = T.axis.spatial(128, i_0_j_0_fused // 4 * 32 + ax0)
                        v1 = T.axis.spatial(128, i_0_j_0_fused % 4 * 32 + ax1_fused)
                        T.reads(C_global[v0, v1])
                        T.writes(C[v0, v1])
                        C[v0, v1] = C_global[v0, v1]
"""
)


def same_after_printing(program: PrimFunc | IRModule) -> None:
    text = program.script()
    again = from_source(text)
    assert again.script() == text
    assert structural_equal(program, again)


@given(st.randoms(use_true_random=False))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_random_programs(rng: Random) -> None:
    same_after_printing(random_func(rng))


@given(st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_random_programs_by_seed(seed: int) -> None:
    same_after_printing(random_func(Random(seed)))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_random_modules(a: int, b: int) -> None:
    functions = {"main": random_func(Random(a)), "not a name": random_func(Random(b))}
    module = IRModule(functions, (("k", [1, None]),))
    same_after_printing(module)
    assert list(from_source(module.script()).functions) == ["main", "not a name"]  # type: ignore[union-attr]  # a module


@pytest.mark.parametrize("text", [PLAIN, DECOMPOSED, TUNED])
def test_tutorial_programs(text: str) -> None:
    module = from_source(text)
    assert isinstance(module, IRModule)
    assert dict(module["main"].attrs) == {"global_symbol": "main", "tir.noalias": True}
    same_after_printing(module)


def test_tutorial_text_is_kept() -> None:
    printed = from_source(DECOMPOSED).script()
    for line in DECOMPOSED.splitlines()[9:]:
        if "T.serial" not in line:
            assert line in printed
    assert "for j_1_init in range(1):" in printed
    assert 'T.parallel(16, annotations={"pragma_auto_unroll_max_step": 16,' in (
        from_source(TUNED).script()
    )


def test_every_library_kernel() -> None:
    from gputune.kernels import KERNELS

    assert len(KERNELS) > 20
    for kernel in KERNELS.values():
        same_after_printing(kernel.build())
