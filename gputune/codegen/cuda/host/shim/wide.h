// The prelude's accesses of several neighbouring elements at once, and those with a cache hint,
// which means nothing here. Words are the accesses that the checks see, as on a GPU.
#pragma once

template <typename T, int N>
struct __attribute__((aligned(sizeof(T) * N > 16 ? 16 : sizeof(T) * N))) gt_vec {
  T v[N];
};

namespace gt {
template <int BYTES>
struct Word;
template <>
struct Word<1> {
  using type = unsigned char;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = unsigned long long;
};
template <>
struct Word<16> {
  using type = unsigned __int128;
};

template <typename T, int N, int BYTES>
GT_INLINE gt_vec<T, N> loaded(const T* p) {
  using W = typename Word<BYTES>::type;
  gt_vec<T, N> out;
  for (int i = 0; i < int(sizeof(T) * N / BYTES); ++i) {
    const W word = ((const W*)p)[i];
    __builtin_memcpy((char*)&out + i * BYTES, &word, BYTES);
  }
  return out;
}

template <typename T, int N, int BYTES>
GT_INLINE void stored(T* p, gt_vec<T, N> v) {
  using W = typename Word<BYTES>::type;
  for (int i = 0; i < int(sizeof(T) * N / BYTES); ++i) {
    W word;
    __builtin_memcpy(&word, (const char*)&v + i * BYTES, BYTES);
    ((W*)p)[i] = word;
  }
}
}  // namespace gt

#define GT_WIDE_LOAD(name)                                                                         \
  template <typename T, int N, int BYTES = (sizeof(T) * N > 16 ? 16 : int(sizeof(T) * N))>         \
  GT_INLINE gt_vec<T, N> name(const T* p) {                                                        \
    return gt::loaded<T, N, BYTES>(p);                                                             \
  }                                                                                                \
  template <typename T>                                                                            \
  GT_INLINE T name(const T* p) {                                                                   \
    return *p;                                                                                     \
  }
GT_WIDE_LOAD(gt_load) GT_WIDE_LOAD(gt_load_streaming) GT_WIDE_LOAD(gt_load_read_only)
GT_WIDE_LOAD(gt_load_no_allocate)
#undef GT_WIDE_LOAD
#define GT_WIDE_STORE(name)                                                                        \
  template <typename T, int N, int BYTES = (sizeof(T) * N > 16 ? 16 : int(sizeof(T) * N))>         \
  GT_INLINE void name(T* p, gt_vec<T, N> v) {                                                      \
    gt::stored<T, N, BYTES>(p, v);                                                                 \
  }                                                                                                \
  template <typename T>                                                                            \
  GT_INLINE void name(T* p, T value) {                                                             \
    *p = value;                                                                                    \
  }
GT_WIDE_STORE(gt_store) GT_WIDE_STORE(gt_store_streaming)
#undef GT_WIDE_STORE
