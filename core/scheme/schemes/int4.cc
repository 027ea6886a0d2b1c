#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int4_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "int4", "4-bit signed integers, two to a byte, scale per tensor, axis, group or block", 4,
      /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
