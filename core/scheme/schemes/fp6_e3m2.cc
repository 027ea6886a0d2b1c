// fp6_e3m2: OCP's E3M2, 6 bits with 3 significant ones: 0.0625 to 28.
//
//   | c1 c1 c0 c0 c0 c0 c0 c0 | c2 c2 c2 c2 c1 c1 c1 c1 | c3 c3 c3 c3 c3 c3 c2 c2 |   bits 7 to 0
//
//   1.3 -> 1.25, code 0x0D     28 is the largest, 0.0625 the smallest
//
// A code is | sign | 3 exponent | 2 fraction |. A granularity brings scales, absmax / 28. fp6_e2m3
// has a bit more of fraction, and a quarter of the range.
//
// Rules: float_codes.h. Entry: fp6_e3m2_scheme. Tested by tests/core/scheme/reference_test.cc,
// golden_test.cc and tests/core/simd/small_floats_test.cc.
#include <utility>

#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& fp6_e3m2_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = ScaledFloatInfo();
    info.name = "fp6_e3m2";
    info.summary = "OCP FP6 E3M2, 4 in 3 bytes: a cast, or with granularity= f32 scales";
    info.source = "OCP MX 1.0, ml_dtypes float6_e3m2fn; packed as ONNX, opset 28";
    info.definition = ScaledFloatDefinition(
        {.layout = "E3M2: sign, 3 bits of exponent (bias 3), 2 of fraction, no infinity, no NaN",
         .largest_code = 0x1F,
         .largest = "28",
         .least = "2^-4",
         .beyond = "",
         .clipped = "30",
         .plane = "uint8 | [ceil(6 * n / 8)]: a stream of bits over the flat tensor"});
    return FloatScheme<kE3m2Format>(std::move(info));
  }();
  return kScheme;
}

}  // namespace quantd
