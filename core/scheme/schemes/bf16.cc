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

const Scheme& bf16_scheme() {
  static const Scheme kScheme =
      FloatScheme(DType::kBf16, {.name = "bf16",
                                 .summary = "bfloat16, the upper half of binary32",
                                 .source = "ml_dtypes bfloat16"});
  return kScheme;
}

}  // namespace quantd
