// int3: signed codes of 3 bits, for weights in small groups. They are one stream of bits over the
// flat tensor, the lowest first, 8 codes in 3 bytes:
//
//   | c2 c2 c1 c1 c1 c0 c0 c0 | c5 c4 c4 c4 c3 c3 c3 c2 | ...   bits 7 to 0
//
//   -1, 0.5, 0.25:   codes -3, 2, 1, bytes 0x55 0x00
//
// 0.5 is a tie between 1 and 2 steps of 1 / 3. Three quarters of int4's bytes, with steps 7 / 3 as
// large; mlx_q3 is MLX's of this width, asymmetric, and by rows.
//
// Source and rules: affine.h. Entry: int3_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int3_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int3", "3-bit signed integers, a stream of bits, scale per tensor, axis, group or block", 3,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
