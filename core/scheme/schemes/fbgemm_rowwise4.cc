// fbgemm_rowwise4: FBGEMM's fused 4-bit rows: two to a byte, the first in the low bits, an f16
// scale and bias behind each row:
//
//   | u8 x ceil(columns / 2) | f16 scale | f16 bias |
//
//   0, 1, 2, 30:   bias 0, scale 2, codes 0, 0, 1, 15: bytes 0x00 0xF1, then 0x4000 0x0000
//
// 1 lies half a step above 0, and ties go to even. Rules and source: fbgemm_narrow.h. Entry:
// fbgemm_rowwise4_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include "core/scheme/fbgemm_narrow.h"

namespace quantd {

const Scheme& fbgemm_rowwise4_scheme() {
  static const Scheme kScheme = FbgemmNarrowScheme(
      "fbgemm_rowwise4", "4-bit codes by row, its f16 scale and bias behind each row", 4);
  return kScheme;
}

}  // namespace quantd
