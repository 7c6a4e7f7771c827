"""Right kernels with arguments and what NumPy computes, and kernels with one planted fault each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch, Memset, Param, Workspace

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)


def floats(*shape: int) -> Array:
    """Whole numbers, so that sums in any order are equal."""
    return RNG.integers(-8, 9, shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A program, the values of its parameters, and what it shall compute."""

    name: str
    source: CudaSource
    values: Mapping[str, Any]
    expected: Mapping[str, Array]

    def with_text(self, text: str) -> Case:
        return replace(self, source=replace(self.source, text=text))


def program(
    text: str,
    params: list[Param],
    *steps: Launch | Memset,
    workspaces: tuple[Workspace, ...] = (),
    options: tuple[str, ...] = (),
) -> CudaSource:
    host = HostProgram("test", tuple(params), steps, workspaces)
    return CudaSource(text, host, options, prelude=False)


VADD = """\
extern "C" __global__ void vadd(float* c, const float* __restrict__ a, const float* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
"""


def vadd() -> Case:
    n = 1000
    a, b = floats(n), floats(n)
    params = [
        Param("c", "float32", n, True), Param("a", "float32", n), Param("b", "float32", n),
        Param("n", "int32"),
    ]  # fmt: skip
    launch = Launch("vadd", (8, 1, 1), (128, 1, 1), ("c", "a", "b", "n"))
    return Case("vadd", program(VADD, params, launch), dict(a=a, b=b, n=n), dict(c=a + b))


REDUCTION = """\
#define WARPS 4
extern "C" __global__ void partial_sums(const float* a, float* sums, int n) {
  __shared__ float of_warp[WARPS];
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += a[i];
  for (int m = 16; m > 0; m >>= 1) v += __shfl_down_sync(0xffffffffu, v, m);
  if (threadIdx.x % warpSize == 0) of_warp[threadIdx.x / warpSize] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < WARPS; ++w) v += of_warp[w];
    sums[blockIdx.x] = v;
  }
}

template <int N>
__device__ __forceinline__ float tree(float v) {
  __shared__ float s[N];
  s[threadIdx.x] = v;
  for (int m = N / 2; m > 0; m /= 2) {
    __syncthreads();
    if (threadIdx.x < m) s[threadIdx.x] += s[threadIdx.x + m];
  }
  __syncthreads();
  return s[0];
}

extern "C" __global__ void total(const float* sums, float* out) {
  float v = tree<8>(sums[threadIdx.x]);
  if (threadIdx.x == 5) *out = v;
}
"""


def reduction() -> Case:
    n = 5000
    a = floats(n)
    params = [Param("a", "float32", n), Param("out", "float32", 1, True), Param("n", "int32")]
    source = program(
        REDUCTION, params,
        Launch("partial_sums", (8, 1, 1), (128, 1, 1), ("a", "sums", "n")),
        Launch("total", (1, 1, 1), (8, 1, 1), ("sums", "out")),
        workspaces=(Workspace("sums", "float32", 8),),
    )  # fmt: skip
    return Case("reduction", source, dict(a=a, n=n), dict(out=a.sum(keepdims=True)))


GEMM = """\
extern "C" __global__ void __launch_bounds__(T * T) gemm(const float* A, const float* B, float* C,
                                                         int M, int N, int K) {
  __shared__ float As[T][T], Bs[T][T + 1];
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * T + y, col = blockIdx.x * T + x;
  float acc = 0;
  for (int k0 = 0; k0 < K; k0 += T) {
    As[y][x] = row < M && k0 + x < K ? A[row * K + k0 + x] : 0.0f;
    Bs[y][x] = k0 + y < K && col < N ? B[(k0 + y) * N + col] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < T; ++k) acc += As[y][k] * Bs[k][x];
    __syncthreads();
  }
  if (row < M && col < N) C[row * N + col] = acc;
}
"""


