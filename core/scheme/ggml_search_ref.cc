// Entries: QxRef and SearchRef. Held to ggml's own bytes by tests/core/scheme/golden_test.cc,
// through the schemes.
#include "core/scheme/ggml_search_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quantd {

int NearestRef(float value) {
  int bits;
  const float shifted = value + 12582912.f;
  std::memcpy(&bits, &shifted, sizeof(bits));
  return (bits & 0x007FFFFF) - 0x00400000;
}

float MaxRef(int n, const float* x) {
  float max = 0, amax = 0;
  for (int i = 0; i < n; ++i) {
    const float ax = std::fabs(x[i]);
    if (ax > amax) {
      amax = ax;
      max = x[i];
    }
  }
  return amax < 1e-15f ? 0 : max;
}

float QxRef(int n, int nmax, const float* x, const float* w, int* levels) {
  const float max = MaxRef(n, x);
  std::fill_n(levels, n, 0);
  if (max == 0) return 0;
  const auto top = static_cast<float>(nmax);
  float scale = 0, best = 0;
  for (int is = -10; is <= 9; ++is) {
    if (is == 0) continue;
    const bool first = is == -10;
    const float iscale = first ? -top / max : -(top + 0.1f * static_cast<float>(is)) / max;
    int tried[32];
    float sumlx = 0, suml2 = 0;
    for (int i = 0; i < n; ++i) {
      const int l = std::clamp(NearestRef(iscale * x[i]), -nmax, nmax - 1);
      tried[i] = l + nmax;
      sumlx += w[i] * x[i] * static_cast<float>(l);
      suml2 += w[i] * static_cast<float>(l) * static_cast<float>(l);
    }
    if (first) {
      scale = suml2 != 0 ? sumlx / suml2 : 0;
    } else if (suml2 > 0 && sumlx * sumlx > best * suml2) {
      scale = sumlx / suml2;
    } else {
      continue;
    }
    best = scale * sumlx;
    std::copy_n(tried, n, levels);
  }
  return scale;
}

RunRef SearchRef(int n, int nmax, const float* x, const float* w, float rmin, float rdelta,
                 int nstep, bool use_mad) {
  const auto top = static_cast<float>(nmax);
  const auto weighted_error = [&](float weight, float diff) {
    return weight * (use_mad ? std::fabs(diff) : diff * diff);
  };
  RunRef run = {};
  float min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0];
  for (int l = 1; l < n; ++l) {
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
  float iscale = top / (max - min);
  run.scale = 1 / iscale;
  float best = 0;
  for (int l = 0; l < n; ++l) {
    run.codes[l] = std::clamp(NearestRef(iscale * (x[l] - min)), 0, nmax);
    const float diff = run.scale * static_cast<float>(run.codes[l]) + min - x[l];
    best += weighted_error(w[l], diff);
  }
  for (int is = 0; is <= nstep; ++is) {
    iscale = (rmin + rdelta * static_cast<float>(is) + top) / (max - min);
    int codes[32];
    float sum_l = 0, sum_l2 = 0, sum_xl = 0;
    for (int l = 0; l < n; ++l) {
      codes[l] = std::clamp(NearestRef(iscale * (x[l] - min)), 0, nmax);
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
    for (int l = 0; l < n; ++l) {
      const float diff = this_scale * static_cast<float>(codes[l]) + this_min - x[l];
      error += weighted_error(w[l], diff);
    }
    if (error < best) {
      std::copy_n(codes, n, run.codes);
      best = error;
      run.scale = this_scale;
      min = this_min;
    }
  }
  run.min = -min;
  return run;
}

}  // namespace quantd
