// mxfp8_e5m2: OCP MX (core/scheme/mx.h) with E5M2 codes: more range within a block, for gradients;
// 8.25 bits a value.
//
// Entry: mxfp8_e5m2_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxfp8_e5m2_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kE5m2, "mxfp8_e5m2",
               "MX FP8: E5M2 codes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
