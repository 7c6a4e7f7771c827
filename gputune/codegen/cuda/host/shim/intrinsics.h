// CUDA's mathematical, conversion and bit functions, in terms of the C library.
// Fast variants (__expf, ...) compute what their exact cousins do: their error on a GPU is not
// modelled.
#pragma once

// ---- the C library; declared here, since its headers would double the time of a compilation
#ifndef _MATH_H
#define GT_ONE(name)                                                                               \
  extern "C" double name(double) noexcept;                                                         \
  extern "C" float name##f(float) noexcept;
#define GT_TWO(name)                                                                               \
  extern "C" double name(double, double) noexcept;                                                 \
  extern "C" float name##f(float, float) noexcept;
GT_ONE(sqrt) GT_ONE(cbrt) GT_ONE(exp) GT_ONE(exp2) GT_ONE(expm1)
GT_ONE(log) GT_ONE(log2) GT_ONE(log10) GT_ONE(log1p) GT_ONE(logb)
GT_ONE(sin) GT_ONE(cos) GT_ONE(tan) GT_ONE(asin) GT_ONE(acos) GT_ONE(atan)
GT_ONE(sinh) GT_ONE(cosh) GT_ONE(tanh) GT_ONE(asinh) GT_ONE(acosh) GT_ONE(atanh)
GT_ONE(erf) GT_ONE(erfc) GT_ONE(tgamma) GT_ONE(lgamma)
GT_ONE(fabs) GT_ONE(floor) GT_ONE(ceil) GT_ONE(trunc) GT_ONE(round) GT_ONE(rint) GT_ONE(nearbyint)
GT_TWO(pow) GT_TWO(fmod) GT_TWO(remainder) GT_TWO(fmin) GT_TWO(fmax) GT_TWO(fdim) GT_TWO(hypot)
GT_TWO(atan2) GT_TWO(copysign) GT_TWO(nextafter)
#undef GT_ONE
#undef GT_TWO
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
extern "C" double ldexp(double, int) noexcept;
extern "C" float ldexpf(float, int) noexcept;
extern "C" double scalbn(double, int) noexcept;
extern "C" float scalbnf(float, int) noexcept;
extern "C" double frexp(double, int*) noexcept;
extern "C" float frexpf(float, int*) noexcept;
extern "C" double modf(double, double*) noexcept;
extern "C" float modff(float, float*) noexcept;
extern "C" long lrint(double) noexcept;
extern "C" long lrintf(float) noexcept;
extern "C" long lround(double) noexcept;
extern "C" long lroundf(float) noexcept;
extern "C" long long llrint(double) noexcept;
extern "C" long long llrintf(float) noexcept;
#endif
#ifndef _STDLIB_H
extern "C" int abs(int) noexcept;
extern "C" long labs(long) noexcept;
extern "C" long long llabs(long long) noexcept;
#endif

