// c = a + b. BX threads a block; each adds VEC neighbours with one load of each input.
#if VEC == 4
typedef float4 vec;
#elif VEC == 2
typedef float2 vec;
#else
typedef float vec;
#endif

extern "C" __global__ void __launch_bounds__(BX)
vadd(float* __restrict__ c, const float* __restrict__ a, const float* __restrict__ b, int n) {
  int first = (blockIdx.x * BX + threadIdx.x) * VEC;
  if (first + VEC <= n) {
    vec x = *reinterpret_cast<const vec*>(a + first);
    vec y = *reinterpret_cast<const vec*>(b + first);
#if VEC == 1
    c[first] = x + y;
#else
    x.x += y.x;
    x.y += y.y;
#if VEC == 4
    x.z += y.z;
    x.w += y.w;
#endif
    *reinterpret_cast<vec*>(c + first) = x;
#endif
  } else {
    for (int i = first; i < n; ++i) c[i] = a[i] + b[i];
  }
}
