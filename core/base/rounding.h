#ifndef QUANTD_CORE_BASE_ROUNDING_H_
#define QUANTD_CORE_BASE_ROUNDING_H_

#include <cmath>
#include <cstdint>

namespace quantd {

// How a value between two codes is rounded. A closed set; the wire has the same list.
enum class Rounding : uint8_t {
  kHalfEven,
  kHalfAway,
  kHalfUp,
  kHalfDown,
  kTruncate,  // toward zero
  kFloor,
  kCeil,
  kStochastic,  // Philox4x32-10 keyed by seed, tensor name, element index
};
inline constexpr int kNumRoundings = 8;

// Returns `value`, of magnitude below 2^22, rounded to a whole number: the scalar definition.
// `noise` counts for kStochastic only, which rounds up where its upper 24 bits, as a fraction, are
// below the fraction of `value`.
template <typename T>
T RoundToWhole(T value, Rounding rounding, uint32_t noise) {
  const T floor = std::floor(value);
  const T trunc = std::trunc(value);
  switch (rounding) {
    case Rounding::kHalfEven:
      return std::nearbyint(value);
    case Rounding::kHalfAway:
      return std::fabs(value - trunc) >= T{0.5} ? trunc + std::copysign(T{1}, value) : trunc;
    case Rounding::kHalfUp:
      return value - floor >= T{0.5} ? floor + T{1} : floor;
    case Rounding::kHalfDown:  // -HalfUp(-value): value - floor is not exact just below zero
      return std::ceil(value) - value >= T{0.5} ? std::ceil(value) - T{1} : std::ceil(value);
    case Rounding::kTruncate:
      return trunc;
    case Rounding::kFloor:
      return floor;
    case Rounding::kCeil:
      return std::ceil(value);
    case Rounding::kStochastic:
      return static_cast<T>(noise >> 8) * T{0x1p-24} < value - floor ? floor + T{1} : floor;
  }
  return value;
}

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_ROUNDING_H_
