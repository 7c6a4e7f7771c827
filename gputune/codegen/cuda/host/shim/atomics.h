// Atomic operations. Fibers change places only inside runtime calls, so that a read and a write with
// plain code in between are one step.
#pragma once

namespace gt {

template <class T, class F>
GT_INLINE T atomically(T* p, F next) {
  T old;
  gt_atomic_read(p, &old, sizeof(T));
  const T now = next(old);
  gt_atomic_write(p, &now, sizeof(T));
  return old;
}

}  // namespace gt

#define GT_ATOMIC(name, T, expression)                                                             \
  GT_INLINE T name(T* p, T value) {                                                                \
    return gt::atomically(p, [value](T old) { return static_cast<T>(expression); });              \
  }                                                                                                \
  GT_INLINE T name##_block(T* p, T value) { return name(p, value); }                               \
  GT_INLINE T name##_system(T* p, T value) { return name(p, value); }

#define GT_FOR_INTEGERS(name, expression)                                                          \
  GT_ATOMIC(name, int, expression)                                                                 \
  GT_ATOMIC(name, unsigned, expression)                                                            \
  GT_ATOMIC(name, unsigned long long, expression)

GT_FOR_INTEGERS(atomicAdd, old + value)
GT_ATOMIC(atomicAdd, float, old + value)
GT_ATOMIC(atomicAdd, double, old + value)
GT_ATOMIC(atomicSub, int, old - value)
GT_ATOMIC(atomicSub, unsigned, old - value)
GT_FOR_INTEGERS(atomicExch, (void(old), value))
GT_ATOMIC(atomicExch, float, (void(old), value))
GT_FOR_INTEGERS(atomicMin, value < old ? value : old)
GT_ATOMIC(atomicMin, long long, value < old ? value : old)
GT_FOR_INTEGERS(atomicMax, value > old ? value : old)
GT_ATOMIC(atomicMax, long long, value > old ? value : old)
GT_FOR_INTEGERS(atomicAnd, old & value)
GT_FOR_INTEGERS(atomicOr, old | value)
GT_FOR_INTEGERS(atomicXor, old ^ value)
GT_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
GT_ATOMIC(atomicDec, unsigned, old == 0u || old > value ? value : old - 1u)
#undef GT_FOR_INTEGERS
#undef GT_ATOMIC

#define GT_CAS(T)                                                                                  \
  GT_INLINE T atomicCAS(T* p, T expected, T value) {                                               \
    return gt::atomically(p, [=](T old) { return old == expected ? value : old; });                \
  }
GT_CAS(int)
GT_CAS(unsigned)
GT_CAS(unsigned long long)
GT_CAS(unsigned short)
#undef GT_CAS

// The narrow types of the prelude
GT_INLINE gt_half atomicAdd(gt_half* p, gt_half value) {
  return gt::atomically(p, [value](gt_half old) { return gt_to_half(gt_to_float(old) + gt_to_float(value)); });
}
GT_INLINE gt_bfloat16 atomicAdd(gt_bfloat16* p, gt_bfloat16 value) {
  return gt::atomically(p, [value](gt_bfloat16 old) { return gt_to_bfloat16(gt_to_float(old) + gt_to_float(value)); });
}
