#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& bf16_scheme() {
  static const Scheme kScheme =
      FloatScheme(DType::kBf16, {.name = "bf16",
                                 .summary = "bfloat16, the upper half of binary32",
                                 .source = "ml_dtypes bfloat16"});
  return kScheme;
}

}  // namespace quantd
