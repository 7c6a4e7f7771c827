// y[r] = sum of row r of x. One block a row: each of BX threads adds every BX-th element, UNROLL of
// them in sums of their own; then the threads' sums are added, in registers of a warp where SHUFFLE
// is set, else in shared memory.
extern "C" __global__ void __launch_bounds__(BX)
reduction(float* __restrict__ y, const float* __restrict__ x, int columns) {
  const float* row = x + (long long)blockIdx.x * columns;
  float part[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) part[u] = 0.0f;
  int i = threadIdx.x;
  for (; i + (UNROLL - 1) * BX < columns; i += UNROLL * BX) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) part[u] += row[i + u * BX];
  }
  for (; i < columns; i += BX) part[0] += row[i];
  float sum = part[0];
#pragma unroll
  for (int u = 1; u < UNROLL; ++u) sum += part[u];

#if SHUFFLE
  __shared__ float warps[BX / 32];
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < BX / 32; ++w) sum += warps[w];
    y[blockIdx.x] = sum;
  }
#else
  __shared__ float sums[BX];
  sums[threadIdx.x] = sum;
  for (int step = BX / 2; step > 0; step >>= 1) {
    __syncthreads();
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
  }
  if (threadIdx.x == 0) y[blockIdx.x] = sums[0];
#endif
}
