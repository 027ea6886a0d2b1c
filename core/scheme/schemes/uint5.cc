// uint5: unsigned codes of 5 bits with a zero point. They are one stream of bits over the flat
// tensor, the lowest first, 8 codes in 5 bytes:
//
//   | c1 c1 c1 c0 c0 c0 c0 c0 | c3 c2 c2 c2 c2 c2 c1 c1 | ...    zero_point u8 [groups]
//
//   -1, 0, 3:   scale = 4 / 31, zero point = round(7.75) = 8, codes 0, 8, 31, bytes 0x00 0x7D
//
// int5, symmetric by default, has steps 1.55 times as large for these.
//
// Source and rules: affine.h. Entry: uint5_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint5_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint5", "5-bit unsigned integers with a zero point, a stream of bits", 5,
      /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
