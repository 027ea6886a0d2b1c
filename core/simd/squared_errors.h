#ifndef QUANTD_CORE_SIMD_SQUARED_ERRORS_H_
#define QUANTD_CORE_SIMD_SQUARED_ERRORS_H_

#include <cstdint>

namespace quantd {

// Writes the sum of (x - y)^2 of each of `num_runs` runs of `run_elems` (at least 1) elements next
// to each other, at any alignment; x that are not finite are left out. x - y is rounded to the
// type, the rest is in f64: element i of a run goes to lane i mod 16, and lanes fold as those of a
// meter.
void SumSquaredErrors(const float* x, const float* y, int64_t run_elems, int64_t num_runs,
                      double* sums);
void SumSquaredErrors(const double* x, const double* y, int64_t run_elems, int64_t num_runs,
                      double* sums);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_SQUARED_ERRORS_H_
