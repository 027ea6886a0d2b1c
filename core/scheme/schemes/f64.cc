// f64: IEEE 754 binary64, which holds all that tensors are worked on as: a copy of f64 values, the
// exact form of all others.
//
//   | f64 | f64 | ...    little-endian
//
// Rules: float_cast.h. Entry: f64_scheme. Tested by tests/core/scheme/reference_test.cc and
// golden_test.cc.
#include "core/scheme/float_cast.h"

namespace quantd {

const Scheme& f64_scheme() {
  static const Scheme kScheme = FloatCastScheme(
      DType::kF64, "f64", "IEEE 754 binary64: a copy, or what is narrower exactly");
  return kScheme;
}

}  // namespace quantd
