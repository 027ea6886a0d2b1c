// The K-quants without minima as ggml writes them down, value by value: what the kernels of
// scale_search.cc and k_quant_codes.cc have to equal, and shares nothing with them.
//
// Entries: Encode and Decode of each row. They are held to ggml's own bytes by
// tests/core/scheme/golden_test.cc, and judge in segments_test.cc and reference_test.cc.
#include "core/scheme/scale_rows_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/minifloat.h"
#include "core/scheme/ggml_search_ref.h"
#include "core/scheme/super_block_ref.h"

namespace quantd {
namespace {

float HalfRef(const uint8_t* at) {
  return WidenFloat<float>(kHalfFormat, static_cast<uint32_t>(at[0] | at[1] << 8));
}

void StoreHalfRef(float value, uint8_t* at) {
  if (std::isnan(value)) value = 0;
  const uint32_t code = NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, /*saturate=*/false);
  at[0] = static_cast<uint8_t>(code & 0xFF);
  at[1] = static_cast<uint8_t>(code >> 8);
}

// make_q3_quants with do_rmse.
float Q3Ref(const float* x, int* levels) {
  const float max = MaxRef(16, x);
  std::fill_n(levels, 16, 0);
  if (max == 0) return 0;
  const float iscale = -4 / max;
  float sumlx = 0, suml2 = 0;
  for (int i = 0; i < 16; ++i) {
    const int l = std::clamp(NearestRef(iscale * x[i]), -4, 3);
    const float w = x[i] * x[i];
    levels[i] = l;
    sumlx += w * x[i] * static_cast<float>(l);
    suml2 += w * static_cast<float>(l) * static_cast<float>(l);
  }
  for (int itry = 0, changed = 1; itry < 5 && changed > 0; ++itry) {
    changed = 0;
    for (int i = 0; i < 16; ++i) {
      const float w = x[i] * x[i], old = static_cast<float>(levels[i]);
      float slx = sumlx - w * x[i] * old;
      if (!(slx > 0)) continue;
      float sl2 = suml2 - w * old * old;
      const int l = std::clamp(NearestRef(x[i] * sl2 / slx), -4, 3);
      if (l == levels[i]) continue;
      slx += w * x[i] * static_cast<float>(l);
      sl2 += w * static_cast<float>(l) * static_cast<float>(l);
      if (sl2 > 0 && slx * slx * suml2 > sumlx * sumlx * sl2) {
        levels[i] = l;
        sumlx = slx;
        suml2 = sl2;
        ++changed;
      }
    }
  }
  for (int i = 0; i < 16; ++i) levels[i] += 4;
  return suml2 > 0 ? sumlx / suml2 : 0;
}

float FurthestRef(const float* scales) {
  float max = 0;
  for (int j = 0; j < 16; ++j) {
    if (std::fabs(scales[j]) > std::fabs(max)) max = scales[j];
  }
  return max;
}

// Makes the levels of run j again, with its scale as it is stored; counts what is clipped or lost.
void RequantizeRef(int nmax, int j, float found, bool has_d, float d, const float* x, int* levels,
                   Counts* counts) {
  if (has_d && (std::isnan(found) || !std::isfinite(d))) counts->clipped += 16;
  if (d == 0) return;
  for (int i = 16 * j; i < 16 * (j + 1); ++i) {
    const float steps = x[i] / d, top = static_cast<float>(nmax);
    counts->clipped += steps <= -top - 0.5f || steps >= top - 0.5f;
    levels[i] = std::clamp(NearestRef(steps), -nmax, nmax - 1) + nmax;
  }
}

// quantize_row_q6_K_impl.
void EncodeQ6KBlock(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  int levels[256];
  float scales[16];
  for (int j = 0; j < 16; ++j) {
    float w[16];
    for (int i = 0; i < 16; ++i) {
      const float value = x[16 * j + i];
      w[i] = importance == nullptr ? value * value : LoadAt(importance, 16 * j + i);
    }
    scales[j] = QxRef(16, 32, x + 16 * j, w, levels + 16 * j);
  }
  std::fill_n(block, 210, uint8_t{0});
  const float max = FurthestRef(scales);
  if (std::fabs(max) < 1e-15f) {
    for (const float scale : scales) counts->clipped += std::isnan(scale) ? 16 : 0;
    return;
  }
  const float iscale = -128.f / max;
  StoreHalfRef(1 / iscale, block + 208);
  for (int j = 0; j < 16; ++j) {
    const auto code = static_cast<int8_t>(std::min(127, NearestRef(iscale * scales[j])));
    block[192 + j] = static_cast<uint8_t>(code);
    RequantizeRef(32, j, scales[j], true, HalfRef(block + 208) * static_cast<float>(code), x,
                  levels, counts);
  }
  for (int i = 0; i < 256; ++i) {
    const int quarter = i % 128 / 32, l = i % 32;
    block[i / 128 * 64 + quarter % 2 * 32 + l] |=
        static_cast<uint8_t>((levels[i] & 15) << (quarter < 2 ? 0 : 4));
    block[128 + i / 128 * 32 + l] |= static_cast<uint8_t>(levels[i] >> 4 << 2 * quarter);
  }
}

float DecodeQ6KElem(const uint8_t* block, int elem) {
  const int quarter = elem % 128 / 32, l = elem % 32;
  const uint8_t low = block[elem / 128 * 64 + quarter % 2 * 32 + l];
  const int high = block[128 + elem / 128 * 32 + l] >> 2 * quarter & 3;
  const int level = ((quarter < 2 ? low & 15 : low >> 4) | high << 4) - 32;
  const auto scale = static_cast<int8_t>(block[192 + elem / 16]);
  return HalfRef(block + 208) * static_cast<float>(scale) * static_cast<float>(level);
}

int Q3ScaleRef(const uint8_t* scales, int j) {
  const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
  return (low | (scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
}

// quantize_row_q3_K_ref, and with weights of the columns quantize_row_q3_K_impl.
void EncodeQ3KBlock(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  int levels[256], codes[16] = {};
  float scales[16], sums[16], squares = 0, d = 0;
  for (int i = 0; i < 256; ++i) squares += x[i] * x[i];
  const float sigma2 = 2 * squares / 256;
  for (int j = 0; j < 16; ++j) {
    const float* run = x + 16 * j;
    if (importance == nullptr) {
      scales[j] = Q3Ref(run, levels + 16 * j);
      continue;
    }
    float w[16];
    sums[j] = 0;
    for (int i = 0; i < 16; ++i) {
      w[i] = LoadAt(importance, 16 * j + i) * std::sqrt(sigma2 + run[i] * run[i]);
      sums[j] += w[i];
    }
    scales[j] = QxRef(16, 4, run, w, levels + 16 * j);
  }
  if (importance != nullptr) {
    d = QxRef(16, 32, scales, sums, codes);
  } else if (const float max = FurthestRef(scales); max != 0) {
    const float iscale = -32.f / max;
    for (int j = 0; j < 16; ++j) {
      codes[j] = std::clamp<int>(static_cast<int8_t>(NearestRef(iscale * scales[j])), -32, 31) + 32;
    }
    d = 1 / iscale;
  }
  std::fill_n(block, 110, uint8_t{0});
  for (int j = 0; j < 16; ++j) {
    block[96 + j % 8] |= static_cast<uint8_t>((codes[j] & 15) << (j < 8 ? 0 : 4));
    block[104 + j % 4] |= static_cast<uint8_t>(codes[j] >> 4 << 2 * (j / 4));
  }
  StoreHalfRef(d, block + 108);
  if (std::isnan(d)) counts->clipped += 256;
  for (int j = 0; j < 16; ++j) {
    const auto code = static_cast<float>(Q3ScaleRef(block + 96, j));
    RequantizeRef(4, j, scales[j], !std::isnan(d), HalfRef(block + 108) * code, x, levels, counts);
  }
  for (int i = 0; i < 256; ++i) {
    block[i % 32] |= static_cast<uint8_t>(levels[i] >> 2 << i / 32);
    block[32 + i / 128 * 32 + i % 32] |=
        static_cast<uint8_t>((levels[i] & 3) << 2 * (i % 128 / 32));
  }
}

float DecodeQ3KElem(const uint8_t* block, int elem) {
  const int low = block[32 + elem / 128 * 32 + elem % 32] >> 2 * (elem % 128 / 32) & 3;
  const int high = block[elem % 32] >> elem / 32 & 1;
  return HalfRef(block + 108) * static_cast<float>(Q3ScaleRef(block + 96, elem / 16)) *
         static_cast<float>((low | high << 2) - 4);
}

}  // namespace

void EncodeQ3KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 110, counts, EncodeQ3KBlock);
}
void EncodeQ6KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 210, counts, EncodeQ6KBlock);
}

void DecodeQ3KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 110, out, DecodeQ3KElem);
}
void DecodeQ6KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 210, out, DecodeQ6KElem);
}

}  // namespace quantd
