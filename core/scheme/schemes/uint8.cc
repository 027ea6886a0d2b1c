#include "core/scheme/affine.h"

namespace quantd {

const Scheme& uint8_scheme() {
  static const Scheme kScheme = AffineScheme(
      AffineInfo("uint8", "8-bit unsigned integers with a zero point", 8, /*is_signed=*/false));
  return kScheme;
}

}  // namespace quantd
