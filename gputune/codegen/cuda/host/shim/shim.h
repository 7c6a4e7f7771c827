// How does CUDA C++ compile as ordinary C++? This header is included before the kernel's text.
//
// Each thread of a block is a fiber, one block runs at a time, and everything that threads do
// together (barriers, shuffles, atomics) calls the runtime. The compiler's thread sanitizer marks
// every memory access with a call, which the runtime checks (see shadow.h).
#pragma once
#define GT_HOST 1

#include "interface.h"

#define GT_INLINE static inline __attribute__((always_inline))

// ---- keywords; NVIDIA's headers, if the text needs them, come first and define their own
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __managed__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#ifndef __noinline__
#define __noinline__ __attribute__((noinline))
#endif
// `used`: other threads write it, which no compiler can see
#define __shared__ static __attribute__((section("gt_shared"), used))
#define __builtin_assume(x) ((void)0)
#define __assume(x) ((void)0)

#define threadIdx (uint3{gt_thread_index().x, gt_thread_index().y, gt_thread_index().z})
#define blockIdx (uint3{gt_block_index().x, gt_block_index().y, gt_block_index().z})
#define blockDim (dim3(gt_block_shape().x, gt_block_shape().y, gt_block_shape().z))
#define gridDim (dim3(gt_grid_shape().x, gt_grid_shape().y, gt_grid_shape().z))
#define warpSize 32

#include "vectors.h"
#include "numbers.h"
#include "intrinsics.h"
#include "wide.h"
#include "warp.h"
#include "wmma.h"
#include "mma.h"
#include "atomics.h"
#include "async.h"

// ---- barriers and fences
GT_INLINE void __syncthreads(int line = __builtin_LINE()) { gt_barrier(GT_NO_VOTE, 0, line); }
GT_INLINE int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return gt_barrier(GT_COUNT, predicate, line);
}
GT_INLINE int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return gt_barrier(GT_AND, predicate, line);
}
GT_INLINE int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return gt_barrier(GT_OR, predicate, line);
}
GT_INLINE void __threadfence() { gt_fence(); }
GT_INLINE void __threadfence_block() { gt_fence(); }
GT_INLINE void __threadfence_system() { gt_fence(); }
GT_INLINE void __nanosleep(unsigned) { gt_yield(); }
GT_INLINE long long clock64() { return (long long)gt_clock(); }
GT_INLINE gt_size __cvta_generic_to_shared(const void* p) { return (gt_size)p; }

// ---- output and failure
#ifndef _STDIO_H
extern "C" int printf(const char*, ...);
#endif
GT_INLINE void __trap() { gt_trap(); }
GT_INLINE void __brkpt() { gt_trap(); }
#undef assert
#define assert(...) ((__VA_ARGS__) ? (void)0 : gt_assertion(#__VA_ARGS__, __FILE__, __LINE__))
// The compiler's own form of these would not be seen by the checks
GT_INLINE void* gt_copy_bytes(void* to, const void* from, gt_size n) {
  for (gt_size i = 0; i < n; ++i) ((volatile gt_u8*)to)[i] = ((const volatile gt_u8*)from)[i];
  return to;
}
GT_INLINE void* gt_set_bytes(void* to, int value, gt_size n) {
  for (gt_size i = 0; i < n; ++i) ((volatile gt_u8*)to)[i] = gt_u8(value);
  return to;
}
#define memcpy(to, from, n) gt_copy_bytes(to, from, n)
#define memset(to, value, n) gt_set_bytes(to, value, n)

// ---- the table of kernels: how each is called with the arguments of a launch
namespace gt {

template <class T>
struct KindOf {
  static constexpr gt_kind value = GT_OTHER;
};
template <class T>
struct KindOf<T*> {
  static constexpr gt_kind value = GT_POINTER;
};
#define GT_KIND(T, kind)                                                                           \
  template <>                                                                                      \
  struct KindOf<T> {                                                                               \
    static constexpr gt_kind value = kind;                                                         \
  };
GT_KIND(bool, GT_INTEGER) GT_KIND(char, GT_INTEGER) GT_KIND(signed char, GT_INTEGER)
GT_KIND(unsigned char, GT_INTEGER) GT_KIND(short, GT_INTEGER) GT_KIND(unsigned short, GT_INTEGER)
GT_KIND(int, GT_INTEGER) GT_KIND(unsigned, GT_INTEGER) GT_KIND(long, GT_INTEGER)
GT_KIND(unsigned long, GT_INTEGER) GT_KIND(long long, GT_INTEGER)
GT_KIND(unsigned long long, GT_INTEGER) GT_KIND(float, GT_FLOAT) GT_KIND(double, GT_FLOAT)
GT_KIND(gt_half, GT_FLOAT) GT_KIND(gt_bfloat16, GT_FLOAT) GT_KIND(gt_e4m3, GT_FLOAT)
GT_KIND(gt_e5m2, GT_FLOAT)
#undef GT_KIND

template <int... I>
struct Places {};
template <int N, int... I>
struct PlacesTo : PlacesTo<N - 1, N - 1, I...> {};
template <int... I>
struct PlacesTo<0, I...> {
  using type = Places<I...>;
};
template <class T>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<const T> {
  using type = T;
};

template <class F, F K>
struct Launched;
template <class... A, void (*K)(A...)>
struct Launched<void (*)(A...), K> {
  template <int... I>
  __attribute__((no_sanitize("thread"))) static void spread(void** args, Places<I...>) {
    K(*(typename Plain<A>::type*)args[I]...);
  }
  __attribute__((no_sanitize("thread"))) static void call(void** args) {
    spread(args, typename PlacesTo<int(sizeof...(A))>::type());
  }
  static constexpr gt_parameter params[sizeof...(A) + 1] = {
      {KindOf<typename Plain<A>::type>::value, sizeof(A)}..., {GT_OTHER, 0}};
  static constexpr gt_kernel row(const char* name) { return {name, call, int(sizeof...(A)), params}; }
};

}  // namespace gt

#define GT_KERNEL(name) gt::Launched<decltype(&name), &name>::row(#name)
