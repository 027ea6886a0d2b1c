#ifndef QUANTD_CORE_SIMD_AFFINE_SCALES_H_
#define QUANTD_CORE_SIMD_AFFINE_SCALES_H_

#include <cstdint>
#include <limits>

namespace quantd {

// How the range of a group becomes its scale, an f32, and its zero point. In double:
//
//   symmetric   scale = max(|min|, |max|) / divisor
//   else        low = min(min, 0), high = max(max, 0), scale = (high - low) / divisor,
//               zero_point = half_even(min_code - low / scale), within the codes
//
// where the scale is held in f32's normal range and rounded once, and is 1 for 0.
struct ScaleRule {
  bool symmetric = true;
  double divisor = 127;
  int32_t min_code = -127;
  int32_t max_code = 127;
  double largest = std::numeric_limits<float>::max();  // scales above it are the caller's to make
};

// Writes the scales of ranges, given as pairs of min and max (without values where min > max), and
// unless symmetric the zero points. Stops before a range whose scale would be above the rule's
// largest; returns how many it has done.
int64_t ResolveScales(const ScaleRule& rule, const double* ranges, int64_t num_ranges,
                      float* scales, int32_t* zero_points);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_AFFINE_SCALES_H_
