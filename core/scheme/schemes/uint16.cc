// uint16: unsigned codes of 16 bits with a zero point, for what lies on one side of 0 and wants
// more than uint8's 256 codes.
//
//   | u16 | u16 | ...    little-endian, one for each value;  zero_point u16 [groups]
//
//   -1, 0, 3:   scale = 4 / 65535, zero point = round(16383.75) = 16384, codes 0, 16384, 65535
//
// int16, symmetric by default, has steps 1.5 times as large for these.
//
// Source and rules: affine.h. Entry: uint16_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint16_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint16", "16-bit unsigned integers with a zero point", 16,
      /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
