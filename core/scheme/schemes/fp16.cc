#include "core/scheme/half.h"

namespace quantd {

const Scheme& fp16_scheme() {
  static const Scheme kScheme =
      HalfScheme("fp16", "IEEE 754 binary16", "IEEE 754-2019 binary16; numpy", HalfKind::kF16);
  return kScheme;
}

}  // namespace quantd
