// Operations of whole warps on tiles of 16 x 16, by the names of the device's `wmma.cuh`. All 32
// lanes must come to the same call with the same tile. Each holds eight elements of a tile: which
// ones is this file's affair, as it is the machine's on a GPU. What they read and write in memory is
// checked like every other access.
#pragma once

namespace gt {

// Eight elements in registers; `set`: something was put there.
template <class T>
struct Part {
  T x[8];
  bool set = false;
};

// Accesses of a lane to memory: half a row, or two neighbours.
template <class T>
struct __attribute__((aligned(8 * sizeof(T)))) Eight {
  T v[8];
};
template <class T>
struct __attribute__((aligned(2 * sizeof(T)))) Two {
  T v[2];
};

struct TileCall {
  const char* name;
  int line;
  const void* memory;  // or null
  gt_size row_bytes;
  void* result;
  const void* given[3];
};

// Do all lanes make the same call? Reports what differs.
__attribute__((no_sanitize("thread"))) static bool is_one_call(gt_exchange* e) {
  const TileCall* first = nullptr;
  for (int l = 0; l < 32; ++l) {
    if (!(e->lanes >> l & 1)) {
      gt_warp_fault("warp-divergence", l, "it takes no part in an operation of its whole warp");
      return false;
    }
    const TileCall* c = (const TileCall*)e->given[l];
    if (!first) first = c;
    if (c->name != first->name || c->line != first->line) {
      gt_warp_fault("warp-divergence", l, "it makes another call than lane 0 where its whole warp computes with tiles");
      return false;
    }
    if (c->memory != first->memory || c->row_bytes != first->row_bytes) {
      gt_warp_fault("warp-divergence", l, "it names another tile in memory than lane 0 of its warp");
      return false;
    }
  }
  if ((gt_size)first->memory % 16 || first->row_bytes % 16)
    gt_warp_fault("misaligned", 0, "rows of a tile in memory must begin at multiples of 16 bytes");
  return true;
}

__attribute__((no_sanitize("thread"))) static void only_meet(gt_exchange* e) { is_one_call(e); }

template <class T>
__attribute__((no_sanitize("thread"))) static void check_set(const Part<T>* p, int lane) {
  if (!p->set) gt_warp_fault("uninitialised-read", lane, "it uses a tile in registers that nothing has filled");
}

// Where lane `l` holds its element `k`: half a row of an operand; of an accumulator, two neighbours
// in each quarter.
struct OfOperand {
  static int row(int l, int) { return l & 15; }
  static int col(int l, int k) { return (l >> 4) * 8 + k; }
};
struct OfSum {
  static int row(int l, int k) { return (l >> 2) + (k & 2) * 4; }
  static int col(int l, int k) { return (l & 3) * 2 + (k & 1) + (k & 4) * 2; }
};

static inline float wide(float v) { return v; }
static inline float wide(gt_half v) { return gt_to_float(v); }
static inline int wide(int v) { return v; }
static inline int wide(signed char v) { return v; }
static inline void narrow(float v, float& out) { out = v; }
static inline void narrow(float v, gt_half& out) { out = gt_to_half(v); }
static inline void narrow(int v, int& out) { out = v; }

template <class Lanes, class T, class W>
__attribute__((no_sanitize("thread"))) static void gather(gt_exchange* e, int which, W (&tile)[16][16]) {
  for (int l = 0; l < 32; ++l) {
    const Part<T>* p = (const Part<T>*)((const TileCall*)e->given[l])->given[which];
    check_set(p, l);
    for (int k = 0; k < 8; ++k) tile[Lanes::row(l, k)][Lanes::col(l, k)] = wide(p->x[k]);
  }
}

// a[k][m] and b[n][k] hold what a and b lay out by columns: their lanes hold half a column.
template <class T, class C, class W, bool OF_A, bool OF_B>
__attribute__((no_sanitize("thread"))) static void multiply(gt_exchange* e) {
  if (!is_one_call(e)) return;
  W a[16][16], b[16][16], c[16][16];
  gather<OfOperand, T>(e, 0, a);
  gather<OfOperand, T>(e, 1, b);
  gather<OfSum, C>(e, 2, c);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j)
      for (int k = 0; k < 16; ++k) c[i][j] += (OF_A ? a[k][i] : a[i][k]) * (OF_B ? b[j][k] : b[k][j]);
  for (int l = 0; l < 32; ++l) {
    Part<C>* p = (Part<C>*)((const TileCall*)e->given[l])->result;
    for (int k = 0; k < 8; ++k) narrow(c[OfSum::row(l, k)][OfSum::col(l, k)], p->x[k]);
    p->set = true;
  }
}

