// int5: signed codes of 5 bits. They are one stream of bits over the flat tensor, the lowest first,
// 8 codes in 5 bytes:
//
//   | c1 c1 c1 c0 c0 c0 c0 c0 | c3 c2 c2 c2 c2 c2 c1 c1 | ...   bits 7 to 0
//
//   -1, 0.5, 0.25:   codes -15, 7, 4, bytes 0xF1 0x10
//
// 0.5 is 7.49999952 steps, as the stored scale, f32(1 / 15), is a little above. Between int4 and
// int6: 31 codes, steps 7 / 15 of int4's, for a quarter more bytes.
//
// Source and rules: affine.h. Entry: int5_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int5_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int5", "5-bit signed integers, a stream of bits, scale per tensor, axis, group or block", 5,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
