#ifndef QUANTD_CORE_SCHEME_FBGEMM_H_
#define QUANTD_CORE_SCHEME_FBGEMM_H_

#include <cstdint>

#include "core/simd/meter.h"

// Rows of 8-bit codes with a float scale and bias: the kernels of FBGEMM's fused 8-bit rows.
//
//   code = round((x - bias) * inverse), half-even, 0 to 255,  y = code * scale + bias, rounded once

namespace quantd {

// What lies behind a row: | f32 scale | f32 bias |.
struct FbgemmTrailer {
  float scale, bias;
};
static_assert(sizeof(FbgemmTrailer) == 8);

// What a row is encoded with.
struct FbgemmRow {
  FbgemmTrailer stored;
  float inverse;
};
static_assert(sizeof(FbgemmRow) == 12);

// Writes the codes of values of one row, at any alignment, and returns how many are clipped: lie
// half a step or more outside of 0 to 255. Adds values and what is decoded of their codes to
// `lanes`, unless that is null. Doubles are computed in double.
int64_t EncodeFbgemmRow(const FbgemmRow& row, const float* values, int64_t num_elems,
                        uint8_t* codes, MeterLanes<float>* lanes);
int64_t EncodeFbgemmRow(const FbgemmRow& row, const double* values, int64_t num_elems,
                        uint8_t* codes, MeterLanes<double>* lanes);

void DecodeFbgemmRow(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems,
                     float* values);
void DecodeFbgemmRow(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems,
                     double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FBGEMM_H_
