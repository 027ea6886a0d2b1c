// fp16: IEEE binary16, the cast that loses least among those of two bytes, within its range.
//
//   | sign | 5 exponent | 10 fraction |    u16, little-endian;  65504 is the largest
//
//   2049 -> 2048 (half-even)    65520 -> 65504, counted as clipped    1e-8 -> 0
//                               infinity under nonfinite=propagate
//
// bf16 has the range of f32 and three bits less. No scales: nothing is scanned, and output flows at
// once.
//
// Rules: float_codes.h. Entry: fp16_scheme. Tested by tests/core/scheme/reference_test.cc,
// edge_values_test.cc and golden_test.cc; the kernels by tests/core/simd/float_codes_test.cc.
#include "core/scheme/float_codes.h"

namespace quantd {
namespace {

constexpr char kDefinition[] =
    R"(Codes are IEEE 754 binary16: sign, 5 bits of exponent (bias 15), 10 of fraction; 65504 is the largest
finite one, 2^-24 the least subnormal one. There are no scales.

    code = narrow(x),  x' = the value of the code, exactly

What rounds to more than 65504 becomes 65504 with its sign, whatever the rounding; under
`nonfinite=propagate` infinity, as numpy's astype has it, and then infinities stay and NaN keeps its
sign and the upper 10 bits of its fraction, 1 where these are 0. Clipped: |x| of 65520 and more.

| plane | dtype | shape |
| --- | --- | --- |
| codes | f16 | the tensor's |
)";

}  // namespace

const Scheme& fp16_scheme() {
  static const Scheme kScheme =
      FloatScheme<kHalfFormat>({.name = "fp16",
                                .summary = "IEEE 754 binary16",
                                .source = "numpy, which beyond 65504 has infinity: here under "
                                          "nonfinite=propagate alone",
                                .definition = kDefinition});
  return kScheme;
}

}  // namespace quantd
