// int4: signed codes of 4 bits, for weights in groups. Two lie in a byte, over the flat tensor:
//
//   | code 1 << 4 | code 0 |  code 3 << 4 | code 2 | ...    an odd last one has 0 beside it
//
//   -1, 0.5, 0.25:   codes -7, 3, 2, bytes 0x39 0x02
//
// 0.5 is not 3.5 steps, which would round to 4: the stored scale, f32(1 / 7), is a little above, so
// 0.5 / 0.142857149f is 3.49999976f. With a scale for all, one value far away takes most of the 15
// codes; group=128 takes 1/32 byte a value more.
//
// Source and rules: affine.h. Entry: int4_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int4_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int4", "4-bit signed integers, two to a byte, scale per tensor, axis, group or block", 4,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
