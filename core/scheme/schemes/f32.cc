// f32: IEEE 754 binary32, a copy of f32 values, the exact form of f16, bf16 and small integers, and
// half the bytes of f64:
//
//   | f32 | f32 | ...    little-endian
//
//   0.1 of f64 -> 0x3DCCCCCD     1e39 -> 3.4028235e38, clipped
//
// Rules: float_cast.h. Entry: f32_scheme. Tested by tests/core/scheme/reference_test.cc and
// golden_test.cc.
#include "core/scheme/float_cast.h"

namespace quantd {

const Scheme& f32_scheme() {
  static const Scheme kScheme = FloatCastScheme(
      DType::kF32, "f32", "IEEE 754 binary32: a copy, or f64 rounded once");
  return kScheme;
}

}  // namespace quantd
