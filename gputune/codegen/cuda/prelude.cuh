// What does generated device code use beyond plain CUDA C++? Narrow float types, without a header.
//
// The types only hold bits; arithmetic is done in float. Conversions from float round to nearest,
// ties to even, as NumPy and ml_dtypes do: what is too large becomes infinity, or NaN in e4m3, which
// has no infinity. (The fp8 instructions of sm_89 saturate instead, so they serve one way only.)

#define GT_DEVICE __device__ __forceinline__

struct __align__(2) gt_half { unsigned short x; };
struct __align__(2) gt_bfloat16 { unsigned short x; };
struct gt_e4m3 { unsigned char x; };
struct gt_e5m2 { unsigned char x; };

// ---------------------------------------------------------------------------- float16, bfloat16
GT_DEVICE float gt_to_float(gt_half a) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(a.x));
  return r;
}

GT_DEVICE gt_half gt_to_half(float a) {
  gt_half r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.x) : "f"(a));
  return r;
}

GT_DEVICE float gt_to_float(gt_bfloat16 a) { return __uint_as_float((unsigned)a.x << 16); }

GT_DEVICE gt_bfloat16 gt_to_bfloat16(float a) {
  gt_bfloat16 r;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.x) : "f"(a));
#else
  unsigned u = __float_as_uint(a);
  bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
  r.x = is_nan ? 0x7fff : (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
#endif
  return r;
}

// ---------------------------------------------------------------------------- float8
// An eight-bit float with MANTISSA bits behind the point and BIAS in its exponent; TOP is the code
// that overflow gives, LAST the greatest code that is not overflow, NOT_A_NUMBER the code of NaN.
template <int MANTISSA, int BIAS, unsigned LAST, unsigned TOP, unsigned NOT_A_NUMBER>
GT_DEVICE unsigned char gt_encode8(float a) {
  const unsigned u = __float_as_uint(a);
  const unsigned sign = u >> 24 & 0x80u, magnitude = u & 0x7fffffffu;
  const int shift = 23 - MANTISSA;
  unsigned code;
  if (magnitude > 0x7f800000u) {
    code = NOT_A_NUMBER;
  } else if (magnitude < (unsigned)(128 - BIAS) << 23) {
    // Subnormal: multiples of 2^(1 - BIAS - MANTISSA). Adding 2^23 such steps rounds to them.
    const unsigned steps = (unsigned)(127 + 1 - BIAS - MANTISSA + 23) << 23;
    code = __float_as_uint(__uint_as_float(magnitude) + __uint_as_float(steps)) - steps;
  } else {
    code = (magnitude + (1u << (shift - 1)) - 1u + (magnitude >> shift & 1u)) >> shift;
    code -= (unsigned)(127 - BIAS) << MANTISSA;
    code = code > LAST ? TOP : code;
  }
  return (unsigned char)(sign | code);
}

template <int MANTISSA, int BIAS>
GT_DEVICE float gt_decode8(unsigned char a) {
  const unsigned sign = (unsigned)(a & 0x80u) << 24, code = a & 0x7fu;
  const unsigned mantissa = code & ((1u << MANTISSA) - 1u);
  const float step = __uint_as_float((unsigned)(127 + 1 - BIAS - MANTISSA) << 23);
  const unsigned normal = (code << (23 - MANTISSA)) + ((unsigned)(127 - BIAS) << 23);
  const float magnitude = code >> MANTISSA ? __uint_as_float(normal) : (float)mantissa * step;
  return __uint_as_float(__float_as_uint(magnitude) | sign);
}

GT_DEVICE gt_e4m3 gt_to_e4m3(float a) {
  gt_e4m3 r;
  r.x = gt_encode8<3, 7, 0x7eu, 0x7fu, 0x7fu>(a);
  return r;
}

GT_DEVICE gt_e5m2 gt_to_e5m2(float a) {
  gt_e5m2 r;
  r.x = gt_encode8<2, 15, 0x7bu, 0x7cu, 0x7eu>(a);
  return r;
}

GT_DEVICE float gt_to_float(gt_e4m3 a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  unsigned pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((unsigned short)a.x));
  gt_half r;
  r.x = (unsigned short)pair;
  return gt_to_float(r);
#else
  if ((a.x & 0x7fu) == 0x7fu) return __uint_as_float(0x7fc00000u);
  return gt_decode8<3, 7>(a.x);
#endif
}

// e5m2 is the upper half of a float16.
GT_DEVICE float gt_to_float(gt_e5m2 a) {
  gt_half r;
  r.x = (unsigned short)(a.x << 8);
  return gt_to_float(r);
}
