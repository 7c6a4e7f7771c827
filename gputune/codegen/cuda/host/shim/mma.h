// Operations of whole warps on tiles whose elements lie in known lanes, by the names of the device's
// `mma.cuh`. All 32 lanes must come to the same call. What they read in shared memory is checked like
// every other access; registers that nothing has filled are reported where they are used.
#pragma once

namespace gt {

__attribute__((no_sanitize("thread"))) static void report_unset() {
  gt_warp_fault("uninitialised-read", (int)gt_lane(), "it uses a register of a tile that nothing has filled");
}

// One register of a fragment, as plain code reads and writes it.
template <class T>
struct Register {
  T* x;
  bool* set;
  __attribute__((always_inline)) operator T() const {
    if (!*set) report_unset();
    return *x;
  }
  __attribute__((always_inline)) void operator=(T value) {
    *x = value;
    *set = true;
  }
  __attribute__((always_inline)) void operator=(const Register& other) { *this = T(other); }
};

}  // namespace gt

template <typename T, int N>
struct gt_fragment {
  T x[N];
  bool set[N] = {};
  __attribute__((always_inline)) gt::Register<T> operator[](int i) { return {&x[i], &set[i]}; }
};

namespace gt {

struct WarpCall {
  const char* name;
  int line;
  const void* given[3];
  void* result;
};

// Do all lanes make the same call? Reports what differs.
__attribute__((no_sanitize("thread"))) static bool is_call_of_all(gt_exchange* e) {
  const WarpCall* first = nullptr;
  for (int l = 0; l < 32; ++l) {
    if (!(e->lanes >> l & 1)) {
      gt_warp_fault("warp-divergence", l, "it takes no part in an operation of its whole warp");
      return false;
    }
    const WarpCall* c = (const WarpCall*)e->given[l];
    if (!first) first = c;
    if (c->name != first->name || c->line != first->line) {
      gt_warp_fault("warp-divergence", l, "it makes another call than lane 0 where its whole warp computes with tiles");
      return false;
    }
  }
  return true;
}

template <class T, int N>
__attribute__((no_sanitize("thread"))) static void check_filled(const gt_fragment<T, N>& f, int at, int count) {
  for (int i = 0; i < count; ++i)
    if (!f.set[at + i]) return report_unset();
}

// ---- ldmatrix: lanes 8 i to 8 i + 7 bring the rows of matrix i
template <int COUNT, bool TRANS>
__attribute__((no_sanitize("thread"))) static void deal_rows(gt_exchange* e) {
  if (!is_call_of_all(e)) return;
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < COUNT; ++i) {
      gt_u8* to = (gt_u8*)((const WarpCall*)e->given[l])->result + 4 * i;
      for (int k = 0; k < 4; ++k) {
        const int row = TRANS ? l % 4 * 2 + k / 2 : l / 4, byte = TRANS ? l / 4 * 2 + k % 2 : l % 4 * 4 + k;
        to[k] = ((const gt_u8*)((const WarpCall*)e->given[8 * i + row])->given[0])[byte];
      }
    }
}

template <int COUNT, bool TRANS, class T, int N>
GT_INLINE void load_matrices(const char* name, int line, gt_fragment<T, N>& d, int at, const T* row) {
  static_assert(!TRANS || sizeof(T) == 2, "only elements of two bytes are turned");
  unsigned __int128 own = 0;
  if ((int)gt_lane() < 8 * COUNT) own = *(const unsigned __int128*)row;
  gt_u8 words[16] = {};
  WarpCall call{name, line, {&own, nullptr, nullptr}, words};
  gt_collective(~0u, name, &call, nullptr, 0, 32, deal_rows<COUNT, TRANS>);
  __builtin_memcpy(&d.x[at], words, 4 * COUNT);
  for (int i = 0; i < 4 * COUNT / (int)sizeof(T); ++i) d.set[at + i] = true;
}

// ---- mma: where lane `l` holds its elements, as in gputune/ir/fragments.py
static inline float factor(gt_half v) { return gt_to_float(v); }
static inline float factor(gt_bfloat16 v) { return gt_to_float(v); }
static inline int factor(signed char v) { return v; }
static inline int factor(unsigned char v) { return v; }
static inline float factor(float v) {  // as tf32: to nearest, ties away from zero
  const unsigned bits = __float_as_uint(v);
  return (bits & 0x7f800000u) == 0x7f800000u ? v : __uint_as_float((bits + 0x1000u) & 0xffffe000u);
}
static inline float summand(float v) { return v; }
static inline float summand(gt_half v) { return gt_to_float(v); }
static inline int summand(int v) { return v; }
static inline void sum_as(float v, float& out) { out = v; }
static inline void sum_as(float v, gt_half& out) { out = gt_to_half(v); }
static inline void sum_as(unsigned v, int& out) { out = (int)v; }

