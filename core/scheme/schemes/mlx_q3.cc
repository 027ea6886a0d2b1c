// mlx_q3: MLX's affine format in 3 bits (core/scheme/mlx.h): eight levels for 3.25 to 4 bits a
// value.
#include "core/scheme/mlx.h"

namespace quantd {

const Scheme& mlx_q3_scheme() {
  static const Scheme kScheme =
      MlxScheme(MlxInfo("mlx_q3", "MLX's 3-bit codes in groups with scale and bias", 3));
  return kScheme;
}

}  // namespace quantd
