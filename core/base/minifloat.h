#ifndef QUANTD_CORE_BASE_MINIFLOAT_H_
#define QUANTD_CORE_BASE_MINIFLOAT_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/base/rounding.h"

namespace quantd {

// A binary float format of at most 16 bits: sign, exponent, mantissa, with subnormals.
struct MiniFormat {
  int exp_bits;
  int man_bits;
  int bias;
  uint32_t max_code;   // the largest finite magnitude
  uint32_t inf_code;   // infinity; 0: there is none
  uint32_t nan_code;   // what NaN becomes, sign beside it; 0: there is none
  bool keeps_payload;  // NaN keeps its upper mantissa bits

  constexpr int sign_shift() const { return exp_bits + man_bits; }
};

// IEEE 754 binary16; NaN as numpy converts: the upper payload kept, 1 if that is zero, not quieted.
inline constexpr MiniFormat kHalfFormat = {5, 10, 15, 0x7BFF, 0x7C00, 0x7C00, true};
// bfloat16; NaN becomes the quiet one, as ml_dtypes converts.
inline constexpr MiniFormat kBfloatFormat = {8, 7, 127, 0x7F7F, 0x7F80, 0x7FC0, false};
// OCP FP8 E4M3 (OFP8 1.0, section 4): no infinity.
inline constexpr MiniFormat kE4m3Format = {4, 3, 7, 0x7E, 0, 0x7F, false};
// OCP FP8 E5M2 (OFP8 1.0, section 4); NaN becomes a quiet one, as ml_dtypes converts.
inline constexpr MiniFormat kE5m2Format = {5, 2, 15, 0x7B, 0x7C, 0x7E, false};
// OCP MX FP6 E2M3 and E3M2 (MX 1.0, tables 3 and 4): neither infinity nor NaN.
inline constexpr MiniFormat kE2m3Format = {2, 3, 1, 0x1F, 0, 0, false};
inline constexpr MiniFormat kE3m2Format = {3, 2, 3, 0x1F, 0, 0, false};
// OCP MX FP4 E2M1 (MX 1.0, table 5): neither infinity nor NaN.
inline constexpr MiniFormat kE2m1Format = {2, 1, 1, 0x7, 0, 0, false};

// Returns what rounding adds to a magnitude of `shift` surplus bits before they are cut off. `odd`
// is the lowest bit that is kept. The one definition of rounding for floats, scalar and vector
// alike.
constexpr uint64_t RoundingIncrement(Rounding rounding, int shift, uint64_t odd, bool negative,
                                     uint32_t noise) {
  const uint64_t half = uint64_t{1} << (shift - 1);
  const uint64_t below_one = (uint64_t{1} << shift) - 1;
  switch (rounding) {
    case Rounding::kHalfEven:
      return half - 1 + odd;
    case Rounding::kHalfAway:
      return half;
    case Rounding::kHalfUp:
      return negative ? half - 1 : half;
    case Rounding::kHalfDown:
      return negative ? half : half - 1;
    case Rounding::kTruncate:
      return 0;
    case Rounding::kFloor:
      return negative ? below_one : 0;
    case Rounding::kCeil:
      return negative ? 0 : below_one;
    case Rounding::kStochastic:
      return below_one - (shift >= 32 ? uint64_t{noise} << (shift - 32) : noise >> (32 - shift));
  }
  return 0;
}

// Returns the code of `value` (float or double), rounded once. What rounds beyond the largest
// finite magnitude becomes that magnitude where `saturate` or where there is no infinity, else
// infinity. NaN becomes 0 where the format has none. Scalar definition.
template <typename T>
uint32_t NarrowFloat(const MiniFormat& format, T value, Rounding rounding, bool saturate,
                     uint32_t noise = 0) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kManBits = std::numeric_limits<T>::digits - 1;
  constexpr int kBias = std::numeric_limits<T>::max_exponent - 1;
  constexpr int kMaxShift = sizeof(T) == 4 ? 31 : 60;
  constexpr Bits kSignBit = Bits{1} << (8 * sizeof(T) - 1);
  const Bits bits = std::bit_cast<Bits>(value);
  const bool negative = (bits & kSignBit) != 0;
  const uint32_t sign = negative ? 1u << format.sign_shift() : 0;
  const Bits magnitude = bits & ~kSignBit;
  const Bits inf = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  if (magnitude > inf) {
    if (format.nan_code == 0) return 0;
    if (!format.keeps_payload) return sign | format.nan_code;
    const uint32_t payload =
        static_cast<uint32_t>((magnitude - inf) >> (kManBits - format.man_bits));
    return sign | format.nan_code | std::max(payload, 1u);
  }
  const uint32_t overflow = saturate || format.inf_code == 0 ? format.max_code : format.inf_code;
  if (magnitude == inf) return sign | overflow;
  const int exponent = std::max(static_cast<int>(magnitude >> kManBits), 1);
  uint64_t mantissa = magnitude & ((Bits{1} << kManBits) - 1);
  if (magnitude >> kManBits != 0) mantissa |= uint64_t{1} << kManBits;
  const int min_exponent = kBias + 1 - format.bias;  // of the smallest normal, as T has it
  int shift = kManBits - format.man_bits + std::max(min_exponent - exponent, 0);
  if (shift > kMaxShift) {  // far below the smallest subnormal only "not zero" is left
    shift = kMaxShift;
    mantissa = mantissa != 0 ? uint64_t{1} << (kManBits - 23) : 0;
  }
  const uint64_t odd = (mantissa >> shift) & 1;
  const uint64_t rounded =
      (mantissa + RoundingIncrement(rounding, shift, odd, negative, noise)) >> shift;
  const uint64_t code =
      (static_cast<uint64_t>(std::max(exponent - min_exponent, 0)) << format.man_bits) + rounded;
  return sign | (code > format.max_code ? overflow : static_cast<uint32_t>(code));
}

// Returns the value of `code` as a float or double; exact, NaN with its payload and not quieted.
template <typename T>
constexpr T WidenFloat(const MiniFormat& format, uint32_t code) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kManBits = std::numeric_limits<T>::digits - 1;
  const Bits sign = static_cast<Bits>((code >> format.sign_shift()) & 1) << (8 * sizeof(T) - 1);
  const uint32_t magnitude = code & ((1u << format.sign_shift()) - 1);
  const uint32_t exponent = magnitude >> format.man_bits;
  const uint32_t mantissa = magnitude & ((1u << format.man_bits) - 1);
  if (magnitude > format.max_code) {
    const Bits inf = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
    return std::bit_cast<T>(sign | inf |
                            static_cast<Bits>(mantissa) << (kManBits - format.man_bits));
  }
  const uint32_t significand = exponent == 0 ? mantissa : mantissa | 1u << format.man_bits;
  // In double, whose normal numbers have the unit of every format.
  const uint64_t unit_exponent = std::max(exponent, 1u) + 1023u -
                                 static_cast<uint32_t>(format.bias + format.man_bits);
  const T value = static_cast<T>(significand * std::bit_cast<double>(unit_exponent << 52));
  return std::bit_cast<T>(sign | std::bit_cast<Bits>(value));
}

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_MINIFLOAT_H_
