// q4_1: 16 even steps from the least value of a block to its largest; 5 bits a value. Against q4_0,
// half a bit more and both ends of the range exact. Formula and bytes: core/scheme/ggml_blocks.h.
//
// Entry: q4_1_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_blocks.h"

namespace quantd {

const Scheme& q4_1_scheme() {
  static const Scheme kScheme =
      GgmlBlockScheme("q4_1", "ggml blocks of 32 in 4 bits with an f16 scale and minimum inside",
                      "ggml 0.20.2 quantize_row_q4_1_ref, _impl, built without FMA, while f16 "
                      "holds the parameters",
                      {.bits = 4, .has_min = true});
  return kScheme;
}

}  // namespace quantd
