"""Can a tensor map made with ctypes (cuTensorMapEncodeTiled) be passed by value, 128 bytes of it,
through CuPy's launchKernel, and does the tile arrive?"""

from __future__ import annotations

import ctypes
from typing import Any

import probe

TEXT = r"""
struct alignas(64) TensorMap { unsigned char bytes[128]; };
extern "C" __global__ void tile(const __grid_constant__ TensorMap map, float* out, int x, int y) {
  __shared__ alignas(128) float s[16 * 32];
  __shared__ alignas(8) unsigned long long bar;
  unsigned b = (unsigned)__cvta_generic_to_shared(&bar);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(b));
    asm volatile("fence.proxy.async.shared::cta;");
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(b), "r"(16 * 32 * 4));
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];"
        :: "r"((unsigned)__cvta_generic_to_shared(s)), "l"(&map), "r"(x), "r"(y), "r"(b)
        : "memory");
  }
  int tries = 0, done = 0;
  while (!done && tries++ < (1 << 20))
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; "
                 "selp.b32 %0, 1, 0, p; }" : "=r"(done) : "r"(b) : "memory");
  if (!done) __trap();
  for (int i = threadIdx.x; i < 16 * 32; i += blockDim.x) out[i] = s[i];
}
"""


class TensorMap(ctypes.Structure):
    _align_ = 64
    _fields_ = (("bytes", ctypes.c_uint8 * 128),)


def encoded(pointer: int, rows: int, columns: int) -> Any:
    """A map of a float32 matrix in tiles of 16 rows of 32, without swizzle; aligned to 64 bytes."""
    driver = ctypes.CDLL("libcuda.so.1")
    raw = ctypes.create_string_buffer(128 + 64)
    at = -(-ctypes.addressof(raw) // 64) * 64
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    code = driver.cuTensorMapEncodeTiled(
        ctypes.c_void_p(at), 7, 2, ctypes.c_void_p(pointer),  # 7: float32
        (u64 * 2)(columns, rows), (u64 * 1)(4 * columns), (u32 * 2)(32, 16), (u32 * 2)(1, 1),
        0, 0, 0, 0,
    )  # fmt: skip
    if code != 0:
        raise RuntimeError(f"cuTensorMapEncodeTiled answers {code}")
    found = (ctypes.c_uint8 * 128).from_address(at)
    found.keep = raw
    return found


def compile_all() -> dict[str, Any]:
    return {"tile": probe.compiled(TEXT, "tile")}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    m = cp.arange(64 * 128, dtype=cp.float32).reshape(64, 128)
    tensor_map = encoded(m.data.ptr, 64, 128)
    kernel = probe.Kernel(binaries["tile"], "tile")
    right = []
    for x, y in ((0, 0), (32, 16), (96, 48), (112, 56)):
        out = cp.full((16, 32), -1, cp.float32)
        kernel(1, 128, (tensor_map, out, ctypes.c_int(x), ctypes.c_int(y)))
        cp.cuda.Device().synchronize()
        wanted = cp.zeros((16, 32), cp.float32)  # what lies outside comes as zeros
        part = m[y : y + 16, x : x + 32]
        wanted[: part.shape[0], : part.shape[1]] = part
        right.append(bool((out == wanted).all()))
    return {"right": right, "map": bytes(tensor_map).hex()}


if __name__ == "__main__":
    probe.main("tensor_map", compile_all, measure, hopper=True)
