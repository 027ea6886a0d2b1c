// fp4_e2m1: OCP's E2M1, the values 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. Two lie in a
// byte, the first in the low nibble, over the flat tensor:
//
//   | code 1 << 4 | code 0 |  code 3 << 4 | code 2 | ...    an odd last one has 0 beside it
//
//   0.75 -> 1 (half-even), 2.5 -> 2, 5 -> 4, -0.1 -> -0, codes 2, 4, 6, 8: 0x42 0x86
//
// A code is | sign | 2 exponent | 1 fraction |. Its range asks for scales: a granularity brings
// them, absmax / 6 in f32. nvfp4 has the same values with 8-bit scales of blocks of 16.
//
// Rules: float_codes.h. Entry: fp4_e2m1_scheme. Tested by tests/core/scheme/reference_test.cc,
// golden_test.cc and tests/core/simd/small_floats_test.cc.
#include <utility>

#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& fp4_e2m1_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = ScaledFloatInfo();
    info.name = "fp4_e2m1";
    info.summary = "OCP FP4 E2M1, two to a byte: a cast, or with granularity= f32 scales";
    info.source = "OCP MX 1.0, ml_dtypes float4_e2m1fn; packed as ONNX, opset 23";
    info.definition = ScaledFloatDefinition(
        {.layout = "E2M1: sign, 2 bits of exponent (bias 1), 1 of fraction, no infinity, no NaN",
         .largest_code = 7,
         .largest = "6",
         .least = "0.5",
         .beyond = "",
         .clipped = "7",
         .plane = "uint8 | [ceil(n / 2)]: nibbles low first, over the flat tensor, "
                  "0 beside an odd last one"});
    return FloatScheme<kE2m1Format>(std::move(info));
  }();
  return kScheme;
}

}  // namespace quantd
