#ifndef QUANTD_CORE_BASE_CHECKED_MATH_H_
#define QUANTD_CORE_BASE_CHECKED_MATH_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace quantd {

// Returns a * b, or kInvalidArgument naming both where the product leaves int64.
inline absl::StatusOr<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) {
    return absl::InvalidArgumentError(absl::StrCat(a, " x ", b, " overflows 64 bits"));
  }
  return result;
}

// Returns a + b, or kInvalidArgument naming both where the sum leaves int64.
inline absl::StatusOr<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) {
    return absl::InvalidArgumentError(absl::StrCat(a, " + ", b, " overflows 64 bits"));
  }
  return result;
}

// Return a + b and a * b of numbers that are not negative, or the largest int64 where they leave
// it: for amounts that are only compared with a limit.
constexpr int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_add_overflow(a, b, &result) ? std::numeric_limits<int64_t>::max() : result;
}
constexpr int64_t SaturatingMul(int64_t a, int64_t b) {
  int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? std::numeric_limits<int64_t>::max() : result;
}

// Returns ceil(a / b) for a >= 0, b > 0, without overflow.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Returns the smallest multiple of b that is at least a; the caller knows that it fits.
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_CHECKED_MATH_H_
