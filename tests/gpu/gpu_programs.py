"""What the tests on a GPU run, and in which processes what breaks a CUDA context is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc
from gputune.kernels import Kernel
from gputune.script import from_source

ROOT = Path(__file__).resolve().parents[2]


def on_gpu(cp: Any, args: list[Any]) -> list[Any]:
    """NumPy arrays on the GPU; numbers as they are. What CuPy has no dtype for goes as bits."""

    def put(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        narrow = dtypes.from_numpy(x.dtype) in ("bfloat16", "float8_e4m3", "float8_e5m2")
        return cp.asarray(x.view(f"u{x.itemsize}") if narrow else x)

    return [put(x) for x in args]


def check(cp: Any, kernel: Kernel, shape: Any, function: Any, func: PrimFunc) -> None:
    """Run a compiled function of a kernel of the library on the device; equal to NumPy."""
    args = kernel.arguments(shape, seed=7)
    expected = kernel.expected(args, shape)
    device = on_gpu(cp, list(args))
    names = [b.name for b in func.buffers]
    for at, name in enumerate(names):
        if name in kernel.outputs:
            device[at].view("u1").fill(0xA5)  # what nothing writes shows
    function(*device)
    outputs = [(a, cp.asnumpy(d)) for a, d, n in zip(args, device, names) if n in kernel.outputs]
    for (host, got), want in zip(outputs, expected, strict=True):
        g = got.view(host.dtype).astype(np.float64)
        w = np.asarray(want).astype(np.float64)
        scale = max(1.0, float(np.max(np.abs(w)))) if w.size else 1.0
        limit = 1e-4 if host.dtype.itemsize >= 4 else 3e-2
        assert g.shape == w.shape
        error = float(np.max(np.abs(g - w))) / scale if g.size else 0.0
        assert error < limit, f"{kernel.name} {dict(shape)}: greatest error {error:.3g}"


VADD = """
@T.prim_func
def vadd(A: T.Buffer(({n},), "float32"), B: T.Buffer(({n},), "float32"),
         C: T.Buffer(({n},), "float32")):
    for i in T.thread_binding({blocks}, "blockIdx.x"):
        for j in T.thread_binding(256, "threadIdx.x"):
            with T.block("C"):
                v = T.axis.spatial({n}, i * 256 + j)
                T.where(i * 256 + j < {n})
                C[v] = A[v] + B[v]
"""

TWO_KERNELS = """
@T.prim_func
def steps(A: T.Buffer((4096,), "float32"), C: T.Buffer((4096,), "float32")):
    with T.block("root"):
        W = T.alloc_buffer((4096,), "float32")
        for i in T.thread_binding(16, "blockIdx.x"):
            for j in T.thread_binding(256, "threadIdx.x"):
                with T.block("W"):
                    v = T.axis.spatial(4096, i * 256 + j)
                    W[v] = A[v] * T.float32(3)
        for i in T.thread_binding(16, "blockIdx.x"):
            for j in T.thread_binding(256, "threadIdx.x"):
                with T.block("C"):
                    v = T.axis.spatial(4096, i * 256 + j)
                    C[v] = W[4095 - v] + T.float32(1)
"""


def vadd(n: int = 100_000) -> PrimFunc:
    """C = A + B."""
    func = from_source(VADD.format(n=n, blocks=-(-n // 256)))
    assert isinstance(func, PrimFunc)
    return func


def two_kernels() -> PrimFunc:
    """C = reverse(3 A) + 1 by two kernels and a workspace."""
    func = from_source(TWO_KERNELS)
    assert isinstance(func, PrimFunc)
    return func


def run_alone(program: str, timeout_s: float = 120) -> str:
    """The stdout of a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
