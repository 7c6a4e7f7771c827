// c = a b, row-major, any sizes. A block computes a BM x BN tile of c; a thread TM x TN elements of
// it, in registers. Tiles of a (transposed) and b, BK deep, pass through dynamic shared memory.
#define THREADS ((BM / TM) * (BN / TN))

extern "C" __global__ void __launch_bounds__(THREADS)
gemm(float* __restrict__ c, const float* __restrict__ a, const float* __restrict__ b,
     int m, int n, int k) {
  extern __shared__ float shared[];
  float* as = shared;            // [BK][BM + 1]: the padding keeps the transposing stores apart
  float* bs = as + BK * (BM + 1);  // [BK][BN]
  const int thread = threadIdx.x;
  const int tx = thread % (BN / TN), ty = thread / (BN / TN);
  const int row0 = blockIdx.y * BM, column0 = blockIdx.x * BN;

  float sum[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; ++j) sum[i][j] = 0.0f;
  }

  for (int k0 = 0; k0 < k; k0 += BK) {
    for (int e = thread; e < BM * BK; e += THREADS) {
      int i = e / BK, p = e % BK;
      bool inside = row0 + i < m && k0 + p < k;
      as[p * (BM + 1) + i] = inside ? a[(long long)(row0 + i) * k + k0 + p] : 0.0f;
    }
    for (int e = thread; e < BK * BN; e += THREADS) {
      int p = e / BN, j = e % BN;
      bool inside = k0 + p < k && column0 + j < n;
      bs[p * BN + j] = inside ? b[(long long)(k0 + p) * n + column0 + j] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < BK; ++p) {
      float x[TM], y[TN];
#pragma unroll
      for (int i = 0; i < TM; ++i) x[i] = as[p * (BM + 1) + ty + i * (BM / TM)];
#pragma unroll
      for (int j = 0; j < TN; ++j) y[j] = bs[p * BN + tx + j * (BN / TN)];
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int j = 0; j < TN; ++j) sum[i][j] += x[i] * y[j];
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int j = 0; j < TN; ++j) {
      int row = row0 + ty + i * (BM / TM), column = column0 + tx + j * (BN / TN);
      if (row < m && column < n) c[(long long)row * n + column] = sum[i][j];
    }
  }
}
