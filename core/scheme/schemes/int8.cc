// int8: signed codes of 8 bits, the plainest form of weights and activations.
//
//   | i8 | i8 | ...    one for each value, in the tensor's order
//
//   -1, 0.5, 0.25 with one scale, f32(1 / 127):   -127, 64, 32     (0.5 is 63.5 steps, half-even)
//
// A quarter of f32; int4 is half of that, with steps 18 times as large.
//
// Source and rules: affine.h. Entry: int8_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int8_scheme() {
  static const Scheme kScheme = AffineScheme(
      AffineInfo("int8", "8-bit signed integers, scale per tensor, axis, group or block", 8,
                 /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
