#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint4_scheme() {
  static const Scheme kScheme = AffineScheme(AffineInfo(
      "uint4", "4-bit unsigned integers with a zero point, two to a byte", 4, /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
