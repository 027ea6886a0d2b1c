// q4_0: the plainest of ggml's 4-bit formats, and what run-times repack for their fastest kernels.
// Costs half a bit less than q4_1, which holds blocks that lie to one side of 0 far better. Formula
// and bytes: core/scheme/ggml_blocks.h.
//
// Entry: q4_0_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_blocks.h"

namespace quantd {

const Scheme& q4_0_scheme() {
  static const Scheme kScheme =
      GgmlBlockScheme("q4_0", "ggml blocks of 32 in 4 bits with an f16 scale inside",
                      "ggml 0.20.2 quantize_row_q4_0_ref, _impl, built without FMA, while f16 "
                      "holds the parameters",
                      {.bits = 4, .has_min = false});
  return kScheme;
}

}  // namespace quantd
