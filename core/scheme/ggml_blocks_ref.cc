// ggml's simple blocks as ggml writes them down, value by value: what the kernels have to equal,
// and shares nothing with them. Held to ggml's own bytes by tests/core/scheme/golden_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/minifloat.h"
#include "core/scheme/ggml_blocks.h"
#include "core/scheme/ggml_search_ref.h"

namespace quantd {
namespace {

// What f16 holds of a parameter, in f32: it is not rounded yet.
float HeldRef(float v) { return std::fabs(v) < 65520 ? v : std::copysign(65504.0f, v); }

void StoreHalfRef(float value, uint8_t* at) {
  const uint32_t code = NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, true);
  at[0] = static_cast<uint8_t>(code & 0xFF);
  at[1] = static_cast<uint8_t>(code >> 8);
}

float LoadHalfRef(const uint8_t* at) {
  return WidenFloat<float>(kHalfFormat, static_cast<uint32_t>(at[0] | at[1] << 8));
}

// Writes the codes of a block.
void PackRef(const GgmlBlockFormat& format, const uint8_t* codes, uint8_t* block) {
  uint8_t* at = block + (format.has_min ? 4 : 2);
  if (format.bits == 5) {
    std::fill_n(at, 4, uint8_t{0});
    for (int i = 0; i < 32; ++i) at[i / 8] |= static_cast<uint8_t>(codes[i] >> 4 << i % 8);
    at += 4;
  }
  for (int i = 0; i < 16; ++i) {
    at[i] = static_cast<uint8_t>((codes[i] & 15) | codes[i + 16] << 4);
  }
}

// quantize_row_q4_0_ref, _q4_1_ref, _q5_0_ref, _q5_1_ref, for one block.
void EncodeBlockRef(const GgmlBlockFormat& format, const float* x, int64_t count, uint8_t* block,
                    Counts* counts) {
  const int half = 1 << (format.bits - 1), top_code = 2 * half - 1;
  float furthest = 0, min = x[0], max = x[0];
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(furthest) < std::fabs(x[i])) furthest = x[i];
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
  }
  min = HeldRef(min);
  const float d = HeldRef(format.has_min ? (max - min) / static_cast<float>(top_code)
                                         : furthest / static_cast<float>(-half));
  const float id = d != 0 ? 1 / d : 0;
  StoreHalfRef(d, block);
  if (format.has_min) StoreHalfRef(min, block + 2);
  uint8_t codes[32] = {};
  for (int i = 0; i < 32 && std::isfinite(id); ++i) {
    const float v = format.has_min ? (x[i] - min) * id + 0.5f
                                   : x[i] * id + (static_cast<float>(half) + 0.5f);
    counts->clipped += i < count && (v >= static_cast<float>(top_code + 1) || v <= 0);
    codes[i] = static_cast<uint8_t>(std::clamp(v, 0.0f, static_cast<float>(top_code)));
  }
  PackRef(format, codes, block);
}

// quantize_row_q4_0_impl, _q4_1_impl, _q5_0_impl, _q5_1_impl, for one block, with the weights of
// its columns and the mean square of its row. False where the search overflows.
bool EncodeWeightedRef(const GgmlBlockFormat& format, const float* x, int64_t count,
                       const float* importance, float sigma2, uint8_t* block, Counts* counts) {
  float w[32];
  for (int i = 0; i < 32; ++i) {
    w[i] = i < count ? LoadAt(importance, i) * std::sqrt(sigma2 + x[i] * x[i]) : 0;
  }
  const int half = 1 << (format.bits - 1), nmax = format.has_min ? 2 * half - 1 : half;
  int levels[32];
  float d, min = 0;
  if (format.has_min) {
    const RunRef run = SearchRef(32, nmax, x, w, -0.9f, 0.05f, 36, false);
    std::copy_n(run.codes, 32, levels);
    d = run.scale;
    min = -run.min;
  } else {
    d = QxRef(32, nmax, x, w, levels);
  }
  if (!std::isfinite(d) || !std::isfinite(min)) return false;
  d = HeldRef(d);
  min = HeldRef(min);
  StoreHalfRef(d, block);
  if (format.has_min) StoreHalfRef(min, block + 2);
  uint8_t codes[32];
  std::copy_n(levels, 32, codes);
  PackRef(format, codes, block);
  if (d == 0 || std::isinf(1 / d)) return true;
  for (int i = 0; i < count; ++i) {
    const float v = format.has_min ? (x[i] - min) * (1 / d) : x[i] * (1 / d);
    const float top = static_cast<float>(format.has_min ? nmax : nmax - 1);
    counts->clipped += v <= (format.has_min ? 0 : -half) - 0.5f || v >= top + 0.5f;
  }
  return true;
}

float DecodeRef(const GgmlBlockFormat& format, const uint8_t* block, int i) {
  const uint8_t* at = block + (format.has_min ? 4 : 2);
  int high = 0;
  if (format.bits == 5) {
    high = at[i / 8] >> i % 8 & 1;
    at += 4;
  }
  const int code = (i < 16 ? at[i] & 15 : at[i - 16] >> 4) | high << 4;
  const float d = LoadHalfRef(block);
  if (format.has_min) return static_cast<float>(code) * d + LoadHalfRef(block + 2);
  return static_cast<float>(code - (1 << (format.bits - 1))) * d;
}

}  // namespace

void EncodeGgmlBlocksRef(const GgmlBlockFormat& format, const Resolved& resolved,
                         const Segment& segment, std::span<std::byte> out, Counts* counts) {
  auto* block = reinterpret_cast<uint8_t*>(out.data());
  const TileView& from = segment.values;
  for (int64_t begin = 0; begin < from.num_elems; begin += 32, block += format.bytes()) {
    const int64_t count = std::min<int64_t>(32, from.num_elems - begin);
    float x[32] = {};
    for (int64_t i = 0; i < count; ++i) {
      constexpr double kLargest = std::numeric_limits<float>::max();
      x[i] = from.f32 != nullptr ? LoadAt(from.f32, begin + i)
                                 : static_cast<float>(std::clamp(LoadAt(from.f64, begin + i),
                                                                 -kLargest, kLargest));
    }
    if (segment.importance != nullptr) {
      const int64_t elem = segment.first_elem + begin;
      const int64_t row = resolved.layout.groups.RunAt(elem).group - segment.params.first_group;
      float sigma2;
      std::memcpy(&sigma2, &segment.params.working[static_cast<size_t>(4 * row)], 4);
      const float* importance = segment.importance->At(elem);
      if (EncodeWeightedRef(format, x, count, importance, sigma2, block, counts)) continue;
    }
    EncodeBlockRef(format, x, count, block, counts);
  }
}

void DecodeGgmlBlocksRef(const GgmlBlockFormat& format, std::span<const std::byte> codes,
                         TileSpan out) {
  const auto* blocks = reinterpret_cast<const uint8_t*>(codes.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const float value =
        DecodeRef(format, blocks + i / 32 * format.bytes(), static_cast<int>(i % 32));
    if (out.f32 != nullptr) {
      out.f32[i] = value;
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace quantd
