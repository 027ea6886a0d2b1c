#ifndef QUANTD_CORE_SCHEME_SCALE_SEARCH_H_
#define QUANTD_CORE_SCHEME_SCALE_SEARCH_H_

#include <cstdint>

#include "core/scheme/k_quant.h"

// The searches of ggml's formats without minima: a value is about scale * level, and scales may be
// negative. Everything is f32, each operation rounded, sums in the order of elements.

namespace quantd {

// Levels of 4 bits that lie the closer, the nearer to 0: kvalues_iq4nl of ggml/src/ggml-common.h.
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// What a search makes levels of: whole numbers from -reach to reach - 1, or where reach is 0,
// kIq4Levels.
struct ScaleSearch {
  int reach;
  int64_t run_elems;  // 16 or 32
};

// Searches the scale of runs next to each other, as make_qx_quants and quantize_row_iq4_nl_impl do:
//
//   weights w: x^2; with importance that; with energies too, importance * sqrt(energy + x^2)
//   the value furthest from 0 becomes the lowest level, or up to 0.9 (7 of kIq4Levels) more or less;
//   for each of those the scale of least square error, sum(w x level) / sum(w level^2): the first
//   with the least error is taken
//
// Runs of values below 1e-15 have scale 0. Fills scale, weight, and what EncodeKRuns takes for the
// levels of the search. `values` has num_runs runs, kMaxKRuns at most.
void SearchScales(const ScaleSearch& search, const float* values, int64_t num_runs,
                  const KWeights& weights, KRuns& out);

// The search of make_q3_quants: levels of -4 to 3 for runs of 16 without importance, of which each in
// turn moves to where the scale of the others wants it, if that lowers the error; five rounds at
// most. Fills `out.scale`, and writes the levels.
void DescendScales(const float* values, int64_t num_runs, KRuns& out, int8_t* levels);

// Writes the indices of kIq4Levels nearest to x * inverse, of two the upper one, for runs of 32;
// returns how many values lie half a step or more outside. Adds values and scale * level to `lanes`,
// unless that is null.
int64_t EncodeIq4Runs(const float* values, int64_t num_runs, const float* inverses,
                      const float* scales, uint8_t* codes, MeterLanes<float>* lanes);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SCALE_SEARCH_H_
