// nf4: bitsandbytes' 4-bit NormalFloat (core/scheme/bitsandbytes.h), what QLoRA has its weights in.
//
// Entry: nf4_scheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/bitsandbytes.h"

namespace quantd {

const Scheme& nf4_scheme() {
  static const Scheme kScheme = BitsandbytesScheme(
      BitsandbytesCode::kNf4, "nf4", "4-bit NormalFloat codebook with a scale for each group");
  return kScheme;
}

}  // namespace quantd
