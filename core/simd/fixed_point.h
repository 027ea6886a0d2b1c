#ifndef QUANTD_CORE_SIMD_FIXED_POINT_H_
#define QUANTD_CORE_SIMD_FIXED_POINT_H_

#include <cstdint>

#include "core/base/rounding.h"
#include "core/simd/affine.h"
#include "core/simd/meter.h"

// Kernels of integer codes of 32 and 64 bits, whose arithmetic is f64 whatever the values are.
// Values and codes may lie at any alignment.

namespace quantd {

// How codes are made. Of a value x, with v = x / scale:
//
//   w = round(v), held in int64;  code = clamp(w, min_whole, max_whole) + zero
struct FixedPointRule {
  Rounding rounding = Rounding::kHalfEven;
  bool is_wide = false;  // codes are int64, else int32
  int64_t zero = 0;
  int64_t min_whole = 0;  // what `zero` may be added to without leaving the codes
  int64_t max_whole = 0;
  double last_below = 0;  // v from these on, outward, is clipped
  double first_above = 0;
  const uint32_t* noise = nullptr;  // 32 random bits for each value, under kStochastic
};

// Writes the codes of `values` and returns how many are clipped. Adds the values and what
// DecodeFixedPoint makes of the codes to `lanes`, each run from lane 0, unless it is null. Of
// `params` scales and runs count. Values that are not finite get any code.
int64_t EncodeFixedPoint(const FixedPointRule& rule, const AffineParams& params,
                         const float* values, int64_t num_elems, void* codes,
                         MeterLanes<float>* lanes);
int64_t EncodeFixedPoint(const FixedPointRule& rule, const AffineParams& params,
                         const double* values, int64_t num_elems, void* codes,
                         MeterLanes<double>* lanes);

// Writes (code - zero) * scale, made in f64 and then rounded to the type of `values`.
void DecodeFixedPoint(bool is_wide, int64_t zero, const AffineParams& params, const void* codes,
                      int64_t num_elems, float* values);
void DecodeFixedPoint(bool is_wide, int64_t zero, const AffineParams& params, const void* codes,
                      int64_t num_elems, double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_FIXED_POINT_H_
