// The K-quants as ggml writes them down, value by value: what the kernels of k_quant.cc and
// k_quant_codes.cc have to equal, and shares nothing with them.
//
// Entries: Encode and Decode of each row. They are held to ggml's own bytes by
// tests/core/scheme/golden_test.cc, and judge in segments_test.cc and reference_test.cc.
#include "core/scheme/k_quant_ref.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/minifloat.h"
#include "core/scheme/ggml_search_ref.h"
#include "core/scheme/super_block_ref.h"

namespace quantd {
namespace {

// make_qp_quants.
float ScaleCodesRef(int n, int nmax, const float* x, const float* w, uint8_t* codes) {
  const auto top = static_cast<float>(nmax);
  float max = 0;
  for (int i = 0; i < n; ++i) max = std::max(max, x[i]);
  std::fill_n(codes, n, uint8_t{0});
  if (max < 1e-15f) return 0;
  float iscale = top / max;
  for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(NearestRef(iscale * x[i]));
  float scale = 1 / iscale, best = 0;
  for (int i = 0; i < n; ++i) {
    const float diff = x[i] - scale * codes[i];
    best += w[i] * diff * diff;
  }
  for (int is = -4; is <= 4; ++is) {
    if (is == 0) continue;
    const float this_iscale = (0.1f * static_cast<float>(is) + top) / max;
    scale = 1 / this_iscale;
    float error = 0;
    for (int i = 0; i < n; ++i) {
      const int l = std::min(nmax, NearestRef(this_iscale * x[i]));
      const float diff = x[i] - scale * static_cast<float>(l);
      error += w[i] * diff * diff;
    }
    if (error < best) {
      best = error;
      iscale = this_iscale;
    }
  }
  float sum_lx = 0, sum_l2 = 0;
  for (int i = 0; i < n; ++i) {
    const int l = std::min(nmax, NearestRef(iscale * x[i]));
    codes[i] = static_cast<uint8_t>(l);
    sum_lx += w[i] * x[i] * static_cast<float>(l);
    sum_l2 += w[i] * static_cast<float>(l) * static_cast<float>(l);
  }
  for (int itry = 0, changed = 1; itry < 5 && changed > 0; ++itry) {
    changed = 0;
    for (int i = 0; i < n; ++i) {
      float slx = sum_lx - w[i] * x[i] * codes[i];
      float sl2 = sum_l2 - w[i] * codes[i] * codes[i];
      if (!(slx > 0) || !(sl2 > 0)) continue;
      const int l = std::min(nmax, NearestRef(x[i] * sl2 / slx));
      if (l == codes[i]) continue;
      slx += w[i] * x[i] * static_cast<float>(l);
      sl2 += w[i] * static_cast<float>(l) * static_cast<float>(l);
      if (slx * slx * sum_l2 > sum_lx * sum_lx * sl2) {
        codes[i] = static_cast<uint8_t>(l);
        sum_lx = slx;
        sum_l2 = sl2;
        ++changed;
      }
    }
  }
  return sum_l2 > 0 ? sum_lx / sum_l2 : 0.f;
}

// Without importance; ggml clamps to `limit` after the cast to a byte.
float ScaleCodesByMaxRef(int n, int nmax, int limit, const float* x, uint8_t* codes) {
  const auto top = static_cast<float>(nmax);
  float max = 0;
  for (int i = 0; i < n; ++i) {
    if (x[i] > max) max = x[i];
  }
  const float inverse = max > 0 ? top / max : 0.f;
  for (int i = 0; i < n; ++i) {
    const auto code = static_cast<uint8_t>(NearestRef(inverse * x[i]));
    codes[i] = static_cast<uint8_t>(std::min<int>(limit, code));
  }
  return max / top;
}

// get_scale_min_k4.
void ScaleMinRef(int j, const uint8_t* q, int& scale, int& min) {
  if (j < 4) {
    scale = q[j] & 63;
    min = q[j + 4] & 63;
  } else {
    scale = (q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4);
    min = (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
  }
}

float HalfRef(const uint8_t* at) {
  return WidenFloat<float>(kHalfFormat, static_cast<uint32_t>(at[0] | at[1] << 8));
}

void StoreHalfRef(float value, uint8_t* at) {
  if (std::isnan(value)) value = 0;
  const uint32_t code = NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, /*saturate=*/false);
  at[0] = static_cast<uint8_t>(code & 0xFF);
  at[1] = static_cast<uint8_t>(code >> 8);
}

// One of the formats, in ggml's words.
struct FormatRef {
  int n, nmax;         // values of a run, largest code
  int smax, slimit;    // largest code of scales, and what they are clamped to without importance
  float rmin, rdelta;  // without importance
  int nstep;
  bool average, mad;  // without importance: of weights, of errors
  float sigma;        // with importance
};
constexpr FormatRef kQ2K = {16, 3, 15, 255, -0.5f, 0.1f, 15, false, true, 1};
constexpr FormatRef kQ4K = {32, 15, 63, 63, -1.f, 0.1f, 20, true, false, 2};
constexpr FormatRef kQ5K = {32, 31, 63, 63, -0.5f, 0.1f, 15, true, false, 2};

// What a block is made of, before it is packed.
struct BlockRef {
  uint8_t scales[16], mins[16];
  float d, dmin;
  int codes[256];
};

// quantize_row_q*_K_ref, and with weights of the columns quantize_row_q*_K_impl, up to the scales.
BlockRef SearchBlockRef(const FormatRef& format, const float* x, const float* importance) {
  BlockRef block;
  float squares = 0;
  for (int i = 0; i < 256; ++i) squares += x[i] * x[i];
  const float sigma2 = format.sigma * squares / 256;
  float scales[16], mins[16], weights[16];
  const int n = format.n, runs = 256 / n;
  for (int j = 0; j < runs; ++j) {
    const float* values = x + n * j;
    float w[32], sum_x2 = 0;
    for (int l = 0; l < n; ++l) sum_x2 += values[l] * values[l];
    const float average = format.average ? std::sqrt(sum_x2 / static_cast<float>(n)) : 0;
    for (int l = 0; l < n; ++l) {
      w[l] = importance == nullptr
                 ? average + std::fabs(values[l])
                 : LoadAt(importance, n * j + l) * std::sqrt(sigma2 + values[l] * values[l]);
    }
    const RunRef run =
        importance == nullptr ? SearchRef(n, format.nmax, values, w, format.rmin, format.rdelta,
                                          format.nstep, format.mad)
                              : SearchRef(n, format.nmax, values, w, -0.9f, 0.05f, 36, false);
    std::copy_n(run.codes, n, block.codes + n * j);
    scales[j] = run.scale;
    mins[j] = run.min;
    weights[j] = run.weight;
  }
  if (importance == nullptr) {
    block.d = ScaleCodesByMaxRef(runs, format.smax, format.slimit, scales, block.scales);
    block.dmin = ScaleCodesByMaxRef(runs, format.smax, format.slimit, mins, block.mins);
  } else {
    block.d = ScaleCodesRef(runs, format.smax, scales, weights, block.scales);
    block.dmin = ScaleCodesRef(runs, format.smax, mins, weights, block.mins);
  }
  return block;
}

// Makes the codes of run j again, with the scale and minimum that are stored.
void RequantizeRef(const FormatRef& format, int j, float step, float low, const float* x,
                   BlockRef& block, Counts* counts) {
  const int n = format.n;
  if (!std::isnan(block.d) && (!std::isfinite(step) || (step == 0 && !std::isfinite(low)))) {
    counts->clipped += n;
  }
  if (step == 0) return;
  for (int i = n * j; i < n * (j + 1); ++i) {
    const float steps = (x[i] + low) / step;
    counts->clipped += steps <= -0.5f || steps >= static_cast<float>(format.nmax) + 0.5f;
    block.codes[i] = std::clamp(NearestRef(steps), 0, format.nmax);
  }
}

// d, dmin and scales of q4_k and q5_k, which are laid out alike.
void WriteScalesRef(const BlockRef& made, uint8_t* block) {
  uint8_t* packed = block + 4;
  StoreHalfRef(made.d, block);
  StoreHalfRef(made.dmin, block + 2);
  for (int j = 0; j < 8; ++j) {
    const uint8_t ls = made.scales[j], lm = made.mins[j];
    if (j < 4) {
      packed[j] = ls;
      packed[j + 4] = lm;
    } else {
      packed[j + 4] = static_cast<uint8_t>((ls & 0xF) | ((lm & 0xF) << 4));
      packed[j - 4] |= static_cast<uint8_t>((ls >> 4) << 6);
      packed[j] |= static_cast<uint8_t>((lm >> 4) << 6);
    }
  }
}

BlockRef MakeBlockRef(const FormatRef& format, const float* x, const float* importance,
                      uint8_t* block, Counts* counts) {
  BlockRef made = SearchBlockRef(format, x, importance);
  WriteScalesRef(made, block);
  if (std::isnan(made.d)) counts->clipped += 256;
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    ScaleMinRef(j, block + 4, scale, min);
    RequantizeRef(format, j, HalfRef(block) * static_cast<float>(scale),
                  HalfRef(block + 2) * static_cast<float>(min), x, made, counts);
  }
  return made;
}

void EncodeQ4KBlock(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  const BlockRef made = MakeBlockRef(kQ4K, x, importance, block, counts);
  for (int i = 0; i < 128; ++i) {
    const int at = i / 32 * 64 + i % 32;
    block[16 + i] = static_cast<uint8_t>(made.codes[at] | made.codes[at + 32] << 4);
  }
}

void EncodeQ5KBlock(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  const BlockRef made = MakeBlockRef(kQ5K, x, importance, block, counts);
  std::fill_n(block + 16, 32, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    block[16 + i % 32] |= static_cast<uint8_t>(made.codes[i] >> 4 << i / 32);
  }
  for (int i = 0; i < 128; ++i) {
    const int at = i / 32 * 64 + i % 32;
    block[48 + i] = static_cast<uint8_t>((made.codes[at] & 15) | (made.codes[at + 32] & 15) << 4);
  }
}

void EncodeQ2KBlock(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  BlockRef made = SearchBlockRef(kQ2K, x, importance);
  for (int j = 0; j < 16; ++j) block[j] = static_cast<uint8_t>(made.scales[j] | made.mins[j] << 4);
  StoreHalfRef(made.d, block + 80);
  StoreHalfRef(made.dmin, block + 82);
  if (std::isnan(made.d)) counts->clipped += 256;
  for (int j = 0; j < 16; ++j) {
    RequantizeRef(kQ2K, j, HalfRef(block + 80) * static_cast<float>(block[j] & 15),
                  HalfRef(block + 82) * static_cast<float>(block[j] >> 4), x, made, counts);
  }
  for (int i = 0; i < 64; ++i) {
    const int* from = made.codes + i / 32 * 128 + i % 32;
    block[16 + i] =
        static_cast<uint8_t>(from[0] | from[32] << 2 | from[64] << 4 | from[96] << 6);
  }
}

float DecodeQ4KElem(const uint8_t* block, int elem) {
  int scale, min;
  ScaleMinRef(elem / 32, block + 4, scale, min);
  const uint8_t byte = block[16 + elem / 64 * 32 + elem % 32];
  const int code = elem % 64 < 32 ? byte & 0xF : byte >> 4;
  return HalfRef(block) * static_cast<float>(scale) * static_cast<float>(code) -
         HalfRef(block + 2) * static_cast<float>(min);
}

float DecodeQ5KElem(const uint8_t* block, int elem) {
  int scale, min;
  ScaleMinRef(elem / 32, block + 4, scale, min);
  const uint8_t byte = block[48 + elem / 64 * 32 + elem % 32];
  const int high = block[16 + elem % 32] >> elem / 32 & 1;
  const int code = (elem % 64 < 32 ? byte & 0xF : byte >> 4) | high << 4;
  return HalfRef(block) * static_cast<float>(scale) * static_cast<float>(code) -
         HalfRef(block + 2) * static_cast<float>(min);
}

float DecodeQ2KElem(const uint8_t* block, int elem) {
  const int scale = block[elem / 16] & 15, min = block[elem / 16] >> 4;
  const int code = block[16 + elem / 128 * 32 + elem % 32] >> elem % 128 / 32 * 2 & 3;
  return HalfRef(block + 80) * static_cast<float>(scale) * static_cast<float>(code) -
         HalfRef(block + 82) * static_cast<float>(min);
}

}  // namespace

void EncodeQ2KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 84, counts, EncodeQ2KBlock);
}
void EncodeQ4KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 144, counts, EncodeQ4KBlock);
}
void EncodeQ5KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  EncodeSuperBlocksRef(segment, out, 176, counts, EncodeQ5KBlock);
}

void DecodeQ2KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 84, out, DecodeQ2KElem);
}
void DecodeQ4KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 144, out, DecodeQ4KElem);
}
void DecodeQ5KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  DecodeSuperBlocksRef(packed, 176, out, DecodeQ5KElem);
}

}  // namespace quantd
