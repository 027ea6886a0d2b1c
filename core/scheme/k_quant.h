#ifndef QUANTD_CORE_SCHEME_K_QUANT_H_
#define QUANTD_CORE_SCHEME_K_QUANT_H_

#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"
#include "core/scheme/super_block.h"

// What ggml's K-quants share: super-blocks of 256 values, in runs of 16 or 32 with a scale and a
// minimum each, which are searched for, and then are themselves codes under a scale of the
// super-block (ggml/src/ggml-quants.c). Everything is f32, each operation rounded, sums in the order
// of elements.

namespace quantd {

inline constexpr int64_t kMaxKRunElems = 32;
inline constexpr int64_t kMinKRunElems = 16;
inline constexpr int64_t kMaxKRuns = kTileElems / kMinKRunElems;  // of a segment
inline constexpr int64_t kMaxKRunsPerBlock = kSuperBlockElems / kMinKRunElems;

// Which scales a search tries, those for max_code + first + step * i codes in the range of a run, i
// from 0 to num_steps, and by which error.
struct KSearch {
  float max_code;
  float first;
  float step;
  int num_steps;
  int64_t run_elems;      // 16 or 32
  bool adds_average;      // to weights that are made of values alone; see SearchKRuns
  bool by_absolute_error;  // not by its square
};

// What weighs the values of a search.
struct KWeights {
  const float* importance = nullptr;  // of each value; null: weights are made of values alone
  // With importance, of each run: what its block adds to the square of a value.
  const float* energies = nullptr;
};

// What a search finds, by run. A value is about scale * code - min.
struct KRuns {
  alignas(64) float scale[kMaxKRuns];
  alignas(64) float min[kMaxKRuns];
  alignas(64) float weight[kMaxKRuns];  // sum of the weights
  // The codes of the search: nearest((x - code_min) * code_factor), clamped.
  alignas(64) float code_min[kMaxKRuns];
  alignas(64) float code_factor[kMaxKRuns];
};

// Searches scale and minimum of runs next to each other, as make_qkx2_quants (without importance)
// and make_qkx3_quants do:
//
//   weights: average + |x|, the average being the root of the run's mean square, or |x|;
//            with importance: importance * sqrt(energy + x^2)
//   for each scale that is tried: codes, then the scale and minimum of least weighted square error
//   for these codes; if the error, squared or absolute, is the least so far, they are taken, and
//   codes are counted from the new minimum from then on
//
// `values` has whole blocks, kMaxKRuns runs at most, aligned.
void SearchKRuns(const KSearch& search, const float* values, int64_t num_runs,
                 const KWeights& weights, KRuns& out);

// Finds codes of 0 to `max_code` for the scales or minima of a block, of 0 or more, and the factor of
// the codes, with the least weighted error, as make_qp_quants does. Returns the factor. The spans are
// of one size.
float SearchScaleCodes(int32_t max_code, std::span<const float> values,
                       std::span<const float> weights, std::span<uint8_t> codes);

// Returns `value` rounded to a whole number, half-even, as ggml does: beyond 2^22 what the bits
// say.
int32_t NearestByBits(float value);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_K_QUANT_H_
