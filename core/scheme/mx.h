#ifndef QUANTD_CORE_SCHEME_MX_H_
#define QUANTD_CORE_SCHEME_MX_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// OCP's Microscaling formats, a family of elements: blocks of 32 on the last axis that share a
// power of two, which is a byte of its own:
//
//   scale  e = exponent of the block's absmax - that of the element's largest value + 127   (E8M0)
//   code = element(x / 2^(e - 127)), half-even, beyond the largest value that one
//   x' = value of the code * 2^(e - 127)
//
//   element   sign, exponent, fraction   largest value   exponent of that
//   E5M2      1 5 2                      57344           15
//   E4M3      1 4 3                      448             8
//   E3M2      1 3 2                      28              4
//   E2M3      1 2 3                      7.5             2
//   E2M1      1 2 1                      6               2
//   int8      two's complement / 64      127 / 64        0, and -2 is never made
//
// Only the element rounds: the scale is exact. A block whose largest is 7.9 has e = 127 in E2M1,
// and 7.9 becomes 6; the scale never looks at fractions. e ends at 0, which is that of zeros as
// well. Codes of 8 bits take a byte, of 4 a nibble, the first in the low one, of 6 bits lie in a
// stream, the first in the lowest bits: 4 codes in 3 bytes.
//
// Dialect mlx, of E2M1 and E4M3, has another scale, with which nothing is clipped, and ties of its own:
//
//   s = absmax / largest value, in f32;  e = ceil(log2(s)) + 127, at least 0, and 127 where s is 0
//
// where E2M1 rounds ties toward zero and never writes -0. Beyond MLX, whose e wraps below 0: where
// f32 does not hold code * 2^(e - 127), for absmax near its end, the next code that it holds.
//
// Costs what nvfp4 does: the range of each block, one product, one rounding by an addition.
//
// Source: OCP Microscaling Formats (MX) 1.0, sections 5 and 6; what it leaves open, which is int8's
// -2, as microxcaling has it. MLX 0.32.4, mx.quantize in modes mxfp4 and mxfp8.

enum class MxElement : uint8_t { kE5m2, kE4m3, kE3m2, kE2m3, kE2m1, kInt8 };

// Returns the row `name` of `element` with the functions of this family.
Scheme MxScheme(MxElement element, absl::string_view name, absl::string_view summary);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MX_H_
