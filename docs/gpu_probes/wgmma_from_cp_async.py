"""Does wgmma compute the right product from shared memory that plain cp.async filled in the
128-byte swizzle, with fence.proxy.async between them?"""

from __future__ import annotations

from typing import Any

import probe

# D (64 x 64, float32) = A (64 x 64, half, K along rows) * B (64 x 64, half, K along rows)^T
ACC = ", ".join(f"%{i}" for i in range(32))
OUT = ", ".join(f'"+f"(d[{i}])' for i in range(32))
TEXT = (
    r"""
__device__ unsigned long long descriptor(unsigned shared) {
  // address / 16; leading offset 1 (not used with this swizzle); 1024 bytes from group to group of
  // 8 rows; bit 62: the 128-byte swizzle
  unsigned long long address = (shared & 0x3FFFF) >> 4;
  return address | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
__device__ void fill(unsigned shared, const unsigned short* g) {
  for (int i = threadIdx.x; i < 64 * 8; i += 128) {  // 16-byte pieces
    int row = i / 8, piece = i % 8;
    unsigned to = shared + row * 128 + ((piece ^ (row % 8)) * 16);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(to), "l"(g + row * 64 + piece * 8) : "memory");
  }
}
extern "C" __global__ void __launch_bounds__(128) product(
    float* out, const unsigned short* a, const unsigned short* b) {
  __shared__ alignas(1024) unsigned short s[2][64 * 64];
  unsigned sa = (unsigned)__cvta_generic_to_shared(s[0]);
  unsigned sb = (unsigned)__cvta_generic_to_shared(s[1]);
  fill(sa, a);
  fill(sb, b);
  asm volatile("cp.async.wait_all;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[32];
  #pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = 0;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  #pragma unroll
  for (int k = 0; k < 4; ++k) {
    unsigned long long da = descriptor(sa + k * 32), db = descriptor(sb + k * 32);
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"""
    + ACC
    + r"""}, %32, %33, 1, 1, 1, 0, 0;" : """
    + OUT
    + r""" : "l"(da), "l"(db));
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  #pragma unroll
  for (int i = 0; i < 32; ++i) {
    int row = warp * 16 + lane / 4 + 8 * ((i / 2) % 2);
    int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    out[row * 64 + column] = d[i];
  }
}
"""
)


def compile_all() -> dict[str, Any]:
    return {"product": probe.compiled(TEXT, "product", arch="sm_90a")}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    kernel = probe.Kernel(binaries["product"], "product")
    a, b = (cp.random.randint(-4, 5, (64, 64)).astype(cp.float16) for _ in range(2))
    out = cp.full((64, 64), -1, cp.float32)
    kernel(1, 128, (out, a, b))
    cp.cuda.Device().synchronize()
    wanted = a.astype(cp.float32) @ b.astype(cp.float32).T
    wrong = int((out != wanted).sum())
    facts = binaries["product"].facts["product"]
    return {"right": wrong == 0, "wrong_elements": wrong, "hgmma": facts.mix.get("HGMMA", 0)}


if __name__ == "__main__":
    probe.main("wgmma_from_cp_async", compile_all, measure, hopper=True)
