// mlx_q8: MLX's affine format in 8 bits (core/scheme/mlx.h): 256 levels for 8.25 to 9 bits a
// value, and up to 10 where scale and bias are f32.
//
// Entry: mlx_q8_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q8_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q8", "MLX's 8-bit codes in groups with scale and bias", 8));
  return kScheme;
}

}  // namespace quantd
