// ggml's ternary formats as ggml writes them down, value by value: what the kernel has to equal, and
// shares nothing with it. Held to ggml's own bytes by tests/core/scheme/golden_test.cc.
#include "core/scheme/ggml_ternary_ref.h"

#include <algorithm>
#include <cmath>

#include "core/base/minifloat.h"
#include "core/scheme/super_block_ref.h"

namespace quantd {
namespace {

// Trits 0 to 2 of a block; writes d.
void TritsRef(const float* x, int* trits, uint8_t* d, Counts* counts) {
  float amax = 0;
  for (int i = 0; i < 256; ++i) amax = std::max(amax, std::fabs(x[i]));
  if (amax >= 65520) amax = 65504;
  const float id = amax != 0 && std::isfinite(1 / amax) ? 1 / amax : 0;
  for (int i = 0; i < 256; ++i) {
    const float steps = x[i] * id;
    counts->clipped += std::fabs(steps) >= 1.5f;
    trits[i] = static_cast<int>(std::lround(std::clamp(steps, -1.0f, 1.0f))) + 1;
  }
  const uint32_t code = NarrowFloat(kHalfFormat, amax, Rounding::kHalfEven, true);
  d[0] = static_cast<uint8_t>(code & 0xFF);
  d[1] = static_cast<uint8_t>(code >> 8);
}

float ValueRef(const uint8_t* d, int trit) {
  const float scale = WidenFloat<float>(kHalfFormat, static_cast<uint32_t>(d[0] | d[1] << 8));
  return static_cast<float>(trit - 1) * scale;
}

// Where tq1_0 has an element: its byte, and which trit of that, from the most significant on.
struct TritPlace {
  int byte, trit;
};
TritPlace PlaceRef(int elem) {
  if (elem < 160) return {elem % 32, elem / 32};
  if (elem < 240) return {32 + (elem - 160) % 16, (elem - 160) / 16};
  return {48 + (elem - 240) % 4, (elem - 240) / 4};
}

// quantize_row_tq1_0_ref.
void EncodeTQ1Block(const float* x, const float*, uint8_t* block, Counts* counts) {
  constexpr int kPlaces[5] = {81, 27, 9, 3, 1};
  int trits[256], sums[52] = {};
  TritsRef(x, trits, block + 52, counts);
  for (int i = 0; i < 256; ++i) sums[PlaceRef(i).byte] += trits[i] * kPlaces[PlaceRef(i).trit];
  for (int i = 0; i < 52; ++i) block[i] = static_cast<uint8_t>((sums[i] * 256 + 242) / 243);
}

float DecodeTQ1Elem(const uint8_t* block, int elem) {
  constexpr int kPow3[5] = {1, 3, 9, 27, 81};
  const TritPlace place = PlaceRef(elem);
  const auto q = static_cast<uint8_t>(block[place.byte] * kPow3[place.trit]);
  return ValueRef(block + 52, q * 3 >> 8);
}

// quantize_row_tq2_0_ref.
void EncodeTQ2Block(const float* x, const float*, uint8_t* block, Counts* counts) {
  int trits[256];
  TritsRef(x, trits, block + 64, counts);
  std::fill_n(block, 64, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    block[i / 128 * 32 + i % 32] |= static_cast<uint8_t>(trits[i] << i % 128 / 32 * 2);
  }
}

float DecodeTQ2Elem(const uint8_t* block, int elem) {
  const int trit = block[elem / 128 * 32 + elem % 32] >> elem % 128 / 32 * 2 & 3;
  return ValueRef(block + 64, trit);
}

}  // namespace

void EncodeTQ1Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 54, counts, EncodeTQ1Block);
}
void EncodeTQ2Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 66, counts, EncodeTQ2Block);
}

void DecodeTQ1Ref(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 54, out, DecodeTQ1Elem);
}
void DecodeTQ2Ref(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 66, out, DecodeTQ2Elem);
}

}  // namespace quantd
