"""Small programs for the GPU tests: compiled for sm_90, run on a FakeGpu."""

from __future__ import annotations

from functools import cache

from gputune.ir.nodes import PrimFunc
from gputune.runtime.cuda_build import CudaCode, compile_function
from gputune.script import from_source
from gputune.target import Target

SM90 = Target("cuda -arch=sm_90")

ADD = """
@T.prim_func
def {name}(A: T.Buffer((64,), "{dtype}"), B: T.Buffer((64,), "{dtype}"),
           C: T.Buffer((64,), "{dtype}")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(32, "threadIdx.x"):
            with T.block("C"):
                v = T.axis.spatial(64, i * 32 + j)
                C[v] = A[v] + B[v]
"""

TWO_STEPS = """
@T.prim_func
def steps(A: T.Buffer((64,), "float32"), s: T.float32, C: T.Buffer((64,), "float32")):
    with T.block("root"):
        W = T.alloc_buffer((64,), "float32")
        for i in T.thread_binding(64, "blockIdx.x"):
            with T.block("W"):
                v = T.axis.spatial(64, i)
                W[v] = A[v] * s
        for i in T.thread_binding(64, "blockIdx.x"):
            with T.block("C"):
                v = T.axis.spatial(64, i)
                C[v] = W[63 - v]
"""


def add_func(name: str = "add", dtype: str = "float32") -> PrimFunc:
    """C = A + B, 64 elements, a thread for each."""
    func = from_source(ADD.format(name=name, dtype=dtype))
    assert isinstance(func, PrimFunc)
    return func


@cache
def add_code(name: str = "add", dtype: str = "float32") -> CudaCode:
    """The same, compiled."""
    return compile_function(add_func(name, dtype), SM90, name)


@cache
def steps_code() -> CudaCode:
    """C = reverse(A * s) by two kernels and a workspace."""
    func = from_source(TWO_STEPS)
    assert isinstance(func, PrimFunc)
    return compile_function(func, SM90, "steps")