def gemm() -> Case:
    m, n, k, t = 37, 30, 25, 8
    a, b = floats(m, k), floats(k, n)
    params = [
        Param("A", "float32", m * k), Param("B", "float32", k * n),
        Param("C", "float32", m * n, True),
        Param("M", "int32"), Param("N", "int32"), Param("K", "int32"),
    ]  # fmt: skip
    launch = Launch("gemm", (4, 5, 1), (t, t, 1), ("A", "B", "C", "M", "N", "K"))
    source = program(GEMM, params, launch, options=(f"-DT={t}",))
    return Case("gemm", source, dict(A=a, B=b, M=m, N=n, K=k), dict(C=a @ b))


TRANSPOSE = """\
extern "C" __global__ void transpose(const float* in, float* out, int rows, int cols) {
  extern __shared__ __align__(16) float tile[];
  int x = blockIdx.x * 16 + threadIdx.x, y0 = blockIdx.y * 16;
  for (int y = threadIdx.y; y < 16; y += blockDim.y)
    if (x < cols && y0 + y < rows) tile[y * 17 + threadIdx.x] = in[(y0 + y) * cols + x];
  __syncthreads();
  int u = y0 + threadIdx.x, v0 = blockIdx.x * 16;
  for (int v = threadIdx.y; v < 16; v += blockDim.y)
    if (u < rows && v0 + v < cols) out[(v0 + v) * rows + u] = tile[threadIdx.x * 17 + v];
}
"""


def transpose() -> Case:
    rows, cols = 40, 21
    a = floats(rows, cols)
    params = [
        Param("in", "float32", rows * cols), Param("out", "float32", rows * cols, True),
        Param("rows", "int32"), Param("cols", "int32"),
    ]  # fmt: skip
    launch = Launch("transpose", (2, 3, 1), (16, 4, 1), ("in", "out", "rows", "cols"), 16 * 17 * 4)
    values = {"in": a, "rows": rows, "cols": cols}
    return Case("transpose", program(TRANSPOSE, params, launch), values, dict(out=a.T.copy()))


STENCIL = """\
#define R 2
extern "C" __global__ void stencil(const float* in, float* out, int n) {
  __shared__ float s[64 + 2 * R];
  int i = blockIdx.x * 64 + threadIdx.x;
  s[threadIdx.x + R] = i < n ? in[i] : 0.0f;
  if (threadIdx.x < R) {
    s[threadIdx.x] = i >= R ? in[i - R] : 0.0f;
    s[threadIdx.x + 64 + R] = i + 64 < n ? in[i + 64] : 0.0f;
  }
  __syncthreads();
  float sum = 0;
  for (int k = 0; k <= 2 * R; ++k) sum += s[threadIdx.x + k];
  if (i < n) out[i] = sum;
}
"""


def stencil() -> Case:
    n = 300
    a = floats(n)
    params = [Param("in", "float32", n), Param("out", "float32", n, True), Param("n", "int32")]
    launch = Launch("stencil", (5, 1, 1), (64, 1, 1), ("in", "out", "n"))
    expected = np.convolve(a, np.ones(5, np.float32), "same")
    return Case("stencil", program(STENCIL, params, launch), {"in": a, "n": n}, dict(out=expected))


VECTORS = """\
extern "C" __global__ void scale(const float4* in, float4* out, gt_half* narrow, float by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float4 v = __ldg(in + i);
  out[i] = make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
  ushort4 h{gt_to_half(v.x).x, gt_to_half(v.y).x, gt_to_half(v.z).x, gt_to_half(v.w).x};
  reinterpret_cast<ushort4*>(narrow)[i] = h;
}
"""


def vectors() -> Case:
    n = 256
    a = floats(n)
    params = [
        Param("in", "float32", n), Param("out", "float32", n, True),
        Param("narrow", "float16", n, True), Param("by", "float32"),
    ]  # fmt: skip
    launch = Launch("scale", (2, 1, 1), (32, 1, 1), ("in", "out", "narrow", "by"))
    expected = dict(out=a * 3, narrow=a.astype(np.float16))
    return Case("vectors", program(VECTORS, params, launch), {"in": a, "by": 3.0}, expected)


