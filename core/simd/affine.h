#ifndef QUANTD_CORE_SIMD_AFFINE_H_
#define QUANTD_CORE_SIMD_AFFINE_H_

#include <cstdint>

#include "core/base/rounding.h"
#include "core/simd/meter.h"

// Kernels of uniform integer codes: values to codes, beside which they measure, and back. Values
// and codes may lie at any alignment.

namespace quantd {

// The most runs that one call takes: of a tile of 4,096 values, in runs of 16 and a rest.
inline constexpr int64_t kMaxAffineRuns = 512;

// Scales, not 0, and zero points: one for each run of values next to each other, or for each value;
// at any alignment.
struct AffineParams {
  const float* scales = nullptr;
  const int32_t* zero_points = nullptr;  // null: all are `zero_point`
  const int32_t* ends = nullptr;  // one past the last value of each run; null: one for each value
  int64_t num_runs = 0;           // with `ends`; the last ends with the values
  int32_t zero_point = 0;
};

// How codes are made: clamp(round(x / scale) + zero_point), or where zero_first
// round(clamp(x / scale + zero_point)), to half_even.
struct AffineRule {
  Rounding rounding = Rounding::kHalfEven;
  bool zero_first = false;
  int32_t min_code = -127;
  int32_t max_code = 127;
  const uint32_t* noise = nullptr;  // 32 random bits for each value, under kStochastic
};

// Writes the codes of `values`, cut to 8 or 16 bits, and returns how many x / scale + zero_point
// lie half a step or more outside [min_code, max_code]. Adds the values and what DecodeAffine makes
// of the codes to `lanes`, each run from lane 0, unless it is null. Values that are not finite get
// any code.
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const float* values,
                     int64_t num_elems, uint8_t* codes, MeterLanes<float>* lanes);
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const float* values,
                     int64_t num_elems, uint16_t* codes, MeterLanes<float>* lanes);
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const double* values,
                     int64_t num_elems, uint8_t* codes, MeterLanes<double>* lanes);
int64_t EncodeAffine(const AffineRule& rule, const AffineParams& params, const double* values,
                     int64_t num_elems, uint16_t* codes, MeterLanes<double>* lanes);

// What codes are, in memory.
enum class AffineCode : uint8_t { kInt8, kUint8, kInt16, kUint16 };

// Writes (code - zero_point) * scale, rounded once.
void DecodeAffine(AffineCode type, const void* codes, int64_t num_elems, const AffineParams& params,
                  float* values);
void DecodeAffine(AffineCode type, const void* codes, int64_t num_elems, const AffineParams& params,
                  double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_AFFINE_H_
