"""How do the tensor cores round? mma.m16n8k16 (half in, float32 sum) on the device beside sums in
float64 and in float32 on the host: what a host emulation must allow for."""

from __future__ import annotations

from typing import Any

import numpy as np
import probe

TEXT = r"""
extern "C" __global__ void mma(float* d, const unsigned* a, const unsigned* b, const float* c) {
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const unsigned* A = a + (size_t)blockIdx.x * 16 * 8;  // 16 rows of 8 pairs
  const unsigned* B = b + (size_t)blockIdx.x * 8 * 8;   // 8 columns of 8 pairs
  const float* C = c + (size_t)blockIdx.x * 128;
  float* D = d + (size_t)blockIdx.x * 128;
  float x0, x1, x2, x3;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
               "{%8,%9}, {%10,%11,%12,%13};"
               : "=f"(x0), "=f"(x1), "=f"(x2), "=f"(x3)
               : "r"(A[g * 8 + t]), "r"(A[(g + 8) * 8 + t]), "r"(A[g * 8 + t + 4]),
                 "r"(A[(g + 8) * 8 + t + 4]), "r"(B[g * 8 + t]), "r"(B[g * 8 + t + 4]),
                 "f"(C[g * 8 + 2 * t]), "f"(C[g * 8 + 2 * t + 1]), "f"(C[(g + 8) * 8 + 2 * t]),
                 "f"(C[(g + 8) * 8 + 2 * t + 1]));
  D[g * 8 + 2 * t] = x0;
  D[g * 8 + 2 * t + 1] = x1;
  D[(g + 8) * 8 + 2 * t] = x2;
  D[(g + 8) * 8 + 2 * t + 1] = x3;
}
"""
BLOCKS = 4096


def compile_all() -> dict[str, Any]:
    return {"mma": probe.compiled(TEXT, "mma")}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    kernel = probe.Kernel(binaries["mma"], "mma")
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    for name, spread in (("equal_sizes", 0.0), ("sizes_over_2^20", 10.0)):
        scale = 2.0 ** rng.uniform(-spread, spread, (2, BLOCKS, 16, 16))
        a = (rng.uniform(-1, 1, (BLOCKS, 16, 16)) * scale[0]).astype(np.float16)
        b = (rng.uniform(-1, 1, (BLOCKS, 8, 16)) * scale[1][:, :8]).astype(np.float16)
        c = rng.uniform(-1, 1, (BLOCKS, 16, 8)).astype(np.float32)
        d = cp.zeros((BLOCKS, 16, 8), cp.float32)
        kernel(BLOCKS, 32, (d, cp.asarray(a), cp.asarray(b), cp.asarray(c)))
        got = cp.asnumpy(d).astype(np.float64)
        terms = a[:, :, None, :].astype(np.float64) * b[:, None, :, :].astype(np.float64)
        exact = terms.sum(-1) + c
        in_order = c.copy()
        for k in range(16):
            in_order = (in_order + terms[..., k].astype(np.float32)).astype(np.float32)
        largest = np.maximum(np.abs(terms).max(-1), np.abs(c))
        ulp = 2.0 ** (np.floor(np.log2(largest)) - 23)
        off = (got - exact) / ulp
        out[name] = {
            "equal_to_rounded_float64": float((got == exact.astype(np.float32)).mean()),
            "equal_to_float32_in_order": float((got == in_order).mean()),
            "ulps_of_the_largest_term": [float(off.min()), float(off.max())],
            "towards_zero": float((np.abs(got) <= np.abs(exact)).mean()),
        }
    out["right"] = bool(np.abs(off).max() < 32)
    return out


if __name__ == "__main__":
    probe.main("mma_rounding", compile_all, measure)
