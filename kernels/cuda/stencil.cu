// One step of heat conduction: y = x + (sum of the four neighbours - 4 x) / 8 inside, y = x on the
// edge. A block has BX x BY threads, a thread computes ROWS points below each other. Where CACHED is
// set, the block's part of x and its rim lie in shared memory.
#define TALL (BY * ROWS)

extern "C" __global__ void __launch_bounds__(BX * BY)
stencil(float* __restrict__ y, const float* __restrict__ x, int height, int width) {
  const int column0 = blockIdx.x * BX, row0 = blockIdx.y * TALL;
#if CACHED
  __shared__ float tile[TALL + 2][BX + 2];
  for (int e = threadIdx.y * BX + threadIdx.x; e < (TALL + 2) * (BX + 2); e += BX * BY) {
    int row = row0 + e / (BX + 2) - 1, column = column0 + e % (BX + 2) - 1;
    bool inside = row >= 0 && row < height && column >= 0 && column < width;
    tile[e / (BX + 2)][e % (BX + 2)] = inside ? x[(long long)row * width + column] : 0.0f;
  }
  __syncthreads();
#define AT(row, column) tile[(row) - row0 + 1][(column) - column0 + 1]
#else
#define AT(row, column) x[(long long)(row) * width + (column)]
#endif
  const int column = column0 + threadIdx.x;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    int row = row0 + threadIdx.y + r * BY;
    if (row >= height || column >= width) continue;
    float here = AT(row, column), next = here;
    if (row > 0 && row < height - 1 && column > 0 && column < width - 1) {
      float around = AT(row - 1, column) + AT(row + 1, column) + AT(row, column - 1) +
                     AT(row, column + 1);
      next = here + 0.125f * (around - 4.0f * here);
    }
    y[(long long)row * width + column] = next;
  }
}
