// iq4_nl and iq4_xs as ggml writes them down, value by value: what the kernels have to equal, and
// shares nothing with them. Held to ggml's own bytes by tests/core/scheme/golden_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/minifloat.h"
#include "core/scheme/iq4.h"

namespace quantd {
namespace {

constexpr int kLevelValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                             1,    13,   25,  38,  53,  69,  89,  113};

int NearestRef(float value) {
  int bits;
  const float shifted = value + 12582912.f;
  std::memcpy(&bits, &shifted, sizeof(bits));
  return (bits & 0x007FFFFF) - 0x00400000;
}

float HalfRef(const uint8_t* at) {
  return WidenFloat<float>(kHalfFormat, static_cast<uint32_t>(at[0] | at[1] << 8));
}

// False if the value is not finite.
bool StoreHalfRef(float value, uint8_t* at) {
  const uint32_t code =
      std::isnan(value) ? 0 : NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, false);
  at[0] = static_cast<uint8_t>(code & 0xFF);
  at[1] = static_cast<uint8_t>(code >> 8);
  return !std::isnan(value) && std::isfinite(HalfRef(at));
}

// best_index_int8.
int BestIndexRef(float x) {
  int idx = 0;
  for (int j = 1; j < 16; ++j) {
    if (x + x >= static_cast<float>(kLevelValues[j - 1] + kLevelValues[j])) idx = j;
  }
  return idx;
}

// The scale of a run of 32 by quantize_row_iq4_nl_impl, ntry 7.
float ScaleRef(const float* x, const float* w) {
  float amax = 0, max = 0;
  for (int j = 0; j < 32; ++j) {
    const float ax = std::fabs(x[j]);
    if (ax > amax) {
      amax = ax;
      max = x[j];
    }
  }
  if (amax < 1e-15f) return 0;
  float d = 0, best = 0;
  for (int itry = -8; itry <= 7; ++itry) {
    const bool first = itry == -8;
    const float id = first ? 1 / (-max / -127) : static_cast<float>(itry - 127) / max;
    float sumqx = 0, sumq2 = 0;
    for (int j = 0; j < 32; ++j) {
      const auto q = static_cast<float>(kLevelValues[BestIndexRef(id * x[j])]);
      sumqx += w[j] * q * x[j];
      sumq2 += w[j] * q * q;
    }
    if (first) {
      d = sumq2 > 0 ? sumqx / sumq2 : 0;
      best = d * sumqx;
    } else if (sumq2 > 0 && sumqx * sumqx > best * sumq2) {
      d = sumqx / sumq2;
      best = d * sumqx;
    }
  }
  return d;
}

void CodesRef(const float* x, float scale, uint8_t* to, Counts* counts) {
  const float id = scale != 0 ? 1 / scale : 0;
  uint8_t codes[32];
  for (int j = 0; j < 32; ++j) {
    codes[j] = static_cast<uint8_t>(BestIndexRef(id * x[j]));
    counts->clipped += x[j] * id <= -138.5f || x[j] * id >= 125.0f;
  }
  for (int j = 0; j < 16; ++j) to[j] = static_cast<uint8_t>(codes[j] | codes[j + 16] << 4);
}

// quantize_row_iq4_nl_impl for one block.
void EncodeBlockRef(const Iq4Format& format, const float* x, const float* importance,
                    uint8_t* block, Counts* counts) {
  const int elems = format.has_scales ? 256 : 32;
  float sigma2 = 0, scales[8], max_scale = 0;
  for (int i = 0; i < elems; ++i) sigma2 += x[i] * x[i];
  sigma2 *= 2.f / static_cast<float>(elems);
  for (int ib = 0; ib < elems / 32; ++ib) {
    float w[32];
    for (int j = 0; j < 32; ++j) {
      const float value = x[32 * ib + j];
      w[j] = importance == nullptr
                 ? value * value
                 : LoadAt(importance, 32 * ib + j) * std::sqrt(sigma2 + value * value);
    }
    scales[ib] = ScaleRef(x + 32 * ib, w);
    if (std::fabs(scales[ib]) > std::fabs(max_scale)) max_scale = scales[ib];
  }
  if (!format.has_scales) {
    if (!StoreHalfRef(scales[0], block)) counts->clipped += 32;
    CodesRef(x, scales[0], block + 2, counts);
    return;
  }
  const float d = -max_scale / 32, id = d != 0 ? 1 / d : 0;
  const bool holds = StoreHalfRef(d, block);
  if (!holds) counts->clipped += 256;
  std::fill_n(block + 2, 6, uint8_t{0});
  for (int ib = 0; ib < 8; ++ib) {
    if (std::isnan(scales[ib]) && holds) counts->clipped += 32;
    const int l = std::clamp(NearestRef(id * scales[ib]), -32, 31);
    CodesRef(x + 32 * ib, d * static_cast<float>(l), block + 8 + 16 * ib, counts);
    const int code = l + 32;
    block[2 + ib / 4] |= static_cast<uint8_t>(code >> 4 << 2 * (ib % 4));
    block[4 + ib / 2] |= static_cast<uint8_t>((code & 15) << 4 * (ib % 2));
  }
}

}  // namespace

void EncodeIq4Ref(const Iq4Format& format, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  auto* block = reinterpret_cast<uint8_t*>(out.data());
  const TileView& from = segment.values;
  const int64_t elems = format.has_scales ? 256 : 32, bytes = format.has_scales ? 136 : 18;
  for (int64_t begin = 0; begin < from.num_elems; begin += elems, block += bytes) {
    float x[256];
    for (int64_t i = 0; i < elems; ++i) {
      const double largest = std::numeric_limits<float>::max();
      x[i] = from.f32 != nullptr
                 ? LoadAt(from.f32, begin + i)
                 : static_cast<float>(std::clamp(LoadAt(from.f64, begin + i), -largest, largest));
    }
    const float* importance = segment.importance == nullptr
                                  ? nullptr
                                  : segment.importance->At(segment.first_elem + begin);
    EncodeBlockRef(format, x, importance, block, counts);
  }
}

void DecodeIq4Ref(const Iq4Format& format, std::span<const std::byte> packed, TileSpan out) {
  const auto* blocks = reinterpret_cast<const uint8_t*>(packed.data());
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const uint8_t* block = format.has_scales ? blocks + i / 256 * 136 : blocks + i / 32 * 18;
    const uint8_t* codes = block + 2;
    float scale = HalfRef(block);
    if (format.has_scales) {
      const int ib = static_cast<int>(i % 256 / 32);
      const int low = block[4 + ib / 2] >> 4 * (ib % 2) & 15;
      const int high = block[2 + ib / 4] >> 2 * (ib % 4) & 3;
      scale *= static_cast<float>((low | high << 4) - 32);
      codes = block + 8 + 16 * ib;
    }
    const int code = i % 32 < 16 ? codes[i % 32] & 15 : codes[i % 32 - 16] >> 4;
    const float value = scale * static_cast<float>(kLevelValues[code]);
    if (out.f32 != nullptr) {
      out.f32[i] = value;
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace quantd
