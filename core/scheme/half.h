#ifndef QUANTD_CORE_SCHEME_HALF_H_
#define QUANTD_CORE_SCHEME_HALF_H_

#include "core/scheme/scheme.h"
#include "core/simd/convert.h"

namespace quantd {

// Returns the row of a 16-bit float: each value rounded once, no parameters. Under
// nonfinite=propagate NaN and infinities stay and overflow becomes infinity, as numpy and ml_dtypes
// convert; else overflow becomes the largest finite code. Either way it counts as clipped.
Scheme HalfScheme(absl::string_view name, absl::string_view summary, absl::string_view source,
                  HalfKind kind);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_HALF_H_
