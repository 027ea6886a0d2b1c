// int64: fixed-point numbers of 64 bits, for sums that must not lose anything and for counts. f32
// values within 2^39 of the largest are exact multiples of the step, so that most tensors of f32
// come back as they were. What lies outside saturates, at 2^63 - 1, which no float is.
//
//   | i64 | i64 | ...    little-endian, one for each value;  scale f32 [groups]
//
//   -1, 0.5, 0.25:   scale = 2^-62, codes -2^62, 2^61, 2^60
//
// Rules: fixed_point.h. Entry: int64_scheme. Tested by tests/core/scheme/fixed_point_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/fixed_point.h"

namespace quantd {

const Scheme& int64_scheme() {
  static const Scheme kScheme =
      FixedPointScheme("int64", "64-bit fixed-point integers, saturating", 64);
  return kScheme;
}

}  // namespace quantd
