#include "core/scheme/half.h"

namespace quantd {

const Scheme& bf16_scheme() {
  static const Scheme kScheme = HalfScheme("bf16", "bfloat16, the upper half of binary32",
                                           "ml_dtypes bfloat16", HalfKind::kBf16);
  return kScheme;
}

}  // namespace quantd
