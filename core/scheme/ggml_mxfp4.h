#ifndef QUANTD_CORE_SCHEME_GGML_MXFP4_H_
#define QUANTD_CORE_SCHEME_GGML_MXFP4_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Dialect ggml of mxfp4: the scale lies with its 32 codes, is made another way, and ties go toward
// 0.
//
//   | u8 e | 16 x u8 codes |        17 bytes; byte j has code j in the low nibble, j + 16 in the high
//
//   e = floor(log2(absmax)) + 125 mod 256, 0 where absmax is 0;  d = 2^(e - 128)
//   x' = d * {0, 1, 2, 3, 4, 6, 8, 12} of the code's low 3 bits, with its sign
//
// ggml takes floorf(log2f(absmax)), which is one more where log2 rounds up to a whole number: up to
// 44 ulp below a power of two, as 2^100 * (1 - 2^-20) is; then all codes are half as large. Of
// absmax below 2^-125 e wraps, to scales of which all codes are 0. Where f32 does not hold 8 * d
// (absmax next to f32's end) codes go up to 5. No code 8, -0, is written. All is f32, as in q4_0.
//
// Source: quantize_row_mxfp4_ref of ggml 0.20.2, ggml/src/ggml-quants.c.
inline constexpr int64_t kGgmlMxfp4Bytes = 17;

// Scheme::plan, encode and so on of the dialect; parameters lie within the codes.
absl::StatusOr<PackedLayout> PlanGgmlMxfp4(const QuantSpec& spec, const TensorDesc& tensor);
void EncodeGgmlMxfp4(const Segment& segment, std::span<std::byte> out, Counts* counts,
                     Meter* meter);
void DecodeGgmlMxfp4(std::span<const std::byte> packed, TileSpan out);
void EncodeGgmlMxfp4Ref(const Segment& segment, std::span<std::byte> out, Counts* counts);
void DecodeGgmlMxfp4Ref(std::span<const std::byte> packed, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GGML_MXFP4_H_
