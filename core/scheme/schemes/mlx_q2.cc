// mlx_q2: MLX's affine format in 2 bits (core/scheme/mlx.h): four levels for 2.25 to 3 bits a
// value, and up to 4 where scale and bias are f32.
//
// Entry: mlx_q2_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q2_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q2", "MLX's 2-bit codes in groups with scale and bias", 2));
  return kScheme;
}

}  // namespace quantd
