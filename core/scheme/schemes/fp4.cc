// fp4: bitsandbytes' other 4-bit codebook (core/scheme/bitsandbytes.h), of 15 values that a small
// float has; weights lose more in it than in nf4. It is not E2M1: that is mxfp4 and nvfp4.
//
// Entry: fp4_scheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/bitsandbytes.h"

namespace quantd {

const Scheme& fp4_scheme() {
  static const Scheme kScheme = BitsandbytesScheme(
      BitsandbytesCode::kFp4, "fp4", "4-bit codebook of bitsandbytes' fp4 with a scale for each group");
  return kScheme;
}

}  // namespace quantd
