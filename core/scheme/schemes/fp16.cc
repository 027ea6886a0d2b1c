#include "core/scheme/float_codes.h"

namespace quantd {

const Scheme& fp16_scheme() {
  static const Scheme kScheme =
      FloatScheme(DType::kF16, {.name = "fp16",
                                .summary = "IEEE 754 binary16",
                                .source = "IEEE 754-2019 binary16; numpy"});
  return kScheme;
}

}  // namespace quantd
