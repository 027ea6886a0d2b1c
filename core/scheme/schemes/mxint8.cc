// mxint8: OCP MX (core/scheme/mx.h) with signed bytes: the most accurate MX format of weights;
// 8.25 bits a value.
//
// Entry: mxint8_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mx.h"

namespace quantd {

const Scheme& mxint8_scheme() {
  static const Scheme kScheme =
      MxScheme(MxElement::kInt8, "mxint8",
               "MX INT8: signed bytes in blocks of 32 with a power of two each");
  return kScheme;
}

}  // namespace quantd
