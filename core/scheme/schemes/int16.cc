#include "core/scheme/affine.h"

namespace quantd {

const Scheme& int16_scheme() {
  static const Scheme kScheme =
      AffineScheme(AffineInfo("int16", "16-bit signed integers", 16, /*is_signed=*/true));
  return kScheme;
}

}  // namespace quantd
