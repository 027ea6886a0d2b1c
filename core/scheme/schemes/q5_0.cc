// q5_0: q4_0 with a fifth bit, which lies apart; 5.5 bits a value. What GGUF files fall back to
// where rows are no multiple of q4_k's 256. Formula and bytes: core/scheme/ggml_blocks.h.
//
// Entry: q5_0_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_blocks.h"

namespace quantd {

const Scheme& q5_0_scheme() {
  static const Scheme kScheme =
      GgmlBlockScheme("q5_0", "ggml blocks of 32 in 5 bits with an f16 scale inside",
                      "ggml 0.20.2 quantize_row_q5_0_ref, _impl, built without FMA, while f16 "
                      "holds the parameters",
                      {.bits = 5, .has_min = false});
  return kScheme;
}

}  // namespace quantd
