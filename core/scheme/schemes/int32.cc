// int32: fixed-point numbers of 32 bits, for biases, accumulators and integer pipelines. Steps are
// a power of two by default (Q notation: scale=0.0000152587890625 is Q15.16); what lies outside
// saturates.
//
//   | i32 | i32 | ...    little-endian, one for each value;  scale f32 [groups]
//
//   -1, 0.5, 0.25:   scale = 2^-30, codes -2^30, 2^29, 2^28
//
// Rules: fixed_point.h. Entry: int32_scheme. Tested by tests/core/scheme/fixed_point_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/fixed_point.h"

namespace quantd {

const Scheme& int32_scheme() {
  static const Scheme kScheme =
      FixedPointScheme("int32", "32-bit fixed-point integers, saturating", 32);
  return kScheme;
}

}  // namespace quantd
