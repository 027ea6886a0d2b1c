#ifndef QUANTD_CORE_SCHEME_FLOAT_CODES_H_
#define QUANTD_CORE_SCHEME_FLOAT_CODES_H_

#include <string>

#include "absl/strings/string_view.h"
#include "core/base/minifloat.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Schemes whose codes are floats of up to two bytes: fp16, bf16, fp8_e4m3 and fp8_e5m2, whose plane
// "codes" has the shape of the tensor, and fp6_e2m3, fp6_e3m2, fp4_e2m1, whose codes are one stream
// of bits over the flat tensor, the lowest first: 4 codes of 6 bits in 3 bytes, as ONNX (opset 28)
// and the OCP have them, 2 of 4 bits in one, the first in the low nibble.
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
// how scales are made; see fp8_e4m3.cc. A granularity is what tells that there are scales, so the
// cast, which is the default, has none in its resolved spec. FP6 and FP4 have neither infinity nor
// NaN, and so no nonfinite=propagate.

// Returns the row of a format; roundings, nonfinite and bits are filled in, and the definition goes
// on with what the family shares. With granularities, `info` also lists dialects and tails.
template <const MiniFormat& kFormat>
Scheme FloatScheme(SchemeInfo info);

// Returns what rows that may have scales share: granularities, dialect ocp, tails.
SchemeInfo ScaledFloatInfo();

// What the definitions of such rows differ in, as they name it.
struct ScaledFloat {
  absl::string_view layout;  // "E2M1: sign, ..."
  int largest_code;
  absl::string_view largest, least;
  absl::string_view beyond;   // what becomes of more, besides
  absl::string_view clipped;  // from which magnitude on
  absl::string_view plane;    // "uint8 | [..]"
};
std::string ScaledFloatDefinition(const ScaledFloat& format);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FLOAT_CODES_H_
