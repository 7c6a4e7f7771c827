// y = x transposed. A block moves a TILE x TILE part through shared memory with TILE x ROWS threads;
// PAD columns more keep its columns out of one bank.
extern "C" __global__ void __launch_bounds__(TILE * ROWS)
transpose(float* __restrict__ y, const float* __restrict__ x, int height, int width) {
  __shared__ float tile[TILE][TILE + PAD];
  int column = blockIdx.x * TILE + threadIdx.x;
  int row0 = blockIdx.y * TILE;
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS) {
    if (row0 + r < height && column < width)
      tile[r][threadIdx.x] = x[(long long)(row0 + r) * width + column];
  }
  __syncthreads();
  column = blockIdx.y * TILE + threadIdx.x;
  row0 = blockIdx.x * TILE;
#pragma unroll
  for (int r = threadIdx.y; r < TILE; r += ROWS) {
    if (row0 + r < width && column < height)
      y[(long long)(row0 + r) * height + column] = tile[threadIdx.x][r];
  }
}
