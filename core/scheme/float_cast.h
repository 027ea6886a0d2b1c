#ifndef QUANTD_CORE_SCHEME_FLOAT_CAST_H_
#define QUANTD_CORE_SCHEME_FLOAT_CAST_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Casts to f32 and f64: a copy, a widening, or, from f64 to f32, one rounding, ties to even. For
// tensors that are to be kept next to quantized ones, with their figures and digests, and for f64
// that need not be.
//
//   | f32 | f32 | ...     or     | f64 | f64 | ...     little-endian, in the shape of the tensor
//
// What f32 does not hold becomes its largest, or under nonfinite=propagate infinity, as in numpy;
// either way it is clipped. Other roundings have fp16 and less: here a copy has none to choose.

// Returns the row of casts to `dtype`, kF32 or kF64.
Scheme FloatCastScheme(DType dtype, absl::string_view name, absl::string_view summary);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FLOAT_CAST_H_
