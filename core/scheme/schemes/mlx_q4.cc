// mlx_q4: MLX's affine format in 4 bits (core/scheme/mlx.h): sixteen levels for 4.25 to 5 bits a
// value, and up to 6 where scale and bias are f32.
//
// Entry: mlx_q4_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q4_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q4", "MLX's 4-bit codes in groups with scale and bias", 4));
  return kScheme;
}

}  // namespace quantd
