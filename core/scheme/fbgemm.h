#ifndef QUANTD_CORE_SCHEME_FBGEMM_H_
#define QUANTD_CORE_SCHEME_FBGEMM_H_

#include <cstdint>

#include "core/simd/kernel_table.h"
#include "core/simd/meter.h"

// Rows of codes of up to 8 bits with a float scale and bias: the kernels of FBGEMM's fused rows.
//
//   code = round((x - bias) * inverse), half-even, 0 to the largest,  y = code * scale + bias,
//   rounded once

namespace quantd {

// What lies behind a row of 8-bit codes: | f32 scale | f32 bias |; behind others they are f16.
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

// For values of type T, float or double, which is what is computed in.
template <typename T>
struct FbgemmKernels {
  // Writes the codes of values of one row, at any alignment, a byte each, and returns how many are
  // clipped: lie half a step or more outside of 0 to `max_code`. Adds values and what is decoded of
  // their codes to `lanes`, unless that is null.
  int64_t (*encode)(const FbgemmRow& row, int max_code, const T* values, int64_t num_elems,
                    uint8_t* codes, MeterLanes<T>* lanes);
  void (*decode)(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems, T* values);
};

// Returns the kernels of the SIMD target in use.
const KernelTable<FbgemmKernels>& FbgemmTable();

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_FBGEMM_H_
