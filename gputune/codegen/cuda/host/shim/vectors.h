// CUDA's vector types and make_* functions, with their alignments.
#pragma once
#ifndef __VECTOR_TYPES_H__

#define GT_VECTORS(name, T, align2, align4)                                                        \
  struct name##1 {                                                                                 \
    T x;                                                                                           \
  };                                                                                               \
  struct __attribute__((aligned(align2))) name##2 {                                                \
    T x, y;                                                                                        \
  };                                                                                               \
  GT_VECTOR3(name, T)                                                                              \
  struct __attribute__((aligned(align4))) name##4 {                                                \
    T x, y, z, w;                                                                                  \
  };                                                                                               \
  static inline name##1 make_##name##1(T x) { return name##1{x}; }                                 \
  static inline name##2 make_##name##2(T x, T y) { return name##2{x, y}; }                         \
  static inline name##3 make_##name##3(T x, T y, T z) { return name##3{x, y, z}; }                 \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4{x, y, z, w}; }

#define GT_VECTOR3(name, T)                                                                        \
  struct name##3 {                                                                                 \
    T x, y, z;                                                                                     \
  };

GT_VECTORS(char, signed char, 2, 4)
GT_VECTORS(uchar, unsigned char, 2, 4)
GT_VECTORS(short, short, 4, 8)
GT_VECTORS(ushort, unsigned short, 4, 8)
GT_VECTORS(int, int, 8, 16)
GT_VECTORS(long, long, 16, 16)
GT_VECTORS(ulong, unsigned long, 16, 16)
GT_VECTORS(longlong, long long, 16, 16)
GT_VECTORS(ulonglong, unsigned long long, 16, 16)
GT_VECTORS(float, float, 8, 16)
GT_VECTORS(double, double, 16, 16)
#undef GT_VECTOR3
#define GT_VECTOR3(name, T)  // uint3 is declared in interface.h
GT_VECTORS(uint, unsigned int, 8, 16)
#undef GT_VECTOR3
#undef GT_VECTORS
#endif
