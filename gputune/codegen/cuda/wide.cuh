// How does a thread access several neighbouring elements at once, or tell caches what to expect?
//
// N elements in registers come from memory, and go there, in words of BYTES bytes, at multiples of
// which they lie; how caches take them is HOW.

template <typename T, int N>
struct __align__(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) gt_vec { T v[N]; };

template <int BYTES> struct gt_bytes;
template <> struct gt_bytes<1> { typedef unsigned char type; };
template <> struct gt_bytes<2> { typedef unsigned short type; };
template <> struct gt_bytes<4> { typedef unsigned int type; };
template <> struct gt_bytes<8> { typedef uint2 type; };
template <> struct gt_bytes<16> { typedef uint4 type; };

struct gt_plain {
  template <typename W> static GT_DEVICE W load(const W* p) { return *p; }
  template <typename W> static GT_DEVICE void store(W* p, W w) { *p = w; }
};
struct gt_streaming {
  template <typename W> static GT_DEVICE W load(const W* p) { return __ldcs(p); }
  template <typename W> static GT_DEVICE void store(W* p, W w) { __stcs(p, w); }
};
struct gt_read_only {
  template <typename W> static GT_DEVICE W load(const W* p) { return __ldg(p); }
};
struct gt_no_allocate {
  template <typename W> static GT_DEVICE W load(const W* p) { return __ldg(p); }
  static GT_DEVICE unsigned int load(const unsigned int* p) {
    unsigned int r;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(p));
    return r;
  }
  static GT_DEVICE uint2 load(const uint2* p) {
    uint2 r;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
    return r;
  }
  static GT_DEVICE uint4 load(const uint4* p) {
    uint4 r;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
  }
};

template <int N> struct gt_at_most_16 { static const int value = N > 16 ? 16 : N; };

template <typename HOW, typename T, int N, int BYTES>
GT_DEVICE gt_vec<T, N> gt_loaded(const T* p) {
  typedef typename gt_bytes<BYTES>::type W;
  union {
    W w[sizeof(T) * N / BYTES];
    gt_vec<T, N> v;
  } all;
#pragma unroll
  for (int i = 0; i < (int)(sizeof(T) * N / BYTES); ++i) all.w[i] = HOW::load((const W*)p + i);
  return all.v;
}

template <typename HOW, typename T, int N, int BYTES>
GT_DEVICE void gt_stored(T* p, gt_vec<T, N> v) {
  typedef typename gt_bytes<BYTES>::type W;
  union {
    W w[sizeof(T) * N / BYTES];
    gt_vec<T, N> v;
  } all;
  all.v = v;
#pragma unroll
  for (int i = 0; i < (int)(sizeof(T) * N / BYTES); ++i) HOW::store((W*)p + i, all.w[i]);
}

#define GT_LOAD(name, HOW)                                                            \
  template <typename T, int N, int BYTES = gt_at_most_16<sizeof(T) * N>::value>       \
  GT_DEVICE gt_vec<T, N> name(const T* p) {                                           \
    return gt_loaded<HOW, T, N, BYTES>(p);                                            \
  }                                                                                   \
  template <typename T> GT_DEVICE T name(const T* p) {                                \
    return gt_loaded<HOW, T, 1, sizeof(T)>(p).v[0];                                   \
  }
#define GT_STORE(name, HOW)                                                           \
  template <typename T, int N, int BYTES = gt_at_most_16<sizeof(T) * N>::value>       \
  GT_DEVICE void name(T* p, gt_vec<T, N> v) {                                         \
    gt_stored<HOW, T, N, BYTES>(p, v);                                                \
  }                                                                                   \
  template <typename T> GT_DEVICE void name(T* p, T value) {                          \
    gt_vec<T, 1> v;                                                                   \
    v.v[0] = value;                                                                   \
    gt_stored<HOW, T, 1, sizeof(T)>(p, v);                                            \
  }
GT_LOAD(gt_load, gt_plain)
GT_LOAD(gt_load_streaming, gt_streaming)
GT_LOAD(gt_load_read_only, gt_read_only)
GT_LOAD(gt_load_no_allocate, gt_no_allocate)
GT_STORE(gt_store, gt_plain)
GT_STORE(gt_store_streaming, gt_streaming)
#undef GT_LOAD
#undef GT_STORE
