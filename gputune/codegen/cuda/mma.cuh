// How does a warp compute with mma.sync? Its instructions on tiles of 16 x 16 sums, as functions.
//
// All 32 threads of a warp call them together. Each has `gt_fragment`s of its own: its elements of
// tiles, tile after tile, of which `at` is the first of a tile (which elements these are is said in
// gputune/ir/fragments.py). Two instructions of 16 x 8 sums make a product.

template <typename T, int N> struct __align__(16) gt_fragment {
  T x[N];
  GT_DEVICE T& operator[](int i) { return x[i]; }
  GT_DEVICE unsigned* words(int at) { return (unsigned*)(x + at); }
};

// ---------------------------------------------------------------------------- ldmatrix
// Eight lanes each name a row of 16 bytes of a matrix of 8 rows, at a multiple of 16; each lane gets
// a word of each matrix; `trans` takes it as 8 x 8 elements of two bytes, and turns it.
#define GT_LDMATRIX(name, form, registers, ...)                                                   \
  template <typename T, int N> GT_DEVICE void name(gt_fragment<T, N>& d, int at, const T* row) {  \
    unsigned* w = d.words(at);                                                                    \
    asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 {" registers "];" : __VA_ARGS__  \
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");                      \
  }
#define GT_OUT_1 "=r"(w[0])
#define GT_OUT_2 GT_OUT_1, "=r"(w[1])
#define GT_OUT_4 GT_OUT_2, "=r"(w[2]), "=r"(w[3])
GT_LDMATRIX(gt_ldmatrix_x1, "x1", "%0}, [%1", GT_OUT_1)
GT_LDMATRIX(gt_ldmatrix_x2, "x2", "%0,%1}, [%2", GT_OUT_2)
GT_LDMATRIX(gt_ldmatrix_x4, "x4", "%0,%1,%2,%3}, [%4", GT_OUT_4)
GT_LDMATRIX(gt_ldmatrix_x1_trans, "x1.trans", "%0}, [%1", GT_OUT_1)
GT_LDMATRIX(gt_ldmatrix_x2_trans, "x2.trans", "%0,%1}, [%2", GT_OUT_2)
GT_LDMATRIX(gt_ldmatrix_x4_trans, "x4.trans", "%0,%1,%2,%3}, [%4", GT_OUT_4)
#undef GT_OUT_4
#undef GT_OUT_2
#undef GT_OUT_1
#undef GT_LDMATRIX

// ---------------------------------------------------------------------------- multiply
// c += a b: of 16 rows, and 32 bytes of each row of a and column of b.
GT_DEVICE unsigned gt_as_operand(unsigned bits) { return bits; }
GT_DEVICE unsigned gt_as_tf32(unsigned bits) {  // to nearest, ties away from zero
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(bits)));
  return r;
}

#define GT_MMA(name, type, AB, C, convert, registers, sums)                                       \
  template <int NC, int NA, int NB>                                                               \
  GT_DEVICE void name(gt_fragment<C, NC>& c, int at_c, gt_fragment<AB, NA>& a, int at_a,          \
                      gt_fragment<AB, NB>& b, int at_b) {                                         \
    const unsigned* u = a.words(at_a);                                                            \
    const unsigned u0 = convert(u[0]), u1 = convert(u[1]), u2 = convert(u[2]), u3 = convert(u[3]); \
    _Pragma("unroll") for (int half = 0; half < 2; ++half) {                                      \
      const unsigned v0 = convert(b.words(at_b)[2 * half]);                                       \
      const unsigned v1 = convert(b.words(at_b)[2 * half + 1]);                                   \
      asm volatile("mma.sync.aligned." type " " registers : sums                                  \
                   : "r"(u0), "r"(u1), "r"(u2), "r"(u3), "r"(v0), "r"(v1));                       \
    }                                                                                             \
  }
#define GT_OF_4 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#define GT_OF_2 "{%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
#define GT_SUMS(kind)                                                                             \
  kind(c.x[at_c + 4 * half]), kind(c.x[at_c + 4 * half + 1]), kind(c.x[at_c + 4 * half + 2]),     \
      kind(c.x[at_c + 4 * half + 3])
#define GT_HALVES "+r"(c.words(at_c)[2 * half]), "+r"(c.words(at_c)[2 * half + 1])
GT_MMA(gt_mma_f16f16f32, "m16n8k16.row.col.f32.f16.f16.f32", gt_half, float, gt_as_operand, GT_OF_4,
       GT_SUMS("+f"))
GT_MMA(gt_mma_f16f16f16, "m16n8k16.row.col.f16.f16.f16.f16", gt_half, gt_half, gt_as_operand,
       GT_OF_2, GT_HALVES)
GT_MMA(gt_mma_bf16bf16f32, "m16n8k16.row.col.f32.bf16.bf16.f32", gt_bfloat16, float, gt_as_operand,
       GT_OF_4, GT_SUMS("+f"))
GT_MMA(gt_mma_tf32tf32f32, "m16n8k8.row.col.f32.tf32.tf32.f32", float, float, gt_as_tf32, GT_OF_4,
       GT_SUMS("+f"))
GT_MMA(gt_mma_i8i8i32, "m16n8k32.row.col.s32.s8.s8.s32", signed char, int, gt_as_operand, GT_OF_4,
       GT_SUMS("+r"))
GT_MMA(gt_mma_u8u8i32, "m16n8k32.row.col.s32.u8.u8.s32", unsigned char, int, gt_as_operand, GT_OF_4,
       GT_SUMS("+r"))
#undef GT_HALVES
#undef GT_SUMS
#undef GT_OF_2
#undef GT_OF_4
#undef GT_MMA
