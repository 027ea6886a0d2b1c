// mxfp4: OCP MX (core/scheme/mx.h) with E2M1 codes, as gpt-oss has its weights; 4.25 bits a value.
//
// Entry: mxfp4_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxfp4_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kE2m1, "mxfp4",
               "MX FP4: E2M1 codes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
