// The prelude's narrow floats: gt_half, gt_bfloat16, gt_e4m3, gt_e5m2, and their conversions.
// All round to nearest, ties to even. As in ml_dtypes, what is too great becomes infinite, or NaN
// in e4m3, which has no infinity; every NaN becomes the one that GPUs give.
#pragma once

struct __attribute__((aligned(2))) gt_half {
  unsigned short x;
};
struct __attribute__((aligned(2))) gt_bfloat16 {
  unsigned short x;
};
struct gt_e4m3 {
  unsigned char x;
};
struct gt_e5m2 {
  unsigned char x;
};

namespace gt {

template <class To, class From>
static inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "bits of another size");
  To out;
  __builtin_memcpy(&out, &value, sizeof out);
  return out;
}

// A format of one sign bit, `EXPONENT` bits and `MANTISSA` bits; `GREATEST` is the code of the
// greatest finite value, `OVER` what greater values become, `NOT_A_NUMBER` the NaN.
template <int EXPONENT, int MANTISSA, unsigned GREATEST, unsigned OVER, unsigned NOT_A_NUMBER>
struct Format {
  static constexpr int BIAS = (1 << (EXPONENT - 1)) - 1;
  static constexpr int DROPPED = 23 - MANTISSA;
  static constexpr unsigned SIGN = 1u << (EXPONENT + MANTISSA);

  static inline unsigned encode(float value) {
    const unsigned all = bits_as<unsigned>(value);
    const unsigned sign = all >> 31 ? SIGN : 0;
    unsigned magnitude = all & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return NOT_A_NUMBER;
    if (magnitude < unsigned(128 - BIAS) << 23) {
      // Below the normal numbers, the unit is fixed: adding a power of two rounds to it.
      const unsigned power = unsigned(127 + 1 - BIAS - MANTISSA + 23) << 23;
      const float sum = bits_as<float>(magnitude) + bits_as<float>(power);
      return sign | (bits_as<unsigned>(sum) - power);
    }
    magnitude += (1u << (DROPPED - 1)) - 1 + (magnitude >> DROPPED & 1);
    const unsigned code = (magnitude >> DROPPED) - (unsigned(127 - BIAS) << MANTISSA);
    return sign | (code > GREATEST ? OVER : code);
  }

  static inline float decode(unsigned code) {
    const unsigned sign = code & SIGN ? 0x80000000u : 0;
    const unsigned magnitude = code & (SIGN - 1);
    if (magnitude > GREATEST)
      return bits_as<float>(sign | (magnitude == OVER && OVER != NOT_A_NUMBER ? 0x7f800000u : 0x7fffffffu));
    if (magnitude >> MANTISSA)
      return bits_as<float>(sign | ((magnitude << DROPPED) + (unsigned(127 - BIAS) << 23)));
    const float unit = bits_as<float>(unit_bits());
    return bits_as<float>(sign | bits_as<unsigned>(float(magnitude) * unit));
  }

  // The least subnormal as a float; bfloat16's is itself subnormal.
  static constexpr unsigned unit_bits() {
    return 128 - BIAS - MANTISSA > 0 ? unsigned(128 - BIAS - MANTISSA) << 23 : 1u << (22 - MANTISSA + 1);
  }
};

using Half = Format<5, 10, 0x7bff, 0x7c00, 0x7fff>;
using Bfloat16 = Format<8, 7, 0x7f7f, 0x7f80, 0x7fff>;
using E4m3 = Format<4, 3, 0x7e, 0x7f, 0x7f>;
using E5m2 = Format<5, 2, 0x7b, 0x7c, 0x7f>;

}  // namespace gt

static inline float gt_to_float(gt_half v) { return gt::Half::decode(v.x); }
static inline float gt_to_float(gt_bfloat16 v) { return gt::Bfloat16::decode(v.x); }
static inline float gt_to_float(gt_e4m3 v) { return gt::E4m3::decode(v.x); }
static inline float gt_to_float(gt_e5m2 v) { return gt::E5m2::decode(v.x); }
static inline gt_half gt_to_half(float v) { return gt_half{(unsigned short)gt::Half::encode(v)}; }
static inline gt_bfloat16 gt_to_bfloat16(float v) { return gt_bfloat16{(unsigned short)gt::Bfloat16::encode(v)}; }
static inline gt_e4m3 gt_to_e4m3(float v) { return gt_e4m3{(unsigned char)gt::E4m3::encode(v)}; }
static inline gt_e5m2 gt_to_e5m2(float v) { return gt_e5m2{(unsigned char)gt::E5m2::encode(v)}; }
