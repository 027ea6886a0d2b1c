#ifndef QUANTD_CORE_SCHEME_CODEBOOK_H_
#define QUANTD_CORE_SCHEME_CODEBOOK_H_

#include <array>
#include <cstdint>
#include <span>

#include "core/simd/kernel_table.h"
#include "core/simd/meter.h"

// Codebooks of 16 levels, the kernels of nf4, fp4 and of learned codebooks:
//
//   v = x * factor,  code = how many of the 15 middles are below v,  y = levels[code] * scale
//
// A value on a middle takes the lower code. T, here and below, is float or double: what values come
// as, and what is computed in.

namespace quantd {

template <typename T>
struct Codebook {
  std::array<float, 16> levels;  // ascending
  std::array<T, 15> middles;     // of neighbours, ascending
  // A v of at most `low_clip` or at least `high_clip` is clipped.
  T low_clip;
  T high_clip;
};

// Elements next to each other with one scale.
template <typename T>
struct CodebookRun {
  int64_t num_elems;
  T factor;  // of encoding
  T scale;   // of what is decoded
};

template <typename T>
struct CodebookKernels {
  // Writes the codes of the values of `runs`, unpacked, and returns how many are clipped. Adds
  // values and what is decoded of their codes to `lanes`, run by run, unless that is null. `values`
  // may lie at any alignment.
  int64_t (*encode)(const Codebook<T>& book, std::span<const CodebookRun<T>> runs, const T* values,
                    uint8_t* codes, MeterLanes<T>* lanes);
  // Writes levels[code] * scale for codes 0 to 15.
  void (*decode)(const std::array<float, 16>& levels, std::span<const CodebookRun<T>> runs,
                 const uint8_t* codes, T* values);
};

struct CodebookKernelTable : KernelTable<CodebookKernels> {
  // Replaces codes 0 to 15 by what `by_place` has of them.
  void (*recode)(const std::array<uint8_t, 16>& by_place, int64_t num_codes, uint8_t* codes);
};

// Returns the kernels of the SIMD target in use.
const CodebookKernelTable& CodebookTable();

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_CODEBOOK_H_
