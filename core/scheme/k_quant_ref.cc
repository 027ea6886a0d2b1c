// The K-quants as ggml writes them down, value by value: what the kernels of k_quant.cc and
// k_quant_codes.cc have to equal, and shares nothing with them.
//
// Entries: EncodeQ4KRef and DecodeQ4KRef. They are held to ggml's own bytes by
// tests/core/scheme/golden_test.cc, and judge in segments_test.cc and reference_test.cc.
#include "core/scheme/k_quant_ref.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/minifloat.h"

namespace quantd {
namespace {

int NearestRef(float value) {
  int bits;
  const float shifted = value + 12582912.f;
  std::memcpy(&bits, &shifted, sizeof(bits));
  return (bits & 0x007FFFFF) - 0x00400000;
}

struct RunRef {
  float scale, min, weight;
  int codes[32];
};

// make_qkx2_quants and make_qkx3_quants for 32 values in 4 bits.
RunRef SearchRef(const float* x, const float* w, float rmin, float rdelta, int nstep) {
  RunRef run = {};
  float min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];
  for (int l = 1; l < 32; ++l) {
    if (x[l] < min) min = x[l];
    if (x[l] > max) max = x[l];
    sum_w += w[l];
    sum_x += w[l] * x[l];
  }
  run.weight = sum_w;
  if (min > 0) min = 0;
  if (max <= min) {
    run.min = -min;
    return run;
  }
  float iscale = 15 / (max - min);
  run.scale = 1 / iscale;
  float best = 0;
  for (int l = 0; l < 32; ++l) {
    run.codes[l] = std::clamp(NearestRef(iscale * (x[l] - min)), 0, 15);
    const float diff = run.scale * static_cast<float>(run.codes[l]) + min - x[l];
    best += w[l] * (diff * diff);
  }
  for (int is = 0; is <= nstep; ++is) {
    iscale = (rmin + rdelta * static_cast<float>(is) + 15) / (max - min);
    int codes[32];
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int l = 0; l < 32; ++l) {
      codes[l] = std::clamp(NearestRef(iscale * (x[l] - min)), 0, 15);
      const auto code = static_cast<float>(codes[l]);
      sum_l += w[l] * code;
      sum_l2 += w[l] * code * code;
      sum_xl += w[l] * code * x[l];
    }
    const float det = sum_w * sum_l2 - sum_l * sum_l;
    if (!(det > 0)) continue;
    float this_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
    float this_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
    if (this_min > 0) {
      this_min = 0;
      this_scale = sum_xl / sum_l2;
    }
    float error = 0;
    for (int l = 0; l < 32; ++l) {
      const float diff = this_scale * static_cast<float>(codes[l]) + this_min - x[l];
      error += w[l] * (diff * diff);
    }
    if (error < best) {
      std::copy_n(codes, 32, run.codes);
      best = error;
      run.scale = this_scale;
      min = this_min;
    }
  }
  run.min = -min;
  return run;
}

