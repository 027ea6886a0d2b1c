// mxfp6_e3m2: OCP MX (core/scheme/mx.h) with E3M2 codes: the wider one of the two in 6 bits; 6.25
// bits a value.
//
// Entry: mxfp6_e3m2_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxfp6_e3m2_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kE3m2, "mxfp6_e3m2",
               "MX FP6: E3M2 codes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
