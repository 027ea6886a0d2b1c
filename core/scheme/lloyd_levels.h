#ifndef QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_
#define QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_

#include <cstddef>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/stats/histogram.h"
#include "core/tensor/dtype.h"

namespace quantd {

// Returns the `num_levels` levels, ascending, that scheme lloyd learns from the values of a tensor
// of `dtype`; schemes/lloyd.cc says how.
std::vector<double> LloydLevels(const Histogram& histogram, DType dtype, size_t num_levels);

// The same of the values of a group, which it sorts.
std::vector<double> LloydLevels(TileSpan values, size_t num_levels);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_