template <class W>
struct Total {
  using type = W;
};
template <>
struct Total<int> {
  using type = unsigned;  // sums wrap around
};

template <class AB, class C>
__attribute__((no_sanitize("thread"))) static void multiply_tiles(gt_exchange* e) {
  if (!is_call_of_all(e)) return;
  constexpr int P = 4 / sizeof(AB), K = 8 * P;
  using W = decltype(factor(AB()));
  using S = typename Total<W>::type;
  W a[16][K], b[K][16];
  S c[16][16];
  for (int l = 0; l < 32; ++l) {
    const WarpCall* call = (const WarpCall*)e->given[l];
    for (int g = 0; g < 4; ++g)
      for (int p = 0; p < P; ++p) {
        a[l / 4 + g % 2 * 8][l % 4 * P + g / 2 * 4 * P + p] = factor(((const AB*)call->given[0])[g * P + p]);
        b[l % 4 * P + g % 2 * 4 * P + p][l / 4 + g / 2 * 8] = factor(((const AB*)call->given[1])[g * P + p]);
      }
    for (int k = 0; k < 8; ++k)
      c[l / 4 + k / 2 % 2 * 8][l % 4 * 2 + k / 4 * 8 + k % 2] = (S)summand(((const C*)call->given[2])[k]);
  }
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j)
      for (int k = 0; k < K; ++k) c[i][j] += (S)(a[i][k] * b[k][j]);
  for (int l = 0; l < 32; ++l) {
    C* out = (C*)((const WarpCall*)e->given[l])->result;
    for (int k = 0; k < 8; ++k) sum_as(c[l / 4 + k / 2 % 2 * 8][l % 4 * 2 + k / 4 * 8 + k % 2], out[k]);
  }
}

template <class AB, class C, int NC, int NA, int NB>
GT_INLINE void multiply_fragments(const char* name, int line, gt_fragment<C, NC>& c, int at_c,
                                  gt_fragment<AB, NA>& a, int at_a, gt_fragment<AB, NB>& b, int at_b) {
  const int count = 16 / (int)sizeof(AB);
  check_filled(a, at_a, count);
  check_filled(b, at_b, count);
  check_filled(c, at_c, 8);
  WarpCall call{name, line, {&a.x[at_a], &b.x[at_b], &c.x[at_c]}, &c.x[at_c]};
  gt_collective(~0u, name, &call, nullptr, 0, 32, multiply_tiles<AB, C>);
}

}  // namespace gt

#define GT_LDMATRIX(name, count, trans)                                                            \
  template <typename T, int N>                                                                     \
  GT_INLINE void name(gt_fragment<T, N>& d, int at, const T* row, int line = __builtin_LINE()) {   \
    gt::load_matrices<count, trans>(#name, line, d, at, row);                                      \
  }
GT_LDMATRIX(gt_ldmatrix_x1, 1, false)
GT_LDMATRIX(gt_ldmatrix_x2, 2, false)
GT_LDMATRIX(gt_ldmatrix_x4, 4, false)
GT_LDMATRIX(gt_ldmatrix_x1_trans, 1, true)
GT_LDMATRIX(gt_ldmatrix_x2_trans, 2, true)
GT_LDMATRIX(gt_ldmatrix_x4_trans, 4, true)
#undef GT_LDMATRIX

#define GT_MMA(name, AB, C)                                                                        \
  template <int NC, int NA, int NB>                                                                \
  GT_INLINE void name(gt_fragment<C, NC>& c, int at_c, gt_fragment<AB, NA>& a, int at_a,           \
                      gt_fragment<AB, NB>& b, int at_b, int line = __builtin_LINE()) {             \
    gt::multiply_fragments(#name, line, c, at_c, a, at_a, b, at_b);                                \
  }
GT_MMA(gt_mma_f16f16f32, gt_half, float)
GT_MMA(gt_mma_f16f16f16, gt_half, gt_half)
GT_MMA(gt_mma_bf16bf16f32, gt_bfloat16, float)
GT_MMA(gt_mma_tf32tf32f32, float, float)
GT_MMA(gt_mma_i8i8i32, signed char, int)
GT_MMA(gt_mma_u8u8i32, unsigned char, int)
#undef GT_MMA
