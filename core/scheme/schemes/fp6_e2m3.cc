// fp6_e2m3: OCP's E2M3, 6 bits with 4 significant ones: 0 to 7.5 in steps of an eighth and more.
//
//   | c1 c1 c0 c0 c0 c0 c0 c0 | c2 c2 c2 c2 c1 c1 c1 c1 | c3 c3 c3 c3 c3 c3 c2 c2 |   bits 7 to 0
//
//   1.3 -> 1.25, code 0x0A     7.5 is the largest, 0.125 the smallest
//
// A code is | sign | 2 exponent | 3 fraction |. Its range asks for scales: a granularity brings
// them, absmax / 7.5. fp6_e3m2 has the wider range, 0.0625 to 28, and a bit less of fraction.
//
// Rules: float_codes.h. Entry: fp6_e2m3_scheme. Tested by tests/core/scheme/reference_test.cc,
// golden_test.cc and tests/core/simd/small_floats_test.cc.
#include <utility>

#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& fp6_e2m3_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = ScaledFloatInfo();
    info.name = "fp6_e2m3";
    info.summary = "OCP FP6 E2M3, 4 in 3 bytes: a cast, or with granularity= f32 scales";
    info.source = "OCP MX 1.0, ml_dtypes float6_e2m3fn; packed as ONNX, opset 28";
    info.definition = ScaledFloatDefinition(
        {.layout = "E2M3: sign, 2 bits of exponent (bias 1), 3 of fraction, no infinity, no NaN",
         .largest_code = 0x1F,
         .largest = "7.5",
         .least = "2^-3",
         .beyond = "",
         .clipped = "7.75",
         .plane = "uint8 | [ceil(6 * n / 8)]: a stream of bits over the flat tensor"});
    return FloatScheme<kE2m3Format>(std::move(info));
  }();
  return kScheme;
}

}  // namespace quantd
