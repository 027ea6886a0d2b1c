// mlx_q5: MLX's affine format in 5 bits (core/scheme/mlx.h): 32 levels for 5.25 to 6 bits a
// value, and up to 7 where scale and bias are f32.
//
// Entry: mlx_q5_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q5_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q5", "MLX's 5-bit codes in groups with scale and bias", 5));
  return kScheme;
}

}  // namespace quantd