HISTOGRAM = """\
__device__ unsigned int finished;

extern "C" __global__ void histogram(const int* a, int* counts, int* largest, int* order, int n) {
  __shared__ int own[16];
  __shared__ bool last;
  if (threadIdx.x < 16) own[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd(&own[a[i]], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], own[threadIdx.x]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(&finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (last && threadIdx.x < 32) {  // the block that comes last sees what all have counted
    const int own_count = threadIdx.x < 16 ? counts[threadIdx.x] : -1;
    int v = own_count;
    unsigned lanes = __activemask();
    v = __reduce_max_sync(lanes, v);
    if (threadIdx.x == 0) *largest = v;
    if (threadIdx.x < 16) {
      unsigned mask = __ballot_sync(0xffffu, own_count > n / 16);
      if (threadIdx.x == 0) *order = __popc(mask);
    }
  }
}
"""


def histogram() -> Case:
    n = 1000
    a = RNG.integers(0, 16, n).astype(np.int32)
    counts = np.bincount(a, minlength=16).astype(np.int32)
    params = [
        Param("a", "int32", n), Param("counts", "int32", 16, True),
        Param("largest", "int32", 1, True), Param("order", "int32", 1, True), Param("n", "int32"),
    ]  # fmt: skip
    source = program(
        HISTOGRAM, params, Memset("counts", 0),
        Launch("histogram", (4, 1, 1), (64, 1, 1), ("a", "counts", "largest", "order", "n")),
    )  # fmt: skip
    expected = dict(
        counts=counts, largest=counts.max(keepdims=True),
        order=np.array([(counts > n // 16).sum()], np.int32),
    )  # fmt: skip
    return Case("histogram", source, dict(a=a, n=n), expected)


PIPELINE = """\
extern "C" __global__ void rows(const float* in, float* out, int n) {
  __shared__ __align__(16) float s[2][64];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(&s[0][t * 4], in + t * 4, 16);
  __pipeline_commit();
  float sum = 0;
  for (int k = 0; k < n; ++k) {
    if (k + 1 < n) __pipeline_memcpy_async(&s[(k + 1) % 2][t * 4], in + (k + 1) * 64 + t * 4, 16);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    for (int j = 0; j < 4; ++j) sum += s[k % 2][(t * 4 + j + 17) % 64];
    __syncthreads();
  }
  out[t] = sum;
}
"""


def pipeline() -> Case:
    n = 5
    a = floats(n, 64)
    params = [
        Param("in", "float32", n * 64),
        Param("out", "float32", 16, True),
        Param("n", "int32"),
    ]
    launch = Launch("rows", (1, 1, 1), (16, 1, 1), ("in", "out", "n"))
    expected = np.roll(a, -17, axis=1).reshape(n, 16, 4).sum(axis=(0, 2))
    return Case(
        "pipeline", program(PIPELINE, params, launch), {"in": a, "n": n}, dict(out=expected)
    )


MAKERS: tuple[Callable[[], Case], ...] = (
    vadd, reduction, gemm, transpose, stencil, vectors, histogram, pipeline,
)  # fmt: skip
RIGHT: dict[str, Case] = {make.__name__: make() for make in MAKERS}


def without_one_barrier(case: Case) -> list[tuple[str, Case]]:
    """The case once for each of its barriers, without that one."""
    text, out = case.source.text, []
    for at, match in enumerate(re.finditer(r"__syncthreads\(\);", text)):
        out.append(
            (f"{case.name}-{at}", case.with_text(text[: match.start()] + text[match.end() :]))
        )
    return out


# ----------------------------------------------------------------------------- planted faults
@dataclass(frozen=True)
class Fault:
    """A body of `extern "C" __global__ void k(float* out, const float* in, int n)` that is wrong.

    `out` has 64 elements and is undefined, `in` 64 that are equal to their index; two blocks of 32
    threads run, in which `t` is the thread, `i` its place in the grid.
    """

    name: str
    body: str
    kind: str
    buffer: str | None = None
    element: int | None = None
    block: tuple[int, int, int] | None = None
    thread: int | None = None
    other: int | None = None
    said: str = ""
    severity: str = "error"
    before: str = ""
    outputs: bool = True
    shared_bytes: int = 0
    others: tuple[str, ...] = ()  # kinds that follow from it

    def source(self) -> CudaSource:
        text = (
            f"{self.before}\n"
            'extern "C" __global__ void k(float* out, const float* in, int n) {\n'
            "  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;\n"
            f"{self.body}\n}}\n"
        )
        params = [
            Param("out", "float32", 64, True),
            Param("in", "float32", 64),
            Param("n", "int32"),
        ]
        launch = Launch("k", (2, 1, 1), (32, 1, 1), ("out", "in", "n"), self.shared_bytes)
        return program(text, params, launch)


FAULTS = (
    Fault("read-past-end", "out[i] = in[i + 1];", "out-of-bounds", "in", 64, (1, 0, 0), 31,
          said="reads element 64 of in, which has 64 elements"),
    Fault("read-before-start", "out[i] = in[i - 3];", "out-of-bounds", "in", -3, (0, 0, 0), 0),
    Fault("far-away", "out[i] = i == 40 ? in[1 << 28] : 0;", "out-of-bounds", "in", 1 << 28,
          (1, 0, 0), 8),
    Fault("write-past-end", "out[i + 60 * (i == 37)] = in[i];", "out-of-bounds", "out", 97,
          (1, 0, 0), 5, said="writes"),
    Fault("vector-past-end", "((float4*)out)[i * (i < 17)] = make_float4(1, 1, 1, 1);",
          "out-of-bounds", "out", 64, (0, 0, 0), 16, others=("global-race",)),
    Fault("null", "if (i == 33) out = (float*)nullptr; out[i] = 0;", "out-of-bounds", None, None,
          (1, 0, 0), 1, said="null pointer", others=("crash",)),
    Fault("write-to-input", "if (i == 9) ((float*)in)[5] = 1; out[i] = 0;", "write-to-input", "in",
          5, (0, 0, 0), 9),
    Fault("shared-index", "__shared__ float s[32]; s[t + 1] = 0; out[i] = 0;", "out-of-bounds",
          None, 32, (0, 0, 0), 31, said="float"),
    Fault("local-index", "float v[4]; for (int k = 0; k < n; ++k) v[k & 3] = in[k];"
          "out[i] = v[t / 7];", "out-of-bounds", None, 4, (0, 0, 0), 28),
    Fault("shared-pointer", "__shared__ float s[32]; float* p = s + n; p[t] = 0; out[i] = 0;",
          "out-of-bounds", None, None, (0, 0, 0)),
    Fault("dynamic-too-small", "extern __shared__ float d[]; d[t] = 0; out[i] = 0;",
          "out-of-bounds", "d", 16, (0, 0, 0), 16, shared_bytes=64),
    Fault("misaligned", "float4 v = *(const float4*)(in + t); out[i] = v.x;", "misaligned", "in", 1,
          (0, 0, 0), 1, said="16 bytes"),
    Fault("misaligned-8", "if (t < 8) *(float2*)(out + 32 * blockIdx.x + 2 * t + (i == 35)) ="
          "make_float2(0, 0);", "misaligned", "out", 39, (1, 0, 0), 3, said="8 bytes",
          others=("global-race",)),
    Fault("shared-write-read", "__shared__ float s[32]; s[t] = in[i]; out[i] = s[t ^ 1];",
          "shared-race", "s", 1, (0, 0, 0), 1, 0, said="writes", others=("uninitialised-read",)),
    Fault("shared-read-write", "__shared__ float s[32]; s[t] = 1; __syncthreads();"
          "out[i] = s[t ^ 1]; s[t] = 2;", "shared-race", "s", 0, (0, 0, 0), 1, 0, said="reads"),
    Fault("shared-write-write", "__shared__ int s; s = t; __syncthreads(); out[i] = s;",
          "shared-race", "s", 0, (0, 0, 0), 1, 0, said="wrote, with"),
    Fault("shared-same-value", "__shared__ int s; s = 5; __syncthreads(); out[i] = s;",
          "shared-race", "s", 0, (0, 0, 0), 1, 0, said="same value", severity="warning"),
    Fault("shared-bytes", "__shared__ unsigned char s[32]; s[t] = t; __syncthreads();"
          "s[(t + 1) % 32] = s[t]; out[i] = 0;", "shared-race", "s", 1, (0, 0, 0), 1, 0),
    Fault("atomic-and-plain", "__shared__ int s; s = 0; __syncthreads(); atomicAdd(&s, 1);"
          "out[i] = s;", "shared-race", "s", 0, (0, 0, 0), 1, 0, said="atomically"),
    Fault("warp-sync-missing", "__shared__ int s[32]; s[t] = t; int v = s[31 - t];"
          "__syncwarp(); out[i] = v;", "shared-race", "s", 16, (0, 0, 0), 16, 15,
          others=("uninitialised-read",)),
    Fault("global-in-block", "out[i] = 1; out[i] = out[i] + out[n - 64 + (i ^ 1)];",
          "global-race", "out", 1, (0, 0, 0), 1, 0, said="no barrier",
          others=("uninitialised-read",)),
    Fault("global-blocks", "out[t] = i;", "global-race", "out", 0, (1, 0, 0), 0, 0,
          said="another block"),
    Fault("global-same-value", "out[t] = t;", "global-race", "out", 0, (1, 0, 0), 0, 0,
          said="same value", severity="warning"),
    Fault("global-read-other-block", "out[i] = 1; if (i == 63) out[i] = out[0];", "global-race",
          "out", 0, (1, 0, 0), 31, 0, said="reads"),
    Fault("global-write-after-read", "out[i] = 1; if (i == 5) out[5] += out[5]; "
          "if (i == 35) out[5] = 7;", "global-race", "out", 5, (1, 0, 0), 3, 5),
    Fault("barrier-after-return", "out[i] = 1; if (t == 7) return; __syncthreads();",
          "divergent-barrier", None, None, (0, 0, 0), None, 7, said="1 of 32 threads ended"),
    Fault("barrier-in-branch", "out[i] = 1;\nif (t < 20)\n__syncthreads();\nelse\n__syncthreads();",
          "divergent-barrier", None, None, (0, 0, 0), 20, 0, said="line"),
    Fault("deadlock", "out[i] = 1; if (t == 3) __syncwarp(); else __syncthreads();", "deadlock",
          None, None, (0, 0, 0), 0, 3, said="31 threads"),
    Fault("warp-divergence", "int v = t == 4 ? __shfl_sync(~0u, t, 0) : __shfl_xor_sync(~0u, t, 1);"
          "out[i] = v;", "warp-divergence", None, None, (0, 0, 0), 4, 0, said="__shfl_sync"),
    Fault("warp-mask", "out[i] = __ballot_sync(0xffff0000u | (t == 3 ? 0 : 1u << t), 1);",
          "warp-mask", None, None, (0, 0, 0), 3, others=("deadlock",)),
    Fault("undefined-lane", "float v = in[i]; if (t < 16) v = __shfl_xor_sync(0xffffu, v, 16);"
          "out[i] = v;", "undefined-lane", None, None, (0, 0, 0), 0, 16, said="lane 16"),
    Fault("uninitialised-shared", "__shared__ float s[32]; if (t != 9) s[t] = 1; __syncthreads();"
          "out[i] = s[t];", "uninitialised-read", "s", 9, (0, 0, 0), 9),
    Fault("uninitialised-output", "out[i] += 1;", "uninitialised-read", "out", 0, (0, 0, 0), 0),
    Fault("in-flight", "__shared__ __align__(16) float s[128];"
          "__pipeline_memcpy_async(&s[t * 4], in, 16); __pipeline_commit();"
          "out[i] = s[t * 4]; __pipeline_wait_prior(0);", "in-flight", "s", 0, (0, 0, 0), 0, 0),
    Fault("trap", "if (i == 44) __trap(); out[i] = 0;", "trap", None, None, (1, 0, 0), 12),
    Fault("assertion", "assert(i < 50); out[i] = 0;", "assertion", None, None, (1, 0, 0), 18,
          said="i < 50"),
    Fault("divide-by-zero", "out[i] = n / (i - 40 + (n - 64));", "crash", None, None, (1, 0, 0), 8,
          said="zero"),
    Fault("endless", "volatile int v = 1; while (v) {} out[i] = 0;", "endless-loop", None, None,
          (0, 0, 0), 0),
    Fault("stack", "volatile float v[80000]; v[t] = 1; v[79999 - t] = 2; out[i] = v[t];",
          "stack-overflow", None, None, (0, 0, 0), 0),
)  # fmt: skip
