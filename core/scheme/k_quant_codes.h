#ifndef QUANTD_CORE_SCHEME_K_QUANT_CODES_H_
#define QUANTD_CORE_SCHEME_K_QUANT_CODES_H_

#include <cstdint>

#include "core/scheme/k_quant.h"
#include "core/simd/meter.h"

namespace quantd {

// What a run of 32 is stored with: y = scale * code - min, in f32.
struct KRunParams {
  float scale, min;
};

// Writes the codes nearest((x + min) / scale), clamped to 0 to `max_code`, or where a scale is 0
// those of the search, unpacked; returns how many values lie half a step or more outside. Adds
// values and what is decoded of their codes to `lanes`, unless that is null. `values` is aligned.
int64_t EncodeKRuns(const float* values, int64_t num_runs, const KRunParams* params,
                    const KRuns& found, int max_code, uint8_t* codes, MeterLanes<float>* lanes);

void DecodeKRuns(const uint8_t* codes, int64_t num_runs, const KRunParams* params, float* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_K_QUANT_CODES_H_
