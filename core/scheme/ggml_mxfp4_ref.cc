// mxfp4 as ggml writes it down, value by value: what the kernels of ggml_mxfp4.cc have to equal,
// and shares nothing with them. Held to ggml's own bytes by tests/core/scheme/golden_test.cc.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/scheme/ggml_mxfp4.h"

namespace quantd {
namespace {

constexpr int kLevelValues[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

float ScaleRef(int e) { return std::ldexp(1.0f, e - 128); }

// floorf(log2f(amax)) for a log2f that rounds to nearest: 1 more than the exponent where log2 is
// nearer to that than to the f32 below it.
int FloorLog2Ref(float amax) {
  const int k = std::ilogb(amax);
  const auto next = static_cast<float>(k + 1);
  const double before = std::nextafter(next, -std::numeric_limits<float>::infinity());
  // log2(2^(k + 1) * (1 - r)) = k + 1 - (r + r^2 / 2 + ..) / ln(2), of r below 2^-15 or told apart
  // anyhow
  const double r = (std::ldexp(1.0, k + 1) - amax) / std::ldexp(1.0, k + 1);
  const double below = (r + r * r / 2) * 1.4426950408889634;
  return below < (next - before) / 2 ? k + 1 : k;
}

// quantize_row_mxfp4_ref for one block.
void EncodeBlockRef(const float* x, int64_t count, uint8_t* block, Counts* counts) {
  float amax = 0;
  for (int i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[i]));
  const int e = amax > 0 ? (FloorLog2Ref(amax) + 125) & 0xFF : 0;
  const float d = ScaleRef(e);
  int last = 7;
  while (std::isinf(static_cast<float>(kLevelValues[last]) * d) && last > 1) --last;
  const double step = kLevelValues[last] - kLevelValues[last - 1];
  block[0] = static_cast<uint8_t>(e);
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) {
    int best = 0;
    float best_error = std::fabs(x[i]);
    for (int j = 1; j < 16; ++j) {
      const float error = std::fabs(static_cast<float>(kLevelValues[j]) * d - x[i]);
      if (error < best_error) {
        best_error = error;
        best = j;
      }
    }
    codes[i] = static_cast<uint8_t>(best);
    const double clip = (kLevelValues[last] + step / 2) * d;
    counts->clipped += i < count && std::fabs(static_cast<double>(x[i])) >= clip;
  }
  for (int i = 0; i < 16; ++i) block[1 + i] = static_cast<uint8_t>(codes[i] | codes[i + 16] << 4);
}

}  // namespace

void EncodeGgmlMxfp4Ref(const Segment& segment, std::span<std::byte> out, Counts* counts) {
  auto* block = reinterpret_cast<uint8_t*>(out.data());
  const TileView& from = segment.values;
  for (int64_t begin = 0; begin < from.num_elems; begin += 32, block += 17) {
    const int64_t count = std::min<int64_t>(32, from.num_elems - begin);
    float x[32] = {};
    for (int64_t i = 0; i < count; ++i) {
      const double largest = std::numeric_limits<float>::max();
      x[i] = from.f32 != nullptr
                 ? LoadAt(from.f32, begin + i)
                 : static_cast<float>(std::clamp(LoadAt(from.f64, begin + i), -largest, largest));
    }
    EncodeBlockRef(x, count, block, counts);
  }
}

void DecodeGgmlMxfp4Ref(std::span<const std::byte> packed, TileSpan out) {
  const auto* blocks = reinterpret_cast<const uint8_t*>(packed.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const uint8_t* block = blocks + i / 32 * 17;
    const int at = static_cast<int>(i % 32);
    const int code = at < 16 ? block[1 + at] & 15 : block[at - 15] >> 4;
    const float value = static_cast<float>(kLevelValues[code]) * ScaleRef(block[0]);
    if (out.f32 != nullptr) {
      out.f32[i] = value;
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace quantd
