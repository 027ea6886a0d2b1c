#ifndef QUANTD_CORE_SCHEME_FLOAT_CODES_H_
#define QUANTD_CORE_SCHEME_FLOAT_CODES_H_

#include "core/scheme/scheme.h"

namespace quantd {

// Schemes whose codes are floats of one or two bytes of their own: fp16, bf16, fp8_e4m3. Plane
// "codes" has the shape of the tensor.
//
// Without a granularity a code is the value, rounded once, and there are no parameters. Under
// nonfinite=propagate NaN and, where the format has them, infinities stay, and overflow becomes
// infinity, as numpy and ml_dtypes convert; else overflow becomes the largest finite code. Either
// way it counts as clipped.
//
// With a granularity, which schemes may list, values are divided first:
//
//   scale = absmax of the group / the largest code's value
//   code = format(x / scale),  x' = value of the code * scale
//
// with an f32 for each group in plane "scale", the factor that multiplies back. Dialects differ in
// how scales are made; see fp8_e4m3.cc.

// Returns the row of a format of dtype kF16, kBf16 or kF8E4M3; roundings, nonfinite and bits are
// filled in, and the definition goes on with what the family shares. With granularities, `info`
// also lists dialects and tails.
Scheme FloatScheme(DType dtype, SchemeInfo info);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FLOAT_CODES_H_
