// int6: signed codes of 6 bits, near int8's quality for three quarters of its bytes. They are one
// stream of bits over the flat tensor, the lowest first, 4 codes in 3 bytes:
//
//   | c1 c1 c0 c0 c0 c0 c0 c0 | c2 c2 c2 c2 c1 c1 c1 c1 | c3 c3 c3 c3 c3 c3 c2 c2 |   bits 7 to 0
//
//   -1, 0.5, 0.25:   codes -31, 16, 8, bytes 0x21 0x84 0x00
//
// Its steps are 127 / 31 as large as int8's, four times and a little.
//
// Source and rules: affine.h. Entry: int6_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int6_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int6", "6-bit signed integers, a stream of bits, scale per tensor, axis, group or block", 6,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
