#ifndef QUANTD_CORE_SCHEME_IQ4_H_
#define QUANTD_CORE_SCHEME_IQ4_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scale_search.h"
#include "core/scheme/scheme.h"

namespace quantd {

// ggml's formats of 16 levels that lie the closer, the nearer to 0 (kIq4Levels): iq4_nl and iq4_xs.
//
//   iq4_nl  | f16 d | 16 x u8 codes |                                       18 bytes, 32 values
//   iq4_xs  | f16 d | u16 high | 4 x u8 low | 128 x u8 codes |             136 bytes, 256 values
//
//   codes  of each 32 values 16 bytes: index j in the low nibble of byte j, index j + 16 in the high one
//   low, high  run j of 32 has a scale of 6 bits, less 32: the low 4 in nibble j of `low`, low ones first,
//              the upper 2 in bits 2 * j of `high`
//
//   x' = d * level,  (d * scale) * level                   each product rounded
//
// The scale of each run is searched for (scale_search.h). iq4_nl stores it. In iq4_xs the furthest from
// 0 becomes -32 * d, and codes are made with the f32 d times scale, both before d is rounded. The bytes
// are those of quantize_iq4_nl and quantize_iq4_xs of ggml 0.20.2 built without contraction, with their
// infinite d; a d that is NaN is 0 here. What does not come back for that counts as clipped.
struct Iq4Format {
  bool has_scales;  // iq4_xs

  constexpr int64_t block_elems() const { return has_scales ? 256 : 32; }
  constexpr int64_t block_bytes() const { return has_scales ? 136 : 18; }
  constexpr int64_t codes_at() const { return has_scales ? 8 : 2; }
};

// Scheme::encode and decode, and their scalar definitions.
void EncodeIq4(const Iq4Format& format, const Segment& segment, std::span<std::byte> out,
               Counts* counts, Meter* meter);
void DecodeIq4(const Iq4Format& format, std::span<const std::byte> packed, TileSpan out);
void EncodeIq4Ref(const Iq4Format& format, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeIq4Ref(const Iq4Format& format, std::span<const std::byte> packed, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_IQ4_H_
