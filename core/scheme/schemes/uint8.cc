// uint8: unsigned codes of 8 bits with a zero point, for what lies on one side of 0, as activations
// behind a ReLU do. Asymmetric by default: all 256 codes cover the range, widened to hold 0.
//
//   | u8 | u8 | ...    one for each value;  zero_point u8 [groups]
//
//   -1, 0, 3:   scale = 4 / 255, zero point = round(63.75) = 64, codes 0, 64, 255
//
// int8, symmetric by default, has codes -42, 0, 127 for these: its steps are 1.5 times as large.
//
// Source and rules: affine.h. Entry: uint8_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint8_scheme() {
  static const Scheme kScheme = AffineScheme(
      AffineInfo("uint8", "8-bit unsigned integers with a zero point", 8, /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
