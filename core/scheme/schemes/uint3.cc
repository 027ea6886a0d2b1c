// uint3: unsigned codes of 3 bits with a zero point, for weights in groups that are not centred.
// They are one stream of bits over the flat tensor, the lowest first, 8 codes in 3 bytes:
//
//   | c2 c2 c1 c1 c1 c0 c0 c0 | c5 c4 c4 c4 c3 c3 c3 c2 | ...    zero_point u8 [groups]
//
//   -1, 0, 3:   scale = 4 / 7, zero point = round(1.75) = 2, codes 0, 2, 7, bytes 0xD0 0x01
//
// int3, symmetric by default, has steps 1.75 times as large for these.
//
// Source and rules: affine.h. Entry: uint3_scheme. Tested by tests/core/scheme/affine_test.cc,
// reference_test.cc and golden_test.cc.
#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint3_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint3", "3-bit unsigned integers with a zero point, a stream of bits", 3,
      /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
