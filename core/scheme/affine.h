#ifndef QUANTD_CORE_SCHEME_AFFINE_H_
#define QUANTD_CORE_SCHEME_AFFINE_H_

#include "core/scheme/scheme.h"

namespace quantd {

// The uniform integer schemes of 4, 8 and 16 bits, in ONNX's dialect (QuantizeLinear, opset 21):
//
//   code = clamp(round(x / scale) + zero_point, min_code, max_code),  x' = (code - zero_point) *
//   scale
//
// x / scale is divided in f32 for inputs that work as f32, in f64 for the others. Planes: "codes",
// "scale" (one per group) and, unless it is 0 by construction, "zero_point" (one per group, in the
// type of the codes). Codes of 4 bits lie two to a byte, the first in the low nibble, over the flat
// tensor. An all-zero group has scale 1.

// Returns the row's info; `bits` is 4, 8 or 16.
SchemeInfo AffineInfo(absl::string_view name, absl::string_view summary, int bits, bool is_signed);

// Returns the row with the functions of this family.
Scheme AffineScheme(SchemeInfo info);

// Returns `scale` rounded once to `type` and clamped to its normal range; 1 for 0.
double RoundScale(double scale, ScaleType type);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_AFFINE_H_
