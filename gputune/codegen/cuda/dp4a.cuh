// How does a thread multiply four bytes at a time? dp4a, as functions.
//
// c and the sum of four products of bytes of a and b, which are signed (s) or not (u).

#define GT_DP4A(name, T, types)                                                    \
  GT_DEVICE T name(T c, T a, T b) {                                                \
    asm("dp4a." types " %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));              \
    return c;                                                                      \
  }
GT_DP4A(gt_dp4a_s8s8, int, "s32.s32")
GT_DP4A(gt_dp4a_u8s8, int, "u32.s32")
GT_DP4A(gt_dp4a_s8u8, int, "s32.u32")
GT_DP4A(gt_dp4a_u8u8, unsigned, "u32.u32")
#undef GT_DP4A
