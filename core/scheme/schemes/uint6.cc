// uint6: unsigned codes of 6 bits with a zero point. They are one stream of bits over the flat
// tensor, the lowest first, 4 codes in 3 bytes:
//
//   | c1 c1 c0 c0 c0 c0 c0 c0 | c2 c2 c2 c2 c1 c1 c1 c1 | c3 c3 c3 c3 c3 c3 c2 c2 |   bits 7 to 0
//
//   -1, 0, 3:   scale = 4 / 63, zero point = round(15.75) = 16, codes 0, 16, 63: 0x00 0xF4 0x03
//
// zero_point is u8 [groups]. int6, symmetric by default, has steps 1.52 times as large for these.
//
// Source and rules: affine.h. Entry: uint6_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint6_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint6", "6-bit unsigned integers with a zero point, a stream of bits", 6,
      /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
