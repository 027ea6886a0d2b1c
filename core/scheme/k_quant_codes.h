#ifndef QUANTD_CORE_SCHEME_K_QUANT_CODES_H_
#define QUANTD_CORE_SCHEME_K_QUANT_CODES_H_

#include <cstdint>

#include "core/scheme/k_quant.h"
#include "core/simd/meter.h"

namespace quantd {

// What a run is stored with: y = scale * level - min, in f32.
struct KRunParams {
  float scale, min;
};

// What codes of a row of the family are: levels of `lowest` to `highest`, in runs of 16 or 32.
struct KLevels {
  int lowest, highest;
  int64_t run_elems;
};

// Writes the levels nearest((x + min) / scale), clamped, or where a scale is 0 those of the search,
// unpacked; returns how many values lie half a step or more outside. Adds values and what is decoded
// of their levels to `lanes`, unless that is null. `values` is aligned.
int64_t EncodeKRuns(const KLevels& format, const float* values, int64_t num_runs,
                    const KRunParams* params, const KRuns& found, int8_t* levels,
                    MeterLanes<float>* lanes);

void DecodeKRuns(const int8_t* levels, int64_t run_elems, int64_t num_runs,
                 const KRunParams* params, float* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_K_QUANT_CODES_H_
