#ifndef QUANTD_CORE_SIMD_SCAN_H_
#define QUANTD_CORE_SIMD_SCAN_H_

#include <cstdint>

namespace quantd {

// The range of the finite values of one run, -0 counted as +0; empty (min > max) if there are none.
template <typename T>
struct RunRange {
  T min;
  T max;
};

// True if none of the `num_elems` values is NaN or infinite.
bool AllFinite(const float* values, int64_t num_elems);
bool AllFinite(const double* values, int64_t num_elems);

// Writes the range of each of `num_runs` runs of `run_elems` (at least 1) values, next to each
// other. Values that are not finite are left out.
void ScanRuns(const float* values, int64_t run_elems, int64_t num_runs, RunRange<float>* ranges);
void ScanRuns(const double* values, int64_t run_elems, int64_t num_runs, RunRange<double>* ranges);

// Widens range i by values[i], for `num_elems` columns; values that are not finite are left out.
void ScanColumns(const float* values, int64_t num_elems, float* mins, float* maxs);
void ScanColumns(const double* values, int64_t num_elems, double* mins, double* maxs);

// Returns the sum of the magnitudes of the finite values, each at most f32's largest: in f64, value
// i to lane i mod 16, then lanes pairwise as those of a meter.
double SumMagnitudes(const float* values, int64_t num_elems);
double SumMagnitudes(const double* values, int64_t num_elems);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_SCAN_H_
