#ifndef QUANTD_CORE_SCHEME_MLX_CODES_H_
#define QUANTD_CORE_SCHEME_MLX_CODES_H_

#include <cstdint>
#include <span>

#include "core/simd/kernel_table.h"
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

template <typename T>
struct MlxKernels {
  // Writes the codes of the values of `runs`, which are multiples of 16 elements, unpacked, and
  // returns how many are clipped: lie half a step or more outside of 0 to `max_code`. Adds values and what is decoded of their codes to
  // `lanes`, run by run, unless that is null. `values` may lie at any alignment.
  int64_t (*encode)(int max_code, std::span<const MlxRun<T>> runs, const T* values, uint8_t* codes,
                    MeterLanes<T>* lanes);
  // Writes what the codes stand for; working parameters do not count.
  void (*decode)(std::span<const MlxRun<T>> runs, const uint8_t* codes, T* values);
};

// What the codes of a group are made with.
struct MlxWorking {
  float scale, bias;
};
static_assert(sizeof(MlxWorking) == 8);

struct MlxKernelTable : KernelTable<MlxKernels> {
  // Finds scales and biases by the rule of mlx.h of ranges (pairs of min and max), with `steps` from
  // code 0 to the last.
  void (*find_params)(const double* ranges, int64_t num_ranges, float steps, MlxWorking* params);
};

// Returns the kernels of the SIMD target in use.
const MlxKernelTable& MlxTable();

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MLX_CODES_H_
