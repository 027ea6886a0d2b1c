// mlx_q3: MLX's affine format in 3 bits (core/scheme/mlx.h): eight levels for 3.25 to 4 bits a
// value, and up to 5 where scale and bias are f32.
//
// Entry: mlx_q3_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q3_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q3", "MLX's 3-bit codes in groups with scale and bias", 3));
  return kScheme;
}

}  // namespace quantd
