// mxfp6_e2m3: OCP MX (core/scheme/mx.h) with E2M3 codes: the finer one of the two in 6 bits; 6.25
// bits a value.
//
// Entry: mxfp6_e2m3_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxfp6_e2m3_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kE2m3, "mxfp6_e2m3",
               "MX FP6: E2M3 codes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
