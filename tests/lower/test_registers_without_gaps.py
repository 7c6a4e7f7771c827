"""Elements that a thread keeps lie next to each other, however far apart they are in memory."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir.nodes import Alloc, IntImm, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)


def kept(read: str = "i * 32 + t * 4 + v", size: int = 128, steps: int = 4) -> PrimFunc:
    """Eight threads keep `steps` vectors of 4 each, 32 elements apart, and store them times 2."""
    func = from_source(f"""
@T.prim_func
def kept(A: T.Buffer(({size},), "float32"), B: T.Buffer(({size},), "float32")):
    L = T.alloc_buffer(({size},), "float32", scope="local")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(8, thread="threadIdx.x"):
            for i, v in T.grid({steps}, 4):
                with T.block("L"):
                    vx = T.axis.spatial({size}, i * 32 + t * 4 + v)
                    T.where(i * 32 + t * 4 + v < {size})
                    L[vx] = A[vx]
            for i, v in T.grid({steps}, 4):
                with T.block("B"):
                    vx = T.axis.spatial({size}, {read})
                    T.where({read} < {size})
                    B[vx] = L[vx] * T.float32(2)
""")
    assert isinstance(func, PrimFunc)
    return func


def elements(func: PrimFunc) -> int:
    """Of the one local buffer of the one kernel."""
    (kernel,) = lower_gpu(func).kernels
    (b,) = [
        s.buffer
        for s in walk_stmt(kernel.func.body)
        if type(s) is Alloc and s.buffer.scope == "local"
    ]
    (n,) = b.shape
    assert type(n) is IntImm
    return int(n.value)


CASES = [
    (kept(), 16),
    (kept(size=100), 16),  # the last vectors are not there
    (kept(size=33, steps=2), 8),  # from end to end it is as long as the buffer
    (kept("i * 32 + t * 4 + 3 - v"), 100),  # backwards: not plainly steps
    (kept("(i // 2 * 2 + i % 2) * 32 + t * 4 + v"), 16),
]


@pytest.mark.parametrize(("func", "size"), CASES)
def test_gaps_are_closed(func: PrimFunc, size: int) -> None:
    assert elements(func) == size


@needs_compiler
@pytest.mark.parametrize(("func", "size"), CASES)
def test_what_is_kept_comes_back(func: PrimFunc, size: int) -> None:
    source = generate(func)
    a, b = source.host.params
    x = np.arange(int(func.buffers[0].shape[0].value), dtype=np.float32)  # type: ignore[union-attr]  # constant
    report = host_run(host_compile(source), {a.name: x, b.name: None}, order="random", seed=1)
    assert not report.findings, source.text
    np.testing.assert_array_equal(report.outputs[b.name], 2 * x)
