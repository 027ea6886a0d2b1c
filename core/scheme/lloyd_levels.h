#ifndef QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_
#define QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_

#include <array>

#include "core/stats/histogram.h"
#include "core/tensor/dtype.h"

namespace quantd {

// Returns the 16 levels, ascending, that scheme lloyd learns from the values of a tensor of
// `dtype`; schemes/lloyd.cc says how.
std::array<double, 16> LloydLevels(const Histogram& histogram, DType dtype);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_LLOYD_LEVELS_H_
