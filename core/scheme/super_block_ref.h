#ifndef QUANTD_CORE_SCHEME_SUPER_BLOCK_REF_H_
#define QUANTD_CORE_SCHEME_SUPER_BLOCK_REF_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "core/scheme/scheme.h"

// The loops of the scalar definitions of ggml's blocks of 256 values.

namespace quantd {

// `encode(x, importance, block, counts)` writes a block of 256 values as f32; importance is null or
// the weights of their columns, at any alignment.
template <class Encode>
void EncodeSuperBlocksRef(const Segment& segment, std::span<std::byte> out, int64_t block_bytes,
                          Counts* counts, Encode encode) {
  auto* block = reinterpret_cast<uint8_t*>(out.data());
  for (int64_t begin = 0; begin < segment.values.num_elems; begin += 256, block += block_bytes) {
    float x[256] = {};
    for (int64_t i = 0; i < std::min<int64_t>(256, segment.values.num_elems - begin); ++i) {
      const double largest = std::numeric_limits<float>::max();
      x[i] = segment.values.f32 != nullptr
                 ? LoadAt(segment.values.f32, begin + i)
                 : static_cast<float>(std::clamp(LoadAt(segment.values.f64, begin + i), -largest,
                                                 largest));
    }
    const float* importance = segment.importance == nullptr
                                  ? nullptr
                                  : segment.importance->At(segment.first_elem + begin);
    encode(x, importance, block, counts);
  }
}

// `decode(block, elem)` returns a value.
template <class Decode>
void DecodeSuperBlocksRef(std::span<const std::byte> packed, int64_t block_bytes, TileSpan out,
                          Decode decode) {
  const auto* blocks = reinterpret_cast<const uint8_t*>(packed.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const float value = decode(blocks + i / 256 * block_bytes, static_cast<int>(i % 256));
    if (out.f32 != nullptr) {
      out.f32[i] = value;
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SUPER_BLOCK_REF_H_