// ---- C++ overloads; <math.h> of a C++ library brings these itself
#if !defined(_GLIBCXX_MATH_H) && !defined(_LIBCPP_MATH_H)
#define GT_OVERLOAD(name) static inline float name(float x) { return name##f(x); }
GT_OVERLOAD(sqrt) GT_OVERLOAD(cbrt) GT_OVERLOAD(exp) GT_OVERLOAD(exp2) GT_OVERLOAD(expm1)
GT_OVERLOAD(log) GT_OVERLOAD(log2) GT_OVERLOAD(log10) GT_OVERLOAD(log1p)
GT_OVERLOAD(sin) GT_OVERLOAD(cos) GT_OVERLOAD(tan) GT_OVERLOAD(asin) GT_OVERLOAD(acos)
GT_OVERLOAD(atan) GT_OVERLOAD(sinh) GT_OVERLOAD(cosh) GT_OVERLOAD(tanh) GT_OVERLOAD(asinh)
GT_OVERLOAD(acosh) GT_OVERLOAD(atanh) GT_OVERLOAD(erf) GT_OVERLOAD(erfc) GT_OVERLOAD(tgamma)
GT_OVERLOAD(fabs) GT_OVERLOAD(floor) GT_OVERLOAD(ceil) GT_OVERLOAD(trunc) GT_OVERLOAD(round)
GT_OVERLOAD(rint) GT_OVERLOAD(nearbyint)
#undef GT_OVERLOAD
static inline float pow(float x, float y) { return powf(x, y); }
static inline float pow(float x, int y) { return powf(x, float(y)); }
static inline double pow(double x, int y) { return pow(x, double(y)); }
static inline float fmod(float x, float y) { return fmodf(x, y); }
static inline float fmin(float x, float y) { return fminf(x, y); }
static inline float fmax(float x, float y) { return fmaxf(x, y); }
static inline float hypot(float x, float y) { return hypotf(x, y); }
static inline float atan2(float x, float y) { return atan2f(x, y); }
static inline float copysign(float x, float y) { return copysignf(x, y); }
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float ldexp(float x, int n) { return ldexpf(x, n); }
#if !defined(_GLIBCXX_STDLIB_H) && !defined(_LIBCPP_STDLIB_H)
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline long abs(long x) { return labs(x); }
static inline long long abs(long long x) { return llabs(x); }
#endif
#define GT_PREDICATE(name)                                                                         \
  static inline bool name(float x) { return __builtin_##name(x); }                                 \
  static inline bool name(double x) { return __builtin_##name(x); }
GT_PREDICATE(isnan) GT_PREDICATE(isinf) GT_PREDICATE(isfinite) GT_PREDICATE(signbit)
#undef GT_PREDICATE
#endif

// ---- min and max of every pair of types that CUDA knows
#define GT_MIN_MAX(A, B, R)                                                                        \
  static inline R min(A a, B b) { return static_cast<R>(a) < static_cast<R>(b) ? static_cast<R>(a) : static_cast<R>(b); } \
  static inline R max(A a, B b) { return static_cast<R>(a) > static_cast<R>(b) ? static_cast<R>(a) : static_cast<R>(b); }
GT_MIN_MAX(int, int, int)
GT_MIN_MAX(unsigned, unsigned, unsigned)
GT_MIN_MAX(int, unsigned, unsigned)
GT_MIN_MAX(unsigned, int, unsigned)
GT_MIN_MAX(long, long, long)
GT_MIN_MAX(unsigned long, unsigned long, unsigned long)
GT_MIN_MAX(long, unsigned long, unsigned long)
GT_MIN_MAX(unsigned long, long, unsigned long)
GT_MIN_MAX(long long, long long, long long)
GT_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
GT_MIN_MAX(long long, unsigned long long, unsigned long long)
GT_MIN_MAX(unsigned long long, long long, unsigned long long)
#undef GT_MIN_MAX
// NaN loses against a number, as in fminf
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(double(a), b); }
static inline double max(float a, double b) { return fmax(double(a), b); }
static inline double min(double a, float b) { return fmin(a, double(b)); }
static inline double max(double a, float b) { return fmax(a, double(b)); }
static inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned umax(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long llmin(long long a, long long b) { return a < b ? a : b; }
static inline long long llmax(long long a, long long b) { return a > b ? a : b; }

// ---- what only CUDA has; macros where a C library may have declared the name for itself
namespace gt {
static inline float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
static inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }
}  // namespace gt
#define rsqrtf(x) gt::reciprocal_root(float(x))
#define rsqrt(x) gt::reciprocal_root(x)
#ifndef _MATH_H
static inline float exp10f(float x) { return powf(10.0f, x); }
static inline double exp10(double x) { return pow(10.0, x); }
static inline void sincosf(float x, float* s, float* c) {
  *s = sinf(x);
  *c = cosf(x);
}
static inline void sincos(double x, double* s, double* c) {
  *s = sin(x);
  *c = cos(x);
}
#endif
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __tanhf(x) tanhf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define __powf(x, y) powf(x, y)
static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
static inline float normcdff(float x) { return float(normcdf(double(x))); }
static inline float norm3df(float x, float y, float z) { return sqrtf(x * x + y * y + z * z); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

// ---- conversions; out of range they give the nearest number of the type, and NaN gives 0
namespace gt {
template <class To, class From>
static inline To clamped(From x) {
  const bool narrow = sizeof(To) == 4, is_signed = To(-1) < To(0);
  const From above = From(narrow ? 2147483648.0 : 9223372036854775808.0) * From(is_signed ? 1 : 2);
  const To greatest = is_signed ? To(~(To(1) << (sizeof(To) * 8 - 1))) : To(~To(0));
  if (!(x == x)) return narrow ? To(0) : To(1) << (sizeof(To) * 8 - 1);
  if (x >= above) return greatest;
  if (x < (is_signed ? -above : From(0))) return To(is_signed ? To(1) << (sizeof(To) * 8 - 1) : To(0));
  return To(x);
}
}  // namespace gt

#define GT_FROM_FLOAT(to, T)                                                                       \
  static inline T __float2##to##_rn(float x) { return gt::clamped<T>(rintf(x)); }                  \
  static inline T __float2##to##_rz(float x) { return gt::clamped<T>(truncf(x)); }                 \
  static inline T __float2##to##_ru(float x) { return gt::clamped<T>(ceilf(x)); }                  \
  static inline T __float2##to##_rd(float x) { return gt::clamped<T>(floorf(x)); }                 \
  static inline T __double2##to##_rn(double x) { return gt::clamped<T>(rint(x)); }                 \
  static inline T __double2##to##_rz(double x) { return gt::clamped<T>(trunc(x)); }                \
  static inline T __double2##to##_ru(double x) { return gt::clamped<T>(ceil(x)); }                 \
  static inline T __double2##to##_rd(double x) { return gt::clamped<T>(floor(x)); }                \
  static inline float __##to##2float_rn(T x) { return float(x); }                                  \
  static inline double __##to##2double_rn(T x) { return double(x); }
GT_FROM_FLOAT(int, int)
GT_FROM_FLOAT(uint, unsigned)
GT_FROM_FLOAT(ll, long long)
GT_FROM_FLOAT(ull, unsigned long long)
#undef GT_FROM_FLOAT
static inline float __double2float_rn(double x) { return float(x); }
static inline float __double2float_rz(double x) {
  const float r = float(x);
  return fabs(double(r)) > fabs(x) ? nextafterf(r, 0.0f) : r;
}
static inline int __float_as_int(float x) { return gt::bits_as<int>(x); }
static inline unsigned __float_as_uint(float x) { return gt::bits_as<unsigned>(x); }
static inline float __int_as_float(int x) { return gt::bits_as<float>(x); }
static inline float __uint_as_float(unsigned x) { return gt::bits_as<float>(x); }
static inline long long __double_as_longlong(double x) { return gt::bits_as<long long>(x); }
static inline double __longlong_as_double(long long x) { return gt::bits_as<double>(x); }
static inline int __double2loint(double x) { return int(gt::bits_as<gt_u64>(x)); }
static inline int __double2hiint(double x) { return int(gt::bits_as<gt_u64>(x) >> 32); }
static inline double __hiloint2double(int hi, int lo) {
  return gt::bits_as<double>(gt_u64(unsigned(hi)) << 32 | unsigned(lo));
}

// ---- integers and bits
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) out |= (x >> i & 1u) << (31 - i);
  return out;
}
static inline unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev(unsigned(x)) << 32 | __brev(unsigned(x >> 32));
}
static inline int __mul24(int a, int b) { return (int)((unsigned)(a << 8 >> 8) * (unsigned)(b << 8 >> 8)); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long all = (unsigned long long)b << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 0xf;
    unsigned byte = unsigned(all >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    out |= byte << (8 * i);
  }
  return out;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
  return unsigned(((unsigned long long)hi << 32 | lo) << (by & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) {
  return unsigned(((unsigned long long)hi << 32 | lo) >> (by & 31));
}
static inline unsigned __sad(int a, int b, unsigned c) { return c + unsigned(a > b ? a - b : b - a); }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += int((signed char)(a >> (8 * i))) * int((signed char)(b >> (8 * i)));
  return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xffu) * (b >> (8 * i) & 0xffu);
  return c;
}
// By the names of the device's `dp4a.cuh`: sums wrap around.
#define GT_DP4A(name, T, A, B)                                                                     \
  GT_INLINE T name(T c, T a, T b) {                                                                \
    unsigned sum = (unsigned)c;                                                                    \
    for (int i = 0; i < 4; ++i) sum += unsigned(int((A)(a >> (8 * i))) * int((B)(b >> (8 * i))));  \
    return (T)sum;                                                                                 \
  }
GT_DP4A(gt_dp4a_s8s8, int, signed char, signed char)
GT_DP4A(gt_dp4a_u8s8, int, unsigned char, signed char)
GT_DP4A(gt_dp4a_s8u8, int, signed char, unsigned char)
GT_DP4A(gt_dp4a_u8u8, unsigned, unsigned char, unsigned char)
#undef GT_DP4A

// ---- loads and stores with a cache hint
#define GT_LOAD(name)                                                                              \
  template <class T>                                                                               \
  GT_INLINE T name(const T* p) {                                                                   \
    return *p;                                                                                     \
  }
GT_LOAD(__ldg) GT_LOAD(__ldca) GT_LOAD(__ldcg) GT_LOAD(__ldcs) GT_LOAD(__ldlu) GT_LOAD(__ldcv)
#undef GT_LOAD
#define GT_STORE(name)                                                                             \
  template <class T>                                                                               \
  GT_INLINE void name(T* p, T value) {                                                             \
    *p = value;                                                                                    \
  }
GT_STORE(__stwb) GT_STORE(__stcg) GT_STORE(__stcs) GT_STORE(__stwt)
#undef GT_STORE
