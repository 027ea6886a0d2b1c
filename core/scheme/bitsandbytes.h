#ifndef QUANTD_CORE_SCHEME_BITSANDBYTES_H_
#define QUANTD_CORE_SCHEME_BITSANDBYTES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// The 4-bit codebooks of bitsandbytes, a family of levels. Groups of the flat tensor, the last one
// may be short, have a scale:
//
//   scale = absmax,  v = x * (1 / scale),  place = how many of the 15 middles between neighbours
//   among the ascending levels are below v,  x' = level of the place * scale
//
// all in f32 (in f64, against the same f32 middles, for inputs that work as f64); a tie goes to the
// lower level. bitsandbytes' kernels decide so (dQuantizeNF4, dQuantizeFP4 in csrc). An all-zero
// group has scale 1 and the code of 0. The least scale is 2^-128 + 2^-149: of those below,
// bitsandbytes' 1 / scale is infinite. Codes lie two to a byte, the first of a pair in the HIGH
// nibble, unlike all others:
//
//   | code 0 << 4 | code 1 |  code 2 << 4 | code 3 | ...      that of 0 beside an odd last code
//
//   nf4   levels are quantiles of a normal distribution (QLoRA, arXiv 2305.14314, appendix E), so
//         that weights, which look like one, use each code about as often; code = place
//   fp4   0, 1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1 with a sign as bit 3, and two zeros: 0 is what is
//         not above it, code 8 what is, up to 1/384; codes are not in the order of levels
//
// With scale_type=nested8, bitsandbytes' double quantization, the scales themselves are stored in 8
// bits, 256 of them sharing a scale (nested_scales.h). Codes are still made with the absmax, x'
// with what is restored of it. There an all-zero group counts with the absmax 0.
//
//   scale u8 [groups], nested_scale f32 [groups / 256, rounded up], nested_codebook f32 [256],
//   nested_offset f32 [1]
//
// A code costs six comparisons and three look-ups where int4 has a division and a rounding.
//
// Source: bitsandbytes 0.50.2, quantize_4bit on the CPU.

enum class BitsandbytesCode : uint8_t { kNf4, kFp4 };

// Returns the row `name` with the functions of this family.
Scheme BitsandbytesScheme(BitsandbytesCode code, absl::string_view name,
                          absl::string_view summary);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_BITSANDBYTES_H_
