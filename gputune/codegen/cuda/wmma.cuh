// How does a warp compute with tensor cores on tiles of 16 x 16? WMMA's instructions, as functions.
//
// All 32 threads of a warp call them together, with the same tile; each holds a part of it in its
// registers, which part is the machine's affair. Rows of a tile in memory begin at multiples of 16
// bytes; `stride` counts elements from one row to the next.

template <typename T> struct gt_wmma_a;
template <typename T> struct gt_wmma_b;
template <typename T> struct gt_wmma_acc;
template <> struct gt_wmma_a<gt_half> { unsigned x[8]; };
template <> struct gt_wmma_b<gt_half> { unsigned x[8]; };
template <> struct gt_wmma_a<signed char> { unsigned x[2]; };
template <> struct gt_wmma_b<signed char> { unsigned x[2]; };
template <> struct gt_wmma_acc<float> { float x[8]; };
template <> struct gt_wmma_acc<gt_half> { unsigned x[4]; };
template <> struct gt_wmma_acc<int> { int x[8]; };

#define GT_GLOBAL(p) "l"(__cvta_generic_to_global(p))
#define GT_SHARED(p) "r"((unsigned)__cvta_generic_to_shared(p))
#define GT_2(c, v) c(v[0]), c(v[1])
#define GT_4(c, v) GT_2(c, v), c(v[2]), c(v[3])
#define GT_8(c, v) GT_4(c, v), c(v[4]), c(v[5]), c(v[6]), c(v[7])

// ---------------------------------------------------------------------------- load
#define GT_LOAD(name, kind, T, what, space, type, registers, outputs, p_at, stride_at, address)     \
  GT_DEVICE void name(kind<T>& d, const T* p, int stride) {                                         \
    asm volatile("wmma.load." what ".m16n16k16" space "." type " {" registers "}, [%" p_at "], %"   \
                 stride_at ";" : outputs("=r", d.x) : address(p), "r"(stride) : "memory");          \
  }
#define GT_LOADS(name, kind, what)                                                                  \
  GT_LOAD(name, kind, gt_half, what, ".global", "f16", "%0,%1,%2,%3,%4,%5,%6,%7", GT_8, "8", "9", GT_GLOBAL) \
  GT_LOAD(name##_shared, kind, gt_half, what, ".shared", "f16", "%0,%1,%2,%3,%4,%5,%6,%7", GT_8, "8", "9", GT_SHARED) \
  GT_LOAD(name, kind, signed char, what, ".global", "s8", "%0,%1", GT_2, "2", "3", GT_GLOBAL)       \
  GT_LOAD(name##_shared, kind, signed char, what, ".shared", "s8", "%0,%1", GT_2, "2", "3", GT_SHARED)
GT_LOADS(gt_wmma_load_a, gt_wmma_a, "a.sync.aligned.row")
GT_LOADS(gt_wmma_load_a_trans, gt_wmma_a, "a.sync.aligned.col")
GT_LOADS(gt_wmma_load_b, gt_wmma_b, "b.sync.aligned.row")
GT_LOADS(gt_wmma_load_b_trans, gt_wmma_b, "b.sync.aligned.col")

// ---------------------------------------------------------------------------- fill
GT_DEVICE void gt_wmma_fill(gt_wmma_acc<float>& d, float value) {
#pragma unroll
  for (int i = 0; i < 8; ++i) d.x[i] = value;
}
GT_DEVICE void gt_wmma_fill(gt_wmma_acc<int>& d, int value) {
#pragma unroll
  for (int i = 0; i < 8; ++i) d.x[i] = value;
}
GT_DEVICE void gt_wmma_fill(gt_wmma_acc<gt_half>& d, gt_half value) {
#pragma unroll
  for (int i = 0; i < 4; ++i) d.x[i] = value.x * 0x10001u;
}

// ---------------------------------------------------------------------------- multiply
#define GT_MMA(name, layout, ab, acc, type, c, d_regs, a_regs, b_regs, c_regs, n_ab, n_acc)         \
  GT_DEVICE void name(gt_wmma_acc<acc>& d, const gt_wmma_acc<acc>& e, const gt_wmma_a<ab>& a,       \
                      const gt_wmma_b<ab>& b) {                                                     \
    asm volatile("wmma.mma.sync.aligned." layout ".m16n16k16." type " {" d_regs "}, {" a_regs       \
                 "}, {" b_regs "}, {" c_regs "};"                                                   \
                 : n_acc("=" c, d.x) : n_ab("r", a.x), n_ab("r", b.x), n_acc(c, e.x));              \
  }
#define GT_MMAS(name, layout)                                                                       \
  GT_MMA(name, layout, gt_half, float, "f32.f32", "f", "%0,%1,%2,%3,%4,%5,%6,%7",                   \
         "%8,%9,%10,%11,%12,%13,%14,%15", "%16,%17,%18,%19,%20,%21,%22,%23",                        \
         "%24,%25,%26,%27,%28,%29,%30,%31", GT_8, GT_8)                                             \
  GT_MMA(name, layout, gt_half, gt_half, "f16.f16", "r", "%0,%1,%2,%3",                             \
         "%4,%5,%6,%7,%8,%9,%10,%11", "%12,%13,%14,%15,%16,%17,%18,%19", "%20,%21,%22,%23", GT_8, GT_4) \
  GT_MMA(name, layout, signed char, int, "s32.s8.s8.s32", "r", "%0,%1,%2,%3,%4,%5,%6,%7", "%8,%9",  \
         "%10,%11", "%12,%13,%14,%15,%16,%17,%18,%19", GT_2, GT_8)
GT_MMAS(gt_wmma_mma, "row.row")
GT_MMAS(gt_wmma_mma_trans, "row.col")
GT_MMAS(gt_wmma_mma_trans_a, "col.row")
GT_MMAS(gt_wmma_mma_trans_a_trans_b, "col.col")

// ---------------------------------------------------------------------------- store
#define GT_STORE(name, T, space, type, registers, inputs, c, address)                               \
  GT_DEVICE void name(T* p, const gt_wmma_acc<T>& d, int stride) {                                  \
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16" space "." type " [%0], {" registers      \
                 "}, %1;" : : address(p), "r"(stride), inputs(c, d.x) : "memory");                  \
  }
#define GT_STORES(T, type, registers, inputs, c)                                                    \
  GT_STORE(gt_wmma_store, T, ".global", type, registers, inputs, c, GT_GLOBAL)                      \
  GT_STORE(gt_wmma_store_shared, T, ".shared", type, registers, inputs, c, GT_SHARED)
GT_STORES(float, "f32", "%2,%3,%4,%5,%6,%7,%8,%9", GT_8, "f")
GT_STORES(gt_half, "f16", "%2,%3,%4,%5", GT_4, "r")
GT_STORES(int, "s32", "%2,%3,%4,%5,%6,%7,%8,%9", GT_8, "r")

#undef GT_STORES
#undef GT_STORE
#undef GT_MMAS
#undef GT_MMA
#undef GT_LOADS
#undef GT_LOAD
#undef GT_8
#undef GT_4
#undef GT_2
#undef GT_SHARED
#undef GT_GLOBAL
