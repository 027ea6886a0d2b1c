// int2: signed codes of 2 bits, for weights trained to bear it. Four lie in a byte, the first in
// the low bits, over the flat tensor; what is left of the last byte is 0:
//
//   | code 3 | code 2 | code 1 | code 0 |   bits 7 to 0
//
//   -1, 0.5, 0.25:   codes -1, 0, 0, byte 0x03
//
// mode=symmetric has the codes -1, 0, 1, with the largest magnitude as the scale; mode=full uses -2
// as well, with steps two thirds as large. Half of int4's bytes, with steps 7 times as large.
//
// Source and rules: affine.h. Entry: int2_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int2_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int2", "2-bit signed integers, four to a byte, scale per tensor, axis, group or block", 2,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
