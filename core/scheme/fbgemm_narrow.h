#ifndef QUANTD_CORE_SCHEME_FBGEMM_NARROW_H_
#define QUANTD_CORE_SCHEME_FBGEMM_NARROW_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// FBGEMM's fused rows of 4 and 2 bits, for embedding tables that fbgemm_rowwise8 leaves too large:
// codes, the first of a byte in its low bits, and what decodes a row behind them as f16:
//
//   | u8 x ceil(columns * bits / 8) | f16 scale | f16 bias |     next to each other, at any alignment
//
//   bias = f16(min of the row),  scale = f16((max - bias) / (2^bits - 1)), 1 where that is 0
//   code = round((x - bias) * (1 / scale)), half-even, 0 to 2^bits - 1,  x' = code * scale + bias
//
// all in f32 (codes and x' in f64 for inputs that work as f64). The minimum is rounded to f16
// before the range is taken, so the least value of a row may lie below code 0, by half a unit of
// f16. Beyond FBGEMM, where min or the scale leaves f16 they are its largest, and not infinite. A
// last byte that is not full ends in 0.
//
// Source: FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf (FBGEMM, src/QuantUtils.cc). Costs what
// fbgemm_rowwise8 does and the packing.

// Returns the row of codes of `bits`, 2 or 4.
Scheme FbgemmNarrowScheme(absl::string_view name, absl::string_view summary, int bits);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FBGEMM_NARROW_H_
