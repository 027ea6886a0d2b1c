#ifndef QUANTD_CORE_SCHEME_MLX_CODES_H_
#define QUANTD_CORE_SCHEME_MLX_CODES_H_

#include <cstdint>
#include <span>

#include "core/simd/meter.h"

// The kernels of MLX's affine formats, whose codes are made with other parameters than they are
// decoded with:
//
//   code = clamp(round((x - bias) / scale), 0, max_code), half-even
//   y = code * stored_scale + stored_bias, rounded twice
//
// T, here and below, is float or double: what values come as, and what is computed in.

namespace quantd {

// Elements next to each other with the same parameters.
template <typename T>
struct MlxRun {
  int64_t num_elems;
  T scale, bias;
  T stored_scale, stored_bias;
};

// Writes the codes of the values of `runs`, unpacked, and returns how many are clipped: lie half a
// step or more outside of 0 to `max_code`. Adds values and what is decoded of their codes to
// `lanes`, run by run, unless that is null. `values` may lie at any alignment.
int64_t EncodeMlxRuns(int max_code, const float* values, std::span<const MlxRun<float>> runs,
                      uint8_t* codes, MeterLanes<float>* lanes);
int64_t EncodeMlxRuns(int max_code, const double* values, std::span<const MlxRun<double>> runs,
                      uint8_t* codes, MeterLanes<double>* lanes);

// Writes what the codes stand for; working parameters do not count.
void DecodeMlxRuns(std::span<const MlxRun<float>> runs, const uint8_t* codes, float* values);
void DecodeMlxRuns(std::span<const MlxRun<double>> runs, const uint8_t* codes, double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MLX_CODES_H_
