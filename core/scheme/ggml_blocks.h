#ifndef QUANTD_CORE_SCHEME_GGML_BLOCKS_H_
#define QUANTD_CORE_SCHEME_GGML_BLOCKS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// ggml's simple blocks of 32 values, a family of four: 4 or 5 bits, with a minimum or without
// (ggml/src/ggml-common.h, ggml/src/ggml-quants.c). Bit 4 of the codes lies apart.
//
//   q4_0  | f16 d |                   16 x u8 codes |   18 bytes   x' = d * (code - 8)
//   q4_1  | f16 d | f16 m |           16 x u8 codes |   20 bytes   x' = d * code + m
//   q5_0  | f16 d | 4 x u8 high bits | 16 x u8 codes |   22 bytes   x' = d * (code - 16)
//   q5_1  | f16 d | f16 m | 4 x u8 .. | 16 x u8 codes |   24 bytes   x' = d * code + m
//
//   codes: byte j has the low 4 bits of code j in the low nibble, those of code j + 16 in the high
//          one; bit j of the high bits is bit 4 of code j
//
// Without a minimum, the value furthest from 0 becomes the lowest code, whatever its sign: of -3
// and 2.9 in 4 bits d = 0.375 and the codes are 0 and 15, which stands for 2.625. So one end of the
// range is exact, and what the other end loses counts as clipped. With one, both ends are exact.
//
// Codes are made with the f32 parameters, then these are rounded to f16. All is f32: f64 values are
// rounded to it first, beyond its range to the largest. Beyond ggml: parameters that f16 cannot
// hold become its largest before the codes are made.
//
// With importance p of the columns, parameters and codes are those of the K-quants' searches
// (SearchScales, SearchKRuns) with the weights p * sqrt(s + x^2), s being the mean square of the
// row: so the groups of such a layout are the rows, and s is what works for each. Nothing of it is
// stored. Beyond ggml: a block whose search overflows is encoded as without importance.
struct GgmlBlockFormat {
  int bits;      // 4 or 5
  bool has_min;  // m

  static constexpr int64_t kElems = 32;
  constexpr int max_code() const { return (1 << bits) - 1; }
  constexpr int zero_code() const { return has_min ? 0 : 1 << (bits - 1); }
  constexpr int64_t high_bits_at() const { return has_min ? 4 : 2; }
  constexpr int64_t codes_at() const { return high_bits_at() + (bits == 5 ? 4 : 0); }
  constexpr int64_t bytes() const { return codes_at() + kElems / 2; }
};
static_assert(GgmlBlockFormat{4, false}.bytes() == 18 && GgmlBlockFormat{4, true}.bytes() == 20 &&
              GgmlBlockFormat{5, false}.bytes() == 22 && GgmlBlockFormat{5, true}.bytes() == 24);

// Returns the row called `name`, whose bytes are those of `source`.
Scheme GgmlBlockScheme(absl::string_view name, absl::string_view summary, absl::string_view source,
                       const GgmlBlockFormat& format);

// Writes blocks of values at any alignment, and adds values and what is decoded of their codes to
// `lanes`, unless that is null. Returns how many values are clipped.
int64_t EncodeGgmlBlocks(const GgmlBlockFormat& format, const float* values, int64_t num_blocks,
                         std::byte* blocks, MeterLanes<float>* lanes);
void DecodeGgmlBlocks(const GgmlBlockFormat& format, const std::byte* blocks, int64_t num_blocks,
                      float* values);

// The scalar definitions.
void EncodeGgmlBlocksRef(const GgmlBlockFormat& format, const Resolved& resolved,
                         const Segment& segment, std::span<std::byte> out, Counts* counts);
void DecodeGgmlBlocksRef(const GgmlBlockFormat& format, std::span<const std::byte> codes,
                         TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GGML_BLOCKS_H_
