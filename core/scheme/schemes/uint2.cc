// uint2: unsigned codes of 2 bits with a zero point, for weights in small groups. Four lie in a
// byte, the first in the low bits, over the flat tensor; what is left of the last byte is 0:
//
//   | code 3 | code 2 | code 1 | code 0 |   bits 7 to 0;   zero_point u8 [groups]
//
//   -1, 0, 3:   scale = 4 / 3, zero point = round(0.75) = 1, codes 0, 1, 3, byte 0x34
//
// All four codes are used, where int2 has three by default and steps 2.25 times as large for these.
//
// Source and rules: affine.h. Entry: uint2_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint2_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint2", "2-bit unsigned integers with a zero point, four to a byte", 2,
      /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