// make_qp_quants for 8 values in 6 bits.
float ScaleCodesRef(const float* x, const float* w, uint8_t* codes) {
  float max = 0;
  for (int i = 0; i < 8; ++i) max = std::max(max, x[i]);
  std::fill_n(codes, 8, uint8_t{0});
  if (max < 1e-15f) return 0;
  float iscale = 63 / max;
  for (int i = 0; i < 8; ++i) codes[i] = static_cast<uint8_t>(NearestRef(iscale * x[i]));
  float scale = 1 / iscale, best = 0;
  for (int i = 0; i < 8; ++i) {
    const float diff = x[i] - scale * codes[i];
    best += w[i] * diff * diff;
  }
  for (int is = -4; is <= 4; ++is) {
    if (is == 0) continue;
    const float this_iscale = (0.1f * static_cast<float>(is) + 63) / max;
    scale = 1 / this_iscale;
    float error = 0;
    for (int i = 0; i < 8; ++i) {
      const int l = std::min(63, NearestRef(this_iscale * x[i]));
      const float diff = x[i] - scale * static_cast<float>(l);
      error += w[i] * diff * diff;
    }
    if (error < best) {
      best = error;
      iscale = this_iscale;
    }
  }
  float sum_lx = 0, sum_l2 = 0;
  for (int i = 0; i < 8; ++i) {
    const int l = std::min(63, NearestRef(iscale * x[i]));
    codes[i] = static_cast<uint8_t>(l);
    sum_lx += w[i] * x[i] * static_cast<float>(l);
    sum_l2 += w[i] * static_cast<float>(l) * static_cast<float>(l);
  }
  for (int itry = 0, changed = 1; itry < 5 && changed > 0; ++itry) {
    changed = 0;
    for (int i = 0; i < 8; ++i) {
      float slx = sum_lx - w[i] * x[i] * codes[i];
      float sl2 = sum_l2 - w[i] * codes[i] * codes[i];
      if (!(slx > 0) || !(sl2 > 0)) continue;
      const int l = std::min(63, NearestRef(x[i] * sl2 / slx));
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

void ScaleCodesByMaxRef(const float* x, uint8_t* codes, float& scale) {
  float max = 0;
  for (int i = 0; i < 8; ++i) {
    if (x[i] > max) max = x[i];
  }
  const float inverse = max > 0 ? 63.f / max : 0.f;
  for (int i = 0; i < 8; ++i) {
    codes[i] = std::min<uint8_t>(63, static_cast<uint8_t>(NearestRef(inverse * x[i])));
  }
  scale = max / 63.f;
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
  const uint32_t code = NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, /*saturate=*/true);
  at[0] = static_cast<uint8_t>(code & 0xFF);
  at[1] = static_cast<uint8_t>(code >> 8);
}

// quantize_row_q4_K_ref, and with weights of the columns quantize_row_q4_K_impl, for one block.
void EncodeBlockRef(const float* x, const float* importance, uint8_t* block, Counts* counts) {
  float squares = 0;
  for (int i = 0; i < 256; ++i) squares += x[i] * x[i];
  const float sigma2 = 2 * squares / 256;
  RunRef runs[8];
  float scales[8], mins[8], weights[8];
  for (int j = 0; j < 8; ++j) {
    const float* values = x + 32 * j;
    float w[32], sum_x2 = 0;
    for (int l = 0; l < 32; ++l) sum_x2 += values[l] * values[l];
    const float average = std::sqrt(sum_x2 / 32);
    for (int l = 0; l < 32; ++l) {
      w[l] = importance == nullptr
                 ? average + std::fabs(values[l])
                 : LoadAt(importance, 32 * j + l) * std::sqrt(sigma2 + values[l] * values[l]);
    }
    runs[j] = importance == nullptr ? SearchRef(values, w, -1.f, 0.1f, 20)
                                    : SearchRef(values, w, -0.9f, 0.05f, 36);
    scales[j] = runs[j].scale;
    mins[j] = runs[j].min;
    weights[j] = runs[j].weight;
  }
  uint8_t ls[8], lm[8], *packed = block + 4;
  float d, dmin;
  if (importance == nullptr) {
    ScaleCodesByMaxRef(scales, ls, d);
    ScaleCodesByMaxRef(mins, lm, dmin);
  } else {
    d = ScaleCodesRef(scales, weights, ls);
    dmin = ScaleCodesRef(mins, weights, lm);
  }
  StoreHalfRef(d, block);
  StoreHalfRef(dmin, block + 2);
  for (int j = 0; j < 8; ++j) {
    if (j < 4) {
      packed[j] = ls[j];
      packed[j + 4] = lm[j];
    } else {
      packed[j + 4] = static_cast<uint8_t>((ls[j] & 0xF) | ((lm[j] & 0xF) << 4));
      packed[j - 4] |= static_cast<uint8_t>((ls[j] >> 4) << 6);
      packed[j] |= static_cast<uint8_t>((lm[j] >> 4) << 6);
    }
  }
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    ScaleMinRef(j, packed, scale, min);
    const float step = HalfRef(block) * static_cast<float>(scale);
    const float dmin_stored = HalfRef(block + 2);
    const float low = dmin_stored * static_cast<float>(min);
    for (int l = 0; l < 32 && step == 0 && dmin_stored == 65504; ++l) {  // it may have saturated
      counts->clipped += x[32 * j + l] + low <= -65504.f / 2;
    }
    if (step == 0) continue;
    for (int l = 0; l < 32; ++l) {
      const float steps = (x[32 * j + l] + low) / step;
      counts->clipped += steps <= -0.5f || steps >= 15.5f;
      runs[j].codes[l] = std::clamp(NearestRef(steps), 0, 15);
    }
  }
  for (int i = 0; i < 128; ++i) {
    const int pair = i / 32 * 2, l = i % 32;
    block[16 + i] = static_cast<uint8_t>(runs[pair].codes[l] | runs[pair + 1].codes[l] << 4);
  }
}

}  // namespace

void EncodeQ4KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  for (int64_t begin = 0; begin < segment.values.num_elems; begin += 256) {
    float x[256];
    for (int64_t i = 0; i < 256; ++i) {
      const double value = segment.values.Visit(
          [&](const auto* from) { return double{LoadAt(from, begin + i)}; });
      x[i] = static_cast<float>(std::clamp(value, -0x1p30, 0x1p30));
    }
    const float* importance = segment.importance == nullptr
                                  ? nullptr
                                  : segment.importance->At(segment.first_elem + begin);
    EncodeBlockRef(x, importance, reinterpret_cast<uint8_t*>(out.data()) + begin / 256 * 144,
                   counts);
  }
}

void DecodeQ4KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                  TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const auto* block = reinterpret_cast<const uint8_t*>(packed.data()) + i / 256 * 144;
    const int elem = static_cast<int>(i % 256);
    int scale, min;
    ScaleMinRef(elem / 32, block + 4, scale, min);
    const uint8_t byte = block[16 + elem / 64 * 32 + elem % 32];
    const int code = elem % 64 < 32 ? byte & 0xF : byte >> 4;
    const float step = HalfRef(block) * static_cast<float>(scale);
    const float low = HalfRef(block + 2) * static_cast<float>(min);
    const float value = step * static_cast<float>(code) - low;
    if (out.f32 != nullptr) {
      out.f32[i] = value;
    } else {
      out.f64[i] = value;
    }
  }
}

}  // namespace quantd
