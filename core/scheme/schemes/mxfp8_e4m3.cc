// mxfp8_e4m3: OCP MX (core/scheme/mx.h) with E4M3 codes: the usual choice for weights and
// activations in 8 bits; 8.25 bits a value.
//
// Entry: mxfp8_e4m3_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxfp8_e4m3_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kE4m3, "mxfp8_e4m3",
               "MX FP8: E4M3 codes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
