// bf16: the upper half of an f32, rounded: its range, with 8 significant bits.
//
//   | sign | 8 exponent | 7 fraction |    u16, little-endian
//
//   257 -> 256 (half-even)    1e38 stays in range, where fp16 ends at 65504
//
// No scales: nothing is scanned, and output flows at once.
//
// Rules: float_codes.h. Entry: bf16_scheme. Tested by tests/core/scheme/reference_test.cc,
// edge_values_test.cc and golden_test.cc; the kernels by tests/core/simd/float_codes_test.cc.
#include "core/scheme/float_codes.h"

namespace quantd {
namespace {

constexpr char kDefinition[] =
    R"(Codes are the upper half of a binary32: sign, 8 bits of exponent (bias 127), 7 of fraction; the
largest finite one is 0x7F7F, the least subnormal one 2^-133. There are no scales.

    code = narrow(x),  x' = the value of the code, exactly

What rounds to more than 0x7F7F becomes that with its sign, whatever the rounding; under
`nonfinite=propagate` infinity, as ml_dtypes has it, and then infinities stay and NaN becomes 0x7FC0
with its sign. Clipped: |x| of half a unit beyond the largest and more.

| plane | dtype | shape |
| --- | --- | --- |
| codes | bf16 | the tensor's |
)";

}  // namespace

const Scheme& bf16_scheme() {
  static const Scheme kScheme =
      FloatScheme<kBfloatFormat>({.name = "bf16",
                                 .summary = "bfloat16, the upper half of binary32",
                                 .source = "ml_dtypes bfloat16, which has infinity beyond its "
                                           "range: here under nonfinite=propagate alone",
                                 .definition = kDefinition});
  return kScheme;
}

}  // namespace quantd
