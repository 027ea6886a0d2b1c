// The 8 or 16 scales, or minima, of a super-block as codes of 6 or 4 bits and one factor, with the
// least weighted error:
//
//   1  factors 63 / largest, and (63 + i / 10) / largest for i from -4 to 4: the best codes
//   2  factor of least square error for these codes: sum(w x code) / sum(w code^2)
//   3  each code in turn moves to where the factor of the others wants it, if that lowers the
//      error; five rounds at most
//
// Of scales 10 and 0.05 the second has code 0, for 0.05 is a third of a step: its run is left
// without a scale, see k_quant_codes.cc. This is scalar: 8 values, where SearchKRuns has 256.
//
// Source: make_qp_quants, ggml/src/ggml-quants.c. Entries: SearchScaleCodes and NearestByBits.
// Tested by tests/core/scheme/segments_test.cc, reference_test.cc and golden_test.cc, through q4_k.
#include <algorithm>
#include <bit>

#include "core/scheme/k_quant.h"

namespace quantd {
int32_t NearestByBits(float value) {
  const auto bits = std::bit_cast<int32_t>(value + 0x1.8p23f);
  return (bits & 0x7FFFFF) - 0x400000;
}

float SearchScaleCodes(int32_t max_code, std::span<const float> values,
                       std::span<const float> weights, std::span<uint8_t> codes) {
  const auto top = static_cast<float>(max_code);
  float largest = 0;
  for (const float value : values) largest = std::max(largest, value);
  if (largest < 1e-15f) {
    std::fill(codes.begin(), codes.end(), uint8_t{0});
    return 0;
  }
  float factor = top / largest;
  const auto error_of = [&](float tried, auto code_of) {
    const float scale = 1 / tried;
    float error = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      const float diff = values[i] - scale * static_cast<float>(code_of(tried * values[i]));
      error += weights[i] * diff * diff;
    }
    return error;
  };
  float best = error_of(factor, [](float v) { return static_cast<uint8_t>(NearestByBits(v)); });
  const auto clamped = [&](float v) { return std::min(max_code, NearestByBits(v)); };
  for (int i = -4; i <= 4; ++i) {
    if (i == 0) continue;
    const float tried = (0.1f * static_cast<float>(i) + top) / largest;
    const float error = error_of(tried, clamped);
    if (error < best) {
      best = error;
      factor = tried;
    }
  }
  float sum_xl = 0, sum_l2 = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int32_t code = clamped(factor * values[i]);
    codes[i] = static_cast<uint8_t>(code);
    sum_xl += weights[i] * values[i] * static_cast<float>(code);
    sum_l2 += weights[i] * static_cast<float>(code) * static_cast<float>(code);
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (size_t i = 0; i < codes.size(); ++i) {
      const float w = weights[i], x = values[i], code = codes[i];
      float xl = sum_xl - w * x * code, l2 = sum_l2 - w * code * code;
      if (!(xl > 0 && l2 > 0)) continue;
      const int32_t next = std::min(max_code, NearestByBits(x * l2 / xl));
      if (next == codes[i]) continue;
      xl += w * x * static_cast<float>(next);
      l2 += w * static_cast<float>(next) * static_cast<float>(next);
      if (xl * xl * sum_l2 > sum_xl * sum_xl * l2) {
        codes[i] = static_cast<uint8_t>(next);
        sum_xl = xl;
        sum_l2 = l2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return sum_l2 > 0 ? sum_xl / sum_l2 : 0.0f;
}

}  // namespace quantd
