"""Does CuPy load gputune's cubin for the exact architecture, how long does that take, and how much
dynamic shared memory may a block really ask for?"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import probe

TEXT = """
extern "C" __global__ void vadd(float* c, const float* a, const float* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void reverse(float* y, const float* x, int n) {
  extern __shared__ float s[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = s[n - 1 - i];
}
"""


def compile_all() -> dict[str, Any]:
    return {"add": probe.compiled(TEXT, "vadd", "reverse")}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    cp.cuda.Device().synchronize()
    start = time.perf_counter()
    add = probe.Kernel(binaries["add"], "vadd")
    loading = time.perf_counter() - start
    n = 1 << 20
    a, b, c = cp.random.rand(3, n, dtype=cp.float32)
    cp.cuda.Device().synchronize()
    start = time.perf_counter()
    add(-(-n // 256), 256, (c, a, b, ctypes.c_int(n)))
    cp.cuda.Device().synchronize()
    first = time.perf_counter() - start
    start = time.perf_counter()
    add(-(-n // 256), 256, (c, a, b, ctypes.c_int(n)))
    cp.cuda.Device().synchronize()
    second = time.perf_counter() - start
    told = cp.cuda.runtime.getDeviceProperties(0)
    most = int(told["sharedMemPerBlockOptin"])
    count = most // 4
    x = cp.arange(count, dtype=cp.float32)
    y = cp.zeros_like(x)
    probe.Kernel(binaries["add"], "reverse", most)(1, 256, (y, x, ctypes.c_int(count)))
    refused = ""
    try:
        probe.Kernel(binaries["add"], "reverse", most + 4)(1, 256, (y, x, ctypes.c_int(1)))
    except RuntimeError as e:
        refused = str(e)
    return {
        "right": bool(cp.allclose(c, a + b)),
        "load_ms": loading * 1e3,
        "first_call_ms": first * 1e3,
        "second_call_ms": second * 1e3,
        "shared_optin_bytes": most,
        "all_of_it_right": bool((y == x[::-1]).all()),
        "more_is_refused_by": refused,
        "properties": {
            k: v for k, v in told.items() if isinstance(v, int) and ("L2" in k or "Clock" in k)
        },
    }


if __name__ == "__main__":
    probe.main("cubin_through_cupy", compile_all, measure)
