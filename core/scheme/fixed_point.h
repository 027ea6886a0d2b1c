#ifndef QUANTD_CORE_SCHEME_FIXED_POINT_H_
#define QUANTD_CORE_SCHEME_FIXED_POINT_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Fixed-point integers of 32 and 64 bits: multiples of a step that is a power of two, or of one
// that is given, for accumulators, biases and what goes to integer arithmetic.
//
//   scale = absmax / (2^(b-1) - 1), the next power of two       scale_type=f32: the next f32
//   code = saturate(round(x / scale) + zero),  x' = (code - zero) * scale
//
//   -1, 0.5, 0.25 in 32 bits:   scale = 2^-30, codes -2^30, 2^29, 2^28
//
// All arithmetic is f64's, also of f32 values: neither 2^31 - 1 is an f32, nor 2^63 - 1 an f64.
// Scales are rounded up, so that no value of the range is clipped: to the nearest f32 the largest
// of them would come to lie up to 128 steps beyond the last of 2^31 - 1. What lies outside
// saturates: whole numbers are compared as integers, and what is 2^63 and above becomes 2^63 - 1.
// There are no modes, and no zero points but one that is given beside a scale, which stays in the
// spec.
//
// Powers of two make the quotients of f32 values exact, so that most tensors of f32 are lossless in
// 64 bits. Cost beside int16: two or four times the bytes.

// Returns the row of codes of `bits`, 32 or 64.
Scheme FixedPointScheme(absl::string_view name, absl::string_view summary, int bits);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FIXED_POINT_H_
