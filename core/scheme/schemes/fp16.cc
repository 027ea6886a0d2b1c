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

const Scheme& fp16_scheme() {
  static const Scheme kScheme =
      FloatScheme(DType::kF16, {.name = "fp16",
                                .summary = "IEEE 754 binary16",
                                .source = "IEEE 754-2019 binary16; numpy"});
  return kScheme;
}

}  // namespace quantd