template <class T>
GT_INLINE void load(const char* name, int line, Part<T>& d, const T* p, int stride) {
  TileCall call{name, line, p, (gt_size)stride * sizeof(T), nullptr, {}};
  gt_collective(~0u, name, &call, nullptr, 0, 32, only_meet);
  const int l = (int)gt_lane();
  const Eight<T> part = *(const Eight<T>*)(p + OfOperand::row(l, 0) * stride + OfOperand::col(l, 0));
  for (int k = 0; k < 8; ++k) d.x[k] = part.v[k];
  d.set = true;
}

template <class T>
GT_INLINE void store(const char* name, int line, T* p, const Part<T>& d, int stride) {
  TileCall call{name, line, p, (gt_size)stride * sizeof(T), nullptr, {}};
  gt_collective(~0u, name, &call, nullptr, 0, 32, only_meet);
  const int l = (int)gt_lane();
  check_set(&d, l);
  for (int k = 0; k < 8; k += 2) {
    const Two<T> part = {{d.x[k], d.x[k + 1]}};
    *(Two<T>*)(p + OfSum::row(l, k) * stride + OfSum::col(l, k)) = part;
  }
}

template <class T, class C, class W, bool OF_A, bool OF_B>
GT_INLINE void mma(const char* name, int line, Part<C>& d, const Part<C>& c, const Part<T>& a, const Part<T>& b) {
  TileCall call{name, line, nullptr, 0, &d, {&a, &b, &c}};
  gt_collective(~0u, name, &call, nullptr, 0, 32, multiply<T, C, W, OF_A, OF_B>);
}

template <class T>
GT_INLINE void fill(const char* name, int line, Part<T>& d, T value) {
  TileCall call{name, line, nullptr, 0, nullptr, {}};
  gt_collective(~0u, name, &call, nullptr, 0, 32, only_meet);
  for (int k = 0; k < 8; ++k) d.x[k] = value;
  d.set = true;
}

}  // namespace gt

template <class T>
struct gt_wmma_a : gt::Part<T> {};
template <class T>
struct gt_wmma_b : gt::Part<T> {};
template <class T>
struct gt_wmma_acc : gt::Part<T> {};

#define GT_LOADS(name, kind)                                                                       \
  template <class T>                                                                               \
  GT_INLINE void name(kind<T>& d, const T* p, int stride, int line = __builtin_LINE()) {           \
    gt::load<T>(#name, line, d, p, stride);                                                        \
  }
GT_LOADS(gt_wmma_load_a, gt_wmma_a)
GT_LOADS(gt_wmma_load_a_shared, gt_wmma_a)
GT_LOADS(gt_wmma_load_a_trans, gt_wmma_a)
GT_LOADS(gt_wmma_load_a_trans_shared, gt_wmma_a)
GT_LOADS(gt_wmma_load_b, gt_wmma_b)
GT_LOADS(gt_wmma_load_b_shared, gt_wmma_b)
GT_LOADS(gt_wmma_load_b_trans, gt_wmma_b)
GT_LOADS(gt_wmma_load_b_trans_shared, gt_wmma_b)
#undef GT_LOADS

#define GT_STORES(name)                                                                            \
  template <class T>                                                                               \
  GT_INLINE void name(T* p, const gt_wmma_acc<T>& d, int stride, int line = __builtin_LINE()) {    \
    gt::store<T>(#name, line, p, d, stride);                                                       \
  }
GT_STORES(gt_wmma_store)
GT_STORES(gt_wmma_store_shared)
#undef GT_STORES

template <class T>
GT_INLINE void gt_wmma_fill(gt_wmma_acc<T>& d, T value, int line = __builtin_LINE()) {
  gt::fill<T>("gt_wmma_fill", line, d, value);
}

#define GT_MMA(name, T, C, W, OF_A, OF_B)                                                          \
  GT_INLINE void name(gt_wmma_acc<C>& d, const gt_wmma_acc<C>& c, const gt_wmma_a<T>& a,           \
                      const gt_wmma_b<T>& b, int line = __builtin_LINE()) {                        \
    gt::mma<T, C, W, OF_A, OF_B>(#name, line, d, c, a, b);                                         \
  }
#define GT_MMAS(name, OF_A, OF_B)                                                                  \
  GT_MMA(name, gt_half, float, float, OF_A, OF_B)                                                  \
  GT_MMA(name, gt_half, gt_half, float, OF_A, OF_B)                                                \
  GT_MMA(name, signed char, int, int, OF_A, OF_B)
GT_MMAS(gt_wmma_mma, false, false)
GT_MMAS(gt_wmma_mma_trans, false, true)
GT_MMAS(gt_wmma_mma_trans_a, true, false)
GT_MMAS(gt_wmma_mma_trans_a_trans_b, true, true)
#undef GT_MMAS
#undef GT_MMA
