#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int8_scheme() {
  static const Scheme kScheme = AffineScheme(
      AffineInfo("int8", "8-bit signed integers, scale per tensor, axis, group or block", 8,
                 /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
