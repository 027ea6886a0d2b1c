// uint4: unsigned codes of 4 bits with a zero point, for weights in groups whose values are not
// centred. Two lie in a byte, the first in the low nibble, over the flat tensor:
//
//   -1, 0, 3:   scale = 4 / 15, zero point = round(3.75) = 4, codes 0, 4, 15, bytes 0x40 0x0F
//
//   codes u8 [elements / 2, rounded up], scale f32 [groups], zero_point u8 [groups]
//
// int4, symmetric by default, needs no zero points, a byte a group, and has steps of 3 / 7 for
// these, 1.6 times as large.
//
// Source and rules: affine.h. Entry: uint4_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint4_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint4", "4-bit unsigned integers with a zero point, two to a byte", 4, /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
