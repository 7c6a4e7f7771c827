// Warp collectives: lanes bring a value, the last one to arrive computes for all that take part.
#pragma once

namespace gt {

enum Shuffle { FROM, UP, DOWN, XOR };

// The lane that lane `l` reads from, itself where that would leave its segment of `width` lanes.
static inline int source_lane(Shuffle how, int l, int n, int width) {
  const int first = l & ~(width - 1), last = first + width - 1;
  switch (how) {
    case FROM: return first + (n & (width - 1));
    case UP: return l - n < first ? l : l - n;
    case DOWN: return l + n > last ? l : l + n;
    case XOR: return (l ^ n) > last ? l : l ^ n;
  }
  return l;
}

template <class T, Shuffle HOW>
__attribute__((no_sanitize("thread"))) static void shuffle_all(gt_exchange* e) {
  T found[32];
  for (int l = 0; l < 32; ++l) {
    if (!(e->lanes >> l & 1)) continue;
    const int from = source_lane(HOW, l, e->number[l], e->width);
    if (e->lanes >> from & 1)
      __builtin_memcpy(&found[l], e->given[from], sizeof(T));
    else
      gt_undefined_lane(from, l, sizeof(T), &found[l]);
  }
  for (int l = 0; l < 32; ++l)
    if (e->lanes >> l & 1) __builtin_memcpy(e->taken[l], &found[l], sizeof(T));
}

template <class T, Shuffle HOW>
GT_INLINE T shuffle(unsigned mask, const char* name, T value, int n, int width) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8,
                "shuffles move 4 or 8 bytes");
  T out = value;
  gt_collective(mask, name, &value, &out, n, width, shuffle_all<T, HOW>);
  return out;
}

__attribute__((no_sanitize("thread"))) static void ballot_all(gt_exchange* e) {
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l)
    if (e->lanes >> l & 1 && e->number[l]) votes |= 1u << l;
  for (int l = 0; l < 32; ++l)
    if (e->lanes >> l & 1) *(unsigned*)e->taken[l] = votes;
}

struct Sum {
  template <class T>
  static T of(T a, T b) { return a + b; }
};
struct Least {
  template <class T>
  static T of(T a, T b) { return a < b ? a : b; }
};
struct Greatest {
  template <class T>
  static T of(T a, T b) { return a > b ? a : b; }
};
struct BitAnd {
  template <class T>
  static T of(T a, T b) { return a & b; }
};
struct BitOr {
  template <class T>
  static T of(T a, T b) { return a | b; }
};
struct BitXor {
  template <class T>
  static T of(T a, T b) { return a ^ b; }
};

template <class T, class Op>
__attribute__((no_sanitize("thread"))) static void reduce_all(gt_exchange* e) {
  T total{};
  bool first = true;
  for (int l = 0; l < 32; ++l) {
    if (!(e->lanes >> l & 1)) continue;
    const T value = *(const T*)e->given[l];
    total = first ? value : Op::template of<T>(total, value);
    first = false;
  }
  for (int l = 0; l < 32; ++l)
    if (e->lanes >> l & 1) *(T*)e->taken[l] = total;
}

template <class T, class Op>
GT_INLINE T reduce(unsigned mask, const char* name, T value) {
  T out = value;
  gt_collective(mask, name, &value, &out, 0, 32, reduce_all<T, Op>);
  return out;
}

template <class T>
__attribute__((no_sanitize("thread"))) static void match_all(gt_exchange* e) {
  unsigned same[32];
  for (int l = 0; l < 32; ++l) {
    same[l] = 0;
    if (!(e->lanes >> l & 1)) continue;
    for (int k = 0; k < 32; ++k)
      if (e->lanes >> k & 1 && *(const T*)e->given[k] == *(const T*)e->given[l]) same[l] |= 1u << k;
  }
  for (int l = 0; l < 32; ++l)
    if (e->lanes >> l & 1) *(unsigned*)e->taken[l] = same[l];
}

}  // namespace gt

template <class T>
GT_INLINE T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return gt::shuffle<T, gt::FROM>(mask, "__shfl_sync", value, lane, width);
}
template <class T>
GT_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return gt::shuffle<T, gt::UP>(mask, "__shfl_up_sync", value, int(by), width);
}
template <class T>
GT_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return gt::shuffle<T, gt::DOWN>(mask, "__shfl_down_sync", value, int(by), width);
}
template <class T>
GT_INLINE T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  return gt::shuffle<T, gt::XOR>(mask, "__shfl_xor_sync", value, with, width);
}

GT_INLINE unsigned gt_ballot(unsigned mask, const char* name, int predicate) {
  unsigned out = 0;
  gt_collective(mask, name, nullptr, &out, predicate != 0, 32, gt::ballot_all);
  return out;
}
GT_INLINE unsigned __ballot_sync(unsigned mask, int p) { return gt_ballot(mask, "__ballot_sync", p); }
GT_INLINE int __any_sync(unsigned mask, int p) { return gt_ballot(mask, "__any_sync", p) != 0; }
GT_INLINE int __all_sync(unsigned mask, int p) { return gt_ballot(mask, "__all_sync", !p) == 0; }
GT_INLINE unsigned __activemask(int line = __builtin_LINE()) { return gt_converged(line); }
GT_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { gt_warp_barrier(mask); }

template <class T>
GT_INLINE unsigned __match_any_sync(unsigned mask, T value) {
  unsigned out = 0;
  gt_collective(mask, "__match_any_sync", &value, &out, 0, 32, gt::match_all<T>);
  return out;
}
template <class T>
GT_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all) {
  unsigned out = 0;
  gt_collective(mask, "__match_all_sync", &value, &out, 0, 32, gt::match_all<T>);
  const unsigned lanes = gt_ballot(mask, "__match_all_sync", 1);
  *all = out == lanes;
  return out == lanes ? lanes : 0;
}

#define GT_REDUCE(name, T, op)                                                                     \
  GT_INLINE T name(unsigned mask, T value) { return gt::reduce<T, gt::op>(mask, #name, value); }
GT_REDUCE(__reduce_add_sync, unsigned, Sum)
GT_REDUCE(__reduce_add_sync, int, Sum)
GT_REDUCE(__reduce_min_sync, unsigned, Least)
GT_REDUCE(__reduce_min_sync, int, Least)
GT_REDUCE(__reduce_max_sync, unsigned, Greatest)
GT_REDUCE(__reduce_max_sync, int, Greatest)
GT_REDUCE(__reduce_and_sync, unsigned, BitAnd)
GT_REDUCE(__reduce_or_sync, unsigned, BitOr)
GT_REDUCE(__reduce_xor_sync, unsigned, BitXor)
#undef GT_REDUCE
