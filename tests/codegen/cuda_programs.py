"""CUDA programs for the tests of the compiler, and what they are compiled with."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch

ARCHS = ("sm_75", "sm_80", "sm_90a", "sm_120")

needs_nvrtc = pytest.mark.skipif(
    nvrtc.load() is None, reason="NVRTC is not installed: pip install gputune[test]"
)


def program(
    text: str,
    *kernels: str,
    prelude: bool = False,
    options: tuple[str, ...] = (),
    name: str = "prog",
) -> CudaSource:
    """A program whose host part launches these kernels without arguments."""
    launches = [Launch(k, (1, 1, 1), (32, 1, 1), ()) for k in kernels]
    return CudaSource(text, HostProgram(name, (), tuple(launches)), options, prelude)


def cuobjdump() -> str | None:
    """NVIDIA's own reader of cubins, from the PATH or its wheel."""
    for place in sys.path:
        for path in sorted(Path(place, "nvidia").glob("*/bin/cuobjdump")):
            return str(path)
    return shutil.which("cuobjdump")


def varied_kernel(i: int) -> str:
    """One of many small kernels that differ in registers, spills, shared memory, stack, barriers.

    The kernel is called `k{i}`.
    """
    live = (1, 4, 9, 24, 60, 130)[i % 6]  # values that live at once
    threads = (0, 64, 128, 256, 1024)[i % 5]
    shared = (0, 32, 100, 1024, 3000)[i // 2 % 5]  # floats
    barriers = i // 3 % 4
    local = (0, 0, 7, 40)[i // 5 % 4]  # elements of an array with an index that is not known
    number = ("float", "double", "int")[i // 7 % 3]
    calls = i % 11 == 3
    bounds = f"__launch_bounds__({threads}{', 2' if i % 4 == 1 else ''}) " if threads else ""
    lines = [f'extern "C" __global__ void {bounds}k{i}({number}* a, const {number}* b, int n) {{']
    lines.append("  const int t = threadIdx.x;")
    if shared:
        lines += [f"  __shared__ float s[{shared}];", f"  s[t % {shared}] = (float)b[t];"]
        lines += ["  __syncthreads();", f"  a[t] = ({number})s[(t + 1) % {shared}];"]
    lines += [f'  asm volatile("bar.sync {b}, 64;" ::: "memory");' for b in range(1, barriers + 1)]
    lines += [f"  {number} v{j} = b[t + {j} * n];" for j in range(live)]
    lines.append("  #pragma unroll 1\n  for (int i = 0; i < n; ++i) {")
    lines += [f"    v{j} = v{j} * v{(j + 1) % live} + b[i + {j}];" for j in range(live)]
    lines.append("  }")
    if local:
        lines += [
            f"  {number} l[{local}];",
            f"  for (int i = 0; i < {local}; ++i) l[i] = b[i * n];",
        ]
        lines.append(f"  a[t + 3] = l[n % {local}];")
    if calls:
        lines.append(f"  a[t + 5] = deep{i}(b[t], n);")
    lines += [f"  a[t + {j} * n] = v{j};" for j in range(live)]
    lines.append("}")
    callee = (
        f"__device__ __noinline__ {number} deep{i}({number} x, int n) {{\n"
        f"  {number} big[20];\n  for (int i = 0; i < 20; ++i) big[i] = x * ({number})i;\n"
        f"  return n > 3 ? deep{i}(big[n % 20], n - 1) + big[(n + 1) % 20] : x;\n}}\n"
    )
    return (callee if calls else "") + "\n".join(lines) + "\n"
