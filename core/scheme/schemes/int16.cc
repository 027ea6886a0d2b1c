// int16: signed codes of 16 bits, where 8 are too few.
//
//   | i16 | i16 | ...    little-endian, one for each value
//
//   -1, 0.5, 0.25:   scale = 1 / 32767, codes -32767, 16384, 8192
//
// As large as fp16, with steps of one size: better for values of one magnitude, worse for many.
//
// Source and rules: affine.h. Entry: int16_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int16_scheme() {
  static const Scheme kScheme =
      AffineScheme(AffineInfo("int16", "16-bit signed integers", 16, /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
