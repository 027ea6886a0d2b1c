#ifndef QUANTD_CORE_SIMD_FIGURES_H_
#define QUANTD_CORE_SIMD_FIGURES_H_

#include <cstdint>

namespace quantd {

// Figures of one tile of values x and their decoded counterparts y, over the finite x. Sums have
// one shape on every target: lane = index mod 16, lanes fold pairwise (i with i+8, +4, +2, +1) in
// double.
struct TileFigures {
  int64_t count = 0;
  double sum = 0, min = 0, max = 0;
  double m2 = 0;               // sum of (x - mean)^2
  double signal_energy = 0;    // sum of x^2
  double error_energy = 0;     // sum of (x - y)^2
  double cross_energy = 0;     // sum of x * y
  double max_error = 0;        // infinite where a finite x became infinite
  int64_t max_error_idx = -1;  // first index with max_error; looked for only above `known_error`
};

// Measures a tile of `num_elems` (1 to kTileElems) values. With y == x only the statistics count.
TileFigures MeasureTile(const float* x, const float* y, int64_t num_elems, double known_error);
TileFigures MeasureTile(const double* x, const double* y, int64_t num_elems, double known_error);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_FIGURES_H_
