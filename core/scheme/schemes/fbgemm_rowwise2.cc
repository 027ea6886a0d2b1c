// fbgemm_rowwise2: FBGEMM's fused 2-bit rows: four to a byte, the first in the low bits, an f16
// scale and bias behind each row:
//
//   | u8 x ceil(columns / 4) | f16 scale | f16 bias |
//
//   0, 1, 2, 6:   bias 0, scale 2, codes 0, 0, 1, 3: byte 0xD0, then 0x4000 0x0000
//
// 1 lies half a step above 0, and ties go to even. Rules and source: fbgemm_narrow.h. Entry:
// fbgemm_rowwise2_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include "core/scheme/fbgemm_narrow.h"

namespace quantd {

const Scheme& fbgemm_rowwise2_scheme() {
  static const Scheme kScheme = FbgemmNarrowScheme(
      "fbgemm_rowwise2", "2-bit codes by row, its f16 scale and bias behind each row", 2);
  return kScheme;
}

}  // namespace quantd
