// mlx_q6: MLX's affine format in 6 bits (core/scheme/mlx.h): 64 levels for 6.25 to 7 bits a
// value, and up to 8 where scale and bias are f32.
//
// Entry: mlx_q6_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q6_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q6", "MLX's 6-bit codes in groups with scale and bias", 6));
  return kScheme;
}

}  // namespace quantd
