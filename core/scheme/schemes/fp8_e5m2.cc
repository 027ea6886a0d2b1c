// fp8_e5m2: OCP's E5M2, the upper byte of an f16: its range, with 3 significant bits. For
// gradients; fp8_e4m3, with one bit more and 448 at most, is for weights and activations.
//
//   | sign | 5 exponent | 2 fraction |    u8
//
//   0.3 -> 0.3125, code 0x35     57344 is the largest, 2^-16 the smallest
//
// A cast by default; a granularity brings f32 scales, as in fp8_e4m3. Under nonfinite=propagate
// overflow becomes infinity, as ml_dtypes has it.
//
// Rules: float_codes.h. Entry: fp8_e5m2_scheme. Tested by tests/core/scheme/reference_test.cc,
// golden_test.cc and tests/core/simd/small_floats_test.cc.
#include <utility>

#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& fp8_e5m2_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = ScaledFloatInfo();
    info.name = "fp8_e5m2";
    info.summary = "OCP FP8 E5M2: a cast, or with granularity= f32 scales beside it";
    info.source = "OCP OFP8 1.0, saturating; under nonfinite=propagate ml_dtypes float8_e5m2";
    info.definition = ScaledFloatDefinition(
        {.layout = "E5M2: sign, 5 bits of exponent (bias 15), 2 of fraction",
         .largest_code = 0x7B,
         .largest = "57344",
         .least = "2^-16",
         .beyond = ", under\n`nonfinite=propagate` infinity, as ml_dtypes has it; then infinities stay and NaN becomes 0x7E with\nits sign",
         .clipped = "61440",
         .plane = "f8_e5m2 | the tensor's"});
    return FloatScheme<kE5m2Format>(std::move(info));
  }();
  return kScheme;
}

}  // namespace quantd
