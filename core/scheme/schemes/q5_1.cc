// q5_1: q4_1 with a fifth bit, which lies apart; 6 bits a value. What GGUF files fall back to where
// rows are no multiple of q5_k's 256. Formula and bytes: core/scheme/ggml_blocks.h.
//
// Entry: q5_1_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_blocks.h"

namespace quantd {

const Scheme& q5_1_scheme() {
  static const Scheme kScheme =
      GgmlBlockScheme("q5_1", "ggml blocks of 32 in 5 bits with an f16 scale and minimum inside",
                      "ggml 0.20.2 quantize_row_q5_1_ref, _impl, built without FMA, while f16 "
                      "holds the parameters",
                      {.bits = 5, .has_min = true});
  return kScheme;
}

}  // namespace quantd
